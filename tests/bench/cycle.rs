use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tests::engine::Engine;

use crate::engines;
use crate::table::{Figure, Limit, Value, median};

/// Container cycles of each engine.
const CYCLES: usize = 30;
/// Runs of the client on each engine.
const RUNS: usize = 15;
/// Cycles that are not counted: programs and files come from the disk the first time.
const WARM_UP: usize = 3;

const STEPS: [&str; 4] = ["create", "start", "wait", "rm"];

pub(crate) fn over_the_api() -> Result<Vec<Figure>> {
    let engines = engines()?;
    let mut times = [const { Vec::new() }; 2];
    // Alternately, so that what else the machine does falls on both.
    for round in 0..WARM_UP + CYCLES {
        for (engine, times) in engines.iter().zip(&mut times) {
            let steps = cycle(engine).with_context(|| format!("a container cycle of {}", engine.kind()))?;
            if round >= WARM_UP {
                times.push(steps);
            }
        }
    }
    let [ours, peer] = times;
    let figure = |name: &str, pick: &dyn Fn(&[Duration; 4]) -> Duration, limit: Option<Limit>| {
        let value = |times: &Vec<[Duration; 4]>| Value::time(median(times.iter().map(pick).collect()));
        let peer = Some(("dockerd", value(&peer)));
        Figure { name: format!("container cycle: {name}"), ours: value(&ours), peer, limit, samples: CYCLES }
    };
    let mut figures = vec![figure("all", &|steps| steps.iter().sum(), Some(Limit::Value(15.0)))];
    for (at, step) in STEPS.iter().enumerate() {
        figures.push(figure(step, &|steps| steps[at], None));
    }
    Ok(figures)
}

fn cycle(engine: &Engine) -> Result<[Duration; 4]> {
    let api = engine.api();
    let mut begun = Instant::now();
    let mut lap = || {
        let time = begun.elapsed();
        begun += time;
        time
    };
    let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}});
    let created = api.post("/containers/create").json(&body).send()?.expect(201)?;
    let create = lap();
    let id = created.json()?["Id"].as_str().context("no id")?.to_owned();
    api.post(format!("/containers/{id}/start")).send()?.expect(204)?;
    let start = lap();
    api.post(format!("/containers/{id}/wait")).send()?.expect(200)?;
    let wait = lap();
    api.delete(format!("/containers/{id}")).send()?.expect(204)?;
    Ok([create, start, wait, lap()])
}

pub(crate) fn through_the_client() -> Result<Vec<Figure>> {
    let engines = engines()?;
    let commands: [(&str, &[&str]); 2] = [
        ("docker version", &["version"]),
        (
            "docker run --rm --network none busybox true",
            &["run", "--rm", "--network", "none", "busybox", "true"],
        ),
    ];
    let mut figures = Vec::new();
    for (name, arguments) in commands {
        let mut times = [const { Vec::new() }; 2];
        for round in 0..WARM_UP + RUNS {
            for (engine, times) in engines.iter().zip(&mut times) {
                let begun = Instant::now();
                engine.docker(arguments).output()?.expect_code(0)?;
                if round >= WARM_UP {
                    times.push(begun.elapsed());
                }
            }
        }
        let [ours, peer] = times.map(|times| Value::time(median(times)));
        let peer = Some(("dockerd", peer));
        figures.push(Figure { name: name.to_owned(), ours, peer, limit: None, samples: RUNS });
    }
    if let [version, run] = figures.as_slice() {
        let name = "docker run, beside the client's own start".to_owned();
        let peer = Some(("docker version", version.ours));
        let limit = Some(Limit::Ratio(1.8));
        figures.push(Figure { name, ours: run.ours, peer, limit, samples: RUNS });
    }
    Ok(figures)
}
