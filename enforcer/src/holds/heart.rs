//! The heartbeat, by which the kernel knows that threads that wait are looked after.
//!
//! A thread of its own, since to freeze one thread may take longer than the kernel takes for silence: the kernel moves
//! threads between cgroups only once every processor has come to rest. It beats for as long as the keeper gets on.

use super::Shared;
use crate::{
    control::api::chain,
    kernel::{self, clock::now_ns},
};
use std::{sync::atomic::Ordering, thread::sleep, time::Duration};

/// How often it beats: a quarter of what the kernel takes for silence.
const BEAT_NS: u64 = enforcer_common::limits::BEAT_BOUND_NS / 4;
/// How long a step of the keeper may take. One that takes longer hangs, and then nobody is to turn.
const STEP_NS: u64 = 2_000_000_000;

/// Beats until it is stopped.
pub(super) fn run(shared: &Shared) {
    // The keeper tells where it may not.
    let _ = kernel::run_first(kernel::First::Heart);
    let mut is_told = false;
    while !shared.stopped.load(Ordering::Relaxed) {
        let now = now_ns();
        if now.saturating_sub(shared.progress_ns.load(Ordering::Relaxed)) < STEP_NS {
            match shared.kernel.holds().beat(now) {
                Ok(()) => is_told = false,
                Err(_) if is_told => {}
                Err(error) => {
                    is_told = true;
                    tracing::error!(error = chain(&error), "the kernel cannot be told that the daemon lives");
                }
            }
        }
        sleep(Duration::from_nanos(BEAT_NS));
    }
}
