//! What a socket remembers between the LSM hook and the cgroup hook of one act, and a redirect that the agent
//! does not see.

use crate::{
    agent, enact,
    maps::{SOCKETS, rule_in},
    offsets::{MPTCP, SOCK_CGROUP, load, probe},
    tables::Actor,
};
use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_current_pid_tgid, bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
};
use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg},
    ptr,
};
use enforcer_common::{
    action::{ActionKind, Endpoint},
    address::Address,
    agent::SocketRecord,
    rule::NO_RULE,
    verdict::{Reason, Verdict},
};

/// In the place of the thread while one is writing or taking what is handed over. No thread has this number.
const CLAIMED: u64 = u64::MAX;

const EMPTY: SocketRecord = SocketRecord {
    pid_tgid: 0,
    asked: Address([0; 16]),
    to: Address([0; 16]),
    replica: Address([0; 16]),
    shown: Address([0; 16]),
    asked_port: 0,
    to_port: 0,
    replica_port: 0,
    shown_port: 0,
    redirect: 0,
    hides: 0,
    aborted: 0,
    zero: [0; 5],
};

/// The record of a socket, made where there is none; null without memory.
///
/// # Safety
///
/// `sk` is a socket that the verifier knows the type of.
///
/// VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
pub(crate) unsafe fn record_or_create(sk: *mut bpf_sock) -> *mut SocketRecord {
    let mut empty = EMPTY;
    // SAFETY: the caller's contract is the helper's.
    unsafe {
        bpf_sk_storage_get(
            ptr::from_ref(&SOCKETS).cast_mut().cast(),
            sk.cast(),
            (&raw mut empty).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast()
    }
}

/// The record of a socket, or null.
///
/// # Safety
///
/// As for [`record_or_create`].
#[inline(always)]
pub(crate) unsafe fn record(sk: *mut bpf_sock) -> *mut SocketRecord {
    // SAFETY: the caller's contract is the helper's.
    unsafe {
        bpf_sk_storage_get(ptr::from_ref(&SOCKETS).cast_mut().cast(), sk.cast(), ptr::null_mut(), 0).cast()
    }
}

/// The socket that the program holds, where `sk` may be a subflow of MPTCP: the LSM hooks and `getpeername` see that
/// one.
///
/// # Safety
///
/// As for [`record_or_create`]; so can be used what is returned.
#[inline(always)]
pub(crate) unsafe fn held(sk: *mut bpf_sock) -> *mut bpf_sock {
    if MPTCP.load() == 1 {
        // SAFETY: the caller's contract is the helper's.
        let whole: *mut bpf_sock = unsafe { bpf_skc_to_mptcp_sock(sk.cast()) }.cast();
        if !whole.is_null() {
            return whole;
        }
    }
    sk
}

/// What keeps an action from what its rule says: the replica is of the other family, or answers to datagrams could not
/// be told from those of another address that is shown for the same replica.
///
/// # Safety
///
/// `record` is null or a record of the map.
#[inline(always)]
pub(crate) unsafe fn hindrance(
    record: *const SocketRecord,
    (kind, verdict): (u64, u8),
    endpoint: &Endpoint,
    (actor, rule): (&Actor, u32),
) -> Option<Reason> {
    let sends = kind == ActionKind::Send as u64;
    if verdict == Verdict::Sandbox as u8 {
        let rule = rule_in(actor.slot, rule)?;
        if endpoint.address.is_v4() != rule.redirect.is_v4() {
            return Some(Reason::RedirectFamily);
        }
        // SAFETY: the caller's contract.
        let other = unsafe {
            sends
                && goes_to_replica(record, &rule.redirect, rule.redirect_port)
                && !(same(&(*record).shown, &endpoint.address) && (*record).shown_port == endpoint.port)
        };
        return if other { Some(Reason::RedirectAmbiguous) } else { None };
    }
    // SAFETY: as above.
    let other = sends && unsafe { goes_to_replica(record, &endpoint.address, endpoint.port) };
    if other { Some(Reason::RedirectAmbiguous) } else { None }
}

/// Whether a socket shows another address for the one given.
///
/// # Safety
///
/// `record` is null or a record of the map.
#[inline(always)]
unsafe fn goes_to_replica(record: *const SocketRecord, address: &Address, port: u16) -> bool {
    // SAFETY: the caller's contract.
    unsafe {
        !record.is_null()
            && (*record).hides == 1
            && same(&(*record).replica, address)
            && (*record).replica_port == port
    }
}

/// Whether the cgroup hooks run for a socket of the agent: whether it was made inside the agent's cgroup.
///
/// # Safety
///
/// As for [`record_or_create`].
#[inline(always)]
pub(crate) unsafe fn is_own(sk: *const bpf_sock, actor: &Actor) -> bool {
    // SAFETY: the caller's contract.
    let cgroup: *const u8 = probe(sk.cast(), &SOCK_CGROUP);
    agent::of_cgroup(cgroup) == Some(actor.agent)
}

/// Claims what is handed over, from a thread or from nobody: one thread at a time writes or takes it. Whoever fails does
/// without; the cgroup hook then decides for itself.
///
/// # Safety
///
/// `record` is a record of the map.
#[inline(always)]
unsafe fn claim(record: *mut SocketRecord, from: u64) -> bool {
    // SAFETY: the caller's contract.
    from != CLAIMED && unsafe { swap(record, from, CLAIMED) }
}

/// Ends a claim.
///
/// # Safety
///
/// As for [`claim`].
#[inline(always)]
unsafe fn release(record: *mut SocketRecord, to: u64) {
    // SAFETY: the caller's contract.
    unsafe { swap(record, CLAIMED, to) };
}

/// # Safety
///
/// As for [`claim`].
#[inline(always)]
unsafe fn swap(record: *mut SocketRecord, from: u64, to: u64) -> bool {
    // SAFETY: the caller's contract.
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut (*record).pid_tgid,
            from,
            to,
        )
        .1
    }
}

/// Hands a decision over to the cgroup hook of the same act. `rule` is that of a redirect, or [`NO_RULE`].
///
/// VERIFIER: not inlined, for a stack of its own.
///
/// # Safety
///
/// `record` is a record of the map.
#[inline(never)]
pub(crate) unsafe fn hand_over(record: *mut SocketRecord, endpoint: &Endpoint, agent: u64, rule: u32) {
    // SAFETY: the caller's contract; a helper without arguments.
    unsafe {
        if !claim(record, (&raw const (*record).pid_tgid).read_volatile()) {
            return;
        }
        (*record).asked = endpoint.address;
        (*record).asked_port = endpoint.port;
        (*record).redirect = 0;
        (*record).aborted = 0;
        if rule != NO_RULE
            && let Some((address, port)) = enact::replica(agent, rule)
        {
            (*record).redirect = 1;
            (*record).to = *address;
            (*record).to_port = port;
        }
        release(record, bpf_get_current_pid_tgid());
    }
}

/// Remembers what to show instead of the replica, when a socket goes there.
///
/// # Safety
///
/// `record` is a record of the map.
#[inline(always)]
pub(crate) unsafe fn hide(record: *mut SocketRecord, endpoint: &Endpoint, replica: &Address, port: u16) {
    // SAFETY: the caller's contract.
    unsafe {
        (*record).replica = *replica;
        (*record).replica_port = port;
        (*record).shown = endpoint.address;
        (*record).shown_port = endpoint.port;
        (*record).hides = 1;
    }
}

/// Shows the replica from now on, when a connect asks for the replica itself.
///
/// # Safety
///
/// `record` is null or a record of the map.
#[inline(always)]
pub(crate) unsafe fn unhide(record: *mut SocketRecord, endpoint: &Endpoint) {
    // SAFETY: the caller's contract.
    unsafe {
        if goes_to_replica(record, &endpoint.address, endpoint.port) {
            (*record).hides = 0;
        }
    }
}

/// What an LSM hook handed over.
pub(crate) enum HandedOver {
    /// Nothing, to this thread, for this address.
    Nothing,
    /// The action goes on.
    GoOn,
    /// It goes there instead.
    Redirect(Address, u16),
}

/// Takes the decision that an LSM hook handed over to this thread.
///
/// # Safety
///
/// `record` is null or a record of the map.
#[inline(always)]
pub(crate) unsafe fn take_over(record: *mut SocketRecord, endpoint: &Endpoint) -> HandedOver {
    // SAFETY: the caller's contract; a helper without arguments.
    unsafe {
        if record.is_null() || !claim(record, bpf_get_current_pid_tgid()) {
            return HandedOver::Nothing;
        }
        let is_for = (*record).asked_port == endpoint.port && same(&(*record).asked, &endpoint.address);
        let handed_over = match (is_for, (*record).redirect) {
            (false, _) => HandedOver::Nothing,
            (true, 1) => HandedOver::Redirect((*record).to, (*record).to_port),
            (true, _) => HandedOver::GoOn,
        };
        release(record, 0);
        handed_over
    }
}

/// Whether two addresses are equal, by their words.
#[inline(always)]
pub(crate) fn same(a: &Address, b: &Address) -> bool {
    a.words() == b.words()
}

/// Writes an address into the argument of a cgroup hook.
///
/// # Safety
///
/// `addr` is the argument of a cgroup hook of the family that `v6` says.
#[inline(always)]
pub(crate) unsafe fn write(addr: *mut bpf_sock_addr, v6: bool, address: &Address, port: u16) {
    let [a, b, c, d] = address.words();
    // SAFETY: the caller's contract. Volatile: the verifier wants these as they are, four bytes each.
    unsafe {
        (&raw mut (*addr).user_port).write_volatile(u32::from(port.to_be()));
        if v6 {
            (&raw mut (*addr).user_ip6[0]).write_volatile(a);
            (&raw mut (*addr).user_ip6[1]).write_volatile(b);
            (&raw mut (*addr).user_ip6[2]).write_volatile(c);
            (&raw mut (*addr).user_ip6[3]).write_volatile(d);
        } else {
            (&raw mut (*addr).user_ip4).write_volatile(d);
        }
    }
}

/// An address as a program gave it.
pub(crate) struct Given {
    /// Where it leads.
    pub(crate) address: Address,
    /// The port, in host byte order.
    pub(crate) port: u16,
    /// Whether it was that of no host.
    pub(crate) unspecified: bool,
}

/// Reads the address of the argument of a cgroup hook.
///
/// # Safety
///
/// As for [`write`].
#[inline(always)]
pub(crate) unsafe fn read(addr: *const bpf_sock_addr, v6: bool) -> Given {
    // SAFETY: the caller's contract. Volatile: as above.
    unsafe {
        let port = u16::from_be((&raw const (*addr).user_port).read_volatile() as u16);
        if !v6 {
            let word = (&raw const (*addr).user_ip4).read_volatile();
            return Given { address: Address::from_v4(word.to_ne_bytes()), port, unspecified: word == 0 };
        }
        let words = [
            (&raw const (*addr).user_ip6[0]).read_volatile(),
            (&raw const (*addr).user_ip6[1]).read_volatile(),
            (&raw const (*addr).user_ip6[2]).read_volatile(),
            (&raw const (*addr).user_ip6[3]).read_volatile(),
        ];
        let unspecified = Address::is_unspecified_v6(words);
        Given { address: Address::from_v6(words), port, unspecified }
    }
}

/// The socket behind a `struct socket`, or null.
///
/// # Safety
///
/// The verifier must know the type of `socket`.
#[inline(always)]
pub(crate) unsafe fn sk_of(socket: *const u8) -> *mut bpf_sock {
    // SAFETY: the caller's contract.
    unsafe { load(socket, &crate::offsets::SOCKET_SK) }
}
