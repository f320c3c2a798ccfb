//! Debian's kernels, each as an image and the few modules that a guest loads.
//!
//! Old packages vanish from the archive, so a kernel's package is found through the meta package
//! that always depends on the newest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::debian::{Archive, Release, find};
use super::place::{Workshop, was_made_from};
use crate::process::{command, quietly};
use crate::progress::say;
use crate::vm::kernel::{Kernel, Version};

/// Loaded by a guest, after what they depend on. One that a kernel has built in has no file.
/// The first three carry the disks and the output, the others are for tests.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "overlay", "fuse", "loop", "veth"];

/// Without these files no kernel can be right: all of Debian's have them as modules.
const NEVER_BUILT_IN: &[&str] = &["virtio_blk", "overlay"];

fn recipe(kernel: Kernel) -> String {
    format!("kernel {kernel}: {}\n", MODULES.join(" "))
}

pub(crate) fn is_there(kernel: Kernel) -> bool {
    was_made_from(&kernel.folder(), &recipe(kernel))
}

pub(crate) fn fetch(kernel: Kernel, archive: &mut Archive) -> Result<()> {
    let (release, meta) = origin(kernel);
    let image = newest(archive, release, meta, kernel)?;
    let place = kernel.folder();
    let shop = Workshop::beside(&place)?;
    let tree = shop.path().join("tree");
    let packages = parts(archive, release, &image)?;
    archive.unpack(release, &packages, &tree)?;

    let made = shop.path().join("made");
    fs::create_dir(&made).context("make the kernel's folder")?;
    let vmlinuz =
        find(&tree, &|path| name(path).starts_with("vmlinuz"))?.context("no vmlinuz in the package")?;
    fs::rename(vmlinuz, made.join("vmlinuz")).context("vmlinuz")?;
    fs::write(made.join("release"), image.trim_start_matches("linux-image-")).context("release")?;
    collect_modules(&tree, &made.join("modules"))?;
    shop.deliver("made", &place, &recipe(kernel))?;
    say(format_args!("kernel {kernel}: {image}"));
    Ok(())
}

/// The suite and the meta package that name the newest of a line.
fn origin(kernel: Kernel) -> (Release, &'static str) {
    match kernel {
        Kernel::V6_1 => (Release::Bookworm, "linux-image-cloud-amd64"),
        Kernel::V6_12 => (Release::Bookworm, "linux-image-6.12-cloud-amd64"),
        Kernel::V7_2 => (Release::Sid, "linux-image-cloud-amd64"),
    }
}

fn newest(archive: &mut Archive, release: Release, meta: &str, kernel: Kernel) -> Result<String> {
    let depends = archive.depends(release, meta)?;
    let found = depends.into_iter().find_map(|package| {
        let version = package.strip_prefix("linux-image-").and_then(Version::of_release)?;
        Some((package, version))
    });
    let (image, version) = found.with_context(|| format!("`{meta}` depends on no kernel"))?;
    // Unstable moves on: a newer kernel tests at least as much, an older one less.
    let fits = version == kernel.version() || (release == Release::Sid && version > kernel.version());
    if !fits {
        bail!("`{meta}` of {} gives {image}, expected {kernel}", release.name());
    }
    if version != kernel.version() {
        say(format_args!(
            "kernel {kernel}: {} has gone on to {image}, which is taken instead",
            release.name()
        ));
    }
    Ok(image)
}

/// Newer packages keep the image and its modules apart, and the image package is only a name.
fn parts(archive: &mut Archive, release: Release, image: &str) -> Result<Vec<String>> {
    let depends = archive.depends(release, image)?;
    let split =
        |package: &String| package.starts_with("linux-binary-") || package.starts_with("linux-modules-");
    let parts: Vec<_> = depends.into_iter().filter(split).collect();
    Ok(if parts.is_empty() { vec![image.to_owned()] } else { parts })
}

/// Unpacks the modules and all that they depend on, and writes down in which order to load them.
fn collect_modules(tree: &Path, into: &Path) -> Result<()> {
    fs::create_dir(into).with_context(|| into.display().to_string())?;
    let mut order = Vec::new();
    for module in MODULES {
        collect_module(module, tree, into, &mut order)?;
    }
    if let Some(missing) = NEVER_BUILT_IN.iter().find(|name| !order.iter().any(|found| found == *name)) {
        bail!("the kernel's package has no module `{missing}`");
    }
    fs::write(into.join("order"), order.join("\n")).context("order of the modules")
}

fn collect_module(module: &str, tree: &Path, into: &Path, order: &mut Vec<String>) -> Result<()> {
    if order.iter().any(|loaded| loaded == module) {
        return Ok(());
    }
    // A module's file may be written with dashes, but it is asked for with underscores.
    let is_it =
        |path: &Path| name(path).split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == module);
    let Some(packed) = find(tree, &is_it)? else { return Ok(()) };
    let unpacked = unpack(&packed, &into.join(format!("{module}.ko")))?;
    for dependency in dependencies(&unpacked)? {
        collect_module(&dependency, tree, into, order)?;
    }
    order.push(module.to_owned());
    Ok(())
}

fn unpack(packed: &Path, unpacked: &Path) -> Result<PathBuf> {
    match packed.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => {
            fs::copy(packed, unpacked).with_context(|| packed.display().to_string())?;
        }
        Some("xz") => {
            quietly(command("xz").args(["--decompress", "--force"]).arg(packed))?;
            fs::rename(packed.with_extension(""), unpacked)
                .with_context(|| unpacked.display().to_string())?;
        }
        _ => bail!("`{}` is packed in a way that is not known here", packed.display()),
    }
    Ok(unpacked.to_path_buf())
}

/// What a module says of itself: `depends=` in its information section, between two NULs.
fn dependencies(module: &Path) -> Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let bytes = fs::read(module).with_context(|| module.display().to_string())?;
    let found = bytes.windows(KEY.len()).position(|window| window == KEY);
    let value = found.and_then(|at| bytes.get(at + KEY.len()..)?.split(|&byte| byte == 0).next());
    let value = value.with_context(|| format!("`{}` does not say what it depends on", module.display()))?;
    let names = String::from_utf8_lossy(value).replace('-', "_");
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
