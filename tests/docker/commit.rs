//! `docker commit`: an image of a container.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    files,
    deleted_and_replaced,
    nothing_changed,
    configuration,
    changes,
    history,
    names,
    pauses,
    of_a_commit,
    volumes_are_left_out,
    while_it_is_restarted_and_removed,
    refused,
    events,
}

fn inspected(t: &Target, image: &str) -> Result<Value> {
    t.api().get(format!("/images/{image}/json")).send()?.expect(200)?.json()
}

/// Runs `script` in the image and removes the container.
fn shown(t: &Target, image: &str, script: &str) -> Result<String> {
    t.ok(["run", "--rm", image, "sh", "-c", script])
}

fn forget(t: &Target, image: &str) -> Outcome {
    t.ok(["rmi", "-f", image]).map(drop)
}

fn files(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "echo -n new > /new; chown 7:8 /new; chmod 4750 /new; ln /new /second; ln -s /x /link; mkfifo /fifo; \
                  mkdir /dir; chmod 1777 /dir; echo > \"/dir/$(printf 'n%.0s' $(seq 200))\"; touch -d @1000000000 /new";
    t.ok(["run", "--name", &name, "busybox", "sh", "-c", script])?;
    let image = t.ok(["commit", &name])?;
    ensure!(image.starts_with("sha256:") && image.len() == 71, "{image}");
    let seen = shown(
        t,
        &image,
        "cat /new; stat -c ' %a %u %g %h %Y' /new; readlink /link; test -p /fifo && stat -c %a /dir; ls /dir | wc -c",
    )?;
    ensure_eq!(seen, "new 4750 7 8 2 1000000000\n/x\n1777\n201");
    forget(t, &image)
}

fn deleted_and_replaced(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "rm /etc/group; rm -r /home; echo -n file > /home; rm -r /var; mkdir /var; echo > /var/own; rm -r /usr/sbin";
    t.ok(["run", "--name", &name, "busybox", "sh", "-c", script])?;
    let image = t.ok(["commit", &name])?;
    let seen =
        shown(t, &image, "ls /etc/group /usr/sbin 2>/dev/null; cat /home; ls /var; cat /etc/passwd | wc -l")?;
    ensure_eq!(seen, "fileown\n2");
    forget(t, &image)
}

fn nothing_changed(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "--name", &name, "busybox", "true"])?;
    let image = t.ok(["commit", &name])?;
    let (before, after) = (inspected(t, "busybox")?, inspected(t, &image)?);
    ensure_eq!(after["RootFS"], before["RootFS"]);
    forget(t, &image)
}

fn configuration(t: &Target) -> Outcome {
    let name = t.name("box");
    let create = ["run", "--name", &name, "-e", "A=1", "-l", "from=container", "-u", "daemon", "-w", "/tmp"];
    t.ok(create.into_iter().chain([
        "--stop-signal",
        "USR1",
        "-v",
        "/data",
        "busybox",
        "sh",
        "-c",
        "echo > /tmp/x",
    ]))?;
    let image = t.ok(["commit", "-a", "Somebody <some@where>", "-m", "a word", &name])?;
    let got = inspected(t, &image)?;
    ensure_eq!((&got["Author"], &got["Comment"]), (&json!("Somebody <some@where>"), &json!("a word")));
    let config = &got["Config"];
    ensure_eq!(config["Cmd"], json!(["sh", "-c", "echo > /tmp/x"]));
    ensure_eq!((&config["User"], &config["WorkingDir"]), (&json!("daemon"), &json!("/tmp")));
    ensure_eq!((&config["StopSignal"], &config["Labels"]["from"]), (&json!("USR1"), &json!("container")));
    ensure_eq!(config["Volumes"], json!({"/data": {}}));
    ensure!(config["Env"].as_array().is_some_and(|env| env.contains(&json!("A=1"))), "{config}");
    let base = inspected(t, "busybox")?;
    ensure_eq!(got["Parent"], base["Id"]);
    ensure_eq!((&got["Os"], &got["Architecture"]), (&base["Os"], &base["Architecture"]));
    let layers = |image: &Value| image["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
    ensure_eq!(layers(&got), layers(&base) + 1);
    ensure_eq!(got["DockerVersion"].as_str().map(str::is_empty), Some(false));
    forget(t, &image)
}

fn changes(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "-e", "A=1", "busybox", "true"])?;
    let commit = ["commit", "-c", "CMD [\"echo\", \"hi\"]", "-c", "ENV A=2 B=3", "-c", "LABEL l=v", "-c"];
    let image =
        t.ok(commit.into_iter().chain(["EXPOSE 80", "-c", "WORKDIR /srv", "-c", "USER daemon", &name]))?;
    let config = inspected(t, &image)?["Config"].clone();
    ensure_eq!(config["Cmd"], json!(["echo", "hi"]));
    let env = config["Env"].as_array().context("no environment")?;
    ensure!(
        env.contains(&json!("A=2")) && env.contains(&json!("B=3")) && !env.contains(&json!("A=1")),
        "{config}"
    );
    ensure_eq!((&config["Labels"]["l"], &config["ExposedPorts"]), (&json!("v"), &json!({"80/tcp": {}})));
    ensure_eq!((&config["WorkingDir"], &config["User"]), (&json!("/srv"), &json!("daemon")));
    ensure_eq!(t.ok(["run", "--rm", &image])?, "hi");
    let refused = t.fails(1, ["commit", "-c", "RUN true", &name])?;
    refused.expect_stderr("RUN is not a valid change command")?;
    // A configuration in the body stands for the container's, which fills in what it leaves open.
    let answer = t
        .api()
        .post(format!("/commit?container={name}&comment=c"))
        .json(&json!({"Cmd": ["other"]}))
        .send()?
        .expect(201)?
        .json()?;
    let id = answer["Id"].as_str().context("no id")?;
    let config = inspected(t, id)?["Config"].clone();
    ensure_eq!(config["Cmd"], json!(["other"]));
    ensure!(config["Env"].as_array().is_some_and(|env| env.contains(&json!("A=1"))), "{config}");
    forget(t, id)?;
    forget(t, &image)
}

fn history(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "--name", &name, "busybox", "sh", "-c", "echo 12345 > /five"])?;
    let image = t.ok(["commit", "-m", "the reason", &name])?;
    let answer = t.api().get(format!("/images/{image}/history")).send()?.expect(200)?.json()?;
    let base = inspected(t, "busybox")?;
    ensure_eq!((&answer[0]["Id"], &answer[0]["Comment"]), (&json!(image), &json!("the reason")));
    ensure_eq!(
        (&answer[0]["CreatedBy"], &answer[0]["Size"]),
        (&json!("sh -c echo 12345 > /five"), &json!(6))
    );
    ensure_eq!(answer[1]["Id"], base["Id"]);
    forget(t, &image)
}

fn names(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox", "true"])?;
    let tag = t.name("image");
    let image = t.ok(["commit", &name, &tag])?;
    ensure_eq!(inspected(t, &tag)?["RepoTags"], json!([format!("{tag}:latest")]));
    let again = t.ok(["commit", &name, &format!("{tag}:two")])?;
    ensure!(image != again);
    ensure_eq!(inspected(t, &format!("{tag}:two"))?["Id"], json!(again));
    let refused = t.fails(1, ["commit", &name, "UPPER"])?;
    ensure!(refused.stderr().contains("must be lowercase"), "{refused}");
    forget(t, &format!("{tag}:two"))?;
    forget(t, &tag)
}

fn pauses(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let image = t.ok(["commit", &name])?;
    ensure_eq!(t.inspect(&name)?["State"]["Status"], "running");
    forget(t, &image)?;
    let image = t.ok(["commit", "--pause=false", &name])?;
    forget(t, &image)?;
    t.ok(["pause", &name])?;
    let image = t.ok(["commit", &name])?;
    ensure_eq!(t.inspect(&name)?["State"]["Status"], "paused");
    t.ok(["unpause", &name])?;
    forget(t, &image)
}

fn of_a_commit(t: &Target) -> Outcome {
    let (first, second) = (t.name("first"), t.name("second"));
    t.ok(["run", "--name", &first, "busybox", "sh", "-c", "echo -n 1 > /one; echo > /gone"])?;
    let one = t.ok(["commit", &first])?;
    t.ok(["run", "--name", &second, &one, "sh", "-c", "echo -n 2 > /two; rm /gone"])?;
    let two = t.ok(["commit", &second])?;
    ensure_eq!(
        shown(t, &two, "cat /one /two; ls /gone 2>&1 | wc -l; ls / | grep -c gone; true")?.replace('\n', " "),
        "121 0"
    );
    t.ok(["rm", &first, &second])?;
    // It comes out whole, and in again.
    let (saved, tag) = (t.folder().join("saved.tar"), t.name("tag"));
    t.ok(["tag", &two, &tag])?;
    t.ok(["save", "-o", &saved.to_string_lossy(), &tag])?;
    forget(t, &two)?;
    t.ok(["load", "-i", &saved.to_string_lossy()])?;
    ensure_eq!(shown(t, &tag, "cat /one /two")?, "12");
    forget(t, &tag)
}

fn volumes_are_left_out(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok([
        "run",
        "--name",
        &name,
        "-v",
        "/data",
        "--tmpfs",
        "/scratch",
        "busybox",
        "sh",
        "-c",
        "echo > /data/in; echo > /scratch/in",
    ])?;
    let image = t.ok(["commit", &name])?;
    ensure_eq!(
        shown(t, &image, "ls -d /data /scratch; ls /data /scratch | grep -c in; true")?,
        "/data\n/scratch\n0"
    );
    forget(t, &image)
}

/// Neither waits for the other for ever.
fn while_it_is_restarted_and_removed(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = format!("head -c 30000000 /dev/zero > /big; echo ready; {SLEEP}");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", &script])?;
    t.docker(["logs", "-f", &name]).spawn()?.wait_for("ready")?;
    let commit = t.docker(["commit", &name]).spawn()?;
    wait::eventually_true("it is frozen", Duration::from_secs(30), || {
        Ok(t.inspect(&name)?["State"]["Paused"] == true || commit.has_ended())
    })?;
    t.ok(["restart", "-t", "0", &name])?;
    let image = commit.wait()?.text()?;
    let commit = t.docker(["commit", &name]).spawn()?;
    wait::eventually_true("it is frozen", Duration::from_secs(30), || {
        Ok(t.inspect(&name)?["State"]["Paused"] == true || commit.has_ended())
    })?;
    t.ok(["rm", "-f", &name])?;
    if let Ok(second) = commit.wait()?.text() {
        forget(t, &second)?;
    }
    forget(t, &image)
}

fn refused(t: &Target) -> Outcome {
    t.fails(1, ["commit", "none"])?.expect_stderr("No such container: none")?;
    let answer = t.api().post("/commit?container=none").send()?;
    ensure_eq!(answer.status, 404, "{answer}");
    let answer =
        t.api().post("/commit?container=none").header("Content-Type", "application/json").body("{").send()?;
    ensure_eq!(answer.status, 400, "{answer}");
    Ok(())
}

fn events(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.sleeper(&name)?;
    let tag = t.name("image");
    let filter = format!("container={id}");
    let watching = t.docker(["events", "--filter", &filter, "--format", "{{json .}}"]).spawn()?;
    tests::wait::eventually_true("events arrive", std::time::Duration::from_secs(20), || {
        t.ok(["exec", &name, "true"])?;
        Ok(watching.stdout().contains("exec_start"))
    })?;
    let image = t.ok(["commit", "-m", "why", &name, &tag])?;
    watching.wait_for("\"commit\"")?;
    watching.wait_for("unpause")?;
    let seen = watching.stdout();
    let line = seen.lines().find(|line| line.contains("\"commit\"")).context("no such event")?;
    let event: Value = serde_json::from_str(line)?;
    let attributes = &event["Actor"]["Attributes"];
    ensure_eq!((&attributes["comment"], &attributes["imageID"]), (&json!("why"), &json!(image)));
    ensure_eq!(attributes["imageRef"], json!(format!("{tag}:latest")));
    watching.kill();
    forget(t, &tag)
}
