//! `enforcer tail`

use super::{
    Shared,
    exit::{ENDED, Exit, Problem},
    output::{Output, shown, time},
    runtime,
};
use crate::{
    control::{
        api::Missed,
        client::{Error, escape},
    },
    events::{EventView, intervention::InterventionEvent},
};
use clap::ValueEnum;

/// Follow decisions as they are made, and what people do to agents
///
/// Decisions that are simply allowed make events only where the policy says so (`log = "all"`); all are counted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer tail
  enforcer tail --agent night-shift --verdict block --verdict escalate
  enforcer tail --json --since-start | jq .object")]
pub(super) struct Args {
    /// Only of this agent, by its name or number
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Only with this verdict; can be given several times
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<Word>,
    /// Begin with the events that the daemon still has from before, some thousands
    #[arg(long)]
    since_start: bool,
}

/// The verdicts.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Word {
    Allow,
    Throttle,
    Sandbox,
    Escalate,
    Block,
}

impl Args {
    fn path(&self) -> String {
        let mut path = format!("/events?since_start={}", self.since_start);
        if let Some(agent) = &self.agent {
            path.push_str(&format!("&agent={}", escape(agent)));
        }
        let words = self.verdict.iter().filter_map(ValueEnum::to_possible_value);
        let words: Vec<_> = words.map(|word| word.get_name().to_owned()).collect();
        if !words.is_empty() {
            path.push_str(&format!("&verdict={}", words.join(",")));
        }
        path
    }
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let client = shared.client();
    runtime()?.block_on(async {
        let mut lines = client.lines(&args.path()).await?;
        loop {
            match lines.next().await {
                Ok(Some(line)) => tell(&line, output)?,
                // It ended as it should, or died.
                Ok(None) | Err(Error::Closed { .. }) => {
                    return Err(Problem::new(Exit::Unreachable, "the daemon has ended").hint(ENDED));
                }
                Err(error) => return Err(error.into()),
            }
        }
    })
}

fn tell(line: &[u8], output: &Output) -> Result<(), Problem> {
    if line.is_empty() {
        return Ok(());
    }
    if let Ok(Missed { missed }) = serde_json::from_slice(line) {
        output.say(&format!(
            "warning: {missed} events were missed, because they came faster than they were read"
        ));
        return Ok(());
    }
    if output.is_json() {
        output.raw(&[line, b"\n"].concat());
        return Ok(());
    }
    if let Ok(event) = serde_json::from_slice(line) {
        output.raw(intervened(&event).as_bytes());
        return Ok(());
    }
    let event: EventView<'_> =
        serde_json::from_slice(line).map_err(|error| Problem::from(Error::Answer(error)))?;
    output.raw(sentence(&event).as_bytes());
    Ok(())
}

/// One line for people.
fn sentence(event: &EventView<'_>) -> String {
    let access =
        if event.access.is_empty() { String::new() } else { format!(" ({})", event.access.join(",")) };
    let why = match (&event.rule, event.reason.as_ref()) {
        (Some(rule), "rule") => format!("rule {rule}"),
        (Some(rule), reason) => format!("rule {rule}, {reason}"),
        (None, reason) => reason.to_owned(),
    };
    let mut line = format!(
        "{}  {:<8}  {}  {} {}{access}  [{why}]  {}[{}]",
        time(event.time),
        if event.audit { format!("({})", event.verdict) } else { event.verdict.to_string() },
        event.agent,
        event.action,
        shown(&event.object),
        shown(&event.comm),
        event.pid,
    );
    if let Some(request) = &event.request {
        line.push_str(&format!("  request {request}"));
    }
    if let Some(message) = &event.message {
        line.push_str(&format!("  \"{message}\""));
    }
    line.push('\n');
    line
}

/// One line for people of what one of them did.
fn intervened(event: &InterventionEvent) -> String {
    let outcome = &event.outcome;
    let user = event.user.clone().unwrap_or_else(|| event.uid.to_string());
    let came = match (&outcome.error, outcome.done) {
        (Some(error), _) => format!("NOT DONE: {error}"),
        (None, false) => "NOT DONE".to_owned(),
        (None, true) => "done".to_owned(),
    };
    let mut line = format!(
        "{}  {:<8}  {}  by {}[{}]  [{came}]",
        time(event.time),
        event.action.to_string(),
        event.agent,
        shown(&user),
        event.pid,
    );
    if let Some(why) = &event.why {
        line.push_str(&format!("  \"{}\"", shown(why)));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::{Args, Word, intervened, sentence};
    use crate::{
        agents::intervention::Outcome,
        agents::names::Names,
        events::{Decided, decode::tests::event, intervention::tests::intervention},
        kernel::clock::Wall,
    };

    #[test]
    fn a_line_says_who_did_what_and_what_became_of_it() {
        let decided = Decided::new(event(), b"/etc/\x1b[2Jshadow", &Names::default(), &Wall::now());
        let line = sentence(&decided.view());
        let (_, rest) = line.split_once("  ").unwrap();
        assert_eq!(
            rest,
            "block     agent-7  open /etc/\\u{1b}[2Jshadow (read,write)  [rule]  python3[100]\n"
        );
    }

    #[test]
    fn a_line_says_who_stopped_an_agent_and_why() {
        let rest = |event| intervened(&event).split_once("  ").unwrap().1.to_owned();
        assert_eq!(
            rest(intervention()),
            "freeze    research  by root[4711]  [done]  \"it writes \"to\"\\nall\"\n"
        );
        let outcome = Outcome { error: Some("no".into()), ..Outcome::default() };
        let event = crate::events::intervention::InterventionEvent {
            why: None,
            user: None,
            outcome,
            ..intervention()
        };
        assert_eq!(rest(event), "freeze    research  by 0[4711]  [NOT DONE: no]\n");
    }

    #[test]
    fn what_is_wanted_is_asked_for() {
        let args =
            Args { agent: Some("a b".into()), verdict: vec![Word::Block, Word::Escalate], since_start: true };
        assert_eq!(args.path(), "/events?since_start=true&agent=a%20b&verdict=block,escalate");
    }
}
