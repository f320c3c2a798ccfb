//! Signals to threads that wait: a handler is to run also where its thread is held, and what stops or ends a process stops
//! or ends one whose threads are held.

use crate::{
    hold,
    maps::FROZEN,
    offsets::{TASK_BLOCKED, TASK_PID, TASK_START, TASK_TGID, load, probe},
};
use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use enforcer_common::hold::{IGNORED_BY_DEFAULT, Notice, ThreadKey, notice};

/// The greatest number of a signal.
const SIGNAL_MAX: u32 = 64;
/// It ends whoever it is for wherever they are.
const SIGKILL: u32 = 9;
const SIG_DFL: u64 = 0;
/// `TRACE_SIGNAL_DELIVERED` and `TRACE_SIGNAL_LOSE_INFO`: the signal is on its way. All others were ignored, or wait
/// already.
const ON_ITS_WAY: [i32; 2] = [0, 4];

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`
///
/// Tells the daemon of a signal that a frozen thread may have to take. One that is frozen takes none: the freezer comes
/// before the queue of signals in `get_signal`, but for what ends a process without a core, for which the sender sees to
/// all of its threads in `complete_signal`.
#[btf_tracepoint(function = "signal_generate")]
pub(crate) fn tp_signal(ctx: BtfTracePointContext) -> i32 {
    let signal = ctx.arg::<i32>(0) as u32;
    let task: *const u8 = ctx.arg(2);
    let group: i32 = ctx.arg(3);
    let result: i32 = ctx.arg(4);
    if signal == 0 || signal > SIGNAL_MAX || signal == SIGKILL || !ON_ITS_WAY.contains(&result) {
        return 0;
    }
    // SAFETY: the tracepoint's argument is a live, typed task; helpers without pointers.
    unsafe {
        let tgid: u32 = load(task, &TASK_TGID);
        if FROZEN.get_ptr(tgid).is_none() || !does_something(task, signal) {
            return 0;
        }
        let thread = if group == 0 {
            let tid: u32 = load(task, &TASK_PID);
            // Whoever sends itself one is not frozen: those of a turn, above all.
            let is_own = bpf_get_current_pid_tgid() as u32 == tid;
            if is_own || probe::<u64>(task, &TASK_BLOCKED) >> (signal - 1) & 1 == 1 {
                return 0;
            }
            ThreadKey { start_ns: load(task, &TASK_START), tid, tgid }
        } else {
            ThreadKey { start_ns: 0, tid: 0, tgid }
        };
        hold::tell(Notice { time_ns: bpf_ktime_get_boot_ns(), thread, what: notice::SIGNAL, signal });
    }
    0
}

/// Whether a signal that a task takes has it do something: run a handler, stop, or end.
#[inline(always)]
fn does_something(task: *const u8, signal: u32) -> bool {
    match hold::handler(task, signal) {
        hold::SIG_IGN => false,
        SIG_DFL => IGNORED_BY_DEFAULT >> (signal - 1) & 1 == 0,
        _ => true,
    }
}

/// `signal_deliver(int sig, struct kernel_siginfo *info, struct k_sigaction *ka)`
///
/// A handler without `SA_RESTART` ends the call that waits with `EINTR`, as it does any other call that blocks.
#[btf_tracepoint(function = "signal_deliver")]
pub(crate) fn tp_handler(ctx: BtfTracePointContext) -> i32 {
    hold::handled(ctx.arg(2));
    0
}
