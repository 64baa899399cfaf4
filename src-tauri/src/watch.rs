//! Keeps the tray and the interface up to date: with the machine's state, and with what runs in it.

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt;
use tauri::{AppHandle, Emitter, Manager};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use crate::{
    engine::exchange::Request,
    error::Result,
    machine, platform,
    shell::Shell,
    tray::{Condition, Container, Tray, View},
};

/// Tells the interface that the machine may be another.
const MACHINE_CHANGE: &str = "machine-change";
/// Events that come together are one change of the list.
const SETTLE: Duration = Duration::from_millis(200);
/// Before an engine that hung up is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks at whether the desktop shows a tray: some show it later than they start programs.
const TRAY_LOOK: Duration = Duration::from_secs(30);
/// Docker's events after which another list of running containers may hold.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%2C%22destroy%22%2C%22rename%22%5D%7D";
/// Docker's list of running containers.
const LIST: &str = "/containers/json";

/// Watches for as long as the app runs.
pub(crate) fn start(app: &AppHandle) {
    let (conditions, condition) = watch::channel(Condition::Stopped);
    let handle = app.clone();
    tauri::async_runtime::spawn(async move {
        let changed = Arc::new(Notify::new());
        let told = tokio::spawn(tell(handle.clone(), Arc::clone(&changed), conditions));
        let home = handle.state::<Shell>().home.clone();
        machine::watch::changes(home, |_| changed.notify_one()).await;
        told.abort();
    });
    tauri::async_runtime::spawn(show(app.clone(), condition));
    let handle = app.clone();
    tauri::async_runtime::spawn(async move {
        loop {
            handle.state::<Shell>().set_tray(platform::tray_is_shown().await);
            sleep(TRAY_LOOK).await;
        }
    });
}

/// At each change: the interface is told, and the machine asked how it is.
async fn tell(app: AppHandle, changed: Arc<Notify>, conditions: watch::Sender<Condition>) {
    loop {
        changed.notified().await;
        if let Err(error) = app.emit(MACHINE_CHANGE, ()) {
            tracing::warn!("the window does not hear of the machine: {error}");
        }
        match app.state::<Shell>().status().await {
            Ok(status) => drop(conditions.send(Condition::of(&status))),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// Shows each condition in the tray and, while the machine runs, what runs in it.
async fn show(app: AppHandle, mut condition: watch::Receiver<Condition>) {
    loop {
        let machine = *condition.borrow_and_update();
        put(&app, View { machine, containers: Vec::new() });
        let ended = if machine == Condition::Running {
            tokio::select! {
                changed = condition.changed() => changed.is_err(),
                () = follow(&app, machine) => false,
            }
        } else {
            condition.changed().await.is_err()
        };
        if ended {
            return;
        }
    }
}

/// Shows the running containers, now and after each change, for as long as the future is polled.
async fn follow(app: &AppHandle, machine: Condition) {
    loop {
        if let Err(error) = follow_events(app, machine).await {
            tracing::debug!("{error}");
        }
        sleep(RETRY).await;
    }
}

async fn follow_events(app: &AppHandle, machine: Condition) -> Result<()> {
    let shell = app.state::<Shell>();
    // Listening before the first list: nothing can happen in between.
    let mut events = shell.engine.send(Request::get(EVENTS).with_own_body()?).await?.into_body();
    loop {
        let list = shell.engine.ask(Request::get(LIST)).await?.accepted()?;
        let containers: Vec<Container> = serde_json::from_slice(&list.body).map_err(|error| {
            crate::error::Error::host(format!("the list of containers is no JSON: {error}"))
        })?;
        put(app, View { machine, containers });
        match events.frame().await {
            Some(Ok(_)) => while let Ok(Some(Ok(_))) = timeout(SETTLE, events.frame()).await {},
            _ => return Ok(()),
        }
    }
}

fn put(app: &AppHandle, view: View) {
    let handle = app.clone();
    // Menus belong to the main thread.
    let asked = app.run_on_main_thread(move || {
        if let Some(tray) = handle.try_state::<Tray>()
            && let Err(error) = tray.show(&handle, view)
        {
            tracing::warn!("the tray is not up to date: {error}");
        }
    });
    if let Err(error) = asked {
        tracing::warn!("the tray is not up to date: {error}");
    }
}
