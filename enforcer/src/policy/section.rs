//! One table of the file while it is read: typed access to its keys, and what to say when a key or a value is
//! not what it should be.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Fault, Findings, any_of, quote};
use super::source::{PolicySource, Span};
use super::suggest::{nearest, toml_string};

/// What every reading function needs: the source to look into, and a place for what is found.
pub(crate) struct Context<'s> {
    pub(crate) source: &'s PolicySource,
    pub(crate) found: Findings,
}

/// A table of the file.
#[derive(Clone)]
pub(crate) struct Section<'a> {
    /// As people write it, in backticks if it can be written: `[[network]]`.
    pub(crate) title: &'static str,
    /// Its header.
    pub(crate) span: Span,
    /// Keys that are missing only because they are there in another spelling, which was reported.
    pub(crate) misspelt: Vec<&'static str>,
    table: &'a DeTable<'a>,
}

/// A key with its value.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub(crate) name: &'static str,
    pub(crate) key: Span,
    pub(crate) value: Value<'a>,
}

/// A value with its place.
#[derive(Clone)]
pub(crate) struct Value<'a> {
    pub(crate) span: Span,
    inner: &'a DeValue<'a>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(title: &'static str, span: Span, table: &'a DeTable<'a>) -> Self {
        Self { title, span, table, misspelt: Vec::new() }
    }

    /// The field of a key, if it is there.
    pub(crate) fn field(&self, name: &'static str) -> Option<Field<'a>> {
        let (key, value) = self.table.get_key_value(name)?;
        Some(Field { name, key: key.span(), value: Value::new(value) })
    }

    /// The field of a key that must be there; `help` says what to write.
    pub(crate) fn required(&self, cx: &mut Context<'_>, name: &'static str, help: &str) -> Option<Field<'a>> {
        let field = self.field(name);
        if field.is_none() && !self.misspelt.contains(&name) {
            cx.found
                .error(&self.span, format!("{} is missing from {}", quote(name), self.title))
                .with_help(help);
        }
        field
    }

    /// The keys that are there, with their places.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&'a str, Span)> + use<'a> {
        self.table.keys().map(|key| (key.get_ref().as_ref(), key.span()))
    }
}

impl<'a> Value<'a> {
    pub(crate) fn new(value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { span: value.span(), inner: value.get_ref() }
    }

    pub(crate) fn string(&self) -> Option<&'a str> {
        self.inner.as_str()
    }

    /// The value as a whole number; one that does not fit is the largest, and out of every range here.
    pub(crate) fn integer(&self) -> Option<i64> {
        let integer = self.inner.as_integer()?;
        Some(i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i64::MAX))
    }

    pub(crate) fn table(&self) -> Option<&'a DeTable<'a>> {
        self.inner.as_table()
    }

    pub(crate) fn elements(&self) -> Option<Vec<Value<'a>>> {
        let array = self.inner.as_array()?;
        Some(array.iter().map(Value::new).collect())
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self.inner {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        }
    }

    /// The place of some bytes of a string; the whole value where its spelling has escapes.
    fn part(&self, source: &PolicySource, part: &Span) -> Span {
        let (Some(text), written) = (self.string(), source.slice(self.span.clone())) else {
            return self.span.clone();
        };
        let quotes = [1, 3].into_iter().find(|&quotes| {
            written.len() == text.len() + 2 * quotes && written.get(quotes..quotes + text.len()) == Some(text)
        });
        match quotes {
            Some(quotes) => self.span.start + quotes + part.start..self.span.start + quotes + part.end,
            None => self.span.clone(),
        }
    }
}

impl<'a> Field<'a> {
    /// The value as a string; `example` is a value to write instead of another.
    pub(crate) fn string(&self, cx: &mut Context<'_>, example: &str) -> Option<&'a str> {
        let text = self.value.string();
        if text.is_none() {
            self.wrong_kind(cx, "a string", example);
        }
        text
    }

    /// The value as an array with at least one element; `example` is one to write instead of something else.
    pub(crate) fn elements(&self, cx: &mut Context<'_>, example: &str) -> Option<Vec<Value<'a>>> {
        match self.value.elements() {
            Some(elements) if elements.is_empty() => {
                cx.found
                    .error(
                        &self.value.span,
                        format!("{} is empty, so the rule matches nothing", quote(self.name)),
                    )
                    .with_help(format!("write `{} = {example}`, or remove the rule", self.name));
                None
            }
            Some(elements) => Some(elements),
            None => {
                self.wrong_kind(
                    cx,
                    "an array",
                    &self.as_array(cx.source).unwrap_or_else(|| example.to_owned()),
                );
                None
            }
        }
    }

    /// What was written, in the brackets that it lacks.
    fn as_array(&self, source: &PolicySource) -> Option<String> {
        let alone = self.value.string().is_some() || self.value.integer().is_some();
        alone.then(|| format!("[{}]", source.slice(self.value.span.clone())))
    }

    pub(crate) fn wrong_kind(&self, cx: &mut Context<'_>, wanted: &str, example: &str) {
        cx.found
            .error(
                &self.value.span,
                format!("{} must be {wanted}, and this is {}", quote(self.name), self.value.kind()),
            )
            .with_help(format!("write `{} = {example}`", self.name));
    }

    /// The value as one word of a list. `meant` are words that others use, with ours.
    pub(crate) fn word<T: Copy>(
        &self,
        cx: &mut Context<'_>,
        words: &[(&str, T)],
        meant: &[(&str, &str)],
    ) -> Option<T> {
        let example = words.first().map_or_else(String::new, |(word, _)| toml_string(word));
        self.string(cx, &example)?;
        word(cx, self.name, &self.value, words, meant)
    }
}

/// A string as one word of a list.
pub(crate) fn word<T: Copy>(
    cx: &mut Context<'_>,
    name: &str,
    value: &Value<'_>,
    words: &[(&str, T)],
    meant: &[(&str, &str)],
) -> Option<T> {
    let written = value.string().unwrap_or_default();
    if let Some((_, known)) = words.iter().find(|(word, _)| *word == written) {
        return Some(*known);
    }
    let list: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let lower = written.to_lowercase();
    let ours = meant.iter().find(|(theirs, _)| *theirs == lower).map(|(_, ours)| *ours);
    let diagnostic =
        cx.found.error(&value.span, format!("{} is not a value of {}", quote(written), quote(name)));
    match ours.or_else(|| nearest(written, list.iter().copied())) {
        Some(word) if list.contains(&word) => diagnostic.with_help(format!("did you mean {}?", quote(word))),
        Some(advice) => diagnostic.with_help(advice),
        None => diagnostic.with_help(format!("write {}", any_of(&list))),
    };
    None
}

/// Reports what a value's parser said, at the bytes that it said it about.
pub(crate) fn report<'f>(cx: &'f mut Context<'_>, value: &Value<'_>, fault: &Fault) -> &'f mut Diagnostic {
    let part = fault.part().filter(|part| !part.is_empty());
    let span = part.map_or_else(|| value.span.clone(), |part| value.part(cx.source, &part));
    let diagnostic = cx.found.error(&span, fault.to_string());
    if let Some(help) = fault.help() {
        diagnostic.with_help(help);
    }
    diagnostic
}
