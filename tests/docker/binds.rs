//! Bind mounts: files and folders of the engine's machine in containers.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::archive::{self, Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, places};

cases! {
    missing_folders_are_made,
    missing_ones_are_refused,
    gone_before_the_start,
    files_and_folders,
    links,
    only_to_be_read,
    with_what_is_mounted_below,
    propagation,
    one_in_another,
    consistency,
    as_inspect_shows_them,
    nonsense_is_refused,
    the_engines_own_folder,
    the_engines_socket,
    the_engines_socket_after_a_crash.on(&[Kind::Machine]).alone(),
}

/// Runs a script as root of the engine's machine.
fn outside(t: &Target, script: &str) -> Result<String> {
    match t.kind() {
        Kind::Machine => t.machine()?.ok(["shell", "--", "sh", "-c", script]),
        Kind::Native | Kind::Dockerd => {
            t.namespace().program("/bin/sh").args(["-c", script]).output()?.text()
        }
    }
}

/// A folder of the engine's machine.
struct Folder<'t> {
    t: &'t Target,
    path: String,
}

impl<'t> Folder<'t> {
    fn new(t: &'t Target) -> Result<Self> {
        // A machine has its host's at the same path.
        let path = t.folder().join("folder").to_string_lossy().into_owned();
        outside(t, &format!("mkdir {path}"))?;
        Ok(Self { t, path })
    }

    /// A path in it.
    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Runs a script in it.
    fn run(&self, script: &str) -> Result<String> {
        outside(self.t, &format!("cd {} && {{ {script}\n}}", self.path))
    }
}

/// `docker run --rm` with these options and a script.
fn run(t: &Target, options: &[&str], script: &str) -> Result<String> {
    let all = ["run", "--rm", "--network", "none"].iter().chain(options);
    t.ok(all.copied().chain(["busybox", "sh", "-c", script]))
}

fn create(t: &Target, name: &str, host_config: Value) -> Result<()> {
    let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host_config});
    t.api().post(format!("/containers/create?name={name}")).json(&body).send()?.expect(201)?;
    Ok(())
}

fn missing_folders_are_made(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    let bind = format!("{}:/x", folder.at("a/b"));
    run(t, &["-v", &bind], "touch /x/file")?;
    ensure_eq!(
        folder.run("stat -c '%n %F %a %u:%g' a a/b; ls a/b")?,
        "a directory 755 0:0\na/b directory 755 0:0\nfile"
    );
    // Only when the container starts.
    let name = t.name("box");
    t.ok(["create", "--name", &name, "-v", &format!("{}:/x", folder.at("late")), "busybox", "true"])?;
    ensure_eq!(folder.run("ls")?, "a");
    t.ok(["start", "-a", &name])?;
    ensure_eq!(folder.run("ls")?, "a\nlate");
    // Or when it is asked for.
    let name = t.name("asked");
    let mount = json!({"Type": "bind", "Source": folder.at("c/d"), "Target": "/x"});
    let mut asked = mount.clone();
    asked["BindOptions"] = json!({"CreateMountpoint": true});
    create(t, &name, json!({"Mounts": [asked]}))?;
    t.ok(["start", "-a", &name])?;
    ensure_eq!(folder.run("ls -d c/d")?, "c/d");
    // Below a file nothing can be made.
    folder.run("touch plain")?;
    let below = format!("{}:/x", folder.at("plain/below"));
    let refused = t.fails(125, ["run", "--rm", "-v", &below, "busybox"])?;
    refused.expect_stderr("not a directory")?;
    Ok(())
}

fn missing_ones_are_refused(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    let source = folder.at("none");
    let words = format!("invalid mount config for type \"bind\": bind source path does not exist: {source}");
    let mount = format!("type=bind,src={source},dst=/x");
    t.fails(125, ["run", "--rm", "--mount", &mount, "busybox"])?.expect_stderr(&words)?;
    let body = json!({"Image": "busybox", "HostConfig": {"Mounts": [
        {"Type": "bind", "Source": source, "Target": "/x", "BindOptions": {"CreateMountpoint": false}},
    ]}});
    let answer = t.api().post("/containers/create").json(&body).send()?.expect(400)?;
    ensure_eq!(answer.message()?, words);
    ensure_eq!(folder.run("ls")?, "");
    Ok(())
}

fn gone_before_the_start(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("mkdir here")?;
    let source = folder.at("here");
    let name = t.name("box");
    t.ok([
        "create",
        "--name",
        &name,
        "--mount",
        &format!("type=bind,src={source},dst=/x"),
        "busybox",
        "true",
    ])?;
    t.ok(["start", "-a", &name])?;
    folder.run("rmdir here")?;
    let failed = t.api().post(format!("/containers/{name}/start")).send()?.expect(400)?;
    ensure_eq!(
        failed.message()?,
        format!("invalid mount config for type \"bind\": bind source path does not exist: {source}")
    );
    Ok(())
}

fn files_and_folders(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("mkdir dir; echo content > file; echo dir > dir/file")?;
    let (file, dir) = (folder.at("file"), folder.at("dir"));
    let on = |source: &str, to: &str| format!("{source}:{to}");
    // A file over one of the image, one where nothing is, and a folder in one that is missing.
    let seen = run(
        t,
        &["-v", &on(&file, "/etc/passwd"), "-v", &on(&file, "/new/place/file"), "-v", &on(&dir, "/some/dir")],
        "cat /etc/passwd /new/place/file /some/dir/file; echo changed > /new/place/file",
    )?;
    ensure_eq!(seen, "content\ncontent\ndir");
    ensure_eq!(folder.run("cat file")?, "changed");
    // Neither over the other.
    for (source, to) in [(&file, "/etc"), (&dir, "/etc/passwd")] {
        let refused = t.fails(125, ["run", "--rm", "-v", &on(source, to), "busybox", "true"])?;
        refused
            .expect_stderr(&format!("error mounting {source:?} to rootfs at {to:?}"))?
            .expect_stderr("not a directory: ")?
            .expect_stderr("Are you trying to mount a directory onto a file (or vice-versa)?")?;
    }
    Ok(())
}

fn links(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("mkdir dir; echo content > dir/file; ln -s dir near; ln -s nowhere dangling")?;
    ensure_eq!(run(t, &["-v", &format!("{}:/x", folder.at("near"))], "cat /x/file")?, "content");
    let file = format!("{}:/x", folder.at("near/file"));
    ensure_eq!(run(t, &["-v", &file], "cat /x")?, "content");
    // Where the path of a mount point leads in the container is the container's own.
    let script = "test ! -L /var/link/x && cat /var/link/x/file";
    ensure_eq!(run(t, &["-v", &format!("{}:/var/link/x", folder.at("dir"))], script)?, "content");
    // One that leads nowhere is in the way of the folder that `-v` would make.
    let dangling = folder.at("dangling");
    let refused = t.fails(125, ["run", "--rm", "-v", &format!("{dangling}:/x"), "busybox", "true"])?;
    refused.expect_stderr(&format!(
        "error while creating mount source path '{dangling}': mkdir {dangling}: file exists"
    ))?;
    let mount = format!("type=bind,src={dangling},dst=/x");
    t.fails(125, ["run", "--rm", "--mount", &mount, "busybox", "true"])?
        .expect_stderr(&format!("bind source path does not exist: {dangling}"))?;
    Ok(())
}

fn only_to_be_read(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("echo content > file")?;
    for options in [
        ["-v".to_owned(), format!("{}:/x:ro", folder.path)],
        ["--mount".to_owned(), format!("type=bind,src={},dst=/x,readonly", folder.path)],
    ] {
        let [option, value] = &options;
        for privileged in ["--privileged=false", "--privileged"] {
            let script = "cat /x/file && echo more > /x/file";
            let all = ["run", "--rm", privileged, option, value, "busybox", "sh", "-c", script];
            let refused = t.fails(1, all)?;
            ensure_eq!(refused.stdout(), "content\n");
            refused.expect_stderr("Read-only file system")?;
        }
    }
    let file = format!("{}:/x:ro", folder.at("file"));
    t.fails(1, ["run", "--rm", "-v", &file, "busybox", "sh", "-c", "echo more > /x"])?
        .expect_stderr("Read-only file system")?;
    ensure_eq!(folder.run("cat file")?, "content");
    Ok(())
}

fn with_what_is_mounted_below(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("mkdir below; mount -t tmpfs below below; touch below/inner")?;
    let all = &folder.path;
    let seen = |options: &str, script: &str| {
        let mount = format!("type=bind,src={all},dst=/x{options}");
        run(t, &["--mount", &mount], script)
    };
    let (list, write) = ("ls /x/below", "touch /x/below/new 2>/dev/null && echo written || echo refused");
    ensure_eq!(seen("", list)?, "inner");
    ensure_eq!(seen(",readonly", list)?, "inner");
    ensure_eq!(seen("", write)?, "written");
    ensure_eq!(seen(",readonly", write)?, "refused");
    ensure_eq!(seen(",readonly,bind-recursive=writable", write)?, "written");
    ensure_eq!(seen(",readonly,bind-propagation=rprivate,bind-recursive=readonly", write)?, "refused");
    ensure_eq!(seen(",bind-recursive=disabled", list)?, "");
    ensure_eq!(seen(",readonly,bind-recursive=disabled", write)?, "refused");
    ensure_eq!(run(t, &["-v", &format!("{all}:/x:ro")], write)?, "refused");
    // Whatever may be written below, what it is mounted on may not.
    for options in ["", ",bind-recursive=writable"] {
        ensure_eq!(
            seen(&format!(",readonly{options}"), "touch /x/new 2>/dev/null || echo refused")?,
            "refused"
        );
    }
    folder.run("umount below")?;
    Ok(())
}

fn propagation(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("mkdir private shared")?;
    let (private, shared) = (folder.at("private"), folder.at("shared"));
    outside(t, &format!("mount --bind {private} {private} && mount --make-private {private}"))?;
    outside(t, &format!("mount --bind {shared} {shared} && mount --make-shared {shared}"))?;
    for (mode, words) in [("rshared", "a shared mount"), ("slave", "a shared or slave mount")] {
        let bind = format!("{private}:/x:{mode}");
        let refused = t.fails(125, ["run", "--rm", "-v", &bind, "busybox"])?;
        refused.expect_stderr(&format!("path {private} is mounted on {private} but it is not {words}"))?;
    }
    // What is mounted outside while it runs, and what it mounts itself: seen where?
    for (mode, from_outside, from_inside) in [
        ("rprivate", false, false),
        ("private", false, false),
        ("rslave", true, false),
        ("slave", true, false),
        ("rshared", true, true),
        ("shared", true, true),
    ] {
        let name = t.name(mode);
        let mount = format!("type=bind,src={shared},dst=/x,bind-propagation={mode}");
        folder.run("mkdir -p shared/out shared/in")?;
        t.ok([
            "run",
            "-d",
            "--privileged",
            "--name",
            &name,
            "--mount",
            &mount,
            "busybox",
            "sh",
            "-c",
            SLEEP,
        ])?;
        outside(t, &format!("mount -t tmpfs from-outside {shared}/out"))?;
        t.ok(["exec", &name, "mount", "-t", "tmpfs", "from-inside", "/x/in"])?;
        let inside = t.ok(["exec", &name, "cat", "/proc/mounts"])?;
        let machine = outside(t, "cat /proc/mounts")?;
        ensure_eq!(inside.contains("from-outside"), from_outside, "{mode}");
        ensure_eq!(machine.contains("from-inside"), from_inside, "{mode}");
        outside(t, &format!("umount {shared}/out; umount {shared}/in 2>/dev/null; true"))?;
        t.ok(["rm", "-f", &name])?;
    }
    outside(t, &format!("umount {private} {shared}"))?;
    Ok(())
}

fn one_in_another(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    folder.run("mkdir outer inner; echo outer > outer/file; echo inner > inner/file")?;
    let data = t.name("data");
    // In whatever order they are asked for, each is in what is above it.
    let seen = run(
        t,
        &[
            "--tmpfs",
            "/x/a/memory",
            "-v",
            &format!("{}:/x/a/bound", folder.at("inner")),
            "-v",
            &format!("{data}:/x/a"),
            "--mount",
            &format!("type=bind,src={},dst=/x", folder.at("outer")),
        ],
        "cat /x/file /x/a/bound/file; grep -c ' /x' /proc/mounts; touch /x/a/kept",
    )?;
    ensure_eq!(seen, "outer\ninner\n4");
    ensure_eq!(folder.run("ls outer outer/a")?, "outer:\na\nfile\n\nouter/a:");
    ensure_eq!(run(t, &["-v", &format!("{data}:/d")], "ls /d")?, "bound\nkept\nmemory");
    t.ok(["volume", "rm", &data])?;
    // A mount point cannot be made in what may only be read.
    let read_only = format!("{}:/x:ro", folder.at("inner"));
    let below = format!("{}:/x/new", folder.at("outer"));
    t.fails(125, ["run", "--rm", "-v", &below, "-v", &read_only, "busybox", "true"])?
        .expect_stderr("to rootfs at \"/x/new\"")?
        .expect_stderr("read-only file system")?;
    Ok(())
}

fn consistency(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    for mode in ["consistent", "cached", "delegated"] {
        ensure_eq!(run(t, &["-v", &format!("{}:/x:{mode}", folder.path)], "ls /x")?, "");
        let mount = format!("type=bind,src={},dst=/x,consistency={mode}", folder.path);
        ensure_eq!(run(t, &["--mount", &mount], "ls /x")?, "");
    }
    ensure_eq!(run(t, &["-v", &format!("{}:/x:ro,z,delegated,rprivate", folder.path)], "ls /x")?, "");
    Ok(())
}

fn as_inspect_shows_them(t: &Target) -> Outcome {
    let folder = Folder::new(t)?;
    let name = t.name("box");
    let source = folder.path.clone();
    let mounts = json!([{
        "Type": "bind", "Source": source, "Target": "/c/../m/", "ReadOnly": true, "Consistency": "cached",
        "BindOptions": {"Propagation": "private", "NonRecursive": true},
    }]);
    let binds = json!([format!("{source}:/a"), format!("{source}/./x/..:/b/:ro,z,cached,rprivate")]);
    create(t, &name, json!({"Binds": binds, "Mounts": mounts}))?;
    let found = t.inspect(&name)?;
    ensure_eq!(found["HostConfig"]["Binds"], binds);
    ensure_eq!(found["HostConfig"]["Mounts"], mounts);
    let mut all = found["Mounts"].as_array().cloned().context("no Mounts")?;
    all.sort_by_key(|mount| mount["Destination"].to_string());
    let bind = |destination: &str, mode: &str, writable: bool, propagation: &str| {
        json!({
            "Type": "bind", "Source": source, "Destination": destination, "Mode": mode, "RW": writable,
            "Propagation": propagation,
        })
    };
    ensure_eq!(
        json!(all),
        json!([
            bind("/a", "", true, "rprivate"),
            bind("/b", "ro,z,cached,rprivate", false, "rprivate"),
            bind("/m", "", false, "private"),
        ])
    );
    let short = t.ok(["ps", "-a", "--filter", &format!("volume={source}"), "--format", "{{.Names}}"])?;
    ensure_eq!(short, name);
    t.ok(["rm", &name])?;
    Ok(())
}

fn nonsense_is_refused(t: &Target) -> Outcome {
    let refused = |status: u16, prefix: &str, host_config: Value| {
        let body = json!({"Image": "busybox", "HostConfig": host_config});
        t.api().post(format!("{prefix}/containers/create")).json(&body).send()?.expect(status)?.message()
    };
    for (bind, words) in [
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:/b:cached,delegated", "invalid mode: cached,delegated"),
        ("/a:/b:rshared,rslave", "invalid mode: rshared,rslave"),
        ("/a:/b:odd", "invalid mode: odd"),
        ("/a:", "invalid volume specification: '/a:'"),
        (":/a", "invalid volume specification: ':/a'"),
        ("/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
    ] {
        // Docker takes these for faults of its own.
        ensure_eq!(refused(500, "", json!({"Binds": [bind]}))?, words, "{bind}");
    }
    let mount = |more: Value| {
        let mut mount = json!({"Type": "bind", "Source": "/", "Target": "/x"});
        if let (Some(fields), Some(more)) = (mount.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        json!({"Mounts": [mount]})
    };
    for (more, reason) in [
        (json!({"Source": ""}), "field Source must not be empty"),
        (json!({"Source": "rel"}), "invalid mount path: 'rel' mount path must be absolute"),
        (json!({"Source": "/dev/null/x"}), "stat /dev/null/x: not a directory"),
        (json!({"Target": ""}), "field Target must not be empty"),
        (json!({"Target": "x"}), "invalid mount path: 'x' mount path must be absolute"),
        (json!({"Target": "/"}), "invalid specification: destination can't be '/'"),
        (json!({"BindOptions": {"Propagation": "odd"}}), "invalid propagation mode: odd"),
    ] {
        ensure_eq!(
            refused(400, "", mount(more))?,
            format!("invalid mount config for type \"bind\": {reason}")
        );
    }
    for kind in ["", "npipe", "cluster"] {
        ensure_eq!(
            refused(400, "", mount(json!({"Type": kind})))?,
            format!("invalid mount config for type \"{kind}\": mount type unknown")
        );
    }
    for options in ["VolumeOptions", "TmpfsOptions"] {
        let reason = refused(400, "", mount(json!({(options): {}})))?;
        ensure_eq!(reason, format!("{options} must not be specified on mount type \"bind\""));
    }
    let force = mount(json!({"BindOptions": {"ReadOnlyForceRecursive": true}}));
    ensure_eq!(refused(400, "/v1.43", force)?, "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer");
    // What contradicts itself is told by the start.
    for (read_only, options, words) in [
        (
            true,
            json!({"ReadOnlyNonRecursive": true, "ReadOnlyForceRecursive": true}),
            "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        ),
        (false, json!({"ReadOnlyNonRecursive": true}), "!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
        (false, json!({"ReadOnlyForceRecursive": true}), "!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
    ] {
        let name = t.name("box");
        create(t, &name, mount(json!({"ReadOnly": read_only, "BindOptions": options})))?;
        let answer = t.api().post(format!("/containers/{name}/start")).send()?.expect(500)?;
        ensure_eq!(answer.message()?, format!("mount options conflict: {words}"));
        t.ok(["rm", &name])?;
    }
    Ok(())
}

/// Containers do not hold on to what the engine mounts for others.
fn the_engines_own_folder(t: &Target) -> Outcome {
    let root = t.ok(["info", "-f", "{{.DockerRootDir}}"])?;
    let mount = |source: &str, propagation: &str| {
        json!({"Mounts": [{
            "Type": "bind", "Source": source, "Target": "/x", "BindOptions": {"Propagation": propagation},
        }]})
    };
    for (source, propagation) in [("/", "rprivate"), (&root, "slave"), (&format!("{root}/volumes"), "shared")]
    {
        let body = json!({"Image": "busybox", "HostConfig": mount(source, propagation)});
        let answer = t.api().post("/containers/create").json(&body).send()?.expect(400)?;
        ensure_eq!(
            answer.message()?,
            format!(
                "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount source \
                 is within the daemon root, daemon root: {root:?}, bind mount source: {source:?}, propagation: \
                 {propagation:?}"
            )
        );
    }
    for source in ["/", &root] {
        let name = t.name("box");
        create(t, &name, mount(source, ""))?;
        ensure_eq!(t.inspect(&name)?["Mounts"][0]["Propagation"], "rslave");
        t.ok(["start", "-a", &name])?;
        t.ok(["rm", &name])?;
    }
    ensure_eq!(run(t, &["-v", "/:/x:ro"], &format!("ls -d /x{root}"))?, format!("/x{root}"));
    Ok(())
}

/// The `docker` client in a container speaks to the engine that runs it.
/// An image that has the real `docker`.
fn client_image(t: &Target) -> Result<String> {
    let image = t.name("client");
    let mut layer = Tar::default();
    for (name, place) in [
        ("bin/docker", places::docker()?),
        ("lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6".into()),
        ("lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2".into()),
    ] {
        let content = std::fs::read(&place).with_context(|| format!("reading {}", place.display()))?;
        layer = layer.file(name, 0o755, &content)?;
    }
    let archive = Image::new(&format!("{image}:latest"), busybox_root()?).layer(layer.finish()?);
    let file = archive::write(t.folder(), "client.tar", &archive.docker_archive()?)?;
    t.docker(["load", "-q", "-i"]).arg(file).output()?.expect_code(0)?;
    Ok(image)
}

fn the_engines_socket(t: &Target) -> Outcome {
    let image = client_image(t)?;
    let sources = match t.kind() {
        Kind::Machine => vec!["/var/run/docker.sock".to_owned(), "/run/docker.sock".to_owned()],
        Kind::Native | Kind::Dockerd => {
            let tests::http::Server::Unix(path) = t.api() else { anyhow::bail!("no socket") };
            vec![path.display().to_string()]
        }
    };
    let name = t.name("seen");
    t.ok(["create", "--name", &name, "busybox"])?;
    for source in sources {
        let bind = format!("{source}:/var/run/docker.sock");
        let filter = format!("name=^{name}$");
        let seen = ["docker", "ps", "-a", "--filter", &filter, "--format", "{{.Names}}"];
        let all = ["run", "--rm", "--network", "none", "-v", &bind, &image];
        ensure_eq!(t.ok(all.into_iter().chain(seen))?, name, "{source}");
        // A container beside its own.
        let beside = ["docker", "run", "--rm", "--network", "none", "busybox", "echo", "beside"];
        ensure_eq!(t.ok(all.into_iter().chain(beside))?, "beside");
    }
    t.ok(["rmi", &image])?;
    ensure!(t.ok(["ps", "-aq", "--filter", &format!("ancestor={image}")])?.is_empty());
    Ok(())
}

/// The container that has the socket mounted lives longer than the engine behind it.
fn the_engines_socket_after_a_crash(t: &Target) -> Outcome {
    let image = client_image(t)?;
    let name = t.name("keeper");
    let bind = "/var/run/docker.sock:/var/run/docker.sock";
    t.ok(["run", "-d", "--name", &name, "--network", "none", "-v", bind, &image, "sh", "-c", SLEEP])?;
    let filter = format!("name=^{name}$");
    let ask = || t.ok(["exec", &name, "docker", "ps", "--filter", &filter, "--format", "{{.Names}}"]);
    ensure_eq!(ask()?, name);
    for _ in 0..3 {
        t.crash()?;
        t.recover()?;
        ensure_eq!(ask()?, name);
    }
    Ok(())
}
