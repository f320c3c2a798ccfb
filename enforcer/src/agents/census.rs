//! Who is left of an agent, in its cgroup and outside; and its end when nobody is.

use super::{Agent, AgentId, AgentRecord, Agents, Error, FIRST_PROCESS, cgroup};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    sync::Arc,
};

/// Who is left of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Processes in its cgroup.
    pub inside: Vec<u32>,
    /// Processes that left it, and are governed all the same.
    pub outside: Vec<u32>,
}

impl Remains {
    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }
}

impl Agents {
    /// How many processes are in an agent's cgroup.
    pub fn processes(&self, record: &AgentRecord) -> Result<usize, Error> {
        let failed = |source| Error::Cgroup { what: "list", path: record.cgroup.clone(), source };
        Ok(cgroup::processes(&record.cgroup).map_err(failed)?.len())
    }

    /// Who is left of each agent that somebody is left of.
    pub fn remains(&self) -> Result<BTreeMap<AgentId, Remains>, Error> {
        let records: Vec<_> = self.state().agents.values().map(|agent| Arc::clone(&agent.record)).collect();
        let mut remains: BTreeMap<AgentId, Remains> = BTreeMap::new();
        for record in &records {
            let failed = |source| Error::Cgroup { what: "list", path: record.cgroup.clone(), source };
            let inside = cgroup::processes(&record.cgroup).map_err(failed)?;
            if !inside.is_empty() || cgroup::is_populated(&record.cgroup).map_err(failed)? {
                remains.entry(record.id).or_default().inside = inside;
            }
        }
        if self.kernel.lsm().is_ok() {
            let inside: HashSet<u32> =
                remains.values().flat_map(|remains| &remains.inside).copied().collect();
            for (pid, agent) in self.kernel.marked()? {
                if !inside.contains(&pid) && !is_dead(pid) {
                    remains.entry(agent).or_default().outside.push(pid);
                }
            }
        }
        Ok(remains)
    }

    /// Ends an agent if nobody is left of it, and tells who is.
    pub fn end(&self, agent: AgentId) -> Result<Remains, Error> {
        // Once more, for a child that was made while the first look was at lower numbers.
        for _ in 0..2 {
            if let Some(remains) = self.remains()?.remove(&agent) {
                return Ok(remains);
            }
        }
        self.remove(agent)?;
        Ok(Remains::default())
    }

    /// Ends all agents that nobody is left of, seen so twice in a row, and tells how many there still are.
    pub fn reap(&self) -> Result<usize, Error> {
        let mut empty = self.empty()?;
        if !empty.is_empty() && self.kernel.lsm().is_ok() {
            for (pid, agent) in self.kernel.marked()? {
                if empty.contains(&agent) && !is_dead(pid) {
                    empty.remove(&agent);
                }
            }
        }
        let mut over = Vec::new();
        for (id, agent) in &mut self.state().agents {
            let deserted = empty.contains(id);
            if deserted && agent.deserted {
                over.push(*id);
            }
            agent.deserted = deserted;
        }
        for agent in over {
            self.remove(agent)?;
        }
        Ok(self.state().agents.len())
    }

    /// The agents whose cgroups have nobody in them, but for those that wait for their first process.
    fn empty(&self) -> Result<BTreeSet<AgentId>, Error> {
        let waiting = |agent: &Agent| !agent.entered && agent.made.elapsed() < FIRST_PROCESS;
        let mut empty = BTreeSet::new();
        for (id, agent) in &self.state().agents {
            let path = &agent.record.cgroup;
            let failed = |source| Error::Cgroup { what: "look at", path: path.clone(), source };
            if !waiting(agent) && !cgroup::is_populated(path).map_err(failed)? {
                empty.insert(*id);
            }
        }
        Ok(empty)
    }
}

/// Whether a process has ended and only waits to be noticed: all its threads are gone.
fn is_dead(pid: u32) -> bool {
    // The name in it is the agent's own choice, and need not be text.
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // Whatever else goes wrong, who cannot be looked at is taken for alive.
        Err(error) => {
            return error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH);
        }
    };
    let state = stat.windows(2).rposition(|two| two == b") ").and_then(|at| stat.get(at + 2).copied());
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(2, Iterator::count);
    matches!(state, Some(b'Z' | b'X')) && threads <= 1
}

#[cfg(test)]
mod tests {
    use super::is_dead;

    #[test]
    fn a_process_that_lives_is_not_dead_and_one_that_is_gone_is() {
        assert!(!is_dead(std::process::id()));
        assert!(is_dead(u32::MAX >> 2));
    }

    #[test]
    fn a_process_cannot_look_dead_by_its_name() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(OsStr::from_bytes(b"\xff) Z"));
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("30").spawn().unwrap();
        assert!(!is_dead(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(child.id()));
    }
}
