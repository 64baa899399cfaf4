use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tests::app::{App, Desktop, Home};
use tests::engine::{Engine, Kind};
use tests::namespace::Process;
use tests::wait;

use crate::processes::{began, proportional_memory, ticks};
use crate::table::{Figure, Limit, Value, median};

/// Launches that are counted, after one that has the machine read the app's files.
const LAUNCHES: usize = 7;
/// How long the app is left alone before it counts as idle, and how long it is watched then.
const SETTLE: Duration = Duration::from_secs(15);
const WATCH: Duration = Duration::from_secs(30);
/// For a window to show itself, or to go.
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn run() -> Result<Vec<Figure>> {
    let engine = Engine::start(Kind::Native)?;
    engine.load_busybox()?;
    for name in ["web", "database", "cache"] {
        let sleeper =
            ["run", "-d", "--init", "--network", "none", "--name", name, "busybox", "sleep", "100000"];
        engine.docker(sleeper).output()?.expect_code(0)?;
    }
    let desktop = Desktop::start(engine.namespace(), true)?;
    let home = Home::of_engine(&engine)?;
    // The first run is another page.
    std::fs::write(home.path().join("app.json"), r#"{"first_run_done": true}"#)?;
    let open = || App::open(&desktop, home.path(), &[]);

    let mut launches = Vec::new();
    for launch in 0..=LAUNCHES {
        let app = open()?;
        let time = until_content(&app, &engine)?;
        if launch > 0 {
            launches.push(time);
        }
        app.close()?;
        wait::eventually_true("the app has ended", SOON, || Ok(processes(&engine)?.is_empty()))?;
    }

    let app = open()?;
    until_content(&app, &engine)?;
    wait::let_pass(SETTLE);
    let before = ticks(&processes(&engine)?)?;
    wait::let_pass(WATCH);
    let all = processes(&engine)?;
    let busy = u32::try_from(ticks(&all)? - before).map(f64::from)? / WATCH.as_secs_f64();
    let memory = all.iter().map(|process| Ok(proportional_memory(process)?.0)).sum::<Result<u64>>()?;
    app.close()?;

    let figure =
        |name: &str, ours, limit, samples| Figure { name: name.to_owned(), ours, peer: None, limit, samples };
    Ok(vec![
        figure(
            "app: launch until it shows the containers",
            Value::time(median(launches)),
            Some(Limit::Value(1500.0)),
            LAUNCHES,
        ),
        figure(
            "idle app: processor time",
            Value { number: busy, unit: "% of a core" },
            Some(Limit::Value(1.0)),
            1,
        ),
        figure("idle app: memory, with the web view's processes", Value::memory(memory), None, 1),
    ])
}

/// The time from the launch of the app's process until its window has shown something of the engine's, in steps of ten
/// milliseconds.
fn until_content(app: &App, engine: &Engine) -> Result<Duration> {
    const MARK: &str = "const [mark] = performance.getEntriesByName('first-content'); \
                        return mark ? performance.timeOrigin + mark.startTime : null";
    let shown = wait::eventually("the window shows containers", SOON, || {
        Ok(app
            .script(MARK, &json!([]))?
            .as_f64()
            .map(|milliseconds| Duration::from_secs_f64(milliseconds / 1000.0)))
    })?;
    let all = processes(engine)?;
    let process = all.iter().find(|process| is_the_shell(process)).context("the app has ended")?;
    let up = clock_gettime(ClockId::Boottime);
    let up = Duration::new(u64::try_from(up.tv_sec)?, u32::try_from(up.tv_nsec)?);
    let age = up - Duration::from_millis(began(process)? * 10);
    let launched = SystemTime::now().duration_since(UNIX_EPOCH)? - age;
    Ok(shown - launched)
}

fn is_the_shell(process: &Process) -> bool {
    process.line.contains("coracle-app")
}

/// The shell, and the processes that show its window.
fn processes(engine: &Engine) -> Result<Vec<Process>> {
    let mut all = engine.namespace().processes()?;
    all.retain(|process| {
        is_the_shell(process) || (process.line.contains("WebKit") && !process.line.contains("Driver"))
    });
    Ok(all)
}
