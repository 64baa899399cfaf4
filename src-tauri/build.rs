//! Draws the icons, puts the interface where tauri looks for it, and lets tauri prepare the rest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use resvg::{tiny_skia, usvg};

/// Each picture in `icons/`, and the sizes in which it is wanted, in pixels.
const PICTURES: &[(&str, &[u32])] = &[
    ("icon", &[32, 128, 512]),
    ("tray-running", &[64]),
    ("tray-busy", &[64]),
    ("tray-stopped", &[64]),
    ("tray-failed", &[64]),
];

/// What the window shows when nobody has built the interface: `cargo check` works without it.
const NO_INTERFACE: &str = "<!doctype html><meta charset=\"utf-8\"><title>Coracle</title>\
<p>This build has no user interface. Build it with <code>cargo xtask build --app</code>.</p>\n";

fn main() -> Result<()> {
    let here =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?);
    draw_icons(&here.join("icons"), &here.join("gen/icons"))?;
    copy_interface(&here.join("../ui/dist"), &here.join("gen/ui"))?;
    tauri_build::try_build(tauri_build::Attributes::new())
}

/// Draws `NAME.png` of each tray picture, and `SIZE.png` of the app's icon.
fn draw_icons(from: &Path, to: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={}", from.display());
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for (name, sizes) in PICTURES {
        let path = from.join(format!("{name}.svg"));
        let drawing = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let tree = usvg::Tree::from_data(&drawing, &usvg::Options::default())
            .with_context(|| format!("reading {}", path.display()))?;
        for size in *sizes {
            let file = if *name == "icon" { format!("{size}.png") } else { format!("{name}.png") };
            let mut pixels = tiny_skia::Pixmap::new(*size, *size).context("no memory for an icon")?;
            let (wide, high) = (tree.size().width(), tree.size().height());
            if (wide - high).abs() > f32::EPSILON {
                bail!("{} is not square", path.display());
            }
            #[expect(clippy::cast_precision_loss, reason = "icons have some hundred pixels")]
            let scale = *size as f32 / wide;
            resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
            write(&to.join(file), &pixels.encode_png().context("writing a PNG")?)?;
        }
    }
    Ok(())
}

/// Tauri reads the interface while the crate is compiled. A copy, so that it is there before `ui/` was built.
fn copy_interface(from: &Path, to: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={}", from.display());
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("removing {}", to.display()))?;
    }
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    if from.join("index.html").is_file() {
        copy_folder(from, to)
    } else {
        println!("cargo:warning=the interface is not built: `cargo xtask build --app` does both");
        write(&to.join("index.html"), NO_INTERFACE.as_bytes())
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    // The same content keeps its time, so that nothing is compiled for nothing.
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}
