//! Proxies on the way to registries. `tests/boot/network.rs` has those of a machine's host.

use anyhow::ensure;
use tests::archive::{Image, busybox_root};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::proxy::Proxy;
use tests::registry::ADDRESS;
use tests::target::Target;
use tests::{cases, ensure_eq};

/// The engine in a machine is not started with options of a case.
const ON: &[Kind] = &[Kind::Native, Kind::Dockerd];
const PORT: u16 = 3128;
/// Known to nobody but the proxy.
const REGISTRY: &str = "registry.test:5000";
const OPTIONS: &[&str] = &[
    "--http-proxy",
    "http://me:secret@127.0.0.1:3128",
    "--https-proxy",
    "http://127.0.0.1:3128",
    "--no-proxy",
    "direct.test",
    "--insecure-registry",
    REGISTRY,
    "--insecure-registry",
    "direct.test:5000",
];

cases! {
    pull_through_a_proxy.on(ON).with(OPTIONS),
    info_shows_no_password.on(ON).with(OPTIONS).bare(),
}

fn pull_through_a_proxy(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let proxy = Proxy::start(t.namespace(), PORT, ADDRESS.parse()?)?;
    let name = t.name("image");
    registry.push(&name, "v1", &Image::new("unused", busybox_root()?))?;
    t.ok(["pull", &format!("{REGISTRY}/{name}:v1")])?;
    // Asked for TLS first, and for the plain way then.
    proxy.expect(&format!("CONNECT {REGISTRY} "))?;
    proxy.expect(&format!("GET http://{REGISTRY}/v2/"))?;
    // What is on this machine, or named as such, is not for the proxy.
    t.ok(["pull", &format!("{ADDRESS}/{name}:v1")])?;
    t.fails(1, ["pull", &format!("direct.test:5000/{name}:v1")])?;
    let asked = proxy.asked();
    ensure!(asked.iter().all(|line| line.contains("registry.test")), "{asked:?}");
    Ok(())
}

fn info_shows_no_password(t: &Target) -> Outcome {
    let format = "{{.HTTPProxy}} {{.HTTPSProxy}} {{.NoProxy}}";
    let expected = "http://xxxxx:xxxxx@127.0.0.1:3128 http://127.0.0.1:3128 direct.test";
    ensure_eq!(t.ok(["info", "--format", format])?, expected);
    Ok(())
}
