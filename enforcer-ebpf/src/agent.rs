//! Task → agent: the mark of being governed.
//!
//! The mark lies in the storage of the task. It is set when the task enters an agent's cgroup and copied to
//! every task that a marked one makes; it is never taken off, so that leaving the cgroup changes nothing. No
//! mark means not governed: such a task leaves every hook after one look-up.

use crate::{
    maps::{CGROUPS, MARKS},
    offsets::{
        AGENT_LEVEL, CGROUP_KN, CGROUP_PARENT, HASH_KEY0, HASH_KEY1, KERNFS_ID, LSM, STORAGE_DATA,
        STORAGE_LIST, STORAGE_LOCKS, STORAGE_NODE, STORAGE_VALUE, TASK_LEADER, TASK_STORAGE, load, probe,
        probe_at,
    },
};
use aya_ebpf::{
    bindings::task_struct,
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf},
};
use core::ptr;
use enforcer_common::{
    agent::{Act, Mark},
    limits::{CGROUP_DEPTH_MAX, STORAGES_MAX},
};

/// A mark for a task that has done nothing yet.
#[inline(always)]
fn mark_of(agent: u64) -> Mark {
    Mark { agent, key: mark_key(), act: NO_ACT }
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

/// Who the current task is to Enforcer.
pub(crate) struct Current {
    /// The agent's id, or 0 when the task is not governed: ids begin with 1.
    pub(crate) agent: u64,
    /// The task's mark. Null where it could not be had, which leaves the task without a memory of its last act.
    pub(crate) mark: *mut Mark,
}

/// Who the current task is.
///
/// When a process is moved into an agent's cgroup the kernel names only the group's leader, so a thread without
/// a mark takes its leader's and keeps it.
#[inline(always)]
pub(crate) fn current() -> Current {
    // SAFETY: the current task is live and typed, and so is its leader, which outlives its threads.
    unsafe {
        let task: *mut task_struct = bpf_get_current_task_btf();
        let mark = stored(task);
        if !mark.is_null() {
            return Current { agent: (*mark).agent, mark };
        }
        let agent = unlocked(task);
        let leader: *mut task_struct = load(task.cast(), &TASK_LEADER);
        if agent != 0 || leader == task {
            return Current { agent, mark };
        }
        let theirs = stored(leader);
        if theirs.is_null() {
            return Current { agent: unlocked(leader), mark: theirs };
        }
        let agent = (*theirs).agent;
        // No memory for a mark of its own: the leader's names the right agent all the same.
        Current { agent, mark: make(task, agent) }
    }
}

/// The agent of a task whose look-up came to nothing, where that may be for a lock; 0 for none.
#[inline(always)]
fn unlocked(task: *mut task_struct) -> u64 {
    if STORAGE_LOCKS.load() == 1 { search_storage(task as u64) } else { 0 }
}

/// Looks for a mark among all that programs keep with a task, without the lock. A task's own storage goes only with
/// the task. VERIFIER: not inlined, so that the ways out of the loop meet in one number.
#[inline(never)]
fn search_storage(task: u64) -> u64 {
    let storage: *const u8 = probe(task as *const u8, &TASK_STORAGE);
    if storage.is_null() {
        return 0;
    }
    // A list begins with its first node, and a node with the next.
    let mut node: *const u8 = probe(storage, &STORAGE_LIST);
    for _ in 0..STORAGES_MAX {
        if node.is_null() {
            break;
        }
        let element = node.wrapping_sub(STORAGE_NODE.load() as usize);
        let data = element.wrapping_add(STORAGE_DATA.load() as usize);
        let [agent, key]: [u64; 2] = probe(data, &STORAGE_VALUE);
        if key == mark_key() {
            return agent;
        }
        node = probe_at(node);
    }
    0
}

/// By what a mark is known.
#[inline(always)]
fn mark_key() -> u64 {
    HASH_KEY0.load() ^ HASH_KEY1.load()
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
    unsafe { if load::<u64>(task.cast(), &TASK_STORAGE) == 0 { ptr::null_mut() } else { MARKS.get(task) } }
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

/// The agent of the current task, for programs whose kernel has no helper to read task storage: the one in whose cgroup
/// it is or, when it has left that, the one that its mark names.
#[inline(always)]
pub(crate) fn of_current() -> Option<u64> {
    of_current_cgroup().or_else(|| match LSM.load() {
        1 => match search_current() {
            0 => None,
            agent => Some(agent),
        },
        _ => None,
    })
}

/// The agent that the mark of the current task or of its leader names, 0 for none. VERIFIER: not inlined, so that its
/// ways meet in one number.
#[inline(never)]
fn search_current() -> u64 {
    // SAFETY: a helper without arguments; the current task is live, and so is its leader, which outlives its threads.
    let task: *const task_struct = unsafe { bpf_get_current_task_btf() };
    match search_storage(task as u64) {
        0 => search_storage(probe::<u64>(task.cast(), &TASK_LEADER)),
        agent => agent,
    }
}

/// The agent in whose cgroup the current task is.
#[inline(always)]
fn of_current_cgroup() -> Option<u64> {
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
