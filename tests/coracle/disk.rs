//! A machine's data disk as the host sees it: what is freed comes back, and what is synced is on the host's disk.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tests::case::{Outcome, Skip};
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, wait};

cases! {
    what_is_removed_comes_back.on(&[Kind::Machine]).alone().seconds(300),
    the_hosts_disk_is_full.on(&[Kind::Machine]).alone().seconds(300),
    synced_is_on_the_hosts_disk.on(&[Kind::Machine]).alone().seconds(240),
}

const MIB: u64 = 1 << 20;

/// Images, containers' own files and volumes: each takes the host's blocks, and gives them back.
fn what_is_removed_comes_back(t: &Target) -> Outcome {
    const SIZE: u64 = 128 * MIB;
    let machine = t.machine()?;
    let (name, data) = (t.name("box"), t.name("data"));
    let fill =
        |file: &str| format!("dd if=/dev/urandom of={file} bs=1M count={} 2>/dev/null && sync", SIZE / MIB);
    let empty = machine.disk_used()?;
    t.ok(["run", "--network", "none", "--name", &name, "busybox", "sh", "-c", &fill("/file")])?;
    t.ok(["commit", &name, &name])?;
    let on = format!("{data}:/data");
    t.ok(["run", "--rm", "--network", "none", "-v", &on, "busybox", "sh", "-c", &fill("/data/file")])?;
    machine.ok(["shell", "--", "sync"])?;
    let full = machine.disk_used()?;
    ensure!(full > empty + 3 * SIZE, "{full} of {empty}");
    let mut before = full;
    for remove in [["rm", &name].as_slice(), &["rmi", &name], &["volume", "rm", &data]] {
        t.ok(remove)?;
        wait::eventually_true(
            &format!("{remove:?} frees the host's blocks"),
            Duration::from_secs(30),
            || Ok(machine.disk_used()? + SIZE * 9 / 10 < before),
        )?;
        before = machine.disk_used()?;
    }
    Ok(())
}

/// A volume that the host has no more room for: who writes is told so, what was synced before is there, and when there is room
/// again the machine starts with a clean file system.
fn the_hosts_disk_is_full(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let namespace = machine.namespace();
    let on_host = |program: &str, args: &[&str]| namespace.program(program).args(args).output()?.text();
    t.ok(["run", "--rm", "-v", "full:/data", "busybox", "sh", "-c", "echo kept > /data/kept; sync"])?;
    machine.ok(["stop"])?;
    // The machine's disk on a file system of its own, which has hardly more room than it takes.
    let small = t.folder().join("small");
    std::fs::create_dir(&small)?;
    let (small, disk) = (small.display().to_string(), machine.file("disk.raw").display().to_string());
    let room = machine.disk_used()? / MIB + 64;
    on_host("mount", &["-t", "tmpfs", "-o", &format!("size={room}m"), "none", &small])?;
    let moved = format!("{small}/disk.raw");
    on_host("cp", &["--sparse=always", &disk, &moved])?;
    on_host("mount", &["--bind", &moved, &disk])?;
    machine.ok(["start"])?;
    let script = "dd if=/dev/urandom of=/data/big bs=1M count=200 conv=fsync 2>&1; cat /data/kept";
    let told = t.docker(["run", "--rm", "-v", "full:/data", "busybox", "sh", "-c", script]).output()?;
    ensure!(
        ["No space left", "I/O error", "Input/output error", "Read-only"]
            .iter()
            .any(|word| told.stdout().contains(word)),
        "{told}"
    );
    on_host("mount", &["-o", "remount,size=2g", &small])?;
    machine.ok(["stop"])?;
    machine.ok(["start"])?;
    let script = "cat /data/kept; rm -f /data/big; echo again > /data/again && sync && cat /data/again";
    ensure_eq!(t.ok(["run", "--rm", "-v", "full:/data", "busybox", "sh", "-c", script])?, "kept\nagain");
    machine.ok(["stop"])?;
    let check = namespace.program("/sbin/e2fsck").args(["-f", "-n", &moved]).output()?;
    ensure!(check.code() == 0, "{check}");
    for place in [&disk, &small] {
        on_host("umount", &["--lazy", place])?;
    }
    Ok(())
}

/// `fsync` in a container is one of the host's: until then what was written is in the host's memory, where a power cut
/// would lose it, and afterwards it is not.
fn synced_is_on_the_hosts_disk(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let (name, data) = (t.name("box"), t.name("data"));
    let disk = File::open(machine.file("disk.raw")).context("opening the disk")?;
    let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
    let on = format!("{data}:/data");
    t.ok(["run", "-d", "--network", "none", "--name", &name, "-v", &on, "busybox", "sh", "-c", script])?;
    let shell = |script: &str| t.ok(["exec", &name, "sh", "-c", script]);
    // The host may begin to write any time by itself: then it is tried again.
    for attempt in 0..10 {
        let mark = format!("{name} {attempt}, as found on the disk of the host.");
        // Past the guest's own memory.
        shell(&format!(
            "yes '{mark}' | head -c 1048576 > /tmp/source && rm -f /data/file && \
             dd if=/tmp/source of=/data/file bs=64k oflag=direct 2>/dev/null"
        ))?;
        let places = pages_with(&disk, mark.as_bytes())?;
        let found = u64::try_from(places.len())? * PAGE;
        ensure!(found >= MIB / 2, "only {found} bytes of what was written are on the disk");
        let before = unsynced(&disk, &places)?;
        shell("dd if=/dev/null of=/data/file conv=notrunc,fsync 2>/dev/null")?;
        ensure_eq!(unsynced(&disk, &places)?, 0, "after fsync");
        if before > 0 {
            return Ok(());
        }
    }
    anyhow::bail!("what was written was on the host's disk before anybody asked for it, each time")
}

const PAGE: u64 = 4096;

/// Where the pages of a sparse file begin that hold `mark`.
fn pages_with(disk: &File, mark: &[u8]) -> Result<Vec<u64>> {
    let mut places = Vec::new();
    let mut page = [0; PAGE as usize];
    let mut at = 0;
    loop {
        let begin = match seek(disk, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(places),
            begin => begin.context("looking for data")?,
        };
        let end = seek(disk, SeekFrom::Hole(begin)).context("looking for a hole")?;
        at = begin - begin % PAGE;
        while at < end {
            disk.read_exact_at(&mut page, at).context("reading the disk")?;
            if tests::process::contains(&page, mark) {
                places.push(at);
            }
            at += PAGE;
        }
    }
}

/// How many of these pages of a file are in memory, and not on the disk yet.
fn unsynced(file: &File, places: &[u64]) -> Result<u64> {
    // `struct cachestat_range` and `struct cachestat` of <linux/mman.h>.
    #[repr(C)]
    struct Range {
        offset: u64,
        length: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Found {
        cached: u64,
        dirty: u64,
        being_written: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    /// cachestat(2), of Linux 6.5; the number is the same everywhere.
    const CACHESTAT: libc::c_long = 451;
    let mut sum = 0;
    for place in places {
        let range = Range { offset: *place, length: PAGE };
        let mut found = Found::default();
        // SAFETY: an open descriptor, and two structures that live longer than the call.
        let done = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut found, 0) };
        if done != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENOSYS) {
                return Err(Skip::because(
                    "the kernel is older than 6.5 and tells nothing of its page cache",
                )
                .into());
            }
            return Err(error).context("asking for the page cache");
        }
        sum += found.dirty + found.being_written;
    }
    Ok(sum)
}
