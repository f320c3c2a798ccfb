//! What goes wrong with the requests of an agent that makes too many, told now and then: such an agent makes thousands.

use crate::agents::{AgentId, names::Names};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often it is told.
const PAUSE: Duration = Duration::from_secs(10);

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// More requests than may wait.
    Requests,
    /// No room for an answer.
    Grants,
}

/// What was not told yet.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    /// When some was told last.
    told: Option<Instant>,
    counts: BTreeMap<(Kind, AgentId), u64>,
}

impl Troubles {
    /// Counts one.
    pub(super) fn note(&self, kind: Kind, agent: AgentId) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *troubles.counts.entry((kind, agent)).or_default() += 1;
    }

    /// Tells what was counted, unless some was told just now.
    pub(super) fn tell(&self, names: &Names) {
        for ((kind, agent), count) in self.due(Instant::now()) {
            let name =
                names.agent(agent).map_or_else(|| format!("agent-{agent}"), |agent| agent.name.clone());
            match kind {
                Kind::Requests => tracing::warn!(
                    agent = name,
                    count,
                    "requests-full: an agent has as many requests as may wait; the newest were taken back, unanswered"
                ),
                Kind::Grants => tracing::warn!(
                    agent = name,
                    count,
                    "requests-full: there was no room for answers to an agent; it was refused, and asks again"
                ),
            }
        }
    }

    fn due(&self, now: Instant) -> BTreeMap<(Kind, AgentId), u64> {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.counts.is_empty() || troubles.told.is_some_and(|told| now.duration_since(told) < PAUSE) {
            return BTreeMap::new();
        }
        troubles.told = Some(now);
        std::mem::take(&mut troubles.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, PAUSE, Troubles};
    use crate::agents::AgentId;
    use std::time::Instant;

    #[test]
    fn much_trouble_is_told_of_now_and_then() {
        let (troubles, now) = (Troubles::default(), Instant::now());
        assert!(troubles.due(now).is_empty());
        troubles.note(Kind::Grants, AgentId(1));
        assert_eq!(troubles.due(now).len(), 1);
        troubles.note(Kind::Grants, AgentId(1));
        troubles.note(Kind::Grants, AgentId(1));
        assert!(troubles.due(now).is_empty());
        assert_eq!(troubles.due(now + PAUSE).into_values().collect::<Vec<_>>(), [2]);
    }
}
