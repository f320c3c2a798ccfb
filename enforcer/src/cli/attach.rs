//! `enforcer attach`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::Output,
    run::policy_choice,
    runtime,
};
use crate::control::api::{Enter, MadeAgent, NewAgent};

/// Move running processes into an agent
///
/// Each process is moved with all its threads, and is governed from its next action on, for good. What it has open
/// already stays open. An agent of that name that is under the same policy is used; otherwise one is made.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer attach --policy policies/demo.toml --agent legacy 4711 4712")]
pub(super) struct Args {
    /// The policy: a file (with a slash or `.toml` in it), or a name in the daemon's folder of policies
    #[arg(long, value_name = "FILE-OR-NAME")]
    policy: String,
    /// The agent
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// The processes
    #[arg(required = true, value_name = "PID")]
    pids: Vec<u32>,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let asked =
        NewAgent { agent: Some(args.agent.clone()), policy: policy_choice(&args.policy)?, attach: true };
    let client = shared.client();
    let made = runtime()?.block_on(async {
        let made: MadeAgent = client.post("/agents", &asked).await?;
        let entered = client
            .post::<()>(&format!("/agents/{}/processes", made.id), &Enter { pids: args.pids.clone() })
            .await;
        if let (Err(error), false) = (entered, made.existed) {
            // Whoever did get in keeps it alive.
            let _ = client.post::<crate::control::api::Ended>(&format!("/agents/{}/end", made.id), &()).await;
            return Err(Problem::from(error));
        }
        Ok::<_, Problem>(made)
    })?;
    if let Some(warnings) = &made.warnings {
        output.say(warnings.trim_end());
    }
    output.data(&made, |made| {
        format!(
            "{} processes are in agent {} ({}) under policy {}\n",
            args.pids.len(),
            made.agent,
            made.id,
            made.policy
        )
    });
    Ok(Exit::Done)
}
