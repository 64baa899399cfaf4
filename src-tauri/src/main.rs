//! `coracle-app`: the desktop app's shell.
//!
//! It owns a window ([`window`]) in which the interface of `ui/` runs, and an icon in the tray ([`tray`]). It links
//! neither the virtual machine nor the engine: what the interface asks ([`commands`]) it passes on to Docker's socket
//! ([`engine`]), to the machine's control socket ([`machine`]), or to the `coracle` command ([`program`]). So nothing
//! that it does can be done only by it, and nothing stops when it does.

// Without a console window beside the app's.
#![cfg_attr(windows, windows_subsystem = "windows")]

/// Files that the user has chosen.
mod chosen;
/// What the interface asks.
mod commands;
/// Docker's API as a client.
mod engine;
/// Why a command failed.
mod error;
/// Where files are.
mod home;
/// Wishes from outside the window.
mod link;
/// The app's own log.
mod log;
/// The machine.
mod machine;
/// What differs between host systems.
mod platform;
/// What the app remembers about itself.
mod preferences;
/// The `coracle` command.
mod program;
/// What all share.
mod shell;
/// The tray.
mod tray;
/// Updates of the app.
mod updater;
/// Keeping tray and interface up to date.
mod watch;
/// The window.
mod window;

use std::process::ExitCode;

use tauri::{AppHandle, Manager};
use tauri_plugin_window_state::StateFlags;

use commands::{desktop, engine as docker, machine as host, update};
use home::Home;
use shell::{Shell, Verb};
use tray::Tray;

/// Starts without a window; where there is no tray to open it from, with one.
const BACKGROUND: &str = "--background";

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            tracing::error!("{error:#}");
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<i32> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--version") => {
            println(&format!("coracle-app {}", env!("CARGO_PKG_VERSION")));
            return Ok(0);
        }
        Some(option) if option.starts_with('-') && option != BACKGROUND => {
            anyhow::bail!(
                "there is no option {option}; there are {BACKGROUND}, --version, and a coracle:// link"
            )
        }
        _ => {}
    }
    let home = Home::from_environment()?;
    log::open(&home)?;
    let window_state = tauri_plugin_window_state::Builder::default()
        .with_filename(home.window_state().to_string_lossy())
        .with_state_flags(StateFlags::SIZE | StateFlags::POSITION | StateFlags::MAXIMIZED)
        .build();
    let app = tauri::Builder::default()
        // First: a second start must come to nothing before it does anything.
        .plugin(tauri_plugin_single_instance::init(|app, arguments, _| {
            opened_again(app, arguments.get(1..).unwrap_or_default());
        }))
        .plugin(tauri_plugin_updater::Builder::new().build())
        .plugin(window_state)
        .manage(Shell::new(home))
        .invoke_handler(tauri::generate_handler![
            docker::engine_request,
            docker::engine_stream_open,
            docker::engine_stream_write,
            docker::engine_stream_finish,
            docker::engine_stream_close,
            docker::engine_stream_taken,
            docker::engine_to_file,
            docker::engine_from_file,
            docker::engine_cancel,
            host::machine_status,
            host::machine_run,
            host::machine_log_open,
            host::machine_log_close,
            host::settings,
            host::settings_change,
            host::host_figures,
            host::doctor,
            host::diagnostics,
            host::diagnostics_save,
            host::docker_context,
            host::docker_context_select,
            desktop::preferences,
            desktop::preferences_change,
            desktop::about,
            desktop::choose_file,
            desktop::open_url,
            desktop::notify,
            desktop::quit,
            update::update_check,
            update::update_install,
        ])
        .setup(move |app| {
            begin(app.handle(), &arguments);
            Ok(())
        })
        .build(tauri::generate_context!())?;
    Ok(app.run_return(|_, _| {}))
}

/// The first start.
fn begin(app: &AppHandle, arguments: &[String]) {
    let shell = app.state::<Shell>();
    shell.set_tray(tauri::async_runtime::block_on(platform::tray_is_shown()));
    match Tray::make(app) {
        Ok(tray) => drop(app.manage(tray)),
        // The window has all of it, too.
        Err(error) => tracing::warn!("there is no tray: {error}"),
    }
    watch::start(app);
    if arguments.iter().any(|argument| argument == BACKGROUND) && shell.has_tray() {
        window::make_hidden(app);
    } else {
        window::show(app, arguments.iter().find_map(|argument| link::page(argument)));
    }
    if shell.preferences.get().start_machine_with_app {
        let app = app.clone();
        tauri::async_runtime::spawn(async move {
            // The interface shows what the machine does, whoever has asked for it.
            if let Err(error) = app.state::<Shell>().run(Verb::Start, drop).await {
                tracing::warn!("the machine was not started with the app: {error}");
            }
        });
    }
}

/// A second start: the first shows itself.
fn opened_again(app: &AppHandle, arguments: &[String]) {
    if arguments.iter().any(|argument| argument == BACKGROUND) {
        return;
    }
    window::show(app, arguments.iter().find_map(|argument| link::page(argument)));
}

/// Writes to standard output; a reader that went away has seen what it wanted.
fn println(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes to standard error: there is no window yet to say it in.
fn complain(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "coracle-app: {line}");
}
