//! Processes that left their agent's cgroup, and bear its mark all the same.
//!
//! They are looked for among all processes, which takes a moment in which they may fork. So whoever is found is brought
//! back into the cgroup, which is frozen, and it is looked again until nobody is found.

use super::{super::census, Case};
use crate::{
    agents::{AgentId, Agents, Error, cgroup},
    kernel::{self, pidfd},
};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

/// What became of a process that was outside.
enum Fate {
    /// It is in the cgroup.
    Inside,
    /// It got a signal that does its work at once.
    Signalled,
    /// It got the signal that ends it, which is seen by the next look.
    Ending,
    /// Nothing was left to do.
    Settled,
    /// It goes on.
    GoesOn,
}

impl Agents {
    /// Brings back whoever is outside, or has it stop where it is.
    pub(super) fn bring_back(&self, cases: &mut [&mut Case]) {
        self.each_stray(cases, |case, process, pid| {
            if case.signalled.contains(&pid) && is_stopped(pid) {
                return Fate::Settled;
            }
            // Its number could mean another process by now only if it ended since, and all numbers were given out.
            match cgroup::enter(&case.record.cgroup, pid) {
                Ok(()) => Fate::Inside,
                Err(error) if is_gone(&error) => Fate::Settled,
                Err(error) => {
                    tracing::warn!(agent = %case.record.name, pid, %error, "a process cannot be brought back, and is stopped where it is");
                    told(process, Signal::SIGSTOP, Fate::Signalled)
                }
            }
        });
    }

    /// Lets those outside go on that stand still.
    pub(super) fn wake(&self, cases: &mut [&mut Case]) {
        self.each_stray(cases, |_, process, pid| {
            if is_stopped(pid) { told(process, Signal::SIGCONT, Fate::Signalled) } else { Fate::Settled }
        });
    }

    /// Ends those outside.
    pub(super) fn end_strays(&self, cases: &mut [&mut Case]) {
        self.each_stray(cases, |_, process, _| told(process, Signal::SIGKILL, Fate::Ending));
    }

    /// Does something to each process outside, and notes what became of it.
    fn each_stray(&self, cases: &mut [&mut Case], act: impl Fn(&Case, &OwnedFd, u32) -> Fate) {
        for case in &mut *cases {
            case.left.clear();
        }
        if self.kernel.lsm().is_err() {
            return;
        }
        let mut strays: BTreeMap<AgentId, Vec<u32>> = BTreeMap::new();
        match self.kernel.marked() {
            Ok(marked) => {
                for (pid, agent) in marked {
                    strays.entry(agent).or_default().push(pid);
                }
            }
            Err(error) => {
                let reason = crate::control::api::chain(&error);
                for case in cases {
                    case.fail(Error::Strays { reason: reason.clone() });
                }
                return;
            }
        }
        for case in cases {
            // After the look at the marks: whoever is made inside between the two is in both.
            let Some(inside) = case.attempt("list", cgroup::processes) else { continue };
            let inside: HashSet<u32> = inside.into_iter().collect();
            let marked = strays.remove(&case.id()).unwrap_or_default();
            let outside = marked.into_iter().filter(|pid| !inside.contains(pid));
            self.each_of(case, outside, &act);
        }
    }

    fn each_of(
        &self,
        case: &mut Case,
        outside: impl Iterator<Item = u32>,
        act: impl Fn(&Case, &OwnedFd, u32) -> Fate,
    ) {
        case.quiet += 1;
        for pid in outside {
            let fate = match self.stray(case.id(), pid) {
                Ok(Some(process)) => act(case, &process, pid),
                Ok(None) => Fate::Settled,
                Err(reason) => {
                    tracing::warn!(agent = %case.record.name, pid, reason, "a process cannot be told apart");
                    Fate::GoesOn
                }
            };
            match fate {
                Fate::Settled => continue,
                Fate::Inside => {
                    case.brought_back.insert(pid);
                }
                Fate::Signalled => {
                    case.signalled.insert(pid);
                }
                Fate::Ending => {
                    case.signalled.insert(pid);
                    case.left.insert(pid);
                }
                Fate::GoesOn => {
                    case.left.insert(pid);
                }
            }
            case.quiet = 0;
        }
    }

    /// A process in a way that cannot come to mean another one, if it lives and bears the agent's mark.
    fn stray(&self, agent: AgentId, pid: u32) -> Result<Option<OwnedFd>, String> {
        if census::is_dead(pid) {
            return Ok(None);
        }
        let process = match pidfd(pid) {
            Ok(process) => process,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        match self.kernel.mark_of(process.as_fd()) {
            Ok(mark) => Ok((mark == Some(agent)).then_some(process)),
            Err(_) if census::is_dead(pid) => Ok(None),
            Err(error) => Err(crate::control::api::chain(&error)),
        }
    }
}

/// Sends a signal to a process.
fn told(process: &OwnedFd, signal: Signal, fate: Fate) -> Fate {
    match kernel::signal(process.as_fd(), signal) {
        Ok(()) => fate,
        Err(error) if is_gone(&error) => Fate::Settled,
        Err(error) => {
            tracing::warn!(%signal, %error, "a process does not get a signal");
            Fate::GoesOn
        }
    }
}

/// Whether a thread of a process was stopped by a signal.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let mut stats = threads.filter_map(|thread| fs::read(thread.path().join("stat")).ok());
    stats.any(|stat| census::state(&stat) == Some(b'T'))
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::{Fate, is_stopped, told};
    use crate::kernel::pidfd;
    use nix::sys::signal::Signal;
    use std::{
        process::{Command, Stdio},
        thread::sleep,
        time::Duration,
    };

    fn eventually(holds: impl Fn() -> bool) -> bool {
        (0..1000).any(|_| {
            holds() || {
                sleep(Duration::from_millis(5));
                false
            }
        })
    }

    #[test]
    fn a_process_is_stopped_goes_on_and_ends_where_it_is() {
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let (pid, process) = (child.id(), pidfd(child.id()).unwrap());
        assert!(!is_stopped(pid));
        assert!(matches!(told(&process, Signal::SIGSTOP, Fate::Signalled), Fate::Signalled));
        assert!(eventually(|| is_stopped(pid)));
        assert!(matches!(told(&process, Signal::SIGCONT, Fate::Signalled), Fate::Signalled));
        assert!(eventually(|| !is_stopped(pid)));
        assert!(matches!(told(&process, Signal::SIGKILL, Fate::Ending), Fate::Ending));
        child.wait().unwrap();
        assert!(matches!(told(&process, Signal::SIGKILL, Fate::Ending), Fate::Settled), "it is gone");
    }
}
