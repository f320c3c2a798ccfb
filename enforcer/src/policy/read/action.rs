//! The action of a rule with the keys that it takes, and the keys that it does not take.

use std::net::SocketAddr;
use std::time::Duration;

use super::keys::Keys;
use enforcer_common::hold::Hold;

use crate::policy::diagnostics::quote;
use crate::policy::duration;
use crate::policy::limits::{
    DEFAULT_TIMEOUT, MAX_RATE_COUNT, MAX_REFILL, MAX_REMEMBER, MAX_TIMEOUT, MIN_TIMEOUT,
};
use crate::policy::model::{Action, Answer};
use crate::policy::rate::Rate;
use crate::policy::section::{Context, Field, Section, report};

/// The words for yes and no.
pub(super) const ANSWERS: &[(&str, Answer)] = &[("block", Answer::Block), ("allow", Answer::Allow)];

/// The words that others use for them.
pub(super) const ANSWERS_MEANT: &[(&str, &str)] = &[
    ("deny", "block"),
    ("denied", "block"),
    ("drop", "block"),
    ("reject", "block"),
    ("refuse", "block"),
    ("forbid", "block"),
    ("no", "block"),
    ("permit", "allow"),
    ("accept", "allow"),
    ("pass", "allow"),
    ("yes", "allow"),
];

/// What may be held.
const HOLDS: &[(&str, Hold)] =
    &[("thread", Hold::Thread), ("process", Hold::Process), ("refuse", Hold::Refuse)];

/// The words that others use for them.
const HOLDS_MEANT: &[(&str, &str)] =
    &[("task", "thread"), ("call", "thread"), ("none", "refuse"), ("no", "refuse")];

/// Whether an action over the rate waits.
const EXCEEDS: &[(&str, bool)] = &[("refuse", false), ("pause", true)];

/// The words that others use for it.
const EXCEEDS_MEANT: &[(&str, &str)] =
    &[("block", "refuse"), ("deny", "refuse"), ("fail", "refuse"), ("wait", "pause"), ("hold", "pause")];

const WORDS: &[(&str, Word)] = &[
    ("allow", Word::Allow),
    ("block", Word::Block),
    ("throttle", Word::Throttle),
    ("sandbox", Word::Sandbox),
    ("escalate", Word::Escalate),
];

const WORDS_MEANT: &[(&str, &str)] = &[
    ("limit", "throttle"),
    ("ratelimit", "throttle"),
    ("rate-limit", "throttle"),
    ("redirect", "sandbox"),
    ("replica", "sandbox"),
    ("ask", "escalate"),
    ("approve", "escalate"),
    ("approval", "escalate"),
    ("prompt", "escalate"),
    ("hold", "escalate"),
    (
        "log",
        "write `mode = \"audit\"` at the top to log without acting, or `action = \"allow\"` and `log = \"all\"`",
    ),
    ("audit", "write `mode = \"audit\"` at the top to log without acting"),
];

/// Keys with the action that they belong to.
const OWNED: &[(&str, Word)] = &[
    ("rate", Word::Throttle),
    ("burst", Word::Throttle),
    ("on_exceed", Word::Throttle),
    ("redirect", Word::Sandbox),
    ("timeout", Word::Escalate),
    ("on_timeout", Word::Escalate),
    ("remember", Word::Escalate),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Allow,
    Block,
    Throttle,
    Sandbox,
    Escalate,
}

impl Word {
    fn text(self) -> &'static str {
        WORDS.iter().find(|(_, word)| *word == self).map_or("", |(text, _)| text)
    }
}

/// The action of a rule.
pub(super) fn action(cx: &mut Context<'_>, section: &Section<'_>) -> Option<Action> {
    let field = section.required(cx, "action", &missing_action(section))?;
    let meant = [ANSWERS_MEANT, WORDS_MEANT].concat();
    let word = field.word(cx, WORDS, &meant)?;
    refuse_foreign(cx, section, word);
    refuse_hold(cx, section, word);
    match word {
        Word::Allow => Some(Action::Allow),
        Word::Block => Some(Action::Block),
        Word::Throttle => throttle(cx, section),
        Word::Sandbox => sandbox(cx, section, &field),
        Word::Escalate => escalate(cx, section),
    }
}

fn missing_action(section: &Section<'_>) -> String {
    match OWNED.iter().find(|(key, _)| section.field(key).is_some()) {
        Some((_, word)) => format!("write `action = \"{}\"`", word.text()),
        None => "write `action = \"allow\"`, `\"block\"`, `\"throttle\"`, `\"sandbox\"` or `\"escalate\"`"
            .to_owned(),
    }
}

/// Reports the keys that belong to another action.
fn refuse_foreign(cx: &mut Context<'_>, section: &Section<'_>, word: Word) {
    for (key, owner) in OWNED.iter().filter(|(_, owner)| *owner != word) {
        if let Some(field) = section.field(key) {
            cx.found
                .error(&field.key, format!("{} needs `action = \"{}\"`", quote(key), owner.text()))
                .with_help(format!(
                    "remove {}, or write that action instead of {}",
                    quote(key),
                    quote(word.text())
                ));
        }
    }
}

/// Reports `hold` where nothing waits.
fn refuse_hold(cx: &mut Context<'_>, section: &Section<'_>, word: Word) {
    let pauses = || section.field("on_exceed").is_some_and(|field| field.value.string() == Some("pause"));
    if word == Word::Escalate || word == Word::Throttle && pauses() {
        return;
    }
    if let Some(field) = section.field("hold") {
        let help = match word {
            Word::Throttle => "write `on_exceed = \"pause\"` as well, or remove `hold`".to_owned(),
            _ => format!("remove `hold`, or write that action instead of {}", quote(word.text())),
        };
        cx.found
            .error(
                &field.key,
                "`hold` needs an action that waits: `escalate`, or `throttle` that pauses".to_owned(),
            )
            .with_help(help);
    }
}

/// What waits, or what does by default.
fn hold(cx: &mut Context<'_>, section: &Section<'_>, default: Hold) -> Option<Hold> {
    match section.field("hold") {
        Some(field) => field.word(cx, HOLDS, HOLDS_MEANT),
        None => Some(default),
    }
}

/// What waits for a token.
fn hold_on_exceed(cx: &mut Context<'_>, section: &Section<'_>) -> Option<Hold> {
    let pauses = match section.field("on_exceed") {
        Some(field) => field.word(cx, EXCEEDS, EXCEEDS_MEANT)?,
        None => false,
    };
    if !pauses {
        return Some(Hold::Refuse);
    }
    let held = hold(cx, section, Hold::Thread)?;
    if held == Hold::Refuse
        && let Some(field) = section.field("hold")
    {
        cx.found
            .error(&field.value.span, "nothing can pause that is not held".to_owned())
            .with_help("write `hold = \"thread\"`, or `on_exceed = \"refuse\"` without `hold`");
        return None;
    }
    Some(held)
}

fn throttle(cx: &mut Context<'_>, section: &Section<'_>) -> Option<Action> {
    let field = section.required(
        cx,
        "rate",
        "write how many actions may pass in what time, such as `rate = \"30/minute\"`",
    )?;
    let rate = rate(cx, &field);
    let burst = match section.field("burst") {
        Some(field) => burst(cx, &field),
        None => rate.map(Rate::count),
    };
    let hold = hold_on_exceed(cx, section);
    let (rate, burst, hold) = (rate?, burst?, hold?);
    if rate.refill(burst) > MAX_REFILL {
        let field = section.field("burst").unwrap_or(field);
        cx.found
            .error(
                &field.value.span,
                format!(
                    "a burst of {burst} at {rate} takes {} to come back",
                    duration::format(rate.refill(burst))
                ),
            )
            .with_help("write a smaller `burst` or a faster `rate`");
        return None;
    }
    Some(Action::Throttle { rate, burst, hold })
}

fn rate(cx: &mut Context<'_>, field: &Field<'_>) -> Option<Rate> {
    let example = match field.value.integer() {
        Some(count) if count > 0 => format!("\"{count}/minute\""),
        _ => "\"30/minute\"".to_owned(),
    };
    let text = field.string(cx, &example)?;
    Rate::parse(text).map_err(|fault| report(cx, &field.value, &fault).severity()).ok()
}

fn burst(cx: &mut Context<'_>, field: &Field<'_>) -> Option<u32> {
    let Some(burst) = field.value.integer() else {
        field.wrong_kind(cx, "a whole number", "10");
        return None;
    };
    match u32::try_from(burst) {
        Ok(burst) if (1..=MAX_RATE_COUNT).contains(&burst) => Some(burst),
        _ => {
            let help = if burst == 0 {
                "write `burst = 1` for one action at a time, or `action = \"block\"` for none".to_owned()
            } else {
                format!("write a number from 1 to {MAX_RATE_COUNT}")
            };
            cx.found.error(&field.value.span, format!("a burst of {burst} is out of range")).with_help(help);
            None
        }
    }
}

fn sandbox(cx: &mut Context<'_>, section: &Section<'_>, action: &Field<'_>) -> Option<Action> {
    if section.title != Keys::Network.title() {
        cx.found
            .error(&action.value.span, format!("`sandbox` in {} is not there yet", section.title))
            .with_help("write `action = \"block\"` or `action = \"escalate\"`; network rules have `sandbox`");
        return None;
    }
    let field = section.required(
        cx,
        "redirect",
        "write the address and port that connections go to instead, such as `redirect = \"127.0.0.1:15432\"`",
    )?;
    Some(Action::Sandbox { redirect: redirect(cx, &field)? })
}

fn redirect(cx: &mut Context<'_>, field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.string(cx, "\"127.0.0.1:15432\"")?;
    let replica = crate::policy::address::parse_redirect(text);
    replica.map_err(|fault| report(cx, &field.value, &fault).severity()).ok()
}

fn escalate(cx: &mut Context<'_>, section: &Section<'_>) -> Option<Action> {
    let timeout = match section.field("timeout") {
        Some(field) => bounded_duration(cx, &field, "\"5m\"", MAX_TIMEOUT),
        None => Some(DEFAULT_TIMEOUT),
    };
    let on_timeout = match section.field("on_timeout") {
        Some(field) => field.word(cx, ANSWERS, ANSWERS_MEANT),
        None => Some(Answer::Block),
    };
    let remember = match section.field("remember") {
        Some(field) => bounded_duration(cx, &field, "\"15m\"", MAX_REMEMBER).map(Some),
        None => Some(None),
    };
    let hold = hold(cx, section, Hold::Thread);
    Some(Action::Escalate { timeout: timeout?, on_timeout: on_timeout?, remember: remember?, hold: hold? })
}

fn bounded_duration(
    cx: &mut Context<'_>,
    field: &Field<'_>,
    example: &str,
    most: Duration,
) -> Option<Duration> {
    let example = match field.value.integer().and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) if seconds > 0 => format!("\"{}\"", duration::format(Duration::from_secs(seconds))),
        _ => example.to_owned(),
    };
    let text = field.string(cx, &example)?;
    let read = duration::parse(text).map_err(|fault| report(cx, &field.value, &fault).severity()).ok()?;
    if read < MIN_TIMEOUT || read > most {
        let (least, most) = (duration::format(MIN_TIMEOUT), duration::format(most));
        cx.found
            .error(&field.value.span, format!("{} is out of range for {}", quote(text), quote(field.name)))
            .with_help(format!("write a duration from `\"{least}\"` to `\"{most}\"`"));
        return None;
    }
    Some(read)
}
