//! `coracle restart`.

use std::process::ExitCode;

use anyhow::Result;

use super::{start::start, stop::stop};
use crate::{
    cli,
    machine::{home::Home, process::Orders},
    terminal::say,
};

pub(crate) fn run(args: &cli::Restart) -> Result<ExitCode> {
    let home = Home::from_environment()?;
    if stop(&home.machine(&args.machine.name), args.timeout.timeout)? {
        say(format_args!("Machine '{}' is stopped.", args.machine.name));
    }
    start(
        &home,
        &Orders { name: args.machine.name.clone(), overrides: args.choices.config(), foreground: false },
    )
}
