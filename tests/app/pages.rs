//! The app's pages in its own window, in front of a real engine. What a page shows in every state is tested in a browser
//! (`ui/tests`); here the whole way down is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::app::{App, Desktop, Home};
use tests::archive::{self, Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, places, wait};

cases! {
    first_start_shows_the_way.on(&[Kind::Native]).alone(),
    first_run_to_a_container.on(&[Kind::Machine]).alone(),
    containers_are_shown_stopped_and_started.on(&[Kind::Native, Kind::Machine]).alone(),
    logs_follow.on(&[Kind::Native, Kind::Machine]).alone(),
    terminal_runs_a_shell.on(&[Kind::Native, Kind::Machine]).alone(),
    every_page_has_something_to_show.on(&[Kind::Native, Kind::Machine]).alone(),
    names_with_markup_are_text.on(&[Kind::Native]).alone(),
}

/// From a computer whose machine does not run to a container, and to `docker` in a terminal.
fn first_run_to_a_container(t: &Target) -> Outcome {
    t.machine()?.ok(["stop"])?;
    let desktop = Desktop::start(t.namespace(), true)?;
    let home = Home::of(t)?;
    let app = App::open(&desktop, home.path(), &[])?;
    app.click("button", "Begin")?;
    app.click("button", "Start the machine")?;
    app.shows_within(Duration::from_secs(60), "Hello from a container in Coracle.")?;
    app.click("button", "Continue")?;
    // Where nothing else is there for `docker` to use, the start has chosen.
    app.shows("docker uses this machine already")?;
    app.click("button", "Go to my containers")?;
    wait::eventually_true("the containers are shown", Duration::from_secs(20), || {
        Ok(app.script("return location.hash", &json!([]))? == "#/containers")
    })?;
    let docker = places::peer()?.join("bin/docker");
    let images = desktop.program(docker, home.path()).args(["images", "--format", "{{.Repository}}"]);
    ensure_eq!(images.output()?.text()?, "busybox");
    Ok(())
}

/// A window on a page, for a user who has seen the first run.
fn open(t: &Target) -> Result<(App, Desktop, Home)> {
    let desktop = Desktop::start(t.namespace(), true)?;
    let home = Home::of(t)?;
    std::fs::write(home.path().join("app.json"), r#"{"first_run_done": true}"#)?;
    let app = App::open(&desktop, home.path(), &[])?;
    Ok((app, desktop, home))
}

fn first_start_shows_the_way(t: &Target) -> Outcome {
    let desktop = Desktop::start(t.namespace(), true)?;
    let home = Home::of(t)?;
    let app = App::open(&desktop, home.path(), &[])?;
    wait::eventually_true("the first page is the first run", Duration::from_secs(20), || {
        Ok(app.script("return location.hash", &json!([]))? == "#/first-run")
    })?;
    app.keep_picture("first-run-system")
}

fn containers_are_shown_stopped_and_started(t: &Target) -> Outcome {
    let (app, _desktop, _home) = open(t)?;
    let name = t.name("web");
    // It appears without anybody asking for it.
    let id = t.ok(["run", "-d", "--init", "--name", &name, "-p", "18081:80", "busybox", "sleep", "1000"])?;
    app.shows(&name)?;
    app.shows("18081")?;
    app.go(&format!("/containers/{id}"))?;
    app.click("button", "Stop")?;
    wait::eventually_true("the container is stopped", Duration::from_secs(60), || {
        Ok(t.ok(["inspect", "-f", "{{.State.Status}}", &name])? == "exited")
    })?;
    app.shows("Exited with")?;
    app.click("button", "Start")?;
    wait::eventually_true("the container runs again", Duration::from_secs(60), || {
        Ok(t.ok(["inspect", "-f", "{{.State.Status}}", &name])? == "running")
    })?;
    app.shows("Restart")?;
    t.ok(["rm", "-f", &name])?;
    app.shows("This container is gone")
}

fn logs_follow(t: &Target) -> Outcome {
    let (app, _desktop, _home) = open(t)?;
    let name = t.name("talker");
    let script = "printf '\\033[31mred\\033[0m line\\n'; echo to-err >&2; \
                  until [ -e /go ]; do usleep 50000; done; echo later; exec sleep 1000";
    let id = t.ok(["run", "-d", "--init", "--name", &name, "busybox", "sh", "-c", script])?;
    app.go(&format!("/containers/{id}/logs"))?;
    app.shows("red line")?;
    app.shows("to-err")?;
    t.ok(["exec", &name, "touch", "/go"])?;
    app.shows("later")
}

fn terminal_runs_a_shell(t: &Target) -> Outcome {
    let (app, _desktop, _home) = open(t)?;
    let name = t.name("shell");
    let id = t.ok(["run", "-d", "--init", "--name", &name, "busybox", "sleep", "1000"])?;
    app.go(&format!("/containers/{id}/terminal"))?;
    let screen = || app.script("return document.querySelector('.xterm-rows')?.innerText ?? ''", &json!([]));
    wait::eventually_true("the shell is there", Duration::from_secs(30), || {
        Ok(screen()?.as_str().is_some_and(|text| text.contains('#') || text.contains('$')))
    })
    .with_context(|| format!("the window shows:\n{}", app.text().unwrap_or_default()))?;
    app.type_text(".xterm-helper-textarea", "echo $((6*7))-answer\n")?;
    wait::eventually_true("the shell answers", Duration::from_secs(30), || {
        Ok(screen()?.as_str().is_some_and(|text| text.contains("42-answer")))
    })?;
    app.keep_picture("terminal-system")
}

/// A shop by compose, with an image for each service, a job that failed and one that went well.
fn shop(t: &Target) -> Outcome {
    let root = busybox_root()?;
    for (tag, megabytes) in [("shop/web:2.1", 12), ("shop/database:17", 48), ("shop/cache:8", 5)] {
        // Bytes that do not compress are not needed: what is shown is the size on disk.
        let own = Tar::default().file("opt/release", 0o644, &vec![b'.'; megabytes << 20])?.finish()?;
        let image = Image::new(tag, root).layer(own).docker_archive()?;
        t.ok(["load", "-i", &archive::write(t.folder(), "image.tar", &image)?.to_string_lossy()])?;
    }
    let talk = "for i in $(seq 24); do printf '\\033[32mGET\\033[0m /baskets/%s \\033[36m200\\033[0m %s ms\\n' $i $((i * 7 % 23 + 2)); \
                done; echo 'slow answer from database: 212 ms' >&2; \
                while sleep 1; do head -c 1000000 /dev/zero | md5sum >/dev/null; done";
    let sleep = ["sleep", "100000"];
    // JSON is YAML; a dollar is doubled for compose.
    let shop = json!({
        "name": "shop",
        "services": {
            "web": {
                "image": "shop/web:2.1", "init": true, "ports": ["8080:80"], "depends_on": ["database", "cache"],
                "command": ["sh", "-c", talk.replace('$', "$$")], "environment": {"MODE": "production"},
            },
            "database": {"image": "shop/database:17", "init": true, "command": sleep, "volumes": ["data:/var/lib/data"]},
            "cache": {"image": "shop/cache:8", "init": true, "command": sleep},
        },
        "volumes": {"data": {}},
    });
    let file = archive::write(t.folder(), "compose.yaml", shop.to_string().as_bytes())?;
    t.ok(["compose", "-f", &file.to_string_lossy(), "up", "-d", "--pull", "never"])?;
    t.ok(["exec", "shop-database-1", "sh", "-c", "head -c 3000000 /dev/zero >/var/lib/data/orders"])?;
    t.ok(["run", "--name", "nightly-backup", "busybox", "true"])?;
    t.fails(1, ["run", "--name", "import", "busybox", "false"])?;
    Ok(())
}

/// In a machine, with `CORACLE_PICTURES`, this makes the pictures of `docs/pictures`.
fn every_page_has_something_to_show(t: &Target) -> Outcome {
    let (app, _desktop, _home) = open(t)?;
    shop(t)?;
    let web = "/containers/shop-web-1";
    let (logs, stats) = (format!("{web}/logs"), format!("{web}/stats"));
    for (name, page, shown) in [
        ("containers", "/containers", "Exited with 1"),
        ("logs", &logs, "slow answer"),
        ("stats", &stats, "100 % is one core"),
        ("images", "/images", "shop/database"),
        ("volumes", "/volumes", "shop_data"),
        ("networks", "/networks", "shop_default"),
        ("network", "/networks/shop_default", "shop-web-1"),
        ("machine", "/machine", "Docker socket"),
        ("settings", "/settings", "What the machine may take"),
        ("first-run", "/first-run", "Welcome aboard"),
    ] {
        app.go(page)?;
        app.shows(shown)?;
        // Charts have something to show after a while.
        if App::keeps_pictures() && ["stats", "machine"].contains(&name) {
            wait::let_pass(Duration::from_secs(20));
        }
        for theme in ["light", "dark"] {
            app.ask("preferences_change", &json!({"changes": {"theme": theme}}))?;
            app.keep_picture(&format!("{name}-{theme}"))?;
        }
    }
    // What the window complains of would be seen by nobody.
    let broken = app.script(
        "return [...document.querySelectorAll('[role=alert]')].map((alert) => alert.innerText)",
        &json!([]),
    )?;
    ensure!(broken.as_array().is_some_and(Vec::is_empty), "the window says {broken}");
    Ok(())
}

fn names_with_markup_are_text(t: &Target) -> Outcome {
    let (app, _desktop, _home) = open(t)?;
    let name = t.name("markup");
    let label = "<img src=x onerror=\"document.title='run'\">";
    let html = format!("HTML={label}");
    let id = t.ok(["run", "-d", "--init", "--name", &name, "-e", &html, "busybox", "sleep", "1000"])?;
    app.go(&format!("/containers/{id}/environment"))?;
    app.shows("HTML")?;
    app.go(&format!("/containers/{id}/inspect"))?;
    app.shows("busybox")?;
    ensure!(app.script("return document.title", &json!([]))? != "run", "a value of a container was run");
    Ok(())
}
