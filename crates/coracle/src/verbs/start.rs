//! `coracle start`.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
};

use anyhow::{Context, Result};
use wire::app::Response;

use crate::{
    cli,
    control::client,
    docker_context::{DockerConfig, Selection, context_name, docker_host},
    machine::{
        config::Config,
        home::{Home, MachineDir},
        launch::Launch,
        process::Orders,
        size::{MIB, human},
    },
    platform::Signals,
    terminal::{Interrupted, Progress, Reader, TICK, cpus},
};

pub(crate) fn run(args: &cli::Start) -> Result<ExitCode> {
    let reader = Reader::of(args.json);
    reader.conclude(Home::from_environment().and_then(|home| start(&home, &args.orders(), reader)))
}

/// Starts a machine and follows it until Docker answers; in the foreground until it has stopped.
pub(crate) fn start(home: &Home, orders: &Orders, reader: Reader) -> Result<ExitCode> {
    let dir = home.machine(&orders.name);
    let mut launch = Launch::spawn(home, orders)?;
    let interrupted = cancel_on_signal(&launch)?;
    // Read in a thread, so that the line of progress can show time going by.
    let (answers, received) = mpsc::sync_channel(0);
    thread::spawn({
        let dir = dir.clone();
        move || {
            loop {
                let answer = launch.next(&dir);
                let last = answer.is_err();
                if answers.send(Step::Answer(answer)).is_err() || last {
                    break;
                }
            }
            let _ = answers.send(Step::Ended(launch.wait().map(|status| status.success())));
        }
    });
    let mut progress = Progress::begin(reader);
    if let Err(error) = follow(&received, &mut progress) {
        if interrupted.load(Ordering::SeqCst) {
            return Err(Interrupted("the start was taken back").into());
        }
        return Err(error);
    }
    summarise(&dir, &orders.overrides, progress.elapsed(), reader);
    if !orders.foreground {
        return Ok(ExitCode::SUCCESS);
    }
    reader.say("Ctrl-C stops the machine.");
    follow(&received, &mut Progress::begin(reader))?;
    // Nothing runs any more when this returns.
    while let Ok(step) = received.recv() {
        if let Step::Ended(result) = step {
            result?;
        }
    }
    reader.say(format_args!("Machine '{}' is stopped.", dir.name()));
    Ok(ExitCode::SUCCESS)
}

/// What the thread that reads from the machine process passes on.
enum Step {
    Answer(Result<Response>),
    /// The process ended, well or not.
    Ended(Result<bool>),
}

/// Shows progress until the machine process is done with what it does.
fn follow(received: &mpsc::Receiver<Step>, progress: &mut Progress) -> Result<()> {
    let result = loop {
        match received.recv_timeout(TICK) {
            Err(RecvTimeoutError::Timeout) => progress.tick(),
            Ok(Step::Answer(Ok(Response::Progress { message }))) => progress.step(&message),
            Ok(Step::Answer(Ok(Response::Notice { message }))) => progress.note(&message),
            Ok(Step::Answer(Ok(Response::Done))) => break Ok(()),
            Ok(Step::Answer(Err(error))) => break Err(error),
            Ok(Step::Answer(Ok(Response::Status(_) | Response::Failed { .. })) | Step::Ended(_))
            | Err(RecvTimeoutError::Disconnected) => {
                break Err(anyhow::anyhow!("the machine process gave an answer that does not fit"));
            }
        }
    };
    progress.clear();
    result
}

/// Ctrl-C takes the start back; a second one does not wait for that.
fn cancel_on_signal(launch: &Launch) -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut signals =
        Signals::listen(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]).context("cannot handle signals")?;
    let canceller = launch.canceller()?;
    thread::spawn({
        let interrupted = Arc::clone(&interrupted);
        move || {
            while signals.next().is_ok() {
                if interrupted.swap(true, Ordering::SeqCst) {
                    std::process::exit(Interrupted::CODE.into());
                }
                canceller.cancel();
            }
        }
    });
    Ok(interrupted)
}

/// Says what runs now and how to use it.
fn summarise(dir: &MachineDir, chosen: &Config, seconds: f64, reader: Reader) {
    let name = dir.name();
    reader.say(format_args!("Machine '{name}' is running; Docker answers after {seconds:.1} s."));
    // It answered a moment ago: should it be gone, the next command says so.
    if let Ok(status) = client::status(dir) {
        reader.say(format_args!(
            "  {} on {} ({})",
            cpus(status.cpus),
            status.accelerator,
            status.accelerator_reason
        ));
        reader.say(format_args!(
            "  {} memory, {} disk",
            human(status.memory_mib * MIB),
            human(status.disk_bytes)
        ));
    }
    if *chosen != Config::default() {
        reader
            .say(format_args!("  The options are kept in {} for later starts.", dir.config_file().display()));
    }
    let context = context_name(name);
    let selection =
        DockerConfig::from_environment().context("there is no home directory").and_then(|docker| {
            docker.write_context(dir)?;
            docker.select_if_free(dir)
        });
    match selection {
        Ok(Selection::Selected) => reader.say(format_args!("`docker` uses it now (context '{context}').")),
        Ok(Selection::LeftAlone { because }) => {
            reader.say(format_args!(
                "Use it with:  docker --context {context} …   or   docker context use {context}"
            ));
            reader.say(format_args!("It was not selected, for {because}."));
        }
        Err(error) => {
            reader.note(format_args!("the docker context '{context}' was not set up: {error:#}"));
            reader.say(format_args!("Use it with:  export DOCKER_HOST={}", docker_host(dir)));
        }
    }
}
