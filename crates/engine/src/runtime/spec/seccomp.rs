//! System call filters: Docker's default, and profiles in Docker's form as `--security-opt seccomp=`
//! brings them.

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::seccomp_default::{ALLOWED, Argument, When};
use crate::error::{Context, Error, Result};

/// The most bytes a profile may have.
const MAX_PROFILE: usize = 1 << 20;

/// Docker's default for a process with these capabilities, on this architecture.
pub(crate) fn default_profile(capabilities: &[&str]) -> Result<LinuxSeccomp> {
    let has = |name: &str| capabilities.contains(&name);
    let mut rules: Vec<Value> = ALLOWED
        .iter()
        .filter(|rule| match rule.when {
            When::Always => true,
            When::With(capability) => has(capability),
            When::Without(capability) => !has(capability),
            When::On(architectures) => architectures.contains(&std::env::consts::ARCH),
        })
        .map(|rule| {
            let mut json = json!({ "names": rule.names, "action": "SCMP_ACT_ALLOW" });
            if let (Some(argument), Some(fields)) = (rule.argument, json.as_object_mut()) {
                let argument = match argument {
                    Argument::Equals(value) => json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }),
                    Argument::IsNot(value) => json!({ "index": 0, "value": value, "op": "SCMP_CMP_NE" }),
                    Argument::HasNone(mask) => {
                        json!({ "index": 0, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" })
                    }
                };
                fields.insert("args".to_owned(), json!([argument]));
            }
            json
        })
        .collect();
    if !has("CAP_SYS_ADMIN") {
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }));
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": own_architectures(),
        "syscalls": rules,
    });
    serde_json::from_value(profile).context(|| "build the default seccomp profile".to_owned())
}

/// This machine's architecture and those whose programs it runs as well.
fn own_architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &["SCMP_ARCH_NATIVE"],
    }
}

/// As Go names this machine's architecture.
fn docker_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "x86",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A profile as Docker documents it: the OCI one, and rules that depend on the container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    #[serde(default)]
    default_action: Option<String>,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default, rename = "errnoRet")]
    errno: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// A profile for a process with these capabilities; `None` for one that says nothing.
///
/// # Errors
/// What is no profile, in Docker's words.
pub(crate) fn load_profile(text: &str, capabilities: &[&str]) -> Result<Option<LinuxSeccomp>> {
    if text.len() > MAX_PROFILE {
        return Err(Error::invalid("Decoding seccomp profile failed: it is too large"));
    }
    let decoding =
        |error: serde_json::Error| Error::invalid("Decoding seccomp profile failed").because(error);
    let profile: Profile = serde_json::from_str(text).map_err(decoding)?;
    let rules = profile.syscalls.unwrap_or_default();
    let default_action = profile.default_action.filter(|action| !action.is_empty());
    if default_action.is_none() && rules.is_empty() {
        return Ok(None);
    }
    let mut architectures = profile.architectures.unwrap_or_default();
    let map = profile.arch_map.unwrap_or_default();
    if !architectures.is_empty() && !map.is_empty() {
        return Err(Error::invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
             'architectures' or 'archMap'",
        ));
    }
    if let Some(own) = own_architectures().first()
        && let Some(entry) = map.into_iter().find(|entry| entry.architecture == *own)
    {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures.unwrap_or_default());
    }
    let mut syscalls = Vec::new();
    for rule in rules {
        let names = match (rule.name.filter(|name| !name.is_empty()), rule.names.unwrap_or_default()) {
            (Some(_), names) if !names.is_empty() => {
                return Err(Error::invalid(
                    "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
                ));
            }
            (Some(name), _) => vec![name],
            (None, names) => names,
        };
        let excluded = rule.excludes.is_some_and(|condition| condition.excludes(capabilities));
        let included = rule.includes.is_none_or(|condition| condition.includes(capabilities));
        if excluded || !included {
            continue;
        }
        let mut json = json!({ "names": names, "action": rule.action });
        if let Some(fields) = json.as_object_mut() {
            fields.extend(rule.errno.map(|errno| ("errnoRet".to_owned(), json!(errno))));
            fields.extend(rule.args.map(|args| ("args".to_owned(), json!(args))));
        }
        syscalls.push(json);
    }
    let mut json = json!({
        "defaultAction": default_action.unwrap_or_else(|| "SCMP_ACT_ERRNO".to_owned()),
        "architectures": architectures,
        "syscalls": syscalls,
    });
    if let Some(fields) = json.as_object_mut() {
        fields.extend(profile.default_errno_ret.map(|errno| ("defaultErrnoRet".to_owned(), json!(errno))));
        fields.extend(profile.flags.map(|flags| ("flags".to_owned(), json!(flags))));
    }
    serde_json::from_value(json).map(Some).map_err(decoding)
}

impl Condition {
    /// Any of it is true.
    fn excludes(&self, capabilities: &[&str]) -> bool {
        self.caps.iter().flatten().any(|name| capabilities.contains(&name.as_str()))
            || self.arches.iter().flatten().any(|arch| arch == docker_architecture())
            || self.min_kernel.as_deref().is_some_and(kernel_is_at_least)
    }

    /// All of it is true.
    fn includes(&self, capabilities: &[&str]) -> bool {
        self.caps.iter().flatten().all(|name| capabilities.contains(&name.as_str()))
            && self.arches.as_ref().is_none_or(|arches| {
                arches.is_empty() || arches.iter().any(|arch| arch == docker_architecture())
            })
            && self.min_kernel.as_deref().is_none_or(kernel_is_at_least)
    }
}

fn kernel_is_at_least(version: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|character: char| !character.is_ascii_digit())
            .take(2)
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    numbers(&rustix::system::uname().release().to_string_lossy()) >= numbers(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The action for `name`, and the number of its rules' arguments.
    fn rule(profile: &LinuxSeccomp, name: &str) -> Option<(String, usize)> {
        let json = serde_json::to_value(profile).unwrap();
        let rules = json["syscalls"].as_array().unwrap();
        let found = rules.iter().find(|rule| rule["names"].as_array().unwrap().contains(&json!(name)))?;
        let arguments = found.get("args").and_then(Value::as_array).map_or(0, Vec::len);
        Some((found["action"].as_str().unwrap().to_owned(), arguments))
    }

    #[test]
    fn the_default_depends_on_capabilities() {
        let plain = default_profile(&["CAP_CHOWN"]).unwrap();
        assert_eq!(rule(&plain, "openat"), Some(("SCMP_ACT_ALLOW".into(), 0)));
        assert_eq!(rule(&plain, "mount"), None);
        assert_eq!(rule(&plain, "clone"), Some(("SCMP_ACT_ALLOW".into(), 1)));
        assert_eq!(rule(&plain, "clone3"), Some(("SCMP_ACT_ERRNO".into(), 0)));
        assert_eq!(rule(&plain, "socket"), Some(("SCMP_ACT_ALLOW".into(), 1)));
        assert_eq!(rule(&plain, "reboot"), None);
        assert_eq!(rule(&plain, "keyctl"), None);

        let admin = default_profile(&["CAP_SYS_ADMIN"]).unwrap();
        assert_eq!(rule(&admin, "mount"), Some(("SCMP_ACT_ALLOW".into(), 0)));
        assert_eq!(rule(&admin, "clone"), Some(("SCMP_ACT_ALLOW".into(), 0)));
        assert_eq!(rule(&admin, "clone3"), Some(("SCMP_ACT_ALLOW".into(), 0)));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_default_depends_on_the_architecture() {
        let profile = default_profile(&[]).unwrap();
        assert!(rule(&profile, "arch_prctl").is_some());
        assert_eq!(rule(&profile, "s390_pci_mmio_read"), None);
        let json = serde_json::to_value(&profile).unwrap();
        assert_eq!(json["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]));
        assert_eq!(json["defaultErrnoRet"], 1);
    }

    #[test]
    fn a_given_profile_is_followed() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"name": "chmod", "action": "SCMP_ACT_ERRNO"},
                {"names": ["kill"], "action": "SCMP_ACT_KILL", "includes": {"caps": ["CAP_KILL"]}},
                {"names": ["sync"], "action": "SCMP_ACT_LOG", "excludes": {"caps": ["CAP_CHOWN"]}},
                {"names": ["dup"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
                {"names": ["dup2"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "4.8"}}
            ]
        }"#;
        let profile = load_profile(text, &["CAP_CHOWN"]).unwrap().unwrap();
        assert_eq!(rule(&profile, "chmod"), Some(("SCMP_ACT_ERRNO".into(), 0)));
        for absent in ["kill", "sync", "dup"] {
            assert_eq!(rule(&profile, absent), None, "{absent}");
        }
        assert!(rule(&profile, "dup2").is_some());
        assert_eq!(load_profile("{}", &[]).unwrap(), None);
        let error = load_profile("{", &[]).unwrap_err().to_string();
        assert!(error.starts_with("Decoding seccomp profile failed"), "{error}");
        assert!(load_profile(r#"{"defaultAction": "nonsense"}"#, &[]).is_err());
    }
}
