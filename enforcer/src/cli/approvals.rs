//! `enforcer approvals`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, parse_duration, shown, span, table},
    runtime,
};
use crate::control::{
    api::{ApprovalView, Approve, Reject},
    client::escape,
};
use clap::Subcommand;
use jiff::Timestamp;
use std::time::Duration;

/// See and answer requests that wait for a person
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer approvals
  enforcer approvals approve 3f9c02a1b7de --for 10m
  enforcer approvals reject 3f9c --reason \"not during the freeze\"")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Approve(ApproveArgs),
    Reject(RejectArgs),
}

/// List the requests that wait, those first that end first
#[derive(Debug, clap::Args)]
struct List {}

/// Allow what a request asks for
///
/// The action passes when the agent tries it again. Without options the answer holds for as long as the rule remembers
/// answers, or once; an answer for once lasts ten minutes. It is for that object, and no other.
#[derive(Debug, clap::Args)]
struct ApproveArgs {
    /// The request, or how it begins
    #[arg(value_name = "ID")]
    id: String,
    /// How often it may be used
    #[arg(long, value_name = "N")]
    uses: Option<u64>,
    /// For how long it may be used, like `10m` or `1h30m`
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,
}

/// Refuse what a request asks for
#[derive(Debug, clap::Args)]
struct RejectArgs {
    /// The request, or how it begins
    #[arg(value_name = "ID")]
    id: String,
    /// Why, for the daemon's log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let client = shared.client();
    let runtime = runtime()?;
    match &args.command {
        None | Some(Command::List(List {})) => {
            let pending: Vec<ApprovalView> = runtime.block_on(client.get("/approvals"))?;
            output.data(&pending, |pending| listed(pending, Timestamp::now()));
        }
        Some(Command::Approve(args)) => {
            let for_ms = args.lasts.map(|lasts| lasts.as_millis() as u64);
            let path = format!("/approvals/{}/approve", escape(&args.id));
            let view = runtime.block_on(client.post(&path, &Approve { uses: args.uses, for_ms }))?;
            output.data(&view, |view| answered("approved", view));
        }
        Some(Command::Reject(args)) => {
            let path = format!("/approvals/{}/reject", escape(&args.id));
            let view = runtime.block_on(client.post(&path, &Reject { reason: args.reason.clone() }))?;
            output.data(&view, |view| answered("rejected", view));
        }
    }
    Ok(Exit::Done)
}

fn listed(pending: &[ApprovalView], now: Timestamp) -> String {
    if pending.is_empty() {
        return "nothing waits\n".to_owned();
    }
    let row = |view: &ApprovalView| {
        vec![
            view.id.to_string(),
            view.agent.clone(),
            act(view),
            view.rule.clone().unwrap_or_default(),
            format!("{}[{}]", shown(&view.comm), view.pid),
            span(now.duration_since(view.since)),
            format!("{} in {}", view.on_timeout, span(view.deadline.duration_since(now))),
        ]
    };
    let rows: Vec<_> = pending.iter().map(row).collect();
    table(&["REQUEST", "AGENT", "WANTS TO", "RULE", "PROCESS", "WAITS FOR", "ELSE"], &rows)
}

fn act(view: &ApprovalView) -> String {
    let access = if view.access.is_empty() { String::new() } else { format!(" ({})", view.access.join(",")) };
    format!("{} {}{access}", view.action, shown(&view.object))
}

fn answered(how: &str, view: &ApprovalView) -> String {
    format!("{how} {}: {} wants to {}\n", view.id, view.agent, act(view))
}

#[cfg(test)]
mod tests {
    use super::{answered, listed};
    use crate::{agents::AgentId, approvals::RequestId, control::api::ApprovalView};
    use enforcer_common::grant::RequestKey;
    use jiff::{SignedDuration, Timestamp};

    fn view() -> ApprovalView {
        ApprovalView {
            id: RequestId::of(&RequestKey { agent: 1, rule: 2, object: [3, 4] }),
            agent: "research".into(),
            agent_id: AgentId(1),
            action: "open".into(),
            object: "/srv/customers/4711.json".into(),
            access: vec!["read".into()],
            rule: Some("customer-data".into()),
            message: None,
            pid: 812,
            tid: 812,
            comm: "python3".into(),
            uid: 0,
            since: Timestamp::UNIX_EPOCH,
            deadline: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(300),
            on_timeout: "block".into(),
        }
    }

    #[test]
    fn a_list_says_what_waits_and_what_else() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(72);
        insta::assert_snapshot!(listed(&[view()], now), @r"
        REQUEST       AGENT     WANTS TO                              RULE           PROCESS       WAITS FOR  ELSE
        2d61399f8a4b  research  open /srv/customers/4711.json (read)  customer-data  python3[812]  1m 12s     block in 3m 48s
        ");
        assert_eq!(listed(&[], now), "nothing waits\n");
        insta::assert_snapshot!(answered("approved", &view()), @"approved 2d61399f8a4b: research wants to open /srv/customers/4711.json (read)");
    }
}
