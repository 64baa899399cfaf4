//! How a machine reaches the outside. What stands for the world here is the private network namespace in which the
//! machine process runs.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::archive::{Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::proxy::Proxy;
use tests::target::Target;
use tests::{archive, cases, ensure_eq, programs, roles};

/// More than any wait for a network that answers, and less than one that does not.
const AT_ONCE: Duration = Duration::from_secs(20);

cases! {
    address_route_and_name_server.on(&[Kind::Machine]),
    servers_of_the_host.on(&[Kind::Machine]),
    bytes_arrive_whole_both_ways.on(&[Kind::Machine]),
    packages_of_a_mirror.on(&[Kind::Machine]),
    refusals.on(&[Kind::Machine]),
    pings.on(&[Kind::Machine]),
    names.on(&[Kind::Machine]).alone(),
    pull_from_a_registry_of_the_host.on(&[Kind::Machine]),
    network_after_a_restart.on(&[Kind::Machine]).alone(),
    ports_of_the_host_network.on(&[Kind::Machine]),
    datagrams_to_containers.on(&[Kind::Machine]),
    proxies_of_the_host.on(&[Kind::Machine]).alone(),
}

/// `docker run --rm --network host busybox sh -c SCRIPT`.
fn run(t: &Target, script: &str) -> anyhow::Result<String> {
    t.ok(["run", "--rm", "--network", "host", "busybox", "sh", "-c", script])
}

/// A server on the host's loopback address that gives `body` to everyone; its port.
fn web_server(t: &Target, body: &[u8]) -> anyhow::Result<u16> {
    let bind = || TcpListener::bind("127.0.0.1:0").context("binding a server's port");
    let listener = t.namespace().in_network(bind)?;
    let port = listener.local_addr()?.port();
    let mut answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || -> std::io::Result<()> {
                let mut lines = BufReader::new(client.try_clone()?).lines();
                while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
                client.write_all(&answer)
            });
        }
    });
    Ok(port)
}

fn address_route_and_name_server(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let address = machine.ok(["shell", "--", "ip", "-4", "addr", "show", "eth0"])?;
    ensure!(address.contains("inet 192.168.127.2/24") && address.contains("mtu 65500"), "{address}");
    let routes = machine.ok(["shell", "--", "ip", "route"])?;
    ensure!(routes.contains("default via 192.168.127.1 dev eth0"), "{routes}");
    let resolver = machine.ok(["shell", "--", "cat", "/etc/resolv.conf"])?;
    ensure!(resolver.lines().any(|line| line == "nameserver 192.168.127.1"), "{resolver}");
    // The driver took what makes it quick.
    let features = machine.ok(["shell", "--", "cat", "/sys/class/net/eth0/device/features"])?;
    for (bit, name) in [
        (0, "CSUM"),
        (1, "GUEST_CSUM"),
        (3, "MTU"),
        (7, "GUEST_TSO4"),
        (8, "GUEST_TSO6"),
        (11, "HOST_TSO4"),
        (12, "HOST_TSO6"),
        (15, "MRG_RXBUF"),
    ] {
        ensure_eq!(features.as_bytes().get(bit), Some(&b'1'), "{name} in {features}");
    }
    Ok(())
}

fn servers_of_the_host(t: &Target) -> Outcome {
    let port = web_server(t, b"from the host")?;
    for name in
        ["host.docker.internal", "gateway.docker.internal", "host.coracle.internal", "192.168.127.254"]
    {
        ensure_eq!(run(t, &format!("wget -qO- http://{name}:{port}/"))?, "from the host", "{name}");
    }
    Ok(())
}

fn bytes_arrive_whole_both_ways(t: &Target) -> Outcome {
    let data: Vec<u8> = (0..20_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let folder = t.folder();
    let file = archive::write(folder, "data", &data)?;
    let sum = t.program("/usr/bin/md5sum").stdin_file(&file).output()?.text()?;
    let port = web_server(t, &data)?;
    ensure_eq!(run(t, &format!("wget -qO- http://host.docker.internal:{port}/ | md5sum"))?, sum);

    // And back: what a container sends until it ends, and how much that was.
    let bind = || TcpListener::bind("127.0.0.1:0").context("binding a server's port");
    let listener = t.namespace().in_network(bind)?;
    let back = listener.local_addr()?.port();
    let received = thread::spawn(move || -> std::io::Result<u64> {
        let (mut client, _) = listener.accept()?;
        let count = std::io::copy(&mut client, &mut std::io::sink())?;
        client.write_all(b"all here\n")?;
        Ok(count)
    });
    let send = format!("head -c 20000000 /dev/zero | nc host.docker.internal {back}");
    ensure_eq!(run(t, &send)?, "all here");
    let count = received.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure_eq!(count, 20_000_000);
    Ok(())
}

/// Serves a folder's files to everyone on the host's loopback address, each at its name; the port.
fn mirror(t: &Target, folder: &Path) -> anyhow::Result<u16> {
    let bind = || TcpListener::bind("127.0.0.1:0").context("binding a server's port");
    let listener = t.namespace().in_network(bind)?;
    let port = listener.local_addr()?.port();
    let folder = folder.to_owned();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let folder = folder.clone();
            thread::spawn(move || -> std::io::Result<()> {
                let mut lines = BufReader::new(client.try_clone()?).lines();
                let request = lines.next().transpose()?.unwrap_or_default();
                while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
                let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
                match std::fs::read(folder.join(name)) {
                    Ok(body) => {
                        write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
                        client.write_all(&body)
                    }
                    Err(_) => client.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n"),
                }
            });
        }
    });
    Ok(port)
}

/// What a package manager does: it reads an index, and then what that names, of all sizes and many at once.
fn packages_of_a_mirror(t: &Target) -> Outcome {
    const PACKAGES: usize = 30;
    let folder = t.folder().join("mirror");
    std::fs::create_dir(&folder)?;
    let names: Vec<String> = (0..PACKAGES).map(|number| format!("package-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        // Up to 2.4 MB.
        let size = 3 * 937_usize.pow(u32::try_from(number % 3)?) + number;
        let bytes: Vec<u8> = (0..size).map(|at| (at * (number + 7) % 251).to_le_bytes()[0]).collect();
        archive::write(&folder, name, &bytes)?;
    }
    let index = t.program("/usr/bin/md5sum").args(&names).current_dir(&folder).output()?.text()?;
    archive::write(&folder, "index", format!("{index}\n").as_bytes())?;
    let port = mirror(t, &folder)?;
    let script = format!(
        "cd /tmp && wget -q http://host.docker.internal:{port}/index && cut -c35- index |
         xargs -n 1 -P 6 -I NAME wget -q http://host.docker.internal:{port}/NAME && md5sum -c index"
    );
    let checked = t.ok(["run", "--rm", "busybox", "sh", "-c", &script])?;
    ensure_eq!(checked.lines().filter(|line| line.ends_with(": OK")).count(), PACKAGES, "{checked}");
    // One that is not there is said to be so.
    let missing = format!("wget -q http://host.docker.internal:{port}/none");
    t.fails(1, ["run", "--rm", "busybox", "sh", "-c", &missing])?.expect_stderr("404")?;
    Ok(())
}

fn refusals(t: &Target) -> Outcome {
    let free = t.namespace().in_network(|| Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()))?;
    for (address, why) in [
        (format!("host.docker.internal:{free}"), "Connection refused"),
        ("192.168.127.1:80".to_owned(), "Connection refused"),
        // Nobody has this one; and out of this namespace there is no way.
        ("192.168.127.77:80".to_owned(), "No route to host"),
        ("203.0.113.1:80".to_owned(), "Network is unreachable"),
    ] {
        let begun = Instant::now();
        let script = format!("wget -qO- http://{address}/");
        t.fails(1, ["run", "--rm", "--network", "host", "busybox", "sh", "-c", &script])?
            .expect_stderr(why)?;
        let time = begun.elapsed();
        ensure!(time < AT_ONCE, "{address} took {time:?}");
    }
    Ok(())
}

fn pings(t: &Target) -> Outcome {
    for address in ["192.168.127.1", "host.docker.internal"] {
        let answer = run(t, &format!("ping -c 1 -W 5 {address}"))?;
        ensure!(answer.contains("1 packets received"), "{answer}");
    }
    // There is no way to this one, and nobody answers for it.
    let answer = run(t, "ping -c 1 -W 1 203.0.113.1; true")?;
    ensure!(answer.contains("0 packets received"), "{answer}");
    // One out there, once the host lets its users ping.
    let inside = |words: &str| t.namespace().program("sh").args(["-c", words]).output()?.expect_code(0);
    inside("ip addr add 198.51.100.7/32 dev lo && echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range")?;
    let answer = run(t, "ping -c 2 -W 5 198.51.100.7")?;
    ensure!(answer.contains("2 packets received"), "{answer}");
    Ok(())
}

/// The host's resolver answers, also one that the host comes to use while the machine runs.
fn names(t: &Target) -> Outcome {
    for (server, address) in [("127.0.0.1", [10, 1, 2, 3]), ("127.0.0.2", [10, 4, 5, 6])] {
        let bind = || UdpSocket::bind((server, 53)).context("binding a name server's port");
        let socket = t.namespace().in_network(bind)?;
        thread::spawn(move || -> std::io::Result<()> {
            let mut bytes = [0; 512];
            loop {
                let (len, from) = socket.recv_from(&mut bytes)?;
                socket.send_to(&answer(&bytes[..len], address), from)?;
            }
        });
        let file = archive::write(t.folder(), server, format!("nameserver {server}\n").as_bytes())?;
        let mount = t.namespace().program("/bin/mount").arg("--bind").arg(file).arg("/etc/resolv.conf");
        mount.output()?.expect_code(0)?;
        let [a, b, c, d] = address;
        let expected = format!("Address: {a}.{b}.{c}.{d}");
        tests::wait::eventually_true("the new name server is asked", Duration::from_secs(60), || {
            Ok(run(t, "nslookup -type=a some.example.org || true")?.lines().any(|line| line == expected))
        })?;
    }
    // The host's own names are answered without anyone's help.
    let own = run(t, "nslookup -type=a host.docker.internal")?;
    ensure!(own.contains("192.168.127.254"), "{own}");
    Ok(())
}

/// An answer to a question for an address, and an empty one to every other.
fn answer(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80;
    // The last four bytes are type and class (RFC 1035, section 4.1.2): the client sends no other records.
    if question.ends_with(&[0, 1, 0, 1]) {
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        answer.extend_from_slice(&address);
    }
    answer
}

fn pull_from_a_registry_of_the_host(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let name = t.name("pulled");
    let layer = Tar::default().file("name", 0o644, name.as_bytes())?.finish()?;
    let image = Image::new("unused", busybox_root()?).layer(layer);
    registry.push(&name, "v1", &image)?;
    let full = format!("host.docker.internal:5000/{name}:v1");
    t.ok(["pull", &full])?;
    ensure_eq!(t.ok(["run", "--rm", "--network", "none", &full, "cat", "/name"])?, name);
    t.ok(["rmi", &full])?;
    Ok(())
}

fn network_after_a_restart(t: &Target) -> Outcome {
    let port = web_server(t, b"again")?;
    let machine = t.machine()?;
    machine.ok(["restart"])?;
    t.ok(["version"])?;
    ensure_eq!(run(t, &format!("wget -qO- http://host.docker.internal:{port}/"))?, "again");
    Ok(())
}

/// To its user a container with `--network host` is in the host's network.
fn ports_of_the_host_network(t: &Target) -> Outcome {
    let [any, loopback] = [t.name("any"), t.name("loopback")];
    let serve = |name: &str, place: &str| {
        let script = format!("echo {name} > /index.html; exec httpd -f -h / -p {place}");
        t.ok(["run", "-d", "--network", "host", "--name", name, "busybox", "sh", "-c", &script])
    };
    let get = |address: &str| -> anyhow::Result<String> {
        let mut server = t.namespace().connect(address.parse()?)?;
        server.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut lines = BufReader::new(server).lines();
        lines.by_ref().take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
        Ok(lines.next().context("no answer")??)
    };
    let eventually = |what: &str, address: &str, expected: Option<&str>| {
        tests::wait::eventually_true(what, Duration::from_secs(30), || {
            Ok(get(address).ok().as_deref() == expected)
        })
    };
    serve(&any, "8081")?;
    eventually("the host has the container's port", "127.0.0.1:8081", Some(&any))?;
    // The two families are opened one after the other.
    eventually("and on IPv6", "[::1]:8081", Some(&any))?;
    // Also on other addresses of the host's, unless the program listens on the loopback address alone.
    t.namespace()
        .program("ip")
        .args(["addr", "add", "198.51.100.8/32", "dev", "lo"])
        .output()?
        .expect_code(0)?;
    ensure_eq!(get("198.51.100.8:8081")?, any);
    serve(&loopback, "127.0.0.1:8082")?;
    eventually("the host has the other's port", "127.0.0.1:8082", Some(&loopback))?;
    ensure!(get("198.51.100.8:8082").is_err(), "a loopback port is open to others");
    t.ok(["rm", "-f", &any])?;
    eventually("the port is closed with its container", "127.0.0.1:8081", None)?;
    ensure_eq!(get("127.0.0.1:8082")?, loopback);
    Ok(())
}

/// A published port of UDP, and one that a container with `--network host` has opened: both are the host's.
fn datagrams_to_containers(t: &Target) -> Outcome {
    let folder = t.folder().join("programs");
    programs::copy(programs::OWN, &folder)?;
    let mount = format!("{}:{}:ro", folder.display(), programs::FOLDER);
    for (what, options, inside, port) in
        [("published", ["-p", "9107:7/udp"], 7, 9107), ("open", ["--network", "host"], 9108, 9108)]
    {
        let name = t.name(what);
        let serve = format!("exec {} {} {inside}", programs::call(programs::OWN), roles::ECHO);
        t.ok([
            "run", "-d", "--name", &name, "-v", &mount, options[0], options[1], "busybox", "sh", "-c", &serve,
        ])?;
        tests::wait::eventually_true("the server listens", Duration::from_secs(30), || {
            Ok(t.ok(["logs", &name])?.contains(roles::LISTENING))
        })?;
        for host in ["127.0.0.1", "[::1]"] {
            let server: SocketAddr = format!("{host}:{port}").parse()?;
            let unspecified = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = t.namespace().in_network(|| Ok(UdpSocket::bind(unspecified)?))?;
            client.set_read_timeout(Some(Duration::from_secs(1)))?;
            let mut answer = vec![0; 1 << 16];
            let mut ask = |words: &[u8]| -> anyhow::Result<Vec<u8>> {
                client.send_to(words, server)?;
                let (length, from) = client.recv_from(&mut answer)?;
                ensure_eq!(from, server);
                Ok(answer[..length].to_vec())
            };
            // What the container has opened by itself is found a moment later.
            tests::wait::eventually_true("the host has the port", Duration::from_secs(30), || {
                Ok(ask(b"hello").is_ok_and(|answer| answer == b"HELLO"))
            })?;
            // The largest that fits into one of IPv4.
            let large = vec![b'x'; 65_507];
            ensure_eq!(ask(&large)?, large.to_ascii_uppercase(), "{what} at {server}");
        }
        t.ok(["rm", "-f", &name])?;
    }
    Ok(())
}

/// The proxies that `coracle start` finds in its environment are those of pulls and, if asked, of containers; one on
/// the host's loopback address is reached.
fn proxies_of_the_host(t: &Target) -> Outcome {
    const PORT: u16 = 3128;
    let machine = t.machine()?;
    let server = web_server(t, b"by proxy")?;
    let proxy = Proxy::start(t.namespace(), PORT, ([127, 0, 0, 1], server).into())?;
    machine.ok(["config", "set", "container-proxy", "true"])?;
    machine.ok(["config", "set", "no-proxy", "direct.test"])?;
    let url = format!("http://127.0.0.1:{PORT}");
    let restart = machine.coracle(["restart"]).env("http_proxy", &url).env("HTTPS_PROXY", &url);
    restart.output()?.expect_code(0)?;

    let seen = format!("http://host.docker.internal:{PORT}/");
    ensure_eq!(t.ok(["info", "--format", "{{.HTTPProxy}} {{.HTTPSProxy}}"])?, format!("{seen} {seen}"));
    t.fails(1, ["pull", "registry.test/some/image"])?;
    proxy.expect("CONNECT registry.test:443 ")?;
    let get = "wget -qO- http://anything.test/page";
    let run = |options: &[&str]| t.ok([&["run", "--rm"], options, &["busybox", "sh", "-c", get]].concat());
    ensure_eq!(run(&[])?, "by proxy");
    proxy.expect("GET http://anything.test/page ")?;
    let environment = t.ok(["run", "--rm", "busybox", "env"])?;
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        ensure!(environment.lines().any(|line| line == format!("{variable}={seen}")), "{environment}");
    }
    ensure!(environment.contains("NO_PROXY=direct.test,host.docker.internal,"), "{environment}");
    // What the user says holds.
    ensure!(run(&["-e", "http_proxy="]).is_err(), "a name that nobody knows was found");
    // A password of the host's is in no list of processes.
    let processes = machine.ok(["shell", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"])?;
    ensure!(!processes.contains("3128"), "{processes}");
    machine.ok(["config", "set", "container-proxy", "false"])?;
    machine.ok(["restart"])?;
    ensure!(!t.ok(["run", "--rm", "busybox", "env"])?.to_lowercase().contains("proxy"), "a proxy is left");
    Ok(())
}
