//! What a booted machine looks like from inside.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq};

cases! {
    shell_of_the_machine_from_a_container.on(&[Kind::Machine]),
    file_systems.on(&[Kind::Machine]),
    control_groups.on(&[Kind::Machine]),
    limits_of_a_container.on(&[Kind::Machine]),
    clock.on(&[Kind::Machine]),
    devices_are_out_of_reach.on(&[Kind::Machine]),
    entropy.on(&[Kind::Machine]),
    engine_restarts_after_a_crash.on(&[Kind::Machine]).alone(),
    nothing_is_left_to_reap.on(&[Kind::Machine]),
}

/// `coracle shell -- sh -c SCRIPT`.
fn in_guest(t: &Target, script: &str) -> anyhow::Result<String> {
    t.machine()?.ok(["shell", "--", "sh", "-c", script])
}

/// The way into the VM that every Docker user knows.
fn shell_of_the_machine_from_a_container(t: &Target) -> Outcome {
    let through = |script: &str| {
        let nsenter = ["nsenter", "-t", "1", "-m", "-u", "-n", "-i", "--", "sh", "-c", script];
        t.ok([&["run", "--rm", "--privileged", "--pid=host", "--network", "host", "busybox"][..], &nsenter]
            .concat())
    };
    ensure_eq!(through("echo $((6*7)); cat /proc/1/comm")?.lines().next(), Some("42"));
    ensure_eq!(
        through("cat /proc/1/cmdline | tr '\\0' ' '")?,
        in_guest(t, "cat /proc/1/cmdline | tr '\\0' ' '")?
    );
    ensure_eq!(through("readlink /proc/self/ns/mnt")?, through("readlink /proc/1/ns/mnt")?);
    Ok(())
}

fn file_systems(t: &Target) -> Outcome {
    let mounts = in_guest(t, "cat /proc/mounts")?;
    let find = |place: &str| mounts.lines().find(|line| line.split(' ').nth(1) == Some(place));
    // The image, and above it the places where folders of the host are; nothing more can be written there.
    ensure!(find("/").is_some_and(|line| line.contains(" overlay ro")), "{mounts}");
    let refused = in_guest(t, "touch /new 2>&1 || true; test -e /new || echo none")?;
    ensure!(refused.contains("Read-only file system") && refused.ends_with("none"), "{refused}");
    ensure!(find("/tmp").is_some_and(|line| line.contains(" tmpfs ")), "{mounts}");
    ensure!(mounts.lines().any(|line| line.contains(" /tmp virtiofs rw,nodev")), "{mounts}");
    ensure!(mounts.lines().any(|line| line.starts_with("/dev/vd") && line.contains(" ext4 rw")), "{mounts}");
    // As large as `--disk` said, less what the file system takes for itself.
    let size =
        in_guest(t, "df -k $(awk '$3==\"ext4\" {print $2; exit}' /proc/mounts) | awk 'END {print $2}'")?;
    let size: u64 = size.parse().with_context(|| format!("no size: {size:?}"))?;
    ensure!((7_000_000..8_400_000).contains(&size), "the data disk has {size} KiB");
    Ok(())
}

fn control_groups(t: &Target) -> Outcome {
    ensure_eq!(in_guest(t, "stat -f -c %t /sys/fs/cgroup")?, "63677270", "the magic number of cgroup v2");
    let controllers = in_guest(t, "cat /sys/fs/cgroup/cgroup.controllers")?;
    for wanted in ["cpu", "cpuset", "io", "memory", "pids"] {
        ensure!(
            controllers.split(' ').any(|controller| controller == wanted),
            "no {wanted} in {controllers}"
        );
    }
    ensure_eq!(t.ok(["info", "--format", "{{.CgroupVersion}}"])?, "2");
    Ok(())
}

fn limits_of_a_container(t: &Target) -> Outcome {
    let script = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max";
    let limits = t.ok([
        "run",
        "--rm",
        "-m",
        "64m",
        "--pids-limit",
        "77",
        "--cpus",
        "0.5",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    ensure_eq!(limits.lines().collect::<Vec<_>>(), ["67108864", "77", "50000 100000"]);
    let name = t.name("eater");
    let eat = "a=x; while :; do a=$a$a; done";
    t.fails(137, ["run", "--name", &name, "-m", "16m", "--memory-swap", "16m", "busybox", "sh", "-c", eat])?;
    ensure_eq!(t.inspect(&name)?["State"]["OOMKilled"], true);
    Ok(())
}

fn clock(t: &Target) -> Outcome {
    let guest: u64 = in_guest(t, "date +%s")?.parse()?;
    let host = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    ensure!(
        host.abs_diff(Duration::from_secs(guest)) < Duration::from_secs(5),
        "guest {guest}, host {host:?}"
    );
    Ok(())
}

/// A container with Docker's default rights reaches neither the serial port nor the disks, even with a node for them.
fn devices_are_out_of_reach(t: &Target) -> Outcome {
    let read = |kind: &str, number: &str| -> Outcome {
        let script = format!("mknod /node {kind} {number} && head -c 1 /node");
        let run = t.docker(["run", "--rm", "busybox", "sh", "-c", &script]).output()?;
        ensure!(run.code() != 0, "a container read from device {kind} {number}");
        run.expect_stderr("Operation not permitted").map(|_| ())
    };
    let disk = in_guest(t, "tr ':' ' ' < /sys/block/vda/dev")?;
    read("b", &disk)?;
    read("c", "4 64")?;
    // What every container may use works.
    ensure_eq!(t.ok(["run", "--rm", "busybox", "sh", "-c", "mknod /n c 1 5 && head -c 3 /n | wc -c"])?, "3");
    Ok(())
}

fn entropy(t: &Target) -> Outcome {
    let bytes = || t.ok(["run", "--rm", "busybox", "sh", "-c", "head -c 16 /dev/random | md5sum"]);
    ensure!(bytes()? != bytes()?, "random bytes repeat");
    Ok(())
}

fn engine_restarts_after_a_crash(t: &Target) -> Outcome {
    t.crash()?;
    t.recover()?;
    let restarts = t.machine()?.status()?["guest"]["engine_restarts"].clone();
    ensure_eq!(restarts, 1);
    ensure_eq!(t.ok(["run", "--rm", "busybox", "echo", "fine"])?, "fine");
    Ok(())
}

fn nothing_is_left_to_reap(t: &Target) -> Outcome {
    for _ in 0..3 {
        t.ok(["run", "--rm", "busybox", "true"])?;
    }
    tests::wait::eventually_true("no zombie is left", Duration::from_secs(20), || {
        // A program that this very look started may be on its way out.
        Ok(in_guest(t, "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l")? == "0")
    })
}
