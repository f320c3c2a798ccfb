//! The text of a policy and the places in it: byte offsets on the inside, lines and columns for people.

use std::ops::Range;

use super::limits::MAX_SHOWN_BYTES;

/// Bytes of the source, from start to end.
pub(crate) type Span = Range<usize>;

/// A policy as it was written, with the name of its file.
#[derive(Clone, Debug)]
pub struct PolicySource {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

/// A place as people count it: the first line is 1, the first character of a line is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl PolicySource {
    /// A text and the name that messages give it.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let after_breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(after_breaks).collect();
        Self { name: name.into(), text, line_starts }
    }

    /// The name that messages give it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a byte is, in lines and columns. An offset past the end is the end.
    pub fn position(&self, offset: usize) -> Position {
        let offset = self.floor(offset);
        let line = self.line_of(offset);
        let start = self.line_span(line).start;
        Position { line: line + 1, column: self.slice(start..offset).chars().count() + 1 }
    }

    /// The index of the line that holds a byte.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset).saturating_sub(1)
    }

    /// The bytes of a line by index, without its line break.
    pub(crate) fn line_span(&self, line: usize) -> Span {
        let start = self.line_starts.get(line).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let text = self.slice(start..end);
        start..end - (text.len() - text.trim_end_matches('\r').len())
    }

    /// The text of a span; empty where there is none.
    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text.get(span).unwrap_or_default()
    }

    /// The nearest boundary of a character at or before an offset.
    pub(crate) fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }

    /// A span that can be shown: inside the text, whole characters, within its first line, and not too long.
    pub(crate) fn shown_span(&self, span: &Span) -> Span {
        let start = self.floor(span.start);
        let line_end = self.line_span(self.line_of(start)).end.max(start);
        let end = span.end.clamp(start, line_end).min(start + MAX_SHOWN_BYTES);
        start..self.floor(end).max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let source = PolicySource::new("p.toml", "a = 1\r\nü = \"x\"\n");
        assert_eq!(source.position(0), Position { line: 1, column: 1 });
        assert_eq!(source.position(4), Position { line: 1, column: 5 });
        assert_eq!(source.position("a = 1\r\nü = ".len()), Position { line: 2, column: 5 });
        assert_eq!(source.position(usize::MAX), Position { line: 3, column: 1 });
    }

    #[test]
    fn shown_spans_stay_in_the_first_line_and_on_whole_characters() {
        let source = PolicySource::new("p.toml", "ab\r\nüc\n");
        assert_eq!(source.shown_span(&(0..9)), 0..2);
        assert_eq!(source.shown_span(&(5..99)), 4..7);
        assert_eq!(source.shown_span(&(99..120)), 8..8);
        assert_eq!(source.shown_span(&(3..3)), 3..3);
    }

    #[test]
    fn an_empty_text_has_one_place() {
        let source = PolicySource::new("p.toml", "");
        assert_eq!(source.position(7), Position { line: 1, column: 1 });
        assert_eq!(source.shown_span(&(0..7)), 0..0);
    }
}
