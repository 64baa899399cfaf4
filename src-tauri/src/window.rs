//! The window. It can be closed, hidden, or crash without anything else noticing.

use tauri::{
    AppHandle, Emitter, Manager, Theme, WebviewUrl, WebviewWindow, WebviewWindowBuilder, WindowEvent,
    webview::{NewWindowResponse, PageLoadEvent},
};

use crate::{link::Wish, platform, preferences, shell::Shell};

/// The window's label; capabilities/window.json names it.
pub(crate) const MAIN: &str = "main";
/// In logical pixels: what it has at first, and at least.
const SIZE: (f64, f64) = (1180.0, 760.0);
const MIN_SIZE: (f64, f64) = (720.0, 480.0);
/// Carries wishes to the interface.
const WISH: &str = "wish";

/// Shows the window, making it if there is none; on a page, if one is wished for.
pub(crate) fn show(app: &AppHandle, page: Option<String>) {
    if let Some(window) = app.get_webview_window(MAIN) {
        raise(&window);
        if let Some(path) = page {
            wish(app, Wish::Page { path });
        }
        return;
    }
    if let Err(error) = make(app, page.as_deref().unwrap_or("/"), true) {
        tracing::error!("there is no window: {error}");
    }
}

/// Makes the window without showing it: it keeps watch for what the user wants to be told.
pub(crate) fn make_hidden(app: &AppHandle) {
    if let Err(error) = make(app, "/", false) {
        tracing::error!("there is no window: {error}");
    }
}

/// Whether somebody can see it, as far as can be told.
pub(crate) fn is_visible(app: &AppHandle) -> bool {
    app.get_webview_window(MAIN).is_some_and(|window| window.is_visible().unwrap_or(false))
}

/// Hands a wish to the interface.
pub(crate) fn wish(app: &AppHandle, wish: Wish) {
    if let Err(error) = app.emit_to(MAIN, WISH, wish) {
        tracing::warn!("a wish was lost: {error}");
    }
}

pub(crate) fn set_theme(app: &AppHandle, theme: preferences::Theme) {
    if let Some(window) = app.get_webview_window(MAIN)
        && let Err(error) = window.set_theme(theme_of(theme))
    {
        tracing::warn!("the window's theme stays: {error}");
    }
}

fn theme_of(theme: preferences::Theme) -> Option<Theme> {
    match theme {
        preferences::Theme::System => None,
        preferences::Theme::Light => Some(Theme::Light),
        preferences::Theme::Dark => Some(Theme::Dark),
    }
}

fn raise(window: &WebviewWindow) {
    for done in [window.show(), window.unminimize(), window.set_focus()] {
        if let Err(error) = done {
            tracing::debug!("the window is not raised: {error}");
        }
    }
}

fn make(app: &AppHandle, page: &str, shown: bool) -> tauri::Result<()> {
    let theme = app.state::<Shell>().preferences.get().theme;
    let window = WebviewWindowBuilder::new(app, MAIN, WebviewUrl::App(format!("index.html#{page}").into()))
        .title("Coracle")
        .inner_size(SIZE.0, SIZE.1)
        .min_inner_size(MIN_SIZE.0, MIN_SIZE.1)
        .theme(theme_of(theme))
        // Shown when there is something in it.
        .visible(false)
        .on_navigation(|url| {
            let ours = url.scheme() == "tauri";
            if !ours {
                tracing::warn!("the window does not go to {url}");
            }
            ours
        })
        // The interface opens pages by a command of ours, in the user's browser.
        .on_new_window(|_, _| NewWindowResponse::Deny)
        .on_page_load(move |window, load| match load.event() {
            // Whatever listened before is gone.
            PageLoadEvent::Started => {
                let shell = window.state::<Shell>();
                shell.streams.close_all();
                shell.logs.close_all();
            }
            PageLoadEvent::Finished if shown => raise(&window),
            PageLoadEvent::Finished => {}
        })
        .build()?;
    platform::reload_after_crash(&window);
    let handle = app.clone();
    window.on_window_event(move |event| {
        if let WindowEvent::CloseRequested { api, .. } = event {
            closing(&handle, api);
        }
    });
    Ok(())
}

/// The window goes to the tray if the user wants that and there is one to come back from; else the app ends.
fn closing(app: &AppHandle, close: &tauri::CloseRequestApi) {
    let shell = app.state::<Shell>();
    if !(shell.has_tray() && shell.preferences.get().close_to_tray) {
        // The last window's end is the app's.
        return;
    }
    close.prevent_close();
    if let Some(window) = app.get_webview_window(MAIN)
        && let Err(error) = window.hide()
    {
        tracing::warn!("the window stays: {error}");
    }
}
