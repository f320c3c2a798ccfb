//! Decision → event, counter, loss.

use crate::{
    hold,
    maps::{ALERTS, BUCKETS, COUNTERS, COUNTS, EVENTS, GRANTS, LOSSES, REQUESTS, SEQUENCE},
    offsets::{TASK_START, opaque, probe},
    scratch::Claim,
    tables::{Actor, Object},
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_current_uid_gid,
        bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_ringbuf_output,
    },
};
use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    ptr,
};
use enforcer_common::{
    agent::{Act, CounterKey, Counts},
    counter::{content_at, counter_at},
    event::{Event, Losses, flag},
    grant::RequestKey,
    limits::{COMM_BYTES, PATH_MAX, SWAP_TRIES},
    rule::NO_RULE,
    verdict::{Reason, Verdict},
};

const SEQ: AtomicOrdering = AtomicOrdering::SeqCst;

/// What an event says besides who and what object.
#[derive(Clone, Copy)]
pub(crate) struct What {
    /// The index of the rule.
    pub(crate) rule: u32,
    /// Its content, or 0.
    pub(crate) content: u64,
    /// The number of what became of the action.
    pub(crate) verdict: u8,
    /// The number of why.
    pub(crate) reason: u8,
    /// Bits of [`flag`].
    pub(crate) flags: u8,
    /// The object's hash, where the grants were asked.
    pub(crate) object: [u64; 2],
    /// When the request ends, where one was filed.
    pub(crate) deadline_ns: u64,
    /// The event's id.
    pub(crate) id: u64,
}

/// Counts a loss.
#[inline(always)]
pub(crate) fn lost(which: impl FnOnce(&mut Losses) -> *mut u64) {
    if let Some(losses) = LOSSES.get_ptr_mut(0) {
        // SAFETY: a value of the map; the counter is touched by an atomic only.
        unsafe { atomic_xadd::<u64, u64, SEQ>(which(&mut *losses), 1) };
    }
}

/// Counts a decision by a rule of the actor's policy, or by none. VERIFIER: not inlined, so that its ways meet before
/// the caller goes on.
#[inline(never)]
pub(crate) fn count(actor: &Actor, rule: u64, content: u64, verdict: u64) {
    let rule = rule as u32;
    if rule >= actor.rules || !add(actor, rule, verdict, 1) {
        count_apart(actor.agent, content, verdict, 1);
    }
}

/// Takes the count of an act back.
#[inline(always)]
fn uncount(actor: &Actor, act: &Act) {
    let rule = u32::from(act.rule);
    // The policy may have been replaced since.
    let same = match COUNTERS.get(actor.counters) {
        Some(counters) if rule < actor.rules => counters.get(content_at(rule)).copied(),
        _ => None,
    };
    let verdict = u64::from(act.verdict);
    if same != Some(act.rule_content) || !add(actor, rule, verdict, u64::MAX) {
        count_apart(actor.agent, act.rule_content, verdict, u64::MAX);
    }
}

/// Adds to a counter of the actor's policy; whether it is there.
#[inline(always)]
fn add(actor: &Actor, rule: u32, verdict: u64, by: u64) -> bool {
    // SAFETY: a helper without arguments.
    let stripe = unsafe { bpf_get_smp_processor_id() };
    let at = counter_at(actor.rules, actor.stripes, stripe, verdict as u32, rule);
    let Some(counter) = COUNTERS.get(actor.counters).and_then(|counters| counters.get_ptr_mut(at)) else {
        return false;
    };
    // SAFETY: a value of the map; atomic, since processors share it, and another task on this processor may be in the
    // middle of the same.
    unsafe { atomic_xadd::<u64, u64, SEQ>(counter, by) };
    true
}

/// Counts where no array has a place for it.
#[inline(always)]
fn count_apart(agent: u64, content: u64, verdict: u64, by: u64) {
    let key = CounterKey { agent, rule: content };
    let counts = match COUNTS.get_ptr_mut(key) {
        Some(counts) => counts,
        None => {
            let _ = COUNTS.insert(key, Counts([0; 5]), u64::from(BPF_NOEXIST));
            match COUNTS.get_ptr_mut(key) {
                Some(counts) => counts,
                None => return lost(|losses| &raw mut losses.counts),
            }
        }
    };
    // SAFETY: a value of the map, whose length `Verdict` stays within; atomic, since another task on this
    // processor may be in the middle of the same.
    unsafe {
        let first: *mut u64 = (&raw mut (*counts).0).cast();
        let at = opaque(verdict) & 7;
        if at < 5 {
            atomic_xadd::<u64, u64, SEQ>(first.add(at as usize), by);
        }
    }
}

/// An id that no other event has.
#[inline(never)]
pub(crate) fn next_id() -> u64 {
    let Some(count) = SEQUENCE.get_ptr_mut(0) else { return 0 };
    // Not an addition: BPF's that gives the old value back needs a processor version that rustc does not ask for.
    for _ in 0..SWAP_TRIES {
        // SAFETY: a value of the map; a helper without arguments.
        unsafe {
            let held = count.read_volatile();
            if atomic_cxchg::<u64, SEQ, SEQ>(count, held, held.wrapping_add(1)).1 {
                return u64::from(bpf_get_smp_processor_id()) << 48 | held.wrapping_add(1) & 0xffff_ffff_ffff;
            }
        }
    }
    // Only tasks that preempt each other on this processor contend; the time tells those apart.
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() | 1 << 63 }
}

/// Fills an event in.
///
/// # Safety
///
/// `event` can be written.
#[inline(always)]
pub(crate) unsafe fn fill<O: Object>(event: *mut Event, actor: &Actor, object: &O, what: &What) {
    // SAFETY: the caller's contract; helpers of the current task.
    unsafe {
        let id = bpf_get_current_pid_tgid();
        (*event).time_ns = bpf_ktime_get_boot_ns();
        (*event).id = what.id;
        (*event).agent = actor.agent;
        (*event).rule_content = what.content;
        (*event).object = what.object;
        (*event).deadline_ns = what.deadline_ns;
        (*event).thread_start_ns = probe(bpf_get_current_task_btf().cast(), &TASK_START);
        bpf_get_current_comm((&raw mut (*event).comm).cast(), COMM_BYTES as u32);
        (*event).policy = actor.policy;
        (*event).rule = what.rule;
        (*event).tgid = (id >> 32) as u32;
        (*event).tid = id as u32;
        (*event).uid = bpf_get_current_uid_gid() as u32;
        (*event).verdict = what.verdict;
        (*event).reason = what.reason;
        (*event).flags = what.flags | actor.audit as u8;
        (*event).zero = [0; 2];
        (*event).path_bytes = 0;
        object.describe(event);
    }
}

/// Copies the path into the record of the working memory; its bytes.
#[inline(always)]
pub(crate) fn copy_path(claim: &Claim) -> u64 {
    let area = claim.area;
    // SAFETY: the area is claimed.
    unsafe {
        let start = u64::from((&raw const (*area).start).read_volatile());
        // VERIFIER: both masks change nothing, since a path is shorter than PATH_MAX.
        let length = opaque((PATH_MAX as u64).wrapping_sub(start)) & (PATH_MAX as u64 - 1);
        let start = opaque(start) & (PATH_MAX as u64 - 1);
        let path: *const u8 = (&raw const (*area).path).cast();
        bpf_probe_read_kernel(
            (&raw mut (*area).record.path).cast(),
            length as u32,
            path.add(start as usize).cast(),
        );
        (*area).record.event.path_bytes = length as u16;
        length
    }
}

/// Writes an event with the path in working memory; whether there was room.
#[inline(always)]
pub(crate) fn output<O: Object>(claim: &Claim, actor: &Actor, object: &O, what: &What, alert: bool) -> bool {
    let length = copy_path(claim);
    // SAFETY: the area is claimed; the record holds an event and the path, `bytes` in all.
    unsafe {
        fill(&raw mut (*claim.area).record.event, actor, object, what);
        (*claim.area).record.event.path_bytes = length as u16;
        // VERIFIER: bounds the size again, which 6.1 forgets over the stack.
        let bytes = size_of::<Event>() as u64 + (opaque(length) & (PATH_MAX as u64 - 1));
        let record: *mut core::ffi::c_void = (&raw mut (*claim.area).record).cast();
        let result = if alert {
            bpf_ringbuf_output(ptr::from_ref(&ALERTS).cast_mut().cast(), record, bytes, 0)
        } else {
            bpf_ringbuf_output(ptr::from_ref(&EVENTS).cast_mut().cast(), record, bytes, 0)
        };
        result == 0
    }
}

/// Writes an event into the ring buffer it belongs in.
#[inline(always)]
pub(crate) fn emit<O: Object>(actor: &Actor, object: &O, what: &What) {
    let alert = what.verdict != Verdict::Allow as u8;
    if !object.emit(actor, what, alert) {
        if alert { lost(|losses| &raw mut losses.alerts) } else { lost(|losses| &raw mut losses.events) }
    }
}

/// Takes an act back that turned out not to be one: its count, its token, its use of a grant, its request and
/// its event.
///
/// VERIFIER: not inlined, so that its ways meet before the caller goes on.
#[inline(never)]
pub(crate) fn withdraw(actor: &Actor, act: &Act) {
    let agent = actor.agent;
    uncount(actor, act);
    if act.interval_ns != 0
        && let Some(bucket) = BUCKETS.get_ptr_mut(CounterKey { agent, rule: act.rule_content })
    {
        // SAFETY: a value of the map.
        unsafe { atomic_xadd::<u64, u64, SEQ>(bucket, act.interval_ns.wrapping_neg()) };
    }
    if act.verdict == Verdict::Escalate as u8 || act.verdict == Verdict::Throttle as u8 {
        hold::void(agent);
    }
    if act.object[0] | act.object[1] != 0 {
        let key = RequestKey { agent, rule: act.rule_content, object: act.object };
        if act.reason == Reason::Waiting as u8 {
            let _ = REQUESTS.remove(key);
        } else if let Some(grant) = GRANTS.get_ptr_mut(key) {
            // SAFETY: a value of the map.
            unsafe { atomic_xadd::<i64, i64, SEQ>(&raw mut (*grant).uses, 1) };
        }
    }
    if act.event == 0 {
        return;
    }
    let entry = if act.verdict == Verdict::Allow as u8 { EVENTS.reserve(0) } else { ALERTS.reserve(0) };
    match entry {
        Some(mut entry) => {
            // SAFETY: the entry has an event's size; zeros are an event.
            unsafe {
                let event: *mut Event = entry.as_mut_ptr();
                event.write_bytes(0, 1);
                (*event).time_ns = bpf_ktime_get_boot_ns();
                (*event).id = act.event;
                (*event).agent = agent;
                (*event).policy = actor.policy;
                (*event).rule = NO_RULE;
                (*event).flags = flag::VOID;
                (*event).kind = act.kind;
                (*event).verdict = act.verdict;
                (*event).reason = act.reason;
            }
            entry.submit(0);
        }
        None => lost(|losses| &raw mut losses.alerts),
    }
}
