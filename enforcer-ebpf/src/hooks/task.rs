//! The mark of being governed: set when a task enters an agent's cgroup, copied to all it makes.

use crate::{
    agent, emit,
    offsets::{CSS_SET_CGROUP, TASK_CGROUPS, probe},
};
use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_current_task_btf, bpf_send_signal},
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext},
};

const ENOMEM: i32 = 12;
const SIGKILL: u32 = 9;

/// `task_alloc(struct task_struct *task, unsigned long clone_flags)`
///
/// Runs for processes, threads and io workers alike, before they can run. A task whose mark cannot be stored is
/// not made.
#[lsm(hook = "task_alloc")]
pub(crate) fn lsm_task_alloc(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    // SAFETY: the hook's argument is the new task; the mark is a value of the map.
    unsafe {
        let task: *mut task_struct = ctx.arg(0);
        if agent::make(task, current.agent).is_null() {
            emit::lost(|losses| &raw mut losses.forks);
            return -ENOMEM;
        }
    }
    0
}

/// `cgroup_attach_task(struct cgroup *dst, const char *path, struct task_struct *task, bool threadgroup)`
#[btf_tracepoint(function = "cgroup_attach_task")]
pub(crate) fn tp_attach(ctx: BtfTracePointContext) -> i32 {
    let cgroup: *const u8 = ctx.arg(0);
    if let Some(agent) = agent::of_cgroup(cgroup) {
        // SAFETY: the tracepoint's argument is a live task.
        unsafe { set(ctx.arg(2), agent) };
    }
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`
///
/// For a task that is born inside an agent's cgroup (`CLONE_INTO_CGROUP`) while its parent is not governed.
#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn tp_fork(ctx: BtfTracePointContext) -> i32 {
    let child: *mut task_struct = ctx.arg(1);
    let set_of: *const u8 = probe(child.cast(), &TASK_CGROUPS);
    let cgroup: *const u8 = probe(set_of, &CSS_SET_CGROUP);
    if let Some(agent) = agent::of_cgroup(cgroup) {
        // SAFETY: the tracepoint's argument is a live task.
        unsafe { set(child, agent) };
    }
    0
}

/// Marks a task, unless it bears a mark. One that cannot be marked is ended where it can be, and counted.
#[inline(always)]
unsafe fn set(task: *mut task_struct, agent: u64) {
    // SAFETY: the caller passes a live, typed task.
    unsafe {
        if !agent::make(task, agent).is_null() {
            return;
        }
        emit::lost(|losses| &raw mut losses.marks);
        if bpf_get_current_task_btf() == task {
            bpf_send_signal(SIGKILL);
        }
    }
}
