use std::collections::BTreeMap;

use wire::docker::host_config::Resources;

use super::*;

/// A machine with everything, and control groups of version 2.
pub(super) fn machine() -> Machine {
    Machine {
        cgroups: Cgroups::for_tests(CgroupVersion::V2, &["/sys/fs/cgroup"]),
        capabilities: u64::MAX,
        cpus: 2,
        seccomp: true,
        sysctls: vec![("net.ipv4.ip_unprivileged_port_start", "0")],
        masked: Vec::new(),
        remap: None,
    }
}

fn old_machine() -> Machine {
    let hierarchies = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu,cpuacct"];
    Machine { cgroups: Cgroups::for_tests(CgroupVersion::V1, &hierarchies), ..machine() }
}

fn config() -> ContainerConfig {
    ContainerConfig {
        hostname: "0123456789ab".into(),
        cmd: Some(vec!["sh".into()]),
        ..ContainerConfig::default()
    }
}

struct Case {
    config: ContainerConfig,
    host: HostConfig,
    mounts: Vec<RequestedMount>,
    join: Join,
    machine: Machine,
}

fn case(host: HostConfig) -> Case {
    Case { config: config(), host, mounts: Vec::new(), join: Join::default(), machine: machine() }
}

impl Case {
    fn spec(&self) -> Result<Spec> {
        let user = User { uid: 0, gid: 0, groups: vec![0] };
        let request = Request {
            id: "0123",
            config: &self.config,
            host: &self.host,
            rootfs: Path::new("/root.fs"),
            user: &user,
            files: Files { hosts: Some(Path::new("/state/hosts")), ..Files::default() },
            mounts: &self.mounts,
            join: self.join.clone(),
            program: Path::new("/agent"),
        };
        build(&request, &self.machine)
    }

    fn json(&self) -> Value {
        let mut json = serde_json::to_value(self.spec().unwrap()).unwrap();
        // Sets have no order.
        for set in ["bounding", "effective", "permitted"] {
            json["process"]["capabilities"][set]
                .as_array_mut()
                .unwrap()
                .sort_by_key(|name| name.as_str().unwrap().to_owned());
        }
        json
    }

    fn mount_at(&self, path: &str) -> Option<Value> {
        self.json()["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == path).cloned()
    }

    fn namespaces(&self) -> Vec<String> {
        let json = self.json();
        let all = json["linux"]["namespaces"].as_array().unwrap();
        all.iter()
            .map(|namespace| {
                let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default();
                format!("{}{path}", namespace["type"].as_str().unwrap())
            })
            .collect()
    }
}

#[test]
fn the_default_is_dockers() {
    let mut json = case(HostConfig::default()).json();
    // Has tests of its own.
    assert_eq!(json["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    json["linux"].as_object_mut().unwrap().remove("seccomp");
    let capabilities = json!([
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    let rule = |allow: bool, major: i64, minor: i64| json!({ "allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm" });
    let expected = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0, "additionalGids": [0] },
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=0123456789ab"
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [],
            "noNewPrivileges": false,
            "oomScoreAdj": 0
        },
        "root": { "path": "/root.fs", "readonly": false },
        "hostname": "0123456789ab",
        "annotations": {},
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
            ),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
            mount("/etc/hosts", "bind", "/state/hosts", &["rbind", "rprivate"])
        ],
        "linux": {
            "cgroupsPath": "/docker/0123",
            "devices": [],
            "namespaces": [
                { "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "pid" },
                { "type": "ipc" }, { "type": "cgroup" }
            ],
            "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
            "resources": { "devices": [
                { "allow": false, "access": "rwm" },
                rule(true, 1, 5), rule(true, 1, 3), rule(true, 1, 9), rule(true, 1, 8), rule(true, 5, 0),
                rule(true, 5, 1), rule(false, 10, 229)
            ]},
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/sys/firmware", "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    assert_eq!(json, expected, "\n{json:#}\nis not\n{expected:#}");
}

#[test]
fn a_privileged_container_has_everything() {
    let case = case(HostConfig { privileged: true, ..HostConfig::default() });
    let json = case.json();
    assert_eq!(json["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    assert!(json["linux"].get("seccomp").is_none());
    assert_eq!(json["linux"]["maskedPaths"], json!([]));
    assert_eq!(json["linux"]["readonlyPaths"], json!([]));
    assert_eq!(json["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert!(!json["linux"]["devices"].as_array().unwrap().is_empty());
    for path in ["/sys", "/sys/fs/cgroup"] {
        let options = case.mount_at(path).unwrap()["options"].clone();
        assert!(!options.as_array().unwrap().contains(&json!("ro")), "{path}: {options}");
    }
}

#[test]
fn modes_choose_namespaces() {
    let host = HostConfig {
        pid_mode: "host".into(),
        ipc_mode: "host".into(),
        uts_mode: "host".into(),
        network_mode: "host".into(),
        cgroupns_mode: "host".into(),
        ..HostConfig::default()
    };
    let shared = case(host);
    assert_eq!(shared.namespaces(), ["mount"]);
    assert_eq!(shared.json().get("hostname"), None);
    assert_eq!(shared.json()["linux"]["sysctl"], json!({}));
    assert_eq!(shared.mount_at("/dev/shm").unwrap()["type"], "bind");

    let mut joining = case(HostConfig {
        pid_mode: "container:a".into(),
        ipc_mode: "container:b".into(),
        network_mode: "container:c".into(),
        ..HostConfig::default()
    });
    assert!(joining.spec().is_err());
    joining.join = Join {
        network: Some("/net".into()),
        ipc: Some("/ipc".into()),
        pid: Some("/pid".into()),
        shm: Some("/shm".into()),
    };
    assert_eq!(joining.namespaces(), ["mount", "network/net", "uts", "pid/pid", "ipc/ipc", "cgroup"]);
    assert_eq!(joining.mount_at("/dev/shm").unwrap()["source"], "/shm");

    let none = case(HostConfig { ipc_mode: "none".into(), ..HostConfig::default() });
    assert_eq!(none.mount_at("/dev/shm"), None);

    for (field, host) in [
        ("PID", HostConfig { pid_mode: "container:".into(), ..HostConfig::default() }),
        ("IPC", HostConfig { ipc_mode: "odd".into(), ..HostConfig::default() }),
        ("UTS", HostConfig { uts_mode: "odd".into(), ..HostConfig::default() }),
        ("cgroup namespace", HostConfig { cgroupns_mode: "odd".into(), ..HostConfig::default() }),
    ] {
        let error = check(&config(), &host, &machine()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("invalid {field} mode")), "{error}");
    }
}

#[test]
fn options_reach_the_specification() {
    let mut case = case(HostConfig {
        readonly_rootfs: true,
        oom_score_adj: 500,
        shm_size: 1 << 20,
        init: Some(true),
        console_size: [40, 100],
        security_opt: Some(vec!["no-new-privileges".into(), "seccomp=unconfined".into()]),
        sysctls: Some(BTreeMap::from([("net.core.somaxconn".into(), "1024".into())])),
        annotations: Some(BTreeMap::from([("a".into(), "b".into())])),
        masked_paths: Some(Vec::new()),
        resources: Resources { cgroup_parent: "../custom".into(), memory: 8 << 20, ..Resources::default() },
        ..HostConfig::default()
    });
    case.config.tty = true;
    case.config.entrypoint = Some(vec!["/bin/echo".into()]);
    case.config.working_dir = "/a/./b/../c".into();
    case.config.env = Some(vec!["PATH=/bin".into(), "HOSTNAME".into()]);
    let json = case.json();
    assert_eq!(json["root"]["readonly"], true);
    assert_eq!(json["process"]["oomScoreAdj"], 500);
    assert_eq!(json["process"]["noNewPrivileges"], true);
    assert_eq!(json["process"]["args"], json!(["/sbin/docker-init", "--", "/bin/echo", "sh"]));
    assert_eq!(json["process"]["env"], json!(["PATH=/bin", "TERM=xterm"]));
    assert_eq!(json["process"]["cwd"], "/a/c");
    assert_eq!(json["process"]["consoleSize"], json!({"height": 40, "width": 100}));
    assert_eq!(json["annotations"]["a"], "b");
    assert_eq!(json["linux"]["sysctl"]["net.core.somaxconn"], "1024");
    assert_eq!(json["linux"]["maskedPaths"], json!([]));
    assert_eq!(json["linux"]["cgroupsPath"], "/custom/0123");
    assert_eq!(json["linux"]["resources"]["memory"]["limit"], 8 << 20);
    assert!(json["linux"].get("seccomp").is_none());
    assert_eq!(case.mount_at("/sbin/docker-init").unwrap()["source"], "/agent");
    let options = case.mount_at("/dev/shm").unwrap()["options"].clone();
    assert!(options.as_array().unwrap().contains(&json!("size=1048576")));
    let options = case.mount_at("/etc/hosts").unwrap()["options"].clone();
    assert_eq!(options, json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn a_users_mount_takes_the_place_of_a_default_one() {
    let mut case = case(HostConfig::default());
    let host = HostConfig {
        binds: Some(vec!["/a/b:/x/y/z:ro".into(), "/mine:/etc/hosts".into(), "/devices:/dev".into()]),
        tmpfs: Some(BTreeMap::from([("/x".into(), "size=1m".into())])),
        ..HostConfig::default()
    };
    case.mounts = mounts::requested(&host).unwrap();
    let json = case.json();
    let points: Vec<&str> =
        json["mounts"].as_array().unwrap().iter().filter_map(|mount| mount["destination"].as_str()).collect();
    assert_eq!(points, ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/x", "/etc/hosts", "/x/y/z"]);
    assert_eq!(case.mount_at("/etc/hosts").unwrap()["source"], "/mine");
    assert_eq!(case.mount_at("/x/y/z").unwrap()["options"], json!(["rbind", "ro", "rro", "rprivate"]));
}

#[test]
fn groups_of_version_1_are_bound_one_by_one() {
    let mut case = case(HostConfig::default());
    case.machine = old_machine();
    assert_eq!(case.namespaces(), ["mount", "network", "uts", "pid", "ipc"]);
    assert_eq!(case.mount_at("/sys/fs/cgroup").unwrap()["type"], "tmpfs");
    assert_eq!(
        case.mount_at("/sys/fs/cgroup/memory").unwrap(),
        mount(
            "/sys/fs/cgroup/memory",
            "bind",
            "/sys/fs/cgroup/memory/docker/0123",
            &["rbind", "nosuid", "noexec", "nodev", "ro"]
        )
    );
    assert!(case.mount_at("/sys/fs/cgroup/cpu,cpuacct").is_some());
    assert_eq!(case.mount_at("/sys/fs/cgroup/systemd"), None);
}

#[test]
fn what_is_not_done_is_refused() {
    use wire::docker::host_config::DeviceRequest;
    let refused = |host: HostConfig| check(&config(), &host, &machine()).unwrap_err().to_string();
    assert_eq!(
        refused(HostConfig { runtime: "kata".into(), ..HostConfig::default() }),
        "unknown or invalid runtime name: kata"
    );
    let gpu = DeviceRequest { capabilities: Some(vec![vec!["gpu".into()]]), ..DeviceRequest::default() };
    let resources = Resources { device_requests: Some(vec![gpu]), ..Resources::default() };
    assert_eq!(
        refused(HostConfig { resources, ..HostConfig::default() }),
        "could not select device driver \"\" with capabilities: [[gpu]]"
    );
    let mut with_volume = case(HostConfig::default());
    let host = HostConfig { binds: Some(vec!["data:/d".into()]), ..HostConfig::default() };
    with_volume.mounts = mounts::requested(&host).unwrap();
    assert_eq!(with_volume.spec().unwrap_err().kind(), crate::error::Kind::NotImplemented);

    let mut relative = config();
    relative.working_dir = "a".into();
    assert_eq!(
        check(&relative, &HostConfig::default(), &machine()).unwrap_err().to_string(),
        "the working directory 'a' is invalid, it needs to be an absolute path"
    );
    let mut empty = case(HostConfig::default());
    empty.config.cmd = None;
    assert_eq!(empty.spec().unwrap_err().to_string(), "no command specified");
}
