//! Names of containers in networks of the user's, and of the rest of the world.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq};

/// Where a server for names can be put beside the engine.
const BESIDE: &[Kind] = &[Kind::Native, Kind::Dockerd];

cases! {
    of_containers,
    of_several_containers,
    back_from_addresses,
    only_in_ones_own_networks,
    for_one_container,
    port_53_is_the_containers,
    of_the_world.on(BESIDE).alone(),
    renamed,
    after_a_crash.alone(),
}

fn runs(t: &Target, name: &str, args: &[&str]) -> Result<String> {
    let options = ["run", "-d", "--name", name].into_iter().chain(args.iter().copied());
    t.ok(options.chain(["busybox", "sh", "-c", SLEEP]))
}

/// The addresses that `name` has for a container, in the order told; none if there is no such name.
fn lookup(t: &Target, container: &str, name: &str) -> Result<Vec<String>> {
    let output = t.docker(["exec", container, "nslookup", "-type=a", name]).output()?;
    let text = output.stdout();
    // The first address is the server's.
    let addresses = text.lines().filter_map(|line| line.strip_prefix("Address: "));
    Ok(addresses.map(|address| address.trim().to_owned()).collect())
}

fn address(t: &Target, container: &str, network: &str) -> Result<String> {
    let inspected = t.inspect(container)?;
    let address = inspected["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
    Ok(address.context("no address")?.to_owned())
}

fn of_containers(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let (web, client) = (t.name("web"), t.name("client"));
    let id = runs(t, &web, &["--network", &network, "--network-alias", "front", "--hostname", "sea"])?;
    runs(t, &client, &["--network", &network])?;
    let here = vec![address(t, &web, &network)?];
    let full = format!("{web}.{network}");
    for name in [web.as_str(), "front", "FRONT", "sea", &id[..12], &full] {
        ensure_eq!(lookup(t, &client, name)?, here, "{name}");
    }
    // A family that it has no address of is no reason to doubt the name.
    let six = t.docker(["exec", &client, "nslookup", "-type=aaaa", &web]).output()?;
    ensure!(!six.stdout().contains("NXDOMAIN"), "{six}");
    ensure_eq!(t.ok(["exec", &client, "grep", "nameserver", "/etc/resolv.conf"])?, "nameserver 127.0.0.11");
    t.ok(["stop", "-t", "0", &web])?;
    ensure_eq!(lookup(t, &client, "front")?, [""; 0]);
    Ok(())
}

fn of_several_containers(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let names = [t.name("a"), t.name("b"), t.name("c")];
    let mut all = Vec::new();
    for name in &names {
        runs(t, name, &["--network", &network, "--network-alias", "crew"])?;
        all.push(address(t, name, &network)?);
    }
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let mut told = lookup(t, &names[0], "crew")?;
        firsts.extend(told.first().cloned());
        told.sort();
        ensure_eq!(told, all);
        if firsts.len() > 1 {
            return Ok(());
        }
    }
    anyhow::bail!("{firsts:?} is always first")
}

fn back_from_addresses(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.90.0.0/24"])?;
    let (web, client) = (t.name("web"), t.name("client"));
    runs(t, &web, &["--network", &network, "--ip", "10.90.0.9"])?;
    runs(t, &client, &["--network", &network])?;
    let text = t.ok(["exec", &client, "nslookup", "10.90.0.9"])?;
    ensure!(text.contains(&format!("{web}.{network}")), "{text}");
    Ok(())
}

fn only_in_ones_own_networks(t: &Target) -> Outcome {
    let (one, two) = (t.network("one", &[])?, t.network("two", &[])?);
    let (a, b, both) = (t.name("a"), t.name("b"), t.name("both"));
    runs(t, &a, &["--network", &one])?;
    runs(t, &b, &["--network", &two])?;
    runs(t, &both, &["--network", &one])?;
    t.ok(["network", "connect", &two, &both])?;
    ensure_eq!(lookup(t, &a, &b)?, [""; 0]);
    ensure_eq!(lookup(t, &both, &a)?, [address(t, &a, &one)?]);
    ensure_eq!(lookup(t, &both, &b)?, [address(t, &b, &two)?]);
    t.ok(["network", "disconnect", &two, &both])?;
    ensure_eq!(lookup(t, &both, &b)?, [""; 0]);
    Ok(())
}

fn for_one_container(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let (web, linked, other) = (t.name("web"), t.name("linked"), t.name("other"));
    runs(t, &web, &["--network", &network])?;
    runs(t, &linked, &["--network", &network, "--link", &format!("{web}:mine")])?;
    runs(t, &other, &["--network", &network])?;
    ensure_eq!(lookup(t, &linked, "mine")?, [address(t, &web, &network)?]);
    ensure_eq!(lookup(t, &other, "mine")?, [""; 0]);
    Ok(())
}

fn port_53_is_the_containers(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let name = t.name("server");
    let script = "httpd -p 0.0.0.0:53 && echo ready && sleep 1000";
    t.ok(["run", "-d", "--name", &name, "--network", &network, "busybox", "sh", "-c", script])?;
    tests::wait::eventually_true("the server listens", Duration::from_secs(20), || {
        Ok(t.ok(["logs", &name])? == "ready")
    })?;
    ensure_eq!(lookup(t, &name, &name)?, [address(t, &name, &network)?]);
    Ok(())
}

/// Answers every question for an address with 192.0.2.1: by UDP with a cut-off answer when `large` is asked for.
struct Server {
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Server {
    fn start(t: &Target) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
        let (udp, tcp) = t.namespace().in_network(|| Ok((UdpSocket::bind(any)?, TcpListener::bind(any)?)))?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        tcp.set_nonblocking(true)?;
        let end = Arc::new(AtomicBool::new(false));
        let (ends, also_ends) = (Arc::clone(&end), Arc::clone(&end));
        let by_udp = thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                let cut = buffer[..length].windows(6).any(|part| part == b"\x05large");
                let _ = udp.send_to(&answer(&buffer[..length], cut), from);
            }
        });
        let by_tcp = thread::spawn(move || {
            while !also_ends.load(Ordering::Relaxed) {
                let Ok((mut connection, _)) = tcp.accept() else {
                    tests::wait::let_pass(Duration::from_millis(20));
                    continue;
                };
                let mut length = [0; 2];
                let _ = connection.set_nonblocking(false);
                if connection.read_exact(&mut length).is_ok() {
                    let mut question = vec![0; u16::from_be_bytes(length).into()];
                    if connection.read_exact(&mut question).is_ok() {
                        let answer = answer(&question, false);
                        let length = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes();
                        let _ = connection.write_all(&[&length[..], &answer].concat());
                    }
                }
            }
        });
        Ok(Self { end, threads: vec![by_udp, by_tcp] })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// RFC 1035: the question again, and one address unless the answer is cut off.
fn answer(question: &[u8], cut: bool) -> Vec<u8> {
    let end = question[12..].iter().position(|byte| *byte == 0).map_or(question.len(), |at| 12 + at + 5);
    let mut answer = question[..end.min(question.len())].to_vec();
    answer[2] = 0x81 | if cut { 2 } else { 0 };
    answer[3] = 0x80;
    answer[6..12].copy_from_slice(&[0, u8::from(!cut), 0, 0, 0, 0]);
    if !cut {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    answer
}

fn of_the_world(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.91.0.0/24"])?;
    let _server = Server::start(t)?;
    let name = t.name("box");
    runs(t, &name, &["--network", &network, "--dns", "10.91.0.1"])?;
    ensure_eq!(lookup(t, &name, "www.example.org")?, ["192.0.2.1"]);
    // What UDP cuts off is asked again by TCP: here by hand, as this busybox does not.
    let address: IpAddr = [127, 0, 0, 11].into();
    let pid = i32::try_from(t.inspect(&name)?["State"]["Pid"].as_i64().context("no pid")?)?;
    let pid = if t.kind() == Kind::Native || t.kind() == Kind::Dockerd {
        t.namespace().process(pid)?.pid
    } else {
        anyhow::bail!("only beside an engine")
    };
    let place = format!("/proc/{}/ns/net", pid.as_raw_nonzero());
    let question =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05large\x07example\x00\x00\x01\x00\x01";
    let (by_udp, by_tcp) = thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<(Vec<u8>, Vec<u8>)> {
            let network = std::fs::File::open(&place).with_context(|| format!("opening {place}"))?;
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&network),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
            let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            udp.set_read_timeout(Some(Duration::from_secs(10)))?;
            udp.send_to(question, (address, 53))?;
            let mut buffer = vec![0; 512];
            let length = udp.recv(&mut buffer)?;
            buffer.truncate(length);
            let mut tcp = std::net::TcpStream::connect((address, 53))?;
            tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
            tcp.write_all(&[&u16::try_from(question.len())?.to_be_bytes()[..], question].concat())?;
            let mut length = [0; 2];
            tcp.read_exact(&mut length)?;
            let mut whole = vec![0; u16::from_be_bytes(length).into()];
            tcp.read_exact(&mut whole)?;
            Ok((buffer, whole))
        });
        asking.join().map_err(|_| anyhow::anyhow!("a thread of the test panicked"))?
    })?;
    ensure_eq!(by_udp[..2], question[..2]);
    ensure!(by_udp[2] & 2 != 0, "the answer by UDP is not cut off: {by_udp:?}");
    ensure!(by_tcp.ends_with(&[192, 0, 2, 1]), "{by_tcp:?}");
    Ok(())
}

fn renamed(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let (old, new, client) = (t.name("old"), t.name("new"), t.name("client"));
    runs(t, &old, &["--network", &network])?;
    runs(t, &client, &["--network", &network])?;
    t.ok(["rename", &old, &new])?;
    ensure_eq!(lookup(t, &client, &new)?, [address(t, &new, &network)?]);
    ensure_eq!(lookup(t, &client, &old)?, [""; 0]);
    Ok(())
}

fn after_a_crash(t: &Target) -> Outcome {
    let network = t.network("net", &[])?;
    let (web, client) = (t.name("web"), t.name("client"));
    runs(t, &web, &["--network", &network])?;
    runs(t, &client, &["--network", &network])?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(lookup(t, &client, &web)?, [address(t, &web, &network)?]);
    Ok(())
}
