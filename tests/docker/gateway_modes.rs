//! How the containers of a bridge and the world reach each other: the bridge's gateway modes. The world is a
//! container on a link of the engine's machine, which routes between them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::target::Target;
use tests::{cases, ensure_eq, wait};

use super::macvlan::{endpoint, lan, on_the_machine, reaches, runs};

cases! {
    from_outside,
    to_the_outside,
    between_bridges,
    trusted_interfaces,
    other_addresses,
    other_addresses_of_ipv6,
    ports_of_this_machine,
    isolated,
    refusals,
}

const V4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const V6: &str = "com.docker.network.bridge.gateway_mode_ipv6";

/// A bridge network of a gateway mode.
fn bridge(t: &Target, what: &str, subnet: &str, mode: &str) -> Result<String> {
    t.network(what, &[&format!("--subnet={subnet}"), "-o", &format!("{V4}={mode}")])
}

/// A container that says `hello` at port 80, which is published, and at port 81, which is not. It tells who asks.
fn server(t: &Target, name: &str, network: &str) -> Outcome {
    let script =
        "echo hello > /index.html; httpd -f -vv -h / -p 81 2>/log & httpd -h / -p 80 && echo ready; wait";
    t.ok(["run", "-d", "--name", name, "--network", network, "-p", "80", "busybox", "sh", "-c", script])?;
    wait::eventually_true("the server listens", Duration::from_secs(30), || {
        Ok(t.ok(["logs", name])?.lines().any(|line| line == "ready"))
    })
}

/// Whether a container gets an answer from there.
fn gets(t: &Target, from: &str, address: &str) -> Result<bool> {
    let url = format!("http://{address}/index.html");
    let fetched = t.docker(["exec", from, "timeout", "3", "wget", "-q", "-O", "-", &url]).output()?;
    Ok(fetched.stdout().trim() == "hello")
}

/// Somebody in the LAN, to whom this machine is the way to everywhere else.
fn outsider(t: &Target, parent: &str, net: &str) -> Result<String> {
    lan(t, parent, &format!("{net}.1/24"))?;
    let (subnet, gateway) = (format!("--subnet={net}.0/24"), format!("--gateway={net}.1"));
    let network =
        t.network("lan", &["-d", "macvlan", "-o", &format!("parent={parent}"), &subnet, &gateway])?;
    let name = t.name("outsider");
    server(t, &name, &network)?;
    Ok(name)
}

fn from_outside(t: &Target) -> Outcome {
    let outsider = outsider(t, "gma", "10.140.0")?;
    for (mode, subnet, published, other, ping) in [
        ("nat", "10.140.1", false, false, false),
        ("nat-unprotected", "10.140.2", true, true, true),
        ("routed", "10.140.3", true, false, true),
    ] {
        let network = bridge(t, mode, &format!("{subnet}.0/24"), mode)?;
        let web = t.name(&format!("web-{mode}"));
        server(t, &web, &network)?;
        ensure_eq!(gets(t, &outsider, &format!("{subnet}.2:80"))?, published, "{mode}: the published port");
        ensure_eq!(gets(t, &outsider, &format!("{subnet}.2:81"))?, other, "{mode}: another port");
        ensure_eq!(reaches(t, &outsider, &format!("{subnet}.2"))?, ping, "{mode}: a ping");
        // This machine reaches its containers in every mode.
        let url = format!("http://{subnet}.2:81/index.html");
        ensure_eq!(on_the_machine(t, &format!("timeout 4 wget -q -O - {url}"))?, "hello");
    }
    Ok(())
}

fn to_the_outside(t: &Target) -> Outcome {
    let outsider = outsider(t, "gmb", "10.141.0")?;
    for (mode, subnet, seen) in [
        ("nat", "10.141.1", "10.141.0.1"),
        ("nat-unprotected", "10.141.2", "10.141.0.1"),
        ("routed", "10.141.3", "10.141.3.2"),
    ] {
        let network = bridge(t, mode, &format!("{subnet}.0/24"), mode)?;
        let name = t.name(&format!("box-{mode}"));
        runs(t, &name, &["--network", &network])?;
        ensure!(gets(t, &name, "10.141.0.2:81")?, "{mode}: the world is not reached");
        let log = t.ok(["exec", &outsider, "cat", "/log"])?;
        let last = log.lines().rev().find(|line| line.contains("response:")).unwrap_or_default();
        ensure!(last.contains(&format!("{seen}]")) || last.contains(&format!("{seen}:")), "{mode}: {log}");
    }
    Ok(())
}

fn between_bridges(t: &Target) -> Outcome {
    let here = t.network("here", &["--subnet=10.142.0.0/24"])?;
    let client = t.name("client");
    runs(t, &client, &["--network", &here])?;
    for (mode, subnet, published) in
        [("nat", "10.142.1", false), ("nat-unprotected", "10.142.2", false), ("routed", "10.142.3", true)]
    {
        let network = bridge(t, mode, &format!("{subnet}.0/24"), mode)?;
        let web = t.name(&format!("web-{mode}"));
        server(t, &web, &network)?;
        ensure_eq!(gets(t, &client, &format!("{subnet}.2:80"))?, published, "{mode}: the published port");
        ensure!(!gets(t, &client, &format!("{subnet}.2:81"))?, "{mode}: another port is reached");
        ensure_eq!(reaches(t, &client, &format!("{subnet}.2"))?, published, "{mode}: a ping");
    }
    Ok(())
}

fn trusted_interfaces(t: &Target) -> Outcome {
    let outsider = outsider(t, "gmc", "10.145.0")?;
    let option = "com.docker.network.bridge.trusted_host_interfaces=gmcw:gmd";
    let network = t.network("net", &["--subnet=10.145.1.0/24", "-o", option])?;
    let web = t.name("web");
    server(t, &web, &network)?;
    // Past the port of this machine, but to what is published alone.
    ensure!(gets(t, &outsider, "10.145.1.2:80")?, "the published port is not reached");
    ensure!(!gets(t, &outsider, "10.145.1.2:81")?, "another port is reached");
    Ok(())
}

fn other_addresses(t: &Target) -> Outcome {
    let outsider = outsider(t, "gme", "10.146.0")?;
    on_the_machine(t, "ip addr add 10.146.0.99/32 dev gmew")?;
    let network =
        t.network("net", &["--subnet=10.146.1.0/24", "-o", "com.docker.network.host_ipv4=10.146.0.99"])?;
    let name = t.name("box");
    runs(t, &name, &["--network", &network])?;
    ensure!(gets(t, &name, "10.146.0.2:81")?, "the world is not reached");
    let log = t.ok(["exec", &outsider, "cat", "/log"])?;
    ensure!(log.contains("10.146.0.99"), "{log}");
    Ok(())
}

fn other_addresses_of_ipv6(t: &Target) -> Outcome {
    lan(t, "gmf", "10.147.0.1/24")?;
    on_the_machine(
        t,
        "echo 0 > /proc/sys/net/ipv6/conf/gmfw/accept_dad; ip addr add fd00:147::1/64 dev gmfw; \
         ip addr add fd00:147::99/128 dev gmfw",
    )?;
    let options = ["-d", "macvlan", "-o", "parent=gmf", "--subnet=10.147.0.0/24", "--gateway=10.147.0.1"];
    let v6 = ["--ipv6", "--subnet=fd00:147::/64", "--gateway=fd00:147::1"];
    let network = t.network("lan", &[&options[..], &v6].concat())?;
    let outsider = t.name("outsider");
    server(t, &outsider, &network)?;
    let option = "com.docker.network.host_ipv6=fd00:147::99";
    let network = t.network("net", &["--ipv6", "--subnet=fd00:148::/64", "-o", option])?;
    let name = t.name("box");
    runs(t, &name, &["--network", &network])?;
    // Addresses of IPv6 are of no use before they are known to be nobody else's.
    wait::eventually_true("the world is reached", Duration::from_secs(30), || {
        gets(t, &name, "[fd00:147::2]:81")
    })?;
    let log = t.ok(["exec", &outsider, "cat", "/log"])?;
    ensure!(log.contains("fd00:147::99"), "{log}");
    Ok(())
}

fn ports_of_this_machine(t: &Target) -> Outcome {
    let ports =
        |name: &str| Ok::<_, anyhow::Error>(t.inspect(name)?["NetworkSettings"]["Ports"]["80/tcp"].clone());
    let routed = t.network(
        "routed",
        &["--subnet=10.143.0.0/24", "-o", &format!("{V4}=routed"), "-o", &format!("{V6}=routed")],
    )?;
    let web = t.name("web");
    runs(t, &web, &["--network", &routed, "-p", "22140:80", "-p", "127.0.0.1:22141:81"])?;
    ensure_eq!(
        ports(&web)?,
        json!([{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": ""}])
    );
    ensure_eq!(
        t.inspect(&web)?["NetworkSettings"]["Ports"]["81/tcp"],
        json!([{"HostIp": "0.0.0.0", "HostPort": ""}])
    );
    // Nothing of this machine's is taken, and what no port of this machine's carries is reached by itself.
    let sctp = t.name("sctp");
    runs(t, &sctp, &["--network", &routed, "-p", "22140:80/sctp"])?;
    ensure_eq!(
        t.inspect(&sctp)?["NetworkSettings"]["Ports"]["80/sctp"],
        json!([{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": ""}])
    );
    let other = t.name("other");
    runs(t, &other, &["-p", "22140:80", "-p", "127.0.0.1:22141:81"])?;
    // Without a mode for IPv6, a port of this machine's leads from it to the container's IPv4.
    let mixed = bridge(t, "mixed", "10.143.1.0/24", "routed")?;
    let half = t.name("half");
    runs(t, &half, &["--network", &mixed, "-p", "22142:80"])?;
    ensure_eq!(
        ports(&half)?,
        json!([{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": "22142"}])
    );
    // Both families of a network.
    let both = t.network(
        "both",
        &["--ipv6", "--subnet=10.143.2.0/24", "--subnet=fd00:143::/64", "-o", &format!("{V6}=routed")],
    )?;
    let dual = t.name("dual");
    runs(t, &dual, &["--network", &both, "-p", "22143:80"])?;
    ensure_eq!(
        ports(&dual)?,
        json!([{"HostIp": "0.0.0.0", "HostPort": "22143"}, {"HostIp": "::", "HostPort": ""}])
    );
    // A network that comes to lead brings its own ways.
    t.ok(["network", "connect", "--gw-priority", "1", &both, &half])?;
    ensure_eq!(
        ports(&half)?,
        json!([{"HostIp": "0.0.0.0", "HostPort": "22142"}, {"HostIp": "::", "HostPort": ""}])
    );
    Ok(())
}

fn isolated(t: &Target) -> Outcome {
    let network = t.network(
        "net",
        &[
            "--internal",
            "--ipv6",
            "--subnet=10.144.0.0/24",
            "--subnet=fd00:144::/64",
            "-o",
            &format!("{V4}=isolated"),
            "-o",
            &format!("{V6}=isolated"),
        ],
    )?;
    let shown = t.api().get(format!("/networks/{network}")).send()?.json()?;
    ensure!(!shown["IPAM"]["Config"].to_string().contains("Gateway"), "{shown}");
    let (one, two) = (t.name("one"), t.name("two"));
    runs(t, &one, &["--network", &network])?;
    runs(t, &two, &["--network", &network])?;
    let place = endpoint(t, &one, &network)?;
    ensure_eq!(
        (&place["IPAddress"], &place["GlobalIPv6Address"], &place["Gateway"]),
        (&json!("10.144.0.1"), &json!("fd00:144::1"), &json!(""))
    );
    ensure!(reaches(t, &two, "10.144.0.1")?, "they do not reach each other");
    let id = shown["Id"].as_str().unwrap_or_default();
    let addresses = on_the_machine(t, &format!("ip addr show br-{}", &id[..12]))?;
    ensure!(!addresses.contains("inet"), "this machine is in the network: {addresses}");
    Ok(())
}

fn refusals(t: &Target) -> Outcome {
    let create = |options: Value, status: u16| -> Result<String> {
        let body = json!({"Name": t.name("no"), "Options": options});
        t.api().post("/networks/create").json(&body).send()?.expect(status)?.message()
    };
    ensure_eq!(
        create(json!({V4: "zz"}), 400)?,
        format!("failed to parse {V4} value: zz (unknown gateway mode zz)")
    );
    for name in [V4, V6] {
        ensure_eq!(
            create(json!({name: "isolated"}), 500)?,
            "gateway mode 'isolated' can only be used for an internal network"
        );
    }
    Ok(())
}
