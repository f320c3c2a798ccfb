//! `enforcer unload`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::Output,
    runtime,
};
use crate::{
    control::{
        api::{Unload, chain},
        client,
    },
    daemon::{Config, Daemon, Settings},
    kernel::{
        hierarchy::Hierarchy,
        pin::{Pins, State},
    },
};
use std::path::PathBuf;

/// Take everything out of the kernel: nothing is governed afterwards
///
/// Refuses while agents have processes. A daemon that runs does it, and ends; otherwise it is done here. It is logged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also while agents have processes: they go on, and nothing governs them
    #[arg(long)]
    force: bool,
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is pinned
    #[arg(long, value_name = "PATH")]
    bpffs: Option<PathBuf>,
    /// The cgroup below which agents have theirs
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<PathBuf>,
    /// Where names and numbers are kept
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let asked = Unload { force: args.force };
    match runtime()?.block_on(shared.client().post::<()>("/unload", &asked)) {
        Ok(()) => output.say("unloaded; the daemon ends"),
        Err(client::Error::Unreachable { .. }) => directly(args, shared, output)?,
        Err(error) => return Err(error.into()),
    }
    Ok(Exit::Done)
}

/// Without a daemon.
fn directly(args: &Args, shared: &Shared, output: &Output) -> Result<(), Problem> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Problem::new(Exit::Refused, "only root may unload"));
    }
    let file = Config::read(args.config.as_deref()).map_err(|error| Problem::of(Exit::Usage, &error))?;
    let flags = Config {
        bpffs: args.bpffs.clone(),
        cgroup_root: args.cgroup_root.clone(),
        state: args.state.clone(),
        socket: shared.socket_flag(),
        ..Config::default()
    };
    let settings = Settings::from(flags.or(file));
    let pins = Pins::new(&settings.pins);
    let failed = |error: &dyn std::error::Error| Problem::new(Exit::Failed, chain(error));
    match pins.state().map_err(|error| failed(&error))? {
        State::Absent => {
            output.say(&format!("nothing is loaded under `{}`", settings.pins.display()));
            return Ok(());
        }
        State::Complete(_) => match Daemon::open(settings.clone(), true) {
            Ok(daemon) => {
                daemon.unload(args.force).map_err(|error| failed(&error))?;
            }
            // With pins that cannot be taken over, force is the only way out.
            Err(error) if args.force => {
                output.say(&format!("warning: {}", chain(&error)));
                remove(&pins, &settings, true)?;
            }
            Err(error) => return Err(failed(&error).hint("`--force` removes the pins whatever they are")),
        },
        State::HalfMade | State::Foreign(_) => remove(&pins, &settings, args.force)?,
    }
    output.say(&format!("unloaded `{}`: nothing is governed any more", settings.pins.display()));
    Ok(())
}

/// Removes pins that this version does not understand. Only cgroups tell whether somebody is governed.
fn remove(pins: &Pins, settings: &Settings, force: bool) -> Result<(), Problem> {
    let failed = |error: &dyn std::error::Error| Problem::new(Exit::Failed, chain(error));
    let _lock = pins.lock().map_err(|error| failed(&error))?;
    let root = Hierarchy::find().and_then(|found| found.agents_root(settings.cgroup_root.as_deref()));
    let inside = root.map(|root| crate::agents::cgroup::processes(root.path()).unwrap_or_default());
    match inside {
        Ok(pids) if !pids.is_empty() && !force => {
            let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
            return Err(Problem::new(
                Exit::Failed,
                format!("agents still have processes: {}", pids.join(" ")),
            )
            .hint("end them first; with `--force` they go on, and nothing governs them"));
        }
        _ => {}
    }
    pins.remove().map_err(|error| failed(&error))
}
