//! A path in working memory → the rules that match it: loops of the kernel around the steps of
//! [`enforcer_common::path`], and the hash that names the path in a request.

use crate::{
    maps::{Chunk, PATHS, SCRATCH, SLOTS},
    offsets::{HASH_KEY0, HASH_KEY1, opaque},
    scratch::{Claim, Scratch},
};
use aya_ebpf::{
    btf_maps::Array,
    helpers::generated::{bpf_loop, bpf_map_lookup_elem},
};
use core::{ffi::c_void, ptr};
use enforcer_common::{
    limits::{CHUNK_WORDS, PATH_MAX, PATH_SHORT},
    path::{self, DEAD, Direction, Matched, Run, Words},
    rule::{LANES, SlotHeader},
    siphash::SipHash,
};

/// The path table of a slot.
struct Table {
    /// The inner map of chunks.
    chunks: *mut c_void,
}

impl Words for Table {
    type Chunk = *const Chunk;

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
}

/// Looks the table of a slot up.
#[inline(always)]
fn table(slot: u32) -> Option<Table> {
    let inner: &Array<Chunk, 1, { 1 << 12 }> = PATHS.get(slot)?;
    Some(Table { chunks: ptr::from_ref(inner).cast_mut().cast() })
}

/// Matches the claimed path against the policy in a slot; the result is in the area. `None` when the policy
/// cannot be read.
#[inline(always)]
pub(crate) fn match_path(claim: &Claim, slot: u32) -> Option<()> {
    let area = claim.area;
    let header = SLOTS.get_ptr(slot)?;
    // SAFETY: the area is claimed and the header is a value of the map.
    unsafe {
        (*area).matched = Matched::NOTHING;
        let length = PATH_MAX as u32 - (&raw const (*area).start).read_volatile();
        for lane in 0..LANES {
            let start = (&raw const (*header).lanes[lane].start).read_volatile();
            if start == DEAD {
                continue;
            }
            let passed = if length <= PATH_SHORT as u32 {
                short(area, header, slot, lane as u32)
            } else {
                long(claim, slot, lane as u32)
            };
            if passed == 0 {
                return None;
            }
        }
    }
    Some(())
}

/// Merges a cell into what the path matches.
///
/// # Safety
///
/// The area is claimed and `header` is a value of the map of slots.
#[inline(always)]
unsafe fn merge(area: *mut Scratch, header: *const SlotHeader, table: &Table, number: u32) -> Option<()> {
    if number != 0 {
        // SAFETY: the caller's contract.
        unsafe {
            let cell = path::cell(table, (&raw const (*header).cells).read_volatile(), number)?;
            (*area).matched.merge(&cell);
        }
    }
    Some(())
}

/// The byte of the path at `at`.
///
/// # Safety
///
/// The area is claimed.
#[inline(always)]
unsafe fn byte(area: *mut Scratch, at: u32) -> u8 {
    let path: *const u8 = unsafe { (&raw const (*area).path).cast() };
    // SAFETY: the caller's contract, and the mask keeps the index within the path.
    unsafe { path.add((opaque(u64::from(at)) & (PATH_MAX as u64 - 1)) as usize).read_volatile() }
}

/// The column of a byte in a lane.
///
/// # Safety
///
/// `header` is a value of the map of slots and `lane` a lane.
#[inline(always)]
unsafe fn column(header: *const SlotHeader, lane: usize, byte: u8) -> u32 {
    // SAFETY: the caller's contract; a byte is always within the 256 classes.
    unsafe {
        let classes: *const u8 = (&raw const (*header).lanes[lane].classes).cast();
        u32::from(classes.add((opaque(u64::from(byte)) & 0xff) as usize).read_volatile())
    }
}

/// One lane over a path of at most [`PATH_SHORT`] bytes. Gives 1, or 0 when the table cannot be read.
///
/// VERIFIER: not inlined, so that LLVM does not spread seven copies over one stack frame. What it finds is left
/// in the area, so that the states of the verifier before and after a lane are equal and prune each other.
#[inline(never)]
fn short(area: *mut Scratch, header: *const SlotHeader, slot: u32, lane: u32) -> u64 {
    if area.is_null() || header.is_null() {
        return 0;
    }
    // SAFETY: the caller passes a claimed area and a value of the map of slots.
    unsafe { run_short(area, header, slot, lane as usize) }.map_or(0, |()| 1)
}

#[inline(always)]
unsafe fn run_short(area: *mut Scratch, header: *const SlotHeader, slot: u32, lane: usize) -> Option<()> {
    // VERIFIER: bounds the lane for the arithmetic on `header`.
    if lane >= LANES {
        return None;
    }
    let table = table(slot)?;
    // SAFETY: the caller's contract.
    unsafe {
        let begin = (&raw const (*area).start).read_volatile();
        let start = (&raw const (*header).lanes[lane].start).read_volatile();
        let end = (&raw const (*header).lanes[lane].end).read_volatile();
        let mut run = Run::resume(&table, start)?;
        match path::direction(lane) {
            Direction::Forward => {
                let mut at = begin;
                for _ in 0..PATH_SHORT {
                    if at >= PATH_MAX as u32 {
                        break;
                    }
                    run.step(&table, column(header, lane, byte(area, at)))?;
                    if run.state() == DEAD {
                        return Some(());
                    }
                    at += 1;
                }
            }
            Direction::Backward => {
                let mut at = PATH_MAX as u32;
                for _ in 0..PATH_SHORT {
                    if at <= begin {
                        break;
                    }
                    at -= 1;
                    run.step(&table, column(header, lane, byte(area, at)))?;
                    if run.state() == DEAD {
                        return Some(());
                    }
                }
            }
            Direction::Names => {
                let mut at = begin.wrapping_add(1);
                for _ in 0..PATH_SHORT {
                    if at >= PATH_MAX as u32 {
                        break;
                    }
                    let byte = byte(area, at);
                    if byte == b'/' {
                        let number = run.end(&table, end)?;
                        merge(area, header, &table, number)?;
                        run.restart(start);
                    } else {
                        run.step(&table, column(header, lane, byte))?;
                    }
                    at += 1;
                }
                return Some(());
            }
        }
        let number = run.end(&table, end)?;
        merge(area, header, &table, number)
    }
}

/// What the callbacks are told; they change nothing here (see `walk`).
struct Task {
    level: u32,
    slot: u32,
    lane: u32,
}

/// One lane over a path of any length. Gives 1, or 0 when the table cannot be read.
#[inline(never)]
fn long(claim: &Claim, slot: u32, lane: u32) -> u64 {
    let Some(area) = SCRATCH.get_ptr_mut(claim.level) else { return 0 };
    let Some(header) = SLOTS.get_ptr(slot) else { return 0 };
    // SAFETY: the caller claimed the area; the callback gets a pointer to the stack that lives through the call.
    unsafe {
        let begin = (&raw const (*area).start).read_volatile();
        if lane as usize >= LANES {
            return 0;
        }
        (*area).state = (&raw const (*header).lanes[lane as usize].start).read_volatile();
        (*area).at = match path::direction(lane as usize) {
            Direction::Forward => begin,
            Direction::Backward => PATH_MAX as u32 - 1,
            Direction::Names => begin + 1,
        };
        (*area).outcome = 1;
        let mut task = Task { level: claim.level, slot, lane };
        bpf_loop(PATH_MAX as u32, step as *mut c_void, (&raw mut task).cast(), 0);
        if (&raw const (*area).outcome).read_volatile() == 0 {
            return 0;
        }
        if let Direction::Names = path::direction(lane as usize) {
            return 1;
        }
        end_long(area, header, slot, lane as usize).map_or(0, |()| 1)
    }
}

/// The cell at the end of [`long`].
#[inline(always)]
unsafe fn end_long(area: *mut Scratch, header: *const SlotHeader, slot: u32, lane: usize) -> Option<()> {
    let table = table(slot)?;
    // SAFETY: the caller's contract is that of `merge`.
    unsafe {
        let end = (&raw const (*header).lanes[lane].end).read_volatile();
        let number = Run::resume(&table, (&raw const (*area).state).read_volatile())?.end(&table, end)?;
        merge(area, header, &table, number)
    }
}

/// One byte of [`long`].
unsafe extern "C" fn step(_turn: u64, task: *mut Task) -> i64 {
    // SAFETY: `bpf_loop` hands over what it was given; its caller claimed the area.
    unsafe {
        let Some(area) = SCRATCH.get_ptr_mut((*task).level) else { return 1 };
        match step_in(area, (*task).slot, (*task).lane as usize) {
            Some(true) => 0,
            Some(false) => 1,
            None => {
                (*area).outcome = 0;
                1
            }
        }
    }
}

/// Takes the byte at `at` and moves on; whether there are more.
#[inline(always)]
unsafe fn step_in(area: *mut Scratch, slot: u32, lane: usize) -> Option<bool> {
    // SAFETY: the caller's contract is that of `merge`.
    unsafe {
        let at = (&raw const (*area).at).read_volatile();
        if at >= PATH_MAX as u32 || at < (&raw const (*area).start).read_volatile() {
            return Some(false);
        }
        if lane >= LANES {
            return None;
        }
        let header = SLOTS.get_ptr(slot)?;
        let table = table(slot)?;
        let byte = byte(area, at);
        let mut run = Run::resume(&table, (&raw const (*area).state).read_volatile())?;
        if matches!(path::direction(lane), Direction::Names) && byte == b'/' {
            let end = (&raw const (*header).lanes[lane].end).read_volatile();
            let number = run.end(&table, end)?;
            merge(area, header, &table, number)?;
            (*area).state = (&raw const (*header).lanes[lane].start).read_volatile();
        } else {
            run.step(&table, column(header, lane, byte))?;
            (*area).state = run.state();
        }
        (*area).at =
            if let Direction::Backward = path::direction(lane) { at.wrapping_sub(1) } else { at + 1 };
    }
    Some(true)
}

/// Hashes the claimed path, after what `first` says of the action.
#[inline(always)]
pub(crate) fn hash_path(claim: &Claim, first: u8, second: u8) -> [u64; 2] {
    let area = claim.area;
    // SAFETY: the area is claimed; the callback gets a pointer to the stack that lives through the call.
    unsafe {
        (*area).hash = SipHash::new([HASH_KEY0.load(), HASH_KEY1.load()]);
        (*area).hash.byte(first);
        (*area).hash.byte(second);
        (*area).at = (&raw const (*area).start).read_volatile();
        let mut task = Task { level: claim.level, slot: 0, lane: 0 };
        bpf_loop(PATH_MAX as u32, hash_byte as *mut c_void, (&raw mut task).cast(), 0);
        (&raw const (*area).hash).read_volatile().finish()
    }
}

/// One byte of [`hash_path`].
unsafe extern "C" fn hash_byte(_turn: u64, task: *mut Task) -> i64 {
    // SAFETY: as for `step`.
    unsafe {
        let Some(area) = SCRATCH.get_ptr_mut((*task).level) else { return 1 };
        let at = (&raw const (*area).at).read_volatile();
        if at >= PATH_MAX as u32 {
            return 1;
        }
        let byte = byte(area, at);
        (*area).hash.byte(byte);
        (*area).at = at + 1;
        0
    }
}
