//! The last events, kept in memory: for whoever asks late, and for agents that ask why.

use super::{decode::Decided, told::Told};
use crate::agents::AgentId;
use enforcer_common::verdict::Verdict;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Events kept in all.
const KEPT: usize = 4096;
/// Refusals kept for an agent.
const KEPT_REFUSALS: usize = 32;
/// Agents that refusals are kept for, those that are gone among them.
const KEPT_AGENTS: usize = 8192;

/// The last events.
#[derive(Debug, Default)]
pub(super) struct History {
    all: VecDeque<Told>,
    refusals: HashMap<AgentId, VecDeque<Arc<Decided>>>,
}

impl History {
    /// Keeps an event.
    pub(super) fn push(&mut self, told: &Told) {
        keep(&mut self.all, KEPT, told);
        let Told::Decision(decided) = told else { return };
        if decided.verdict() == Verdict::Allow || decided.verdict() == Verdict::Sandbox {
            return;
        }
        let agent = decided.agent_id();
        if !self.refusals.contains_key(&agent) && self.refusals.len() >= KEPT_AGENTS {
            // The oldest agent is the least likely to ask.
            if let Some(oldest) = self.refusals.keys().min().copied() {
                self.refusals.remove(&oldest);
            }
        }
        keep(self.refusals.entry(agent).or_default(), KEPT_REFUSALS, decided);
    }

    /// All that are kept, the oldest first.
    #[must_use]
    pub(super) fn all(&self) -> Vec<Told> {
        self.all.iter().cloned().collect()
    }

    /// The last refusals of an agent, the newest first.
    #[must_use]
    pub(super) fn refusals(&self, agent: AgentId) -> Vec<Arc<Decided>> {
        self.refusals.get(&agent).into_iter().flatten().rev().cloned().collect()
    }
}

fn keep<T: Clone>(ring: &mut VecDeque<T>, length: usize, told: &T) {
    if ring.len() == length {
        ring.pop_front();
    }
    ring.push_back(told.clone());
}

#[cfg(test)]
mod tests {
    use super::{History, KEPT_REFUSALS};
    use crate::{
        agents::{AgentId, names::Names},
        events::{
            Told,
            decode::{Decided, tests::event},
            intervention::tests::intervention,
        },
        kernel::clock::Wall,
    };
    use enforcer_common::{event::Event, verdict::Verdict};
    use std::sync::Arc;

    fn decided(id: u64, agent: u64, verdict: Verdict) -> Told {
        let event = Event { id, agent, verdict: verdict as u8, ..event() };
        Told::Decision(Arc::new(Decided::new(event, b"/a", &Names::default(), &Wall::now())))
    }

    #[test]
    fn an_agent_is_told_of_its_own_refusals_the_newest_first() {
        let mut history = History::default();
        for id in 0..=KEPT_REFUSALS as u64 {
            history.push(&decided(id, 1, Verdict::Block));
        }
        history.push(&decided(100, 2, Verdict::Block));
        history.push(&decided(101, 1, Verdict::Allow));
        let ids: Vec<_> = history.refusals(AgentId(1)).iter().map(|decided| decided.event.id).collect();
        assert_eq!(ids, (1..=KEPT_REFUSALS as u64).rev().collect::<Vec<_>>());
        assert_eq!(history.all().len(), KEPT_REFUSALS + 3);
        assert!(history.refusals(AgentId(3)).is_empty());
        // What people did is kept for people, and is no refusal.
        history.push(&Told::Intervention(Arc::new(intervention())));
        assert_eq!(history.all().len(), KEPT_REFUSALS + 4);
        assert!(history.refusals(AgentId(7)).is_empty());
    }
}
