//! Working memory for one decision, too large for the stack of 512 bytes.
//!
//! A program cannot be moved to another processor, but with full preemption another task may run the same
//! program on this one in the middle of it. So each processor has several areas, and a decision claims one that
//! is free. None free refuses the action.

use crate::{emit, maps::SCRATCH};
use core::intrinsics::{AtomicOrdering, atomic_xchg};
use enforcer_common::{
    event::Record,
    limits::{NAME_MAX, PATH_MAX, SCRATCH_LEVELS},
    path::Matched,
    siphash::SipHash,
};

/// One area.
#[repr(C)]
pub(crate) struct Scratch {
    /// 1 while it is claimed.
    busy: u64,
    /// Where the path begins in `path`; it ends at [`PATH_MAX`].
    pub(crate) start: u32,
    /// The walk or the match in the middle of a `bpf_loop`.
    pub(crate) at: u32,
    /// See `at`.
    pub(crate) state: u32,
    /// See `at`.
    pub(crate) lane: u32,
    zero: u32,
    /// See `at`.
    pub(crate) mount: u64,
    /// See `at`.
    pub(crate) dentry: u64,
    /// See `at`.
    pub(crate) root: u64,
    /// See `at`: 0 to go on, else done or failed.
    pub(crate) outcome: u64,
    /// What the path matched.
    pub(crate) matched: Matched,
    /// The hash of the object.
    pub(crate) hash: SipHash,
    /// The path, written from its end to its front. VERIFIER: the tail is room for a name that the kernel
    /// cannot prove not to begin at the last byte.
    pub(crate) path: [u8; PATH_MAX + NAME_MAX + 1],
    /// The event or the request.
    pub(crate) record: Record,
}

/// A claimed area; released when dropped.
pub(crate) struct Claim {
    /// The area.
    pub(crate) area: *mut Scratch,
    /// Its number on this processor.
    pub(crate) level: u32,
}

/// Claims a free area of this processor.
#[inline(always)]
pub(crate) fn claim() -> Option<Claim> {
    let level = free_level() as u32;
    let area = SCRATCH.get_ptr_mut(level)?;
    Some(Claim { area, level })
}

/// The number of an area that was free and is claimed now; [`SCRATCH_LEVELS`] for none.
///
/// VERIFIER: not inlined, so that the ways out of its loop meet in one number.
#[inline(never)]
fn free_level() -> u64 {
    for level in 0..SCRATCH_LEVELS {
        let Some(area) = SCRATCH.get_ptr_mut(level) else { break };
        // SAFETY: `area` points to a value of the map, which lives as long as the program.
        if unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(&raw mut (*area).busy, 1) } == 0 {
            return u64::from(level);
        }
    }
    emit::lost(|losses| &raw mut losses.scratch);
    u64::from(SCRATCH_LEVELS)
}

impl Claim {
    /// A value that the verifier knows nothing of.
    #[inline(always)]
    pub(crate) fn unknown(&self) -> u64 {
        // SAFETY: the area is claimed.
        unsafe { (&raw const (*self.area).busy).read_volatile() }
    }
}

impl Drop for Claim {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the area was claimed, so nobody else writes it.
        unsafe { (&raw mut (*self.area).busy).write_volatile(0) };
    }
}
