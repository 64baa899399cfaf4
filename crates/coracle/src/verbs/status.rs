//! `coracle status`.

use std::{
    fs,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use wire::{
    app::{LastExit, State, Status},
    guest::{Figures, Stage},
};

use crate::{
    cli,
    control::client::{self, ControlError, name_flag},
    machine::{
        boot,
        config::{Config, Host},
        disk,
        home::{Home, MachineDir},
        process::unix_ms,
        size::{MIB, human},
    },
    terminal::{Table, say, tell},
};

/// Exit code when the machine does not run, as service managers have it.
const NOT_RUNNING: u8 = 3;

pub(crate) fn run(args: &cli::Status) -> Result<ExitCode> {
    let dir = Home::from_environment()?.machine(&args.machine.name);
    if !dir.exists() {
        let name = dir.name();
        tell(format_args!(
            "coracle: there is no machine '{name}'; create it with `coracle start{}`",
            name_flag(name.as_str())
        ));
        return Ok(ExitCode::from(NOT_RUNNING));
    }
    let status = of(&dir)?;
    if args.json {
        say(serde_json::to_string_pretty(&status)?);
    } else {
        say(table(&status));
    }
    Ok(if status.state == State::Running { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) })
}

/// The status of a machine that exists, whether it runs or not.
pub(crate) fn of(dir: &MachineDir) -> Result<Status> {
    match client::status(dir) {
        Ok(status) => Ok(status),
        Err(ControlError::NotRunning(_) | ControlError::Gone(_)) => stopped(dir),
        Err(error) => Err(error.into()),
    }
}

/// What can be told about a machine without a process, from its files.
fn stopped(dir: &MachineDir) -> Result<Status> {
    let disk_now = disk::current_size(&dir.disk_image()).ok().flatten();
    // A mistake in the file is told by `start` and `config`; a status is still wanted.
    let settings =
        Config::load(&dir.config_file()).and_then(|config| config.settle(&Host::this()?, disk_now)).ok();
    Ok(Status {
        name: dir.name().to_string(),
        state: State::Stopped,
        docker_socket: dir.docker_socket().display().to_string(),
        cpus: settings.as_ref().map_or(0, |settings| settings.cpus),
        memory_mib: settings.as_ref().map_or(0, |settings| settings.memory.mib()),
        disk_bytes: disk_now.map_or(0, |size| size.bytes()),
        disk_used_bytes: disk::used_bytes(&dir.disk_image()),
        accelerator: String::new(),
        accelerator_reason: String::new(),
        pid: 0,
        emulator_pid: None,
        started_at_ms: 0,
        ready_after_ms: None,
        guest: None,
        last_exit: last_exit(dir),
    })
}

/// How the machine ended last.
fn last_exit(dir: &MachineDir) -> Option<LastExit> {
    if let Ok(bytes) = fs::read(dir.last_exit_file()) {
        return serde_json::from_slice(&bytes).ok();
    }
    // Every start removes the note and every end writes it.
    dir.exists().then(|| LastExit {
        at_ms: None,
        clean: false,
        reason: "its process ended without a word: it was killed, or the host went down".to_owned(),
    })
}

fn table(status: &Status) -> Table {
    let mut table = Table::default();
    table.row(["Machine", &status.name]);
    table.row(["State", &state_line(status)]);
    if let Some(guest) = &status.guest {
        let restarts = match guest.engine_restarts {
            0 => String::new(),
            n => format!(", engine restarted {n} times after crashes"),
        };
        let engine = match &guest.stage {
            Stage::Failed { message } => format!("failed: {message}"),
            stage => boot::describe(stage).to_owned(),
        };
        table.row(["Engine", &format!("{engine}{restarts}")]);
        table.row(["Guest", &format!("agent {}, Linux {}", guest.agent_version, guest.kernel)]);
        if let Some(figures) = &guest.figures {
            table.row(["", &busy(figures, guest.uptime_ms, status.cpus)]);
        }
    }
    table.row(["Docker", &format!("unix://{}", status.docker_socket)]);
    if !status.accelerator.is_empty() {
        table.row([
            "CPUs",
            &format!("{} on {} ({})", status.cpus, status.accelerator, status.accelerator_reason),
        ]);
    } else if status.cpus > 0 {
        table.row(["CPUs", &status.cpus.to_string()]);
    }
    if status.memory_mib > 0 {
        table.row(["Memory", &format!("up to {}", human(status.memory_mib * MIB))]);
    }
    table.row([
        "Disk",
        &format!("{}, {} of the host's disk used", human(status.disk_bytes), human(status.disk_used_bytes)),
    ]);
    if status.pid != 0 {
        let emulator = status.emulator_pid.map(|pid| format!(", emulator {pid}")).unwrap_or_default();
        table.row(["Process", &format!("{}{emulator}", status.pid)]);
    }
    table
}

/// How busy the guest is, for a person.
fn busy(figures: &Figures, uptime_ms: u64, cpus: u8) -> String {
    let time = u128::from(uptime_ms) * u128::from(cpus.max(1));
    let percent = (u128::from(figures.cpu_busy_ms) * 100 + time / 2) / time.max(1);
    format!(
        "{} of {} memory, {} of {} disk used; CPUs busy for {percent} % of the time",
        human(figures.memory_total_bytes.saturating_sub(figures.memory_available_bytes)),
        human(figures.memory_total_bytes),
        human(figures.disk_total_bytes.saturating_sub(figures.disk_free_bytes)),
        human(figures.disk_total_bytes),
    )
}

fn state_line(status: &Status) -> String {
    let now = unix_ms(SystemTime::now());
    let ago = |ms: u64| age(Duration::from_millis(now.saturating_sub(ms)));
    match status.state {
        State::Starting => format!("starting for {}", ago(status.started_at_ms)),
        State::Running => {
            let took = status
                .ready_after_ms
                .map(|ms| format!(" (ready after {}.{} s)", ms / 1000, ms % 1000 / 100))
                .unwrap_or_default();
            format!("running for {}{took}", ago(status.started_at_ms))
        }
        State::Stopping => "stopping".to_owned(),
        State::Stopped => match &status.last_exit {
            Some(LastExit { at_ms: Some(at), reason, .. }) => format!("stopped {} ago: {reason}", ago(*at)),
            Some(LastExit { reason, .. }) => format!("stopped: {reason}"),
            None => "stopped".to_owned(),
        },
    }
}

/// A duration in its two largest units.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn figures_are_told_as_what_is_used() {
        let figures = Figures {
            cpu_busy_ms: 500,
            memory_total_bytes: 1 << 30,
            memory_available_bytes: 1 << 29,
            disk_total_bytes: 8 << 30,
            disk_free_bytes: 7 << 30,
        };
        let text = busy(&figures, 10_000, 2);
        assert_eq!(text, "512 MiB of 1 GiB memory, 1 GiB of 8 GiB disk used; CPUs busy for 3 % of the time");
        // A machine that says nonsense harms nobody.
        let nonsense = Figures {
            memory_available_bytes: u64::MAX,
            disk_free_bytes: u64::MAX,
            cpu_busy_ms: u64::MAX,
            ..figures
        };
        busy(&nonsense, 0, 0);
    }

    #[test]
    fn a_machine_whose_process_was_killed_says_so() {
        let home = tempfile::tempdir().unwrap();
        let dir = Home::at(home.path()).machine(&"default".parse().unwrap());
        dir.create().unwrap();
        fs::write(dir.lock_file(), "1").unwrap();
        let status = of(&dir).unwrap();
        assert_eq!(status.state, State::Stopped);
        assert!(state_line(&status).contains("killed"), "{}", state_line(&status));
        let note = LastExit { at_ms: Some(0), clean: true, reason: "stopped as asked".into() };
        fs::write(dir.last_exit_file(), serde_json::to_vec(&note).unwrap()).unwrap();
        assert_eq!(of(&dir).unwrap().last_exit, Some(note));
    }
}
