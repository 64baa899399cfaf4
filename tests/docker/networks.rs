//! The networks that need no bridge: none, the host's, and another container's.

use anyhow::{Context, ensure};
use tests::case::Outcome;
use tests::target::Target;
use tests::{cases, ensure_eq, keys};

cases! {
    list,
    inspect,
    none,
    host,
    of_another_container,
    missing,
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
