//! What each command does.

pub(crate) mod app;
pub(crate) mod config;
pub(crate) mod delete;
pub(crate) mod docker_context;
pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod restart;
pub(crate) mod shell;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod volume;
