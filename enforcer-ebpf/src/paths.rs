//! A path in working memory → the rules that match it: the loop of the kernel around the steps of
//! [`enforcer_common::path`], and the hash that names the path in a request.
//!
//! VERIFIER: a plain loop over the bytes is walked byte by byte, with every way out of it, and 4,096 of them for
//! seven lanes are far too many. So `bpf_loop` takes *blocks* of some bytes: its callback is verified once, and
//! within it a plain loop runs at full speed. 6.1 checks a callback from its first entry only and takes what it
//! leaves on the stack for constant; so all that changes lies in working memory.

use crate::{
    maps::{SCRATCH, SLOTS},
    offsets::{HASH_KEY0, HASH_KEY1, forget, opaque},
    scratch::{Claim, Scratch},
    words::{self, SlotWords},
};
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use enforcer_common::{
    limits::{PATH_BLOCK, PATH_MAX},
    path::{self, Automaton, DEAD, Direction, Matched, Run},
    rule::{LANES, SlotHeader},
    siphash::SipHash,
};

/// The lane has not begun.
const FRESH: u32 = u32::MAX;

/// `outcome` of a match: all is well, or the table cannot be read.
const GOOD: u64 = 1;
const BAD: u64 = 0;

/// What the callbacks are told; they change nothing here.
struct Task {
    level: u32,
    slot: u32,
}

/// Matches the claimed path against the policy in a slot; the result is in the area. `None` when the policy
/// cannot be read.
#[inline(always)]
pub(crate) fn match_path(claim: &Claim, slot: u32) -> Option<()> {
    let area = claim.area;
    // SAFETY: the area is claimed; the callback gets a pointer to the stack that lives through the call.
    unsafe {
        (*area).matched = Matched::NOTHING;
        (*area).lane = 0;
        (*area).state = FRESH;
        (*area).outcome = GOOD;
        let mut task = Task { level: claim.level, slot };
        bpf_loop(BLOCKS, block as *mut c_void, (&raw mut task).cast(), 0);
        if (&raw const (*area).outcome).read_volatile() == GOOD { Some(()) } else { None }
    }
}

/// Blocks of a path as long as can be, for all lanes, should each byte end one.
const BLOCKS: u32 = (LANES * (PATH_MAX + 1)) as u32;

/// One block of one lane; 1 when all lanes are through.
unsafe extern "C" fn block(_turn: u64, task: *mut Task) -> i64 {
    // SAFETY: `bpf_loop` hands over what it was given; its caller claimed the area.
    unsafe {
        let Some(area) = SCRATCH.get_ptr_mut((*task).level) else { return 1 };
        match take_block(area, (*task).slot) {
            Some(true) => 0,
            Some(false) => 1,
            None => {
                (*area).outcome = BAD;
                1
            }
        }
    }
}

/// Takes the next block; whether there may be more.
///
/// # Safety
///
/// The area is claimed.
#[inline(always)]
unsafe fn take_block(area: *mut Scratch, slot: u32) -> Option<bool> {
    // SAFETY: the caller's contract; `header` is a value of the map of slots.
    unsafe {
        let header = SLOTS.get_ptr(slot)?;
        if (&raw const (*area).state).read_volatile() == FRESH {
            begin(area, header);
        }
        let lane = u64::from((&raw const (*area).lane).read_volatile());
        if lane >= LANES as u64 {
            return Some(false);
        }
        // VERIFIER: 6.1 forgets the comparison when it keeps the number on the stack.
        let lane = (opaque(lane) & (LANES as u64 - 1)) as usize;
        if !step_through(area, header, &words::of(slot)?, lane)? {
            (&raw mut (*area).lane).write_volatile(lane as u32 + 1);
            (&raw mut (*area).state).write_volatile(FRESH);
        }
    }
    Some(true)
}

/// Goes to the beginning of the next lane that is used, from the one in the area on.
///
/// # Safety
///
/// The area is claimed, and `header` is a value of the map of slots.
#[inline(always)]
unsafe fn begin(area: *mut Scratch, header: *const SlotHeader) {
    // SAFETY: the caller's contract.
    unsafe {
        let from = (&raw const (*area).lane).read_volatile();
        (&raw mut (*area).lane).write_volatile(LANES as u32);
        for at in 0..LANES {
            let start = (&raw const (*automaton(header, at)).start).read_volatile();
            if at as u32 >= from && start != DEAD {
                let first = (&raw const (*area).start).read_volatile();
                (&raw mut (*area).lane).write_volatile(at as u32);
                (&raw mut (*area).state).write_volatile(start);
                (&raw mut (*area).at).write_volatile(match path::direction(at) {
                    Direction::Forward => first,
                    // The slash at the front ends no name.
                    Direction::Names => first + 1,
                    Direction::Backward => PATH_MAX as u32 - 1,
                });
                break;
            }
        }
    }
}

/// The automaton of a lane.
///
/// # Safety
///
/// `header` is a value of the map of slots and `lane` a lane.
#[inline(always)]
unsafe fn automaton(header: *const SlotHeader, lane: usize) -> *const Automaton {
    // SAFETY: the caller's contract.
    unsafe { (&raw const (*header).lanes).cast::<Automaton>().add(lane) }
}

/// Takes bytes of a lane up to the end of the block; whether there are more.
///
/// VERIFIER: one loop for all directions, since each loop is walked turn by turn.
///
/// # Safety
///
/// The area is claimed, `header` is a value of the map of slots, and `lane` is a lane.
#[inline(always)]
unsafe fn step_through(
    area: *mut Scratch,
    header: *const SlotHeader,
    words: &SlotWords,
    lane: usize,
) -> Option<bool> {
    // SAFETY: the caller's contract.
    unsafe {
        let first = (&raw const (*area).start).read_volatile();
        let length = (PATH_MAX as u32).wrapping_sub(first);
        let unknown = u64::from(first);
        let names = u64::from(matches!(path::direction(lane), Direction::Names));
        let names = forget(names, unknown) as u32;
        let back = u64::from(matches!(path::direction(lane), Direction::Backward));
        let stride = forget(1_u64.wrapping_sub(2 * back), unknown) as u32;
        let mut at = (&raw const (*area).at).read_volatile();
        let mut run = Run::resume(words, (&raw const (*area).state).read_volatile())?;
        for _ in 0..PATH_BLOCK {
            // Past either end.
            if at.wrapping_sub(first) >= length {
                break;
            }
            let byte = byte(area, at);
            if u32::from(byte) * names == u32::from(b'/') {
                break;
            }
            at = at.wrapping_add(stride);
            if !run.step_within(words, column(header, lane, byte)) {
                break;
            }
        }
        // VERIFIER: left in the area and read back, the many ways out of the loop are one: what comes from a map has
        // no bounds.
        (&raw mut (*area).at).write_volatile(at);
        (&raw mut (*area).state).write_volatile(run.state());
        let at = (&raw const (*area).at).read_volatile();
        let mut run = Run::resume(words, (&raw const (*area).state).read_volatile())?;
        let ended = at.wrapping_sub(first) >= length;
        // A name counts when a slash follows it, and the whole path when it has been read.
        let counts = if names == 1 { !ended && byte(area, at) == b'/' } else { ended };
        if counts {
            let number = run.end(words, (&raw const (*automaton(header, lane)).end).read_volatile())?;
            merge(area, header, words, number)?;
            if names == 1 {
                let start = (&raw const (*automaton(header, lane)).start).read_volatile();
                (&raw mut (*area).state).write_volatile(start);
                (&raw mut (*area).at).write_volatile(at.wrapping_add(1));
            }
        }
        // A state that is never left, and matches nothing, need not be followed.
        Some(!ended && (names == 1 || run.state() != DEAD))
    }
}

/// Merges a cell into what the path matches.
///
/// # Safety
///
/// The area is claimed and `header` is a value of the map of slots.
#[inline(always)]
unsafe fn merge(area: *mut Scratch, header: *const SlotHeader, words: &SlotWords, number: u32) -> Option<()> {
    if number != 0 {
        // SAFETY: the caller's contract.
        unsafe {
            let cell = path::cell(words, (&raw const (*header).cells).read_volatile(), number)?;
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
    // SAFETY: the caller's contract, and the mask keeps the index within the path.
    unsafe {
        let path: *const u8 = (&raw const (*area).path).cast();
        path.add((opaque(u64::from(at)) & (PATH_MAX as u64 - 1)) as usize).read_volatile()
    }
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
        let classes: *const u8 = (&raw const (*automaton(header, lane)).classes).cast();
        u32::from(classes.add((opaque(u64::from(byte)) & 0xff) as usize).read_volatile())
    }
}

/// Hashes the claimed path, after what `first` and `second` say of the action.
#[inline(always)]
pub(crate) fn hash_path(claim: &Claim, first: u8, second: u8) -> [u64; 2] {
    let area = claim.area;
    // SAFETY: the area is claimed; the callback gets a pointer to the stack that lives through the call.
    unsafe {
        (*area).hash = SipHash::new([HASH_KEY0.load(), HASH_KEY1.load()]);
        (*area).hash.byte(first);
        (*area).hash.byte(second);
        (*area).at = (&raw const (*area).start).read_volatile();
        let mut task = Task { level: claim.level, slot: 0 };
        bpf_loop(PATH_MAX as u32, hash_byte as *mut c_void, (&raw mut task).cast(), 0);
        (&raw const (*area).hash).read_volatile().finish()
    }
}

/// One byte of [`hash_path`].
unsafe extern "C" fn hash_byte(_turn: u64, task: *mut Task) -> i64 {
    // SAFETY: as for `block`.
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
