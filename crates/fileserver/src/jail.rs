//! What keeps the process to the shares, should a guest find a fault in it.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::Share;

/// The newest rules known; a kernel that knows fewer is asked for those.
const RULES: ABI = ABI::V6;

/// Why the process could not be locked up.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("the kernel refuses the rules")]
    Rules(#[from] RulesetError),
    #[error("cannot open a share to make a rule for it")]
    Share(#[from] landlock::PathFdError),
    #[error("cannot make the filter of system calls")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the kernel refuses the filter of system calls")]
    Calls(#[from] seccompiler::Error),
}

/// All that is called from here on: on files of the shares, on the descriptors of the emulator, and what a program in Rust needs to
/// live. Nothing that makes a process or a socket, or changes what this process is.
const CALLS: &[libc::c_long] = &[
    // Files.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_copy_file_range,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fchdir,
    libc::SYS_setxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // The emulator's socket, its memory and its eventfds.
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_ioctl,
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    // Memory, time, locks, and the end.
    libc::SYS_brk,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same under names that newer architectures have no more.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_chmod, libc::SYS_open];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

/// From here on this thread, and those it starts, open nothing that is not below a share, make no TCP connection and signal
/// nobody outside (landlock(7)), and make no system call but those that serving files takes (seccomp(2)). A kernel without Landlock is no reason not to serve: then the walls are those that the
/// requests meet in any case, which is told in the log.
pub fn enter(shares: &[Share]) -> Result<(), JailError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?;
    for share in shares {
        let access = if share.read_only { AccessFs::from_read(RULES) } else { AccessFs::from_all(RULES) };
        // Nothing here is ever run.
        let access = access & !AccessFs::Execute;
        rules = rules.add_rule(PathBeneath::new(PathFd::new(&share.path)?, access))?;
    }
    let status = rules.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        tracing::warn!(
            "this kernel has no Landlock: files outside the shares are kept from the guest by checks alone"
        );
    }
    Ok(seccompiler::apply_filter(&filter()?)?)
}

/// Any other system call fails with `EPERM`: a guest that has found a fault gets no further, and one that was forgotten
/// here does not take the machine with it.
fn filter() -> Result<BpfProgram, JailError> {
    let mut calls: BTreeMap<_, _> = CALLS.iter().chain(OLD_CALLS).map(|call| (*call, Vec::new())).collect();
    // A working directory of its own for a thread, and nothing else.
    let folder = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::Eq,
        libc::CLONE_FS.unsigned_abs().into(),
    )?;
    calls.insert(libc::SYS_unshare, vec![SeccompRule::new(vec![folder])?]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(calls, refuse, SeccompAction::Allow, architecture)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::{fs, io, thread};

    use rustix::io::Errno;
    use rustix::thread::UnshareFlags;

    use super::*;

    #[test]
    fn what_is_no_share_cannot_be_opened_and_a_read_only_one_not_written() {
        let folders =
            [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [open, read_only, closed] = folders.each_ref().map(|folder| folder.path().join("file"));
        for file in [&open, &read_only, &closed] {
            fs::write(file, "text").unwrap();
        }
        let share = |place: usize, read_only| Share { path: folders[place].path().to_owned(), read_only };
        let shares = [share(0, false), share(1, true)];
        // The rules hold for a thread.
        let jailed = thread::spawn(move || {
            enter(&shares).unwrap();
            let kind = |result: io::Result<()>| result.err().map(|error| error.kind());
            // For owners: a working directory of the thread's own, and what is there.
            // SAFETY: no descriptors are unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.unwrap();
            rustix::process::fchdir(fs::File::open(open.parent().unwrap()).unwrap()).unwrap();
            let owner = rustix::fs::lgetxattr("file", "user.none", &mut [0; 8][..]);
            assert_eq!(owner, Err(Errno::NODATA));
            // SAFETY: as above.
            let user = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
            assert_eq!(user, Err(Errno::PERM));
            [
                kind(fs::write(&open, "more")),
                kind(fs::read(&read_only).map(drop)),
                kind(fs::write(&read_only, "more")),
                kind(fs::read(&closed).map(drop)),
                kind(fs::read("/etc/passwd").map(drop)),
                kind(std::os::unix::net::UnixStream::pair().map(drop)),
                kind(std::process::Command::new("/bin/true").spawn().map(drop)),
                kind(std::net::TcpStream::connect("127.0.0.1:1").map(drop)),
            ]
        });
        let denied = Some(io::ErrorKind::PermissionDenied);
        assert_eq!(jailed.join().unwrap(), [None, None, denied, denied, denied, denied, denied, denied]);
    }
}
