//! Task → agent: the mark of being governed.
//!
//! The mark lies in the storage of the task. It is set when the task enters an agent's cgroup and copied to
//! every task that a marked one makes; it is never taken off, so that leaving the cgroup changes nothing. No
//! mark means not governed: such a task leaves every hook after one look-up.

use crate::{
    maps::{CGROUPS, MARKS},
    offsets::{AGENT_LEVEL, CGROUP_KN, CGROUP_PARENT, KERNFS_ID, TASK_LEADER, TASK_STORAGE, load, probe},
};
use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf},
};
use core::ptr;
use enforcer_common::{
    agent::{Act, Mark},
    limits::CGROUP_DEPTH_MAX,
};

/// A mark for a task that has done nothing yet.
#[inline(always)]
fn mark_of(agent: u64) -> Mark {
    Mark { agent, act: NO_ACT }
}

const NO_ACT: Act = Act {
    event: 0,
    folder: 0,
    name: 0,
    interval_ns: 0,
    object: [0; 2],
    rule_content: 0,
    rule: 0,
    kind: 0,
    verdict: 0,
    reason: 0,
    tentative: 0,
};

/// The current task's mark, or null when it is not governed.
///
/// When a process is moved into an agent's cgroup the kernel names only the group's leader, so a thread without
/// a mark takes its leader's and keeps it.
#[inline(always)]
pub(crate) fn current() -> *mut Mark {
    // SAFETY: the current task is live and typed, and so is its leader, which outlives its threads.
    unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        let mark = stored(task);
        if !mark.is_null() {
            return mark;
        }
        let leader: *mut task_struct = load(task.cast(), &TASK_LEADER);
        if leader == task {
            return mark;
        }
        let theirs = stored(leader);
        if theirs.is_null() {
            return theirs;
        }
        let mine = make(task, (*theirs).agent);
        // No memory for a mark of its own: the leader's names the right agent all the same.
        if mine.is_null() { theirs } else { mine }
    }
}

/// The mark of a task, or null.
///
/// A task that nobody has stored anything for has no storage at all. The look-up begins with this very question,
/// but a call of it costs every task of the machine some hundred instructions at every hook.
///
/// # Safety
///
/// The verifier must know the type of `task`, and the task must be live.
#[inline(always)]
unsafe fn stored(task: *mut task_struct) -> *mut Mark {
    // SAFETY: the caller's contract.
    unsafe {
        if load::<u64>(task.cast(), &TASK_STORAGE) == 0 { ptr::null_mut() } else { MARKS.get(task) }
    }
}

/// The mark of a task, made where it has none; null when there is no memory for it. VERIFIER: not inlined, for a stack
/// of its own: a mark is large, and 6.1 adds up the stacks of the calls.
///
/// # Safety
///
/// The verifier must know the type of `task`.
#[inline(never)]
pub(crate) unsafe fn make(task: *mut task_struct, agent: u64) -> *mut Mark {
    // SAFETY: the caller's contract.
    unsafe { MARKS.get_or_create(task, &mut mark_of(agent)) }
}

/// The agent in whose cgroup the current task is; for programs that cannot read task storage.
#[inline(always)]
pub(crate) fn of_current_cgroup() -> Option<u64> {
    // SAFETY: a helper without pointers.
    let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(AGENT_LEVEL.load() as i32) };
    // SAFETY: the value is copied at once; ids are never replaced under a key.
    unsafe { CGROUPS.get(cgroup) }.copied()
}

/// The agent in whose cgroup, or below it, `cgroup` lies.
#[inline(always)]
pub(crate) fn of_cgroup(cgroup: *const u8) -> Option<u64> {
    match search(cgroup as u64) {
        0 => None,
        agent => Some(agent),
    }
}

/// [`of_cgroup`], 0 for none: ids begin with 1.
///
/// VERIFIER: not inlined, so that the many ways out of the loop meet in one number.
#[inline(never)]
fn search(cgroup: u64) -> u64 {
    let mut at = cgroup as *const u8;
    for _ in 0..CGROUP_DEPTH_MAX {
        if at.is_null() {
            break;
        }
        let id: u64 = probe(probe(at, &CGROUP_KN), &KERNFS_ID);
        // SAFETY: the value is copied at once; ids are never replaced under a key.
        if let Some(agent) = unsafe { CGROUPS.get(id) } {
            return *agent;
        }
        // A cgroup begins with its own state, so the parent's state is the parent.
        at = probe(at, &CGROUP_PARENT);
    }
    0
}
