//! The red button: a person stops agents, lets them go on, or ends them.
//!
//! What is in an agent's cgroup, the kernel stops and ends at once (`freezer`). What left it bears the agent's mark, and
//! is brought back into the cgroup first, where nothing forks any more (`strays`). Everything is bounded, and what could
//! not be done in time is told.

mod strays;

use super::{AgentId, AgentRecord, AgentState, Agents, Error, cgroup, freezer};
use crate::{control::api::chain, kernel::pidfd};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt, io,
    os::fd::AsFd as _,
    sync::{Arc, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long it may take until all tasks have stopped, and until all have ended.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long between two looks at who is left.
const PAUSE: Duration = Duration::from_millis(10);
/// Looks in a row that find nobody outside: while one runs, a child may be made below a number that was looked at.
const LOOKS: u32 = 2;

/// What a person does to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intervention {
    /// Stops all its tasks.
    Freeze,
    /// Lets them go on where they were.
    Resume,
    /// Ends them.
    Kill,
}

impl fmt::Display for Intervention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Freeze => "freeze",
            Self::Resume => "resume",
            Self::Kill => "kill",
        })
    }
}

/// What came of an intervention at one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether every task of the agent stopped, goes on, or ended, as it was asked.
    pub done: bool,
    /// How many processes were in its cgroup.
    pub processes: usize,
    /// Processes that had left it and are in it again.
    pub brought_back: Vec<u32>,
    /// Processes that had left it and got a signal where they are: to stop, to go on, or to end.
    pub signalled: Vec<u32>,
    /// Processes that go on, though they were to stop or to end.
    pub left: Vec<u32>,
    /// Why it could not be done, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One agent, while something is done to it.
struct Case {
    record: Arc<AgentRecord>,
    done: bool,
    processes: usize,
    brought_back: BTreeSet<u32>,
    signalled: BTreeSet<u32>,
    left: BTreeSet<u32>,
    error: Option<Error>,
    /// Looks in a row that found nobody outside.
    quiet: u32,
}

impl Case {
    fn new(record: &Arc<AgentRecord>) -> Self {
        Self {
            record: Arc::clone(record),
            done: false,
            processes: 0,
            brought_back: BTreeSet::new(),
            signalled: BTreeSet::new(),
            left: BTreeSet::new(),
            error: None,
            quiet: 0,
        }
    }

    fn id(&self) -> AgentId {
        self.record.id
    }

    /// Tries something with the cgroup. The first failure is the one that is told.
    fn attempt<T>(
        &mut self,
        what: &'static str,
        with: impl FnOnce(&std::path::Path) -> io::Result<T>,
    ) -> Option<T> {
        match with(&self.record.cgroup) {
            Ok(done) => Some(done),
            Err(source) => {
                self.fail(Error::Cgroup { what, path: self.record.cgroup.clone(), source });
                None
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    fn count(&mut self) {
        self.processes = self.attempt("list", cgroup::processes).map_or(0, |inside| inside.len());
    }

    /// Whether nobody is in its cgroup; those who are, are noted as left.
    fn is_empty(&mut self) -> bool {
        let inside = self.attempt("list", cgroup::processes).unwrap_or_default();
        self.left.extend(inside);
        self.left.is_empty() && self.attempt("look at", cgroup::is_populated) == Some(false)
    }

    fn outcome(self) -> Outcome {
        Outcome {
            done: self.done && self.error.is_none(),
            processes: self.processes,
            brought_back: self.brought_back.into_iter().collect(),
            signalled: self.signalled.into_iter().collect(),
            left: self.left.into_iter().collect(),
            error: self.error.map(|error| chain(&error)),
        }
    }
}

impl Agents {
    /// Stops agents, lets them go on, or ends them; what came of it for each, in their order.
    pub fn intervene(&self, what: Intervention, agents: &[Arc<AgentRecord>]) -> Vec<Outcome> {
        // Two at a time would each undo a half of the other.
        let _turn = self.interventions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cases: Vec<_> = agents.iter().map(Case::new).collect();
        let (mut own, mut others): (Vec<_>, Vec<_>) =
            cases.iter_mut().partition(|case| what != Intervention::Resume && self.has_daemon(&case.record));
        for case in &mut own {
            case.fail(Error::Own { agent: case.record.name.clone(), pid: std::process::id() });
        }
        match what {
            Intervention::Freeze => self.freeze(&mut others),
            Intervention::Resume => self.resume(&mut others),
            Intervention::Kill => self.kill(&mut others),
        }
        cases.into_iter().map(Case::outcome).collect()
    }

    /// Whether an agent goes on.
    pub fn agent_state(&self, record: &AgentRecord) -> Result<AgentState, Error> {
        let failed = |source| Error::Cgroup { what: "look at", path: record.cgroup.clone(), source };
        freezer::state(&record.cgroup).map_err(failed)
    }

    /// The agents that are frozen, or on their way to it.
    pub fn frozen(&self) -> Result<Vec<Arc<AgentRecord>>, Error> {
        let mut frozen = Vec::new();
        for record in self.list() {
            if self.agent_state(&record)? != AgentState::Running {
                frozen.push(record);
            }
        }
        Ok(frozen)
    }

    /// Whether this process is in an agent, in which case nobody would be left to let it go on.
    fn has_daemon(&self, record: &AgentRecord) -> bool {
        let own = std::process::id();
        let inside = cgroup::of(own, self.kernel.root().mount());
        let inside = inside.is_ok_and(|own| own.is_some_and(|own| own.starts_with(&record.cgroup)));
        let mark = || self.kernel.mark_of(pidfd(own).ok()?.as_fd()).ok()?;
        inside || (self.kernel.lsm().is_ok() && mark() == Some(record.id))
    }

    fn freeze(&self, cases: &mut [&mut Case]) {
        let until = Instant::now() + PATIENCE;
        self.stop(cases, until);
        for case in cases {
            let stands = case.attempt("look at", |folder| freezer::wait(folder, AgentState::Frozen, until));
            case.done = stands == Some(true) && case.left.is_empty() && self.is_settled(case);
            case.count();
        }
    }

    /// Stops all that is inside, at every agent before anything else, and then brings back what is outside.
    fn stop(&self, cases: &mut [&mut Case], until: Instant) {
        for case in &mut *cases {
            case.attempt("freeze", |folder| freezer::set(folder, true));
        }
        loop {
            self.bring_back(cases);
            if cases.iter().all(|case| self.is_settled(case)) || Instant::now() >= until {
                return;
            }
        }
    }

    fn resume(&self, cases: &mut [&mut Case]) {
        let until = Instant::now() + PATIENCE;
        for case in &mut *cases {
            case.count();
            case.attempt("resume", |folder| freezer::set(folder, false));
        }
        self.wake(cases);
        for case in cases {
            let goes_on = case.attempt("look at", |folder| freezer::wait(folder, AgentState::Running, until));
            case.done = goes_on == Some(true);
        }
    }

    /// Ends all tasks. They are stopped before, so that those outside fork no more while others end: whoever ends
    /// makes room for others to fork.
    fn kill(&self, cases: &mut [&mut Case]) {
        self.stop(cases, Instant::now() + PATIENCE);
        for case in &mut *cases {
            case.count();
            case.quiet = 0;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            for case in &mut *cases {
                // Again for whoever was moved in meanwhile.
                case.attempt("kill all in", freezer::kill);
            }
            self.end_strays(cases);
            for case in &mut *cases {
                case.done = case.is_empty() && self.is_settled(case);
            }
            if cases.iter().all(|case| case.done || case.error.is_some()) || Instant::now() >= until {
                break;
            }
            sleep(PAUSE);
        }
        for case in cases.iter_mut().filter(|case| case.done) {
            // Whoever enters the agent before it is gone is to run. Where somebody is left, that one stays frozen.
            case.attempt("resume", |folder| freezer::set(folder, false));
        }
    }

    /// Whether nobody is outside any more. Without marks nobody can be known to be.
    fn is_settled(&self, case: &Case) -> bool {
        self.kernel.lsm().is_err() || case.quiet >= LOOKS
    }
}
