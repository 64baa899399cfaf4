//! Where programs under test are, and what to say when they are not.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::case::Skip;
use crate::process;

/// Names the folder with dockerd and its companions; `cargo xtask test` sets it.
pub const PEER: &str = "CORACLE_PEER";
/// Names the engine's program, for an engine that `cargo xtask build` has not installed.
pub const AGENT: &str = "CORACLE_AGENT";
/// Names the host program likewise.
pub const HOST: &str = "CORACLE_BIN";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

fn product(variable: &str, name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    let path =
        std::env::var_os(variable).map_or_else(|| target.join("coracle/bin").join(name), PathBuf::from);
    let path = if path.is_absolute() { path } else { project().join(path) };
    if path.is_file() {
        return Ok(path);
    }
    Err(Skip::because(format!("{} is not there: run `cargo xtask build`", path.display())).into())
}

/// The guest program, which is also the engine.
pub fn agent() -> Result<PathBuf> {
    product(AGENT, "coracle-agent")
}

/// The host program.
pub fn coracle() -> Result<PathBuf> {
    product(HOST, "coracle")
}

/// The folder with dockerd and its companions: `bin/` and `cli-plugins/`.
pub fn peer() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || {
        let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        variable("CORACLE_CACHE").or_else(|| Some(base?.join("coracle")))
    };
    let folder = variable(PEER).or_else(|| Some(cache()?.join("peer/tools")));
    match folder {
        Some(folder) if folder.join("bin/dockerd").is_file() => Ok(folder),
        _ => Err(Skip::because("dockerd is not unpacked: run `cargo xtask test --against dockerd`").into()),
    }
}

/// The `docker` client: the peer's, which has the version that the cases are written for, else the one on the `PATH`.
pub fn docker() -> Result<PathBuf> {
    peer()
        .map(|peer| peer.join("bin/docker"))
        .or_else(|_| process::find("docker"))
        .map_err(|_| Skip::because("there is no docker client: run `cargo xtask setup`").into())
}
