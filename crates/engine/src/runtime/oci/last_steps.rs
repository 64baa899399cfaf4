//! What the new process does before it becomes the container's program. It is in the container by now:
//! its namespaces, root and user are the container's. It still has every capability.

use std::{
    ffi::{CString, c_char},
    io::Write,
    os::fd::RawFd,
    path::Path,
    ptr,
};

use rustix::{
    fs::{FileType, Gid, Uid, fchown, fstat},
    io::Errno,
    process::{Resource, Rlimit},
    termios::Winsize,
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use super::{messages::Messages, program};
use crate::{
    error::{Context, Error, Result, errno_text},
    runtime::{
        filter::Filter,
        in_root::Root,
        spec::capabilities,
        workload::{CapabilityMasks, Workload},
    },
    shim::reset_signals,
    userns::Remap,
};

/// The exit status of a process whose program cannot be executed although it was found, as runc's.
const CANNOT_EXECUTE: i32 = 255;

/// See the module.
pub(super) struct LastSteps {
    workload: Workload,
    filter: Option<Filter>,
    arguments: Vec<CString>,
    /// The helper's own limit of locked memory, which is lifted on the way here to load a program
    /// into the kernel.
    locked_memory: Rlimit,
    /// Where failures go, see [`Messages::writer`].
    messages: RawFd,
}

impl LastSteps {
    pub(super) fn new(workload: Workload, filter: Option<Filter>, messages: &Messages) -> Result<Self> {
        let arguments: Vec<CString> = c_strings(&workload.arguments)?;
        if arguments.is_empty() {
            return Err(Error::invalid("no command specified"));
        }
        let locked_memory = rustix::process::getrlimit(Resource::Memlock);
        let messages = messages.writer();
        Ok(Self { workload, filter, arguments, locked_memory, messages })
    }
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>> {
    texts
        .iter()
        .map(|text| CString::new(text.as_str()))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::invalid("invalid argument: a NUL byte"))
}

/// Why the process does not become its program.
type Reason = String;

fn because(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> Reason {
    move |errno| format!("{what}: {}", errno_text(errno))
}

impl LastSteps {
    /// Where failures go.
    pub(super) fn messages(&self) -> RawFd {
        self.messages
    }

    /// What only the machine's root can do for a process with other users.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn prepare_for_other_users(&self, remap: Remap) -> Result<()> {
        let uid = remap.uids.first.saturating_add(self.workload.uid);
        for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let kind = fstat(stream).context(|| "look at a standard stream".to_owned())?.st_mode;
            if FileType::from_raw_mode(kind) != FileType::CharacterDevice {
                fchown(stream, Some(Uid::from_raw(uid)), None::<Gid>)
                    .context(|| "give a standard stream to the user".to_owned())?;
            }
        }
        // A limit can be raised by the machine's root only. What is in force here does not change.
        for limit in &self.workload.limits {
            let resource = limit.resource as libc::__rlimit_resource_t;
            let mut values = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: a number and a struct that outlives the calls.
            let raised = unsafe {
                libc::getrlimit(resource, &raw mut values);
                values.rlim_max = values.rlim_max.max(limit.hard);
                libc::setrlimit(resource, &raw const values)
            };
            if raised < 0 {
                return Err(std::io::Error::last_os_error())
                    .context(|| format!("error setting rlimit type {resource}"));
            }
        }
        Ok(())
    }

    /// Becomes the program, or says why not.
    pub(super) fn run(&self) -> std::result::Result<std::convert::Infallible, Reason> {
        let workload = &self.workload;
        enter_directory(&workload.directory, workload.makes_directory)?;
        self.own_streams()?;
        self.limit()?;
        let environment = environment(workload);
        let search = environment
            .iter()
            .rev()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or_default()
            .to_owned();
        let environment = c_strings(&environment).map_err(|error| format!("invalid environment: {error}"))?;
        let file = self.find_program(&search)?;

        drop_bounding(workload.capabilities.bounding)?;
        // A filter can be loaded by who may administer the system or can gain no privileges: before that
        // is given up, or as late as possible.
        if !workload.no_new_privileges {
            self.apply_filter()?;
        }
        set_sets(&workload.capabilities)?;
        if workload.no_new_privileges {
            self.apply_filter()?;
        }
        // SAFETY: this process has one thread and is about to become another program.
        unsafe { reset_signals() };
        Err(self.execute(&file, &environment))
    }

    /// The program may open its streams by name (`/dev/stdout`) only if they are its user's.
    fn own_streams(&self) -> std::result::Result<(), Reason> {
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        for stream in streams {
            let found = fstat(stream).map_err(because("error looking at a standard stream"))?;
            let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
            let is_terminal = is_device && self.workload.terminal.is_some();
            if found.st_uid == self.workload.uid || (is_device && !is_terminal) {
                continue;
            }
            match fchown(stream, Some(Uid::from_raw(self.workload.uid)), None::<Gid>) {
                // A file system that knows no owners, or is read-only.
                Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
                Err(errno) => return Err(because("error giving a standard stream to the user")(errno)),
            }
        }
        if let Some((rows, columns)) = self.workload.terminal
            && (rows, columns) != (0, 0)
        {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(rustix::stdio::stdin(), size)
                .map_err(because("error sizing the terminal"))?;
        }
        Ok(())
    }

    fn limit(&self) -> std::result::Result<(), Reason> {
        rustix::process::setrlimit(Resource::Memlock, self.locked_memory)
            .map_err(because("error setting rlimit type 8"))?;
        for limit in &self.workload.limits {
            let values = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
            // The specification numbers the resources as Linux does.
            let resource = limit.resource as libc::__rlimit_resource_t;
            // SAFETY: a number and a struct that outlives the call.
            if unsafe { libc::setrlimit(resource, &raw const values) } < 0 {
                let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
                return Err(because(format!("error setting rlimit type {resource}"))(errno));
            }
        }
        Ok(())
    }

    /// Finds the program with the rights that it will have.
    fn find_program(&self, search: &str) -> std::result::Result<CString, Reason> {
        let command = self.workload.arguments.first().map_or("", String::as_str);
        let masks = &self.workload.capabilities;
        let all = rustix::thread::capabilities(None).map_err(because("error reading capabilities"))?;
        let effective = CapabilitySet::from_bits_retain(masks.effective) & all.permitted;
        let failed = || because("error setting capabilities");
        set_capabilities(None, CapabilitySets { effective, ..all }).map_err(failed())?;
        let found = program::find(command, search);
        set_capabilities(None, CapabilitySets { effective: all.permitted, ..all }).map_err(failed())?;
        found.map_err(|reason| format!("exec: {command:?}: {reason}"))
    }

    fn apply_filter(&self) -> std::result::Result<(), Reason> {
        let Some(filter) = &self.filter else { return Ok(()) };
        filter.apply().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
            because("error loading seccomp filter into kernel")(errno)
        })
    }

    /// Becomes the program. One that was found but cannot be executed (another architecture's, a missing
    /// interpreter) is no failure to start: like runc's, the process says so itself and ends.
    fn execute(&self, file: &CString, environment: &[CString]) -> Reason {
        let pointers = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.arguments), pointers(environment));
        // SAFETY: NUL-terminated strings in NULL-terminated arrays, all alive.
        unsafe { libc::execve(file.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        let _ = writeln!(std::io::stderr(), "exec {}: {}", file.to_string_lossy(), errno_text(errno));
        // SAFETY: ends this process at once; nothing of the helper's may run twice.
        unsafe { libc::_exit(CANNOT_EXECUTE) }
    }
}

/// Goes to the working directory. If `make`, it is made now if it is missing and can be: below a mount it
/// could not be made before.
fn enter_directory(path: &Path, make: bool) -> std::result::Result<(), Reason> {
    let what =
        || because(format!("chdir to cwd ({:?}) set in config.json failed", path.display().to_string()));
    match rustix::process::chdir(path) {
        Err(Errno::NOENT) if make => {
            let _ = make_directories_as_root(path);
            rustix::process::chdir(path).map_err(what())?;
        }
        result => result.map_err(what())?,
    }
    // A directory outside of the container has no path in it (CVE-2024-21626).
    let inside = rustix::process::getcwd(Vec::new()).map_err(what())?;
    if inside.to_bytes().starts_with(b"/") { Ok(()) } else { Err(what()(Errno::NOENT)) }
}

/// What is made for the container belongs to its root, whoever its user is.
fn make_directories_as_root(path: &Path) -> std::io::Result<()> {
    // SAFETY: numbers only, and this process has one thread.
    let (uid, gid) = unsafe { (libc::setfsuid(0), libc::setfsgid(0)) };
    let made = Root::open(Path::new("/")).and_then(|root| root.create_directories(path));
    // SAFETY: as above; the numbers are those from before.
    unsafe {
        libc::setfsuid(uid.unsigned_abs());
        libc::setfsgid(gid.unsigned_abs());
    }
    // With the user, the file system capabilities went from the effective set.
    let all = rustix::thread::capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: all.permitted, ..all })?;
    made
}

/// The program's environment: what was asked for, and HOME by the container's own list of users.
fn environment(workload: &Workload) -> Vec<String> {
    let mut environment = workload.environment.clone();
    let home = |variable: &String| variable.strip_prefix("HOME=").is_some_and(|home| !home.is_empty());
    if !environment.iter().any(home) {
        environment.retain(|variable| !variable.starts_with("HOME="));
        environment.push(format!("HOME={}", home_of(workload.uid)));
    }
    environment
}

fn home_of(uid: u32) -> String {
    let users = Root::open(Path::new("/")).and_then(|root| root.read(Path::new("/etc/passwd")));
    users.ok().and_then(|users| crate::runtime::spec::user::home(&users, uid)).unwrap_or("/".to_owned())
}

fn drop_bounding(keep: u64) -> std::result::Result<(), Reason> {
    for number in capabilities::known_to_kernel() {
        if keep & (1 << number) == 0 {
            // SAFETY: numbers only.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) };
            if result < 0 {
                let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
                return Err(because("error dropping capabilities")(errno));
            }
        }
    }
    Ok(())
}

fn set_sets(masks: &CapabilityMasks) -> std::result::Result<(), Reason> {
    let what = || because("unable to apply caps");
    rustix::thread::clear_ambient_capability_set().map_err(what())?;
    // What we do not have ourselves we cannot give.
    let ours = rustix::thread::capabilities(None).map_err(what())?.permitted;
    let set = |mask: u64| CapabilitySet::from_bits_retain(mask) & ours;
    let sets = CapabilitySets {
        effective: set(masks.effective),
        permitted: set(masks.permitted),
        inheritable: set(masks.inheritable),
    };
    set_capabilities(None, sets).map_err(what())?;
    for one in set(masks.ambient).iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true).map_err(what())?;
    }
    Ok(())
}
