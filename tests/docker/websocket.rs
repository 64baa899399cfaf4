//! Attached clients that speak over a websocket, as pages in a browser do.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::http::Stream;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};
use tungstenite::{Message, WebSocket};

cases! {
    both_directions,
    streams_that_are_asked_for,
    with_the_log_first,
    terminal_and_detach_keys,
    client_that_leaves,
    megabytes.seconds(240),
    slow_reader,
    refusals,
    message_too_large.on(&[Kind::Native, Kind::Machine]),
}

type Socket = WebSocket<Stream>;

fn create(t: &Target, name: &str, script: &str, more: Value) -> Outcome {
    let mut body = json!({
        "Image": "busybox", "Cmd": ["sh", "-c", script], "OpenStdin": true, "StdinOnce": true,
        "HostConfig": {"NetworkMode": "none"},
    });
    let fields = body.as_object_mut().context("no object")?;
    fields.extend(more.as_object().cloned().unwrap_or_default());
    t.api().post(format!("/containers/create?name={name}")).json(&body).send()?.expect(201)?;
    Ok(())
}

fn start(t: &Target, name: &str) -> Outcome {
    t.api().post(format!("/containers/{name}/start")).send()?.expect(204)?;
    Ok(())
}

fn attach(t: &Target, name: &str, query: &str) -> Result<Socket> {
    t.api().get(format!("/containers/{name}/attach/ws?{query}")).websocket()
}

/// What comes until the other side closes; every message has to be binary.
fn rest(socket: &mut Socket) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => all.extend_from_slice(&bytes),
            Ok(Message::Close(_)) => return Ok(all),
            Ok(other) => bail!("neither binary nor the end: {other:?}"),
            Err(error) => return Err(error).with_context(|| format!("after {} bytes", all.len())),
        }
    }
}

fn until(socket: &mut Socket, text: &str) -> Result<String> {
    let mut all = String::new();
    while !all.contains(text) {
        let message = socket.read().with_context(|| format!("waiting for {text:?} after {all:?}"))?;
        all.push_str(&String::from_utf8_lossy(&message.into_data()));
    }
    Ok(all)
}

fn both_directions(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "read a; echo out $a; read b; echo err $b >&2", json!({}))?;
    let mut socket = attach(t, &name, "stream=1&stdin=1&stdout=1&stderr=1")?;
    start(t, &name)?;
    // Text or not, it is bytes; and standard output and error are not told apart.
    socket.send(Message::text("first\n"))?;
    ensure_eq!(until(&mut socket, "\n")?, "out first\n");
    socket.send(Message::binary(b"sec".to_vec()))?;
    socket.send(Message::Ping(vec![1].into()))?;
    socket.send(Message::binary(b"ond\n".to_vec()))?;
    let mut rest = Vec::new();
    loop {
        match socket.read()? {
            Message::Binary(bytes) => rest.extend_from_slice(&bytes),
            Message::Pong(payload) => ensure_eq!(payload.as_ref(), [1]),
            Message::Close(_) => break,
            other => bail!("unexpected {other:?}"),
        }
    }
    ensure_eq!(String::from_utf8(rest)?, "err second\n");
    Ok(())
}

fn streams_that_are_asked_for(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "echo out; echo err >&2; wc -c", json!({"OpenStdin": false}))?;
    let mut errors = attach(t, &name, "stream=1&stderr=1")?;
    let mut output = attach(t, &name, "stream=1&stdout=1")?;
    // Before API 1.42 nobody was asked which, and got all.
    let mut all = t.api().get(format!("/v1.41/containers/{name}/attach/ws?stream=1")).websocket()?;
    start(t, &name)?;
    ensure_eq!(rest(&mut errors)?, b"err\n".to_vec());
    ensure_eq!(rest(&mut output)?, b"out\n0\n".to_vec());
    // Two streams, in whatever order.
    let all = String::from_utf8(rest(&mut all)?)?;
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    ensure_eq!(lines, ["0", "err", "out"]);
    Ok(())
}

fn with_the_log_first(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "echo early; read x; echo late", json!({}))?;
    start(t, &name)?;
    t.docker(["logs", "-f", &name]).spawn()?.wait_for("early")?;
    let mut socket = attach(t, &name, "logs=1&stream=1&stdin=1&stdout=1")?;
    socket.send(Message::text("go\n"))?;
    ensure_eq!(rest(&mut socket)?, b"early\nlate\n".to_vec());
    t.ok(["wait", &name])?;
    let mut log = attach(t, &name, "logs=1&stdout=1")?;
    ensure_eq!(rest(&mut log)?, b"early\nlate\n".to_vec());
    Ok(())
}

fn terminal_and_detach_keys(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "exec sh", json!({"Tty": true}))?;
    let mut socket = attach(t, &name, "stream=1&stdin=1&stdout=1&detachKeys=ctrl-x,x")?;
    start(t, &name)?;
    until(&mut socket, "# ")?;
    socket.send(Message::text("echo be''gun\n"))?;
    until(&mut socket, "begun\r\n")?;
    socket.send(Message::binary([24].to_vec()))?;
    socket.send(Message::binary(b"x".to_vec()))?;
    rest(&mut socket)?;
    ensure_eq!(t.inspect(&name)?["State"]["Running"], true);
    let mut socket = attach(t, &name, "stream=1&stdin=1&stdout=1")?;
    socket.send(Message::text("exit 4\n"))?;
    rest(&mut socket)?;
    ensure_eq!(t.ok(["wait", &name])?, "4");
    Ok(())
}

/// The process's input ends with its only client, whether that closes the websocket or just goes away.
fn client_that_leaves(t: &Target) -> Outcome {
    for politely in [true, false] {
        let name = t.name(if politely { "closed" } else { "gone" });
        create(t, &name, "cat; exit 3", json!({}))?;
        let mut socket = attach(t, &name, "stream=1&stdin=1&stdout=1")?;
        start(t, &name)?;
        socket.send(Message::text("x\n"))?;
        until(&mut socket, "x\n")?;
        if politely {
            socket.close(None)?;
            socket.flush()?;
        } else {
            drop(socket);
        }
        ensure_eq!(t.ok(["wait", &name])?, "3");
    }
    Ok(())
}

fn megabytes(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "head -c 10000000 | sha256sum; head -c 20000000 /dev/zero; echo end", json!({}))?;
    let mut socket = attach(t, &name, "stream=1&stdin=1&stdout=1")?;
    start(t, &name)?;
    for _ in 0..100 {
        socket.send(Message::binary(vec![7; 100_000]))?;
    }
    let all = rest(&mut socket)?;
    let sum = <sha2::Sha256 as sha2::Digest>::digest(vec![7; 10_000_000]);
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(all.starts_with(sum.as_bytes()), "what arrived is not what was sent");
    ensure_eq!(all.len(), sum.len() + "  -\n".len() + 20_000_000 + "end\n".len());
    Ok(())
}

/// A client that does not read stops the container's output and nothing else.
fn slow_reader(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "head -c 20000000 /dev/zero; echo end", json!({"OpenStdin": false}))?;
    let mut socket = attach(t, &name, "stream=1&stdout=1")?;
    start(t, &name)?;
    let mut begun = socket.read()?.into_data().len();
    t.ok(["run", "--rm", "--network", "none", "busybox", "echo", "not disturbed"])?;
    ensure_eq!(t.inspect(&name)?["State"]["Running"], true);
    begun += rest(&mut socket)?.len();
    ensure_eq!(begun, 20_000_000 + "end\n".len());
    Ok(())
}

fn refusals(t: &Target) -> Outcome {
    let missing = t.name("none");
    let answer = t.api().get(format!("/containers/{missing}/attach/ws?stream=1")).send()?.expect(404)?;
    ensure_eq!(answer.message()?, format!("No such container: {missing}"));
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", SLEEP])?;
    let answer = t.api().get(format!("/containers/{name}/attach/ws?detachKeys=nokey")).send()?.expect(400)?;
    ensure_eq!(answer.message()?, "Invalid detach keys (nokey) provided");
    t.ok(["pause", &name])?;
    let answer =
        t.api().get(format!("/containers/{name}/attach/ws?stream=1&stdout=1")).send()?.expect(409)?;
    ensure_eq!(answer.message()?, format!("container {name} is paused, unpause the container before attach"));
    t.ok(["unpause", &name])?;
    // A request for no websocket.
    let answer = t.api().get(format!("/containers/{name}/attach/ws?stream=1&stdout=1")).send()?;
    ensure_eq!(answer.status, 400, "{answer}");
    Ok(())
}

/// Docker takes messages of any size; here they have to fit into a little memory.
fn message_too_large(t: &Target) -> Outcome {
    let name = t.name("box");
    create(t, &name, "cat > /dev/null; exit 3", json!({}))?;
    let mut socket = attach(t, &name, "stream=1&stdin=1&stdout=1")?;
    start(t, &name)?;
    // The other side closes while this is on its way.
    let _ = socket.send(Message::binary(vec![0; 3 << 20]));
    wait::eventually_true("the container's input ends", Duration::from_secs(20), || {
        Ok(t.inspect(&name)?["State"]["ExitCode"] == 3)
    })
}
