//! Images: import, list, tag, inspect, history, save, remove, prune.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::archive::{self, Image, Tar, busybox_root};
use tests::case::Outcome;
use tests::target::Target;
use tests::{cases, ensure_eq, keys};

cases! {
    import,
    list,
    list_filters,
    tag_and_remove,
    remove_by_id,
    remove_an_image_in_use,
    inspect,
    history,
    save_and_load_keep_the_id,
    save_has_dockers_layout,
    save_several,
    prune_dangling,
    missing_images,
    references_that_are_no_names,
}

fn import(t: &Target) -> Outcome {
    let name = t.name("image");
    let file = archive::write(t.folder(), "root.tar", busybox_root()?)?;
    let file = file.to_str().context("a path that is no text")?;
    let id = t.ok([
        "import",
        "-c",
        "CMD [\"echo\", \"from import\"]",
        "-c",
        "ENV GREETING='hello world'",
        "-m",
        "by hand",
        file,
        &name,
    ])?;
    ensure!(id.starts_with("sha256:") && id.len() == 71, "no id: {id:?}");
    ensure_eq!(t.ok(["run", "--rm", &name])?, "from import");
    ensure_eq!(t.ok(["run", "--rm", &name, "sh", "-c", "echo $GREETING"])?, "hello world");
    let comment = t.ok(["image", "inspect", "--format", "{{.Comment}} {{.Id}}", &name])?;
    ensure_eq!(comment, format!("by hand {id}"));
    // The same through standard input.
    let other = t.name("stdin");
    t.docker(["import", "-", &other]).stdin(busybox_root()?).output()?.text()?;
    ensure_eq!(t.ok(["run", "--rm", &other, "echo", "hi"])?, "hi");
    t.ok(["rmi", &name, &other])?;
    Ok(())
}

/// An image that only this case has; returns its id.
fn own_image(t: &Target, name: &str, labels: &[&str]) -> anyhow::Result<String> {
    let layer = Tar::default().file("name", 0o644, name.as_bytes())?.finish()?;
    let mut image = Image::new(&format!("{name}:latest"), busybox_root()?).layer(layer);
    image.config["Labels"] = labels.iter().map(|label| ((*label).to_owned(), Value::from("yes"))).collect();
    let file = archive::write(t.folder(), &format!("{name}.tar"), &image.docker_archive()?)?;
    t.docker(["load", "-q", "-i"]).arg(file).output()?.expect_code(0)?;
    t.ok(["image", "inspect", "--format", "{{.Id}}", name])
}

fn list(t: &Target) -> Outcome {
    let name = t.name("image");
    let id = own_image(t, &name, &["mine"])?;
    let line = t.ok(["images", "--no-trunc", "--format", "{{.Repository}} {{.Tag}} {{.ID}}", &name])?;
    ensure_eq!(line, format!("{name} latest {id}"));
    let images = t.api().get("/images/json").send()?.expect(200)?.json()?;
    let found = images.as_array().context("no list")?.iter().find(|image| image["Id"] == id.as_str());
    let found = found.with_context(|| format!("{id} is not among {images}"))?;
    ensure_eq!(found["RepoTags"], serde_json::json!([format!("{name}:latest")]));
    keys::compare(t.kind(), "image-list", found, &[])?;
    t.ok(["rmi", &name])?;
    Ok(())
}

fn list_filters(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    own_image(t, &one, &["shared", "first"])?;
    own_image(t, &two, &["shared"])?;
    let names = |filters: &[&str]| -> anyhow::Result<BTreeSet<String>> {
        let mut args = vec!["images", "--format", "{{.Repository}}"];
        filters.iter().for_each(|filter| args.extend(["--filter", filter]));
        let ours = |name: &&str| *name == one || *name == two;
        Ok(t.ok(args)?.lines().filter(ours).map(str::to_owned).collect())
    };
    let set = |names: &[&String]| names.iter().map(|name| (*name).clone()).collect::<BTreeSet<_>>();
    ensure_eq!(names(&[])?, set(&[&one, &two]));
    ensure_eq!(names(&["label=first"])?, set(&[&one]));
    ensure_eq!(names(&["label=shared=yes"])?, set(&[&one, &two]));
    ensure_eq!(names(&["label=shared", "label=first"])?, set(&[&one]));
    ensure_eq!(names(&["label=shared=no"])?, set(&[]));
    ensure_eq!(names(&[&format!("reference={one}")])?, set(&[&one]));
    ensure_eq!(names(&["reference=*-two"])?, set(&[&two]));
    ensure_eq!(names(&["dangling=true"])?, set(&[]));
    ensure_eq!(names(&[&format!("before={two}")])?.contains(&two), false, "an image before itself");
    let answer = t.fails(1, ["images", "--filter", "no-such-filter=1"])?;
    answer.expect_stderr("invalid filter 'no-such-filter'")?;
    t.ok(["rmi", &one, &two])?;
    Ok(())
}

fn tag_and_remove(t: &Target) -> Outcome {
    let name = t.name("image");
    let id = own_image(t, &name, &[])?;
    let other = format!("{name}-other:v1");
    t.ok(["tag", &name, &other])?;
    ensure_eq!(t.ok(["image", "inspect", "--format", "{{.Id}}", &other])?, id);
    // A tag goes, the image stays, until its last name goes.
    ensure_eq!(t.ok(["rmi", &other])?, format!("Untagged: {other}"));
    let gone = t.ok(["rmi", &name])?;
    let lines: Vec<&str> = gone.lines().collect();
    ensure_eq!(lines.first().copied(), Some(&*format!("Untagged: {name}:latest")));
    ensure_eq!(lines.get(1).copied(), Some(&*format!("Deleted: {id}")));
    t.fails(1, ["image", "inspect", &name])?;
    // A tag moves from one image to another.
    let (one, two) = (t.name("one"), t.name("two"));
    let (_, second) = (own_image(t, &one, &[])?, own_image(t, &two, &[])?);
    t.ok(["tag", &two, &one])?;
    ensure_eq!(t.ok(["image", "inspect", "--format", "{{.Id}}", &one])?, second);
    t.ok(["rmi", &one, &two])?;
    Ok(())
}

fn remove_by_id(t: &Target) -> Outcome {
    let name = t.name("image");
    let id = own_image(t, &name, &[])?;
    let short = id.get(7..19).context("a short id")?.to_owned();
    t.ok(["tag", &name, &format!("{name}:second")])?;
    t.fails(1, ["rmi", &short])?.expect_stderr(&format!(
        "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    ))?;
    t.ok(["rmi", "-f", &short])?;
    t.fails(1, ["image", "inspect", &short])?;
    Ok(())
}

fn remove_an_image_in_use(t: &Target) -> Outcome {
    let (name, container) = (t.name("image"), t.name("user"));
    let id = own_image(t, &name, &[])?;
    let short = id.get(7..19).context("a short id")?;
    let container_id = t.ok(["create", "--name", &container, &name])?;
    let container_short = container_id.get(..12).context("a short id")?;
    t.fails(1, ["rmi", &name])?.expect_stderr(&format!(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container {container_short} is \
         using its referenced image {short}"
    ))?;
    t.ok(["rm", &container])?;
    t.ok(["run", "-d", "--name", &container, &name, "sleep", "1000"])?;
    t.fails(1, ["rmi", "-f", short])?.expect_stderr(&format!(
        "conflict: unable to delete {short} (cannot be forced) - image is being used by running container "
    ))?;
    t.ok(["rm", "-f", &container])?;
    t.ok(["rmi", &name])?;
    Ok(())
}

fn inspect(t: &Target) -> Outcome {
    let name = t.name("image");
    let id = own_image(t, &name, &["mine"])?;
    let image = t.api().get(format!("/images/{name}/json")).send()?.expect(200)?.json()?;
    ensure_eq!(image["Id"], id.as_str());
    ensure_eq!(image["Os"], "linux");
    ensure_eq!(image["Architecture"], "amd64");
    ensure_eq!(image["Config"]["Cmd"], serde_json::json!(["sh"]));
    ensure_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    ensure!(image["Size"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "size {}", image["Size"]);
    keys::compare(t.kind(), "image-inspect", &image, &[])?;
    // By id, by short id, by name with its tag.
    for reference in [&*id, &id[7..], &id[7..19], &format!("{name}:latest")] {
        ensure_eq!(t.ok(["image", "inspect", "--format", "{{.Id}}", reference])?, id, "{reference}");
    }
    t.ok(["rmi", &name])?;
    Ok(())
}

fn history(t: &Target) -> Outcome {
    let name = t.name("image");
    own_image(t, &name, &[])?;
    let lines = t.ok(["history", "--no-trunc", "--format", "{{.CreatedBy}}", &name])?;
    ensure_eq!(lines.lines().collect::<Vec<_>>(), ["layer 1", "layer 0"]);
    let entries = t.api().get(format!("/images/{name}/history")).send()?.expect(200)?.json()?;
    let first = entries.get(0).context("no entry")?;
    ensure_eq!(first["Tags"], serde_json::json!([format!("{name}:latest")]));
    keys::compare(t.kind(), "image-history", first, &[])?;
    t.ok(["rmi", &name])?;
    Ok(())
}

fn save_and_load_keep_the_id(t: &Target) -> Outcome {
    let name = t.name("image");
    let id = own_image(t, &name, &["kept"])?;
    let file = t.folder().join("saved.tar");
    t.docker(["save", "-o"]).arg(&file).arg(&name).output()?.expect_code(0)?;
    t.ok(["rmi", &name])?;
    let loaded = t.docker(["load", "-i"]).arg(&file).output()?.text()?;
    ensure_eq!(loaded, format!("Loaded image: {name}:latest"));
    ensure_eq!(t.ok(["image", "inspect", "--format", "{{.Id}}", &name])?, id);
    ensure_eq!(t.ok(["run", "--rm", &name, "cat", "/name"])?, name);
    t.ok(["rmi", &name])?;
    Ok(())
}

fn save_has_dockers_layout(t: &Target) -> Outcome {
    let name = t.name("image");
    let id = own_image(t, &name, &[])?;
    let bytes = t.docker(["save", &name]).output()?.expect_code(0)?.stdout;
    let mut files = std::collections::BTreeMap::new();
    let mut archive = tar::Archive::new(&*bytes);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content)?;
        files.insert(path, content);
    }
    for wanted in ["manifest.json", "index.json", "oci-layout"] {
        ensure!(files.contains_key(wanted), "no {wanted} among {:?}", files.keys());
    }
    let manifest: Value = serde_json::from_slice(&files["manifest.json"])?;
    ensure_eq!(manifest[0]["RepoTags"], serde_json::json!([format!("{name}:latest")]));
    ensure_eq!(manifest[0]["Config"], format!("blobs/sha256/{}", &id[7..]).as_str());
    ensure_eq!(manifest[0]["Layers"].as_array().map(Vec::len), Some(2));
    // Every blob is what its name says.
    for (path, content) in
        files.iter().filter(|(path, _)| path.starts_with("blobs/sha256/") && !path.ends_with('/'))
    {
        ensure_eq!(archive::hex(content), path["blobs/sha256/".len()..], "{path}");
    }
    t.ok(["rmi", &name])?;
    Ok(())
}

fn save_several(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    own_image(t, &one, &[])?;
    own_image(t, &two, &[])?;
    let file = t.folder().join("both.tar");
    t.docker(["save", "-o"]).arg(&file).args([&one, &two]).output()?.expect_code(0)?;
    t.ok(["rmi", &one, &two])?;
    let loaded = t.docker(["load", "-i"]).arg(&file).output()?.text()?;
    let lines: BTreeSet<&str> = loaded.lines().collect();
    let (first, second) = (format!("Loaded image: {one}:latest"), format!("Loaded image: {two}:latest"));
    ensure_eq!(lines, BTreeSet::from([&*first, &*second]));
    t.ok(["rmi", &one, &two])?;
    Ok(())
}

fn prune_dangling(t: &Target) -> Outcome {
    let (one, two) = (t.name("one"), t.name("two"));
    let label = format!("{one}-label");
    let id = own_image(t, &one, &[&label])?;
    own_image(t, &two, &[])?;
    // Taking its only name away leaves it dangling.
    t.ok(["tag", &two, &one])?;
    let dangling = t.ok([
        "images",
        "-q",
        "--no-trunc",
        "--filter",
        "dangling=true",
        "--filter",
        &format!("label={label}"),
    ])?;
    ensure_eq!(dangling, id);
    let pruned = t.ok(["image", "prune", "-f", "--filter", &format!("label={label}")])?;
    ensure!(pruned.contains(&format!("deleted: {id}")), "{pruned}");
    ensure!(pruned.contains("Total reclaimed space:"), "{pruned}");
    t.fails(1, ["image", "inspect", &id])?;
    t.ok(["image", "inspect", &two])?;
    t.ok(["rmi", &one, &two])?;
    Ok(())
}

fn missing_images(t: &Target) -> Outcome {
    let name = t.name("none");
    t.fails(1, ["rmi", &name])?.expect_stderr(&format!("No such image: {name}:latest"))?;
    t.fails(1, ["image", "inspect", &name])?.expect_stderr(&format!("No such image: {name}:latest"))?;
    t.fails(1, ["history", &name])?.expect_stderr(&format!("No such image: {name}:latest"))?;
    t.fails(1, ["tag", &name, "other"])?.expect_stderr(&format!("No such image: {name}:latest"))?;
    t.fails(1, ["save", "-o", "/dev/null", &name])?;
    let answer = t.api().get(format!("/images/{name}/json")).send()?.expect(404)?;
    ensure_eq!(answer.message()?, format!("No such image: {name}:latest"));
    let answer = t.api().delete("/images/sha256:0123").send()?.expect(404)?;
    ensure_eq!(answer.message()?, "No such image: sha256:0123");
    Ok(())
}

fn references_that_are_no_names(t: &Target) -> Outcome {
    for bad in ["UPPER", "a//b", "-x", "x:y:z", "../x"] {
        let name = bad.replace('/', "%2F");
        let answer = t.api().post(format!("/images/busybox/tag?repo={name}&tag=v1")).send()?;
        ensure!(answer.status == 400, "tagging as {bad:?}: {answer}");
        answer.message()?;
    }
    let answer = t.api().post("/images/busybox/tag?repo=fine&tag=not%20fine").send()?.expect(400)?;
    answer.message()?;
    Ok(())
}
