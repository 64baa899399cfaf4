//! What `kill -9` may do to a machine: end it, and nothing else.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tests::archive::{self, Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, records, wait};

cases! {
    machine_process_in_the_middle_of_a_load.on(&[Kind::Machine]).alone().seconds(300),
    machine_process_with_running_containers.on(&[Kind::Machine]).alone().seconds(240),
    restart_policies_after_a_power_cut.on(&[Kind::Machine]).alone().seconds(300),
    emulator.on(&[Kind::Machine]).alone(),
    while_it_starts.on(&[Kind::Machine]).alone().bare().seconds(240),
    machine_process_while_a_volume_is_written.on(&[Kind::Machine]).alone().bare().seconds(600),
    again_and_again.on(&[Kind::Machine]).alone().seconds(300),
}

fn machine_process_in_the_middle_of_a_load(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let (kept, torn) = (t.name("kept"), t.name("torn"));
    t.ok(["tag", "busybox", &kept])?;
    let acknowledged = t.ok(["create", "--name", &t.name("box"), "busybox", "echo", "acknowledged"])?;
    let mut layer = Tar::default();
    for number in 0..5000 {
        layer = layer.file(&format!("f{number}"), 0o644, &[b'x'; 3000])?;
    }
    let image = Image::new(&format!("{torn}:latest"), busybox_root()?).layer(layer.finish()?);
    let file = archive::write(t.folder(), "torn.tar", &image.docker_archive()?)?;
    let load = t.docker(["load", "-q", "-i"]).arg(&file).spawn()?;
    // In the middle: the guest has begun to store what comes.
    let used = machine.disk_used()?;
    wait::eventually_true("the load is under way", Duration::from_secs(60), || {
        Ok(load.has_ended() || machine.disk_used()? > used + 1_000_000)
    })?;
    machine.kill_9()?;
    machine.expect_no_process()?;
    let load = load.wait()?;

    machine.ok(["start"])?;
    ensure_eq!(t.ok(["start", "-a", &acknowledged])?, "acknowledged");
    ensure_eq!(t.ok(["run", "--rm", &kept, "echo", "kept"])?, "kept");
    if load.code() == 0 {
        t.ok(["image", "inspect", &torn])?;
    }
    t.docker(["load", "-i"]).arg(&file).timeout(Duration::from_secs(200)).output()?.expect_code(0)?;
    ensure_eq!(
        t.ok(["run", "--rm", &torn, "sh", "-c", "ls / | grep -c '^f[0-9]'; wc -c < /f4999"])?,
        "5000\n3000"
    );
    Ok(())
}

fn machine_process_with_running_containers(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "1000"])?;
    // That it runs is only surely known to the disk when somebody asks for that: a power cut ends it anyway.
    t.ok(["exec", &name, "sync"])?;
    machine.kill_9()?;
    machine.expect_no_process()?;
    let status = machine.status_of_stopped()?;
    ensure_eq!((&status["state"], &status["last_exit"]["clean"]), (&"stopped".into(), &false.into()));
    machine.ok(["start"])?;
    let state = t.inspect(&name)?["State"].clone();
    ensure_eq!(state["Status"], "exited", "{state}");
    ensure!(state["ExitCode"] != 0, "{state}");
    t.ok(["start", &name])?;
    ensure_eq!(t.ok(["exec", &name, "echo", "alive"])?, "alive");
    Ok(())
}

/// What was acknowledged of containers with a restart policy is on the disk: the machine's power is cut right after.
fn restart_policies_after_a_power_cut(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let run = |name: &str, policy: &str, script: &str| {
        t.ok(["run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", script])
    };
    let (done, stopped) = (t.name("done"), t.name("stopped"));
    run(&done, "on-failure", "exit 0")?;
    ensure_eq!(t.ok(["wait", &done])?, "0");
    run(&stopped, "unless-stopped", SLEEP)?;
    t.ok(["stop", &stopped])?;
    let running = ["always", "unless-stopped", "on-failure"].map(|policy| (t.name(policy), policy));
    for (name, policy) in &running {
        run(name, policy, SLEEP)?;
    }
    let updated = t.sleeper(&t.name("updated"))?;
    t.ok(["update", "--restart", "always", &updated])?;
    machine.kill_9()?;
    machine.expect_no_process()?;

    machine.ok(["start"])?;
    for name in running.iter().map(|(name, _)| name).chain([&updated]) {
        wait::eventually_true(&format!("{name} runs again"), Duration::from_secs(60), || {
            Ok(t.inspect(name)?["State"]["Running"] == true)
        })?;
    }
    for name in [&done, &stopped] {
        let state = t.inspect(name)?["State"].clone();
        ensure_eq!((&state["Status"], &state["ExitCode"]), (&"exited".into(), &0.into()), "{name}");
    }
    Ok(())
}

/// The other way round: with its emulator the machine process ends too, and says why.
fn emulator(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let emulator = machine.status()?["emulator_pid"].as_i64();
    let Some(emulator) = emulator else {
        return Err(tests::case::Skip::because("this machine runs without an emulator").into());
    };
    let process = t.namespace().process(i32::try_from(emulator)?)?;
    t.namespace().kill_9(&process)?;
    machine.expect_no_process()?;
    let status = machine.status_of_stopped()?;
    ensure_eq!(status["last_exit"]["clean"], false);
    ensure!(status["last_exit"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    machine.ok(["start"])?;
    ensure_eq!(t.ok(["run", "--rm", "busybox", "echo", "fine"])?, "fine");
    Ok(())
}

fn while_it_starts(t: &Target) -> Outcome {
    let machine = t.machine()?;
    machine.ok(["stop"])?;
    for what in ["qemu-system", "machine process"] {
        let start = machine.coracle(["start"]).spawn()?;
        let victim = wait::eventually("the start is under way", Duration::from_secs(60), || {
            let processes = t.namespace().processes()?;
            let emulator = processes.iter().find(|process| process.line.contains("qemu-system")).cloned();
            let Some(emulator) = emulator else { return Ok(None) };
            if what == "qemu-system" {
                return Ok(Some(emulator));
            }
            let status = machine.coracle(["status", "--json"]).output()?;
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            let Some(pid) = status["pid"].as_i64().filter(|pid| *pid > 0) else { return Ok(None) };
            Ok(Some(t.namespace().process(i32::try_from(pid)?)?))
        })?;
        rustix::process::kill_process(victim.pid, Signal::KILL).context("killing")?;
        let start = start.wait()?;
        ensure!(start.code() != 0 && !start.stderr().trim().is_empty(), "{what} was killed: {start}");
        machine.expect_no_process()?;
    }
    machine.ok(["start"])?;
    t.ok(["version"])?;
    Ok(())
}

/// What fsync has returned for is there: a process that is killed loses what it had, but not what it told its host.
fn machine_process_while_a_volume_is_written(t: &Target) -> Outcome {
    let tally = records::kill_in_writes(t, 5)?;
    ensure!(tally.acknowledged >= 25, "{tally:?}");
    ensure_eq!(tally.lost, 0, "{tally:?}");
    Ok(())
}

/// Locks and sockets of dead processes are in nobody's way.
fn again_and_again(t: &Target) -> Outcome {
    let machine = t.machine()?;
    for round in 0..3 {
        let name = t.name(&format!("r{round}"));
        t.ok(["create", "--name", &name, "busybox"])?;
        machine.kill_9()?;
        machine.expect_no_process()?;
        ensure!(machine.file("lock").exists() || machine.file("disk.raw").exists());
        machine.ok(["start"])?;
        t.inspect(&name)?;
    }
    // The file system of the data disk says itself that it is whole.
    machine.ok(["stop"])?;
    let check = t.program("/sbin/e2fsck").args(["-f", "-n"]).arg(machine.file("disk.raw")).output()?;
    ensure!(check.code() == 0, "{check}");
    Ok(())
}
