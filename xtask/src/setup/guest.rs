//! The root of every guest: a small Debian with the programs that real agents are made of.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::debian::Release;
use super::place::{Workshop, was_made_from};
use crate::process::{command, quietly};
use crate::tree;

const PACKAGES: &str = "bash,ca-certificates,curl,gdb,git,iproute2,netbase,nodejs,procps,python3,strace,systemd,\
     util-linux";

/// Read by nobody in a guest.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// The tree has room to write into; what is written is forgotten with the guest.
const SIZE: &str = "2G";

/// Run in the tree: users for the tests, mount points, names for loopback.
const FINISH: &str = r#"
chroot "$1" groupadd --system enforcer
chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash agent
mkdir -p "$1/opt/enforcer" "$1/mnt/dir"
printf '127.0.0.1 localhost enforcer\n::1 localhost\n' >"$1/etc/hosts"
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*.log
"#;

fn recipe() -> String {
    format!("guest: {PACKAGES} {LEFT_OUT:?} {SIZE} {FINISH}")
}

fn folder() -> PathBuf {
    tree::setup().join("guest")
}

/// The disk image, which no guest changes.
pub(crate) fn image() -> PathBuf {
    folder().join("root.ext4")
}

pub(crate) fn is_there() -> bool {
    was_made_from(&folder(), &recipe())
}

pub(crate) fn make() -> Result<()> {
    let shop = Workshop::beside(&folder())?;
    let (tree, made) = (shop.path().join("tree"), shop.path().join("made"));
    fs::create_dir(&made).context("make the guest's folder")?;
    let sources = shop.path().join("sources.list");
    fs::write(&sources, Release::Bookworm.sources()).context("sources of the guest")?;

    let mut bootstrap = command("mmdebstrap");
    bootstrap.args([
        "--mode=root",
        "--variant=minbase",
        "--architectures=amd64",
        "--aptopt=APT::Sandbox::User \"root\"",
    ]);
    bootstrap.arg(format!("--include={PACKAGES}")).arg(format!("--customize-hook={FINISH}"));
    bootstrap.args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    quietly(bootstrap.arg(Release::Bookworm.name()).arg(&tree).arg(&sources))?;

    let image = made.join("root.ext4");
    quietly(
        command("mke2fs").args(["-q", "-t", "ext4", "-L", "root", "-d"]).arg(&tree).arg(&image).arg(SIZE),
    )?;
    shop.deliver("made", &folder(), &recipe())
}
