//! `enforcer approvals`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, parse_duration, shown, span, table, time},
    runtime,
};
use crate::{
    control::{
        api::{ApprovalView, Approve, Reject},
        client::escape,
    },
    holds::HeldAs,
};
use clap::Subcommand;
use jiff::Timestamp;
use std::time::Duration;

/// See and answer requests that wait for a person
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer approvals
  enforcer approvals show 3f9c
  enforcer approvals approve 3f9c02a1b7de --for 10m
  enforcer approvals reject 3f9c --reason \"not during the freeze\"")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Approve(ApproveArgs),
    Reject(RejectArgs),
}

/// List the requests that wait, those first that end first
#[derive(Debug, clap::Args)]
struct List {}

/// Tell all there is of a request
#[derive(Debug, clap::Args)]
struct Show {
    /// The request, or how it begins
    #[arg(value_name = "ID")]
    id: String,
}

/// Allow what a request asks for
///
/// Whoever is held for it goes on; a call that failed instead passes when it is tried again. Without options the answer holds for as long as the rule remembers
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
        Some(Command::Show(args)) => {
            let view: ApprovalView =
                runtime.block_on(client.get(&format!("/approvals/{}", escape(&args.id))))?;
            output.data(&view, |view| told(view, Timestamp::now()));
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
            format!("{}[{}]", shown(view.program.as_deref().unwrap_or(&view.comm)), view.pid),
            held(view),
            span(now.duration_since(view.since)),
            format!("{} in {}", view.on_timeout, span(view.deadline.duration_since(now))),
        ]
    };
    let rows: Vec<_> = pending.iter().map(row).collect();
    table(&["REQUEST", "AGENT", "WANTS TO", "RULE", "PROGRAM", "HELD", "WAITS FOR", "ELSE"], &rows)
}

/// How many threads wait; nothing where the call failed instead.
fn held(view: &ApprovalView) -> String {
    if view.waits.is_empty() { "-".to_owned() } else { view.waits.len().to_string() }
}

fn told(view: &ApprovalView, now: Timestamp) -> String {
    let unknown = || "not known: its process is gone".to_owned();
    let hold = match view.hold {
        HeldAs::Thread => "the thread",
        HeldAs::Process => "the whole process",
        HeldAs::Turning => "about to be frozen",
        HeldAs::Refused => "none: the call failed, and passes when it is tried again after the answer",
    };
    let quoted = |arguments: &Vec<String>| {
        let quoted: Vec<_> = arguments.iter().map(|argument| quote(&shown(argument))).collect();
        quoted.join(" ")
    };
    let mut lines = vec![
        ("request", view.id.to_string()),
        ("agent", format!("{} ({})", view.agent, view.agent_id)),
        ("wants to", act(view)),
        ("rule", view.rule.clone().unwrap_or_default()),
    ];
    lines.extend(view.message.as_ref().map(|message| ("message", shown(message).into_owned())));
    lines.extend([
        ("program", view.program.as_deref().map_or_else(unknown, |path| shown(path).into_owned())),
        ("arguments", view.arguments.as_ref().map_or_else(unknown, quoted)),
        ("folder", view.directory.as_deref().map_or_else(unknown, |path| shown(path).into_owned())),
        ("asked", format!("{}[{}] thread {}, user {}", shown(&view.comm), view.pid, view.tid, view.uid)),
        ("since", format!("{}, {} ago", time(view.since), span(now.duration_since(view.since)))),
        (
            "else",
            format!(
                "{} at {}, in {}",
                view.on_timeout,
                time(view.deadline),
                span(view.deadline.duration_since(now))
            ),
        ),
        ("hold", hold.to_owned()),
    ]);
    for wait in &view.waits {
        let waits = format!(
            "thread {} of process {}, for {}",
            wait.tid,
            wait.pid,
            span(now.duration_since(wait.since))
        );
        lines.push(("waits", waits));
    }
    lines.iter().map(|(what, text)| format!("{what:<9}  {text}\n")).collect()
}

/// An argument as a shell would take it.
fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
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
    use super::{answered, listed, quote, told};
    use crate::{
        agents::AgentId,
        approvals::RequestId,
        cli::output::time,
        control::api::{ApprovalView, WaitView},
        holds::HeldAs,
    };
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
            hold: HeldAs::Thread,
            waits: vec![
                WaitView { pid: 812, tid: 812, held: HeldAs::Thread, since: Timestamp::UNIX_EPOCH },
                WaitView { pid: 812, tid: 815, held: HeldAs::Thread, since: Timestamp::UNIX_EPOCH },
            ],
            program: Some("/usr/bin/python3".into()),
            arguments: Some(vec!["python3".into(), "-c".into(), "print('it is')".into()]),
            directory: Some("/srv".into()),
        }
    }

    #[test]
    fn all_of_a_request_is_told() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(72);
        let text = told(&view(), now);
        let text = text.replace(&time(view().since), "SINCE").replace(&time(view().deadline), "DEADLINE");
        insta::assert_snapshot!(text, @r"
        request    2d61399f8a4b
        agent      research (1)
        wants to   open /srv/customers/4711.json (read)
        rule       customer-data
        program    /usr/bin/python3
        arguments  python3 -c 'print('\''it is'\'')'
        folder     /srv
        asked      python3[812] thread 812, user 0
        since      SINCE, 1m 12s ago
        else       block at DEADLINE, in 3m 48s
        hold       the thread
        waits      thread 812 of process 812, for 1m 12s
        waits      thread 815 of process 812, for 1m 12s
        ");
        let refused = ApprovalView {
            hold: HeldAs::Refused,
            waits: vec![],
            program: None,
            arguments: None,
            directory: None,
            message: Some("ask Ops".into()),
            ..view()
        };
        let text = told(&refused, now);
        assert!(text.contains("\nmessage    ask Ops\n"), "{text}");
        assert!(text.contains("\nprogram    not known: its process is gone\n"), "{text}");
        assert!(text.contains("\nhold       none: the call failed"), "{text}");
    }

    #[test]
    fn arguments_can_be_pasted() {
        assert_eq!(["a-b", "", "a b", "it's"].map(quote), ["a-b", "''", "'a b'", "'it'\\''s'"]);
    }

    #[test]
    fn a_list_says_what_waits_and_what_else() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(72);
        insta::assert_snapshot!(listed(&[view()], now), @r"
        REQUEST       AGENT     WANTS TO                              RULE           PROGRAM                HELD  WAITS FOR  ELSE
        2d61399f8a4b  research  open /srv/customers/4711.json (read)  customer-data  /usr/bin/python3[812]  2     1m 12s     block in 3m 48s
        ");
        assert_eq!(listed(&[], now), "nothing waits\n");
        insta::assert_snapshot!(answered("approved", &view()), @"approved 2d61399f8a4b: research wants to open /srv/customers/4711.json (read)");
    }
}
