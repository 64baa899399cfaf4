//! Every test of a finished program: `cargo test -p tests -- [FILTER]`.
//!
//! A case is named `<engine>::<module>::<case>`; see `docs/testing.md`.

/// The desktop app.
mod app;
/// Booting a machine, and what is in it.
mod boot;
/// The `coracle` command.
mod coracle;
/// The Docker Engine API, through the real `docker` and by hand.
mod docker;

use std::io::Write;
use std::process::ExitCode;

use libtest_mimic::Arguments;
use tests::engine::{self, Kind};
use tests::{case, leftovers, roles};

/// Names the engines to test, separated by commas; those named must be there.
const ENGINES: &str = "CORACLE_ENGINES";

/// Names the part of the product to test, `engines` or `app`; all of it without.
const PART: &str = "CORACLE_PART";

fn main() -> ExitCode {
    roles::dispatch();
    leftovers::sweep_dead_runs();
    let arguments = Arguments::from_args();
    let (wanted, required) = match wanted_engines(arguments.filter.as_deref()) {
        Ok(engines) => engines,
        Err(unknown) => {
            say(&format!("{ENGINES} names {unknown:?}, which is none of native, machine and dockerd"));
            return ExitCode::from(2);
        }
    };

    let engines = docker::modules().into_iter().chain(boot::modules()).chain(coracle::modules());
    let modules: Vec<_> = match std::env::var(PART).as_deref() {
        Ok("engines") => engines.collect(),
        Ok("app") => app::modules(),
        _ => engines.chain(app::modules()).collect(),
    };
    let mut trials = Vec::new();
    for (module, cases) in modules {
        trials.extend(case::trials(module, &cases, &wanted, required));
    }
    trials.sort_by(|a, b| a.name().cmp(b.name()));
    let conclusion = libtest_mimic::run(&arguments, trials);

    engine::end_shared();
    for line in docker::summaries() {
        say(&line);
    }
    for (name, reason) in case::failed() {
        say(&format!("\nFAILED: {name}\n  {}", reason.replace('\n', "\n  ")));
    }
    let skipped = case::skipped();
    if !skipped.is_empty() {
        say("\nSKIPPED:");
        for (reason, count) in skipped {
            say(&format!("  {count} cases: {reason}"));
        }
    }
    conclusion.exit_code()
}

/// The engines to test, and those that must be there. Without a word from the user: all of ours, and dockerd if the
/// filter names it.
fn wanted_engines(filter: Option<&str>) -> Result<(Vec<Kind>, &'static [Kind]), String> {
    let Some(text) = std::env::var(ENGINES).ok().filter(|text| !text.is_empty()) else {
        let peer = filter.is_some_and(|filter| filter.starts_with(&Kind::Dockerd.to_string()));
        let wanted = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Dockerd || peer).collect();
        return Ok((wanted, &[]));
    };
    let kind = |name: &str| {
        Kind::ALL.into_iter().find(|kind| kind.to_string() == name).ok_or_else(|| name.to_owned())
    };
    let wanted = text.split(',').map(kind).collect::<Result<Vec<_>, _>>()?;
    let required = Box::leak(wanted.clone().into_boxed_slice());
    Ok((wanted, required))
}

fn say(text: &str) {
    // Nowhere to say that standard output does not work.
    let _ = writeln!(std::io::stdout(), "{text}");
}
