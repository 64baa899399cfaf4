//! The app's shell in front of a real engine: what its window can ask, its tray, its links, its end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::app::{App, Desktop, Home};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, places, wait};

cases! {
    requests_reach_the_engine.on(&[Kind::Native, Kind::Machine]).alone(),
    streams_and_connections.on(&[Kind::Native, Kind::Machine]).alone(),
    machine_and_host.on(&[Kind::Native, Kind::Machine]).alone(),
    settings_and_preferences.on(&[Kind::Native, Kind::Machine]).alone(),
    what_the_window_may_not.on(&[Kind::Native]).alone(),
    tray_shows_and_does.on(&[Kind::Native, Kind::Machine]).alone(),
    window_goes_to_the_tray_and_comes_back.on(&[Kind::Native]).alone(),
    without_a_tray_closing_is_the_end.on(&[Kind::Native]).alone(),
    second_start_hands_its_link_over.on(&[Kind::Native]).alone(),
    command_and_desktop_entry_open_it.on(&[Kind::Native]).alone(),
}

/// The app on a desktop, in front of the case's engine.
struct Opened {
    app: App,
    desktop: Desktop,
    home: Home,
}

fn open(t: &Target) -> Result<Opened> {
    let desktop = Desktop::start(t.namespace(), true)?;
    let home = Home::of(t)?;
    let app = App::open(&desktop, home.path(), &[])?;
    Ok(Opened { app, desktop, home })
}

/// An answer of the engine's: its status and its body.
fn engine(app: &App, request: &Value) -> Result<(u64, Value)> {
    let answer = app.ask("engine_request", &json!({"request": request}))?;
    let bytes: Vec<u8> = serde_json::from_value(answer)?;
    let (length, rest) = bytes.split_first_chunk().context("an answer without a head")?;
    let (head, body) = rest.split_at(usize::try_from(u32::from_be_bytes(*length))?);
    let head: Value = serde_json::from_slice(head)?;
    let body = serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)));
    Ok((head["status"].as_u64().context("no status")?, body))
}

fn get(path: &str) -> Value {
    json!({"method": "GET", "path": path})
}

fn requests_reach_the_engine(t: &Target) -> Outcome {
    let opened = open(t)?;
    let app = &opened.app;
    let (status, version) = engine(app, &get("/version"))?;
    ensure_eq!((status, &version["ApiVersion"]), (200, &json!("1.51")));
    let name = t.name("made");
    let body = json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "Labels": {"ü": "<b>"}}).to_string();
    let create = json!({"method": "POST", "path": format!("/containers/create?name={name}"), "body": body});
    ensure_eq!(engine(app, &create)?.0, 201);
    ensure_eq!(t.ok(["inspect", "-f", "{{json .Config.Labels}}", &name])?, r#"{"ü":"<b>"}"#);
    let (status, refusal) = engine(app, &get("/containers/no-such/json"))?;
    ensure_eq!((status, &refusal["message"]), (404, &json!("No such container: no-such")));
    Ok(())
}

/// Opens a stream in the window, and keeps what comes in `window.test`.
fn stream(app: &App, request: &Value) -> Result<Value> {
    let script = "const [request, done] = arguments; const heard = window.test = {text: '', end: null}; \
        const decoder = new TextDecoder(); const pieces = new Map(); let next = 0; \
        const hear = (message) => { if (message instanceof ArrayBuffer) heard.text += decoder.decode(message); else heard.end = message; }; \
        const id = window.__TAURI_INTERNALS__.transformCallback((piece) => { \
          if ('end' in piece) return; pieces.set(piece.index, piece.message); \
          while (pieces.has(next)) { hear(pieces.get(next)); pieces.delete(next++); } }); \
        window.__TAURI_INTERNALS__.invoke('engine_stream_open', {request, channel: `__CHANNEL__:${id}`}) \
          .then((ok) => done({ok}), (error) => done({error}))";
    app.script_async(script, &json!([request]))
}

fn heard(app: &App, text: &str) -> Outcome {
    let shown = wait::eventually_true(&format!("the window hears {text:?}"), Duration::from_secs(30), || {
        let heard = app.script("return window.test", &json!([]))?;
        Ok(heard.to_string().contains(text))
    });
    shown.with_context(|| format!("it heard {:?}", app.script("return window.test", &json!([]))))
}

fn streams_and_connections(t: &Target) -> Outcome {
    let opened = open(t)?;
    let app = &opened.app;
    let events = stream(app, &get("/events"))?;
    ensure_eq!(events["ok"]["status"], 200);
    let name = t.name("web");
    t.ok(["run", "-d", "--name", &name, "busybox", "sleep", "1000"])?;
    heard(app, "\\\"start\\\"")?;
    heard(app, &name)?;
    app.ask("engine_stream_close", &json!({"id": events["ok"]["id"]}))?;

    // A shell on a terminal, as the app's own opens it.
    let body = json!({"AttachStdin": true, "AttachStdout": true, "Tty": true, "Cmd": ["sh"]}).to_string();
    let create = json!({"method": "POST", "path": format!("/containers/{name}/exec"), "body": body});
    let exec = engine(app, &create)?.1["Id"].as_str().context("no exec")?.to_owned();
    let start = json!({
        "method": "POST", "path": format!("/exec/{exec}/start"), "body": "{\"Tty\":true}", "upgrade": true,
    });
    let shell = stream(app, &start)?;
    ensure_eq!(shell["ok"]["status"], 101, "{shell}");
    let id = shell["ok"]["id"].clone();
    let write = |text: &str| app.ask("engine_stream_write", &json!({"id": id, "bytes": text.as_bytes()}));
    write("echo $((6*7)) ü\n")?;
    heard(app, "42 ü")?;
    write("exit\n")?;
    heard(app, "\"end\":true")?;
    app.refused("engine_stream_write", &json!({"id": id, "bytes": [10]}))?;

    let none = stream(app, &get("/containers/no-such/logs?stdout=1"))?;
    ensure_eq!((&none["error"]["kind"], &none["error"]["status"]), (&json!("engine"), &json!(404)));
    Ok(())
}

fn machine_and_host(t: &Target) -> Outcome {
    let opened = open(t)?;
    let app = &opened.app;
    let status = app.ask("machine_status", &json!({}))?;
    ensure_eq!((&status["name"], &status["state"]), (&json!("default"), &json!("running")));
    let host = app.ask("host_figures", &json!({}))?;
    ensure!(host["memory_total_bytes"].as_u64() > host["memory_available_bytes"].as_u64(), "{host}");
    if opened.home_is_a_machine() {
        ensure!(host["machine_memory_bytes"].as_u64().is_some_and(|bytes| bytes > 100 << 20), "{host}");
    }
    let checks = app.ask("doctor", &json!({}))?;
    ensure!(
        checks.as_array().is_some_and(|checks| checks.iter().any(|check| check["name"] == "disk space")),
        "{checks}"
    );
    let items = app.ask("diagnostics", &json!({}))?;
    ensure!(items.to_string().contains("versions.txt"), "{items}");
    let context = app.ask("docker_context", &json!({}))?;
    ensure_eq!(context["name"], "coracle");
    ensure_eq!(app.ask("docker_context_select", &json!({}))?["selected"], true);
    let about = app.ask("about", &json!({}))?;
    ensure_eq!(about["tray"], true);
    let update = app.refused("update_check", &json!({}))?;
    ensure_eq!(update["kind"], "no_updates", "{update}");
    Ok(())
}

fn settings_and_preferences(t: &Target) -> Outcome {
    let opened = open(t)?;
    let app = &opened.app;
    let before = app.ask("settings", &json!({}))?;
    ensure_eq!(before["error"], Value::Null);
    let refused = app.refused("settings_change", &json!({"changes": {"cpus": "2", "memory": "1K"}}))?;
    ensure_eq!((&refused["kind"], &refused["key"]), (&json!("setting"), &json!("memory")));
    ensure_eq!(app.ask("settings", &json!({}))?, before);
    let after = app.ask("settings_change", &json!({"changes": {"container-proxy": "true", "cpus": null}}))?;
    ensure_eq!(after["values"]["container-proxy"]["chosen"], "true");
    ensure_eq!(after["values"]["cpus"]["chosen"], Value::Null);

    ensure_eq!(app.ask("preferences", &json!({}))?["start_at_login"], false);
    app.ask("preferences_change", &json!({"changes": {"start_at_login": true, "theme": "dark"}}))?;
    let entry = opened.desktop.user().join("config/autostart/coracle.desktop");
    ensure!(std::fs::read_to_string(&entry)?.contains("coracle-app\" --background"), "{}", entry.display());
    app.ask("preferences_change", &json!({"changes": {"start_at_login": false}}))?;
    ensure!(!entry.exists(), "{} is still there", entry.display());
    let kept: Value = serde_json::from_slice(&std::fs::read(opened.home.path().join("app.json"))?)?;
    ensure_eq!((&kept["theme"], &kept["start_at_login"]), (&json!("dark"), &json!(false)));
    let refused = app.refused("preferences_change", &json!({"changes": {"theme": "pink"}}))?;
    ensure_eq!(refused["kind"], "setting");
    Ok(())
}

fn what_the_window_may_not(t: &Target) -> Outcome {
    let opened = open(t)?;
    let app = &opened.app;
    let target = opened.desktop.user().join("stolen.tar");
    let image = json!({"request": get("/images/busybox/get"), "path": target, "channel": "__CHANNEL__:1"});
    let refused = app.refused("engine_to_file", &image)?;
    ensure!(refused["message"].as_str().is_some_and(|words| words.contains("not chosen")), "{refused}");
    ensure!(!target.exists(), "a file was written that nobody has chosen");
    app.refused("diagnostics_save", &json!({"path": target}))?;
    app.refused("engine_from_file", &json!({"request": {"method": "POST", "path": "/images/load"}, "path": "/etc/shadow", "channel": "__CHANNEL__:1"}))?;
    for url in ["file:///etc/passwd", "javascript:1", "coracle://x"] {
        app.refused("open_url", &json!({"url": url}))?;
    }
    app.refused(
        "engine_request",
        &json!({"request": {"method": "GET", "path": "/x", "headers": {"Host": "y"}}}),
    )?;
    // Tauri's own commands: of windows, of files, of anything.
    for command in
        ["plugin:window|close", "plugin:fs|read_file", "plugin:updater|check", "plugin:app|version"]
    {
        app.refused(command, &json!({}))?;
    }
    // The page can load nothing from elsewhere, and go nowhere else.
    let policy = "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => done('refused'))";
    ensure_eq!(app.script_async(policy, &json!([]))?, "refused");
    let evaluated = "try { return eval('1 + 1') } catch { return 'refused' }";
    ensure_eq!(app.script(evaluated, &json!([]))?, "refused");
    Ok(())
}

fn tray_shows_and_does(t: &Target) -> Outcome {
    let name = t.name("web");
    t.ok(["run", "-d", "--name", &name, "-p", "18080:80", "busybox", "sleep", "1000"])?;
    let opened = open(t)?;
    let tray = opened.desktop.tray.as_ref().context("there is no tray")?;
    tray.line("Machine is running")?;
    tray.line(&name)?;
    tray.line("localhost:18080")?;
    ensure!(!tray.line("Start")?.enabled, "a machine that runs can be started");
    t.ok(["rm", "-f", &name])?;
    wait::eventually_true("the container leaves the tray", Duration::from_secs(30), || {
        Ok(!tray.lines()?.iter().any(|line| line.label.contains(&name)))
    })?;
    if let Home::Stand(stand) = &opened.home {
        tray.click("Quit and Stop Machine")?;
        wait::eventually_true("the machine was stopped", Duration::from_secs(30), || {
            Ok(stand.state() == "stopped")
        })?;
    } else {
        tray.click("Quit, Leave Machine Running")?;
    }
    expect_no_app(t)?;
    if opened.home_is_a_machine() {
        t.ok(["version"])?;
    }
    Ok(())
}

impl Opened {
    fn home_is_a_machine(&self) -> bool {
        matches!(self.home, Home::Machine(_))
    }
}

fn runs(t: &Target) -> Result<bool> {
    let app = places::app()?.to_string_lossy().into_owned();
    Ok(t.namespace().processes()?.iter().any(|process| process.line.starts_with(&app)))
}

fn expect_no_app(t: &Target) -> Outcome {
    wait::eventually_true("the app has ended", Duration::from_secs(30), || Ok(!runs(t)?))
}

/// Asks the window to close, as the desktop's own button does.
fn ask_to_close(opened: &Opened) -> Outcome {
    wait::eventually_true("there is a window to close", Duration::from_secs(20), || {
        opened.desktop.display().ask_to_close("Coracle")
    })
}

fn window_goes_to_the_tray_and_comes_back(t: &Target) -> Outcome {
    let opened = open(t)?;
    let visible = || opened.app.script("return document.visibilityState", &json!([]));
    ensure_eq!(visible()?, "visible");
    ask_to_close(&opened)?;
    wait::eventually_true("the window is hidden", Duration::from_secs(20), || Ok(visible()? == "hidden"))?;
    ensure!(runs(t)?, "the app has ended");
    opened.desktop.tray.as_ref().context("no tray")?.click("Open Coracle")?;
    wait::eventually_true("the window is back", Duration::from_secs(20), || Ok(visible()? == "visible"))?;
    opened.app.ask("preferences_change", &json!({"changes": {"close_to_tray": false}}))?;
    ask_to_close(&opened)?;
    expect_no_app(t)
}

fn without_a_tray_closing_is_the_end(t: &Target) -> Outcome {
    let desktop = Desktop::start(t.namespace(), false)?;
    let home = Home::of(t)?;
    let app = App::open(&desktop, home.path(), &["--background"])?;
    ensure_eq!(app.ask("about", &json!({}))?["tray"], false);
    // In the background nobody could open it.
    wait::eventually_true("the window is shown", Duration::from_secs(20), || {
        Ok(app.script("return document.visibilityState", &json!([]))? == "visible")
    })?;
    let opened = Opened { app, desktop, home };
    ask_to_close(&opened)?;
    expect_no_app(t)
}

fn command_and_desktop_entry_open_it(t: &Target) -> Outcome {
    let opened = open(t)?;
    let visible = || opened.app.script("return document.visibilityState", &json!([]));
    let entry = include_str!("../../src-tauri/package/coracle.desktop");
    let exec = entry.lines().find_map(|line| line.strip_prefix("Exec=")).context("no Exec in the entry")?;
    // Without a link, `%u` is nothing.
    let program = exec.strip_suffix(" %u").context("the entry takes no link")?;
    let bin = places::app()?.parent().context("no folder")?.to_owned();
    for (program, argument) in [(places::coracle()?, Some("app")), (bin.join(program), None)] {
        ask_to_close(&opened)?;
        wait::eventually_true(
            "the window is hidden",
            Duration::from_secs(20),
            || Ok(visible()? == "hidden"),
        )?;
        opened.desktop.program(program, opened.home.path()).args(argument).output()?.expect_code(0)?;
        wait::eventually_true("the window is back", Duration::from_secs(20), || Ok(visible()? == "visible"))?;
    }
    Ok(())
}

fn second_start_hands_its_link_over(t: &Target) -> Outcome {
    let opened = open(t)?;
    ask_to_close(&opened)?;
    let second = opened.desktop.program(places::app()?, opened.home.path()).arg("coracle://volumes/a%20b");
    second.output()?.expect_code(0)?;
    wait::eventually_true("the first window goes to the page", Duration::from_secs(20), || {
        let place = opened.app.script("return location.hash + document.visibilityState", &json!([]))?;
        Ok(place == "#/volumes/a%20bvisible")
    })?;
    let app = places::app()?.to_string_lossy().into_owned();
    let running =
        t.namespace().processes()?.into_iter().filter(|process| process.line.starts_with(&app)).count();
    ensure_eq!(running, 1);
    Ok(())
}
