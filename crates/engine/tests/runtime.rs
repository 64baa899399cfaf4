//! Containers as the runtime makes them: real ones, on this machine, in a mount and pid namespace of the
//! test's own. Needs root.
//!
//! The program is also what the runtime starts as its shim and helpers, and the engine that dies: so it
//! has a main function of its own.

mod runtime {
    pub(crate) mod cases;
    pub(crate) mod lab;
}

use std::{
    env,
    ffi::OsString,
    io::Write,
    path::Path,
    process::{Command, ExitCode},
};

/// The lab's directory; set in the namespaces.
const INSIDE: &str = "CORACLE_TEST_INSIDE";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let rest = || arguments.iter().skip(1).cloned().collect();
    if env::args_os().next().is_some_and(|name| Path::new(&name).ends_with("docker-init")) {
        return engine::runtime::init::main(arguments);
    }
    match arguments.first().and_then(|word| word.to_str()) {
        Some("oci") => engine::runtime::oci::main(rest()),
        Some("shim") => engine::shim::main(rest()),
        Some("engine") => {
            runtime::cases::doomed_engine(&arguments.iter().skip(1).cloned().collect::<Vec<_>>())
        }
        _ if env::var_os(INSIDE).is_some() => {
            runtime::cases::run(Path::new(&env::var_os(INSIDE).unwrap_or_default()), &arguments)
        }
        _ => enter(&arguments),
    }
}

/// Runs the cases in namespaces that take everything with them.
fn enter(arguments: &[OsString]) -> ExitCode {
    let mut out = std::io::stdout();
    let skip = |mut out: std::io::Stdout, reason: &str| {
        let _ = writeln!(out, "SKIP runtime: {reason}");
        ExitCode::SUCCESS
    };
    if arguments.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        return skip(out, "needs root");
    }
    if !Path::new(runtime::lab::BUSYBOX).exists() {
        return skip(out, "needs a static busybox (Debian: busybox-static)");
    }
    let Ok(program) = env::current_exe() else { return ExitCode::FAILURE };
    let Ok(directory) = tempfile::Builder::new().prefix("coracle-").tempdir() else {
        return ExitCode::FAILURE;
    };
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .arg(program)
        .args(arguments)
        .env(INSIDE, directory.path())
        .status();
    runtime::lab::remove_groups(directory.path());
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(out, "unshare: {error}");
            ExitCode::FAILURE
        }
    }
}
