//! What a person asks to be done to agents, and what is told of it.

use crate::agents::{
    AgentId,
    intervention::{Intervention, Outcome},
};
use serde::{Deserialize, Serialize};

/// Bytes of a reason: it is part of a line of events.
pub const WHY_MAX: usize = 1000;

/// Whom it is done to. All must be said: nobody ends every agent by leaving something out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whom {
    /// One, by its name or number.
    Agent(String),
    /// All that there are.
    All,
}

/// Asks for an intervention.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intervene {
    /// What to do.
    pub what: Intervention,
    /// To whom.
    pub whom: Whom,
    /// Why, for the event and the daemon's log.
    pub why: Option<String>,
}

/// What came of it at one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervened {
    /// The agent.
    pub agent: String,
    /// Its number.
    pub id: AgentId,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}
