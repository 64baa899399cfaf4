//! The desktop app as its user has it: on a display (Xvfb), with a session bus and a tray, in front of an engine. What is in
//! its window is reached through WebDriver.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::case::Skip;
use crate::display::Display;
use crate::engine::Engine;
use crate::http::Server;
use crate::namespace::Namespace;
use crate::process::{Program, Running};
use crate::target::Target;
use crate::tray::Tray;
use crate::{leftovers, places, process, wait};

/// Where the driver listens, inside the namespace.
const DRIVER_PORT: u16 = 4444;
/// For what is shown at once.
const SOON: Duration = Duration::from_secs(20);
/// A process that serves as long as the case runs is not bound by the time-out of a command.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// How WebDriver names an element: see its specification, section "Elements".
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A desktop: display, session bus, and a tray if there is to be one.
pub struct Desktop {
    namespace: Arc<Namespace>,
    folder: tempfile::TempDir,
    display: Display,
    /// Dropped before the display, and all of them before the namespace.
    _running: Vec<Running>,
    pub tray: Option<Tray>,
}

impl Desktop {
    /// Starts one in the namespaces of an engine.
    pub fn start(namespace: &Arc<Namespace>, with_tray: bool) -> Result<Self> {
        let folder = leftovers::folder()?;
        for program in ["Xvfb", "dbus-daemon", "WebKitWebDriver"] {
            process::find(program)
                .map_err(|_| Skip::because(format!("there is no {program}: run `cargo xtask setup`")))?;
        }
        let address = format!("unix:path={}", folder.path().join("bus").display());
        let bus = namespace
            .program("dbus-daemon")
            .args(["--session", "--nofork", "--print-address", "--address", &address])
            .timeout(FOR_EVER)
            .spawn()?;
        bus.wait_for("unix:path=")?;
        let tray = if with_tray { Some(Tray::start(&address)?) } else { None };
        let display = namespace
            .program("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1280x860x24", "-nolisten", "tcp"])
            .timeout(FOR_EVER)
            .spawn()?;
        display.wait_for("\n")?;
        let number = display.stdout().trim().to_owned();
        Ok(Self {
            namespace: Arc::clone(namespace),
            folder,
            display: Display::of(namespace, format!(":{number}")),
            _running: vec![display, bus],
            tray,
        })
    }

    /// A program on this desktop, of a user with this `CORACLE_HOME`.
    pub fn program(&self, path: impl AsRef<std::ffi::OsStr>, home: &Path) -> Program {
        let user = self.folder.path();
        self.namespace
            .program(path)
            .env("DISPLAY", self.display.name())
            .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", user.join("bus").display()))
            .env("HOME", user)
            .env("XDG_CONFIG_HOME", user.join("config"))
            .env("XDG_DATA_HOME", user.join("data"))
            .env("XDG_CACHE_HOME", user.join("cache"))
            .env("XDG_RUNTIME_DIR", user)
            .env("CORACLE_HOME", home)
            .env("LANG", "C.UTF-8")
            // There is no graphics card, and the sandbox wants namespaces that a test's namespace may not make.
            .env("WEBKIT_DISABLE_COMPOSITING_MODE", "1")
            .env("WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS", "1")
            .env("GDK_BACKEND", "x11")
            .env("NO_AT_BRIDGE", "1")
    }

    #[must_use]
    pub fn display(&self) -> &Display {
        &self.display
    }

    /// The user's folder.
    #[must_use]
    pub fn user(&self) -> &Path {
        self.folder.path()
    }
}

/// What stands where a machine would: its folder, with an engine's socket in it.
pub enum Home {
    /// Of a machine that runs.
    Machine(PathBuf),
    /// With a native engine's socket, and somebody who answers as a machine's process does.
    Stand(Stand),
}

impl Home {
    /// One for the engine of a case.
    pub fn of(target: &Target) -> Result<Self> {
        if let Ok(machine) = target.machine() {
            return Ok(Self::Machine(machine.home().to_owned()));
        }
        Self::stand(target.api())
    }

    /// One for an engine that runs natively.
    pub fn of_engine(engine: &Engine) -> Result<Self> {
        Self::stand(engine.api())
    }

    fn stand(api: &Server) -> Result<Self> {
        let Server::Unix(socket) = api else { bail!("an engine serves on a unix socket") };
        Ok(Self::Stand(Stand::start(socket)?))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Machine(home) => home,
            Self::Stand(stand) => stand.folder.path(),
        }
    }
}

/// A machine's process for an engine without one: it tells that it runs, and that it was asked to stop.
pub struct Stand {
    folder: tempfile::TempDir,
    state: Arc<Mutex<&'static str>>,
}

impl Stand {
    fn start(engine: &Path) -> Result<Self> {
        let folder = leftovers::folder()?;
        let machine = folder.path().join("default");
        std::fs::create_dir(&machine)?;
        std::fs::write(machine.join("lock"), "")?;
        std::os::unix::fs::symlink(engine, machine.join("docker.sock"))?;
        let listener =
            UnixListener::bind(machine.join("control.sock")).context("binding a control socket")?;
        let state = Arc::new(Mutex::new("running"));
        let told = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&told);
                // A client that is gone needs no answer.
                std::thread::spawn(move || answer(&stream, &told));
            }
        });
        Ok(Self { folder, state })
    }

    /// What it was last told to be.
    #[must_use]
    pub fn state(&self) -> &'static str {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One exchange as `wire::app` has it.
fn answer(stream: &UnixStream, state: &Mutex<&'static str>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let request: Value = serde_json::from_str(&line)?;
    let set = |new| *state.lock().unwrap_or_else(PoisonError::into_inner) = new;
    let mut stream = stream;
    match request["op"].as_str() {
        Some("stop") => {
            set("stopped");
            writeln!(stream, "{}", json!({"answer": "progress", "message": "stopping containers"}))?;
            writeln!(stream, "{}", json!({"answer": "done"}))?;
        }
        Some("status" | "watch") => {
            let state = *state.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(stream, "{}", status(state))?;
            if request["op"] == "watch" {
                // Nothing changes; until the watcher hangs up.
                let _ = BufReader::new(stream).read_line(&mut String::new());
            }
        }
        _ => writeln!(stream, "{}", json!({"answer": "failed", "message": "a stand knows no such request"}))?,
    }
    Ok(())
}

fn status(state: &str) -> Value {
    json!({
        "answer": "status", "name": "default", "state": state, "docker_socket": "/nowhere/docker.sock", "cpus": 2,
        "memory_mib": 2048, "disk_bytes": 60_u64 << 30, "disk_used_bytes": 1 << 30, "accelerator": "none",
        "accelerator_reason": "this engine runs without a machine", "pid": std::process::id(), "emulator_pid": null,
        "started_at_ms": 1_700_000_000_000_u64, "ready_after_ms": 1000,
        "guest": {
            "stage": {"stage": "ready"}, "agent_version": "0.1.0", "kernel": "6.12", "uptime_ms": 1000,
            "engine_restarts": 0,
            "figures": {
                "cpu_busy_ms": 100, "memory_total_bytes": 2_u64 << 30, "memory_available_bytes": 1_u64 << 30,
                "disk_total_bytes": 60_u64 << 30, "disk_free_bytes": 50_u64 << 30,
            },
        },
    })
}

/// The app with its window, driven.
pub struct App {
    session: String,
    server: Server,
    display: Display,
    driver: Running,
}

impl App {
    /// Opens it, with these arguments.
    pub fn open(desktop: &Desktop, home: &Path, arguments: &[&str]) -> Result<Self> {
        Self::open_with(desktop, home, arguments, &[])
    }

    /// The same, with these variables in its environment.
    pub fn open_with(
        desktop: &Desktop,
        home: &Path,
        arguments: &[&str],
        variables: &[(&str, &std::ffi::OsStr)],
    ) -> Result<Self> {
        let app = places::app()?;
        let driver = desktop
            .program("WebKitWebDriver", home)
            .arg(format!("--port={DRIVER_PORT}"))
            // Has the app let itself be driven: see wry.
            .env("TAURI_AUTOMATION", "true")
            .env("TAURI_WEBVIEW_AUTOMATION", "true")
            .env("CORACLE_BIN", places::coracle()?)
            .timeout(FOR_EVER);
        let driver =
            variables.iter().fold(driver, |driver, (name, value)| driver.env(name, value)).spawn()?;
        let server =
            Server::Tcp(Arc::clone(&desktop.namespace), SocketAddr::from((Ipv4Addr::LOCALHOST, DRIVER_PORT)));
        wait::eventually_true("the driver answers", SOON, || {
            ensure!(!driver.has_ended(), "the driver ended");
            Ok(ask(&server, "GET", "/status", None).is_ok())
        })?;
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "webkitgtk:browserOptions": {"binary": app, "args": arguments},
        }}});
        let answer = ask(&server, "POST", "/session", Some(&wanted))?;
        let session = answer["sessionId"].as_str().with_context(|| format!("no session: {answer}"))?;
        let display = desktop.display.clone();
        let app = Self { session: session.to_owned(), server, display, driver };
        // A script that begins before is lost with what the window showed before.
        wait::eventually_true("the window has its page", SOON, || {
            let loaded =
                "return document.readyState === 'complete' && !!document.querySelector('#app, main')";
            Ok(app.script(loaded, &json!([])).is_ok_and(|loaded| loaded == true))
        })?;
        Ok(app)
    }

    fn command(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        ask(&self.server, method, &format!("/session/{}{path}", self.session), body)
    }

    /// What a script in the window returns.
    pub fn script(&self, script: &str, arguments: &Value) -> Result<Value> {
        self.command("POST", "/execute/sync", Some(&json!({"script": script, "args": arguments})))
    }

    /// What a command of the shell's answers to the window: `{"ok": …}`, or `{"error": …}`. A buffer comes as an array of
    /// numbers.
    pub fn invoke(&self, command: &str, arguments: &Value) -> Result<Value> {
        const INVOKE: &str = "const [command, args, done] = arguments; \
             const plain = (value) => value instanceof ArrayBuffer ? [...new Uint8Array(value)] : value; \
             window.__TAURI_INTERNALS__.invoke(command, args).then((value) => done({ok: plain(value) ?? null}), (error) => done({error}))";
        self.script_async(INVOKE, &json!([command, arguments]))
    }

    /// What a script in the window hands to the function that is its last argument.
    pub fn script_async(&self, script: &str, arguments: &Value) -> Result<Value> {
        self.command("POST", "/execute/async", Some(&json!({"script": script, "args": arguments})))
    }

    /// The same of a command that must succeed.
    pub fn ask(&self, command: &str, arguments: &Value) -> Result<Value> {
        let answer = self.invoke(command, arguments)?;
        ensure!(answer.get("ok").is_some(), "{command} {arguments}: {}", answer["error"]);
        Ok(answer["ok"].clone())
    }

    /// The same of a command that must fail; why it did.
    pub fn refused(&self, command: &str, arguments: &Value) -> Result<Value> {
        let answer = self.invoke(command, arguments)?;
        ensure!(answer.get("error").is_some(), "{command} {arguments} was not refused: {}", answer["ok"]);
        Ok(answer["error"].clone())
    }

    /// The text that the window shows.
    pub fn text(&self) -> Result<String> {
        let text = self.script("return document.body.innerText", &json!([]))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the window shows `text`, whatever its case.
    pub fn shows(&self, text: &str) -> Result<()> {
        self.shows_within(SOON, text)
    }

    pub fn shows_within(&self, limit: Duration, text: &str) -> Result<()> {
        let wanted = text.to_lowercase();
        let shown = wait::eventually_true(&format!("the window shows {text:?}"), limit, || {
            Ok(self.text()?.to_lowercase().contains(&wanted))
        });
        shown.with_context(|| format!("the window shows:\n{}", self.text().unwrap_or_default()))
    }

    /// Goes to a page.
    pub fn go(&self, path: &str) -> Result<()> {
        self.script("location.hash = arguments[0]", &json!([format!("#{path}")])).map(drop)
    }

    /// Clicks the first visible element that `css` finds and whose text or label contains `label`.
    pub fn click(&self, css: &str, label: &str) -> Result<()> {
        let find = "const [css, label] = arguments; return [...document.querySelectorAll(css)].find((element) => \
             element.checkVisibility() && !element.disabled && \
             [element.innerText, element.getAttribute('aria-label'), element.title].some((text) => text?.toLowerCase().includes(label.toLowerCase()))) ?? null";
        let element = wait::eventually(&format!("there is {css} {label:?}"), SOON, || {
            let found = self.script(find, &json!([css, label]))?;
            Ok(found[ELEMENT].as_str().map(str::to_owned))
        });
        let element =
            element.with_context(|| format!("the window shows:\n{}", self.text().unwrap_or_default()))?;
        self.command("POST", &format!("/element/{element}/click"), Some(&json!({}))).map(drop)
    }

    /// Types into what has the focus.
    pub fn type_text(&self, css: &str, text: &str) -> Result<()> {
        let found =
            self.command("POST", "/element", Some(&json!({"using": "css selector", "value": css})))?;
        let element = found[ELEMENT].as_str().with_context(|| format!("there is no {css}"))?;
        self.command("POST", &format!("/element/{element}/value"), Some(&json!({"text": text}))).map(drop)
    }

    /// Whether the environment says where pictures are kept.
    #[must_use]
    pub fn keeps_pictures() -> bool {
        pictures().is_some()
    }

    /// Keeps a picture of the window where the environment says pictures are kept, if it does.
    pub fn keep_picture(&self, name: &str) -> Result<()> {
        let Some(folder) = pictures() else { return Ok(()) };
        self.script_async(
            "const [done] = arguments; requestAnimationFrame(() => requestAnimationFrame(() => done()))",
            &json!([]),
        )?;
        let begun = Instant::now();
        let mut last = Vec::new();
        let picture = wait::eventually("the window is at rest", SOON, || {
            let now = self.display.picture("Coracle")?;
            // What moves all the time does not come to rest.
            let at_rest = now == last || begun.elapsed() > Duration::from_secs(3);
            last.clone_from(&now);
            Ok(at_rest.then_some(now))
        })?;
        let path = folder.join(format!("{name}.png"));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&path, picture))
            .with_context(|| format!("keeping {}", path.display()))
    }

    /// Ends the app as closing its driver does.
    pub fn close(self) -> Result<()> {
        // The app may have ended by itself, at the case's wish.
        let _ = self.command("DELETE", "", None);
        self.driver.kill();
        Ok(())
    }
}

/// Where pictures of the window are kept, if they are.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("CORACLE_PICTURES").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// One command of WebDriver's.
fn ask(server: &Server, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
    let request = server.request(method, target);
    let request = if let Some(body) = body { request.json(body) } else { request };
    let answer = request.send()?;
    let told = answer.json()?;
    ensure!(
        answer.status == 200,
        "{method} {target}: {}: {}",
        told["value"]["error"],
        told["value"]["message"]
    );
    Ok(told["value"].clone())
}
