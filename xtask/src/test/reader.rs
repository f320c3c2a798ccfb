//! Reads what a test program prints, passes it on, and counts.
//!
//! Both Rust's own harness and `libtest-mimic` are understood. Between a test's name and its result
//! the test itself may have printed something, so a result may stand alone on a later line.

use super::tally::Tally;

/// How much of a failure's own words is repeated at the end of the run.
const REASON_LINES: usize = 8;

/// A result that its name has not met yet, or the other way round, is put together here.
#[derive(Default)]
pub(crate) struct Reader {
    /// Where the tests run, put behind each name.
    place: Option<String>,
    partial: Vec<u8>,
    waiting: Option<String>,
    /// The failed test whose message is being printed.
    explained: Option<String>,
    tally: Tally,
    /// What the programs themselves counted.
    claimed: Claim,
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Claim {
    programs: usize,
    ends: usize,
    passed: usize,
    failed: usize,
    ignored: usize,
}

enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

impl Reader {
    pub(crate) fn new(place: Option<String>) -> Self {
        Self { place, ..Self::default() }
    }

    /// Takes what was printed, in whatever pieces it comes, and returns what to print in its place.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> String {
        let mut shown = String::new();
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                shown += &self.line(String::from_utf8_lossy(&line).trim_end_matches('\r'));
            } else {
                self.partial.push(byte);
            }
        }
        shown
    }

    fn line(&mut self, line: &str) -> String {
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let name = name.trim_end().to_owned();
            let Some(outcome) = Outcome::read(rest) else {
                self.waiting = Some(name);
                return if rest.is_empty() { String::new() } else { self.aside(rest) };
            };
            return self.record(name, outcome);
        }
        if let Some(outcome) = Outcome::read(line)
            && let Some(name) = self.waiting.take()
        {
            return self.record(name, outcome);
        }
        self.explain(line);
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.claimed.add(counts);
        } else if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.claimed.programs += 1;
        }
        self.aside(line)
    }

    /// After the results each failure is explained, below a line with its name.
    fn explain(&mut self, line: &str) {
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----"));
        if let Some(heading) = heading {
            self.explained = Some(heading.trim_end_matches(" stdout").to_owned());
        } else if line.starts_with("failures:") || line.starts_with("test result: ") {
            self.explained = None;
        } else if let Some(name) = &self.explained
            && let Some((_, why)) = self.tally.failed.iter_mut().rfind(|(failed, _)| failed == name)
            && !line.is_empty()
            && why.lines().count() < REASON_LINES
        {
            why.push_str(line);
            why.push('\n');
        }
    }

    /// A line that is no result.
    fn aside(&self, line: &str) -> String {
        match &self.place {
            Some(_) if line.is_empty() => String::new(),
            Some(place) => format!("[{place}] {line}\n"),
            None => format!("{line}\n"),
        }
    }

    fn record(&mut self, name: String, outcome: Outcome) -> String {
        self.waiting = None;
        let shown = match &self.place {
            Some(place) => format!("test {name} [{place}] ... {}\n", outcome.word()),
            None => format!("test {name} ... {}\n", outcome.word()),
        };
        match outcome {
            Outcome::Passed => self.tally.passed += 1,
            Outcome::Failed => self.tally.fail(name, ""),
            Outcome::Skipped(reason) => self.tally.skipped.push((name, reason)),
        }
        shown
    }

    /// The count where the programs' end was not seen: who runs them says why.
    pub(crate) fn lost(mut self) -> Tally {
        if let Some(name) = self.waiting.take() {
            self.tally.fail(name, "began and did not end");
        }
        self.tally
    }

    /// The count, or a failure where the programs did not end well or say otherwise.
    pub(crate) fn end(mut self, ended_well: bool) -> Tally {
        if let Some(name) = self.waiting.take() {
            self.tally.fail(name, "began and did not end");
        }
        let Claim { programs, ends, passed, failed, ignored } = self.claimed;
        let counted = (self.tally.passed, self.tally.failed.len(), self.tally.skipped.len());
        if ends < programs {
            self.tally.fail("end", format!("{} of {programs} test programs did not end", programs - ends));
        } else if counted != (passed, failed, ignored) {
            let claimed = (passed, failed, ignored);
            self.tally.fail("count", format!("passed, failed, skipped: read {counted:?}, told {claimed:?}"));
        } else if !ended_well && failed == 0 {
            self.tally.fail("exit", "no test failed, but the exit code says otherwise");
        }
        self.tally
    }
}

impl Outcome {
    fn read(text: &str) -> Option<Self> {
        match text.trim() {
            "ok" => return Some(Self::Passed),
            "FAILED" => return Some(Self::Failed),
            "ignored" => return Some(Self::Skipped("no reason given".into())),
            _ => {}
        }
        // The harness of Rust writes a comma, libtest-mimic parentheses.
        let reason = text.trim().strip_prefix("ignored")?;
        let reason = reason.strip_prefix(", ").or_else(|| reason.strip_prefix(" (")?.strip_suffix(')'))?;
        Some(Self::Skipped(reason.to_owned()))
    }

    fn word(&self) -> String {
        match self {
            Self::Passed => "ok".into(),
            Self::Failed => "FAILED".into(),
            Self::Skipped(reason) => format!("ignored, {reason}"),
        }
    }
}

impl Claim {
    /// Reads `ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, counts: &str) {
        self.ends += 1;
        let (_, counts) = counts.split_once(". ").unwrap_or_default();
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIMIC: &str = "
running 3 tests
test connect::v4_blocked  ... ok
test connect::v6          ... FAILED
test file::uring          ... ignored (needs 6.15)

failures:

---- connect::v6 ----
connected

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn names_get_their_place_and_results_are_counted() {
        let mut reader = Reader::new(Some("6.1".into()));
        let shown = reader.read(MIMIC.as_bytes());
        assert!(shown.contains("test connect::v4_blocked [6.1] ... ok\n"), "{shown}");
        assert!(shown.contains("test file::uring [6.1] ... ignored, needs 6.15\n"), "{shown}");
        assert!(shown.contains("[6.1] connected\n"), "{shown}");
        let tally = reader.end(false);
        assert_eq!(tally.passed, 1);
        assert_eq!(tally.failed, [("connect::v6".into(), "connected\n".into())]);
        assert_eq!(tally.skipped, [("file::uring".into(), "needs 6.15".into())]);
    }

    #[test]
    fn pieces_of_any_size_read_the_same() {
        let whole = Reader::new(None).read(MIMIC.as_bytes());
        let mut reader = Reader::new(None);
        let pieces: String = MIMIC.as_bytes().chunks(7).map(|piece| reader.read(piece)).collect();
        assert_eq!(whole, pieces);
    }

    #[test]
    fn what_a_test_prints_does_not_hide_its_result() {
        let mut reader = Reader::new(None);
        reader.read(
            b"running 1 test\ntest a ... hello\nworld\nok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n",
        );
        assert_eq!(reader.end(true), Tally { passed: 1, ..Tally::default() });
    }

    #[test]
    fn a_program_that_stops_half_way_has_failed() {
        let mut reader = Reader::new(None);
        reader.read(b"running 2 tests\ntest a ... ok\ntest b ... \n");
        let failed: Vec<_> = reader.end(false).failed.into_iter().map(|(name, _)| name).collect();
        assert_eq!(failed, ["b", "end"]);
    }

    #[test]
    fn an_exit_code_against_all_results_is_a_failure() {
        let mut reader = Reader::new(None);
        reader.read(b"running 1 test\ntest a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n");
        assert_eq!(reader.end(false).failed.len(), 1);
    }

    #[test]
    fn a_result_that_was_not_read_is_a_failure() {
        let mut reader = Reader::new(None);
        reader.read(b"running 2 tests\ntest a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored\n");
        assert_eq!(reader.end(true).failed.len(), 1);
    }
}
