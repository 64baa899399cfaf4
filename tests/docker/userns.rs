//! Containers whose users are others outside of them: `--userns-remap`.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, wait};

/// Docker copies files out with the machine's owners, and shows an image's files as another's in a container with
/// the machine's users. Ours are the container's own both times.
const BETTER: &[Kind] = &[Kind::Native];

/// The engine in a machine is not started with options of a case.
const ON: &[Kind] = &[Kind::Native, Kind::Dockerd];
const REMAP: &[&str] = &["--userns-remap", "default"];

cases! {
    who_is_who.on(ON).with(REMAP),
    files_keep_the_containers_owners.on(BETTER).with(REMAP),
    namespaces_of_others.on(ON).with(REMAP),
    its_network_is_its_own.on(ON).with(REMAP),
    what_needs_the_machines_root.on(ON).with(REMAP),
    the_machines_users_if_asked.on(BETTER).with(REMAP),
    kept_through_a_crash.on(ON).with(REMAP),
}

fn who_is_who(t: &Target) -> Outcome {
    let options = t.ok(["info", "--format", "{{json .SecurityOptions}}"])?;
    ensure!(options.contains("name=userns"), "info says {options}");
    let maps = t.ok(["run", "--rm", "busybox", "cat", "/proc/self/uid_map", "/proc/self/gid_map"])?;
    let maps: Vec<&str> = maps.split_whitespace().collect();
    ensure_eq!(maps, ["0", "100000", "65536", "0", "200000", "65536"]);
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "600"])?;
    // Seen from the machine, it is another's.
    let pid = t.ok(["inspect", "--format", "{{.State.Pid}}", &name])?;
    let status = t.namespace().program("cat").arg(format!("/proc/{pid}/status")).output()?;
    let status = status.text()?;
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    ensure_eq!(line("Uid:").as_deref(), Some("Uid:\t100000\t100000\t100000\t100000"));
    ensure_eq!(line("Gid:").as_deref(), Some("Gid:\t200000\t200000\t200000\t200000"));
    // An exec is in the same, with every right over what is the container's and none over the machine's.
    ensure_eq!(t.ok(["exec", &name, "id", "-u"])?, "0");
    ensure_eq!(t.ok(["exec", "-u", "7:8", &name, "id"])?, "uid=7 gid=8 groups=8");
    t.ok(["exec", &name, "sh", "-c", "touch /x && chown 5:6 /x && hostname >/dev/null && mkdir /d"])?;
    ensure_eq!(
        t.ok(["exec", &name, "stat", "-c", "%u:%g", "/x", "/d", "/", "/etc/hosts"])?,
        "5:6\n0:0\n0:0\n0:0"
    );
    t.ok(["exec", "-t", &name, "sh", "-c", "test -w $(readlink /proc/self/fd/0)"])?;
    t.fails(1, ["exec", "--privileged", &name, "mknod", "/tmp/null", "c", "1", "3"])?;
    Ok(())
}

fn files_keep_the_containers_owners(t: &Target) -> Outcome {
    let (name, volume) = (t.name("box"), t.name("volume"));
    t.ok([
        "run",
        "-d",
        "--name",
        &name,
        "-v",
        &format!("{volume}:/data"),
        "busybox",
        "sh",
        "-c",
        "touch /mine /data/mine; chown 1000:1001 /mine /data/mine; echo ready; exec sleep 600",
    ])?;
    wait::eventually_true("the container is ready", Duration::from_secs(20), || {
        Ok(t.ok(["logs", &name])? == "ready")
    })?;
    let owners = |archive: &[u8]| -> anyhow::Result<Vec<(u64, u64)>> {
        let mut owners = Vec::new();
        for entry in tar::Archive::new(archive).entries()? {
            let entry = entry?;
            owners.push((entry.header().uid()?, entry.header().gid()?));
        }
        Ok(owners)
    };
    // Out of a running container, its volume, and as a whole.
    for path in ["/mine", "/data/mine"] {
        let answer = t.api().get(format!("/containers/{name}/archive?path={path}")).send()?.expect(200)?;
        ensure_eq!(owners(&answer.body)?, [(1000, 1001)], "{path}");
    }
    let exported = t.api().get(format!("/containers/{name}/export")).send()?.expect(200)?;
    let all = owners(&exported.body)?;
    ensure!(all.contains(&(1000, 1001)) && all.contains(&(0, 0)), "exported: {all:?}");
    ensure!(all.iter().all(|(uid, _)| *uid < 65536), "exported: {all:?}");
    // Into it, and what is made on the way.
    let file = t.folder().join("file");
    std::fs::write(&file, "in")?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    t.ok(["cp", file, &format!("{name}:/in")])?;
    t.ok(["cp", file, &format!("{name}:/data/in")])?;
    ensure_eq!(t.ok(["exec", &name, "stat", "-c", "%u:%g", "/in", "/data/in"])?, "0:0\n0:0");
    // And when it does not run.
    t.ok(["rm", "-f", &name])?;
    let back = ["run", "--name", &name, "-v", &format!("{volume}:/data"), "busybox", "stat", "-c", "%u:%g"];
    let back = back.iter().copied().chain(["/data/mine", "/data/in"]);
    ensure_eq!(t.ok(back)?, "1000:1001\n0:0");
    t.ok(["cp", file, &format!("{name}:/data/later")])?;
    let answer = t.api().get(format!("/containers/{name}/archive?path=/data/later")).send()?.expect(200)?;
    ensure_eq!(owners(&answer.body)?, [(0, 0)]);
    let image = t.name("image");
    t.ok(["commit", &name, &image])?;
    ensure_eq!(t.ok(["run", "--rm", &image, "stat", "-c", "%u", "/bin"])?, "0");
    t.ok(["rm", "-f", &name])?;
    t.ok(["rmi", &image])?;
    t.ok(["volume", "rm", &volume])?;
    Ok(())
}

fn namespaces_of_others(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok([
        "run",
        "-d",
        "--name",
        &name,
        "--ipc",
        "shareable",
        "busybox",
        "sh",
        "-c",
        "echo x >/dev/shm/x; exec sleep 600",
    ])?;
    let of = |kind: &str| format!("--{kind}=container:{name}");
    let shared = t.ok([
        "run",
        "--rm",
        &of("network"),
        &of("pid"),
        &of("ipc"),
        "busybox",
        "sh",
        "-c",
        "cat /dev/shm/x; ps | grep -c '[s]leep 600'",
    ])?;
    ensure_eq!(shared, "x\n1");
    Ok(())
}

fn its_network_is_its_own(t: &Target) -> Outcome {
    let (name, network) = (t.name("box"), t.name("network"));
    t.ok(["network", "create", &network])?;
    t.ok(["run", "-d", "--name", &name, "--network", &network, "busybox", "sleep", "600"])?;
    t.ok([
        "exec",
        "--user",
        "0",
        &name,
        "sh",
        "-c",
        "ip address add 10.9.9.9/32 dev lo 2>&1 | grep -q 'not permitted'",
    ])?;
    // With the capability it may change what is its own, and set what is its namespace's.
    let changed = t.ok([
        "run", "--rm", "--network", &network, "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_forward=0", "busybox",
        "sh", "-c", &format!("ip address add 10.9.9.9/32 dev lo && ping -c 1 -W 5 {name} >/dev/null && cat /proc/sys/net/ipv4/ip_forward"),
    ])?;
    ensure_eq!(changed, "0");
    t.ok(["rm", "-f", &name])?;
    t.ok(["network", "rm", &network])?;
    Ok(())
}

fn what_needs_the_machines_root(t: &Target) -> Outcome {
    for (option, words) in [
        (
            "--privileged",
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        ("--network=host", "cannot share the host's network namespace when user namespaces are enabled"),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        t.fails(125, ["run", "--rm", option, "busybox", "true"])?.expect_stderr(words)?;
    }
    Ok(())
}

fn the_machines_users_if_asked(t: &Target) -> Outcome {
    let map = t.ok([
        "run",
        "--rm",
        "--userns=host",
        "--privileged",
        "--network=host",
        "busybox",
        "cat",
        "/proc/self/uid_map",
    ])?;
    ensure_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    t.fails(125, ["run", "--rm", "--userns=other", "busybox", "true"])?
        .expect_stderr("--userns: invalid USER mode")?;
    // The same file system, whoever the users are.
    let name = t.name("box");
    t.ok(["create", "--name", &name, "--userns=host", "busybox", "stat", "-c", "%u", "/bin"])?;
    ensure_eq!(t.ok(["start", "-a", &name])?, "0");
    Ok(())
}

fn kept_through_a_crash(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "600"])?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(t.ok(["exec", &name, "sh", "-c", "touch /x && stat -c %u /x"])?, "0");
    t.ok(["restart", "-t", "0", &name])?;
    ensure_eq!(t.ok(["exec", &name, "stat", "-c", "%u", "/x"])?, "0");
    Ok(())
}
