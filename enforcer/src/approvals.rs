//! Approvals: requests that wait for a person, and their answers.
//!
//! A request lies in a pinned map until it is answered, so the map is the only list of them: nothing is kept here
//! that another daemon would miss. An answer becomes a grant, which the action meets when it is tried again; the
//! grant is there before the request is gone.
//!
//! Both maps are one for all agents, so what one agent has in them is bounded ([`room`], and the requests that wait),
//! and nothing that goes wrong with one request keeps the others from being answered.
//!
//! Threads may be held for a request ([`crate::holds`]). They are thawed when it is answered, or taken back.

mod answer;
mod id;
mod program;
mod room;
mod trouble;

pub use self::{answer::Answer, id::RequestId, program::Program};

use self::{
    room::{Full, Room},
    trouble::{Kind, Troubles},
};
use crate::{
    agents::{AgentId, PolicyNumber, names::Names},
    events::Decided,
    holds::{self, Holds, Wait},
    kernel::{
        self, Kernel,
        clock::{Wall, now_ns},
    },
};
use enforcer_common::{
    event::{Record, flag},
    grant::{Grant, RequestKey},
    hold::ThreadKey,
    limits::{GRANTS_PER_AGENT, REQUESTS_PER_AGENT},
};
use jiff::Timestamp;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a request that may yet be taken back is not shown.
const MOMENT: Duration = Duration::from_millis(250);

/// A request that waits.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What people call it.
    pub id: RequestId,
    /// What it is for.
    pub key: RequestKey,
    /// The decision that filed it.
    pub decided: Decided,
    /// When it is answered by itself.
    pub deadline: Timestamp,
    /// The same since boot.
    pub deadline_ns: u64,
    /// Whether it is allowed then.
    pub allows_on_timeout: bool,
    /// How long an answer holds.
    pub remember_ns: u64,
    /// The threads that wait for the answer, those first that wait longest. None where the call failed instead, and
    /// passes when it is tried again.
    pub waits: Vec<Wait>,
}

impl Pending {
    /// The program that asks, by a thread of its that lives: the one that asked first, or one that waits.
    #[must_use]
    pub fn program(&self) -> Program {
        let event = &self.decided.event;
        let first = ThreadKey { start_ns: event.thread_start_ns, tid: event.tid, tgid: event.tgid };
        let threads = std::iter::once(first).chain(self.waits.iter().map(|wait| wait.thread));
        threads.filter(holds::lives).map(|thread| Program::of(&thread)).next().unwrap_or_default()
    }
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing waits by that name.
    #[error("no request `{id}` waits: it was answered, or its time ran out")]
    Unknown {
        /// The name.
        id: String,
    },
    /// Several do.
    #[error("{count} requests that wait begin with `{id}`")]
    Ambiguous {
        /// The name.
        id: String,
        /// How many.
        count: usize,
    },
    /// There is no room for the answer.
    #[error(
        "there is no room for this answer: agent `{agent}` may have {GRANTS_PER_AGENT} that hold, or all agents \
         together have as many as there may be"
    )]
    NoRoom {
        /// Whose request it is.
        agent: String,
    },
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

/// The requests of the kernel.
#[derive(Debug)]
pub struct Approvals {
    kernel: Arc<Kernel>,
    names: Arc<Names>,
    holds: Arc<Holds>,
    troubles: Troubles,
    /// What the requests that were shown last are for, so that an answer need not read all of them.
    shown: Mutex<HashMap<RequestId, RequestKey>>,
}

impl Approvals {
    /// Over the kernel's map.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>, names: Arc<Names>, holds: Arc<Holds>) -> Self {
        Self { kernel, names, holds, troubles: Troubles::default(), shown: Mutex::default() }
    }

    /// The requests that wait, those first that end first.
    pub fn pending(&self) -> Result<Vec<Pending>, Error> {
        let pending = self.described(self.kernel.requests()?)?;
        *self.last_shown() = pending.iter().map(|pending| (pending.id.clone(), pending.key)).collect();
        Ok(pending)
    }

    fn described(&self, mut all: Vec<(RequestKey, Record)>) -> Result<Vec<Pending>, Error> {
        let now = now_ns();
        all.retain(|(_, record)| is_shown(record, now));
        let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
        // Nobody waits where nothing does.
        let mut waits = if all.is_empty() { HashMap::new() } else { self.waits(&keys)? };
        let ids = RequestId::of_all(&keys);
        let wall = Wall::now();
        let mut pending: Vec<_> = all
            .iter()
            .zip(ids)
            .map(|((key, record), id)| Pending {
                waits: waits.remove(key).unwrap_or_default(),
                ..self.describe(id, key, record, &wall)
            })
            .collect();
        pending.sort_by_key(|pending| (pending.deadline_ns, pending.id.clone()));
        Ok(pending)
    }

    fn last_shown(&self) -> MutexGuard<'_, HashMap<RequestId, RequestKey>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The threads that wait for one of these, by what they wait for.
    fn waits(&self, requests: &[RequestKey]) -> Result<HashMap<RequestKey, Vec<Wait>>, Error> {
        let requests: HashSet<_> = requests.iter().collect();
        let mut waits: HashMap<_, Vec<_>> = HashMap::new();
        for wait in self.holds.waits(|request| requests.contains(request))? {
            waits.entry(wait.request).or_default().push(wait);
        }
        for waits in waits.values_mut() {
            waits.sort_by_key(|wait| (wait.since_ns, wait.thread.tid));
        }
        Ok(waits)
    }

    fn describe(&self, id: RequestId, key: &RequestKey, record: &Record, wall: &Wall) -> Pending {
        let path = record.path.get(..usize::from(record.event.path_bytes)).unwrap_or_default();
        let decided = Decided::new(record.event, path, &self.names, wall);
        // The rule as it was when it asked; by its content where the policy was replaced meanwhile.
        let current = self.names.agent(AgentId(key.agent)).and_then(|agent| self.names.policy(agent.policy));
        let asked = self.names.policy(PolicyNumber(record.event.policy));
        let rule =
            [asked, current].into_iter().flatten().find_map(|policy| policy.rule_of(key.rule).cloned());
        Pending {
            id,
            key: *key,
            deadline: wall.at(record.event.deadline_ns),
            deadline_ns: record.event.deadline_ns,
            allows_on_timeout: rule.as_ref().is_some_and(|rule| rule.allows_on_timeout),
            remember_ns: rule.as_ref().map_or(0, |rule| rule.remember_ns),
            decided,
            waits: Vec::new(),
        }
    }

    /// The request that a person means, by its name or how that begins.
    pub fn find(&self, typed: &str) -> Result<Pending, Error> {
        if let Some(pending) = self.find_shown(typed)? {
            return Ok(pending);
        }
        let mut found: Vec<_> =
            self.pending()?.into_iter().filter(|pending| pending.id.begins_with(typed)).collect();
        let count = found.len();
        match found.pop() {
            Some(only) if count == 1 => Ok(only),
            Some(_) => Err(Error::Ambiguous { id: typed.to_owned(), count }),
            None => Err(Error::Unknown { id: typed.to_owned() }),
        }
    }

    /// One whose whole name was shown.
    fn find_shown(&self, typed: &str) -> Result<Option<Pending>, Error> {
        let id = RequestId::typed(typed);
        let Some(key) = self.last_shown().get(&id).copied() else { return Ok(None) };
        let Some(record) = self.kernel.request(&key)? else { return Ok(None) };
        let waits = self.waits(&[key])?.remove(&key).unwrap_or_default();
        Ok(Some(Pending { waits, ..self.describe(id, &key, &record, &Wall::now()) }))
    }

    /// Answers a request for a person. Tells what was answered.
    pub fn answer(&self, typed: &str, answer: Answer, by: &str) -> Result<Pending, Error> {
        let pending = self.find(typed)?;
        self.settle(&mut self.room(), &pending, answer, by)?;
        Ok(pending)
    }

    /// Answers those whose time has run out as their rules say, and tells when the next is due, since boot.
    pub fn expire(&self) -> Result<Option<u64>, Error> {
        self.expire_with(|pending| pending.allows_on_timeout, "timeout")
    }

    /// Refuses those whose time ran out while nobody was there to be asked, whatever their rules say.
    pub fn refuse_overdue(&self) -> Result<Option<u64>, Error> {
        self.expire_with(|_| false, "timeout while no daemon ran")
    }

    fn expire_with(&self, allows: impl Fn(&Pending) -> bool, by: &str) -> Result<Option<u64>, Error> {
        let mut all = self.kernel.requests()?;
        let beyond = beyond_share(&all);
        for key in &beyond {
            self.troubles.note(Kind::Requests, AgentId(key.agent));
            self.remove(key);
        }
        let now = now_ns();
        all.retain(|(key, record)| is_shown(record, now) && !beyond.contains(key));
        let (due, waiting): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, record)| record.event.deadline_ns <= now);
        if !due.is_empty() {
            let mut room = self.room();
            for pending in self.described(due)? {
                self.expire_one(&mut room, &pending, allows(&pending), by);
            }
        }
        self.troubles.tell(&self.names);
        Ok(waiting.iter().map(|(_, record)| record.event.deadline_ns).min())
    }

    /// Answers one whose time has run out, or else takes it back: it would be in the way of others.
    fn expire_one(&self, room: &mut Room, pending: &Pending, allows: bool, by: &str) {
        if let Err(error) = self.settle(room, pending, Answer::plain(allows), by) {
            if let Error::Kernel(error) = &error {
                let error = error as &dyn std::error::Error;
                tracing::error!(error, request = %pending.id, "a request cannot be answered");
            }
            self.troubles.note(Kind::Grants, AgentId(pending.key.agent));
            self.remove(&pending.key);
        }
    }

    /// Removes a request without an answer: the action asks again when it is tried again, and the calls that wait for it
    /// fail so that they can be.
    fn remove(&self, key: &RequestKey) {
        if let Err(error) = self.kernel.remove_request(key) {
            tracing::error!(error = &error as &dyn std::error::Error, "a request cannot be taken back");
        }
        self.holds.refuse(key);
    }

    /// What the grants leave. That they cannot be read is no reason to answer nobody: the kernel knows its bound.
    fn room(&self) -> Room {
        let grants = self.kernel.grants().unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the grants cannot be read");
            Vec::new()
        });
        Room::beside(grants)
    }

    fn grant(&self, room: &mut Room, pending: &Pending, grant: Grant) -> Result<(), Error> {
        let full = |Full| Error::NoRoom { agent: pending.decided.view().agent.into_owned() };
        if let Some(gone) = room.take(pending.key, grant, now_ns()).map_err(full)? {
            self.kernel.remove_grant(&gone)?;
        }
        Ok(self.kernel.grant(&pending.key, &grant).inspect_err(|_| room.forget(&pending.key))?)
    }

    /// Answers a request. A refusal that there is no room for is no more than the end of the request; what there is no
    /// room to allow stays as it is.
    fn settle(&self, room: &mut Room, pending: &Pending, answer: Answer, by: &str) -> Result<(), Error> {
        let grant = answer.grant(pending.remember_ns, pending.waits.len(), now_ns());
        match self.grant(room, pending, grant) {
            Err(Error::NoRoom { .. }) if !answer.allows => {
                self.troubles.note(Kind::Grants, AgentId(pending.key.agent));
                self.remove(&pending.key);
            }
            granted => {
                granted?;
                let removed = self.kernel.remove_request(&pending.key);
                // After the request is gone: a thread that is being frozen just now sees by that that it need not be.
                // With the grant there they go on in any case.
                self.holds.release(&pending.key);
                removed?;
            }
        }
        let view = pending.decided.view();
        tracing::info!(
            request = %pending.id,
            agent = %view.agent,
            rule = view.rule.as_deref().unwrap_or_default(),
            object = %view.object,
            allows = answer.allows,
            uses = if grant.uses == Grant::UNLIMITED { -1 } else { grant.uses },
            by,
            "request answered"
        );
        Ok(())
    }

    /// Removes grants that have run out.
    pub fn sweep(&self) -> Result<usize, Error> {
        Ok(self.kernel.remove_stale_grants(now_ns())?)
    }
}

/// Whether people are told of a request at this time.
fn is_shown(record: &Record, now_ns: u64) -> bool {
    let age = Duration::from_nanos(now_ns.saturating_sub(record.event.time_ns));
    record.event.flags & flag::TENTATIVE == 0 || age > MOMENT
}

/// The requests that an agent has beyond its share, the newest: people may be at the older ones.
fn beyond_share(all: &[(RequestKey, Record)]) -> HashSet<RequestKey> {
    let mut by_agent: HashMap<u64, Vec<(u64, RequestKey)>> = HashMap::new();
    for (key, record) in all {
        by_agent.entry(key.agent).or_default().push((record.event.time_ns, *key));
    }
    let beyond = |mut requests: Vec<(u64, RequestKey)>| {
        requests.sort_by_key(|(filed_ns, _)| *filed_ns);
        requests.into_iter().skip(REQUESTS_PER_AGENT as usize).map(|(_, key)| key)
    };
    by_agent.into_values().flat_map(beyond).collect()
}
