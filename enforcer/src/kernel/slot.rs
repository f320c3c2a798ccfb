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
    class::{AddressClass, PairKey, PortKey},
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

/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
/// `BPF_F_INNER_MAP`
const INNER_MAP: u32 = 1 << 12;

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

/// A prefix as the kernel keys its tries.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct AddressPrefix {
    bits: u32,
    address: [u8; 16],
}

/// See [`AddressPrefix`].
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct PortPrefix {
    bits: u32,
    port: PortKey,
}

/// Loads a policy into a slot that is free.
pub(super) fn fill(maps: &Maps, slot: SlotId, policy: u32, tables: &CompiledTables) -> Result<(), Error> {
    let SlotId(index) = slot;
    // Each of these ends with a wait for a grace period, so they wait together.
    thread::scope(|scope| {
        let parts = [
            scope.spawn(|| rules(&maps.rules, index, &tables.rules)),
            scope.spawn(|| paths(&maps.paths, index, &tables.words)),
            scope.spawn(|| addresses(&maps.addresses, index, &tables.addresses)),
            scope.spawn(|| ports(&maps.ports, index, &tables.ports)),
            scope.spawn(|| pairs(&maps.pairs, index, &tables.pairs)),
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
        lanes: [enforcer_common::path::Automaton::NONE; LANES],
    };
    locked(&maps.slots).set(index, nothing, 0).map_err(failed("write to", "SLOTS"))?;
    thread::scope(|scope| {
        let outers = [&maps.rules, &maps.paths, &maps.addresses, &maps.ports, &maps.pairs];
        outers.map(|outer| scope.spawn(move || outer.clear(index))).into_iter().try_for_each(joined)
    })
}

/// Makes an inner map, fills it and puts it in its place.
///
/// It has no types. Up to 6.1 the kernel takes an inner map only where it was searched for a timer like the one that
/// the object declares, which `enforcer-ebpf/src/maps.rs` sees to.
fn part<K, V>(
    outer: &Outer,
    slot: u32,
    kind: bpf_map_type,
    flags: u32,
    keys: &[K],
    values: &[V],
) -> Result<(), Error>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    // A map cannot have room for nothing.
    let entries = keys.len().max(1) as u32;
    let shape =
        Map::new_from_params(kind as u32, size_of::<K>() as u32, size_of::<V>() as u32, entries, flags);
    let inner = MapData::create(shape, outer.name(), None).map_err(failed("make a part of", outer.name()))?;
    sys::update_all(inner.fd().as_fd(), keys, values)
        .map_err(|error| Error::io("fill", outer.name(), error))?;
    outer.set(slot, &inner)
}

fn rules(outer: &Outer, slot: u32, rules: &[Rule]) -> Result<(), Error> {
    let keys: Vec<u32> = (0..rules.len() as u32).collect();
    part(outer, slot, bpf_map_type::BPF_MAP_TYPE_ARRAY, INNER_MAP, &keys, rules)
}

fn paths(outer: &Outer, slot: u32, words: &[u32]) -> Result<(), Error> {
    // The compiler pads the table to whole chunks.
    let (chunks, _) = words.as_chunks::<CHUNK_WORDS>();
    let keys: Vec<u32> = (0..chunks.len() as u32).collect();
    part(outer, slot, bpf_map_type::BPF_MAP_TYPE_ARRAY, INNER_MAP, &keys, chunks)
}

fn addresses(outer: &Outer, slot: u32, prefixes: &[(u32, [u8; 16], AddressClass)]) -> Result<(), Error> {
    let keys: Vec<_> =
        prefixes.iter().map(|(bits, address, _)| AddressPrefix { bits: *bits, address: *address }).collect();
    let classes: Vec<_> = prefixes.iter().map(|(_, _, class)| *class).collect();
    part(outer, slot, bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, NO_PREALLOC, &keys, &classes)
}

fn ports(outer: &Outer, slot: u32, prefixes: &[(u32, PortKey, u32)]) -> Result<(), Error> {
    let keys: Vec<_> =
        prefixes.iter().map(|(bits, port, _)| PortPrefix { bits: *bits, port: *port }).collect();
    let classes: Vec<_> = prefixes.iter().map(|(_, _, class)| *class).collect();
    part(outer, slot, bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, NO_PREALLOC, &keys, &classes)
}

fn pairs(outer: &Outer, slot: u32, pairs: &[(PairKey, u32)]) -> Result<(), Error> {
    let (keys, rules): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    part(outer, slot, bpf_map_type::BPF_MAP_TYPE_HASH, NO_PREALLOC, &keys, &rules)
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
