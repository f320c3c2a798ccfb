//! What listeners are told of: what agents did, and what people did to agents.

use super::{decode::Decided, intervention::InterventionEvent};
use crate::agents::AgentId;
use std::sync::Arc;

/// An event.
#[derive(Clone, Debug)]
pub enum Told {
    /// A decision about an action of an agent.
    Decision(Arc<Decided>),
    /// What a person did to an agent.
    Intervention(Arc<InterventionEvent>),
}

impl Told {
    /// Its line, as JSON, with its end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        // Nothing in an event cannot be written as JSON.
        let mut line = match self {
            Self::Decision(decided) => serde_json::to_vec(&decided.view()),
            Self::Intervention(event) => serde_json::to_vec(event.as_ref()),
        }
        .unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Whether it is of an agent, by its name or number.
    #[must_use]
    pub fn is_of(&self, agent: &str) -> bool {
        let (name, AgentId(id)) = match self {
            Self::Decision(decided) => {
                (decided.agent.as_ref().map(|agent| agent.name.as_str()), decided.agent_id())
            }
            Self::Intervention(event) => (Some(event.agent.as_str()), event.agent_id),
        };
        name == Some(agent) || id.to_string() == agent
    }

    /// The word for its verdict. What people do has none.
    #[must_use]
    pub fn verdict(&self) -> Option<&'static str> {
        match self {
            Self::Decision(decided) => Some(decided.verdict().word()),
            Self::Intervention(_) => None,
        }
    }
}
