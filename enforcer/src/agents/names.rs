//! Names for the numbers in events, for whoever tells of them.
//!
//! Agents and policies that are gone are kept for a while, since events of theirs may still lie in the rings.

use super::{AgentId, AgentRecord, PolicyNumber, policy::PolicyRecord};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

/// How many of each are kept.
const KEPT: usize = 512;

/// Names of agents and policies.
#[derive(Debug, Default)]
pub struct Names {
    agents: RwLock<Table<AgentId, AgentRecord>>,
    policies: RwLock<Table<PolicyNumber, PolicyRecord>>,
}

#[derive(Debug)]
struct Table<K, V> {
    entries: HashMap<K, Arc<V>>,
    gone: VecDeque<K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), gone: VecDeque::new() }
    }
}

impl<K: Copy + Eq + std::hash::Hash, V> Table<K, V> {
    fn insert(&mut self, key: K, value: Arc<V>) {
        self.gone.retain(|gone| *gone != key);
        self.entries.insert(key, value);
    }

    fn retire(&mut self, key: K) {
        self.gone.push_back(key);
        if self.gone.len() > KEPT
            && let Some(oldest) = self.gone.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

impl Names {
    /// Sets or replaces what is known of an agent.
    pub fn insert_agent(&self, record: Arc<AgentRecord>) {
        self.agents.write().unwrap_or_else(PoisonError::into_inner).insert(record.id, record);
    }

    /// Sets what is known of a policy.
    pub fn insert_policy(&self, record: Arc<PolicyRecord>) {
        self.policies.write().unwrap_or_else(PoisonError::into_inner).insert(record.number, record);
    }

    /// Says that an agent is gone.
    pub fn retire_agent(&self, agent: AgentId) {
        self.agents.write().unwrap_or_else(PoisonError::into_inner).retire(agent);
    }

    /// Says that a policy is not loaded any more.
    pub fn retire_policy(&self, policy: PolicyNumber) {
        self.policies.write().unwrap_or_else(PoisonError::into_inner).retire(policy);
    }

    /// What is known of an agent.
    #[must_use]
    pub fn agent(&self, agent: AgentId) -> Option<Arc<AgentRecord>> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).entries.get(&agent).cloned()
    }

    /// What is known of a policy.
    #[must_use]
    pub fn policy(&self, policy: PolicyNumber) -> Option<Arc<PolicyRecord>> {
        self.policies.read().unwrap_or_else(PoisonError::into_inner).entries.get(&policy).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Table};
    use std::sync::Arc;

    #[test]
    fn what_is_gone_is_kept_for_a_while() {
        let mut table = Table::default();
        for key in 0..=KEPT {
            table.insert(key, Arc::new(key));
            table.retire(key);
        }
        assert!(!table.entries.contains_key(&0));
        assert!(table.entries.contains_key(&1) && table.entries.contains_key(&KEPT));
        table.insert(1, Arc::new(1));
        table.retire(KEPT + 1);
        assert!(table.entries.contains_key(&1), "it came back");
    }
}
