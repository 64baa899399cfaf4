//! `--security-opt`.

use std::path::Path;

use crate::error::{Error, Result};

/// Which system call filter a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Filter {
    #[default]
    Default,
    Unconfined,
    /// JSON in Docker's form.
    Profile(String),
}

/// What a container's options say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    /// The default is that of the container: privileged ones may write.
    pub(crate) writable_cgroups: Option<bool>,
    pub(crate) filter: Option<Filter>,
}

impl Security {
    /// # Errors
    /// Options that Docker does not know, in its words; those for security modules that this machine
    /// has and the engine does not support. Without the module they mean nothing, as in Docker.
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut security = Self::default();
        for option in options {
            let unusable = |number| Error::invalid(format!("invalid --security-opt {number}: {option:?}"));
            let flag = |value: &str| parse_bool(value).ok_or_else(|| unusable(2));
            match option.as_str() {
                "no-new-privileges" => security.no_new_privileges = true,
                "writable-cgroups" => security.writable_cgroups = Some(true),
                "disable" => {}
                _ => {
                    let separator = if option.contains('=') { '=' } else { ':' };
                    let (name, value) = option.split_once(separator).ok_or_else(|| unusable(1))?;
                    match name {
                        "no-new-privileges" => security.no_new_privileges = flag(value)?,
                        "writable-cgroups" => security.writable_cgroups = Some(flag(value)?),
                        "seccomp" => {
                            security.filter = Some(match value {
                                "unconfined" => Filter::Unconfined,
                                "builtin" => Filter::Default,
                                profile => Filter::Profile(profile.to_owned()),
                            });
                        }
                        "apparmor" => {
                            module_is_absent("/sys/kernel/security/apparmor", value == "unconfined", option)?;
                        }
                        "label" => module_is_absent("/sys/fs/selinux/enforce", value == "disable", option)?,
                        _ => return Err(unusable(2)),
                    }
                }
            }
        }
        Ok(security)
    }
}

fn module_is_absent(path: &str, harmless: bool, option: &str) -> Result<()> {
    if harmless || !Path::new(path).exists() {
        return Ok(());
    }
    Err(Error::not_implemented(format!(
        "--security-opt {option} is not implemented on a machine with this security module"
    )))
}

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Security> {
        Security::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_dockers() {
        let security =
            parse(&["no-new-privileges:true", "seccomp={\"a\": \"b=c\"}", "label=disable"]).unwrap();
        assert!(security.no_new_privileges);
        assert_eq!(security.filter, Some(Filter::Profile("{\"a\": \"b=c\"}".into())));
        assert_eq!(parse(&["seccomp=unconfined"]).unwrap().filter, Some(Filter::Unconfined));
        assert!(!parse(&["no-new-privileges=false"]).unwrap().no_new_privileges);
        assert_eq!(parse(&["x"]).unwrap_err().to_string(), "invalid --security-opt 1: \"x\"");
        assert_eq!(parse(&["x=y"]).unwrap_err().to_string(), "invalid --security-opt 2: \"x=y\"");
        assert!(parse(&["no-new-privileges=maybe"]).is_err());
    }
}
