//! `enforcer run`

use super::{
    Shared,
    attach::{enter, turned_away},
    exit::{Exit, Problem},
    output::Output,
    reach::reach_or_start,
    runtime,
};
use crate::{
    agents::launch::{self, Held, Launch},
    control::{
        api::{Ended, MadeAgent, NewAgent, PolicyChoice},
        client::Client,
    },
    policy,
};
use nix::unistd::{Gid, Uid, User};
use std::{
    ffi::{CString, OsStr, OsString},
    os::{fd::RawFd, unix::ffi::OsStrExt as _},
    path::Path,
    time::Duration,
};

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
    policy: OsString,
    /// The user to run the command as: a name, or a number, which need not have a name
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
        let entered = runtime.block_on(enter(&client, &agent, &[held.pid()])).map_err(Problem::from);
        let problem = entered.map(|entered| turned_away(&agent.agent, &entered));
        problem.and_then(|problem| problem.map_or(Ok(()), Err)).map_err(Problem::before_command)
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
    let number = name.parse().ok();
    let found = match number {
        Some(number) => User::from_uid(Uid::from_raw(number)),
        None => User::from_name(name),
    };
    match (found, number) {
        (Ok(Some(user)), _) => Ok(user),
        // To the kernel this number means nobody.
        (Ok(None), Some(number)) if number != u32::MAX => Ok(nameless(number)),
        (Ok(None), _) => Err(Problem::new(Exit::Own, format!("there is no user `{name}`"))),
        (Err(errno), _) => Err(Problem::new(Exit::Own, format!("cannot look for user `{name}`: {errno}"))),
    }
}

/// A user whom no database knows: with the group of the same number, and no place of its own.
fn nameless(number: u32) -> User {
    User {
        name: number.to_string(),
        passwd: CString::default(),
        uid: Uid::from_raw(number),
        gid: Gid::from_raw(number),
        gecos: CString::default(),
        dir: "/".into(),
        shell: "/bin/sh".into(),
    }
}

/// A policy as the caller names it: the text of a file, which is read here, or a name for the daemon.
pub(super) fn policy_choice(named: &OsStr) -> Result<PolicyChoice, Problem> {
    let shown = named.to_string_lossy();
    let bytes = named.as_bytes();
    if !bytes.contains(&b'/') && !bytes.ends_with(b".toml") {
        return Ok(PolicyChoice::Name(shown.into_owned()));
    }
    let (_, found) = policy::load(Path::new(named)).map_err(|error| Problem::of(Exit::Failed, &error))?;
    if found.has_errors() {
        let problem = Problem::new(Exit::Failed, format!("the policy `{shown}` has {}", found.summary()));
        return Err(Problem { report: Some(found.render(Output::look())), ..problem });
    }
    Ok(PolicyChoice::Text { file: shown.into_owned(), text: found.source().text().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{policy_choice, user};
    use crate::control::api::PolicyChoice;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

    #[test]
    fn a_number_is_a_user_also_where_nobody_has_it() {
        let nobody = user("4294900011").unwrap();
        assert_eq!((nobody.uid.as_raw(), nobody.gid.as_raw()), (4_294_900_011, 4_294_900_011));
        assert_eq!(user("0").unwrap().name, "root");
        for name in ["no-such-user", "4294967295", "-1", ""] {
            assert!(user(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_may_have_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OsStr::from_bytes(b"odd-\xff.toml"));
        let text = "version = 1\nname = \"a\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";
        std::fs::write(&path, text).unwrap();
        let choice = policy_choice(path.as_os_str()).unwrap();
        assert!(matches!(choice, PolicyChoice::Text { text: read, .. } if read == text));
        assert_eq!(policy_choice(OsStr::new("research")).unwrap(), PolicyChoice::Name("research".into()));
    }
}
