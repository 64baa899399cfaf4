//! `coracle config`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    cli::{ConfigAction, ConfigArgs},
    control::client,
    machine::{
        config::{Config, Host, KEYS, Settings},
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
        Some(ConfigAction::Get { key, machine }) => get(&dir(&machine.name), key.as_deref())?,
        Some(ConfigAction::Set { key, value, machine }) => set(&dir(&machine.name), &key, &value)?,
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

fn set(dir: &MachineDir, key: &str, value: &str) -> Result<()> {
    let change = Config::of(key, value)?;
    let old = Config::load(&dir.config_file())?;
    // Refused now rather than at the next start.
    let settings = settle(dir, old.overridden_by(change.clone()))?;
    if change.shares.is_some() {
        settings.shares.check()?;
    }
    dir.create()?;
    change.save(&dir.config_file())?;
    if client::status(dir).is_ok() {
        say("Takes effect when the machine is restarted (`coracle restart`).");
    }
    Ok(())
}

fn settle(dir: &MachineDir, config: Config) -> Result<Settings> {
    config.settle(&Host::this()?, disk::current_size(&dir.disk_image())?)
}
