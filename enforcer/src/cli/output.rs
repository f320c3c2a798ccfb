//! The only printing: data to standard output, everything else to standard error.

use super::exit::Problem;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;
use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write as _},
};

/// Where a command prints.
#[derive(Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// For people, or as JSON.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether data is printed as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints data: as JSON, or as what it looks like to people.
    pub fn data<T: Serialize>(&self, data: &T, people: impl FnOnce(&T) -> String) {
        let text = if self.json {
            // Nothing that is printed cannot be written as JSON.
            serde_json::to_string_pretty(data).unwrap_or_default() + "\n"
        } else {
            people(data)
        };
        self.raw(text.as_bytes());
    }

    /// Prints bytes. A reader that has gone ends the program, as it would end `cat`.
    pub fn raw(&self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.say(&format!("error: cannot write: {error}"));
            }
            std::process::exit(i32::from(error.kind() != io::ErrorKind::BrokenPipe));
        }
    }

    /// Says something to whoever sits there.
    pub fn say(&self, text: &str) {
        // Nobody listens: there is nobody to tell that to either.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says what went wrong.
    pub fn problem(&self, problem: &Problem) {
        if self.json
            && let Some(failure) = &problem.failure
            && failure.diagnostics.is_some()
        {
            self.data(failure, |_| String::new());
        } else if let Some(report) = &problem.report {
            self.say(report.trim_end());
        }
        self.say(&format!("error: {}", problem.message));
        if let Some(hint) = &problem.hint {
            self.say(&format!("hint: {hint}"));
        }
    }

    /// How diagnostics look on standard error.
    #[must_use]
    pub fn look() -> crate::policy::Look {
        let terminal = io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        crate::policy::Look { unicode: terminal, colour, width: 100 }
    }
}

/// A table: columns as wide as their widest entry, two blanks apart, the last as long as it likes.
#[must_use]
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let entries = rows.iter().filter_map(|row| row.get(column)).map(|entry| entry.chars().count());
        entries.chain(headers.get(column).map(|header| header.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..headers.len()).map(width).collect();
    let line = |entries: Vec<&str>| {
        let mut line = String::new();
        for (entry, width) in entries.into_iter().zip(&widths) {
            line.push_str(entry);
            line.push_str(&" ".repeat(width.saturating_sub(entry.chars().count()) + 2));
        }
        format!("{}\n", line.trim_end())
    };
    let mut out = line(headers.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

/// Text that an agent may have chosen, with nothing in it that a terminal would act on.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::new(), |mut out, c| {
        if acts(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    }))
}

/// A time of today in the zone of this machine, to the millisecond; with the date where it is another day.
#[must_use]
pub fn time(at: Timestamp) -> String {
    let zoned = at.to_zoned(TimeZone::system());
    let today = Timestamp::now().to_zoned(TimeZone::system()).date();
    let format = if zoned.date() == today { "%H:%M:%S.%3f" } else { "%Y-%m-%d %H:%M:%S" };
    zoned.strftime(format).to_string()
}

/// A span in its largest units: `4m 12s`.
#[must_use]
pub fn span(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let (days, hours, minutes, seconds) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A duration as policies write it: `90s`, `10m`, `2h`, `1d`, or several of them.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => {
                return Err(
                    "a duration is a number and `s`, `m`, `h` or `d`, like `10m` or `1h30m`".to_owned()
                );
            }
        };
        let number: u64 = number.parse().map_err(|_| "a duration begins with a number".to_owned())?;
        let part = number.checked_mul(seconds).and_then(|part| total.checked_add(part));
        total = part.ok_or("that is longer than anything lasts")?;
        rest = after;
    }
    if total == 0 {
        Err("a duration is at least `1s`".to_owned())
    } else {
        Ok(std::time::Duration::from_secs(total))
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_duration, shown, span, table};
    use jiff::SignedDuration;
    use std::time::Duration;

    #[test]
    fn a_table_is_as_wide_as_it_must_be() {
        let rows = [
            vec!["a".into(), "long entry".into(), "x".into()],
            vec!["bcde".into(), "ä".into(), String::new()],
        ];
        assert_eq!(
            table(&["ID", "WHAT", "THEN"], &rows),
            "ID    WHAT        THEN\na     long entry  x\nbcde  ä\n"
        );
    }

    #[test]
    fn a_terminal_is_told_nothing_by_an_agent() {
        assert_eq!(shown("/a\u{1b}[2J\u{202e}b"), "/a\\u{1b}[2J\\u{202e}b");
        assert_eq!(shown("/ä b"), "/ä b");
    }

    #[test]
    fn spans_are_told_in_two_units() {
        for (seconds, told) in [(-3, "0s"), (59, "59s"), (252, "4m 12s"), (7260, "2h 1m"), (90_000, "1d 1h")]
        {
            assert_eq!(span(SignedDuration::from_secs(seconds)), told);
        }
    }

    #[test]
    fn durations_are_read_as_policies_write_them() {
        for (text, seconds) in [("10m", 600), ("1h30m", 5400), ("90s", 90), ("1d", 86_400)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "10", "m", "0s", "10 m", "1w", "99999999999999999999d", "99999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
