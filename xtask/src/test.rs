//! `cargo xtask test`: everything that must hold, in stages, with one count at the end.
//!
//! A stage is a place where tests run: the source tree itself, this machine, a guest. Whatever
//! printed a result, it is read here into one [`Tally`], so that the last line counts all of it.
//! A stage that ran nothing, or did not come to its own end, has failed.

mod checks;
mod guests;
mod host;
mod reader;
mod tally;
mod units;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use self::tally::{Stage, Tally};
use crate::build;
use crate::progress::say;
use crate::setup::{self, Need};
use crate::vm::Guest;
use crate::vm::kernel::Kernel;

/// Read by the suite: as much as there is time for in a night.
const LONG: &str = "ENFORCER_LONG";
/// Read by the suite: the number that random tests begin with.
const SEED: &str = "ENFORCER_SEED";

/// Run what must hold; without a flag, all of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The tree itself: formatting, lints, licences, unit tests
    #[arg(long)]
    unit: bool,
    /// The end-to-end suite on this machine, as far as its kernel allows
    #[arg(long)]
    host: bool,
    /// The end-to-end suite in a guest with this kernel
    #[arg(long, value_enum, value_name = "KERNEL")]
    vm: Vec<Kernels>,
    /// Ten times as many random pauses, and a minute without a daemon; for a night, not for each change
    #[arg(long)]
    long: bool,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kernels {
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    #[value(name = "7.2")]
    V7_2,
    All,
}

impl Kernels {
    fn list(self) -> Vec<Kernel> {
        match self {
            Self::V6_1 => vec![Kernel::V6_1],
            Self::V6_12 => vec![Kernel::V6_12],
            Self::V7_2 => vec![Kernel::V7_2],
            Self::All => Kernel::ALL.to_vec(),
        }
    }
}

/// What was asked for.
struct Plan {
    unit: bool,
    host: bool,
    kernels: Vec<Kernel>,
    variables: Vec<(&'static str, String)>,
    filter: Option<String>,
}

impl Plan {
    fn of(args: Args) -> Self {
        let everything = !args.unit && !args.host && args.vm.is_empty();
        let mut kernels: Vec<_> = args.vm.into_iter().flat_map(Kernels::list).collect();
        if everything {
            kernels = Kernel::ALL.to_vec();
        }
        Self {
            unit: args.unit || everything,
            host: args.host || everything,
            kernels,
            variables: variables(args.long),
            filter: args.filter,
        }
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::Toolchain, Need::Linker];
        if self.unit {
            needs.push(Need::Deny);
        }
        needs.extend(self.kernels.iter().flat_map(|&kernel| Guest::needs(kernel)));
        needs
    }
}

/// What the suite is told by its environment, here and in guests: how much to do, and the seed of a run that is to be
/// repeated.
fn variables(long: bool) -> Vec<(&'static str, String)> {
    let seed = std::env::var(SEED).ok().map(|seed| (SEED, seed));
    long.then(|| (LONG, "1".to_owned())).into_iter().chain(seed).collect()
}

/// `cargo xtask test`.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let plan = Plan::of(args);
    setup::ensure(&plan.needs())?;
    let filter = plan.filter.as_deref();
    let mut stages = Vec::new();
    if plan.unit {
        stages.push(stage("checks", || checks::run(filter)));
        stages.push(stage("unit", || units::run(filter)));
    }
    if plan.host || !plan.kernels.is_empty() {
        match build::all() {
            Ok(built) => {
                if plan.host {
                    stages.push(stage("host", || host::run(&built, &plan.variables, filter)));
                }
                stages.extend(guests::run(&plan.kernels, &built, &plan.variables, filter)?);
            }
            Err(error) => stages.push(Stage::broken("build", &error)),
        }
    }
    Ok(tally::close(&stages, filter.is_some()))
}

/// Runs one stage. That it could not be run is a failure like any other and hides no later stage.
fn stage(name: &str, work: impl FnOnce() -> Result<Tally>) -> Stage {
    say(format_args!("test: {name} …"));
    let start = Instant::now();
    let mut stage = match work() {
        Ok(tally) => Stage { name: name.into(), tally, seconds: 0.0 },
        Err(error) => Stage::broken(name, &error),
    };
    stage.seconds = start.elapsed().as_secs_f64();
    stage
}
