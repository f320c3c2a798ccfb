//! Globs over absolute paths, with the syntax and the meaning of the `globset` crate where a `/` is matched
//! by nothing but itself and `**`.
//!
//! A glob is a text for people; the braces in it stand for several *patterns*. A pattern is a list of
//! components, so that the compiler can see where it is fixed and where it is not. Matching goes by bytes,
//! as it does in `globset`: `?` and `[...]` take one byte.
//!
//! Stricter than `globset`, because a policy must not mean less than it seems to: `**` must be a whole
//! component (there, `a**` is `a*`), and a set must not hold what cannot match. An empty alternative, as in
//! `{,a}`, stands for nothing, as in a shell and as in `globset` with `empty_alternates`.

mod parse;

use std::fmt::{self, Write as _};

use super::diagnostics::Fault;

/// A glob as it was written, with the patterns that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    patterns: Vec<Pattern>,
}

/// One alternative of a glob: no braces, and canonical, so that patterns that differ only in spelling are
/// equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    components: Vec<Component>,
}

/// What stands between two `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `**`: any number of components, also none; at the end of a pattern at least one. Never twice in a row.
    AnyDepth,
    /// One component.
    Name(NamePattern),
}

/// What one component may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    parts: Vec<NamePart>,
}

/// A piece of a component. None of them matches a `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePart {
    /// These bytes. Never two in a row, never empty.
    Literal(Vec<u8>),
    /// `*`: any bytes, also none. Never two in a row.
    AnyRun,
    /// `?`: one byte.
    AnyByte,
    /// `[...]`: one byte of a set.
    Set(ByteSet),
}

/// Some bytes, or all others; a `/` is never one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSet {
    negated: bool,
    ranges: Vec<(u8, u8)>,
}

impl Glob {
    /// Reads a glob.
    pub fn new(text: &str) -> Result<Self, Fault> {
        Ok(Self { text: text.to_owned(), patterns: parse::patterns(text)? })
    }

    /// The glob as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The patterns that it stands for: it matches what one of them matches. At least one; equal ones once.
    pub fn alternatives(&self) -> &[Pattern] {
        &self.patterns
    }
}

impl Pattern {
    /// Its components from the root on.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// A regular expression over the bytes of an absolute path that matches exactly what the pattern does.
    /// It is anchored at both ends and wants an engine that is not bound to UTF-8.
    pub fn regex(&self) -> String {
        let mut regex = "(?s-u)^".to_owned();
        let mut needs_separator = true;
        let mut components = self.components.iter().peekable();
        while let Some(component) = components.next() {
            match component {
                Component::AnyDepth if components.peek().is_none() => regex.push_str("/.*"),
                Component::AnyDepth => {
                    regex.push_str("(?:/|/.*/)");
                    needs_separator = false;
                }
                Component::Name(name) => {
                    if needs_separator {
                        regex.push('/');
                    }
                    name.write_regex(&mut regex);
                    needs_separator = true;
                }
            }
        }
        regex.push('$');
        regex
    }

    fn new(components: impl IntoIterator<Item = Component>) -> Self {
        let mut components: Vec<_> = components.into_iter().collect();
        components.dedup_by(|a, b| (&*a, &*b) == (&Component::AnyDepth, &Component::AnyDepth));
        Self { components }
    }
}

impl NamePattern {
    /// Its pieces in order; empty only for the empty name.
    pub fn parts(&self) -> &[NamePart] {
        &self.parts
    }

    /// The bytes of a name without wildcards.
    pub fn literal(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [NamePart::Literal(bytes)] => Some(bytes),
            _ => None,
        }
    }

    fn new(parts: impl IntoIterator<Item = NamePart>) -> Self {
        let mut merged: Vec<NamePart> = Vec::new();
        for part in parts {
            match (merged.last_mut(), part) {
                (Some(NamePart::Literal(before)), NamePart::Literal(after)) => before.extend(after),
                (Some(NamePart::AnyRun), NamePart::AnyRun) => {}
                (_, part) => merged.push(part),
            }
        }
        Self { parts: merged }
    }

    fn write_regex(&self, regex: &mut String) {
        for part in &self.parts {
            match part {
                NamePart::Literal(bytes) => bytes.iter().for_each(|&byte| push_byte(regex, byte)),
                NamePart::AnyRun => regex.push_str("[^/]*"),
                NamePart::AnyByte => regex.push_str("[^/]"),
                NamePart::Set(set) => set.write_regex(regex),
            }
        }
    }
}

impl ByteSet {
    /// Whether a byte is one of the set.
    pub fn contains(&self, byte: u8) -> bool {
        let listed = self.ranges.iter().any(|&(first, last)| (first..=last).contains(&byte));
        byte != b'/' && listed != self.negated
    }

    /// Whether the set is all bytes but the listed ones.
    pub fn negated(&self) -> bool {
        self.negated
    }

    /// The listed bytes as ranges with both ends: in order, apart from each other, without `/`.
    pub fn ranges(&self) -> &[(u8, u8)] {
        &self.ranges
    }

    fn new(negated: bool, ranges: &[(u8, u8)]) -> Self {
        let listed = |byte: u8| byte != b'/' && ranges.iter().any(|&(a, b)| (a..=b).contains(&byte));
        let mut merged: Vec<(u8, u8)> = Vec::new();
        for byte in (0..=u8::MAX).filter(|&byte| listed(byte)) {
            match merged.last_mut() {
                Some((_, last)) if *last + 1 == byte => *last = byte,
                _ => merged.push((byte, byte)),
            }
        }
        Self { negated, ranges: merged }
    }

    fn write_regex(&self, regex: &mut String) {
        regex.push('[');
        if self.negated {
            regex.push_str("^/");
        }
        for &(first, last) in &self.ranges {
            push_byte(regex, first);
            if first != last {
                regex.push('-');
                push_byte(regex, last);
            }
        }
        regex.push(']');
    }
}

fn push_byte(regex: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() {
        regex.push(char::from(byte));
    } else {
        // Writing to a string cannot fail.
        let _ = write!(regex, r"\x{byte:02X}");
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
