//! What is left after the engine was killed: everything that it had acknowledged, and everything that ran.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::archive::{self, Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    containers_run_on.alone(),
    ends_in_the_meantime_are_noticed.alone(),
    stopped_containers_and_images_are_kept.alone(),
    killed_in_the_middle_of_a_load.alone().seconds(240),
    killed_again_and_again.alone().seconds(240),
    removed_when_it_ends_in_the_meantime.alone(),
}

fn containers_run_on(t: &Target) -> Outcome {
    let name = t.name("box");
    // A line each 50 ms, numbered, so that a lost one is seen.
    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    let before = t.inspect(&name)?;
    t.docker(["logs", "-f", &name]).spawn()?.wait_for("line 5\n")?;
    t.crash()?;
    if t.machine().is_err() {
        // Time passes, and the container goes on: its pid is this machine's.
        let process =
            t.namespace().processes()?.into_iter().find(|process| process.line.contains("echo line"));
        process.context("the container died with the engine")?;
    }
    t.recover()?;
    let after = t.inspect(&name)?;
    ensure_eq!(after["State"], before["State"]);
    ensure_eq!(t.ok(["exec", &name, "echo", "alive"])?, "alive");
    let seen = t.docker(["logs", "-f", &name]).spawn()?;
    let last = t.ok(["logs", "--tail", "1", &name])?;
    let number: u32 = last.strip_prefix("line ").context("no line")?.parse()?;
    // It still writes, and nothing is missing between its first line and its newest.
    seen.wait_for(&format!("line {}\n", number + 20))?;
    for (at, line) in seen.stdout().lines().enumerate() {
        if line != format!("line {}", at + 1) {
            ensure!(seen.stdout().lines().count() == at + 1, "line {} of the log is {line:?}", at + 1);
        }
    }
    t.ok(["stop", "-t", "0", &name])?;
    ensure_eq!(t.inspect(&name)?["State"]["ExitCode"], 137);
    Ok(())
}

fn ends_in_the_meantime_are_noticed(t: &Target) -> Outcome {
    let (name, go) = (t.name("box"), t.name("volume"));
    let script = format!("echo before; while [ ! -e /go ]; do sleep 0.05; done; echo {go}; exit 7");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", &script])?;
    t.docker(["logs", "-f", &name]).spawn()?.wait_for("before")?;
    // Tell it to go just before the engine dies; it has to find out itself, while nobody serves.
    t.ok(["exec", "-d", &name, "sh", "-c", "sleep 0.5; touch /go"])?;
    t.crash()?;
    if t.machine().is_err() {
        wait::eventually_true("the container has ended", Duration::from_secs(20), || {
            Ok(!t.namespace().processes()?.iter().any(|process| process.line.contains(&go)))
        })?;
    }
    t.recover()?;
    let state = wait::eventually("the end is noticed", Duration::from_secs(20), || {
        let state = t.inspect(&name)?["State"].clone();
        Ok((state["Status"] == "exited").then_some(state))
    })?;
    // dockerd now and then knows only that it has ended, and says 255.
    let code = if t.kind() == Kind::Dockerd { &state["ExitCode"] } else { &json!(7) };
    ensure_eq!(state["ExitCode"], *code);
    ensure_eq!(t.ok(["logs", &name])?, format!("before\n{go}"));
    ensure_eq!(t.ok(["wait", &name])?, code.to_string());
    t.fails(7, ["start", "-a", &name])?;
    Ok(())
}

fn stopped_containers_and_images_are_kept(t: &Target) -> Outcome {
    let (created, exited, image) = (t.name("created"), t.name("exited"), t.name("image"));
    t.ok(["create", "--name", &created, "-e", "KEPT=yes", "busybox", "sh", "-c", "echo $KEPT"])?;
    t.fails(3, ["run", "--name", &exited, "busybox", "sh", "-c", "echo words; echo data > /file; exit 3"])?;
    t.ok(["tag", "busybox", &image])?;
    let list = || t.ok(["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.State}}"]);
    let (containers_before, images_before) = (list()?, t.image_names()?);
    let inspect_before = t.inspect(&exited)?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(list()?, containers_before);
    ensure_eq!(t.image_names()?, images_before);
    ensure_eq!(t.inspect(&exited)?["State"], inspect_before["State"]);
    ensure_eq!(t.ok(["logs", &exited])?, "words");
    ensure_eq!(t.ok(["start", "-a", &created])?, "yes");
    t.fails(3, ["start", "-a", &exited])?;
    ensure_eq!(t.ok(["run", "--rm", &image, "echo", "hi"])?, "hi");
    t.ok(["rm", &created, &exited])?;
    Ok(())
}

fn killed_in_the_middle_of_a_load(t: &Target) -> Outcome {
    // Enough files that the engine is caught while it unpacks.
    let mut layer = Tar::default();
    for number in 0..4000 {
        layer = layer.file(&format!("f{number}"), 0o644, &[b'x'; 2000])?;
    }
    let (kept, torn) = (t.name("kept"), t.name("torn"));
    t.ok(["tag", "busybox", &kept])?;
    let image = Image::new(&format!("{torn}:latest"), busybox_root()?).layer(layer.finish()?);
    let file = archive::write(t.folder(), "torn.tar", &image.docker_archive()?)?;
    let load = t.docker(["load", "-i"]).arg(&file).spawn()?;
    let busy = load.wait_until("it has begun", |stdout, stderr| !stdout.is_empty() || !stderr.is_empty());
    // A quick engine is done before its client says a word; then there is nothing to tear.
    let _ = busy;
    t.crash()?;
    load.wait()?;
    t.recover()?;
    ensure_eq!(t.ok(["run", "--rm", &kept, "echo", "kept"])?, "kept");
    t.docker(["load", "-i"]).arg(&file).output()?.expect_code(0)?;
    ensure_eq!(t.ok(["run", "--rm", &torn, "sh", "-c", "ls /f* | wc -l; wc -c < /f3999"])?, "4000\n2000");
    Ok(())
}

fn killed_again_and_again(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", SLEEP])?;
    for round in 0..3 {
        let made = t.name(&format!("r{round}"));
        t.ok(["create", "--name", &made, "busybox"])?;
        t.crash()?;
        t.recover()?;
        t.inspect(&made)?;
    }
    ensure_eq!(t.ok(["exec", &name, "echo", "alive"])?, "alive");
    t.ok(["stop", &name])?;
    ensure_eq!(t.inspect(&name)?["State"]["ExitCode"], 0);
    Ok(())
}

fn removed_when_it_ends_in_the_meantime(t: &Target) -> Outcome {
    let (name, mark) = (t.name("box"), t.name("mark"));
    let script = format!("while [ ! -e /go ]; do sleep 0.05; done; : {mark}");
    t.ok(["run", "-d", "--rm", "--name", &name, "busybox", "sh", "-c", &script])?;
    t.ok(["exec", "-d", &name, "sh", "-c", "sleep 0.5; touch /go"])?;
    t.crash()?;
    if t.machine().is_err() {
        wait::eventually_true("the container has ended", Duration::from_secs(20), || {
            Ok(!t.namespace().processes()?.iter().any(|process| process.line.contains(&mark)))
        })?;
    }
    t.recover()?;
    wait::eventually_true("the container is removed", Duration::from_secs(20), || {
        Ok(t.api().get(format!("/containers/{name}/json")).send()?.status == 404)
    })
}
