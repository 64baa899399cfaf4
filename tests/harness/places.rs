//! Where programs under test are, and what to say when they are not.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::case::Skip;
use crate::process;

/// Names the folder with dockerd and its companions; `cargo xtask test` sets it.
pub const PEER: &str = "CORACLE_PEER";
/// Names the folder with other user-mode networks; `cargo xtask bench` sets it.
const NETWORKS: &str = "CORACLE_NETWORKS";
/// Names the folder with docker-py's tests; `cargo xtask test` sets it.
const DOCKER_PY: &str = "CORACLE_DOCKER_PY";
/// Names the engine's program, for an engine that `cargo xtask build` has not installed.
pub const AGENT: &str = "CORACLE_AGENT";
/// Names the host program likewise.
pub const HOST: &str = "CORACLE_BIN";

/// Names the desktop app likewise.
const APP: &str = "CORACLE_APP";

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

/// The desktop app.
pub fn app() -> Result<PathBuf> {
    product(APP, "coracle-app")
        .map_err(|_| Skip::because("the desktop app is not built: run `cargo xtask build --app`").into())
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where `cargo xtask` keeps what takes long to make.
fn cache() -> Option<PathBuf> {
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("CORACLE_CACHE").or_else(|| Some(base?.join("coracle")))
}

/// The folder with docker-py's tests: `source/` and `python/`.
pub fn docker_py() -> Result<PathBuf> {
    let newest =
        || std::fs::read_dir(cache()?.join("docker-py")).ok()?.flatten().map(|entry| entry.path()).max();
    match variable(DOCKER_PY).or_else(newest) {
        Some(folder) if folder.join("source/tests/integration").is_dir() => Ok(folder),
        _ => Err(Skip::because("docker-py's tests are not there: run `cargo xtask test --level 2`").into()),
    }
}

/// The folder with dockerd and its companions: `bin/` and `cli-plugins/`.
pub fn peer() -> Result<PathBuf> {
    let folder = variable(PEER).or_else(|| Some(cache()?.join("peer/tools")));
    match folder {
        Some(folder) if folder.join("bin/dockerd").is_file() => Ok(folder),
        _ => Err(Skip::because("dockerd is not unpacked: run `cargo xtask test --against dockerd`").into()),
    }
}

/// The folder with `pasta` and `slirp4netns`.
pub fn networks() -> Result<PathBuf> {
    let folder = variable(NETWORKS).or_else(|| Some(cache()?.join("networks/tools")));
    match folder {
        Some(folder) if folder.join("pasta").is_file() => Ok(folder),
        _ => Err(Skip::because("pasta is not unpacked: run `cargo xtask bench network`").into()),
    }
}

/// The `docker` client: the peer's, which has the version that the cases are written for, else the one on the `PATH`.
pub fn docker() -> Result<PathBuf> {
    peer()
        .map(|peer| peer.join("bin/docker"))
        .or_else(|_| process::find("docker"))
        .map_err(|_| Skip::because("there is no docker client: run `cargo xtask setup`").into())
}
