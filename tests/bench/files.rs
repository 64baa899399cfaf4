//! Work on files: this binary again, in a guest, on a folder that one of several servers has there.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::archive::{self, Image, Tar, busybox_root};
use tests::engine::{Engine, Kind};
use tests::process::Running;
use tests::{leftovers, places, wait};

use crate::emulator::{Emulator, LAST_SLOT};
use crate::file_programs;
use crate::ports::programs;
use crate::table::{Figure, Limit, Value};
use crate::traffic::median;

/// `… FOLDER NAME BASE`: works there with programs of the folder BASE, and prints what it took.
const WORKER: &str = "--role=files";

/// Names the folder that holds `virtiofsd`.
const FILE_SERVERS: &str = "CORACLE_FILE_SERVERS";

const ROUNDS: usize = 3;
/// Of the file that is written and read.
const FILE_BYTES: usize = 64 << 20;
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;
/// Pages that are read and written here and there.
const PAGES: usize = 2000;
/// Files of the tree that is walked, in folders of so many.
const TREE: usize = 50_000;
const IN_FOLDER: usize = 500;
/// Files made and removed.
const MADE: usize = 10_000;

/// What is done, its name, and its unit: bytes a second where there are bytes, else seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Write,
    Read,
    RandomRead,
    RandomWrite,
    Walk,
    WalkAgain,
    Make,
    GitStatus,
    NpmInstall,
}

const WORKS: [(Work, &str, Option<usize>); 9] = [
    (Work::Write, "64 MiB written and synced", Some(FILE_BYTES)),
    (Work::Read, "64 MiB read", Some(FILE_BYTES)),
    (Work::RandomRead, "4 KiB read here and there", Some(PAGES * PAGE)),
    (Work::RandomWrite, "4 KiB written here and there", Some(PAGES * PAGE)),
    (Work::Walk, "stat of 50,000 files", None),
    (Work::WalkAgain, "stat of 50,000 files, again", None),
    (Work::Make, "10,000 files made and removed", None),
    (Work::GitStatus, "git status of 5,000 files", None),
    (Work::NpmInstall, "npm ci of express", None),
];

/// Runs as a worker, if this process was started as one.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    if words.next()? != WORKER {
        return None;
    }
    let (folder, name, base) = (words.next()?, words.next()?, words.next()?);
    match work(Path::new(&folder), &name, Path::new(&base)) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            let _ = writeln!(std::io::stdout(), "failure of {name}: {error:#}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn work(folder: &Path, name: &str, base: &Path) -> Result<()> {
    let (tree, repository, project) =
        (folder.join("tree"), folder.join("repository"), folder.join("project"));
    if !tree.exists() {
        grow(&tree)?;
        file_programs::repository(Some(base), &repository)?;
    }
    if !project.exists() {
        file_programs::project(base, &project)?;
        // What the repository's index says of the files is of the host.
        file_programs::status(base, &repository)?;
    }
    for (place, (work, ..)) in WORKS.iter().enumerate() {
        if *work != Work::WalkAgain {
            forget()?;
        }
        let started = Instant::now();
        match work {
            Work::Walk | Work::WalkAgain => ensure!(walk(&tree)? == TREE, "files are missing"),
            Work::Make => make(&folder.join("made"))?,
            Work::GitStatus => file_programs::status(base, &repository)?,
            Work::NpmInstall => file_programs::install(base, &project)?,
            work => on_file(&folder.join("file"), *work)?,
        }
        let seconds = started.elapsed().as_secs_f64();
        writeln!(std::io::stdout(), "figure {name} {place} {seconds}")?;
    }
    Ok(())
}

/// Has the kernel forget what it knows of files.
fn forget() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")
}

fn grow(tree: &Path) -> Result<()> {
    for number in 0..TREE {
        let folder = tree.join((number / IN_FOLDER).to_string());
        if number % IN_FOLDER == 0 {
            fs::create_dir_all(&folder)?;
        }
        File::create(folder.join(number.to_string()))?;
    }
    Ok(())
}

fn walk(folder: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        files += if fs::symlink_metadata(&path)?.is_dir() { walk(&path)? } else { 1 };
    }
    Ok(files)
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    for number in 0..MADE {
        File::create(folder.join(number.to_string()))?;
    }
    for number in 0..MADE {
        fs::remove_file(folder.join(number.to_string()))?;
    }
    Ok(fs::remove_dir(folder)?)
}

fn on_file(path: &Path, work: Work) -> Result<()> {
    let mut piece = vec![7; PIECE];
    // The same places each time, with nothing in common (a generator of Lehmer's).
    let mut state = 1_u64;
    let mut places = std::iter::from_fn(|| {
        state = state * 48271 % 0x7fff_ffff;
        let page = state % u64::try_from(FILE_BYTES / PAGE).ok()?;
        Some(page * u64::try_from(PAGE).ok()?)
    });
    match work {
        Work::Write => {
            let mut file = File::create(path)?;
            for _ in 0..FILE_BYTES / PIECE {
                file.write_all(&piece)?;
            }
            file.sync_all()?;
        }
        Work::Read => {
            let mut file = File::open(path)?;
            for _ in 0..FILE_BYTES / PIECE {
                file.read_exact(&mut piece)?;
            }
        }
        Work::RandomRead => {
            let file = File::open(path)?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
            for place in places.by_ref().take(PAGES) {
                file.read_exact_at(&mut piece[..PAGE], place)?;
            }
        }
        _ => {
            let file = File::options().write(true).open(path)?;
            for place in places.by_ref().take(PAGES) {
                file.write_all_at(&piece[..PAGE], place)?;
            }
        }
    }
    Ok(())
}

/// Ours, virtiofsd's and 9p's in one guest, in turn; then a volume of the machine.
pub(crate) fn of_the_host() -> Result<Vec<Figure>> {
    let engine = Engine::start(Kind::Machine)?;
    let emulator = Emulator::of(engine.machine()?)?;
    let volume = on_a_volume(&engine)?;
    let [ours, virtiofsd, nine] = in_a_guest(&engine, &emulator)?;
    let mut figures = Vec::new();
    for (place, (_, name, bytes)) in WORKS.into_iter().enumerate() {
        let value = |all: &[Vec<f64>]| {
            let seconds = median(all.iter().filter_map(|round| round.get(place).copied()).collect());
            match bytes {
                Some(bytes) => Value { number: bytes as f64 / 1e6 / seconds, unit: "MB/s" },
                None => Value { number: seconds, unit: "s" },
            }
        };
        // More bytes a second are better, and fewer seconds.
        let least = |times: f64| match bytes {
            Some(_) => Limit::AtLeastRatio(times),
            None => Limit::Ratio(1.0 / times),
        };
        for (peer, theirs, times) in
            [("virtiofsd", &virtiofsd, Some(1.0)), ("9p", &nine, Some(3.0)), ("a volume", &volume, None)]
        {
            figures.push(Figure {
                name: format!("folder of the host: {name}"),
                ours: value(&ours),
                peer: Some((peer, value(theirs))),
                limit: times.map(least),
                samples: ROUNDS,
            });
        }
    }
    Ok(figures)
}

/// All rounds of each of the works.
type Rounds = Vec<Vec<f64>>;

fn parse(text: &str, name: &str) -> Result<Rounds> {
    let mut rounds = Rounds::new();
    ensure!(!text.contains("failure of"), "{text}");
    for line in text.lines() {
        let Some((_, line)) = line.split_once("figure ") else { continue };
        let mut words = line.split_whitespace();
        if words.next() != Some(name) {
            continue;
        }
        let place: usize = words.next().context("no place")?.parse()?;
        let seconds: f64 = words.next().context("no figure")?.parse()?;
        if place == 0 {
            rounds.push(Vec::new());
        }
        rounds.last_mut().context("a round without a beginning")?.push(seconds);
    }
    ensure!(rounds.len() == ROUNDS && rounds.iter().all(|round| round.len() == WORKS.len()), "{text}");
    Ok(rounds)
}

fn on_a_volume(engine: &Engine) -> Result<Rounds> {
    let image = Image::new("worker:latest", busybox_root()?)
        .layer(file_programs::add(programs(Tar::default())?)?.finish()?);
    let folder = leftovers::folder()?;
    let file = archive::write(folder.path(), "worker.tar", &image.docker_archive()?)?;
    engine.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
    let mut text = String::new();
    for _ in 0..ROUNDS {
        let run = [
            "run",
            "--rm",
            "--privileged",
            "-v",
            "work:/work",
            "worker",
            "/traffic",
            WORKER,
            "/work",
            "volume",
            "/",
        ];
        text += &engine.docker(run).timeout(Duration::from_secs(900)).output()?.text()?;
        text.push('\n');
    }
    parse(&text, "volume")
}

/// What serves a folder of the host to the guest.
struct Servers {
    _virtiofsd: Running,
    socket: PathBuf,
    listener: UnixListener,
}

fn in_a_guest(engine: &Engine, emulator: &Emulator) -> Result<[Rounds; 3]> {
    let folder = leftovers::folder()?;
    let path = |name: &str| folder.path().join(name);
    for name in ["ours", "virtiofsd", "9p"] {
        fs::create_dir(path(name))?;
        grow(&path(name).join("tree"))?;
        file_programs::repository(None, &path(name).join("repository"))?;
    }
    let namespace = engine.namespace();
    let tools = std::env::var_os(FILE_SERVERS).context("CORACLE_FILE_SERVERS is not set")?;
    let virtiofsd = namespace
        .adopt(tests::process::Program::new(Path::new(&tools).join("virtiofsd")))
        .args([format!("--socket-path={}", path("v.sock").display()), "--sandbox=none".to_owned()])
        .arg(format!("--shared-dir={}", path("virtiofsd").display()))
        .timeout(Duration::from_secs(3600))
        .spawn()?;
    let servers = Servers {
        _virtiofsd: virtiofsd,
        socket: path("o.sock"),
        listener: UnixListener::bind(path("o.sock"))?,
    };
    wait::eventually_true("virtiofsd listens", Duration::from_secs(10), || Ok(path("v.sock").exists()))?;

    let disk =
        archive::write(folder.path(), "programs", &file_programs::add(programs(Tar::default())?)?.finish()?)?;
    let drive = format!("file={},format=raw,if=none,id=programs,readonly=on", disk.display());
    let slot = |number: u8| format!("bus=virtio-mmio-bus.{}", LAST_SLOT - number);
    let chardev = |id: &str, path: &Path| format!("socket,id={id},path={}", path.display());
    let rounds = "for T in ours virtiofsd 9p; do D=/tmp/$T; test $T = ours && D=/tmp/ours/0; \
                  $L --library-path /tmp/lib/x86_64-linux-gnu /tmp/traffic --role=files $D $T /tmp; done";
    let script = format!(
        "{:\n<64}mount -t tmpfs none /tmp
         mount -t proc none /proc
         tar x -C /tmp </dev/vdb
         mkdir /tmp/ours /tmp/virtiofsd /tmp/9p
         mount -t virtiofs ours /tmp/ours
         mount -t virtiofs virtiofsd /tmp/virtiofsd
         mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 nine /tmp/9p
         L=/tmp/lib64/ld-linux-x86-64.so.2
         {rounds}
         {rounds}
         {rounds}
         exit\n",
        ""
    );
    let program = emulator.program("/bin/sh", "stdio").stdin(script).args([
        "-drive",
        &drive,
        "-device",
        &format!("virtio-blk-device,drive=programs,{}", slot(1)),
        "-chardev",
        &chardev("ours", &servers.socket),
        "-device",
        &format!("vhost-user-fs-device,chardev=ours,tag=ours,queue-size=1024,{}", slot(2)),
        "-chardev",
        &chardev("virtiofsd", &path("v.sock")),
        "-device",
        &format!("vhost-user-fs-device,chardev=virtiofsd,tag=virtiofsd,queue-size=1024,{}", slot(3)),
        "-fsdev",
        &format!("local,id=nine,path={},security_model=passthrough", path("9p").display()),
        "-device",
        &format!("virtio-9p-device,fsdev=nine,mount_tag=nine,{}", slot(4)),
    ]);
    let running = namespace.adopt(program).timeout(Duration::from_secs(3600)).spawn()?;
    // The emulator connects when it starts; ours is handed the connection, as a machine's process does it.
    let (connection, _) = servers.listener.accept()?;
    let mut ours = Command::new(places::coracle()?)
        .arg("file-server")
        .arg(format!("--share={}", path("ours").display()))
        .stdin(OwnedFd::from(connection))
        .stdout(Stdio::null())
        .spawn()
        .context("starting the file server")?;
    let output = running.wait()?;
    let served = ours.wait()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(served.success(), "the file server ended with {served}: {text}");
    Ok([parse(&text, "ours")?, parse(&text, "virtiofsd")?, parse(&text, "9p")?])
}
