//! Signals to threads that wait: a handler is to run also where its thread is held.

use crate::{
    hold,
    maps::FROZEN,
    offsets::{TASK_BLOCKED, TASK_PID, TASK_START, TASK_TGID, load, probe},
};
use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use enforcer_common::hold::{Notice, ThreadKey, notice};

/// The greatest number of a signal.
const SIGNAL_MAX: u32 = 64;
/// `TRACE_SIGNAL_DELIVERED` and `TRACE_SIGNAL_LOSE_INFO`: the signal is on its way. All others were ignored, or wait
/// already.
const ON_ITS_WAY: [i32; 2] = [0, 4];

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`
///
/// Tells the daemon of a signal with a handler that a frozen thread may have to take.
#[btf_tracepoint(function = "signal_generate")]
pub(crate) fn tp_signal(ctx: BtfTracePointContext) -> i32 {
    let signal = ctx.arg::<i32>(0) as u32;
    let task: *const u8 = ctx.arg(2);
    let group: i32 = ctx.arg(3);
    let result: i32 = ctx.arg(4);
    if signal == 0 || signal > SIGNAL_MAX || !ON_ITS_WAY.contains(&result) {
        return 0;
    }
    // SAFETY: the tracepoint's argument is a live, typed task; helpers without pointers.
    unsafe {
        let tgid: u32 = load(task, &TASK_TGID);
        if FROZEN.get_ptr(tgid).is_none() || hold::handler(task, signal) <= 1 {
            return 0;
        }
        let thread = if group == 0 {
            if probe::<u64>(task, &TASK_BLOCKED) >> (signal - 1) & 1 == 1 {
                return 0;
            }
            ThreadKey { start_ns: load(task, &TASK_START), tid: load(task, &TASK_PID), tgid }
        } else {
            ThreadKey { start_ns: 0, tid: 0, tgid }
        };
        hold::tell(Notice { time_ns: bpf_ktime_get_boot_ns(), thread, what: notice::SIGNAL, signal });
    }
    0
}

/// `signal_deliver(int sig, struct kernel_siginfo *info, struct k_sigaction *ka)`
///
/// A handler without `SA_RESTART` ends the call that waits with `EINTR`, as it does any other call that blocks.
#[btf_tracepoint(function = "signal_deliver")]
pub(crate) fn tp_handler(ctx: BtfTracePointContext) -> i32 {
    hold::handled(ctx.arg(2));
    0
}
