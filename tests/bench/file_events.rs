use std::fs::{self, File};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tests::archive::{self, Image, Tar, busybox_root};
use tests::engine::{Engine, Kind};
use tests::{leftovers, wait};

use crate::ports::programs;
use crate::table::{Figure, Limit, Value};

/// `… FOLDER`: answers each file that is written to `FOLDER/asked` with one of the same name in `FOLDER/answered`.
const ANSWERER: &str = "--role=answer-files";

const EDITS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs as the container's program, if this process was started as it.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    if words.next()? != ANSWERER {
        return None;
    }
    let folder = words.next()?;
    match answer(Path::new(&folder)) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            let _ = writeln!(std::io::stdout(), "failure: {error:#}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn answer(folder: &Path) -> Result<()> {
    let mut asked = Watch::new(&folder.join("asked"))?;
    File::create(folder.join("answered/ready"))?;
    loop {
        let name = asked.next()?;
        File::create(folder.join("answered").join(&name))?;
        if name == "last" {
            return Ok(());
        }
    }
}

/// Names of files in a folder that were written and closed.
struct Watch {
    inotify: OwnedFd,
    names: Vec<String>,
}

impl Watch {
    fn new(folder: &Path) -> Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, folder, WatchFlags::CLOSE_WRITE)
            .with_context(|| format!("watching {}", folder.display()))?;
        Ok(Watch { inotify, names: Vec::new() })
    }

    fn next(&mut self) -> Result<String> {
        while self.names.is_empty() {
            let mut ready = [PollFd::new(&self.inotify, PollFlags::IN)];
            let patience = Timespec::try_from(PATIENCE)?;
            if poll(&mut ready, Some(&patience))? == 0 {
                bail!("nothing was heard for {PATIENCE:?}");
            }
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&self.inotify, &mut buffer);
            while let Ok(event) = reader.next() {
                let name = event.file_name().context("an event without a name")?;
                self.names.insert(0, name.to_str()?.to_owned());
            }
        }
        self.names.pop().context("no name")
    }
}

/// From an edit on the host until what a program in a container answers to its event is on the host.
pub(crate) fn heard() -> Result<Vec<Figure>> {
    let engine = Engine::start(Kind::Machine)?;
    let image = Image::new("answerer:latest", busybox_root()?).layer(programs(Tar::default())?.finish()?);
    let folder = leftovers::folder()?;
    let file = archive::write(folder.path(), "answerer.tar", &image.docker_archive()?)?;
    engine.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
    let (asked, answered) = (folder.path().join("asked"), folder.path().join("answered"));
    fs::create_dir(&asked)?;
    fs::create_dir(&answered)?;
    let mut answers = Watch::new(&answered)?;
    let mount = format!("{}:/host", folder.path().display());
    let run = ["run", "-d", "--network", "none", "-v", &mount, "answerer", "/traffic", ANSWERER, "/host"];
    engine.docker(run).output()?.expect_code(0)?;
    anyhow::ensure!(answers.next()? == "ready", "the container answers before it was asked");

    let mut times = Vec::with_capacity(EDITS);
    for number in 0..EDITS {
        let name = if number + 1 == EDITS { "last".to_owned() } else { number.to_string() };
        let begun = Instant::now();
        fs::write(asked.join(&name), "edited")?;
        let answer = answers.next()?;
        times.push(begun.elapsed());
        anyhow::ensure!(answer == name, "{name} was answered by {answer}");
        // As somebody who types, not as a machine that waits for the answer.
        wait::let_pass(Duration::from_millis(10));
    }
    times.sort_unstable();
    let figure = |what: &str, place: usize, limit| Figure {
        name: format!("edit on the host until a container's answer to its event: {what}"),
        ours: Value::time(times[place]),
        peer: None,
        limit,
        samples: EDITS,
    };
    Ok(vec![
        figure("median", EDITS / 2, None),
        figure("99 of 100", EDITS * 99 / 100, Some(Limit::Value(20.0))),
    ])
}
