//! Published ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

/// Where the test reaches the engine's own network.
const BESIDE: &[Kind] = &[Kind::Native, Kind::Dockerd];

cases! {
    tcp,
    from_outside,
    taken_outside,
    by_other_addresses,
    shown,
    all_that_is_exposed,
    ranges,
    taken,
    taken_by_a_stranger,
    given_back,
    refusals,
    half_close,
    whole_from_outside,
    seen_from_the_gateway,
    nobody_listens,
    udp.on(BESIDE),
    moves_with_the_gateway,
    after_a_crash.alone(),
    connections_outlive_the_engine.on(&[Kind::Machine]).alone(),
}

/// A container that answers `hello` on port 80, and its address.
fn server(t: &Target, name: &str, args: &[&str]) -> Result<String> {
    let script = "echo hello > /index.html && httpd -h / -p 80 && echo ready && sleep 1000";
    let options = ["run", "-d", "--name", name].into_iter().chain(args.iter().copied());
    t.ok(options.chain(["busybox", "sh", "-c", script]))?;
    ready(t, name)?;
    let networks = t.inspect(name)?["NetworkSettings"]["Networks"].clone();
    let first = networks.as_object().and_then(|all| all.values().next()).context("no network")?.clone();
    Ok(first["IPAddress"].as_str().context("no address")?.to_owned())
}

fn ready(t: &Target, name: &str) -> Outcome {
    wait::eventually_true("the server listens", Duration::from_secs(30), || {
        Ok(t.ok(["logs", name])?.lines().any(|line| line == "ready"))
    })
}

/// What the machine of the engine gets from an address of its own.
fn get(t: &Target, address: &str) -> Result<String> {
    let url = format!("http://{address}/index.html");
    let fetched = t.docker([
        "run",
        "--rm",
        "--network",
        "host",
        "busybox",
        "timeout",
        "4",
        "wget",
        "-q",
        "-O",
        "-",
        &url,
    ]);
    Ok(fetched.output()?.stdout().trim().to_owned())
}

/// The port of the engine's machine that `port` of a container is published at.
fn published(t: &Target, name: &str, port: &str) -> Result<String> {
    let bindings = t.inspect(name)?["NetworkSettings"]["Ports"][port].clone();
    Ok(bindings[0]["HostPort"].as_str().with_context(|| format!("{port} is at {bindings}"))?.to_owned())
}

fn tcp(t: &Target) -> Outcome {
    let name = t.name("web");
    server(t, &name, &["-p", "80"])?;
    let port = published(t, &name, "80/tcp")?;
    ensure_eq!(get(t, &format!("127.0.0.1:{port}"))?, "hello");
    ensure_eq!(get(t, &format!("[::1]:{port}"))?, "hello");
    Ok(())
}

/// What somebody gets from where the engine is run, or the machine that it is in.
fn get_outside(t: &Target, address: SocketAddr) -> Result<String> {
    let mut stream = t.namespace().connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("no end of a head in {answer:?}"))?;
    Ok(body.trim().to_owned())
}

fn from_outside(t: &Target) -> Outcome {
    let (web, local) = (t.name("web"), t.name("local"));
    server(t, &web, &["-p", "80"])?;
    server(t, &local, &["-p", "127.0.0.1:21100:80"])?;
    let port: u16 = published(t, &web, "80/tcp")?.parse()?;
    for address in
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
    {
        ensure_eq!(get_outside(t, address)?, "hello", "{address}");
    }
    let local_only = SocketAddr::from((Ipv4Addr::LOCALHOST, 21100));
    ensure_eq!(get_outside(t, local_only)?, "hello");
    // Many at once, and each to its end.
    let script = "echo ready; while :; do nc -l -p 81 -e head -c 1000000 /dev/zero; done";
    let many = t.name("many");
    t.ok(["run", "-d", "--name", &many, "-p", "21101:81", "busybox", "sh", "-c", script])?;
    ready(t, &many)?;
    let mut stream = t.namespace().connect((Ipv4Addr::LOCALHOST, 21101).into())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    ensure_eq!(bytes.len(), 1_000_000);
    // Stopped, it is refused; started, it is there again.
    t.ok(["stop", "-t", "0", &local])?;
    ensure!(t.namespace().connect(local_only).is_err(), "a stopped container's port is open");
    t.ok(["start", &local])?;
    wait::eventually_true("the server is there again", Duration::from_secs(30), || {
        Ok(get_outside(t, local_only).is_ok_and(|text| text == "hello"))
    })
}

fn taken_outside(t: &Target) -> Outcome {
    let stranger = t.namespace().in_network(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 21110))?))?;
    let name = t.name("web");
    let refused = t.fails(125, ["run", "--name", &name, "-p", "127.0.0.1:21110:80", "busybox", "true"])?;
    refused.expect_stderr("failed to bind host port")?.expect_stderr("address already in use")?;
    drop(stranger);
    t.ok(["start", &name])?;
    Ok(())
}

fn by_other_addresses(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.95.0.0/24"])?;
    let (web, local, client) = (t.name("web"), t.name("local"), t.name("client"));
    server(t, &web, &["-p", "80"])?;
    let at_loopback = server(t, &local, &["-p", "127.0.0.1::80"])?;
    let port = published(t, &web, "80/tcp")?;
    // From this machine, by an address that is not loopback's.
    ensure_eq!(get(t, &format!("10.95.0.1:{port}"))?, "hello");
    let local_port = published(t, &local, "80/tcp")?;
    ensure_eq!(get(t, &format!("10.95.0.1:{local_port}"))?, "");
    ensure_eq!(get(t, &format!("127.0.0.1:{local_port}"))?, "hello");
    // From a container of another network: by this machine's address, and not by the container's own.
    t.ok(["run", "-d", "--name", &client, "--network", &network, "busybox", "sh", "-c", SLEEP])?;
    let from_client = |address: &str| -> Result<String> {
        let url = format!("http://{address}/index.html");
        let fetched = t.docker(["exec", &client, "timeout", "4", "wget", "-q", "-O", "-", &url]).output()?;
        Ok(fetched.stdout().trim().to_owned())
    };
    ensure_eq!(from_client(&format!("10.95.0.1:{port}"))?, "hello");
    ensure_eq!(from_client(&format!("{at_loopback}:80"))?, "");
    // A container reaches its own port by the machine's address.
    let own = t.docker(["exec", &web, "timeout", "4", "wget", "-q", "-O", "-"]);
    let own = own.arg(format!("http://172.17.0.1:{port}/index.html")).output()?;
    ensure_eq!(own.stdout().trim(), "hello");
    Ok(())
}

fn shown(t: &Target) -> Outcome {
    let name = t.name("web");
    let args =
        ["run", "-d", "--name", &name, "-p", "80", "-p", "127.0.0.1::81", "-p", "53/udp", "--expose", "99"];
    t.ok(args.iter().copied().chain(["busybox", "sh", "-c", SLEEP]))?;
    let ports = t.inspect(&name)?["NetworkSettings"]["Ports"].clone();
    ensure_eq!(ports["99/tcp"], Value::Null);
    ensure!(ports.as_object().is_some_and(|ports| ports.len() == 4), "{ports}");
    let everywhere = &ports["80/tcp"];
    ensure_eq!((&everywhere[0]["HostIp"], &everywhere[1]["HostIp"]), (&json!("0.0.0.0"), &json!("::")));
    ensure_eq!(everywhere[0]["HostPort"], everywhere[1]["HostPort"]);
    ensure_eq!(ports["81/tcp"][0]["HostIp"], "127.0.0.1");
    ensure_eq!(ports["81/tcp"][1], Value::Null);
    let port = published(t, &name, "80/tcp")?;
    ensure_eq!(t.ok(["port", &name, "80"])?, format!("0.0.0.0:{port}\n[::]:{port}"));
    let filter = format!("name={name}");
    let column = t.ok(["ps", "--filter", &filter, "--format", "{{.Ports}}"])?;
    ensure!(column.contains(&format!("0.0.0.0:{port}->80/tcp, [::]:{port}->80/tcp")), "{column}");
    ensure!(column.contains("99/tcp") && column.contains("->53/udp"), "{column}");
    let by_port = t.ok(["ps", "-q", "--no-trunc", "--filter", &format!("publish={port}")])?;
    ensure_eq!(by_port, t.ok(["inspect", "-f", "{{.Id}}", &name])?);
    t.ok(["stop", &name])?;
    ensure_eq!(t.inspect(&name)?["NetworkSettings"]["Ports"], json!({}));
    ensure_eq!(t.ok(["port", &name])?, "");
    Ok(())
}

fn all_that_is_exposed(t: &Target) -> Outcome {
    let name = t.name("web");
    server(t, &name, &["-P", "--expose", "80-81"])?;
    let (first, second) = (published(t, &name, "80/tcp")?, published(t, &name, "81/tcp")?);
    ensure!(first != second, "both are at {first}");
    ensure_eq!(get(t, &format!("127.0.0.1:{first}"))?, "hello");
    Ok(())
}

fn ranges(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    server(t, &one, &["-p", "21000-21001:80"])?;
    server(t, &two, &["-p", "21000-21001:80"])?;
    let ports = [published(t, &one, "80/tcp")?, published(t, &two, "80/tcp")?];
    ensure_eq!(ports, ["21000", "21001"]);
    let three = t.name("three");
    t.fails(125, ["run", "--name", &three, "-p", "21000-21001:80", "busybox", "true"])?
        .expect_stderr("all ports are allocated")?;
    t.ok(["rm", "-f", &three])?;
    t.ok(["run", "-d", "--name", &three, "-p", "21010-21012:90-92", "busybox", "sh", "-c", SLEEP])?;
    ensure_eq!(published(t, &three, "92/tcp")?, "21012");
    Ok(())
}

fn taken(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    server(t, &one, &["-p", "21020:80"])?;
    let refused = t.fails(125, ["run", "--name", &two, "-p", "127.0.0.1:21020:80", "busybox", "true"])?;
    let refused = refused.expect_stderr(&format!(
        "failed to set up container networking: driver failed programming external \
                                 connectivity on endpoint {two} ("
    ))?;
    refused.expect_stderr("): Bind for 0.0.0.0:21020 failed: port is already allocated")?;
    let state = t.inspect(&two)?["State"].clone();
    ensure_eq!((&state["Status"], &state["ExitCode"]), (&json!("created"), &json!(128)));
    // Nothing of it is left: neither in the network, nor of the port.
    let network = t.api().get("/networks/bridge").send()?.json()?;
    ensure!(!network["Containers"].to_string().contains(&two), "{network}");
    t.ok(["rm", "-f", &one])?;
    t.ok(["start", &two])?;
    Ok(())
}

fn taken_by_a_stranger(t: &Target) -> Outcome {
    let (stranger, name) = (t.name("stranger"), t.name("web"));
    let script = "httpd -p 0.0.0.0:21030 && echo ready && sleep 1000";
    t.ok(["run", "-d", "--name", &stranger, "--network", "host", "busybox", "sh", "-c", script])?;
    ready(t, &stranger)?;
    let refused = t.fails(125, ["run", "--name", &name, "-p", "0.0.0.0:21030:80", "busybox", "true"])?;
    let refused = refused.expect_stderr("failed to bind host port")?;
    refused.expect_stderr("address already in use")?;
    t.fails(125, ["run", "--rm", "-p", "192.0.2.77:21031:80", "busybox", "true"])?
        .expect_stderr("cannot assign requested address")?;
    Ok(())
}

fn given_back(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    for name in [&one, &two] {
        server(t, name, &["-p", "21040:80"])?;
        ensure_eq!(get(t, "127.0.0.1:21040")?, "hello");
        t.ok(["stop", "-t", "0", name])?;
        ensure_eq!(get(t, "127.0.0.1:21040")?, "");
    }
    // A restart has it again.
    t.ok(["start", &one])?;
    wait::eventually_true("the server is there again", Duration::from_secs(30), || {
        Ok(get(t, "127.0.0.1:21040")? == "hello")
    })
}

fn refusals(t: &Target) -> Outcome {
    let create = |bindings: Value| {
        let body = json!({"Image": "busybox", "HostConfig": {"PortBindings": bindings}});
        t.api().post("/containers/create").json(&body).send()
    };
    let message = create(json!({"80/tcp": [{"HostPort": "99999"}]}))?.expect(400)?.message()?;
    ensure_eq!(message, "invalid port specification: \"99999\"");
    // Docker ignores ports of containers that have no network to publish.
    t.ok(["run", "--rm", "--network", "none", "-p", "21050:80", "busybox", "true"])?;
    let told =
        t.docker(["run", "--rm", "--network", "host", "-p", "21050:80", "busybox", "true"]).output()?;
    told.expect_code(0)?.expect_stderr("Published ports are discarded when using host network mode")?;
    let name = t.name("sctp");
    // Neither listens for SCTP here: Docker because the kernel lacks it.
    t.fails(125, ["run", "--name", &name, "-p", "21051:80/sctp", "busybox", "true"])?
        .expect_stderr("failed to set up container networking")?;
    Ok(())
}

fn half_close(t: &Target) -> Outcome {
    let name = t.name("box");
    // It answers when the question has ended.
    let script = "echo ready; while :; do nc -l -p 80 -e sh -c 'sum=$(md5sum); echo \"$sum\"'; done";
    t.ok(["run", "-d", "--name", &name, "-p", "80", "busybox", "sh", "-c", script])?;
    ready(t, &name)?;
    let port = published(t, &name, "80/tcp")?;
    let ask = format!("head -c 3000000 /dev/zero | nc 127.0.0.1 {port}");
    wait::eventually_true("the answer comes", Duration::from_secs(30), || {
        let asked =
            t.docker(["run", "--rm", "--network", "host", "busybox", "timeout", "5", "sh", "-c", &ask]);
        // md5 of three million zeros.
        Ok(asked.output()?.stdout().starts_with("c9fc2d3dd83ab67a129ac10b09c9ebbb"))
    })
}

/// A container that serves connections to port 81 in turn, each with `script`.
fn serving(t: &Target, name: &str, port: u16, script: &str) -> Outcome {
    let script = format!("echo ready; while :; do nc -l -p 81 -e sh -c '{script}'; done");
    let published = format!("{port}:81");
    t.ok(["run", "-d", "--name", name, "-p", &published, "busybox", "sh", "-c", &script])?;
    ready(t, name)
}

/// What a server answers to a question. Between two connections nobody listens; then it is asked again.
fn ask(t: &Target, address: SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    wait::eventually("a server answers", Duration::from_secs(30), || {
        let mut stream = t.namespace().connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut writing = stream.try_clone()?;
        let mut answer = Vec::new();
        let read = thread::scope(|scope| {
            scope.spawn(move || writing.write_all(question).and_then(|()| writing.shutdown(Shutdown::Write)));
            stream.read_to_end(&mut answer)
        });
        if answer.is_empty() {
            return Ok(None);
        }
        read?;
        Ok(Some(answer))
    })
}

fn whole_from_outside(t: &Target) -> Outcome {
    // It does not read at once, and answers what it was asked.
    serving(t, &t.name("echo"), 21120, "sleep 1; cat")?;
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let answer = ask(t, (Ipv4Addr::LOCALHOST, 21120).into(), &bytes)?;
    ensure!(answer == bytes, "{} bytes came back, or others", answer.len());
    Ok(())
}

/// A container sees clients of a loopback address come from its network's gateway.
fn seen_from_the_gateway(t: &Target) -> Outcome {
    let name = t.name("seen");
    let peers = r#"awk "\$4 == \"01\" && \$2 ~ /:0051\$/ { print \$3 }" /proc/net/tcp /proc/net/tcp6"#;
    serving(t, &name, 21121, peers)?;
    let gateway = t.inspect(&name)?["NetworkSettings"]["Networks"]["bridge"]["Gateway"].clone();
    let gateway: Ipv4Addr = gateway.as_str().context("no gateway")?.parse()?;
    // As the kernel writes it: a number in this machine's order.
    let expected = format!("{:08X}:", u32::from_ne_bytes(gateway.octets()));
    for host in [SocketAddr::from((Ipv4Addr::LOCALHOST, 21121)), (Ipv6Addr::LOCALHOST, 21121).into()] {
        let answer = String::from_utf8(ask(t, host, b"")?)?;
        let seen = answer.trim_start_matches("0000000000000000FFFF0000");
        ensure!(seen.starts_with(&expected), "by {host}, it came from {answer:?} and not {expected}");
    }
    Ok(())
}

fn nobody_listens(t: &Target) -> Outcome {
    let name = t.name("deaf");
    t.ok(["run", "-d", "--name", &name, "-p", "21122:81", "busybox", "sh", "-c", SLEEP])?;
    let mut stream = t.namespace().connect((Ipv4Addr::LOCALHOST, 21122).into())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // It ends at once, in order or not.
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("a connection to nobody gave {other:?}"),
    }
}

fn udp(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "-p", "7/udp", "busybox", "sh", "-c", SLEEP])?;
    let port: u16 = published(t, &name, "7/udp")?.parse()?;
    let pid = i32::try_from(t.inspect(&name)?["State"]["Pid"].as_i64().context("no pid")?)?;
    let place = format!("/proc/{}/ns/net", t.namespace().process(pid)?.pid.as_raw_nonzero());
    // A server in the container, as busybox has none.
    let server = thread::spawn(move || -> Result<UdpSocket> {
        let network = std::fs::File::open(&place).with_context(|| format!("opening {place}"))?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&network),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )?;
        Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7))?)
    });
    let server = server.join().map_err(|_| anyhow::anyhow!("a thread of the test panicked"))??;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    for host in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(172, 17, 0, 1)] {
        let client = t.namespace().in_network(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
        client.set_read_timeout(Some(Duration::from_secs(10)))?;
        let address = SocketAddr::from((host, port));
        let mut buffer = [0; 16];
        for word in ["one", "two"] {
            client.send_to(word.as_bytes(), address)?;
            let (length, from) = server.recv_from(&mut buffer)?;
            ensure_eq!(&buffer[..length], word.as_bytes());
            server.send_to(b"answer", from)?;
            let (length, from) = client.recv_from(&mut buffer)?;
            ensure_eq!((&buffer[..length], from), (&b"answer"[..], address));
        }
    }
    Ok(())
}

fn moves_with_the_gateway(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let name = t.name("web");
    server(t, &name, &["-p", "21060:80"])?;
    t.ok(["network", "connect", &network, &name])?;
    t.ok(["network", "disconnect", "bridge", &name])?;
    ensure_eq!(get(t, "127.0.0.1:21060")?, "hello");
    t.ok(["network", "disconnect", &network, &name])?;
    ensure_eq!(t.inspect(&name)?["NetworkSettings"]["Ports"]["80/tcp"], Value::Null);
    ensure_eq!(get(t, "127.0.0.1:21060")?, "");
    Ok(())
}

fn after_a_crash(t: &Target) -> Outcome {
    let (web, random) = (t.name("web"), t.name("random"));
    server(t, &web, &["-p", "21070:80"])?;
    server(t, &random, &["-p", "80"])?;
    let port = published(t, &random, "80/tcp")?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(published(t, &random, "80/tcp")?, port);
    for port in ["21070", &port] {
        ensure_eq!(get(t, &format!("127.0.0.1:{port}"))?, "hello");
        ensure_eq!(get(t, &format!("172.17.0.1:{port}"))?, "hello");
    }
    let third = t.name("third");
    t.fails(125, ["run", "--name", &third, "-p", "21070:80", "busybox", "true"])?
        .expect_stderr("port is already allocated")?;
    Ok(())
}

/// No process of the machine carries them.
fn connections_outlive_the_engine(t: &Target) -> Outcome {
    let name = t.name("echo");
    serving(t, &name, 21130, "cat")?;
    let mut stream = wait::eventually("somebody listens", Duration::from_secs(30), || {
        let mut stream = t.namespace().connect((Ipv4Addr::LOCALHOST, 21130).into())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let echoed = stream.write_all(b"before").and_then(|()| stream.read_exact(&mut [0; 6]));
        Ok(echoed.is_ok().then_some(stream))
    })?;
    t.crash()?;
    t.recover()?;
    let mut echo = [0; 5];
    stream.write_all(b"after")?;
    stream.read_exact(&mut echo)?;
    ensure_eq!(&echo, b"after");
    Ok(())
}
