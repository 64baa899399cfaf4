//! What is left to do when the container stands around a process: the part of an OCI process that the
//! helper does itself, as its last steps before it becomes the container's program.
//!
//! It is the same for a container and an exec, and in a form that costs the helper nothing to read: the
//! system call filter is compiled, the capabilities are bits. The rest of the specification is what is made
//! around the process.

use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process, Spec};
use serde::{Deserialize, Serialize};

use super::spec::capabilities::mask;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Workload {
    pub(crate) arguments: Vec<String>,
    /// `NAME=value`, in order.
    pub(crate) environment: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Makes the directory if it is missing: for containers, not for execs.
    pub(crate) makes_directory: bool,
    pub(crate) uid: u32,
    pub(crate) capabilities: CapabilityMasks,
    pub(crate) limits: Vec<Limit>,
    pub(crate) no_new_privileges: bool,
    /// The name of the compiled filter, see [`super::filter`].
    pub(crate) filter: Option<String>,
    /// Rows and columns of the terminal, if the process has one.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// The five sets, a bit for each capability by its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilityMasks {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// A limit of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) resource: PosixRlimitType,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Workload {
    /// Takes out of `process` what is done last.
    pub(crate) fn split_off(process: &mut Process) -> Self {
        let size = process.console_size().map_or((0, 0), |size| {
            (u16::try_from(size.height()).unwrap_or(0), u16::try_from(size.width()).unwrap_or(0))
        });
        let limits = process.rlimits().clone().unwrap_or_default();
        let workload = Self {
            arguments: process.args().clone().unwrap_or_default(),
            environment: process.env().clone().unwrap_or_default(),
            directory: process.cwd().clone(),
            makes_directory: false,
            uid: process.user().uid(),
            capabilities: CapabilityMasks::of(process.capabilities().as_ref()),
            limits: limits
                .iter()
                .map(|limit| Limit { resource: limit.typ(), soft: limit.soft(), hard: limit.hard() })
                .collect(),
            no_new_privileges: process.no_new_privileges() == Some(true),
            filter: None,
            terminal: process.terminal().unwrap_or(false).then_some(size),
        };
        process.set_capabilities(None);
        process.set_rlimits(None);
        process.set_args(None);
        process.set_env(None);
        workload
    }

    /// The same for a container; `spec` has a process.
    pub(crate) fn split_off_container(spec: &mut Spec) -> Option<Self> {
        let mut process = spec.process().clone()?;
        let mut workload = Self::split_off(&mut process);
        workload.makes_directory = true;
        spec.set_process(Some(process));
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(None);
        }
        Some(workload)
    }
}

impl CapabilityMasks {
    fn of(capabilities: Option<&LinuxCapabilities>) -> Self {
        let bits = |set: &Option<Capabilities>| {
            set.iter().flatten().filter_map(|name| mask(&format!("CAP_{name}"))).fold(0, |all, bit| all | bit)
        };
        capabilities.map_or_else(Self::default, |sets| Self {
            bounding: bits(sets.bounding()),
            effective: bits(sets.effective()),
            permitted: bits(sets.permitted()),
            inheritable: bits(sets.inheritable()),
            ambient: bits(sets.ambient()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_steps_are_taken_out_of_the_specification() {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": true,
                "consoleSize": {"height": 24, "width": 80},
                "user": {"uid": 7, "gid": 8},
                "args": ["sh"], "env": ["A=b"], "cwd": "/srv",
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"], "effective": ["CAP_CHOWN"]},
                "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
                "noNewPrivileges": false
            },
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}
        }))
        .unwrap();
        let workload = Workload::split_off_container(&mut spec).unwrap();
        assert_eq!(workload.arguments, ["sh"]);
        assert_eq!(workload.terminal, Some((24, 80)));
        assert_eq!(workload.capabilities.bounding, 1 | 1 << 21);
        assert_eq!(workload.capabilities.effective, 1);
        assert_eq!(workload.capabilities.ambient, 0);
        assert_eq!((workload.limits[0].soft, workload.limits[0].hard), (1, 2));

        let rest = serde_json::to_value(&spec).unwrap();
        assert!(rest["process"].get("args").is_none());
        assert!(rest["process"].get("capabilities").is_none());
        assert!(rest["linux"].get("seccomp").is_none());
    }
}
