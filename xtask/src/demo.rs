//! `cargo xtask demo`: an agent governed before your eyes, here or in a guest.
//!
//! What is shown is the business of the program `enforcer-demo`; this only finds a kernel for it.

use std::env;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, command};
use crate::progress::say;
use crate::setup::{self, Need};
use crate::vm::kernel::Kernel;
use crate::vm::qemu::Limits;
use crate::vm::{self, Guest, accelerator};
use crate::{build, tree};

const DEMO: &str = "enforcer-demo";

/// The kernel that stands in for one that cannot.
const STAND_IN: Kernel = Kernel::V6_12;

/// The demo is made to be watched and takes less than two minutes.
const LIMITS: Limits =
    Limits { whole: Some(Duration::from_secs(600)), silence: Some(Duration::from_secs(120)) };

/// Show an agent being governed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run in a guest even where this machine's kernel would do
    #[arg(long, value_enum, value_name = "KERNEL")]
    vm: Option<Kernel>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Toolchain, Need::Linker])?;
    build::all()?;
    if !tree::binaries().join(DEMO).exists() {
        bail!("the tree has no program `{DEMO}`");
    }
    match args.vm {
        None if can_enforce() => here(),
        None => {
            say(format_args!(
                "this machine's kernel cannot enforce all that is shown: using a guest with {STAND_IN}"
            ));
            guest(STAND_IN)
        }
        Some(kernel) => guest(kernel),
    }
}

/// Whether `enforcer doctor` finds nothing that is missing.
fn can_enforce() -> bool {
    process::output(ours("enforcer").arg("doctor")).is_ok()
}

/// A built program with the tree's policies at hand.
fn ours(program: &str) -> Command {
    let mut command = command(program);
    command.env("PATH", tree::path_with_binaries()).env(tree::POLICIES, tree::root().join("policies"));
    command
}

fn here() -> Result<ExitCode> {
    let status = ours(DEMO).current_dir(env::temp_dir()).status().context(DEMO)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn guest(kernel: Kernel) -> Result<ExitCode> {
    setup::ensure(&Guest::needs(kernel))?;
    let guest = Guest {
        kernel,
        accelerator: accelerator::best(kernel)?,
        // With two, an emulated processor has met a patch of the kernel's text half made, and panicked.
        processors: 1,
        memory_mib: 2048,
        append: String::new(),
        dir: None,
        programs: Vec::new(),
        limits: LIMITS,
        command: vec![DEMO.into()],
    };
    vm::exit(guest.run(&mut vm::pass_on)?)
}
