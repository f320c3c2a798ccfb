//! `enforcer why`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, shown, time},
    runtime,
};
use crate::{
    control::{api::Refusal, client::Client},
    daemon::config::agents_socket,
};
use std::path::PathBuf;

/// For agents: say what was refused lately, and why
///
/// Tells the agent that asks of its own refusals, the newest first, and of nothing else.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer why
  enforcer why --json | jq '.[0]'")]
pub(super) struct Args {
    /// The socket for agents [default: `agents.sock` beside the control socket]
    #[arg(long, value_name = "PATH")]
    agents_socket: Option<PathBuf>,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    number: usize,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let socket = args.agents_socket.clone().unwrap_or_else(|| agents_socket(&shared.socket));
    let mut refusals: Vec<Refusal> = runtime()?.block_on(Client::new(&socket).get("/why"))?;
    refusals.truncate(args.number);
    output.data(&refusals, |refusals| told(refusals));
    Ok(Exit::Done)
}

fn told(refusals: &[Refusal]) -> String {
    if refusals.is_empty() {
        return "nothing was refused\n".to_owned();
    }
    let one = |refusal: &Refusal| {
        let audit = if refusal.audit { " (only noted: the policy audits)" } else { "" };
        let mut text = format!(
            "{}  {} {}: {}{audit}\n    {}\n",
            time(refusal.time),
            refusal.action,
            shown(&refusal.object),
            refusal.verdict,
            refusal.explanation,
        );
        if let Some(rule) = &refusal.rule {
            text.push_str(&format!("    rule {rule}\n"));
        }
        if let Some(message) = &refusal.message {
            text.push_str(&format!("    {message}\n"));
        }
        if let Some(request) = &refusal.request {
            text.push_str(&format!("    request {request}\n"));
        }
        text
    };
    refusals.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::told;
    use crate::control::api::Refusal;
    use jiff::Timestamp;

    #[test]
    fn an_agent_is_told_the_rule_and_its_message() {
        let refusal = Refusal {
            time: Timestamp::UNIX_EPOCH,
            action: "open".into(),
            object: "/etc/shadow".into(),
            rule: Some("secrets".into()),
            message: Some("Secrets are not for agents; ask the vault.".into()),
            verdict: "block".into(),
            reason: "rule".into(),
            explanation: "a rule of the policy decides this action".into(),
            request: None,
            audit: false,
        };
        let text = told(&[refusal]).replace(&super::time(Timestamp::UNIX_EPOCH), "1970-01-01 00:00:00");
        insta::assert_snapshot!(text, @r"
        1970-01-01 00:00:00  open /etc/shadow: block
            a rule of the policy decides this action
            rule secrets
            Secrets are not for agents; ask the vault.
        ");
        assert_eq!(told(&[]), "nothing was refused\n");
    }
}
