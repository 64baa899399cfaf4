//! `docker pull` from registries on the engine's loopback address.

use anyhow::{Context, ensure};
use tests::archive::{Image, Tar, busybox_root, digest};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::process::contains;
use tests::registry::{ADDRESS, TokenRegistry};
use tests::target::Target;
use tests::{cases, ensure_eq};

/// Engines to which the registry is at a loopback address. To one in a machine it has another name: see
/// `tests/boot/network.rs`.
const REACHED: &[Kind] = &[Kind::Native, Kind::Dockerd];

cases! {
    anonymous.on(REACHED),
    with_a_token.on(REACHED),
    index_of_platforms.on(REACHED),
    index_without_our_platform.on(REACHED),
    by_digest.on(REACHED),
    run_pulls_what_is_missing.on(REACHED),
    layers_are_shared.on(REACHED),
    mirror_of_docker_hub.on(REACHED),
    missing_tag.on(REACHED),
    missing_repository.on(REACHED),
    nobody_listens.on(REACHED),
    names_that_are_none,
    tampered_blob.on(REACHED),
    progress_of_the_api.on(REACHED),
}

fn image(t: &Target, what: &str) -> anyhow::Result<(String, Image)> {
    let name = t.name(what);
    let layer = Tar::default().file("name", 0o644, name.as_bytes())?.finish()?;
    Ok((name.clone(), Image::new("unused", busybox_root()?).layer(layer)))
}

fn anonymous(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, image) = image(t, "image")?;
    let manifest = registry.push(&name, "v1", &image)?;
    let full = format!("{ADDRESS}/{name}:v1");
    let first = t.ok(["pull", &full])?;
    let lines: Vec<&str> = first.lines().collect();
    ensure_eq!(lines.first().copied(), Some(&*format!("v1: Pulling from {name}")));
    ensure!(lines.iter().any(|line| line.ends_with(": Pull complete")), "{first}");
    ensure!(lines.contains(&&*format!("Digest: {}", digest(&manifest))), "{first}");
    ensure!(lines.contains(&&*format!("Status: Downloaded newer image for {full}")), "{first}");
    ensure_eq!(lines.last().copied(), Some(&*full));
    ensure_eq!(t.ok(["run", "--rm", &full, "cat", "/name"])?, name);
    ensure_eq!(
        t.ok(["image", "inspect", "--format", "{{index .RepoDigests 0}}", &full])?,
        format!("{ADDRESS}/{name}@{}", digest(&manifest))
    );
    let second = t.ok(["pull", &full])?;
    ensure!(second.contains(&format!("Status: Image is up to date for {full}")), "{second}");
    ensure_eq!(t.ok(["pull", "-q", &full])?, full);
    t.ok(["rmi", &full])?;
    Ok(())
}

fn with_a_token(t: &Target) -> Outcome {
    t.registry()?;
    let (name, image) = image(t, "image")?;
    let repository = format!("team/{name}");
    let registry = TokenRegistry::start(t.namespace(), &repository, &image)?;
    let full = registry.image();
    t.ok(["pull", &full])?;
    ensure_eq!(t.ok(["run", "--rm", &full, "cat", "/name"])?, name);
    let scopes = registry.scopes();
    let wanted = format!("repository:{repository}:pull");
    ensure!(scopes.contains(&wanted), "tokens were asked for {scopes:?}");
    t.ok(["rmi", &full])?;
    Ok(())
}

fn index_of_platforms(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, ours) = image(t, "ours")?;
    let theirs =
        Image::new("unused", &Tar::default().file("other", 0o644, b"arm")?.finish()?).architecture("arm64");
    let index = registry.push_index(&name, "v1", &[theirs.clone(), ours.clone()])?;
    let full = format!("{ADDRESS}/{name}:v1");
    let pulled = t.ok(["pull", &full])?;
    ensure!(pulled.contains(&format!("Digest: {}", digest(&index))), "{pulled}");
    let id = |image: &Image| digest(&image.configuration());
    let seen = || t.ok(["image", "inspect", "--format", "{{.Id}} {{.Architecture}}", &full]);
    ensure_eq!(seen()?, format!("{} amd64", id(&ours)));
    t.ok(["pull", "--platform", "linux/arm64", &full])?;
    ensure_eq!(seen()?, format!("{} arm64", id(&theirs)));
    t.ok(["rmi", &full])?;
    Ok(())
}

fn index_without_our_platform(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let name = t.name("image");
    let theirs =
        Image::new("unused", &Tar::default().file("other", 0o644, b"arm")?.finish()?).architecture("arm64");
    registry.push_index(&name, "v1", &[theirs])?;
    t.fails(1, ["pull", &format!("{ADDRESS}/{name}:v1")])?
        .expect_stderr("no matching manifest for linux/amd64")?
        .expect_stderr("in the manifest list entries")?;
    Ok(())
}

fn by_digest(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, image) = image(t, "image")?;
    let manifest = registry.push(&name, "v1", &image)?;
    let full = format!("{ADDRESS}/{name}@{}", digest(&manifest));
    let pulled = t.ok(["pull", &full])?;
    ensure!(
        pulled.contains(&format!("{full}: Pulling from {name}").replace(&format!("{ADDRESS}/{name}@"), "")),
        "{pulled}"
    );
    ensure_eq!(t.ok(["run", "--rm", &full, "cat", "/name"])?, name);
    t.ok(["rmi", &full])?;
    Ok(())
}

fn run_pulls_what_is_missing(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, image) = image(t, "image")?;
    registry.push(&name, "latest", &image)?;
    let full = format!("{ADDRESS}/{name}");
    let run = t.docker(["run", "--rm", &full, "cat", "/name"]).output()?.expect_code(0)?;
    ensure_eq!(run.stdout(), name);
    run.expect_stderr(&format!("Unable to find image '{full}:latest' locally"))?;
    t.fails(125, ["run", "--rm", "--pull", "never", &format!("{ADDRESS}/nothing")])?
        .expect_stderr(&format!("No such image: {ADDRESS}/nothing:latest"))?;
    t.ok(["rmi", &full])?;
    Ok(())
}

fn layers_are_shared(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let ((one, first), (two, second)) = (image(t, "one")?, image(t, "two")?);
    registry.push(&one, "v1", &first)?;
    registry.push(&two, "v1", &second)?;
    t.ok(["pull", &format!("{ADDRESS}/{one}:v1")])?;
    let pulled = t.ok(["pull", &format!("{ADDRESS}/{two}:v1")])?;
    ensure_eq!(pulled.lines().filter(|line| line.ends_with(": Already exists")).count(), 1, "{pulled}");
    ensure_eq!(pulled.lines().filter(|line| line.ends_with(": Pull complete")).count(), 1, "{pulled}");
    t.ok(["rmi", &format!("{ADDRESS}/{one}:v1")])?;
    ensure_eq!(t.ok(["run", "--rm", &format!("{ADDRESS}/{two}:v1"), "cat", "/name"])?, two);
    t.ok(["rmi", &format!("{ADDRESS}/{two}:v1")])?;
    Ok(())
}

/// The engines under test are started with this registry as a mirror.
fn mirror_of_docker_hub(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, image) = image(t, "hub")?;
    registry.push(&format!("library/{name}"), "latest", &image)?;
    let pulled = t.ok(["pull", &name])?;
    ensure!(pulled.starts_with("Using default tag: latest"), "{pulled}");
    ensure!(pulled.contains(&format!("latest: Pulling from library/{name}")), "{pulled}");
    ensure!(pulled.ends_with(&format!("docker.io/library/{name}:latest")), "{pulled}");
    ensure_eq!(t.ok(["run", "--rm", &name, "cat", "/name"])?, name);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn missing_tag(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, image) = image(t, "image")?;
    registry.push(&name, "v1", &image)?;
    t.fails(1, ["pull", &format!("{ADDRESS}/{name}:v2")])?.expect_stderr(&format!(
        "manifest for {ADDRESS}/{name}:v2 not found: manifest unknown: manifest unknown"
    ))?;
    Ok(())
}

fn missing_repository(t: &Target) -> Outcome {
    t.registry()?;
    let full = format!("{ADDRESS}/{}", t.name("none"));
    let answer = t.fails(1, ["pull", &full])?;
    answer.expect_stderr(&format!("manifest for {full}:latest not found"))?;
    let answer = t.api().post(format!("/images/create?fromImage={full}&tag=latest")).send()?.expect(404)?;
    answer.message()?;
    Ok(())
}

fn nobody_listens(t: &Target) -> Outcome {
    t.registry()?;
    let answer = t.fails(1, ["pull", "127.0.0.1:1/nothing"])?;
    answer.expect_stderr("127.0.0.1:1")?.expect_stderr("connection refused")?;
    Ok(())
}

fn names_that_are_none(t: &Target) -> Outcome {
    for bad in ["lower/UPPER", "a..b//c", "x:"] {
        t.fails(1, ["pull", bad])?.expect_stderr("invalid reference format")?;
    }
    let answer = t.api().post("/images/create?fromImage=UPPER&tag=x").send()?.expect(400)?;
    ensure!(answer.message()?.contains("invalid reference format"), "{answer}");
    Ok(())
}

fn tampered_blob(t: &Target) -> Outcome {
    t.registry()?;
    let (name, image) = image(t, "image")?;
    let registry = TokenRegistry::start_tampered(t.namespace(), &name, &image)?;
    let answer = t.fails(1, ["pull", &registry.image()])?;
    ensure!(
        contains(&answer.stderr, b"verification failed") || contains(&answer.stderr, b"digest"),
        "{answer}"
    );
    t.fails(1, ["image", "inspect", &registry.image()])?;
    Ok(())
}

fn progress_of_the_api(t: &Target) -> Outcome {
    let registry = t.registry()?;
    let (name, image) = image(t, "image")?;
    registry.push(&name, "v1", &image)?;
    let full = format!("{ADDRESS}/{name}");
    let answer = t.api().post(format!("/images/create?fromImage={full}&tag=v1")).send()?.expect(200)?;
    ensure_eq!(answer.header("Content-Type"), Some("application/json"));
    let text = String::from_utf8(answer.body)?;
    let mut kinds = std::collections::BTreeSet::new();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let event: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}"))?;
        let status = event["status"].as_str().with_context(|| format!("no status: {line}"))?.to_owned();
        if status == "Downloading" || status == "Extracting" {
            let detail = &event["progressDetail"];
            ensure!(detail["current"].is_u64(), "{line}");
            ensure!(event["id"].as_str().is_some_and(|id| id.len() == 12), "{line}");
        }
        kinds.insert(status);
    }
    for wanted in ["Pulling fs layer", "Download complete", "Pull complete"] {
        ensure!(kinds.contains(wanted), "no {wanted:?} among {kinds:?}");
    }
    t.ok(["rmi", &format!("{full}:v1")])?;
    Ok(())
}
