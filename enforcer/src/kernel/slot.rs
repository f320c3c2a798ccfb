//! Slots: where the kernel holds compiled policies.
//!
//! A policy is loaded into a free slot, all of it, before any agent is on it; then one update of an agent's entry
//! moves the agent over. So no action is decided by half a policy. A slot that nobody is on any more may still be
//! held by a program that is running: it is emptied, and filled again, only after a grace period
//! ([`super::sys::Grace`]).

use super::{
    maps::{Error, Maps, Outer, failed, locked},
    sys,
};
use crate::policy::CompiledTables;
use aya::maps::MapData;
use aya_obj::{Map, generated::bpf_map_type};
use enforcer_common::{
    limits::{CHUNK_WORDS, SLOTS_MAX},
    rule::{LANES, Rule, SlotHeader},
};
use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd as _,
    thread::{self, ScopedJoinHandle},
};
use zerocopy::{Immutable, IntoBytes};

/// `BPF_F_INNER_MAP`
pub(super) const INNER_MAP: u32 = 1 << 12;
/// `BPF_F_MMAPABLE`
pub(super) const MMAPABLE: u32 = 1 << 10;

/// The number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct SlotId(pub u32);

/// Which slots are free.
#[derive(Debug)]
pub(super) struct Free(BTreeSet<SlotId>);

impl Free {
    /// All but those in use.
    pub(super) fn all_but(used: impl IntoIterator<Item = SlotId>) -> Self {
        let mut free: BTreeSet<_> = (0..SLOTS_MAX).map(SlotId).collect();
        for slot in used {
            free.remove(&slot);
        }
        Self(free)
    }

    pub(super) fn take(&mut self) -> Option<SlotId> {
        self.0.pop_first()
    }

    pub(super) fn give_back(&mut self, slot: SlotId) {
        self.0.insert(slot);
    }
}

/// Loads a policy into a slot that is free.
pub(super) fn fill(maps: &Maps, slot: SlotId, policy: u32, tables: &CompiledTables) -> Result<(), Error> {
    let SlotId(index) = slot;
    // Each of these ends with a wait for a grace period, so they wait together.
    thread::scope(|scope| {
        let parts = [
            scope.spawn(|| rules(&maps.rules, index, &tables.rules)),
            scope.spawn(|| words(&maps.words, index, &tables.words)),
        ];
        parts.into_iter().try_for_each(joined)
    })?;
    let header = SlotHeader { policy, ..tables.header };
    locked(&maps.slots).set(index, header, 0).map_err(failed("write to", "SLOTS"))
}

fn joined(part: ScopedJoinHandle<'_, Result<(), Error>>) -> Result<(), Error> {
    part.join().unwrap_or_else(|_| Err(Error::io("fill", "a slot", io::Error::other("a thread panicked"))))
}

/// Empties a slot that no agent is on and no program uses any more.
pub(super) fn empty(maps: &Maps, slot: SlotId) -> Result<(), Error> {
    let SlotId(index) = slot;
    let nothing = SlotHeader {
        policy: 0,
        rules: 0,
        default_network: 0,
        default_file: 0,
        default_exec: 0,
        cells: 0,
        root_v4: 0,
        root_v6: 0,
        lanes: [enforcer_common::path::Automaton::NONE; LANES],
    };
    locked(&maps.slots).set(index, nothing, 0).map_err(failed("write to", "SLOTS"))?;
    thread::scope(|scope| {
        let outers = [&maps.rules, &maps.words];
        outers.map(|outer| scope.spawn(move || outer.clear(index))).into_iter().try_for_each(joined)
    })
}

/// Makes an inner map with room for `entries`, fills in its first values and puts it in its place.
///
/// It has no types. Up to 6.1 the kernel takes an inner map only where it was searched for a timer like the one that
/// the object declares, which `enforcer-ebpf/src/maps.rs` sees to.
pub(super) fn part<V: IntoBytes + Immutable>(
    outer: &Outer,
    index: u32,
    (flags, entries): (u32, usize),
    values: &[V],
) -> Result<(), Error> {
    // A map cannot have room for nothing.
    let entries = entries.max(1) as u32;
    let (key_bytes, value_bytes) = (size_of::<u32>() as u32, size_of::<V>() as u32);
    let shape =
        Map::new_from_params(bpf_map_type::BPF_MAP_TYPE_ARRAY as u32, key_bytes, value_bytes, entries, flags);
    let inner = MapData::create(shape, outer.name(), None).map_err(failed("make a part of", outer.name()))?;
    let keys: Vec<u32> = (0..values.len() as u32).collect();
    sys::update_all(inner.fd().as_fd(), &keys, values)
        .map_err(|error| Error::io("fill", outer.name(), error))?;
    outer.set(index, &inner)
}

fn rules(outer: &Outer, slot: u32, rules: &[Rule]) -> Result<(), Error> {
    part(outer, slot, (INNER_MAP, rules.len()), rules)
}

fn words(outer: &Outer, slot: u32, words: &[u32]) -> Result<(), Error> {
    // The compiler pads them to whole chunks.
    let (chunks, _) = words.as_chunks::<CHUNK_WORDS>();
    part(outer, slot, (INNER_MAP | MMAPABLE, chunks.len()), chunks)
}

#[cfg(test)]
mod tests {
    use super::{Free, SlotId};

    #[test]
    fn a_slot_in_use_is_not_given_out() {
        let mut free = Free::all_but([SlotId(0), SlotId(2)]);
        assert_eq!(free.take(), Some(SlotId(1)));
        assert_eq!(free.take(), Some(SlotId(3)));
        free.give_back(SlotId(0));
        assert_eq!(free.take(), Some(SlotId(0)));
    }
}
