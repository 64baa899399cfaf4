//! What an engine finds on its machine when it starts: bridges of others, bridges that nobody has, and a packet
//! filter that it cannot use.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

/// Where the test reaches the engine's own network, and what it keeps.
const NATIVE: &[Kind] = &[Kind::Native];

cases! {
    takes_over_a_bridge.on(&[Kind::Native, Kind::Dockerd]).alone(),
    removes_what_nobody_has.on(NATIVE).alone(),
    without_a_packet_filter.on(NATIVE).alone(),
}

/// What a shell prints where the engine's network is, whether the engine runs or not.
fn beside(t: &Target, script: &str) -> Result<String> {
    t.namespace().program("busybox").args(["sh", "-ec", script]).output()?.text()
}

/// Makes the engine, which must not run, forget a network, as a crash between the removal of the network and that
/// of its bridge does.
fn forget(t: &Target, name: &str) -> Outcome {
    let directory = t.data().join("networks");
    for entry in std::fs::read_dir(&directory).with_context(|| format!("reading {directory:?}"))? {
        let path = entry?.path();
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        if record["network"]["Name"] == name {
            return std::fs::remove_file(&path).with_context(|| format!("removing {path:?}"));
        }
    }
    anyhow::bail!("no network {name} in {directory:?}")
}

fn takes_over_a_bridge(t: &Target) -> Outcome {
    t.crash()?;
    beside(t, "ip addr flush dev docker0; ip addr add 10.150.16.1/20 dev docker0")?;
    match t.kind() {
        Kind::Native => forget(t, "bridge")?,
        // Docker remembers what it gave the bridge.
        _ => std::fs::remove_file(t.data().join("network/files/local-kv.db"))?,
    }
    t.recover()?;
    let format = "{{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).Gateway}}";
    ensure_eq!(t.ok(["network", "inspect", "-f", format, "bridge"])?, "10.150.16.0/20 10.150.16.1");
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sh", "-c", SLEEP])?;
    let place = t.inspect(&name)?["NetworkSettings"]["Networks"]["bridge"].clone();
    ensure_eq!((&place["IPAddress"], &place["IPPrefixLen"]), (&"10.150.16.2".into(), &20.into()));
    t.ok(["exec", &name, "ping", "-c", "1", "-W", "2", "10.150.16.1"])?;
    let addresses = beside(t, "ip -4 -o addr show dev docker0")?;
    ensure_eq!(addresses.lines().count(), 1, "{addresses}");
    Ok(())
}

fn removes_what_nobody_has(t: &Target) -> Outcome {
    let (kept, lost) = (t.network("kept", &[])?, t.network("lost", &["--subnet=10.151.0.0/24"])?);
    let link = |network: &str| -> Result<String> {
        let id = t.ok(["network", "inspect", "-f", "{{.Id}}", network])?;
        Ok(format!("br-{}", id.get(..12).context("a short id")?))
    };
    let (kept, lost_link) = (link(&kept)?, link(&lost)?);
    t.crash()?;
    forget(t, &lost)?;
    // Somebody else's, and one of ours that somebody has made theirs by another name.
    beside(
        t,
        "ip link add br-0123456789ab type bridge; ip link add mine type bridge; ip link set mine name br-mine",
    )?;
    t.recover()?;
    let links = beside(t, "ip -o link")?;
    ensure!(!links.contains(&lost_link), "{lost_link} is still there: {links}");
    for name in [kept.as_str(), "br-0123456789ab", "br-mine", "docker0"] {
        ensure!(links.contains(&format!(" {name}: ")), "{name} is gone: {links}");
    }
    t.network("again", &["--subnet=10.151.0.0/24"])?;
    Ok(())
}

/// A packet filter that the engine cannot use: its table is somebody else's, as long as this is kept.
fn take_the_table(t: &Target) -> Result<OwnedFd> {
    const TABLE: &[u8] = b"coracle\0";
    let message = |kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]| {
        let length = u32::try_from(20 + attributes.len()).unwrap_or_default();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | 1).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        bytes.extend(attributes);
        bytes
    };
    // NFTA_TABLE_NAME, and NFTA_TABLE_FLAGS with NFT_TABLE_F_OWNER.
    let name = [&[12, 0, 1, 0][..], TABLE].concat();
    let owned = [&name[..], &[8, 0, 2, 0, 0, 0, 0, 2]].concat();
    let (new, delete, inet, nftables, create, acknowledge) = (10 << 8, 10 << 8 | 2, 1, 10, 0x400, 4);
    let batch = [
        message(16, 0, 0, nftables, &[]),
        message(new, create, inet, 0, &name),
        message(delete, 0, inet, 0, &name),
        message(new, create | acknowledge, inet, 0, &owned),
        message(17, 0, 0, nftables, &[]),
    ]
    .concat();
    t.namespace().in_network(|| {
        let netfilter = Some(rustix::net::netlink::NETFILTER);
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, netfilter)?;
        rustix::net::send(&socket, &batch, SendFlags::empty())?;
        let mut answer = [0; 256];
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let code = answer.get(16..20).filter(|_| length >= 20).context("a short answer")?;
        ensure_eq!(code, [0; 4], "the error's number");
        Ok(socket)
    })
}

fn without_a_packet_filter(t: &Target) -> Outcome {
    t.crash()?;
    let taken = take_the_table(t)?;
    t.recover()?;
    // Nothing would keep networks apart: no container comes into one.
    let (name, network) = (t.name("box"), t.name("net"));
    let cannot = "set the machine's packet filter (nf_tables)";
    t.fails(125, ["run", "--name", &name, "busybox", "true"])?
        .expect_stderr("failed to set up container networking: ")?
        .expect_stderr(cannot)?;
    ensure_eq!(t.inspect(&name)?["State"]["Status"], "created");
    t.fails(1, ["network", "create", &network])?.expect_stderr(cannot)?;
    t.fails(1, ["network", "inspect", &network])?;
    let links = beside(t, "ip -o link")?;
    ensure!(!links.contains("veth"), "a container is in the bridge: {links}");
    // Without a network, it runs; and with one, as soon as there are rules.
    t.ok(["run", "--rm", "--network", "none", "busybox", "true"])?;
    drop(taken);
    wait::eventually_true("the packet filter can be used", Duration::from_secs(20), || {
        Ok(t.docker(["start", "-a", &name]).output()?.code() == 0)
    })
}
