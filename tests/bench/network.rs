use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::case::Skip;
use tests::namespace::Namespace;
use tests::process::{Program, Running};
use tests::{places, wait};

use crate::table::{Figure, Limit, Value};
use crate::traffic::{self, CLIENT, Mode, ROUNDS, SECONDS, SERVER, median, this_program, value};

/// Connections that do nothing while another one is measured.
const IDLE: usize = 10_000;
/// What runs in the guest's namespace and keeps it.
const HOLDER: &str = "1000001";
const PORT: u16 = 7000;

/// Who joins a namespace to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Pasta,
    Slirp,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Ours, Kind::Pasta, Kind::Slirp];

    fn name(self) -> &'static str {
        match self {
            Kind::Ours => "usernet",
            Kind::Pasta => "pasta",
            Kind::Slirp => "slirp4netns",
        }
    }

    /// The address of the host's loopback interface, seen from the namespace.
    fn host(self) -> &'static str {
        match self {
            Kind::Ours => "192.168.127.254",
            Kind::Pasta => "10.9.9.1",
            Kind::Slirp => "10.0.2.2",
        }
    }
}

/// A namespace that stands for a guest, joined to one that stands for the host.
struct Joined {
    kind: Kind,
    host: Arc<Namespace>,
    /// The holder's number in the host's namespace.
    guest: i32,
    network: Running,
    _others: [Running; 2],
}

impl Joined {
    fn new(kind: Kind) -> Result<Self> {
        let host = Arc::new(Namespace::new()?);
        let day = Duration::from_secs(24 * 3600);
        // Network and user namespace, so that whoever joins it needs no rights on this machine.
        let holder =
            host.program("unshare").args(["-U", "-r", "-n", "sleep", HOLDER]).timeout(day).spawn()?;
        let guest = wait::eventually("the guest's namespace is there", Duration::from_secs(10), || {
            let processes = host.processes()?;
            let found = processes.iter().find(|process| process.line == format!("sleep {HOLDER}"));
            Ok(found.map(|process| process.inner_pid))
        })?;
        let server = host.program(this_program()?).args([SERVER, &format!("127.0.0.1:{PORT}")]);
        let server = server.timeout(day).spawn()?;
        let (user, net) = (format!("/proc/{guest}/ns/user"), format!("/proc/{guest}/ns/net"));
        let network = match kind {
            Kind::Ours => host.program(tap()?).args([net.as_str(), "tap0"]),
            Kind::Pasta => {
                // It takes addresses and routes from an interface of the host's.
                for words in [
                    "link add outside type veth peer name world",
                    "link set world up",
                    "addr add 10.9.9.2/24 dev outside",
                    "link set outside up",
                    "route add default via 10.9.9.1",
                ] {
                    host.program("ip").args(words.split(' ')).output()?.expect_code(0)?;
                }
                let words = ["--foreground", "--runas", "0", "--config-net", "--map-host-loopback"];
                host.program(places::networks()?.join("pasta"))
                    .args(words)
                    .args([kind.host(), &guest.to_string()])
            }
            Kind::Slirp => {
                let user = format!("--userns-path={user}");
                let words = ["--configure", "--mtu=65520", &user, "--netns-type=path", &net, "tap0"];
                host.program(places::networks()?.join("slirp4netns")).args(words)
            }
        };
        let network = network.timeout(day).spawn()?;
        let joined = Joined { kind, host, guest, network, _others: [holder, server] };
        joined.wait_until_it_works()?;
        Ok(joined)
    }

    /// A program in the guest's namespace.
    fn program(&self, path: impl AsRef<std::ffi::OsStr>) -> Program {
        let (user, net) =
            (format!("--user=/proc/{}/ns/user", self.guest), format!("--net=/proc/{}/ns/net", self.guest));
        self.host.program("nsenter").args(["--preserve-credentials", &user, &net, "--"]).arg(path)
    }

    fn client(&self, mode: Mode, connections: usize, seconds: &str) -> Result<Program> {
        let address = format!("{}:{PORT}", self.kind.host());
        Ok(self.program(this_program()?).args([
            CLIENT,
            &address,
            mode.letter(),
            &connections.to_string(),
            seconds,
        ]))
    }

    fn wait_until_it_works(&self) -> Result<()> {
        wait::eventually_true("the network works", Duration::from_secs(20), || {
            if self.network.has_ended() {
                anyhow::bail!("{} has ended", self.kind.name());
            }
            if self.kind == Kind::Ours {
                // Until the interface is there this fails, and from the second time on, too.
                for words in [
                    "addr add 192.168.127.2/24 dev tap0",
                    "link set tap0 mtu 65500",
                    "link set tap0 up",
                    "route add default via 192.168.127.1",
                ] {
                    self.program("ip").args(words.split(' ')).output()?;
                }
            }
            Ok(self.client(Mode::Exchange, 1, "0.01")?.output()?.code() == 0)
        })
        .with_context(|| format!("joining a namespace by {}", self.kind.name()))
    }

    fn measure(&self, mode: Mode, connections: usize) -> Result<f64> {
        traffic::figure(self.client(mode, connections, SECONDS)?)
    }

    /// Resident memory of the network's process, in bytes.
    fn memory(&self) -> Result<u64> {
        let processes = self.host.processes()?;
        let process = processes.iter().find(|process| process.line.contains("/tap /proc/"));
        let pid = process.context("the network's process is gone")?.pid;
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

/// usernet on a TAP interface; `cargo xtask bench` builds it.
fn tap() -> Result<PathBuf> {
    let path = std::env::var_os("CORACLE_TAP").map(PathBuf::from);
    path.ok_or_else(|| Skip::because("CORACLE_TAP names no program: run `cargo xtask bench network`").into())
}

/// Throughput and answering time of a namespace's connections to the host, for each way of joining it.
pub(crate) fn throughput() -> Result<Vec<Figure>> {
    let joined = Kind::ALL.into_iter().map(Joined::new).collect::<Result<Vec<_>>>()?;
    let measures = [
        ("one stream out", Mode::Up, 1),
        ("four streams out", Mode::Up, 4),
        ("one stream in", Mode::Down, 1),
        ("four streams in", Mode::Down, 4),
        ("a byte there and back", Mode::Exchange, 1),
    ];
    let mut figures = Vec::new();
    for (name, mode, connections) in measures {
        let mut numbers = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            // In turn, so that what else the machine does falls on all.
            for (joined, numbers) in joined.iter().zip(&mut numbers) {
                numbers.push(joined.measure(mode, connections)?);
            }
        }
        let [ours, pasta, slirp] = numbers.map(|numbers| value(mode, numbers));
        let limit = if mode == Mode::Exchange { Limit::Ratio(1.2) } else { Limit::AtLeastRatio(1.0) };
        let name = format!("network of a guest: {name}");
        for (peer, limit) in [((Kind::Pasta, pasta), Some(limit)), ((Kind::Slirp, slirp), None)] {
            let peer = Some((peer.0.name(), peer.1));
            figures.push(Figure { name: name.clone(), ours, peer, limit, samples: ROUNDS });
        }
    }
    Ok(figures)
}

/// The same connection alone, and beside many that do nothing.
pub(crate) fn idle_connections() -> Result<Vec<Figure>> {
    let joined = Joined::new(Kind::Ours)?;
    let measure = || -> Result<[f64; 2]> {
        let numbers = |mode| (0..ROUNDS).map(|_| joined.measure(mode, 1)).collect::<Result<Vec<_>>>();
        Ok([median(numbers(Mode::Exchange)?), median(numbers(Mode::Up)?)])
    };
    let alone = measure()?;
    let before = joined.memory()?;
    let idle = joined.client(Mode::Idle, IDLE, "600")?.timeout(Duration::from_secs(700)).spawn()?;
    idle.wait_for("connected")?;
    let beside = measure()?;
    let after = joined.memory()?;
    let figure = |name: &str, mode: Mode, at: usize| Figure {
        name: format!("{name} beside {IDLE} idle connections"),
        ours: value(mode, vec![beside[at]]),
        peer: Some(("alone", value(mode, vec![alone[at]]))),
        limit: None,
        samples: ROUNDS,
    };
    let memory = Value { number: (after - before) as f64 / IDLE as f64 / 1024.0, unit: "KiB" };
    Ok(vec![
        figure("network of a guest: a byte there and back", Mode::Exchange, 0),
        figure("network of a guest: one stream out", Mode::Up, 1),
        Figure {
            name: "network of a guest: memory of an idle connection".to_owned(),
            ours: memory,
            peer: None,
            limit: None,
            samples: 1,
        },
    ])
}
