//! The actions of `tests/cases`, each as one system call that cannot wait for anybody.

use std::{net::SocketAddr, os::fd::AsRawFd as _};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
        stat::{Mode, SFlag, mknod},
    },
};

use super::Came;

/// Does what a verb says; nothing for a verb of another family.
pub(super) fn act(verb: &str, arguments: &[&str]) -> Option<Came> {
    Some(match (verb, arguments) {
        ("connect-now", [address]) => address.parse().map_err(|_| Errno::EINVAL).and_then(connect_now),
        ("open-for", [access, path]) => open_for(access, path),
        _ => return None,
    })
}

/// Begins a connect, and does not wait for who answers.
fn connect_now(address: SocketAddr) -> Came {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(address)).map(|()| "ok".into())
}

/// Opens a path with exactly these kinds of access. Only what is not opened is made without either of the others, and
/// a regular file counts as written then; so that is a pipe.
fn open_for(access: &str, path: &str) -> Came {
    let has = |kind| access.split(',').any(|word| word == kind);
    let mode = Mode::from_bits_truncate(0o644);
    let flags = match (has("read"), has("write")) {
        (false, false) => return mknod(path, SFlag::S_IFIFO, mode, 0).map(|()| "ok".into()),
        (true, false) => OFlag::O_RDONLY,
        (false, true) => OFlag::O_WRONLY,
        (true, true) => OFlag::O_RDWR,
    };
    let create = if has("create") { OFlag::O_CREAT } else { OFlag::empty() };
    open(path, flags | create | OFlag::O_CLOEXEC, mode).map(|_| "ok".into())
}
