//! What is wrong with a policy, said so that a person can act on it: severity, message, place and help.
//!
//! Messages are lower case without a full stop, the user's text stands in backticks, and what to write
//! instead is the help, apart from the message. Control characters of the user's text never reach a
//! terminal.

use std::fmt::{self, Write as _};

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode,
    SourceSpan, SpanContents, ThemeCharacters, ThemeStyles,
};
use serde_json::{Value, json};

use super::limits::{MAX_FINDINGS, MAX_MESSAGE_CHARS, MAX_QUOTED_CHARS, MAX_SHOWN_BYTES};
use super::source::{PolicySource, Span};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy is not loaded.
    Error,
    /// The policy is loaded, but it may not mean what its author meant.
    Warning,
}

/// Underlined text and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    span: Span,
    text: Option<String>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    labels: Vec<Label>,
    help: Option<String>,
}

impl Diagnostic {
    /// How much it weighs.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub(crate) fn and_at(&mut self, span: &Span, text: impl Into<String>) -> &mut Self {
        self.labels.push(Label { span: span.clone(), text: Some(printable(&text.into())) });
        self
    }

    pub(crate) fn with_help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(printable(&help.into()));
        self
    }

    fn start(&self) -> usize {
        self.labels.first().map_or(0, |label| label.span.start)
    }
}

/// What is wrong with a single value, told by whoever parsed it without knowing where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    message: String,
    help: Option<String>,
    within: Option<Span>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, within: None }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says which bytes of the value are meant.
    pub(crate) fn within(mut self, span: Span) -> Self {
        self.within = Some(span);
        self
    }

    /// What to write instead.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The bytes of the value that are meant, if not all.
    pub fn part(&self) -> Option<Span> {
        self.within.clone()
    }
}

/// Findings while they are collected; the source is joined to them at the end.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    beyond: Option<Diagnostic>,
}

impl Findings {
    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>) -> &mut Diagnostic {
        self.errors += 1;
        let keep = self.errors <= MAX_FINDINGS;
        self.push(keep, Severity::Error, span, &message.into())
    }

    pub(crate) fn warning(&mut self, span: &Span, message: impl Into<String>) -> &mut Diagnostic {
        self.warnings += 1;
        let keep = self.warnings <= MAX_FINDINGS;
        self.push(keep, Severity::Warning, span, &message.into())
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    fn push(&mut self, keep: bool, severity: Severity, span: &Span, message: &str) -> &mut Diagnostic {
        let labels = vec![Label { span: span.clone(), text: None }];
        let diagnostic = Diagnostic { severity, message: printable(message), labels, help: None };
        if !keep {
            return self.beyond.insert(diagnostic);
        }
        let at = self.list.len();
        self.list.push(diagnostic);
        #[expect(clippy::indexing_slicing, reason = "the line above pushed it")]
        &mut self.list[at]
    }
}

/// How a report looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether lines may be drawn with characters beyond ASCII.
    pub unicode: bool,
    /// Whether colours may be used.
    pub colour: bool,
    /// Columns at which messages and help are wrapped.
    pub width: usize,
}

impl Look {
    /// For everything that is not a terminal.
    pub const PLAIN: Self = Self { unicode: false, colour: false, width: 100 };

    fn theme(self) -> GraphicalTheme {
        let mut characters = if self.unicode { ThemeCharacters::unicode() } else { ThemeCharacters::ascii() };
        characters.error = "error:".to_owned();
        characters.warning = "warning:".to_owned();
        let styles = if self.colour { ThemeStyles::ansi() } else { ThemeStyles::none() };
        GraphicalTheme { characters, styles }
    }
}

/// All findings of one run over one policy, in the order of the file.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    source: PolicySource,
    list: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
}

impl Diagnostics {
    pub(crate) fn new(source: PolicySource, found: Findings) -> Self {
        let mut list = found.list;
        list.sort_by_key(Diagnostic::start);
        Self { source, list, errors: found.errors, warnings: found.warnings }
    }

    /// What was read.
    pub fn source(&self) -> &PolicySource {
        &self.source
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.errors + self.warnings == 0
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// How many are errors, those included that are only counted.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// How many are warnings, those included that are only counted.
    pub fn warnings(&self) -> usize {
        self.warnings
    }

    /// The findings that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// One line: `2 errors, 1 warning`.
    pub fn summary(&self) -> String {
        let count = |n: usize, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let parts: Vec<_> =
            [count(self.errors, "error"), count(self.warnings, "warning")].into_iter().flatten().collect();
        if parts.is_empty() { "no errors".to_owned() } else { parts.join(", ") }
    }

    /// The findings as text, each with its lines of the file; empty when there are none.
    pub fn render(&self, look: Look) -> String {
        let shown = ShownSource::new(&self.source);
        let handler = GraphicalReportHandler::new_themed(look.theme()).with_width(look.width);
        let mut out = String::new();
        for diagnostic in &self.list {
            let report = Report { diagnostic, source: &shown };
            if handler.render_report(&mut out, &report).is_err() {
                let _ = writeln!(out, "  {}: {}", self.source.name(), diagnostic.message);
            }
            out.push('\n');
        }
        let left = self.errors + self.warnings - self.list.len();
        if left > 0 {
            let _ = writeln!(out, "  ... and {left} more");
        }
        out
    }

    /// The findings as data, for programs.
    pub fn to_json(&self) -> Value {
        self.list.iter().map(|diagnostic| self.one_to_json(diagnostic)).collect()
    }

    fn one_to_json(&self, diagnostic: &Diagnostic) -> Value {
        let span = diagnostic.labels.first().map_or(0..0, |label| self.source.shown_span(&label.span));
        let start = self.source.position(span.start);
        let end = self.source.position(span.end);
        json!({
            "file": self.source.name(),
            "line": start.line,
            "column": start.column,
            "end_column": end.column,
            "severity": match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            "message": diagnostic.message,
            "help": diagnostic.help,
        })
    }
}

/// The user's text in backticks, on one line and not too long.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    if quoted.len() < text.len() {
        quoted.push_str("...");
    }
    format!("`{}`", escaped(&quoted, |_| false))
}

/// A message that holds nothing that a terminal would act on, however the user's text came into it.
fn printable(text: &str) -> String {
    let cut: String = text.chars().take(MAX_MESSAGE_CHARS).collect();
    escaped(&cut, |character| character == '\n')
}

fn escaped(text: &str, keep: fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_invisible(character) && !keep(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// A control character, or one that has no shape of its own and can hide or turn around its neighbours.
pub(crate) fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A list for people: `a`, `b` or `c`.
pub(crate) fn any_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => quote(only),
        [init @ .., last] => {
            let init: Vec<_> = init.iter().map(|word| quote(word)).collect();
            format!("{} or {}", init.join(", "), quote(last))
        }
    }
}

/// A diagnostic together with its source, for miette.
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: &'a ShownSource<'a>,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.diagnostic, f)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let labels = self.diagnostic.labels.iter().enumerate().map(|(index, label)| {
            let span = self.source.source.shown_span(&label.span);
            let span = SourceSpan::from((span.start, span.len()));
            if index == 0 {
                LabeledSpan::new_primary_with_span(label.text.clone(), span)
            } else {
                LabeledSpan::new_with_span(label.text.clone(), span)
            }
        });
        Some(Box::new(labels))
    }
}

/// The source as it is shown: each byte in its place, but none that a terminal would act on.
struct ShownSource<'a> {
    source: &'a PolicySource,
    text: String,
}

impl<'a> ShownSource<'a> {
    fn new(source: &'a PolicySource) -> Self {
        let mut characters = source.text().chars().peekable();
        let mut text = String::with_capacity(source.text().len());
        while let Some(character) = characters.next() {
            let ends_line = character == '\r' && characters.peek() == Some(&'\n');
            text.push(if ends_line { character } else { visible(character) });
        }
        Self { source, text }
    }

    /// The bytes to show around a span: its lines and `context` more, or a part of its line if that is long.
    fn window(&self, span: &Span, before: usize, after: usize) -> Span {
        let first = self.source.line_of(span.start);
        let last = self.source.line_of(span.end);
        let window = self.source.line_span(first.saturating_sub(before)).start
            ..self.source.line_span(last + after).end.min(self.text.len());
        if self.source.slice(window.clone()).lines().all(|line| line.len() <= MAX_SHOWN_BYTES) {
            return window;
        }
        let start = span.start.saturating_sub(MAX_SHOWN_BYTES / 2).max(self.source.line_span(first).start);
        let end = (span.end + MAX_SHOWN_BYTES / 2).min(self.source.line_span(last).end);
        self.source.floor(start)..self.source.floor(end).max(span.end)
    }
}

impl SourceCode for ShownSource<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let span = span.offset()..span.offset() + span.len();
        let shown = if before == 0 { span } else { self.window(&span, before, after) };
        let start = self.source.position(shown.start);
        let data = self.text.get(shown.clone()).ok_or(MietteError::OutOfBounds)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.source.name().to_owned(),
            data.as_bytes(),
            SourceSpan::from((shown.start, shown.len())),
            start.line - 1,
            start.column - 1,
            data.matches('\n').count(),
        )))
    }
}

/// A character of the same length in UTF-8 that is safe to print.
fn visible(character: char) -> char {
    match character {
        '\n' | '\t' => character,
        _ if !is_invisible(character) => character,
        _ => match character.len_utf8() {
            1 => '?',
            2 => '\u{bf}',
            _ => '\u{fffd}',
        },
    }
}
