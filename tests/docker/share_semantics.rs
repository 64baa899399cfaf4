//! What system calls do to folders of the host, as on the host itself: the same programs run natively, where the folder is
//! ext4's own, and in a machine.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::process::Running;
use tests::target::Target;
use tests::{cases, ensure_eq, probes, programs, roles};

cases! {
    files_without_a_name,
    exchanged_names,
    holes,
    reserved_and_punched,
    copies_of_ranges,
    names_and_their_limits,
    links_that_lead_to_themselves,
    hard_links,
    open_and_removed,
    mapped_into_memory,
    attributes_of_users,
    no_access_control_lists.on(&[Kind::Machine]),
    archivers_where_there_are_no_lists,
    locks_among_containers,
    both_sides_append,
    one_of_both_sides_makes_a_file,
    sockets_between_containers,
    a_hundred_thousand_files.seconds(240),
}

/// The case's folder that containers have at `/host`.
fn shared(t: &Target) -> Result<PathBuf> {
    let folder = t.folder().join("shared");
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

/// A container of these options that runs a program of this machine as `script` says.
fn container(t: &Target, program: &str, options: &[&str], script: &str) -> Result<tests::process::Program> {
    let folder = t.folder().join("programs");
    programs::copy(program, &folder)?;
    let mounts =
        [format!("{}:{}:ro", folder.display(), programs::FOLDER), format!("{}:/host", shared(t)?.display())];
    let run = ["run", "--rm", "--network", "none", "-i", "-w", "/host"].into_iter();
    let run = run.chain(["-v", &mounts[0], "-v", &mounts[1]]).chain(options.iter().copied());
    Ok(t.docker(run.chain(["busybox", "sh", "-ec", script])))
}

/// A container that does a probe, as a user.
fn prober(t: &Target, user: &str, probe: &str, folder: &str) -> Result<tests::process::Program> {
    let script = format!("exec {} {} {probe} {folder}", programs::call(programs::OWN), roles::PROBE);
    container(t, programs::OWN, &["-u", user], &script)
}

/// Does a probe as root and as another user, each in a folder of its own.
fn probe(t: &Target, probe: &str) -> Outcome {
    for user in ["0", "1000"] {
        let folder = shared(t)?.join(user);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        let told = prober(t, user, probe, &format!("/host/{user}"))?.output()?;
        ensure!(
            told.code() == 0 && told.stdout().trim_end().ends_with(probes::PASSED),
            "as user {user}: {told}"
        );
    }
    Ok(())
}

fn files_without_a_name(t: &Target) -> Outcome {
    probe(t, "nameless")?;
    let (roots, theirs) = (shared(t)?.join("0/named"), shared(t)?.join("1000/named"));
    ensure_eq!(fs::read_to_string(&roots)?, "words more");
    ensure_eq!(fs::metadata(&theirs)?.mode() & 0o777, 0o640);
    // It belongs to who made it, and on the host to whom all does.
    let owner = "stat -c '%u %a' 1000/named";
    ensure_eq!(container(t, programs::OWN, &[], owner)?.output()?.text()?, "1000 640");
    Ok(())
}

fn exchanged_names(t: &Target) -> Outcome {
    probe(t, "exchange")?;
    ensure!(shared(t)?.join("0/a/inside").is_dir());
    Ok(())
}

fn holes(t: &Target) -> Outcome {
    probe(t, "holes")?;
    let sparse = fs::metadata(shared(t)?.join("0/sparse"))?;
    ensure_eq!((sparse.len(), sparse.blocks() * 512), (4 << 20, 8 << 10));
    Ok(())
}

fn reserved_and_punched(t: &Target) -> Outcome {
    probe(t, "allocation")?;
    let text = fs::read(shared(t)?.join("0/allocated"))?;
    ensure_eq!((text.len(), text[0], text[64 << 10], text[128 << 10]), (320 << 10, 7, 0, 7));
    Ok(())
}

fn copies_of_ranges(t: &Target) -> Outcome {
    probe(t, "copies")
}

fn names_and_their_limits(t: &Target) -> Outcome {
    probe(t, "names")?;
    let listed = fs::read_dir(shared(t)?.join("0"))?.map(|entry| Ok(entry?.file_name()));
    let listed = listed.collect::<Result<Vec<_>>>()?;
    let longest = listed.iter().map(|name| name.len()).max();
    ensure_eq!((listed.len(), longest), (7, Some(255)));
    Ok(())
}

fn links_that_lead_to_themselves(t: &Target) -> Outcome {
    probe(t, "loops")
}

fn hard_links(t: &Target) -> Outcome {
    probe(t, "hard-links")?;
    ensure_eq!(fs::metadata(shared(t)?.join("0/link-5"))?.nlink(), 999);
    Ok(())
}

fn open_and_removed(t: &Target) -> Outcome {
    probe(t, "removed")
}

fn mapped_into_memory(t: &Target) -> Outcome {
    probe(t, "mapped")?;
    let text = fs::read(shared(t)?.join("0/mapped"))?;
    ensure_eq!((&text[4093..4099], &text[99..106]), (&b".both."[..], &b".other."[..]));
    Ok(())
}

fn attributes_of_users(t: &Target) -> Outcome {
    probe(t, "attributes")
}

fn no_access_control_lists(t: &Target) -> Outcome {
    probe(t, "no-acls")
}

/// cp and tar of Debian, which try lists first, over files that one side or the other made.
fn archivers_where_there_are_no_lists(t: &Target) -> Outcome {
    let shared = shared(t)?;
    for name in ["from", "over"] {
        fs::write(shared.join(name), name)?;
    }
    fs::set_permissions(shared.join("from"), fs::Permissions::from_mode(0o750))?;
    let (cp, tar) = (programs::call("cp"), programs::call("tar"));
    programs::copy("tar", &t.folder().join("programs"))?;
    for user in ["0", "1000"] {
        if t.kind() != Kind::Machine {
            // What is everybody's in a machine has to be given to somebody here.
            for name in ["from", "over"] {
                std::os::unix::fs::chown(shared.join(name), Some(user.parse()?), None)?;
            }
        }
        let script = format!(
            "mkdir u{user}; cd u{user}; {cp} -a ../from new; {cp} -p ../from ../over; {cp} --preserve=all new again; \
             {tar} --acls --xattrs -cf out.tar new; mkdir x; {tar} --acls --xattrs -xpf out.tar -C x; \
             cat ../over x/new; stat -c %a new again ../over x/new"
        );
        let told = container(t, "cp", &["-u", user], &script)?.output()?;
        ensure!(told.code() == 0, "as user {user}: {told}");
        ensure_eq!(told.stdout().trim(), "fromfrom750\n750\n750\n750");
        // Of lists that it cannot set tar says so, and goes on; cp says nothing.
        let is_said = |line: &str| t.kind() == Kind::Machine && line.contains("Cannot set POSIX ACLs");
        ensure!(told.stderr().lines().all(is_said), "as user {user}: {told}");
    }
    Ok(())
}

fn locks_among_containers(t: &Target) -> Outcome {
    for name in ["flock", "fcntl"] {
        let path = shared(t)?.join(name);
        fs::write(&path, "")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    }
    let holder = |probe| -> Result<Running> { prober(t, "0", probe, "/host")?.stdin_pipe().spawn() };
    let seen = || prober(t, "1000", "try", "/host")?.output()?.text();
    let mut first = holder("hold")?;
    first.wait_for(&format!("{}\n", probes::HELD))?;
    ensure!(seen()?.starts_with(probes::BUSY), "held: {}", seen()?);
    let second = holder("await")?;
    second.wait_for(&format!("{}\n", probes::WAITING))?;
    ensure!(seen()?.starts_with(probes::BUSY), "held and waited for: {}", seen()?);
    ensure!(!second.stdout().contains(probes::HELD), "two have them: {}", second.stdout());
    first.close_stdin();
    second.wait_for(&format!("{}\n", probes::HELD))?;
    second.wait()?.expect_code(0)?;
    first.wait()?.expect_code(0)?;
    ensure!(seen()?.starts_with(probes::FREE), "given back: {}", seen()?);
    Ok(())
}

fn both_sides_append(t: &Target) -> Outcome {
    let log = shared(t)?.join("log");
    fs::write(&log, "")?;
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666))?;
    let told = thread::scope(|scope| -> Result<_> {
        let guest = scope.spawn(|| prober(t, "0", "append", "/host")?.output());
        let mut file = OpenOptions::new().append(true).open(&log)?;
        for number in 0..probes::APPENDED {
            file.write_all(format!("host {number}\n").as_bytes())?;
            // Both at the same time, as far as that can be had.
            if number == 0 {
                tests::wait::eventually_true("the container appends", Duration::from_secs(60), || {
                    Ok(fs::read_to_string(&log)?.contains("guest"))
                })?;
            }
        }
        guest.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })?;
    ensure_eq!(told.code(), 0, "{told}");
    let mut next = BTreeMap::from([("guest", 0), ("host", 0)]);
    for line in fs::read_to_string(&log)?.lines() {
        let (side, number) = line.split_once(' ').with_context(|| format!("a torn line: {line:?}"))?;
        let expected = next.get_mut(side).with_context(|| format!("a torn line: {line:?}"))?;
        ensure_eq!(number.parse::<usize>()?, *expected, "{line:?}");
        *expected += 1;
    }
    ensure_eq!(next, BTreeMap::from([("guest", probes::APPENDED), ("host", probes::APPENDED)]));
    Ok(())
}

/// `O_EXCL`, the oldest lock there is.
fn one_of_both_sides_makes_a_file(t: &Target) -> Outcome {
    const FILES: usize = 300;
    let shared = shared(t)?;
    let script = format!(
        "set -C; for n in $(seq {FILES}); do (: > made-$n) 2>/dev/null && : > by-$n; : > tried-$n; done; echo done"
    );
    let (hosts, told) = thread::scope(|scope| -> Result<_> {
        let guest = scope.spawn(|| container(t, programs::OWN, &[], &format!("set +e; {script}"))?.output());
        let mut hosts = 0;
        for number in 1..=FILES {
            // Both begin with this one when the container has done the one before.
            let before = shared.join(format!("tried-{}", number - 1));
            while number > 1 && !before.exists() && !guest.is_finished() {
                thread::yield_now();
            }
            if fs::File::create_new(shared.join(format!("made-{number}"))).is_ok() {
                hosts += 1;
            }
        }
        let told = guest.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        Ok((hosts, told))
    })?;
    ensure_eq!(told.text()?, "done");
    let guests = (1..=FILES).filter(|number| shared.join(format!("by-{number}")).exists()).count();
    ensure_eq!(hosts + guests, FILES, "each is made once: {hosts} by the host, {guests} by the container");
    Ok(())
}

fn sockets_between_containers(t: &Target) -> Outcome {
    let server = prober(t, "0", "serve", "/host")?.spawn()?;
    server.wait_for(&format!("{}\n", roles::LISTENING))?;
    ensure!(fs::symlink_metadata(shared(t)?.join("socket"))?.file_type().is_socket());
    ensure_eq!(prober(t, "0", "call", "/host")?.output()?.text()?, probes::PASSED);
    server.wait()?.expect_code(0)?;
    Ok(())
}

/// What the other side has made, listed with and without a look at each, and removed.
fn a_hundred_thousand_files(t: &Target) -> Outcome {
    const MANY: usize = 100_000;
    let folder = shared(t)?.join("many");
    fs::create_dir(&folder)?;
    for number in 0..MANY {
        fs::File::create_new(folder.join(format!("file-{number:06}")))?;
    }
    // Each name once.
    let script = "ls many > /list; grep -c file /list; uniq /list | wc -l; head -n 1 /list; tail -n 1 /list; \
                  find many -type f -size 0 | wc -l; cat many/file-000000 many/file-099999; rm many/file-*77";
    let told = container(t, programs::OWN, &[], script)?.output()?.text()?;
    ensure_eq!(told, format!("{MANY}\n{MANY}\nfile-000000\nfile-099999\n{MANY}"));
    ensure_eq!(fs::read_dir(&folder)?.count(), MANY / 100 * 99);
    Ok(())
}
