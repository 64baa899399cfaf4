//! Networks: the engine's own and the user's, and containers in them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, keys, wait};

cases! {
    list,
    inspect,
    none,
    host,
    of_another_container,
    missing,
    the_default_bridge,
    create_and_remove,
    refusals,
    filters,
    prune.alone(),
    subnets,
    connect_and_disconnect,
    connect_refusals,
    of_a_stopped_container,
    several_networks,
    without_settings,
    static_addresses,
    internal,
    isolation,
    no_talk_between_containers,
    driver_options,
    options_of_an_interface,
    options_of_a_bridge,
    other_gateways_and_addresses_of_ipv6,
    ipv6,
    events,
    links,
    hosts_and_resolvers,
    survive_a_crash.alone(),
}

fn list(t: &Target) -> Outcome {
    let names = t.ok(["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"])?;
    for wanted in ["none null local", "host host local"] {
        ensure!(names.lines().any(|line| line == wanted), "no {wanted:?} in {names}");
    }
    ensure_eq!(t.ok(["network", "ls", "--filter", "name=none", "--format", "{{.Name}}"])?, "none");
    ensure_eq!(t.ok(["network", "ls", "--filter", "driver=host", "--format", "{{.Name}}"])?, "host");
    Ok(())
}

fn inspect(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["run", "-d", "--name", &name, "--network", "none", "busybox", "sleep", "1000"])?;
    let network = t.api().get("/networks/none").send()?.expect(200)?.json()?;
    ensure_eq!((&network["Name"], &network["Driver"]), (&"none".into(), &"null".into()));
    ensure_eq!(network["Containers"][&id]["Name"], name.as_str());
    keys::compare(t.kind(), "network-inspect", &network, &[])?;
    let networks = t.inspect(&name)?["NetworkSettings"]["Networks"].clone();
    ensure_eq!(networks.as_object().context("no networks")?.keys().collect::<Vec<_>>(), ["none"]);
    ensure_eq!(networks["none"]["NetworkID"], network["Id"]);
    Ok(())
}

fn none(t: &Target) -> Outcome {
    let links = t.ok(["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"])?;
    ensure_eq!(links, "lo");
    let up = t.ok(["run", "--rm", "--network", "none", "busybox", "ping", "-c", "1", "127.0.0.1"])?;
    ensure!(up.contains("1 packets received"), "{up}");
    t.fails(1, ["run", "--rm", "--network", "none", "busybox", "ping", "-c", "1", "-W", "1", "10.0.0.1"])?;
    Ok(())
}

fn host(t: &Target) -> Outcome {
    let script = "readlink /proc/self/ns/net";
    let inside = t.ok(["run", "--rm", "--network", "host", "busybox", "sh", "-c", script])?;
    let same = t.ok([
        "run",
        "--rm",
        "--network",
        "host",
        "--pid",
        "host",
        "--privileged",
        "busybox",
        "readlink",
        "/proc/1/ns/net",
    ])?;
    ensure_eq!(inside, same);
    let own = t.ok(["run", "--rm", "--network", "none", "busybox", "sh", "-c", script])?;
    ensure!(own != inside, "the network none is the host's");
    // The host's name, too.
    let name = t.ok(["run", "--rm", "--network", "host", "busybox", "hostname"])?;
    ensure_eq!(t.ok(["info", "--format", "{{.Name}}"])?, name);
    Ok(())
}

fn of_another_container(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    t.ok(["run", "-d", "--name", &one, "--network", "none", "busybox", "sleep", "1000"])?;
    t.ok([
        "run",
        "-d",
        "--name",
        &two,
        "--network",
        &format!("container:{one}"),
        "busybox",
        "sleep",
        "1000",
    ])?;
    let space = |name: &str| t.ok(["exec", name, "readlink", "/proc/self/ns/net"]);
    ensure_eq!(space(&one)?, space(&two)?);
    let third = t.name("three");
    t.ok(["stop", "-t", "0", &one])?;
    t.fails(125, ["run", "--name", &third, "--network", &format!("container:{one}"), "busybox", "true"])?
        .expect_stderr("cannot join network namespace of a non running container")?;
    Ok(())
}

fn missing(t: &Target) -> Outcome {
    let name = t.name("none");
    t.fails(1, ["network", "inspect", &name])?.expect_stderr(&format!("network {name} not found"))?;
    ensure_eq!(
        t.api().get(format!("/networks/{name}")).send()?.expect(404)?.message()?,
        format!("network {name} not found")
    );
    t.fails(1, ["network", "rm", "none"])?
        .expect_stderr("none is a pre-defined network and cannot be removed")?;
    Ok(())
}

/// A running container in a network.
fn runs(t: &Target, name: &str, args: &[&str]) -> Result<String> {
    let options = ["run", "-d", "--name", name].into_iter().chain(args.iter().copied());
    t.ok(options.chain(["busybox", "sh", "-c", SLEEP]))
}

fn endpoint(t: &Target, container: &str, network: &str) -> Result<Value> {
    Ok(t.inspect(container)?["NetworkSettings"]["Networks"][network].clone())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether a container reaches an address.
fn reaches(t: &Target, container: &str, address: &str) -> Result<bool> {
    Ok(t.docker(["exec", container, "ping", "-c", "1", "-W", "1", address]).output()?.code() == 0)
}

fn the_default_bridge(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    runs(t, &one, &[])?;
    runs(t, &two, &[])?;
    let (first, second) = (endpoint(t, &one, "bridge")?, endpoint(t, &two, "bridge")?);
    ensure!(reaches(t, &one, text(&second["IPAddress"]))?, "{first} does not reach {second}");
    ensure!(reaches(t, &one, text(&first["Gateway"]))?, "{first} does not reach its gateway");
    let settings = t.inspect(&one)?["NetworkSettings"].clone();
    for name in ["IPAddress", "Gateway", "MacAddress", "EndpointID", "IPPrefixLen"] {
        ensure_eq!(settings[name], first[name], "{name}");
    }
    let network = t.api().get("/networks/bridge").send()?.expect(200)?.json()?;
    ensure_eq!(network["Options"]["com.docker.network.bridge.name"], "docker0");
    let member = &network["Containers"][text(&t.inspect(&two)?["Id"])];
    ensure_eq!(member["Name"], two.as_str());
    ensure_eq!(member["MacAddress"], second["MacAddress"]);
    let length = &second["IPPrefixLen"];
    ensure_eq!(text(&member["IPv4Address"]), format!("{}/{length}", text(&second["IPAddress"])));
    keys::compare(t.kind(), "network-bridge", &network, &[])?;
    keys::compare(t.kind(), "endpoint", &second, &[])?;
    let route = t.ok(["exec", &one, "ip", "route", "show", "default"])?;
    ensure!(route.starts_with(&format!("default via {} dev eth0", text(&first["Gateway"]))), "{route}");
    Ok(())
}

fn create_and_remove(t: &Target) -> Outcome {
    let network = t.network("net", &["--label", "tier=back", "--attachable"])?;
    let shown = t.api().get(format!("/networks/{network}")).send()?.expect(200)?.json()?;
    ensure_eq!((&shown["Driver"], &shown["Scope"]), (&json!("bridge"), &json!("local")));
    ensure_eq!((&shown["Internal"], &shown["Attachable"]), (&json!(false), &json!(true)));
    ensure_eq!(shown["Labels"], json!({"tier": "back"}));
    ensure_eq!((&shown["EnableIPv4"], &shown["EnableIPv6"]), (&json!(true), &json!(false)));
    let config = &shown["IPAM"]["Config"][0];
    ensure!(text(&config["Subnet"]).contains('/') && !text(&config["Gateway"]).is_empty(), "{shown}");
    let id = text(&shown["Id"]).to_owned();
    ensure_eq!(id.len(), 64);
    ensure_eq!(t.ok(["network", "inspect", "-f", "{{.Name}}", &id[..12]])?, network);
    let again = json!({"Name": network});
    ensure_eq!(
        t.api().post("/networks/create").json(&again).send()?.expect(409)?.message()?,
        format!("network with name {network} already exists")
    );
    t.api().delete(format!("/networks/{network}")).send()?.expect(204)?;
    t.api().delete(format!("/networks/{network}")).send()?.expect(404)?;
    Ok(())
}

fn refusals(t: &Target) -> Outcome {
    let taken = t.network("taken", &["--subnet", "10.77.0.0/24"])?;
    let bridge = "com.docker.network.bridge";
    let subnet = |config: Value| json!({"Name": "no", "IPAM": {"Config": [config]}});
    let option = |name: &str, value: &str| json!({"Name": "no", "Options": {name: value}});
    for (body, status, message) in [
        (json!({}), 400, "invalid name: name is empty"),
        (json!({"Name": "host"}), 403, "operation is not permitted on predefined host network "),
        (json!({"Name": "no", "Driver": "host"}), 403, "only one instance of \"host\" network is allowed"),
        (json!({"Name": "no", "Driver": "zz"}), 404, "plugin \"zz\" not found"),
        (
            json!({"Name": "no", "Driver": "overlay"}),
            403,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
             node to swarm and try again.",
        ),
        (
            json!({"Name": "no", "Scope": "swarm"}),
            403,
            "cannot create a swarm scoped network when swarm is not active",
        ),
        (json!({"Name": "no", "EnableIPv4": false}), 400, "IPv4 or IPv6 must be enabled"),
        (json!({"Name": "no", "IPAM": {"Driver": "zz"}}), 404, "plugin \"zz\" not found"),
        (
            subnet(json!({"Subnet": "10.77.0.0/25"})),
            403,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        (
            subnet(json!({"Subnet": "10.78.0.5/24"})),
            400,
            "invalid network config:\ninvalid subnet 10.78.0.5/24: it should be 10.78.0.0/24",
        ),
        (
            subnet(json!({"Subnet": "10.78.0.0/24", "Gateway": "10.79.0.1"})),
            400,
            "invalid network config:\ninvalid gateway 10.79.0.1: parent subnet 10.78.0.0/24 doesn't contain this \
             address",
        ),
        (
            subnet(json!({"Subnet": "10.78.0.0/24", "IPRange": "10.79.0.0/25"})),
            400,
            "invalid network config:\ninvalid ip-range 10.79.0.0/25: parent subnet 10.78.0.0/24 doesn't contain \
             ip-range",
        ),
        (
            json!({"Name": "no", "IPAM": {"Config": [{"Subnet": "10.78.0.0/24"}, {"Subnet": "10.79.0.0/24"}]}}),
            403,
            "bridge driver doesn't support multiple subnets",
        ),
        (
            option(&format!("{bridge}.enable_icc"), "q"),
            400,
            "failed to parse com.docker.network.bridge.enable_icc value: q (strconv.ParseBool: parsing \"q\": \
             invalid syntax)",
        ),
        (option("com.docker.network.driver.mtu", "-1"), 400, "invalid MTU number: -1"),
        (option(&format!("{bridge}.name"), "averyveryverylongname"), 500, "numerical result out of range"),
    ] {
        let answer = t.api().post("/networks/create").json(&body).send()?.expect(status)?;
        ensure_eq!(answer.message()?, message, "{body}");
    }
    let same = option(&format!("{bridge}.name"), "docker0");
    let message = t.api().post("/networks/create").json(&same).send()?.expect(403)?.message()?;
    ensure!(
        message.contains("conflicts with network") && message.ends_with("networks have same bridge name"),
        "{message}"
    );
    let name = t.name("box");
    let id = runs(t, &name, &["--network", &taken])?;
    let busy = t.api().delete(format!("/networks/{taken}")).send()?.expect(403)?.message()?;
    let short = text(&endpoint(t, &name, &taken)?["EndpointID"]).get(..12).context("no endpoint")?.to_owned();
    ensure_eq!(
        busy,
        format!(
            "error while removing network: network {taken} has active endpoints (name:\"{name}\" id:\"{short}\")"
        )
    );
    ensure!(!id.is_empty());
    Ok(())
}

fn filters(t: &Target) -> Outcome {
    let label = t.name("label");
    let network = t.network("net", &["--label", &label])?;
    let listed = |filter: &str| {
        let label = format!("label={label}");
        t.ok(["network", "ls", "--filter", &label, "--filter", filter, "--format", "{{.Name}}"])
    };
    let id = t.ok(["network", "inspect", "-f", "{{.Id}}", &network])?;
    let ids = format!("id={}", &id[..9]);
    for filter in ["driver=bridge", "scope=local", "type=custom", "dangling=true", "name=net", ids.as_str()] {
        ensure_eq!(listed(filter)?, network, "{filter}");
    }
    for filter in ["driver=host", "scope=swarm", "type=builtin", "dangling=false", "name=zz", "id=zz"] {
        ensure_eq!(listed(filter)?, "", "{filter}");
    }
    t.fails(1, ["network", "ls", "--filter", "type=xx"])?.expect_stderr("invalid filter: 'type'='xx'")?;
    t.fails(1, ["network", "ls", "--filter", "colour=red"])?.expect_stderr("invalid filter 'colour'")?;
    Ok(())
}

fn prune(t: &Target) -> Outcome {
    let used = t.network("used", &[])?;
    let kept = t.network("kept", &["--label", "keep"])?;
    let unused = t.network("unused", &[])?;
    runs(t, &t.name("box"), &["--network", &used])?;
    ensure_eq!(t.ok(["network", "prune", "-f", "--filter", "until=10m"])?, "");
    let deleted = t.ok(["network", "prune", "-f", "--filter", "label!=keep"])?;
    ensure!(deleted.lines().any(|line| line == unused) && !deleted.contains(&kept), "{deleted}");
    let left = t.ok(["network", "ls", "--format", "{{.Name}}"])?;
    let left: Vec<&str> = left.lines().collect();
    for name in [used.as_str(), kept.as_str(), "bridge", "host", "none"] {
        ensure!(left.contains(&name), "{name} is not in {left:?}");
    }
    ensure!(!left.contains(&unused.as_str()), "{left:?}");
    Ok(())
}

fn subnets(t: &Target) -> Outcome {
    let network = t.network(
        "net",
        &[
            "--subnet=10.80.0.0/16",
            "--ip-range=10.80.5.0/24",
            "--gateway=10.80.5.254",
            "--aux-address=router=10.80.5.0",
        ],
    )?;
    let config = t.api().get(format!("/networks/{network}")).send()?.json()?["IPAM"]["Config"].clone();
    ensure_eq!(
        config,
        json!([{
            "Subnet": "10.80.0.0/16", "IPRange": "10.80.5.0/24", "Gateway": "10.80.5.254",
            "AuxiliaryAddresses": {"router": "10.80.5.0"},
        }])
    );
    let name = t.name("box");
    runs(t, &name, &["--network", &network])?;
    let place = endpoint(t, &name, &network)?;
    ensure_eq!((text(&place["IPAddress"]), text(&place["Gateway"])), ("10.80.5.1", "10.80.5.254"));
    ensure_eq!(place["IPPrefixLen"], 16);
    // Two networks do not get one subnet.
    let nets = [t.network("a", &[])?, t.network("b", &[])?];
    let subnet =
        |name: &String| t.ok(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", name]);
    ensure!(subnet(&nets[0])? != subnet(&nets[1])?, "both are {}", subnet(&nets[0])?);
    Ok(())
}

fn connect_and_disconnect(t: &Target) -> Outcome {
    let (one, two) = (t.network("one", &[])?, t.network("two", &["--subnet=10.81.0.0/24"])?);
    let (name, other) = (t.name("box"), t.name("other"));
    let id = runs(t, &name, &["--network", &one])?;
    runs(t, &other, &["--network", &two])?;
    t.ok(["network", "connect", "--ip", "10.81.0.9", "--alias", "moved", &two, &name])?;
    let place = endpoint(t, &name, &two)?;
    ensure_eq!(text(&place["IPAddress"]), "10.81.0.9");
    ensure_eq!(place["Aliases"], json!(["moved"]));
    ensure_eq!(place["IPAMConfig"], json!({"IPv4Address": "10.81.0.9"}));
    ensure_eq!(place["DNSNames"], json!([name, "moved", &id[..12]]));
    ensure!(reaches(t, &other, "10.81.0.9")? && reaches(t, &other, "moved")?, "not reached: {place}");
    ensure!(t.ok(["exec", &name, "cat", "/etc/hosts"])?.contains("10.81.0.9\t"));
    let members = t.api().get(format!("/networks/{two}")).send()?.json()?["Containers"].clone();
    ensure_eq!(members[&id]["IPv4Address"], "10.81.0.9/24");
    t.ok(["network", "disconnect", &two, &name])?;
    ensure!(!reaches(t, &other, "10.81.0.9")?, "it is still there");
    ensure!(!t.ok(["exec", &name, "cat", "/etc/hosts"])?.contains("10.81.0.9"));
    ensure_eq!(t.ok(["exec", &name, "ls", "/sys/class/net"])?, "eth0\nlo");
    ensure_eq!(endpoint(t, &name, &two)?, Value::Null);
    Ok(())
}

fn connect_refusals(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.82.0.0/24"])?;
    let (name, alone, hosts) = (t.name("box"), t.name("alone"), t.name("hosts"));
    let id = runs(t, &name, &["--network", &network, "--ip", "10.82.0.7"])?;
    runs(t, &alone, &["--network", "none"])?;
    runs(t, &hosts, &["--network", "host"])?;
    let other = t.name("other");
    runs(t, &other, &[])?;
    let connect = |network: &str, container: &str, endpoint: Value| {
        let body = json!({"Container": container, "EndpointConfig": endpoint});
        t.api().post(format!("/networks/{network}/connect")).json(&body).send()
    };
    let at = |address: &str| json!({"IPAMConfig": {"IPv4Address": address}});
    let private =
        "container cannot be connected to multiple networks with one of the networks in private (none) mode";
    let shared = "container sharing network namespace with another container or host cannot be connected to any \
                  other network";
    for (network, container, endpoint, status, message) in [
        (
            network.as_str(),
            name.as_str(),
            json!({}),
            403,
            format!("endpoint with name {name} already exists in network {network}"),
        ),
        ("zz", &name, json!({}), 404, "network zz not found".to_owned()),
        (&network, "zz", json!({}), 404, "No such container: zz".to_owned()),
        (&network, &alone, json!({}), 400, private.to_owned()),
        ("none", &name, json!({}), 400, private.to_owned()),
        (&network, &hosts, json!({}), 400, shared.to_owned()),
        (&network, &other, at("10.82.0.7"), 403, "Address already in use".to_owned()),
        (
            &network,
            &other,
            at("10.83.0.7"),
            400,
            "invalid endpoint settings:\nno configured subnet or ip-range contain the IP address 10.83.0.7"
                .to_owned(),
        ),
    ] {
        let answer = connect(network, container, endpoint)?.expect(status)?;
        ensure_eq!(answer.message()?, message);
    }
    t.fails(1, ["network", "disconnect", "bridge", &name])?
        .expect_stderr(&format!("container {id} is not connected to network bridge"))?;
    t.fails(1, ["network", "disconnect", "host", &hosts])?.expect_stderr(
        "cannot disconnect container from host network - container was created in host network mode",
    )?;
    let late = t.name("late");
    t.ok(["create", "--name", &late, "--network", "zz", "busybox", "true"])?;
    t.fails(1, ["start", &late])?
        .expect_stderr("failed to set up container networking: network zz not found")?;
    ensure_eq!(t.inspect(&late)?["State"]["Status"], "created");
    Ok(())
}

fn of_a_stopped_container(t: &Target) -> Outcome {
    let (one, two) = (t.network("one", &[])?, t.network("two", &[])?);
    let name = t.name("box");
    t.ok(["create", "--name", &name, "--network", &one, "busybox", "sh", "-c", SLEEP])?;
    let place = endpoint(t, &name, &one)?;
    ensure_eq!((text(&place["IPAddress"]), text(&place["EndpointID"])), ("", ""));
    t.ok(["network", "connect", &two, &name])?;
    t.ok(["start", &name])?;
    ensure_eq!(t.ok(["exec", &name, "ls", "/sys/class/net"])?, "eth0\neth1\nlo");
    ensure!(!text(&endpoint(t, &name, &two)?["IPAddress"]).is_empty());
    t.ok(["stop", &name])?;
    let settings = t.inspect(&name)?["NetworkSettings"].clone();
    ensure_eq!((text(&settings["SandboxID"]), text(&settings["SandboxKey"])), ("", ""));
    let place = endpoint(t, &name, &one)?;
    ensure_eq!((text(&place["IPAddress"]), text(&place["MacAddress"])), ("", ""));
    ensure!(!text(&place["NetworkID"]).is_empty());
    // A network can go that only a stopped container wants.
    t.ok(["network", "rm", &two])?;
    t.fails(1, ["start", &name])?
        .expect_stderr("failed to set up container networking: network ")?
        .expect_stderr(" not found")?;
    t.ok(["network", "disconnect", "-f", &one, &name])?;
    t.ok(["network", "rm", &one])?;
    t.fails(1, ["start", &name])?
        .expect_stderr("failed to set up container networking: ")?
        .expect_stderr(" not found")?;
    Ok(())
}

fn several_networks(t: &Target) -> Outcome {
    let (one, two) =
        (t.network("a", &["--subnet=10.84.0.0/24"])?, t.network("b", &["--subnet=10.84.1.0/24"])?);
    let (plain, chosen) = (t.name("plain"), t.name("chosen"));
    runs(t, &plain, &["--network", &two, "--network", &one])?;
    let route = |name: &str| t.ok(["exec", name, "ip", "route", "show", "default"]);
    // The first by name leads to the world …
    ensure!(route(&plain)?.contains("via 10.84.0.1"), "{}", route(&plain)?);
    // … unless another is preferred.
    let preferred = format!("name={two},gw-priority=5");
    runs(t, &chosen, &["--network", &one, "--network", &preferred])?;
    ensure!(route(&chosen)?.contains("via 10.84.1.1"), "{}", route(&chosen)?);
    ensure_eq!(endpoint(t, &chosen, &two)?["GwPriority"], 5);
    t.ok(["network", "disconnect", &two, &chosen])?;
    ensure!(route(&chosen)?.contains("via 10.84.0.1"), "{}", route(&chosen)?);
    Ok(())
}

fn without_settings(t: &Target) -> Outcome {
    let (one, two) = (t.network("one", &[])?, t.network("two", &[])?);
    let create = |endpoints: Value| {
        let body = json!({
            "Image": "busybox", "Cmd": ["sh", "-c", SLEEP], "ExposedPorts": {"80/tcp": null},
            "Labels": {"a": null}, "HostConfig": {"NetworkMode": one},
            "NetworkingConfig": {"EndpointsConfig": endpoints},
        });
        t.api().post(format!("/containers/create?name={}", t.name("box"))).json(&body).send()
    };
    let nothing = |network: &str| format!("invalid config for network {network}: EndpointsConfig is nil");
    let refused = create(json!({one.as_str(): null, two.as_str(): {}}))?.expect(400)?;
    ensure_eq!(refused.message()?, nothing(&one));
    let refused = create(json!({one.as_str(): null, two.as_str(): null}))?.expect(400)?.message()?;
    // In no order.
    let mut lines: Vec<&str> = refused.lines().collect();
    lines.sort_unstable();
    ensure_eq!(lines, [format!("* {}", nothing(&one)), format!("* {}", nothing(&two))]);
    create(json!({one.as_str(): {}, two.as_str(): {}}))?.expect(201)?;
    let name = t.name("box");
    t.ok(["start", &name])?;
    for network in [&one, &two] {
        ensure!(!text(&endpoint(t, &name, network)?["IPAddress"]).is_empty(), "it is not in {network}");
    }
    // In other maps, it is an empty value.
    let config = t.inspect(&name)?["Config"].clone();
    ensure_eq!((&config["ExposedPorts"], &config["Labels"]), (&json!({"80/tcp": {}}), &json!({"a": ""})));
    Ok(())
}

fn static_addresses(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.85.0.0/24"])?;
    let (name, second) = (t.name("box"), t.name("second"));
    let mac = "02:42:aa:bb:cc:01";
    runs(t, &name, &["--network", &network, "--ip", "10.85.0.20", "--mac-address", mac])?;
    let place = endpoint(t, &name, &network)?;
    ensure_eq!((text(&place["IPAddress"]), text(&place["MacAddress"])), ("10.85.0.20", mac));
    ensure_eq!(t.ok(["exec", &name, "cat", "/sys/class/net/eth0/address"])?, mac);
    let run = |network: &str, address: &str| {
        let name = t.name("no");
        t.fails(125, ["run", "--name", &name, "--network", network, "--ip", address, "busybox", "true"])
    };
    run(&network, "10.85.0.20")?
        .expect_stderr("failed to set up container networking: Address already in use")?;
    run(&network, "10.86.0.20")?
        .expect_stderr("no configured subnet or ip-range contain the IP address 10.86.0.20")?;
    run("bridge", "172.17.0.200")?
        .expect_stderr("user specified IP address is supported on user defined networks only")?;
    // The address is free again when its container has ended.
    t.ok(["stop", &name])?;
    runs(t, &second, &["--network", &network, "--ip", "10.85.0.20"])?;
    t.fails(1, ["start", &name])?.expect_stderr("Address already in use")?;
    t.ok(["rm", "-f", &second])?;
    t.ok(["start", &name])?;
    ensure_eq!(text(&endpoint(t, &name, &network)?["IPAddress"]), "10.85.0.20");
    Ok(())
}

fn internal(t: &Target) -> Outcome {
    let (closed, open) = (t.network("closed", &["--internal"])?, t.network("open", &[])?);
    let (one, two, out) = (t.name("one"), t.name("two"), t.name("out"));
    runs(t, &one, &["--network", &closed])?;
    runs(t, &two, &["--network", &closed])?;
    runs(t, &out, &["--network", &open])?;
    let place = endpoint(t, &one, &closed)?;
    ensure_eq!(text(&place["Gateway"]), "");
    let routes = t.ok(["exec", &one, "ip", "route"])?;
    ensure!(!routes.contains("default"), "{routes}");
    ensure!(
        reaches(t, &two, text(&place["IPAddress"]))?,
        "containers of the network do not reach each other"
    );
    let outside = endpoint(t, &out, &open)?;
    ensure!(!reaches(t, &one, text(&outside["IPAddress"]))?, "it reaches the outside");
    Ok(())
}

fn isolation(t: &Target) -> Outcome {
    let (one, two) = (t.network("one", &[])?, t.network("two", &[])?);
    let (a, b) = (t.name("a"), t.name("b"));
    runs(t, &a, &["--network", &one])?;
    runs(t, &b, &["--network", &two])?;
    let there = endpoint(t, &b, &two)?;
    ensure!(!reaches(t, &a, text(&there["IPAddress"]))?, "one network reaches another");
    // Both reach this machine.
    ensure!(reaches(t, &a, text(&endpoint(t, &a, &one)?["Gateway"]))?, "it does not reach its gateway");
    Ok(())
}

fn no_talk_between_containers(t: &Target) -> Outcome {
    let network = t.network("net", &["-o", "com.docker.network.bridge.enable_icc=false"])?;
    let (a, b) = (t.name("a"), t.name("b"));
    runs(t, &a, &["--network", &network])?;
    runs(t, &b, &["--network", &network])?;
    let there = endpoint(t, &b, &network)?;
    ensure!(!reaches(t, &a, text(&there["IPAddress"]))?, "containers reach each other");
    ensure!(reaches(t, &a, text(&there["Gateway"]))?, "the gateway is not reached");
    Ok(())
}

fn driver_options(t: &Target) -> Outcome {
    let network = t.network(
        "net",
        &["-o", "com.docker.network.driver.mtu=1400", "-o", "com.docker.network.bridge.name=cortest0"],
    )?;
    let name = t.name("box");
    runs(t, &name, &["--network", &network])?;
    ensure_eq!(t.ok(["exec", &name, "cat", "/sys/class/net/eth0/mtu"])?, "1400");
    let links = t.ok(["run", "--rm", "--network", "host", "busybox", "ip", "link"])?;
    ensure!(links.contains("cortest0:"), "{links}");
    t.ok(["rm", "-f", &name])?;
    t.ok(["network", "rm", &network])?;
    wait::eventually_true("the bridge is gone", Duration::from_secs(20), || {
        Ok(!t.ok(["run", "--rm", "--network", "host", "busybox", "ip", "link"])?.contains("cortest0:"))
    })
}

fn ipv6(t: &Target) -> Outcome {
    let given = t.network("given", &["--ipv6", "--subnet=fd00:77::/64"])?;
    let chosen = t.network("chosen", &["--ipv6"])?;
    let (one, two) = (t.name("one"), t.name("two"));
    runs(t, &one, &["--network", &given])?;
    runs(t, &two, &["--network", &given, "--ip6", "fd00:77::22"])?;
    let place = endpoint(t, &one, &given)?;
    ensure_eq!(
        (text(&place["GlobalIPv6Address"]), text(&place["IPv6Gateway"])),
        ("fd00:77::2", "fd00:77::1")
    );
    ensure_eq!(place["GlobalIPv6PrefixLen"], 64);
    let ping = |address: &str| t.ok(["exec", &one, "ping", "-6", "-c", "1", "-W", "2", address]);
    ping("fd00:77::22")?;
    ping("fd00:77::1")?;
    let config = t.api().get(format!("/networks/{chosen}")).send()?.json()?["IPAM"]["Config"].clone();
    ensure!(text(&config[1]["Subnet"]).starts_with("fd"), "{config}");
    // Without IPv6, interfaces have none.
    let plain = t.ok(["run", "--rm", "busybox", "cat", "/proc/net/if_inet6"])?;
    ensure!(!plain.contains("eth0"), "{plain}");
    Ok(())
}

fn events(t: &Target) -> Outcome {
    let name = t.name("events-net");
    let since = t.ok(["run", "--rm", "--network", "none", "busybox", "date", "+%s"])?;
    t.ok(["network", "create", &name])?;
    let container = t.name("box");
    let id = runs(t, &container, &["--network", &name])?;
    t.ok(["rm", "-f", &container])?;
    t.ok(["network", "rm", &name])?;
    let filter = format!("network={name}");
    let format = "{{.Action}} {{.Actor.Attributes.type}} {{.Actor.Attributes.container}}";
    let expected = [
        "create bridge <no value>".to_owned(),
        format!("connect bridge {id}"),
        format!("disconnect bridge {id}"),
        "destroy bridge <no value>".to_owned(),
    ];
    // What happens in the second that is asked for last may be left out.
    wait::eventually_true("all is told", Duration::from_secs(20), || {
        let args = ["events", "--since", &since, "--until", "0s", "--filter", &filter, "--format", format];
        let told = t.ok(args)?;
        ensure!(told.lines().zip(&expected).all(|(told, expected)| told == expected), "{told}");
        Ok(told.lines().count() == expected.len())
    })?;
    Ok(())
}

fn links(t: &Target) -> Outcome {
    let (web, front) = (t.name("web"), t.name("front"));
    runs(t, &web, &["--expose", "80", "-e", "COLOUR=red"])?;
    let link = format!("{web}:my-web");
    runs(t, &front, &["--link", &link])?;
    ensure_eq!(t.inspect(&front)?["HostConfig"]["Links"], json!([format!("/{web}:/{front}/my-web")]));
    let address = text(&endpoint(t, &web, "bridge")?["IPAddress"]).to_owned();
    let environment = t.ok(["exec", &front, "env"])?;
    for line in [
        format!("MY_WEB_PORT=tcp://{address}:80"),
        format!("MY_WEB_PORT_80_TCP_ADDR={address}"),
        format!("MY_WEB_NAME=/{front}/my-web"),
        "MY_WEB_ENV_COLOUR=red".to_owned(),
    ] {
        ensure!(environment.lines().any(|other| other == line), "no {line} in {environment}");
    }
    ensure!(reaches(t, &front, "my-web")?, "the link leads nowhere");
    let path = format!("{front}/my-web");
    ensure_eq!(t.ok(["inspect", "-f", "{{.Name}}", &path])?, format!("/{web}"));
    t.ok(["rm", "--link", &path])?;
    ensure_eq!(t.inspect(&front)?["HostConfig"]["Links"], Value::Null);
    t.fails(125, ["run", "--rm", "--link", "no-such:x", "busybox", "true"])?
        .expect_stderr("could not get container for no-such: No such container: no-such")?;
    t.ok(["stop", "-t", "0", &web])?;
    let late = t.name("late");
    t.fails(125, ["run", "--name", &late, "--link", &link, "busybox", "true"])?
        .expect_stderr(&format!("Cannot link to a non running container: /{web} AS /{late}/my-web"))?;
    Ok(())
}

fn hosts_and_resolvers(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.87.0.0/24"])?;
    let name = t.name("box");
    runs(
        t,
        &name,
        &[
            "--network",
            &network,
            "--hostname",
            "sea",
            "--add-host",
            "up:host-gateway",
            "--add-host",
            "db:10.1.2.3",
        ],
    )?;
    let gateway = t.ok(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"])?;
    let hosts = t.ok(["exec", &name, "cat", "/etc/hosts"])?;
    for line in [format!("{gateway}\tup"), "10.1.2.3\tdb".to_owned(), "10.87.0.2\tsea".to_owned()] {
        ensure!(hosts.lines().any(|other| other == line), "no {line:?} in {hosts}");
    }
    let lines = |text: String| {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let resolv = |args: &[&str]| -> Result<Vec<String>> {
        let args = ["run", "--rm"].iter().chain(args).copied();
        Ok(lines(t.ok(args.chain(["busybox", "cat", "/etc/resolv.conf"]))?))
    };
    let asked = ["--dns=9.9.9.9", "--dns-search=example.org", "--dns-option=timeout:3"];
    ensure_eq!(resolv(&asked)?, ["nameserver 9.9.9.9", "search example.org", "options timeout:3"]);
    let inside =
        ["--network", &network, "--dns=9.9.9.9", "--dns-search=example.org", "--dns-option=timeout:3"];
    ensure_eq!(
        resolv(&inside)?,
        ["nameserver 127.0.0.11", "search example.org", "options timeout:3 ndots:0"]
    );
    // A container that comes into a network with names gets the resolver.
    let plain = t.name("plain");
    runs(t, &plain, &["--dns=9.9.9.9"])?;
    let read = || t.ok(["exec", &plain, "cat", "/etc/resolv.conf"]).map(lines);
    t.ok(["network", "connect", &network, &plain])?;
    ensure_eq!(read()?[0], "nameserver 127.0.0.11");
    Ok(())
}

fn survive_a_crash(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.88.0.0/24"])?;
    let (one, two, three) = (t.name("one"), t.name("two"), t.name("three"));
    runs(t, &one, &["--network", &network])?;
    runs(t, &two, &["--network", &network])?;
    let (before, id) =
        (endpoint(t, &one, &network)?, t.ok(["network", "inspect", "-f", "{{.Id}}", &network])?);
    t.crash()?;
    t.recover()?;
    ensure_eq!(endpoint(t, &one, &network)?, before);
    ensure_eq!(t.ok(["network", "inspect", "-f", "{{.Id}}", &network])?, id);
    ensure!(reaches(t, &two, text(&before["IPAddress"]))?, "they do not reach each other");
    // Their addresses are not given out again.
    runs(t, &three, &["--network", &network])?;
    ensure_eq!(text(&endpoint(t, &three, &network)?["IPAddress"]), "10.88.0.4");
    ensure!(reaches(t, &three, text(&before["IPAddress"]))?, "the third does not reach the first");
    t.ok(["rm", "-f", &one, &two, &three])?;
    t.ok(["network", "rm", &network])?;
    Ok(())
}

fn options_of_an_interface(t: &Target) -> Outcome {
    let network = t.network("net", &["--subnet=10.89.0.0/24"])?;
    let prefix = "com.docker.network.endpoint";
    let (name, other) = (t.name("box"), t.name("other"));
    let options = format!(
        "name={network},driver-opt={prefix}.ifname=lan7,\
         \"driver-opt={prefix}.sysctls=net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0\""
    );
    runs(t, &name, &["--network", &options])?;
    ensure_eq!(t.ok(["exec", &name, "ls", "/sys/class/net"])?, "lan7\nlo");
    let setting = |name: &str| t.ok(["exec", name, "cat", "/proc/sys/net/ipv4/conf/lan7/log_martians"]);
    ensure_eq!(setting(&name)?, "1");
    // As well when it comes later.
    runs(t, &other, &[])?;
    let body = json!({
        "Container": other,
        "EndpointConfig": {"DriverOpts": {
            format!("{prefix}.ifname"): "lan7", format!("{prefix}.sysctls"): "net.ipv4.conf.IFNAME.log_martians=1",
        }},
    });
    t.api().post(format!("/networks/{network}/connect")).json(&body).send()?.expect(200)?;
    ensure_eq!(t.ok(["exec", &other, "ls", "/sys/class/net"])?, "eth0\nlan7\nlo");
    ensure_eq!(setting(&other)?, "1");
    let wrong = |name: &str, value: &str| json!({"Container": other, "EndpointConfig": {"DriverOpts": {name: value}}});
    let wrong = wrong(&format!("{prefix}.sysctls"), "net.ipv4.conf.eth0.log_martians=1");
    ensure_eq!(
        t.api().post("/networks/bridge/connect").json(&wrong).send()?.expect(400)?.message()?,
        "invalid endpoint settings:\nunrecognised network interface sysctl 'net.ipv4.conf.eth0.log_martians=1'; \
         represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
    );
    // An address beside those of the network.
    t.ok(["network", "disconnect", &network, &other])?;
    t.ok(["network", "connect", "--link-local-ip", "169.254.8.9", &network, &other])?;
    ensure!(
        reaches(t, &name, text(&endpoint(t, &other, &network)?["IPAddress"]))?,
        "it is not in the network"
    );
    let addresses = t.ok(["exec", &other, "ip", "-o", "addr"])?;
    ensure!(addresses.contains("inet 169.254.8.9/16"), "{addresses}");
    let missing = t.name("missing");
    let options = format!("name={network},driver-opt={prefix}.sysctls=net.ipv4.conf.IFNAME.nothing=1");
    t.fails(125, ["run", "--name", &missing, "--network", &options, "busybox", "true"])?
        .expect_stderr("is not a sysctl file")?;
    Ok(())
}

fn other_gateways_and_addresses_of_ipv6(t: &Target) -> Outcome {
    let subnets = ["--ipv6", "--subnet=10.92.0.0/24", "--subnet=fd00:92::/64"];
    let led =
        t.network("led", &[&subnets[..], &["--aux-address=DefaultGatewayIPv6=fd00:92::77"]].concat())?;
    let name = t.name("box");
    runs(t, &name, &["--network", &led])?;
    let place = endpoint(t, &name, &led)?;
    ensure_eq!((text(&place["Gateway"]), text(&place["IPv6Gateway"])), ("10.92.0.1", "fd00:92::77"));
    let routes = t.ok(["exec", &name, "ip", "-6", "route"])?;
    ensure!(routes.contains("default via fd00:92::77 dev eth0"), "{routes}");
    // An address of the link beside those of the network.
    t.ok(["network", "disconnect", &led, &name])?;
    t.ok(["network", "connect", "--link-local-ip", "fe80::92", &led, &name])?;
    let addresses = t.ok(["exec", &name, "ip", "-o", "-6", "addr"])?;
    ensure!(addresses.contains("inet6 fe80::92/64") && addresses.contains("inet6 fd00:92::"), "{addresses}");
    Ok(())
}

fn options_of_a_bridge(t: &Target) -> Outcome {
    let bridge = "com.docker.network.bridge";
    let enabled =
        t.network("enabled", &["-o", "com.docker.network.enable_ipv6=1", "--subnet=fd00:90::/64"])?;
    ensure_eq!(t.ok(["network", "inspect", "-f", "{{.EnableIPv6}}", &enabled])?, "true");
    let body = json!({"Name": t.name("no"), "Options": {"com.docker.network.enable_ipv6": "q"}});
    ensure_eq!(
        t.api().post("/networks/create").json(&body).send()?.expect(400)?.message()?,
        "driver-opt \"com.docker.network.enable_ipv6\" is not a valid bool"
    );
    // Somebody else leads out, and this machine has no address there.
    let led = t.network(
        "led",
        &[
            "--subnet=10.90.0.0/24",
            "--aux-address=DefaultGatewayIPv4=10.90.0.77",
            "-o",
            &format!("{bridge}.inhibit_ipv4=true"),
        ],
    )?;
    let name = t.name("box");
    runs(t, &name, &["--network", &led])?;
    let place = endpoint(t, &name, &led)?;
    ensure_eq!((text(&place["IPAddress"]), text(&place["Gateway"])), ("10.90.0.2", "10.90.0.77"));
    ensure!(!reaches(t, &name, "10.90.0.1")?, "this machine has an address in the network");
    let body = json!({
        "Name": t.name("no"), "Internal": true,
        "IPAM": {"Config": [{"Subnet": "10.91.0.0/24", "AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.91.0.7"}}]},
    });
    ensure_eq!(
        t.api().post("/networks/create").json(&body).send()?.expect(400)?.message()?,
        "no gateway can be set on an internal bridge network"
    );
    // Ports that name no address.
    let bound = t.network("bound", &["-o", &format!("{bridge}.host_binding_ipv4=::1")])?;
    let name = t.name("bound-box");
    runs(t, &name, &["--network", &bound, "-p", "22160:80"])?;
    ensure_eq!(
        t.inspect(&name)?["NetworkSettings"]["Ports"]["80/tcp"],
        json!([{"HostIp": "::1", "HostPort": "22160"}])
    );
    Ok(())
}
