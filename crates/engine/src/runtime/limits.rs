//! New limits for a control group that processes are in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use wire::docker::host_config::Resources;

use super::{
    cgroup::{CgroupVersion, Cgroups},
    spec::PERIOD,
};

const SHARES: i64 = 1024;

/// A file of a group, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    /// The first that the machine has of these.
    files: &'static [&'static str],
    value: String,
    /// Docker drops the limit where the machine has none of the files.
    optional: bool,
}

impl Cgroups {
    /// Gives the group `path` the limits of `new` where they are not those of `old`. If that fails, it has
    /// those of `old` again.
    pub(super) fn update(&self, path: &Path, old: &Resources, new: &Resources) -> io::Result<()> {
        let groups: Vec<PathBuf> = self.groups(path).collect();
        let before = limits(old, self.version());
        let after = limits(new, self.version());
        let changed: Vec<Limit> = after.into_iter().filter(|limit| !before.contains(limit)).collect();
        let written = write_all(&groups, &changed);
        if written.is_err() {
            let touched =
                before.into_iter().filter(|limit| changed.iter().any(|other| other.files == limit.files));
            // The first error is the one to tell.
            let _ = write_all(&groups, &touched.collect::<Vec<_>>());
        }
        written
    }
}

/// Writes the limits. Some must be within others, so that their order depends on what is there: those that
/// are refused are tried again after the rest.
fn write_all(groups: &[PathBuf], limits: &[Limit]) -> io::Result<()> {
    let mut refused = Vec::new();
    for limit in limits {
        match write(groups, limit) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused.push(limit),
            result => result?,
        }
    }
    refused.into_iter().try_for_each(|limit| {
        write(groups, limit).map_err(|error| {
            let name = limit.files.first().copied().unwrap_or_default();
            io::Error::new(error.kind(), format!("write {:?} to {name}: {error}", limit.value))
        })
    })
}

fn write(groups: &[PathBuf], limit: &Limit) -> io::Result<()> {
    let found = limit
        .files
        .iter()
        .flat_map(|file| groups.iter().map(move |group| group.join(file)))
        .find(|path| path.exists());
    let Some(path) = found else {
        if limit.optional {
            return Ok(());
        }
        let name = limit.files.first().copied().unwrap_or_default();
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("this machine has no {name}")));
    };
    // A control file takes what comes in one write.
    fs::write(&path, &limit.value).map_err(|error| match error.raw_os_error() {
        // Kept as it is: the caller asks for its number, and may try again.
        Some(libc::EINVAL) => error,
        _ => io::Error::new(error.kind(), format!("write {:?} to {}: {error}", limit.value, path.display())),
    })
}

/// All limits that `update` can change, in the order in which they are to be written.
fn limits(resources: &Resources, version: CgroupVersion) -> Vec<Limit> {
    let r = resources;
    let must = |files, value: String| Limit { files, value, optional: false };
    let may = |files, value: String| Limit { files, value, optional: true };
    // Docker's own are 0 for "not limited", and -1 for the same said aloud.
    let or_unlimited = |number: i64, unlimited: &str| match number {
        1.. => number.to_string(),
        _ => unlimited.to_owned(),
    };
    let (period, quota) = if r.nano_cpus > 0 {
        (PERIOD, r.nano_cpus / (1_000_000_000 / PERIOD))
    } else {
        (if r.cpu_period > 0 { r.cpu_period } else { PERIOD }, r.cpu_quota)
    };
    let shares = if r.cpu_shares > 0 { r.cpu_shares } else { SHARES };
    let pids = or_unlimited(r.pids_limit.unwrap_or(0), "max");
    let weight = if r.blkio_weight == 0 { None } else { Some(u32::from(r.blkio_weight)) };
    let mut all = match version {
        CgroupVersion::V1 => vec![
            may(&["memory.memsw.limit_in_bytes"], or_unlimited(r.memory_swap, "-1")),
            must(&["memory.limit_in_bytes"], or_unlimited(r.memory, "-1")),
            must(&["memory.soft_limit_in_bytes"], or_unlimited(r.memory_reservation, "-1")),
            must(&["cpu.shares"], shares.to_string()),
            must(&["cpu.cfs_period_us"], period.to_string()),
            must(&["cpu.cfs_quota_us"], or_unlimited(quota, "-1")),
            must(&["pids.max"], pids),
        ],
        CgroupVersion::V2 => {
            let swap = match r.memory_swap {
                1.. => r.memory_swap.saturating_sub(r.memory).max(0).to_string(),
                _ => "max".to_owned(),
            };
            vec![
                may(&["memory.swap.max"], swap),
                must(&["memory.max"], or_unlimited(r.memory, "max")),
                must(&["memory.low"], r.memory_reservation.max(0).to_string()),
                must(&["cpu.weight"], cpu_weight(shares).to_string()),
                must(&["cpu.max"], format!("{} {period}", or_unlimited(quota, "max"))),
                must(&["pids.max"], pids),
            ]
        }
    };
    if let Some(weight) = weight {
        let limit = match version {
            CgroupVersion::V1 => may(&["blkio.weight", "blkio.bfq.weight"], weight.to_string()),
            CgroupVersion::V2 => {
                // 10 to 1000 become 1 to 10000.
                let wide = 1 + weight.saturating_sub(10) * 9999 / 990;
                all.push(may(&["io.weight"], wide.to_string()));
                may(&["io.bfq.weight"], weight.to_string())
            }
        };
        all.push(limit);
    }
    for (files, value) in
        [(&["cpuset.cpus"] as &'static [_], &r.cpuset_cpus), (&["cpuset.mems"], &r.cpuset_mems)]
    {
        if !value.is_empty() {
            all.push(must(files, value.clone()));
        }
    }
    all
}

/// Version 1's shares (2 to 262144, by default 1024) as version 2's weight (1 to 10000, by default 100), by
/// the curve that the helper uses as well.
fn cpu_weight(shares: i64) -> i64 {
    if shares <= 2 {
        return 1;
    }
    let log = (shares.min(262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as i64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(version: CgroupVersion) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("c")).unwrap();
        for limit in limits(&Resources::default(), version) {
            fs::write(directory.path().join("c").join(limit.files[0]), "untouched").unwrap();
        }
        directory
    }

    #[test]
    fn only_what_changed_is_written() {
        let directory = files(CgroupVersion::V2);
        let cgroups = Cgroups::for_tests(CgroupVersion::V2, &[directory.path().to_str().unwrap()]);
        let old = Resources { memory: 64 << 20, memory_swap: 128 << 20, ..Resources::default() };
        let new = Resources { memory: 32 << 20, nano_cpus: 500_000_000, blkio_weight: 1000, ..old.clone() };
        cgroups.update(Path::new("/c"), &old, &new).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join("c").join(name)).unwrap();
        assert_eq!(read("memory.max"), (32 << 20).to_string());
        // What is left of the two together is swap.
        assert_eq!(read("memory.swap.max"), (96 << 20).to_string());
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("pids.max"), "untouched");
        assert_eq!(read("cpu.weight"), "untouched");
    }

    #[test]
    fn what_the_machine_lacks_is_an_error_or_dropped_as_in_docker() {
        let directory = files(CgroupVersion::V1);
        let cgroups = Cgroups::for_tests(CgroupVersion::V1, &[directory.path().to_str().unwrap()]);
        let update = |new: Resources| cgroups.update(Path::new("/c"), &Resources::default(), &new);
        update(Resources { blkio_weight: 500, ..Resources::default() }).unwrap();
        let error = update(Resources { cpuset_cpus: "0".into(), ..Resources::default() }).unwrap_err();
        assert_eq!(error.to_string(), "this machine has no cpuset.cpus");
    }

    #[test]
    fn weights_keep_their_ends_and_their_middle() {
        assert_eq!([2, 1024, 262_144, i64::MAX].map(cpu_weight), [1, 100, 10_000, 10_000]);
    }
}
