//! Connects and sends: the cgroup hooks, and the LSM hooks before them.
//!
//! The kernel runs, in this order: for a connect `socket_connect`, then cgroup connect; for a send to an address
//! `socket_sendmsg`, then cgroup sendmsg where the socket is not connected, or cgroup *connect* for a TCP fast
//! open; from the second datagram of a `sendmmsg` to one address on the LSM hook is skipped. The LSM hook goes by
//! the task's mark and decides; the cgroup hook goes by the socket's cgroup, does what was decided, and decides by
//! itself when nothing was. Without LSM it always does.

use super::redirect;
use crate::{
    agent,
    enact::{self, Judged},
    offsets::{
        LSM, MSGHDR_FLAGS, MSGHDR_NAME, MSGHDR_NAMELEN, SOCK_FAMILY, SOCK_PROTOCOL, SOCK_TYPE, load, probe,
        probe_at,
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
    action::{ActionKind, Endpoint, Protocol},
    address::Address,
    rule::{NO_RULE, Rule},
    verdict::{Reason, Verdict},
};

const AF_UNSPEC: u16 = 0;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const MSG_FASTOPEN: u32 = 0x2000_0000;
/// Bytes of a `sockaddr_in6` without its scope, which the kernel takes too.
const SIN6_LEN_RFC2133: u32 = 24;
/// "Not now", for a connect. A refusal by a cgroup hook is `EPERM`, unless another error is set.
const EAGAIN: i32 = 11;
/// "Not now", for a datagram. An event loop takes `EAGAIN` of a send for a full buffer, waits until the socket can be
/// written, which it always can, and sends again at once: asyncio and libuv turn a processor so, and a runtime that is
/// told of edges waits for ever. `ENOBUFS` means the same to libuv.
const EBUSY: i32 = 16;
const EPERM: i32 = 1;

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
        let (address, port) = redirect::read(addr, v6);
        let protocol = Protocol::from_socket(
            (&raw const (*addr).type_).read_volatile(),
            (&raw const (*addr).protocol).read_volatile(),
        );
        let endpoint = Endpoint { address, port, protocol };
        let sk: *mut bpf_sock = socket_of(addr);
        if LSM.load() == 1 {
            let record = redirect::record(sk);
            match redirect::take_over(record, &endpoint) {
                Some(true) => {
                    redirect::write(addr, v6, &(*record).replica, (*record).replica_port);
                    return GO_ON;
                }
                Some(false) => return GO_ON,
                None => {}
            }
        }
        // Who acts, not who made the socket.
        let Some(agent) = agent::of_current_cgroup() else { return GO_ON };
        let mut judged = Judged::default();
        by_cgroup(agent, kind as u64, &endpoint, sk, &mut judged);
        if judged.errno != 0 {
            if judged.errno == i64::from(-EAGAIN) {
                bpf_set_retval(not_now(kind));
            }
            return REFUSE;
        }
        if judged.verdict == Verdict::Sandbox as u64 {
            let rule = judged.rule as u32;
            return if v6 {
                divert::<true>(addr, sk, &endpoint, agent, rule)
            } else {
                divert::<false>(addr, sk, &endpoint, agent, rule)
            } as i32;
        }
        GO_ON
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
    let Some((to, port)) = enact::replica(agent, rule) else { return GO_ON as u64 };
    // SAFETY: the caller passes the argument of the hook and its socket.
    unsafe {
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
    enact::network(agent, kind, endpoint, judged, |_, rule| {
        // SAFETY: the caller passes the typed socket of the hook.
        unsafe { redirect::hindrance(redirect::record(sk), kind, endpoint, rule) }
    });
}

/// Decides for an LSM hook. VERIFIER: as above.
#[inline(never)]
fn by_mark(agent: u64, kind: u64, endpoint: &Endpoint, sk: *mut bpf_sock, judged: &mut Judged) {
    enact::network(agent, kind, endpoint, judged, |actor: &Actor, rule: &Rule| {
        // SAFETY: as above.
        unsafe {
            if redirect::is_own(sk, actor) {
                redirect::hindrance(redirect::record(sk), kind, endpoint, rule)
            } else {
                Some(Reason::RedirectForeign)
            }
        }
    });
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
            let (address, port) = redirect::read(addr, v6);
            if redirect::same(&address, &(*record).replica) && port == (*record).replica_port {
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
        on_lsm(current.agent, ActionKind::Connect, socket, address, length as u32, false)
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
        let fast_open = flags & MSG_FASTOPEN != 0;
        on_lsm(current.agent, ActionKind::Send, socket, name as *const u8, length as u32, fast_open)
    };
    debug!(&ctx, "socket_sendmsg returns {}", errno);
    errno
}

/// One connect or send, in an LSM hook.
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
    fast_open: bool,
) -> i32 {
    // SAFETY: the caller's contract; `sk` is typed.
    unsafe {
        let sk = redirect::sk_of(socket);
        if sk.is_null() {
            return 0;
        }
        let family: u16 = load(sk.cast(), &SOCK_FAMILY);
        if family != AF_INET && family != AF_INET6 {
            return 0;
        }
        let number = u32::from(probe::<u16>(sk.cast(), &SOCK_PROTOCOL));
        let protocol = Protocol::from_socket(u32::from(probe::<u16>(sk.cast(), &SOCK_TYPE)), number);
        let kind = match (kind, protocol) {
            (ActionKind::Send, Protocol::Tcp) if fast_open => ActionKind::Connect,
            // Without a fast open TCP takes no notice of the address.
            (ActionKind::Send, Protocol::Tcp) => return 0,
            (kind, _) => kind,
        };
        let Some((address, port)) = sockaddr(kind, protocol, family, address, length) else { return 0 };
        let endpoint = Endpoint { address, port, protocol };
        let mut judged = Judged::default();
        by_mark(agent, kind as u64, &endpoint, sk, &mut judged);
        if judged.errno != 0 {
            return if judged.errno == i64::from(-EAGAIN) { not_now(kind) } else { -EPERM };
        }
        let record = redirect::record_or_create(sk);
        if record.is_null() {
            // Without the hand-over the cgroup hook decides for itself: a second event, never a way round.
            return 0;
        }
        let rule = if judged.verdict == Verdict::Sandbox as u64 { judged.rule } else { u64::from(NO_RULE) };
        redirect::hand_over(record, &endpoint, agent, rule as u32);
        0
    }
}

/// The address of a socket address; nothing where the kernel takes none from it.
///
/// # Safety
///
/// `from` points to `length` bytes in the kernel.
#[inline(always)]
unsafe fn sockaddr(
    kind: ActionKind,
    protocol: Protocol,
    socket_family: u16,
    from: *const u8,
    length: u32,
) -> Option<(Address, u16)> {
    if length < 8 {
        return None;
    }
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
        AF_INET => Some((Address::from_v4(probe_at(from.wrapping_add(4))), port)),
        AF_INET6 if length >= SIN6_LEN_RFC2133 => {
            Some((Address::from_v6(probe_at(from.wrapping_add(8))), port))
        }
        _ => None,
    }
}
