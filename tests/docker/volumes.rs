//! Volumes: how they are made, listed and removed, and what containers see of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{archive, cases, ensure_eq, keys, wait};

cases! {
    create_list_inspect_remove,
    names_are_made_up,
    labels_and_filters,
    nonsense_is_refused,
    drivers_options,
    drivers_mounts_that_spread,
    of_a_file_server,
    backed_up_and_restored,
    space_they_take,
    files_without_a_container.on(&[Kind::Native, Kind::Machine]),
    shared_between_containers,
    read_only,
    content_of_the_image,
    left_alone_where_the_image_has_nothing,
    parts,
    parts_are_filled,
    mounts_as_inspect_shows_them,
    volumes_from,
    removed_with_their_container,
    in_use,
    events,
    prune.alone(),
    kept_through_a_crash.alone(),
    tmpfs_kept_through_a_crash.alone(),
}

/// A volume that the case removes itself; its name.
fn volume(t: &Target, what: &str, options: &[&str]) -> Result<String> {
    let name = t.name(what);
    let mut args = vec!["volume", "create"];
    args.extend(options);
    args.push(&name);
    ensure_eq!(t.ok(args)?, name);
    Ok(name)
}

fn inspect(t: &Target, name: &str) -> Result<Value> {
    t.api().get(format!("/volumes/{name}")).send()?.expect(200)?.json()
}

fn is_gone(t: &Target, name: &str) -> Outcome {
    let answer = t.api().get(format!("/volumes/{name}")).send()?.expect(404)?;
    ensure_eq!(answer.message()?, format!("get {name}: no such volume"));
    Ok(())
}

/// What `docker volume ls FILTERS…` names, of those that have `mine` in their name.
fn listed(t: &Target, mine: &str, filters: &[&str]) -> Result<Vec<String>> {
    let mut args = vec!["volume", "ls", "-q"];
    args.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
    let mut names: Vec<String> =
        t.ok(args)?.lines().filter(|name| name.contains(mine)).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn create_list_inspect_remove(t: &Target) -> Outcome {
    let name = volume(t, "data", &[])?;
    let found = inspect(t, &name)?;
    keys::compare(t.kind(), "volume-inspect", &found, &[])?;
    for (field, value) in [
        ("Name", json!(name)),
        ("Driver", json!("local")),
        ("Scope", json!("local")),
        ("Labels", Value::Null),
        ("Options", Value::Null),
    ] {
        ensure_eq!(found[field], value, "{field}");
    }
    let place = found["Mountpoint"].as_str().context("no Mountpoint")?;
    ensure!(place.ends_with(&format!("/volumes/{name}/_data")), "{place}");
    // Once more is no error, and changes nothing.
    let again = t.api().post("/volumes/create").json(&json!({"Name": name, "Labels": {"a": "b"}})).send()?;
    ensure_eq!(again.expect(201)?.json()?, found);
    let list = t.api().get("/volumes").send()?.expect(200)?.json()?;
    ensure_eq!(list["Warnings"], Value::Null);
    ensure!(list["Volumes"].as_array().is_some_and(|all| all.contains(&found)), "{list}");
    ensure_eq!(t.ok(["volume", "inspect", "-f", "{{.Name}}", &name])?, name);
    ensure_eq!(t.ok(["volume", "rm", &name])?, name);
    is_gone(t, &name)?;
    t.fails(1, ["volume", "rm", &name])?.expect_stderr(&format!("get {name}: no such volume"))?;
    t.ok(["volume", "rm", "-f", &name])?;
    t.fails(1, ["volume", "inspect", &name])?.expect_stderr(&format!("get {name}: no such volume"))?;
    Ok(())
}

fn names_are_made_up(t: &Target) -> Outcome {
    // An empty body, and one that says nothing.
    for body in ["", "{}"] {
        let request = t.api().post("/volumes/create").header("Content-Type", "application/json").body(body);
        let made = request.send()?.expect(201)?.json()?;
        let name = made["Name"].as_str().context("no Name")?;
        ensure!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
        ensure_eq!(made["Labels"], json!({"com.docker.volume.anonymous": ""}));
        t.ok(["volume", "rm", name])?;
    }
    Ok(())
}

fn labels_and_filters(t: &Target) -> Outcome {
    let mine = t.name("set");
    let (one, two) = (format!("{mine}-one"), format!("{mine}-two"));
    t.ok(["volume", "create", "--label", "tier=db", "--label", "x", &one])?;
    t.ok(["volume", "create", "--label", "tier=web", &two])?;
    ensure_eq!(inspect(t, &one)?["Labels"], json!({"tier": "db", "x": ""}));
    let name = t.name("box");
    t.ok(["create", "--name", &name, "-v", &format!("{two}:/data"), "busybox"])?;
    let both = [one.clone(), two.clone()];
    ensure_eq!(listed(t, &mine, &[])?, both);
    ensure_eq!(listed(t, &mine, &["label=tier=db"])?, [one.as_str()]);
    ensure_eq!(listed(t, &mine, &["label=tier", "label=x"])?, [one.as_str()]);
    ensure_eq!(listed(t, &mine, &["dangling=true"])?, [one.as_str()]);
    ensure_eq!(listed(t, &mine, &["dangling=0"])?, [two.as_str()]);
    ensure_eq!(listed(t, &mine, &["driver=local"])?, both);
    ensure_eq!(listed(t, &mine, &["driver=other"])?, Vec::<String>::new());
    ensure_eq!(listed(t, &mine, &[&format!("name={mine}-t")])?, [two.as_str()]);
    ensure_eq!(t.ok(["ps", "-a", "--filter", &format!("volume={two}"), "--format", "{{.Names}}"])?, name);
    for (filter, words) in
        [("colour=red", "invalid filter 'colour'"), ("dangling=x", "invalid filter 'dangling=[x]'")]
    {
        t.fails(1, ["volume", "ls", "--filter", filter])?.expect_stderr(words)?;
    }
    t.ok(["rm", &name])?;
    t.ok(["volume", "rm", &one, &two])?;
    Ok(())
}

fn nonsense_is_refused(t: &Target) -> Outcome {
    let create = |status: u16, body: Value| {
        t.api().post("/volumes/create").json(&body).send()?.expect(status)?.message()
    };
    ensure_eq!(
        create(400, json!({"Name": "x"}))?,
        "create x: volume name is too short, names should be at least two alphanumeric characters"
    );
    let words = "\"a/b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
                 allowed. If you intended to pass a host directory, use absolute path";
    ensure_eq!(create(400, json!({"Name": "a/b"}))?, format!("create a/b: {words}"));
    t.fails(125, ["run", "--rm", "-v", "a/b:/x", "busybox"])?.expect_stderr(words)?;
    for name in ["../up", "..", "-x", "a b", "ä1"] {
        create(400, json!({"Name": name}))?;
    }
    ensure_eq!(
        create(404, json!({"Name": "some", "Driver": "other"}))?,
        "create some: error looking up volume plugin other: plugin \"other\" not found"
    );
    t.fails(
        1,
        [
            "create",
            "--pull",
            "never",
            "--mount",
            "type=volume,src=some,dst=/x,volume-driver=other",
            "busybox",
        ],
    )?
    .expect_stderr("plugin \"other\" not found")?;
    for (options, words) in [
        (json!({"colour": "red"}), "invalid option: \"colour\""),
        (json!({"type": "tmpfs"}), "missing required option: \"device\""),
        (json!({"size": "1g"}), "quota size requested but no quota support"),
    ] {
        ensure_eq!(
            create(400, json!({"Name": "some", "DriverOpts": options}))?,
            format!("create some: {words}")
        );
    }
    for (mount, words) in [
        (
            "type=volume,src=some,dst=/x,volume-subpath=../a",
            "subpath must be a relative path within the volume",
        ),
        ("type=volume,dst=/x,volume-subpath=a", "must not set Subpath when using anonymous volumes"),
        ("type=volume,dst=/x,readonly", "must not set ReadOnly mode when using anonymous volumes"),
    ] {
        t.fails(125, ["run", "--rm", "--mount", mount, "busybox"])?.expect_stderr(words)?;
    }
    is_gone(t, "some")?;
    let answer = t.api().request("PUT", "/volumes/some").json(&json!({})).send()?.expect(503)?;
    ensure_eq!(answer.message()?, "volume update only valid for cluster volumes, but swarm is unavailable");
    Ok(())
}

fn drivers_options(t: &Target) -> Outcome {
    let memory = volume(t, "memory", &["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=5"])?;
    ensure_eq!(
        inspect(t, &memory)?["Options"],
        json!({"device": "tmpfs", "o": "size=1m,uid=5", "type": "tmpfs"})
    );
    let name = t.name("box");
    let on = format!("{memory}:/memory");
    t.ok(["run", "-d", "--name", &name, "-v", &on, "busybox", "sh", "-c", SLEEP])?;
    let line = t.ok(["exec", &name, "grep", " /memory ", "/proc/mounts"])?;
    ensure!(line.starts_with("tmpfs /memory tmpfs rw,relatime,size=1024k,uid=5"), "{line}");
    // Whoever comes while it is used finds the same; who comes later, another.
    t.ok(["exec", &name, "touch", "/memory/file"])?;
    t.ok(["run", "--rm", "-v", &on, "busybox", "test", "-e", "/memory/file"])?;
    t.ok(["exec", &name, "test", "-e", "/memory/file"])?;
    t.ok(["stop", &name])?;
    ensure_eq!(t.ok(["run", "--rm", "-v", &on, "busybox", "ls", "/memory"])?, "");
    t.ok(["rm", &name])?;

    // A folder of the engine's machine: another volume's, which is there on every kind of engine.
    let target = volume(t, "target", &[])?;
    t.ok(["run", "--rm", "-v", &format!("{target}:/x"), "busybox", "sh", "-c", "echo content > /x/file"])?;
    let place = inspect(t, &target)?["Mountpoint"].as_str().context("no Mountpoint")?.to_owned();
    let device = format!("device={place}");
    let bound = volume(t, "bound", &["-o", "type=none", "-o", &device, "-o", "o=bind,ro"])?;
    ensure_eq!(t.ok(["run", "--rm", "-v", &format!("{bound}:/x"), "busybox", "cat", "/x/file"])?, "content");
    t.fails(1, ["run", "--rm", "-v", &format!("{bound}:/x"), "busybox", "touch", "/x/file"])?
        .expect_stderr("Read-only file system")?;
    // What it binds is not its own, and stays.
    t.ok(["volume", "rm", &bound, &memory])?;
    ensure_eq!(t.ok(["run", "--rm", "-v", &format!("{target}:/x"), "busybox", "cat", "/x/file"])?, "content");

    let missing = volume(t, "missing", &["-o", "type=none", "-o", "device=/no/such/folder", "-o", "o=bind"])?;
    let words = "failed to mount local volume: mount /no/such/folder:";
    let failed = t.fails(127, ["run", "--rm", "-v", &format!("{missing}:/x"), "busybox"])?;
    failed.expect_stderr("error while mounting volume '")?.expect_stderr(words)?;
    t.ok(["volume", "rm", &missing, &target])?;
    Ok(())
}

/// Options that say how mounts spread are the kernel's flags, not the file system's words.
fn drivers_mounts_that_spread(t: &Target) -> Outcome {
    let target = volume(t, "target", &[])?;
    let place = inspect(t, &target)?["Mountpoint"].as_str().context("no Mountpoint")?.to_owned();
    let device = format!("device={place}");
    for mode in ["rshared", "rslave", "private"] {
        let options = format!("o=bind,{mode}");
        let bound = volume(t, mode, &["-o", "type=none", "-o", &device, "-o", &options])?;
        t.ok(["run", "--rm", "-v", &format!("{bound}:/x"), "busybox", "touch", &format!("/x/{mode}")])?;
        t.ok(["volume", "rm", &bound])?;
    }
    let on = format!("{target}:/x");
    ensure_eq!(t.ok(["run", "--rm", "-v", &on, "busybox", "ls", "/x"])?, "private\nrshared\nrslave");
    t.ok(["volume", "rm", &target])?;
    Ok(())
}

/// The kernel is the client of a network's file server. Nothing here is one.
fn of_a_file_server(t: &Target) -> Outcome {
    let refused = |name: &str, options: [&str; 3]| -> Result<tests::process::Output> {
        let mut all = Vec::new();
        all.extend(options.iter().flat_map(|option| ["-o", option]));
        let name = volume(t, name, &all)?;
        let failed = t.fails(125, ["run", "--rm", "-v", &format!("{name}:/x"), "busybox", "true"])?;
        t.ok(["volume", "rm", &name])?;
        failed.expect_stderr("error while mounting volume '")
    };
    let none = ["type=nfs", "device=:/export", "o=addr=no.such.host.invalid,soft"];
    refused("unknown", none)?
        .expect_stderr("error resolving passed in network volume address: lookup no.such.host.invalid")?;
    // Without its kind of file system, and with it, when it finds nobody there.
    let nobody = ["type=nfs", "device=:/export", "o=addr=127.0.0.1,soft,timeo=10,retrans=1,nfsvers=4"];
    refused("nobody", nobody)?
        .expect_stderr("failed to mount local volume: mount :/export:")?
        .expect_stderr("data: addr=127.0.0.1,soft,timeo=10,retrans=1,nfsvers=4: ")?;
    let secret = ["type=cifs", "device=//127.0.0.1/share", "o=username=user,password=secret"];
    let said = refused("secret", secret)?;
    said.expect_stderr("password=********").map(drop)
}

/// As everybody does it: a helper container with the volume and a place for the archive.
fn backed_up_and_restored(t: &Target) -> Outcome {
    let (data, backup, restored) = (volume(t, "data", &[])?, volume(t, "backup", &[])?, t.name("restored"));
    let on = |volume: &str, place: &str| format!("{volume}:{place}");
    let run = |volumes: &[&str], script: &str| {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(volumes.iter().flat_map(|volume| ["-v", volume]));
        all.extend(["busybox", "sh", "-c", script]);
        t.ok(all)
    };
    let make = "mkdir -p /v/a/b; echo content > /v/a/b/file; chown 70:71 /v/a/b/file; chmod 4751 /v/a/b/file; \
                ln -s b/file /v/a/link; ln /v/a/b/file /v/hard; mkfifo /v/pipe; touch '/v/sp ace'; chmod 700 /v/a";
    run(&[&on(&data, "/v")], make)?;
    run(&[&on(&data, "/v:ro"), &on(&backup, "/b")], "tar -C /v -cf /b/data.tar .")?;
    run(&[&on(&restored, "/v"), &on(&backup, "/b:ro")], "tar -C /v -xpf /b/data.tar")?;
    let list =
        "cd /v; find . | sort | while read -r f; do stat -c '%n %F %a %u:%g %s %h' \"$f\"; done; cat a/link";
    let before = run(&[&on(&data, "/v")], list)?;
    ensure!(before.contains("./a/b/file regular file 4751 70:71 8 2"), "{before}");
    let without_sizes_of_folders = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains(" directory ")).map(str::to_owned).collect()
    };
    let after = run(&[&on(&restored, "/v")], list)?;
    ensure_eq!(without_sizes_of_folders(&after), without_sizes_of_folders(&before));
    t.ok(["volume", "rm", &data, &backup, &restored])?;
    Ok(())
}

fn space_they_take(t: &Target) -> Outcome {
    let data = volume(t, "data", &["--label", "a=b"])?;
    let name = t.name("box");
    let on = format!("{data}:/x");
    t.ok(["run", "--name", &name, "-v", &on, "busybox", "sh", "-c", "head -c 100000 /dev/zero > /x/file"])?;
    let usage = |query: &str| -> Result<Value> {
        let answer = t.api().get(format!("/system/df{query}")).send()?.expect(200)?.json()?;
        let all = answer["Volumes"].as_array().cloned().context("no Volumes")?;
        all.into_iter().find(|volume| volume["Name"] == data.as_str()).context("not among the volumes")
    };
    let found = usage("?type=volume")?;
    ensure_eq!(found["UsageData"], json!({"RefCount": 1, "Size": 100_000}));
    ensure_eq!(found["Labels"], json!({"a": "b"}));
    let only = t.api().get("/system/df?type=volume").send()?.expect(200)?.json()?;
    ensure!(only["Images"].is_null() && only["Containers"].is_null(), "{only}");
    t.ok(["rm", &name])?;
    ensure_eq!(usage("")?["UsageData"]["RefCount"], 0);
    t.ok(["volume", "rm", &data])?;
    Ok(())
}

/// Routes that Docker does not have.
fn files_without_a_container(t: &Target) -> Outcome {
    let data = volume(t, "data", &[])?;
    let at = |what: &str, path: &str| format!("/volumes/{data}/{what}?path={path}");
    let tar = archive::Tar::default()
        .folder("dir", 0o750)?
        .file("dir/file", 0o4644, b"content")?
        .symlink("link", "dir/file")?
        .symlink("out", "../../../../../../etc")?
        .finish()?;
    t.api().request("PUT", at("archive", "/")).body(tar.clone()).send()?.expect(200)?;
    let files = |path: &str| t.api().get(at("files", path)).send()?.expect(200)?.json();
    let names = |files: &Value| -> Vec<String> {
        let names = files.as_array().into_iter().flatten().filter_map(|file| file["Name"].as_str());
        names.map(str::to_owned).collect()
    };
    ensure_eq!(names(&files("/")?), ["dir", "link", "out"]);
    let file = files("dir")?[0].clone();
    ensure_eq!(
        file,
        json!({
            "Name": "file", "Kind": "file", "Size": 7, "Mode": 0o4644, "Uid": 0, "Gid": 0,
            "Modified": "2023-11-14T22:13:20Z", "LinkTarget": "",
        })
    );
    // A link within leads on, one that leads out leads nowhere.
    ensure_eq!(names(&files("link")?), ["link"]);
    for path in ["out", "out/passwd", "missing", "../../x"] {
        for (what, method) in [("files", "GET"), ("archive", "GET"), ("archive", "PUT")] {
            if path == "out" && (what, method) == ("archive", "GET") {
                continue;
            }
            let answer = t.api().request(method, at(what, path)).body(tar.clone()).send()?;
            ensure_eq!(answer.status, 404, "{method} {what} {path}: {answer}");
            ensure_eq!(answer.message()?, format!("Could not find the file {path} in volume {data}"));
        }
    }
    let planted = archive::Tar::default().file("out/planted", 0o644, b"x")?.finish()?;
    let answer = t.api().request("PUT", at("archive", "/")).body(planted).send()?;
    ensure!(answer.status == 500 || answer.status == 404 || answer.status == 200, "{answer}");
    ensure_eq!(
        t.ok(["run", "--rm", "-v", &format!("{data}:/v"), "busybox", "cat", "/v/dir/file"])?,
        "content"
    );
    ensure!(!std::path::Path::new("/etc/planted").exists());
    let answer = t.api().get(at("archive", "/dir")).send()?.expect(200)?;
    let mut found: Vec<String> = Vec::new();
    for entry in tar::Archive::new(&answer.body[..]).entries()? {
        found.push(entry?.path()?.to_string_lossy().into_owned());
    }
    ensure_eq!(found, ["dir/", "dir/file"]);
    for (method, path) in [("GET", "/volumes/none/files"), ("PUT", "/volumes/none/archive?path=/")] {
        let answer = t.api().request(method, path).body(tar.clone()).send()?.expect(404)?;
        ensure_eq!(answer.message()?, "get none: no such volume");
    }
    // Those that are mounted as long as somebody looks.
    let memory = volume(t, "memory", &["-o", "type=tmpfs", "-o", "device=tmpfs"])?;
    let path = format!("/volumes/{memory}/archive?path=/");
    t.api().request("PUT", path).body(tar).send()?.expect(200)?;
    let left = t.api().get(format!("/volumes/{memory}/files")).send()?.expect(200)?.json()?;
    ensure_eq!(left, json!([]));
    t.ok(["volume", "rm", &data, &memory])?;
    Ok(())
}

fn shared_between_containers(t: &Target) -> Outcome {
    let name = t.name("data");
    let (short, long) = (format!("{name}:/data"), format!("type=volume,src={name},dst=/data"));
    // The first use makes it.
    t.ok(["run", "--rm", "-v", &short, "busybox", "sh", "-c", "echo one > /data/file"])?;
    ensure_eq!(t.ok(["run", "--rm", "--mount", &long, "busybox", "cat", "/data/file"])?, "one");
    // While both run, too.
    let (first, second) = (t.name("first"), t.name("second"));
    for container in [&first, &second] {
        t.ok(["run", "-d", "--name", container, "-v", &short, "busybox", "sh", "-c", SLEEP])?;
    }
    t.ok(["exec", &first, "sh", "-c", "echo two > /data/file"])?;
    ensure_eq!(t.ok(["exec", &second, "cat", "/data/file"])?, "two");
    t.ok(["rm", "-f", &first, &second])?;
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

fn read_only(t: &Target) -> Outcome {
    let name = volume(t, "data", &[])?;
    for options in
        [["-v", &format!("{name}:/data:ro")], ["--mount", &format!("type=volume,src={name},dst=/data,ro")]]
    {
        t.fails(1, ["run", "--rm", options[0], options[1], "busybox", "touch", "/data/file"])?
            .expect_stderr("Read-only file system")?;
    }
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

/// An image with files at `/srv/data`, which is one of its volumes when `declared`.
fn image(t: &Target, what: &str, declared: bool) -> Result<String> {
    let name = t.name(what);
    let mut image = archive::Image::new(&format!("{name}:latest"), archive::busybox_root()?);
    if declared {
        image.config["Volumes"] = json!({"/srv/data": {}});
    }
    let file = archive::write(t.folder(), &format!("{name}.tar"), &image.docker_archive()?)?;
    t.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
    Ok(name)
}

fn content_of_the_image(t: &Target) -> Outcome {
    // What every image of these tests has: a folder with files, one of its links, and a file.
    let seen = |options: &[&str], command: &[&str]| {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        args.push("busybox");
        args.extend(command);
        t.ok(args)
    };
    let etc = seen(&[], &["ls", "-ln", "/etc"])?;
    let name = t.name("data");
    // Mounted files of the container's own hide three of them, with and without the volume.
    let list = ["ls", "-ln", "/x"];
    seen(&["-v", &format!("{name}:/etc")], &["true"])?;
    let names = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    };
    let hidden = ["hosts", "hostname", "resolv.conf", "mtab"].map(str::to_owned);
    let without = |text: &str| -> Vec<String> {
        names(text).into_iter().filter(|name| !hidden.contains(name)).collect()
    };
    let copied = seen(&["-v", &format!("{name}:/x")], &list)?;
    ensure!(copied.contains("passwd"), "{copied}");
    ensure_eq!(without(&copied)[1..], without(&etc)[1..]);
    // Only an empty one is filled.
    seen(&["-v", &format!("{name}:/x")], &["rm", "/x/passwd"])?;
    ensure!(!seen(&["-v", &format!("{name}:/etc")], &["ls", "/etc"])?.contains("passwd"), "filled again");
    t.ok(["volume", "rm", &name])?;
    // Nor one that is not to be.
    for options in [
        ["-v", &format!("{name}:/etc:nocopy")],
        ["--mount", &format!("type=volume,src={name},dst=/etc,volume-nocopy")],
    ] {
        ensure!(!seen(&options, &["ls", "/etc"])?.contains("passwd"), "{options:?}");
        t.ok(["volume", "rm", &name])?;
    }
    // A file is no place for a volume.
    t.fails(125, ["run", "--rm", "-v", "/etc/passwd", "busybox"])?
        .expect_stderr("cannot mount volume over existing file, file exists ")?;
    let file = format!("{name}:/etc/passwd");
    t.fails(125, ["run", "--rm", "-v", &file, "busybox"])?.expect_stderr("/etc/passwd is not directory")?;
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

fn left_alone_where_the_image_has_nothing(t: &Target) -> Outcome {
    let name = volume(t, "data", &[])?;
    let script = "chown 77:88 /data; chmod 750 /data";
    t.ok(["run", "--rm", "-v", &format!("{name}:/data"), "busybox", "sh", "-c", script])?;
    let elsewhere = format!("{name}:/not/in/the/image");
    let seen = ["run", "--rm", "-v", &elsewhere, "busybox", "stat", "-c", "%u:%g %a", "/not/in/the/image"];
    ensure_eq!(t.ok(seen)?, "77:88 750");
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

fn parts(t: &Target) -> Outcome {
    let name = volume(t, "data", &[])?;
    let all = format!("{name}:/data");
    let script =
        "mkdir -p /data/a/b; echo inner > /data/a/b/file; ln -s /etc /data/out; ln -s a/b /data/near";
    t.ok(["run", "--rm", "-v", &all, "busybox", "sh", "-c", script])?;
    let part = |path: &str| format!("type=volume,src={name},dst=/x,volume-subpath={path}");
    ensure_eq!(t.ok(["run", "--rm", "--mount", &part("a/b"), "busybox", "cat", "/x/file"])?, "inner");
    ensure_eq!(t.ok(["run", "--rm", "--mount", &part("a/b/file"), "busybox", "cat", "/x"])?, "inner");
    ensure_eq!(t.ok(["run", "--rm", "--mount", &part("near"), "busybox", "cat", "/x/file"])?, "inner");
    t.ok(["run", "--rm", "--mount", &part("a"), "busybox", "touch", "/x/new"])?;
    t.ok(["run", "--rm", "-v", &all, "busybox", "test", "-e", "/data/a/new"])?;
    // Two parts of one volume, and the container again.
    let container = t.name("box");
    let other = format!("type=volume,src={name},dst=/y,volume-subpath=a/b");
    let made = ["create", "--name", &container, "--mount", &part("a"), "--mount", &other];
    t.docker(made).args(["busybox", "cat", "/x/b/file", "/y/file"]).output()?.expect_code(0)?;
    for _ in 0..2 {
        ensure_eq!(t.ok(["start", "-a", &container])?, "inner\ninner");
    }
    t.ok(["rm", &container])?;
    t.fails(127, ["run", "--rm", "--mount", &part("missing"), "busybox"])?
        .expect_stderr("/missing: no such file or directory")?;
    t.fails(125, ["run", "--rm", "--mount", &part("out"), "busybox"])?
        .expect_stderr("path concatenation escapes the base directory")?;
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

/// A part of a volume that is there and empty gets what the image has in its place, as a whole volume does.
fn parts_are_filled(t: &Target) -> Outcome {
    let name = volume(t, "data", &[])?;
    let script = "mkdir -p /v/empty /v/other /v/full/x; ln -s /etc /v/out; touch /v/file";
    t.ok(["run", "--rm", "-v", &format!("{name}:/v"), "busybox", "sh", "-c", script])?;
    let part = |path: &str| format!("type=volume,src={name},dst=/etc,volume-subpath={path}");
    let seen = |path: &str| t.ok(["run", "--rm", "--mount", &part(path), "busybox", "ls", "/etc"]);
    ensure!(!seen("other,volume-nocopy")?.contains("passwd"));
    ensure!(seen("empty")?.contains("passwd"));
    ensure!(!seen("full")?.contains("passwd"));
    // The rest of the volume is left alone.
    let passwd =
        t.ok(["run", "--rm", "-v", &format!("{name}:/v"), "busybox", "find", "/v", "-name", "passwd"])?;
    ensure_eq!(passwd, "/v/empty/passwd");
    // What is missing is told by the start, what leads out of the volume or is no folder before.
    let container = t.name("box");
    t.ok(["create", "--name", &container, "--mount", &part("missing"), "busybox"])?;
    t.fails(1, ["start", &container])?.expect_stderr("/missing: no such file or directory")?;
    t.ok(["rm", &container])?;
    t.fails(1, ["create", "--mount", &part("out"), "busybox"])?
        .expect_stderr("failed to populate volume: path concatenation escapes the base directory")?;
    t.fails(1, ["create", "--mount", &part("file"), "busybox"])?.expect_stderr("not a directory")?;
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

/// The mount at `destination` as inspect shows it.
fn mount(t: &Target, container: &str, destination: &str) -> Result<Value> {
    let found = t.inspect(container)?["Mounts"].clone();
    let mut all = found.as_array().into_iter().flatten();
    all.find(|mount| mount["Destination"] == destination)
        .cloned()
        .with_context(|| format!("nothing at {destination} in {found}"))
}

fn mounts_as_inspect_shows_them(t: &Target) -> Outcome {
    let (name, data) = (t.name("box"), t.name("data"));
    let mounts = [
        "-v",
        &format!("{data}:/a"),
        "-v",
        &format!("{data}:/b:ro,nocopy"),
        "-v",
        "/c",
        "--mount",
        "type=volume,dst=/d",
        "--mount",
        &format!("type=volume,src={data}-2,dst=/e,volume-label=k=v"),
    ];
    t.docker(["create", "--name", &name]).args(mounts).arg("busybox").output()?.expect_code(0)?;
    let a = mount(t, &name, "/a")?;
    let place = inspect(t, &data)?["Mountpoint"].clone();
    ensure_eq!(
        a,
        json!({
            "Type": "volume", "Name": data, "Source": place, "Destination": "/a", "Driver": "local",
            "Mode": "z", "RW": true, "Propagation": "",
        })
    );
    let b = mount(t, &name, "/b")?;
    ensure_eq!((&b["Mode"], &b["RW"]), (&json!("ro,nocopy"), &json!(false)));
    // Declared, and mounted: one without a name both times.
    for (destination, mode) in [("/c", ""), ("/d", "z")] {
        let own = mount(t, &name, destination)?;
        ensure_eq!((&own["Mode"], &own["RW"]), (&json!(mode), &json!(true)), "{destination}");
        let labels = inspect(t, own["Name"].as_str().context("no Name")?)?["Labels"].clone();
        ensure_eq!(labels, json!({"com.docker.volume.anonymous": ""}), "{destination}");
    }
    ensure_eq!(inspect(t, &format!("{data}-2"))?["Labels"], json!({"k": "v"}));
    let host = t.inspect(&name)?["HostConfig"].clone();
    ensure_eq!(host["Mounts"][1]["VolumeOptions"]["Labels"], json!({"k": "v"}));
    t.ok(["rm", "-v", &name])?;
    t.ok(["volume", "rm", &data, &format!("{data}-2")])?;
    Ok(())
}

fn volumes_from(t: &Target) -> Outcome {
    let (name, other, third, data) = (t.name("box"), t.name("other"), t.name("third"), t.name("data"));
    t.ok([
        "run",
        "--name",
        &name,
        "-v",
        &format!("{data}:/data"),
        "-v",
        "/own",
        "busybox",
        "touch",
        "/own/file",
        "/data/file",
    ])?;
    ensure_eq!(
        t.ok(["run", "--rm", "--volumes-from", &name, "busybox", "ls", "/own", "/data"])?,
        "/data:\nfile\n\n/own:\nfile"
    );
    let read_only = format!("{name}:ro");
    t.fails(1, ["run", "--rm", "--volumes-from", &read_only, "busybox", "touch", "/own/file"])?
        .expect_stderr("Read-only file system")?;
    t.ok(["create", "--name", &other, "--volumes-from", &read_only, "busybox"])?;
    let (theirs, ours) = (mount(t, &name, "/own")?, mount(t, &other, "/own")?);
    ensure_eq!(ours["Name"], theirs["Name"]);
    ensure_eq!((&ours["RW"], &ours["Mode"]), (&json!(false), &json!("")));
    // What is mounted itself comes first.
    t.ok(["create", "--name", &third, "--volumes-from", &name, "-v", &format!("{data}-2:/own"), "busybox"])?;
    ensure_eq!(mount(t, &third, "/own")?["Name"], format!("{data}-2"));
    // The last that has it takes it away.
    let own = theirs["Name"].as_str().context("no Name")?.to_owned();
    t.ok(["rm", "-v", &name])?;
    inspect(t, &own)?;
    t.ok(["rm", "-v", &other, &third])?;
    is_gone(t, &own)?;
    t.ok(["volume", "rm", &data, &format!("{data}-2")])?;

    let missing = t.name("none");
    let refused = |from: &str| {
        let body = json!({"Image": "busybox", "HostConfig": {"VolumesFrom": [from]}});
        t.api().post("/containers/create").json(&body).send()?.expect(400)?.message()
    };
    ensure_eq!(refused(&missing)?, format!("No such container: {missing}"));
    ensure_eq!(refused(&format!("{missing}:nocopy"))?, "invalid mode: nocopy");
    Ok(())
}

fn removed_with_their_container(t: &Target) -> Outcome {
    let image = image(t, "image", true)?;
    let (name, data) = (t.name("box"), t.name("data"));
    let create = || {
        t.ok(["create", "--name", &name, "-v", &format!("{data}:/data"), "-v", "/own", &image])?;
        let own = |destination| {
            let name = mount(t, &name, destination)?["Name"].as_str().context("no Name")?.to_owned();
            anyhow::Ok(name)
        };
        anyhow::Ok([own("/own")?, own("/srv/data")?])
    };
    let own = create()?;
    t.ok(["rm", "-v", &name])?;
    own.iter().try_for_each(|volume| is_gone(t, volume))?;
    inspect(t, &data)?;
    // Without -v they stay.
    let own = create()?;
    t.ok(["rm", &name])?;
    for volume in &own {
        inspect(t, volume)?;
        t.ok(["volume", "rm", volume])?;
    }
    t.ok(["run", "--rm", "--name", &name, "-l", "x", "-v", "/own", "busybox", "true"])?;
    t.ok(["volume", "rm", &data])?;
    t.ok(["rmi", &image])?;
    Ok(())
}

fn in_use(t: &Target) -> Outcome {
    let (name, data) = (t.name("box"), t.name("data"));
    let id = t.ok(["create", "--name", &name, "-v", &format!("{data}:/data"), "busybox", "true"])?;
    let words = format!("remove {data}: volume is in use - [{id}]");
    for query in ["", "?force=1"] {
        let answer = t.api().delete(format!("/volumes/{data}{query}")).send()?.expect(409)?;
        ensure_eq!(answer.message()?, words);
    }
    // Also after it has run.
    t.ok(["start", "-a", &name])?;
    t.fails(1, ["volume", "rm", &data])?.expect_stderr(&words)?;
    t.ok(["rm", &name])?;
    t.ok(["volume", "rm", &data])?;
    Ok(())
}

fn events(t: &Target) -> Outcome {
    let (name, data) = (t.name("box"), t.name("data"));
    let id = t.ok(["create", "--name", &name, "-v", &format!("{data}:/data:ro"), "busybox", "true"])?;
    t.ok(["start", "-a", &name])?;
    t.ok(["wait", &name])?;
    t.ok(["rm", &name])?;
    t.ok(["volume", "rm", &data])?;
    // All that are kept until now, or until the last one is among them.
    let filters = encoded(&json!({"volume": [data]}));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 1;
    let query = format!("/events?since=1&until={now}&filters={filters}");
    let text = t.api().get(query).send()?.expect(200)?;
    let events: Vec<Value> =
        String::from_utf8_lossy(&text.body).lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let found: Vec<&str> = events.iter().filter_map(|event| event["Action"].as_str()).collect();
    ensure_eq!(found, ["create", "mount", "unmount", "destroy"]);
    for event in &events {
        ensure_eq!(event["Type"], "volume");
        ensure_eq!(event["Actor"]["ID"], data.as_str());
        ensure_eq!(event["Actor"]["Attributes"]["driver"], "local");
    }
    ensure_eq!(
        events[1]["Actor"]["Attributes"],
        json!({
            "driver": "local", "container": id, "destination": "/data", "read/write": "false", "propagation": "",
        })
    );
    ensure_eq!(events[2]["Actor"]["Attributes"], json!({"driver": "local", "container": id}));
    Ok(())
}

/// JSON as a part of a query.
fn encoded(value: &Value) -> String {
    value.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn prune(t: &Target) -> Outcome {
    let prune = |query: &str| {
        let report = t.api().post(format!("/volumes/prune{query}")).send()?.expect(200)?.json()?;
        let mut names: Vec<String> = serde_json::from_value(report["VolumesDeleted"].clone())?;
        names.sort();
        anyhow::Ok((names, report["SpaceReclaimed"].as_u64().context("no SpaceReclaimed")?))
    };
    let made = t.api().post("/volumes/create").json(&json!({})).send()?.expect(201)?.json()?;
    let made = made["Name"].as_str().context("no Name")?;
    let named = volume(t, "named", &["--label", "a=1"])?;
    let kept = volume(t, "kept", &["--label", "a=2"])?;
    let options = volume(t, "options", &["-o", "type=tmpfs", "-o", "device=tmpfs"])?;
    let (name, used) = (t.name("box"), t.name("used"));
    t.ok(["create", "--name", &name, "-v", &format!("{used}:/data"), "-v", "/own", "busybox"])?;
    t.ok([
        "run",
        "--rm",
        "-v",
        &format!("{named}:/x"),
        "busybox",
        "sh",
        "-c",
        "head -c 5000 /dev/zero > /x/file",
    ])?;
    // Those without a name alone; before 1.42 all.
    ensure_eq!(prune("")?, (vec![made.to_owned()], 0));
    let filters = encoded(&json!({"all": ["true"], "label!": ["a=2"]}));
    ensure_eq!(prune(&format!("?filters={filters}"))?, (vec![named.clone()], 5000));
    let old = t.api().post("/v1.41/volumes/prune").send()?.expect(200)?.json()?;
    ensure_eq!(old["VolumesDeleted"], json!([kept]));
    // What holds nothing of its own, and what is used, stays.
    inspect(t, &options)?;
    inspect(t, &used)?;
    ensure_eq!(t.ok(["volume", "ls", "-q"])?.lines().count(), 3);
    let answer = t.api().post(format!("/volumes/prune?filters={}", encoded(&json!({"x": ["1"]})))).send()?;
    ensure_eq!(answer.expect(400)?.message()?, "invalid filter 'x'");
    let said = t.ok(["volume", "prune", "-af"])?;
    ensure_eq!(said, "Total reclaimed space: 0B");
    Ok(())
}

fn kept_through_a_crash(t: &Target) -> Outcome {
    let (name, data) = (t.name("box"), t.name("data"));
    volume(t, "labelled", &["--label", "a=b"])?;
    let labelled = inspect(t, &t.ok(["volume", "ls", "-q", "--filter", "label=a=b"])?)?;
    t.ok(["run", "-d", "--name", &name, "-v", &format!("{data}:/data"), "busybox", "sh", "-c", SLEEP])?;
    t.ok(["exec", &name, "sh", "-c", "echo before > /data/file"])?;
    let before = inspect(t, &data)?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(inspect(t, &data)?, before);
    ensure_eq!(inspect(t, labelled["Name"].as_str().context("no Name")?)?, labelled);
    ensure_eq!(t.ok(["exec", &name, "cat", "/data/file"])?, "before");
    t.fails(1, ["volume", "rm", &data])?.expect_stderr("volume is in use - [")?;
    t.ok(["rm", "-f", &name])?;
    ensure_eq!(
        t.ok(["run", "--rm", "-v", &format!("{data}:/data"), "busybox", "cat", "/data/file"])?,
        "before"
    );
    t.ok(["volume", "rm", &data])?;
    Ok(())
}

fn tmpfs_kept_through_a_crash(t: &Target) -> Outcome {
    let (name, data) = (t.name("box"), volume(t, "data", &["-o", "type=tmpfs", "-o", "device=tmpfs"])?);
    let on = format!("{data}:/data");
    t.ok(["run", "-d", "--name", &name, "-v", &on, "busybox", "sh", "-c", SLEEP])?;
    t.ok(["exec", &name, "touch", "/data/file"])?;
    t.crash()?;
    t.recover()?;
    // Still one and the same for all that run on it.
    wait::eventually_true("the engine knows its container", Duration::from_secs(20), || {
        Ok(t.inspect(&name)?["State"]["Running"] == true)
    })?;
    t.ok(["run", "--rm", "-v", &on, "busybox", "test", "-e", "/data/file"])?;
    t.ok(["exec", &name, "test", "-e", "/data/file"])?;
    t.ok(["rm", "-f", &name])?;
    ensure_eq!(t.ok(["run", "--rm", "-v", &on, "busybox", "ls", "/data"])?, "");
    t.ok(["volume", "rm", &data])?;
    Ok(())
}
