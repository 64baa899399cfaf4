//! `coracle volume`: with a machine, and with an engine without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::case::Outcome;
use tests::engine::Kind;
use tests::http::Server;
use tests::process::Program;
use tests::target::Target;
use tests::{cases, ensure_eq, places};

cases! {
    list.on(&[Kind::Native, Kind::Machine]),
    files.on(&[Kind::Native, Kind::Machine]),
    there_and_back.on(&[Kind::Native, Kind::Machine]),
    targets_of_copies.on(&[Kind::Native, Kind::Machine]),
    archives.on(&[Kind::Native, Kind::Machine]),
    refusals.on(&[Kind::Native, Kind::Machine]),
}

/// `coracle volume ARGS…` in the case's folder.
fn volume<const N: usize>(t: &Target, args: [&str; N]) -> Result<Program> {
    let program = t.program(places::coracle()?.to_str().context("path")?).arg("volume");
    Ok(match (t.machine(), t.api()) {
        (Ok(machine), _) => program.env("CORACLE_HOME", machine.home()).args(args),
        (Err(_), Server::Unix(socket)) => {
            let (verb, rest) = args.split_first().context("no verb")?;
            let host = format!("unix://{}", socket.display());
            program.args([verb, "--host", host.as_str()]).args(rest)
        }
        (Err(_), _) => anyhow::bail!("the engine has no socket"),
    })
}

fn ok<const N: usize>(t: &Target, args: [&str; N]) -> Result<String> {
    volume(t, args)?.output()?.text()
}

/// A volume with files in it.
fn filled(t: &Target) -> Result<String> {
    let name = t.name("data");
    let script = "mkdir -p /v/dir/deep; echo -n content > /v/dir/file; chown 70:71 /v/dir/file; echo x > /v/dir/deep/x; \
                  ln -s dir/file /v/link; chmod 4755 /v/dir/deep/x; mkfifo /v/dir/pipe; chmod 555 /v/dir/deep";
    let on = format!("{name}:/v");
    t.ok(["run", "--rm", "--network", "none", "-v", &on, "busybox", "sh", "-c", script])?;
    Ok(name)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn list(t: &Target) -> Outcome {
    let name = filled(t)?;
    let table = ok(t, ["ls"])?;
    ensure!(table.starts_with("NAME"), "{table}");
    let line = table.lines().find(|line| line.starts_with(&name)).context("not listed")?;
    ensure!(line.contains("17 B") && line.contains(" 0 "), "{line}");
    let all: Value = serde_json::from_str(&ok(t, ["list", "--json"])?)?;
    let found = all.as_array().into_iter().flatten().find(|volume| volume["Name"] == name.as_str());
    ensure_eq!(found.context("not listed")?["UsageData"]["Size"], 17);
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

fn files(t: &Target) -> Outcome {
    let name = filled(t)?;
    let table = ok(t, ["files", &name])?;
    let names: Vec<&str> = table.lines().filter_map(|line| line.split_whitespace().nth(4)).collect();
    ensure_eq!(names, ["NAME", "dir/", "link"]);
    ensure!(table.contains("link -> dir/file"), "{table}");
    let table = ok(t, ["files", &format!("{name}:dir")])?;
    ensure!(table.lines().any(|line| line.contains("70:71") && line.ends_with(" file")), "{table}");
    let all: Value = serde_json::from_str(&ok(t, ["files", "--json", &format!("{name}:/dir/deep")])?)?;
    ensure_eq!((&all[0]["Name"], &all[0]["Mode"]), (&"x".into(), &0o4755.into()));
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

fn there_and_back(t: &Target) -> Outcome {
    let (name, folder) = (filled(t)?, t.folder());
    // A file under another name, under its own, and over one that is there.
    ok(t, ["cp", &format!("{name}:/dir/file"), "copy"])?;
    ok(t, ["cp", &format!("{name}:dir/file"), "."])?;
    ensure_eq!(
        (read(&folder.join("copy"))?, read(&folder.join("file"))?),
        ("content".into(), "content".into())
    );
    fs::write(folder.join("copy"), "changed")?;
    ok(t, ["cp", "copy", &format!("{name}:/dir/file")])?;
    ok(t, ["cp", &format!("{name}:/dir/file"), "file"])?;
    ensure_eq!(read(&folder.join("file"))?, "changed");
    // A folder that may not be written to, and what is left out of it.
    let left = volume(t, ["cp", &format!("{name}:/dir"), "all"])?.output()?.expect_code(0)?;
    left.expect_stderr("dir/pipe is left out")?;
    ensure_eq!(read(&folder.join("all/deep/x"))?, "x\n");
    ensure_eq!(fs::metadata(folder.join("all/deep/x"))?.permissions().mode() & 0o7777, 0o755);
    ensure_eq!(fs::metadata(folder.join("all/deep"))?.permissions().mode() & 0o7777, 0o555);
    ok(t, ["cp", "all", &format!("{name}:/again")])?;
    let on = format!("{name}:/v");
    let seen =
        ["run", "--rm", "-v", &on, "busybox", "sh", "-c", "cat /v/again/file; stat -c %u:%g /v/again/file"];
    ensure_eq!(t.ok(seen)?, "changed0:0");
    // All of the volume, with a link as a link.
    ok(t, ["cp", &format!("{name}:"), "whole"])?;
    ensure_eq!(fs::read_link(folder.join("whole/link"))?, Path::new("dir/file"));
    ensure_eq!(read(&folder.join("whole/link"))?, "changed");
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

fn targets_of_copies(t: &Target) -> Outcome {
    let (name, folder) = (filled(t)?, t.folder());
    fs::create_dir_all(folder.join("source/inner"))?;
    fs::write(folder.join("source/inner/file"), "1")?;
    fs::create_dir(folder.join("there"))?;
    // Into a folder that is there under its own name, its content, or as what is not there.
    ok(t, ["cp", "source", &format!("{name}:/dir")])?;
    ok(t, ["cp", "source/.", &format!("{name}:/dir")])?;
    ok(t, ["cp", "source", &format!("{name}:/new")])?;
    ok(t, ["cp", "source/inner/file", &format!("{name}:/")])?;
    let on = format!("{name}:/v");
    let find = "cd /v && find . -name file | sort";
    ensure_eq!(
        t.ok(["run", "--rm", "-v", &on, "busybox", "sh", "-c", find])?,
        "./dir/file\n./dir/inner/file\n./dir/source/inner/file\n./file\n./new/inner/file"
    );
    ok(t, ["cp", &format!("{name}:/new"), "there"])?;
    ok(t, ["cp", &format!("{name}:/new/."), "there"])?;
    ok(t, ["cp", &format!("{name}:/new/."), "other"])?;
    for place in ["there/new/inner/file", "there/inner/file", "other/inner/file"] {
        ensure_eq!(read(&folder.join(place))?, "1", "{place}");
    }
    t.ok(["volume", "rm", &name])?;
    Ok(())
}

/// A backup, and its way back into another volume with everything that it is.
fn archives(t: &Target) -> Outcome {
    let (name, other) = (filled(t)?, t.name("other"));
    let backup = volume(t, ["cp", &format!("{name}:/."), "-"])?.output()?.expect_code(0)?;
    t.ok(["volume", "create", &other])?;
    volume(t, ["cp", "-", &format!("{other}:/")])?.stdin(backup.stdout.clone()).output()?.expect_code(0)?;
    let list = |volume: &str| {
        let on = format!("{volume}:/v");
        let list = "cd /v && find . ! -type d | sort | xargs stat -c '%n %F %a %u:%g %s %Y'";
        t.ok(["run", "--rm", "-v", &on, "busybox", "sh", "-c", list])
    };
    ensure_eq!(list(&other)?, list(&name)?);
    // One that is cut short is an error, not half of a backup that nobody notices.
    let half = backup.stdout.get(..backup.stdout.len() / 2 + 100).context("no archive")?.to_vec();
    let cut = volume(t, ["cp", "-", &format!("{other}:/")])?.stdin(half).output()?;
    ensure!(cut.code() != 0 || half_is_whole(&backup.stdout)?, "{cut}");
    t.ok(["volume", "rm", &name, &other])?;
    Ok(())
}

/// Whether half of an archive has all of its files: it may end in nothing but padding.
fn half_is_whole(archive: &[u8]) -> Result<bool> {
    Ok(archive.get(archive.len() / 2..).context("no archive")?.iter().all(|byte| *byte == 0))
}

fn refusals(t: &Target) -> Outcome {
    let (name, folder) = (filled(t)?, t.folder());
    fs::write(folder.join("file"), "x")?;
    fs::create_dir(folder.join("dir"))?;
    let fails = |args: [&str; 3], words: &str| -> Outcome {
        volume(t, args)?.output()?.expect_code(1)?.expect_stderr(words).map(drop)
    };
    let at = |path: &str| format!("{name}:{path}");
    fails(["cp", &at("/none"), "x"], &format!("Could not find the file /none in volume {name}"))?;
    fails(["cp", "none-such:/x", "x"], "get none-such: no such volume")?;
    fails(["cp", "file", "none-such:/x"], "get none-such: no such volume")?;
    fails(["cp", "missing", &at("/")], "cannot read missing")?;
    fails(["cp", "dir", &at("/dir/file")], "is no directory")?;
    fails(["cp", "file", &at("/none/")], "there is no directory /none/")?;
    fails(["cp", "file", &at("/none/x")], "Could not find the file /none/")?;
    fails(["cp", &at("/dir/file"), "none/x"], "there is no directory none")?;
    fails(["cp", &at("/dir"), "file"], "file is no directory")?;
    fails(["cp", "file", "dir"], "must be in a volume")?;
    fails(["cp", &at("/x"), &at("/y")], "cannot copy between two volumes")?;
    volume(t, ["files", "none-such"])?.output()?.expect_code(1)?.expect_stderr("no such volume")?;
    ensure_eq!(read(&folder.join("file"))?, "x");
    // Nothing half made is left behind.
    let left = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    ensure!(!left.into_iter().any(|name| name.starts_with(".coracle")), "left behind");
    t.ok(["volume", "rm", &name])?;
    Ok(())
}
