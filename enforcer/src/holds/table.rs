//! Who is held where. The thread that holds writes it; whoever answers thaws by it.

use super::{
    place::{Became, Place},
    plan::Standing,
    proc::Signals,
};
use enforcer_common::{
    grant::RequestKey,
    hold::{ThreadKey, Waiter},
};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

/// A thread that is held, or was until just now.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// What it waits for, as it was last seen.
    pub(super) waiter: Waiter,
    /// Where it is, once it is there.
    pub(super) place: Option<Place>,
    /// Where it stands; never free.
    pub(super) standing: Standing,
    /// Its signals, once they were read since it was frozen.
    signals: Option<Signals>,
}

impl Held {
    fn is_frozen(&self) -> bool {
        matches!(self.standing, Standing::Entering | Standing::Frozen { .. })
    }

    /// Whether its whole process is where it is.
    pub(super) fn is_of_process(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.became == Became::Process)
    }

    /// Whether it is, and is not about to be.
    fn is_frozen_for_good(&self) -> bool {
        matches!(self.standing, Standing::Frozen { .. })
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    held: HashMap<ThreadKey, Held>,
    /// Who is in each cgroup.
    inside: HashMap<PathBuf, HashSet<ThreadKey>>,
    /// Processes whose number of frozen threads may have changed.
    touched: HashSet<u32>,
}

impl Table {
    /// Where a thread stands.
    pub(super) fn standing(&self, thread: &ThreadKey) -> Standing {
        self.held.get(thread).map_or(Standing::Free, |held| held.standing)
    }

    /// A thread, if it is held.
    pub(super) fn get(&self, thread: &ThreadKey) -> Option<&Held> {
        self.held.get(thread)
    }

    /// All threads that are held, or were.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ThreadKey, &Held)> {
        self.held.iter()
    }

    /// Whether somebody is in this cgroup.
    pub(super) fn is_used(&self, hold: &Path) -> bool {
        self.inside.contains_key(hold)
    }

    /// What the wait of a thread became, if it is held.
    pub(super) fn became(&self, thread: &ThreadKey) -> Option<Became> {
        self.held.get(thread)?.place.as_ref().map(|place| place.became)
    }

    /// Notes that a thread is about to be frozen.
    pub(super) fn enter(&mut self, thread: ThreadKey, waiter: Waiter) {
        let place = self.held.remove(&thread).and_then(|held| held.place);
        self.held.insert(thread, Held { waiter, place, standing: Standing::Entering, signals: None });
        self.touched.insert(thread.tgid);
    }

    /// Notes that a thread is frozen.
    pub(super) fn froze(&mut self, thread: &ThreadKey, place: Place, now_ns: u64) {
        let Some(held) = self.held.get_mut(thread) else { return };
        held.standing = Standing::Frozen { since_ns: now_ns };
        let before = held.place.replace(place.clone());
        if let Some(before) = before {
            self.take_out(&before.hold, thread);
        }
        self.inside.entry(place.hold).or_default().insert(*thread);
    }

    /// The signals of a thread, if they were read since it was frozen.
    pub(super) fn signals(&self, thread: &ThreadKey) -> Option<Signals> {
        self.held.get(thread)?.signals
    }

    /// Notes them. They are of use while it stands still.
    pub(super) fn set_signals(&mut self, thread: &ThreadKey, signals: Signals) {
        if let Some(held) = self.held.get_mut(thread).filter(|held| held.is_frozen_for_good()) {
            held.signals = Some(signals);
        }
    }

    /// Whether a signal to this thread may be for somebody who is held: the thread, or its process.
    pub(super) fn takes_signals_of(&self, thread: &ThreadKey) -> bool {
        let mut of_process =
            self.held.iter().filter(|(other, held)| other.tgid == thread.tgid && held.is_of_process());
        self.held.contains_key(thread) || of_process.next().is_some()
    }

    /// Has nobody be on the way into a cgroup, since whoever saw to that is gone.
    pub(super) fn land(&mut self, now_ns: u64) {
        for held in self.held.values_mut().filter(|held| held.standing == Standing::Entering) {
            held.standing = Standing::Thawed { since_ns: now_ns };
        }
    }

    /// Notes what a thread waits for now.
    pub(super) fn set_waiter(&mut self, thread: &ThreadKey, waiter: Waiter) {
        if let Some(held) = self.held.get_mut(thread) {
            held.waiter = waiter;
        }
    }

    /// Forgets a thread. Tells where it was, unless somebody else is in the same cgroup.
    pub(super) fn remove(&mut self, thread: &ThreadKey) -> Option<Place> {
        let held = self.held.remove(thread)?;
        self.touched.insert(thread.tgid);
        let place = held.place?;
        self.take_out(&place.hold, thread);
        (!self.is_used(&place.hold)).then_some(place)
    }

    fn take_out(&mut self, hold: &Path, thread: &ThreadKey) {
        if let Some(inside) = self.inside.get_mut(hold) {
            inside.remove(thread);
            if inside.is_empty() {
                self.inside.remove(hold);
            }
        }
    }

    /// Notes that the frozen threads that are meant are thawed, and everybody else in the same cgroups. Tells which
    /// cgroups are to be thawed.
    pub(super) fn thaw(&mut self, meant: impl Fn(&ThreadKey, &Held) -> bool, now_ns: u64) -> Vec<Place> {
        let is_meant =
            |(thread, held): &(&ThreadKey, &Held)| held.is_frozen_for_good() && meant(thread, held);
        let places: HashMap<_, _> = self
            .held
            .iter()
            .filter(is_meant)
            .filter_map(|(_, held)| held.place.clone())
            .map(|place| (place.hold.clone(), place))
            .collect();
        for thread in places.keys().filter_map(|hold| self.inside.get(hold)).flatten() {
            if let Some(held) = self.held.get_mut(thread).filter(|held| held.is_frozen_for_good()) {
                held.standing = Standing::Thawed { since_ns: now_ns };
                self.touched.insert(thread.tgid);
            }
        }
        places.into_values().collect()
    }

    /// The same for whoever waits for an answer to a request.
    pub(super) fn thaw_request(&mut self, request: &RequestKey, now_ns: u64) -> Vec<Place> {
        self.thaw(|_, held| held.waiter.request == *request, now_ns)
    }

    /// Has a process be told of by [`Self::changes`].
    pub(super) fn touch(&mut self, tgid: u32) {
        self.touched.insert(tgid);
    }

    /// The processes whose number of frozen threads may have changed since this was asked last, with that number.
    pub(super) fn changes(&mut self) -> Vec<(u32, u32)> {
        if self.touched.is_empty() {
            return Vec::new();
        }
        let mut counts: HashMap<u32, u32> =
            std::mem::take(&mut self.touched).into_iter().map(|tgid| (tgid, 0)).collect();
        for (thread, _) in self.held.iter().filter(|(_, held)| held.is_frozen()) {
            if let Some(count) = counts.get_mut(&thread.tgid) {
                *count += 1;
            }
        }
        counts.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Became, Place, Standing, Table};
    use crate::holds::tests::waiter;
    use enforcer_common::{grant::RequestKey, hold::ThreadKey};

    fn thread(tid: u32) -> ThreadKey {
        ThreadKey { start_ns: 1, tid, tgid: 1 }
    }

    fn place(name: &str) -> Place {
        Place { hold: format!("/c/{name}").into(), leaf: "/c".into(), became: Became::Thread }
    }

    fn table(places: &[(u32, &str)]) -> Table {
        let mut table = Table::default();
        for (tid, name) in places {
            table.enter(thread(*tid), waiter());
            table.froze(&thread(*tid), place(name), 5);
        }
        table
    }

    #[test]
    fn whoever_waits_for_the_same_is_thawed_together() {
        let mut table = table(&[(1, "a"), (2, "b")]);
        let other = RequestKey { agent: 9, ..waiter().request };
        assert!(table.thaw_request(&other, 9).is_empty());
        assert_eq!(table.thaw_request(&waiter().request, 9).len(), 2);
        assert_eq!(table.standing(&thread(2)), Standing::Thawed { since_ns: 9 });
        assert!(table.thaw_request(&waiter().request, 10).is_empty(), "once is enough");
    }

    #[test]
    fn whoever_shares_a_cgroup_is_thawed_along() {
        let mut table = table(&[(1, "p"), (2, "p"), (3, "c")]);
        assert_eq!(table.thaw(|thread, _| thread.tid == 1, 9), [place("p")]);
        assert_eq!(table.standing(&thread(2)), Standing::Thawed { since_ns: 9 });
        assert_eq!(table.standing(&thread(3)), Standing::Frozen { since_ns: 5 });
        assert_eq!(table.remove(&thread(1)), None, "somebody else is in it");
        assert_eq!(table.remove(&thread(2)), Some(place("p")));
        assert!(!table.is_used(&place("p").hold) && table.is_used(&place("c").hold));
    }

    #[test]
    fn a_thread_that_is_frozen_elsewhere_is_no_longer_where_it_was() {
        let mut table = table(&[(1, "a"), (2, "b")]);
        table.enter(thread(1), waiter());
        table.froze(&thread(1), place("b"), 6);
        assert!(!table.is_used(&place("a").hold));
        assert_eq!(table.remove(&thread(2)), None, "the first is in it now");
    }

    #[test]
    fn the_frozen_threads_of_a_process_are_counted_from_before_they_are() {
        let mut table = table(&[(1, "a")]);
        table.enter(thread(2), waiter());
        assert_eq!(table.changes(), [(1, 2)]);
        assert!(table.changes().is_empty());
        table.thaw(|thread, _| thread.tid == 1, 9);
        table.remove(&thread(2));
        assert_eq!(table.changes(), [(1, 0)]);
    }
}
