//! `enforcer run`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::Output,
    reach::reach_or_start,
    runtime,
};
use crate::{
    agents::launch::{self, Held, Launch},
    control::{
        api::{Ended, Enter, MadeAgent, NewAgent, PolicyChoice},
        client::Client,
    },
    policy,
};
use nix::unistd::{Uid, User};
use std::{ffi::OsString, os::fd::RawFd, path::Path, time::Duration};

/// Run a command as an agent under a policy
///
/// The command is governed before its first instruction, and with it everything that it starts, for good. Terminal,
/// signals and exit code pass through. Where no daemon runs, one is started for the run and takes everything away
/// after the last one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer run --policy policies/demo.toml -- python3 agent.py
  enforcer run --policy research --user agent --agent night-shift -- ./agent --resume")]
pub(super) struct Args {
    /// The policy: a file (with a slash or `.toml` in it), or a name in the daemon's folder of policies
    #[arg(long, value_name = "FILE-OR-NAME")]
    policy: String,
    /// The user to run the command as: a name or a number
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// What to call the agent [default: the policy's name]
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// A descriptor above 2 that the command inherits; all others are closed
    #[arg(long, value_name = "N")]
    keep_fd: Vec<RawFd>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let launch = Launch {
        command: args.command.clone(),
        keep: args.keep_fd.clone(),
        user: args.user.as_deref().map(user).transpose().map_err(Problem::before_command)?,
    };
    let choice = policy_choice(&args.policy).map_err(Problem::before_command)?;
    let runtime = runtime()?;
    let (client, agent) = runtime
        .block_on(async {
            let client = reach_or_start(shared).await?;
            let asked = NewAgent { agent: args.agent.clone(), policy: choice, attach: false };
            let agent: MadeAgent = client.post("/agents", &asked).await?;
            Ok((client, agent))
        })
        .map_err(Problem::before_command)?;
    if let Some(warnings) = &agent.warnings {
        output.say(warnings.trim_end());
    }
    let ended = launched(&launch, |held| {
        let enter = Enter { pids: vec![held.pid()] };
        let path = format!("/agents/{}/processes", agent.id);
        runtime
            .block_on(client.post::<()>(&path, &enter))
            .map_err(|error| Problem::from(error).before_command())
    });
    runtime.block_on(end(&client, &agent, output));
    ended
}

/// Makes the process, has it governed, lets it go and waits for its end.
fn launched(launch: &Launch, govern: impl FnOnce(&Held) -> Result<(), Problem>) -> Result<Exit, Problem> {
    let held = launch.hold().map_err(|error| not_launched(&error))?;
    if let Err(problem) = govern(&held) {
        held.cancel();
        return Err(problem);
    }
    let running = held.release().map_err(|error| not_launched(&error))?;
    let code = running.wait().map_err(|error| not_launched(&error))?;
    // Exit codes have eight bits; 128 and the largest signal fit.
    Ok(Exit::Command(code as u8))
}

fn not_launched(error: &launch::Error) -> Problem {
    match error {
        launch::Error::NotFound { .. } => Problem::of(Exit::NotFound, error),
        launch::Error::NotExecutable { source, .. } => {
            let problem = Problem::of(Exit::NotExecutable, error);
            match source.raw_os_error() {
                Some(libc::EPERM) => {
                    problem.hint("the policy may refuse it: `enforcer tail --since-start` tells")
                }
                Some(libc::EAGAIN) => {
                    problem.hint("it may wait for approval: `enforcer approvals list` tells; then try again")
                }
                _ => problem,
            }
        }
        _ => Problem::of(Exit::Own, error),
    }
}

/// Tells the daemon that the command has ended, and people who is left of the agent after a moment.
async fn end(client: &Client, agent: &MadeAgent, output: &Output) {
    const MOMENT: Duration = Duration::from_millis(100);
    let path = format!("/agents/{}/end", agent.id);
    let mut left = client.post::<Ended>(&path, &()).await;
    if left.as_ref().is_ok_and(|left| !left.is_empty()) {
        tokio::time::sleep(MOMENT).await;
        left = client.post(&path, &()).await;
    }
    match left {
        Ok(left) if left.is_empty() => {}
        Ok(left) => {
            let pids: Vec<_> = left.inside.iter().chain(&left.outside).map(ToString::to_string).collect();
            let (name, pids) = (&agent.agent, pids.join(" "));
            output.say(&format!("enforcer: processes of agent `{name}` go on, and stay governed: {pids}"));
        }
        Err(error) => {
            let (name, problem) = (&agent.agent, Problem::from(error).message);
            output.say(&format!("enforcer: agent `{name}` stays until a daemon runs again: {problem}"));
        }
    }
}

fn user(name: &str) -> Result<User, Problem> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(Problem::new(Exit::Own, format!("there is no user `{name}`"))),
        Err(errno) => Err(Problem::new(Exit::Own, format!("cannot look for user `{name}`: {errno}"))),
    }
}

/// A policy as the caller names it: the text of a file, which is read here, or a name for the daemon.
pub(super) fn policy_choice(named: &str) -> Result<PolicyChoice, Problem> {
    if !named.contains('/') && !named.ends_with(".toml") {
        return Ok(PolicyChoice::Name(named.to_owned()));
    }
    let (_, found) = policy::load(Path::new(named)).map_err(|error| Problem::of(Exit::Failed, &error))?;
    if found.has_errors() {
        let problem = Problem::new(Exit::Failed, format!("the policy `{named}` has {}", found.summary()));
        return Err(Problem { report: Some(found.render(Output::look())), ..problem });
    }
    Ok(PolicyChoice::Text { file: named.to_owned(), text: found.source().text().to_owned() })
}
