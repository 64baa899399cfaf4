//! What the host does to a folder, as a program in a container that watches it hears it (inotify(7)).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::process::Running;
use tests::target::Target;
use tests::{cases, ensure_eq, programs, roles, wait};

cases! {
    each_kind,
    removed_and_replaced,
    below_a_read_only_mount,
    written_anew_and_read_at_once.seconds(240),
    both_sides_at_once.seconds(240),
    more_than_a_watcher_takes.seconds(240),
    nothing_without_a_watcher.on(&[Kind::Machine]).alone(),
}

/// The events that a change makes; not those of a look.
const CHANGES: &str = "modify,attrib,close_write,move,create,delete,delete_self,move_self";

/// A folder of the case that is shared, and nothing else in it.
fn shared(t: &Target) -> Result<PathBuf> {
    let folder = t.folder().join("shared");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A container that runs `script`, with the folder at `/host`, and a program of this machine's.
fn container(t: &Target, name: &str, access: &str, program: &str, script: &str) -> Result<Running> {
    let folder = t.folder().join("programs");
    programs::copy(program, &folder)?;
    let mounts = [
        format!("{}:{}:ro", folder.display(), programs::FOLDER),
        format!("{}:/host{access}", shared(t)?.display()),
    ];
    let options = ["run", "--rm", "--init", "--name", name, "--network", "none"];
    let options = options.into_iter().chain(["-v", &mounts[0], "-v", &mounts[1]]);
    t.docker(options.chain(["busybox", "sh", "-c", script])).stdin_pipe().spawn()
}

/// A container that watches as `script` says; it listens when this returns.
fn watcher(t: &Target, name: &str, access: &str, script: &str) -> Result<Running> {
    let running = container(t, name, access, "inotifywait", script)?;
    // Standard error tells, and is not among what it hears.
    running.wait_until("the container listens", |_, stderr| {
        tests::process::contains(stderr, b"Watches established.")
    })?;
    Ok(running)
}

/// Watches and prints a line for each change.
fn listen(what: &str) -> String {
    format!("exec {} -m -e {CHANGES} --format '%e %w%f' {what}", programs::call("inotifywait"))
}

/// All that was heard until a file named `end` was made in the folder.
fn heard(t: &Target, running: &Running) -> Result<Vec<String>> {
    fs::write(shared(t)?.join("end"), "")?;
    running.wait_for("CREATE /host/end\n")?;
    let text = running.stdout();
    let heard = text.lines().take_while(|line| *line != "CREATE /host/end");
    Ok(heard.map(str::to_owned).collect())
}

fn each_kind(t: &Target) -> Outcome {
    let shared = shared(t)?;
    fs::create_dir(shared.join("folder"))?;
    let running = watcher(t, &t.name("watcher"), "", &listen("/host /host/folder"))?;
    fs::write(shared.join("file"), "text")?;
    fs::set_permissions(shared.join("file"), fs::Permissions::from_mode(0o600))?;
    fs::rename(shared.join("file"), shared.join("other"))?;
    fs::rename(shared.join("other"), shared.join("folder/inside"))?;
    fs::remove_file(shared.join("folder/inside"))?;
    fs::create_dir(shared.join("new"))?;
    fs::remove_dir(shared.join("new"))?;
    fs::hard_link(shared.join("folder"), shared.join("none")).unwrap_err();
    fs::write(shared.join("n\u{e4}me with blanks"), "")?;
    let expected = "\
        CREATE /host/file\nMODIFY /host/file\nCLOSE_WRITE,CLOSE /host/file\nATTRIB /host/file\n\
        MOVED_FROM /host/file\nMOVED_TO /host/other\n\
        MOVED_FROM /host/other\nMOVED_TO /host/folder/inside\nDELETE /host/folder/inside\n\
        CREATE,ISDIR /host/new\nDELETE,ISDIR /host/new\n\
        CREATE /host/n\u{e4}me with blanks\nCLOSE_WRITE,CLOSE /host/n\u{e4}me with blanks";
    ensure_eq!(heard(t, &running)?.join("\n"), expected);
    Ok(())
}

fn removed_and_replaced(t: &Target) -> Outcome {
    let shared = shared(t)?;
    fs::create_dir(shared.join("folder"))?;
    for name in ["edited", "removed"] {
        fs::write(shared.join(name), "before")?;
    }
    let watched = "/host/edited /host/removed /host/folder";
    let running = watcher(t, &t.name("watcher"), "", &listen(&format!("/host {watched}")))?;
    // As editors save a file.
    fs::write(shared.join("draft"), "after")?;
    fs::rename(shared.join("draft"), shared.join("edited"))?;
    fs::remove_file(shared.join("removed"))?;
    fs::remove_dir(shared.join("folder"))?;
    let expected = "\
        CREATE /host/draft\nMODIFY /host/draft\nCLOSE_WRITE,CLOSE /host/draft\n\
        MOVED_FROM /host/draft\nMOVED_TO /host/edited\nATTRIB /host/edited\nDELETE_SELF /host/edited\n\
        ATTRIB /host/removed\nDELETE_SELF /host/removed\nDELETE /host/removed\n\
        DELETE_SELF /host/folder/\nDELETE,ISDIR /host/folder";
    ensure_eq!(heard(t, &running)?.join("\n"), expected);
    Ok(())
}

fn below_a_read_only_mount(t: &Target) -> Outcome {
    let shared = shared(t)?;
    let running = watcher(t, &t.name("watcher"), ":ro", &listen("/host"))?;
    fs::write(shared.join("file"), "text")?;
    let expected = "CREATE /host/file\nMODIFY /host/file\nCLOSE_WRITE,CLOSE /host/file";
    ensure_eq!(heard(t, &running)?.join("\n"), expected);
    Ok(())
}

/// Who hears of a change sees what is in the file, not what was.
fn written_anew_and_read_at_once(t: &Target) -> Outcome {
    const ROUNDS: usize = 60;
    let shared = shared(t)?;
    // Read over and over beside that, so that whatever can be kept of it is.
    let watch = programs::call("inotifywait");
    let script = format!(
        "while :; do cat /host/file >/dev/null 2>&1; stat /host/file >/dev/null 2>&1; done &\n\
         {watch} -m -e close_write --format '%f' /host | while read name; do\n\
         echo \"is $(cat /host/file) $(stat -c %s /host/file)\"; done"
    );
    let running = watcher(t, &t.name("watcher"), "", &script)?;
    for round in 1000..1000 + ROUNDS {
        // The same length in each second round: only what is in it tells.
        let filler = if round % 2 == 0 { "" } else { "." };
        let text = format!("{round}{filler}");
        fs::write(shared.join("file"), &text)?;
        running.wait_for(&format!("is {text} {}\n", text.len()))?;
    }
    ensure_eq!(running.stdout().lines().count(), ROUNDS);
    Ok(())
}

/// The host and a container make files in the same folder: of each is heard once.
fn both_sides_at_once(t: &Target) -> Outcome {
    const FILES: usize = 1000;
    let shared = shared(t)?;
    let name = t.name("watcher");
    let running = watcher(t, &name, "", &listen("/host"))?;
    let script = format!(
        "for n in $(seq {FILES}); do : > /host/guests-$n; [ $((n % 2)) = 0 ] || rm /host/guests-$n; done"
    );
    thread::scope(|scope| -> Outcome {
        let guest = scope.spawn(|| t.ok(["exec", &name, "sh", "-c", &script]));
        for number in 1..=FILES {
            let path = shared.join(format!("hosts-{number}"));
            fs::write(&path, "")?;
            if number % 2 == 1 {
                fs::remove_file(&path)?;
            }
        }
        guest.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        Ok(())
    })?;
    let mut times = BTreeMap::new();
    for line in heard(t, &running)? {
        *times.entry(line).or_insert(0) += 1;
    }
    for side in ["guests", "hosts"] {
        for number in 1..=FILES {
            let created = format!("CREATE /host/{side}-{number}");
            ensure_eq!(times.get(&created), Some(&1), "{created}");
            let closed = format!("CLOSE_WRITE,CLOSE /host/{side}-{number}");
            ensure_eq!(times.get(&closed), Some(&1), "{closed}");
            let deleted = format!("DELETE /host/{side}-{number}");
            let expected = (number % 2 == 1).then_some(&1);
            ensure_eq!(times.get(&deleted), expected, "{deleted}");
        }
    }
    Ok(())
}

/// Events that nobody takes are lost, which is an event as well; and those that come later arrive.
fn more_than_a_watcher_takes(t: &Target) -> Outcome {
    let shared = shared(t)?;
    let script = format!("exec {} {} /host", programs::call(programs::OWN), roles::HEAR);
    let listener = |name: &str| -> Result<Running> {
        let running = container(t, name, "", programs::OWN, &script)?;
        running.wait_for(&format!("{}\n", roles::LISTENING))?;
        Ok(running)
    };
    let name = t.name("sleeper");
    let sleeper = listener(&name)?;
    let awake = listener(&t.name("awake"))?;
    t.ok(["pause", &name])?;
    // More than the 65,536 events that a machine keeps for a watcher.
    for _ in 0..40_000 {
        fs::write(shared.join("file"), "text")?;
        fs::remove_file(shared.join("file"))?;
    }
    // When another one has heard of what came last, so could this one have.
    for number in 0.. {
        fs::write(shared.join(format!("last-{number}")), "")?;
        wait::let_pass(Duration::from_millis(100));
        if awake.stdout().contains("last-") {
            break;
        }
        ensure!(!awake.has_ended(), "{}", awake.stdout());
    }
    t.ok(["unpause", &name])?;
    sleeper.wait_for(&format!("{}\n", roles::LOST))?;
    fs::write(shared.join("end"), "")?;
    sleeper.wait_for("end\n")
}

/// What the file server of the machine watches, by inotify.
fn watches(t: &Target) -> Result<usize> {
    let processes = t.machine()?.namespace().processes()?;
    let server = processes.iter().find(|process| process.line.contains(" file-server "));
    let server = server.context("there is no file server")?;
    let mut watches = 0;
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", server.pid.as_raw_nonzero()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        watches += text.lines().filter(|line| line.starts_with("inotify ")).count();
    }
    Ok(watches)
}

fn nothing_without_a_watcher(t: &Target) -> Outcome {
    let shared = shared(t)?;
    ensure_eq!(watches(t)?, 0);
    let name = t.name("watcher");
    let running = watcher(t, &name, "", &listen("/host"))?;
    ensure!((1..=2).contains(&watches(t)?), "the folder, and the one above it: {}", watches(t)?);
    t.ok(["rm", "-f", &name])?;
    running.wait()?;
    // That nobody listens is noticed at the next event.
    fs::write(shared.join("file"), "text")?;
    wait::eventually_true("nothing is watched", Duration::from_secs(20), || Ok(watches(t)? == 0))
}
