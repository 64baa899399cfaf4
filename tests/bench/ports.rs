use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::archive::{self, Image, Tar, busybox_root};
use tests::engine::{Engine, Kind};
use tests::namespace::Namespace;
use tests::process::Running;
use tests::{leftovers, wait};

use crate::emulator::{Emulator, LAST_SLOT};
use crate::engines;
use crate::table::{Figure, Limit, Value};
use crate::traffic::{self, CLIENT, Mode, ROUNDS, SECONDS, SERVER, this_program, value};

const PORT: u16 = 7000;
/// An address of the host that is not a loopback one.
const OWN_ADDRESS: &str = "198.51.100.7";

/// What is measured, its name, and whether more is better.
const MODES: [(Mode, usize, &str); 4] = [
    (Mode::Up, 1, "one stream to the container"),
    (Mode::Down, 1, "one stream from the container"),
    (Mode::Up, 4, "four streams to the container"),
    (Mode::Exchange, 1, "a byte there and back"),
];

/// Ours natively, beside Docker's proxy (which serves loopback addresses) and Docker's rules (which serve all others).
pub(crate) fn published() -> Result<Vec<Figure>> {
    let engines = engines()?;
    for engine in &engines {
        serve(engine)?;
        let address = format!("{OWN_ADDRESS}/32");
        engine
            .namespace()
            .program("ip")
            .args(["addr", "add", &address, "dev", "lo"])
            .output()?
            .expect_code(0)?;
    }
    let mut figures = Vec::new();
    for (address, way, peer, least) in [
        ("127.0.0.1", "on a loopback address", "dockerd's proxy", 1.0),
        (OWN_ADDRESS, "on another address", "dockerd's rules", 0.9),
    ] {
        let clients: Vec<_> =
            engines.iter().map(|engine| Client::new(engine.namespace(), address)).collect::<Result<_>>()?;
        figures.extend(compare(&clients, &format!("published port {way}"), peer, Some(least))?);
    }
    Ok(figures)
}

/// Ours in a machine, beside the emulator's own user-mode network with the same kernel, processors and memory.
pub(crate) fn of_a_machine() -> Result<Vec<Figure>> {
    let engine = Engine::start(Kind::Machine)?;
    serve(&engine)?;
    let machine = engine.machine()?;
    let peer = Arc::new(Namespace::new()?);
    let _emulator = hostfwd(&Emulator::of(machine)?, &peer)?;
    let clients = [Client::new(engine.namespace(), "127.0.0.1")?, Client::new(&peer, "127.0.0.1")?];
    compare(&clients, "published port of a machine", "QEMU's hostfwd", Some(1.5))
}

/// Runs a server in a container, and publishes its port.
fn serve(engine: &Engine) -> Result<()> {
    let image = Image::new("traffic:latest", busybox_root()?).layer(programs(Tar::default())?.finish()?);
    let folder = leftovers::folder()?;
    let file = archive::write(folder.path(), "traffic.tar", &image.docker_archive()?)?;
    engine.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
    let port = format!("{PORT}/tcp");
    let body = json!({
        "Image": "traffic",
        "Cmd": ["/traffic", SERVER, format!("0.0.0.0:{PORT}")],
        "ExposedPorts": {&port: {}},
        "HostConfig": {"PortBindings": {&port: [{"HostPort": PORT.to_string()}]}},
    });
    let made = engine.api().post("/containers/create").json(&body).send()?.expect(201)?.json()?;
    let id = made["Id"].as_str().context("no id")?;
    engine.api().post(format!("/containers/{id}/start")).send()?.expect(204)?;
    Ok(())
}

/// This program, and the libraries that it needs.
pub(crate) fn programs(tar: Tar) -> Result<Tar> {
    let program = this_program()?;
    let mut tar = tar.file("traffic", 0o755, &std::fs::read(&program)?)?;
    for library in tests::programs::libraries(&program)? {
        let content = std::fs::read(&library).with_context(|| format!("reading {library}"))?;
        tar = tar.file(library.trim_start_matches('/'), 0o755, &content)?;
    }
    Ok(tar)
}

/// A server in a guest whose network is the emulator's, which forwards a port of the namespace's to it.
fn hostfwd(emulator: &Emulator, namespace: &Arc<Namespace>) -> Result<Running> {
    let folder = leftovers::folder()?;
    let disk = archive::write(folder.path(), "programs", &programs(Tar::default())?.finish()?)?;
    let drive = format!("file={},format=raw,if=none,id=programs,readonly=on", disk.display());
    let slot = LAST_SLOT - 1;
    let device = format!("virtio-blk-device,drive=programs,bus=virtio-mmio-bus.{slot}");
    let network = format!("user,id=net,hostfwd=tcp:127.0.0.1:{PORT}-:{PORT}");
    // Typed at the console of a shell, which is the first program. What comes before the kernel listens is lost.
    let script = format!(
        "{:\n<64}mount -t tmpfs none /tmp
         tar x -C /tmp </dev/vdb
         ip link set eth0 up
         ip addr add 10.0.2.15/24 dev eth0
         L=/tmp/lib64/ld-linux-x86-64.so.2
         exec $L --library-path /tmp/lib/x86_64-linux-gnu /tmp/traffic {SERVER} 0.0.0.0:{PORT}\n",
        ""
    );
    let program = emulator.program("/bin/sh", "stdio").stdin(script).args([
        "-drive",
        &drive,
        "-device",
        &device,
        "-netdev",
        &network,
        "-device",
        "virtio-net-device,netdev=net",
    ]);
    let running = namespace.adopt(program).timeout(Duration::from_secs(24 * 3600)).spawn()?;
    let client = Client::new(namespace, "127.0.0.1")?;
    let served = wait::eventually_true("the guest serves", Duration::from_secs(120), || {
        ensure!(!running.has_ended(), "it has ended");
        Ok(client.measure(Mode::Exchange, 1, "0.01").is_ok())
    });
    if let Err(error) = served {
        running.kill();
        return Err(error.context(format!("the emulator with its own network: {}", running.wait()?)));
    }
    // The disk stays open when its file is gone.
    drop(folder);
    Ok(running)
}

/// What connects to a published port.
struct Client {
    namespace: Arc<Namespace>,
    address: SocketAddr,
}

impl Client {
    fn new(namespace: &Arc<Namespace>, address: &str) -> Result<Self> {
        Ok(Self { namespace: Arc::clone(namespace), address: SocketAddr::new(address.parse()?, PORT) })
    }

    fn measure(&self, mode: Mode, connections: usize, seconds: &str) -> Result<f64> {
        let words = [CLIENT, &self.address.to_string(), mode.letter(), &connections.to_string(), seconds];
        traffic::figure(self.namespace.program(this_program()?).args(words))
    }
}

/// Measures ours and the peer's in turn.
fn compare(clients: &[Client], what: &str, peer: &'static str, least: Option<f64>) -> Result<Vec<Figure>> {
    wait::eventually_true("both serve", Duration::from_secs(60), || {
        Ok(clients.iter().all(|client| client.measure(Mode::Exchange, 1, "0.01").is_ok()))
    })?;
    let mut figures = Vec::new();
    for (mode, connections, name) in MODES {
        let mut all = vec![Vec::new(); clients.len()];
        for _ in 0..ROUNDS {
            for (client, values) in clients.iter().zip(&mut all) {
                values.push(client.measure(mode, connections, SECONDS).with_context(|| what.to_owned())?);
            }
        }
        let values: Vec<Value> = all.into_iter().map(|values| value(mode, values)).collect();
        let [ours, theirs] = values[..] else { continue };
        let limit = match mode {
            Mode::Exchange => None,
            _ => least.map(Limit::AtLeastRatio),
        };
        let name = format!("{what}: {name}");
        figures.push(Figure { name, ours, peer: Some((peer, theirs)), limit, samples: ROUNDS });
    }
    Ok(figures)
}
