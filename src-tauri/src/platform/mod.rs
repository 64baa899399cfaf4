//! What differs between host systems.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    autostart::Autostart,
    desktop::{notify, open_url, tray_is_shown},
    dialog::choose_file,
    figures::{Figures, Sampler},
    folder_watch::FolderWatch,
    package::install,
    web_view::reload_after_crash,
};
