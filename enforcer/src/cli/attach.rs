//! `enforcer attach`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::Output,
    run::policy_choice,
    runtime,
};
use crate::control::{
    api::{Ended, Enter, Entered, MadeAgent, NewAgent},
    client::{self, Client},
};
use serde::Serialize;
use std::ffi::OsString;

/// Move running processes into an agent
///
/// Each process is moved with all its threads, and is governed from its next action on, for good. What it has open
/// already stays open. An agent of that name that is under the same policy is used; otherwise one is made. Exits with 1
/// when a process is not in the agent, and says which.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer attach --policy policies/demo.toml --agent legacy 4711 4712")]
pub(super) struct Args {
    /// The policy: a file (with a slash or `.toml` in it), or a name in the daemon's folder of policies
    #[arg(long, value_name = "FILE-OR-NAME")]
    policy: OsString,
    /// The agent
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// The processes
    #[arg(required = true, value_name = "PID")]
    pids: Vec<u32>,
}

/// The agent, and who is in it now.
#[derive(Debug, Serialize)]
struct Attached {
    #[serde(flatten)]
    made: MadeAgent,
    #[serde(flatten)]
    processes: Entered,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let asked =
        NewAgent { agent: Some(args.agent.clone()), policy: policy_choice(&args.policy)?, attach: true };
    let client = shared.client();
    let attached = runtime()?.block_on(async {
        let made: MadeAgent = client.post("/agents", &asked).await?;
        let entered = enter(&client, &made, &args.pids).await;
        let nobody = entered.as_ref().map_or(true, |all| all.entered.is_empty());
        if nobody && !made.existed {
            // Somebody may have got in all the same: that keeps it alive.
            let _ = client.post::<Ended>(&format!("/agents/{}/end", made.id), &()).await;
        }
        Ok::<_, Problem>(Attached { made, processes: entered? })
    })?;
    if let Some(warnings) = &attached.made.warnings {
        output.say(warnings.trim_end());
    }
    output.data(&attached, told);
    match turned_away(&attached.made.agent, &attached.processes) {
        Some(problem) => Err(problem),
        None => Ok(Exit::Done),
    }
}

/// Has processes enter an agent.
pub(super) async fn enter(
    client: &Client,
    agent: &MadeAgent,
    pids: &[u32],
) -> Result<Entered, client::Error> {
    client.post(&format!("/agents/{}/processes", agent.id), &Enter { pids: pids.to_vec() }).await
}

/// What is wrong where not all have entered.
pub(super) fn turned_away(agent: &str, all: &Entered) -> Option<Problem> {
    if all.refused.is_empty() {
        return None;
    }
    let out: Vec<_> = all.refused.iter().map(|process| process.pid.to_string()).collect();
    let why: Vec<_> = all.refused.iter().map(|process| process.reason.as_str()).collect();
    let (are, out) = (be(&all.refused), out.join(", "));
    Some(Problem::new(Exit::Failed, format!("{are} not in agent `{agent}`: {out}: {}", why.join("; "))))
}

fn told(attached: &Attached) -> String {
    let Attached { made, processes } = attached;
    if processes.entered.is_empty() {
        return String::new();
    }
    let pids: Vec<_> = processes.entered.iter().map(ToString::to_string).collect();
    let (are, pids) = (be(&processes.entered), pids.join(", "));
    format!("{are} in agent {} ({}) under policy {}: {pids}\n", made.agent, made.id, made.policy)
}

fn be<T>(processes: &[T]) -> String {
    match processes.len() {
        1 => "1 process is".to_owned(),
        count => format!("{count} processes are"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Attached, told, turned_away};
    use crate::{
        agents::AgentId,
        control::api::{Entered, MadeAgent, NotEntered},
    };

    #[test]
    fn who_is_in_and_who_is_not_is_told_apart() {
        let refused =
            |pid| NotEntered { pid, reason: format!("process {pid} cannot be governed: No such process") };
        let processes = Entered { entered: vec![10, 11], refused: vec![refused(12)] };
        let made = MadeAgent {
            id: AgentId(3),
            agent: "at".into(),
            policy: "net".into(),
            cgroup: "/sys/fs/cgroup/enforcer/at-3".into(),
            existed: true,
            warnings: None,
        };
        let attached = Attached { made, processes };
        assert_eq!(told(&attached), "2 processes are in agent at (3) under policy net: 10, 11\n");
        let problem = turned_away("at", &attached.processes).unwrap();
        assert_eq!(
            problem.message,
            "1 process is not in agent `at`: 12: process 12 cannot be governed: No such process"
        );
        assert_eq!(problem.exit.code(), 1);
        let nobody =
            Attached { processes: Entered { entered: vec![], refused: vec![refused(12)] }, ..attached };
        assert_eq!(told(&nobody), "");
        assert!(turned_away("at", &Entered { entered: vec![10], refused: vec![] }).is_none());
    }
}
