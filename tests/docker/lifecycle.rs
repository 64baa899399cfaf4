//! Starting, stopping, killing, waiting, removing: what happens, and in which words it is refused.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::http::Open;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, keys};

cases! {
    stop,
    stop_kills_what_does_not_end,
    stop_signal,
    kill,
    kill_with_signals,
    restart,
    start_twice,
    remove,
    remove_with_force,
    several_at_once,
    wait_for_the_end,
    wait_conditions,
    top,
    removed_while_it_ends,
    clients_that_go_away,
}

fn state(t: &Target, name: &str) -> anyhow::Result<Value> {
    Ok(t.inspect(name)?["State"].clone())
}

fn stop(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let begun = Instant::now();
    ensure_eq!(t.ok(["stop", &name])?, name);
    ensure!(
        begun.elapsed() < Duration::from_secs(8),
        "a willing container took {:?} to stop",
        begun.elapsed()
    );
    let ended = state(t, &name)?;
    ensure_eq!((&ended["Status"], &ended["ExitCode"]), (&json!("exited"), &json!(0)));
    // Stopping what is stopped is nothing new.
    t.ok(["stop", &name])?;
    t.api().post(format!("/containers/{name}/stop")).send()?.expect(304)?;
    Ok(())
}

fn stop_kills_what_does_not_end(t: &Target) -> Outcome {
    let name = t.name("box");
    // PID 1 without a handler ignores SIGTERM.
    t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "1000"])?;
    let begun = Instant::now();
    t.ok(["stop", "-t", "1", &name])?;
    ensure!(begun.elapsed() >= Duration::from_secs(1), "killed after {:?}", begun.elapsed());
    ensure_eq!(state(t, &name)?["ExitCode"], 137);
    t.ok(["start", &name])?;
    t.ok(["stop", "-t", "0", &name])?;
    ensure_eq!(state(t, &name)?["ExitCode"], 137);
    Ok(())
}

fn stop_signal(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = SLEEP.replace("TERM", "USR1").replace("exit 0", "exit 7");
    t.ok(["run", "-d", "--name", &name, "--stop-signal", "USR1", "busybox", "sh", "-c", &script])?;
    t.ok(["exec", &name, "true"])?;
    t.ok(["stop", &name])?;
    ensure_eq!(state(t, &name)?["ExitCode"], 7);
    Ok(())
}

fn kill(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.sleeper(&name)?;
    ensure_eq!(t.ok(["kill", &name])?, name);
    t.ok(["wait", &name])?;
    ensure_eq!(state(t, &name)?["ExitCode"], 137);
    t.fails(1, ["kill", &name])?
        .expect_stderr(&format!("cannot kill container: {name}: container {id} is not running"))?;
    let answer = t.api().post(format!("/containers/{name}/kill")).send()?.expect(409)?;
    ensure_eq!(answer.message()?, format!("cannot kill container: {name}: container {id} is not running"));
    Ok(())
}

fn kill_with_signals(t: &Target) -> Outcome {
    let name = t.name("box");
    let script =
        "trap 'echo got hup' HUP; trap 'echo got usr1' USR1; echo ready; while :; do sleep 1000 & wait; done";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    let logs = t.spawn_until(["logs", "-f", &name], "ready")?;
    t.ok(["kill", "-s", "HUP", &name])?;
    logs.wait_for("got hup")?;
    t.ok(["kill", "-s", "SIGUSR1", &name])?;
    logs.wait_for("got usr1")?;
    t.ok(["kill", "-s", "1", &name])?;
    logs.wait_until("HUP came twice", |stdout, _| {
        String::from_utf8_lossy(stdout).matches("got hup").count() == 2
    })?;
    ensure_eq!(state(t, &name)?["Running"], true);
    t.fails(1, ["kill", "-s", "NOSUCH", &name])?.expect_stderr("invalid signal: NOSUCH")?;
    let answer = t.api().post(format!("/containers/{name}/kill?signal=999")).send()?;
    ensure!(answer.status == 400, "{answer}");
    Ok(())
}

fn restart(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", &format!("echo started; {SLEEP}")])?;
    let before = state(t, &name)?;
    ensure_eq!(t.ok(["restart", "-t", "5", &name])?, name);
    let after = state(t, &name)?;
    ensure_eq!(after["Running"], true);
    ensure!(after["StartedAt"] != before["StartedAt"] && after["Pid"] != before["Pid"], "{before}\n{after}");
    let logs = t.spawn_until(["logs", "-f", &name], "started\nstarted\n")?;
    drop(logs);
    // A stopped one is started.
    t.ok(["stop", &name])?;
    t.ok(["restart", &name])?;
    ensure_eq!(state(t, &name)?["Running"], true);
    Ok(())
}

fn start_twice(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    ensure_eq!(t.ok(["start", &name])?, name);
    t.api().post(format!("/containers/{name}/start")).send()?.expect(304)?;
    Ok(())
}

fn remove(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.sleeper(&name)?;
    let words = format!(
        "cannot remove container \"{name}\": container is running: stop the container before removing or force remove"
    );
    t.fails(1, ["rm", &name])?.expect_stderr(&words)?;
    ensure_eq!(t.api().delete(format!("/containers/{name}")).send()?.expect(409)?.message()?, words);
    t.ok(["stop", &name])?;
    ensure_eq!(t.ok(["rm", &name])?, name);
    t.fails(1, ["rm", &name])?.expect_stderr(&format!("No such container: {name}"))?;
    t.api().get(format!("/containers/{id}/json")).send()?.expect(404)?;
    Ok(())
}

fn remove_with_force(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "1000"])?;
    t.ok(["rm", "-f", &name])?;
    // What is gone already is no error to `-f`.
    t.fails(0, ["rm", "-f", &name])?.expect_stderr(&format!("No such container: {name}"))?;
    let answer = t.api().delete(format!("/containers/{name}?force=1")).send()?;
    ensure_eq!(answer.status, 404);
    Ok(())
}

fn several_at_once(t: &Target) -> Outcome {
    let (one, two, none) = (t.name("one"), t.name("two"), t.name("none"));
    t.sleeper(&one)?;
    t.sleeper(&two)?;
    let stop = t.fails(1, ["stop", &one, &none, &two])?;
    ensure_eq!(stop.stdout().lines().collect::<std::collections::BTreeSet<_>>(), [&*one, &*two].into());
    stop.expect_stderr(&format!("No such container: {none}"))?;
    t.ok(["rm", &one, &two])?;
    Ok(())
}

fn wait_for_the_end(t: &Target) -> Outcome {
    let (name, other) = (t.name("box"), t.name("other"));
    let script = SLEEP.replace("exit 0", "exit 6");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", &script])?;
    t.fails(4, ["run", "--name", &other, "busybox", "sh", "-c", "exit 4"])?;
    let waiting = t.docker(["wait", &name, &other]).spawn()?;
    t.ok(["exec", &name, "true"])?;
    t.ok(["stop", &name])?;
    ensure_eq!(waiting.wait()?.text()?, "6\n4");
    let answer = t.api().post(format!("/containers/{name}/wait")).send()?.expect(200)?.json()?;
    ensure_eq!(answer, json!({"StatusCode": 6}));
    Ok(())
}

/// What a pending wait answers.
fn status_code(mut waiting: Open) -> anyhow::Result<Value> {
    let line = waiting.line()?.context("the wait ended without an answer")?;
    Ok(serde_json::from_str::<Value>(&line)?["StatusCode"].clone())
}

fn wait_conditions(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = SLEEP.replace("exit 0", "exit 6");
    t.ok(["create", "--name", &name, "busybox", "sh", "-c", &script])?;
    let wait =
        |condition: &str| t.api().post(format!("/containers/{name}/wait?condition={condition}")).open();
    // Not running is true already; the next exit is to come. The head of the answer comes at once.
    ensure_eq!(status_code(wait("not-running")?)?, 0);
    let next = wait("next-exit")?;
    ensure_eq!(next.status, 200);
    t.ok(["start", &name])?;
    let removed = wait("removed")?;
    t.ok(["exec", &name, "true"])?;
    t.ok(["stop", &name])?;
    ensure_eq!(status_code(next)?, 6);
    t.ok(["rm", &name])?;
    ensure_eq!(status_code(removed)?, 6);
    let answer = t.api().post(format!("/containers/{name}/wait?condition=bored")).send()?;
    ensure!(answer.status == 400 || answer.status == 404, "{answer}");
    Ok(())
}

fn top(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", "sleep 1234 & sleep 1235"])?;
    t.ok(["exec", &name, "true"])?;
    let answer = t.api().get(format!("/containers/{name}/top")).send()?.expect(200)?.json()?;
    ensure_eq!(answer["Titles"], json!(["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]));
    let text = answer["Processes"].to_string();
    ensure!(text.contains("sleep 1234") && text.contains("sleep 1235"), "{text}");
    keys::compare(t.kind(), "container-top", &answer, &[])?;
    let table = t.ok(["top", &name])?;
    ensure_eq!(table.lines().count(), 3, "{table}");
    t.ok(["stop", "-t", "0", &name])?;
    let id = t.inspect(&name)?["Id"].as_str().context("no id")?.to_owned();
    t.fails(1, ["top", &name])?.expect_stderr(&format!("container {id} is not running"))?;
    Ok(())
}

/// `docker rm -f` beside the container's own end leaves neither a container nor an error other than the known ones.
fn removed_while_it_ends(t: &Target) -> Outcome {
    for round in 0..5 {
        let name = t.name(&format!("r{round}"));
        t.ok(["run", "-d", "--rm", "--name", &name, "busybox", "true"])?;
        let remove = t.api().delete(format!("/containers/{name}?force=1")).send()?;
        ensure!([204, 404, 409].contains(&remove.status), "{remove}");
        tests::wait::eventually_true("the container is gone", Duration::from_secs(20), || {
            Ok(t.api().get(format!("/containers/{name}/json")).send()?.status == 404)
        })?;
    }
    Ok(())
}

fn clients_that_go_away(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    for target in [
        format!("/containers/{name}/wait"),
        format!("/containers/{name}/attach?stream=1&stdout=1"),
        "/events".to_owned(),
    ] {
        let method = if target == "/events" { "GET" } else { "POST" };
        for _ in 0..20 {
            drop(t.api().request(method, &target).open()?);
        }
    }
    ensure_eq!(t.ok(["exec", &name, "echo", "alive"])?, "alive");
    Ok(())
}
