//! A container's first process: its control groups, its namespaces, its root, then what every process goes
//! through.

use std::{
    convert::Infallible,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::{fs::OFlags, process::Pid};

use super::{
    last_steps::LastSteps,
    loopback,
    outside::Outside,
    process::{self, Reason, TerminalWay, because},
    root,
};
use crate::{
    error::{Context, Error, Result, errno_of},
    mounts,
    runtime::{cgroup::Cgroups, in_root::Root},
    userns::{Range, Remap},
};

/// What the first process is made in.
pub(super) struct Container<'a> {
    spec: &'a Spec,
    namespaces: Namespaces,
    /// See [`Cgroups::doors`].
    doors: Vec<File>,
}

/// Those that are made, as flags of `clone(2)`, and those that are joined, with theirs.
#[derive(Default)]
struct Namespaces {
    new: libc::c_int,
    joined: Vec<(libc::c_int, File)>,
    /// That of users, which all others belong to.
    users: Option<Users>,
}

/// A namespace of users.
enum Users {
    New(Remap),
    Joined(OwnedFd),
}

impl Namespaces {
    fn of(spec: &Spec) -> Result<Self> {
        let mut all = Self::default();
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        for namespace in listed.into_iter().flatten() {
            let flag = match namespace.typ() {
                LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
                LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
                LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
                LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
                LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
                LinuxNamespaceType::Network => libc::CLONE_NEWNET,
                LinuxNamespaceType::User => {
                    all.users = Some(Users::New(remap(spec)?));
                    continue;
                }
                other => return Err(Error::not_implemented(format!("a namespace of the kind {other}"))),
            };
            match namespace.path() {
                None => all.new |= flag,
                Some(path) => {
                    let file = File::open(path).context(|| format!("open {}", path.display()))?;
                    all.joined.push((flag, file));
                }
            }
        }
        // Whoever joins a namespace has rights over it only in that of users that it belongs to.
        if let (Some(users), Some((_, joined))) = (&mut all.users, all.joined.first()) {
            let owner = owner(joined).context(|| "find the owner of a namespace".to_owned())?;
            *users = Users::Joined(owner);
        }
        Ok(all)
    }

    fn is_new(&self, flag: libc::c_int) -> bool {
        self.new & flag != 0
    }
}

/// Which users of the machine a container's are.
pub(super) fn remap(spec: &Spec) -> Result<Remap> {
    let linux = spec.linux().as_ref();
    let range = |mappings: Option<&Vec<LinuxIdMapping>>| match mappings.map(Vec::as_slice) {
        Some([one]) if one.container_id() == 0 => Ok(Range { first: one.host_id(), count: one.size() }),
        _ => Err(Error::not_implemented("users that are mapped otherwise than as one range from 0 on")),
    };
    Ok(Remap {
        uids: range(linux.and_then(|linux| linux.uid_mappings().as_ref()))?,
        gids: range(linux.and_then(|linux| linux.gid_mappings().as_ref()))?,
    })
}

impl<'a> Container<'a> {
    /// Makes the control groups at `group` with the limits of `spec`.
    ///
    /// # Errors
    /// Limits that the kernel refuses; namespaces that are not there.
    pub(super) fn prepare(spec: &'a Spec, id: &str, group: &Path) -> Result<Self> {
        let namespaces = Namespaces::of(spec)?;
        let cgroups = Cgroups::detect().context(|| "look at the control groups".to_owned())?;
        cgroups.make(group).context(|| format!("make the control group {}", group.display()))?;
        if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
            let refused = |error: &dyn std::fmt::Display| {
                Error::system(format!("error setting cgroup config for procHooks process: {error}"))
            };
            let manager = create_cgroup_manager(CgroupConfig {
                cgroup_path: group.to_owned(),
                systemd_cgroup: false,
                container_name: id.to_owned(),
            })
            .map_err(|error| refused(&error))?;
            let memory = resources.memory().as_ref();
            let limits = ControllerOpt {
                resources,
                disable_oom_killer: memory.and_then(|memory| memory.disable_oom_killer()).unwrap_or(false),
                oom_score_adj: None,
                freezer_state: None,
            };
            manager.apply(&limits).map_err(|error| refused(&error))?;
        }
        let doors = cgroups.doors(group).context(|| format!("open the control group {}", group.display()))?;
        Ok(Self { spec, namespaces, doors })
    }

    /// Starts the first process, which does the `steps`. Returns it, and where its terminal's master comes
    /// from if it has one.
    ///
    /// # Errors
    /// What the kernel refuses. Later failures are in the messages of `steps`.
    pub(super) fn start(self, steps: &LastSteps) -> Result<(Pid, Option<TerminalWay>)> {
        let process = self.spec.process().as_ref();
        let process = process.ok_or_else(|| Error::invalid("the specification has no process"))?;
        process::prepare(process)?;
        let terminal = TerminalWay::of(process)?;
        let outside = Outside::open(self.spec)
            .map_err(|reason| Error::system(format!("error during container init: {reason}")))?;
        if let Some(users) = &self.namespaces.users {
            steps.prepare_for_other_users(remap(self.spec)?)?;
            match users {
                Users::New(remap) => {
                    remap.make_namespace().and_then(|users| Ok(join(users, libc::CLONE_NEWUSER)?))
                }
                Users::Joined(file) => join(file, libc::CLONE_NEWUSER).map_err(io::Error::from),
            }
            .context(|| "enter the namespace of users".to_owned())?;
        }
        // Only a child is ever in another namespace of pids.
        if let Some((flag, file)) =
            self.namespaces.joined.iter().find(|(flag, _)| *flag == libc::CLONE_NEWPID)
        {
            join(file, *flag).context(|| "join the namespace of pids".to_owned())?;
        }
        // That of control groups begins where the process is: it has to be in its groups first.
        let flags = self.namespaces.new & !libc::CLONE_NEWCGROUP | libc::SIGCHLD;
        // SAFETY: without a stack of its own the child has a copy of its parent's, as after `fork`; this process
        // has one thread, so that the child may do whatever its parent may.
        match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
            -1 => Err(process::last_error()).context(|| "make the container's namespaces".to_owned()),
            0 => process::run(steps, || self.become_program(steps, &outside, terminal.as_ref())),
            pid => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                Ok((pid.ok_or_else(|| Error::system("the process has no number"))?, terminal))
            }
        }
    }

    /// In the new process.
    fn become_program(
        &self,
        steps: &LastSteps,
        outside: &Outside,
        terminal: Option<&TerminalWay>,
    ) -> std::result::Result<Infallible, Reason> {
        let process = self.spec.process().as_ref().ok_or("the specification has no process")?;
        process::enter_groups(&self.doors)?;
        if self.namespaces.users.is_some() {
            process::become_root().map_err(because("becoming the container's root"))?;
        }
        for (flag, file) in self.namespaces.joined.iter().filter(|(flag, _)| *flag != libc::CLONE_NEWPID) {
            join(file, *flag).map_err(because("joining a namespace"))?;
        }
        if self.namespaces.is_new(libc::CLONE_NEWCGROUP) {
            // SAFETY: a number; this process has one thread and shares nothing that this concerns.
            if unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } < 0 {
                return Err(because("making a namespace of control groups")(process::last_error()));
            }
        }
        rustix::process::setsid().map_err(because("beginning a session"))?;
        if self.namespaces.is_new(libc::CLONE_NEWUTS) {
            if let Some(name) = self.spec.hostname() {
                rustix::system::sethostname(name.as_bytes()).map_err(because("setting the host name"))?;
            }
            if let Some(name) = self.spec.domainname() {
                rustix::system::setdomainname(name.as_bytes()).map_err(because("setting the domain name"))?;
            }
        }
        if self.namespaces.is_new(libc::CLONE_NEWNET) {
            loopback::bring_up()
                .map_err(|error| format!("error bringing up the loopback interface: {error}"))?;
        }
        root::enter(self.spec, outside)?;
        if let Some(terminal) = terminal {
            let slave = terminal.take_terminal().map_err(because("opening a terminal"))?;
            show_console(&slave).map_err(because("mounting /dev/console"))?;
        }
        root::seal(self.spec)?;
        process::finish(process, steps)
    }
}

/// The namespace of users that another namespace belongs to (ioctl_ns(2)).
fn owner(namespace: &File) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: an open descriptor and a number; what is returned is a new descriptor.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) } {
        -1 => Err(io::Error::last_os_error()),
        fd => {
            // SAFETY: the kernel has just made it for this call.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
    }
}

fn join(namespace: impl AsFd, flag: libc::c_int) -> std::result::Result<(), rustix::io::Errno> {
    // SAFETY: an open descriptor and a number; this process has one thread.
    match unsafe { libc::setns(namespace.as_fd().as_raw_fd(), flag) } {
        0 => Ok(()),
        _ => Err(process::last_error()),
    }
}

/// The terminal is the container's console, too.
fn show_console(slave: impl AsFd) -> std::result::Result<(), rustix::io::Errno> {
    let console = Path::new("/dev/console");
    let code = |error: io::Error| errno_of(&error);
    let root = Root::open(Path::new("/")).map_err(code)?;
    if root.file_type(console).map_err(code)?.is_none() {
        root.create_file(console).map_err(code)?;
    }
    let target = root.open_at(console, OFlags::PATH | OFlags::NOFOLLOW)?;
    mounts::attach(mounts::copy(slave, c"", false)?, &target)
}
