//! Docker's API.

use std::path::PathBuf;

use serde::Serialize;
use tauri::{
    State,
    ipc::{Channel, InvokeResponseBody, Response},
};

use crate::{
    engine::{
        exchange::Request,
        files,
        stream::{Opened, Sink},
    },
    error::{Error, Result},
    shell::Shell,
};

#[tauri::command]
pub(crate) async fn engine_request(
    shell: State<'_, Shell>,
    request: Request,
    call: Option<u32>,
) -> Result<Response> {
    let answer = shell.calls.run(call, shell.engine.ask(request)).await?;
    Ok(Response::new(answer.encode()?))
}

#[tauri::command]
pub(crate) async fn engine_stream_open(
    shell: State<'_, Shell>,
    request: Request,
    channel: Channel<InvokeResponseBody>,
) -> Result<Opened> {
    shell.streams.open(&shell.engine, request, Pieces(channel)).await
}

#[tauri::command]
pub(crate) async fn engine_stream_write(shell: State<'_, Shell>, id: u32, bytes: Vec<u8>) -> Result<()> {
    shell.streams.write(id, bytes).await
}

#[tauri::command]
pub(crate) async fn engine_stream_finish(shell: State<'_, Shell>, id: u32) -> Result<()> {
    shell.streams.finish(id).await
}

#[tauri::command]
pub(crate) fn engine_stream_taken(shell: State<'_, Shell>, id: u32, bytes: usize) {
    shell.streams.taken(id, bytes);
}

#[tauri::command]
pub(crate) fn engine_stream_close(shell: State<'_, Shell>, id: u32) {
    shell.streams.close(id);
}

#[tauri::command]
pub(crate) async fn engine_to_file(
    shell: State<'_, Shell>,
    request: Request,
    path: PathBuf,
    call: Option<u32>,
    channel: Channel<u64>,
) -> Result<u64> {
    shell.chosen.may_write(&path)?;
    // A window that is gone needs no progress.
    let progress = |bytes| drop(channel.send(bytes));
    shell.calls.run(call, files::to_file(&shell.engine, request, &path, progress)).await
}

#[tauri::command]
pub(crate) async fn engine_from_file(
    shell: State<'_, Shell>,
    request: Request,
    path: PathBuf,
    call: Option<u32>,
    channel: Channel<u64>,
) -> Result<Response> {
    shell.chosen.may_read(&path)?;
    let progress = move |bytes| drop(channel.send(bytes));
    let answer = shell.calls.run(call, files::from_file(&shell.engine, request, &path, progress)).await?;
    Ok(Response::new(answer.encode()?))
}

#[tauri::command]
pub(crate) fn engine_cancel(shell: State<'_, Shell>, id: u32) {
    shell.calls.cancel(id);
}

/// A stream's way to the window.
struct Pieces(Channel<InvokeResponseBody>);

#[derive(Serialize)]
struct End {
    end: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

impl Sink for Pieces {
    fn data(&self, bytes: Vec<u8>) -> bool {
        self.0.send(InvokeResponseBody::Raw(bytes)).is_ok()
    }

    fn end(&self, error: Option<Error>) {
        match serde_json::to_string(&End { end: true, error }) {
            Ok(json) => drop(self.0.send(InvokeResponseBody::Json(json))),
            Err(error) => tracing::error!("a stream's end is no JSON: {error}"),
        }
    }
}
