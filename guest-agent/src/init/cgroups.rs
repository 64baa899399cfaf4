//! The cgroup v2 hierarchy, laid out so that containers can be delegated parts of it.
//!
//! `/init` holds PID 1 and its shells, `/coracle-engine` the engine; containers get groups of their own
//! beside these, never inside them, so that ending a group ends exactly what it says.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::MountFlags;

use super::mounts::mount_one;

const ROOT: &str = "/sys/fs/cgroup";
const INIT: &str = "init";
const ENGINE: &str = "coracle-engine";

/// Mount options, best first. `favordynmods` makes entering a group cheap, which every container start
/// does, at the price of slightly slower forks; kernels before 6.0 do not know it.
const OPTIONS: &[&str] = &["nsdelegate,memory_recursiveprot,favordynmods", "nsdelegate"];

/// Mounts the hierarchy, moves PID 1 out of its root and hands every controller to the groups below.
pub(crate) fn set_up() -> Result<()> {
    let root = Path::new(ROOT);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut mounted = Ok(());
    for options in OPTIONS {
        mounted = mount_one("cgroup2", root, flags, options);
        if mounted.is_ok() {
            break;
        }
    }
    mounted?;
    enter(&root.join(INIT))?;
    let controllers = root.join("cgroup.controllers");
    let controllers =
        fs::read_to_string(&controllers).with_context(|| format!("cannot read {}", controllers.display()))?;
    delegate(&root.join("cgroup.subtree_control"), &controllers.split_whitespace().collect::<Vec<_>>());
    tracing::debug!("cgroups are set up");
    Ok(())
}

/// Hands the controllers to the groups below.
fn delegate(subtree: &Path, controllers: &[&str]) {
    let all: Vec<_> = controllers.iter().map(|controller| format!("+{controller}")).collect();
    if fs::write(subtree, all.join(" ")).is_ok() {
        return;
    }
    // The kernel refuses all of a list when it refuses one.
    for controller in all {
        if let Err(error) = fs::write(subtree, &controller) {
            tracing::warn!("containers do without the controller {controller}: {error}");
        }
    }
}

/// Makes the engine's group and opens the file through which a process enters it: writing `0` moves
/// the writer.
pub(crate) fn open_engine_group() -> Result<OwnedFd> {
    let procs = make(&Path::new(ROOT).join(ENGINE))?;
    let file = OpenOptions::new()
        .write(true)
        .open(&procs)
        .with_context(|| format!("cannot open {}", procs.display()))?;
    Ok(file.into())
}

fn enter(group: &Path) -> Result<()> {
    let procs = make(group)?;
    fs::write(&procs, "0").with_context(|| format!("cannot enter the cgroup {}", group.display()))
}

/// Makes the group and names its list of processes.
fn make(group: &Path) -> Result<PathBuf> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the cgroup {}", group.display()))
        }
        _ => Ok(group.join("cgroup.procs")),
    }
}
