//! The event that a person has stopped an agent, let it go on, or ended it: who, why, and what came of it.

use crate::agents::{
    AgentId,
    intervention::{Intervention, Outcome},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An intervention as people and programs are told of it. Its line has the names of a decision's line where they mean
/// the same; who acted is the person here, not the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterventionEvent {
    /// When it was asked for.
    pub time: Timestamp,
    /// The agent.
    pub agent: String,
    /// The agent's number.
    pub agent_id: AgentId,
    /// Its policy.
    pub policy: Option<String>,
    /// What was done.
    pub action: Intervention,
    /// Why, as the person has said it.
    pub why: Option<String>,
    /// The process that asked for it.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The user's name.
    pub user: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::InterventionEvent;
    use crate::{
        agents::{
            AgentId,
            intervention::{Intervention, Outcome},
            names::Names,
        },
        events::{Decided, EventView, decode::tests::event},
        kernel::clock::Wall,
    };
    use jiff::Timestamp;

    /// Root froze agent 7.
    pub(crate) fn intervention() -> InterventionEvent {
        InterventionEvent {
            time: Timestamp::UNIX_EPOCH,
            agent: "research".into(),
            agent_id: AgentId(7),
            policy: Some("demo".into()),
            action: Intervention::Freeze,
            why: Some("it writes \"to\"\nall".into()),
            pid: 4711,
            uid: 0,
            user: Some("root".into()),
            outcome: Outcome { done: true, processes: 3, brought_back: vec![12], ..Outcome::default() },
        }
    }

    #[test]
    fn a_line_can_be_read_again_and_has_the_names_of_a_decision() {
        let line = serde_json::to_string(&intervention()).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<InterventionEvent>(&line).unwrap(), intervention());
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&json["agent"], &json["agent_id"], &json["action"]),
            (&"research".into(), &7.into(), &"freeze".into())
        );
        assert_eq!((&json["done"], &json["brought_back"]), (&true.into(), &serde_json::json!([12])));
        let decided = Decided::new(event(), b"/a", &Names::default(), &Wall::now());
        let decision = serde_json::to_value(decided.view()).unwrap();
        for name in ["time", "agent", "agent_id", "policy", "action", "pid", "uid"] {
            assert!(json.get(name).is_some() && decision.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn neither_kind_of_line_passes_for_the_other() {
        let decided = Decided::new(event(), b"/a", &Names::default(), &Wall::now());
        let decision = serde_json::to_string(&decided.view()).unwrap();
        assert!(serde_json::from_str::<InterventionEvent>(&decision).is_err());
        let line = serde_json::to_string(&intervention()).unwrap();
        assert!(serde_json::from_str::<EventView<'_>>(&line).is_err());
    }
}
