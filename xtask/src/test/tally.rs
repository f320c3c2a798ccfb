//! Results counted, and the last lines that a run prints.

use std::process::ExitCode;

/// What became of the tests of one stage.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    /// Name, and what is known beside what was printed.
    pub(crate) failed: Vec<(String, String)>,
    /// Name and reason.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Tally {
    fn count(&self) -> usize {
        self.passed + self.failed.len() + self.skipped.len()
    }

    pub(crate) fn fail(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.failed.push((name.into(), why.into()));
    }
}

/// A place where tests ran, with what became of them.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) tally: Tally,
    pub(crate) seconds: f64,
}

impl Stage {
    /// A stage that could not be run at all.
    pub(crate) fn broken(name: &str, error: &anyhow::Error) -> Self {
        let mut tally = Tally::default();
        tally.fail(name, format!("{error:#}"));
        Self { name: name.into(), tally, seconds: 0.0 }
    }
}

/// Prints one table and, alone on the last line, the sum of all stages.
pub(crate) fn close(stages: &[Stage], filtered: bool) -> ExitCode {
    let (text, good) = closing(stages, filtered);
    print!("{text}");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn closing(stages: &[Stage], filtered: bool) -> (String, bool) {
    let mut failed: Vec<(String, String, &str)> = Vec::new();
    let mut text =
        format!("\n{:<20} {:>7} {:>7} {:>8} {:>8}\n", "stage", "passed", "failed", "skipped", "seconds");
    for Stage { name, tally, seconds } in stages {
        text += &format!(
            "{name:<20} {:>7} {:>7} {:>8} {seconds:>8.1}\n",
            tally.passed,
            tally.failed.len(),
            tally.skipped.len()
        );
        failed.extend(tally.failed.iter().map(|(test, why)| (name.clone(), test.clone(), why.as_str())));
        // A filter may well leave a stage without tests, but nothing else may.
        if tally.count() == 0 && !filtered {
            failed.push((name.clone(), name.clone(), "no test was run"));
        }
    }
    let sum = |of: fn(&Tally) -> usize| stages.iter().map(|stage| of(&stage.tally)).sum::<usize>();
    let (passed, skipped) = (sum(|tally| tally.passed), sum(|tally| tally.skipped.len()));
    if passed == 0 && failed.is_empty() {
        failed.push(("all".into(), "all".into(), "no test was run"));
    }
    text += &skips(stages);
    for (stage, test, why) in &failed {
        text += &format!("failed   {stage}: {test}\n");
        text += &why.lines().map(|line| format!("         {line}\n")).collect::<String>();
    }
    text += &format!("{passed} passed, {} failed, {skipped} skipped\n", failed.len());
    (text, failed.is_empty())
}

/// Each reason once, with where it was met.
fn skips(stages: &[Stage]) -> String {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for stage in stages {
        for (test, reason) in &stage.tally.skipped {
            let line = format!("{test}: {reason}");
            match lines.iter_mut().find(|(known, _)| *known == line) {
                Some((_, names)) => names.push(&stage.name),
                None => lines.push((line, vec![&stage.name])),
            }
        }
    }
    lines.iter().map(|(line, names)| format!("skipped  {}: {line}\n", names.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, tally: Tally) -> Stage {
        Stage { name: name.into(), tally, seconds: 1.0 }
    }

    fn passed(passed: usize) -> Tally {
        Tally { passed, ..Tally::default() }
    }

    fn last_line(text: &str) -> &str {
        text.lines().last().unwrap()
    }

    #[test]
    fn the_last_line_counts_all_stages() {
        let mut second = passed(2);
        second.skipped.push(("file::open".into(), "needs 6.2".into()));
        let (text, good) = closing(&[stage("unit", passed(3)), stage("vm 6.1", second)], false);
        assert_eq!(last_line(&text), "5 passed, 0 failed, 1 skipped");
        assert!(text.contains("skipped  vm 6.1: file::open: needs 6.2\n"), "{text}");
        assert!(good);
    }

    #[test]
    fn a_failure_is_named_and_fails_the_run() {
        let mut tally = passed(1);
        tally.fail("connect::v4", "the guest ended");
        let (text, good) = closing(&[stage("vm 6.1", tally)], false);
        assert!(text.contains("failed   vm 6.1: connect::v4\n         the guest ended\n"), "{text}");
        assert_eq!(last_line(&text), "1 passed, 1 failed, 0 skipped");
        assert!(!good);
    }

    #[test]
    fn a_stage_without_tests_has_failed_unless_a_filter_emptied_it() {
        let stages = [stage("unit", passed(3)), stage("host", Tally::default())];
        assert!(!closing(&stages, false).1);
        assert!(closing(&stages, true).1);
    }

    #[test]
    fn a_run_without_tests_has_failed() {
        let (text, good) = closing(&[stage("unit", Tally::default())], true);
        assert_eq!(last_line(&text), "0 passed, 1 failed, 0 skipped");
        assert!(!good);
    }
}
