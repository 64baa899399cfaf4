//! `docker load`: what it takes, what it refuses, and that nothing in an archive reaches outside the image.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::archive::{self, Image, Tar, busybox_root, hex};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::process::Output;
use tests::target::Target;
use tests::{cases, ensure_eq, wait};

cases! {
    docker_archive,
    // dockerd takes no archive without Docker's own manifest.
    oci_layout.on(&[Kind::Native, Kind::Machine]),
    compressed_archive,
    image_without_a_name,
    twice,
    layers_hide_files,
    owners_modes_and_links,
    ten_thousand_small_files.seconds(240),
    truncated_archive,
    no_archive,
    empty_archive,
    manifest_of_missing_files,
    tampered_layer,
    tampered_configuration,
    names_that_climb_out,
    absolute_names,
    names_through_symlinks,
    hard_links_that_climb_out,
    climbing_names_in_the_archive_itself,
    image_of_another_architecture,
    connection_lost_in_the_middle,
}

fn load(t: &Target, archive: &[u8]) -> anyhow::Result<Output> {
    let file = archive::write(t.folder(), "load.tar", archive)?;
    t.docker(["load", "-i"]).arg(file).timeout(Duration::from_secs(180)).output()
}

/// A layer with one file, and the busybox root below it.
fn image(t: &Target, what: &str) -> anyhow::Result<(String, Image)> {
    let name = t.name(what);
    let layer = Tar::default().file("name", 0o644, name.as_bytes())?.finish()?;
    Ok((name.clone(), Image::new(&format!("{name}:latest"), busybox_root()?).layer(layer)))
}

/// Fails unless the engine refused the archive with a message, stored nothing of that name, and still serves.
fn expect_refusal(t: &Target, name: &str, output: Output) -> Outcome {
    let output = output.expect_code(1)?;
    ensure!(!output.stderr().trim().is_empty(), "refused without a word: {output}");
    t.fails(1, ["image", "inspect", name])?;
    still_works(t)
}

fn still_works(t: &Target) -> Outcome {
    ensure_eq!(t.ok(["run", "--rm", "busybox", "echo", "fine"])?, "fine");
    Ok(())
}

fn docker_archive(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    let loaded = load(t, &image.docker_archive()?)?.text()?;
    ensure_eq!(loaded, format!("Loaded image: {name}:latest"));
    ensure_eq!(
        t.ok(["image", "inspect", "--format", "{{.Id}}", &name])?,
        archive::digest(&image.configuration())
    );
    ensure_eq!(t.ok(["run", "--rm", &name, "cat", "/name"])?, name);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn oci_layout(t: &Target) -> Outcome {
    let (name, mut image) = image(t, "image")?;
    image.tags = vec![format!("docker.io/library/{name}:latest")];
    load(t, &image.oci_archive()?)?.expect_code(0)?;
    ensure_eq!(t.ok(["run", "--rm", &name, "cat", "/name"])?, name);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn compressed_archive(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    let file = archive::write(t.folder(), "plain.tar", &image.docker_archive()?)?;
    let gzip = t.program("gzip").arg("-1c").stdin_file(&file).output()?.expect_code(0)?.stdout;
    ensure_eq!(load(t, &gzip)?.text()?, format!("Loaded image: {name}:latest"));
    ensure_eq!(t.ok(["run", "--rm", &name, "cat", "/name"])?, name);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn image_without_a_name(t: &Target) -> Outcome {
    let (_, mut image) = image(t, "image")?;
    image.tags.clear();
    let id = archive::digest(&image.configuration());
    ensure_eq!(load(t, &image.docker_archive()?)?.text()?, format!("Loaded image ID: {id}"));
    ensure_eq!(t.ok(["run", "--rm", &id, "echo", "hi"])?, "hi");
    t.ok(["rmi", &id])?;
    Ok(())
}

fn twice(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    for _ in 0..2 {
        ensure_eq!(load(t, &image.docker_archive()?)?.text()?, format!("Loaded image: {name}:latest"));
    }
    ensure_eq!(t.ok(["images", "-q", &name])?.lines().count(), 1);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn layers_hide_files(t: &Target) -> Outcome {
    let (name, mut image) = image(t, "image")?;
    let below = Tar::default()
        .folder("kept/", 0o755)?
        .file("kept/old", 0o644, b"old")?
        .file("kept/gone", 0o644, b"gone")?
        .folder("emptied/", 0o755)?
        .file("emptied/before", 0o644, b"before")?
        .folder("replaced/", 0o755)?
        .file("replaced/inside", 0o644, b"inside")?
        .finish()?;
    let above = Tar::default()
        .file("kept/.wh.gone", 0o644, b"")?
        .folder("emptied/", 0o755)?
        .file("emptied/.wh..wh..opq", 0o644, b"")?
        .file("emptied/after", 0o644, b"after")?
        .file(".wh.replaced", 0o644, b"")?
        .finish()?;
    let top = Tar::default().file("replaced", 0o644, b"now a file")?.finish()?;
    image = image.layer(below).layer(above).layer(top);
    load(t, &image.docker_archive()?)?.expect_code(0)?;
    let seen = t.ok(["run", "--rm", &name, "sh", "-c", "ls /kept /emptied; cat /replaced"])?;
    ensure_eq!(seen.lines().collect::<Vec<_>>(), ["/emptied:", "after", "", "/kept:", "old", "now a file"]);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn owners_modes_and_links(t: &Target) -> Outcome {
    let (name, mut image) = image(t, "image")?;
    let layer = Tar::default()
        .file("plain", 0o640, b"text")?
        .hard_link("same", 0o640, "plain")?
        .symlink("soft", "plain")?
        .symlink("dangling", "/nowhere/at/all")?
        .file("setuid", 0o4755, b"")?
        .folder("sticky/", 0o1777)?
        .finish()?;
    image = image.layer(layer);
    load(t, &image.docker_archive()?)?.expect_code(0)?;
    let script = "stat -c '%a %h %n' /plain /same /setuid /sticky; readlink /soft; readlink /dangling; cat /soft; echo; stat -c %Y /plain";
    let seen = t.ok(["run", "--rm", &name, "sh", "-c", script])?;
    ensure_eq!(
        seen.lines().collect::<Vec<_>>(),
        [
            "640 2 /plain",
            "640 2 /same",
            "4755 1 /setuid",
            "1777 2 /sticky",
            "plain",
            "/nowhere/at/all",
            "text",
            "1700000000"
        ]
    );
    t.ok(["rmi", &name])?;
    Ok(())
}

fn ten_thousand_small_files(t: &Target) -> Outcome {
    let (name, mut image) = image(t, "image")?;
    let mut tar = Tar::default();
    for folder in 0..100 {
        tar = tar.folder(&format!("many/{folder}/"), 0o755)?;
        for file in 0..100 {
            tar = tar.file(&format!("many/{folder}/{file}"), 0o644, format!("{folder}-{file}").as_bytes())?;
        }
    }
    image = image.layer(tar.finish()?);
    load(t, &image.docker_archive()?)?.expect_code(0)?;
    let script = "find /many -type f | wc -l; cat /many/99/99; echo; find /many -type f | xargs cat | md5sum | cut -c1-8";
    let seen = t.ok(["run", "--rm", &name, "sh", "-c", script])?;
    ensure_eq!(seen.lines().take(2).collect::<Vec<_>>(), ["10000", "99-99"]);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn truncated_archive(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    let whole = image.docker_archive()?;
    // In the middle of a layer, and in the middle of the first header.
    for length in [whole.len() / 2, 700, 100] {
        expect_refusal(t, &name, load(t, &whole[..length])?)
            .with_context(|| format!("cut after {length} bytes"))?;
    }
    Ok(())
}

fn no_archive(t: &Target) -> Outcome {
    let name = t.name("none");
    let noise: Vec<u8> =
        (0..100_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    expect_refusal(t, &name, load(t, &noise)?)?;
    expect_refusal(t, &name, load(t, b"hello\n")?)
}

fn empty_archive(t: &Target) -> Outcome {
    let name = t.name("none");
    expect_refusal(t, &name, load(t, &Tar::default().finish()?)?)?;
    expect_refusal(t, &name, load(t, &Tar::default().file("manifest.json", 0o644, b"[{}]")?.finish()?)?)?;
    expect_refusal(t, &name, load(t, &Tar::default().file("manifest.json", 0o644, b"{")?.finish()?)?)
}

fn manifest_of_missing_files(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    let config = image.configuration();
    let manifest = json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": ["a.tar", "b.tar"]}]);
    let tar = Tar::default().file("config.json", 0o644, &config)?.file(
        "manifest.json",
        0o644,
        manifest.to_string().as_bytes(),
    )?;
    expect_refusal(t, &name, load(t, &tar.finish()?)?)
}

fn tampered_layer(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    let mut archive = image.docker_archive()?;
    // The name stands in the layer as the content of its file; the configuration holds the digest of the layer.
    let content = name.as_bytes();
    let at =
        archive.windows(content.len()).position(|window| window == content).context("no such content")?;
    archive[at] ^= 1;
    expect_refusal(t, &name, load(t, &archive)?)
}

fn tampered_configuration(t: &Target) -> Outcome {
    let (name, image) = image(t, "image")?;
    let config = image.configuration();
    let other = String::from_utf8(config.clone())?.replace("layer 0", "layer X").into_bytes();
    let layer = &image.layers[0];
    let wrong = json!({
        "schemaVersion": 2,
        "mediaType": archive::MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": archive::digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": archive::digest(layer), "size": layer.len()}],
    })
    .to_string()
    .into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": archive::MANIFEST, "digest": archive::digest(&wrong), "size": wrong.len(),
        "annotations": {"io.containerd.image.name": format!("docker.io/library/{name}:latest")},
    }]});
    let tar = Tar::default()
        .file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?
        .file("index.json", 0o644, index.to_string().as_bytes())?
        .file(&format!("blobs/sha256/{}", hex(&wrong)), 0o644, &wrong)?
        .file(&format!("blobs/sha256/{}", hex(&config)), 0o644, &other)?
        .file(&format!("blobs/sha256/{}", hex(layer)), 0o644, layer)?;
    expect_refusal(t, &name, load(t, &tar.finish()?)?)
}

/// Loads an image whose last layer is hostile. Refusing it is as good as keeping it in its place: what counts is that
/// `outside`, a file of this machine, does not come to be, and that the image, if there is one, runs.
fn load_hostile(t: &Target, layer: Vec<u8>, outside: &std::path::Path) -> Outcome {
    let (name, image) = image(t, "hostile")?;
    let output = load(t, &image.layer(layer).docker_archive()?)?;
    ensure!(!outside.exists(), "the archive has written {}: {output}", outside.display());
    if output.code() == 0 {
        t.ok(["run", "--rm", &name, "cat", "/name"])?;
        ensure!(!outside.exists(), "the image has written {}", outside.display());
        t.ok(["rmi", &name])?;
    } else {
        ensure!(!output.stderr().trim().is_empty(), "refused without a word: {output}");
        t.fails(1, ["image", "inspect", &name])?;
    }
    still_works(t)
}

fn names_that_climb_out(t: &Target) -> Outcome {
    let outside = t.folder().join("evil");
    let place = outside.to_str().context("a path that is no text")?;
    let up = "../".repeat(12);
    let name = format!("{}{}", up, place.trim_start_matches('/'));
    load_hostile(t, Tar::default().file(&name, 0o644, b"evil")?.finish()?, &outside)?;
    let name = format!("bin/{}{}", up, place.trim_start_matches('/'));
    load_hostile(t, Tar::default().file(&name, 0o644, b"evil")?.finish()?, &outside)
}

fn absolute_names(t: &Target) -> Outcome {
    let outside = t.folder().join("evil");
    let place = outside.to_str().context("a path that is no text")?;
    load_hostile(t, Tar::default().file(place, 0o644, b"evil")?.finish()?, &outside)
}

fn names_through_symlinks(t: &Target) -> Outcome {
    let outside = t.folder().join("evil");
    let folder = t.folder().to_str().context("a path that is no text")?;
    let up = format!("{}{}", "../".repeat(12), folder.trim_start_matches('/'));
    for target in [folder, &up] {
        let layer = Tar::default().symlink("door", target)?.file("door/evil", 0o644, b"evil")?.finish()?;
        load_hostile(t, layer, &outside)?;
        // Through a link of a layer below.
        let (name, image) = image(t, "two-layers")?;
        let link = Tar::default().symlink("door", target)?.finish()?;
        let through = Tar::default().file("door/evil", 0o644, b"evil")?.finish()?;
        let output = load(t, &image.layer(link).layer(through).docker_archive()?)?;
        ensure!(!outside.exists(), "the archive has written {}: {output}", outside.display());
        if output.code() == 0 {
            t.ok(["rmi", &name])?;
        }
    }
    Ok(())
}

fn hard_links_that_climb_out(t: &Target) -> Outcome {
    let secret = archive::write(t.folder(), "secret", b"of this machine")?;
    let place = secret.to_str().context("a path that is no text")?;
    let up = format!("{}{}", "../".repeat(12), place.trim_start_matches('/'));
    for target in [place, &up] {
        let (name, image) = image(t, "hostile")?;
        let layer = Tar::default().hard_link("stolen", 0o644, target)?.finish()?;
        let output = load(t, &image.layer(layer).docker_archive()?)?;
        if output.code() == 0 {
            let seen = t.docker(["run", "--rm", &name, "cat", "/stolen"]).output()?;
            ensure!(
                !seen.stdout().contains("of this machine"),
                "a hard link reached out of the image: {seen}"
            );
            t.ok(["rmi", &name])?;
        }
        // Writing through such a link would change this machine's file.
        ensure_eq!(std::fs::read(&secret)?, b"of this machine");
    }
    still_works(t)
}

fn climbing_names_in_the_archive_itself(t: &Target) -> Outcome {
    let outside = t.folder().join("evil");
    let place = outside.to_str().context("a path that is no text")?;
    let name = t.name("image");
    let up = format!("{}{}", "../".repeat(12), place.trim_start_matches('/'));
    for hostile in [&up, place] {
        let manifest =
            json!([{"Config": hostile, "RepoTags": [format!("{name}:latest")], "Layers": [hostile]}]);
        let tar = Tar::default().file(hostile, 0o644, b"evil")?.file(
            "manifest.json",
            0o644,
            manifest.to_string().as_bytes(),
        )?;
        expect_refusal(t, &name, load(t, &tar.finish()?)?)?;
        ensure!(!outside.exists(), "the archive has written {}", outside.display());
    }
    Ok(())
}

fn image_of_another_architecture(t: &Target) -> Outcome {
    let name = t.name("image");
    // The head of an ELF file for AArch64, which no x86-64 kernel runs.
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend_from_slice(&[2, 0, 183, 0, 1, 0, 0, 0]);
    elf.resize(64, 0);
    let layer = Tar::default().folder("bin/", 0o755)?.file("bin/sh", 0o755, &elf)?.finish()?;
    let image = Image::new(&format!("{name}:latest"), &layer).architecture("arm64");
    load(t, &image.docker_archive()?)?.expect_code(0)?;
    ensure_eq!(t.ok(["image", "inspect", "--format", "{{.Architecture}}", &name])?, "arm64");
    let run = t.docker(["run", "--rm", &name, "/bin/sh"]).output()?;
    ensure!(run.code() != 0, "{run}");
    ensure!(run.stderr().contains("exec format error"), "{run}");
    ensure!(
        run.stderr().contains("platform (linux/arm64) does not match the detected host platform"),
        "{run}"
    );
    t.ok(["rmi", &name])?;
    Ok(())
}

/// A client that goes away in the middle of its upload leaves no image and no wounded engine.
fn connection_lost_in_the_middle(t: &Target) -> Outcome {
    use std::io::Write;
    let (name, image) = image(t, "image")?;
    let archive = image.docker_archive()?;
    let tests::http::Server::Unix(path) = t.api() else { anyhow::bail!("no unix socket") };
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    let head = format!(
        "POST /images/load HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        archive.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&archive[..archive.len() / 2])?;
    drop(stream);
    still_works(t)?;
    wait::eventually_true("the whole image can be loaded", Duration::from_secs(20), || {
        Ok(load(t, &archive)?.code() == 0)
    })?;
    ensure_eq!(t.ok(["run", "--rm", &name, "cat", "/name"])?, name);
    t.ok(["rmi", &name])?;
    Ok(())
}
