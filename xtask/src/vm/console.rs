//! What a guest's kernel said.

use std::fs;
use std::path::Path;

use crate::process;

/// How the kernel begins when something is wrong that it survives, and when it does not.
const ALARMS: [&str; 5] = ["WARNING:", "BUG:", "Oops:", "INFO: task ", "Kernel panic"];

/// What `tests/e2e/trial.rs` writes when a test begins.
const TEST: &str = "] test: ";

/// Tests run side by side, so the last one is not always the one that did it.
const LAST_TESTS: usize = 4;

pub(crate) struct Console(String);

impl Console {
    pub(crate) fn read(log: &Path) -> Self {
        let bytes = fs::read(log).unwrap_or_default();
        Self(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Lines that should worry somebody, without their times.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = &str> {
        let texts = self.0.lines().map(|line| match line.split_once("] ") {
            Some((time, text)) if time.starts_with('[') => text,
            _ => line,
        });
        texts.filter(|text| ALARMS.iter().any(|alarm| text.contains(alarm)))
    }

    /// Whether the kernel gave up.
    pub(crate) fn panicked(&self) -> bool {
        self.0.contains("Kernel panic")
    }

    /// The tests that were begun last, the alarms, and the end: the first two may be far up.
    pub(crate) fn last_words(&self) -> String {
        let tests: Vec<_> = self.0.lines().filter(|line| line.contains(TEST)).collect();
        let tests = tests.get(tests.len().saturating_sub(LAST_TESTS)..).unwrap_or_default();
        let far: String =
            tests.iter().copied().chain(self.alarms()).map(|line| format!("{line}\n")).collect();
        format!("{far}…\n{}", process::last_lines(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_found_between_other_lines() {
        let console = Console(
            "[    1.9] amd_pstate: no object\n[    2.5] Kernel panic - not syncing: sysrq\n[    2.6]  ? f+0x1\n".into(),
        );
        assert_eq!(console.alarms().collect::<Vec<_>>(), ["Kernel panic - not syncing: sysrq"]);
    }
}
