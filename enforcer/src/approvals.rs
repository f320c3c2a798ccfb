//! Approvals: requests that wait for a person, and their answers.
//!
//! A request lies in a pinned map until it is answered, so the map is the only list of them: nothing is kept here
//! that another daemon would miss. An answer becomes a grant, which the action meets when it is tried again; the
//! grant is there before the request is gone.
//!
//! Both maps are one for all agents, so what one agent has in them is bounded ([`room`], and the requests that wait),
//! and nothing that goes wrong with one request keeps the others from being answered.

mod answer;
mod id;
mod room;
mod trouble;

pub use self::{answer::Answer, id::RequestId};

use self::{
    room::{Full, Room},
    trouble::{Kind, Troubles},
};
use crate::{
    agents::{AgentId, PolicyNumber, names::Names},
    events::Decided,
    kernel::{
        self, Kernel,
        clock::{Wall, now_ns},
    },
};
use enforcer_common::{
    event::{Record, flag},
    grant::{Grant, RequestKey},
    limits::{GRANTS_PER_AGENT, REQUESTS_PER_AGENT},
};
use jiff::Timestamp;
use std::{collections::HashMap, sync::Arc, time::Duration};

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
    troubles: Troubles,
}

impl Approvals {
    /// Over the kernel's map.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>, names: Arc<Names>) -> Self {
        Self { kernel, names, troubles: Troubles::default() }
    }

    /// The requests that wait, those first that end first.
    pub fn pending(&self) -> Result<Vec<Pending>, Error> {
        // Where one is removed meanwhile the kernel begins again, and tells some twice.
        let all: HashMap<_, _> = self.kernel.requests()?.into_iter().collect();
        Ok(self.shown(all))
    }

    fn shown(&self, all: HashMap<RequestKey, Record>) -> Vec<Pending> {
        let now = now_ns();
        let wall = Wall::now();
        let shown = |record: &Record| {
            let age = Duration::from_nanos(now.saturating_sub(record.event.time_ns));
            record.event.flags & flag::TENTATIVE == 0 || age > MOMENT
        };
        let all: Vec<_> = all.into_iter().filter(|(_, record)| shown(record)).collect();
        let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
        let named = all.iter().zip(RequestId::of_all(&keys));
        let mut pending: Vec<_> =
            named.map(|((key, record), id)| self.describe(id, key, record, &wall)).collect();
        pending.sort_by_key(|pending| (pending.deadline_ns, pending.id.clone()));
        pending
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
        }
    }

    /// Answers a request for a person. Tells what was answered.
    pub fn answer(&self, typed: &str, answer: Answer, by: &str) -> Result<Pending, Error> {
        let mut found: Vec<_> =
            self.pending()?.into_iter().filter(|pending| pending.id.begins_with(typed)).collect();
        let count = found.len();
        let pending = match found.pop() {
            Some(only) if count == 1 => only,
            Some(_) => return Err(Error::Ambiguous { id: typed.to_owned(), count }),
            None => return Err(Error::Unknown { id: typed.to_owned() }),
        };
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
        let mut all: HashMap<_, _> = self.kernel.requests()?.into_iter().collect();
        for key in beyond_share(&all) {
            self.troubles.note(Kind::Requests, AgentId(key.agent));
            self.remove(&key);
            all.remove(&key);
        }
        let (now, pending) = (now_ns(), self.shown(all));
        let due = pending.partition_point(|pending| pending.deadline_ns <= now);
        let (due, waiting) = pending.split_at(due);
        if !due.is_empty() {
            let mut room = self.room();
            for pending in due {
                self.expire_one(&mut room, pending, allows(pending), by);
            }
        }
        self.troubles.tell(&self.names);
        Ok(waiting.first().map(|next| next.deadline_ns))
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

    /// Removes a request without an answer: the action asks again when it is tried again.
    fn remove(&self, key: &RequestKey) {
        if let Err(error) = self.kernel.remove_request(key) {
            tracing::error!(error = &error as &dyn std::error::Error, "a request cannot be taken back");
        }
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
        let grant = answer.grant(pending.remember_ns, now_ns());
        match self.grant(room, pending, grant) {
            Err(Error::NoRoom { .. }) if !answer.allows => {
                self.troubles.note(Kind::Grants, AgentId(pending.key.agent));
            }
            granted => granted?,
        }
        self.kernel.remove_request(&pending.key)?;
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

/// The requests that an agent has beyond its share, the newest: people may be at the older ones.
fn beyond_share(all: &HashMap<RequestKey, Record>) -> Vec<RequestKey> {
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
