//! Containers: what `docker run` makes of its options, and how containers are listed and inspected.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, keys, wait};

cases! {
    exit_codes,
    failures_to_start,
    environment,
    working_folder_user_and_groups,
    entrypoint_and_command,
    hostname_and_hosts_file,
    file_system_is_private,
    read_only_root,
    tmpfs,
    devices_and_kernel_files,
    capabilities,
    system_calls_are_filtered,
    limits_of_open_files,
    init_process,
    shared_memory_size,
    labels,
    removed_after_its_end,
    id_file,
    names,
    names_of_routes.alone(),
    name_conflicts,
    references_by_id,
    create_then_start,
    create_warns_of_nothing,
    create_of_a_missing_image,
    create_refuses_nonsense,
    member_names_in_any_case,
    list_with_filters,
    list_with_a_format,
    list_fields,
    inspect_fields,
    inspect_states,
    sizes,
    rename,
    fifty_at_once.seconds(300),
    prune_stopped,
    missing_containers,
}

fn exit_codes(t: &Target) -> Outcome {
    for code in [0, 1, 3, 42, 255] {
        t.fails(code, ["run", "--rm", "busybox", "sh", "-c", &format!("exit {code}")])?;
    }
    // The shell's way to say which signal ended it.
    let name = t.name("killed");
    let run =
        t.docker(["run", "--name", &name, "busybox", "sh", "-c", "echo ready; sleep 1000 & wait"]).spawn()?;
    run.wait_for("ready")?;
    t.ok(["kill", &name])?;
    run.wait()?.expect_code(137)?;
    ensure_eq!(t.inspect(&name)?["State"]["ExitCode"], 137);
    let name = t.name("ended");
    let run = t
        .docker(["run", "--name", &name, "busybox", "sh", "-c", SLEEP.replace("exit 0", "exit 9").as_str()])
        .spawn()?;
    wait::eventually_true("the container runs", Duration::from_secs(20), || {
        Ok(t.docker(["exec", &name, "true"]).output()?.code() == 0)
    })?;
    t.ok(["stop", &name])?;
    run.wait()?.expect_code(9)?;
    Ok(())
}

fn failures_to_start(t: &Target) -> Outcome {
    // 127: there is no such command. 126: it is there and cannot be run. 125: the engine refuses.
    let name = t.name("missing");
    t.fails(127, ["run", "--name", &name, "busybox", "no-such-command"])?
        .expect_stderr("exec: \"no-such-command\": executable file not found in $PATH")?;
    let state = t.inspect(&name)?["State"].clone();
    ensure_eq!(state["Status"], "created");
    ensure_eq!(state["ExitCode"], 127);
    ensure!(state["Error"].as_str().is_some_and(|error| error.contains("no-such-command")), "{state}");
    t.fails(127, ["run", "--rm", "busybox", "/no/such/path"])?.expect_stderr("no such file or directory")?;
    t.fails(126, ["run", "--rm", "busybox", "/etc/passwd"])?.expect_stderr("permission denied")?;
    t.fails(126, ["run", "--rm", "busybox", "/etc"])?;
    t.fails(125, ["run", "--rm", "--no-such-option", "busybox"])?;
    t.fails(125, ["run", "--rm", "--network", "no-such-network", "busybox"])?
        .expect_stderr("network no-such-network not found")?;
    // None of them leaves a container that was to be removed.
    let left = t.ok(["ps", "-a", "--filter", "status=created", "--format", "{{.Names}}"])?;
    ensure!(left.lines().all(|other| other == name || !other.contains(&name)), "{left}");
    Ok(())
}

fn environment(t: &Target) -> Outcome {
    let seen = t.ok([
        "run",
        "--rm",
        "-h",
        "box",
        "-e",
        "A=1",
        "-e",
        "B=two words",
        "-e",
        "EMPTY=",
        "busybox",
        "env",
    ])?;
    let lines: BTreeSet<&str> = seen.lines().collect();
    for wanted in [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=box",
        "HOME=/root",
        "A=1",
        "B=two words",
        "EMPTY=",
    ] {
        ensure!(lines.contains(wanted), "no {wanted:?} in {seen:?}");
    }
    ensure_eq!(lines.len(), 6, "{seen}");
    let tty = t.docker(["run", "--rm", "-t", "busybox", "env"]).terminal(24, 80).output()?.expect_code(0)?;
    ensure!(tty.stdout().contains("TERM=xterm"), "{tty}");
    Ok(())
}

fn working_folder_user_and_groups(t: &Target) -> Outcome {
    let made = t.ok(["run", "--rm", "-w", "/made/on/demand", "busybox", "pwd"])?;
    ensure_eq!(made, "/made/on/demand");
    let id = |user: &str| t.ok(["run", "--rm", "-u", user, "busybox", "id"]);
    ensure_eq!(id("daemon")?, "uid=1(daemon) gid=1(daemon) groups=1(daemon),50(staff)");
    ensure_eq!(id("1:50")?, "uid=1(daemon) gid=50(staff) groups=50(staff)");
    ensure_eq!(id("1234")?, "uid=1234 gid=0(root) groups=0(root)");
    ensure_eq!(id("1234:77")?, "uid=1234 gid=77 groups=77");
    let added = t.ok(["run", "--rm", "-u", "1234:77", "--group-add", "50", "busybox", "id"])?;
    ensure_eq!(added, "uid=1234 gid=77 groups=50(staff),77");
    t.fails(125, ["run", "--rm", "-u", "nobody-here", "busybox", "id"])?
        .expect_stderr("unable to find user nobody-here: no matching entries in passwd file")?;
    Ok(())
}

fn entrypoint_and_command(t: &Target) -> Outcome {
    ensure_eq!(t.ok(["run", "--rm", "--entrypoint", "echo", "busybox", "a", "b c"])?, "a b c");
    let name = t.name("image");
    let mut image = tests::archive::Image::new(&format!("{name}:latest"), tests::archive::busybox_root()?);
    image.config["Entrypoint"] = json!(["echo", "from", "entrypoint"]);
    image.config["Cmd"] = json!(["and", "command"]);
    image.config["WorkingDir"] = json!("/tmp");
    image.config["User"] = json!("daemon");
    let file = tests::archive::write(t.folder(), "image.tar", &image.docker_archive()?)?;
    t.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
    ensure_eq!(t.ok(["run", "--rm", &name])?, "from entrypoint and command");
    ensure_eq!(t.ok(["run", "--rm", &name, "other"])?, "from entrypoint other");
    // A new entry point drops the image's command.
    ensure_eq!(t.ok(["run", "--rm", "--entrypoint", "echo", &name])?, "");
    ensure_eq!(t.ok(["run", "--rm", "--entrypoint", "sh", &name, "-c", "pwd; id -un"])?, "/tmp\ndaemon");
    t.ok(["rmi", &name])?;
    Ok(())
}

fn hostname_and_hosts_file(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.sleeper(&name)?;
    ensure_eq!(t.ok(["exec", &name, "hostname"])?, id[..12]);
    ensure_eq!(
        t.ok(["run", "--rm", "-h", "own-name", "busybox", "sh", "-c", "hostname; cat /etc/hostname"])?,
        "own-name\nown-name"
    );
    let hosts = t.ok(["run", "--rm", "--add-host", "other:10.1.2.3", "busybox", "cat", "/etc/hosts"])?;
    ensure!(hosts.lines().any(|line| line.split_whitespace().eq(["127.0.0.1", "localhost"])), "{hosts}");
    ensure!(hosts.lines().any(|line| line.split_whitespace().eq(["10.1.2.3", "other"])), "{hosts}");
    Ok(())
}

fn file_system_is_private(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    t.sleeper(&one)?;
    t.sleeper(&two)?;
    t.ok(["exec", &one, "sh", "-c", "echo mine > /file; rm /bin/vi; echo x >> /etc/passwd"])?;
    t.fails(1, ["exec", &two, "cat", "/file"])?;
    t.ok(["exec", &two, "test", "-e", "/bin/vi"])?;
    // It stays when the container stops and starts.
    t.ok(["stop", &one])?;
    t.ok(["start", &one])?;
    ensure_eq!(t.ok(["exec", &one, "cat", "/file"])?, "mine");
    t.fails(1, ["exec", &one, "test", "-e", "/bin/vi"])?;
    Ok(())
}

fn read_only_root(t: &Target) -> Outcome {
    t.fails(1, ["run", "--rm", "--read-only", "busybox", "touch", "/file"])?
        .expect_stderr("Read-only file system")?;
    t.ok(["run", "--rm", "--read-only", "busybox", "sh", "-c", "echo fine > /dev/shm/file"])?;
    Ok(())
}

fn tmpfs(t: &Target) -> Outcome {
    let line = t.ok([
        "run",
        "--rm",
        "--tmpfs",
        "/cache:size=1m,mode=700",
        "busybox",
        "grep",
        " /cache ",
        "/proc/mounts",
    ])?;
    ensure!(
        line.starts_with("tmpfs /cache tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k,mode=700"),
        "{line}"
    );
    Ok(())
}

fn devices_and_kernel_files(t: &Target) -> Outcome {
    let script = "for d in null zero full random urandom tty ptmx; do test -c /dev/$d || test -L /dev/$d || echo no $d; done; \
                  echo gone > /dev/null; head -c 4 /dev/zero | wc -c; readlink /dev/stdout; test -d /dev/shm && echo shm";
    ensure_eq!(t.ok(["run", "--rm", "busybox", "sh", "-c", script])?, "4\n/proc/self/fd/1\nshm");
    // Kernel files are hidden or may not be written.
    t.fails(1, ["run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/panic"])?
        .expect_stderr("Read-only")?;
    ensure_eq!(
        t.ok(["run", "--rm", "busybox", "sh", "-c", "cat /proc/kcore | wc -c; ls /proc/scsi | wc -l"])?,
        "0\n0"
    );
    t.fails(1, ["run", "--rm", "busybox", "sh", "-c", "echo x > /sys/kernel/uevent_seqnum"])?;
    t.fails(1, ["run", "--rm", "busybox", "mount", "-t", "tmpfs", "x", "/mnt"])?;
    t.fails(1, ["run", "--rm", "busybox", "sh", "-c", "mknod /disk b 259 0 && cat /disk > /dev/null"])?;
    Ok(())
}

fn capabilities(t: &Target) -> Outcome {
    let effective = |options: &[&str]| -> anyhow::Result<String> {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        args.extend(["busybox", "sed", "-n", "s/^CapEff:\\t*//p", "/proc/self/status"]);
        t.ok(args)
    };
    // Docker's default set.
    ensure_eq!(effective(&[])?, "00000000a80425fb");
    ensure_eq!(effective(&["--cap-drop", "ALL"])?, "0000000000000000");
    ensure_eq!(effective(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"])?, "0000000000001000");
    ensure_eq!(effective(&["--cap-add", "SYS_PTRACE"])?, "00000000a80c25fb");
    ensure_eq!(effective(&["-u", "daemon"])?, "0000000000000000");
    t.fails(125, ["run", "--rm", "--cap-add", "NO_SUCH_CAP", "busybox"])?
        .expect_stderr("invalid CapAdd: unknown capability: \"CAP_NO_SUCH_CAP\"")?;
    Ok(())
}

fn system_calls_are_filtered(t: &Target) -> Outcome {
    let mode = |options: &[&str]| -> anyhow::Result<String> {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        args.extend(["busybox", "sed", "-n", "s/^\\(Seccomp\\|NoNewPrivs\\):\\t*//p", "/proc/self/status"]);
        t.ok(args)
    };
    ensure_eq!(mode(&[])?, "0\n2");
    ensure_eq!(mode(&["--security-opt", "no-new-privileges"])?, "1\n2");
    ensure_eq!(mode(&["--security-opt", "seccomp=unconfined"])?, "0\n0");
    ensure_eq!(mode(&["--privileged"])?, "0\n0");
    // A call that needs no capability in a user namespace, and that the default profile refuses.
    let refused = t.docker(["run", "--rm", "busybox", "unshare", "-U", "true"]).output()?;
    ensure!(refused.code() != 0, "{refused}");
    Ok(())
}

fn limits_of_open_files(t: &Target) -> Outcome {
    let limits =
        t.ok(["run", "--rm", "--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"])?;
    ensure_eq!(limits, "123\n456");
    Ok(())
}

fn init_process(t: &Target) -> Outcome {
    let (plain, with_init) = (t.name("plain"), t.name("init"));
    t.ok(["run", "-d", "--name", &plain, "busybox", "sleep", "1000"])?;
    ensure_eq!(t.ok(["exec", &plain, "cat", "/proc/1/comm"])?, "sleep");
    t.ok(["run", "-d", "--init", "--name", &with_init, "busybox", "sleep", "1000"])?;
    ensure_eq!(t.ok(["exec", &with_init, "cat", "/proc/1/comm"])?, "docker-init");
    // It passes signals on, so that what would ignore them as PID 1 ends, and it reaps orphans.
    t.ok(["exec", "-d", &with_init, "sh", "-c", "sleep 0.1 &"])?;
    t.ok(["stop", &with_init])?;
    ensure_eq!(t.inspect(&with_init)?["State"]["ExitCode"], 143);
    Ok(())
}

fn shared_memory_size(t: &Target) -> Outcome {
    let line = |options: &[&str]| -> anyhow::Result<String> {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        args.extend(["busybox", "grep", " /dev/shm ", "/proc/mounts"]);
        t.ok(args)
    };
    ensure!(line(&[])?.contains("size=65536k"), "{}", line(&[])?);
    ensure!(line(&["--shm-size", "1m"])?.contains("size=1024k"), "{}", line(&["--shm-size", "1m"])?);
    Ok(())
}

fn labels(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "-l", "one=1", "-l", "two", "busybox"])?;
    ensure_eq!(t.inspect(&name)?["Config"]["Labels"], json!({"one": "1", "two": ""}));
    Ok(())
}

fn removed_after_its_end(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "--rm", "--name", &name, "busybox", "true"])?;
    t.api().get(format!("/containers/{name}/json")).send()?.expect(404)?;
    // Also when nobody waits for it.
    t.ok(["run", "--rm", "-d", "--name", &name, "busybox", "true"])?;
    wait::eventually_true("the container is removed", Duration::from_secs(20), || {
        Ok(t.api().get(format!("/containers/{name}/json")).send()?.status == 404)
    })
}

fn id_file(t: &Target) -> Outcome {
    let file = t.folder().join("id");
    let name = t.name("box");
    let id = t.docker(["create", "--name", &name, "--cidfile"]).arg(&file).arg("busybox").output()?.text()?;
    ensure_eq!(std::fs::read_to_string(&file)?, id);
    ensure!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id:?}");
    Ok(())
}

fn names(t: &Target) -> Outcome {
    // Two words, made up by the engine.
    let id = t.ok(["create", "busybox"])?;
    let name = t.inspect(&id)?["Name"].as_str().context("no name")?.to_owned();
    ensure!(name.starts_with('/') && name.contains('_'), "{name:?}");
    t.ok(["rm", &id])?;
    for bad in ["-x", "a/b", "a b", "x"] {
        let create = t.docker(["create", &format!("--name={bad}"), "busybox"]).output()?.expect_code(1)?;
        create.expect_stderr(&format!(
            "Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))?;
    }
    Ok(())
}

/// Names that stand in the API's own paths.
fn names_of_routes(t: &Target) -> Outcome {
    for name in ["create", "json", "prune"] {
        let body = json!({"Image": "busybox", "Cmd": ["echo", name], "HostConfig": {"NetworkMode": "none"}});
        t.api().post(format!("/containers/create?name={name}")).json(&body).send()?.expect(201)?;
        t.api().post(format!("/containers/{name}/start")).send()?.expect(204)?;
        t.api().post(format!("/containers/{name}/wait")).send()?.expect(200)?;
        ensure_eq!(t.inspect(name)?["Name"], format!("/{name}"));
        ensure_eq!(t.ok(["logs", name])?, name);
        let listed = t.api().get("/containers/json?all=1").send()?.expect(200)?.json()?;
        ensure_eq!(listed[0]["Names"], json!([format!("/{name}")]));
        t.api().delete(format!("/containers/{name}?v=1")).send()?.expect(204)?;
        let answer = t.api().delete(format!("/containers/{name}")).send()?.expect(404)?;
        ensure_eq!(answer.message()?, format!("No such container: {name}"));
    }
    t.api().post("/containers/prune").send()?.expect(200)?;
    Ok(())
}

/// As Go reads JSON: scripts write `memory`, and docker-py `CPURealtimePeriod`.
fn member_names_in_any_case(t: &Target) -> Outcome {
    let name = t.name("box");
    let create = |body: &str| {
        let request = t.api().post(format!("/containers/create?name={name}"));
        request.header("Content-Type", "application/json").body(body).send()?.expect(201)?;
        let found = t.inspect(&name)?;
        t.api().delete(format!("/containers/{name}?force=1")).send()?.expect(204)?;
        anyhow::Ok(found)
    };
    let found = create(
        r#"{"image": "busybox", "CMD": ["true"], "wOrKiNgDiR": "/tmp", "labels": {"image": "a", "Image": "b"},
        "hostconfig": {"memory": 33554432, "networkmode": "none", "MEMORYSWAP": null,
        "restartPolicy": {"name": "on-failure", "maximumretrycount": 3},
        "mounts": [{"type": "tmpfs", "target": "/x", "tmpfsoptions": {"sizebytes": 65536}}],
        "logconfig": {"type": "json-file", "config": {"max-size": "1m"}}}}"#,
    )?;
    let (config, host) = (&found["Config"], &found["HostConfig"]);
    ensure_eq!((&config["Image"], &config["WorkingDir"]), (&json!("busybox"), &json!("/tmp")));
    ensure_eq!(config["Cmd"], json!(["true"]));
    // The keys of a map are its user's.
    ensure_eq!(config["Labels"], json!({"image": "a", "Image": "b"}));
    ensure_eq!((&host["Memory"], &host["NetworkMode"]), (&json!(33_554_432), &json!("none")));
    ensure_eq!(host["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
    ensure_eq!(host["Mounts"][0]["TmpfsOptions"], json!({"SizeBytes": 65536}));
    ensure_eq!(host["LogConfig"], json!({"Type": "json-file", "Config": {"max-size": "1m"}}));
    // Of several the last counts, exact or not; one that is null is none.
    let found = create(
        r#"{"Image": "none", "image": "busybox", "User": "1", "user": "2", "tty": true, "Tty": false,
        "Domainname": "a", "domainname": null}"#,
    )?;
    let config = &found["Config"];
    ensure_eq!(
        (&config["Image"], &config["User"], &config["Tty"], &config["Domainname"]),
        (&json!("busybox"), &json!("2"), &json!(false), &json!("a"))
    );
    t.sleeper(&name)?;
    let update = json!({"memory": 67_108_864, "memoryswap": -1, "restartpolicy": {"name": "always"}});
    t.api().post(format!("/containers/{name}/update")).json(&update).send()?.expect(200)?;
    let host = t.inspect(&name)?["HostConfig"].clone();
    ensure_eq!((&host["Memory"], &host["RestartPolicy"]["Name"]), (&json!(67_108_864), &json!("always")));
    let exec = json!({"cmd": ["sh", "-c", "echo $WORD"], "env": ["WORD=heard"], "attachstdout": true});
    let made = t.api().post(format!("/containers/{name}/exec")).json(&exec).send()?.expect(201)?.json()?;
    let id = made["Id"].as_str().context("no Id")?;
    let mut started = t.api().post(format!("/exec/{id}/start")).json(&json!({"detach": false})).hijack()?;
    ensure_eq!(started.demultiplex()?.0, b"heard\n".to_vec());
    Ok(())
}

fn name_conflicts(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["create", "--name", &name, "busybox"])?;
    let words = format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    );
    t.fails(125, ["run", "--rm", "--name", &name, "busybox"])?.expect_stderr(&words)?;
    let create =
        t.api().post(format!("/containers/create?name={name}")).json(&json!({"Image": "busybox"})).send()?;
    ensure_eq!(create.expect(409)?.message()?, words);
    t.ok(["rm", &name])?;
    t.ok(["create", "--name", &name, "busybox"])?;
    Ok(())
}

fn references_by_id(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["create", "--name", &name, "busybox"])?;
    for reference in [&*id, &id[..12], &id[..20], &name, &format!("/{name}")] {
        ensure_eq!(
            t.ok(["inspect", "--type", "container", "--format", "{{.Id}}", reference])?,
            id,
            "{reference}"
        );
    }
    // A name that looks like the beginning of an id is the name.
    let odd = id[..10].to_owned();
    let other = t.ok(["create", "--name", &odd, "busybox"])?;
    ensure_eq!(t.ok(["inspect", "--format", "{{.Id}}", &odd])?, other);
    t.ok(["rm", &odd])?;
    Ok(())
}

fn create_then_start(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox", "sh", "-c", "echo out; echo err >&2; exit 5"])?;
    ensure_eq!(t.inspect(&name)?["State"]["Status"], "created");
    let start = t.fails(5, ["start", "-a", &name])?;
    ensure_eq!((start.stdout(), start.stderr()), ("out\n".to_owned(), "err\n".to_owned()));
    ensure_eq!(t.ok(["wait", &name])?, "5");
    // Once more: the same command runs again.
    let start = t.fails(5, ["start", "-a", &name])?;
    ensure_eq!(start.stdout(), "out\n");
    Ok(())
}

fn create_warns_of_nothing(t: &Target) -> Outcome {
    let name = t.name("box");
    let body = json!({"Image": "busybox", "HostConfig": {"NetworkMode": "none"}});
    let create = t.api().post(format!("/containers/create?name={name}")).json(&body).send()?;
    let answer = create.expect(201)?.json()?;
    ensure_eq!(answer["Warnings"], json!([]));
    ensure!(answer["Id"].as_str().is_some_and(|id| id.len() == 64), "{answer}");
    ensure_eq!(answer.as_object().map(serde_json::Map::len), Some(2));
    Ok(())
}

fn create_of_a_missing_image(t: &Target) -> Outcome {
    let name = t.name("none");
    let create = t.api().post("/containers/create").json(&json!({"Image": name})).send()?.expect(404)?;
    ensure_eq!(create.message()?, format!("No such image: {name}:latest"));
    Ok(())
}

fn create_refuses_nonsense(t: &Target) -> Outcome {
    let refused = |body: Value| -> anyhow::Result<String> {
        t.api().post("/containers/create").json(&body).send()?.expect(400)?.message()
    };
    ensure_eq!(refused(json!({}))?, "config cannot be empty in order to create a container");
    refused(json!({"Image": "UPPER CASE"}))?;
    ensure_eq!(
        refused(json!({"Image": "busybox", "WorkingDir": "relative"}))?,
        "the working directory 'relative' is invalid, it needs to be an absolute path"
    );
    ensure_eq!(
        refused(json!({"Image": "busybox", "HostConfig": {"Memory": 1024}}))?,
        "Minimum memory limit allowed is 6MB"
    );
    Ok(())
}

fn list_with_filters(t: &Target) -> Outcome {
    let (running, exited, created) = (t.name("running"), t.name("exited"), t.name("created"));
    let label = t.name("label");
    t.ok(["run", "-d", "--name", &running, "-l", &label, "busybox", "sh", "-c", SLEEP])?;
    t.fails(3, ["run", "--name", &exited, "-l", &format!("{label}=v"), "busybox", "sh", "-c", "exit 3"])?;
    t.ok(["create", "--name", &created, "-l", &label, "busybox"])?;
    let list = |args: &[&str]| -> anyhow::Result<BTreeSet<String>> {
        let ours = format!("label={label}");
        let mut all = vec!["ps", "--format", "{{.Names}}", "--filter", &ours];
        all.extend(args);
        Ok(t.ok(all)?.lines().map(str::to_owned).collect())
    };
    let set = |names: &[&String]| names.iter().map(|name| (*name).clone()).collect::<BTreeSet<_>>();
    ensure_eq!(list(&[])?, set(&[&running]));
    ensure_eq!(list(&["-a"])?, set(&[&running, &exited, &created]));
    ensure_eq!(list(&["--filter", "status=exited"])?, set(&[&exited]));
    ensure_eq!(
        list(&["--filter", "status=created", "--filter", "status=running"])?,
        set(&[&running, &created])
    );
    ensure_eq!(list(&["-a", "--filter", "exited=3"])?, set(&[&exited]));
    ensure_eq!(list(&["-a", "--filter", &format!("name={exited}")])?, set(&[&exited]));
    ensure_eq!(list(&["-a", "--filter", &format!("name=^/{created}$")])?, set(&[&created]));
    ensure_eq!(list(&["-a", "--filter", &format!("label={label}=v")])?, set(&[&exited]));
    ensure_eq!(list(&["-a", "--filter", "ancestor=busybox"])?, set(&[&running, &exited, &created]));
    ensure_eq!(list(&["-a", "--filter", "ancestor=other"])?, set(&[]));
    ensure_eq!(list(&["-a", "--filter", &format!("before={created}")])?, set(&[&running, &exited]));
    ensure_eq!(list(&["-a", "--filter", &format!("since={running}")])?, set(&[&exited, &created]));
    let id = t.ok(["inspect", "--format", "{{.Id}}", &exited])?;
    ensure_eq!(list(&["-a", "--filter", &format!("id={}", &id[..12])])?, set(&[&exited]));
    ensure_eq!(list(&["-n", "1"])?, set(&[&created]));
    t.fails(1, ["ps", "--filter", "status=asleep"])?.expect_stderr("asleep")?;
    t.fails(1, ["ps", "--filter", "no-such-filter=1"])?.expect_stderr("invalid filter 'no-such-filter'")?;
    t.fails(1, ["ps", "--filter", &format!("since={label}-nothing")])?.expect_stderr("No such container")?;
    let answer = t.api().get("/containers/json?filters=%7Bnonsense").send()?.expect(400)?;
    answer.message()?;
    Ok(())
}

fn list_with_a_format(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "1000"])?;
    let only = format!("name={name}");
    let line = |format: &str| t.ok(["ps", "--filter", &only, "--format", format]);
    ensure_eq!(
        line("{{.ID}} {{.Image}} {{.Command}} {{.Names}}")?,
        format!("{} busybox \"sleep 1000\" {name}", &id[..12])
    );
    ensure!(line("{{.Status}}")?.starts_with("Up "), "{}", line("{{.Status}}")?);
    ensure_eq!(line("{{.State}}")?, "running");
    ensure_eq!(line("{{.Ports}}")?, "");
    let table = line("table {{.Names}}\t{{.Image}}")?;
    ensure_eq!(
        table.lines().next().map(|head| head.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["NAMES", "IMAGE"])
    );
    let object: Value = serde_json::from_str(&line("json")?)?;
    ensure_eq!(object["Names"], name.as_str());
    ensure_eq!(t.ok(["ps", "-q", "--no-trunc", "--filter", &only])?, id);
    t.ok(["kill", &name])?;
    let status = t.ok(["ps", "-a", "--filter", &only, "--format", "{{.Status}}"])?;
    ensure!(status.starts_with("Exited (137) "), "{status}");
    Ok(())
}

fn list_fields(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["run", "-d", "--name", &name, "--network", "none", "busybox", "sleep", "1000"])?;
    let list = t.api().get("/containers/json?size=1").send()?.expect(200)?.json()?;
    let found = list.as_array().context("no list")?.iter().find(|container| container["Id"] == id.as_str());
    let found = found.context("the container is not listed")?;
    ensure_eq!(found["Names"], json!([format!("/{name}")]));
    ensure_eq!(found["Command"], "sleep 1000");
    ensure_eq!(found["State"], "running");
    ensure!(found["Created"].is_i64(), "{found}");
    keys::compare(t.kind(), "container-list", found, &[])
}

fn inspect_fields(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok([
        "run",
        "-d",
        "--name",
        &name,
        "--network",
        "none",
        "-l",
        "a=b",
        "-e",
        "X=y",
        "-v",
        "/anonymous",
        "--tmpfs",
        "/t",
        "busybox",
        "sleep",
        "1000",
    ])?;
    let found = t.inspect(&name)?;
    ensure_eq!(found["Id"], id.as_str());
    ensure_eq!(found["Name"], format!("/{name}").as_str());
    ensure_eq!(found["Path"], "sleep");
    ensure_eq!(found["Args"], json!(["1000"]));
    ensure_eq!(found["State"]["Status"], "running");
    ensure_eq!(found["State"]["Running"], true);
    ensure!(found["State"]["Pid"].as_i64().is_some_and(|pid| pid > 1), "{}", found["State"]);
    ensure_eq!(found["Config"]["Image"], "busybox");
    ensure_eq!(found["HostConfig"]["NetworkMode"], "none");
    ensure_eq!(found["Image"], t.ok(["image", "inspect", "--format", "{{.Id}}", "busybox"])?.as_str());
    ensure_eq!(
        found["LogPath"].as_str().is_some_and(|path| path.ends_with(".log")),
        true,
        "{}",
        found["LogPath"]
    );
    keys::compare(t.kind(), "container-inspect", &found, &[])
}

fn inspect_states(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "busybox", "sh", "-c", SLEEP])?;
    let state = || Ok::<_, anyhow::Error>(t.inspect(&name)?["State"].clone());
    let never = "0001-01-01T00:00:00Z";
    let created = state()?;
    ensure_eq!(
        (&created["Status"], &created["Running"], &created["Pid"]),
        (&json!("created"), &json!(false), &json!(0))
    );
    ensure_eq!((&created["StartedAt"], &created["FinishedAt"]), (&json!(never), &json!(never)));
    t.ok(["start", &name])?;
    let running = state()?;
    ensure_eq!((&running["Status"], &running["FinishedAt"]), (&json!("running"), &json!(never)));
    ensure!(running["StartedAt"] != never, "{running}");
    t.ok(["stop", &name])?;
    let exited = state()?;
    ensure_eq!(
        (&exited["Status"], &exited["Pid"], &exited["ExitCode"]),
        (&json!("exited"), &json!(0), &json!(0))
    );
    ensure!(exited["FinishedAt"].as_str() > running["StartedAt"].as_str(), "{exited}");
    Ok(())
}

fn sizes(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["run", "--name", &name, "busybox", "sh", "-c", "head -c 1000000 /dev/zero > /file"])?;
    let found = t.api().get(format!("/containers/{name}/json?size=1")).send()?.expect(200)?.json()?;
    let (own, all) = (
        found["SizeRw"].as_u64().context("no SizeRw")?,
        found["SizeRootFs"].as_u64().context("no SizeRootFs")?,
    );
    ensure!((1_000_000..1_100_000).contains(&own), "SizeRw {own}");
    ensure!(all > own + 1_000_000, "SizeRootFs {all}");
    Ok(())
}

fn rename(t: &Target) -> Outcome {
    let (old, new, taken) = (t.name("old"), t.name("new"), t.name("taken"));
    let id = t.ok(["create", "--name", &old, "busybox"])?;
    t.ok(["create", "--name", &taken, "busybox"])?;
    t.ok(["rename", &old, &new])?;
    ensure_eq!(t.ok(["inspect", "--format", "{{.Id}} {{.Name}}", &new])?, format!("{id} /{new}"));
    t.fails(1, ["inspect", &old])?;
    t.fails(1, ["rename", &new, &taken])?.expect_stderr("is already in use by container")?;
    t.fails(1, ["rename", &new, &new])?
        .expect_stderr("Renaming a container with the same name as its current name")?;
    t.ok(["create", "--name", &old, "busybox"])?;
    Ok(())
}

fn fifty_at_once(t: &Target) -> Outcome {
    let names: Vec<String> = (0..50).map(|number| t.name(&format!("n{number}"))).collect();
    let start = |name: &String| {
        t.docker(["run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c"]).arg(SLEEP)
    };
    let runs = names
        .iter()
        .map(|name| start(name).timeout(Duration::from_secs(240)).spawn())
        .collect::<Result<Vec<_>, _>>()?;
    for run in runs {
        run.wait()?.expect_code(0)?;
    }
    let prefix = names[0].trim_end_matches("-n0");
    let only = format!("name={prefix}-n");
    ensure_eq!(t.ok(["ps", "-q", "--filter", &only])?.lines().count(), 50);
    // Each lives: it answers to its own exec.
    for name in names.iter().step_by(7) {
        ensure_eq!(t.ok(["exec", name, "echo", name])?, *name);
    }
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    t.docker(remove).timeout(Duration::from_secs(240)).output()?.expect_code(0)?;
    ensure_eq!(t.ok(["ps", "-aq", "--filter", &only])?, "");
    Ok(())
}

fn prune_stopped(t: &Target) -> Outcome {
    let (running, stopped, other) = (t.name("running"), t.name("stopped"), t.name("other"));
    let label = t.name("label");
    t.ok(["run", "-d", "--name", &running, "-l", &label, "busybox", "sh", "-c", SLEEP])?;
    let id = t.ok(["create", "--name", &stopped, "-l", &label, "busybox"])?;
    t.ok(["create", "--name", &other, "busybox"])?;
    let pruned = t.ok(["container", "prune", "-f", "--filter", &format!("label={label}")])?;
    ensure!(pruned.contains(&id), "{pruned}");
    t.api().get(format!("/containers/{stopped}/json")).send()?.expect(404)?;
    t.inspect(&running)?;
    t.inspect(&other)?;
    Ok(())
}

fn missing_containers(t: &Target) -> Outcome {
    let name = t.name("none");
    let words = format!("No such container: {name}");
    for verb in ["start", "stop", "kill", "restart", "rm", "logs", "top", "wait", "attach"] {
        t.fails(1, [verb, &name])?.expect_stderr(&words).with_context(|| format!("docker {verb}"))?;
    }
    t.fails(1, ["exec", &name, "true"])?.expect_stderr(&words)?;
    t.fails(1, ["rename", &name, "x-y-z"])?.expect_stderr(&words)?;
    ensure_eq!(t.api().get(format!("/containers/{name}/json")).send()?.expect(404)?.message()?, words);
    t.fails(1, ["inspect", &name])?.expect_stderr(&format!("No such object: {name}"))?;
    Ok(())
}
