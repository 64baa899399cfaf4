//! The `coracle` command on a running machine.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, wait};

cases! {
    status.on(&[Kind::Machine]),
    list.on(&[Kind::Machine]),
    shell_codes_and_streams.on(&[Kind::Machine]),
    shell_on_a_terminal.on(&[Kind::Machine]),
    shell_carries_what_it_is_given.on(&[Kind::Machine]),
    logs.on(&[Kind::Machine]),
    doctor.on(&[Kind::Machine]),
    config.on(&[Kind::Machine]),
    changed_settings_need_a_restart.on(&[Kind::Machine]).alone().bare(),
    foreground.on(&[Kind::Machine]).alone().bare(),
    help.on(&[Kind::Machine]),
}

fn status(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let status = machine.status()?;
    ensure_eq!(status["name"], "default");
    ensure_eq!(status["state"], "running");
    ensure_eq!(status["docker_socket"], machine.socket().to_string_lossy().as_ref());
    ensure_eq!((&status["cpus"], &status["memory_mib"]), (&2.into(), &1024.into()));
    ensure!(status["accelerator"] == "qemu" || status["accelerator"] == "kvm", "{status}");
    ensure!(status["accelerator_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    ensure!(status["ready_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{status}");
    ensure_eq!(status["guest"]["stage"]["stage"], "ready");
    let figures = &status["guest"]["figures"];
    let figure = |name: &str| figures[name].as_u64().unwrap_or(0);
    ensure!(figure("cpu_busy_ms") > 0, "{status}");
    ensure!(figure("memory_total_bytes") > figure("memory_available_bytes"), "{status}");
    ensure!((7 << 30..9 << 30).contains(&figure("disk_total_bytes")), "{status}");
    ensure!((1..figure("disk_total_bytes")).contains(&figure("disk_free_bytes")), "{status}");
    let text = machine.ok(["status"])?;
    ensure!(text.contains("running") && text.contains(&*machine.socket().to_string_lossy()), "{text}");
    Ok(())
}

fn list(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let list: Value = serde_json::from_str(&machine.ok(["list", "--json"])?)?;
    let names: Vec<&str> =
        list.as_array().context("no list")?.iter().filter_map(|item| item["name"].as_str()).collect();
    ensure_eq!(names, ["default"]);
    let table = machine.ok(["list"])?;
    ensure!(table.lines().any(|line| line.starts_with("default") && line.contains("running")), "{table}");
    Ok(())
}

fn shell_codes_and_streams(t: &Target) -> Outcome {
    let machine = t.machine()?;
    for code in [0, 1, 42, 255] {
        machine.coracle(["shell", "--", "sh", "-c", &format!("exit {code}")]).output()?.expect_code(code)?;
    }
    machine.coracle(["shell", "--", "no-such-command"]).output()?.expect_code(127)?;
    let run =
        machine.coracle(["shell", "--", "sh", "-c", "echo out; echo err >&2"]).output()?.expect_code(0)?;
    ensure_eq!((run.stdout(), run.stderr()), ("out\n".to_owned(), "err\n".to_owned()));
    machine.coracle(["shell", "--", "sh", "-c", "kill -9 $$"]).output()?.expect_code(137)?;
    ensure_eq!(machine.ok(["shell", "--", "id", "-u"])?, "0");
    Ok(())
}

fn shell_on_a_terminal(t: &Target) -> Outcome {
    let mut shell = t.machine()?.coracle(["shell"]).env("TERM", "xterm").terminal(33, 101).spawn()?;
    shell.wait_for("# ")?;
    shell.write("test -t 0 && echo on a ter''minal; stty size; echo $TERM\n")?;
    shell.wait_for("on a terminal")?;
    shell.wait_for("33 101")?;
    wait::eventually_true("the new size arrives", Duration::from_secs(30), || {
        shell.resize(40, 120)?;
        shell.resize(41, 121)?;
        shell.write("stty size\n")?;
        Ok(shell.stdout().contains("41 121"))
    })
    .with_context(|| shell.stdout())?;
    shell.write("exit 3\n")?;
    shell.wait()?.expect_code(3)?;
    Ok(())
}

fn shell_carries_what_it_is_given(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let data: Vec<u8> = (0..2_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let cat = machine.coracle(["shell", "--", "cat"]).stdin(data.clone()).output()?.expect_code(0)?;
    ensure!(cat.stdout == data, "2 MB came back as {} other bytes", cat.stdout.len());
    let words = machine.ok(["shell", "--", "printf", "%s|", "a b", "", "c'd\"e", "$HOME"])?;
    ensure_eq!(words, "a b||c'd\"e|$HOME|");
    Ok(())
}

fn logs(t: &Target) -> Outcome {
    let machine = t.machine()?;
    ensure!(!machine.ok(["logs"])?.is_empty(), "the machine process has logged nothing");
    let console = machine.ok(["logs", "--console"])?;
    ensure!(console.contains("is PID 1"), "nothing of the guest on the console: {console}");
    let kernel = machine.ok(["shell", "--", "dmesg"])?;
    ensure!(kernel.contains("Linux version"), "no kernel log: {kernel}");
    let follow = machine.coracle(["logs", "-f"]).spawn()?;
    follow.wait_until("it shows what there is", |stdout, _| !stdout.is_empty())?;
    drop(follow);
    Ok(())
}

fn doctor(t: &Target) -> Outcome {
    let output = t.machine()?.coracle(["doctor"]).output()?;
    ensure!(output.code() == 0, "{output}");
    Ok(())
}

fn config(t: &Target) -> Outcome {
    let machine = t.machine()?;
    ensure_eq!(machine.ok(["config", "get", "cpus"])?, "2");
    let unknown = machine.coracle(["config", "get", "colour"]).output()?;
    ensure!(unknown.code() != 0 && unknown.stderr().contains("colour"), "{unknown}");
    Ok(())
}

/// Settings that were changed while the machine runs hold after `restart --json`, which tells its steps.
fn changed_settings_need_a_restart(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let needed = |text: String| {
        Ok::<_, anyhow::Error>(serde_json::from_str::<Value>(&text)?["restart_needed"].clone())
    };
    ensure_eq!(needed(machine.ok(["config", "get", "--json"])?)?, false);
    ensure_eq!(needed(machine.ok(["config", "set", "--json", "memory", "1280M"])?)?, true);
    ensure_eq!(needed(machine.ok(["config", "set", "--json", "memory", "1G"])?)?, false);
    ensure_eq!(needed(machine.ok(["config", "set", "--json", "memory", "1280M"])?)?, true);
    let said = machine.coracle(["restart", "--json"]).timeout(Duration::from_secs(600)).output()?.text()?;
    let answers = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let told = |answer: &str| answers.iter().filter(|line| line["answer"] == answer).count();
    ensure!(told("progress") > 1 && told("done") == 1 && told("failed") == 0, "{said}");
    ensure_eq!(answers.last().context("no answer")?["answer"], "done");
    ensure_eq!(machine.status()?["memory_mib"], 1280);
    ensure_eq!(needed(machine.ok(["config", "get", "--json"])?)?, false);
    Ok(())
}

/// `--foreground` stays, and its end is the machine's end.
fn foreground(t: &Target) -> Outcome {
    let machine = t.machine()?;
    machine.ok(["stop"])?;
    let start = machine.coracle(["start", "--foreground"]).timeout(Duration::from_secs(600)).spawn()?;
    start.wait_for("running")?;
    t.ok(["version"])?;
    let process =
        t.namespace().processes()?.into_iter().find(|process| process.line.contains("start --foreground"));
    let process = process.context("the command is gone")?;
    rustix::process::kill_process(process.pid, rustix::process::Signal::INT)?;
    start.wait()?;
    machine.expect_no_process()
}

fn help(t: &Target) -> Outcome {
    let text = t.machine()?.ok(["--help"])?;
    for verb in ["start", "stop", "restart", "status", "list", "delete", "shell", "logs", "config", "doctor"]
    {
        ensure!(
            text.lines().any(|line| line.split_whitespace().next() == Some(verb)),
            "no {verb} in: {text}"
        );
    }
    Ok(())
}
