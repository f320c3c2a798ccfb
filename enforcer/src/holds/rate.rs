//! When threads that wait for a token are thawed.
//!
//! The kernel tells each when there will be one, and tells all the same: a token is not kept for anybody. Thawed at
//! once they would all turn for one. So they go one after another, the cost of a token apart, those first that have
//! waited longest; whoever finds none has a new time from the kernel.

use enforcer_common::hold::ThreadKey;
use std::collections::{BTreeMap, HashMap};

/// A rate of an agent: its id and the content of the rule.
pub(super) type Rate = (u64, u64);

/// A thread that waits for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The thread.
    pub(super) thread: ThreadKey,
    /// Of which rate.
    pub(super) rate: Rate,
    /// Since when.
    pub(super) since_ns: u64,
    /// When there is a token, if nobody else takes it.
    pub(super) due_ns: u64,
}

/// When the last thread went, by rate.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<Rate, u64>);

impl Turns {
    /// When each thread is to go; `interval` tells the nanoseconds of a token.
    pub(super) fn plan(&self, waiting: &[Due], interval: impl Fn(Rate) -> u64) -> Vec<(ThreadKey, u64)> {
        let mut by_rate: BTreeMap<Rate, Vec<&Due>> = BTreeMap::new();
        for due in waiting {
            by_rate.entry(due.rate).or_default().push(due);
        }
        let mut plan = Vec::with_capacity(waiting.len());
        for (rate, mut waiting) in by_rate {
            waiting.sort_by_key(|due| (due.since_ns, due.thread.tid));
            let interval_ns = interval(rate);
            let mut free_ns = self.0.get(&rate).map_or(0, |last| last.saturating_add(interval_ns));
            for due in waiting {
                let at_ns = due.due_ns.max(free_ns);
                plan.push((due.thread, at_ns));
                free_ns = at_ns.saturating_add(interval_ns);
            }
        }
        plan
    }

    /// Notes that a thread goes. One after which nobody goes is forgotten.
    pub(super) fn goes(&mut self, rate: Rate, now_ns: u64) {
        self.0.insert(rate, now_ns);
    }

    /// Forgets the rates that nobody waits for.
    pub(super) fn keep(&mut self, waits: impl Fn(Rate) -> bool) {
        self.0.retain(|rate, _| waits(*rate));
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, Turns};
    use enforcer_common::hold::ThreadKey;

    fn due(tid: u32, rule: u64, since_ns: u64, due_ns: u64) -> Due {
        Due { thread: ThreadKey { start_ns: 1, tid, tgid: 1 }, rate: (1, rule), since_ns, due_ns }
    }

    fn planned(turns: &Turns, waiting: &[Due]) -> Vec<(u32, u64)> {
        let mut plan: Vec<_> =
            turns.plan(waiting, |_| 100).into_iter().map(|(thread, at)| (thread.tid, at)).collect();
        plan.sort_by_key(|(_, at)| *at);
        plan
    }

    #[test]
    fn whoever_waited_longest_goes_first_and_the_next_a_token_later() {
        let waiting = [due(1, 7, 30, 1000), due(2, 7, 10, 1000), due(3, 7, 20, 1000), due(4, 8, 5, 1010)];
        assert_eq!(planned(&Turns::default(), &waiting), [(2, 1000), (4, 1010), (3, 1100), (1, 1200)]);
    }

    #[test]
    fn one_that_went_has_taken_a_token() {
        let mut turns = Turns::default();
        turns.goes((1, 7), 1000);
        assert_eq!(planned(&turns, &[due(1, 7, 30, 1000), due(2, 8, 30, 1000)]), [(2, 1000), (1, 1100)]);
        turns.keep(|_| false);
        assert_eq!(planned(&turns, &[due(1, 7, 30, 1000)]), [(1, 1000)]);
    }
}
