//! Attached clients: streams to and from a container, with and without a terminal.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};
use tests::case::Outcome;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    input_that_ends,
    input_without_a_client_is_empty,
    streams_stay_apart,
    fifty_megabytes_out.seconds(240),
    megabytes_in_and_out.seconds(240),
    slow_reader,
    terminal,
    terminal_size_and_its_changes,
    interrupt_of_a_terminal,
    detach_and_attach_again,
    own_detach_keys,
    two_clients,
    signals_are_passed_on,
    attach_to_what_does_not_run,
    half_closed_connection,
    without_an_upgrade,
    with_the_log_first,
    terminal_stream_is_raw,
    resize_over_the_api,
    output_in_the_last_moment,
}

fn input_that_ends(t: &Target) -> Outcome {
    let echo = t.docker(["run", "--rm", "-i", "busybox", "cat"]).stdin("hi\n").output()?.expect_code(0)?;
    ensure_eq!(echo.stdout(), "hi\n");
    // The answer comes after the end of the input: the connection is half-closed, not closed.
    let late = t.docker(["run", "--rm", "-i", "busybox", "sh", "-c", "cat; sleep 0.3; echo after; exit 3"]);
    let late = late.stdin("before\n").output()?.expect_code(3)?;
    ensure_eq!(late.stdout(), "before\nafter\n");
    let empty = t.docker(["run", "--rm", "-i", "busybox", "wc", "-c"]).stdin("").output()?;
    ensure_eq!(empty.text()?, "0");
    Ok(())
}

fn input_without_a_client_is_empty(t: &Target) -> Outcome {
    let run = t.docker(["run", "--rm", "busybox", "sh", "-c", "cat; echo end"]).stdin("unread").output()?;
    ensure_eq!(run.text()?, "end");
    Ok(())
}

fn streams_stay_apart(t: &Target) -> Outcome {
    let script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done";
    let run = t.fails(0, ["run", "--rm", "--network", "none", "busybox", "sh", "-c", script])?;
    ensure_eq!(run.stdout(), "out 1\nout 2\nout 3\n");
    ensure_eq!(run.stderr(), "err 1\nerr 2\nerr 3\n");
    let only =
        t.fails(0, ["run", "--rm", "-a", "stderr", "--network", "none", "busybox", "sh", "-c", script])?;
    ensure_eq!((only.stdout(), only.stderr()), (String::new(), "err 1\nerr 2\nerr 3\n".to_owned()));
    Ok(())
}

/// Bytes that differ from place to place, the same as the script in the container makes.
const NOISE: &str = "seq 1 9000000 | head -c 50000000";

fn fifty_megabytes_out(t: &Target) -> Outcome {
    let script = format!("{NOISE} | tee /copy | cat; sha256sum /copy >&2");
    let run = t
        .docker(["run", "--rm", "--network", "none", "busybox", "sh", "-c", &script])
        .timeout(Duration::from_secs(220));
    let run = run.output()?.expect_code(0)?;
    ensure_eq!(run.stdout.len(), 50_000_000);
    let sum: String = Sha256::digest(&run.stdout).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(run.stderr().starts_with(&sum), "expected {}, got {sum}", run.stderr());
    Ok(())
}

fn megabytes_in_and_out(t: &Target) -> Outcome {
    let data: Vec<u8> = (0..10_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    let cat = t
        .docker(["run", "--rm", "-i", "busybox", "cat"])
        .stdin(data.clone())
        .timeout(Duration::from_secs(220));
    let cat = cat.output()?.expect_code(0)?;
    ensure!(cat.stdout == data, "10 MB came back as {} other bytes", cat.stdout.len());
    Ok(())
}

/// A client that does not read stops the container's output and nothing else.
fn slow_reader(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "head -c 20000000 /dev/zero; echo; echo end";
    let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "AttachStdout": true});
    t.api().post(format!("/containers/create?name={name}")).json(&body).send()?.expect(201)?;
    let mut attached = t.api().post(format!("/containers/{name}/attach?stream=1&stdout=1")).hijack()?;
    t.api().post(format!("/containers/{name}/start")).send()?.expect(204)?;
    let mut head = [0; 8];
    attached.read_exact(&mut head)?;
    let other = t.name("other");
    t.ok(["run", "--name", &other, "busybox", "echo", "not disturbed"])?;
    let mut rest = Vec::new();
    attached.read_to_end(&mut rest)?;
    let (out, _) = tests::http::demultiplex(&[&head[..], &rest].concat())?;
    ensure_eq!(out.len(), 20_000_000 + "\nend\n".len());
    Ok(())
}

fn terminal(t: &Target) -> Outcome {
    let name = t.name("box");
    let mut shell = t.docker(["run", "-it", "--name", &name, "busybox", "sh"]).terminal(24, 80).spawn()?;
    shell.wait_for("# ")?;
    shell.write("test -t 0 && test -t 1 && test -t 2 && echo all ter''minals; tty\n")?;
    shell.wait_for("all terminals")?;
    shell.wait_for("/dev/pts/0")?;
    shell.write("exit 9\n")?;
    shell.wait()?.expect_code(9)?;
    // Without a terminal of its own the client refuses to offer one.
    t.docker(["run", "--rm", "-it", "busybox", "true"])
        .stdin("")
        .output()?
        .expect_code(1)?
        .expect_stderr("TTY")?;
    Ok(())
}

fn terminal_size_and_its_changes(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "trap 'stty size' WINCH; echo ready; while :; do read -t 1 line && eval $line; done";
    let mut run =
        t.docker(["run", "-it", "--name", &name, "busybox", "sh", "-c", script]).terminal(31, 91).spawn()?;
    run.wait_for("ready")?;
    // The first size comes after the start, with the client's first resize.
    wait::eventually_true("the size of the terminal arrives", Duration::from_secs(20), || {
        run.write("stty size\n")?;
        Ok(run.stdout().contains("31 91"))
    })?;
    wait::eventually_true("the new size arrives", Duration::from_secs(20), || {
        run.resize(40, 140)?;
        run.resize(45, 145)?;
        Ok(run.stdout().contains("45 145"))
    })?;
    run.write("exit 0\n")?;
    run.wait()?.expect_code(0)?;
    Ok(())
}

fn interrupt_of_a_terminal(t: &Target) -> Outcome {
    let name = t.name("box");
    let mut shell = t.docker(["run", "-it", "--name", &name, "busybox", "sh"]).terminal(24, 80).spawn()?;
    shell.wait_for("# ")?;
    // The word comes from the program that is to be interrupted, which is then surely in the foreground.
    shell.write("sh -c 'echo be\"\"gun; sleep 1000'\n")?;
    shell.wait_for("begun")?;
    // Ctrl-C goes through as a byte, and the container's own terminal makes a signal of it.
    shell.write([3])?;
    shell.write("echo st''ill here\n")?;
    // The shell has to be back at its prompt: until then the end of input would be for the terminal's line.
    shell.wait_for("still here\r\n/ # ")?;
    shell.write([4])?;
    shell.wait()?;
    Ok(())
}

fn detach_and_attach_again(t: &Target) -> Outcome {
    let name = t.name("box");
    let mut shell = t.docker(["run", "-it", "--name", &name, "busybox", "sh"]).terminal(24, 80).spawn()?;
    shell.wait_for("# ")?;
    shell.write("mark=se''t\n")?;
    // Ctrl-P Ctrl-Q.
    shell.write([16])?;
    shell.write([17])?;
    shell.wait()?.expect_code(0)?;
    ensure_eq!(t.inspect(&name)?["State"]["Running"], true);
    let mut shell = t.docker(["attach", &name]).terminal(24, 80).spawn()?;
    wait::eventually_true("the shell answers", Duration::from_secs(20), || {
        shell.write("echo mark is $mark\n")?;
        Ok(shell.stdout().contains("mark is set"))
    })?;
    shell.write("exit 4\n")?;
    shell.wait()?.expect_code(4)?;
    Ok(())
}

fn own_detach_keys(t: &Target) -> Outcome {
    let name = t.name("box");
    let mut shell = t
        .docker(["run", "-it", "--detach-keys", "ctrl-x,x", "--name", &name, "busybox", "sh"])
        .terminal(24, 80)
        .spawn()?;
    shell.wait_for("# ")?;
    // The default keys are now nothing special: the shell gets them and lives on.
    shell.write([16, 17])?;
    shell.write("echo st''ill here\n")?;
    shell.wait_for("still here")?;
    shell.write([24, b'x'])?;
    shell.wait()?.expect_code(0)?;
    ensure_eq!(t.inspect(&name)?["State"]["Running"], true);
    Ok(())
}

fn two_clients(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "while read line; do echo got $line; [ $line = end ] && exit 2; done";
    t.ok(["run", "-d", "-i", "--name", &name, "busybox", "sh", "-c", script])?;
    let mut one = t.docker(["attach", &name]).stdin_pipe().spawn()?;
    let mut two = t.docker(["attach", &name]).stdin_pipe().spawn()?;
    wait::eventually_true("both are attached", Duration::from_secs(20), || {
        one.write("one\n")?;
        two.write("two\n")?;
        let both = |text: String| text.contains("got one") && text.contains("got two");
        Ok(both(one.stdout()) && both(two.stdout()))
    })?;
    one.write("end\n")?;
    one.wait_for("got end")?;
    two.wait_for("got end")?;
    one.wait()?.expect_code(2)?;
    two.wait()?.expect_code(2)?;
    Ok(())
}

fn signals_are_passed_on(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = SLEEP.replace("exit 0", "exit 8").replace("trap", "echo ready; trap");
    let run = t.docker(["run", "--name", &name, "busybox", "sh", "-c", &script]).spawn()?;
    run.wait_for("ready")?;
    t.ok(["exec", &name, "true"])?;
    run.signal(Signal::TERM)?;
    run.wait()?.expect_code(8)?;
    Ok(())
}

fn attach_to_what_does_not_run(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox"])?;
    t.fails(1, ["attach", &name])?.expect_stderr("cannot attach to a stopped container, start it first")?;
    Ok(())
}

fn half_closed_connection(t: &Target) -> Outcome {
    let name = t.name("box");
    let body = json!({
        "Image": "busybox", "Cmd": ["sh", "-c", "cat; echo after >&2; sleep 0.3; echo end"],
        "OpenStdin": true, "StdinOnce": true, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
    });
    t.api().post(format!("/containers/create?name={name}")).json(&body).send()?.expect(201)?;
    let target = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let mut attached = t.api().post(target).hijack()?;
    ensure_eq!(attached.header("Upgrade"), Some("tcp"));
    ensure_eq!(attached.header("Content-Type"), Some("application/vnd.docker.multiplexed-stream"));
    t.api().post(format!("/containers/{name}/start")).send()?.expect(204)?;
    attached.write(b"in\n")?;
    attached.half_close()?;
    ensure_eq!(attached.demultiplex()?, (b"in\nend\n".to_vec(), b"after\n".to_vec()));
    Ok(())
}

/// Old clients ask for the stream without the word "upgrade"; they get the output as a plain answer.
fn without_an_upgrade(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox", "sh", "-c", "echo out; echo err >&2"])?;
    let target = format!("/containers/{name}/attach?stream=1&stdout=1&stderr=1");
    let mut attached = t.api().post(target).open()?;
    ensure_eq!(attached.status, 200);
    ensure_eq!(attached.header("Content-Type"), Some("application/vnd.docker.raw-stream"));
    t.api().post(format!("/containers/{name}/start")).send()?.expect(204)?;
    ensure_eq!(attached.demultiplex()?, (b"out\n".to_vec(), b"err\n".to_vec()));
    Ok(())
}

fn with_the_log_first(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "echo early; while [ ! -e /go ]; do sleep 0.05; done; echo late";
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", script])?;
    let follow = t.docker(["logs", "-f", &name]).spawn()?;
    follow.wait_for("early")?;
    let mut attached =
        t.api().post(format!("/containers/{name}/attach?logs=1&stream=1&stdout=1")).hijack()?;
    t.ok(["exec", &name, "touch", "/go"])?;
    ensure_eq!(attached.demultiplex()?.0, b"early\nlate\n".to_vec());
    // Without the stream, the log alone, and then the end.
    let mut log = t.api().post(format!("/containers/{name}/attach?logs=1&stdout=1")).hijack()?;
    ensure_eq!(log.demultiplex()?.0, b"early\nlate\n".to_vec());
    Ok(())
}

fn terminal_stream_is_raw(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "-t", "--name", &name, "busybox", "echo", "hi"])?;
    let mut attached = t.api().post(format!("/containers/{name}/attach?stream=1&stdout=1")).hijack()?;
    ensure_eq!(attached.header("Content-Type"), Some("application/vnd.docker.raw-stream"));
    t.api().post(format!("/containers/{name}/start")).send()?.expect(204)?;
    let mut text = String::new();
    attached.read_to_string(&mut text)?;
    ensure_eq!(text, "hi\r\n");
    Ok(())
}

fn resize_over_the_api(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["run", "-dit", "--name", &name, "busybox", "sh"])?;
    t.api().post(format!("/containers/{name}/resize?h=33&w=77")).send()?.expect(200)?;
    let size = t.ok(["exec", &name, "sh", "-c", "stty size < /proc/1/fd/0"])?;
    ensure_eq!(size, "33 77");
    let answer = t.api().post(format!("/containers/{name}/resize?h=a&w=77")).send()?.expect(400)?;
    answer.message()?;
    t.ok(["kill", &name])?;
    t.ok(["wait", &name])?;
    let answer = t.api().post(format!("/containers/{name}/resize?h=33&w=77")).send()?.expect(409)?;
    ensure_eq!(answer.message()?, format!("container {id} is not running"));
    Ok(())
}

/// What a container writes just before it ends arrives, however short its life.
fn output_in_the_last_moment(t: &Target) -> Outcome {
    for round in 0..15 {
        let text = format!("word {round}");
        let run = t
            .fails(0, ["run", "--rm", "busybox", "echo", &text])
            .with_context(|| format!("round {round}"))?;
        ensure_eq!(run.stdout(), format!("{text}\n"), "round {round}");
    }
    Ok(())
}
