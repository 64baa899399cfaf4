//! Networks on a link of the engine's machine: the drivers `macvlan` and `ipvlan`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq};

cases! {
    macvlan,
    modes,
    several_networks,
    several_subnets,
    internal,
    comes_and_goes,
    no_ports,
    refusals,
    without_a_parent,
    tagged,
    ipvlan,
    ipvlan_l3,
    survives_a_crash.alone(),
}

/// What a shell of the engine's machine prints.
pub(super) fn on_the_machine(t: &Target, script: &str) -> Result<String> {
    t.ok(["run", "--rm", "--privileged", "--network", "host", "busybox", "sh", "-c", script])
}

/// Makes a link to be a parent, with a wire to another, which has this address: somebody else in the same LAN.
pub(super) fn lan(t: &Target, parent: &str, address: &str) -> Outcome {
    let script = format!(
        "ip link del {parent} 2>/dev/null; ip link add {parent} type veth && \
         other=$(ip -o link show {parent} | sed 's/.*@\\([^:]*\\):.*/\\1/') && \
         ip link set $other name {parent}w && ip addr add {address} dev {parent}w && \
         ip link set {parent} up && ip link set {parent}w up"
    );
    on_the_machine(t, &script).map(drop)
}

/// Whether the kernel makes links of a kind. That of our own machines makes all; where another lacks one, the
/// refusal is what is tested.
fn has(t: &Target, parent: &str, kind: &str) -> Result<bool> {
    let script =
        format!("ip link add {parent}x link {parent} type {kind} && ip link del {parent}x || echo none");
    let has = !on_the_machine(t, &script)?.contains("none");
    ensure!(has || t.kind() != Kind::Machine, "our kernel lacks links of the kind {kind}");
    Ok(has)
}

pub(super) fn runs(t: &Target, name: &str, args: &[&str]) -> Result<String> {
    let options = ["run", "-d", "--name", name].into_iter().chain(args.iter().copied());
    t.ok(options.chain(["busybox", "sh", "-c", SLEEP]))
}

pub(super) fn endpoint(t: &Target, container: &str, network: &str) -> Result<Value> {
    Ok(t.inspect(container)?["NetworkSettings"]["Networks"][network].clone())
}

pub(super) fn reaches(t: &Target, container: &str, address: &str) -> Result<bool> {
    Ok(t.docker(["exec", container, "ping", "-c", "1", "-W", "1", address]).output()?.code() == 0)
}

fn refusal(t: &Target, body: &Value, status: u16) -> Result<String> {
    t.api().post("/networks/create").json(body).send()?.expect(status)?.message()
}

fn macvlan(t: &Target) -> Outcome {
    lan(t, "mva", "10.120.0.1/24")?;
    let network = t.network(
        "net",
        &["-d", "macvlan", "-o", "parent=mva", "--subnet=10.120.0.0/24", "--gateway=10.120.0.1"],
    )?;
    let shown = t.api().get(format!("/networks/{network}")).send()?.expect(200)?.json()?;
    ensure_eq!((&shown["Driver"], &shown["Scope"]), (&json!("macvlan"), &json!("local")));
    ensure_eq!(shown["Options"], json!({"parent": "mva"}));
    ensure_eq!(shown["IPAM"]["Config"], json!([{"Subnet": "10.120.0.0/24", "Gateway": "10.120.0.1"}]));
    let (one, two) = (t.name("one"), t.name("two"));
    let id = runs(t, &one, &["--network", &network])?;
    runs(t, &two, &["--network", &network, "--ip", "10.120.0.9", "--mac-address", "02:42:aa:00:00:09"])?;
    let place = endpoint(t, &one, &network)?;
    ensure_eq!(
        (&place["IPAddress"], &place["Gateway"], &place["IPPrefixLen"]),
        (&json!("10.120.0.2"), &json!("10.120.0.1"), &json!(24))
    );
    let mac = t.ok(["exec", &one, "cat", "/sys/class/net/eth0/address"])?;
    ensure_eq!(place["MacAddress"], mac.as_str());
    ensure_eq!(endpoint(t, &two, &network)?["MacAddress"], "02:42:aa:00:00:09");
    let members = t.api().get(format!("/networks/{network}")).send()?.json()?["Containers"].clone();
    ensure_eq!(members[&id]["IPv4Address"], "10.120.0.2/24");
    ensure_eq!(members[&id]["MacAddress"], mac.as_str());
    let route = t.ok(["exec", &one, "ip", "route", "show", "default"])?;
    ensure!(route.starts_with("default via 10.120.0.1 dev eth0"), "{route}");
    // Each other, by address and by name, and who else is in the LAN.
    for address in ["10.120.0.9", &two, "10.120.0.1"] {
        ensure!(reaches(t, &one, address)?, "{address} is not reached");
    }
    // An address is free again at once.
    t.ok(["rm", "-f", &two])?;
    runs(t, &two, &["--network", &network, "--ip", "10.120.0.9", "--mac-address", "02:42:aa:00:00:09"])?;
    t.ok(["restart", "-t", "0", &one])?;
    ensure!(reaches(t, &one, "10.120.0.9")?, "not reached after a restart");
    Ok(())
}

fn modes(t: &Target) -> Outcome {
    lan(t, "mvb", "10.121.0.1/24")?;
    let make = |mode: &str| {
        let mode = format!("macvlan_mode={mode}");
        let options = ["-d", "macvlan", "-o", "parent=mvb", "--subnet=10.121.0.0/24", "-o", &mode];
        t.network("net", &options)
    };
    // With `vepa`, a switch would have to send back what comes from the same port.
    for (mode, meet) in [("bridge", true), ("private", false), ("vepa", false)] {
        let network = make(mode)?;
        let (one, two) = (t.name("one"), t.name("two"));
        runs(t, &one, &["--network", &network])?;
        runs(t, &two, &["--network", &network])?;
        ensure_eq!(reaches(t, &one, "10.121.0.3")?, meet, "{mode}");
        ensure!(reaches(t, &one, "10.121.0.1")?, "{mode}: the LAN is not reached");
        t.ok(["rm", "-f", &one, &two])?;
        t.ok(["network", "rm", &network])?;
    }
    let network = make("passthru")?;
    let (one, two) = (t.name("one"), t.name("two"));
    runs(t, &one, &["--network", &network])?;
    ensure!(reaches(t, &one, "10.121.0.1")?, "passthru: the LAN is not reached");
    let mac = t.ok(["exec", &one, "cat", "/sys/class/net/eth0/address"])?;
    ensure_eq!(endpoint(t, &one, &network)?["MacAddress"], mac.as_str());
    t.fails(125, ["run", "--name", &two, "--network", &network, "busybox", "true"])?
        .expect_stderr("failed to set up container networking: ")?
        .expect_stderr("failed to create the macvlan port: invalid argument")?;
    // Nobody else gets the parent, and it takes none that others have.
    let id = t.ok(["network", "inspect", "-f", "{{.Id}}", &network])?;
    let other = |mode: &str| json!({"Name": "no", "Driver": "macvlan", "Options": {"parent": "mvb", "macvlan_mode": mode}});
    ensure_eq!(
        refusal(t, &other("bridge"), 500)?,
        format!("macvlan network {id} is already using parent interface mvb in mode passthru")
    );
    ensure_eq!(
        refusal(t, &other("passthru"), 500)?,
        format!("cannot use mode passthru, macvlan network {id} is already using parent interface mvb")
    );
    Ok(())
}

fn several_networks(t: &Target) -> Outcome {
    lan(t, "mvc", "10.122.0.1/24")?;
    let make = |what: &str, subnet: &str| {
        t.network(what, &["-d", "macvlan", "-o", "parent=mvc", &format!("--subnet={subnet}")])
    };
    let (one, two) = (make("one", "10.122.0.0/24")?, make("two", "10.122.1.0/24")?);
    let name = t.name("box");
    runs(t, &name, &["--network", &one, "--network", &two])?;
    ensure_eq!(t.ok(["exec", &name, "ls", "/sys/class/net"])?, "eth0\neth1\nlo");
    ensure!(reaches(t, &name, "10.122.0.1")?, "the LAN is not reached");
    t.ok(["rm", "-f", &name])?;
    t.ok(["network", "rm", &one])?;
    ensure!(on_the_machine(t, "ip link show mvc")?.contains("mvc@"), "the parent is gone");
    runs(t, &name, &["--network", &two])?;
    Ok(())
}

fn several_subnets(t: &Target) -> Outcome {
    lan(t, "mvd", "10.123.0.1/24")?;
    // In this order, which the client would change.
    let network = t.name("net");
    let body = json!({
        "Name": network, "Driver": "macvlan", "Options": {"parent": "mvd"},
        "IPAM": {"Config": [{"Subnet": "10.123.0.0/30"}, {"Subnet": "10.123.1.0/24", "Gateway": "10.123.1.7"}]},
    });
    t.api().post("/networks/create").json(&body).send()?.expect(201)?;
    let (one, two, three) = (t.name("one"), t.name("two"), t.name("three"));
    runs(t, &one, &["--network", &network])?;
    runs(t, &two, &["--network", &network, "--ip", "10.123.1.20"])?;
    // The first is full.
    runs(t, &three, &["--network", &network])?;
    for (name, address, gateway) in [
        (&one, "10.123.0.2", "10.123.0.1"),
        (&two, "10.123.1.20", "10.123.1.7"),
        (&three, "10.123.1.1", "10.123.1.7"),
    ] {
        let place = endpoint(t, name, &network)?;
        ensure_eq!((&place["IPAddress"], &place["Gateway"]), (&json!(address), &json!(gateway)));
    }
    t.ok(["rm", "-f", &one, &two, &three])?;
    t.ok(["network", "rm", &network])?;
    Ok(())
}

fn internal(t: &Target) -> Outcome {
    lan(t, "mve", "10.124.0.1/24")?;
    let network = t.network(
        "net",
        &[
            "-d",
            "macvlan",
            "-o",
            "parent=mve",
            "--internal",
            "--subnet=10.124.0.0/24",
            "--aux-address=lan=10.124.0.1",
        ],
    )?;
    let shown = t.api().get(format!("/networks/{network}")).send()?.json()?;
    ensure_eq!(shown["IPAM"]["Config"][0].get("Gateway"), None);
    let name = t.name("box");
    runs(t, &name, &["--network", &network])?;
    ensure_eq!(endpoint(t, &name, &network)?["Gateway"], "");
    let routes = t.ok(["exec", &name, "ip", "route"])?;
    ensure!(!routes.contains("default"), "{routes}");
    ensure!(reaches(t, &name, "10.124.0.1")?, "the LAN is not reached");
    Ok(())
}

fn comes_and_goes(t: &Target) -> Outcome {
    lan(t, "mvf", "10.125.0.1/24")?;
    let network = t.network(
        "net",
        &[
            "-d",
            "macvlan",
            "-o",
            "parent=mvf",
            "--subnet=10.125.0.0/24",
            "--aux-address=lan=10.125.0.1",
            "--gateway=10.125.0.254",
        ],
    )?;
    let name = t.name("box");
    runs(t, &name, &[])?;
    for _ in 0..3 {
        t.ok(["network", "connect", "--ip", "10.125.0.7", "--alias", "moved", &network, &name])?;
        ensure_eq!(t.ok(["exec", &name, "ls", "/sys/class/net"])?, "eth0\neth1\nlo");
        ensure!(reaches(t, &name, "10.125.0.1")?, "the LAN is not reached");
        // The bridge comes first by name.
        let route = t.ok(["exec", &name, "ip", "route", "show", "default"])?;
        ensure!(route.contains("dev eth0"), "{route}");
        t.ok(["network", "disconnect", &network, &name])?;
        ensure_eq!(t.ok(["exec", &name, "ls", "/sys/class/net"])?, "eth0\nlo");
    }
    t.ok(["network", "connect", &network, &name])?;
    t.ok(["network", "disconnect", "bridge", &name])?;
    let route = t.ok(["exec", &name, "ip", "route", "show", "default"])?;
    ensure!(route.starts_with("default via 10.125.0.254 dev eth1"), "{route}");
    t.fails(1, ["network", "rm", &network])?.expect_stderr("has active endpoints")?;
    Ok(())
}

fn no_ports(t: &Target) -> Outcome {
    lan(t, "mvg", "10.126.0.1/24")?;
    let network = t.network(
        "net",
        &["-d", "macvlan", "-o", "parent=mvg", "--subnet=10.126.0.0/24", "--gateway=10.126.0.1"],
    )?;
    let name = t.name("box");
    runs(t, &name, &["--network", &network, "-p", "22110:80", "--expose", "99"])?;
    ensure_eq!(t.inspect(&name)?["NetworkSettings"]["Ports"], json!({}));
    ensure_eq!(t.ok(["ps", "--filter", &format!("name={name}"), "--format", "{{.Ports}}"])?, "");
    // A bridge beside it publishes them, as soon as it leads to the world.
    t.ok(["network", "connect", "--gw-priority", "1", "bridge", &name])?;
    ensure_eq!(t.inspect(&name)?["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], "22110");
    t.ok(["network", "disconnect", "bridge", &name])?;
    ensure_eq!(t.inspect(&name)?["NetworkSettings"]["Ports"], json!({}));
    Ok(())
}

fn refusals(t: &Target) -> Outcome {
    lan(t, "mvh", "10.127.0.1/24")?;
    for (driver, options, message) in [
        (
            "macvlan",
            json!({"parent": "mvh", "macvlan_mode": "bogus"}),
            "requested macvlan mode 'bogus' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        ("macvlan", json!({"parent": "lo"}), "loopback interface is not a valid macvlan parent link"),
        (
            "macvlan",
            json!({"parent": "mvnone"}),
            "invalid subinterface vlan name mvnone, example formatting is eth0.10",
        ),
        (
            "macvlan",
            json!({"parent": "mvnone.1.2"}),
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received mvnone.1.2",
        ),
        (
            "macvlan",
            json!({"parent": "mvh.ten"}),
            "unable to parse a valid vlan id from: ten (ex. eth0.10 for vlan 10)",
        ),
        ("macvlan", json!({"parent": "mvnone.10"}), "-o parent interface was not found on the host: mvnone"),
        ("macvlan", json!({"parent": "mvh.4095"}), "vlan id must be between 1-4094, received: 4095"),
        (
            "ipvlan",
            json!({"parent": "mvh", "ipvlan_mode": "l4"}),
            "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default",
        ),
        (
            "ipvlan",
            json!({"parent": "mvh", "ipvlan_flag": "bogus"}),
            "requested ipvlan flag 'bogus' is not valid, 'bridge' is the ipvlan driver default",
        ),
        ("ipvlan", json!({"parent": "lo"}), "loopback interface is not a valid ipvlan parent link"),
    ] {
        let body = json!({"Name": t.name("no"), "Driver": driver, "Options": options});
        ensure_eq!(refusal(t, &body, 500)?, message);
    }
    // A parent has one network of the driver `ipvlan`, whose links cannot have addresses of their own.
    let network = t.network("net", &["-d", "ipvlan", "-o", "parent=mvh", "--subnet=10.127.0.0/24"])?;
    let id = t.ok(["network", "inspect", "-f", "{{.Id}}", &network])?;
    let short = id.get(..12).context("a short id")?;
    ensure_eq!(
        refusal(t, &json!({"Name": t.name("no"), "Driver": "ipvlan", "Options": {"parent": "mvh"}}), 500)?,
        format!("network di-{short} is already using parent interface mvh")
    );
    let name = t.name("box");
    let mac = ["--mac-address", "02:42:aa:00:00:01"];
    t.fails(125, ["run", "--name", &name, "--network", &network, mac[0], mac[1], "busybox", "true"])?
        .expect_stderr("ipvlan interfaces do not support custom mac address assignment")?;
    // A parent that is gone.
    let lost = t.network("lost", &["-d", "macvlan", "-o", "parent=mvhw", "--subnet=10.127.1.0/24"])?;
    on_the_machine(t, "ip link del mvh")?;
    let name = t.name("late");
    t.fails(125, ["run", "--name", &name, "--network", &lost, "busybox", "true"])?
        .expect_stderr("the requested parent interface mvhw was not found on the Docker host")?;
    Ok(())
}

fn without_a_parent(t: &Target) -> Outcome {
    lan(t, "mvi", "10.128.0.1/24")?;
    for (driver, prefix) in [("macvlan", "dm"), ("ipvlan", "di")] {
        let body = json!({"Name": t.name("no"), "Driver": driver});
        if !has(t, "mvi", "dummy")? {
            let message = refusal(t, &body, 500)?;
            ensure!(message.ends_with("operation not supported"), "{message}");
            continue;
        }
        let network = t.network(driver, &["-d", driver])?;
        let id = t.ok(["network", "inspect", "-f", "{{.Id}}", &network])?;
        let link = format!("{prefix}-{}", id.get(..12).context("a short id")?);
        let is_there = || Ok::<_, anyhow::Error>(on_the_machine(t, "ip link")?.contains(&link));
        ensure!(is_there()?, "no link {link}");
        let (one, two) = (t.name("one"), t.name("two"));
        runs(t, &one, &["--network", &network])?;
        runs(t, &two, &["--network", &network])?;
        ensure!(reaches(t, &one, &two)?, "{driver}: they do not reach each other");
        ensure_eq!(endpoint(t, &one, &network)?["Gateway"], "");
        let routes = t.ok(["exec", &one, "ip", "route"])?;
        ensure!(!routes.contains("default"), "{routes}");
        t.ok(["rm", "-f", &one, &two])?;
        t.ok(["network", "rm", &network])?;
        ensure!(!is_there()?, "{link} is still there");
    }
    Ok(())
}

fn tagged(t: &Target) -> Outcome {
    lan(t, "mvj", "10.129.0.1/24")?;
    let make = |what: &str, subnet: &str| {
        t.network(what, &["-d", "macvlan", "-o", "parent=mvj.10", &format!("--subnet={subnet}")])
    };
    if !has(t, "mvj", "vlan id 5")? {
        let body = json!({"Name": t.name("no"), "Driver": "macvlan", "Options": {"parent": "mvj.10"}});
        ensure_eq!(refusal(t, &body, 500)?, "failed to create mvj.10 vlan link: operation not supported");
        return Ok(());
    }
    let is_there = || Ok::<_, anyhow::Error>(on_the_machine(t, "ip link")?.contains("mvj.10@mvj"));
    let (one, two) = (make("one", "10.129.1.0/24")?, make("two", "10.129.2.0/24")?);
    // The other end of the wire speaks only to who has the tag.
    on_the_machine(
        t,
        "ip link add link mvjw name mvjw.10 type vlan id 10 && ip addr add 10.129.1.1/24 dev mvjw.10 && \
         ip link set mvjw.10 up",
    )?;
    let name = t.name("box");
    runs(t, &name, &["--network", &one, "--ip", "10.129.1.9"])?;
    ensure!(reaches(t, &name, "10.129.1.1")?, "the VLAN is not reached");
    t.ok(["rm", "-f", &name])?;
    t.ok(["network", "rm", &one])?;
    ensure!(is_there()?, "the link is gone that another network uses");
    t.ok(["network", "rm", &two])?;
    ensure!(!is_there()?, "the link is still there");
    // What somebody else made stays.
    on_the_machine(t, "ip link add link mvj name mvj.10 type vlan id 10")?;
    let one = make("one", "10.129.1.0/24")?;
    t.ok(["network", "rm", &one])?;
    ensure!(is_there()?, "somebody's link is gone");
    Ok(())
}

fn ipvlan(t: &Target) -> Outcome {
    lan(t, "mvk", "10.130.0.1/24")?;
    let network = t.network(
        "net",
        &["-d", "ipvlan", "-o", "parent=mvk", "--subnet=10.130.0.0/24", "--gateway=10.130.0.1"],
    )?;
    let (one, two) = (t.name("one"), t.name("two"));
    if !has(t, "mvk", "ipvlan")? {
        t.fails(125, ["run", "--name", &one, "--network", &network, "busybox", "true"])?
            .expect_stderr("failed to create the ipvlan port: operation not supported")?;
        return Ok(());
    }
    runs(t, &one, &["--network", &network])?;
    runs(t, &two, &["--network", &network])?;
    let place = endpoint(t, &one, &network)?;
    ensure_eq!(
        (&place["IPAddress"], &place["Gateway"], &place["MacAddress"]),
        (&json!("10.130.0.2"), &json!("10.130.0.1"), &json!(""))
    );
    let mac = |name: &str| t.ok(["exec", name, "cat", "/sys/class/net/eth0/address"]);
    ensure_eq!(mac(&one)?, mac(&two)?);
    let route = t.ok(["exec", &one, "ip", "route", "show", "default"])?;
    ensure!(route.starts_with("default via 10.130.0.1 dev eth0"), "{route}");
    for address in [two.as_str(), "10.130.0.1"] {
        ensure!(reaches(t, &one, address)?, "{address} is not reached");
    }
    t.ok(["restart", "-t", "0", &two])?;
    ensure!(reaches(t, &one, &two)?, "not reached after a restart");
    t.ok(["rm", "-f", &one, &two])?;
    t.ok(["network", "rm", &network])?;
    let private = t.network(
        "net",
        &[
            "-d",
            "ipvlan",
            "-o",
            "parent=mvk",
            "--subnet=10.130.0.0/24",
            "--gateway=10.130.0.1",
            "-o",
            "ipvlan_flag=private",
        ],
    )?;
    runs(t, &one, &["--network", &private])?;
    runs(t, &two, &["--network", &private])?;
    ensure!(!reaches(t, &one, &two)?, "private links reach each other");
    ensure!(reaches(t, &one, "10.130.0.1")?, "the LAN is not reached");
    Ok(())
}

fn ipvlan_l3(t: &Target) -> Outcome {
    lan(t, "mvl", "10.131.9.1/24")?;
    let has = has(t, "mvl", "ipvlan")?;
    for mode in ["l3", "l3s"] {
        let option = format!("ipvlan_mode={mode}");
        let network = t.network(
            "net",
            &[
                "-d",
                "ipvlan",
                "-o",
                "parent=mvl",
                "-o",
                &option,
                "--subnet=10.131.0.0/24",
                "--subnet=10.131.1.0/24",
            ],
        )?;
        let shown = t.api().get(format!("/networks/{network}")).send()?.json()?;
        ensure_eq!(shown["IPAM"]["Config"][0].get("Gateway"), None);
        let (one, two) = (t.name("one"), t.name("two"));
        if !has {
            let run = ["run", "--name", &one, "--network", &network, "busybox", "true"];
            t.fails(125, run)?.expect_stderr("failed to create the ipvlan port: operation not supported")?;
            t.ok(["rm", &one])?;
            t.ok(["network", "rm", &network])?;
            continue;
        }
        runs(t, &one, &["--network", &network, "--ip", "10.131.0.5"])?;
        runs(t, &two, &["--network", &network, "--ip", "10.131.1.5"])?;
        ensure_eq!(endpoint(t, &one, &network)?["Gateway"], "");
        let route = t.ok(["exec", &one, "ip", "route", "show", "default"])?;
        ensure!(route.starts_with("default dev eth0"), "{route}");
        // Its subnets reach each other.
        ensure!(reaches(t, &one, "10.131.1.5")?, "{mode}: the other subnet is not reached");
        t.ok(["rm", "-f", &one, &two])?;
        t.ok(["network", "rm", &network])?;
    }
    Ok(())
}

fn survives_a_crash(t: &Target) -> Outcome {
    lan(t, "mvm", "10.132.0.1/24")?;
    let network = t.network(
        "net",
        &["-d", "macvlan", "-o", "parent=mvm", "--subnet=10.132.0.0/24", "--gateway=10.132.0.1"],
    )?;
    let (one, two, three) = (t.name("one"), t.name("two"), t.name("three"));
    runs(t, &one, &["--network", &network])?;
    runs(t, &two, &["--network", &network])?;
    let before = endpoint(t, &one, &network)?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(endpoint(t, &one, &network)?, before);
    ensure!(reaches(t, &one, &two)? && reaches(t, &one, "10.132.0.1")?, "not reached after a crash");
    runs(t, &three, &["--network", &network])?;
    ensure_eq!(endpoint(t, &three, &network)?["IPAddress"], "10.132.0.4");
    t.ok(["restart", "-t", "0", &one])?;
    ensure!(reaches(t, &one, &three)?, "not reached after a restart");
    t.ok(["rm", "-f", &one, &two, &three])?;
    t.ok(["network", "rm", &network])?;
    ensure!(on_the_machine(t, "ip link show mvm")?.contains("mvm@"), "somebody's link is gone");
    Ok(())
}
