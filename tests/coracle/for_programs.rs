//! What the `coracle` command says to programs: to scripts, and to the desktop app. No machine runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::machine::Machine;
use tests::{ensure_eq, product_cases};

product_cases! {
    settings_and_their_defaults,
    settings_are_changed_together_or_not_at_all,
    settings_file_with_errors,
    answers_are_lines_of_json,
    docker_context_is_selected_when_asked,
    diagnostics_without_secrets,
    app_that_is_not_installed,
}

fn json_of(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
}

fn settings_and_their_defaults() -> Outcome {
    let machine = Machine::new()?;
    let report = json_of(&machine.ok(["config", "set", "--json", "cpus", "1"])?)?;
    ensure_eq!(report, json_of(&machine.ok(["config", "get", "--json"])?)?);
    ensure_eq!(report["values"]["cpus"], json!({"chosen": "1", "effective": "1"}));
    ensure_eq!(report["values"]["disk"], json!({"chosen": null, "effective": "60G"}));
    ensure_eq!(report["restart_needed"], false);
    ensure_eq!(report["error"], Value::Null);
    ensure_eq!(report["file"], machine.file("config.toml").to_string_lossy().as_ref());
    machine.ok(["config", "unset", "cpus"])?;
    ensure_eq!(json_of(&machine.ok(["config", "get", "--json"])?)?["values"]["cpus"]["chosen"], Value::Null);
    Ok(())
}

fn settings_are_changed_together_or_not_at_all() -> Outcome {
    let machine = Machine::new()?;
    machine.ok(["config", "set", "cpus", "1", "accel", "qemu"])?;
    let before = std::fs::read_to_string(machine.file("config.toml"))?;
    let refused =
        machine.coracle(["config", "set", "--json", "cpus", "2", "memory", "1M"]).output()?.expect_code(1)?;
    ensure_eq!(json_of(&refused.stdout())?["refused"]["key"], "memory");
    ensure_eq!(refused.stderr(), "");
    for arguments in [&["cpus", "2", "colour", "red"][..], &["cpus"], &["cpus", "2", "--unset", "cpus"]] {
        let output = machine.coracle(["config", "set"].iter().chain(arguments)).output()?;
        ensure!(output.code() != 0, "{arguments:?} was accepted: {output}");
    }
    ensure_eq!(std::fs::read_to_string(machine.file("config.toml"))?, before);
    machine.ok(["config", "set", "--unset", "accel", "--", "cpus", "2"])?;
    ensure_eq!(std::fs::read_to_string(machine.file("config.toml"))?, "cpus = 2\n");
    Ok(())
}

fn settings_file_with_errors() -> Outcome {
    let machine = Machine::new()?;
    std::fs::create_dir(machine.home().join("default"))?;
    std::fs::write(machine.file("config.toml"), "cpus = 2\ncolour = \"red\"\n")?;
    let report = json_of(&machine.ok(["config", "get", "--json"])?)?;
    ensure!(report["error"].as_str().is_some_and(|error| error.contains("config.toml:2: ")), "{report}");
    let refused = machine.coracle(["config", "set", "--json", "cpus", "1"]).output()?.expect_code(1)?;
    ensure!(refused.stdout().contains("colour"), "{refused}");
    ensure!(std::fs::read_to_string(machine.file("config.toml"))?.contains("colour"), "the file was changed");
    Ok(())
}

fn answers_are_lines_of_json() -> Outcome {
    let machine = Machine::new()?;
    ensure_eq!(machine.ok(["stop", "--json"])?, r#"{"answer":"done"}"#);
    for verb in ["start", "restart"] {
        let output = machine.coracle([verb, "--json", "--memory", "900T"]).output()?.expect_code(1)?;
        let said = output.stdout();
        let last = json_of(said.lines().last().context("nothing was said")?)?;
        ensure_eq!(last["answer"], "failed");
        ensure!(last["message"].as_str().is_some_and(|message| message.contains("memory")), "{last}");
        ensure_eq!(output.stderr(), "");
    }
    machine.coracle(["start", "--json", "--foreground"]).output()?.expect_code(2)?;
    machine.expect_no_process()
}

fn docker_context_is_selected_when_asked() -> Outcome {
    let machine = Machine::new()?;
    let before = json_of(&machine.ok(["docker-context", "--json"])?)?;
    ensure_eq!(before, json!({"name": "coracle", "current": "default", "selected": false, "variable": null}));
    let after = json_of(&machine.ok(["docker-context", "--select", "--json"])?)?;
    ensure_eq!((&after["selected"], &after["current"]), (&json!(true), &json!("coracle")));
    let config = std::fs::read_to_string(machine.docker_config().join("config.json"))?;
    ensure_eq!(json_of(&config)?["currentContext"], "coracle");
    let elsewhere =
        machine.coracle(["docker-context"]).env("DOCKER_HOST", "tcp://elsewhere:1").output()?.text()?;
    ensure!(elsewhere.contains("DOCKER_HOST") && elsewhere.contains("tcp://elsewhere:1"), "{elsewhere}");
    Ok(())
}

fn diagnostics_without_secrets() -> Outcome {
    let machine = Machine::new()?;
    std::fs::create_dir(machine.home().join("default"))?;
    std::fs::write(machine.file("lock"), "")?;
    std::fs::write(machine.file("config.toml"), "http-proxy = \"http://me:hunter22@proxy.test:3128\"\n")?;
    std::fs::write(
        machine.file("machine.log"),
        "via me:hunter22, API_TOKEN=abcdef, Authorization: Basic abcdef==\n",
    )?;
    let preview =
        machine.coracle(["doctor", "--bundle-preview", "--json"]).env("HTTPS_PROXY", "http://x:second33@y");
    let preview = json_of(&preview.output()?.text()?)?;
    let names: Vec<&str> =
        preview.as_array().context("no list")?.iter().filter_map(|item| item["name"].as_str()).collect();
    for name in ["doctor.txt", "versions.txt", "status.json", "default/config.toml", "default/machine.log"] {
        ensure!(names.contains(&name), "no {name} in {names:?}");
    }
    for secret in ["hunter22", "second33", "abcdef"] {
        ensure!(!preview.to_string().contains(secret), "{secret} is told: {preview}");
    }
    ensure!(preview.to_string().contains("proxy.test:3128"), "the proxy itself is gone: {preview}");

    let bundle = machine.home().join("bundle.tar.gz");
    let said = machine.ok(["doctor".as_ref(), "--bundle".as_ref(), bundle.as_os_str()])?;
    ensure!(said.contains("default/machine.log"), "{said}");
    let unpacked = unpack(&bundle)?;
    ensure!(
        unpacked.iter().any(|(name, _)| name == "coracle-diagnostics/default/machine.log"),
        "{unpacked:?}"
    );
    ensure!(!unpacked.iter().any(|(_, text)| text.contains("hunter22")), "{unpacked:?}");
    Ok(())
}

fn unpack(bundle: &Path) -> Result<Vec<(String, String)>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(bundle)?));
    archive
        .entries()?
        .map(|entry| {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text)?;
            Ok((name, text))
        })
        .collect()
}

fn app_that_is_not_installed() -> Outcome {
    let machine = Machine::new()?;
    // A copy with nothing beside it.
    let alone = machine.home().join("coracle");
    std::fs::copy(tests::places::coracle()?, &alone).context("copying the command")?;
    let run = |argument: Option<&str>| {
        let program = machine.namespace().program(&alone).arg("app").args(argument);
        program.env("CORACLE_HOME", machine.home()).env("PATH", "/nowhere").output()
    };
    run(None)?.expect_code(1)?.expect_stderr("the app is not installed")?;
    run(Some("http://x"))?.expect_code(1)?.expect_stderr("coracle://")?;
    Ok(())
}
