//! Capabilities by name: Docker's defaults, and `--cap-add` and `--cap-drop`.

use crate::error::{Error, Result};

/// Every capability by its number, `capabilities(7)`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const ALL: &str = "ALL";

/// The bit of a capability given by its full name.
pub(crate) fn mask(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// Every number that the running kernel knows.
pub(crate) fn known_to_kernel() -> impl Iterator<Item = u32> {
    // SAFETY: numbers only; EINVAL beyond the last.
    let known = |number: u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number)) } >= 0;
    (0..64).take_while(move |number| known(*number))
}

/// The names of what a container gets, by its options. `available` has the bits of what can be given at
/// all: what this process has.
///
/// # Errors
/// Names that are none, and capabilities that are not available, in Docker's words.
pub(crate) fn choose(
    available: u64,
    privileged: bool,
    add: &[String],
    drop: &[String],
) -> Result<Vec<&'static str>> {
    let all = || NAMES.into_iter().filter(|name| mask(name).is_some_and(|bit| available & bit != 0));
    if privileged {
        return Ok(all().collect());
    }
    let add = normalize(available, add, "CapAdd")?;
    let drop = normalize(available, drop, "CapDrop")?;
    let chosen: Vec<&'static str> = if add.contains(&ALL) {
        all().filter(|name| !drop.contains(name)).collect()
    } else if drop.contains(&ALL) {
        add
    } else {
        DEFAULT.into_iter().filter(|name| !drop.contains(name)).chain(add).collect()
    };
    Ok(NAMES.into_iter().filter(|name| chosen.contains(name)).collect())
}

/// Full names of what a user wrote: in any case, with or without `CAP_`.
fn normalize(available: u64, names: &[String], option: &str) -> Result<Vec<&'static str>> {
    names
        .iter()
        .map(|name| {
            let name = name.to_uppercase();
            if name == ALL {
                return Ok(ALL);
            }
            let full = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
            let Some(known) = NAMES.into_iter().find(|known| *known == full) else {
                return Err(Error::invalid(format!("invalid {option}: unknown capability: {full:?}")));
            };
            if mask(known).is_some_and(|bit| available & bit != 0) {
                Ok(known)
            } else {
                Err(Error::invalid(format!(
                    "invalid {option}: capability not supported by your kernel or not available in the current \
                     environment: {full:?}"
                )))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(mask("CAP_CHOWN"), Some(1));
        assert_eq!(mask("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(mask("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(mask("chown"), None);
        assert!(known_to_kernel().count() >= 40);
    }

    #[test]
    fn options_add_to_and_take_from_the_defaults() {
        let plain = choose(u64::MAX, false, &[], &[]).unwrap();
        assert_eq!(plain.len(), 14);
        let some = choose(u64::MAX, false, &names(&["sys_admin"]), &names(&["CAP_MKNOD"])).unwrap();
        assert!(some.contains(&"CAP_SYS_ADMIN") && !some.contains(&"CAP_MKNOD"));
        assert_eq!(some.len(), 14);
        assert_eq!(choose(u64::MAX, false, &names(&["net_raw"]), &names(&["all"])).unwrap(), ["CAP_NET_RAW"]);
        assert_eq!(choose(u64::MAX, false, &names(&["ALL"]), &names(&["kill"])).unwrap().len(), 40);
        assert_eq!(choose(0b11, true, &[], &[]).unwrap(), ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    }

    #[test]
    fn unusable_names_are_refused_in_dockers_words() {
        let error = choose(u64::MAX, false, &names(&["nonsense"]), &[]).unwrap_err();
        assert_eq!(error.to_string(), "invalid CapAdd: unknown capability: \"CAP_NONSENSE\"");
        let error = choose(0, false, &[], &names(&["CHOWN"])).unwrap_err();
        assert!(error.to_string().contains("not available in the current environment: \"CAP_CHOWN\""));
    }
}
