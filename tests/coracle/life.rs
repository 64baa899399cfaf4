//! A machine's life: start, stop, restart, delete, and what is kept.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, wait};

cases! {
    everything_is_there_after_stop_and_start.on(&[Kind::Machine]).alone().seconds(240),
    stop_ends_containers_with_their_signal.on(&[Kind::Machine]).alone(),
    second_start.on(&[Kind::Machine]).alone().bare(),
    start_while_it_stops.on(&[Kind::Machine]).alone(),
    two_starts_at_once.on(&[Kind::Machine]).alone().bare(),
    restart.on(&[Kind::Machine]).alone(),
    disk_grows.on(&[Kind::Machine]).alone().seconds(200),
    delete.on(&[Kind::Machine]).alone(),
    docker_context.on(&[Kind::Machine]).alone(),
    nothing_runs_after_stop.on(&[Kind::Machine]).alone().bare(),
    full_data_disk.on(&[Kind::Machine]).alone().seconds(240),
}

fn everything_is_there_after_stop_and_start(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let (box_name, created) = (t.name("box"), t.name("created"));
    t.ok([
        "run",
        "-d",
        "--name",
        &box_name,
        "-e",
        "A=b",
        "busybox",
        "sh",
        "-c",
        "echo words; echo data > /file; sleep 1000",
    ])?;
    t.ok(["create", "--name", &created, "-l", "kept=yes", "busybox", "echo", "hi"])?;
    t.ok(["tag", "busybox", "other:v1"])?;
    t.docker(["logs", "-f", &box_name]).spawn()?.wait_for("words")?;
    let list = || t.ok(["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.Labels}}"]);
    let (containers_before, images_before) = (list()?, t.image_names()?);
    let engine_id = t.ok(["info", "--format", "{{.ID}}"])?;

    machine.ok(["stop"])?;
    ensure_eq!(machine.coracle(["status"]).output()?.code(), 3);
    machine.ok(["start"])?;

    ensure_eq!(list()?, containers_before);
    ensure_eq!(t.image_names()?, images_before);
    ensure_eq!(t.ok(["info", "--format", "{{.ID}}"])?, engine_id);
    ensure_eq!(t.inspect(&box_name)?["State"]["Status"], "exited");
    ensure_eq!(t.ok(["logs", &box_name])?, "words");
    t.ok(["start", &box_name])?;
    ensure_eq!(t.ok(["exec", &box_name, "cat", "/file"])?, "data");
    ensure_eq!(t.ok(["start", "-a", &created])?, "hi");
    ensure_eq!(t.ok(["run", "--rm", "other:v1", "echo", "hi"])?, "hi");
    // The options of the first start hold.
    ensure_eq!(machine.status()?["cpus"], 2);
    Ok(())
}

fn stop_ends_containers_with_their_signal(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let (willing, stubborn) = (t.name("willing"), t.name("stubborn"));
    let script = "trap 'echo ending; exit 5' TERM; echo ready; while :; do sleep 1000 & wait; done";
    t.ok(["run", "-d", "--name", &willing, "busybox", "sh", "-c", script])?;
    t.ok(["run", "-d", "--name", &stubborn, "busybox", "sleep", "1000"])?;
    t.docker(["logs", "-f", &willing]).spawn()?.wait_for("ready")?;
    machine.ok(["stop", "--timeout", "3"])?;
    ensure_eq!(machine.status_of_stopped()?["last_exit"]["clean"], true);
    machine.ok(["start"])?;
    ensure_eq!(t.inspect(&willing)?["State"]["ExitCode"], 5);
    ensure_eq!(t.inspect(&stubborn)?["State"]["ExitCode"], 137);
    ensure_eq!(t.ok(["logs", &willing])?, "ready\nending");
    Ok(())
}

fn second_start(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let before = machine.pid("pid")?;
    let again = machine.coracle(["start"]).output()?;
    ensure!(again.code() == 0 || again.stderr().contains("already"), "{again}");
    ensure!((again.stdout() + &again.stderr()).contains("running"), "{again}");
    ensure_eq!(machine.pid("pid")?, before, "the machine process of a second start");
    t.ok(["version"])?;
    Ok(())
}

/// The start either waits for the end and succeeds, or says what goes on; never is there half a machine.
fn start_while_it_stops(t: &Target) -> Outcome {
    let machine = t.machine()?;
    t.ok(["run", "-d", "busybox", "sleep", "1000"])?;
    let stop = machine.coracle(["stop", "--timeout", "2"]).spawn()?;
    // The container does not heed its stop signal, so that this takes two seconds.
    wait::eventually_true("the machine stops", Duration::from_secs(60), || {
        let status = machine.coracle(["status", "--json"]).output()?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        Ok(status["state"] != "running")
    })?;
    let start = machine.coracle(["start"]).output()?;
    stop.wait()?.expect_code(0)?;
    if start.code() != 0 {
        let said = start.stderr();
        ensure!(said.trim().lines().count() <= 2 && said.contains("stop"), "{start}");
    }
    machine.ok(["start"])?;
    t.ok(["version"])?;
    Ok(())
}

fn two_starts_at_once(t: &Target) -> Outcome {
    let machine = t.machine()?;
    machine.ok(["stop"])?;
    let (one, two) = (machine.coracle(["start"]).spawn()?, machine.coracle(["start"]).spawn()?);
    let (one, two) = (one.wait()?, two.wait()?);
    ensure!(one.code() == 0 || two.code() == 0, "{one}\n{two}");
    for output in [one, two] {
        ensure!(output.code() == 0 || !output.stderr().trim().is_empty(), "{output}");
    }
    t.ok(["version"])?;
    let machines =
        t.namespace().processes()?.into_iter().filter(|process| process.line.contains("qemu-system")).count();
    ensure!(machines <= 1, "{machines} emulators run");
    Ok(())
}

fn restart(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let boot = || machine.ok(["shell", "--", "cat", "/proc/sys/kernel/random/boot_id"]);
    let before = boot()?;
    machine.ok(["restart"])?;
    ensure!(boot()? != before, "the guest did not boot again");
    ensure_eq!(t.ok(["run", "--rm", "busybox", "echo", "fine"])?, "fine");
    Ok(())
}

fn disk_grows(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let name = t.name("box");
    t.ok(["run", "--name", &name, "busybox", "sh", "-c", "echo kept > /file"])?;
    let size = || -> anyhow::Result<u64> {
        let script = "df -k $(awk '$3==\"ext4\" {print $2; exit}' /proc/mounts) | awk 'END {print $2}'";
        Ok(machine.ok(["shell", "--", "sh", "-c", script])?.parse()?)
    };
    let before = size()?;
    machine.ok(["stop"])?;
    machine.ok(["start", "--disk", "12G"])?;
    ensure!(size()? > before + 3_500_000, "{before} KiB became {} KiB", size()?);
    ensure_eq!(
        t.docker(["cp", &format!("{name}:/file"), "-"]).output()?.code() == 0
            || t.ok(["start", &name]).is_ok(),
        true
    );
    machine.ok(["stop"])?;
    let shrink = machine.coracle(["start", "--disk", "8G"]).output()?;
    ensure!(shrink.code() != 0 && shrink.stderr().contains("shrink"), "{shrink}");
    machine.ok(["start", "--disk", "12G"])?;
    t.inspect(&name)?;
    Ok(())
}

fn delete(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let refused = machine.coracle(["delete"]).output()?;
    ensure!(refused.code() != 0 && refused.stderr().contains("--force"), "{refused}");
    t.ok(["version"])?;
    machine.ok(["delete", "--force"])?;
    ensure!(!machine.file("disk.raw").exists(), "the data disk is still there");
    machine.expect_no_process()?;
    ensure!(machine.coracle(["status"]).output()?.code() != 0);
    let list: Value = serde_json::from_str(&machine.ok(["list", "--json"])?)?;
    ensure_eq!(list, serde_json::json!([]));
    // A new one begins empty.
    machine.start()?;
    ensure_eq!(t.ok(["images", "-q"])?, "");
    Ok(())
}

fn docker_context(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let docker = |args: &[&str]| {
        let program = tests::places::docker()?;
        let run =
            t.program(&program.to_string_lossy()).args(args).env("DOCKER_CONFIG", machine.docker_config());
        run.env("HOME", machine.docker_config()).output()?.text()
    };
    let host = docker(&["context", "inspect", "coracle", "--format", "{{.Endpoints.docker.Host}}"])?;
    ensure_eq!(host, format!("unix://{}", machine.socket().display()));
    ensure_eq!(docker(&["--context", "coracle", "run", "--rm", "busybox", "echo", "hi"])?, "hi");
    // For its owner alone.
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(machine.socket()).context("no socket")?);
    ensure_eq!(mode & 0o777, 0o600);
    machine.ok(["delete", "--force"])?;
    ensure!(!docker(&["context", "ls", "--format", "{{.Name}}"])?.lines().any(|name| name == "coracle"));
    Ok(())
}

fn nothing_runs_after_stop(t: &Target) -> Outcome {
    let machine = t.machine()?;
    machine.ok(["stop"])?;
    machine.expect_no_process()?;
    ensure!(!machine.socket().exists() || t.api().get("/_ping").send().is_err());
    // Once more is no error.
    machine.ok(["stop"])?;
    Ok(())
}

fn full_data_disk(t: &Target) -> Outcome {
    let name = t.name("filler");
    // Taken first, which costs nothing, and written where less than that is left.
    let script =
        "i=0; while fallocate -l 256m /f$i; do i=$((i+1)); done; dd if=/dev/zero of=/rest bs=64k; true";
    let fill = t
        .docker(["run", "--name", &name, "busybox", "sh", "-c", script])
        .timeout(std::time::Duration::from_secs(600));
    let fill = fill.output()?;
    ensure!(fill.stderr().contains("No space left on device"), "{fill}");
    // What needs space is refused with the reason; what does not goes on.
    let load = t.docker(["import", "-", "more"]).stdin(tests::archive::busybox_root()?).output()?;
    ensure!(load.code() != 0 && load.stderr().to_lowercase().contains("no space left on device"), "{load}");
    t.ok(["ps", "-a"])?;
    t.ok(["rm", "-f", &name])?;
    ensure_eq!(t.ok(["run", "--rm", "busybox", "echo", "fine"])?, "fine");
    Ok(())
}
