//! The maps as the daemon uses them, opened from their pins.
//!
//! Who writes and reads each is in `enforcer-ebpf/src/maps.rs`. The daemon's threads share them, hence the
//! locks: Aya wants a map for itself where it writes.

use super::{
    hold::HoldMaps,
    pin::Pins,
    sys::{self, TypedMap},
};
use crate::agents::AgentId;
use aya::{
    Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, Map, MapData, MapError, MapKeys, PerCpuArray, PerCpuHashMap, RingBuf,
    },
};
use enforcer_common::{
    agent::{AgentEntry, CounterKey, Counts, Mark, Meta},
    event::{Losses, Record},
    grant::{Grant, RequestKey},
    rule::SlotHeader,
};
use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Requests that one system call reads: 4 KiB each.
const REQUESTS_AT_ONCE: usize = 64;
/// Grants that one system call reads.
const GRANTS_AT_ONCE: usize = 1024;

/// A map that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the map `{map}`")]
pub struct Error {
    /// What was tried.
    pub what: &'static str,
    /// Which map.
    pub map: &'static str,
    /// What Aya or the kernel said.
    #[source]
    pub source: MapError,
}

impl Error {
    pub(super) fn io(what: &'static str, map: &'static str, source: io::Error) -> Self {
        Self { what, map, source: source.into() }
    }
}

pub(super) fn failed(what: &'static str, map: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error { what, map, source }
}

/// The inner maps of slots.
#[derive(Debug)]
pub(super) struct Outer {
    name: &'static str,
    map: Mutex<ArrayOfMaps<MapData>>,
    raw: TypedMap<u32, u32>,
}

impl Outer {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, Error> {
        Ok(Self { name, map: Mutex::new(open(pins, name)?), raw: open_typed(pins, name)? })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Puts a slot's inner map in place, and waits for programs that are running now.
    pub(super) fn set(&self, slot: u32, inner: &MapData) -> Result<(), Error> {
        locked(&self.map).set(slot, inner, 0).map_err(failed("write to", self.name))
    }

    /// An inner map that is in place.
    pub(super) fn inner(&self, index: u32) -> Result<Option<OwnedFd>, Error> {
        let failed = |error| Error::io("read", self.name, error);
        let id = self.raw.lookup(&index).map_err(failed)?;
        id.map(sys::map_by_id).transpose().map_err(failed)
    }

    /// Takes a slot's inner map away, and waits likewise.
    pub(super) fn clear(&self, slot: u32) -> Result<(), Error> {
        self.raw.delete(&slot).map_err(|error| Error::io("delete from", self.name, error))
    }
}

/// All maps but the rings, which their reader takes.
pub(super) struct Maps {
    pub(super) meta: Mutex<Array<MapData, Meta>>,
    pub(super) agents: Mutex<HashMap<MapData, u64, AgentEntry>>,
    pub(super) cgroups: Mutex<HashMap<MapData, u64, u64>>,
    pub(super) marks: TypedMap<i32, Mark>,
    pub(super) slots: Mutex<Array<MapData, SlotHeader>>,
    pub(super) rules: Outer,
    pub(super) words: Outer,
    pub(super) counters: Outer,
    pub(super) counts: Mutex<PerCpuHashMap<MapData, CounterKey, Counts>>,
    buckets: Mutex<HashMap<MapData, CounterKey, u64>>,
    requests: Mutex<HashMap<MapData, RequestKey, Record>>,
    /// The same once more: all of it is read by few system calls.
    raw_requests: TypedMap<RequestKey, Record>,
    grants: Mutex<HashMap<MapData, RequestKey, Grant>>,
    raw_grants: TypedMap<RequestKey, Grant>,
    losses: PerCpuArray<MapData, Losses>,
    pub(super) holds: HoldMaps,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

fn open<M: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &'static str) -> Result<M, Error> {
    let opened = MapData::from_pin(pins.map(name)).and_then(Map::from_map_data).and_then(M::try_from);
    opened.map_err(failed("open", name))
}

pub(super) fn open_typed<K, V>(pins: &Pins, name: &'static str) -> Result<TypedMap<K, V>, Error> {
    let opened = sys::open_pin(&pins.map(name)).and_then(TypedMap::new);
    opened.map_err(|error| Error::io("open", name, error))
}

/// A lock whose holder panicked guards a descriptor, which is as good as before.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Maps {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            meta: Mutex::new(open(pins, "META")?),
            agents: Mutex::new(open(pins, "AGENTS")?),
            cgroups: Mutex::new(open(pins, "CGROUPS")?),
            marks: open_typed(pins, "MARKS")?,
            slots: Mutex::new(open(pins, "SLOTS")?),
            rules: Outer::open(pins, "RULES")?,
            words: Outer::open(pins, "WORDS")?,
            counters: Outer::open(pins, "COUNTERS")?,
            counts: Mutex::new(open(pins, "COUNTS")?),
            buckets: Mutex::new(open(pins, "BUCKETS")?),
            requests: Mutex::new(open(pins, "REQUESTS")?),
            raw_requests: open_typed(pins, "REQUESTS")?,
            grants: Mutex::new(open(pins, "GRANTS")?),
            raw_grants: open_typed(pins, "GRANTS")?,
            losses: open(pins, "LOSSES")?,
            holds: HoldMaps::open(pins)?,
        })
    }

    /// The rings of alerts and of all other events.
    pub(super) fn rings(pins: &Pins) -> Result<[RingBuf<MapData>; 2], Error> {
        Ok([open(pins, "ALERTS")?, open(pins, "EVENTS")?])
    }

    /// The ring of notices.
    pub(super) fn notices(pins: &Pins) -> Result<RingBuf<MapData>, Error> {
        open(pins, "NOTICES")
    }

    /// What was lost, summed over processors.
    pub(super) fn losses(&self) -> Result<Losses, Error> {
        let values = self.losses.get(&0, 0).map_err(failed("read", "LOSSES"))?;
        Ok(values.iter().fold(Losses::default(), |a, b| Losses {
            alerts: a.alerts + b.alerts,
            events: a.events + b.events,
            counts: a.counts + b.counts,
            forks: a.forks + b.forks,
            marks: a.marks + b.marks,
            scratch: a.scratch + b.scratch,
        }))
    }

    /// All requests that wait.
    pub(super) fn requests(&self) -> Result<Vec<(RequestKey, Record)>, Error> {
        self.raw_requests.entries(REQUESTS_AT_ONCE).map_err(|error| Error::io("read", "REQUESTS", error))
    }

    /// A request that waits.
    pub(super) fn request(&self, key: &RequestKey) -> Result<Option<Record>, Error> {
        self.raw_requests.lookup(key).map_err(|error| Error::io("read", "REQUESTS", error))
    }

    /// What the requests that wait are for.
    pub(super) fn request_keys(&self) -> Result<Vec<RequestKey>, Error> {
        locked(&self.requests).keys().collect::<Result<_, _>>().map_err(failed("read", "REQUESTS"))
    }

    pub(super) fn remove_request(&self, key: &RequestKey) -> Result<(), Error> {
        removed(locked(&self.requests).remove(key)).map_err(failed("delete from", "REQUESTS"))
    }

    pub(super) fn insert_grant(&self, key: &RequestKey, grant: &Grant) -> Result<(), Error> {
        locked(&self.grants).insert(key, grant, 0).map_err(failed("write to", "GRANTS"))
    }

    /// All grants.
    pub(super) fn grants(&self) -> Result<Vec<(RequestKey, Grant)>, Error> {
        self.raw_grants.entries(GRANTS_AT_ONCE).map_err(|error| Error::io("read", "GRANTS", error))
    }

    pub(super) fn remove_grant(&self, key: &RequestKey) -> Result<(), Error> {
        removed(locked(&self.grants).remove(key)).map_err(failed("delete from", "GRANTS"))
    }

    /// Removes the grants that are of no use any more, and tells how many.
    pub(super) fn remove_grants(&self, useless: impl Fn(&Grant) -> bool) -> Result<usize, Error> {
        let mut grants = self.grants()?;
        grants.retain(|(_, grant)| useless(grant));
        grants.iter().try_for_each(|(key, _)| self.remove_grant(key))?;
        Ok(grants.len())
    }

    /// Removes everything that is counted, waited for or granted for an agent.
    pub(super) fn forget(&self, agent: AgentId) -> Result<(), Error> {
        let AgentId(agent) = agent;
        let request = |key: &RequestKey| key.agent == agent;
        let counter = |key: &CounterKey| key.agent == agent;
        remove_keys(&mut *locked(&self.buckets), counter).map_err(failed("clear", "BUCKETS"))?;
        remove_keys(&mut *locked(&self.requests), request).map_err(failed("clear", "REQUESTS"))?;
        remove_keys(&mut *locked(&self.grants), request).map_err(failed("clear", "GRANTS"))?;
        self.holds.forget(agent)?;
        remove_keys(&mut *locked(&self.counts), counter).map_err(failed("clear", "COUNTS"))
    }
}

/// A map that keys can be removed from.
trait Keyed<K: Pod> {
    fn keys(&self) -> MapKeys<'_, K>;
    fn remove(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: Pod, V: Pod> Keyed<K> for HashMap<MapData, K, V> {
    fn keys(&self) -> MapKeys<'_, K> {
        self.keys()
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

impl<K: Pod, V: Pod> Keyed<K> for PerCpuHashMap<MapData, K, V> {
    fn keys(&self) -> MapKeys<'_, K> {
        self.keys()
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

/// Removes the keys that are meant. Looks at keys alone: values are large.
fn remove_keys<K: Pod>(map: &mut impl Keyed<K>, meant: impl Fn(&K) -> bool) -> Result<(), MapError> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    keys.iter().filter(|key| meant(key)).try_for_each(|key| removed(map.remove(key)))
}

/// That a key is not there any more is what a removal is for.
pub(super) fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}
