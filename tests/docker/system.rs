//! The engine as a whole: ping, version, info, and its answers to requests that it does not know.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, keys};

cases! {
    ping.bare(),
    version.bare(),
    client_negotiates_the_version.bare(),
    info.bare(),
    info_counts_containers_and_images.alone(),
    unknown_routes.bare(),
    versions_out_of_range.bare(),
    every_answer_names_the_version.bare(),
    bodies_that_are_no_json.bare(),
    heads_that_are_no_http.bare(),
    swarm_and_plugins_are_refused_in_dockers_words.bare().on(&[Kind::Native, Kind::Machine]),
}

fn ping(t: &Target) -> Outcome {
    for (method, path) in
        [("GET", "/_ping"), ("HEAD", "/_ping"), ("GET", "/v1.51/_ping"), ("GET", "/v1.41/_ping")]
    {
        let what = format!("{method} {path}");
        let answer = t.api().request(method, path).send()?.expect(200)?;
        ensure_eq!(answer.header("Api-Version"), Some("1.51"), "{what}");
        ensure_eq!(answer.header("Ostype"), Some("linux"), "{what}");
        ensure_eq!(answer.header("Docker-Experimental"), Some("false"), "{what}");
        ensure_eq!(answer.header("Builder-Version").is_some(), true, "{what}: Builder-Version");
        ensure_eq!(answer.header("Cache-Control"), Some("no-cache, no-store, must-revalidate"), "{what}");
        ensure_eq!(answer.header("Pragma"), Some("no-cache"), "{what}");
        ensure_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"), "{what}");
        ensure_eq!(answer.body, if method == "GET" { b"OK".to_vec() } else { Vec::new() }, "{what}");
    }
    Ok(())
}

fn version(t: &Target) -> Outcome {
    let answer = t.api().get("/version").send()?.expect(200)?.json()?;
    ensure_eq!(answer["ApiVersion"], "1.51");
    ensure_eq!(answer["Os"], "linux");
    ensure_eq!(answer["Arch"], "amd64");
    let components = answer["Components"].as_array().context("no components")?;
    ensure!(
        components.iter().any(|component| component["Name"] == "Engine"),
        "no engine among {components:?}"
    );
    keys::compare(t.kind(), "version", &without_component_details(&answer), &[])
}

/// Each component may say what it likes about itself.
fn without_component_details(version: &Value) -> Value {
    let mut version = version.clone();
    if let Some(components) = version["Components"].as_array_mut() {
        components.iter_mut().for_each(|component| component["Details"] = Value::Null);
    }
    version
}

fn client_negotiates_the_version(t: &Target) -> Outcome {
    let text = t.ok(["version", "--format", "{{.Client.APIVersion}} {{.Server.APIVersion}}"])?;
    ensure_eq!(text, "1.51 1.51");
    // An older client keeps its own version.
    let text = t.docker(["version", "--format", "{{.Client.APIVersion}}"]).env("DOCKER_API_VERSION", "1.44");
    ensure_eq!(text.output()?.text()?, "1.44");
    Ok(())
}

/// Fields that come with what is not there yet: the bridge network's firewall, and runtimes to choose from.
const INFO_NOT_YET: &[&str] = &[
    "FirewallBackend",
    "FirewallBackend.Driver",
    "Runtimes.*.status",
    "Runtimes.*.status.org.opencontainers.runtime-spec.features",
];

fn info(t: &Target) -> Outcome {
    let info = t.api().get("/info").send()?.expect(200)?.json()?;
    ensure_eq!(info["OSType"], "linux");
    ensure_eq!(info["Architecture"], "x86_64");
    ensure!(info["NCPU"].as_u64().is_some_and(|count| count > 0), "no CPUs: {}", info["NCPU"]);
    ensure!(
        info["MemTotal"].as_u64().is_some_and(|bytes| bytes > 1 << 28),
        "little memory: {}",
        info["MemTotal"]
    );
    ensure!(info["ID"].as_str().is_some_and(|id| !id.is_empty()), "no id");
    // A status is a list of pairs in any number; plugins and security options are the machine's own.
    let mut shape = info.clone();
    for open in [
        "DriverStatus",
        "Plugins",
        "SecurityOptions",
        "Swarm",
        "Warnings",
        "Containerd",
        "DefaultAddressPools",
    ] {
        shape[open] = Value::Null;
    }
    // The first is told of cgroup v1 alone; the others are absent or empty where there is nothing to tell.
    for depends in ["KernelMemoryTCP", "Containerd", "DiscoveredDevices", "CDISpecDirs"] {
        shape.as_object_mut().context("info is no object")?.remove(depends);
    }
    keys::compare(t.kind(), "info", &shape, INFO_NOT_YET)?;
    // The client prints it without complaint.
    t.ok(["info"])?;
    Ok(())
}

fn info_counts_containers_and_images(t: &Target) -> Outcome {
    let count = || {
        t.ok([
            "info",
            "--format",
            "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}}",
        ])
    };
    ensure_eq!(count()?, "0 0 0 1");
    let (running, created) = (t.name("running"), t.name("created"));
    t.sleeper(&running)?;
    t.ok(["create", "--name", &created, "busybox"])?;
    ensure_eq!(count()?, "2 1 1 1");
    t.ok(["rm", "-f", &running, &created])?;
    ensure_eq!(count()?, "0 0 0 1");
    Ok(())
}

fn unknown_routes(t: &Target) -> Outcome {
    for (method, path) in
        [("GET", "/no/such/page"), ("GET", "/v1.51/nothing"), ("POST", "/version"), ("DELETE", "/_ping")]
    {
        let answer = t.api().request(method, path).send()?.expect(404)?;
        ensure_eq!(answer.message()?, "page not found", "{method} {path}");
    }
    Ok(())
}

fn versions_out_of_range(t: &Target) -> Outcome {
    let version = t.api().get("/version").send()?.expect(200)?.json()?;
    let minimum = version["MinAPIVersion"].as_str().context("no MinAPIVersion")?;
    let minor: u32 = minimum.strip_prefix("1.").context("an odd version")?.parse()?;
    let old = format!("1.{}", minor - 1);
    // dockerd answers in plain text what is older than its JSON errors.
    let refused = t.api().get(format!("/v{old}/containers/json")).send()?.expect(400)?;
    let words = format!(
        "client version {old} is too old. Minimum supported API version is {minimum}, please upgrade your client to a \
         newer version"
    );
    ensure!(String::from_utf8_lossy(&refused.body).contains(&words), "{refused}");
    ensure_eq!(
        t.api().get("/v1.99/containers/json").send()?.expect(400)?.message()?,
        "client version 1.99 is too new. Maximum supported API version is 1.51"
    );
    t.api().get(format!("/v{minimum}/containers/json")).send()?.expect(200)?;
    Ok(())
}

fn every_answer_names_the_version(t: &Target) -> Outcome {
    for (path, status) in [("/version", 200), ("/containers/none/json", 404), ("/v1.44/info", 200)] {
        let answer = t.api().get(path).send()?.expect(status)?;
        ensure_eq!(answer.header("Api-Version"), Some("1.51"), "{path}");
        ensure_eq!(answer.header("Ostype"), Some("linux"), "{path}");
        ensure_eq!(answer.header("Content-Type"), Some("application/json"), "{path}");
        let server = answer.header("Server").unwrap_or_default();
        ensure!(server.ends_with("(linux)"), "{path}: Server is {server:?}");
    }
    Ok(())
}

fn bodies_that_are_no_json(t: &Target) -> Outcome {
    let create = |kind: &str, body: &str| {
        t.api()
            .post("/containers/create")
            .header("Content-Type", kind)
            .body(body)
            .send()?
            .expect(400)?
            .message()
    };
    create("application/json", "{\"Image\":")?;
    create("application/json", "[]")?;
    create("application/json", "{\"Image\": 7}")?;
    let text = create("text/plain", "{}")?;
    ensure_eq!(text, "unsupported Content-Type header (text/plain): must be 'application/json'");
    Ok(())
}

fn heads_that_are_no_http(t: &Target) -> Outcome {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let tests::http::Server::Unix(path) = t.api() else { anyhow::bail!("no unix socket") };
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        &[b'a'; 200_000],
    ] {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
        // It may hang up before it has read everything: only that it stays alive matters.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    t.api().get("/_ping").send()?.expect(200)?;
    Ok(())
}

fn swarm_and_plugins_are_refused_in_dockers_words(t: &Target) -> Outcome {
    let words = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
                 node to swarm and try again.";
    for path in ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"] {
        ensure_eq!(t.api().get(path).send()?.expect(503)?.message()?, words, "{path}");
    }
    let plugins = t.api().get("/plugins").send()?.expect(200)?.json()?;
    ensure_eq!(plugins, json!([]));
    Ok(())
}
