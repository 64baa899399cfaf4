//! A container's control groups as seen from outside: who is in them, stop and go, and their end.
//! The limits are set by the helper.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Component, Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a killed group may take to become empty, and a frozen one to stand still.
const PATIENCE: Duration = Duration::from_secs(5);
const ROOT: &str = "/sys/fs/cgroup";
/// Controllers whose hierarchies of version 1 a container's processes are in.
pub(super) const V1_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

/// Which of the kernel's two interfaces limits resources here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// This machine's control group hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroups {
    version: CgroupVersion,
    /// Mount points. On v1 that of the unified hierarchy, which limits nothing there, is one of them.
    hierarchies: Vec<PathBuf>,
}

impl Cgroups {
    /// Looks at what is mounted.
    pub fn detect() -> io::Result<Self> {
        let unified = Path::new(ROOT);
        if unified.join("cgroup.controllers").exists() {
            return Ok(Self { version: CgroupVersion::V2, hierarchies: vec![unified.to_owned()] });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let hierarchies: Vec<PathBuf> = mounts.lines().filter_map(hierarchy).collect();
        if hierarchies.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no control groups are mounted at {ROOT}"),
            ));
        }
        Ok(Self { version: CgroupVersion::V1, hierarchies })
    }

    /// What a machine might have.
    #[cfg(test)]
    pub(super) fn for_tests(version: CgroupVersion, hierarchies: &[&str]) -> Self {
        Self { version, hierarchies: hierarchies.iter().map(PathBuf::from).collect() }
    }

    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// The mount points of version 1 that a container gets to see of its own.
    pub fn v1_hierarchies(&self) -> &[PathBuf] {
        match self.version {
            CgroupVersion::V1 => &self.hierarchies,
            CgroupVersion::V2 => &[],
        }
    }

    /// Whether shares of block I/O can be given, as Docker tells.
    pub(super) fn has_block_weight(&self) -> bool {
        match self.version {
            CgroupVersion::V1 => self.hierarchies.iter().any(|root| root.join("blkio.weight").exists()),
            CgroupVersion::V2 => fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
                .is_ok_and(|names| names.split_whitespace().any(|name| name == "io")),
        }
    }

    /// The CPUs (`cpus`) or memory nodes (`mems`) there are, as `0-3`; empty when nobody tells.
    pub(super) fn available(&self, what: &str) -> String {
        let file = match self.version {
            CgroupVersion::V1 => format!("cpuset.{what}"),
            CgroupVersion::V2 => format!("cpuset.{what}.effective"),
        };
        let text = self.hierarchies.iter().find_map(|root| fs::read_to_string(root.join(&file)).ok());
        text.unwrap_or_default().trim().to_owned()
    }

    /// Processes of the group `path` and those below it, as this pid namespace numbers them.
    pub(super) fn processes(&self, path: &Path) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for group in self.groups(path) {
            members(&group, &mut found)?;
            if self.version == CgroupVersion::V1 && !found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Sends `signal` to every process of the group.
    pub(super) fn kill(&self, path: &Path, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            for group in self.groups(path) {
                if fs::write(group.join("cgroup.kill"), "1").is_ok() {
                    return Ok(());
                }
            }
        }
        // Whoever is being born while we look is found the next time.
        let mut before = Vec::new();
        loop {
            let now = self.processes(path)?;
            for pid in now.iter().filter(|pid| !before.contains(*pid)) {
                if let Ok(pid @ 1..) = i32::try_from(*pid) {
                    // SAFETY: a system call on numbers; the process may have ended, which is as good.
                    unsafe { libc::kill(pid, signal) };
                }
            }
            if now.iter().all(|pid| before.contains(pid)) {
                return Ok(());
            }
            before = now;
        }
    }

    /// Stops every process of the group, or lets them go on; returns when they have.
    pub(super) fn freeze(&self, path: &Path, frozen: bool) -> io::Result<()> {
        let (file, wanted, seen, line) = match (self.version, frozen) {
            (CgroupVersion::V1, true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (CgroupVersion::V1, false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
            (CgroupVersion::V2, true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (CgroupVersion::V2, false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        };
        let group = self
            .groups(path)
            .find(|group| group.join(file).exists())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        wait_until(|| {
            // Version 1 may need to be told again when a process forks at the wrong moment.
            fs::write(group.join(file), wanted)?;
            Ok(fs::read_to_string(group.join(seen))?.lines().any(|found| found == line))
        })
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub(super) fn oom_killed(&self, path: &Path) -> bool {
        let file = match self.version {
            CgroupVersion::V1 => "memory.oom_control",
            CgroupVersion::V2 => "memory.events",
        };
        self.groups(path)
            .filter_map(|group| fs::read_to_string(group.join(file)).ok())
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|line| line.strip_prefix("oom_kill ").and_then(|count| count.parse().ok()))
            .any(|count: u64| count > 0)
    }

    /// Kills what is left in the group and removes it everywhere. A group that is not there is fine.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        if !is_containers_own(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a container's control group"));
        }
        if self.groups(path).next().is_none() {
            return Ok(());
        }
        if !self.processes(path)?.is_empty() {
            self.kill(path, libc::SIGKILL)?;
            // On version 1 a frozen process takes note of its end only when it thaws.
            let _ = self.freeze(path, false);
        }
        let groups: Vec<PathBuf> = self.groups(path).collect();
        wait_until(|| {
            for group in &groups {
                match remove_tree(group) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        self.kill(path, libc::SIGKILL)?;
                        return Ok(false);
                    }
                    result => result?,
                }
            }
            Ok(true)
        })
    }

    /// Makes the group `path` in every hierarchy that limits something, and those above it, with every
    /// controller that there is. Others may do so at the same time.
    pub(super) fn make(&self, path: &Path) -> io::Result<()> {
        let names: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        for root in self.hierarchies.iter().filter(|root| self.limits_something(root)) {
            let mut group = root.clone();
            for name in &names {
                if self.version == CgroupVersion::V2 {
                    pass_on_controllers(&group);
                }
                group.push(name);
                match fs::create_dir(&group) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                if self.version == CgroupVersion::V1 {
                    inherit_cpuset(&group)?;
                }
            }
        }
        Ok(())
    }

    fn limits_something(&self, root: &Path) -> bool {
        let name = root.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.version == CgroupVersion::V2
            || name.split(',').any(|controller| V1_CONTROLLERS.contains(&controller))
    }

    /// Files by which a process with one thread moves itself into the group `path`: it writes `0` to each.
    pub(super) fn doors(&self, path: &Path) -> io::Result<Vec<File>> {
        let name = match self.version {
            // A thread that moves itself, and nothing else, need not wait until every processor has taken
            // note, as it would with `cgroup.procs`.
            CgroupVersion::V1 => "tasks",
            CgroupVersion::V2 => "cgroup.procs",
        };
        let open = |group: PathBuf| OpenOptions::new().write(true).open(group.join(name));
        self.groups(path).map(open).collect()
    }

    /// The group's directories that exist.
    pub(super) fn groups(&self, path: &Path) -> impl Iterator<Item = PathBuf> {
        let relative = path.strip_prefix("/").unwrap_or(path).to_owned();
        self.hierarchies.iter().map(move |root| root.join(&relative)).filter(|group| group.is_dir())
    }
}

/// A path of at least two names and nothing else: never a root, never another tree's.
fn is_containers_own(path: &Path) -> bool {
    let mut names = 0;
    path.components().all(|part| match part {
        std::path::Component::RootDir => true,
        std::path::Component::Normal(_) => {
            names += 1;
            true
        }
        _ => false,
    }) && names >= 1
}

/// The mount point in a line of `mountinfo`, if control groups are mounted there.
fn hierarchy(line: &str) -> Option<PathBuf> {
    let (mount, source) = line.split_once(" - ")?;
    if !matches!(source.split(' ').next()?, "cgroup" | "cgroup2") {
        return None;
    }
    let point = Path::new(mount.split(' ').nth(4)?);
    point.starts_with(ROOT).then(|| point.to_owned())
}

/// Lets groups below `group` use every controller that it has itself. One at a time, since the kernel takes
/// all that are written at once or none; what it does not give, a limit that needs it will tell.
fn pass_on_controllers(group: &Path) {
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new group of version 1's `cpuset` has no processors and takes no processes: it gets those of the group
/// above it.
fn inherit_cpuset(group: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let own = match fs::read_to_string(group.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            own => own?,
        };
        if own.trim().is_empty()
            && let Some(above) = group.parent()
        {
            fs::write(group.join(name), fs::read_to_string(above.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn members(group: &Path, found: &mut Vec<u32>) -> io::Result<()> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // ENODEV: removed while we looked; EOPNOTSUPP: a threaded group, whose root lists its processes.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(error) => return Err(error),
    }
    for below in directories(group) {
        members(&below, found)?;
    }
    Ok(())
}

fn directories(group: &Path) -> Vec<PathBuf> {
    fs::read_dir(group)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Groups below go first.
fn remove_tree(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::ResourceBusy => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    for below in directories(group) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Asks again, ever less often, until the answer is yes.
fn wait_until(mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while !done()? {
        if start.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_of_their_own_are_removed() {
        for path in ["/", "", "/docker/../..", "."] {
            assert!(!is_containers_own(Path::new(path)), "{path}");
        }
        assert!(is_containers_own(Path::new("/docker/0123")));
    }

    #[test]
    fn mount_points_are_found_among_others() {
        let line = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory";
        assert_eq!(hierarchy(line), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(hierarchy("23 1 254:0 / / rw,relatime - ext4 /dev/vda rw"), None);
        assert_eq!(hierarchy("35 31 0:32 / /tmp/x rw - cgroup2 none rw"), None);
        assert_eq!(hierarchy(""), None);
    }
}
