//! Tar archives made by hand: root file systems, images in the forms that `docker load` takes, and hostile ones.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Where the statically linked busybox of this machine is.
const BUSYBOX: &str = "/bin/busybox";

/// `sha256:` and the digest in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// The SHA-256 of `bytes` in hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of the name in a header.
const NAME_BYTES: usize = 100;

/// A tar archive that takes any name, also one that no honest program writes.
pub struct Tar {
    builder: tar::Builder<Vec<u8>>,
}

impl Default for Tar {
    fn default() -> Self {
        Self { builder: tar::Builder::new(Vec::new()) }
    }
}

impl Tar {
    fn header(kind: tar::EntryType, name: &str, mode: u32, size: u64) -> Result<tar::Header> {
        let mut header = tar::Header::new_gnu();
        let field = header.as_gnu_mut().context("no GNU header")?;
        let place =
            field.name.get_mut(..name.len()).with_context(|| format!("the name {name:?} is too long"))?;
        place.copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        Ok(header)
    }

    fn add(mut self, mut header: tar::Header, content: &[u8]) -> Result<Self> {
        header.set_cksum();
        self.builder.append(&header, content).context("writing a tar archive")?;
        Ok(self)
    }

    pub fn folder(self, name: &str, mode: u32) -> Result<Self> {
        self.add(Self::header(tar::EntryType::Directory, name, mode, 0)?, &[])
    }

    pub fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Result<Self> {
        if name.len() > NAME_BYTES {
            // GNU's way for names that are longer than a header's field.
            let mut header = Self::header(tar::EntryType::Regular, "", mode, content.len() as u64)?;
            self.builder.append_data(&mut header, name, content).context("writing a tar archive")?;
            return Ok(self);
        }
        self.add(Self::header(tar::EntryType::Regular, name, mode, content.len() as u64)?, content)
    }

    pub fn symlink(self, name: &str, target: &str) -> Result<Self> {
        self.link(tar::EntryType::Symlink, name, 0o777, target)
    }

    /// The mode is that of the file, of which the link is one more name.
    pub fn hard_link(self, name: &str, mode: u32, target: &str) -> Result<Self> {
        self.link(tar::EntryType::Link, name, mode, target)
    }

    fn link(self, kind: tar::EntryType, name: &str, mode: u32, target: &str) -> Result<Self> {
        let mut header = Self::header(kind, name, mode, 0)?;
        let field = header.as_gnu_mut().context("no GNU header")?;
        let place = field.linkname.get_mut(..target.len()).context("the target of a link is too long")?;
        place.copy_from_slice(target.as_bytes());
        self.add(header, &[])
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        self.builder.into_inner().context("finishing a tar archive")
    }
}

/// The root file system of the image `busybox`: this machine's busybox with a link for each of its applets.
pub fn busybox_root() -> Result<&'static [u8]> {
    static ROOT: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root);
    }
    let program =
        std::fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX} (package busybox-static)"))?;
    let list = Command::new(BUSYBOX).arg("--list").output().context("asking busybox for its applets")?;
    ensure!(list.status.success(), "busybox --list failed");
    let mut tar = Tar::default();
    for folder in
        ["bin/", "dev/", "etc/", "home/", "proc/", "root/", "sys/", "usr/", "usr/bin/", "usr/sbin/", "var/"]
    {
        tar = tar.folder(folder, 0o755)?;
    }
    tar = tar
        .folder("tmp/", 0o1777)?
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n",
        )?
        .file("etc/group", 0o644, b"root:x:0:\ndaemon:x:1:\nstaff:x:50:daemon\n")?
        .file("bin/busybox", 0o755, &program)?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    let root = tar.finish()?;
    Ok(ROOT.get_or_init(|| root))
}

/// An image that is to be put in an archive.
#[derive(Clone)]
pub struct Image {
    pub tags: Vec<String>,
    pub architecture: &'static str,
    /// Uncompressed layers, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` object of the image's configuration.
    pub config: Value,
}

impl Image {
    /// An image for this architecture with one layer and `sh` as its command.
    #[must_use]
    pub fn new(tag: &str, layer: &[u8]) -> Self {
        Self {
            tags: vec![tag.to_owned()],
            architecture: "amd64",
            layers: vec![layer.to_vec()],
            config: json!({
                "Cmd": ["sh"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            }),
        }
    }

    /// `busybox:latest`.
    pub fn busybox() -> Result<Self> {
        Ok(Self::new("busybox:latest", busybox_root()?))
    }

    #[must_use]
    pub fn architecture(mut self, architecture: &'static str) -> Self {
        self.architecture = architecture;
        self
    }

    #[must_use]
    pub fn layer(mut self, layer: Vec<u8>) -> Self {
        self.layers.push(layer);
        self
    }

    /// The image's configuration, whose digest is the image's id.
    #[must_use]
    pub fn configuration(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<Value> = (0..self.layers.len())
            .map(|at| json!({"created": "2024-01-01T00:00:00Z", "created_by": format!("layer {at}")}))
            .collect();
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        })
        .to_string()
        .into_bytes()
    }

    /// The archive that `docker save` wrote for years: `manifest.json`, the configuration, one file for each layer.
    pub fn docker_archive(&self) -> Result<Vec<u8>> {
        let config = self.configuration();
        let config_name = format!("{}.json", hex(&config));
        let names: Vec<String> = (0..self.layers.len()).map(|at| format!("{at}/layer.tar")).collect();
        let manifest = json!([{"Config": config_name, "RepoTags": self.tags, "Layers": names}]);
        let mut tar = Tar::default().file(&config_name, 0o644, &config)?;
        for (name, layer) in names.iter().zip(&self.layers) {
            tar = tar.file(name, 0o644, layer)?;
        }
        tar.file("manifest.json", 0o644, manifest.to_string().as_bytes())?.finish()
    }

    /// The layers as a registry keeps them.
    pub fn compressed_layers(&self) -> Result<Vec<Vec<u8>>> {
        let compress = |layer: &Vec<u8>| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(layer).and_then(|()| encoder.finish()).context("compressing a layer")
        };
        self.layers.iter().map(compress).collect()
    }

    /// The manifest of this image with its layers as `compressed_layers` gave them.
    #[must_use]
    pub fn manifest(&self, compressed_layers: &[Vec<u8>]) -> Vec<u8> {
        let config = self.configuration();
        let layers: Vec<Value> = compressed_layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": digest(layer),
                    "size": layer.len(),
                })
            })
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config),
                "size": config.len(),
            },
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    /// An OCI image layout in a tar archive.
    pub fn oci_archive(&self) -> Result<Vec<u8>> {
        let layers = self.compressed_layers()?;
        let (config, manifest) = (self.configuration(), self.manifest(&layers));
        let mut entry = self.index_entry(&manifest);
        if let Some(tag) = self.tags.first() {
            entry["annotations"] = json!({
                "io.containerd.image.name": tag,
                "org.opencontainers.image.ref.name": tag.rsplit(':').next(),
            });
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        let mut tar = Tar::default()
            .file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?
            .file("index.json", 0o644, index.to_string().as_bytes())?
            .folder("blobs/", 0o755)?
            .folder("blobs/sha256/", 0o755)?;
        for blob in [&config, &manifest].into_iter().chain(&layers) {
            tar = tar.file(&format!("blobs/sha256/{}", hex(blob)), 0o644, blob)?;
        }
        tar.finish()
    }

    /// What an index says of this image with this manifest.
    #[must_use]
    pub fn index_entry(&self, manifest: &[u8]) -> Value {
        json!({
            "mediaType": MANIFEST,
            "digest": digest(manifest),
            "size": manifest.len(),
            "platform": {"architecture": self.architecture, "os": "linux"},
        })
    }
}

/// Media type of an OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Writes bytes to a new file in `folder`.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_written_as_given() {
        let tar = Tar::default().file("../up", 0o644, b"x").unwrap().symlink("/abs", "../../t").unwrap();
        let bytes = tar.finish().unwrap();
        let mut archive = tar::Archive::new(&*bytes);
        let names: Vec<Vec<u8>> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned()).collect();
        assert_eq!(names, [b"../up".to_vec(), b"/abs".to_vec()]);
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
