//! The command line: one file for each command, and here what they share.

mod agents;
mod approvals;
mod attach;
mod canary;
mod daemon;
mod doctor;
pub mod exit;
mod intervention;
pub mod output;
mod policy;
mod reach;
mod run;
mod status;
mod tail;
mod unload;
mod why;

use self::{exit::Exit, output::Output};
use crate::{control::client::Client, daemon::config::SOCKET};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Runtime governance for AI agents, in the Linux kernel.
///
/// Agents run inside governed cgroups and know nothing of it. A policy says what they may do; the kernel decides each
/// connect, send, open, create and exec when it happens.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, after_long_help = AFTER_HELP)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    shared: Shared,
}

/// What all commands take.
#[derive(Clone, Debug, clap::Args)]
pub struct Shared {
    /// The daemon's control socket
    #[arg(long, global = true, env = "ENFORCER_SOCKET", value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Daemon(daemon::Args),
    Run(run::Args),
    Attach(attach::Args),
    Policy(policy::Args),
    Tail(tail::Args),
    Approvals(approvals::Args),
    Agents(agents::Args),
    Freeze(intervention::Freeze),
    Resume(intervention::Resume),
    Kill(intervention::Kill),
    Status(status::Args),
    Doctor(doctor::Args),
    Why(why::Args),
    Unload(unload::Args),
    #[command(name = crate::kernel::canary::TRY, hide = true)]
    CanaryTry(canary::Args),
    #[command(name = crate::kernel::canary::NOTHING, hide = true)]
    CanaryNothing,
}

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    it failed, or something was found (`policy check`, `doctor`)
  2    wrong usage
  3    no daemon answers
  4    the kernel lacks what the policy needs
  5    refused: not root, not in the group `enforcer`, or governed
  10   `daemon` ended because it was unloaded

`enforcer run` returns the command's own exit code, 128 + N when signal N ended it, and for
failures of its own 4, or 125 (enforcer failed), 126 (the command cannot be executed), 127
(there is no such command).

Examples:
  enforcer policy check policies/demo.toml
  enforcer run --policy policies/demo.toml -- python3 agent.py
  enforcer tail --verdict block
  enforcer approvals approve 3f9c02a1b7de
  enforcer freeze --all --why \"incident 4711\"";

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    heed_children();
    let Cli { command, shared } = Cli::parse();
    let mut output = Output::new(shared.json);
    match command.run(&shared, &mut output) {
        Ok(exit) => exit.into(),
        Err(problem) => {
            output.problem(&problem);
            problem.exit.into()
        }
    }
}

/// Whoever ignores the end of children hands that down, and the kernel then keeps no child for us to wait for: the exit
/// code of an agent's command would be lost.
fn heed_children() {
    // SAFETY: no handler is set, only the kernel's own way restored.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

impl Command {
    fn run(&self, shared: &Shared, output: &mut Output) -> Result<Exit, exit::Problem> {
        match self {
            Self::Daemon(args) => daemon::run(args, shared, output),
            Self::Run(args) => run::run(args, shared, output),
            Self::Attach(args) => attach::run(args, shared, output),
            Self::Policy(args) => policy::run(args, shared, output),
            Self::Tail(args) => tail::run(args, shared, output),
            Self::Approvals(args) => approvals::run(args, shared, output),
            Self::Agents(args) => agents::run(args, shared, output),
            Self::Freeze(args) => intervention::freeze(args, shared, output),
            Self::Resume(args) => intervention::resume(args, shared, output),
            Self::Kill(args) => intervention::kill(args, shared, output),
            Self::Status(args) => status::run(args, shared, output),
            Self::Doctor(args) => doctor::run(args, shared, output),
            Self::Why(args) => why::run(args, shared, output),
            Self::Unload(args) => unload::run(args, shared, output),
            Self::CanaryTry(args) => canary::run(args),
            Self::CanaryNothing => Ok(Exit::Done),
        }
    }
}

impl Shared {
    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// The control socket where it is not the default, which a configuration file may replace.
    fn socket_flag(&self) -> Option<PathBuf> {
        (self.socket != Path::new(SOCKET)).then(|| self.socket.clone())
    }
}

/// A runtime of this thread alone: a command that forks has no other threads.
fn runtime() -> Result<tokio::runtime::Runtime, exit::Problem> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| exit::Problem::new(Exit::Failed, format!("cannot make a runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    fn help(of: &[&str]) -> String {
        let mut command = Cli::command();
        command.build();
        let command =
            of.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).unwrap());
        command.clone().term_width(100).render_long_help().to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_texts() {
        let commands: [&[&str]; 21] = [
            &[],
            &["daemon"],
            &["run"],
            &["attach"],
            &["policy"],
            &["policy", "check"],
            &["policy", "apply"],
            &["tail"],
            &["approvals"],
            &["approvals", "list"],
            &["approvals", "show"],
            &["approvals", "approve"],
            &["approvals", "reject"],
            &["agents"],
            &["freeze"],
            &["resume"],
            &["kill"],
            &["status"],
            &["doctor"],
            &["why"],
            &["unload"],
        ];
        for command in commands {
            let name = if command.is_empty() { "enforcer".to_owned() } else { command.join("-") };
            insta::assert_snapshot!(format!("help-{name}"), help(command));
        }
    }
}
