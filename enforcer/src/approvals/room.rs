//! Room for answers: which grants go where there are as many as there may be.
//!
//! The kernel's map of grants is one for all agents, and an agent decides how many requests run out on it. So an agent
//! has a share. Beyond that, and where the map is full, refusals make room: first what is of no use any more, then
//! the agent's own, then those of whoever has most. An action whose refusal is forgotten asks again, and is refused or
//! answered again; what was allowed is never taken back.

use enforcer_common::{
    grant::{Grant, RequestKey},
    limits::{GRANTS_MAX, GRANTS_PER_AGENT},
};
use std::collections::HashMap;

/// The grants that there are.
#[derive(Debug, Default)]
pub(super) struct Room(HashMap<u64, HashMap<RequestKey, Grant>>);

impl Room {
    /// What these leave.
    pub(super) fn beside(grants: impl IntoIterator<Item = (RequestKey, Grant)>) -> Self {
        let mut room = Self::default();
        for (key, grant) in grants {
            room.put(key, grant);
        }
        room
    }

    /// Takes a place for a grant. The one that has to go for it, if one has to; an error where none can.
    pub(super) fn take(
        &mut self,
        key: RequestKey,
        grant: Grant,
        now_ns: u64,
    ) -> Result<Option<RequestKey>, Full> {
        let own = self.0.get(&key.agent);
        let (count, replaces) = own.map_or((0, false), |own| (own.len(), own.contains_key(&key)));
        let gone = if replaces {
            None
        } else if count >= GRANTS_PER_AGENT as usize {
            Some(self.useless(Some(key.agent), now_ns).or_else(|| self.refusal(key.agent)).ok_or(Full)?)
        } else if self.0.values().map(HashMap::len).sum::<usize>() >= GRANTS_MAX as usize {
            Some(self.useless(None, now_ns).or_else(|| self.refusal_of_most(count)).ok_or(Full)?)
        } else {
            None
        };
        if let Some(gone) = &gone {
            self.forget(gone);
        }
        self.put(key, grant);
        Ok(gone)
    }

    /// Gives a place back.
    pub(super) fn forget(&mut self, key: &RequestKey) {
        if let Some(grants) = self.0.get_mut(&key.agent) {
            grants.remove(key);
        }
    }

    fn put(&mut self, key: RequestKey, grant: Grant) {
        self.0.entry(key.agent).or_default().insert(key, grant);
    }

    /// A grant that has run out or is used up, of one agent or of any.
    fn useless(&self, agent: Option<u64>, now_ns: u64) -> Option<RequestKey> {
        let meant = |(of, _): &(&u64, _)| agent.is_none_or(|agent| agent == **of);
        let mut grants = self.0.iter().filter(meant).flat_map(|(_, grants)| grants);
        grants.find(|(_, grant)| grant.is_useless(now_ns)).map(|(key, _)| *key)
    }

    /// The refusal of an agent that ends first.
    fn refusal(&self, agent: u64) -> Option<RequestKey> {
        let refusals = self.0.get(&agent)?.iter().filter(|(_, grant)| grant.allows == 0);
        refusals.min_by_key(|(_, grant)| grant.expires_ns).map(|(key, _)| *key)
    }

    /// The same of the agent that has most grants, of those that have more than `count`.
    fn refusal_of_most(&self, count: usize) -> Option<RequestKey> {
        let mut more: Vec<_> = self.0.iter().filter(|(_, grants)| grants.len() > count).collect();
        more.sort_by_key(|(_, grants)| std::cmp::Reverse(grants.len()));
        more.into_iter().find_map(|(agent, _)| self.refusal(*agent))
    }
}

/// There is no room, and nothing that could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[cfg(test)]
mod tests {
    use super::{Full, Room};
    use enforcer_common::{
        grant::{Grant, RequestKey},
        limits::{GRANTS_MAX, GRANTS_PER_AGENT},
    };

    const NOW: u64 = 1_000_000;

    fn key(agent: u64, object: u32) -> RequestKey {
        RequestKey { agent, rule: 1, object: [u64::from(object), 0] }
    }

    fn grant(allows: u64, expires: u32) -> Grant {
        Grant { expires_ns: NOW + 1 + u64::from(expires), uses: 1, allows }
    }

    /// The grants of an agent, each ending later than the one before.
    fn many(agent: u64, count: u32, allows: u64) -> impl Iterator<Item = (RequestKey, Grant)> {
        (0..count).map(move |at| (key(agent, at), grant(allows, at)))
    }

    #[test]
    fn an_agent_makes_room_within_its_share_the_oldest_refusal_first() {
        let mut room = Room::beside(many(1, GRANTS_PER_AGENT, 0));
        assert_eq!(room.take(key(1, 5), grant(0, 5), NOW), Ok(None), "it replaces the one it had");
        assert_eq!(room.take(key(1, 9_999), grant(0, 9_999), NOW), Ok(Some(key(1, 0))));
        assert_eq!(room.take(key(2, 0), grant(0, 0), NOW), Ok(None), "others have theirs");
    }

    #[test]
    fn what_is_of_no_use_goes_before_a_refusal_and_what_is_allowed_stays() {
        let used = Grant { uses: 0, ..grant(1, 3) };
        let over = Grant { expires_ns: NOW, ..grant(1, 0) };
        let dead = [(key(1, 7_000), used), (key(1, 7_001), over)];
        let mut room = Room::beside(many(1, GRANTS_PER_AGENT - 2, 1).chain(dead));
        let gone: Vec<_> = (0..2).map(|at| room.take(key(1, 8_000 + at), grant(1, 9), NOW)).collect();
        assert!(
            gone.contains(&Ok(Some(key(1, 7_000)))) && gone.contains(&Ok(Some(key(1, 7_001)))),
            "{gone:?}"
        );
        assert_eq!(room.take(key(1, 9_000), grant(0, 9), NOW), Err(Full));
        room.forget(&key(1, 8_000));
        assert_eq!(room.take(key(1, 9_000), grant(0, 9), NOW), Ok(None));
    }

    #[test]
    fn where_the_map_is_full_whoever_has_most_makes_room() {
        let agents = GRANTS_MAX / GRANTS_PER_AGENT;
        let full =
            (1..=u64::from(agents)).flat_map(|agent| many(agent, GRANTS_PER_AGENT, u64::from(agent != 3)));
        let mut room = Room::beside(full);
        assert_eq!(room.take(key(99, 0), grant(1, 0), NOW), Ok(Some(key(3, 0))));
        assert_eq!(room.take(key(99, 1), grant(1, 0), NOW), Ok(Some(key(3, 1))));
        let allowed = (1..=u64::from(agents)).flat_map(|agent| many(agent, GRANTS_PER_AGENT, 1));
        assert_eq!(Room::beside(allowed).take(key(99, 0), grant(0, 0), NOW), Err(Full));
    }
}
