//! Decision → event, counter, loss.

use crate::{
    maps::{ALERTS, BUCKETS, COUNTS, EVENTS, GRANTS, LOSSES, REQUESTS, SEQUENCE},
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
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr,
};
use enforcer_common::{
    address::Address,
    agent::{Act, CounterKey, Counts},
    event::{Event, Losses, flag},
    grant::RequestKey,
    limits::{COMM_BYTES, PATH_MAX},
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
    /// What became of the action.
    pub(crate) verdict: Verdict,
    /// Why.
    pub(crate) reason: Reason,
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

/// Counts a decision. `by` is 1, or -1 to take one back.
#[inline(always)]
pub(crate) fn count(agent: u64, content: u64, verdict: Verdict, by: i64) {
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
        let at = opaque(verdict as u64) & 7;
        if at < 5 {
            atomic_xadd::<u64, u64, SEQ>(first.add(at as usize), by as u64);
        }
    }
}

/// An id that no other event has.
#[inline(always)]
pub(crate) fn next_id() -> u64 {
    let Some(count) = SEQUENCE.get_ptr_mut(0) else { return 0 };
    // SAFETY: a value of the map; a helper without arguments.
    unsafe {
        let count = atomic_xadd::<u64, u64, SEQ>(count, 1).wrapping_add(1);
        u64::from(bpf_get_smp_processor_id()) << 48 | count & 0xffff_ffff_ffff
    }
}

/// Fills an event in.
///
/// # Safety
///
/// `event` can be written.
#[inline(always)]
unsafe fn fill(event: *mut Event, actor: &Actor, object: &Object<'_>, what: &What) {
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
        (*event).verdict = what.verdict as u8;
        (*event).reason = what.reason as u8;
        (*event).flags = what.flags | if actor.audit { flag::AUDIT } else { 0 };
        (*event).zero = [0; 2];
        (*event).path_bytes = 0;
        match object {
            Object::Endpoint { kind, endpoint } => {
                (*event).kind = *kind as u8;
                (*event).access = 0;
                (*event).address = endpoint.address;
                (*event).port = endpoint.port;
                (*event).protocol = endpoint.protocol as u8;
            }
            Object::Path { kind, access, .. } => {
                (*event).kind = *kind as u8;
                (*event).access = access.0;
                (*event).address = Address([0; 16]);
                (*event).port = 0;
                (*event).protocol = 0;
            }
        }
    }
}

/// Fills the record of the working memory in, with the path.
#[inline(always)]
pub(crate) fn describe(claim: &Claim, actor: &Actor, object: &Object<'_>, what: &What) -> u64 {
    let area = claim.area;
    // SAFETY: the area is claimed.
    unsafe {
        fill(&raw mut (*area).record.event, actor, object, what);
        let Object::Path { .. } = object else { return 0 };
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

/// Writes an event into the ring buffer it belongs in.
#[inline(always)]
pub(crate) fn emit(actor: &Actor, object: &Object<'_>, what: &What) {
    let alert = !matches!(what.verdict, Verdict::Allow);
    let written = match object {
        Object::Endpoint { .. } => {
            let entry = if alert { ALERTS.reserve(0) } else { EVENTS.reserve(0) };
            match entry {
                Some(mut entry) => {
                    // SAFETY: the entry has an event's size.
                    unsafe { fill(entry.as_mut_ptr(), actor, object, what) };
                    entry.submit(0);
                    true
                }
                None => false,
            }
        }
        Object::Path { claim, .. } => {
            let length = describe(claim, actor, object, what);
            // VERIFIER: bounds the size again, which 6.1 forgets over the spill.
            let bytes = size_of::<Event>() as u64 + (opaque(length) & (PATH_MAX as u64 - 1));
            // SAFETY: the record holds an event and the path, `bytes` in all.
            unsafe {
                let record: *mut core::ffi::c_void = (&raw mut (*claim.area).record).cast();
                let result = if alert {
                    bpf_ringbuf_output(ptr::from_ref(&ALERTS).cast_mut().cast(), record, bytes, 0)
                } else {
                    bpf_ringbuf_output(ptr::from_ref(&EVENTS).cast_mut().cast(), record, bytes, 0)
                };
                result == 0
            }
        }
    };
    if !written {
        if alert { lost(|losses| &raw mut losses.alerts) } else { lost(|losses| &raw mut losses.events) }
    }
}

/// Takes an act back that turned out not to be one: its count, its token, its use of a grant, its request and
/// its event.
#[inline(always)]
pub(crate) fn withdraw(actor: &Actor, act: &Act) {
    let verdict = Verdict::from_number(act.verdict).unwrap_or(Verdict::Block);
    count(actor.agent, act.rule_content, verdict, -1);
    if act.token != 0
        && let Some(bucket) = BUCKETS.get_ptr_mut(CounterKey { agent: actor.agent, rule: act.token })
    {
        // SAFETY: a value of the map.
        unsafe { atomic_xadd::<u64, u64, SEQ>(bucket, act.interval_ns.wrapping_neg()) };
    }
    if act.object[0] | act.object[1] != 0 {
        let key = RequestKey { agent: actor.agent, rule: act.rule_content, object: act.object };
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
    let entry = if let Verdict::Allow = verdict { EVENTS.reserve(0) } else { ALERTS.reserve(0) };
    match entry {
        Some(mut entry) => {
            // SAFETY: the entry has an event's size; zeros are an event.
            unsafe {
                let event: *mut Event = entry.as_mut_ptr();
                event.write_bytes(0, 1);
                (*event).time_ns = bpf_ktime_get_boot_ns();
                (*event).id = act.event;
                (*event).agent = actor.agent;
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
