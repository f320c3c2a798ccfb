//! Whether hardware virtualisation runs a stock kernel here. That the device is there says little:
//! on machines that are guests themselves it may open and still not get through a boot. So one
//! guest is run with it once, and the answer remembered under `target/setup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Guest;
use super::kernel::Kernel;
use super::qemu::{Accelerator, Limits};
use crate::progress::say;
use crate::tree;

const DEVICE: &str = "/dev/kvm";

/// Hardware that works is done in a fraction of this.
const PATIENCE: Duration = Duration::from_secs(20);

const WORKS: &str = "kvm works";
const FAILS: &str = "kvm does not boot a kernel";

/// What runs guests fastest here and surely.
pub(crate) fn best(kernel: Kernel) -> Result<Accelerator> {
    if !Path::new(DEVICE).exists() {
        return Ok(Accelerator::Emulation);
    }
    let answer = match fs::read_to_string(note()) {
        Ok(answer) => answer,
        Err(_) => ask(kernel)?,
    };
    Ok(if answer == WORKS { Accelerator::Kvm } else { Accelerator::Emulation })
}

fn note() -> PathBuf {
    tree::setup().join("accelerator")
}

fn ask(kernel: Kernel) -> Result<String> {
    let guest = Guest {
        accelerator: Accelerator::Kvm,
        processors: 2,
        memory_mib: 1024,
        append: String::new(),
        dir: None,
        programs: Vec::new(),
        limits: Limits { whole: Some(PATIENCE), silence: None },
        command: vec!["true".into()],
        kernel,
    };
    let answer = if matches!(guest.run(&mut |_, _| {}), Ok(0)) { WORKS } else { FAILS };
    say(format_args!("{DEVICE}: {answer}"));
    fs::write(note(), answer).with_context(|| note().display().to_string())?;
    Ok(answer.into())
}
