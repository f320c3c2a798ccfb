//! The thread that holds: it hears of threads that wait, freezes them, thaws them for signals and tokens, and puts
//! everything back in order.
//!
//! It notes all the while that it gets on, and the [heart](super::heart) tells the kernel: without that no thread turns,
//! but stops with its process. So nothing here waits for anybody but the kernel.

mod acts;
mod look;
mod queue;

use self::queue::Queue;
use super::{
    Shared, place,
    plan::{Sight, Standing, Step, plan},
    proc::{self, Condition, Signals},
    rate::{Due, Rate, Turns},
    table::Held,
};
use crate::{
    agents::AgentId,
    control::api::chain,
    kernel::{self, clock::now_ns},
};
use aya::maps::{MapData, RingBuf};
use enforcer_common::{
    grant::RequestKey,
    hold::{Notice, ThreadKey, Waiter, notice},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};
use zerocopy::FromBytes as _;

/// How often it looks at threads that were thawed.
const ATTEND_NS: u64 = 25_000_000;
/// How long it does so.
const OF_LATE_NS: u64 = 3_000_000_000;
/// How often it looks at all threads that wait.
const LOOK_NS: u64 = 500_000_000;
/// The share of its time that this may take, as one part of so many: with many threads, or on a slow machine, it looks
/// less often, down to once in [`LOOK_MOST_NS`].
const LOOK_SHARE: u64 = 20;
const LOOK_MOST_NS: u64 = 5_000_000_000;
/// How often it tells of trouble.
const TELL: Duration = Duration::from_secs(10);
/// How many notices, and how many signals, are heeded before something else is done: an agent can make as many as it
/// likes.
const NOTICES_AT_ONCE: usize = 256;
const SIGNALS_AT_ONCE: usize = 16;
/// Signals that are waited with at most. The look finds what is beyond.
const SIGNALS_MAX: usize = 4096;
/// How often at least that is done in the middle of something long.
const KEEP_UP_NS: u64 = 1_000_000;
/// How long it waits before it begins anew after a panic.
const AGAIN: Duration = Duration::from_secs(1);

/// A `SIGCONT` that the daemon sent.
#[derive(Clone, Copy, Debug)]
struct Resumed {
    tgid: u32,
    from_ns: u64,
    to_ns: u64,
}

/// A signal on its way to a thread, or to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sent {
    thread: ThreadKey,
    signal: u32,
}

pub(super) struct Keeper {
    shared: Arc<Shared>,
    notices: RingBuf<MapData>,
    /// Threads of which a notice told that they wait: one that is not frozen yet gives notice again and again.
    told_of: Queue<ThreadKey, ()>,
    /// Signals that somebody may have to take, with the last notice of each.
    signals: Queue<Sent, Notice>,
    /// When it was last through with what cannot wait.
    kept_up_ns: u64,
    /// When it last looked at threads that were thawed.
    attended_ns: u64,
    /// When it is to look at all the next time.
    looks_ns: u64,
    turns: Turns,
    resumed: Vec<Resumed>,
    /// Requests that nobody waits for any more, and since when.
    lonely: HashMap<RequestKey, u64>,
    /// Cgroups that could not be removed yet.
    left: Vec<PathBuf>,
    told: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, kernel::Error> {
        Ok(Self {
            notices: shared.kernel.notices()?,
            shared,
            told_of: Queue::new(),
            signals: Queue::new(),
            kept_up_ns: 0,
            attended_ns: 0,
            looks_ns: 0,
            turns: Turns::default(),
            resumed: Vec::new(),
            lonely: HashMap::new(),
            left: Vec::new(),
            told: None,
        })
    }

    /// Holds until it is stopped. A panic is no reason to leave everybody as they are.
    pub(super) fn run_again_and_again(mut self) {
        loop {
            let shared = Arc::clone(&self.shared);
            if catch_unwind(AssertUnwindSafe(|| self.run())).is_ok() {
                return;
            }
            tracing::error!("the thread that holds has panicked, and begins anew");
            // Its reader of the ring goes before there is another.
            drop(self);
            shared.table().land(now_ns());
            sleep(AGAIN);
            self = match Self::new(shared) {
                Ok(keeper) => keeper,
                Err(error) => {
                    tracing::error!(error = chain(&error), "nobody is held from now on");
                    return;
                }
            };
        }
    }

    /// Holds until it is stopped.
    fn run(&mut self) {
        if let Err(error) = kernel::run_first(kernel::First::Keeper) {
            tracing::warn!(
                %error,
                "the thread that holds gets no real-time priority: on a busy machine threads that wait may turn for longer, or stop with their processes"
            );
        }
        self.adopt();
        while !self.shared.stopped.load(Ordering::Relaxed) {
            // Signals and tokens before the next thread that is to be frozen.
            self.keep_up();
            self.attend_next();
            self.resume_owed();
            let now = now_ns();
            if now.saturating_sub(self.attended_ns) >= ATTEND_NS {
                self.attended_ns = now;
                self.attend_thawed();
            }
            if now >= self.looks_ns {
                self.look();
                let done = now_ns();
                self.looks_ns = done + (done.saturating_sub(now) * LOOK_SHARE).clamp(LOOK_NS, LOOK_MOST_NS);
            }
            self.tell_frozen();
            self.rest();
        }
    }

    /// Does what cannot wait for long, between any two other steps.
    fn keep_up(&mut self) {
        self.beat();
        for _ in 0..NOTICES_AT_ONCE {
            let Some(notice) = self.next_notice() else { break };
            self.heed(notice);
        }
        for _ in 0..SIGNALS_AT_ONCE {
            let Some((_, notice)) = self.signals.pop() else { break };
            self.let_through(&notice);
            self.beat();
        }
        self.thaw_due();
        self.kept_up_ns = now_ns();
    }

    /// [`Self::keep_up`] now and then, in the middle of something long.
    fn keep_up_meanwhile(&mut self) -> bool {
        let is_time = now_ns().saturating_sub(self.kept_up_ns) >= KEEP_UP_NS;
        if is_time {
            self.keep_up();
        } else {
            self.beat();
        }
        is_time
    }

    /// The same with the next thread that is to be frozen: whoever waits for that does not wait for the whole of a look.
    fn attend_meanwhile(&mut self) {
        if self.keep_up_meanwhile() {
            self.attend_next();
            self.tell_frozen();
        }
    }

    /// Notes that it gets on.
    fn beat(&self) {
        self.shared.progress_ns.store(now_ns(), Ordering::Relaxed);
    }

    fn next_notice(&mut self) -> Option<Notice> {
        let record = self.notices.next()?;
        match Notice::read_from_prefix(&record) {
            Ok((notice, _)) => Some(notice),
            Err(_) => {
                tracing::error!(bytes = record.len(), "a record in the ring is not a notice");
                None
            }
        }
    }

    fn heed(&mut self, notice: Notice) {
        match notice.what {
            notice::WAITS => self.attend_later(&notice.thread),
            notice::SIGNAL => {
                let is_for_somebody =
                    notice.thread.tid == 0 || self.shared.table().takes_signals_of(&notice.thread);
                if is_for_somebody && self.signals.len() < SIGNALS_MAX {
                    self.signals.push(Sent { thread: notice.thread, signal: notice.signal }, notice);
                }
            }
            what => tracing::error!(what, "a notice of an unknown kind"),
        }
    }

    /// Has a thread attended once those are that were told of before.
    fn attend_later(&mut self, thread: &ThreadKey) {
        self.told_of.push(*thread, ());
    }

    /// Attends the next thread; whether there was one.
    fn attend_next(&mut self) -> bool {
        let Some((thread, ())) = self.told_of.pop() else { return false };
        self.attend(&thread);
        true
    }

    /// Does what is to be done with a thread that may wait.
    fn attend(&mut self, thread: &ThreadKey) {
        match self.shared.kernel.holds().waiter(thread) {
            Ok(waiter) => {
                let step = self.step_for(thread, waiter, None);
                self.take(thread, waiter, step);
            }
            Err(error) => self.trouble("a thread that waits cannot be looked up", &error),
        }
    }

    /// What is to be done with a thread. `pending` are the requests that wait, where they are at hand.
    fn step_for(
        &mut self,
        thread: &ThreadKey,
        waiter: Option<Waiter>,
        pending: Option<&HashSet<RequestKey>>,
    ) -> Step {
        let standing = self.shared.table().standing(thread);
        let now_ns = now_ns();
        let is_still = waiter.is_some_and(|waiter| now_ns.saturating_sub(waiter.turned_ns) > LOOK_NS);
        let is_parked = match standing {
            Standing::Free => is_still && self.is_parked(thread),
            Standing::Thawed { .. } => is_still && self.stands_still(thread),
            Standing::Entering | Standing::Frozen { .. } => false,
        };
        let may_come = match (standing, &waiter) {
            (Standing::Frozen { .. }, Some(waiter)) => self.may_come(waiter, pending),
            _ => true,
        };
        let replaced_ns =
            waiter.and_then(|waiter| self.shared.replaced().get(&waiter.request.agent).copied()).unwrap_or(0);
        plan(&Sight { waiter, standing, is_parked, may_come, replaced_ns, now_ns })
    }

    /// Whether a thread has stopped, or is where threads are held.
    fn is_parked(&self, thread: &ThreadKey) -> bool {
        let cgroup = proc::cgroup_of(thread, self.shared.mount());
        is_stopped(thread) || cgroup.is_ok_and(|cgroup| cgroup.is_some_and(|cgroup| place::is_hold(&cgroup)))
    }

    /// Whether a thread that was thawed cannot turn all the same: it has stopped, or what its cgroup lies in is frozen.
    fn stands_still(&self, thread: &ThreadKey) -> bool {
        let place = self.shared.table().get(thread).and_then(|held| held.place.clone());
        is_stopped(thread) || place.is_some_and(|place| place.is_frozen())
    }

    /// Whether what a thread waits for may still come: its request waits, or its agent has the rate. What cannot be told
    /// may.
    fn may_come(&mut self, waiter: &Waiter, pending: Option<&HashSet<RequestKey>>) -> bool {
        let request = &waiter.request;
        if request.object == [0; 2] {
            return self.shared.has_rule(AgentId(request.agent), request.rule);
        }
        if let Some(pending) = pending {
            return pending.contains(request);
        }
        match self.shared.kernel.request(request) {
            Ok(found) => found.is_some(),
            Err(error) => {
                self.trouble("a request cannot be looked up", &error);
                true
            }
        }
    }

    /// Thaws whoever may have to take this signal.
    fn let_through(&mut self, notice: &Notice) {
        self.resumed.retain(|resumed| notice.time_ns.saturating_sub(resumed.to_ns) < LOOK_NS);
        let own = |resumed: &Resumed| {
            resumed.tgid == notice.thread.tgid && (resumed.from_ns..=resumed.to_ns).contains(&notice.time_ns)
        };
        if notice.signal == libc::SIGCONT as u32 && self.resumed.iter().any(own) {
            return;
        }
        let is_meant = |thread: &ThreadKey, held: &Held| {
            thread.tgid == notice.thread.tgid
                && (notice.thread.tid == 0 || notice.thread.tid == thread.tid || held.is_of_process())
        };
        let meant: Vec<_> = {
            let table = self.shared.table();
            let meant = table.iter().filter(|(thread, held)| is_meant(thread, held));
            meant.map(|(thread, held)| (*thread, held.is_of_process())).collect()
        };
        // Whoever blocks it stays as it is; where a process is held, anybody in it may take it.
        let takes = |(thread, is_of_process): &(ThreadKey, bool)| {
            *is_of_process || notice.thread.tid != 0 || self.takes(thread, notice.signal)
        };
        let taking: HashSet<_> = meant.into_iter().filter(takes).map(|(thread, _)| thread).collect();
        if !taking.is_empty() {
            let places = self.shared.table().thaw(|thread, _| taking.contains(thread), now_ns());
            self.thaw(&places);
        }
    }

    /// Whether a thread would take a signal of its process. What it blocks does not change while it is frozen, so that is
    /// read once.
    fn takes(&self, thread: &ThreadKey, signal: u32) -> bool {
        let known = self.shared.table().signals(thread);
        let Some(signals) = known.or_else(|| Signals::of(thread)) else { return true };
        if known.is_none() {
            self.shared.table().set_signals(thread, signals);
        }
        signals.takes(signal)
    }

    /// Thaws whoever may have a token now.
    fn thaw_due(&mut self) {
        let now = now_ns();
        for (thread, at_ns) in self.due() {
            if at_ns <= now {
                let mut table = self.shared.table();
                let rate = table.get(&thread).map(|held| rate_of(&held.waiter));
                let places = table.thaw(|held, _| *held == thread, now);
                drop(table);
                self.thaw(&places);
                if let Some(rate) = rate {
                    self.turns.goes(rate, now);
                }
            }
        }
    }

    /// When each thread that waits for a token is to be thawed.
    fn due(&self) -> Vec<(ThreadKey, u64)> {
        let table = self.shared.table();
        let waiting: Vec<_> = table
            .iter()
            .filter(|(_, held)| held.waiter.due_ns != 0 && matches!(held.standing, Standing::Frozen { .. }))
            .map(|(thread, held)| Due {
                thread: *thread,
                rate: rate_of(&held.waiter),
                since_ns: held.waiter.since_ns,
                due_ns: held.waiter.due_ns,
            })
            .collect();
        drop(table);
        self.turns.plan(&waiting, |(agent, rule)| self.shared.interval_ns(AgentId(agent), rule))
    }

    fn has_thawed(&self) -> bool {
        let now = now_ns();
        self.shared.table().iter().any(|(_, held)| was_thawed_of_late(held, now))
    }

    /// Looks at the threads that were thawed of late: they go back, or wait again.
    fn attend_thawed(&mut self) {
        let thawed: Vec<_> = {
            let (table, now) = (self.shared.table(), now_ns());
            let thawed = table.iter().filter(|(_, held)| was_thawed_of_late(held, now));
            thawed.map(|(thread, _)| *thread).collect()
        };
        for thread in thawed {
            self.attend(&thread);
            self.keep_up_meanwhile();
        }
    }

    /// Tells the kernel how many threads of each process are frozen.
    fn tell_frozen(&mut self) {
        let changes = self.shared.table().changes();
        for (tgid, count) in changes {
            if let Err(error) = self.shared.kernel.holds().set_frozen(tgid, count) {
                self.trouble("the kernel cannot be told who is frozen", &error);
                self.shared.table().touch(tgid);
            }
        }
    }

    /// Sleeps until there is a notice or a token, it is time to look, or somebody wakes it.
    fn rest(&mut self) {
        if !self.told_of.is_empty() || !self.signals.is_empty() {
            return;
        }
        let now = now_ns();
        let token = self.due().into_iter().map(|(_, at_ns)| at_ns).min();
        let attends = self.has_thawed().then_some(self.attended_ns + ATTEND_NS);
        let until = self.looks_ns.min(token.unwrap_or(u64::MAX)).min(attends.unwrap_or(u64::MAX));
        let timeout = TimeSpec::from_duration(Duration::from_nanos(until.saturating_sub(now)));
        let mut files =
            [self.notices.as_fd(), self.shared.wake.as_fd()].map(|file| PollFd::new(file, PollFlags::POLLIN));
        match ppoll(&mut files, Some(timeout), None) {
            // It is known now that it was to wake; that it was not is no error.
            Ok(_) | Err(Errno::EINTR) => drop(self.shared.wake.read()),
            Err(errno) => {
                self.trouble("the thread that holds cannot wait", &errno);
                sleep(Duration::from_nanos(ATTEND_NS));
            }
        }
    }

    /// Tells that something went wrong, now and then.
    fn trouble(&mut self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            self.told = Some(Instant::now());
            tracing::error!(error = chain(error), "{what}");
        }
    }

    /// The waiters of a process.
    fn waiters_of(&mut self, tgid: u32) -> Vec<(ThreadKey, Waiter)> {
        match self.shared.kernel.holds().waiters() {
            Ok(mut waiters) => {
                waiters.retain(|(thread, _)| thread.tgid == tgid);
                waiters
            }
            Err(error) => {
                self.trouble("the threads that wait cannot be read", &error);
                Vec::new()
            }
        }
    }

    /// The rates that somebody is held for.
    fn rates(&self) -> BTreeSet<Rate> {
        self.shared.table().iter().map(|(_, held)| rate_of(&held.waiter)).collect()
    }
}

/// Whether a signal has stopped a thread.
fn is_stopped(thread: &ThreadKey) -> bool {
    matches!(proc::condition(thread), Ok(Some(Condition::Stopped)))
}

/// Whether a thread was thawed, and not so long ago that the look is enough: its agent may be frozen for days.
fn was_thawed_of_late(held: &Held, now_ns: u64) -> bool {
    matches!(held.standing, Standing::Thawed { since_ns } if now_ns.saturating_sub(since_ns) < OF_LATE_NS)
}

fn rate_of(waiter: &Waiter) -> Rate {
    (waiter.request.agent, waiter.request.rule)
}
