//! Entering an agent, and seeing that whoever did is governed.

use super::{AgentId, AgentRecord, Agents, Error, cgroup};
use crate::{control::peer::Peer, kernel::pidfd};
use std::os::fd::AsFd as _;

impl Agents {
    /// Moves a process into an agent and sees to it that it is governed.
    pub fn enter(&self, agent: AgentId, pid: u32) -> Result<(), Error> {
        let record = self.get(agent).ok_or(Error::NoAgent { agent })?;
        self.enter_one(&record, pid)?;
        if let Some(agent) = self.state().agents.get_mut(&agent) {
            agent.entered = true;
        }
        Ok(())
    }

    fn enter_one(&self, record: &AgentRecord, pid: u32) -> Result<(), Error> {
        let refused = |reason: String| Error::Process { pid, reason };
        if pid <= 1 || pid == std::process::id() {
            return Err(refused("it is the system's first process or the daemon".to_owned()));
        }
        let process = pidfd(pid).map_err(|error| refused(error.to_string()))?;
        let mark = || match self.kernel.lsm() {
            Ok(()) => self.kernel.mark_of(process.as_fd()),
            Err(_) => Ok(None),
        };
        match mark()? {
            Some(other) if other != record.id => {
                return Err(refused(format!("it belongs to agent {other}, for good")));
            }
            _ => {}
        }
        cgroup::enter(&record.cgroup, pid).map_err(|error| {
            refused(format!("the kernel does not move it into `{}`: {error}", record.cgroup.display()))
        })?;
        // What follows is what everything else rests on, so it is looked at and not believed.
        let found =
            cgroup::of(pid, self.kernel.root().mount()).map_err(|error| refused(error.to_string()))?;
        if found.as_deref() != Some(record.cgroup.as_path()) {
            return Err(refused(format!(
                "it is in `{}` after it was moved",
                found.unwrap_or_default().display()
            )));
        }
        match (self.kernel.lsm(), mark()?) {
            (Ok(()), found) if found != Some(record.id) => {
                Err(refused("it bears no mark after it was moved".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The agent that the other end of a connection belongs to: by its mark, or without marks by its cgroup.
    pub fn of_peer(&self, peer: &Peer) -> Result<Option<AgentId>, Error> {
        let failed = |reason: String| Error::Process { pid: peer.pid, reason };
        let process = peer.process.as_ref().ok_or_else(|| failed("it has ended".to_owned()))?;
        if self.kernel.lsm().is_ok() {
            return Ok(self.kernel.mark_of(process.as_fd())?);
        }
        let folder =
            cgroup::of(peer.pid, self.kernel.root().mount()).map_err(|error| failed(error.to_string()))?;
        let Some(folder) = folder else { return Ok(None) };
        let state = self.state();
        let holder = state.agents.values().find(|agent| folder.starts_with(&agent.record.cgroup));
        Ok(holder.map(|agent| agent.record.id))
    }
}
