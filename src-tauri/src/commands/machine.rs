//! The machine, its settings and its logs.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tauri::{State, ipc::Channel};
use wire::app::{Response, Status};

use crate::{
    error::{Error, Kind, Result},
    home::MACHINE,
    machine::logs::Log,
    platform::Figures,
    shell::{Shell, Verb},
};

/// `MachineEvent` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Event {
    Step { message: String },
    Notice { message: String },
}

#[tauri::command]
pub(crate) async fn machine_status(shell: State<'_, Shell>) -> Result<Status> {
    shell.status().await
}

#[tauri::command]
pub(crate) async fn machine_run(shell: State<'_, Shell>, verb: Verb, channel: Channel<Event>) -> Result<()> {
    let tell = |response| {
        let event = match response {
            Response::Progress { message } => Event::Step { message },
            Response::Notice { message } => Event::Notice { message },
            // The end is the call's own result.
            Response::Status(_) | Response::Done | Response::Failed { .. } => return,
        };
        // A window that is gone needs no progress.
        let _ = channel.send(event);
    };
    shell.run(verb, tell).await
}

#[tauri::command]
pub(crate) async fn machine_log_open(
    shell: State<'_, Shell>,
    log: Log,
    channel: Channel<String>,
) -> Result<u32> {
    shell.logs.open(&shell.program, log, move |line| channel.send(line).is_ok())
}

#[tauri::command]
pub(crate) fn machine_log_close(shell: State<'_, Shell>, id: u32) {
    shell.logs.close(id);
}

#[tauri::command]
pub(crate) async fn settings(shell: State<'_, Shell>) -> Result<Value> {
    shell.program.json(&["config", "get", "--json", "--name", MACHINE]).await
}

#[tauri::command]
pub(crate) async fn settings_change(
    shell: State<'_, Shell>,
    changes: BTreeMap<String, Option<String>>,
) -> Result<Value> {
    if changes.is_empty() {
        return settings(shell).await;
    }
    let arguments = config_set(&changes);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = shell.program.output(&words).await?;
    if output.status.success() {
        return output.json(&words);
    }
    match output.json::<Refusal>(&words) {
        Ok(Refusal { refused: Refused { key: Some(key), message } }) => Err(Error::setting(key, message)),
        Ok(Refusal { refused: Refused { key: None, message } }) => Err(Error::new(Kind::Setting, message)),
        Err(_) => Err(output.failure(&words)),
    }
}

/// What `coracle config set --json` says when it changes nothing.
#[derive(Deserialize)]
struct Refusal {
    refused: Refused,
}

#[derive(Deserialize)]
struct Refused {
    key: Option<String>,
    message: String,
}

/// The command line of one change. Keys and values come from the window: none of them can be an option.
fn config_set(changes: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let mut arguments = vec!["config".to_owned(), "set".into(), "--json".into(), format!("--name={MACHINE}")];
    let unset = changes.iter().filter(|(_, value)| value.is_none());
    arguments.extend(unset.map(|(key, _)| format!("--unset={key}")));
    arguments.push("--".to_owned());
    for (key, value) in changes {
        if let Some(value) = value {
            arguments.extend([key.clone(), value.clone()]);
        }
    }
    arguments
}

#[tauri::command]
pub(crate) async fn host_figures(shell: State<'_, Shell>) -> Result<Figures> {
    shell.figures().await
}

#[tauri::command]
pub(crate) async fn doctor(shell: State<'_, Shell>) -> Result<Value> {
    let arguments = ["doctor", "--json", "--name", MACHINE];
    let output = shell.program.output(arguments).await?;
    // It exits with 1 when it has found something, and then prints it all the same.
    if output.stdout.is_empty() { Err(output.failure(&arguments)) } else { output.json(&arguments) }
}

#[tauri::command]
pub(crate) async fn diagnostics(shell: State<'_, Shell>) -> Result<Value> {
    shell.program.json(&["doctor", "--bundle-preview", "--json", "--name", MACHINE]).await
}

#[tauri::command]
pub(crate) async fn diagnostics_save(shell: State<'_, Shell>, path: PathBuf) -> Result<()> {
    shell.chosen.may_write(&path)?;
    let path = path.to_str().ok_or_else(|| Error::host(format!("{} is no UTF-8", path.display())))?;
    let bundle = format!("--bundle={path}");
    shell.program.json::<Value>(&["doctor", &bundle, "--json", "--name", MACHINE]).await.map(drop)
}

#[tauri::command]
pub(crate) async fn docker_context(shell: State<'_, Shell>) -> Result<Value> {
    shell.program.json(&["docker-context", "--json", "--name", MACHINE]).await
}

#[tauri::command]
pub(crate) async fn docker_context_select(shell: State<'_, Shell>) -> Result<Value> {
    shell.program.json(&["docker-context", "--select", "--json", "--name", MACHINE]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_command_whose_values_are_never_options() {
        let changes = BTreeMap::from([
            ("cpus".to_owned(), Some("--help".to_owned())),
            ("memory".to_owned(), None),
            ("-x".to_owned(), Some(String::new())),
        ]);
        assert_eq!(
            config_set(&changes),
            ["config", "set", "--json", "--name=default", "--unset=memory", "--", "-x", "", "cpus", "--help"]
        );
    }

    #[test]
    fn events_are_told_as_the_interface_knows_them() {
        let step = serde_json::to_string(&Event::Step { message: "booting".into() }).unwrap();
        assert_eq!(step, r#"{"kind":"step","message":"booting"}"#);
    }
}
