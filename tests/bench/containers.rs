use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value as Json, json};
use tests::engine::Engine;
use tests::http::Server;
use tests::{places, wait};

use crate::engines;
use crate::table::{Figure, Limit, Value, median};

/// Measurements that are not counted: programs and files come from the disk the first time.
const WARM_UP: usize = 3;
/// How long an engine is left alone before its memory counts.
const SETTLE: Duration = Duration::from_secs(5);

fn create(engine: &Engine, command: &[&str]) -> Result<String> {
    create_in(engine, "none", command)
}

fn create_in(engine: &Engine, network: &str, command: &[&str]) -> Result<String> {
    let body = json!({"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": network}});
    let made = engine.api().post("/containers/create").json(&body).send()?.expect(201)?.json()?;
    Ok(made["Id"].as_str().context("no id")?.to_owned())
}

fn start(engine: &Engine, id: &str) -> Result<()> {
    engine.api().post(format!("/containers/{id}/start")).send()?.expect(204)?;
    Ok(())
}

fn remove(engine: &Engine, id: &str) -> Result<()> {
    engine.api().delete(format!("/containers/{id}?force=1")).send()?.expect(204)?;
    Ok(())
}

/// Measures something `samples` times on each engine, in turn, so that what else the machine does falls on both.
fn in_turn<T>(
    engines: &[Engine; 2],
    samples: usize,
    mut measure: impl FnMut(usize) -> Result<T>,
) -> Result<[Vec<T>; 2]> {
    let mut all = [const { Vec::new() }; 2];
    for round in 0..WARM_UP + samples {
        for (number, values) in all.iter_mut().enumerate() {
            let value = measure(number).with_context(|| format!("measuring {}", engines[number].kind()))?;
            if round >= WARM_UP {
                values.push(value);
            }
        }
    }
    Ok(all)
}

fn times(name: &str, times: [Vec<Duration>; 2], most: f64) -> Figure {
    let samples = times[0].len();
    let [ours, peer] = times.map(|times| Value::time(median(times)));
    let limit = Some(Limit::Value(most));
    Figure { name: name.to_owned(), ours, peer: Some(("dockerd", peer)), limit, samples }
}

/// An exec of `true`: made, started, and read to its end.
pub(crate) fn exec() -> Result<Vec<Figure>> {
    let engines = engines()?;
    let make = |engine: &Engine| -> Result<String> {
        let id = create(engine, &["sleep", "100000"])?;
        start(engine, &id)?;
        Ok(id)
    };
    let ids = [make(&engines[0])?, make(&engines[1])?];
    let all = in_turn(&engines, 30, |number| {
        let (api, id) = (engines[number].api(), &ids[number]);
        let begun = Instant::now();
        let body = json!({"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true});
        let made = api.post(format!("/containers/{id}/exec")).json(&body).send()?.expect(201)?.json()?;
        let exec = made["Id"].as_str().context("no id")?;
        api.post(format!("/exec/{exec}/start")).json(&json!({})).hijack()?.demultiplex()?;
        Ok(begun.elapsed())
    })?;
    Ok(vec![times("exec of `true` over the API", all, 6.0)])
}

/// Twenty containers made and started at once.
pub(crate) fn twenty() -> Result<Vec<Figure>> {
    let engines = engines()?;
    let all = in_turn(&engines, 5, |number| {
        let engine = &engines[number];
        let begun = Instant::now();
        let ids = thread::scope(|scope| -> Result<Vec<String>> {
            let one = || -> Result<String> {
                let id = create(engine, &["sleep", "100000"])?;
                start(engine, &id)?;
                Ok(id)
            };
            let threads: Vec<_> = (0..20).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a panic"))?).collect()
        })?;
        let time = begun.elapsed();
        ids.iter().try_for_each(|id| remove(engine, id))?;
        Ok(time)
    })?;
    Ok(vec![times("20 containers created and started at once", all, 200.0)])
}

/// 200 MB in lines of 80 bytes, written by a container, and read back through the client.
pub(crate) fn logs() -> Result<Vec<Figure>> {
    const SIZE: usize = 200_000_000;
    let engines = engines()?;
    // From a file, since whoever makes up lines would be the slowest of all.
    let lines = "x".repeat(79);
    let script = format!(
        "yes {lines} | head -c 10000000 > /lines; for n in $(seq {}); do cat /lines; done",
        SIZE / 10_000_000
    );
    let mut times = [[Duration::ZERO; 2]; 3];
    for (number, engine) in engines.iter().enumerate() {
        let id = create(engine, &["sh", "-c", &script])?;
        let begun = Instant::now();
        start(engine, &id)?;
        let answer = engine.api().post(format!("/containers/{id}/wait"));
        answer.timeout(Duration::from_secs(300)).send()?.expect(200)?;
        times[0][number] = begun.elapsed();
        let begun = Instant::now();
        let path = format!("/containers/{id}/logs?stdout=1");
        let mut answer = engine.api().get(path).timeout(Duration::from_secs(300)).open()?;
        let read = std::io::copy(&mut answer, &mut std::io::sink())?;
        ensure!(read > SIZE as u64, "{} answered {read} bytes", engine.kind());
        times[1][number] = begun.elapsed();
        let Server::Unix(socket) = engine.api() else { continue };
        let begun = Instant::now();
        let status = Command::new(places::docker()?)
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .args(["logs", &id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "docker logs failed: {status}");
        times[2][number] = begun.elapsed();
        remove(engine, &id)?;
    }
    let names = ["written", "read over the API", "read by `docker logs`"];
    let figure = |(name, times): (&str, [Duration; 2])| {
        let [ours, peer] = times.map(|time| Value::throughput(SIZE, time));
        let (limit, peer) = (Some(Limit::AtLeast(150.0)), Some(("dockerd", peer)));
        let name = format!("200 MB of logs in 80-byte lines: {name}");
        Figure { name, ours, peer, limit, samples: 1 }
    };
    Ok(names.into_iter().zip(times).map(figure).collect())
}

/// `GET /containers/json?all=1` of 200 containers.
pub(crate) fn list() -> Result<Vec<Figure>> {
    let engines = engines()?;
    for engine in &engines {
        for _ in 0..200 {
            create(engine, &["true"])?;
        }
    }
    let all = in_turn(&engines, 30, |number| {
        let begun = Instant::now();
        let answer = engines[number].api().get("/containers/json?all=1").send()?.expect(200)?;
        let time = begun.elapsed();
        ensure!(answer.json()?.as_array().is_some_and(|list: &Vec<Json>| list.len() == 200), "not 200");
        Ok(time)
    })?;
    Ok(vec![times("list of 200 containers over the API", all, 5.0)])
}

/// The memory of an engine and all its helpers with 50 running containers.
pub(crate) fn memory() -> Result<Vec<Figure>> {
    let engines = engines()?;
    let mut sums = [0, 0];
    for (engine, sum) in engines.iter().zip(&mut sums) {
        for _ in 0..50 {
            let id = create(engine, &["sleep", "100000"])?;
            start(engine, &id)?;
        }
        wait::let_pass(SETTLE);
        for process in engine.namespace().processes()? {
            // Neither the containers' own, nor the harness's that holds the engine.
            if process.line.contains("sleep 100000") || process.line.contains("--role=") {
                continue;
            }
            let path = format!("/proc/{}/smaps_rollup", process.pid);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            *sum += kib.unwrap_or(0) * 1024;
        }
    }
    let [ours, peer] = sums.map(Value::memory);
    let (limit, peer) = (Some(Limit::Value(40.0)), Some(("dockerd, containerd and shims", peer)));
    let name = "memory with 50 running containers (PSS)".to_owned();
    Ok(vec![Figure { name, ours, peer, limit, samples: 1 }])
}

/// What a network adds to a container's start, and what making one and removing it takes.
pub(crate) fn networks() -> Result<Vec<Figure>> {
    const SAMPLES: usize = 30;
    let engines = engines()?;
    let start_in = |engine: &Engine, network| -> Result<Duration> {
        let id = create_in(engine, network, &["sleep", "100000"])?;
        let begun = Instant::now();
        start(engine, &id)?;
        let time = begun.elapsed();
        remove(engine, &id)?;
        Ok(time)
    };
    let starts = in_turn(&engines, SAMPLES, |number| {
        Ok((start_in(&engines[number], "none")?, start_in(&engines[number], "bridge")?))
    })?;
    let [ours, peer] = starts.map(|times| {
        let (none, bridge): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        Value::time(median(bridge).saturating_sub(median(none)))
    });
    let name = "what the network bridge adds to a start".to_owned();
    let (peer, limit) = (Some(("dockerd", peer)), Some(Limit::Value(8.0)));
    let added = Figure { name, ours, peer, limit, samples: SAMPLES };
    let made = in_turn(&engines, SAMPLES, |number| {
        let api = engines[number].api();
        let begun = Instant::now();
        let body = json!({"Name": "measured"});
        api.post("/networks/create").json(&body).send()?.expect(201)?;
        api.delete("/networks/measured").send()?.expect(204)?;
        Ok(begun.elapsed())
    })?;
    Ok(vec![added, times("a network made and removed", made, 10.0)])
}
