//! Choosing files, in the desktop's own window.

use std::path::{Path, PathBuf};

use gtk::{FileChooserAction, FileChooserNative, ResponseType, prelude::*};
use tauri::{AppHandle, Manager};
use tokio::sync::oneshot;

use crate::{
    chosen::Choice,
    error::{Error, Result},
    window,
};

/// Asks the user; `None` if they changed their mind.
pub(crate) async fn choose_file(
    app: &AppHandle,
    choice: Choice,
    suggestion: Option<String>,
) -> Result<Option<PathBuf>> {
    let (answer, answered) = oneshot::channel();
    let handle = app.clone();
    app.run_on_main_thread(move || {
        let parent = handle.get_webview_window(window::MAIN).and_then(|window| window.gtk_window().ok());
        show(parent.as_ref(), choice, suggestion.as_deref(), answer);
    })
    .map_err(|error| Error::host(format!("cannot ask for a file: {error}")))?;
    answered.await.map_err(|_| Error::host("the dialog for a file went away"))
}

fn show(
    parent: Option<&gtk::ApplicationWindow>,
    choice: Choice,
    suggestion: Option<&str>,
    answer: oneshot::Sender<Option<PathBuf>>,
) {
    let action = match choice {
        Choice::Open => FileChooserAction::Open,
        Choice::Save => FileChooserAction::Save,
        Choice::Folder => FileChooserAction::SelectFolder,
    };
    let dialog = FileChooserNative::new(None, parent, action, None, None);
    dialog.set_do_overwrite_confirmation(true);
    if let Some(suggestion) = suggestion {
        // A name, and perhaps where.
        let path = Path::new(suggestion);
        if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
            dialog.set_current_folder(folder);
        }
        if let (Choice::Save, Some(name)) = (choice, path.file_name()) {
            dialog.set_current_name(&name.to_string_lossy());
        }
    }
    let answer = std::cell::Cell::new(Some(answer));
    // The dialog holds itself until it is answered.
    let held = std::cell::RefCell::new(Some(dialog.clone()));
    dialog.connect_response(move |dialog, response| {
        let chosen = if response == ResponseType::Accept { dialog.filename() } else { None };
        if let Some(answer) = answer.take() {
            // Who asked may be gone.
            let _ = answer.send(chosen);
        }
        dialog.destroy();
        held.take();
    });
    dialog.show();
}
