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

/// What reads Debian's archive and takes its packages apart.
pub(crate) const ARCHIVE: &[Package] = &[
    Package { brings: "apt-get", name: "apt" },
    Package { brings: "dpkg-deb", name: "dpkg" },
    Package { brings: "xz", name: "xz-utils" },
    Package { brings: super::debian::KEYRING, name: "debian-archive-keyring" },
];

pub(crate) const BOOTSTRAP: &[Package] = &[
    Package { brings: "mmdebstrap", name: "mmdebstrap" },
    Package { brings: "mke2fs", name: "e2fsprogs" },
    Package { brings: super::debian::KEYRING, name: "debian-archive-keyring" },
];

/// Names of those packages whose program or file is not there.
pub(crate) fn missing(packages: &[Package]) -> Vec<String> {
    packages.iter().filter(|package| !is_there(package)).map(|package| package.name.into()).collect()
}

fn is_there(package: &Package) -> bool {
    if package.brings.starts_with('/') { Path::new(package.brings).exists() } else { exists(package.brings) }
}

/// Installs packages by name.
pub(crate) fn install(names: &[String]) -> Result<()> {
    let list = names.join(" ");
    if !exists("apt-get") {
        bail!(
            "this system has no apt-get: install by its own means what Debian calls {list}, then try again"
        );
    }
    // Lists of packages grow old, and a fresh machine has none.
    quietly(command("apt-get").args(["update", "-q"])).context("as root")?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    quietly(command("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(install).args(names))
        .with_context(|| {
            format!(
                "install {list} as root; a release that has no such LLVM gets it from apt.llvm.org, \
             whose major must be rustc's"
            )
        })
}
