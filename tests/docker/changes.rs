//! `docker diff`: what a container changed.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::target::Target;
use tests::{cases, ensure_eq};

cases! {
    nothing,
    every_kind,
    replaced,
    running_and_stopped,
    mounts,
    several_layers,
}

fn changes(t: &Target, name: &str) -> Result<Value> {
    t.api().get(format!("/containers/{name}/changes")).send()?.expect(200)?.json()
}

/// The lines of `docker diff`, sorted: Docker's own order within a directory is a matter of chance.
fn lines(t: &Target, name: &str) -> Result<Vec<String>> {
    let mut lines: Vec<String> = t.ok(["diff", name])?.lines().map(str::to_owned).collect();
    lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
    Ok(lines)
}

/// Runs `script` in a new container to its end.
fn run(t: &Target, script: &str) -> Result<String> {
    let name = t.name("box");
    t.ok(["run", "--name", &name, "busybox", "sh", "-c", script])?;
    Ok(name)
}

fn nothing(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox", "true"])?;
    ensure_eq!(changes(t, &name)?, Value::Null);
    t.ok(["start", "-a", &name])?;
    ensure_eq!(changes(t, &name)?, Value::Null);
    ensure_eq!(t.ok(["diff", &name])?, "");
    Ok(())
}

fn every_kind(t: &Target) -> Outcome {
    let script = "echo > /new; mkdir -p /tree/deep; echo > /tree/deep/file; rm /etc/group; echo >> /etc/passwd; \
                  echo > /tmp/gone; rm /tmp/gone; chmod 700 /home; touch /root; ln -s x /link";
    let name = run(t, script)?;
    let expected = [
        "C /etc",
        "D /etc/group",
        "C /etc/passwd",
        "C /home",
        "A /link",
        "A /new",
        "A /tree",
        "A /tree/deep",
        "A /tree/deep/file",
    ];
    ensure_eq!(lines(t, &name)?, expected);
    let answer = changes(t, &name)?;
    ensure!(answer.as_array().is_some_and(|all| all.contains(&json!({"Path": "/etc/group", "Kind": 2}))));
    let place = |path: &str| answer.as_array().and_then(|all| all.iter().position(|one| one["Path"] == path));
    ensure!(
        place("/etc") < place("/etc/group") && place("/tree/deep") < place("/tree/deep/file"),
        "{answer}"
    );
    Ok(())
}

fn replaced(t: &Target) -> Outcome {
    let name =
        run(t, "rm -r /etc; mkdir /etc; echo > /etc/own; rm -r /home; echo > /home; rm /etc/none; true")?;
    let all = lines(t, &name)?;
    for line in ["C /etc", "D /etc/group", "D /etc/passwd", "A /etc/own", "C /home"] {
        ensure!(all.iter().any(|one| one == line), "{line} is not in {all:?}");
    }
    Ok(())
}

fn running_and_stopped(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    t.ok(["exec", &name, "sh", "-c", "echo > /tmp/new"])?;
    ensure_eq!(lines(t, &name)?, ["C /tmp", "A /tmp/new"]);
    t.ok(["stop", &name])?;
    ensure_eq!(lines(t, &name)?, ["C /tmp", "A /tmp/new"]);
    t.ok(["start", &name])?;
    t.ok(["exec", &name, "rm", "/tmp/new"])?;
    ensure_eq!(changes(t, &name)?, Value::Null);
    Ok(())
}

fn mounts(t: &Target) -> Outcome {
    let name = t.name("box");
    let all = ["run", "--name", &name, "-v", "/data/deep", "--tmpfs", "/scratch", "busybox"];
    t.ok(all.into_iter().chain([
        "sh",
        "-c",
        "echo > /data/deep/in; echo > /scratch/in; echo > /dev/shm/in",
    ]))?;
    ensure_eq!(lines(t, &name)?, ["A /data", "A /data/deep", "A /scratch"]);
    Ok(())
}

/// A change is one to what the image's layers make together.
fn several_layers(t: &Target) -> Outcome {
    let first = run(t, "mkdir /a; echo > /a/one; echo > /a/two; rm /etc/group")?;
    let image = t.ok(["commit", &first])?;
    let second = t.name("second");
    t.ok([
        "run",
        "--name",
        &second,
        &image,
        "sh",
        "-c",
        "rm /a/one; echo > /etc/group; echo more >> /a/two",
    ])?;
    ensure_eq!(lines(t, &second)?, ["C /a", "D /a/one", "C /a/two", "C /etc", "A /etc/group"]);
    t.ok(["rm", &second])?;
    t.ok(["rmi", &image])?;
    Ok(())
}
