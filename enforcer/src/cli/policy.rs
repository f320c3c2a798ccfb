//! `enforcer policy`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::Output,
    run::policy_choice,
    runtime,
};
use crate::{
    agents::policy::Prepared,
    control::api::{AgentView, MadeAgent, SetPolicy, chain},
    policy,
};
use clap::Subcommand;
use serde::Serialize;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Check policies, and put agents under other ones
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    Apply(Apply),
}

/// Say what is wrong with policies, and where
///
/// Exits with 1 when one of them has an error. Needs no daemon and no privileges.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer policy check policies/*.toml
  enforcer policy check --json policies/demo.toml")]
struct Check {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Put an agent under another policy, from one action to the next
///
/// No action is decided by half a policy. A policy with an error is not applied, and the one in force stays.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer policy apply --agent night-shift policies/strict.toml")]
struct Apply {
    /// The agent, by its name or number
    #[arg(long, value_name = "AGENT")]
    agent: String,
    /// The policy: a file (with a slash or `.toml` in it), or a name in the daemon's folder of policies
    #[arg(value_name = "FILE-OR-NAME")]
    policy: OsString,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    match &args.command {
        Command::Check(args) => check(args, output),
        Command::Apply(args) => apply(args, shared, output),
    }
}

/// What was found in one file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    ok: bool,
    policy: Option<String>,
    /// What the kernel must have for it.
    needs: Option<String>,
    /// Why it could not be read, if it could not.
    unreadable: Option<String>,
    diagnostics: serde_json::Value,
}

fn check(args: &Check, output: &Output) -> Result<Exit, Problem> {
    let all: Vec<_> = args.files.iter().map(|file| check_one(file, output)).collect();
    if output.is_json() {
        output.data(&all, |_| String::new());
    }
    Ok(if all.iter().all(|checked| checked.ok) { Exit::Done } else { Exit::Failed })
}

/// Checks a file, and tells people what is wrong with it.
fn check_one(file: &Path, output: &Output) -> Checked {
    let name = file.display();
    let (found, checked) = match policy::check_file(file) {
        Ok(read) => read,
        Err(error) => {
            let reason = chain(&error);
            if !output.is_json() {
                output.say(&format!("error: {reason}"));
                output.raw(format!("{name}: not read\n").as_bytes());
            }
            return Checked {
                file: name.to_string(),
                ok: false,
                policy: None,
                needs: None,
                unreadable: Some(reason),
                diagnostics: serde_json::Value::Array(Vec::new()),
            };
        }
    };
    let prepared = checked.map(Prepared::from);
    if !output.is_json() {
        let report = found.render(Output::look());
        if !report.is_empty() {
            output.say(report.trim_end());
        }
        let needs = prepared.as_ref().and_then(|prepared| prepared.needs_lsm.as_deref());
        let needs = needs.map(|needs| format!("; needs BPF LSM for {needs}")).unwrap_or_default();
        output.raw(format!("{name}: {}{needs}\n", found.summary()).as_bytes());
    }
    Checked {
        file: name.to_string(),
        ok: !found.has_errors(),
        needs: prepared.as_ref().and_then(|prepared| prepared.needs_lsm.clone()),
        policy: prepared.map(|prepared| prepared.name),
        unreadable: None,
        diagnostics: found.to_json(),
    }
}

fn apply(args: &Apply, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let asked = SetPolicy { policy: policy_choice(&args.policy)? };
    let client = shared.client();
    let made: MadeAgent = runtime()?.block_on(async {
        let agents: Vec<AgentView> = client.get("/agents").await?;
        let named = |agent: &&AgentView| agent.agent == args.agent || agent.id.to_string() == args.agent;
        let mut found = agents.iter().filter(named);
        match (found.next(), found.count()) {
            (Some(agent), 0) => Ok(client.put(&format!("/agents/{}/policy", agent.id), &asked).await?),
            (Some(_), more) => {
                Err(Problem::new(Exit::Failed, format!("{} agents are called `{}`", more + 1, args.agent))
                    .hint("name it by its number; `enforcer agents` lists them"))
            }
            (None, _) => Err(Problem::new(Exit::Failed, format!("there is no agent `{}`", args.agent))),
        }
    })?;
    output
        .data(&made, |made| format!("agent {} ({}) is under policy {}\n", made.agent, made.id, made.policy));
    Ok(Exit::Done)
}
