//! From an answer to a grant.

use enforcer_common::grant::Grant;
use std::time::Duration;

/// How long a grant for a number of uses lasts when nothing says how long.
pub(super) const UNUSED: Duration = Duration::from_secs(10 * 60);

/// What a person, or the time that ran out, says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allows: bool,
    /// How often, if not as the rule has it.
    pub uses: Option<u64>,
    /// For how long, if not as the rule has it.
    pub lasts: Option<Duration>,
}

impl Answer {
    /// The answer with what the rule says about such answers.
    #[must_use]
    pub fn plain(allows: bool) -> Self {
        Self { allows, uses: None, lasts: None }
    }

    /// The grant, which begins now. A time without a number means any number in that time; neither means what the
    /// rule remembers, and where it remembers nothing, once: for each of the threads that wait for it.
    #[must_use]
    pub fn grant(&self, remember_ns: u64, waiting: usize, now_ns: u64) -> Grant {
        let remembered = (remember_ns > 0).then(|| Duration::from_nanos(remember_ns));
        let uses = match (self.uses, self.lasts.or(remembered)) {
            (Some(uses), _) => {
                i64::try_from(uses).map_or(Grant::UNLIMITED, |uses| uses.min(Grant::UNLIMITED))
            }
            (None, Some(_)) => Grant::UNLIMITED,
            (None, None) => i64::try_from(waiting).unwrap_or(1).max(1),
        };
        let lasts = self.lasts.or(remembered).unwrap_or(UNUSED);
        let lasts_ns = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        Grant { expires_ns: now_ns.saturating_add(lasts_ns), uses, allows: u64::from(self.allows) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, UNUSED};
    use enforcer_common::grant::Grant;
    use std::time::Duration;

    const NOW: u64 = 1_000;
    const MINUTE: u64 = 60_000_000_000;

    fn grant(uses: Option<u64>, lasts: Option<u64>, remember: u64) -> (u64, i64) {
        let answer = Answer { allows: true, uses, lasts: lasts.map(Duration::from_nanos) };
        let grant = answer.grant(remember, 0, NOW);
        (grant.expires_ns - NOW, grant.uses)
    }

    #[test]
    fn an_answer_holds_once_unless_something_says_longer() {
        let unused = UNUSED.as_nanos() as u64;
        assert_eq!(grant(None, None, 0), (unused, 1));
        assert_eq!(grant(Some(3), None, 0), (unused, 3));
        assert_eq!(grant(None, None, MINUTE), (MINUTE, Grant::UNLIMITED));
        assert_eq!(grant(Some(2), None, MINUTE), (MINUTE, 2));
        assert_eq!(grant(None, Some(5 * MINUTE), MINUTE), (5 * MINUTE, Grant::UNLIMITED));
        assert_eq!(grant(Some(1), Some(5 * MINUTE), 0), (5 * MINUTE, 1));
    }

    #[test]
    fn an_answer_for_once_is_for_each_thread_that_waits() {
        let uses = |answer: Answer, remember| answer.grant(remember, 3, NOW).uses;
        assert_eq!(uses(Answer::plain(true), 0), 3);
        assert_eq!(uses(Answer::plain(false), 0), 3);
        assert_eq!(uses(Answer { uses: Some(1), ..Answer::plain(true) }, 0), 1);
        assert_eq!(uses(Answer::plain(true), MINUTE), Grant::UNLIMITED);
    }

    #[test]
    fn numbers_beyond_reason_are_no_surprise() {
        assert_eq!(grant(Some(u64::MAX), None, 0).1, Grant::UNLIMITED);
        let forever = Answer { lasts: Some(Duration::MAX), ..Answer::plain(false) }.grant(0, 0, NOW);
        assert_eq!((forever.expires_ns, forever.allows), (u64::MAX, 0));
    }
}
