//! docker-py's own integration tests: what somebody else expects of Docker. Each case runs one of their files. What is
//! known to fail, on our engine or on Docker's own, is listed with its reason; any other failure fails the case, and
//! so does a listed test that passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::archive::{self, Image, Tar};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::http::Server;
use tests::target::Target;
use tests::{cases, places};

/// The engines without an emulated CPU, which run everything.
const FAST: &[Kind] = &[Kind::Native, Kind::Dockerd];

cases! {
    api_client.alone().bare(),
    api_container.alone().bare().on(FAST).seconds(600),
    api_exec.alone().bare().seconds(300),
    api_healthcheck.alone().bare(),
    api_network.alone().bare().on(FAST).seconds(600),
    api_volume.alone().bare(),
    client.alone().bare(),
    errors.alone().bare(),
    models_containers.alone().bare().on(FAST).seconds(300),
    models_networks.alone().bare(),
    models_resources.alone().bare(),
    models_volumes.alone().bare(),
    regression.alone().bare(),
}

/// A test that is known to fail.
struct Difference {
    kinds: &'static [Kind],
    /// `file::class::test`, without the folder and `_test.py`.
    test: &'static str,
    why: &'static str,
    /// It passes now and then.
    unsteady: bool,
}

const fn everywhere(test: &'static str, why: &'static str) -> Difference {
    Difference { kinds: &Kind::ALL, test, why, unsteady: false }
}

const fn in_pieces(test: &'static str) -> Difference {
    let why =
        "it wants a terminal's line in one piece, and on an emulated CPU the kernel may hand it over in two";
    Difference { kinds: &[Kind::Machine], test, why, unsteady: true }
}

const SWARM: &str = "it wants a swarm, for which Docker finds no address here, and which ours does not have";

/// With all the reasons: `docs/testing.md` has them, too.
const DIFFERENCES: &[Difference] = &[
    everywhere(
        "api_container::AttachContainerTest::test_run_container_reading_socket_ws",
        "docker-py itself cannot open a websocket on a unix socket",
    ),
    everywhere(
        "models_containers::ContainerCollectionTest::test_run_with_image_that_does_not_exist",
        "there is no registry to say so",
    ),
    everywhere(
        "models_containers::ContainerTest::test_exec_run_failed",
        "it expects 126 of a missing program, where Docker 28 answers 127",
    ),
    in_pieces("api_exec::ExecDemuxTest::test_exec_command_tty_stream_demux"),
    in_pieces("api_exec::ExecDemuxTest::test_exec_command_tty_stream_no_demux"),
    everywhere("api_network::TestNetworks::test_create_inspect_network_with_scope", SWARM),
    everywhere("api_network::TestNetworks::test_create_network_attachable", SWARM),
    everywhere("api_network::TestNetworks::test_create_network_ingress", SWARM),
];

macro_rules! files {
    ($($file:ident),* $(,)?) => {
        $(fn $file(t: &Target) -> Outcome {
            run(t, stringify!($file))
        })*
    };
}

files! {
    api_client,
    api_container,
    api_exec,
    api_healthcheck,
    api_network,
    api_volume,
    client,
    errors,
    models_containers,
    models_networks,
    models_resources,
    models_volumes,
    regression,
}

/// Runs one of docker-py's files, and compares what failed with what is known to.
fn run(t: &Target, file: &str) -> Outcome {
    let folder = places::docker_py()?;
    let Server::Unix(socket) = t.api() else { bail!("docker-py wants a unix socket") };
    load_images(t)?;
    let patience = if t.kind() == Kind::Machine { 180 } else { 60 };
    let python = folder.join("python/bin/python");
    let output = t
        .program(&python.to_string_lossy())
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("HOME", t.folder())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.join("source"))
        .args(["-m", "pytest", "-q", "-rA", "--tb=short", "--timeout", &patience.to_string()])
        // It leaves sockets to the collector, which pytest would take for failures of whatever test comes next.
        .args(["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"])
        .arg(format!("tests/integration/{file}_test.py"))
        .timeout(Duration::from_secs(1800))
        .output()?;
    let text = output.stdout();
    // 0 says that all passed, 1 that some did not.
    ensure!(matches!(output.code(), 0 | 1), "pytest did not run: {output}");
    let results = Results::parse(&text);
    let all: usize = results.counts.values().sum();
    ensure!(all > 0, "pytest ran no test: {output}");
    count(t.kind(), &results.counts);
    let known: BTreeMap<&str, &Difference> = DIFFERENCES
        .iter()
        .filter(|difference| difference.kinds.contains(&t.kind()))
        .filter(|difference| difference.test.split("::").next() == Some(file))
        .map(|difference| (difference.test, difference))
        .collect();
    let unknown: Vec<&String> =
        results.failed.iter().filter(|test| !known.contains_key(test.as_str())).collect();
    ensure!(unknown.is_empty(), "not known to fail: {unknown:#?}\n{text}");
    let steady = known.values().filter(|difference| !difference.unsteady);
    let passed: Vec<_> = steady
        .filter(|known| !results.failed.contains(known.test))
        .map(|known| (known.test, known.why))
        .collect();
    ensure!(passed.is_empty(), "listed as failing, but did not fail: {passed:#?}");
    Ok(())
}

/// What pytest said of each test.
#[derive(Debug, Default)]
struct Results {
    counts: BTreeMap<&'static str, usize>,
    failed: BTreeSet<String>,
}

impl Results {
    /// Reads the lines that `-rA` makes pytest end with: `FAILED tests/integration/x_test.py::Class::test - why`.
    fn parse(text: &str) -> Self {
        const WORDS: [&str; 6] = ["PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS"];
        let mut results = Self::default();
        let summary = text.rsplit("short test summary info").next().unwrap_or_default();
        for line in summary.lines() {
            let Some((word, rest)) = line.split_once(' ') else { continue };
            let Some(word) = WORDS.into_iter().find(|known| *known == word) else { continue };
            // `SKIPPED [3] file:line: why`
            let number = rest.strip_prefix('[').and_then(|rest| rest.split(']').next()?.parse().ok());
            *results.counts.entry(word).or_default() += number.unwrap_or(1);
            if matches!(word, "FAILED" | "ERROR") {
                let test = rest.split(" - ").next().unwrap_or(rest);
                let test = test.strip_prefix("tests/integration/").unwrap_or(test);
                results.failed.insert(test.replacen("_test.py", "", 1));
            }
        }
        results
    }
}

/// The images that docker-py's tests start from; all are this machine's busybox.
fn load_images(t: &Target) -> Result<()> {
    let users = b"root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n";
    let more = Tar::default().folder("var/opt/", 0o755)?.file("etc/passwd", 0o644, users)?.finish()?;
    let mut image = Image::busybox()?.layer(more);
    image.tags.extend(["alpine:3.10", "alpine:latest"].map(str::to_owned));
    let file = archive::write(t.folder(), "images.tar", &image.docker_archive()?)?;
    t.ok(["load", "-i", file.to_str().context("a path that is no UTF-8")?])?;
    Ok(())
}

/// What came of docker-py's tests in this run, by engine.
static COUNTS: Mutex<BTreeMap<String, BTreeMap<&'static str, usize>>> = Mutex::new(BTreeMap::new());

fn count(kind: Kind, results: &BTreeMap<&'static str, usize>) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let sums = counts.entry(kind.to_string()).or_default();
    for (word, number) in results {
        *sums.entry(word).or_default() += number;
    }
}

/// A line for each engine that docker-py's tests have run on.
pub(crate) fn summary() -> Vec<String> {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let line = |(kind, sums): (&String, &BTreeMap<&str, usize>)| {
        let words: Vec<String> =
            sums.iter().map(|(word, number)| format!("{number} {}", word.to_lowercase())).collect();
        format!("docker-py's tests on {kind}: {}", words.join(", "))
    };
    counts.iter().map(line).collect()
}
