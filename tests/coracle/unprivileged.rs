//! A machine of a user like any other: what its containers do to his folders, and what they cannot.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Result, ensure};
use tests::archive::{self, Image};
use tests::case::Outcome;
use tests::engine::Client;
use tests::machine::Machine;
use tests::{ensure_eq, leftovers, product_cases};

product_cases! {
    owners_in_a_folder_of_the_users.seconds(240),
    a_share_that_may_not_be_read_any_more.seconds(240),
}

const USER: u32 = 4242;

/// Loads busybox into the machine.
fn load_busybox(client: &Client) -> Outcome {
    let images = leftovers::folder()?;
    let image = archive::write(images.path(), "busybox.tar", &Image::busybox()?.docker_archive()?)?;
    client.program().args(["load", "-i"]).arg(image).output()?.expect_code(0)?;
    Ok(())
}

fn owners_in_a_folder_of_the_users() -> Outcome {
    let machine = Machine::of_user(USER)?;
    let folder = leftovers::folder()?;
    std::os::unix::fs::chown(folder.path(), Some(USER), Some(USER))?;
    let path = |name: &str| folder.path().join(name);
    // A file of somebody else, and one that is nobody's business.
    fs::write(path("others"), "seen")?;
    fs::write(path("secret"), "unseen")?;
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o600))?;
    machine.start()?;
    let client = machine.client()?;
    load_busybox(&client)?;
    let mount = format!("{}:/host", folder.path().display());
    let shell = |user: &str, script: &str| -> Result<String> {
        let args = ["run", "--rm", "-u", user, "-v", &mount, "-w", "/host", "busybox", "sh", "-ec", script];
        client.program().args(args).output()?.text()
    };

    // A database: root gives it a folder, and it works there as its own user.
    shell("0", "mkdir data; chmod 700 data; chown 999:999 data")?;
    let script = "cd data; echo rows > table; chmod 600 table; mkdir wal; stat -c '%u:%g %a' . table wal";
    ensure_eq!(shell("999:999", script)?, "999:999 700\n999:999 600\n999:999 755");
    ensure_eq!(shell("1000", "ls data 2>/dev/null || echo refused")?, "refused");
    for (name, mode) in [("data", 0o700), ("data/table", 0o600)] {
        let on_host = fs::metadata(path(name))?;
        ensure_eq!((on_host.uid(), on_host.mode() & 0o7777), (USER, mode), "{name}");
    }
    // What his modes deny to him, root in a container does all the same, and they stay.
    shell("0", "echo one > fixed; chmod 444 fixed; mkdir shut; chmod 500 shut")?;
    shell("0", "echo two >> fixed; touch shut/new; chown 5 fixed; mv shut/new shut/newer; ls shut")?;
    ensure_eq!(fs::read_to_string(path("fixed"))?, "one\ntwo\n");
    ensure_eq!(fs::metadata(path("fixed"))?.mode() & 0o7777, 0o444);
    ensure_eq!(fs::metadata(path("shut"))?.mode() & 0o7777, 0o500);
    ensure_eq!(shell("0", "stat -c '%u %a' fixed shut; ls shut")?, "5 444\n0 500\nnewer");
    // A project of his is everybody's own.
    fs::write(path("source"), "text")?;
    std::os::unix::fs::chown(path("source"), Some(USER), Some(USER))?;
    ensure_eq!(shell("1000:1000", "stat -c %u:%g source; echo >> source && echo done")?, "1000:1000\ndone");
    // What is not his stays so: root in a container can do no more than he can.
    ensure_eq!(shell("0", "cat others; stat -c %u:%g others")?, "seen65534:65534");
    for script in ["cat secret", "echo x > others", "chmod 777 others", "chown 0 others"] {
        let refused = shell("0", &format!("({script}) 2>&1 || true"))?;
        ensure!(refused.contains("denied") || refused.contains("not permitted"), "{script}: {refused}");
    }
    ensure_eq!(
        (fs::read_to_string(path("others"))?, fs::read_to_string(path("secret"))?),
        ("seen".to_owned(), "unseen".to_owned())
    );
    machine.ok(["stop"])?;
    machine.expect_no_process()
}

/// Somebody takes a folder away from the user while a container has it: it is told so, all else goes on, and what it has open
/// it has for good, as on the host.
fn a_share_that_may_not_be_read_any_more() -> Outcome {
    let machine = Machine::of_user(USER)?;
    let folder = leftovers::folder()?;
    let (taken, kept) = (folder.path().join("taken"), folder.path().join("kept"));
    let give = |path: &Path, user: u32, mode: u32| -> Outcome {
        std::os::unix::fs::chown(path, Some(user), Some(user))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    };
    for place in [&taken, &kept] {
        fs::create_dir_all(place.join("sub"))?;
        for file in ["file", "sub/file"] {
            fs::write(place.join(file), "words\n")?;
            give(&place.join(file), USER, 0o644)?;
        }
        give(&place.join("sub"), USER, 0o755)?;
        give(place, USER, 0o755)?;
    }
    machine.start()?;
    let client = machine.client()?;
    load_busybox(&client)?;
    let mounts = [format!("{}:/taken", taken.display()), format!("{}:/kept", kept.display())];
    let script = "exec 3</taken/file; echo open; read go; cat <&3; cat /taken/file || echo refused; \
                  ls /taken/sub || echo refused; echo x >/taken/new || echo refused; cat /kept/file; \
                  read go; cat /taken/file /taken/sub/file";
    let run = ["run", "--rm", "-i", "-v", &mounts[0], "-v", &mounts[1], "busybox", "sh", "-c", script];
    let mut running = client.program().args(run).stdin_pipe().spawn()?;
    running.wait_for("open\n")?;
    give(&taken, 0, 0o700)?;
    running.write("go\n")?;
    running.wait_for("open\nwords\nrefused\nrefused\nrefused\nwords\n")?;
    // And given back.
    give(&taken, USER, 0o755)?;
    running.write("go\n")?;
    let told = running.wait()?.expect_code(0)?;
    ensure!(told.stdout().ends_with("refused\nwords\nwords\nwords\n"), "{told}");
    ensure!(told.stderr().contains("Permission denied"), "{told}");
    ensure!(!taken.join("new").exists());
    machine.ok(["stop"])?;
    machine.expect_no_process()
}
