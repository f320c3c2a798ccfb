//! Sockets as few programs use them: bound first, of rarer protocols, used after the cgroup was left, or twice.

use std::{
    fs,
    io::IoSlice,
    net::{IpAddr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, MsgFlags, SockaddrIn, SockaddrStorage, bind, connect, getpeername, sendmsg,
    },
};

use super::{
    Came,
    network::{answer, send, send_many, talk},
};

/// Does what a verb says; nothing for a verb of another family. The words after the first address are a second address,
/// the place of the root cgroup, or a number.
pub(super) fn act(verb: &str, arguments: &[&str]) -> Option<Came> {
    if verb == "leave" {
        return Some(leave(arguments.first()?).map(|()| "ok".into()));
    }
    let to: SocketAddr = arguments.first()?.parse().ok()?;
    let words = arguments.get(1..).unwrap_or_default();
    Some(match verb {
        "bound-talk" => bound(to, libc::SOCK_STREAM, words).and_then(|fd| connected(fd, to)).and_then(read),
        "bound-sendto" => {
            bound(to, libc::SOCK_DGRAM, words).and_then(|fd| send(&fd, to)).map(|()| "ok".into())
        }
        "bound-ask" => bound(to, libc::SOCK_DGRAM, words).and_then(|fd| ask(&fd, to)),
        "bound-connected-ask" => {
            bound(to, libc::SOCK_DGRAM, words).and_then(|fd| connected(fd, to)).and_then(|fd| {
                nix::sys::socket::send(fd.as_raw_fd(), b"hello", MsgFlags::empty())?;
                answer(&fd)
            })
        }
        "pktinfo-sendto" => pktinfo(to, words),
        "tos-connected-ask" => datagram(to).and_then(|fd| connected(fd, to)).and_then(|fd| {
            marked(&fd)?;
            answer(&fd)
        }),
        "mptcp-talk" => mptcp(to).and_then(|fd| connected(fd, to)).and_then(read),
        "mptcp-peer" => mptcp(to).and_then(|fd| connected(fd, to)).and_then(|fd| peer(&fd)),
        "mptcp-left-talk" => {
            mptcp(to).and_then(|fd| left(words).map(|()| fd)).and_then(|fd| connected(fd, to)).and_then(read)
        }
        "left-sendmmsg" => datagram(to).and_then(|fd| {
            left(words)?;
            send_many(&fd, to, 5)
        }),
        "lite-connect" => lite(to).and_then(|fd| connected(fd, to)).and_then(|fd| peer(&fd)),
        "lite-sendto" => lite(to).and_then(|fd| send(&fd, to)).map(|()| "ok".into()),
        "raw-sendto" => raw(to, words),
        "raw-sendto-unspec" => raw_unspec(to),
        "reconnect-peers" => both(words, |second| {
            let fd = connected(datagram(to)?, to)?;
            let first = peer(&fd)?;
            let fd = connected(fd, second)?;
            Ok(format!("{first} {}", peer(&fd)?))
        }),
        "peer-after-second" => both(words, |second| {
            let fd = connected(open(to, libc::SOCK_STREAM, 0)?, to)?;
            let failed = connect(fd.as_raw_fd(), &SockaddrStorage::from(second));
            Ok(format!("{failed:?} {}", peer(&fd)?))
        }),
        "ask-both" => both(words, |second| {
            let fd = datagram(to)?;
            let first = ask(&fd, to)?;
            Ok(format!("{first}, {}", ask(&fd, second).unwrap_or_else(|errno| format!("{errno:?}"))))
        }),
        "race-sendto" => datagram(to).map(|fd| race(&fd, to, words)),
        // Stays open until the process ends.
        "hold" => datagram(to).and_then(|fd| {
            send(&fd, to)?;
            Ok(fd.into_raw_fd().to_string())
        }),
        _ => return None,
    })
}

/// Threads that send by one socket at the same time. How many sends passed, of all that were tried.
fn race(fd: &OwnedFd, to: SocketAddr, words: &[&str]) -> String {
    const THREADS: u32 = 4;
    let each: u32 = words.first().and_then(|word| word.parse().ok()).unwrap_or(1);
    let passed = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..each {
                    passed.fetch_add(u32::from(send(fd, to).is_ok()), Ordering::Relaxed);
                }
            });
        }
    });
    format!("{} of {}", passed.into_inner(), THREADS * each)
}

fn open(like: SocketAddr, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    let family = if like.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a call without pointers, whose descriptor nobody else has.
    unsafe {
        Errno::result(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol))
            .map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

fn datagram(like: SocketAddr) -> Result<OwnedFd, Errno> {
    open(like, libc::SOCK_DGRAM, 0)
}

fn mptcp(like: SocketAddr) -> Result<OwnedFd, Errno> {
    open(like, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
}

fn lite(like: SocketAddr) -> Result<OwnedFd, Errno> {
    open(like, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)
}

fn bound(to: SocketAddr, kind: i32, words: &[&str]) -> Result<OwnedFd, Errno> {
    let source: IpAddr = words.first().and_then(|word| word.parse().ok()).ok_or(Errno::EINVAL)?;
    let fd = open(to, kind, 0)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    Ok(fd)
}

fn connected(fd: OwnedFd, to: SocketAddr) -> Result<OwnedFd, Errno> {
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

fn read(fd: OwnedFd) -> Came {
    talk(fd.into())
}

fn ask(fd: &OwnedFd, to: SocketAddr) -> Came {
    send(fd, to)?;
    answer(fd)
}

fn peer(fd: &OwnedFd) -> Came {
    getpeername::<SockaddrStorage>(fd.as_raw_fd()).map(|peer| peer.to_string())
}

fn both(words: &[&str], act: impl FnOnce(SocketAddr) -> Came) -> Came {
    act(words.first().and_then(|word| word.parse().ok()).ok_or(Errno::EINVAL)?)
}

/// Moves the process into the root cgroup.
fn leave(root: &str) -> Result<(), Errno> {
    fs::write(format!("{root}/cgroup.procs"), "0")
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn left(words: &[&str]) -> Result<(), Errno> {
    leave(words.first().ok_or(Errno::EINVAL)?)
}

/// Sends a datagram with the source that a control message names.
fn pktinfo(to: SocketAddr, words: &[&str]) -> Came {
    let source: std::net::Ipv4Addr = words.first().and_then(|word| word.parse().ok()).ok_or(Errno::EINVAL)?;
    let SocketAddr::V4(to_v4) = to else { return Err(Errno::EINVAL) };
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let fd = datagram(to)?;
    let with = [ControlMessage::Ipv4PacketInfo(&info)];
    let to = SockaddrIn::from(to_v4);
    sendmsg(fd.as_raw_fd(), &[IoSlice::new(b"hello")], &with, MsgFlags::empty(), Some(&to))?;
    Ok("ok".into())
}

/// Sends a datagram of a connected socket with a mark for routers, as QUIC does.
fn marked(fd: &OwnedFd) -> Result<(), Errno> {
    let with = [ControlMessage::Ipv4Tos(&2)];
    let nowhere: Option<&SockaddrIn> = None;
    sendmsg(fd.as_raw_fd(), &[IoSlice::new(b"hello")], &with, MsgFlags::empty(), nowhere).map(drop)
}

/// Sends a UDP datagram with headers of its own to the second address, by a socket that is told the first.
fn raw(to: SocketAddr, words: &[&str]) -> Came {
    let target: SocketAddrV4 = words.first().and_then(|word| word.parse().ok()).ok_or(Errno::EINVAL)?;
    let fd = open(to, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as u32;
    // SAFETY: the number lives through the call.
    Errno::result(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_HDRINCL, (&raw const on).cast(), length)
    })?;
    // The kernel fills in the length of the packet and its checksum; UDP needs none.
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1];
    packet.extend(target.ip().octets());
    packet.extend([0, 9]);
    packet.extend(target.port().to_be_bytes());
    packet.extend([0, 13, 0, 0]);
    packet.extend(b"hello");
    nix::sys::socket::sendto(fd.as_raw_fd(), &packet, &SockaddrStorage::from(to), MsgFlags::empty())?;
    Ok("ok".into())
}

/// Sends by a raw socket to an address that bears no family, which raw sockets take for their own.
fn raw_unspec(to: SocketAddr) -> Came {
    let SocketAddr::V6(to_v6) = to else { return Err(Errno::EINVAL) };
    // A protocol number that is left to experiments.
    let fd = open(to, libc::SOCK_RAW, 253)?;
    // SAFETY: zeros are an address, which lives through the call with what it says of its length.
    let sent = unsafe {
        let mut address: libc::sockaddr_in6 = std::mem::zeroed();
        address.sin6_family = libc::AF_UNSPEC as libc::sa_family_t;
        address.sin6_addr.s6_addr = to_v6.ip().octets();
        let length = size_of_val(&address) as u32;
        libc::sendto(fd.as_raw_fd(), b"hello".as_ptr().cast(), 5, 0, (&raw const address).cast(), length)
    };
    Errno::result(sent).map(|_| "ok".into())
}
