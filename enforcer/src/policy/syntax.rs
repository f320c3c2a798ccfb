//! From the text to a tree of TOML values with their places, and the errors of a text that is not TOML.
//!
//! The parser goes on after an error, so one mistake tends to give several: an array that is not closed
//! makes nonsense of all that follows. What is reported is the first error of each line, of an unclosed
//! bracket only the bracket, and of a table that is written twice only its header.

use toml::Spanned;
use toml::de::DeTable;
use toml_parser::lexer::TokenKind;

use super::diagnostics::{Fault, Findings, quote};
use super::source::{PolicySource, Span};

/// The tree of a source; nothing, and the errors among the findings, if it is not TOML.
pub(crate) fn tree<'s>(found: &mut Findings, source: &'s PolicySource) -> Option<Spanned<DeTable<'s>>> {
    let (tree, errors) = DeTable::parse_recoverable(source.text());
    if errors.is_empty() {
        return Some(tree);
    }
    report(found, source, &errors);
    None
}

fn report(found: &mut Findings, source: &PolicySource, errors: &[toml::de::Error]) {
    if let Some(format) = other_format(source.text()) {
        let line = source.line_span(source.line_of(first_character(source.text())));
        found.error(&line, format!("this is {format}, and a policy is TOML")).with_help(
            "write `key = \"value\"` lines, a `[default]` table, and one `[[network]]`, `[[file]]` or `[[exec]]` table for each rule",
        );
        return;
    }
    let unclosed = errors
        .iter()
        .any(|error| error.message().starts_with("unclosed") || error.message().contains("in array"))
        .then(|| unclosed_bracket(source))
        .flatten();
    let end = unclosed.as_ref().map_or(usize::MAX, |bracket| bracket.start);

    let mut errors: Vec<_> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut last_line = None;
    let mut in_repeated_table = false;
    for (span, message) in errors {
        let line = source.line_of(span.start);
        let is_duplicate = message == "duplicate key";
        let is_header = source.slice(source.line_span(line)).starts_with('[');
        in_repeated_table &= is_duplicate && !is_header;
        if span.start < end && last_line != Some(line) && !in_repeated_table {
            last_line = Some(line);
            in_repeated_table = is_duplicate && is_header;
            let (span, fault) = explain(source, span, message);
            let diagnostic = found.error(&span, fault.to_string());
            if let Some(help) = fault.help() {
                diagnostic.with_help(help);
            }
        }
    }
    if let Some(bracket) = unclosed {
        report_unclosed(found, source, &bracket);
    }
}

fn first_character(text: &str) -> usize {
    text.find(|character: char| !character.is_whitespace() && character != '\u{feff}').unwrap_or(0)
}

/// Whether the text is JSON or YAML as a whole.
fn other_format(text: &str) -> Option<&'static str> {
    let start = text.get(first_character(text)..).unwrap_or_default();
    if start.starts_with('{') {
        Some("JSON")
    } else if start.starts_with("---")
        || (!text.contains('=') && text.lines().any(|line| colon(line).is_some()))
    {
        Some("YAML")
    } else {
        None
    }
}

fn report_unclosed(found: &mut Findings, source: &PolicySource, bracket: &Span) {
    let (opening, closing) = match source.slice(bracket.clone()) {
        "{" => ("{", "}"),
        _ => ("[", "]"),
    };
    found
        .error(bracket, format!("this `{opening}` is never closed"))
        .with_help(format!("write `{closing}` after the last value"));
}

/// The outermost bracket that no bracket closes. Lines that are table headers do not count.
fn unclosed_bracket(source: &PolicySource) -> Option<Span> {
    let mut open: Vec<Span> = Vec::new();
    let mut in_header = false;
    let mut line_is_blank = true;
    for token in toml_parser::Source::new(source.text()).lex() {
        let span = token.span().start()..token.span().end();
        match token.kind() {
            TokenKind::Newline => {
                in_header = false;
                line_is_blank = true;
                continue;
            }
            TokenKind::Whitespace | TokenKind::Comment => continue,
            TokenKind::LeftSquareBracket if line_is_blank && open.is_empty() => in_header = true,
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket if !in_header => open.push(span),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket if !in_header => {
                open.pop();
            }
            _ => {}
        }
        line_is_blank = false;
    }
    open.into_iter().next()
}

/// What an error of the parser means to somebody who writes a policy, and the place to underline.
fn explain(source: &PolicySource, span: Span, message: &str) -> (Span, Fault) {
    let line = trimmed(source, source.line_span(source.line_of(span.start)));
    let text = source.slice(span.clone());
    let line_text = source.slice(line.clone());
    if let Some(fixed) = colon(line_text) {
        let fault = Fault::new("a key and its value are joined by `=`, not by `:`");
        return (line, fault.with_help(format!("write `{fixed}`")));
    }
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    match what {
        "string values must be quoted" => (trimmed(source, span.clone()), unquoted(line_text, text)),
        "invalid boolean" => (span, unquoted(line_text, text)),
        "key with no value" => (
            line,
            Fault::new(format!("the key {} has no value", quote(line_text)))
                .with_help("write `key = value`, or `# ` before a remark"),
        ),
        "duplicate key" => (span, duplicate(line_text, text)),
        "missing escaped value" => (
            span.start.saturating_sub(1)..span.start + 1,
            Fault::new("a backslash in double quotes begins an escape, and this is none")
                .with_help("write the text in single quotes, where a backslash is a backslash: `'...'`"),
        ),
        "invalid basic string" | "invalid literal string" if text.is_empty() => {
            let quote = if what.contains("basic") { '"' } else { '\'' };
            let start = line_text.find(quote).map_or(line.start, |at| line.start + at);
            (
                start..line.end,
                Fault::new("this string is never closed").with_help(format!("write `{quote}` at its end")),
            )
        }
        "invalid basic string" | "invalid literal string" | "invalid comment character" => {
            (span, Fault::new("a control character").with_help("remove it"))
        }
        "unclosed array table" | "unclosed table" => (line, unclosed_header(line_text)),
        "unexpected key or value" => (
            span.start..line.end.max(span.start),
            Fault::new("something is left over after the value").with_help("write one `key = value` a line"),
        ),
        "missing comma between array elements" | "missing comma between key-value pairs" => {
            (span, Fault::new("a comma is missing before this").with_help("write `,` between the values"))
        }
        "unexpected leading zero" => (
            span,
            Fault::new("a number cannot begin with 0")
                .with_help("write the number without the zero before it"),
        ),
        "invalid unquoted key" | "unquoted keys cannot be empty" | "invalid key-value pair" => {
            (line, Fault::new(format!("{} is not a `key = value` line", quote(line_text))))
        }
        "cannot recurse further; max recursion depth met" => (span, Fault::new("values are nested too deep")),
        _ if expected.is_empty() => (span, Fault::new(what)),
        _ => (span, Fault::new(what).with_help(format!("expected {expected}"))),
    }
}

fn trimmed(source: &PolicySource, span: Span) -> Span {
    let text = source.slice(span.clone());
    let start = span.start + (text.len() - text.trim_start().len());
    start..(span.start + text.trim_end().len()).max(start)
}

/// The `key = value` that a line with a colon in the place of the `=` means.
fn colon(line: &str) -> Option<String> {
    let line = line.trim().trim_start_matches("- ").trim_end_matches(',');
    let (key, value) = line.split_once(':')?;
    let key = key.trim().trim_matches(['"', '\'']);
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    is_key.then(|| format!("{key} = {}", if value.trim().is_empty() { "..." } else { value.trim() }))
}

fn unquoted(line: &str, text: &str) -> Fault {
    let bare = text.trim().trim_matches(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '\u{ab}', '\u{bb}']);
    if bare.is_empty() {
        let key = line.split('=').next().unwrap_or_default().trim();
        return Fault::new(format!("{} has no value", quote(key))).with_help(format!("write `{key} = ...`"));
    }
    if bare.contains(' ') && bare.split_whitespace().all(|word| word.parse::<f64>().is_ok()) {
        let numbers: Vec<_> = bare.split_whitespace().collect();
        return Fault::new("a comma is missing between the values")
            .with_help(format!("write `{}`", numbers.join(", ")));
    }
    let fault = if bare == text.trim() {
        Fault::new(format!("the text {} has no quotes", quote(bare)))
    } else {
        Fault::new("these quotes are not the ones of a keyboard")
    };
    fault.with_help(format!("write `\"{}\"`", bare.replace('"', "")))
}

fn duplicate(line: &str, key: &str) -> Fault {
    let fault = Fault::new(format!("{} is written twice", quote(key)));
    match key {
        "network" | "file" | "exec" if line.starts_with('[') => {
            fault.with_help(format!("write `[[{key}]]`, with two brackets, before each rule"))
        }
        _ if line.starts_with('[') => fault.with_help(format!("write one `[{key}]` with the keys of both")),
        _ => fault.with_help("remove one of the two"),
    }
}

fn unclosed_header(line: &str) -> Fault {
    let name = line.trim_matches(['[', ']', ' ']);
    let name = name.split(['#', ']', ' ']).next().unwrap_or_default();
    let header = if line.starts_with("[[") { format!("[[{name}]]") } else { format!("[{name}]") };
    Fault::new("the brackets of this table do not match").with_help(format!("write `{header}`"))
}
