//! `docker events`: what happens, told while it happens and afterwards.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::archive::{self, Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::target::Target;
use tests::{cases, ensure_eq, keys, wait};

cases! {
    life_of_a_container,
    kinds_of_ends,
    exec_events,
    image_events,
    past_events,
    filters,
    the_stream_begins_at_once,
}

/// The actions told of one container until its removal, which ends its `life`.
fn actions_of(t: &Target, name: &str, life: impl FnOnce() -> Outcome) -> anyhow::Result<Vec<String>> {
    // From a moment on, so that it does not matter when the client has begun to listen.
    let since = t.ok(["info", "--format", "{{.SystemTime}}"])?;
    let filter = format!("container={name}");
    let events =
        t.docker(["events", "--since", &since, "--filter", &filter, "--format", "{{.Action}}"]).spawn()?;
    life()?;
    events.wait_for("destroy\n")?;
    Ok(events.stdout().lines().map(str::to_owned).collect())
}

fn life_of_a_container(t: &Target) -> Outcome {
    let name = t.name("box");
    let actions = actions_of(t, &name, || {
        t.ok(["create", "--name", &name, "--network", "none", "busybox", "true"])?;
        t.ok(["start", "-a", &name])?;
        t.ok(["rename", &name, &format!("{name}-2")])?;
        t.ok(["rename", &format!("{name}-2"), &name])?;
        t.ok(["rm", &name])?;
        Ok(())
    })?;
    // A filter by name sees what had that name when it happened.
    let seen: Vec<&str> = actions.iter().map(String::as_str).filter(|action| *action != "rename").collect();
    ensure_eq!(seen, ["create", "attach", "start", "die", "destroy"]);
    Ok(())
}

fn kinds_of_ends(t: &Target) -> Outcome {
    let name = t.name("box");
    let actions = actions_of(t, &name, || {
        t.sleeper(&name)?;
        t.ok(["stop", &name])?;
        t.ok(["start", &name])?;
        t.ok(["restart", "-t", "5", &name])?;
        t.ok(["rm", "-f", &name])?;
        Ok(())
    })?;
    let expected = [
        "create", "start", "kill", "die", "stop", "start", "kill", "die", "stop", "start", "restart", "kill",
        "die", "destroy",
    ];
    // The end of a process and the verb that asked for it are told by two parties: their order may differ.
    let (mut seen, mut wanted) = (actions.clone(), expected.map(str::to_owned).to_vec());
    seen.sort_unstable();
    wanted.sort_unstable();
    ensure_eq!(seen, wanted, "{actions:?}");
    Ok(())
}

fn exec_events(t: &Target) -> Outcome {
    let name = t.name("box");
    let actions = actions_of(t, &name, || {
        t.sleeper(&name)?;
        t.fails(3, ["exec", &name, "sh", "-c", "exit 3"])?;
        t.ok(["rm", "-f", &name])?;
        Ok(())
    })?;
    for wanted in ["exec_create: sh -c exit 3", "exec_start: sh -c exit 3", "exec_die"] {
        ensure!(actions.iter().any(|action| action == wanted), "no {wanted:?} among {actions:?}");
    }
    Ok(())
}

/// The events of the API from `since` until now, as JSON.
fn past(t: &Target, since: &str, filters: &Value) -> anyhow::Result<Vec<Value>> {
    let now = now(t)?;
    let filters = percent(&filters.to_string());
    let answer =
        t.api().get(format!("/events?since={since}&until={now}&filters={filters}")).send()?.expect(200)?;
    let text = String::from_utf8(answer.body)?;
    text.lines().filter(|line| !line.is_empty()).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The engine's clock, in seconds and nanoseconds.
fn now(t: &Target) -> anyhow::Result<String> {
    let time = t.ok(["run", "--rm", "--network", "none", "busybox", "date", "+%s"])?;
    // Rounded up: the second that has begun counts.
    Ok((time.parse::<u64>()? + 1).to_string())
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

fn past_events(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok([
        "run",
        "-d",
        "--name",
        &name,
        "--network",
        "none",
        "-l",
        "kind=test",
        "busybox",
        "sh",
        "-c",
        "exit 3",
    ])?;
    t.ok(["wait", &name])?;
    let filter = serde_json::json!({"container": [name], "type": ["container"]});
    let events = wait::eventually("the end is told", Duration::from_secs(20), || {
        let events = past(t, "0", &filter)?;
        Ok((events.len() >= 3).then_some(events))
    })?;
    let actions: Vec<&str> = events.iter().filter_map(|event| event["Action"].as_str()).collect();
    ensure_eq!(actions, ["create", "start", "die"]);
    let die = events.last().context("no event")?;
    ensure_eq!(die["Type"], "container");
    ensure_eq!(die["Actor"]["ID"], id.as_str());
    ensure_eq!(die["Actor"]["Attributes"]["name"], name.as_str());
    ensure_eq!(die["Actor"]["Attributes"]["image"], "busybox");
    ensure_eq!(die["Actor"]["Attributes"]["exitCode"], "3");
    ensure_eq!(die["Actor"]["Attributes"]["kind"], "test");
    ensure_eq!(die["scope"], "local");
    let (seconds, nanos) =
        (die["time"].as_u64().context("no time")?, die["timeNano"].as_u64().context("no timeNano")?);
    ensure_eq!(nanos / 1_000_000_000, seconds);
    keys::compare(t.kind(), "event", die, &[])
}

fn image_events(t: &Target) -> Outcome {
    let name = t.name("image");
    let layer = Tar::default().file("name", 0o644, name.as_bytes())?.finish()?;
    let image = Image::new(&format!("{name}:latest"), busybox_root()?).layer(layer);
    let file = archive::write(t.folder(), "image.tar", &image.docker_archive()?)?;
    t.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
    t.ok(["tag", &name, &format!("{name}:second")])?;
    t.docker(["save", &name]).output()?.expect_code(0)?;
    t.ok(["rmi", &format!("{name}:second"), &name])?;
    let id = archive::digest(&image.configuration());
    let events = past(t, "0", &serde_json::json!({"type": ["image"]}))?;
    let actions: Vec<&str> = events
        .iter()
        .filter(|event| {
            event["Actor"]["ID"] == id.as_str()
                || event["Actor"]["Attributes"]["name"].as_str().is_some_and(|other| other.contains(&name))
        })
        .filter_map(|event| event["Action"].as_str())
        .collect();
    for wanted in ["load", "tag", "untag", "delete", "save"] {
        ensure!(actions.contains(&wanted), "no {wanted:?} among {actions:?}");
    }
    Ok(())
}

fn filters(t: &Target) -> Outcome {
    let name = t.name("box");
    let label = t.name("label");
    t.fails(0, ["run", "--name", &name, "-l", &label, "busybox", "true"])?;
    let count = |filters: Value| Ok::<_, anyhow::Error>(past(t, "0", &filters)?.len());
    ensure_eq!(count(serde_json::json!({"container": [name], "event": ["die"]}))?, 1);
    ensure_eq!(count(serde_json::json!({"label": [label], "event": ["die", "start"]}))?, 2);
    ensure_eq!(count(serde_json::json!({"container": [name], "type": ["image"]}))?, 0);
    ensure_eq!(count(serde_json::json!({"container": ["no-such-container-at-all"]}))?, 0);
    Ok(())
}

/// The head of the answer comes before the first event: clients wait for it.
fn the_stream_begins_at_once(t: &Target) -> Outcome {
    let mut stream =
        t.api().get(format!("/events?filters={}", percent("{\"type\":[\"container\"]}"))).open()?;
    ensure_eq!(stream.status, 200);
    ensure_eq!(stream.header("Content-Type"), Some("application/json"));
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox"])?;
    loop {
        let line = stream.line()?.context("the stream has ended")?;
        if line.contains(&name) && line.contains("\"Action\":\"create\"") {
            return Ok(());
        }
    }
}
