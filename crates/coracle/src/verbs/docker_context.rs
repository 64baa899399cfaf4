//! `coracle docker-context`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    cli,
    docker_context::{DockerConfig, Use, context_name},
    machine::home::Home,
    terminal::say,
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The machine's own context.
    name: String,
    /// The context, or the address, that `docker` uses.
    current: String,
    /// Whether that is the machine's.
    selected: bool,
    /// The environment variable that decides, whatever is selected.
    variable: Option<&'static str>,
}

pub(crate) fn run(args: &cli::DockerContext) -> Result<ExitCode> {
    let dir = Home::from_environment()?.machine(&args.machine.name);
    let docker = DockerConfig::from_environment()
        .context("there is no home directory to keep docker contexts in; set HOME or DOCKER_CONFIG")?;
    if args.select {
        docker.write_context(&dir)?;
        docker.select(&dir)?;
    }
    let name = context_name(dir.name());
    let Use { current, variable } = docker.in_use()?;
    let report = Report { selected: current == name, name, current, variable };
    if args.json {
        say(serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    let Report { name, current, selected, variable } = report;
    match (selected, variable) {
        (true, _) => say(format_args!("`docker` uses this machine (context '{name}').")),
        (false, Some(variable)) => say(format_args!(
            "`docker` uses {current}, as {variable} says. Unset {variable} to follow the selected context."
        )),
        (false, None) => say(format_args!(
            "`docker` uses the context '{current}'. `coracle docker-context --select` makes it use this machine ('{name}')."
        )),
    }
    Ok(ExitCode::SUCCESS)
}
