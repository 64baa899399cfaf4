use std::path::Path;

use oci_spec::runtime::Process;
use serde_json::json;
use wire::docker::{container::ContainerConfig, host_config::HostConfig};

use super::{
    Machine, User, capabilities, environment, mounts, resources, security::Security, sets, user_json,
};
use crate::error::{Context, Error, Result};

/// One `docker exec`.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    pub command: &'a [String],
    /// Added to the container's.
    pub environment: &'a [String],
    /// Empty for the container's.
    pub working_dir: &'a str,
    pub user: &'a User,
    pub tty: bool,
    /// Every capability, where the container may have few.
    pub privileged: bool,
}

/// The process of an exec in the container with this configuration.
///
/// # Errors
/// No command; a configuration that no container is started with.
pub fn exec_process(
    config: &ContainerConfig,
    host: &HostConfig,
    request: &ExecRequest<'_>,
    machine: &Machine,
) -> Result<Process> {
    if request.command.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    let security = Security::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let capabilities = capabilities::choose(
        machine.capabilities,
        host.privileged || request.privileged,
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
    )?;
    let directory = if request.working_dir.is_empty() { &config.working_dir } else { request.working_dir };
    let process = json!({
        "terminal": request.tty,
        "user": user_json(request.user),
        "args": request.command,
        "env": environment(config, request.tty, request.environment),
        "cwd": mounts::clean(&Path::new("/").join(directory)),
        "capabilities": sets(&capabilities),
        "rlimits": resources::ulimits(&host.resources)?,
        "noNewPrivileges": security.no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
    });
    serde_json::from_value(process).context(|| "build the specification of an exec".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::machine, *};

    #[test]
    fn an_exec_has_what_its_container_has_and_more() {
        let config = ContainerConfig {
            hostname: "c".into(),
            env: Some(vec!["A=1".into(), "B=2".into()]),
            working_dir: "/srv".into(),
            ..ContainerConfig::default()
        };
        let request = ExecRequest {
            command: &["id".to_owned()],
            environment: &["B=3".to_owned()],
            working_dir: "",
            user: &User { uid: 1, gid: 2, groups: vec![2] },
            tty: true,
            privileged: false,
        };
        let host = HostConfig::default();
        let process = exec_process(&config, &host, &request, &machine()).unwrap();
        let json = serde_json::to_value(&process).unwrap();
        assert_eq!(
            json["env"],
            json!([
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=c",
                "TERM=xterm",
                "A=1",
                "B=3"
            ])
        );
        assert_eq!(json["cwd"], "/srv");
        assert_eq!(json["capabilities"]["bounding"].as_array().unwrap().len(), 14);
        let privileged = ExecRequest { privileged: true, working_dir: "/x/..", ..request };
        let json =
            serde_json::to_value(exec_process(&config, &host, &privileged, &machine()).unwrap()).unwrap();
        assert_eq!(json["capabilities"]["effective"].as_array().unwrap().len(), 41);
        assert_eq!(json["cwd"], "/");
        let empty = ExecRequest { command: &[], ..privileged };
        assert_eq!(
            exec_process(&config, &host, &empty, &machine()).unwrap_err().to_string(),
            "No exec command specified"
        );
    }
}
