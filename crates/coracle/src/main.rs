//! `coracle`: the command, and the machine process that it starts.
//!
//! The command is short-lived: it parses ([`cli`]), does one thing ([`verbs`]) and ends. A machine is
//! owned by a process of its own ([`machine::process`]), which is this program again; the command and
//! the app are its clients over `control.sock` ([`control`]). It knows of Docker only that there is an
//! HTTP server behind a vsock port ([`forward`]), what it asks of that about volumes ([`engine`]), and how
//! the docker CLI keeps its contexts ([`docker_context`]).

/// The command line.
mod cli;
/// Talking to a machine process.
mod control;
/// What a report of a problem should hold.
mod diagnostics;
/// The docker CLI's contexts.
mod docker_context;
/// Requests to an engine.
mod engine;
/// Sockets that lead into the guest.
mod forward;
/// Machines and their processes.
mod machine;
/// What differs between host systems.
mod platform;
/// Output.
mod terminal;
/// The commands.
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb};

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Start(args) => verbs::start::run(&args),
        Verb::Stop(args) => verbs::stop::run(&args),
        Verb::Restart(args) => verbs::restart::run(&args),
        Verb::Status(args) => verbs::status::run(&args),
        Verb::List(args) => verbs::list::run(&args),
        Verb::Delete(args) => verbs::delete::run(&args),
        Verb::Shell(args) => verbs::shell::run(args),
        Verb::Logs(args) => verbs::logs::run(&args),
        Verb::Config(args) => verbs::config::run(args),
        Verb::Volume(verb) => verbs::volume::run(verb),
        Verb::Doctor(args) => verbs::doctor::run(&args),
        Verb::DockerContext(args) => verbs::docker_context::run(&args),
        Verb::App(args) => verbs::app::run(&args),
        Verb::MachineProcess(args) => machine::process::run(args.orders()),
        Verb::FileServer(args) => machine::file_server::run(&args.shares()),
    };
    result.unwrap_or_else(|error| {
        terminal::tell(format_args!("coracle: {error:#}"));
        terminal::exit_code(&error)
    })
}
