//! `coracle doctor`.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::Result;
use serde::Serialize;
use vmm::{Accel, KvmUnusable, ProbeError};

use crate::{
    cli,
    diagnostics::{self, Item},
    docker_context::{DockerConfig, context_name},
    machine::{
        config::{Config, Host},
        disk,
        home::{HOME_VARIABLE, Home, MachineDir},
        image::{self, GuestImage},
        size::{GIB, human},
    },
    platform,
    terminal::say,
};

/// Under this many free bytes a pull of a few images may already fail.
const LOW_SPACE: u64 = 10 * GIB;
/// The emulator that is asked for.
const QEMU: &str = "qemu-system-x86_64";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// A machine cannot run like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

pub(crate) fn run(args: &cli::Doctor) -> Result<ExitCode> {
    let home = Home::from_environment()?;
    let dir = home.machine(&args.machine.name);
    let checks = [
        accelerator(),
        virtualisation(),
        qemu(),
        guest_image(),
        home_permissions(&dir),
        socket_path(&dir),
        settings(&dir),
        space(&dir),
        docker_cli(),
        docker_contexts(&dir),
    ];
    if args.bundle.is_some() || args.bundle_preview {
        let found = Item { name: "doctor.txt".to_owned(), text: told(&checks) };
        let items = diagnostics::collect(&home, &dir, vec![found]);
        match &args.bundle {
            Some(path) => write_bundle(path, &items, args.json)?,
            None => show_bundle(&items, args.json)?,
        }
        // What was asked for is there, whatever the checks found.
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        say(serde_json::to_string_pretty(&checks)?);
    } else {
        say(told(&checks));
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The checks for a person.
fn told(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        text.push_str(&format!("{verdict}  {}: {}\n", check.name, check.found));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("      → {advice}\n"));
        }
    }
    text.push_str(&match checks.iter().filter(|check| check.verdict == Verdict::Fail).count() {
        0 => "A machine can run here.".to_owned(),
        1 => "A machine cannot run here until the failure above is mended.".to_owned(),
        n => format!("A machine cannot run here until the {n} failures above are mended."),
    });
    text
}

fn write_bundle(path: &Path, items: &[Item], json: bool) -> Result<()> {
    diagnostics::write(path, items)?;
    if json {
        say(
            serde_json::json!({ "file": path, "items": items.iter().map(|item| &item.name).collect::<Vec<_>>() }),
        );
        return Ok(());
    }
    say(format_args!("{} holds, with what looks like a secret removed:", path.display()));
    for item in items {
        say(format_args!("  {} ({} bytes)", item.name, item.text.len()));
    }
    say("Look through it before you give it to others.");
    Ok(())
}

fn show_bundle(items: &[Item], json: bool) -> Result<()> {
    if json {
        say(serde_json::to_string_pretty(items)?);
        return Ok(());
    }
    for item in items {
        say(format_args!("==> {} <==\n{}", item.name, item.text));
    }
    Ok(())
}

fn accelerator() -> Check {
    match vmm::probe(Accel::Auto) {
        Ok(choice) => Check::ok("accelerator", format!("{} ({})", choice.accelerator, choice.reason)),
        Err(error) => Check::fail(
            "accelerator",
            format!("{:#}", anyhow::Error::from(error)),
            "install QEMU, or make /dev/kvm usable; see below",
        ),
    }
}

fn virtualisation() -> Check {
    const NAME: &str = "hardware virtualisation";
    let slow = "without it the VM's CPUs are emulated, which works and is many times slower";
    match vmm::probe(Accel::Kvm) {
        Ok(choice) => Check::ok(NAME, choice.reason),
        Err(ProbeError::KvmUnusable(why)) => {
            let advice = match why {
                KvmUnusable::NoDevice => {
                    "load the module: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`".to_owned()
                }
                KvmUnusable::NoPermission => "`sudo usermod -aG kvm $USER`, and log in again".to_owned(),
                KvmUnusable::NoCpuFlags | KvmUnusable::NoDeviceNoCpuFlags => format!(
                    "turn on VT-x or AMD-V in the firmware, or nested virtualisation if this is a virtual machine; {slow}"
                ),
                _ => slow.to_owned(),
            };
            Check::warn(NAME, why.to_string(), advice)
        }
        Err(error) => Check::warn(NAME, error.to_string(), slow),
    }
}

fn qemu() -> Check {
    const NAME: &str = "QEMU";
    let Some(path) = platform::in_path(QEMU) else {
        return Check::fail(
            NAME,
            format!("there is no {QEMU} in PATH"),
            "install it: `sudo apt-get install qemu-system-x86` on Debian and Ubuntu",
        );
    };
    match first_line(Command::new(&path).arg("--version")) {
        Some(version) => Check::ok(NAME, format!("{version} ({})", path.display())),
        None => Check::fail(NAME, format!("{} does not run", path.display()), "install it again"),
    }
}

fn guest_image() -> Check {
    const NAME: &str = "guest image";
    let advice = "install Coracle again, or build the image with `cargo xtask build`";
    let image = match GuestImage::find() {
        Ok(image) => image,
        Err(_) => {
            let place =
                image::directory().map_or_else(|error| error.to_string(), |path| path.display().to_string());
            return Check::fail(NAME, format!("missing or incomplete in {place}"), advice);
        }
    };
    let place = image.directory().display().to_string();
    match image.verify() {
        Ok(Some(manifest)) => Check::ok(
            NAME,
            format!(
                "{place}: kernel {}, root {}, unchanged",
                manifest.kernel.version, manifest.rootfs.version
            ),
        ),
        Ok(None) => {
            Check::warn(NAME, format!("{place}: there, but without image.json to hold it against"), advice)
        }
        Err(error) => Check::fail(NAME, format!("{error:#}"), advice),
    }
}

fn home_permissions(dir: &MachineDir) -> Check {
    let path = if dir.path().exists() { dir.path() } else { dir.path().parent().unwrap_or(dir.path()) };
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::ok(
                HOME_VARIABLE,
                format!("{} will be created by the first start", path.display()),
            );
        }
        Err(error) => {
            return Check::fail(
                HOME_VARIABLE,
                format!("{}: {error}", path.display()),
                format!("set {HOME_VARIABLE} to a directory of yours"),
            );
        }
    };
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me {
        let advice = format!(
            "`sudo chown -R $USER {}`, or set {HOME_VARIABLE} to a directory of yours",
            path.display()
        );
        return Check::fail(
            HOME_VARIABLE,
            format!("{} belongs to user {}", path.display(), found.uid()),
            advice,
        );
    }
    if found.mode() & 0o022 != 0 {
        let advice = format!("`chmod go-w {}`: who can write there can use Docker as you", path.display());
        return Check::warn(
            HOME_VARIABLE,
            format!("{} can be written by others (mode {:o})", path.display(), found.mode() & 0o777),
            advice,
        );
    }
    Check::ok(HOME_VARIABLE, format!("{} is yours", path.display()))
}

fn socket_path(dir: &MachineDir) -> Check {
    match dir.check_socket_paths() {
        Ok(()) => Check::ok("socket paths", dir.docker_socket().display().to_string()),
        Err(error) => {
            Check::fail("socket paths", error.to_string(), format!("set {HOME_VARIABLE} to a shorter path"))
        }
    }
}

/// The configuration, and whether this host can give what it asks for.
fn settings(dir: &MachineDir) -> Check {
    const NAME: &str = "CPUs and memory";
    let settled = disk::current_size(&dir.disk_image()).and_then(|now| {
        let host = Host::this()?;
        Ok((Config::load(&dir.config_file())?.settle(&host, now)?, host))
    });
    let (settings, host) = match settled {
        Ok(settled) => settled,
        Err(error) => {
            return Check::fail(
                NAME,
                format!("{error:#}"),
                format!("correct it with `coracle config`, or in {}", dir.config_file().display()),
            );
        }
    };
    let found = format!(
        "{} of {} CPUs, up to {} of {} memory",
        settings.cpus,
        host.cpus,
        human(settings.memory.bytes()),
        human(host.memory.bytes())
    );
    if settings.cpus > host.cpus {
        return Check::warn(NAME, found, "more CPUs than the host has make the VM slower, not faster");
    }
    if settings.memory.bytes() > host.memory.bytes() / 4 * 3 {
        return Check::warn(
            NAME,
            found,
            "leave the host a quarter of its memory at least (`coracle config set memory …`)",
        );
    }
    Check::ok(NAME, found)
}

fn space(dir: &MachineDir) -> Check {
    const NAME: &str = "disk space";
    // The machine's directory may not exist before its first start.
    let existing = dir.path().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match disk::free_bytes(existing) {
        Ok(free) if free < LOW_SPACE => Check::warn(
            NAME,
            format!("{} free in {}", human(free), existing.display()),
            format!("free some, or set {HOME_VARIABLE} to a larger disk"),
        ),
        Ok(free) => Check::ok(NAME, format!("{} free in {}", human(free), existing.display())),
        Err(error) => {
            Check::fail(NAME, format!("{error:#}"), format!("set {HOME_VARIABLE} to a directory of yours"))
        }
    }
}

fn docker_cli() -> Check {
    const NAME: &str = "docker CLI";
    let advice = "install it to use the machine: `sudo apt-get install docker-cli` or docker.com's packages";
    match platform::in_path("docker") {
        None => Check::warn(NAME, "there is no docker in PATH", advice),
        Some(path) => match first_line(Command::new(&path).arg("--version")) {
            Some(version) => Check::ok(NAME, format!("{version} ({})", path.display())),
            None => Check::warn(NAME, format!("{} does not run", path.display()), advice),
        },
    }
}

fn docker_contexts(dir: &MachineDir) -> Check {
    const NAME: &str = "docker context";
    let ours = context_name(dir.name());
    let Some(docker) = DockerConfig::from_environment() else {
        return Check::warn(NAME, "there is no home directory to keep it in", "set HOME or DOCKER_CONFIG");
    };
    let (current, all) = match docker.contexts() {
        Ok(contexts) => contexts,
        Err(error) => {
            return Check::warn(
                NAME,
                format!("{error:#}"),
                "mend the file; `docker` does not read it either",
            );
        }
    };
    let found = format!("'{current}' of {}", all.join(", "));
    for variable in ["DOCKER_HOST", "DOCKER_CONTEXT"] {
        if let Ok(value) = env::var(variable)
            && !value.is_empty()
        {
            return Check::warn(
                NAME,
                format!("{found}, but {variable} is set to {value}"),
                format!("`docker` follows {variable}; unset it to follow contexts"),
            );
        }
    }
    if current == ours {
        return Check::ok(NAME, found);
    }
    if !all.contains(&ours) {
        return Check::ok(NAME, format!("{found}; `coracle start` adds '{ours}'"));
    }
    Check::warn(NAME, found, format!("`docker context use {ours}` makes `docker` use this machine"))
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}
