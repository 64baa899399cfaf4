//! What containers use: `stats`, limits changed while they run, and the disk's share of everything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    once,
    at_once,
    stream,
    stream_of_one_that_stops,
    stream_ends_with_the_container,
    of_one_that_does_not_run,
    as_the_client_shows_them,
    networks,
    a_client_that_vanishes,
    nonsense_is_refused,
    limits_change_while_it_runs,
    limits_change_while_it_does_not_run,
    limits_that_are_refused,
    disk_usage.alone(),
    disk_usage_by_kind,
}

fn stats(t: &Target, name: &str, query: &str) -> Result<Value> {
    let answer = t.api().get(format!("/containers/{name}/stats?{query}")).send()?.expect(200)?;
    if query.contains("stream=") {
        ensure_eq!(answer.header("Content-Type"), Some("application/json"));
    }
    answer.json()
}

/// A sample as it must be of a container that runs with a limit of 64 MiB.
fn check_sample(sample: &Value) -> Outcome {
    let number = |path: &str| -> Result<u64> {
        sample
            .pointer(path)
            .and_then(Value::as_u64)
            .with_context(|| format!("no number at {path} in {sample}"))
    };
    ensure!(number("/cpu_stats/cpu_usage/total_usage")? > 0, "no CPU time in {sample}");
    number("/cpu_stats/cpu_usage/usage_in_kernelmode")?;
    number("/cpu_stats/cpu_usage/usage_in_usermode")?;
    number("/cpu_stats/throttling_data/periods")?;
    ensure!(number("/cpu_stats/system_cpu_usage")? > 1_000_000_000, "too little in {sample}");
    ensure!(number("/cpu_stats/online_cpus")? > 0, "no CPUs in {sample}");
    ensure!(number("/memory_stats/usage")? > 0, "no memory in {sample}");
    ensure_eq!(number("/memory_stats/limit")?, 64 << 20);
    number("/memory_stats/stats/inactive_file")?;
    ensure!(number("/pids_stats/current")? >= 1, "no processes in {sample}");
    ensure_eq!(number("/num_procs")?, 0);
    let blkio = sample["blkio_stats"].as_object().context("no blkio_stats")?;
    ensure_eq!(blkio.len(), 8, "{blkio:?}");
    Ok(())
}

fn runs(t: &Target, name: &str, options: &[&str]) -> Result<String> {
    let command = ["busybox", "sh", "-c", SLEEP];
    t.docker(["run", "-d", "--name", name]).args(options).args(command).output()?.text()
}

fn once(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = runs(t, &name, &["--memory", "64m"])?;
    let sample = stats(t, &name, "stream=false")?;
    check_sample(&sample)?;
    ensure_eq!((&sample["id"], &sample["name"]), (&json!(id), &json!(format!("/{name}"))));
    // Taken after another, which it tells of.
    let (read, before) = (&sample["read"], &sample["preread"]);
    ensure!(read.as_str() > before.as_str() && before.as_str() > Some("2020"), "{before} {read}");
    let system = |name: &str| sample[name]["system_cpu_usage"].as_u64();
    ensure!(system("cpu_stats") > system("precpu_stats"), "{sample}");
    ensure!(system("precpu_stats").is_some(), "{sample}");
    Ok(())
}

fn at_once(t: &Target) -> Outcome {
    let name = t.name("box");
    runs(t, &name, &["--memory", "64m"])?;
    let sample = stats(t, &name, "stream=false&one-shot=true")?;
    check_sample(&sample)?;
    ensure_eq!(sample["preread"], "0001-01-01T00:00:00Z");
    ensure_eq!(
        sample["precpu_stats"],
        json!({
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        })
    );
    Ok(())
}

fn stream(t: &Target) -> Outcome {
    let name = t.name("box");
    runs(t, &name, &["--memory", "64m"])?;
    let mut open = t.api().get(format!("/containers/{name}/stats")).open()?;
    ensure_eq!(open.status, 200);
    ensure_eq!(open.header("Content-Type"), None);
    let mut before = json!("0001-01-01T00:00:00Z");
    for _ in 0..3 {
        let line = open.line()?.context("the stream ended")?;
        let sample: Value = serde_json::from_str(&line)?;
        check_sample(&sample)?;
        ensure_eq!(sample["preread"], before);
        before = sample["read"].clone();
    }
    Ok(())
}

/// What is told of a container that does not run.
fn nothing(id: &str, name: &str) -> Value {
    let cpu = json!({
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    });
    json!({
        "name": format!("/{name}"), "id": id,
        "read": "0001-01-01T00:00:00Z", "preread": "0001-01-01T00:00:00Z",
        "pids_stats": {}, "num_procs": 0, "storage_stats": {}, "memory_stats": {},
        "cpu_stats": cpu, "precpu_stats": cpu,
        "blkio_stats": {
            "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null,
            "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
            "io_time_recursive": null, "sectors_recursive": null,
        },
    })
}

fn stream_of_one_that_stops(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = runs(t, &name, &["--memory", "64m"])?;
    let mut open = t.api().get(format!("/containers/{name}/stats")).open()?;
    check_sample(&serde_json::from_str(&open.line()?.context("no sample")?)?)?;
    t.ok(["stop", &name])?;
    let expected = nothing(&id, &name);
    wait::eventually("the samples are empty", Duration::from_secs(20), || {
        let mut sample: Value = serde_json::from_str(&open.line()?.context("the stream ended")?)?;
        // The first one may tell of the last.
        sample["preread"] = expected["preread"].clone();
        sample["precpu_stats"] = expected["precpu_stats"].clone();
        Ok((sample == expected).then_some(()))
    })?;
    t.ok(["start", &name])?;
    wait::eventually("the samples are full again", Duration::from_secs(20), || {
        let sample: Value = serde_json::from_str(&open.line()?.context("the stream ended")?)?;
        Ok(check_sample(&sample).ok())
    })
}

fn stream_ends_with_the_container(t: &Target) -> Outcome {
    let name = t.name("box");
    runs(t, &name, &[])?;
    let mut open = t.api().get(format!("/containers/{name}/stats")).open()?;
    open.line()?.context("no sample")?;
    t.ok(["rm", "-f", &name])?;
    while open.line()?.is_some() {}
    Ok(())
}

fn of_one_that_does_not_run(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = t.ok(["create", "--name", &name, "busybox", "true"])?;
    for query in ["stream=false", "stream=0&one-shot=1"] {
        ensure_eq!(stats(t, &name, query)?, nothing(&id, &name), "{query}");
    }
    t.ok(["start", "-a", &name])?;
    t.ok(["wait", &name])?;
    ensure_eq!(stats(t, &name, "stream=false")?, nothing(&id, &name));
    Ok(())
}

fn as_the_client_shows_them(t: &Target) -> Outcome {
    let (name, stopped) = (t.name("box"), t.name("stopped"));
    runs(t, &name, &["--memory", "64m"])?;
    t.ok(["create", "--name", &stopped, "busybox", "true"])?;
    let format = "{{.Name}} {{.MemUsage}} {{.PIDs}} {{.CPUPerc}} {{.BlockIO}}";
    let shown = t.ok(["stats", "--no-stream", "--format", format, &name])?;
    let words: Vec<&str> = shown.split_whitespace().collect();
    ensure_eq!(words[0], name);
    ensure!(words[1].ends_with("iB") && words[3] == "64MiB", "{shown}");
    ensure!(words[4].parse::<u64>().is_ok_and(|pids| pids >= 1) && words[5].ends_with('%'), "{shown}");
    t.ok(["stats", "--no-stream", &stopped])?;
    Ok(())
}

fn networks(t: &Target) -> Outcome {
    for network in ["none", "host"] {
        let name = t.name(network);
        runs(t, &name, &["--network", network])?;
        let sample = stats(t, &name, "stream=false&one-shot=true")?;
        ensure!(sample.get("networks").is_none(), "{network}: {sample}");
    }
    Ok(())
}

fn a_client_that_vanishes(t: &Target) -> Outcome {
    let name = t.name("box");
    runs(t, &name, &[])?;
    for _ in 0..20 {
        let mut open = t.api().get(format!("/containers/{name}/stats")).open()?;
        ensure!(open.line()?.is_some(), "no sample");
    }
    t.api().get("/_ping").send()?.expect(200)?;
    Ok(())
}

fn nonsense_is_refused(t: &Target) -> Outcome {
    let name = t.name("box");
    let answer = t.api().get(format!("/containers/{name}/stats?stream=false")).send()?.expect(404)?;
    ensure_eq!(answer.message()?, format!("No such container: {name}"));
    t.ok(["create", "--name", &name, "busybox"])?;
    let answer = t.api().get(format!("/containers/{name}/stats?one-shot=true")).send()?.expect(400)?;
    ensure_eq!(answer.message()?, "cannot have stream=true and one-shot=true");
    Ok(())
}

/// The first number or word in the first of these files that the engine's machine has for the container.
fn limit(t: &Target, name: &str, files: [&str; 2]) -> Result<String> {
    let script =
        format!("cat /sys/fs/cgroup/{} 2>/dev/null || cat /sys/fs/cgroup/{} 2>/dev/null", files[0], files[1]);
    t.ok(["exec", name, "sh", "-c", &script])
}

fn limits_change_while_it_runs(t: &Target) -> Outcome {
    let name = t.name("box");
    runs(t, &name, &["--memory", "64m"])?;
    let update = |options: &[&str]| t.docker(["update"]).args(options).arg(&name).output()?.expect_code(0);
    let memory = ["memory/memory.limit_in_bytes", "memory.max"];
    // Down, up beyond what swap and memory had together, and down again.
    for size in [32_u64, 256, 16] {
        let (memory_option, swap) = (format!("{size}m"), format!("{}m", size * 2));
        update(&["--memory", &memory_option, "--memory-swap", &swap])?;
        ensure_eq!(limit(t, &name, memory)?, (size << 20).to_string());
    }
    update(&["--cpus", "0.5", "--cpu-shares", "512", "--pids-limit", "77", "--cpuset-cpus", "0"])?;
    if t.kind() == Kind::Machine {
        ensure_eq!(limit(t, &name, ["cpu.max", ""])?, "50000 100000");
    } else {
        ensure_eq!(limit(t, &name, ["cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"])?, "50000");
        ensure_eq!(limit(t, &name, ["cpu/cpu.shares", "cpu,cpuacct/cpu.shares"])?, "512");
    }
    ensure_eq!(limit(t, &name, ["pids/pids.max", "pids.max"])?, "77");
    ensure_eq!(limit(t, &name, ["cpuset/cpuset.cpus", "cpuset.cpus"])?, "0");
    update(&["--pids-limit", "-1"])?;
    ensure_eq!(limit(t, &name, ["pids/pids.max", "pids.max"])?, "max");
    ensure_eq!(t.inspect(&name)?["State"]["Running"], true);
    let host = t.inspect(&name)?["HostConfig"].clone();
    for (field, value) in [
        ("Memory", json!(16 << 20)),
        ("MemorySwap", json!(32 << 20)),
        ("NanoCpus", json!(500_000_000)),
        ("CpuShares", json!(512)),
        ("PidsLimit", json!(0)),
        ("CpusetCpus", json!("0")),
    ] {
        ensure_eq!(host[field], value, "{field}");
    }
    // They hold for the next run as well.
    t.ok(["restart", "-t", "5", &name])?;
    ensure_eq!(limit(t, &name, memory)?, (16 << 20).to_string());
    let body = json!({"CpuShares": 256});
    let answer = t.api().post(format!("/containers/{name}/update")).json(&body).send()?.expect(200)?;
    ensure_eq!(answer.json()?, json!({"Warnings": null}));
    Ok(())
}

fn limits_change_while_it_does_not_run(t: &Target) -> Outcome {
    let name = t.name("box");
    t.ok(["create", "--name", &name, "--memory", "64m", "busybox", "true"])?;
    t.ok(["update", "--memory", "32m", "--memory-swap", "-1", &name])?;
    let host = t.inspect(&name)?["HostConfig"].clone();
    ensure_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(32 << 20), &json!(-1)));
    t.ok(["start", "-a", &name])?;
    Ok(())
}

fn limits_that_are_refused(t: &Target) -> Outcome {
    let name = t.name("box");
    let id = runs(t, &name, &["--memory", "64m", "--cpus", "0.5"])?;
    let before = t.inspect(&name)?["HostConfig"].clone();
    let update = |status: u16, body: Value| {
        t.api().post(format!("/containers/{name}/update")).json(&body).send()?.expect(status)?.message()
    };
    for (body, words) in [
        (json!({"Memory": 1}), "Minimum memory limit allowed is 6MB"),
        (json!({"Memory": -1}), "Minimum memory limit allowed is 6MB"),
        (
            json!({"Memory": 33_554_432, "MemorySwap": 16_777_216}),
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (json!({"CpusetCpus": "x"}), "Invalid value x for cpuset cpus: invalid format: x"),
    ] {
        ensure_eq!(update(400, body)?, words);
    }
    ensure!(
        update(400, json!({"NanoCpus": 500_000_000_000_i64}))?.starts_with("range of CPUs is from 0.01 to ")
    );
    ensure!(
        update(400, json!({"CpusetCpus": "999"}))?
            .starts_with("Requested CPUs are not available - requested 999")
    );
    let cannot = format!("Cannot update container {id}: ");
    for (body, words) in [
        (
            json!({"CpuPeriod": 50_000}),
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            json!({"Memory": 1_u64 << 30}),
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
    ] {
        ensure_eq!(update(409, body)?, format!("{cannot}{words}"));
    }
    ensure_eq!(t.inspect(&name)?["HostConfig"], before);
    Ok(())
}

fn disk_usage(t: &Target) -> Outcome {
    let (name, data) = (t.name("box"), t.name("data"));
    let script = "head -c 100000 /dev/zero > /file; head -c 5000 /dev/zero > /data/file";
    t.ok(["run", "--name", &name, "-v", &format!("{data}:/data"), "busybox", "sh", "-c", script])?;
    t.ok(["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", &t.name("options")])?;
    let usage = t.api().get("/system/df").send()?.expect(200)?.json()?;
    let fields: Vec<&str> = usage.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    ensure_eq!(fields, ["BuildCache", "Containers", "Images", "LayersSize", "Volumes"]);
    ensure_eq!(usage["BuildCache"], json!([]));
    let image = &usage["Images"][0];
    ensure_eq!((&image["Containers"], &image["SharedSize"]), (&json!(1), &json!(0)));
    ensure_eq!(image["Size"], usage["LayersSize"]);
    let container = &usage["Containers"][0];
    ensure!(
        container["SizeRw"].as_u64().is_some_and(|size| (100_000..200_000).contains(&size)),
        "{container}"
    );
    ensure!(container["SizeRootFs"].as_u64() > usage["LayersSize"].as_u64(), "{container}");
    let volumes = usage["Volumes"].as_array().context("no Volumes")?;
    ensure_eq!(volumes.len(), 1, "{volumes:?}");
    ensure_eq!(volumes[0]["Name"], data.as_str());
    ensure_eq!(volumes[0]["UsageData"], json!({"RefCount": 1, "Size": 5000}));
    // The client's tables.
    let short = t.ok(["system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}"])?;
    ensure_eq!(short, "Images|1|1\nContainers|1|0\nLocal Volumes|1|1\nBuild Cache|0|0");
    let long = t.ok(["system", "df", "-v"])?;
    for words in [data.as_str(), name.as_str(), "busybox", "Build cache usage: 0B"] {
        ensure!(long.contains(words), "no {words:?} in {long}");
    }
    // Both are listed with sizes.
    let listed = t.ok(["ps", "-a", "--size", "--format", "{{.Size}}"])?;
    ensure!(listed.starts_with("100kB (virtual "), "{listed}");
    Ok(())
}

fn disk_usage_by_kind(t: &Target) -> Outcome {
    for (query, asked) in [
        ("type=volume", &["Volumes"][..]),
        ("type=container&type=build-cache", &["BuildCache", "Containers"]),
        ("type=image", &["Images"]),
    ] {
        let usage = t.api().get(format!("/system/df?{query}")).send()?.expect(200)?.json()?;
        for field in ["BuildCache", "Containers", "Images", "Volumes"] {
            ensure_eq!(usage[field].is_array(), asked.contains(&field), "{query}: {field}");
            ensure!(usage[field].is_array() || usage[field].is_null(), "{query}: {field}");
        }
        ensure_eq!(usage["LayersSize"] == 0, !asked.contains(&"Images"), "{query}");
    }
    let answer = t.api().get("/system/df?type=other").send()?.expect(400)?;
    ensure_eq!(answer.message()?, "unknown object type: other");
    Ok(())
}
