//! Folders of the host in containers: both sides see the same files, and owners stay what they were made.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, programs};

cases! {
    both_sides_see_the_same,
    edits_are_seen_at_once,
    one_file,
    read_only,
    owners,
    owners_outlive_the_guests_memory.on(&[Kind::Machine]),
    modes,
    links_and_renames,
    kinds_of_files,
    attributes,
    sparse_files,
    names_of_any_bytes,
    many_files.seconds(180),
    nothing_leads_out.on(&[Kind::Machine]),
    files_of_the_host_are_everybodys_own.on(&[Kind::Machine]),
    set_user_id_is_not_the_hosts.on(&[Kind::Machine]),
    outside_the_shares.on(&[Kind::Machine]),
    chosen_shares.on(&[Kind::Machine]).alone(),
    a_share_that_is_gone.on(&[Kind::Machine]).alone(),
    the_hosts_disk_is_full.on(&[Kind::Machine]),
    more_files_than_may_be_open.on(&[Kind::Machine]).alone().seconds(400),
    the_hosts_ssh_agent.on(&[Kind::Machine]).alone(),
}

/// A folder of this case, mounted in a container at `/host`; what the shell there prints.
fn shell(t: &Target, options: &[&str], script: &str) -> Result<String> {
    let mount = format!("{}:/host", t.folder().display());
    let args = ["run", "--rm", "--network", "none", "-v", &mount, "-w", "/host"].into_iter();
    t.ok(args.chain(options.iter().copied()).chain(["busybox", "sh", "-ec", script]))
}

fn path(t: &Target, name: &str) -> std::path::PathBuf {
    t.folder().join(name)
}

fn read(t: &Target, name: &str) -> Result<String> {
    fs::read_to_string(path(t, name)).with_context(|| format!("reading {name}"))
}

fn both_sides_see_the_same(t: &Target) -> Outcome {
    fs::write(path(t, "from-host"), "hello\n")?;
    fs::create_dir(path(t, "folder"))?;
    fs::write(path(t, "folder/inside"), "deep\n")?;
    ensure_eq!(shell(t, &[], "cat from-host folder/inside; ls")?, "hello\ndeep\nfolder\nfrom-host");
    shell(t, &[], "echo back > folder/from-guest; mkdir -p a/b; echo more >> from-host; rm folder/inside")?;
    ensure_eq!(read(t, "folder/from-guest")?, "back\n");
    ensure_eq!(read(t, "from-host")?, "hello\nmore\n");
    ensure!(path(t, "a/b").is_dir() && !path(t, "folder/inside").exists());
    // Another container, at another place, with the long form.
    let mount = format!("type=bind,source={},target=/x/y", path(t, "folder").display());
    ensure_eq!(t.ok(["run", "--rm", "--mount", &mount, "busybox", "cat", "/x/y/from-guest"])?, "back");
    Ok(())
}

fn edits_are_seen_at_once(t: &Target) -> Outcome {
    let name = t.name("box");
    let mount = format!("{}:/host", t.folder().display());
    t.ok(["run", "-d", "--name", &name, "-v", &mount, "busybox", "sh", "-c", SLEEP])?;
    let seen = |script: &str| t.ok(["exec", &name, "sh", "-c", script]);
    ensure_eq!(seen("cat /host/file 2>&1 | wc -l; ls /host")?, "1");
    for round in 0..5 {
        // The same length each time: only what is in it tells.
        fs::write(path(t, "file"), format!("round {round}"))?;
        ensure_eq!(seen("cat /host/file; stat -c ' %s' /host/file")?, format!("round {round} 7"));
    }
    fs::write(path(t, "new"), "put in its place")?;
    fs::rename(path(t, "new"), path(t, "file"))?;
    ensure_eq!(seen("cat /host/file")?, "put in its place");
    fs::remove_file(path(t, "file"))?;
    ensure_eq!(seen("ls /host; test -e /host/file || echo gone")?, "gone");
    // And the other way round, while the container has the file open.
    seen("exec 3>/host/log; echo one >&3; echo two >&3")?;
    ensure_eq!(read(t, "log")?, "one\ntwo\n");
    Ok(())
}

fn one_file(t: &Target) -> Outcome {
    fs::write(path(t, "settings"), "old\n")?;
    let mount = format!("{}:/etc/settings", path(t, "settings").display());
    ensure_eq!(
        t.ok([
            "run",
            "--rm",
            "-v",
            &mount,
            "busybox",
            "sh",
            "-c",
            "cat /etc/settings; echo new > /etc/settings"
        ])?,
        "old"
    );
    ensure_eq!(read(t, "settings")?, "new\n");
    Ok(())
}

fn read_only(t: &Target) -> Outcome {
    fs::write(path(t, "file"), "kept")?;
    let mount = format!("{}:/host:ro", t.folder().display());
    for script in ["echo x > /host/file", "rm /host/file", "mkdir /host/a", "chmod 600 /host/file"] {
        let refused = t.fails(1, ["run", "--rm", "-v", &mount, "busybox", "sh", "-c", script])?;
        ensure!(refused.stderr().contains("Read-only file system"), "{script}: {refused}");
    }
    ensure_eq!(read(t, "file")?, "kept");
    Ok(())
}

fn owners(t: &Target) -> Outcome {
    let mine = fs::metadata(t.folder())?.uid();
    shell(t, &[], "mkdir data; chmod 700 data; chown 999:998 data")?;
    // As a database does it: in a folder that is its own alone.
    let database = "umask 077; echo rows > table; mkdir wal; stat -c '%n %u:%g %a' table wal .";
    let expected = "table 999:998 600\nwal 999:998 700\n. 999:998 700";
    ensure_eq!(shell(t, &["-u", "999:998", "-w", "/host/data"], database)?, expected);
    let refused = shell(
        t,
        &["-u", "1234", "-w", "/"],
        "cat /host/data/table 2>/dev/null && echo read || echo refused",
    )?;
    ensure_eq!(refused, "refused");
    ensure_eq!(shell(t, &[], "cat data/table; chown -R 5:6 data; stat -c %u:%g data/table")?, "rows\n5:6");
    let on_host = fs::metadata(path(t, "data/table"))?;
    // A machine is the user's own, and so are its files.
    let expected = if t.kind() == Kind::Machine { mine } else { 5 };
    ensure_eq!((on_host.uid(), on_host.mode() & 0o7777), (expected, 0o600));
    Ok(())
}

/// What the guest's kernel has forgotten, it is told anew; files that nobody has open, too.
fn owners_outlive_the_guests_memory(t: &Target) -> Outcome {
    shell(t, &[], "mkdir data; echo rows > data/table; chmod 640 data/table; chown -R 999:998 data")?;
    t.machine()?.ok(["shell", "--", "sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"])?;
    let seen = shell(t, &[], "stat -c '%n %u:%g %a' data data/table; ls -n data | tail -n 1")?;
    let lines: Vec<&str> = seen.lines().collect();
    ensure_eq!(lines[..2], ["data 999:998 755", "data/table 999:998 640"]);
    let listed: Vec<&str> = lines[2].split_whitespace().collect();
    ensure_eq!(listed[2..4], ["999", "998"]);
    Ok(())
}

/// A project of the user's, in containers that run as somebody.
fn files_of_the_host_are_everybodys_own(t: &Target) -> Outcome {
    fs::write(path(t, "source"), "text\n")?;
    fs::set_permissions(path(t, "source"), fs::Permissions::from_mode(0o600))?;
    let script = "stat -c %u:%g . source; echo more >> source; chmod 640 source; touch -d @7 source; \
                  mkdir built; echo x > built/out; mv source built; stat -c %u:%g built/out";
    for user in ["0:0", "1000:1001"] {
        ensure_eq!(shell(t, &["-u", user], script)?, format!("{user}\n{user}\n{user}"));
        let moved = path(t, "built/source");
        let on_host = fs::metadata(&moved)?;
        ensure_eq!((on_host.mode() & 0o777, on_host.mtime()), (0o640, 7));
        fs::rename(moved, path(t, "source"))?;
        fs::remove_dir_all(path(t, "built"))?;
        fs::set_permissions(path(t, "source"), fs::Permissions::from_mode(0o600))?;
    }
    // What the mode denies to the owner, it denies to all but root.
    fs::set_permissions(path(t, "source"), fs::Permissions::from_mode(0o400))?;
    let refused = shell(t, &["-u", "1000"], "echo x 2>/dev/null >> source || echo refused")?;
    ensure_eq!(refused, "refused");
    shell(t, &[], "chown 0:0 source")?;
    ensure_eq!(shell(t, &["-u", "1000"], "cat source 2>/dev/null || echo refused")?, "refused");
    Ok(())
}

fn modes(t: &Target) -> Outcome {
    fs::write(path(t, "script"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(path(t, "script"), fs::Permissions::from_mode(0o644))?;
    ensure_eq!(shell(t, &[], "chmod +x script; ./script; stat -c %a script")?, "ran\n755");
    ensure_eq!(fs::metadata(path(t, "script"))?.mode() & 0o7777, 0o755);
    let special = "chmod 1777 .; mkdir s; chmod 2755 s; touch s/f; stat -c %a . s";
    ensure_eq!(shell(t, &[], special)?, "1777\n2755");
    // A group that a folder hands on.
    ensure_eq!(shell(t, &[], "chgrp 44 s; chmod g+s s; mkdir s/t; stat -c '%g %a' s/t")?, "44 2755");
    // Nobody may, but root does.
    ensure_eq!(shell(t, &[], "echo x > locked; chmod 000 locked; echo y >> locked; cat locked")?, "x\ny");
    ensure_eq!(
        shell(t, &[], "mkdir shut; chmod 000 shut; touch shut/in; ls shut; stat -c %a shut")?,
        "in\n0"
    );
    Ok(())
}

fn links_and_renames(t: &Target) -> Outcome {
    let script = "echo a > one; ln one two; ln -s one three; mv one four; echo b >> two; \
                  cat four; readlink three; stat -c %h two; cat three 2>/dev/null || echo dangling";
    ensure_eq!(shell(t, &[], script)?, "a\nb\none\n2\ndangling");
    ensure_eq!(fs::metadata(path(t, "two"))?.ino(), fs::metadata(path(t, "four"))?.ino());
    ensure_eq!(fs::read_link(path(t, "three"))?, Path::new("one"));
    // Over what is there, and a folder with what is in it.
    shell(t, &[], "mkdir -p d/e; echo x > d/e/f; mv d g; echo new > other; mv -f other two")?;
    ensure_eq!((read(t, "g/e/f")?, read(t, "two")?), ("x\n".to_owned(), "new\n".to_owned()));
    let refused = shell(t, &[], "rmdir g 2>&1 || true; rm g 2>&1 || true")?;
    ensure!(refused.contains("not empty") && refused.contains("is a directory"), "{refused}");
    Ok(())
}

fn kinds_of_files(t: &Target) -> Outcome {
    let script = "mkfifo -m 600 pipe; stat -c '%F %a' pipe; (echo through > pipe &); cat pipe";
    ensure_eq!(shell(t, &[], script)?, "fifo 600\nthrough");
    ensure!(fs::symlink_metadata(path(t, "pipe"))?.file_type().is_fifo());
    // One that is its maker's alone.
    fs::set_permissions(t.folder(), fs::Permissions::from_mode(0o777))?;
    let script = "mkfifo -m 600 own; stat -c '%u %a' own; (echo through > own &); cat own";
    ensure_eq!(shell(t, &["-u", "77"], script)?, "77 600\nthrough");
    Ok(())
}

fn attributes(t: &Target) -> Outcome {
    // Times, to the nanosecond, both ways.
    let script = "touch -d '2001-02-03 04:05:06' old; stat -c %Y old";
    ensure_eq!(shell(t, &[], script)?, "981173106");
    let time = fs::metadata(path(t, "old"))?;
    ensure_eq!((time.mtime(), time.mtime_nsec()), (981_173_106, 0));
    fs::write(path(t, "new"), "")?;
    let on_host = fs::metadata(path(t, "new"))?;
    let expected = format!("{}.{:09}", on_host.mtime(), on_host.mtime_nsec());
    let seen = shell(t, &[], "stat -c '%y' new | cut -d. -f2 | cut -c1-9; stat -c %i new")?;
    ensure_eq!(seen, format!("{}\n{}", &expected[expected.len() - 9..], on_host.ino()));
    Ok(())
}

fn sparse_files(t: &Target) -> Outcome {
    shell(t, &[], "truncate -s 1G big; echo end | dd of=big bs=1 seek=1000000 conv=notrunc 2>/dev/null")?;
    let big = fs::metadata(path(t, "big"))?;
    ensure_eq!(big.len(), 1 << 30);
    ensure!(big.blocks() * 512 < 1 << 20, "{} blocks", big.blocks());
    ensure_eq!(
        shell(t, &[], "dd if=big bs=1 skip=1000000 count=3 2>/dev/null; truncate -s 3 big; wc -c < big")?,
        "end3"
    );
    let allocate = shell(t, &[], "fallocate -l 1048576 solid && stat -c '%s' solid")?;
    ensure_eq!(allocate, "1048576");
    ensure!(fs::metadata(path(t, "solid"))?.blocks() * 512 >= 1 << 20);
    Ok(())
}

fn names_of_any_bytes(t: &Target) -> Outcome {
    use std::os::unix::ffi::OsStrExt as _;
    let long = "x".repeat(255);
    fs::write(path(t, &long), "long")?;
    fs::write(t.folder().join(std::ffi::OsStr::from_bytes(b"\xff\xfe \n")), "bytes")?;
    ensure_eq!(shell(t, &[], &format!("cat {long}; cat $(printf '\\377\\376')*"))?, "longbytes");
    let refused = shell(t, &[], &format!("touch {long}y 2>&1 || true"))?;
    ensure!(refused.contains("File name too long"), "{refused}");
    symlink("loop", path(t, "loop"))?;
    let refused = shell(t, &[], "cat loop 2>&1 || true")?;
    ensure!(refused.contains("Symbolic link loop") || refused.contains("Too many levels"), "{refused}");
    Ok(())
}

/// As many as a real project has, made by one side and counted by the other.
const MANY: usize = 3000;

fn many_files(t: &Target) -> Outcome {
    fs::create_dir(path(t, "many"))?;
    for number in 0..MANY {
        fs::write(path(t, &format!("many/{number}")), "")?;
    }
    let count = "ls many | wc -l; find many -type f | wc -l; rm -r many; ls";
    ensure_eq!(shell(t, &[], count)?, format!("{MANY}\n{MANY}"));
    ensure!(!path(t, "many").exists());
    Ok(())
}

fn nothing_leads_out(t: &Target) -> Outcome {
    // On the host both files exist, outside of the share and in it.
    let outside = "/etc/hostname-of-the-host";
    ensure!(!Path::new(outside).exists());
    shell(t, &[], "ln -s /etc/hostname absolute; ln -s ../../../../../../etc/hostname relative")?;
    // The links lead to what the container has there.
    let script = "test \"$(cat absolute)\" = \"$(cat /etc/hostname)\" && test \"$(cat relative)\" = \"$(cat /etc/hostname)\" && echo own";
    ensure_eq!(shell(t, &[], script)?, "own");
    // The host's devices are none of the guest's.
    let refused = shell(t, &["--privileged"], "mknod disk b 254 0 2>&1 || true; ls disk 2>&1 || true")?;
    ensure!(refused.contains("Operation not permitted"), "{refused}");
    Ok(())
}

fn set_user_id_is_not_the_hosts(t: &Target) -> Outcome {
    ensure_eq!(shell(t, &[], "cp /bin/busybox busybox; chmod 4755 busybox; stat -c %a busybox")?, "4755");
    ensure_eq!(fs::metadata(path(t, "busybox"))?.mode() & 0o7777, 0o755);
    // In the guest it holds (busybox itself lets go of what it gains), and goes away when somebody writes to the file.
    let mount = shell(t, &[], "grep ' /host ' /proc/mounts")?;
    ensure!(mount.contains("virtiofs") && mount.contains("nodev") && !mount.contains("nosuid"), "{mount}");
    ensure_eq!(shell(t, &[], "chmod 4777 busybox")?, "");
    ensure_eq!(shell(t, &["-u", "55"], "echo >> busybox; stat -c %a busybox")?, "777");
    Ok(())
}

fn outside_the_shares(t: &Target) -> Outcome {
    for option in [["-v", "/nowhere/shared:/x"], ["--mount", "type=bind,source=/nowhere/shared,target=/x"]] {
        let args = ["create"].into_iter().chain(option).chain(["busybox"]);
        let refused = t.fails(1, args)?;
        for words in ["/nowhere/shared", "is not shared from the host", "coracle config set shares"] {
            ensure!(refused.stderr().contains(words), "{option:?}: {refused}");
        }
    }
    Ok(())
}

fn chosen_shares(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let (open, closed) = (path(t, "open"), path(t, "closed"));
    for folder in [&open, &closed] {
        fs::create_dir(folder)?;
        fs::write(folder.join("file"), "words")?;
    }
    let (open, closed) = (open.display().to_string(), closed.display().to_string());
    let refused = machine.coracle(["config", "set", "shares", &format!("{open}/missing")]).output()?;
    ensure_eq!(refused.code(), 1);
    machine.ok(["config", "set", "shares", &format!("{open}:ro")])?;
    ensure_eq!(machine.ok(["config", "get", "shares"])?, format!("{open}:ro"));
    machine.ok(["restart"])?;
    let run = |folder: &str, script: &str| {
        let mount = format!("{folder}:/host");
        t.docker(["run", "--rm", "-v", &mount, "busybox", "sh", "-c", script]).output()
    };
    ensure_eq!(run(&open, "cat /host/file")?.text()?, "words");
    let refused = run(&open, "echo x > /host/file")?;
    ensure!(refused.stderr().contains("Read-only file system"), "{refused}");
    let refused = run(&closed, "true")?.expect_code(125)?;
    ensure!(refused.stderr().contains("is not shared from the host"), "{refused}");
    Ok(())
}

fn a_share_that_is_gone(t: &Target) -> Outcome {
    let machine = t.machine()?;
    let (gone, kept) = (path(t, "gone"), path(t, "kept"));
    for folder in [&gone, &kept] {
        fs::create_dir(folder)?;
        fs::write(folder.join("file"), "words")?;
    }
    machine.ok(["config", "set", "shares", &format!("{},{}", gone.display(), kept.display())])?;
    machine.ok(["restart"])?;
    let name = t.name("box");
    let mounts = [format!("{}:/gone", gone.display()), format!("{}:/kept", kept.display())];
    let run =
        ["run", "-d", "--name", &name, "-v", &mounts[0], "-v", &mounts[1], "busybox", "sh", "-c", SLEEP];
    t.ok(run)?;
    let seen = |script: &str| t.ok(["exec", &name, "sh", "-c", script]);
    ensure_eq!(seen("cat /gone/file /kept/file")?, "wordswords");
    fs::remove_dir_all(&gone)?;
    ensure_eq!(
        seen("ls /gone; cat /gone/file 2>&1; echo x 2>&1 > /gone/new; cat /kept/file")?.lines().last(),
        Some("words")
    );
    ensure!(!gone.exists());
    // A folder that may not be read any more, and what comes back.
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o000))?;
    ensure_eq!(seen("cat /kept/file")?, "words", "root of this host may read it");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o755))?;
    ensure_eq!(seen("echo more >> /kept/file; cat /kept/file")?, "wordsmore");
    // The machine says what is missing when it starts again.
    machine.ok(["stop"])?;
    let refused = machine.coracle(["start"]).output()?.expect_code(1)?;
    ensure!(refused.stderr().contains(&format!("cannot share {}", gone.display())), "{refused}");
    Ok(())
}

fn the_hosts_disk_is_full(t: &Target) -> Outcome {
    let namespace = t.machine()?.namespace();
    let small = path(t, "small");
    fs::create_dir(&small)?;
    let small = small.display().to_string();
    // A file system of its own, of which the machine was not told.
    namespace
        .program("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none", &small])
        .output()?
        .expect_code(0)?;
    let outcome = (|| {
        let script = "cd /host/small; echo kept > kept; dd if=/dev/zero of=big bs=64k count=64 2>&1; \
                      echo more >> kept; cat kept; rm big; echo again > again; cat again; stat -c %s kept";
        let text = t.ok([
            "run",
            "--rm",
            "-v",
            &format!("{}:/host", t.folder().display()),
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
        ensure!(text.contains("No space left on device"), "{text}");
        ensure!(text.ends_with("again\n5") || text.ends_with("again\n10"), "{text}");
        let kept = namespace.program("cat").arg(format!("{small}/kept")).output()?.text()?;
        ensure!(kept == "kept" || kept == "kept\nmore", "{kept:?}");
        Ok(())
    })();
    namespace.program("umount").arg("--lazy").arg(&small).output()?.expect_code(0)?;
    outcome
}

/// The guest knows more files than the process that serves them may have open.
fn more_files_than_may_be_open(t: &Target) -> Outcome {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let many = usize::try_from(limit.min(50_000))? + 1000;
    fs::create_dir(path(t, "many"))?;
    for number in 0..many {
        fs::write(path(t, &format!("many/{number}")), "")?;
    }
    // Once listed with what each is, all of them are known; the first ones are then used again.
    let script = "ls -ln many | grep -c '^-'; for n in 0 1 2 3 4 5 6 7 8 9; do echo $n >> many/$n; done; cat many/?; \
                  mv many moved; cat moved/7; ls moved | wc -l";
    ensure_eq!(shell(t, &[], script)?, format!("{many}\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n7\n{many}"));
    Ok(())
}

/// A real agent with a key, asked by a real client in a container.
fn the_hosts_ssh_agent(t: &Target) -> Outcome {
    const SOCKET: &str = "/run/host-services/ssh-auth.sock";
    let machine = t.machine()?;
    let folder = t.folder().join("programs");
    programs::copy("ssh-add", &folder)?;
    let programs = format!("{}:{}:ro", folder.display(), programs::FOLDER);
    let script = format!("{} -l", programs::call("ssh-add"));
    let variable = format!("SSH_AUTH_SOCK={SOCKET}");
    let ask = || {
        let run = ["run", "--rm", "-e", &variable, "-v", &programs, "--mount"];
        let mount = format!("type=bind,source={SOCKET},target={SOCKET}");
        t.docker(run).args([&mount, "busybox", "sh", "-c", &script]).output()
    };
    // Without an agent there is nothing to mount.
    let refused = ask()?.expect_code(125)?;
    ensure!(refused.stderr().contains("Set SSH_AUTH_SOCK"), "{refused}");

    let (socket, key) = (path(t, "agent"), path(t, "key"));
    let agent = t.program("ssh-agent").args(["-D", "-a"]).arg(&socket).spawn()?;
    tests::wait::eventually_true("the agent listens", std::time::Duration::from_secs(10), || {
        Ok(socket.exists())
    })?;
    t.program("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f"])
        .arg(&key)
        .output()?
        .expect_code(0)?;
    t.program("ssh-add").arg(&key).env("SSH_AUTH_SOCK", &socket).output()?.expect_code(0)?;
    machine.coracle(["restart"]).env("SSH_AUTH_SOCK", &socket).output()?.expect_code(0)?;
    for _ in 0..3 {
        let listed = ask()?.text()?;
        ensure!(listed.contains("a key (ED25519)"), "{listed}");
    }
    // The agent has ended: who asks is told so, and does not wait.
    drop(agent);
    let refused = ask()?.expect_code(1)?;
    ensure!(!refused.stderr().is_empty(), "{refused}");
    Ok(())
}
