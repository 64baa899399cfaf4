//! Images mounted in containers: `--mount type=image`.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::archive::{self, Image, Tar};
use tests::case::Outcome;
use tests::target::{SLEEP, Target};
use tests::{cases, ensure_eq, wait};

cases! {
    whole_and_parts,
    only_to_be_read,
    as_inspect_shows_them,
    nonsense_is_refused,
    images_in_use,
    of_other_containers_and_copied,
    kept_by_prunes.alone(),
    kept_through_a_crash.alone(),
}

/// An image of two layers, with files, links and a folder that the second adds to; its name.
fn image(t: &Target, what: &str) -> Result<String> {
    let name = t.name(what);
    let below = Tar::default()
        .file("word", 0o644, b"below\n")?
        .folder("part", 0o755)?
        .file("part/one", 0o644, b"1\n")?
        .folder("links", 0o755)?
        .symlink("links/good", "../part")?
        .symlink("links/root", "/")?
        .symlink("links/bad", "root")?;
    // The name is in it, so that no other case has the same image.
    let above = Tar::default().file("word", 0o644, b"above\n")?.file("part/two", 0o644, b"2\n")?.file(
        "name",
        0o644,
        name.as_bytes(),
    )?;
    let image = Image::new(&format!("{name}:latest"), &below.finish()?).layer(above.finish()?);
    let file = archive::write(t.folder(), &format!("{what}.tar"), &image.docker_archive()?)?;
    t.ok(["load", "-q", "-i", file.to_str().context("path")?])?;
    Ok(name)
}

fn create(t: &Target, name: &str, mounts: Value, command: &[&str]) -> Result<Value> {
    let body = json!({
        "Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "none", "Mounts": mounts},
    });
    t.api().post(format!("/containers/create?name={name}")).json(&body).send()?.expect(201)?.json()
}

fn whole_and_parts(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let run = |options: &str, command: &str| {
        let mount = format!("type=image,src={image},dst=/x{options}");
        t.ok(["run", "--rm", "--network", "none", "--mount", &mount, "busybox", "sh", "-c", command])
    };
    ensure_eq!(run("", "cat /x/word /x/part/*")?, "above\n1\n2");
    ensure_eq!(run(",image-subpath=part", "ls /x")?, "one\ntwo");
    ensure_eq!(run(",image-subpath=links/good", "ls /x")?, "one\ntwo");
    ensure_eq!(run(",image-subpath=part/two", "cat /x")?, "2");
    for (subpath, words) in
        [("links/bad", "path concatenation escapes the base directory"), ("missing", "cannot access path")]
    {
        let name = t.name("box");
        let part = json!([{
            "Type": "image", "Source": image, "Target": "/x", "ImageOptions": {"Subpath": subpath},
        }]);
        create(t, &name, part, &["true"])?;
        t.fails(1, ["start", &name])?.expect_stderr(words)?;
        t.ok(["rm", &name])?;
    }
    // An image of one layer, one that is the container's own, and two at once.
    let mounts = ["type=image,src=busybox,dst=/a", &format!("type=image,src={image},dst=/b/c")];
    let both = t.ok([
        "run",
        "--rm",
        "--network",
        "none",
        "--mount",
        mounts[0],
        "--mount",
        mounts[1],
        "busybox",
        "sh",
        "-c",
        "test -x /a/bin/busybox && cat /b/c/word",
    ])?;
    ensure_eq!(both, "above");
    t.ok(["rmi", &image])?;
    Ok(())
}

fn only_to_be_read(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let script = "echo x > /x/word; touch /x/new; rm /x/part/one; mount -o remount,rw /x; cat /x/word";
    for options in ["", ",readonly"] {
        for privileged in [false, true] {
            let mount = format!("type=image,src={image},dst=/x{options}");
            let mut run = vec!["run", "--rm", "--network", "none", "--mount", &mount];
            if privileged {
                run.push("--privileged");
            }
            run.extend(["busybox", "sh", "-c", script]);
            let run = t.fails(0, run)?;
            ensure_eq!(run.stdout(), "above\n");
            run.expect_stderr("Read-only file system")?;
        }
    }
    // Whatever was tried, the image is as it was.
    ensure_eq!(
        t.ok([
            "run",
            "--rm",
            "--mount",
            &format!("type=image,src={image},dst=/x"),
            "busybox",
            "ls",
            "/x/part"
        ])?,
        "one\ntwo"
    );
    t.ok(["rmi", &image])?;
    Ok(())
}

fn as_inspect_shows_them(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let name = t.name("box");
    let asked = json!([
        {"Type": "image", "Source": image, "Target": "/x/../y/", "ImageOptions": {"Subpath": "part"}},
    ]);
    let made = create(t, &name, asked.clone(), &["true"])?;
    ensure_eq!(made["Warnings"], json!(["Image mount is an experimental feature"]));
    let mut found = t.inspect(&name)?;
    ensure_eq!(found["HostConfig"]["Mounts"], asked);
    // Where the engine keeps it is its own matter.
    found["Mounts"][0].as_object_mut().context("no mount")?.remove("Source").context("no Source")?;
    ensure_eq!(
        found["Mounts"],
        json!([{
            "Type": "image", "Name": image, "Destination": "/y", "Mode": "", "RW": false,
            "Propagation": "rprivate",
        }])
    );
    let listed =
        t.ok(["ps", "-a", "--no-trunc", "--filter", &format!("name={name}"), "--format", "{{.Mounts}}"])?;
    ensure_eq!(listed, image);
    t.ok(["rm", &name])?;
    t.ok(["rmi", &image])?;
    Ok(())
}

fn nonsense_is_refused(t: &Target) -> Outcome {
    let refused = |status: u16, prefix: &str, mount: Value| {
        let body = json!({"Image": "busybox", "HostConfig": {"Mounts": [mount]}});
        t.api().post(format!("{prefix}/containers/create")).json(&body).send()?.expect(status)?.message()
    };
    let mount = |more: Value| {
        let mut mount = json!({"Type": "image", "Source": "busybox", "Target": "/x"});
        if let (Some(fields), Some(more)) = (mount.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        mount
    };
    let config = |reason: &str| format!("invalid mount config for type \"image\": {reason}");
    for (more, reason) in [
        (json!({"Source": ""}), "field Source must not be empty"),
        (json!({"ImageOptions": {"Subpath": "../a"}}), "subpath must be a relative path within the volume"),
        (json!({"ImageOptions": {"Subpath": "/a"}}), "subpath must be a relative path within the volume"),
        (json!({"Target": "/"}), "invalid specification: destination can't be '/'"),
    ] {
        ensure_eq!(refused(400, "", mount(more))?, config(reason));
    }
    for options in ["BindOptions", "VolumeOptions", "TmpfsOptions"] {
        let reason = refused(400, "", mount(json!({(options): {}})))?;
        ensure_eq!(reason, format!("{options} must not be specified on mount type \"image\""));
    }
    let missing = t.name("none");
    let missing_image = refused(404, "", mount(json!({"Source": missing})))?;
    ensure_eq!(missing_image, format!("No such image: {missing}:latest"));
    ensure_eq!(refused(400, "/v1.47", mount(json!({})))?, "Mount type \"Image\" needs API v1.48 or newer");
    for kind in ["bind", "volume", "tmpfs"] {
        let source = if kind == "bind" { "/" } else { "" };
        let reason = refused(400, "", mount(json!({"Type": kind, "Source": source, "ImageOptions": {}})))?;
        ensure_eq!(
            reason,
            format!("invalid mount config for type \"{kind}\": field ImageOptions must not be specified")
        );
    }
    Ok(())
}

fn images_in_use(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let id = t.ok(["image", "inspect", "-f", "{{.Id}}", &image])?;
    let short = id.strip_prefix("sha256:").and_then(|hex| hex.get(..12)).context("no ID")?;
    let name = t.name("box");
    let mount = json!([{"Type": "image", "Source": image, "Target": "/x"}]);
    let made = create(t, &name, mount, &["sh", "-c", &format!("cat /x/word; {SLEEP}")])?;
    let container = made["Id"].as_str().and_then(|id| id.get(..12)).context("no Id")?;
    t.fails(1, ["rmi", &image])?.expect_stderr(&format!(
        "unable to remove repository reference \"{image}\" (must force) - container {container} is using its \
         referenced image {short}"
    ))?;
    t.ok(["start", &name])?;
    t.ok(["rmi", "-f", &image])?;
    t.ok(["stop", &name])?;
    // Its files outlive it, as long as there is a container that shows them.
    t.ok(["start", &name])?;
    wait::eventually_true("it shows the image's file again", Duration::from_secs(20), || {
        Ok(t.ok(["logs", &name])? == "above\nabove")
    })?;
    t.ok(["rm", "-f", &name])?;
    Ok(())
}

fn of_other_containers_and_copied(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let name = t.name("box");
    let mount = json!([{"Type": "image", "Source": image, "Target": "/x"}]);
    create(t, &name, mount, &["true"])?;
    let place = t.folder().join("copied");
    let to = place.to_str().context("path")?;
    t.ok(["cp", &format!("{name}:/x/word"), to])?;
    ensure_eq!(std::fs::read_to_string(&place)?, "above\n");
    t.ok(["start", "-a", &name])?;
    t.ok(["cp", &format!("{name}:/x/part/two"), to])?;
    ensure_eq!(std::fs::read_to_string(&place)?, "2\n");
    t.fails(1, ["cp", to, &format!("{name}:/x/part/three")])?;
    let from = ["run", "--rm", "--network", "none", "--volumes-from", &name, "busybox", "cat", "/x/word"];
    ensure_eq!(t.ok(from)?, "above");
    t.ok(["rm", &name])?;
    t.ok(["rmi", &image])?;
    Ok(())
}

/// A running container with a mount.
fn sleeper_with(t: &Target, name: &str, mount: &str) -> Outcome {
    let options = ["run", "-d", "--network", "none", "--name", name, "--mount", mount];
    t.ok(options.into_iter().chain(["busybox", "sh", "-c", SLEEP]))?;
    Ok(())
}

fn kept_by_prunes(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let name = t.name("box");
    let mount = format!("type=image,src={image},dst=/x");
    sleeper_with(t, &name, &mount)?;
    t.ok(["image", "prune", "-af"])?;
    t.ok(["image", "inspect", &image])?;
    ensure_eq!(t.ok(["exec", &name, "cat", "/x/word"])?, "above");
    t.ok(["restart", "-t", "0", &name])?;
    ensure_eq!(t.ok(["exec", &name, "cat", "/x/word"])?, "above");
    t.ok(["rm", "-f", &name])?;
    let said = t.ok(["image", "prune", "-af"])?;
    anyhow::ensure!(said.contains(&format!("untagged: {image}:latest")), "{said}");
    Ok(())
}

fn kept_through_a_crash(t: &Target) -> Outcome {
    let image = image(t, "image")?;
    let (name, other) = (t.name("box"), t.name("other"));
    let mount = format!("type=image,src={image},dst=/x");
    sleeper_with(t, &name, &mount)?;
    t.ok(["create", "--network", "none", "--name", &other, "--mount", &mount, "busybox", "cat", "/x/word"])?;
    t.ok(["rmi", "-f", &image])?;
    t.crash()?;
    t.recover()?;
    ensure_eq!(t.ok(["exec", &name, "cat", "/x/word"])?, "above");
    ensure_eq!(t.ok(["start", "-a", &other])?, "above");
    t.ok(["restart", "-t", "0", &name])?;
    ensure_eq!(t.ok(["exec", &name, "cat", "/x/word"])?, "above");
    t.ok(["rm", "-f", &name, &other])?;
    Ok(())
}
