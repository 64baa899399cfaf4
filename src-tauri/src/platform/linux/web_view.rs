//! The window's web view.

use tauri::WebviewWindow;
use webkit2gtk::WebViewExt;

/// Shows the interface again when the process that draws it has crashed: nothing that matters lives there.
pub(crate) fn reload_after_crash(window: &WebviewWindow) {
    let watched = window.with_webview(|view| {
        view.inner().connect_web_process_terminated(|view, reason| {
            tracing::error!("the window's process ended ({reason:?}): loading it again");
            view.reload();
        });
    });
    if let Err(error) = watched {
        tracing::warn!("the window's process is not watched: {error}");
    }
}
