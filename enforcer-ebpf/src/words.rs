//! The words of a slot's policy.

use crate::{
    maps::{Chunk, WORDS},
    offsets::opaque,
};
use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_map_lookup_elem};
use core::{ffi::c_void, ptr};
use enforcer_common::{
    limits::CHUNK_WORDS,
    words::{ROW_WORDS, Words},
};

/// The words of a slot's policy.
pub(crate) struct SlotWords {
    /// The inner map of chunks.
    chunks: *mut c_void,
}

/// Looks the words of a slot up.
#[inline(always)]
pub(crate) fn of(slot: u32) -> Option<SlotWords> {
    let inner: &Array<Chunk, 1, { crate::maps::WORDS_FLAGS }> = WORDS.get(slot)?;
    Some(SlotWords { chunks: ptr::from_ref(inner).cast_mut().cast() })
}

impl Words for SlotWords {
    type Chunk = *const Chunk;
    type Row = *const [u32; ROW_WORDS];

    #[inline(always)]
    fn chunk(&self, number: u32) -> Option<*const Chunk> {
        // SAFETY: `chunks` is a map, and the key lives through the call.
        let chunk: *const Chunk =
            unsafe { bpf_map_lookup_elem(self.chunks, (&raw const number).cast()) }.cast_const().cast();
        if chunk.is_null() { None } else { Some(chunk) }
    }

    #[inline(always)]
    fn word(&self, chunk: *const Chunk, index: u32) -> u32 {
        // VERIFIER: the mask must stay beside the access; see `opaque`.
        let index = opaque(u64::from(index)) & (CHUNK_WORDS as u64 - 1);
        // SAFETY: `chunk` was looked up and the mask keeps the index within it.
        unsafe { chunk.cast::<u32>().add(index as usize).read_volatile() }
    }

    #[inline(always)]
    fn row(&self, chunk: *const Chunk, index: u32) -> *const [u32; ROW_WORDS] {
        // VERIFIER: as above; the mask leaves room for a row.
        let index = opaque(u64::from(index)) & (CHUNK_WORDS as u64 - ROW_WORDS as u64);
        // SAFETY: as above.
        unsafe { chunk.cast::<u32>().add(index as usize).cast() }
    }

    #[inline(always)]
    fn at(&self, row: *const [u32; ROW_WORDS], place: usize) -> u64 {
        // SAFETY: the row lies within a chunk, and the place within the row.
        opaque(u64::from(unsafe { row.cast::<u32>().add(place).read_volatile() }))
    }
}
