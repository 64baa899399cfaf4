//! `coracle stop`.

use std::{process::ExitCode, sync::mpsc, thread};

use anyhow::Result;
use wire::app::{Request, Response};

use crate::{
    cli,
    control::client::{ControlError, Exchange},
    machine::home::{Home, MachineDir},
    terminal::{Progress, Reader, TICK},
};

pub(crate) fn run(args: &cli::Stop) -> Result<ExitCode> {
    let reader = Reader::of(args.json);
    let stopping = || {
        let dir = Home::from_environment()?.machine(&args.machine.name);
        let name = dir.name();
        if stop(&dir, args.timeout.timeout, reader)? {
            reader.say(format_args!("Machine '{name}' is stopped."));
        } else if dir.exists() {
            reader.say(format_args!("Machine '{name}' is not running; nothing to do."));
        } else {
            reader.say(format_args!("There is no machine '{name}'; nothing to do."));
        }
        Ok(ExitCode::SUCCESS)
    };
    reader.conclude(stopping())
}

/// Stops a machine and waits until it is off. False if it was not running.
pub(crate) fn stop(dir: &MachineDir, timeout_seconds: u32, reader: Reader) -> Result<bool> {
    let mut exchange = match Exchange::open(dir, &Request::Stop { timeout_seconds }) {
        Ok(exchange) => exchange,
        Err(ControlError::NotRunning(_) | ControlError::Gone(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let (answers, received) = mpsc::sync_channel(0);
    thread::spawn(move || {
        loop {
            let answer = exchange.next();
            let last = !matches!(answer, Ok(Response::Progress { .. } | Response::Notice { .. }));
            if answers.send(answer).is_err() || last {
                break;
            }
        }
    });
    let mut progress = Progress::begin(reader);
    loop {
        match received.recv_timeout(TICK) {
            Err(_) => progress.tick(),
            Ok(Ok(Response::Progress { message })) => progress.step(&message),
            Ok(Ok(Response::Notice { message })) => progress.note(&message),
            Ok(answer) => {
                progress.clear();
                return match answer {
                    Ok(_) => Ok(true),
                    Err(error) => Err(error.into()),
                };
            }
        }
    }
}
