//! `coracle restart`.

use std::process::ExitCode;

use anyhow::Result;

use super::{start::start, stop::stop};
use crate::{
    cli,
    machine::{home::Home, process::Orders},
    terminal::Reader,
};

pub(crate) fn run(args: &cli::Restart) -> Result<ExitCode> {
    let reader = Reader::of(args.json);
    let restarting = || {
        let home = Home::from_environment()?;
        if stop(&home.machine(&args.machine.name), args.timeout.timeout, reader)? {
            reader.say(format_args!("Machine '{}' is stopped.", args.machine.name));
        }
        let orders =
            Orders { name: args.machine.name.clone(), overrides: args.choices.config(), foreground: false };
        start(&home, &orders, reader)
    };
    reader.conclude(restarting())
}
