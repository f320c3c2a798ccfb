//! Connects and sends: the cgroup hooks, and the LSM hooks before them.
//!
//! The kernel runs, in this order: for a connect `socket_connect`, then cgroup connect; for a send to an address
//! `socket_sendmsg`, then cgroup sendmsg where the socket is not connected, or cgroup *connect* for a TCP fast
//! open; from the second datagram of a `sendmmsg` to one address on the LSM hook is skipped. The LSM hook goes by
//! the task's mark and decides; the cgroup hook goes by the socket's cgroup, does what was decided, and decides by
//! itself when nothing was. Without LSM it always does.

use super::redirect::{self, HandedOver};
use crate::{
    agent,
    enact::{self, Judged},
    hold::At,
    maps::rule_in,
    offsets::{
        LSM, MSGHDR_FLAGS, MSGHDR_NAME, MSGHDR_NAMELEN, SOCK_FAMILY, SOCK_PROTOCOL, SOCK_SOURCE_V6,
        SOCK_TYPE, load, probe, probe_at,
    },
    tables::Actor,
};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::bpf_set_retval,
    macros::{cgroup_sock_addr, lsm},
    programs::{LsmContext, SockAddrContext},
};
use aya_log_ebpf::debug;
use enforcer_common::{
    action::{ActionKind, Endpoint, IPPROTO_UDPLITE, Protocol},
    address::Address,
    agent::SocketRecord,
    rule::NO_RULE,
    verdict::{Reason, Verdict},
};

const AF_UNSPEC: u16 = 0;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const MSG_FASTOPEN: u32 = 0x2000_0000;
/// Set by `sendmmsg` for all datagrams but the last.
const MSG_BATCH: u32 = 0x4_0000;
/// The state of a socket that is connected, whatever its protocol.
const ESTABLISHED: u32 = 1;
/// Bytes of a `sockaddr_in6` without its scope, which the kernel takes too.
const SIN6_LEN_RFC2133: u32 = 24;
/// "Not now", for a connect. A refusal by a cgroup hook is `EPERM`, unless another error is set.
const EAGAIN: i32 = 11;
/// "Not now", for a datagram. An event loop takes `EAGAIN` of a send for a full buffer, waits until the socket can be
/// written, which it always can, and sends again at once: asyncio and libuv turn a processor so, and a runtime that is
/// told of edges waits for ever. `ENOBUFS` means the same to libuv.
const EBUSY: i32 = 16;
const SOL_SOCKET: i32 = 1;
const SO_ERROR: i32 = 4;
const ECONNABORTED: i32 = 103;

/// What the cgroup hooks return.
const GO_ON: i32 = 1;
const REFUSE: i32 = 0;

/// The error of an action that may be tried again.
#[inline(always)]
fn not_now(kind: ActionKind) -> i32 {
    if let ActionKind::Send = kind { -EBUSY } else { -EAGAIN }
}

/// One connect or send, in a cgroup hook.
#[inline(always)]
fn on_cgroup(ctx: &SockAddrContext, kind: ActionKind, v6: bool) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the argument of a cgroup hook of that family; its socket is typed.
    unsafe {
        let sk = socket_of(addr);
        let given = asked(addr, sk, v6);
        let send = matches!(kind, ActionKind::Send);
        // The kernel refuses port 0 before the hook: the datagram was given no address, only data for the kernel.
        if send && given.port == 0 {
            return GO_ON;
        }
        let protocol = Protocol::from_socket(
            (&raw const (*addr).type_).read_volatile(),
            (&raw const (*addr).protocol).read_volatile(),
        );
        let endpoint = Endpoint { address: given.address, port: given.port, protocol };
        let held = if send { sk } else { redirect::held(sk) };
        let record = redirect::record(held);
        if LSM.load() == 1 {
            match redirect::take_over(record, &endpoint) {
                HandedOver::Redirect(to, port) => {
                    redirect::hide(record, &endpoint, &to, port);
                    redirect::write(addr, v6, &to, port);
                    return GO_ON;
                }
                HandedOver::GoOn => return go_on(addr, record, v6, kind, &endpoint),
                HandedOver::Nothing => {}
            }
        }
        if send && !v6 && is_peer(addr, sk) {
            return GO_ON;
        }
        // Who acts, not who made the socket.
        let Some(agent) = agent::of_current() else { return GO_ON };
        let mut judged = Judged::default();
        by_cgroup(agent, kind as u64, &endpoint, held, &mut judged);
        if judged.errno != 0 {
            if judged.errno == i64::from(-EAGAIN) {
                bpf_set_retval(not_now(kind));
            } else if judged.errno == i64::from(enact::AGAIN) {
                bpf_set_retval(enact::AGAIN);
            } else if judged.errno == i64::from(enact::INTERRUPTED) {
                bpf_set_retval(enact::INTERRUPTED);
            }
            return REFUSE;
        }
        if judged.verdict == Verdict::Sandbox as u64 {
            let rule = judged.rule as u32;
            return if v6 {
                divert::<true>(addr, held, &endpoint, agent, rule)
            } else {
                divert::<false>(addr, held, &endpoint, agent, rule)
            } as i32;
        }
        go_on(addr, record, v6, kind, &endpoint)
    }
}

/// Lets an action go where it was decided to go. That is what the program gave, but for an unspecified address: the kernel
/// would send that to the socket's own, if it has one, or to that of a control message.
///
/// # Safety
///
/// `addr` is the argument of the hook, and `record` null or a record of the map.
#[inline(always)]
unsafe fn go_on(
    addr: *mut bpf_sock_addr,
    record: *mut SocketRecord,
    v6: bool,
    kind: ActionKind,
    endpoint: &Endpoint,
) -> i32 {
    // SAFETY: the caller's contract.
    unsafe {
        if matches!(kind, ActionKind::Connect) {
            redirect::unhide(record, endpoint);
        }
        redirect::write(addr, v6, &endpoint.address, endpoint.port);
    }
    GO_ON
}

/// The address that a program asked for. `::` is IPv4's loopback for a socket that is bound to an IPv4 address.
///
/// # Safety
///
/// `addr` is the argument of a cgroup hook of that family, and `sk` its socket.
#[inline(always)]
unsafe fn asked(addr: *const bpf_sock_addr, sk: *const bpf_sock, v6: bool) -> redirect::Given {
    // SAFETY: the caller's contract. Volatile: the verifier wants these as they are, four bytes each.
    unsafe {
        let mut given = redirect::read(addr, v6);
        if v6 && given.unspecified && !given.address.is_v4() {
            let source = Address::from_v6([
                (&raw const (*sk).src_ip6[0]).read_volatile(),
                (&raw const (*sk).src_ip6[1]).read_volatile(),
                (&raw const (*sk).src_ip6[2]).read_volatile(),
                (&raw const (*sk).src_ip6[3]).read_volatile(),
            ]);
            if source.is_v4() {
                given.address = Address::LOOPBACK_V4;
            }
        }
        given
    }
}

/// Whether a datagram goes to where its IPv6 socket is connected: the kernel hands the peer's address to the hook of
/// IPv4 as if the program had given it. That was decided when it connected.
///
/// # Safety
///
/// `addr` is the argument of a hook of IPv4, and `sk` its socket.
#[inline(always)]
unsafe fn is_peer(addr: *const bpf_sock_addr, sk: *const bpf_sock) -> bool {
    // SAFETY: the caller's contract. Volatile: as above.
    unsafe {
        (&raw const (*addr).family).read_volatile() == u32::from(AF_INET6)
            && (&raw const (*sk).state).read_volatile() == ESTABLISHED
            && (&raw const (*sk).dst_ip4).read_volatile() == (&raw const (*addr).user_ip4).read_volatile()
            && u32::from((&raw const (*sk).dst_port).read_volatile())
                == (&raw const (*addr).user_port).read_volatile()
    }
}

/// Redirects, unless the agent is in audit mode; what the cgroup hook returns. VERIFIER: not inlined, for a stack of
/// its own.
#[inline(never)]
fn divert<const V6: bool>(
    addr: *mut bpf_sock_addr,
    sk: *mut bpf_sock,
    endpoint: &Endpoint,
    agent: u64,
    rule: u32,
) -> u64 {
    // SAFETY: the caller passes the argument of the hook and its socket.
    unsafe {
        let Some((to, port)) = enact::replica(agent, rule) else {
            redirect::write(addr, V6, &endpoint.address, endpoint.port);
            return GO_ON as u64;
        };
        let record = redirect::record_or_create(sk);
        // What cannot be hidden is not redirected.
        if record.is_null() {
            return REFUSE as u64;
        }
        redirect::hide(record, endpoint, to, port);
        redirect::write(addr, V6, to, port);
    }
    GO_ON as u64
}

/// Decides for a cgroup hook. VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn by_cgroup(agent: u64, kind: u64, endpoint: &Endpoint, sk: *mut bpf_sock, judged: &mut Judged) {
    enact::network(agent, (kind, At::Cgroup), endpoint, judged, |actor, verdict, rule| {
        // SAFETY: the caller passes a typed socket.
        unsafe { redirect::hindrance(redirect::record(sk), (kind, verdict), endpoint, (actor, rule)) }
    });
}

/// One connect or send, as an LSM hook sees it.
struct Attempt {
    kind: u64,
    endpoint: Endpoint,
    /// Bits of [`UNSPECIFIED`], [`UNHOOKED`] and [`MORE`].
    flags: u64,
}

/// The address is that of no host.
const UNSPECIFIED: u64 = 1;
/// The kernel runs no cgroup hook for this, whoever made the socket.
const UNHOOKED: u64 = 2;
/// It may be the first of many, of which this hook sees no other.
const MORE: u64 = 4;

/// Decides for an LSM hook. VERIFIER: as above.
#[inline(never)]
fn by_mark(agent: u64, attempt: &Attempt, sk: *mut bpf_sock, judged: &mut Judged) {
    let endpoint = &attempt.endpoint;
    enact::network(agent, (attempt.kind, At::Lsm), endpoint, judged, |actor, verdict, rule| {
        // SAFETY: the caller passes a typed socket.
        unsafe {
            unhooked(sk, actor, attempt, (verdict, rule)).or_else(|| {
                redirect::hindrance(redirect::record(sk), (attempt.kind, verdict), endpoint, (actor, rule))
            })
        }
    });
}

/// Why an action cannot go on that needs a cgroup hook after the LSM hook, where none will run.
///
/// # Safety
///
/// `sk` is typed.
#[inline(always)]
unsafe fn unhooked(
    sk: *const bpf_sock,
    actor: &Actor,
    attempt: &Attempt,
    (verdict, rule): (u8, u32),
) -> Option<Reason> {
    let redirects = verdict == Verdict::Sandbox as u8;
    let unspecified = attempt.flags & UNSPECIFIED != 0;
    let more = attempt.flags & MORE != 0;
    if !(redirects || unspecified || more && counts(actor, rule)) {
        return None;
    }
    // SAFETY: the caller's contract.
    let own = unsafe { redirect::is_own(sk, actor) };
    if own && attempt.flags & UNHOOKED == 0 {
        return None;
    }
    Some(match (redirects, unspecified) {
        (true, _) if own => Reason::RedirectProtocol,
        (true, _) => Reason::RedirectForeign,
        (false, true) => Reason::Unspecified,
        (false, false) => Reason::Uncounted,
    })
}

/// Whether a rule counts what it lets through.
#[inline(always)]
fn counts(actor: &Actor, rule: u32) -> bool {
    rule_in(actor.slot, rule).is_some_and(|rule| {
        rule.verdict == Verdict::Throttle as u8 || rule.verdict == Verdict::Escalate as u8
    })
}

/// The socket of the argument of a cgroup hook.
#[inline(always)]
unsafe fn socket_of(addr: *mut bpf_sock_addr) -> *mut bpf_sock {
    // SAFETY: the caller passes the argument of a cgroup hook.
    unsafe { (&raw const (*addr).__bindgen_anon_1.sk).read_volatile().cast() }
}

/// Shows the address that was asked for where the replica's would show.
#[inline(always)]
fn show(ctx: &SockAddrContext, v6: bool) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `on_cgroup`.
    unsafe {
        let record = redirect::record(socket_of(addr));
        if !record.is_null() && (*record).hides == 1 {
            let given = redirect::read(addr, v6);
            if redirect::same(&given.address, &(*record).replica) && given.port == (*record).replica_port {
                redirect::write(addr, v6, &(*record).shown, (*record).shown_port);
            }
        }
    }
    GO_ON
}

/// Connects of IPv4 sockets, fast opens among them.
#[cgroup_sock_addr(connect4)]
pub(crate) fn cg_connect4(ctx: SockAddrContext) -> i32 {
    let answer = on_cgroup(&ctx, ActionKind::Connect, false);
    debug!(&ctx, "cg_connect4 returns {}", answer);
    answer
}

/// Connects of IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub(crate) fn cg_connect6(ctx: SockAddrContext) -> i32 {
    let answer = on_cgroup(&ctx, ActionKind::Connect, true);
    debug!(&ctx, "cg_connect6 returns {}", answer);
    answer
}

/// Datagrams of unconnected IPv4 sockets.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn cg_sendmsg4(ctx: SockAddrContext) -> i32 {
    let answer = on_cgroup(&ctx, ActionKind::Send, false);
    debug!(&ctx, "cg_sendmsg4 returns {}", answer);
    answer
}

/// Datagrams of unconnected IPv6 sockets.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn cg_sendmsg6(ctx: SockAddrContext) -> i32 {
    let answer = on_cgroup(&ctx, ActionKind::Send, true);
    debug!(&ctx, "cg_sendmsg6 returns {}", answer);
    answer
}

/// The source of a datagram that an IPv4 socket receives.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn cg_recvmsg4(ctx: SockAddrContext) -> i32 {
    show(&ctx, false)
}

/// The source of a datagram that an IPv6 socket receives.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn cg_recvmsg6(ctx: SockAddrContext) -> i32 {
    show(&ctx, true)
}

/// The peer that an IPv4 socket shows.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn cg_getpeer4(ctx: SockAddrContext) -> i32 {
    show(&ctx, false)
}

/// The peer that an IPv6 socket shows.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn cg_getpeer6(ctx: SockAddrContext) -> i32 {
    show(&ctx, true)
}

/// `socket_connect(struct socket *sock, struct sockaddr *address, int addrlen)`
#[lsm(hook = "socket_connect")]
pub(crate) fn lsm_connect(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    // SAFETY: the hook's arguments; the mark is a value of the map.
    let errno = unsafe {
        let socket: *const u8 = ctx.arg(0);
        let address: *const u8 = ctx.arg(1);
        let length: i32 = ctx.arg(2);
        on_lsm(current.agent, ActionKind::Connect, socket, address, length as u32, 0)
    };
    debug!(&ctx, "socket_connect returns {}", errno);
    errno
}

/// `socket_sendmsg(struct socket *sock, struct msghdr *msg, int size)`
#[lsm(hook = "socket_sendmsg")]
pub(crate) fn lsm_sendmsg(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    // SAFETY: as above.
    let errno = unsafe {
        let socket: *const u8 = ctx.arg(0);
        let message: *const u8 = ctx.arg(1);
        let name: u64 = load(message, &MSGHDR_NAME);
        let length: i32 = load(message, &MSGHDR_NAMELEN);
        if name == 0 || length <= 0 {
            return 0;
        }
        let flags: u32 = load(message, &MSGHDR_FLAGS);
        on_lsm(current.agent, ActionKind::Send, socket, name as *const u8, length as u32, flags)
    };
    debug!(&ctx, "socket_sendmsg returns {}", errno);
    errno
}

/// `socket_getsockopt(struct socket *sock, int level, int optname)`
///
/// Who takes `EINTR` of a connect for one that goes on waits until the socket can be written, which one that has not begun
/// always can, and asks for its error. This is that error.
#[lsm(hook = "socket_getsockopt")]
pub(crate) fn lsm_getsockopt(ctx: LsmContext) -> i32 {
    let level: i32 = ctx.arg(1);
    let option: i32 = ctx.arg(2);
    if level != SOL_SOCKET || option != SO_ERROR {
        return 0;
    }
    // SAFETY: the hook's arguments; `sk` is typed.
    unsafe {
        let sk = redirect::sk_of(ctx.arg(0));
        if sk.is_null() {
            return 0;
        }
        let record = redirect::record(sk);
        if record.is_null() || (*record).aborted == 0 {
            return 0;
        }
        (*record).aborted = 0;
        -ECONNABORTED
    }
}

/// Notes that a signal ended a connect of a socket. Without memory nobody will know. VERIFIER: not inlined, for a stack of
/// its own.
#[inline(never)]
fn abort(sk: *mut bpf_sock) -> u64 {
    // SAFETY: the caller passes a typed socket.
    unsafe {
        let record = redirect::record_or_create(sk);
        if !record.is_null() {
            (*record).aborted = 1;
        }
    }
    0
}

/// One connect or send, in an LSM hook. `flags` are those of the message.
///
/// # Safety
///
/// `socket` is an argument of the hook; `address` points to `length` bytes in the kernel.
#[inline(always)]
unsafe fn on_lsm(
    agent: u64,
    kind: ActionKind,
    socket: *const u8,
    address: *const u8,
    length: u32,
    flags: u32,
) -> i32 {
    // SAFETY: the caller's contract; `sk` is typed.
    unsafe {
        let sk = redirect::sk_of(socket);
        if sk.is_null() {
            return 0;
        }
        let mut attempt = NOTHING;
        gather(sk, kind as u64, address, u64::from(length) << 32 | u64::from(flags), &mut attempt);
        if attempt.kind == NOTHING.kind {
            return 0;
        }
        let mut judged = Judged::default();
        by_mark(agent, &attempt, sk, &mut judged);
        if judged.errno != 0 {
            let send = attempt.kind == ActionKind::Send as u64;
            let kind = if send { ActionKind::Send } else { ActionKind::Connect };
            return match judged.errno as i32 {
                errno if errno == -EAGAIN => not_now(kind),
                errno if errno == enact::INTERRUPTED && !send => {
                    abort(sk);
                    errno
                }
                errno => enact::rebound(errno, agent),
            };
        }
        let record = redirect::record_or_create(sk);
        if record.is_null() {
            // Without the hand-over the cgroup hook decides for itself: a second event, never a way round.
            return 0;
        }
        let rule = if judged.verdict == Verdict::Sandbox as u64 { judged.rule } else { u64::from(NO_RULE) };
        redirect::hand_over(record, &attempt.endpoint, agent, rule as u32);
        0
    }
}

/// What an LSM hook has nothing to decide about.
const NOTHING: Attempt = Attempt {
    kind: 0,
    endpoint: Endpoint { address: Address([0; 16]), port: 0, protocol: Protocol::Other },
    flags: 0,
};

/// Writes down what is attempted, unless it is nothing. `measures` are the length of the address, above the flags of the
/// message. VERIFIER: not inlined, for a stack of its own.
#[inline(never)]
fn gather(sk: *mut bpf_sock, kind: u64, address: *const u8, measures: u64, attempt: &mut Attempt) {
    // SAFETY: the caller passes a typed socket.
    let family: u16 = unsafe { load(sk.cast(), &SOCK_FAMILY) };
    if family != AF_INET && family != AF_INET6 {
        return;
    }
    let (length, flags) = ((measures >> 32) as u32, measures as u32);
    let number = u32::from(probe::<u16>(sk.cast(), &SOCK_PROTOCOL));
    let protocol = Protocol::from_socket(u32::from(probe::<u16>(sk.cast(), &SOCK_TYPE)), number);
    let kind = match (kind == ActionKind::Send as u64, protocol) {
        (true, Protocol::Tcp) if flags & MSG_FASTOPEN != 0 => ActionKind::Connect,
        // Without a fast open TCP takes no notice of the address.
        (true, Protocol::Tcp) => return,
        (true, _) => ActionKind::Send,
        (false, _) => ActionKind::Connect,
    };
    // SAFETY: as above; the address is as long as the kernel says.
    let Some(given) = (unsafe { sockaddr(kind, protocol, sk, address, length) }) else { return };
    // No rule looks at where other protocols go.
    if given.unspecified && !matches!(protocol, Protocol::Other) {
        attempt.flags |= UNSPECIFIED;
    }
    if number == IPPROTO_UDPLITE && matches!(kind, ActionKind::Connect) {
        attempt.flags |= UNHOOKED;
    }
    if flags & MSG_BATCH != 0 && matches!(kind, ActionKind::Send) {
        attempt.flags |= MORE;
    }
    attempt.endpoint = Endpoint { address: given.address, port: given.port, protocol };
    attempt.kind = kind as u64;
}

/// The address of a socket address; nothing where the kernel takes none from it.
///
/// # Safety
///
/// `sk` is typed, and `from` points to `length` bytes in the kernel.
#[inline(always)]
unsafe fn sockaddr(
    kind: ActionKind,
    protocol: Protocol,
    sk: *const bpf_sock,
    from: *const u8,
    length: u32,
) -> Option<redirect::Given> {
    if length < 8 {
        return None;
    }
    // SAFETY: the caller's contract.
    let socket_family: u16 = unsafe { load(sk.cast(), &SOCK_FAMILY) };
    let family = match (probe_at(from), kind) {
        // udp_sendmsg takes an address without a family for IPv4, udpv6_sendmsg for none, and raw sockets for one of
        // their own family; a connect to one is a disconnect.
        (AF_UNSPEC, ActionKind::Send) if socket_family == AF_INET || !matches!(protocol, Protocol::Udp) => {
            socket_family
        }
        (family, _) => family,
    };
    let port = u16::from_be(probe_at(from.wrapping_add(2)));
    match family {
        AF_INET => {
            let bytes: [u8; 4] = probe_at(from.wrapping_add(4));
            let unspecified = u32::from_ne_bytes(bytes) == 0;
            Some(redirect::Given { address: Address::from_v4(bytes), port, unspecified })
        }
        AF_INET6 if length >= SIN6_LEN_RFC2133 => {
            let words: [u32; 4] = probe_at(from.wrapping_add(8));
            let unspecified = Address::is_unspecified_v6(words);
            let mut address = Address::from_v6(words);
            if unspecified && Address::from_v6(probe(sk.cast(), &SOCK_SOURCE_V6)).is_v4() {
                address = Address::LOOPBACK_V4;
            }
            Some(redirect::Given { address, port, unspecified })
        }
        _ => None,
    }
}
