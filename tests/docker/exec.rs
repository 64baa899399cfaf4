//! `docker exec`: one more program in a running container.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::target::Target;
use tests::{cases, ensure_eq, keys, wait};

cases! {
    exit_codes,
    streams_stay_apart,
    standard_input,
    environment_user_and_folder,
    privileges,
    terminal,
    terminal_size,
    detached,
    inspect,
    inspect_while_it_runs,
    ends_with_its_container,
    many_at_once,
    refused_where_nothing_runs,
    detach_keys,
    large_output,
}

fn exit_codes(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    for code in [0, 1, 42, 255] {
        t.fails(code, ["exec", &name, "sh", "-c", &format!("exit {code}")])?;
    }
    t.fails(137, ["exec", &name, "sh", "-c", "kill -9 $$"])?;
    t.fails(143, ["exec", &name, "sh", "-c", "kill -TERM $$"])?;
    let missing = t.fails(127, ["exec", &name, "no-such-command"])?;
    ensure!(missing.stdout().contains("executable file not found in $PATH"), "{missing}");
    let missing = t.fails(127, ["exec", &name, "/no/such/path"])?;
    ensure!(missing.stdout().contains("no such file or directory"), "{missing}");
    let denied = t.fails(126, ["exec", &name, "/etc/passwd"])?;
    ensure!(denied.stdout().contains("permission denied"), "{denied}");
    Ok(())
}

fn streams_stay_apart(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let run = t.fails(0, ["exec", &name, "sh", "-c", "echo out; echo err >&2; echo more"])?;
    ensure_eq!((run.stdout(), run.stderr()), ("out\nmore\n".to_owned(), "err\n".to_owned()));
    Ok(())
}

fn standard_input(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let echo = t.docker(["exec", "-i", &name, "cat"]).stdin("hello\nworld").output()?;
    ensure_eq!(echo.expect_code(0)?.stdout(), "hello\nworld");
    // Without -i there is no input.
    ensure_eq!(t.docker(["exec", &name, "cat"]).stdin("unread").output()?.text()?, "");
    let data = vec![b'x'; 3_000_000];
    ensure_eq!(t.docker(["exec", "-i", &name, "wc", "-c"]).stdin(data).output()?.text()?, "3000000");
    Ok(())
}

fn environment_user_and_folder(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "-e", "FROM=container", "-w", "/tmp", "busybox", "sleep", "1000"])?;
    let run = |options: &[&str], script: &str| -> anyhow::Result<String> {
        let mut args = vec!["exec"];
        args.extend(options);
        args.extend([&*name, "sh", "-c", script]);
        t.ok(args)
    };
    ensure_eq!(run(&["-e", "MORE=1"], "echo $FROM $MORE $HOME; pwd")?, "container 1 /root\n/tmp");
    ensure_eq!(run(&["-w", "/etc"], "pwd")?, "/etc");
    ensure_eq!(run(&["-u", "daemon"], "id -un; id -gn; echo $HOME")?, "daemon\ndaemon\n/usr/sbin");
    ensure_eq!(run(&["-u", "1234:50"], "id -u; id -g")?, "1234\n50");
    let unknown = t.docker(["exec", "-u", "nobody-here", &name, "true"]).output()?;
    ensure!(unknown.code() == 1 || unknown.code() == 126, "{unknown}");
    unknown.expect_stderr("unable to find user nobody-here: no matching entries in passwd file")?;
    Ok(())
}

fn privileges(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let capabilities = |options: &[&str]| -> anyhow::Result<String> {
        let mut args = vec!["exec"];
        args.extend(options);
        args.extend([&*name, "sed", "-n", "s/^CapEff:\\t*//p", "/proc/self/status"]);
        t.ok(args)
    };
    ensure_eq!(capabilities(&[])?, "00000000a80425fb");
    ensure_eq!(capabilities(&["-u", "daemon"])?, "0000000000000000");
    ensure!(capabilities(&["--privileged"])? > "000000ffffffffff".to_owned());
    ensure_eq!(t.ok(["exec", &name, "sed", "-n", "s/^Seccomp:\\t*//p", "/proc/self/status"])?, "2");
    // The same namespaces and cgroup as the container's first process.
    let same = "for n in pid net mnt ipc uts; do test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n; done; \
                cmp /proc/1/cgroup /proc/self/cgroup";
    ensure_eq!(t.ok(["exec", &name, "sh", "-c", same])?, "");
    Ok(())
}

fn terminal(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let mut shell = t.docker(["exec", "-it", &name, "sh"]).terminal(30, 100).spawn()?;
    shell.wait_for("# ")?;
    shell.write("tty; stty size; echo $((6*7))\n")?;
    shell.wait_for("42")?;
    let seen = shell.stdout();
    ensure!(seen.contains("/dev/pts/") && seen.contains("30 100"), "{seen}");
    shell.write("exit 5\n")?;
    shell.wait()?.expect_code(5)?;
    Ok(())
}

fn terminal_size(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let mut shell = t.docker(["exec", "-it", &name, "sh"]).terminal(30, 100).spawn()?;
    shell.wait_for("# ")?;
    // The client listens for changes only some time after the first prompt.
    wait::eventually_true("the new size arrives", Duration::from_secs(20), || {
        shell.resize(40, 120)?;
        shell.resize(41, 123)?;
        shell.write("stty size\n")?;
        Ok(shell.stdout().contains("41 123"))
    })?;
    shell.write("exit\n")?;
    shell.wait()?;
    Ok(())
}

fn detached(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    ensure_eq!(t.ok(["exec", "-d", &name, "sh", "-c", "echo done > /tmp/mark"])?, "");
    wait::eventually_true("the program has run", Duration::from_secs(20), || {
        Ok(t.docker(["exec", &name, "cat", "/tmp/mark"]).output()?.stdout() == "done\n")
    })
}

/// Creates an exec over the API; returns its id.
fn create(t: &Target, name: &str, body: &Value) -> anyhow::Result<String> {
    let answer = t.api().post(format!("/containers/{name}/exec")).json(body).send()?.expect(201)?.json()?;
    ensure_eq!(answer.as_object().map(serde_json::Map::len), Some(1));
    Ok(answer["Id"].as_str().context("no id")?.to_owned())
}

fn inspect(t: &Target) -> Outcome {
    let name = t.name("box");
    let container = t.sleeper(&name)?;
    let body = json!({"Cmd": ["sh", "-c", "echo out; echo err >&2; exit 3"], "AttachStdout": true, "AttachStderr": true});
    let id = create(t, &name, &body)?;
    ensure_eq!(id.len(), 64);
    let before = t.api().get(format!("/exec/{id}/json")).send()?.expect(200)?.json()?;
    ensure_eq!(
        (&before["Running"], &before["ExitCode"], &before["Pid"]),
        (&json!(false), &Value::Null, &json!(0))
    );
    let mut stream =
        t.api().post(format!("/exec/{id}/start")).json(&json!({"Detach": false, "Tty": false})).hijack()?;
    ensure_eq!(stream.header("Content-Type"), Some("application/vnd.docker.multiplexed-stream"));
    ensure_eq!(stream.demultiplex()?, (b"out\n".to_vec(), b"err\n".to_vec()));
    // Known as soon as the stream has ended: this is how the client learns the code.
    let after = t.api().get(format!("/exec/{id}/json")).send()?.expect(200)?.json()?;
    ensure_eq!((&after["Running"], &after["ExitCode"]), (&json!(false), &json!(3)));
    ensure_eq!(after["ContainerID"], container.as_str());
    ensure_eq!(after["ProcessConfig"]["entrypoint"], "sh");
    keys::compare(t.kind(), "exec-inspect", &after, &[])?;
    let again = t.api().post(format!("/exec/{id}/start")).json(&json!({"Detach": true})).send()?;
    ensure_eq!(again.status, 409, "{again}");
    ensure_eq!(again.message()?, format!("exec command {id} has already run"));
    Ok(())
}

fn inspect_while_it_runs(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let id = create(t, &name, &json!({"Cmd": ["sleep", "1000"], "AttachStdout": true}))?;
    let stream = t.api().post(format!("/exec/{id}/start")).json(&json!({})).hijack()?;
    let running = wait::eventually("the program runs", Duration::from_secs(20), || {
        let state = t.api().get(format!("/exec/{id}/json")).send()?.expect(200)?.json()?;
        // The pid comes a moment after the word.
        Ok((state["Running"] == true && state["Pid"] != 0).then_some(state))
    })?;
    ensure_eq!(running["ExitCode"], Value::Null);
    ensure!(running["Pid"].as_i64().is_some_and(|pid| pid > 1), "{running}");
    let listed = t.inspect(&name)?["ExecIDs"].clone();
    ensure_eq!(listed, json!([id]));
    drop(stream);
    Ok(())
}

fn ends_with_its_container(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let exec = t.spawn_until(["exec", &name, "sh", "-c", "echo ready; sleep 1000"], "ready")?;
    t.ok(["kill", &name])?;
    exec.wait()?.expect_code(137)?;
    Ok(())
}

fn many_at_once(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let spawn = |number: usize| t.docker(["exec", &name, "echo", &number.to_string()]).spawn();
    let running = (0..20).map(spawn).collect::<Result<Vec<_>, _>>()?;
    for (number, exec) in running.into_iter().enumerate() {
        ensure_eq!(exec.wait()?.text()?, number.to_string());
    }
    Ok(())
}

fn refused_where_nothing_runs(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["create", "--name", &name, "busybox"])?;
    t.fails(1, ["exec", &name, "true"])?.expect_stderr(&format!("container {id} is not running"))?;
    let answer = t
        .api()
        .post(format!("/containers/{name}/exec"))
        .json(&json!({"Cmd": ["true"]}))
        .send()?
        .expect(409)?;
    ensure_eq!(answer.message()?, format!("container {id} is not running"));
    t.ok(["start", &name])?;
    let missing = "0".repeat(64);
    let answer = t.api().get(format!("/exec/{missing}/json")).send()?.expect(404)?;
    ensure_eq!(answer.message()?, format!("No such exec instance: {missing}"));
    let other = t.name("other");
    t.sleeper(&other)?;
    let answer = t.api().post(format!("/containers/{other}/exec")).json(&json!({})).send()?.expect(400)?;
    ensure_eq!(answer.message()?, "No exec command specified");
    Ok(())
}

fn detach_keys(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let mut shell =
        t.docker(["exec", "-it", "--detach-keys", "ctrl-a,d", &name, "sh"]).terminal(24, 80).spawn()?;
    shell.wait_for("# ")?;
    shell.write([1, b'd'])?;
    let ended = shell.wait()?;
    ensure!(ended.code() != 137, "{ended}");
    // The shell itself goes on.
    ensure!(t.ok(["top", &name])?.lines().any(|line| line.ends_with(" sh")), "the shell has ended");
    Ok(())
}

fn large_output(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let script = "i=0; while [ $i -lt 20 ]; do head -c 1000000 /dev/zero; i=$((i+1)); done";
    let run = t.fails(0, ["exec", &name, "sh", "-c", script])?;
    ensure_eq!(run.stdout.len(), 20_000_000);
    Ok(())
}
