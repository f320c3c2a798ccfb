//! Packages of the system, by its own package manager.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{command, exists, quietly};

/// A program or file, and the Debian package that brings it.
pub(crate) struct Package {
    pub(crate) brings: &'static str,
    pub(crate) name: &'static str,
}

pub(crate) const QEMU: &[Package] = &[
    Package { brings: "qemu-system-x86_64", name: "qemu-system-x86" },
    Package { brings: "mke2fs", name: "e2fsprogs" },
    Package { brings: "setpriv", name: "util-linux" },
];

/// What takes Debian's packages apart.
pub(crate) const DEBIAN: &[Package] = &[
    Package { brings: "dpkg-deb", name: "dpkg" },
    Package { brings: "xz", name: "xz-utils" },
    Package { brings: super::debian::KEYRING, name: "debian-archive-keyring" },
];

pub(crate) const BOOTSTRAP: &[Package] = &[
    Package { brings: "mmdebstrap", name: "mmdebstrap" },
    Package { brings: "mke2fs", name: "e2fsprogs" },
    Package { brings: super::debian::KEYRING, name: "debian-archive-keyring" },
];

pub(crate) fn are_there(packages: &[Package]) -> bool {
    packages.iter().all(is_there)
}

fn is_there(package: &Package) -> bool {
    if package.brings.starts_with('/') { Path::new(package.brings).exists() } else { exists(package.brings) }
}

/// Installs those of the packages that are missing.
pub(crate) fn install(packages: &[Package]) -> Result<String> {
    let missing: Vec<_> =
        packages.iter().filter(|package| !is_there(package)).map(|p| p.name.into()).collect();
    install_by_name(&missing)
}

pub(crate) fn install_by_name(names: &[String]) -> Result<String> {
    if names.is_empty() {
        return Ok("nothing to install".into());
    }
    let list = names.join(" ");
    if !exists("apt-get") {
        bail!(
            "this system has no apt-get, so install by hand what Debian calls: {list} \
             (QEMU for x86_64, mke2fs, mmdebstrap, xz, LLVM's development files of rustc's major)"
        );
    }
    // Lists of packages grow old, and a fresh machine has none.
    quietly(command("apt-get").args(["update", "-q"])).context("as root")?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    quietly(command("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(install).args(names))
        .with_context(|| format!("install {list}, as root"))?;
    Ok(format!("{list} installed"))
}
