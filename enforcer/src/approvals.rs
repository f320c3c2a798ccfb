//! Approvals: requests that wait for a person, and their answers.
//!
//! A request lies in a pinned map until it is answered, so the map is the only list of them: nothing is kept here
//! that another daemon would miss. An answer becomes a grant, which the action meets when it is tried again; the
//! grant is there before the request is gone.

mod answer;
mod id;

pub use self::{answer::Answer, id::RequestId};

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
    grant::RequestKey,
};
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};

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
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

/// The requests of the kernel.
#[derive(Debug)]
pub struct Approvals {
    kernel: Arc<Kernel>,
    names: Arc<Names>,
}

impl Approvals {
    /// Over the kernel's map.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>, names: Arc<Names>) -> Self {
        Self { kernel, names }
    }

    /// The requests that wait, those first that end first.
    pub fn pending(&self) -> Result<Vec<Pending>, Error> {
        let now = now_ns();
        let wall = Wall::now();
        let shown = |record: &Record| {
            let age = Duration::from_nanos(now.saturating_sub(record.event.time_ns));
            record.event.flags & flag::TENTATIVE == 0 || age > MOMENT
        };
        let all: Vec<_> = self.kernel.requests()?.into_iter().filter(|(_, record)| shown(record)).collect();
        let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
        let named = all.iter().zip(RequestId::of_all(&keys));
        let mut pending: Vec<_> =
            named.map(|((key, record), id)| self.describe(id, key, record, &wall)).collect();
        pending.sort_by_key(|pending| (pending.deadline_ns, pending.id.clone()));
        Ok(pending)
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
        self.write(&pending, answer, by)?;
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
        for pending in self.pending()? {
            if pending.deadline_ns > now_ns() {
                return Ok(Some(pending.deadline_ns));
            }
            self.write(&pending, Answer::plain(allows(&pending)), by)?;
        }
        Ok(None)
    }

    fn write(&self, pending: &Pending, answer: Answer, by: &str) -> Result<(), Error> {
        let grant = answer.grant(pending.remember_ns, now_ns());
        self.kernel.grant(&pending.key, &grant)?;
        let view = pending.decided.view();
        tracing::info!(
            request = %pending.id,
            agent = %view.agent,
            rule = view.rule.as_deref().unwrap_or_default(),
            object = %view.object,
            allows = answer.allows,
            uses = if grant.uses == enforcer_common::grant::Grant::UNLIMITED { -1 } else { grant.uses },
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
