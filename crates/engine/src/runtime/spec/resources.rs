//! A container's limits.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use wire::docker::host_config::{HostConfig, Resources};

use super::{
    super::cgroup::{CgroupVersion, Cgroups},
    devices::{throttle, weights},
};
use crate::error::{Error, Result};

/// The least memory a container can have, bytes.
const MIN_MEMORY: i64 = 6 << 20;
/// Microseconds in which a quota is used.
pub(in crate::runtime) const PERIOD: i64 = 100_000;

/// Refuses what makes no sense, in Docker's words. `cpus` is how many this machine has.
pub(super) fn check(resources: &Resources, cpus: usize) -> Result<()> {
    let refuse = |reason: &str| Err(Error::invalid(reason));
    let r = resources;
    if r.memory != 0 && r.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if r.memory > 0 && r.memory_swap > 0 && r.memory_swap < r.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if r.memory == 0 && r.memory_swap > 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if let Some(swappiness) = r.memory_swappiness.filter(|value| !(-1..=100).contains(value)) {
        return refuse(&format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    }
    if r.memory_reservation > 0 && r.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if r.memory > 0 && r.memory < r.memory_reservation {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if r.nano_cpus > 0 && r.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if r.nano_cpus > 0 && r.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let available = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if r.nano_cpus < 0 || r.nano_cpus > available {
        return refuse(&format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if r.cpu_period != 0 && !(1_000..=1_000_000).contains(&r.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if (1..1_000).contains(&r.cpu_quota) {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if r.cpu_shares < 0 {
        return refuse(&format!("invalid CPU shares ({}): value must be a positive integer", r.cpu_shares));
    }
    if r.blkio_weight != 0 && !(10..=1000).contains(&r.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    if r.io_maximum_bandwidth != 0 || r.io_maximum_iops != 0 {
        return refuse(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        );
    }
    Ok(())
}

/// Refuses an update that makes no sense, in Docker's words. Drops what this machine cannot limit, and
/// returns warnings of it.
pub(super) fn check_update(resources: &mut Resources, cgroups: &Cgroups, cpus: usize) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if resources.blkio_weight != 0 && !cgroups.has_block_weight() {
        resources.blkio_weight = 0;
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                .to_owned(),
        );
    }
    for (what, wanted, available) in [
        ("CPUs", &resources.cpuset_cpus, cgroups.available("cpus")),
        ("memory nodes", &resources.cpuset_mems, cgroups.available("mems")),
    ] {
        if wanted.is_empty() {
            continue;
        }
        let field = if what == "CPUs" { "cpus" } else { "mems" };
        let numbers = parse_set(wanted).ok_or_else(|| {
            Error::invalid(format!("Invalid value {wanted} for cpuset {field}: invalid format: {wanted}"))
        })?;
        let has = parse_set(&available).unwrap_or_default();
        if !has.is_empty() && !numbers.is_subset(&has) {
            return Err(Error::invalid(format!(
                "Requested {what} are not available - requested {wanted}, available: {available}"
            )));
        }
    }
    // Swap alone is fine: the container may have a limit of memory already.
    let swap_alone = resources.memory == 0 && resources.memory_swap > 0;
    let checked =
        Resources { memory_swap: if swap_alone { 0 } else { resources.memory_swap }, ..resources.clone() };
    check(&checked, cpus)?;
    Ok(warnings)
}

/// `0-3,7` as numbers.
fn parse_set(text: &str) -> Option<BTreeSet<u16>> {
    let mut all = BTreeSet::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if last < first {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// `linux.resources` as OCI JSON, without the devices.
pub(super) fn limits(host: &HostConfig, version: CgroupVersion) -> Result<Value> {
    let r = &host.resources;
    let mut all = Map::new();
    let mut put = |name: &str, fields: Map<String, Value>| {
        if !fields.is_empty() {
            all.insert(name.to_owned(), Value::Object(fields));
        }
    };

    let mut memory = Map::new();
    if r.memory > 0 {
        memory.insert("limit".into(), json!(r.memory));
    }
    if r.memory_reservation > 0 {
        memory.insert("reservation".into(), json!(r.memory_reservation));
    }
    // By default as much swap as memory.
    let swap = if r.memory > 0 && r.memory_swap == 0 { r.memory.saturating_mul(2) } else { r.memory_swap };
    if swap != 0 {
        memory.insert("swap".into(), json!(swap));
    }
    // Version 2 has neither; Docker drops them there.
    if version == CgroupVersion::V1 {
        if let Some(swappiness) = r.memory_swappiness.filter(|value| *value >= 0) {
            memory.insert("swappiness".into(), json!(swappiness));
        }
        if r.oom_kill_disable == Some(true) {
            memory.insert("disableOOMKiller".into(), json!(true));
        }
    }
    put("memory", memory);

    let mut cpu = Map::new();
    if r.cpu_shares > 0 {
        cpu.insert("shares".into(), json!(r.cpu_shares));
    }
    if r.nano_cpus > 0 {
        cpu.insert("period".into(), json!(PERIOD));
        cpu.insert("quota".into(), json!(r.nano_cpus / (1_000_000_000 / PERIOD)));
    }
    for (name, value) in [
        ("period", r.cpu_period),
        ("quota", r.cpu_quota),
        ("realtimePeriod", r.cpu_realtime_period),
        ("realtimeRuntime", r.cpu_realtime_runtime),
    ] {
        if value != 0 {
            cpu.insert(name.into(), json!(value));
        }
    }
    for (name, value) in [("cpus", &r.cpuset_cpus), ("mems", &r.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(name.into(), json!(value));
        }
    }
    put("cpu", cpu);

    if let Some(limit) = r.pids_limit {
        put("pids", Map::from_iter([("limit".to_owned(), json!(if limit > 0 { limit } else { -1 }))]));
    }

    let mut io = Map::new();
    if r.blkio_weight != 0 {
        io.insert("weight".into(), json!(r.blkio_weight));
    }
    for (name, devices) in [
        ("weightDevice", weights(&r.blkio_weight_device)?),
        ("throttleReadBpsDevice", throttle(&r.blkio_device_read_bps)?),
        ("throttleWriteBpsDevice", throttle(&r.blkio_device_write_bps)?),
        ("throttleReadIOPSDevice", throttle(&r.blkio_device_read_iops)?),
        ("throttleWriteIOPSDevice", throttle(&r.blkio_device_write_iops)?),
    ] {
        if !devices.is_empty() {
            io.insert(name.into(), json!(devices));
        }
    }
    put("blockIO", io);
    Ok(Value::Object(all))
}

/// `process.rlimits` as OCI JSON.
///
/// # Errors
/// Names that are no limit.
pub(super) fn ulimits(resources: &Resources) -> Result<Vec<Value>> {
    const NAMES: [&str; 16] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
        "as",
    ];
    // -1 is unlimited, as all bits set are in `setrlimit(2)`.
    let value = |number: i64| u64::from_ne_bytes(number.to_ne_bytes());
    resources
        .ulimits
        .iter()
        .map(|limit| {
            let name = limit.name.to_lowercase();
            if !NAMES.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid ulimit type: {}", limit.name)));
            }
            if value(limit.soft) > value(limit.hard) {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                )));
            }
            Ok(json!({
                "type": format!("RLIMIT_{}", name.to_uppercase()),
                "soft": value(limit.soft),
                "hard": value(limit.hard),
            }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use wire::docker::host_config::Ulimit;

    use super::*;

    fn host(resources: Resources) -> HostConfig {
        HostConfig { resources, ..HostConfig::default() }
    }

    #[test]
    fn limits_become_oci_ones() {
        let resources = Resources {
            memory: 64 << 20,
            nano_cpus: 1_500_000_000,
            cpuset_cpus: "0-1".into(),
            pids_limit: Some(0),
            memory_swappiness: Some(10),
            blkio_weight: 300,
            ..Resources::default()
        };
        let expected = json!({
            "memory": {"limit": 64 << 20, "swap": 128 << 20, "swappiness": 10},
            "cpu": {"period": 100_000, "quota": 150_000, "cpus": "0-1"},
            "pids": {"limit": -1},
            "blockIO": {"weight": 300},
        });
        assert_eq!(limits(&host(resources.clone()), CgroupVersion::V1).unwrap(), expected);
        let on_v2 = limits(&host(resources), CgroupVersion::V2).unwrap();
        assert!(on_v2["memory"].get("swappiness").is_none());
        assert_eq!(limits(&host(Resources::default()), CgroupVersion::V2).unwrap(), json!({}));
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        let error = |resources| check(&resources, 2).unwrap_err().to_string();
        let plain = Resources::default;
        assert_eq!(error(Resources { memory: 1, ..plain() }), "Minimum memory limit allowed is 6MB");
        assert!(error(Resources { memory_swap: 1, ..plain() }).starts_with("You should always set"));
        assert_eq!(
            error(Resources { nano_cpus: 3_000_000_000, ..plain() }),
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        );
        assert!(error(Resources { blkio_weight: 5, ..plain() }).starts_with("Range of blkio"));
        check(&Resources { memory_swappiness: Some(-1), memory_swap: -1, ..plain() }, 2).unwrap();
    }

    #[test]
    fn sets_of_cpus_are_read() {
        assert_eq!(parse_set("0-2,7\n").unwrap(), BTreeSet::from([0, 1, 2, 7]));
        for text in ["", "x", "3-1", "1-", "99999999"] {
            assert!(parse_set(text).is_none(), "{text}");
        }
    }

    #[test]
    fn ulimits_are_named_and_ordered() {
        let one = |name: &str, soft, hard| Resources {
            ulimits: vec![Ulimit { name: name.into(), soft, hard }],
            ..Resources::default()
        };
        let limits = ulimits(&one("nofile", 1024, -1)).unwrap();
        assert_eq!(limits, [json!({"type": "RLIMIT_NOFILE", "soft": 1024, "hard": u64::MAX})]);
        assert!(ulimits(&one("nonsense", 1, 1)).is_err());
        assert!(ulimits(&one("core", -1, 1)).is_err());
    }
}
