//! The guest's one static program. What it is depends on its first argument:
//!
//! * `init`: PID 1 of the VM, see [`init`];
//! * `engine`: the container engine, which also runs on any Linux as root;
//! * `oci`: the engine's helper, one short process for each container and exec;
//! * `shim`: the engine's helper that holds running containers.
//!
//! Called `docker-init`, it is PID 1 of a container that wants one.

/// The engine's options and its runtime.
mod engine_command;
/// PID 1.
mod init;
/// Messages.
mod logging;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use engine::runtime::init::PATH as DOCKER_INIT;

#[derive(Debug, Parser)]
#[command(
    name = "coracle-agent",
    version,
    about = "The container engine of a Coracle machine, and its PID 1"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the Docker Engine API
    Engine(Box<engine_command::Options>),
    /// Prepares the machine and keeps the engine running; only as PID 1
    Init,
}

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let name = arguments.next();
    // Before anything looks at its process id: it is 1 in a container, too.
    if name.is_some_and(|name| Path::new(&name).file_name() == Path::new(DOCKER_INIT).file_name()) {
        return engine::runtime::init::main(arguments.collect());
    }
    // The helpers come first: they start with every container, and must not pay for more.
    match arguments.next().as_deref().and_then(|first| first.to_str()) {
        Some("oci") => return engine::runtime::oci::main(arguments.collect()),
        Some("shim") => return engine::shim::main(arguments.collect()),
        // The engine can be PID 1 as well, of a container or of a test's namespace.
        Some("engine") => {}
        // The kernel hands PID 1 whatever it did not understand of its command line.
        _ if std::process::id() == 1 => init::main(),
        _ => {}
    }
    match Cli::parse().command {
        Command::Engine(options) => engine_command::main(*options),
        Command::Init => {
            // Anywhere else it would take the running system for its own, and end it.
            Cli::parse_error("`init` runs only as PID 1 of a machine")
        }
    }
}

impl Cli {
    fn parse_error(message: &str) -> ExitCode {
        use clap::CommandFactory;
        let error = Cli::command().error(clap::error::ErrorKind::InvalidValue, message);
        // Nowhere to say that standard error does not work.
        let _ = error.print();
        ExitCode::FAILURE
    }
}
