//! Agents: governed groups of processes, each with a cgroup and a policy.
//!
//! An agent lasts while a process is in its cgroup, or bears its mark anywhere. Whoever bears the mark of an
//! agent that has no entry is refused everything, so an entry goes last. Ids are never used again.
//!
//! Launching is not here: the command line makes the process, so that it is the parent; see [`launch`].

pub mod census;
pub(crate) mod cgroup;
mod enter;
pub(crate) mod freezer;
pub mod intervention;
pub mod launch;
pub mod names;
pub mod policy;
pub mod registry;

pub use self::{census::Remains, freezer::AgentState, policy::PolicyNumber};

use self::{
    names::Names,
    policy::{Digest, PolicyRecord, Prepared},
    registry::Registry,
};
use crate::kernel::{self, Assignment, Kernel, SlotId, probe::LsmLack};
use enforcer_common::agent::AgentEntry;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The number of an agent, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(pub u64);

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id) = self;
        id.fmt(f)
    }
}

/// Bytes of an agent's name: it is part of the name of a cgroup.
const NAME_MAX: usize = 63;

/// Policies in force at once: one slot is the canary's, and one is for the policy that replaces another.
pub const POLICIES_MAX: usize = enforcer_common::limits::SLOTS_MAX as usize - 2;

/// How long an agent may wait for its first process.
const FIRST_PROCESS: Duration = Duration::from_secs(30);

/// What an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A command that was started under a policy.
    Run,
    /// Processes that were moved in.
    Attach,
    /// The canary, of which nobody else hears.
    Canary,
}

/// What is known of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Its number.
    pub id: AgentId,
    /// What people call it; several can have one name.
    pub name: String,
    /// Its policy.
    pub policy: PolicyNumber,
    /// The folder of its cgroup.
    pub cgroup: PathBuf,
    /// The id of its cgroup.
    pub cgroup_id: u64,
    /// When it began.
    pub started: Timestamp,
    /// What it is for.
    pub purpose: Purpose,
}

/// Why something about an agent cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy wants what the kernel lacks.
    #[error("the policy `{policy}` has {needs}, which this kernel cannot hold agents to: {lack}")]
    NeedsLsm {
        /// The policy.
        policy: String,
        /// What of it.
        needs: String,
        /// What is missing.
        lack: LsmLack,
    },
    /// A name that cannot be part of a cgroup's.
    #[error(
        "an agent cannot be called `{name}`: up to {NAME_MAX} letters, digits, `-`, `_` and `.`, and a letter or digit first"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// There is no such agent.
    #[error("there is no agent {agent}")]
    NoAgent {
        /// Its number.
        agent: AgentId,
    },
    /// The agent is under another policy.
    #[error("the agent `{name}` is under the policy `{policy}`, not under this one")]
    OtherPolicy {
        /// The agent.
        name: String,
        /// Its policy.
        policy: String,
    },
    /// Several agents have the name.
    #[error("{count} agents are called `{name}`")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// As many agents as there may be.
    #[error("{} agents are there, which is as many as there may be", enforcer_common::limits::AGENTS_MAX)]
    Full,
    /// As many policies as there may be.
    #[error("{POLICIES_MAX} policies are in force, which is as many as there may be")]
    Policies,
    /// A process that cannot become part of an agent.
    #[error("process {pid} cannot be governed: {reason}")]
    Process {
        /// The process.
        pid: u32,
        /// Why.
        reason: String,
    },
    /// The daemon is in the agent.
    #[error(
        "the daemon itself, process {pid}, is in the agent `{agent}` and would stop with it: move it out, by writing \
         {pid} to `cgroup.procs` of another cgroup, or start another daemon outside"
    )]
    Own {
        /// The agent.
        agent: String,
        /// The daemon's process.
        pid: u32,
    },
    /// Who left the agent's cgroup cannot be told.
    #[error("cannot look for processes that left the cgroup: {reason}")]
    Strays {
        /// Why.
        reason: String,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A cgroup.
    #[error("cannot {what} the cgroup `{}`", path.display())]
    Cgroup {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A loaded policy and who is under it.
#[derive(Debug)]
struct Loaded {
    record: Arc<PolicyRecord>,
    slot: SlotId,
    agents: BTreeSet<AgentId>,
}

/// What is known of an agent, and what the next daemon need not know.
#[derive(Debug)]
struct Agent {
    record: Arc<AgentRecord>,
    /// Whether a process has been in it.
    entered: bool,
    made: Instant,
    /// Whether nobody was left of it when last looked.
    deserted: bool,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    agents: BTreeMap<AgentId, Agent>,
    policies: HashMap<PolicyNumber, Loaded>,
}

/// All agents.
#[derive(Debug)]
pub struct Agents {
    kernel: Arc<Kernel>,
    names: Arc<Names>,
    state: Mutex<State>,
    /// Held by whoever stops agents, lets them go on, or ends them.
    interventions: Mutex<()>,
}

impl Agents {
    /// The agents that the kernel and the registry agree on.
    pub fn open(kernel: Arc<Kernel>, names: Arc<Names>, mut registry: Registry) -> Result<Self, Error> {
        let entries = kernel.agents()?;
        registry.skip(
            entries.iter().map(|(id, _)| *id),
            entries.iter().map(|(_, entry)| PolicyNumber(entry.policy)),
        );
        let mut known: HashMap<_, _> = registry.agents().map(|record| (record.id, record.clone())).collect();
        registry.forget_policies()?;
        let records = registry.policies()?;
        for record in &records {
            names.insert_policy(Arc::new(record.clone()));
        }
        let mut state = State { registry, agents: BTreeMap::new(), policies: HashMap::new() };
        for (id, entry) in entries {
            let record = known.remove(&id).unwrap_or_else(|| nameless(&kernel, id, &entry));
            state.adopt(&names, record, &entry);
        }
        // Those that the kernel does not know were about to begin.
        for (id, record) in known {
            tracing::info!(agent = %record.name, %id, "an agent that never began is dropped");
            state.registry.remove(id);
            remove_cgroup(&record);
        }
        state.registry.write()?;
        Ok(Self { kernel, names, state: Mutex::new(state), interventions: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the registry.
    pub fn registry<T>(&self, with: impl FnOnce(&mut Registry) -> T) -> T {
        with(&mut self.state().registry)
    }

    /// The agents, without the canary.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<AgentRecord>> {
        let all = self.state();
        let records = all.agents.values().map(|agent| Arc::clone(&agent.record));
        records.filter(|record| record.purpose != Purpose::Canary).collect()
    }

    /// An agent by its number.
    #[must_use]
    pub fn get(&self, agent: AgentId) -> Option<Arc<AgentRecord>> {
        self.state().agents.get(&agent).map(|agent| Arc::clone(&agent.record))
    }

    /// The only agent with a name; nothing where there is none.
    pub fn find(&self, name: &str) -> Result<Option<Arc<AgentRecord>>, Error> {
        let mut found: Vec<_> = self.list().into_iter().filter(|record| record.name == name).collect();
        match found.len() {
            0 | 1 => Ok(found.pop()),
            count => Err(Error::Ambiguous { name: name.to_owned(), count }),
        }
    }

    /// Makes an agent: loads its policy unless it is loaded, and makes its cgroup. Nobody is in it yet.
    pub fn create(
        &self,
        name: Option<&str>,
        purpose: Purpose,
        policy: &Prepared,
    ) -> Result<Arc<AgentRecord>, Error> {
        let name = name.unwrap_or(&policy.name);
        if !is_name(name) {
            return Err(Error::Name { name: name.to_owned() });
        }
        self.permit(policy)?;
        let mut state = self.state();
        if state.agents.len() >= enforcer_common::limits::AGENTS_MAX as usize {
            return Err(Error::Full);
        }
        if purpose != Purpose::Canary {
            state.make_way(policy, POLICIES_MAX)?;
        }
        let (number, slot) = self.load(&mut state, policy)?;
        let made = self.make(&mut state, name, purpose, number, slot, policy.tables.audit);
        if made.is_err() {
            self.release(&mut state, number);
        }
        made
    }

    fn permit(&self, policy: &Prepared) -> Result<(), Error> {
        match (&policy.needs_lsm, self.kernel.lsm()) {
            (Some(needs), Err(lack)) => {
                Err(Error::NeedsLsm { policy: policy.name.clone(), needs: needs.clone(), lack: lack.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The slot of a policy, which is loaded unless it is.
    fn load(&self, state: &mut State, policy: &Prepared) -> Result<(PolicyNumber, SlotId), Error> {
        if let Some((number, loaded)) = state.with_content(&policy.digest) {
            return Ok((number, loaded.slot));
        }
        let number = state.registry.next_policy();
        let record = Arc::new(policy.record(number));
        // Before the kernel uses the number: the next daemon must know it.
        state.registry.write_policy(&record)?;
        state.registry.write()?;
        self.names.insert_policy(Arc::clone(&record));
        let slot = self.kernel.load_policy(number.0, &policy.tables)?;
        state.policies.insert(number, Loaded { record, slot, agents: BTreeSet::new() });
        tracing::info!(policy = %policy.name, number = number.0, slot = slot.0, rules = policy.tables.rules.len(), "loaded");
        Ok((number, slot))
    }

    fn make(
        &self,
        state: &mut State,
        name: &str,
        purpose: Purpose,
        policy: PolicyNumber,
        slot: SlotId,
        audit: bool,
    ) -> Result<Arc<AgentRecord>, Error> {
        let id = state.registry.next_agent();
        let folder = self.kernel.root().path().join(format!("{name}-{id}"));
        let cgroup_id = cgroup::create(&folder).map_err(|source| Error::Cgroup {
            what: "make",
            path: folder.clone(),
            source,
        })?;
        let started = Timestamp::now();
        let record =
            AgentRecord { id, name: name.to_owned(), policy, cgroup: folder, cgroup_id, started, purpose };
        let assignment = Assignment { slot, policy: policy.0, audit, cgroup: cgroup_id };
        state.registry.insert(record.clone());
        let record = Arc::new(record);
        self.names.insert_agent(Arc::clone(&record));
        let set = state.registry.write().map_err(Error::from);
        if let Err(error) = set.and_then(|()| Ok(self.kernel.set_agent(id, assignment)?)) {
            state.registry.remove(id);
            remove_cgroup(&record);
            return Err(error);
        }
        if let Some(loaded) = state.policies.get_mut(&policy) {
            loaded.agents.insert(id);
        }
        let agent =
            Agent { record: Arc::clone(&record), entered: false, made: Instant::now(), deserted: false };
        state.agents.insert(id, agent);
        Ok(record)
    }

    /// Puts an agent under another policy, from one action to the next.
    pub fn set_policy(&self, agent: AgentId, policy: &Prepared) -> Result<Arc<AgentRecord>, Error> {
        self.permit(policy)?;
        let mut state = self.state();
        let before = state.agents.get(&agent).ok_or(Error::NoAgent { agent })?.record.clone();
        // The one that it replaces may have nobody else.
        state.make_way(policy, POLICIES_MAX + 1)?;
        let (number, slot) = self.load(&mut state, policy)?;
        if number == before.policy {
            return Ok(before);
        }
        let record = AgentRecord { policy: number, ..(*before).clone() };
        state.registry.insert(record.clone());
        state.registry.write()?;
        let record = Arc::new(record);
        self.names.insert_agent(Arc::clone(&record));
        let audit = policy.tables.audit;
        let assignment = Assignment { slot, policy: number.0, audit, cgroup: record.cgroup_id };
        self.kernel.set_agent(agent, assignment)?;
        if let Some(agent) = state.agents.get_mut(&agent) {
            agent.record = Arc::clone(&record);
        }
        if let Some(loaded) = state.policies.get_mut(&number) {
            loaded.agents.insert(agent);
        }
        if let Some(loaded) = state.policies.get_mut(&before.policy) {
            loaded.agents.remove(&agent);
        }
        self.release(&mut state, before.policy);
        Ok(record)
    }

    /// Empties the slot of a policy that nobody is under.
    fn release(&self, state: &mut State, policy: PolicyNumber) {
        if !state.policies.get(&policy).is_some_and(|loaded| loaded.agents.is_empty()) {
            return;
        }
        let Some(loaded) = state.policies.remove(&policy) else { return };
        self.names.retire_policy(policy);
        let kernel = Arc::clone(&self.kernel);
        // It waits for running programs, and nobody waits for it.
        std::thread::spawn(move || {
            if let Err(error) = kernel.unload_policy(loaded.slot) {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    slot = loaded.slot.0,
                    "a slot is lost"
                );
            }
        });
    }

    /// Ends an agent that nobody is left of. One whose cgroup cannot be removed stays, with all it has: whoever is
    /// in there would not be governed any more.
    fn remove(&self, agent: AgentId) -> Result<(), Error> {
        let mut state = self.state();
        let Some(record) = state.agents.get(&agent).map(|agent| Arc::clone(&agent.record)) else {
            return Ok(());
        };
        if !remove_cgroup(&record) {
            return Ok(());
        }
        state.agents.remove(&agent);
        self.kernel.remove_agent(agent, record.cgroup_id)?;
        state.registry.remove(agent);
        state.registry.write()?;
        self.names.retire_agent(agent);
        if let Some(loaded) = state.policies.get_mut(&record.policy) {
            loaded.agents.remove(&agent);
        }
        self.release(&mut state, record.policy);
        if record.purpose == Purpose::Canary && !state.policies.contains_key(&record.policy) {
            // Nobody hears of the canary's events, so nobody needs names for them.
            state.registry.remove_policy(record.policy)?;
        }
        Ok(())
    }
}

impl State {
    /// Fails where a policy would be one more than `most`.
    fn make_way(&self, policy: &Prepared, most: usize) -> Result<(), Error> {
        let is_canary = |agent: &AgentId| {
            self.agents.get(agent).is_some_and(|agent| agent.record.purpose == Purpose::Canary)
        };
        let ours = self.policies.values().filter(|loaded| !loaded.agents.iter().all(is_canary)).count();
        if ours >= most && self.with_content(&policy.digest).is_none() {
            Err(Error::Policies)
        } else {
            Ok(())
        }
    }

    fn with_content(&self, digest: &Digest) -> Option<(PolicyNumber, &Loaded)> {
        let found = self.policies.iter().find(|(_, loaded)| loaded.record.digest == *digest);
        found.map(|(number, loaded)| (*number, loaded))
    }

    /// Takes over an agent that the kernel knows.
    fn adopt(&mut self, names: &Names, mut record: AgentRecord, entry: &AgentEntry) {
        // A daemon that died between the two has written the registry first.
        record.policy = PolicyNumber(entry.policy);
        let policy = record.policy;
        let known = names.policy(policy);
        let loaded = self.policies.entry(policy).or_insert_with(|| Loaded {
            record: known.unwrap_or_else(|| Arc::new(unknown_policy(policy))),
            slot: SlotId(entry.slot),
            agents: BTreeSet::new(),
        });
        loaded.agents.insert(record.id);
        self.registry.insert(record.clone());
        let record = Arc::new(record);
        names.insert_agent(Arc::clone(&record));
        let agent =
            Agent { record: Arc::clone(&record), entered: true, made: Instant::now(), deserted: false };
        self.agents.insert(record.id, agent);
    }
}

/// The record of an agent that the kernel knows and the registry does not.
fn nameless(kernel: &Kernel, id: AgentId, entry: &AgentEntry) -> AgentRecord {
    tracing::error!(%id, "the kernel knows an agent that the registry does not: its name is lost");
    let folders = fs::read_dir(kernel.root().path()).into_iter().flatten().filter_map(Result::ok);
    let cgroup = folders
        .map(|folder| folder.path())
        .find(|path| kernel::hierarchy::id(path).ok() == Some(entry.cgroup));
    AgentRecord {
        id,
        name: format!("agent-{id}"),
        policy: PolicyNumber(entry.policy),
        cgroup: cgroup.unwrap_or_else(|| kernel.root().path().join(format!("agent-{id}"))),
        cgroup_id: entry.cgroup,
        started: Timestamp::now(),
        purpose: Purpose::Attach,
    }
}

fn unknown_policy(number: PolicyNumber) -> PolicyRecord {
    PolicyRecord {
        number,
        name: format!("policy-{}", number.0),
        digest: Digest::unknown(),
        audit: false,
        loaded: Timestamp::now(),
        rules: Vec::new(),
    }
}

fn remove_cgroup(record: &AgentRecord) -> bool {
    let removed = cgroup::remove(&record.cgroup);
    if let Err(error) = &removed {
        tracing::warn!(cgroup = %record.cgroup.display(), %error, "a cgroup cannot be removed");
    }
    removed.is_ok()
}

/// Whether a name can be part of the name of a cgroup, and of a line of text.
fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.len() <= NAME_MAX
        && name.bytes().all(good)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_what_a_cgroup_and_a_line_of_text_can_have() {
        for name in ["research-agent", "a", "A.b_c-9", &"x".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "a/b", "a b", "ä", "a\n", &"x".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
