//! `cargo xtask bench`: what governing costs, beside no governance and a peer.
//!
//! What is measured is the business of the program `enforcer-bench`. The network, the loading of policies and pauses are
//! measured on this machine, in time; opens in a guest whose clock counts instructions. See docs/performance.md.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::process::command;
use crate::progress::say;
use crate::setup::{self, Need};
use crate::vm::kernel::Kernel;
use crate::vm::qemu::{Accelerator, Limits};
use crate::vm::{self, Guest};
use crate::{build, tree};

const BENCH: &str = "enforcer-bench";

/// The verifier takes its time where one thread emulates everything.
const LIMITS: Limits =
    Limits { whole: Some(Duration::from_secs(45 * 60)), silence: Some(Duration::from_secs(20 * 60)) };

/// Measure what governing costs: a connect, the loading of policies and a pause here (as root), an open in a guest
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// The guest's kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// Use the binaries as they were last built
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Connect,
    Open,
    Load,
    Pause,
    All,
}

/// `cargo xtask bench`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.no_build {
        setup::ensure(&[Need::Toolchain, Need::Linker])?;
        build::all()?;
    }
    let wanted = |what| args.what == what || args.what == What::All;
    for (what, word) in [(What::Connect, "connect"), (What::Load, "load"), (What::Pause, "pause")] {
        if wanted(what) {
            here(word)?;
        }
    }
    if wanted(What::Open) { guest(args.kernel) } else { Ok(ExitCode::SUCCESS) }
}

fn here(what: &str) -> Result<()> {
    say(format_args!("bench: {what}, on this machine"));
    let program = tree::binaries().join(BENCH);
    let status =
        command(&program.to_string_lossy()).arg(what).env("PATH", tree::path_with_binaries()).status();
    let status = status.with_context(|| program.display().to_string())?;
    if !status.success() {
        bail!("`{BENCH} {what}` failed: {status}");
    }
    Ok(())
}

fn guest(kernel: Kernel) -> Result<ExitCode> {
    say(format_args!("bench: open, in a guest with {kernel}"));
    setup::ensure(&Guest::needs(kernel))?;
    let guest = Guest {
        kernel,
        accelerator: Accelerator::Counting,
        processors: 1,
        memory_mib: 2048,
        append: String::new(),
        dir: None,
        programs: Vec::new(),
        limits: LIMITS,
        command: vec![BENCH.into(), "open".into()],
    };
    vm::exit(guest.run(&mut vm::pass_on)?)
}
