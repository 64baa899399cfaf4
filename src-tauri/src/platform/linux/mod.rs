//! Linux, with GTK and a D-Bus session.

/// Starting with the desktop.
pub(super) mod autostart;
/// The desktop's own services.
pub(super) mod desktop;
/// Choosing files.
pub(super) mod dialog;
/// How busy the host is.
pub(super) mod figures;
/// Changes of a folder.
pub(super) mod folder_watch;
/// Installing a package of the app's.
pub(super) mod package;
/// The window's web view.
pub(super) mod web_view;
