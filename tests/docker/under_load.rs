//! Many at once, many in turn, readers that are slow, and an engine that dies at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    a_hundred_at_once.alone().seconds(240),
    twenty_followers,
    a_slow_reader.alone().seconds(240),
    a_thousand_cycles.alone().on(&[Kind::Native]).seconds(400),
    killed_at_any_moment.alone().on(&[Kind::Native]).seconds(400),
}

/// How long a request may take that has to wait for many others, on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(300);

fn create(t: &Target, name: &str, command: &str) -> Outcome {
    let request = json!({
        "Image": "busybox",
        "Cmd": ["sh", "-c", command],
        "HostConfig": {"NetworkMode": "none"},
    });
    let path = format!("/containers/create?name={name}");
    t.api().post(path).json(&request).timeout(PATIENCE).send()?.expect(201)?;
    Ok(())
}

fn start(t: &Target, name: &str) -> Outcome {
    t.api().post(format!("/containers/{name}/start")).timeout(PATIENCE).send()?.expect(204)?;
    Ok(())
}

fn remove(t: &Target, name: &str) -> Outcome {
    t.api().delete(format!("/containers/{name}?force=1")).timeout(PATIENCE).send()?.expect(204)?;
    Ok(())
}

/// The same when the engine may be finishing a removal that a crash interrupted.
fn remove_beside_the_engine(t: &Target, name: &str) -> Outcome {
    let path = format!("/containers/{name}?force=1");
    let answer = t.api().delete(path).timeout(PATIENCE).send()?;
    match answer.status {
        404 => return Ok(()),
        409 => {}
        _ => return answer.expect(204).map(drop),
    }
    wait::eventually_true("the engine has removed it", PATIENCE, || {
        Ok(t.api().get(format!("/containers/{name}/json")).send()?.status == 404)
    })
}

/// What `GET /containers/json?all=1` lists: the state of each container by its name.
fn listed(t: &Target) -> Result<BTreeMap<String, String>> {
    let list = t.api().get("/containers/json?all=1").timeout(PATIENCE).send()?.expect(200)?.json()?;
    let list = list.as_array().context("no list")?;
    let word = |value: &Value| value.as_str().map(|word| word.trim_start_matches('/').to_owned());
    let states: BTreeMap<String, String> = list
        .iter()
        .filter_map(|container| Some((word(&container["Names"][0])?, word(&container["State"])?)))
        .collect();
    ensure_eq!(states.len(), list.len(), "names that are there twice: {list:?}");
    Ok(states)
}

/// Does something for each of `all` at once, and fails with the first error.
fn at_once<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(|| work(one))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<R>>| {
            thread.join().map_err(|_| anyhow!("a thread of the test panicked"))?
        };
        threads.into_iter().map(join).collect()
    })
}

fn a_hundred_at_once(t: &Target) -> Outcome {
    let names: Vec<String> = (0..100).map(|number| t.name(&number.to_string())).collect();
    at_once(&names, |name| {
        create(t, name, SLEEP)?;
        start(t, name)
    })?;
    let states = listed(t)?;
    for name in &names {
        ensure_eq!(states.get(name).map(String::as_str), Some("running"), "{name}");
    }
    let pids = at_once(&names, |name| t.inspect(name)?["State"]["Pid"].as_u64().context("no pid"))?;
    ensure_eq!(pids.iter().collect::<BTreeSet<_>>().len(), 100);
    ensure_eq!(t.ok(["exec", &names[99], "echo", "alive"])?, "alive");
    at_once(&names, |name| remove(t, name))?;
    ensure_eq!(listed(t)?, BTreeMap::new());
    Ok(())
}

fn twenty_followers(t: &Target) -> Outcome {
    let name = t.name("box");
    // In bursts, so that followers catch up and wait in between.
    let script = "for n in $(seq 200); do for m in $(seq 50); do echo line $n $m; done; sleep 0.005; done";
    create(t, &name, script)?;
    start(t, &name)?;
    let path = format!("/containers/{name}/logs?follow=1&stdout=1&stderr=1");
    let seen = at_once(&[(); 20], |()| {
        let mut answer = t.api().get(path.as_str()).timeout(PATIENCE).open()?;
        ensure_eq!(answer.status, 200);
        Ok(answer.demultiplex()?.0)
    })?;
    let lines = (1..=200).flat_map(|n| (1..=50).map(move |m| format!("line {n} {m}\n")));
    let expected: String = lines.collect();
    for (number, seen) in seen.iter().enumerate() {
        ensure!(*seen == expected.as_bytes(), "follower {number} saw {} bytes", seen.len());
    }
    Ok(())
}

/// The reader sets the pace: nothing is lost, and the engine keeps little of it in memory.
fn a_slow_reader(t: &Target) -> Outcome {
    const SIZE: usize = 200_000_000;
    let name = t.name("box");
    create(t, &name, &format!("yes 0123456789 | head -c {SIZE}"))?;
    let path = format!("/containers/{name}/attach?stream=1&stdout=1");
    let mut stream = t.api().post(path).timeout(PATIENCE).hijack()?;
    start(t, &name)?;
    let mut received = 0;
    let mut pause = Some(Duration::from_millis(700));
    let expected = b"0123456789\n";
    let mut block = vec![0; 1 << 16];
    loop {
        let mut head = [0; 8];
        if std::io::Read::read(&mut stream, &mut head[..1])? == 0 {
            break;
        }
        std::io::Read::read_exact(&mut stream, &mut head[1..])?;
        let mut left = usize::try_from(u32::from_be_bytes([head[4], head[5], head[6], head[7]]))?;
        while left > 0 {
            let part = left.min(block.len());
            let part = &mut block[..part];
            std::io::Read::read_exact(&mut stream, part)?;
            left -= part.len();
            for byte in part {
                ensure!(*byte == expected[received % 11], "byte {received} is {byte}");
                received += 1;
            }
        }
        // Long enough for the container to have written everything, if anybody took it.
        if let Some(pause) = pause.take_if(|_| received > 1_000_000) {
            wait::let_pass(pause);
        }
    }
    ensure_eq!(received, SIZE);
    if t.kind() == Kind::Native {
        let peak = status(&t.process()?, "VmHWM")?;
        ensure!(peak < 100 << 20, "the engine used {peak} bytes");
    }
    let mut logs = t.api().get(format!("/containers/{name}/logs?stdout=1")).timeout(PATIENCE).open()?;
    ensure_eq!(logs.demultiplex()?.0.len(), SIZE);
    Ok(())
}

/// A field of `/proc/PID/status`, in bytes.
fn status(process: &tests::namespace::Process, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(number.with_context(|| format!("no {field} in {text}"))? << 10)
}

/// What an engine has that could grow: open files, mounts, and names in its own folders.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    files: usize,
    mounts: usize,
    names: usize,
}

impl Census {
    fn take(t: &Target) -> Result<Self> {
        let process = t.process()?;
        let proc = format!("/proc/{}", process.pid);
        let root = format!("{proc}/root");
        let data = t.data();
        let mut names = 0;
        for folder in [data.clone(), data.with_file_name("run")] {
            count_names(&Path::new(&root).join(folder.strip_prefix("/")?), &mut names)?;
        }
        Ok(Self {
            files: fs::read_dir(format!("{proc}/fd"))?.count(),
            mounts: fs::read_to_string(format!("{proc}/mountinfo"))?.lines().count(),
            names,
        })
    }

    /// Waits until an engine that has nothing to do is as it was before.
    fn expect_again(&self, t: &Target) -> Outcome {
        let mut last = None;
        wait::eventually_true("everything is as it was", Duration::from_secs(30), || {
            let now = Self::take(t)?;
            let same = now == *self;
            last = Some(now);
            Ok(same)
        })
        .with_context(|| format!("before: {self:?}, after: {last:?}"))
    }
}

fn count_names(folder: &Path, names: &mut usize) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        *names += 1;
        if entry.file_type()?.is_dir() {
            count_names(&entry.path(), names)?;
        }
    }
    Ok(())
}

/// The groups of these containers that are left anywhere in this machine's tree of control groups.
fn groups_of(ids: &BTreeSet<String>) -> Vec<String> {
    fn walk(folder: &Path, ids: &BTreeSet<String>, found: &mut Vec<String>) {
        // Groups of others come and go meanwhile.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if ids.iter().any(|id| entry.file_name().to_string_lossy().contains(id.as_str())) {
                    found.push(entry.path().display().to_string());
                }
                walk(&entry.path(), ids, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), ids, &mut found);
    found
}

fn a_thousand_cycles(t: &Target) -> Outcome {
    let name = t.name("box");
    let mut ids = BTreeSet::new();
    let mut cycle = |number: usize| -> Outcome {
        create(t, &name, "true")?;
        ids.insert(t.inspect(&name)?["Id"].as_str().context("no id")?.to_owned());
        if number.is_multiple_of(4) {
            start(t, &name)?;
            t.api().post(format!("/containers/{name}/wait")).send()?.expect(200)?;
        }
        remove(t, &name)
    };
    (0..100).try_for_each(&mut cycle)?;
    let process = t.process()?;
    let (before, memory) = (Census::take(t)?, status(&process, "VmRSS")?);
    (0..1000).try_for_each(&mut cycle)?;
    before.expect_again(t)?;
    let grown = status(&process, "VmRSS")?.saturating_sub(memory);
    ensure!(grown < 4 << 20, "the engine has grown by {grown} bytes");
    ensure_eq!(groups_of(&ids), [""; 0]);
    Ok(())
}

/// Makes, starts and removes containers until the engine is gone. Returns the names of those that the engine said
/// are there, and the one that was on its way.
fn busy(t: &Target, round: usize) -> (BTreeSet<String>, String) {
    let mut there = BTreeSet::new();
    for number in 0_u32.. {
        let name = format!("r{round}-{number}");
        if create(t, &name, SLEEP).is_err() {
            return (there, name);
        }
        there.insert(name.clone());
        if start(t, &name).is_err() {
            break;
        }
        // Every other one stays, and runs.
        if number.is_multiple_of(2) {
            there.remove(&name);
            if remove(t, &name).is_err() {
                return (there, name);
            }
        }
    }
    (there, String::new())
}

fn killed_at_any_moment(t: &Target) -> Outcome {
    let name = t.name("box");
    t.sleeper(&name)?;
    remove(t, &name)?;
    let before = Census::take(t)?;
    let mut killed_busy = 0;
    for round in 0..100_usize {
        let (there, on_its_way) = thread::scope(|scope| -> Result<_> {
            let busy = scope.spawn(|| busy(t, round));
            // Every moment of some three containers' lives.
            wait::let_pass(Duration::from_micros(u64::try_from(round)? * 1500));
            t.crash()?;
            busy.join().map_err(|_| anyhow!("a thread of the test panicked"))
        })?;
        t.recover()?;
        let states = listed(t)?;
        let listed: BTreeSet<String> = states.keys().cloned().collect();
        let lost: Vec<_> = there.difference(&listed).collect();
        ensure!(lost.is_empty(), "round {round}: lost {lost:?} of {states:?}");
        let more: Vec<_> = listed.difference(&there).filter(|name| **name != on_its_way).collect();
        ensure!(more.is_empty(), "round {round}: {more:?} were never said to be there, or removed");
        killed_busy += usize::from(!listed.is_empty());
        for name in &listed {
            // What was on its way out may end at any moment.
            if states[name] == "running" && *name != on_its_way {
                ensure_eq!(t.ok(["exec", name, "echo", "alive"])?, "alive", "round {round}: {name}");
            }
            if *name == on_its_way {
                remove_beside_the_engine(t, name).with_context(|| format!("round {round}"))?;
            } else {
                remove(t, name).with_context(|| format!("round {round}"))?;
            }
        }
    }
    ensure!(killed_busy > 50, "the engine was hardly ever busy when it was killed: {killed_busy} of 100");
    before.expect_again(t)
}
