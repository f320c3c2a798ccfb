//! From the tree of values to a [`Policy`]: every key and value is looked at, and all that is wrong is found
//! in one run.

mod action;
mod keys;
mod network;
mod path;

use std::collections::HashMap;

use toml::Spanned;
use toml::de::DeTable;

use self::keys::Keys;
use super::diagnostics::{Findings, quote};
use super::limits::{MAX_MESSAGE_BYTES, MAX_NAME_CHARS, MAX_RULES};
use super::model::{Action, Answer, Defaults, Log, Mode, Policy, Rule, VERSION};
use super::section::{Context, Field, Section, Value};
use super::source::{PolicySource, Span};
use super::suggest::slug;

/// Where the rules of a policy stand in the file, in the order of the policy.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) network: Vec<Span>,
    pub(crate) file: Vec<Span>,
    pub(crate) exec: Vec<Span>,
    /// The value of `default.network`.
    pub(crate) default_network: Span,
    /// The value of `default.exec`.
    pub(crate) default_exec: Span,
}

/// Reads a policy. Without errors it is there, with errors it is not.
pub(crate) fn policy(
    found: &mut Findings,
    source: &PolicySource,
    tree: &Spanned<DeTable<'_>>,
) -> Option<(Policy, Places)> {
    let mut cx = Context { source, found: std::mem::take(found) };
    let read = root(&mut cx, tree.get_ref());
    *found = cx.found;
    read.filter(|_| !found.has_errors())
}

fn root(cx: &mut Context<'_>, table: &DeTable<'_>) -> Option<(Policy, Places)> {
    let mut root = Section::new(Keys::Root.title(), first_key(table), table);
    keys::check(cx, &mut root, Keys::Root);
    let version = version(cx, &root);
    if version.is_none() && root.field("version").is_some() {
        return None;
    }
    let name = policy_name(cx, &root);
    let mode = mode(cx, &root);
    let log = log(cx, &root);
    let mut places = Places::default();
    let default = default(cx, &root, &mut places);

    check_rule_count(cx, &root)?;
    let mut names = Names::default();
    let network = rules(cx, &root, &mut names, Keys::Network, &mut places.network, network::matches);
    let file = rules(cx, &root, &mut names, Keys::File, &mut places.file, path::file);
    let exec = rules(cx, &root, &mut names, Keys::Exec, &mut places.exec, path::exec);
    path::check_total(cx, &file, &exec, &places);
    let policy = Policy {
        version: version?,
        name: name?,
        mode: mode?,
        log: log?,
        default: default?,
        network,
        file,
        exec,
    };
    Some((policy, places))
}

/// Where to point when something is missing from the file as a whole.
fn first_key(table: &DeTable<'_>) -> Span {
    table.keys().map(Spanned::span).min_by_key(|span| span.start).unwrap_or(0..0)
}

fn version(cx: &mut Context<'_>, root: &Section<'_>) -> Option<u32> {
    let field = root.required(cx, "version", "write `version = 1` in the first line")?;
    match field.value.integer() {
        Some(version) if version == i64::from(VERSION) => Some(VERSION),
        Some(version) => {
            cx.found
                .error(
                    &field.value.span,
                    format!("version {version} of the policy language is not known here"),
                )
                .with_help("write `version = 1`, or use a newer enforcer");
            None
        }
        None => {
            field.wrong_kind(cx, "a number", "1");
            None
        }
    }
}

fn policy_name(cx: &mut Context<'_>, root: &Section<'_>) -> Option<String> {
    let field = root.required(cx, "name", "write `name = \"research-agent\"`, or what you call it")?;
    let text = field.string(cx, "\"research-agent\"")?;
    checked_name(cx, &field, text)
}

/// A name: small letters, digits and hyphens.
fn checked_name(cx: &mut Context<'_>, field: &Field<'_>, text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fault = if text.is_empty() {
        "a name cannot be empty".to_owned()
    } else if text.len() > MAX_NAME_CHARS {
        format!("a name of {} characters is over the limit of {MAX_NAME_CHARS}", text.chars().count())
    } else if !text.chars().all(allowed) || text.starts_with('-') {
        format!("{} is not a name", quote(text))
    } else {
        return Some(text.to_owned());
    };
    let diagnostic = cx.found.error(&field.value.span, fault);
    let rule = "a name is made of small letters, digits and hyphens, and does not begin with a hyphen";
    match slug(text, MAX_NAME_CHARS) {
        Some(slug) => diagnostic.with_help(format!("write `{} = \"{slug}\"`: {rule}", field.name)),
        None => diagnostic.with_help(rule),
    };
    None
}

fn mode(cx: &mut Context<'_>, root: &Section<'_>) -> Option<Mode> {
    let Some(field) = root.field("mode") else { return Some(Mode::Enforce) };
    let meant = [
        ("enforcing", "enforce"),
        ("on", "enforce"),
        ("permissive", "audit"),
        ("log", "audit"),
        ("monitor", "audit"),
        ("dry-run", "audit"),
    ];
    field.word(cx, &[("enforce", Mode::Enforce), ("audit", Mode::Audit)], &meant)
}

fn log(cx: &mut Context<'_>, root: &Section<'_>) -> Option<Log> {
    let Some(field) = root.field("log") else { return Some(Log::Denied) };
    field.word(cx, &[("denied", Log::Denied), ("all", Log::All)], &[("blocked", "denied")])
}

const DEFAULT_HELP: &str = "what no rule names must be chosen on purpose; a careful start is\n\
                            [default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"";

fn default(cx: &mut Context<'_>, root: &Section<'_>, places: &mut Places) -> Option<Defaults> {
    let field = root.required(cx, "default", DEFAULT_HELP)?;
    let Some(table) = field.value.table() else {
        field.wrong_kind(cx, "a table", "{ network = \"block\", files = \"allow\", exec = \"allow\" }");
        return None;
    };
    let mut section = Section::new(Keys::Default.title(), field.value.span.clone(), table);
    keys::check(cx, &mut section, Keys::Default);
    let network = default_answer(cx, &section, "network");
    let files = default_answer(cx, &section, "files");
    let exec = default_answer(cx, &section, "exec");
    let ((network, default_network), (files, _), (exec, default_exec)) = (network?, files?, exec?);
    places.default_network = default_network;
    places.default_exec = default_exec;
    let line = cx.source.position(section.span.start).line;
    Some(Defaults { network, files, exec, line })
}

fn default_answer(cx: &mut Context<'_>, section: &Section<'_>, name: &'static str) -> Option<(Answer, Span)> {
    let help = format!(
        "write `{name} = \"block\"` or `{name} = \"allow\"`: what no rule names must be chosen on purpose"
    );
    let field = section.required(cx, name, &help)?;
    let advice = "a default is `allow` or `block`; write a rule that matches everything, as the last of its kind, for more";
    let meant =
        [&[("throttle", advice), ("sandbox", advice), ("escalate", advice)], action::ANSWERS_MEANT].concat();
    let answer = field.word(cx, action::ANSWERS, &meant)?;
    Some((answer, field.value.span))
}

/// The names of rules with their places: they are unique in a policy.
#[derive(Default)]
struct Names(HashMap<String, Span>);

/// Reads what a rule of one kind matches, knowing its action if that could be read.
type Matches<M> = fn(&mut Context<'_>, &Section<'_>, Option<&Action>) -> Option<M>;

/// The rules of one kind, those left out that have errors.
fn rules<M>(
    cx: &mut Context<'_>,
    root: &Section<'_>,
    names: &mut Names,
    kind: Keys,
    places: &mut Vec<Span>,
    matches: Matches<M>,
) -> Vec<Rule<M>> {
    let sections = rule_sections(cx, root, kind);
    let mut rules = Vec::with_capacity(sections.len());
    for (index, mut section) in sections.into_iter().enumerate() {
        keys::check(cx, &mut section, kind);
        if let Some(rule) = rule(cx, &section, names, kind, index, matches) {
            rules.push(rule);
            places.push(section.span);
        }
    }
    rules
}

/// Reports the rule that is one too many.
fn check_rule_count(cx: &mut Context<'_>, root: &Section<'_>) -> Option<()> {
    let kinds = [Keys::Network, Keys::File, Keys::Exec];
    let rules: Vec<_> = kinds
        .into_iter()
        .filter_map(|kind| root.field(kind.name())?.value.elements())
        .flatten()
        .map(|rule| rule.span)
        .collect();
    let Some(beyond) = rules.get(MAX_RULES) else { return Some(()) };
    cx.found
        .error(beyond, format!("a policy has at most {MAX_RULES} rules, and this one has {}", rules.len()))
        .with_help("put addresses or paths that share an action into one rule");
    None
}

fn rule_sections<'a>(cx: &mut Context<'_>, root: &Section<'a>, kind: Keys) -> Vec<Section<'a>> {
    let Some(field) = root.field(kind.name()) else { return Vec::new() };
    let Some(elements) = field.value.elements() else {
        cx.found
            .error(
                &field.value.span,
                format!("{} holds rules, and this is {}", quote(field.name), field.value.kind()),
            )
            .with_help(format!("write {}, with two brackets, before each rule", kind.title()));
        return Vec::new();
    };
    elements.iter().filter_map(|element| rule_section(cx, element, kind)).collect()
}

fn rule_section<'a>(cx: &mut Context<'_>, element: &Value<'a>, kind: Keys) -> Option<Section<'a>> {
    let Some(table) = element.table() else {
        cx.found
            .error(&element.span, format!("a rule is a table, and this is {}", element.kind()))
            .with_help(format!("write {} and the keys of the rule below it", kind.title()));
        return None;
    };
    Some(Section::new(kind.title(), element.span.clone(), table))
}

fn rule<M>(
    cx: &mut Context<'_>,
    section: &Section<'_>,
    names: &mut Names,
    kind: Keys,
    index: usize,
    matches: Matches<M>,
) -> Option<Rule<M>> {
    let name = rule_name(cx, section, names, kind, index);
    let message = message(cx, section);
    let action = action::action(cx, section);
    let matches = matches(cx, section, action.as_ref());
    let line = cx.source.position(section.span.start).line;
    Some(Rule { name: name?, line, action: action?, message: message?, matches: matches? })
}

fn rule_name(
    cx: &mut Context<'_>,
    section: &Section<'_>,
    names: &mut Names,
    kind: Keys,
    index: usize,
) -> Option<String> {
    let Some(field) = section.field("name") else { return Some(format!("{}[{}]", kind.name(), index + 1)) };
    let text = field.string(cx, "\"llm-api\"")?;
    let name = checked_name(cx, &field, text)?;
    if let Some(first) = names.0.insert(name.clone(), field.value.span.clone()) {
        cx.found
            .error(&field.value.span, format!("two rules are called {}", quote(&name)))
            .and_at(&first, "the first is here")
            .with_help(format!("write another name, such as `\"{name}-2\"`"));
        return None;
    }
    Some(name)
}

fn message(cx: &mut Context<'_>, section: &Section<'_>) -> Option<Option<String>> {
    let Some(field) = section.field("message") else { return Some(None) };
    let text = field.string(cx, "\"ask the vault for secrets\"")?;
    let fault = if text.len() > MAX_MESSAGE_BYTES {
        format!("a message of {} bytes is over the limit of {MAX_MESSAGE_BYTES}", text.len())
    } else if text.chars().any(super::diagnostics::is_invisible) {
        "a message holds line breaks or other characters that cannot be seen".to_owned()
    } else if text.trim().is_empty() {
        "a message that is empty says nothing".to_owned()
    } else {
        return Some(Some(text.to_owned()));
    };
    cx.found
        .error(&field.value.span, fault)
        .with_help("write one line that tells the agent what to do instead");
    None
}
