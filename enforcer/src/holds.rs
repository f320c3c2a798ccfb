//! Holds: the threads whose calls wait for an answer or for a token, kept frozen until then.
//!
//! The kernel has such a thread make its call again and again, and tells of it ([`enforcer_common::hold`]). One thread
//! here, the [`keeper`], freezes it where it is ([`place`]); whoever answers thaws it. What to do with a thread is
//! decided by [`plan`] alone, from what is seen of it, and everything is looked at again now and then: a notice that was
//! lost, or a daemon that was killed in the middle, costs time and nothing else.
//!
//! Nothing here decides: a thread that is thawed asks the kernel again. It is frozen by the time that its request is
//! answered, or it is not and meets the answer by itself.

mod heart;
mod keeper;
mod place;
mod plan;
mod proc;
mod rate;
mod table;

use self::{
    keeper::Keeper,
    place::{Became, Place},
    table::Table,
};
use crate::{
    agents::{AgentId, names::Names},
    kernel::{self, Kernel, clock::now_ns},
};
use enforcer_common::{
    grant::RequestKey,
    hold::{ThreadKey, Waiter, state},
};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::Duration,
};

/// Why nobody can be held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The thread.
    #[error("cannot start the thread that holds")]
    Thread(#[source] io::Error),
}

/// What a wait became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldAs {
    /// The thread is frozen.
    Thread,
    /// Its process is.
    Process,
    /// Its call is about to fail: it cannot be held.
    Refused,
    /// It makes its call again and again, or has stopped, until it is frozen.
    Turning,
}

/// A thread that waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// The thread.
    pub thread: ThreadKey,
    /// What it waits for; without an object where it is a token.
    pub request: RequestKey,
    /// Since when, in nanoseconds since boot.
    pub since_ns: u64,
    /// What became of it.
    pub held: HeldAs,
}

/// Whether a thread lives, and is not another one with its number. What cannot be told does not.
#[must_use]
pub fn lives(thread: &ThreadKey) -> bool {
    matches!(proc::condition(thread), Ok(Some(_)))
}

/// What the thread that holds shares with everybody else.
#[derive(Debug)]
struct Shared {
    kernel: Arc<Kernel>,
    names: Arc<Names>,
    table: Mutex<Table>,
    wake: EventFd,
    stopped: AtomicBool,
    /// When the keeper last got on, in nanoseconds since boot.
    progress_ns: AtomicU64,
    /// Processes that stopped for a thread which waits no longer, with that thread: they are to go on.
    owed: Mutex<BTreeMap<u32, ThreadKey>>,
    /// Agents that got another policy, and when, in nanoseconds since boot.
    replaced: Mutex<HashMap<u64, u64>>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<u32, ThreadKey>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel forget that a thread waits. A process that stopped for it goes on later.
    fn forget(&self, thread: &ThreadKey) -> Result<(), kernel::Error> {
        let waiter = self.kernel.holds().waiter(thread);
        if let Ok(waiter) = &waiter {
            self.owe(thread, *waiter);
        }
        self.kernel.holds().remove_waiter(thread)?;
        Ok(waiter.map(drop)?)
    }

    /// Has the call of a thread fail at its next turn, as one that cannot be held, if it waits for this, where something
    /// is said. A process that stopped for it goes on later.
    fn refuse(&self, thread: &ThreadKey, request: Option<&RequestKey>) -> Result<(), kernel::Error> {
        let Some(waiter) = self.kernel.holds().waiter(thread)? else { return Ok(()) };
        if request.is_some_and(|request| waiter.request != *request) {
            return Ok(());
        }
        self.owe(thread, Some(waiter));
        Ok(self.kernel.holds().set_waiter(thread, &Waiter { state: state::REFUSED, ..waiter })?)
    }

    fn owe(&self, thread: &ThreadKey, waiter: Option<Waiter>) {
        if waiter.is_some_and(|waiter| waiter.state == state::STOPPED) {
            self.owed().insert(thread.tgid, *thread);
        }
    }

    /// The mount of the hierarchy, below which all threads live.
    fn mount(&self) -> &Path {
        self.kernel.root().mount()
    }

    /// Nanoseconds of a token of a rule; 0 where that is not known.
    fn interval_ns(&self, agent: AgentId, rule: u64) -> u64 {
        let policy = self.names.agent(agent).and_then(|agent| self.names.policy(agent.policy));
        policy.and_then(|policy| policy.rule_of(rule).map(|rule| rule.interval_ns)).unwrap_or(0)
    }

    /// Whether an agent is under a rule, as far as is known.
    fn has_rule(&self, agent: AgentId, rule: u64) -> bool {
        let policy = self.names.agent(agent).and_then(|agent| self.names.policy(agent.policy));
        policy.is_none_or(|policy| policy.rules.is_empty() || policy.rule_of(rule).is_some())
    }
}

/// The threads that are held.
#[derive(Debug)]
pub struct Holds {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Holds {
    /// Takes over what another daemon left, and holds from then on whoever waits.
    pub fn start(kernel: Arc<Kernel>, names: Arc<Names>) -> Result<Self, Error> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::Thread(errno.into()))?;
        let table = Mutex::default();
        let shared = Arc::new(Shared {
            kernel,
            names,
            table,
            wake,
            stopped: AtomicBool::new(false),
            progress_ns: AtomicU64::new(0),
            owed: Mutex::default(),
            replaced: Mutex::default(),
        });
        let keeper = Keeper::new(Arc::clone(&shared))?;
        let holds = Self { shared, threads: Mutex::default() };
        let beating = Arc::clone(&holds.shared);
        // Whatever was started is stopped again where the other cannot be.
        holds.spawn("heart", move || heart::run(&beating))?;
        holds.spawn("holds", move || keeper.run_again_and_again())?;
        Ok(holds)
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Error::Thread)?;
        self.threads().push(thread);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Thaws whoever waits for an answer to this request, which is there, or will not come.
    pub fn release(&self, request: &RequestKey) {
        let places = self.shared.table().thaw_request(request, now_ns());
        thaw(&places);
    }

    /// Has the calls fail that wait for an answer to this request, which was taken back: they ask anew when they are made
    /// again.
    pub fn refuse(&self, request: &RequestKey) {
        let waiting: Vec<_> = {
            let table = self.shared.table();
            let waits = table.iter().filter(|(_, held)| held.waiter.request == *request);
            waits.map(|(thread, _)| *thread).collect()
        };
        for thread in waiting {
            done(&thread, self.shared.refuse(&thread, Some(request)));
        }
        self.release(request);
        self.wake();
    }

    /// Has the threads of an agent that are held make their calls once more: another policy is in force for it.
    pub fn decide_again(&self, agent: AgentId) {
        // Those that are being frozen just now are seen to have turned before.
        self.shared.replaced().insert(agent.0, now_ns());
        let places = self.shared.table().thaw(|_, held| held.waiter.request.agent == agent.0, now_ns());
        thaw(&places);
        self.wake();
    }

    /// Has the thread that holds look at once.
    fn wake(&self) {
        // That many wake-ups at a time do not come about, and one that is there already is as good.
        let _ = self.shared.wake.write(1);
    }

    /// The threads that wait for what is meant.
    pub fn waits(&self, meant: impl Fn(&RequestKey) -> bool) -> Result<Vec<Wait>, kernel::Error> {
        let mut waiters = self.shared.kernel.holds().waiters()?;
        waiters.retain(|(_, waiter)| meant(&waiter.request));
        let table = self.shared.table();
        let became = |thread: &ThreadKey, now: u32| match table.became(thread) {
            _ if now == state::REFUSED => HeldAs::Refused,
            Some(Became::Thread) => HeldAs::Thread,
            Some(Became::Process) => HeldAs::Process,
            None => HeldAs::Turning,
        };
        let wait = |(thread, waiter): (ThreadKey, Waiter)| Wait {
            held: became(&thread, waiter.state),
            request: waiter.request,
            since_ns: waiter.since_ns,
            thread,
        };
        Ok(waiters.into_iter().map(wait).collect())
    }

    /// How many threads of each agent wait.
    pub fn by_agent(&self) -> Result<BTreeMap<AgentId, usize>, kernel::Error> {
        let mut counts = BTreeMap::new();
        for (_, waiter) in self.shared.kernel.holds().waiters()? {
            *counts.entry(AgentId(waiter.request.agent)).or_default() += 1;
        }
        Ok(counts)
    }

    /// Holds nobody else from now on. Whoever is held stays so.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.wake();
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread that holds others panicked");
            }
        }
    }

    /// Lets everybody go on, where they live. For when no program is attached any more that would have them wait.
    pub fn free(&self) {
        self.stop();
        let mut left = Vec::new();
        for try_again in [true, true, true, false] {
            let mut holds = place::all_below(self.shared.mount());
            // One that lies in another goes before it.
            holds.sort_by_key(|hold| std::cmp::Reverse(hold.components().count()));
            left = holds
                .into_iter()
                .filter_map(|hold| Some((Place::found(&hold).give_back().err()?, hold)))
                .collect();
            if left.is_empty() {
                break;
            }
            if try_again {
                sleep(Duration::from_millis(10));
            }
        }
        for (error, hold) in left {
            tracing::error!(%error, cgroup = %hold.display(), "a cgroup in which threads were held stays");
        }
        self.resume_all();
    }

    /// Has all processes go on that stopped for a thread.
    fn resume_all(&self) {
        let waiters = match self.shared.kernel.holds().waiters() {
            Ok(waiters) => waiters,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "processes may have stopped for good"
                );
                return;
            }
        };
        let is_stopped = |waiter: &Waiter| matches!(waiter.state, state::STOPPED | state::REFUSED);
        let stopped = waiters.into_iter().filter(|(_, waiter)| is_stopped(waiter)).map(|(thread, _)| thread);
        for thread in stopped.chain(self.shared.owed().values().copied()) {
            match proc::resume(&thread) {
                Err(error) if !proc::is_gone(&error) => {
                    tracing::error!(%error, pid = thread.tgid, "a process that stopped does not go on");
                }
                _ => {}
            }
        }
    }
}

/// Lets everybody in these cgroups run.
fn thaw(places: &[Place]) {
    for place in places {
        if let Err(error) = place.thaw() {
            tracing::error!(%error, cgroup = %place.hold.display(), "a thread that could go on stays frozen");
        }
    }
}

/// Tells of a thread whose call does not fail as it should.
fn done(thread: &ThreadKey, refused: Result<(), kernel::Error>) {
    if let Err(error) = refused {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            tid = thread.tid,
            "a call that cannot wait any longer waits"
        );
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::{
        grant::RequestKey,
        hold::{Waiter, state},
    };

    /// A thread that waits for an answer.
    pub(super) fn waiter() -> Waiter {
        Waiter {
            request: RequestKey { agent: 1, rule: 2, object: [3, 4] },
            since_ns: 1,
            turned_ns: 1,
            turning_ns: 1,
            noticed_ns: 1,
            due_ns: 0,
            turns: 1,
            state: state::TURNING,
            hold: 1,
            kind: 0,
            zero: [0; 2],
        }
    }
}
