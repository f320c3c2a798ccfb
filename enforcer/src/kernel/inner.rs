//! Inner maps of slots: maps of any size that fit where the object declares one.
//!
//! The kernel puts an inner map in place only if it resembles the one that the outer map was made with. Up to 6.1
//! that resemblance takes in whether the map has types (`bpf_map_meta_equal` compares `timer_off`, which is one error
//! number without types and another with types that have no timer), and Aya gives types to all maps of the object.
//! So these have types too: the plainest that the kernel takes for the kind of map.

use super::sys;
use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_map_type;
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
/// `BPF_F_INNER_MAP`: an array may have another number of entries.
const INNER_MAP: u32 = 1 << 12;

/// The kinds of inner maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Array,
    Hash,
    Trie,
}

impl Kind {
    fn number(self) -> u32 {
        (match self {
            Self::Array => bpf_map_type::BPF_MAP_TYPE_ARRAY,
            Self::Hash => bpf_map_type::BPF_MAP_TYPE_HASH,
            Self::Trie => bpf_map_type::BPF_MAP_TYPE_LPM_TRIE,
        }) as u32
    }

    fn flags(self) -> u32 {
        match self {
            Self::Array => INNER_MAP,
            Self::Hash | Self::Trie => NO_PREALLOC,
        }
    }
}

/// Makes an inner map with room for some entries.
pub(super) fn create(
    kind: Kind,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
) -> Result<MapData, MapError> {
    MapData::from_fd(create_raw(kind, key_bytes, value_bytes, entries)?)
}

fn create_raw(kind: Kind, key_bytes: u32, value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    let types = sys::load_types(&types(key_bytes, value_bytes))?;
    let key = match kind {
        // Its index is a number of 32 bits, and nothing else.
        Kind::Array => U32,
        Kind::Hash | Kind::Trie => KEY,
    };
    let shape = sys::Shape { kind: kind.number(), key_bytes, value_bytes, entries, flags: kind.flags() };
    sys::create_map(shape, Some((types.as_fd(), key, VALUE)))
}

const U32: u32 = 1;
const VALUE: u32 = 4;
const KEY: u32 = 6;

/// Types for a map: a number for the index of an array, an array of bytes for a value, and a struct of bytes for any
/// other key, since the key of a trie must be a struct. The format is that of [`super::btf`].
fn types(key_bytes: u32, value_bytes: u32) -> Vec<u8> {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const STRUCT_OF_ONE: u32 = 4 << 24 | 1;
    const HEADER_BYTES: u32 = 24;
    const BYTE: u32 = 2;
    const KEY_ARRAY: u32 = 5;
    let types: [&[u32]; 6] = [
        // Name, kind, size or type, and what the kind has beyond that.
        &[1, INT, 4, 32],
        &[5, INT, 1, 8],
        &[5, INT, 1, 8],
        &[0, ARRAY, 0, BYTE, U32, value_bytes],
        &[0, ARRAY, 0, BYTE, U32, key_bytes],
        &[8, STRUCT_OF_ONE, key_bytes, 8, KEY_ARRAY, 0],
    ];
    let strings = b"\0u32\0u8\0key\0";
    let words = types.concat();
    let bytes = size_of_val(words.as_slice()) as u32;
    let header = [0x0001_eb9f, HEADER_BYTES, 0, bytes, bytes, strings.len() as u32];
    let words = header.iter().chain(&words).flat_map(|word| word.to_ne_bytes());
    words.chain(strings.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::types;
    use crate::kernel::btf::Btf;

    #[test]
    fn the_types_can_be_read() {
        let btf = Btf::parse(types(20, 8)).unwrap();
        assert_eq!(btf.offset("key", "key"), Ok(0));
    }
}
