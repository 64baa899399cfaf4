//! The harness's own binary in the roles that need a fresh, single-threaded process: it is started again as the holder
//! of a namespace, to enter one, and to prepare a process before a program replaces it.
//!
//! Every binary that uses the harness MUST call `dispatch` first thing in `main`.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::{follower, probes};

/// `… [--with-terminal | --outliving] -- PROGRAM ARG…`: becomes the program, which dies with the thread that started
/// it, unless it is to outlive it.
pub(crate) const EXEC: &str = "--role=exec";
/// Makes standard input the controlling terminal of a new session.
pub(crate) const WITH_TERMINAL: &str = "--with-terminal";
/// `…`: makes namespaces and waits for the process that holds them.
pub(crate) const HOLDER: &str = "--role=holder";
/// PID 1 of the namespaces; ends, and with it everything in them, when standard input ends.
const INIT: &str = "--role=init";
/// `… PID [--with-terminal] -- PROGRAM ARG…`: runs the program in the namespaces of a process.
pub(crate) const ENTER: &str = "--role=enter";

/// `… FOLDER`: prints a line for each event of the folder, and for events that were lost, until it is killed.
pub const HEAR: &str = "--role=hear";
/// The line that [`HEAR`] and [`ECHO`] print when they listen.
pub const LISTENING: &str = "listening";
/// The line that [`HEAR`] prints when events were lost.
pub const LOST: &str = "lost";

/// `… PORT`: sends each datagram back to where it came from, upper-cased, until it is killed.
pub const ECHO: &str = "--role=echo";
/// `… NAME FOLDER`: does a probe of [`probes`].
pub const PROBE: &str = "--role=probe";
/// `… FOLDER`: follows the orders of [`follower`].
pub const FOLLOW: &str = "--role=follow";

/// What [`INIT`] prints when the namespaces are ready.
pub(crate) const READY: &str = "ready";

/// Plays the role that the arguments name, if they name one, and does not return then.
pub fn dispatch() {
    let args: Vec<OsString> = std::env::args_os().collect();
    let Some(role) = args.get(1).and_then(|role| role.to_str()) else { return };
    let rest = args.get(2..).unwrap_or_default();
    let result = match role {
        EXEC => exec(rest),
        HOLDER => hold(),
        INIT => init(),
        ENTER => enter(rest),
        HEAR => hear(rest),
        ECHO => echo(rest),
        PROBE => probes::probe(rest),
        FOLLOW => follower::follow(rest),
        _ => return,
    };
    let code = match result {
        Ok(status) => status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "test harness, {role}: {error:#}");
            125
        }
    };
    std::process::exit(code);
}

/// This binary, as a path that works in other mount namespaces too.
pub(crate) fn own_binary() -> PathBuf {
    "/proc/self/exe".into()
}

fn hear(args: &[OsString]) -> Result<ExitStatus> {
    let folder = args.first().context("no folder")?;
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, Path::new(folder), WatchFlags::CREATE | WatchFlags::DELETE)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{LISTENING}")?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&inotify, &mut buffer);
    loop {
        let event = reader.next()?;
        match event.file_name() {
            _ if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => writeln!(stdout, "{LOST}")?,
            Some(name) => writeln!(stdout, "{}", name.to_string_lossy())?,
            None => {}
        }
    }
}

fn echo(args: &[OsString]) -> Result<ExitStatus> {
    let port: u16 = args.first().and_then(|port| port.to_str()?.parse().ok()).context("no port")?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).context("binding the port")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{LISTENING}")?;
    let mut datagram = vec![0; 1 << 16];
    loop {
        let (length, from) = socket.recv_from(&mut datagram)?;
        socket.send_to(&datagram[..length].to_ascii_uppercase(), from)?;
    }
}

/// The options before `--`, and the program with its arguments.
fn split(args: &[OsString]) -> Result<(&[OsString], &OsStr, &[OsString])> {
    let at = args.iter().position(|arg| arg == "--").context("no -- before the program")?;
    let (program, rest) = args.get(at + 1..).and_then(<[_]>::split_first).context("no program after --")?;
    Ok((&args[..at], program, rest))
}

fn exec(args: &[OsString]) -> Result<ExitStatus> {
    let (options, program, args) = split(args)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("binding to the parent")?;
    take_terminal(options)?;
    // A shell that runs the tests in the background has them ignored, and so would every program here.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: installs no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("executing {}", program.display()))
}

/// Takes standard input as this process's terminal, and its children's, if the options say so.
fn take_terminal(options: &[OsString]) -> Result<()> {
    if options.iter().any(|option| option == WITH_TERMINAL) {
        rustix::process::setsid().context("beginning a session")?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).context("taking the terminal")?;
    }
    Ok(())
}

fn hold() -> Result<ExitStatus> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    // SAFETY: without FILES, which is not among the flags, no descriptor table changes hands.
    unsafe { rustix::thread::unshare_unsafe(flags) }.context("making namespaces (this needs root)")?;
    let mut init =
        Command::new(own_binary()).arg(INIT).spawn().context("starting the first process in them")?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", init.id()).and_then(|()| stdout.flush()).context("telling its pid")?;
    Ok(init.wait()?)
}

fn init() -> Result<ExitStatus> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("binding to the parent")?;
    // First cut the ties with this machine's mounts; then share among the mount namespaces to come, as a Linux that
    // was booted does, because engines look for that.
    let recursive = MountPropagationFlags::REC;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | recursive)
        .context("making mounts private")?;
    rustix::mount::mount_change("/", MountPropagationFlags::SHARED | recursive)
        .context("sharing mounts inside")?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", plain, None).context("mounting /proc")?;
    // Engines keep sockets and locks below /run whatever they are told.
    rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .context("mounting /run")?;

    let up = Command::new("ip").args(["link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    let up = up.context("running ip, of the package iproute2")?;
    if !up.status.success() && !up.stderr.is_empty() {
        bail!("bringing lo up: {}", String::from_utf8_lossy(&up.stderr).trim());
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switching ip_forward on")?;

    // Our own child is reaped. Orphans of the namespace become ours from now on, and ignoring SIGCHLD lets the kernel reap them.
    // SAFETY: installs no handler, so no code of ours can run in a signal context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };

    let mut stdout = std::io::stdout();
    writeln!(stdout, "{READY}")
        .and_then(|()| stdout.flush())
        .context("saying that the namespaces are ready")?;
    // Nothing is ever written there: this returns when the harness has closed its end, or was killed.
    std::io::stdin().read_to_end(&mut Vec::new()).context("waiting for the harness to end")?;
    Ok(ExitStatus::default())
}

fn enter(args: &[OsString]) -> Result<ExitStatus> {
    let (options, program, args) = split(args)?;
    take_terminal(options)?;
    let pid = options.first().and_then(|pid| pid.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let target = rustix::process::pidfd_open(pid.context("no pid")?, PidfdFlags::empty())
        .context("the namespace's first process is gone")?;
    let spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
    rustix::thread::move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&target), spaces)
        .context("entering the namespaces")?;
    // Only a child is in the PID namespace. It dies with us, and we with whoever kills our process group.
    let mut child = Command::new(own_binary())
        .args([EXEC, "--"])
        .arg(program)
        .args(args)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    Ok(child.wait()?)
}
