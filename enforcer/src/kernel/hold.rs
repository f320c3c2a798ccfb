//! The maps about threads that wait: what [`enforcer_common::hold`] says of them, read and written.

use super::{
    maps::{Error, open_typed},
    pin::Pins,
    sys::{Demand, TypedMap},
};
use enforcer_common::hold::{Beat, ThreadKey, Waiter};
use std::{fmt, io};

/// Elements that one system call reads.
const AT_ONCE: usize = 1024;

/// The maps. They need no locks: each use is one system call.
pub struct HoldMaps {
    waiters: TypedMap<ThreadKey, Waiter>,
    /// How many threads of an agent wait.
    waiting: TypedMap<u64, u64>,
    /// How many threads of a process are frozen.
    frozen: TypedMap<u32, u32>,
    beat: TypedMap<u32, Beat>,
}

impl fmt::Debug for HoldMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldMaps").finish_non_exhaustive()
    }
}

fn failed(what: &'static str, map: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::io(what, map, error)
}

impl HoldMaps {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            waiters: open_typed(pins, "WAITERS")?,
            waiting: open_typed(pins, "WAITING")?,
            frozen: open_typed(pins, "FROZEN")?,
            beat: open_typed(pins, "BEAT")?,
        })
    }

    /// All threads that wait. One that the kernel is about to add is not among them yet.
    pub fn waiters(&self) -> Result<Vec<(ThreadKey, Waiter)>, Error> {
        let mut all = self.waiters.entries(AT_ONCE).map_err(failed("read", "WAITERS"))?;
        all.retain(|(_, waiter)| waiter.since_ns != 0);
        Ok(all)
    }

    /// What a thread waits for, if it does.
    pub fn waiter(&self, thread: &ThreadKey) -> Result<Option<Waiter>, Error> {
        let found = self.waiters.lookup(thread).map_err(failed("read", "WAITERS"))?;
        Ok(found.filter(|waiter| waiter.since_ns != 0))
    }

    /// Changes what is known of a thread that waits, unless it waits no longer.
    pub fn set_waiter(&self, thread: &ThreadKey, waiter: &Waiter) -> Result<(), Error> {
        match self.waiters.update(thread, waiter, Demand::Exists) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(Error::io("write to", "WAITERS", error))
            }
            _ => Ok(()),
        }
    }

    /// Forgets that a thread waits: when it tries again it begins anew.
    pub fn remove_waiter(&self, thread: &ThreadKey) -> Result<(), Error> {
        self.waiters.delete(thread).map_err(failed("delete from", "WAITERS"))
    }

    /// How many threads of each agent the kernel thinks wait.
    pub fn waiting(&self) -> Result<Vec<(u64, u64)>, Error> {
        self.waiting.entries(AT_ONCE).map_err(failed("read", "WAITING"))
    }

    /// Says how many threads of an agent wait.
    pub fn set_waiting(&self, agent: u64, count: u64) -> Result<(), Error> {
        // The agent may have ended meanwhile.
        match self.waiting.update(&agent, &count, Demand::Exists) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(Error::io("write to", "WAITING", error))
            }
            _ => Ok(()),
        }
    }

    /// How many threads of each process are said to be frozen.
    pub fn frozen(&self) -> Result<Vec<(u32, u32)>, Error> {
        self.frozen.entries(AT_ONCE).map_err(failed("read", "FROZEN"))
    }

    /// Says how many threads of a process are frozen, or about to be.
    pub fn set_frozen(&self, tgid: u32, count: u32) -> Result<(), Error> {
        let frozen = &self.frozen;
        match count {
            0 => frozen.delete(&tgid).map_err(failed("delete from", "FROZEN")),
            count => frozen.update(&tgid, &count, Demand::Any).map_err(failed("write to", "FROZEN")),
        }
    }

    /// Says that the daemon lives, at a time since boot.
    pub fn beat(&self, now_ns: u64) -> Result<(), Error> {
        self.beat.update(&0_u32, &Beat { time_ns: now_ns }, Demand::Any).map_err(failed("write to", "BEAT"))
    }

    /// Forgets what there is of an agent that has ended.
    pub(super) fn forget(&self, agent: u64) -> Result<(), Error> {
        for (thread, waiter) in self.waiters()? {
            if waiter.request.agent == agent {
                self.remove_waiter(&thread)?;
            }
        }
        self.waiting.delete(&agent).map_err(failed("delete from", "WAITING"))
    }
}
