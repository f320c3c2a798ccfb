//! What a guest's kernel said.

use std::fs;
use std::path::Path;

use crate::process;

/// How the kernel begins when something is wrong that it survives, and when it does not.
const ALARMS: [&str; 5] = ["WARNING:", "BUG:", "Oops:", "INFO: task ", "Kernel panic"];

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

    /// The alarms, which may be far up, and the end.
    pub(crate) fn last_words(&self) -> String {
        let alarms: String = self.alarms().map(|alarm| format!("{alarm}\n")).collect();
        format!("{alarms}{}", process::last_lines(&self.0))
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
