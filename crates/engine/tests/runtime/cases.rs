//! The cases.

use std::{
    ffi::OsString,
    fs,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, ExitCode, Stdio as ChildStdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use engine::runtime::{
    Stdio, resize,
    spec::{self, ExecRequest, Join, User},
    start_exit_code,
};

use super::lab::{Job, Lab, Outcome, PATIENCE, Reader, finish, until, write_all};

type Case = fn(Arc<Lab>) -> Pin<Box<dyn Future<Output = Result<()>>>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), |lab| Box::pin($name(lab)))),*]
    };
}

const CASES: &[(&str, Case)] = cases![
    exit_codes_and_output,
    errors_in_dockers_words,
    signals,
    terminals,
    standard_input,
    what_a_container_sees,
    privileges,
    users,
    mounts,
    limits,
    execs,
    pauses,
    shared_namespaces,
    init_as_first_process,
    many_at_once,
    an_engine_that_dies,
    a_shim_that_dies,
];

/// Runs the cases whose names contain one of the arguments, or all, in the directory `root`.
pub(crate) fn run(root: &Path, arguments: &[OsString]) -> ExitCode {
    let mut out = std::io::stdout();
    let wanted: Vec<String> = arguments
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .filter(|word| !word.starts_with('-'))
        .collect();
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start tokio")
        .and_then(|tokio| {
            Lab::prepare(root).context("prepare the lab")?;
            tokio.block_on(run_all(root, &wanted))
        });
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            let _ = writeln!(out, "{failed} failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(out, "{error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run_all(root: &Path, wanted: &[String]) -> Result<usize> {
    let mut out = std::io::stdout();
    let mut failed = 0;
    for (name, case) in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let start = Instant::now();
        let result = one(root, &root.join(name), *case).await;
        let taken = start.elapsed().as_millis();
        match result {
            Ok(()) => writeln!(out, "test {name} ... ok ({taken} ms)")?,
            Err(error) => {
                failed += 1;
                writeln!(out, "test {name} ... FAILED ({taken} ms)\n{error:#}")?;
            }
        }
    }
    Ok(failed)
}

/// Runs a case with a shim of its own, and looks at what is left of it.
async fn one(root: &Path, run: &Path, case: Case) -> Result<()> {
    let descriptors = open_descriptors()?;
    let (lab, held) = Lab::connect(root, run).await?;
    ensure!(held.is_empty(), "something is held at the start: {held:?}");
    let lab = Arc::new(lab);
    tokio::time::timeout(PATIENCE * 4, case(lab.clone())).await.context("the case takes too long")??;
    ensure!(lab.groups_left().is_empty(), "control groups are left: {:?}", lab.groups_left());
    let left = fs::read_dir(run.join("bundles"))?.count();
    ensure!(left == 0, "{left} bundles are left");
    lab.runtime.shutdown().await?;
    until("the shim ends", || Ok(shims(run)?.is_empty())).await?;
    drop(lab);
    until("all descriptors are closed", || Ok(open_descriptors()? <= descriptors)).await?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = mounts.lines().filter(|line| line.contains(&*root.to_string_lossy())).count();
    ensure!(mounted == 1, "mounts are left:\n{mounts}");
    Ok(())
}

fn open_descriptors() -> std::io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// The processes whose command line has this text.
fn processes_with(text: &str) -> std::io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn shims(run: &Path) -> std::io::Result<Vec<i32>> {
    processes_with(&format!("shim --root {}", run.display()))
}

async fn exit_codes_and_output(lab: Arc<Lab>) -> Result<()> {
    let outcome = lab.script("echo out; echo err >&2; exit 7").await?;
    outcome.expect(7, "out\n")?;
    ensure!(outcome.err == "err\n", "{outcome:?}");
    // The first process cannot be killed from inside.
    lab.script("kill -9 $$").await?.expect(0, "")?;
    lab.run(&Job::command(&["true"])).await?.expect(0, "")?;
    // More than any pipe holds.
    let outcome = lab.script("head -c 300000 /dev/zero | tr '\\0' x").await?;
    ensure!(outcome.out.len() == 300_000 && outcome.exit.code == 0, "{}", outcome.out.len());
    Ok(())
}

async fn errors_in_dockers_words(lab: Arc<Lab>) -> Result<()> {
    const START: &str = "failed to create task for container: failed to create shim task: OCI runtime create \
                         failed: runc create failed: unable to start container process: error during \
                         container init: ";
    let cases: &[(&str, &str, i32)] = &[
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH: unknown", 127),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown", 127),
        ("/etc", "exec: \"/etc\": is a directory: unknown: permission denied", 126),
        ("/bin/plain", "exec: \"/bin/plain\": permission denied: unknown", 126),
    ];
    for (command, text, code) in cases {
        let error = lab.refusal(&Job::command(&[command])).await?;
        ensure!(error.to_string() == format!("{START}{text}"), "{error}");
        ensure!(start_exit_code(&error) == *code, "{command}: {}", start_exit_code(&error));
    }
    // Found, but not executable: it starts, says so and ends, as with runc.
    for (command, text) in [
        ("strange", "exec /bin/strange: exec format error\n"),
        ("orphan", "exec /bin/orphan: no such file or directory\n"),
    ] {
        let outcome = lab.run(&Job::command(&[command])).await?;
        ensure!(outcome.exit.code == 255 && outcome.err == text, "{outcome:?}");
    }
    let mismatch = Job::script("true").with_host(|host| host.binds = Some(vec!["/etc/passwd:/tmp".into()]));
    let error = lab.refusal(&mismatch).await?;
    ensure!(error.to_string().contains("not a directory: unknown: Are you trying to mount"), "{error}");
    ensure!(start_exit_code(&error) == 127);
    let bad_sysctl = Job::script("true").with_host(|host| {
        host.sysctls = Some([("kernel.nosuch".to_owned(), "1".to_owned())].into());
    });
    let error = lab.refusal(&bad_sysctl).await?.to_string();
    ensure!(error.contains("kernel.nosuch"), "{error}");
    Ok(())
}

async fn signals(lab: Arc<Lab>) -> Result<()> {
    let id = lab.new_id();
    let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.02; done";
    let mut running = lab.start(&id, &Job::script(script)).await?;
    let mut out = Reader::new(running.streams.stdout.take().context("no output")?)?;
    out.until("ready").await?;
    lab.runtime.signal(running.pid, libc::SIGTERM)?;
    out.until("got").await?;
    let pid = running.pid;
    finish(running).await?.expect(3, "")?;
    ensure!(lab.runtime.signal(pid, libc::SIGTERM).is_err(), "a process that has ended takes a signal");
    lab.runtime.release(&id, None);
    lab.runtime.delete(&id).await?;
    // Deleted twice is deleted.
    lab.runtime.delete(&id).await?;

    let id = lab.new_id();
    let running = lab.start(&id, &Job::command(&["sleep", "1000"])).await?;
    lab.runtime.signal(running.pid, libc::SIGKILL)?;
    finish(running).await?.expect(137, "")?;
    lab.runtime.delete(&id).await?;

    // What is left of a container that still runs goes with it.
    let id = lab.new_id();
    let running = lab.start(&id, &Job::script("sleep 1000 & sleep 1000")).await?;
    lab.runtime.delete(&id).await?;
    finish(running).await?.expect(137, "")
}

async fn terminals(lab: Arc<Lab>) -> Result<()> {
    let script = "stty size; tty; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.02; done";
    let id = lab.new_id();
    let mut running = lab.start(&id, &Job::script(script).with_terminal(24, 80)).await?;
    let terminal = running.streams.terminal.take().context("no terminal")?;
    let mut reader = Reader::new(rustix::io::fcntl_dupfd_cloexec(&terminal, 0)?)?;
    let text = reader.until("ready").await?;
    ensure!(text.starts_with("24 80\r\n/dev/pts/0\r\n"), "{text:?}");
    resize(&terminal, 50, 132)?;
    reader.until("50 132").await?;
    drop((terminal, reader));
    finish(running).await?.expect(4, "")?;
    lab.runtime.delete(&id).await?;

    // Input goes the same way, and an interrupt is a signal.
    let id = lab.new_id();
    let script =
        "trap 'echo interrupted; exit 5' INT; read line; echo \"<$line>\"; while :; do sleep 0.02; done";
    let mut running = lab.start(&id, &Job::script(script).with_terminal(24, 80)).await?;
    let terminal = running.streams.terminal.take().context("no terminal")?;
    let mut reader = Reader::new(rustix::io::fcntl_dupfd_cloexec(&terminal, 0)?)?;
    write_all(&terminal, b"hello\n").await?;
    reader.until("<hello>").await?;
    write_all(&terminal, b"\x03").await?;
    reader.until("interrupted").await?;
    drop((terminal, reader));
    finish(running).await?.expect(5, "")?;
    lab.runtime.delete(&id).await?;
    Ok(())
}

async fn standard_input(lab: Arc<Lab>) -> Result<()> {
    let id = lab.new_id();
    let mut running = lab.start(&id, &Job::command(&["cat"]).with_stdin()).await?;
    let stdin = running.streams.stdin.take().context("no input")?;
    write_all(&stdin, b"through\n").await?;
    // The shim's copy must not keep the input open.
    drop(stdin);
    finish(running).await?.expect(0, "through\n")?;
    lab.runtime.release(&id, None);
    lab.runtime.delete(&id).await?;
    lab.run(&Job::command(&["cat"])).await?.expect(0, "")
}

async fn what_a_container_sees(lab: Arc<Lab>) -> Result<()> {
    let outcome = lab.run(&Job::command(&["cat", "/proc/self/status"])).await?;
    for line in [
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "Groups:\t0 ",
    ] {
        ensure!(outcome.out.contains(line), "{line} is not in {outcome:?}");
    }
    lab.script("hostname; umask; pwd; echo $HOME; echo $PATH; echo $$; ls /proc/self/fd | wc -l")
        .await?
        .expect(
            0,
            "lab\n0022\n/\n/root\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n1\n4\n",
        )?;
    lab.script("cat /proc/interrupts | wc -c; ls /sys/firmware").await?.expect(0, "0\n")?;
    for writing in [
        "echo 1 >/proc/sys/kernel/panic",
        "echo x >/proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/x",
        "mkdir /sys/fs/cgroup/memory/x",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /sys",
        "unshare -U true",
        "mknod /tmp/vda b 254 0 && cat /tmp/vda",
        "mknod /tmp/mem c 1 1 && cat /tmp/mem",
        "dmesg",
    ] {
        let outcome = lab.script(&format!("({writing}) 2>/dev/null")).await?;
        ensure!(outcome.exit.code != 0, "{writing}: {outcome:?}");
    }
    for working in [
        "echo x >/dev/null",
        "head -c 1 /dev/urandom",
        "test -c /dev/tty",
        "test -e /dev/fd/0",
        "echo x >/dev/shm/x",
        "mknod /tmp/zero c 1 5",
        "chroot / true",
        "ping -c 1 -W 1 127.0.0.1",
        "df -k /dev/shm | grep -q 65536",
    ] {
        let outcome =
            lab.script(&format!("{working} >/tmp/out 2>&1; code=$?; cat /tmp/out; exit $code")).await?;
        ensure!(outcome.exit.code == 0, "{working}: {outcome:?}");
        let _ = fs::remove_file(lab.rootfs().join("tmp/zero"));
    }
    Ok(())
}

async fn privileges(lab: Arc<Lab>) -> Result<()> {
    let all = Job::script("mount -t tmpfs none /tmp && grep Seccomp: /proc/self/status && ls /dev/kmsg")
        .with_host(|host| host.privileged = true);
    lab.run(&all).await?.expect(0, "Seccomp:\t0\n/dev/kmsg\n")?;

    let some = Job::script("hostname other && hostname; chown 1 /tmp").with_host(|host| {
        host.cap_add = Some(vec!["SYS_ADMIN".into()]);
        host.cap_drop = Some(vec!["chown".into()]);
    });
    let outcome = lab.run(&some).await?;
    outcome.expect(1, "other\n")?;

    let confined = Job::script("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status")
        .with_host(|host| host.security_opt = Some(vec!["no-new-privileges".into()]));
    lab.run(&confined).await?.expect(0, "NoNewPrivs:\t1\nSeccomp:\t2\n")?;

    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    let custom = Job::script("mkdir /tmp/made")
        .with_host(|host| host.security_opt = Some(vec![format!("seccomp={profile}")]));
    let outcome = lab.run(&custom).await?;
    ensure!(outcome.exit.code == 1 && outcome.err.contains("No space left"), "{outcome:?}");

    // A shell of the machine, out of a container.
    let escape = Job::command(&[
        "nsenter",
        "-t",
        "1",
        "-m",
        "-u",
        "-i",
        "-n",
        "-p",
        "sh",
        "-c",
        "readlink /proc/1/exe; ls -d /work /usr",
    ])
    .with_host(|host| {
        host.privileged = true;
        host.pid_mode = "host".into();
    });
    let outcome = lab.run(&escape).await?;
    let own = fs::read_link("/proc/1/exe")?;
    ensure!(outcome.out.starts_with(&format!("{}\n", own.display())), "{outcome:?}");
    ensure!(outcome.out.contains("/usr\n"), "{outcome:?}");
    Ok(())
}

async fn users(lab: Arc<Lab>) -> Result<()> {
    let user = |name: &str| {
        let name = name.to_owned();
        move |config: &mut wire::docker::container::ContainerConfig| config.user = name
    };
    let who = "id -u; id -g; id -G; echo $HOME; echo seen >/dev/stdout; grep CapEff /proc/self/status";
    lab.run(&Job::script(who).with_config(user("u")))
        .await?
        .expect(0, "1000\n1000\n1000 77\n/home/u\nseen\nCapEff:\t0000000000000000\n")?;
    let added = Job::script("id -G").with_config(user("5:6")).with_host(|host| {
        host.group_add = Some(vec!["extra".into()]);
    });
    lab.run(&added).await?.expect(0, "6 77\n")?;
    let error = lab.refusal(&Job::script("id").with_config(user("nobody"))).await?.to_string();
    ensure!(error == "unable to find user nobody: no matching entries in passwd file", "{error}");

    let elsewhere = Job::script("pwd; stat -c %u .").with_config(|config| {
        config.working_dir = "/made/for/it".into();
        config.user = "u".into();
    });
    lab.run(&elsewhere).await?.expect(0, "/made/for/it\n0\n")?;
    let below = Job::script("pwd; stat -c %u .")
        .with_config(|config| {
            config.working_dir = "/fresh/made".into();
            config.user = "u".into();
        })
        .with_host(|host| host.tmpfs = Some([("/fresh".to_owned(), String::new())].into()));
    lab.run(&below).await?.expect(0, "/fresh/made\n0\n")?;
    let inside = Job::script("pwd").with_config(|config| config.working_dir = "/etc/passwd".into());
    let error = lab.refusal(&inside).await?.to_string();
    ensure!(
        error.contains("chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory"),
        "{error}"
    );
    Ok(())
}

async fn mounts(lab: Arc<Lab>) -> Result<()> {
    let shared = lab.root.join("shared");
    fs::create_dir_all(shared.join("below"))?;
    fs::write(shared.join("file"), "content\n")?;
    let path = shared.display().to_string();
    let bind =
        |text: String| move |host: &mut wire::docker::host_config::HostConfig| host.binds = Some(vec![text]);
    let job = Job::script("cat /data/file; echo more >/data/new").with_host(bind(format!("{path}:/data")));
    lab.run(&job).await?.expect(0, "content\n")?;
    ensure!(fs::read_to_string(shared.join("new"))? == "more\n");
    let job = Job::script("cat /data/file && echo x >/data/x").with_host(bind(format!("{path}:/data:ro")));
    lab.run(&job).await?.expect(1, "content\n")?;
    let job = Job::script("cat /etc/motd").with_host(bind(format!("{path}/file:/etc/motd")));
    lab.run(&job).await?.expect(0, "content\n")?;
    // Made if missing.
    let job = Job::script("ls -A /data").with_host(bind(format!("{path}/fresh:/data")));
    lab.run(&job).await?.expect(0, "")?;
    ensure!(shared.join("fresh").is_dir());

    let job =
        Job::script("touch /x 2>/dev/null || touch /tmp/x && df -k /tmp | grep -c 1024").with_host(|host| {
            host.readonly_rootfs = true;
            host.tmpfs = Some([("/tmp".to_owned(), "size=1m".to_owned())].into());
        });
    lab.run(&job).await?.expect(0, "1\n")?;
    ensure!(!lab.rootfs().join("x").exists());

    // Private unless asked otherwise, and then as asked.
    for (mode, expected) in [("", "private"), (":rslave", "slave"), (":rshared", "shared")] {
        rustix::mount::mount_bind(&shared, &shared)?;
        rustix::mount::mount_change(&shared, rustix::mount::MountPropagationFlags::SHARED)?;
        let look = "grep ' /data ' /proc/self/mountinfo";
        let outcome = lab.run(&Job::script(look).with_host(bind(format!("{path}:/data{mode}")))).await;
        let refused =
            lab.refusal(&Job::script("true").with_host(bind("/proc:/data:rshared".to_owned()))).await;
        rustix::mount::unmount(&shared, rustix::mount::UnmountFlags::DETACH)?;
        let line = outcome?.out;
        let found = match (line.contains("shared:"), line.contains("master:")) {
            (true, _) => "shared",
            (false, true) => "slave",
            (false, false) => "private",
        };
        ensure!(found == expected, "{mode}: {line}");
        ensure!(refused?.to_string().contains("but it is not a shared mount"));
    }
    Ok(())
}

async fn limits(lab: Arc<Lab>) -> Result<()> {
    use wire::docker::host_config::Ulimit;
    let job = Job::script("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj").with_host(|host| {
        host.resources.ulimits = vec![Ulimit { name: "nofile".into(), soft: 7, hard: 9 }];
        host.oom_score_adj = 321;
    });
    lab.run(&job).await?.expect(0, "7\n9\n321\n")?;

    let job = Job::script("cat /dev/zero | head -c 100m | tail -c 99m >/dev/null").with_host(|host| {
        host.resources.memory = 16 << 20;
        host.resources.memory_swap = 16 << 20;
        host.resources.pids_limit = Some(32);
    });
    let id = lab.new_id();
    let running = lab.start(&id, &job).await?;
    let outcome = finish(running).await?;
    ensure!(outcome.exit.code != 0, "{outcome:?}");
    ensure!(lab.runtime.oom_killed(&id).await, "nobody was killed: {outcome:?}");
    lab.runtime.delete(&id).await?;

    let id = lab.new_id();
    let forks = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo done";
    let job = Job::script(forks).with_host(|host| host.resources.pids_limit = Some(5));
    let outcome = finish(lab.start(&id, &job).await?).await?;
    ensure!(outcome.err.contains("can't fork"), "{outcome:?}");
    ensure!(!lab.runtime.oom_killed(&id).await);
    lab.runtime.delete(&id).await?;
    Ok(())
}

/// Runs a command in a container to its end.
async fn exec(lab: &Lab, id: &str, job: &Job, request: &ExecRequest<'_>) -> Result<Outcome> {
    let process = spec::exec_process(&job.config, &job.host, request, &lab.machine)?;
    let stdio = Stdio { terminal: request.tty.then_some((30, 90)), stdin: false };
    let name = lab.new_id();
    let running = lab.runtime.exec(id, &name, &process, stdio).await?;
    let outcome = finish(running).await;
    lab.runtime.release(id, Some(&name));
    outcome
}

async fn execs(lab: Arc<Lab>) -> Result<()> {
    let id = lab.new_id();
    let job = Job::command(&["sleep", "1000"]).with_config(|config| config.env = Some(vec!["A=1".into()]));
    let running = lab.start(&id, &job).await?;
    let words = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
    let (root, user) =
        (User { uid: 0, gid: 0, groups: vec![0] }, User { uid: 1000, gid: 1000, groups: vec![1000, 77] });
    let script = words(
        "sh|-c|echo $A$B; pwd; id -u; hostname; echo e >&2; grep -e Seccomp: -e CapEff /proc/self/status; exit 9",
    );
    let environment = words("B=2");
    let request = ExecRequest {
        command: &script,
        environment: &environment,
        working_dir: "/tmp",
        user: &root,
        tty: false,
        privileged: false,
    };
    let plain = exec(&lab, &id, &job, &request).await?;
    plain.expect(9, "12\n/tmp\n0\nlab\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n")?;
    ensure!(plain.err == "e\n", "{plain:?}");
    let other = ExecRequest { user: &user, ..request };
    let outcome = exec(&lab, &id, &job, &other).await?;
    outcome.expect(9, "12\n/tmp\n1000\nlab\nCapEff:\t0000000000000000\nSeccomp:\t2\n")?;
    let outcome = exec(&lab, &id, &job, &ExecRequest { privileged: true, ..request }).await?;
    ensure!(outcome.out.contains("CapEff:\t000001fff"), "{outcome:?}");
    let size = words("sh|-c|stty size; tty");
    let outcome = exec(&lab, &id, &job, &ExecRequest { command: &size, tty: true, ..request }).await?;
    outcome.expect(0, "30 90\r\n/dev/pts/0\r\n")?;

    for (command, directory, text, code) in [
        ("nosuch", "/", "exec: \"nosuch\": executable file not found in $PATH: unknown", 127),
        ("/etc", "/", "exec: \"/etc\": is a directory: unknown: permission denied", 126),
        (
            "true",
            "/nosuch",
            "chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory: unknown",
            127,
        ),
    ] {
        let command = words(command);
        let request = ExecRequest { command: &command, working_dir: directory, ..request };
        let process = spec::exec_process(&job.config, &job.host, &request, &lab.machine)?;
        let name = lab.new_id();
        let error =
            lab.runtime.exec(&id, &name, &process, Stdio::default()).await.err().context("it starts")?;
        let start = "OCI runtime exec failed: exec failed: unable to start container process: ";
        ensure!(error.to_string() == format!("{start}{text}"), "{error}");
        ensure!(start_exit_code(&error) == code, "{error}");
    }
    // An exec ends with its container.
    let command = words("sleep|1000");
    let request = ExecRequest { command: &command, ..request };
    let process = spec::exec_process(&job.config, &job.host, &request, &lab.machine)?;
    let left = lab.runtime.exec(&id, "left", &process, Stdio::default()).await?;
    ensure!(lab.runtime.processes(&id).await?.contains(&left.pid));
    lab.runtime.signal(running.pid, libc::SIGKILL)?;
    finish(running).await?.expect(137, "")?;
    finish(left).await?.expect(137, "")?;
    lab.runtime.delete(&id).await?;
    Ok(())
}

async fn pauses(lab: Arc<Lab>) -> Result<()> {
    let id = lab.new_id();
    let mut running = lab.start(&id, &Job::script("while :; do echo x; sleep 0.01; done")).await?;
    let mut out = Reader::new(running.streams.stdout.take().context("no output")?)?;
    out.until("x").await?;
    lab.runtime.pause(&id).await?;
    let stat = || fs::read_to_string(format!("/proc/{}/stat", running.pid));
    let time = |stat: &str| stat.split(' ').skip(13).take(4).map(str::to_owned).collect::<Vec<_>>();
    let before = time(&stat()?);
    ensure!(time(&stat()?) == before);
    lab.runtime.resume(&id).await?;
    out.until("x").await?;
    lab.runtime.pause(&id).await?;
    // One that is paused can be ended.
    lab.runtime.kill_all(&id, libc::SIGKILL).await?;
    lab.runtime.resume(&id).await?;
    drop(out);
    ensure!(finish(running).await?.exit.code == 137);
    lab.runtime.delete(&id).await?;
    Ok(())
}

async fn shared_namespaces(lab: Arc<Lab>) -> Result<()> {
    let id = lab.new_id();
    let first = lab.start(&id, &Job::command(&["sleep", "1234"])).await?;
    let path = |kind: &str| Some(PathBuf::from(format!("/proc/{}/ns/{kind}", first.pid)));
    let job =
        Job::script("ps | grep -c '[s]leep 1234'; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc")
            .with_host(|host| {
                host.pid_mode = "container:x".into();
                host.network_mode = "container:x".into();
                host.ipc_mode = "container:x".into();
            });
    let join = Join {
        network: path("net"),
        pid: path("pid"),
        ipc: path("ipc"),
        shm: Some(PathBuf::from("/dev/shm")),
    };
    let other = lab.new_id();
    let outcome = finish(lab.start_joined(&other, &job, join).await?).await?;
    let expected = ["net", "ipc"]
        .into_iter()
        .map(|kind| Ok(format!("{}\n", fs::read_link(path(kind).context("")?)?.display())))
        .collect::<Result<String>>()?;
    outcome.expect(0, &format!("1\n{expected}"))?;
    lab.runtime.delete(&other).await?;
    lab.runtime.signal(first.pid, libc::SIGKILL)?;
    finish(first).await?;
    lab.runtime.delete(&id).await?;

    // In the machine's pid namespace nobody but the control group knows who belongs to a container.
    let id = lab.new_id();
    let job =
        Job::script("sleep 4321 & echo started; sleep 4321").with_host(|host| host.pid_mode = "host".into());
    let mut running = lab.start(&id, &job).await?;
    let mut out = Reader::new(running.streams.stdout.take().context("no output")?)?;
    out.until("started").await?;
    lab.runtime.kill_all(&id, libc::SIGKILL).await?;
    drop(out);
    ensure!(finish(running).await?.exit.code == 137);
    lab.runtime.delete(&id).await?;
    ensure!(processes_with("sleep 4321")?.is_empty());
    Ok(())
}

async fn init_as_first_process(lab: Arc<Lab>) -> Result<()> {
    // This program is not static: it needs the machine's libraries.
    let job = |script: &str| {
        Job::script(script).with_host(|host| {
            host.init = Some(true);
            let libraries = ["/lib", "/lib64", "/usr"].into_iter().filter(|path| Path::new(path).exists());
            host.binds = Some(libraries.map(|path| format!("{path}:{path}:ro")).collect());
        })
    };
    let look = "readlink /proc/1/exe; (sleep 0.01 &); exit 6";
    lab.run(&job(look)).await?.expect(6, "/sbin/docker-init\n")?;
    let id = lab.new_id();
    let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.02; done";
    let mut running = lab.start(&id, &job(script)).await?;
    let mut out = Reader::new(running.streams.stdout.take().context("no output")?)?;
    out.until("ready").await?;
    lab.runtime.signal(running.pid, libc::SIGTERM)?;
    out.until("got").await?;
    drop(out);
    finish(running).await?.expect(3, "")?;
    lab.runtime.delete(&id).await?;
    lab.run(&job("kill -9 $$")).await?.expect(137, "")?;
    Ok(())
}

async fn many_at_once(lab: Arc<Lab>) -> Result<()> {
    const ALL: usize = 200;
    const AT_ONCE: usize = 16;
    let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..ALL {
        let (lab, room) = (lab.clone(), room.clone());
        tasks.spawn(async move {
            let _place = room.acquire_owned().await?;
            let code = i32::try_from(number % 100)?;
            let outcome = lab.script(&format!("echo {number}; exit {code}")).await?;
            outcome.expect(code, &format!("{number}\n"))
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    let each = start.elapsed() / u32::try_from(ALL)?;
    writeln!(std::io::stdout(), "     {ALL} containers, {AT_ONCE} at a time: {each:?} each")?;

    for shim in shims(&lab.run)? {
        // Clock ticks of 10 ms of all children that it has waited for: helpers and containers.
        let stat = fs::read_to_string(format!("/proc/{shim}/stat"))?;
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let ticks: u32 =
            after_name.split(' ').skip(13).take(2).filter_map(|text| text.parse::<u32>().ok()).sum();
        let each = f64::from(ticks) * 10.0 / f64::from(u32::try_from(ALL)?);
        writeln!(std::io::stdout(), "     CPU for each, helpers and containers: {each:.1} ms")?;
    }

    let mut times = Vec::new();
    for _ in 0..40 {
        let id = lab.new_id();
        let start = Instant::now();
        let running = lab.start(&id, &Job::command(&["true"])).await?;
        let started = start.elapsed();
        finish(running).await?.expect(0, "")?;
        let ended = start.elapsed();
        lab.runtime.release(&id, None);
        lab.runtime.delete(&id).await?;
        times.push((started, ended - started, start.elapsed() - ended));
    }
    times.sort();
    for (what, at) in [("best", 0), ("median", times.len() / 2)] {
        let (started, ended, deleted) = times[at];
        writeln!(
            std::io::stdout(),
            "     one at a time, {what}: start {started:?}, end {ended:?}, delete {deleted:?}"
        )?;
    }
    for shim in shims(&lab.run)? {
        let status = fs::read_to_string(format!("/proc/{shim}/status"))?;
        let memory = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap_or_default();
        for line in status.lines().chain(memory.lines()) {
            if line.starts_with("VmRSS") || line.starts_with("Pss:") {
                writeln!(std::io::stdout(), "     shim: {line}")?;
            }
        }
        // It holds nothing any more but its own.
        until("the shim lets go", || Ok(fs::read_dir(format!("/proc/{shim}/fd"))?.count() <= 8)).await?;
    }
    Ok(())
}

/// The engine that is killed: starts one container of each kind, says so, and waits.
pub(crate) fn doomed_engine(arguments: &[OsString]) -> ExitCode {
    let [root, run] = arguments else { return ExitCode::FAILURE };
    let Ok(tokio) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let result: Result<()> = tokio.block_on(async {
        let (lab, _) = Lab::connect(Path::new(root), Path::new(run)).await?;
        let script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; \
                      cat; exit 42";
        let piped = lab.start("piped", &Job::script(script).with_stdin()).await?;
        let terminal = lab
            .start(
                "terminal",
                &Job::script("echo before; read x; echo got $x; exit 43").with_terminal(11, 22),
            )
            .await?;
        let command = ["sh", "-c", "sleep 0.2; exit 44"].map(str::to_owned);
        let request = ExecRequest {
            command: &command,
            environment: &[],
            working_dir: "",
            user: &User { uid: 0, gid: 0, groups: vec![0] },
            tty: false,
            privileged: false,
        };
        let process = spec::exec_process(&Default::default(), &Default::default(), &request, &lab.machine)?;
        let exec = lab.runtime.exec("piped", "x1", &process, Stdio::default()).await?;
        let brief = lab.start("brief", &Job::script("echo gone; exit 45")).await?;
        writeln!(std::io::stdout(), "ready {} {} {} {}", piped.pid, terminal.pid, exec.pid, brief.pid)?;
        std::io::stdout().flush()?;
        std::future::pending::<()>().await;
        Ok(())
    });
    if let Err(error) = result {
        let _ = writeln!(std::io::stderr(), "{error:?}");
    }
    ExitCode::FAILURE
}

async fn an_engine_that_dies(lab: Arc<Lab>) -> Result<()> {
    // Of two engines the later one has the shim.
    let mut engine = Command::new(std::env::current_exe()?)
        .arg("engine")
        .args([&lab.root, &lab.run])
        .stdout(ChildStdio::piped())
        .spawn()?;
    let out = engine.stdout.take().context("no output")?;
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).map(|_| line)
    })
    .await??;
    let pids: Vec<u32> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    ensure!(pids.len() == 4, "{line:?}");
    engine.kill()?;
    engine.wait()?;
    // One ends while there is no engine.
    until("the brief one ends", || Ok(!Path::new(&format!("/proc/{}", pids[3])).exists())).await?;

    let (_next, held) = Lab::connect(&lab.root, &lab.run).await?;
    ensure!(held.len() == 4, "{held:?}");
    let mut ends = Vec::new();
    for process in held {
        let name = (process.id.as_str(), process.exec.as_deref());
        let expected = match name {
            ("piped", None) => 0,
            ("terminal", None) => 1,
            ("piped", Some("x1")) => 2,
            ("brief", None) => 3,
            other => anyhow::bail!("{other:?} is held"),
        };
        ensure!(process.pid == pids[expected], "{name:?} is {}", process.pid);
        let mut running =
            engine::runtime::Running { pid: process.pid, streams: process.streams, exit: process.exit };
        if let Some(terminal) = &running.streams.terminal {
            write_all(terminal, b"it\n").await?;
        }
        if let Some(stdin) = running.streams.stdin.take() {
            write_all(&stdin, b"late input\n").await?;
            drop(stdin);
        }
        ends.push((process.id, process.exec, tokio::spawn(finish(running))));
    }
    for (id, exec, end) in ends {
        let outcome = end.await??;
        match (id.as_str(), exec.as_deref()) {
            ("piped", None) => {
                let lines: String = (0..200).map(|number| format!("line {number}\n")).collect();
                outcome.expect(42, &format!("{lines}late input\n"))?;
            }
            ("terminal", None) => outcome.expect(43, "before\r\nit\r\ngot it\r\n")?,
            ("brief", None) => outcome.expect(45, "gone\n")?,
            _ => outcome.expect(44, "")?,
        }
    }
    // Nobody has released anything: the next engine hears it all again.
    let (third, held) = Lab::connect(&lab.root, &lab.run).await?;
    ensure!(held.len() == 4, "{held:?}");
    for process in held {
        let exit = process.exit.wait().await;
        ensure!(exit.known && (42..=45).contains(&exit.code), "{exit:?}");
        third.runtime.release(&process.id, process.exec.as_deref());
    }
    for id in ["piped", "terminal", "brief"] {
        third.runtime.delete(id).await?;
    }
    let (last, held) = Lab::connect(&lab.root, &lab.run).await?;
    ensure!(held.is_empty(), "{held:?}");
    last.runtime.shutdown().await?;
    Ok(())
}

async fn a_shim_that_dies(lab: Arc<Lab>) -> Result<()> {
    let id = lab.new_id();
    let running = lab.start(&id, &Job::script("sleep 9876 & sleep 9876")).await?;
    let kill = |pids: Vec<i32>| {
        pids.into_iter()
            .filter_map(rustix::process::Pid::from_raw)
            .try_for_each(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL))
    };
    kill(shims(&lab.run)?)?;
    let outcome = finish(running).await?;
    ensure!(!outcome.exit.known && outcome.exit.code == 137, "{outcome:?}");
    until("the container is killed", || Ok(processes_with("sleep 9876")?.is_empty())).await?;
    lab.runtime.delete(&id).await?;
    // The next start finds itself another shim.
    lab.script("exit 8").await?.expect(8, "")?;

    // With both gone, the next engine cleans up.
    let id = lab.new_id();
    let running = lab.start(&id, &Job::command(&["sleep", "9875"])).await?;
    kill(shims(&lab.run)?)?;
    let (next, held) = Lab::connect(&lab.root, &lab.run).await?;
    ensure!(held.is_empty(), "{held:?}");
    until("the container is killed", || Ok(processes_with("sleep 9875")?.is_empty())).await?;
    ensure!(next.groups_left().is_empty());
    ensure!(!finish(running).await?.exit.known);
    next.runtime.shutdown().await?;
    Ok(())
}
