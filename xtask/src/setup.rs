//! What the other tasks need and cargo does not bring: [`ensure`] installs what is missing of it.
//!
//! Everything of our own lies under `target/setup`; only packages of the system go elsewhere, and
//! those by its own package manager. An item is made beside its place and renamed into it, so what
//! is there is whole. Each item says by itself whether it is there, by looking and not by a list of
//! what was done, so a second run is quick and a machine that lost something gets it back.

mod debian;
mod guest;
mod kernel;
mod packages;
mod place;
mod toolchain;

use std::fs::{self, File, TryLockError};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::progress::{say, timed};
use crate::tree;
use crate::vm::kernel::Kernel;

use self::debian::Archive;
pub(crate) use self::guest::image as guest_image;

/// Something that a task may need.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The source of `core` and the static target, for the pinned toolchain.
    Toolchain,
    /// The linker of the kernel programs, built against the LLVM of the pinned rustc.
    Linker,
    /// The emulator and the programs that make its disks.
    Qemu,
    /// One kernel with the modules that a guest loads.
    Kernel(Kernel),
    /// The Debian tree that is a guest's root.
    GuestRoot,
    /// The checker of licences and advisories.
    Deny,
}

#[derive(clap::Args)]
pub(crate) struct Args {}

/// `cargo xtask setup`: everything, so that later tasks install nothing.
pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    let mut needs = vec![Need::Toolchain, Need::Linker, Need::Qemu, Need::GuestRoot, Need::Deny];
    needs.extend(Kernel::ALL.map(Need::Kernel));
    ensure(&needs)?;
    for need in needs {
        say(format_args!("{}: there", need.name()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs those of the needs that are not met.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    if unmet(needs)?.is_empty() {
        return Ok(());
    }
    let _lock = lock()?;
    // Another run may have met some while this one waited.
    let needs = unmet(needs)?;
    let mut missing = Vec::new();
    for need in &needs {
        missing.extend(
            need.missing_packages()?.into_iter().filter(|name| !missing.contains(name)).collect::<Vec<_>>(),
        );
    }
    if !missing.is_empty() {
        timed(format_args!("install {}", missing.join(" ")), || packages::install(&missing))?;
    }
    let mut archive = Archive::default();
    for need in unmet(&needs)? {
        let name = need.name();
        timed(format_args!("set up {name}"), || need.meet(&mut archive))
            .with_context(|| format!("set up {name}"))?;
    }
    Ok(())
}

fn unmet(needs: &[Need]) -> Result<Vec<Need>> {
    let mut unmet = Vec::new();
    for &need in needs {
        if !unmet.contains(&need) && !need.is_met()? {
            unmet.push(need);
        }
    }
    Ok(unmet)
}

impl Need {
    fn name(self) -> String {
        match self {
            Self::Toolchain => "toolchain".into(),
            Self::Linker => "bpf-linker".into(),
            Self::Qemu => "QEMU".into(),
            Self::Kernel(kernel) => format!("kernel {kernel}"),
            Self::GuestRoot => "guest root".into(),
            Self::Deny => "cargo-deny".into(),
        }
    }

    fn is_met(self) -> Result<bool> {
        match self {
            Self::Toolchain => toolchain::is_whole(),
            Self::Linker => toolchain::linker_works(),
            Self::Qemu => Ok(packages::missing(packages::QEMU).is_empty()),
            Self::Kernel(kernel) => Ok(kernel::is_there(kernel)),
            Self::GuestRoot => Ok(guest::is_there()),
            Self::Deny => Ok(toolchain::deny_works()),
        }
    }

    /// What the system's package manager has to bring, by Debian's names.
    fn missing_packages(self) -> Result<Vec<String>> {
        match self {
            Self::Toolchain | Self::Deny => Ok(Vec::new()),
            Self::Linker => toolchain::missing_packages(),
            Self::Qemu => Ok(packages::missing(packages::QEMU)),
            Self::Kernel(_) => Ok(packages::missing(packages::ARCHIVE)),
            Self::GuestRoot => Ok(packages::missing(packages::BOOTSTRAP)),
        }
    }

    /// Makes it, once the packages are there.
    fn meet(self, archive: &mut Archive) -> Result<()> {
        match self {
            Self::Toolchain => toolchain::complete(),
            Self::Linker => toolchain::build_linker(),
            Self::Qemu => bail!("installing its packages did not bring all of it"),
            Self::Kernel(kernel) => kernel::fetch(kernel, archive),
            Self::GuestRoot => guest::make(),
            Self::Deny => toolchain::build_deny(),
        }
    }
}

/// Two runs must not make the same thing at once.
fn lock() -> Result<File> {
    let path = tree::setup().join(".lock");
    fs::create_dir_all(tree::setup()).context("target/setup")?;
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => say("waiting for another run's set-up …"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
    }
    file.lock().with_context(|| path.display().to_string())?;
    Ok(file)
}
