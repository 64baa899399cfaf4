//! `docker logs`: what a container wrote, afterwards and while it writes.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::case::Outcome;
use tests::engine::Kind;
use tests::http::demultiplex;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    both_streams,
    tail,
    timestamps,
    since_and_until,
    follow_to_the_end,
    follow_from_now,
    follow_ends_with_the_client,
    raw_with_a_terminal,
    lines_without_an_end,
    long_lines,
    every_byte_is_kept,
    every_run_is_kept,
    details_and_bad_requests,
    driver_none,
    drivers_that_there_are_not,
    many_lines.seconds(240),
}

/// Runs a container to its end.
fn run(t: &Target, name: &str, script: &str) -> anyhow::Result<()> {
    t.fails(0, ["run", "--name", name, "busybox", "sh", "-c", script])?;
    Ok(())
}

fn both_streams(t: &Target) -> Outcome {
    let name = t.name("box");
    t.fails(0, ["run", "-d", "--name", &name, "busybox", "sh", "-c", "echo out; echo err >&2; echo more"])?;
    t.ok(["wait", &name])?;
    let logs = t.fails(0, ["logs", &name])?;
    ensure_eq!((logs.stdout(), logs.stderr()), ("out\nmore\n".to_owned(), "err\n".to_owned()));
    let only = |query: &str| -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let answer = t.api().get(format!("/containers/{name}/logs?{query}")).send()?.expect(200)?;
        ensure_eq!(answer.header("Content-Type"), Some("application/vnd.docker.multiplexed-stream"));
        demultiplex(&answer.body)
    };
    ensure_eq!(only("stdout=1")?, (b"out\nmore\n".to_vec(), Vec::new()));
    ensure_eq!(only("stderr=1")?, (Vec::new(), b"err\n".to_vec()));
    Ok(())
}

fn drivers_that_there_are_not(t: &Target) -> Outcome {
    let refused = |driver: &str, status: u16| {
        let body = json!({"Image": "busybox", "HostConfig": {"LogConfig": {"Type": driver, "Config": {}}}});
        t.api().post("/containers/create").json(&body).send()?.expect(status)?.message()
    };
    for driver in ["nosuch", "etwlogs"] {
        ensure_eq!(
            refused(driver, 400)?,
            format!("error looking up logging plugin {driver}: plugin \"{driver}\" not found")
        );
    }
    if t.kind() != Kind::Dockerd {
        for driver in ["syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "gcplogs"] {
            let words = refused(driver, 501)?;
            ensure!(words.contains(&format!("the log driver '{driver}' is not implemented yet")), "{words}");
        }
    }
    Ok(())
}

fn tail(t: &Target) -> Outcome {
    let name = t.name("box");
    run(t, &name, "i=1; while [ $i -le 20 ]; do echo line $i; i=$((i+1)); done")?;
    ensure_eq!(t.ok(["logs", "--tail", "2", &name])?, "line 19\nline 20");
    ensure_eq!(t.ok(["logs", "-n", "0", &name])?, "");
    ensure_eq!(t.ok(["logs", "--tail", "100", &name])?.lines().count(), 20);
    ensure_eq!(t.ok(["logs", "--tail", "all", &name])?.lines().count(), 20);
    ensure_eq!(t.ok(["logs", "--tail", "-1", &name])?.lines().count(), 20);
    Ok(())
}

fn timestamps(t: &Target) -> Outcome {
    let name = t.name("box");
    run(t, &name, "echo one; echo two")?;
    let logs = t.ok(["logs", "-t", &name])?;
    let mut times = Vec::new();
    for (line, text) in logs.lines().zip(["one", "two"]) {
        let (time, rest) = line.split_once(' ').context("no time")?;
        ensure_eq!(rest, text);
        // RFC 3339 with nine digits, so that times compare as text.
        ensure!(time.len() == "2024-01-01T00:00:00.000000000Z".len() && time.ends_with('Z'), "{time:?}");
        times.push(time);
    }
    ensure!(times.len() == 2 && times[0] <= times[1], "{times:?}");
    Ok(())
}

fn since_and_until(t: &Target) -> Outcome {
    let name = t.name("box");
    // Each line waits until it is asked for, so that the times between them can be told apart.
    let script =
        "for n in 1 2 3; do while [ ! -e /go$n ]; do sleep 0.05; done; echo line $n; done; sleep 1000";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    let follow = t.docker(["logs", "-f", &name]).spawn()?;
    for number in 1..=3 {
        t.ok(["exec", &name, "touch", &format!("/go{number}")])?;
        follow.wait_for(&format!("line {number}"))?;
    }
    let stamped = t.ok(["logs", "-t", &name])?;
    let times: Vec<&str> =
        stamped.lines().filter_map(|line| line.split_once(' ')).map(|(time, _)| time).collect();
    ensure_eq!(times.len(), 3);
    ensure_eq!(t.ok(["logs", "--since", times[1], &name])?, "line 2\nline 3");
    ensure_eq!(t.ok(["logs", "--until", times[1], &name])?, "line 1\nline 2");
    ensure_eq!(t.ok(["logs", "--since", times[1], "--until", times[1], &name])?, "line 2");
    ensure_eq!(t.ok(["logs", "--since", "1h", &name])?.lines().count(), 3);
    ensure_eq!(t.ok(["logs", "--since", "2099-01-01", &name])?, "");
    ensure_eq!(t.ok(["logs", "--since", times[1], "--tail", "1", &name])?, "line 3");
    Ok(())
}

fn follow_to_the_end(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "echo first; while [ ! -e /go ]; do sleep 0.05; done; echo second; echo third >&2";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    let follow = t.docker(["logs", "-f", &name]).spawn()?;
    follow.wait_for("first")?;
    t.ok(["exec", &name, "touch", "/go"])?;
    let ended = follow.wait()?.expect_code(0)?;
    ensure_eq!((ended.stdout(), ended.stderr()), ("first\nsecond\n".to_owned(), "third\n".to_owned()));
    // What has ended is not waited for.
    ensure_eq!(t.ok(["logs", "-f", &name])?, "first\nsecond");
    Ok(())
}

fn follow_from_now(t: &Target) -> Outcome {
    let name = t.name("box");
    let script =
        "n=0; while :; do if [ -e /go ]; then rm /go; n=$((n+1)); echo line $n; fi; sleep 0.05; done";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    let all = t.docker(["logs", "-f", &name]).spawn()?;
    t.ok(["exec", &name, "touch", "/go"])?;
    all.wait_for("line 1")?;
    let last = t.spawn_until(["logs", "-f", "--tail", "1", &name], "line 1")?;
    // Nothing tells when a follower of nothing has begun: ask for lines until it has seen one.
    let new = t.docker(["logs", "-f", "--tail", "0", &name]).spawn()?;
    wait::eventually_true("the new follower sees a line", Duration::from_secs(20), || {
        t.ok(["exec", &name, "touch", "/go"])?;
        Ok(!new.stdout().is_empty())
    })?;
    ensure!(!new.stdout().contains("line 1\n"), "{}", new.stdout());
    last.wait_for("line 2")?;
    Ok(())
}

fn follow_ends_with_the_client(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", &format!("echo ready; {SLEEP}")])?;
    let follow = t.spawn_until(["logs", "-f", &name], "ready")?;
    follow.signal(rustix::process::Signal::INT)?;
    follow.wait()?;
    ensure_eq!(t.inspect(&name)?["State"]["Running"], true);
    Ok(())
}

fn raw_with_a_terminal(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "-t", "--name", &name, "busybox", "sh", "-c", "echo one; echo two >&2"])?;
    t.ok(["wait", &name])?;
    let answer = t.api().get(format!("/containers/{name}/logs?stdout=1&stderr=1")).send()?.expect(200)?;
    ensure_eq!(answer.header("Content-Type"), Some("application/vnd.docker.raw-stream"));
    ensure_eq!(String::from_utf8_lossy(&answer.body), "one\r\ntwo\r\n");
    Ok(())
}

fn lines_without_an_end(t: &Target) -> Outcome {
    let name = t.name("box");
    run(t, &name, "printf 'no end'")?;
    let logs = t.fails(0, ["logs", &name])?;
    ensure_eq!(logs.stdout(), "no end");
    // It is there while the container still runs, too.
    let name = t.name("running");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", "printf prompt; exec sleep 1000"])?;
    let attach = t.docker(["logs", "-f", &name]).spawn()?;
    t.ok(["exec", &name, "true"])?;
    t.ok(["kill", &name])?;
    ensure_eq!(attach.wait()?.stdout(), "prompt");
    Ok(())
}

fn long_lines(t: &Target) -> Outcome {
    let name = t.name("box");
    // Longer than the pieces in which drivers keep lines; told apart by its ends.
    run(t, &name, "printf A; head -c 100000 /dev/zero | tr '\\0' x; echo Z; echo short")?;
    let logs = t.fails(0, ["logs", &name])?.stdout();
    let mut lines = logs.lines();
    let long = lines.next().context("no line")?;
    ensure_eq!(long.len(), 100_002);
    ensure!(long.starts_with("Ax") && long.ends_with("xZ"), "the ends of a long line are lost");
    ensure_eq!(lines.next(), Some("short"));
    ensure_eq!(t.ok(["logs", "--tail", "1", &name])?, "short");
    let stamped = t.ok(["logs", "-t", "--tail", "2", &name])?;
    ensure!(stamped.lines().count() >= 2, "a long line was lost");
    Ok(())
}

fn every_byte_is_kept(t: &Target) -> Outcome {
    let name = t.name("box");
    // Control characters, quotes, what is no UTF-8, what is longer than one byte.
    run(
        t,
        &name,
        "printf 'tab\\there \"quoted\" back\\\\slash \\033[1mbold\\033[0m \\000 nul\\r\\n'; printf 'grün 🚢\\n'",
    )?;
    let logs = t.fails(0, ["logs", &name])?.stdout();
    ensure_eq!(logs, "tab\there \"quoted\" back\\slash \u{1b}[1mbold\u{1b}[0m \0 nul\r\ngrün 🚢\n");
    Ok(())
}

fn every_run_is_kept(t: &Target) -> Outcome {
    let name = t.name("box");
    run(t, &name, "echo run")?;
    for _ in 0..2 {
        t.ok(["start", "-a", &name])?;
    }
    ensure_eq!(t.ok(["logs", &name])?, "run\nrun\nrun");
    Ok(())
}

fn details_and_bad_requests(t: &Target) -> Outcome {
    let name = t.name("box");
    run(t, &name, "echo line")?;
    let answer = t.api().get(format!("/containers/{name}/logs")).send()?.expect(400)?;
    ensure_eq!(answer.message()?, "Bad parameters: you must choose at least one stream");
    t.fails(1, ["logs", "--since", "yesterday-ish", &name])?;
    ensure_eq!(t.fails(0, ["logs", "--details", &name])?.stdout(), " line\n");
    Ok(())
}

fn driver_none(t: &Target) -> Outcome {
    let name = t.name("box");
    ensure_eq!(t.ok(["run", "--name", &name, "--log-driver", "none", "busybox", "echo", "seen"])?, "seen");
    t.fails(1, ["logs", &name])?.expect_stderr("configured logging driver does not support reading")?;
    let other = t.name("other");
    let refused =
        t.docker(["create", "--name", &other, "--log-driver", "no-such-driver", "busybox"]).output()?;
    if refused.code() == 0 {
        // dockerd looks for the driver when the container starts.
        t.fails(1, ["start", &other])?.expect_stderr("no-such-driver")?;
    } else {
        refused.expect_stderr("no-such-driver")?;
    }
    Ok(())
}

fn many_lines(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "seq 1 200000";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    // A follower from the beginning sees each line once and in order.
    let follow =
        t.docker(["logs", "-f", &name]).timeout(Duration::from_secs(200)).output()?.expect_code(0)?;
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    ensure!(follow.stdout() == expected, "a follower lost or mixed lines: {} bytes", follow.stdout.len());
    let after = t.docker(["logs", &name]).timeout(Duration::from_secs(200)).output()?.expect_code(0)?;
    ensure!(after.stdout() == expected, "the log lost or mixed lines: {} bytes", after.stdout.len());
    ensure_eq!(t.ok(["logs", "--tail", "3", &name])?, "199998\n199999\n200000");
    Ok(())
}
