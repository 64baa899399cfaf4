//! `coracle list`.

use std::process::ExitCode;

use anyhow::Result;
use wire::app::{State, Status};

use super::status;
use crate::{
    cli,
    machine::{
        home::Home,
        size::{MIB, human},
    },
    terminal::{Table, say, tell},
};

pub(crate) fn run(args: &cli::List) -> Result<ExitCode> {
    let mut statuses: Vec<Status> = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for dir in Home::from_environment()?.machines()? {
        match status::of(&dir) {
            Ok(status) => statuses.push(status),
            // The others are still worth listing.
            Err(error) => {
                tell(format_args!("coracle: {error:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    if args.json {
        say(serde_json::to_string_pretty(&statuses)?);
        return Ok(code);
    }
    let mut table = Table::default();
    table.row(["NAME", "STATE", "CPUS", "MEMORY", "DISK", "DOCKER"]);
    for status in &statuses {
        table.row([
            status.name.as_str(),
            word(status.state),
            &status.cpus.to_string(),
            &human(status.memory_mib * MIB),
            &format!("{} of {}", human(status.disk_used_bytes), human(status.disk_bytes)),
            &format!("unix://{}", status.docker_socket),
        ]);
    }
    say(table);
    Ok(code)
}

fn word(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
    }
}
