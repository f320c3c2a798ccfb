//! Who is left of an agent, in its cgroup and outside; and its end when nobody is.

use super::{Agent, AgentId, AgentRecord, Agents, Error, FIRST_PROCESS, cgroup};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
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

/// Whether a process has ended and only waits to be noticed: all its threads are gone. What cannot be told is alive:
/// whoever is taken for dead is governed no longer.
pub(super) fn is_dead(pid: u32) -> bool {
    let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) => return gone(&error),
    };
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads.count(),
        Err(error) => return gone(&error),
    };
    matches!(state(&stat), Some(b'Z' | b'X')) && threads <= 1
}

/// The letter for the state of a task, in what its file `stat` holds.
pub(super) fn state(stat: &[u8]) -> Option<u8> {
    after_name(stat)?.first().copied()
}

/// What a task's file `stat` holds from the state on, which is field 3. Before that stands the name, between parentheses:
/// bytes that the process has chosen.
pub(crate) fn after_name(stat: &[u8]) -> Option<&[u8]> {
    let at = stat.windows(2).rposition(|pair| pair == b") ")? + 2;
    stat.get(at..)
}

#[cfg(test)]
mod tests {
    use super::is_dead;
    use std::{
        fs,
        io::Read as _,
        process::{Command, Stdio},
        thread::sleep,
        time::Duration,
    };

    #[test]
    fn a_process_that_lives_is_not_dead_and_one_that_is_gone_is() {
        assert!(!is_dead(std::process::id()));
        assert!(is_dead(u32::MAX >> 2));
    }

    #[test]
    fn no_name_makes_a_living_process_dead() {
        // It names itself: to copy a program under that name and start it would fail now and then, while a test beside
        // this one has just forked and holds the copy open for writing.
        let mut child = Command::new("/bin/sh")
            .args(["-c", r"printf '\377) Z 1' > /proc/$$/comm && echo named && read _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut named = [0; 6];
        child.stdout.take().unwrap().read_exact(&mut named).unwrap();
        let stat = fs::read(format!("/proc/{}/stat", child.id())).unwrap();
        assert!(stat.windows(8).any(|bytes| bytes == b"(\xff) Z 1)"), "{}", stat.escape_ascii());
        assert!(!is_dead(child.id()));
        child.kill().unwrap();
        let ended = || {
            (0..1000).any(|_| {
                is_dead(child.id()) || {
                    sleep(Duration::from_millis(5));
                    false
                }
            })
        };
        assert!(ended(), "it waits to be noticed");
        child.wait().unwrap();
        assert!(is_dead(child.id()));
    }
}
