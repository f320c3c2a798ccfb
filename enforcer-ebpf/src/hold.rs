//! Holding the thread whose call has to wait.
//!
//! The hook sends the thread a `SIGSTOP` and at once a `SIGCONT`, and fails the call with `ERESTARTNOINTR`. The second
//! signal takes the first one out of the queue, but the thread's signal-pending flag stays set, so that on its way out
//! the kernel delivers nothing and makes the same call again, with the same arguments: a *turn*. It goes on until the
//! daemon has frozen the thread. Where nobody would, the `SIGCONT` is left out, and the process stops.
//!
//! The helper that signals the *thread* is needed: a `SIGSTOP` of the process could be taken by another thread between
//! the two, and its parent would see a stop.

use crate::{
    maps::{BEAT, BUCKETS, NOTICES, WAITERS, WAITING},
    offsets::{
        ACTION_FLAGS, ACTION_HANDLER, REGS_CALL, REGS_RESULT, SIGHAND_ACTION, SIGNAL_PENDING, SIGNALS,
        TASK_ABI, TASK_FLAGS, TASK_PENDING, TASK_SIGHAND, TASK_START, load, probe, probe_at,
    },
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{
        bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_send_signal_thread,
        bpf_task_pt_regs,
    },
};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use enforcer_common::{
    agent::CounterKey,
    grant::RequestKey,
    hold::{Notice, ThreadKey, Waiter, can_wait, notice, state},
    limits::{
        BEAT_BOUND_NS, NOTICE_AGAIN_NS, TURN_BOUND_NS, TURN_REST_NS, TURN_SHORT_NS, TURN_SOON_NS,
        WAITERS_PER_AGENT,
    },
    rule::Rule,
};

const SEQ: AtomicOrdering = AtomicOrdering::SeqCst;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
/// Bytes of a `k_sigaction` on x86-64.
const ACTION_BYTES: u64 = 32;
/// The greatest `sa_handler` that is none: `SIG_DFL` is 0, `SIG_IGN` is 1.
pub(crate) const SIG_IGN: u64 = 1;
const SA_RESTART: u64 = 0x1000_0000;
/// `TS_COMPAT`: the call came through the interface of 32-bit programs.
const COMPAT: u32 = 2;
/// Tasks whose system call, if any, does not end with the hook's result: `PF_EXITING`, `PF_IO_WORKER`, `PF_SIGNALED`,
/// `PF_USER_WORKER` and `PF_KTHREAD`.
const NOT_A_CALL: u32 = 0x4 | 0x10 | 0x400 | 0x4000 | 0x20_0000;
/// What `rax` holds through a system call.
const ENOSYS: i64 = 38;

/// What becomes of a call that has to wait.
pub(crate) mod held {
    /// It is not held: it fails.
    pub(crate) const NOT: u8 = 0;
    /// It can be held, and was not yet.
    pub(crate) const NEW: u8 = 1;
    /// It began to wait.
    pub(crate) const BEGUN: u8 = 2;
    /// It turned once more.
    pub(crate) const AGAIN: u8 = 3;
    /// A signal ends it.
    pub(crate) const INTERRUPTED: u8 = 4;
    /// As many wait as may.
    pub(crate) const FULL: u8 = 5;
    /// The rule holds, and it is not known yet what that comes to.
    pub(crate) const MAYBE: u8 = 6;
}

/// The hook that a call waits in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// One whose result is not that of the call.
    Nowhere,
    /// An LSM hook.
    Lsm,
    /// A cgroup hook. Only newer kernels let its programs send signals.
    Cgroup,
}

/// The current thread.
#[inline(always)]
pub(crate) fn current() -> ThreadKey {
    // SAFETY: helpers without arguments; the current task is live.
    unsafe {
        let id = bpf_get_current_pid_tgid();
        ThreadKey {
            start_ns: probe(bpf_get_current_task_btf().cast(), &TASK_START),
            tid: id as u32,
            tgid: (id >> 32) as u32,
        }
    }
}

/// Whether the call in progress can be made again from this hook. VERIFIER: not inlined, so that its ways meet in one
/// number.
#[inline(never)]
pub(crate) fn is_possible(at: u64) -> u64 {
    if at == At::Nowhere as u64 || at == At::Cgroup as u64 && SIGNALS.load() != 1 {
        return 0;
    }
    // SAFETY: the current task is live and typed, and so are its registers, which hold still through a call.
    unsafe {
        let task = bpf_get_current_task_btf();
        let flags: u32 = load(task.cast(), &TASK_FLAGS);
        let abi: u32 = load(task.cast(), &TASK_ABI);
        let registers = bpf_task_pt_regs(task) as *const u8;
        let result: i64 = load(registers, &REGS_RESULT);
        let plain = flags & NOT_A_CALL == 0 && abi & COMPAT == 0 && result == -ENOSYS;
        u64::from(plain && can_wait(load(registers, &REGS_CALL)))
    }
}

/// Goes on with the wait of the current thread for this, if there is one; one of [`held`]. VERIFIER: not inlined, for a
/// stack of its own.
#[inline(never)]
pub(crate) fn again(request: &RequestKey, rule: &Rule, at: u64) -> u64 {
    let key = current();
    let Some(waiter) = WAITERS.get_ptr_mut(key) else { return u64::from(held::NEW) };
    // SAFETY: a value of the map, which only this thread and the daemon write.
    unsafe {
        if !is_same(&(*waiter).request, request) {
            return u64::from(held::NEW);
        }
        match (&raw const (*waiter).state).read_volatile() {
            state::INTERRUPTED => {
                remove(&key, request.agent);
                return u64::from(held::INTERRUPTED);
            }
            state::REFUSED => {
                remove(&key, request.agent);
                return u64::from(held::NOT);
            }
            _ => {}
        }
        let now = bpf_ktime_get_boot_ns();
        if now.wrapping_sub((*waiter).turned_ns) > TURN_REST_NS {
            (*waiter).turning_ns = now;
        }
        (*waiter).turned_ns = now;
        (*waiter).turns += 1;
        if (*waiter).due_ns != 0 {
            (*waiter).due_ns = due(request, rule);
        }
        if turn(waiter, &key, now, at) == 0 {
            remove(&key, request.agent);
            return u64::from(held::NOT);
        }
    }
    u64::from(held::AGAIN)
}

/// A waiter of whom nothing is known yet. VERIFIER: in memory of its own, since it is large for a stack.
static BLANK: Waiter = Waiter {
    request: RequestKey { agent: 0, rule: 0, object: [0; 2] },
    since_ns: 0,
    turned_ns: 0,
    turning_ns: 0,
    noticed_ns: 0,
    due_ns: 0,
    turns: 0,
    state: state::TURNING,
    hold: 0,
    kind: 0,
    zero: [0; 2],
};

/// Has the current thread wait; one of [`held`]. `how` is the number of the kind of action above that of the hook; a
/// request without an object waits for a token. VERIFIER: as above.
#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "a waiter moved would be a waiter on the stack")]
pub(crate) fn begin(request: &RequestKey, rule: &Rule, how: u64) -> u64 {
    let key = current();
    let replaces = WAITERS.get_ptr(key).is_some();
    if !replaces && !count_in(request.agent) {
        return u64::from(held::FULL);
    }
    if WAITERS.insert(key, &BLANK, 0).is_err() {
        if !replaces {
            count_out(request.agent);
        }
        return u64::from(held::FULL);
    }
    let Some(waiter) = WAITERS.get_ptr_mut(key) else { return u64::from(held::FULL) };
    // SAFETY: a value of the map. The daemon takes no notice of one before it has begun to wait.
    unsafe {
        let now = bpf_ktime_get_boot_ns();
        (*waiter).request = *request;
        (*waiter).turned_ns = now;
        (*waiter).turning_ns = now;
        if request.object[0] | request.object[1] == 0 {
            (*waiter).due_ns = due(request, rule);
        }
        (*waiter).hold = rule.hold;
        (*waiter).kind = (how >> 8) as u8;
        (&raw mut (*waiter).since_ns).write_volatile(now);
        if turn(waiter, &key, now, how & 0xff) == 0 {
            remove(&key, request.agent);
            return u64::from(held::NOT);
        }
    }
    u64::from(held::BEGUN)
}

/// Ends the wait of the current thread for this, if there is one. VERIFIER: as above.
#[inline(never)]
pub(crate) fn over(request: &RequestKey) -> u64 {
    let key = current();
    if let Some(waiter) = WAITERS.get_ptr(key) {
        // SAFETY: a value of the map, which only this thread and the daemon write.
        if unsafe { is_same(&(*waiter).request, request) } {
            remove(&key, request.agent);
        }
    }
    0
}

/// Ends the wait of the current thread, whose call goes on without it. VERIFIER: as above.
#[inline(never)]
pub(crate) fn void(agent: u64) -> u64 {
    let key = current();
    if let Some(waiter) = WAITERS.get_ptr(key) {
        // SAFETY: as above; a helper without pointers.
        unsafe {
            if (*waiter).state == state::STOPPED {
                // What would stop it on its way out is taken out of the queue.
                bpf_send_signal_thread(SIGCONT);
            }
        }
        remove(&key, agent);
    }
    0
}

/// Has the current thread make its call again, or stop; 0 where neither can be had. VERIFIER: not inlined, so that its
/// ways meet in one number.
#[inline(never)]
fn turn(waiter: *mut Waiter, key: &ThreadKey, now: u64, at: u64) -> u64 {
    if at == At::Cgroup as u64 && SIGNALS.load() != 1 {
        return 0;
    }
    // SAFETY: the caller passes a value of the map; the current task is live and typed.
    unsafe {
        let task: *const u8 = bpf_get_current_task_btf().cast();
        let beat = BEAT.get(0).map_or(0, |beat| beat.time_ns);
        let stops = now.saturating_sub(beat) > BEAT_BOUND_NS
            || now.saturating_sub((*waiter).turning_ns) > TURN_BOUND_NS
            || handler(task, SIGCONT) > SIG_IGN;
        if bpf_send_signal_thread(SIGSTOP) != 0 {
            return 0;
        }
        if !stops {
            bpf_send_signal_thread(SIGCONT);
        }
        // Without it the error would come through to the program.
        if probe::<u64>(task, &TASK_PENDING) & SIGNAL_PENDING.load() == 0 {
            return 0;
        }
        let stopped = stops && (*waiter).state != state::STOPPED;
        (*waiter).state = if stops { state::STOPPED } else { state::TURNING };
        let soon = (*waiter).due_ns != 0
            && (*waiter).due_ns < now + TURN_SHORT_NS
            && now.saturating_sub((*waiter).turning_ns) < TURN_SOON_NS
            && !stops;
        if !soon && (stopped || now.saturating_sub((*waiter).noticed_ns) > NOTICE_AGAIN_NS) {
            (*waiter).noticed_ns = now;
            tell(Notice { time_ns: now, thread: *key, what: notice::WAITS, signal: 0 });
        }
    }
    1
}

/// Tells the daemon. One that is not told looks by itself, later.
#[inline(always)]
pub(crate) fn tell(notice: Notice) {
    if let Some(mut entry) = NOTICES.reserve(0) {
        // SAFETY: the entry has a notice's size.
        unsafe { entry.as_mut_ptr().write(notice) };
        entry.submit(0);
    }
}

/// What a task does on a signal: `sa_handler`.
#[inline(always)]
pub(crate) fn handler(task: *const u8, signal: u32) -> u64 {
    let sighand: *const u8 = probe(task, &TASK_SIGHAND);
    let action = SIGHAND_ACTION.load() + (u64::from(signal) - 1) * ACTION_BYTES + ACTION_HANDLER.load();
    probe_at(sighand.wrapping_add(action as usize))
}

/// Notes that a handler is about to run in the current thread, before the call that waits is made again.
#[inline(always)]
pub(crate) fn handled(action: *const u8) {
    if probe::<u64>(action, &ACTION_HANDLER) <= SIG_IGN {
        return;
    }
    let Some(waiter) = WAITERS.get_ptr_mut(current()) else { return };
    if probe::<u64>(action, &ACTION_FLAGS) & SA_RESTART == 0 {
        // SAFETY: a value of the map, which only this thread and the daemon write.
        unsafe { (&raw mut (*waiter).state).write_volatile(state::INTERRUPTED) };
    }
}

/// When a rate will have a token, in nanoseconds since boot; never 0.
#[inline(always)]
fn due(request: &RequestKey, rule: &Rule) -> u64 {
    let bucket = BUCKETS.get_ptr(CounterKey { agent: request.agent, rule: request.rule });
    // SAFETY: a value of the map.
    let arrival = bucket.map_or(0, |bucket| unsafe { bucket.read_volatile() });
    arrival.saturating_sub(rule.tolerance_ns).max(1)
}

#[inline(always)]
fn is_same(a: &RequestKey, b: &RequestKey) -> bool {
    a.agent == b.agent && a.rule == b.rule && a.object[0] == b.object[0] && a.object[1] == b.object[1]
}

#[inline(always)]
fn remove(key: &ThreadKey, agent: u64) {
    if WAITERS.remove(key).is_ok() {
        count_out(agent);
    }
}

/// Counts a waiter of an agent; whether it may have one more.
#[inline(always)]
fn count_in(agent: u64) -> bool {
    let count = match WAITING.get_ptr_mut(agent) {
        Some(count) => count,
        None => {
            let _ = WAITING.insert(agent, 0, u64::from(BPF_NOEXIST));
            match WAITING.get_ptr_mut(agent) {
                Some(count) => count,
                None => return false,
            }
        }
    };
    // SAFETY: a value of the map; atomic, since processors share it. The daemon counts anew now and then, and a few too
    // many at the same time do no harm.
    unsafe {
        if (count.read_volatile() as i64) >= i64::from(WAITERS_PER_AGENT) {
            return false;
        }
        atomic_xadd::<u64, u64, SEQ>(count, 1);
    }
    true
}

#[inline(always)]
fn count_out(agent: u64) {
    if let Some(count) = WAITING.get_ptr_mut(agent) {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, SEQ>(count, u64::MAX) };
    }
}
