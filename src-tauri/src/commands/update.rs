//! Updates of the app.

use serde::Serialize;
use tauri::{AppHandle, State, ipc};

use crate::{error::Result, shell::Shell, updater};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Progress {
    done: u64,
    total: Option<u64>,
}

#[tauri::command]
pub(crate) async fn update_check(app: AppHandle, shell: State<'_, Shell>) -> Result<Option<updater::Offer>> {
    updater::check(&app, shell.preferences.get().update_channel).await
}

#[tauri::command]
pub(crate) async fn update_install(
    app: AppHandle,
    shell: State<'_, Shell>,
    version: String,
    channel: ipc::Channel<Progress>,
) -> Result<()> {
    let from = shell.preferences.get().update_channel;
    // A window that is gone needs no progress.
    let tell = |done, total| drop(channel.send(Progress { done, total }));
    updater::install(&app, from, &version, tell).await
}
