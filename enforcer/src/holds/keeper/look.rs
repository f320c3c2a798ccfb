//! The look at everything, now and then: what no notice told of, and what another daemon has left.

use super::{Keeper, LOOK_NS, acts::has_signal_to_take};
use crate::{
    holds::{
        place,
        plan::{Standing, Step},
        proc,
    },
    kernel::{self, clock::now_ns},
};
use enforcer_common::{
    event::flag,
    grant::RequestKey,
    hold::{ThreadKey, Waiter},
};
use std::collections::{BTreeMap, HashSet};

/// How long a request that nobody waits for stays: a handler that ran ends the call, and many programs try again.
const GRACE_NS: u64 = 1_500_000_000;

/// How long it is of interest that an agent got another policy: longer than a thread is on its way into its cgroup.
const REPLACED_NS: u64 = 60_000_000_000;

impl Keeper {
    /// Takes over what another daemon has left: the threads that it froze stay frozen, as far as they wait.
    pub(in crate::holds) fn adopt(&mut self) {
        self.beat();
        self.look();
        // All of them: whose cgroup it is must be known before any is removed.
        while self.attend_next() {
            self.beat();
        }
        self.left = place::all_below(self.shared.mount());
        // One that lies in another goes before it.
        self.give_back_left();
        match self.shared.kernel.holds().frozen() {
            Ok(frozen) => {
                for (tgid, _) in frozen {
                    self.shared.table().touch(tgid);
                }
            }
            Err(error) => self.trouble("it cannot be read who is said to be frozen", &error),
        }
    }

    /// Looks at all threads that wait or are held, and at the requests that wait.
    pub(super) fn look(&mut self) {
        if let Err(error) = self.look_at_all() {
            self.trouble("the threads that wait cannot be looked after", &error);
        }
        self.give_back_left();
        let rates = self.rates();
        self.turns.keep(|rate| rates.contains(&rate));
        let now = now_ns();
        self.shared.replaced().retain(|_, replaced_ns| now.saturating_sub(*replaced_ns) < REPLACED_NS);
        self.resumed.retain(|resumed| now.saturating_sub(resumed.to_ns) < LOOK_NS);
    }

    fn look_at_all(&mut self) -> Result<(), kernel::Error> {
        // In this order: whoever waits has filed its request before.
        let waiters = self.shared.kernel.holds().waiters()?;
        let requests: HashSet<_> = self.shared.kernel.request_keys()?.into_iter().collect();
        for (thread, waiter) in &waiters {
            self.look_at(thread, waiter, &requests);
            self.attend_meanwhile();
        }
        let waiting: HashSet<_> = waiters.iter().map(|(thread, _)| *thread).collect();
        let held: Vec<_> = self.shared.table().iter().map(|(thread, _)| *thread).collect();
        for thread in held.into_iter().filter(|thread| !waiting.contains(thread)) {
            if matches!(proc::condition(&thread), Ok(None)) {
                self.bury(&thread);
            } else {
                self.attend(&thread);
            }
            self.attend_meanwhile();
        }
        self.count()?;
        self.drop_lonely(&waiters, &requests)
    }

    fn look_at(&mut self, thread: &ThreadKey, waiter: &Waiter, requests: &HashSet<RequestKey>) {
        if matches!(proc::condition(thread), Ok(None)) {
            return self.bury(thread);
        }
        let step = self.step_for(thread, Some(*waiter), Some(requests));
        let is_frozen = matches!(self.shared.table().standing(thread), Standing::Frozen { .. });
        if step == Step::Nothing && is_frozen && has_signal_to_take(thread, Some(waiter)) {
            self.thaw_thread(thread);
        } else if step == Step::Nothing && is_frozen && proc::is_in_call(thread) == Some(false) {
            // Its call ended, without coming by the hook, before it was frozen: what it was about is gone, say. One that is
            // between two turns looks the same, and is frozen again at the next.
            self.thaw_thread(thread);
        } else if matches!(step, Step::Hold | Step::Forget | Step::Leave) {
            // By then it may have turned since it was read.
            self.attend_later(thread);
        } else {
            self.take(thread, Some(*waiter), step);
        }
    }

    /// Sets the kernel's counts of waiting threads right, which it keeps by adding and taking away.
    fn count(&self) -> Result<(), kernel::Error> {
        let holds = self.shared.kernel.holds();
        let counts = count_by_agent(&holds.waiters()?);
        for (agent, count) in holds.waiting()? {
            let real = counts.get(&agent).copied().unwrap_or(0);
            if real != count {
                holds.set_waiting(agent, real)?;
            }
        }
        Ok(())
    }

    /// Drops the requests whose threads are gone.
    fn drop_lonely(
        &mut self,
        waiters: &[(ThreadKey, Waiter)],
        requests: &HashSet<RequestKey>,
    ) -> Result<(), kernel::Error> {
        let waited_for: HashSet<_> = waiters.iter().map(|(_, waiter)| waiter.request).collect();
        self.lonely.retain(|request, _| requests.contains(request) && !waited_for.contains(request));
        for request in requests.difference(&waited_for) {
            let found = self.shared.kernel.request(request)?;
            if found.is_none_or(|found| found.event.flags & flag::HELD == 0) {
                self.lonely.remove(request);
                continue;
            }
            let now = now_ns();
            let since = *self.lonely.entry(*request).or_insert(now);
            if now.saturating_sub(since) >= GRACE_NS {
                self.shared.kernel.remove_request(request)?;
                self.lonely.remove(request);
                tracing::info!(
                    request = %crate::approvals::RequestId::of(request),
                    "request dropped: whoever waited for its answer is gone"
                );
            }
            self.beat();
        }
        Ok(())
    }
}

fn count_by_agent(waiters: &[(ThreadKey, Waiter)]) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for (_, waiter) in waiters {
        *counts.entry(waiter.request.agent).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::count_by_agent;
    use crate::holds::tests::waiter;
    use enforcer_common::{
        grant::RequestKey,
        hold::{ThreadKey, Waiter},
    };

    #[test]
    fn the_threads_of_each_agent_are_counted() {
        let of = |tid, agent| {
            let waiter = waiter();
            let request = RequestKey { agent, ..waiter.request };
            (ThreadKey { start_ns: 1, tid, tgid: 1 }, Waiter { request, ..waiter })
        };
        let counts = count_by_agent(&[of(1, 4), of(2, 5), of(3, 4)]);
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(4, 2), (5, 1)]);
    }
}
