//! `docker cp` and `docker export`: files in and out of containers, running or not.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::archive::Tar;
use tests::case::Outcome;
use tests::engine::Kind;
use tests::http::Response;
use tests::target::Target;
use tests::{cases, ensure_eq};

cases! {
    a_file_there_and_back,
    a_stopped_container,
    folders,
    links,
    dots_and_slashes,
    standard_streams,
    owners_and_modes,
    owner_of_the_container,
    kinds_are_kept,
    stat_header,
    names_in_an_archive,
    extraction_points,
    read_only_roots_and_volumes,
    volumes_and_binds,
    hostile_links,
    hostile_archives,
    what_is_missing,
    compressed_archives,
    a_large_file,
    a_client_that_leaves,
    a_killed_engine.alone(),
    export,
    export_while_it_runs,
    started_while_it_is_exported,
    events,
}

/// A container that was never started.
fn made(t: &Target, name: &str) -> Result<String> {
    t.ok(["create", "--name", name, "busybox", "true"])
}

/// `docker cp FROM TO`.
fn cp(t: &Target, from: &str, to: &str) -> Result<()> {
    t.ok(["cp", "-q", from, to]).map(drop)
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

fn cat(t: &Target, container: &str, path: &str) -> Result<String> {
    t.ok(["exec", container, "cat", path])
}

fn a_file_there_and_back(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    fs::write(folder.join("in"), "hello")?;
    cp(t, &at(folder, "in"), &format!("{name}:/tmp/new"))?;
    ensure_eq!(cat(t, &name, "/tmp/new")?, "hello");
    // Into a folder it keeps its name.
    cp(t, &at(folder, "in"), &format!("{name}:/tmp"))?;
    ensure_eq!(cat(t, &name, "/tmp/in")?, "hello");
    t.ok(["exec", &name, "sh", "-c", "echo -n more >> /tmp/in"])?;
    cp(t, &format!("{name}:/tmp/in"), &at(folder, "out"))?;
    ensure_eq!(fs::read_to_string(folder.join("out"))?, "hellomore");
    // A relative path begins at the root.
    cp(t, &format!("{name}:tmp/new"), &at(folder, "."))?;
    ensure_eq!(fs::read_to_string(folder.join("new"))?, "hello");
    Ok(())
}

fn a_stopped_container(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    made(t, &name)?;
    fs::write(folder.join("in"), "hello")?;
    cp(t, &at(folder, "in"), &format!("{name}:/etc/new"))?;
    cp(t, &format!("{name}:/etc/new"), &at(folder, "out"))?;
    ensure_eq!(fs::read_to_string(folder.join("out"))?, "hello");
    let other = t.name("writer");
    t.ok(["run", "--name", &other, "busybox", "sh", "-c", "echo -n left > /root/file"])?;
    cp(t, &format!("{other}:/root/file"), &at(folder, "left"))?;
    ensure_eq!(fs::read_to_string(folder.join("left"))?, "left");
    cp(t, &at(folder, "in"), &format!("{other}:/root/file"))?;
    t.ok(["start", &other])?;
    ensure_eq!(t.ok(["wait", &other])?, "0");
    cp(t, &format!("{other}:/root/file"), &at(folder, "again"))?;
    ensure_eq!(fs::read_to_string(folder.join("again"))?, "left");
    Ok(())
}

fn folders(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    fs::create_dir_all(folder.join("src/deep/er"))?;
    fs::write(folder.join("src/deep/er/file"), "1")?;
    fs::write(folder.join("src/top"), "2")?;
    // Into a folder that is there, below its own name; to one that is not, as that.
    cp(t, &at(folder, "src"), &format!("{name}:/tmp"))?;
    cp(t, &at(folder, "src"), &format!("{name}:/tmp/other"))?;
    ensure_eq!(cat(t, &name, "/tmp/src/deep/er/file")?, "1");
    ensure_eq!(cat(t, &name, "/tmp/other/deep/er/file")?, "1");
    // Only the content.
    t.ok(["exec", &name, "mkdir", "/tmp/flat"])?;
    cp(t, &format!("{}/.", at(folder, "src")), &format!("{name}:/tmp/flat"))?;
    ensure_eq!(t.ok(["exec", &name, "ls", "/tmp/flat"])?, "deep\ntop");
    cp(t, &format!("{name}:/tmp/src"), &at(folder, "back"))?;
    ensure_eq!(fs::read_to_string(folder.join("back/deep/er/file"))?, "1");
    cp(t, &format!("{name}:/tmp/src"), &at(folder, "back"))?;
    ensure_eq!(fs::read_to_string(folder.join("back/src/top"))?, "2");
    cp(t, &format!("{name}:/tmp/src/."), &at(folder, "content"))?;
    ensure_eq!(fs::read_to_string(folder.join("content/top"))?, "2");
    Ok(())
}

fn links(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    let make = "mkdir -p /srv/real; echo -n here > /srv/real/file; ln -s /srv/real/file /srv/link; \
                ln -s real /srv/dir; ln -s /nowhere /srv/dangling";
    t.ok(["exec", &name, "sh", "-c", make])?;
    cp(t, &format!("{name}:/srv/link"), &at(folder, "link"))?;
    ensure_eq!(fs::read_link(folder.join("link"))?, Path::new("/srv/real/file"));
    t.ok(["cp", "-q", "-L", &format!("{name}:/srv/link"), &at(folder, "followed")])?;
    ensure_eq!(fs::read_to_string(folder.join("followed"))?, "here");
    // Through a link to a folder, in and out.
    cp(t, &format!("{name}:/srv/dir/file"), &at(folder, "through"))?;
    ensure_eq!(fs::read_to_string(folder.join("through"))?, "here");
    fs::write(folder.join("in"), "new")?;
    cp(t, &at(folder, "in"), &format!("{name}:/srv/dir"))?;
    ensure_eq!(cat(t, &name, "/srv/real/in")?, "new");
    // To a link to a file: the file is written, the link stays.
    cp(t, &at(folder, "in"), &format!("{name}:/srv/link"))?;
    ensure_eq!(cat(t, &name, "/srv/real/file")?, "new");
    ensure_eq!(t.ok(["exec", &name, "readlink", "/srv/link"])?, "/srv/real/file");
    // The target of a dangling one is made.
    cp(t, &at(folder, "in"), &format!("{name}:/srv/dangling"))?;
    ensure_eq!(cat(t, &name, "/nowhere")?, "new");
    symlink("in", folder.join("local"))?;
    cp(t, &at(folder, "local"), &format!("{name}:/tmp/"))?;
    ensure_eq!(t.ok(["exec", &name, "readlink", "/tmp/local"])?, "in");
    t.ok(["cp", "-q", "-L", &at(folder, "local"), &format!("{name}:/tmp/copied")])?;
    ensure_eq!(cat(t, &name, "/tmp/copied")?, "new");
    Ok(())
}

fn dots_and_slashes(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    fs::write(folder.join("in"), "x")?;
    let file = at(folder, "in");
    // A slash at the end wants a folder.
    let refused = t.fails(1, ["cp", "-q", &file, &format!("{name}:/none/")])?;
    ensure!(refused.stderr().contains("no such directory"), "{refused}");
    let refused = t.fails(1, ["cp", "-q", &file, &format!("{name}:/none/below")])?;
    ensure!(
        refused.stderr().contains(&format!("Could not find the file /none in container {name}")),
        "{refused}"
    );
    let refused = t.fails(1, ["cp", "-q", &file, &format!("{name}:/etc/passwd/")])?;
    ensure!(refused.stderr().contains("no such directory"), "{refused}");
    let refused = t.fails(1, ["cp", "-q", &format!("{name}:/etc/passwd/"), &at(folder, "out")])?;
    ensure!(refused.stderr().contains("not a directory"), "{refused}");
    t.ok(["exec", &name, "ln", "-s", "/etc", "/link"])?;
    // With a slash it is what the link leads to.
    cp(t, &format!("{name}:/link/"), &at(folder, "etc"))?;
    ensure_eq!(fs::read_to_string(folder.join("etc/group"))?.lines().count(), 3);
    cp(t, &format!("{name}:/tmp/../etc//./passwd"), &at(folder, "passwd"))?;
    ensure!(fs::read_to_string(folder.join("passwd"))?.starts_with("root:"));
    Ok(())
}

fn standard_streams(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let archive = Tar::default().folder("d/", 0o755)?.file("d/f", 0o640, b"from a tar")?.finish()?;
    t.docker(["cp", "-", &format!("{name}:/srv-none")]).stdin(archive.clone()).output()?.expect_code(1)?;
    t.docker(["cp", "-", &format!("{name}:/tmp")]).stdin(archive).output()?.expect_code(0)?;
    ensure_eq!(cat(t, &name, "/tmp/d/f")?, "from a tar");
    let out = t.docker(["cp", &format!("{name}:/tmp/d"), "-"]).output()?.expect_code(0)?;
    ensure_eq!(listed(out.stdout.as_slice())?, ["d/", "d/f"]);
    Ok(())
}

/// The names in an archive.
fn listed(archive: &[u8]) -> Result<Vec<String>> {
    let mut archive = tar::Archive::new(archive);
    let names = archive
        .entries()?
        .map(|entry| -> Result<String> { Ok(String::from_utf8_lossy(&entry?.path_bytes()).into_owned()) });
    names.collect()
}

fn owners_and_modes(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    fs::write(folder.join("in"), "x")?;
    std::os::unix::fs::chown(folder.join("in"), Some(1234), Some(5678))?;
    fs::set_permissions(folder.join("in"), fs::Permissions::from_mode(0o4751))?;
    let stat = |path: &str| t.ok(["exec", &name, "stat", "-c", "%u %g %a", path]);
    cp(t, &at(folder, "in"), &format!("{name}:/tmp/plain"))?;
    let plain = stat("/tmp/plain")?;
    ensure!(plain.ends_with(" 4751"), "{plain}");
    t.ok(["cp", "-q", "-a", &at(folder, "in"), &format!("{name}:/tmp/kept")])?;
    ensure_eq!(stat("/tmp/kept")?, "1234 5678 4751");
    t.ok(["exec", &name, "sh", "-c", "chown 77:88 /tmp/kept; touch -d @1000000000 /tmp/kept"])?;
    t.ok(["cp", "-q", "-a", &format!("{name}:/tmp/kept"), &at(folder, "out")])?;
    ensure_eq!(fs::metadata(folder.join("out"))?.mtime(), 1_000_000_000);
    // The client itself keeps no owners; the archive has them.
    let answer = t.api().get(format!("/containers/{name}/archive?path=/tmp/kept")).send()?.expect(200)?;
    let mut archive = tar::Archive::new(answer.body.as_slice());
    let entry = archive.entries()?.next().context("an empty archive")??;
    ensure_eq!((entry.header().uid()?, entry.header().gid()?), (77, 88));
    // The folder that something is copied into stays as it is.
    ensure_eq!(t.ok(["exec", &name, "stat", "-c", "%a", "/tmp"])?, "1777");
    Ok(())
}

fn owner_of_the_container(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "-u", "daemon", "busybox", "true"])?;
    let archive = Tar::default().file("f", 0o644, b"x")?.finish()?;
    for (query, owner) in [("", 0), ("&copyUIDGID=true", 1)] {
        let path = format!("/containers/{name}/archive?path=/tmp{query}");
        t.api().request("PUT", path).body(archive.clone()).send()?.expect(200)?;
        let answer = t.api().get(format!("/containers/{name}/archive?path=/tmp/f")).send()?.expect(200)?;
        let mut archive = tar::Archive::new(answer.body.as_slice());
        let entry = archive.entries()?.next().context("an empty archive")??;
        ensure_eq!(entry.header().uid()?, owner);
    }
    Ok(())
}

fn kinds_are_kept(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    fs::create_dir_all(folder.join("thing"))?;
    t.ok(["exec", &name, "sh", "-c", "echo > /tmp/thing; mkdir -p /tmp/dir/file; echo > /tmp/dir/file/in"])?;
    let refused = t.fails(1, ["cp", "-q", &at(folder, "thing"), &format!("{name}:/tmp")])?;
    refused.expect_stderr("cannot overwrite non-directory \"thing\" with directory \"/tmp\"")?;
    fs::write(folder.join("file"), "x")?;
    let archive = Tar::default().file("file", 0o644, b"x")?.finish()?;
    let put = |query: &str| -> Result<Response> {
        let path = format!("/containers/{name}/archive?path=/tmp/dir{query}");
        t.api().request("PUT", path).body(archive.clone()).send()
    };
    let refused = put("&noOverwriteDirNonDir=1")?;
    ensure_eq!(refused.status, 500, "{refused}");
    ensure_eq!(refused.message()?, "cannot overwrite directory \"file\" with non-directory \"/tmp/dir\"");
    // Over the API it is allowed, and takes away what was in it.
    put("")?.expect(200)?;
    ensure_eq!(cat(t, &name, "/tmp/dir/file")?, "x");
    // Also of the image's, whose folders have folders.
    let archive = Tar::default().file("usr", 0o644, b"y")?.finish()?;
    let path = format!("/containers/{name}/archive?path=/");
    t.api().request("PUT", path).body(archive).send()?.expect(200)?;
    ensure_eq!(cat(t, &name, "/usr")?, "y");
    Ok(())
}

fn stat_of(t: &Target, name: &str, path: &str) -> Result<Value> {
    let answer =
        t.api().request("HEAD", format!("/containers/{name}/archive?path={path}")).send()?.expect(200)?;
    let header = answer.header("X-Docker-Container-Path-Stat").context("no header")?;
    // What base64 is for is done by the standard program.
    let decoded = t.program("base64").arg("-d").stdin(header).output()?.expect_code(0)?.stdout();
    serde_json::from_str(&decoded).context("no JSON in the header")
}

fn stat_header(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let make = "echo -n 12345 > /tmp/f; chmod 6755 /tmp/f; touch -d @1000000000 /tmp/f; ln -s ../run/none /tmp/l; \
                ln -s /var /run; mkdir /tmp/d; ln -s /tmp/d /tmp/ld; mkfifo /tmp/p; ln -s loop /tmp/loop";
    t.ok(["exec", &name, "sh", "-c", make])?;
    let file = stat_of(t, &name, "/tmp/f")?;
    ensure_eq!((&file["name"], &file["size"]), (&"f".into(), &5.into()));
    ensure_eq!(file["mode"], (1_u32 << 23 | 1 << 22 | 0o755));
    ensure_eq!(file["linkTarget"], "");
    ensure!(file["mtime"].as_str().is_some_and(|time| time.starts_with("2001-09-0")), "{file}");
    let link = stat_of(t, &name, "/tmp/l")?;
    ensure_eq!((&link["mode"], &link["linkTarget"]), (&(1_u32 << 27 | 0o777).into(), &"/var/none".into()));
    // With a slash the link is followed.
    ensure_eq!(stat_of(t, &name, "/tmp/ld")?["linkTarget"], "/tmp/d");
    let followed = stat_of(t, &name, "/tmp/ld/")?;
    ensure_eq!((&followed["mode"], &followed["name"]), (&(1_u32 << 31 | 0o755).into(), &"ld".into()));
    ensure_eq!(stat_of(t, &name, "/tmp")?["mode"], (1_u32 << 31 | 1 << 20 | 0o777));
    ensure_eq!(stat_of(t, &name, "/tmp/p")?["mode"], (1_u32 << 25 | 0o644));
    ensure_eq!(stat_of(t, &name, "/")?["name"], "/");
    ensure_eq!(stat_of(t, &name, "/tmp/.")?["name"], ".");
    ensure_eq!(stat_of(t, &name, "tmp/f")?["size"], 5);
    let fields: Vec<&String> = file.as_object().context("no object")?.keys().collect();
    ensure_eq!(fields, ["linkTarget", "mode", "mtime", "name", "size"]);
    for (path, status) in [("/tmp/none", 404), ("/tmp/f/x", 500), ("/tmp/loop/x", 500), ("", 400)] {
        let answer = t.api().request("HEAD", format!("/containers/{name}/archive?path={path}")).send()?;
        ensure_eq!(answer.status, status, "{path}: {answer}");
    }
    let loops = t.api().request("HEAD", format!("/containers/{name}/archive?path=/tmp/loop")).send()?;
    ensure_eq!(loops.status, 500, "{loops}");
    Ok(())
}

fn names_in_an_archive(t: &Target) -> Outcome {
    let name = t.name("box");
    made(t, &name)?;
    let archive = Tar::default()
        .folder("a/", 0o755)?
        .folder("a/b/", 0o755)?
        .file("a/b/c", 0o644, b"x")?
        .hard_link("a/d", 0o644, "a/b/c")?
        .symlink("l", "a/b")?
        .finish()?;
    t.api()
        .request("PUT", format!("/containers/{name}/archive?path=/tmp"))
        .body(archive)
        .send()?
        .expect(200)?;
    let names = |path: &str| -> Result<Vec<String>> {
        let answer = t.api().get(format!("/containers/{name}/archive?path={path}")).send()?.expect(200)?;
        ensure_eq!(answer.header("Content-Type"), Some("application/x-tar"));
        let mut names = listed(&answer.body)?;
        names.sort();
        Ok(names)
    };
    ensure_eq!(names("/tmp/a")?, ["a/", "a/b/", "a/b/c", "a/d"]);
    ensure_eq!(names("tmp/a/")?, ["a/", "a/b/", "a/b/c", "a/d"]);
    ensure_eq!(names("/tmp/a/.")?, ["./", "./b/", "./b/c", "./d"]);
    ensure_eq!(names("/tmp/l")?, ["l"]);
    ensure_eq!(names("/tmp/l/")?, ["l/", "l/c"]);
    ensure_eq!(names("/tmp/l/c")?, ["c"]);
    let root = names("/")?;
    ensure!(root.iter().all(|name| name.starts_with('/')), "{root:?}");
    ensure!(root.contains(&"/tmp/a/b/c".to_owned()), "{root:?}");
    Ok(())
}

fn extraction_points(t: &Target) -> Outcome {
    let name = t.name("box");
    made(t, &name)?;
    let archive = Tar::default().file("f", 0o644, b"x")?.finish()?;
    let put = |path: &str| -> Result<(u16, String)> {
        let answer = t
            .api()
            .request("PUT", format!("/containers/{name}/archive?path={path}"))
            .body(archive.clone())
            .send()?;
        let message = if answer.status == 200 { String::new() } else { answer.message()? };
        Ok((answer.status, message))
    };
    ensure_eq!(put("/tmp")?, (200, String::new()));
    ensure_eq!(put("/etc/passwd")?, (400, "extraction point is not a directory".to_owned()));
    ensure_eq!(put("/none")?, (404, format!("Could not find the file /none in container {name}")));
    ensure_eq!(put("")?.0, 400);
    let (status, message) = put("/etc/passwd/x")?;
    ensure_eq!(status, 500);
    ensure!(message.contains("not a directory"), "{message}");
    let missing = t.api().request("PUT", "/containers/none/archive?path=/").body(archive.clone()).send()?;
    ensure_eq!((missing.status, missing.message()?), (404, "No such container: none".to_owned()));
    Ok(())
}

fn read_only_roots_and_volumes(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    fs::write(folder.join("in"), "x")?;
    let all = ["create", "--name", &name, "--read-only", "-v", "/writable", "busybox", "true"];
    t.ok(all)?;
    let refused = t.fails(1, ["cp", "-q", &at(folder, "in"), &format!("{name}:/tmp/in")])?;
    refused.expect_stderr("container rootfs is marked read-only")?;
    cp(t, &at(folder, "in"), &format!("{name}:/writable/in"))?;
    cp(t, &format!("{name}:/writable/in"), &at(folder, "out"))?;
    ensure_eq!(fs::read_to_string(folder.join("out"))?, "x");
    Ok(())
}

fn volumes_and_binds(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    fs::write(folder.join("in"), "x")?;
    if t.kind() == Kind::Machine {
        // Folders of this machine are not there.
        t.ok(["run", "--name", &name, "-v", "/data", "busybox", "sh", "-c", "echo -n kept > /data/file"])?;
    } else {
        fs::create_dir_all(folder.join("bound"))?;
        fs::write(folder.join("bound/file"), "bound")?;
        let bind = format!("{}:/bound:ro", at(folder, "bound"));
        let run = ["run", "--name", &name, "-v", "/data", "-v", &bind];
        t.ok(run.into_iter().chain(["busybox", "sh", "-c", "echo -n kept > /data/file"]))?;
        cp(t, &format!("{name}:/bound/file"), &at(folder, "out"))?;
        ensure_eq!(fs::read_to_string(folder.join("out"))?, "bound");
        let refused = t.fails(1, ["cp", "-q", &at(folder, "in"), &format!("{name}:/bound/new")])?;
        refused.expect_stderr("mounted volume is marked read-only")?;
        // Not by way of the folder above it either.
        let archive = Tar::default().file("bound/new", 0o644, b"x")?.finish()?;
        let answer =
            t.api().request("PUT", format!("/containers/{name}/archive?path=/")).body(archive).send()?;
        ensure_eq!(answer.status, 500, "{answer}");
        ensure!(answer.message()?.contains("read-only file system"), "{answer}");
        ensure!(!folder.join("bound/new").exists());
    }
    cp(t, &format!("{name}:/data/file"), &at(folder, "data"))?;
    ensure_eq!(fs::read_to_string(folder.join("data"))?, "kept");
    cp(t, &at(folder, "in"), &format!("{name}:/data/new"))?;
    cp(t, &format!("{name}:/data"), &at(folder, "all"))?;
    ensure_eq!(fs::read_to_string(folder.join("all/new"))?, "x");
    // What the engine mounts itself.
    cp(t, &format!("{name}:/etc/hostname"), &at(folder, "hostname"))?;
    let id = t.inspect(&name)?["Id"].as_str().unwrap_or_default().to_owned();
    ensure_eq!(fs::read_to_string(folder.join("hostname"))?.trim(), &id[..12]);
    Ok(())
}

/// Links of a container's that lead out of its root lead nowhere, or to its own files.
fn hostile_links(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    fs::write(folder.join("secret"), "secret")?;
    let outside = at(folder, "secret");
    let make = format!(
        "ln -s {outside} /l; ln -s ../../../../../..{outside} /up; ln -s /proc/1/root /proc-root; ln -s {} /dir",
        folder.display()
    );
    t.ok(["exec", &name, "sh", "-c", &make])?;
    for path in ["/l", "/up", "/dir/secret"] {
        let out = t.docker(["cp", "-q", "-L", &format!("{name}:{path}"), "-"]).output()?;
        ensure!(!out.stdout().contains("secret"), "{path}: {out}");
    }
    let archive = Tar::default().file("planted", 0o644, b"x")?.file("l", 0o644, b"replaced")?.finish()?;
    for path in ["/dir", "/proc-root"] {
        let path = format!("/containers/{name}/archive?path={path}");
        let answer = t.api().request("PUT", path).body(archive.clone()).send()?;
        ensure!(answer.status == 404, "{answer}");
    }
    let path = format!("/containers/{name}/archive?path=/");
    t.api().request("PUT", path).body(archive).send()?.expect(200)?;
    ensure_eq!(cat(t, &name, "/l")?, "replaced");
    ensure!(!folder.join("planted").exists());
    ensure_eq!(fs::read_to_string(folder.join("secret"))?, "secret");
    Ok(())
}

fn hostile_archives(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let put = |archive: Vec<u8>| -> Result<Response> {
        t.api().request("PUT", format!("/containers/{name}/archive?path=/tmp")).body(archive).send()
    };
    let up = put(Tar::default().file("../../x", 0o644, b"x")?.finish()?)?;
    ensure_eq!(up.status, 500, "{up}");
    // Nothing of an archive is a whiteout here.
    put(Tar::default().file(".wh.kept", 0o644, b"x")?.finish()?)?.expect(200)?;
    ensure_eq!(cat(t, &name, "/tmp/.wh.kept")?, "x");
    let garbage = put(vec![b'x'; 2000])?;
    ensure_eq!(garbage.status, 500, "{garbage}");
    let whole = Tar::default().file("f", 0o644, &[7; 4000])?.finish()?;
    let cut = put(whole[..2000].to_vec())?;
    ensure_eq!(cut.status, 500, "{cut}");
    ensure!(cut.message()?.contains("unexpected EOF"), "{cut}");
    // An empty body is an empty archive.
    put(Vec::new())?.expect(200)?;
    Ok(())
}

fn what_is_missing(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    made(t, &name)?;
    let none = t.fails(1, ["cp", "-q", &format!("{name}:/none"), &at(folder, "out")])?;
    none.expect_stderr(&format!("Could not find the file /none in container {name}"))?;
    let none = t.fails(1, ["cp", "-q", "none:/etc", &at(folder, "out")])?;
    none.expect_stderr("No such container: none")?;
    for (method, path) in [("GET", "archive?path=/"), ("GET", "export"), ("GET", "changes")] {
        let answer = t.api().request(method, format!("/containers/none/{path}")).send()?;
        ensure_eq!((answer.status, answer.message()?), (404, "No such container: none".to_owned()));
    }
    let answer = t.api().get(format!("/containers/{name}/archive")).send()?;
    ensure_eq!((answer.status, answer.message()?), (400, "bad parameter: pathcannot be empty".to_owned()));
    Ok(())
}

fn compressed_archives(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    let archive = Tar::default().file("packed", 0o644, b"content")?.finish()?;
    let packed = t.program("gzip").arg("-c").stdin(archive).output()?.expect_code(0)?.stdout;
    let path = format!("/containers/{name}/archive?path=/tmp");
    t.api().request("PUT", path).body(packed).send()?.expect(200)?;
    ensure_eq!(cat(t, &name, "/tmp/packed")?, "content");
    Ok(())
}

fn a_large_file(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    t.sleeper(&name)?;
    let bytes: Vec<u8> =
        (0..20_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.join("in"), &bytes)?;
    cp(t, &at(folder, "in"), &format!("{name}:/tmp/big"))?;
    cp(t, &format!("{name}:/tmp/big"), &at(folder, "out"))?;
    ensure!(fs::read(folder.join("out"))? == bytes, "it came back changed");
    Ok(())
}

/// The container can be used, and removed, when clients left in the middle.
fn a_client_that_leaves(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    t.ok(["exec", &name, "dd", "if=/dev/zero", "of=/tmp/big", "bs=1M", "count=30"])?;
    for path in ["archive?path=/tmp", "export"] {
        drop(t.api().get(format!("/containers/{name}/{path}")).open()?);
    }
    t.ok(["stop", &name])?;
    t.ok(["start", &name])?;
    ensure_eq!(t.ok(["exec", &name, "wc", "-c", "/tmp/big"])?, "31457280 /tmp/big");
    t.ok(["rm", "-f", &name])?;
    Ok(())
}

/// What was mounted to copy files is gone with the engine that mounted it.
fn a_killed_engine(t: &Target) -> Outcome {
    let name = t.name("box");
    made(t, &name)?;
    let archive = Tar::default().file("big", 0o644, &vec![b'x'; 30 << 20])?.finish()?;
    let path = format!("/containers/{name}/archive?path=/tmp");
    t.api().request("PUT", path.as_str()).body(archive).send()?.expect(200)?;
    let reading = t.api().get(path).open()?;
    t.crash()?;
    drop(reading);
    t.recover()?;
    if t.kind() == Kind::Native {
        let id = t.inspect(&name)?["Id"].as_str().context("no id")?.to_owned();
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", t.process()?.pid))?;
        ensure!(!mounts.contains(&id), "{mounts}");
    }
    cp(t, &format!("{name}:/tmp/big"), &at(t.folder(), "out"))?;
    ensure_eq!(fs::metadata(t.folder().join("out"))?.len(), 30 << 20);
    t.ok(["start", "-a", &name])?;
    t.ok(["rm", &name])?;
    Ok(())
}

fn export(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    let script =
        "echo -n new > /new; rm /etc/group; ln /new /second; ln -s /x /link; mkfifo /fifo; echo > /data/in";
    t.ok(["run", "--name", &name, "-v", "/data", "busybox", "sh", "-c", script])?;
    t.ok(["export", "-o", &at(folder, "out.tar"), &name])?;
    let bytes = fs::read(folder.join("out.tar"))?;
    let names = listed(&bytes)?;
    for present in ["bin/", "bin/busybox", "etc/passwd", "new", "second", "link", "fifo", "data/", "tmp/"] {
        ensure!(names.iter().any(|name| name == present), "{present} is not in {names:?}");
    }
    // Neither what was deleted nor what a volume has.
    for absent in ["etc/group", "data/in"] {
        ensure!(!names.iter().any(|name| name == absent), "{absent} is in {names:?}");
    }
    let image = t.ok(["import", &at(folder, "out.tar")])?;
    let again = t.name("again");
    let shown = t.ok(["run", "--name", &again, &image, "sh", "-c", "cat /new; stat -c %h%a /second /tmp"])?;
    ensure_eq!(shown, "new2644\n21777");
    t.ok(["rm", &again])?;
    t.ok(["rmi", &image])?;
    Ok(())
}

fn export_while_it_runs(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    t.ok(["exec", &name, "sh", "-c", "echo -n live > /live"])?;
    let answer = t.api().get(format!("/containers/{name}/export")).send()?.expect(200)?;
    ensure_eq!(answer.header("Content-Type"), Some("application/octet-stream"));
    let names = listed(&answer.body)?;
    ensure!(names.contains(&"live".to_owned()), "{names:?}");
    ensure!(!names.iter().any(|name| name.starts_with("proc/1")), "{names:?}");
    Ok(())
}

/// Whoever reads an archive slowly holds up nobody else, but who would remove what is read.
fn started_while_it_is_exported(t: &Target) -> Outcome {
    let name = t.name("box");
    let script = "[ -e /large ] && exit 3; head -c 40000000 /dev/zero > /large; echo -n first > /word";
    t.fails(0, ["run", "--name", &name, "busybox", "sh", "-c", script])?;
    let mut export = t.api().get(format!("/containers/{name}/export")).open()?;
    let mut archive = vec![0; 512];
    export.read_exact(&mut archive)?;
    // Docker's own start waits for a copy, though not for an export.
    let mut copy = match t.kind() {
        Kind::Dockerd => None,
        _ => Some(t.api().get(format!("/containers/{name}/archive?path=/large")).open()?),
    };
    if let Some(copy) = &mut copy {
        copy.read_exact(&mut [0; 512])?;
    }
    for _ in 0..2 {
        t.fails(3, ["start", "-a", &name])?;
    }
    t.ok(["cp", &format!("{name}:/word"), &at(t.folder(), "word")])?;
    ensure_eq!(fs::read_to_string(t.folder().join("word"))?, "first");
    export.read_to_end(&mut archive)?;
    let names = listed(&archive)?;
    ensure!(names.contains(&"large".to_owned()) && names.contains(&"word".to_owned()), "{names:?}");
    if let Some(copy) = &mut copy {
        let rest = std::io::copy(copy, &mut std::io::sink())?;
        ensure!(rest > 40_000_000, "only {rest} bytes of the copied file came");
    }
    // What it does now is its own again.
    t.fails(3, ["start", "-a", &name])?;
    t.ok(["rm", &name])?;
    Ok(())
}

fn events(t: &Target) -> Outcome {
    let (name, folder) = (t.name("box"), t.folder());
    let id = made(t, &name)?;
    fs::write(folder.join("in"), "x")?;
    let filter = format!("container={id}");
    let watching = t.docker(["events", "--filter", &filter, "--format", "{{.Action}}"]).spawn()?;
    // The client says nothing when it has begun.
    tests::wait::eventually_true("events arrive", std::time::Duration::from_secs(20), || {
        t.ok(["rename", &name, &name.replace("box", "renamed")])?;
        t.ok(["rename", &id, &name])?;
        Ok(watching.stdout().contains("rename"))
    })?;
    cp(t, &at(folder, "in"), &format!("{name}:/tmp/in"))?;
    watching.wait_for("extract-to-dir")?;
    cp(t, &format!("{name}:/tmp/in"), &at(folder, "out"))?;
    watching.wait_for("archive-path")?;
    t.ok(["export", "-o", &at(folder, "out.tar"), &name])?;
    watching.wait_for("export")?;
    watching.kill();
    Ok(())
}
