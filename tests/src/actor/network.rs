//! Network actions.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, connect,
            getpeername, recvfrom, sendto, setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use super::Came;
use crate::sys::compat;

/// Does what a verb says; nothing for a verb of another family.
pub(super) fn act(verb: &str, arguments: &[&str]) -> Option<Came> {
    let address: SocketAddr = arguments.first()?.parse().ok()?;
    let number = arguments.get(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(1);
    Some(match verb {
        "connect" => tcp(address).map(|_| "ok".into()),
        // From an IPv6 socket, to an IPv4 address by its mapped spelling.
        "talk" => tcp(address).and_then(talk),
        "peer" => tcp(address).and_then(|stream| {
            getpeername::<SockaddrStorage>(stream.as_raw_fd()).map(|peer| peer.to_string())
        }),
        "connect-32" => connect_32(address).map(|()| "ok".into()),
        "connect-twice" => connect_twice(address),
        "connect-for" => Ok(connect_for(address, Duration::from_millis(number))),
        "fastopen" => fast_open(address),
        "udp-connect" => udp(address)
            .and_then(|fd| connect(fd.as_raw_fd(), &SockaddrStorage::from(address)).map(|()| "ok".into())),
        "udp-connected-ask" => udp(address).and_then(|fd| {
            connect(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
            nix::sys::socket::send(fd.as_raw_fd(), b"hello", MsgFlags::empty())?;
            answer(&fd)
        }),
        "udp-peer" => udp(address).and_then(|fd| {
            connect(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
            getpeername::<SockaddrStorage>(fd.as_raw_fd()).map(|peer| peer.to_string())
        }),
        "sendto" => udp(address).and_then(|fd| send(&fd, address)).map(|()| "ok".into()),
        "ask" => udp(address).and_then(|fd| {
            send(&fd, address)?;
            answer(&fd)
        }),
        // To one port after another, from the one that is named on.
        "sendto-ports" => udp(address).map(|fd| send_to_ports(&fd, address, number)),
        "sendmmsg" => udp(address).and_then(|fd| send_many(&fd, address, number)),
        _ => return None,
    })
}

fn tcp(address: SocketAddr) -> Result<TcpStream, Errno> {
    let fd = stream(address)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd.into())
}

fn stream(address: SocketAddr) -> Result<OwnedFd, Errno> {
    socket(family(address), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn udp(address: SocketAddr) -> Result<OwnedFd, Errno> {
    socket(family(address), SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(super) fn talk(mut stream: TcpStream) -> Came {
    let mut buffer = [0; 64];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let read =
        stream.read(&mut buffer).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(5)))?;
    Ok(String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned())
}

/// Connects by the interface of 32-bit programs.
fn connect_32(address: SocketAddr) -> Result<(), Errno> {
    let stream = stream(address)?;
    let to = SockaddrStorage::from(address);
    // SAFETY: the address is that long, and lives through the copy.
    let bytes = unsafe { std::slice::from_raw_parts(to.as_ptr().cast::<u8>(), to.len() as usize) };
    let fd = stream.as_raw_fd().cast_unsigned();
    compat::call(compat::CONNECT, bytes, |page| [fd, page, to.len()]).map(drop)
}

fn connect_twice(address: SocketAddr) -> Came {
    let first = tcp(address)?;
    connect(first.as_raw_fd(), &SockaddrStorage::from(address)).map(|()| "ok".into())
}

fn connect_for(address: SocketAddr, time: Duration) -> String {
    let started = Instant::now();
    let (mut tried, mut passed) = (0, 0);
    while started.elapsed() < time {
        tried += 1;
        passed += i32::from(tcp(address).is_ok());
    }
    format!("tried {tried} passed {passed}")
}

fn fast_open(address: SocketAddr) -> Came {
    let fd = stream(address)?;
    let fast_open = MsgFlags::from_bits_retain(0x2000_0000);
    sendto(fd.as_raw_fd(), b"hello", &SockaddrStorage::from(address), fast_open).map(|_| "ok".into())
}

pub(super) fn send(fd: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    sendto(fd.as_raw_fd(), b"hello", &SockaddrStorage::from(address), MsgFlags::empty()).map(drop)
}

/// How many datagrams went out, and how many of each error there were.
fn send_to_ports(fd: &OwnedFd, address: SocketAddr, number: u64) -> String {
    let mut came: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    let ports = u64::from(address.port())..u64::from(address.port()) + number;
    for port in ports.filter_map(|port| u16::try_from(port).ok()) {
        let end = send(fd, SocketAddr::new(address.ip(), port))
            .map_or_else(|errno| format!("{errno:?}"), |()| "ok".into());
        *came.entry(end).or_default() += 1;
    }
    came.iter().map(|(end, count)| format!("{end} {count}")).collect::<Vec<_>>().join(" ")
}

pub(super) fn answer(fd: &OwnedFd) -> Came {
    setsockopt(fd, ReceiveTimeout, &TimeVal::seconds(3))?;
    let mut buffer = [0; 64];
    let (read, from) = recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)?;
    let from = from.map_or_else(|| "-".into(), |from| from.to_string());
    Ok(format!("{from} {}", String::from_utf8_lossy(buffer.get(..read).unwrap_or_default())))
}

/// How many datagrams of one call went out. They bear one address, bit by bit: the kernel then judges the first alone.
pub(super) fn send_many(fd: &OwnedFd, address: SocketAddr, number: u64) -> Came {
    let number = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
    let address = SockaddrStorage::from(address);
    let mut hello = *b"hello";
    let mut part = libc::iovec { iov_base: hello.as_mut_ptr().cast(), iov_len: hello.len() };
    // SAFETY: zeros are a header; what the headers point to lives through the call, which only reads it.
    let sent = unsafe {
        let mut header: libc::mmsghdr = std::mem::zeroed();
        header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = address.len();
        header.msg_hdr.msg_iov = &raw mut part;
        header.msg_hdr.msg_iovlen = 1;
        let mut headers = vec![header; number];
        // Not musl's own function, which makes a call for each.
        libc::syscall(libc::SYS_sendmmsg, fd.as_raw_fd(), headers.as_mut_ptr(), headers.len(), 0)
    };
    Errno::result(sent).map(|sent| sent.to_string())
}
