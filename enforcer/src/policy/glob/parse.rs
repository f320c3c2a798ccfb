//! The reader of globs: text to patterns, or to what is wrong with the text.

use std::iter::Peekable;
use std::str::CharIndices;

use super::{ByteSet, Component, NamePart, NamePattern, Pattern};
use crate::policy::diagnostics::{Fault, is_invisible, quote};
use crate::policy::limits::{MAX_ALTERNATIVES, MAX_BRACE_DEPTH, MAX_GLOB_BYTES};
use crate::policy::source::Span;

/// The patterns of a glob.
pub(super) fn patterns(text: &str) -> Result<Vec<Pattern>, Fault> {
    read(text).map_err(|problem| problem.explain(text))
}

/// What is wrong, and with which bytes of the glob.
struct Problem {
    what: Mistake,
    at: Span,
}

enum Mistake {
    Empty,
    TooLong,
    Invisible(char),
    Relative,
    Home,
    TrailingSeparator,
    EmptyComponent,
    DotComponent,
    PartialAnyDepth,
    DanglingEscape,
    UnclosedBrace,
    UnopenedBrace,
    DeepBraces,
    TooManyAlternatives,
    UnclosedSet,
    ReversedRange(char, char),
    RangeAfterRange,
    SeparatorInSet,
    BackslashInSet,
    WideInSet(char),
    UnknownClass(String),
}

/// A piece of the text with its place.
#[derive(Clone)]
struct Piece {
    kind: Kind,
    at: Span,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Separator,
    AnyDepth,
    Part(NamePart),
}

/// The text as it is nested.
enum Node {
    Piece(Piece),
    Braces(Vec<Vec<Node>>),
}

fn read(text: &str) -> Result<Vec<Pattern>, Problem> {
    let whole = |what| Err(Problem { what, at: 0..text.len() });
    if text.is_empty() {
        return whole(Mistake::Empty);
    }
    if text.len() > MAX_GLOB_BYTES {
        return whole(Mistake::TooLong);
    }
    if let Some((at, character)) = text.char_indices().find(|&(_, c)| is_invisible(c)) {
        return Err(Problem { what: Mistake::Invisible(character), at: at..at + character.len_utf8() });
    }
    let mut reader = Reader { text, rest: text.char_indices().peekable() };
    let nodes = reader.sequence(0)?;
    if count(&nodes) > MAX_ALTERNATIVES {
        return whole(Mistake::TooManyAlternatives);
    }
    let mut patterns = Vec::new();
    for pieces in expand(&nodes) {
        let pattern = pattern(text, &pieces)?;
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

struct Reader<'t> {
    text: &'t str,
    rest: Peekable<CharIndices<'t>>,
}

impl Reader<'_> {
    /// Up to the end of the text, or, within braces, to the next `,` or `}` of theirs.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut nodes = Vec::new();
        while let Some(&(at, character)) = self.rest.peek() {
            if depth > 0 && matches!(character, ',' | '}') {
                break;
            }
            self.rest.next();
            nodes.push(match character {
                '{' => self.braces(at, depth + 1)?,
                '}' => return Err(Problem { what: Mistake::UnopenedBrace, at: at..at + 1 }),
                _ => Node::Piece(self.piece(at, character)?),
            });
        }
        Ok(nodes)
    }

    fn braces(&mut self, start: usize, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_BRACE_DEPTH {
            return Err(Problem { what: Mistake::DeepBraces, at: start..start + 1 });
        }
        let mut alternatives = Vec::new();
        loop {
            alternatives.push(self.sequence(depth)?);
            match self.rest.next() {
                Some((_, ',')) => {}
                Some(_) => return Ok(Node::Braces(alternatives)),
                None => return Err(Problem { what: Mistake::UnclosedBrace, at: start..start + 1 }),
            }
        }
    }

    fn piece(&mut self, at: usize, character: char) -> Result<Piece, Problem> {
        let kind = match character {
            '/' => Kind::Separator,
            '*' if self.rest.next_if(|&(_, next)| next == '*').is_some() => Kind::AnyDepth,
            '*' => Kind::Part(NamePart::AnyRun),
            '?' => Kind::Part(NamePart::AnyByte),
            '[' => Kind::Part(NamePart::Set(self.set(at)?)),
            '\\' => match self.rest.next() {
                Some((_, '/')) => Kind::Separator,
                Some((_, escaped)) => literal(escaped),
                None => return Err(Problem { what: Mistake::DanglingEscape, at: at..at + 1 }),
            },
            _ => literal(character),
        };
        Ok(Piece { kind, at: at..self.position() })
    }

    fn position(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |&(at, _)| at)
    }

    /// The set whose `[` was read last.
    fn set(&mut self, start: usize) -> Result<ByteSet, Problem> {
        let negated = self.rest.next_if(|&(_, next)| matches!(next, '!' | '^')).is_some();
        let mut ranges: Vec<(u8, u8)> = Vec::new();
        let mut first = true;
        loop {
            let Some((at, character)) = self.rest.next() else {
                return Err(Problem { what: Mistake::UnclosedSet, at: start..self.text.len() });
            };
            match character {
                ']' if !first => return Ok(ByteSet::new(negated, &ranges)),
                '[' if self.rest.peek().is_some_and(|&(_, next)| next == ':') => {
                    ranges.extend(self.class(at)?);
                    if self.range_goes_on() {
                        return Err(Problem { what: Mistake::RangeAfterRange, at: at..self.position() + 1 });
                    }
                }
                _ => ranges.push(self.range(at, character)?),
            }
            first = false;
        }
    }

    /// A character of a set, or a range of them.
    fn range(&mut self, at: usize, from: char) -> Result<(u8, u8), Problem> {
        let low = byte_of_set(at, from)?;
        if !self.range_goes_on() {
            return Ok((low, low));
        }
        self.rest.next();
        let Some((end, to)) = self.rest.next() else {
            return Err(Problem { what: Mistake::UnclosedSet, at: at..self.text.len() });
        };
        let high = byte_of_set(end, to)?;
        if high < low {
            return Err(Problem { what: Mistake::ReversedRange(from, to), at: at..end + 1 });
        }
        if self.range_goes_on() {
            return Err(Problem { what: Mistake::RangeAfterRange, at: at..end + 2 });
        }
        Ok((low, high))
    }

    /// Whether a `-` follows that is not the last of its set.
    fn range_goes_on(&mut self) -> bool {
        let mut ahead = self.rest.clone();
        ahead.next().is_some_and(|(_, c)| c == '-') && ahead.next().is_some_and(|(_, c)| c != ']')
    }

    /// `[:digit:]` and its like, whose `[` was read last.
    fn class(&mut self, start: usize) -> Result<&'static [(u8, u8)], Problem> {
        let rest = self.text.get(start..).unwrap_or_default();
        let name = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")).map(|(name, _)| name);
        let known = name.and_then(|name| Some((name, class_ranges(name)?)));
        let Some((name, ranges)) = known else {
            let name = name.unwrap_or_default().to_owned();
            return Err(Problem { what: Mistake::UnknownClass(name), at: start..start + 2 });
        };
        let end = start + "[:".len() + name.len() + ":]".len();
        while self.rest.next_if(|&(at, _)| at < end).is_some() {}
        Ok(ranges)
    }
}

fn literal(character: char) -> Kind {
    Kind::Part(NamePart::Literal(character.to_string().into_bytes()))
}

fn byte_of_set(at: usize, character: char) -> Result<u8, Problem> {
    let what = match character {
        '/' => Mistake::SeparatorInSet,
        '\\' => Mistake::BackslashInSet,
        _ => match u8::try_from(character) {
            Ok(byte) if byte.is_ascii() => return Ok(byte),
            _ => Mistake::WideInSet(character),
        },
    };
    Err(Problem { what, at: at..at + character.len_utf8() })
}

fn class_ranges(name: &str) -> Option<&'static [(u8, u8)]> {
    Some(match name {
        "alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        "alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        "blank" => &[(b'\t', b'\t'), (b' ', b' ')],
        "cntrl" => &[(0, 0x1f), (0x7f, 0x7f)],
        "digit" => &[(b'0', b'9')],
        "graph" => &[(b'!', b'~')],
        "lower" => &[(b'a', b'z')],
        "print" => &[(b' ', b'~')],
        "punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        "space" => &[(b'\t', b'\r'), (b' ', b' ')],
        "upper" => &[(b'A', b'Z')],
        "xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    })
}

/// How many sequences nested braces stand for.
fn count(nodes: &[Node]) -> usize {
    nodes.iter().fold(1, |product: usize, node| match node {
        Node::Piece(_) => product,
        Node::Braces(alternatives) => {
            let sum = alternatives.iter().fold(0, |sum: usize, nodes| sum.saturating_add(count(nodes)));
            product.saturating_mul(sum)
        }
    })
}

fn expand(nodes: &[Node]) -> Vec<Vec<Piece>> {
    let mut sequences = vec![Vec::new()];
    for node in nodes {
        match node {
            Node::Piece(piece) => sequences.iter_mut().for_each(|sequence| sequence.push(piece.clone())),
            Node::Braces(alternatives) => {
                let tails: Vec<_> = alternatives.iter().flat_map(|nodes| expand(nodes)).collect();
                sequences = sequences
                    .iter()
                    .flat_map(|head| tails.iter().map(move |tail| [head.as_slice(), tail].concat()))
                    .collect();
            }
        }
    }
    sequences
}

fn pattern(text: &str, pieces: &[Piece]) -> Result<Pattern, Problem> {
    let components = match pieces {
        [] => return Err(Problem { what: Mistake::Empty, at: 0..text.len() }),
        [Piece { kind: Kind::Separator, .. }, rest @ ..] => rest,
        [Piece { kind: Kind::AnyDepth, .. }, ..] => pieces,
        _ if text.starts_with(['~', '$']) => {
            return Err(Problem { what: Mistake::Home, at: 0..text.find('/').unwrap_or(text.len()) });
        }
        _ => return Err(Problem { what: Mistake::Relative, at: 0..text.len() }),
    };
    let end = pieces.last().map_or(0..0, |last| last.at.clone());
    let mut components = components.split(|piece| piece.kind == Kind::Separator).peekable();
    let mut read = Vec::new();
    let mut before = 0..1;
    while let Some(pieces) = components.next() {
        if pieces.is_empty() && components.peek().is_none() {
            return Err(Problem { what: Mistake::TrailingSeparator, at: end });
        }
        read.push(component(pieces, &before)?);
        before = pieces.last().map_or(before, |last| last.at.end..last.at.end + 1);
    }
    Ok(Pattern::new(read))
}

fn component(pieces: &[Piece], separator: &Span) -> Result<Component, Problem> {
    let [first, .., last] = pieces else {
        return match pieces {
            [Piece { kind: Kind::AnyDepth, .. }] => Ok(Component::AnyDepth),
            [only] => name(pieces, &only.at),
            _ => Err(Problem { what: Mistake::EmptyComponent, at: separator.start..separator.end + 1 }),
        };
    };
    if let Some(depth) = pieces.iter().find(|piece| piece.kind == Kind::AnyDepth) {
        return Err(Problem { what: Mistake::PartialAnyDepth, at: depth.at.clone() });
    }
    name(pieces, &(first.at.start..last.at.end))
}

fn name(pieces: &[Piece], at: &Span) -> Result<Component, Problem> {
    let name = NamePattern::new(pieces.iter().filter_map(|piece| match &piece.kind {
        Kind::Part(part) => Some(part.clone()),
        _ => None,
    }));
    match name.literal() {
        Some(b"." | b"..") => Err(Problem { what: Mistake::DotComponent, at: at.clone() }),
        _ => Ok(Component::Name(name)),
    }
}

impl Problem {
    fn explain(&self, text: &str) -> Fault {
        let fault = Fault::new(self.what.message(text)).within(self.at.clone());
        match self.what.help(text) {
            Some(help) => fault.with_help(help),
            None => fault,
        }
    }
}

impl Mistake {
    fn message(&self, text: &str) -> String {
        match self {
            Self::Empty => "an empty path matches nothing".to_owned(),
            Self::TooLong => format!("a path of {} bytes is over the limit of {MAX_GLOB_BYTES}", text.len()),
            Self::Invisible(character) => {
                format!("the path holds a character that cannot be seen, {}", quote(&character.to_string()))
            }
            Self::Relative => format!("{} does not begin at the root", quote(text)),
            Self::Home => "a policy knows no home directory and no variables".to_owned(),
            Self::TrailingSeparator => format!("{} ends with `/`", quote(text)),
            Self::EmptyComponent => format!("{} has nothing between two `/`", quote(text)),
            Self::DotComponent => "no real path contains `.` or `..`, so this matches nothing".to_owned(),
            Self::PartialAnyDepth => "`**` must stand alone between two `/`".to_owned(),
            Self::DanglingEscape => "nothing comes after the backslash".to_owned(),
            Self::UnclosedBrace => "this `{` is never closed".to_owned(),
            Self::UnopenedBrace => "this `}` closes nothing".to_owned(),
            Self::DeepBraces => format!("braces are nested deeper than {MAX_BRACE_DEPTH}"),
            Self::TooManyAlternatives => {
                format!("the braces of {} stand for more than {MAX_ALTERNATIVES} paths", quote(text))
            }
            Self::UnclosedSet => "this `[` is never closed".to_owned(),
            Self::ReversedRange(from, to) => format!("the range `{from}-{to}` ends before it begins"),
            Self::RangeAfterRange => "a range cannot begin with the end of another".to_owned(),
            Self::SeparatorInSet => "a set never matches `/`".to_owned(),
            Self::BackslashInSet => "a backslash is no escape inside `[...]`".to_owned(),
            Self::WideInSet(character) => {
                format!("a set matches one byte, and {} has more", quote(&character.to_string()))
            }
            Self::UnknownClass(name) => {
                format!("{} is not a class of characters", quote(&format!("[:{name}:]")))
            }
        }
    }

    fn help(&self, text: &str) -> Option<String> {
        Some(match self {
            Self::Empty => "write a path such as `/srv/data/**`".to_owned(),
            Self::TooLong | Self::DeepBraces | Self::TooManyAlternatives => {
                "write several shorter paths, or a `*`".to_owned()
            }
            Self::Invisible(_) => "remove it, or write `?` for each of its bytes".to_owned(),
            Self::Relative => {
                let rest = text.trim_start_matches("./").trim_start_matches("../");
                format!("write `/{rest}` for one place, or `**/{rest}` for every folder")
            }
            Self::Home => {
                let rest = text.split_once('/').map_or("**", |(_, rest)| rest);
                format!("write `/home/*/{rest}` for every user, and `/root/{rest}` for root")
            }
            Self::TrailingSeparator => match text.trim_end_matches('/') {
                "" => "write `/**` for every path".to_owned(),
                folder => {
                    format!("write `{folder}/**` for all that is in the folder, or `{folder}` for itself")
                }
            },
            Self::EmptyComponent | Self::DotComponent => match cleaned(text) {
                Some(path) => format!("write `{path}`"),
                None => "write the path without it".to_owned(),
            },
            Self::PartialAnyDepth => {
                "write `*` within a name, and `/**/` for any number of folders".to_owned()
            }
            Self::DanglingEscape => r"write `\\` for a backslash".to_owned(),
            Self::UnclosedBrace => r"write `}` after the last alternative, or `\{` for the character".to_owned(),
            Self::UnopenedBrace => r"write `\}` for the character".to_owned(),
            Self::UnclosedSet => r"write `]` after the last character, or `\[` for the character".to_owned(),
            Self::ReversedRange(from, to) => format!("write `{to}-{from}`"),
            Self::RangeAfterRange => "write a `-` that is meant first or last in the set".to_owned(),
            Self::SeparatorInSet => "write `{a,b}` for alternatives that hold a `/`".to_owned(),
            Self::BackslashInSet => r"write `]` as the first character of a set, and `{\\,...}` for a backslash".to_owned(),
            Self::WideInSet(character) => format!("write `{{{character},...}}` instead"),
            Self::UnknownClass(_) => {
                "write `[[:alnum:]]`, `[[:alpha:]]`, `[[:digit:]]`, `[[:lower:]]`, `[[:upper:]]`, or the characters"
                    .to_owned()
            }
        })
    }
}

/// The path without `//`, `.` and `..`, if that is a good one.
fn cleaned(text: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    for component in text.split('/').filter(|component| !matches!(*component, "" | ".")) {
        match component {
            ".." if kept.last().is_some_and(|last| last.contains(['*', '{', '}'])) => return None,
            ".." => {
                kept.pop();
            }
            _ => kept.push(component),
        }
    }
    let start = if text.starts_with("**") { "" } else { "/" };
    Some(format!("{start}{}", kept.join("/"))).filter(|path| read(path).is_ok())
}
