//! Who is held where. The thread that holds writes it; whoever answers thaws by it.

use super::{
    place::{Became, Place},
    plan::Standing,
};
use enforcer_common::{
    grant::RequestKey,
    hold::{ThreadKey, Waiter},
};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
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
}

impl Held {
    fn is_frozen(&self) -> bool {
        matches!(self.standing, Standing::Entering | Standing::Frozen { .. })
    }

    /// Whether it is in this cgroup.
    pub(super) fn is_in(&self, hold: &Path) -> bool {
        self.place.as_ref().is_some_and(|place| place.hold == hold)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    held: HashMap<ThreadKey, Held>,
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

    /// What the wait of a thread became, if it is held.
    pub(super) fn became(&self, thread: &ThreadKey) -> Option<Became> {
        self.held.get(thread)?.place.as_ref().map(|place| place.became)
    }

    /// Notes that a thread is about to be frozen.
    pub(super) fn enter(&mut self, thread: ThreadKey, waiter: Waiter) {
        let place = self.held.remove(&thread).and_then(|held| held.place);
        self.held.insert(thread, Held { waiter, place, standing: Standing::Entering });
        self.touched.insert(thread.tgid);
    }

    /// Notes that a thread is frozen.
    pub(super) fn froze(&mut self, thread: &ThreadKey, place: Place, now_ns: u64) {
        if let Some(held) = self.held.get_mut(thread) {
            (held.place, held.standing) = (Some(place), Standing::Frozen { since_ns: now_ns });
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
        let shared = self.held.values().any(|other| other.is_in(&place.hold));
        (!shared).then_some(place)
    }

    /// Notes that the frozen threads that are meant are thawed, and everybody else in the same cgroups. Tells which
    /// cgroups are to be thawed.
    pub(super) fn thaw(&mut self, meant: impl Fn(&ThreadKey, &Held) -> bool, now_ns: u64) -> Vec<Place> {
        let frozen = |held: &Held| matches!(held.standing, Standing::Frozen { .. });
        let mut places: Vec<Place> = Vec::new();
        for (_, held) in self.held.iter().filter(|(thread, held)| frozen(held) && meant(thread, held)) {
            places.extend(held.place.clone().filter(|place| !places.iter().any(|p| p.hold == place.hold)));
        }
        let thawed = Standing::Thawed { since_ns: now_ns };
        for (thread, held) in &mut self.held {
            if frozen(held) && places.iter().any(|place| held.is_in(&place.hold)) {
                held.standing = thawed;
                self.touched.insert(thread.tgid);
            }
        }
        places
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
        let touched = std::mem::take(&mut self.touched);
        let count = |tgid: u32| {
            self.held.iter().filter(|(thread, held)| thread.tgid == tgid && held.is_frozen()).count() as u32
        };
        touched.into_iter().map(|tgid| (tgid, count(tgid))).collect()
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
