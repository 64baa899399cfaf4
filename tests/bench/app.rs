use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tests::app::{App, Desktop, Home};
use tests::engine::{Engine, Kind};
use tests::namespace::Process;
use tests::wait;

use crate::processes::{began, proportional_memory, ticks};
use crate::table::{Figure, Limit, Value, median};

const CONTAINERS: [&str; 3] = ["web", "database", "cache"];
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
    for name in CONTAINERS {
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
    let measuring = busy(&engine)?;
    let all = processes(&engine)?;
    let memory = all.iter().map(|process| Ok(proportional_memory(process)?.0)).sum::<Result<u64>>()?;
    engine.docker(["rm", "--force"].into_iter().chain(CONTAINERS)).output()?.expect_code(0)?;
    let at_rest = busy(&engine)?;
    ensure!(desktop.display().ask_to_close("Coracle")?, "there is no window to close");
    wait::eventually_true("the window is gone", SOON, || Ok(!desktop.display().shows("Coracle")?))?;
    let in_tray = busy(&engine)?;
    app.close()?;

    let figure =
        |name: &str, ours, limit, samples| Figure { name: name.to_owned(), ours, peer: None, limit, samples };
    let launch = Value::time(median(launches));
    Ok(vec![
        figure("app: launch until it shows the containers", launch, Some(Limit::Value(1500.0)), LAUNCHES),
        figure("app that measures three containers: processor time", measuring, None, 1),
        figure("app at rest: processor time", at_rest, Some(Limit::Value(1.0)), 1),
        figure("app in the tray: processor time", in_tray, Some(Limit::Value(1.0)), 1),
        figure("app: memory, with the web view's processes", Value::memory(memory), None, 1),
    ])
}

/// The processor time that the app takes when it is left alone.
fn busy(engine: &Engine) -> Result<Value> {
    wait::let_pass(SETTLE);
    let before = ticks(&processes(engine)?)?;
    wait::let_pass(WATCH);
    let spent = u32::try_from(ticks(&processes(engine)?)? - before)?;
    Ok(Value { number: f64::from(spent) / WATCH.as_secs_f64(), unit: "% of a core" })
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
