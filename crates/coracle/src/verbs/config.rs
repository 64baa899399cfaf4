//! `coracle config`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{ConfigAction, ConfigArgs},
    control::client,
    machine::{
        config::{Config, Host, KEYS, Refused, Settings},
        disk,
        home::{Home, MachineDir},
        name::MachineName,
    },
    terminal::{Table, say},
};

pub(crate) fn run(args: ConfigArgs) -> Result<ExitCode> {
    let home = Home::from_environment()?;
    let dir = |name: &MachineName| home.machine(name);
    match args.action {
        None => get(&dir(&args.machine.name), None)?,
        Some(ConfigAction::Get { key, machine, json }) => {
            let dir = dir(&machine.name);
            if json {
                say(serde_json::to_string_pretty(&Report::of(&dir)?)?)
            } else {
                get(&dir, key.as_deref())?
            }
        }
        Some(ConfigAction::Set { pairs, unset, machine, json }) => {
            return set(&dir(&machine.name), &pairs, &unset, json);
        }
        Some(ConfigAction::Unset { keys, machine }) => return set(&dir(&machine.name), &[], &keys, false),
        Some(ConfigAction::Path { machine }) => say(dir(&machine.name).config_file().display()),
    }
    Ok(ExitCode::SUCCESS)
}

fn get(dir: &MachineDir, key: Option<&str>) -> Result<()> {
    let config = Config::load(&dir.config_file())?;
    let chosen: Vec<String> = config.choices()?.map(|(key, _)| key).collect();
    let values = settle(dir, config)?.values();
    if let Some(key) = key {
        let Some(index) = KEYS.iter().position(|known| *known == key) else {
            bail!("unknown key {key:?}; the keys are {}", KEYS.join(", "));
        };
        say(&values[index]);
        return Ok(());
    }
    let mut table = Table::default();
    for (key, value) in KEYS.iter().zip(&values) {
        table.row([*key, value, if chosen.iter().any(|chosen| chosen == key) { "" } else { "(default)" }]);
    }
    say(table);
    Ok(())
}

/// What `coracle config get --json` says.
#[derive(Debug, Serialize)]
struct Report {
    values: BTreeMap<&'static str, Value>,
    /// Whether the machine runs with other values than these.
    restart_needed: bool,
    /// Where the choices are kept.
    file: String,
    /// What is wrong with that file; `values` are the defaults then.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Value {
    /// As `coracle config set` takes it.
    chosen: Option<String>,
    /// What holds at the next start.
    effective: String,
}

impl Report {
    fn of(dir: &MachineDir) -> Result<Report> {
        let stored =
            Config::load(&dir.config_file()).and_then(|config| Ok((settle(dir, config.clone())?, config)));
        let (settings, config, error) = match stored {
            Ok((settings, config)) => (settings, config, None),
            Err(error) => (settle(dir, Config::default())?, Config::default(), Some(format!("{error:#}"))),
        };
        let chosen: Vec<String> = config.choices()?.map(|(key, _)| key).collect();
        let value = |(key, effective): (&'static str, String)| {
            let chosen = chosen.iter().any(|chosen| chosen == key).then(|| effective.clone());
            (key, Value { chosen, effective })
        };
        Ok(Report {
            restart_needed: error.is_none() && restart_needed(dir, &settings),
            values: KEYS.into_iter().zip(settings.values()).map(value).collect(),
            file: dir.config_file().display().to_string(),
            error,
        })
    }
}

/// Whether a machine runs, and was started with other settings. Both are completed from the same environment, so that
/// only what was chosen makes a difference.
fn restart_needed(dir: &MachineDir, settings: &Settings) -> bool {
    let started = dir.started_config_file();
    if !started.exists() || client::status(dir).is_err() {
        return false;
    }
    // Choices of a machine that runs settle; if they do not, the disk or the host is another than then.
    Config::load(&started).and_then(|config| settle(dir, config)).map_or(true, |then| then != *settings)
}

fn set(dir: &MachineDir, pairs: &[String], unset: &[String], json: bool) -> Result<ExitCode> {
    let changed = change(dir, pairs, unset);
    if json {
        return Ok(match changed {
            Ok(()) => {
                say(serde_json::to_string_pretty(&Report::of(dir)?)?);
                ExitCode::SUCCESS
            }
            Err(error) => {
                let key = error.downcast_ref::<Refused>().map(|refused| refused.key);
                say(json!({ "refused": { "key": key, "message": format!("{error:#}") } }));
                ExitCode::FAILURE
            }
        });
    }
    changed?;
    if client::status(dir).is_ok() {
        say("Takes effect when the machine is restarted (`coracle restart`).");
    }
    Ok(ExitCode::SUCCESS)
}

/// Changes the file at once, or not at all.
fn change(dir: &MachineDir, pairs: &[String], unset: &[String]) -> Result<()> {
    let (pairs, rest) = pairs.as_chunks::<2>();
    if let [key] = rest {
        bail!("there is no value for {key:?}; write KEY VALUE, and more of them if you like");
    }
    let mut change = Config::default();
    for [key, value] in pairs {
        if unset.contains(key) {
            bail!("{key} is both set and unset");
        }
        change = change.overridden_by(Config::of(key, value)?);
    }
    let mut old = Config::load(&dir.config_file())?;
    for key in unset {
        old = old.without(key)?;
    }
    // Refused now rather than at the next start.
    let settings = settle(dir, old.overridden_by(change.clone()))?;
    if change.shares.is_some() {
        settings
            .shares
            .check()
            .map_err(|error| Refused::new("shares", &settings.shares, format!("{error:#}")))?;
    }
    dir.create()?;
    change.save_without(&dir.config_file(), unset)
}

fn settle(dir: &MachineDir, config: Config) -> Result<Settings> {
    config.settle(&Host::this()?, disk::current_size(&dir.disk_image())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(home: &tempfile::TempDir) -> MachineDir {
        Home::at(home.path()).machine(&"default".parse().unwrap())
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn several_changes_are_one_and_a_refused_one_takes_all_back() {
        let home = tempfile::tempdir().unwrap();
        let dir = machine(&home);
        change(&dir, &words("cpus 1 accel qemu"), &[]).unwrap();
        let before = fs::read_to_string(dir.config_file()).unwrap();
        let error = change(&dir, &words("cpus 2 memory 1M"), &[]).unwrap_err();
        assert_eq!(error.downcast::<Refused>().unwrap().key, "memory");
        for (pairs, unset) in
            [("cpus 2 accel", ""), ("cpus 2 colour red", ""), ("cpus 2", "cpus"), ("", "colour")]
        {
            assert!(change(&dir, &words(pairs), &words(unset)).is_err(), "{pairs} without {unset}");
        }
        assert_eq!(fs::read_to_string(dir.config_file()).unwrap(), before);
        change(&dir, &words("cpus 2"), &words("accel")).unwrap();
        assert_eq!(fs::read_to_string(dir.config_file()).unwrap(), "cpus = 2\n");
    }

    #[test]
    fn a_report_tells_choices_from_defaults() {
        let home = tempfile::tempdir().unwrap();
        let dir = machine(&home);
        change(&dir, &words("cpus 1 shares none"), &[]).unwrap();
        let report = Report::of(&dir).unwrap();
        assert_eq!(report.values.len(), KEYS.len());
        assert_eq!(report.values["cpus"].chosen.as_deref(), Some("1"));
        assert_eq!(report.values["shares"].chosen.as_deref(), Some("none"));
        assert_eq!((&report.values["accel"].chosen, &*report.values["accel"].effective), (&None, "auto"));
        assert_eq!((report.error, report.restart_needed), (None, false));
    }

    #[test]
    fn a_report_of_a_broken_file_says_so_and_shows_the_defaults() {
        let home = tempfile::tempdir().unwrap();
        let dir = machine(&home);
        dir.create().unwrap();
        for text in ["cpus = = 2", "colour = 1", "memory = \"1M\""] {
            fs::write(dir.config_file(), text).unwrap();
            let report = Report::of(&dir).unwrap();
            assert!(report.error.is_some(), "{text}");
            assert!(report.values.values().all(|value| value.chosen.is_none()), "{text}");
        }
    }
}
