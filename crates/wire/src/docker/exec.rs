//! `/exec`, and `POST /containers/{id}/exec`: a further process in a running container.

use serde::{Deserialize, Serialize};

/// Body of `POST /containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecCreateRequest {
    /// Empty for the container's user.
    pub user: String,
    pub privileged: bool,
    pub tty: bool,
    /// Rows, columns.
    pub console_size: Option<[u32; 2]>,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub detach_keys: String,
    /// `NAME=value`; `NAME` alone removes the container's variable.
    pub env: Vec<String>,
    /// Empty for the container's.
    pub working_dir: String,
    pub cmd: Vec<String>,
}

/// Body of `POST /exec/{id}/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecStartRequest {
    pub detach: bool,
    pub tty: bool,
    /// Rows, columns.
    pub console_size: Option<[u32; 2]>,
}

/// Answer of `POST /containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecCreateResponse {
    pub id: String,
}

/// Answer of `GET /exec/{id}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInspect {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Running")]
    pub running: bool,
    /// `None` until it has ended.
    #[serde(rename = "ExitCode")]
    pub exit_code: Option<i64>,
    #[serde(rename = "ProcessConfig")]
    pub process_config: ExecProcessConfig,
    #[serde(rename = "OpenStdin")]
    pub open_stdin: bool,
    #[serde(rename = "OpenStderr")]
    pub open_stderr: bool,
    #[serde(rename = "OpenStdout")]
    pub open_stdout: bool,
    #[serde(rename = "CanRemove")]
    pub can_remove: bool,
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Base64 of the bytes that detach a client.
    #[serde(rename = "DetachKeys")]
    pub detach_keys: String,
    /// 0 until it has started.
    #[serde(rename = "Pid")]
    pub pid: i64,
}

/// What an exec runs, as inspect shows it. Its members are lower case in Docker's answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecProcessConfig {
    pub tty: bool,
    pub entrypoint: String,
    pub arguments: Vec<String>,
    pub privileged: bool,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub user: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_that_never_ran_has_a_null_exit_code() {
        let value = serde_json::to_value(ExecInspect::default()).unwrap();
        assert!(value["ExitCode"].is_null());
        assert_eq!(value["ProcessConfig"]["entrypoint"], "");
    }

    #[test]
    fn a_null_list_in_a_request_is_an_empty_one() {
        let request: ExecCreateRequest =
            crate::docker::decode(br#"{"Env":null,"Cmd":["true"],"ConsoleSize":null}"#).unwrap();
        assert_eq!(request.cmd, ["true"]);
        assert!(request.env.is_empty());
    }
}
