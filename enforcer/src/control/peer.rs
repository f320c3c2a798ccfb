//! Who is at the other end of a socket.

use nix::{
    sys::socket::{getsockopt, sockopt},
    unistd::{Gid, Group},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::Arc,
};

/// The group whose members may use the control socket.
pub const GROUP: &str = "enforcer";
/// Whom the control socket is for, as a hint.
pub const NOT_FOR_ALL: &str = "it is for root and the group `enforcer`, and never for a governed process";

/// `SO_PEERPIDFD`, since 6.5.
const SO_PEERPIDFD: i32 = 77;

/// The other end, as it was when it connected.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Its process, in a way that cannot come to mean another one; nothing where it has ended.
    pub process: Option<Arc<OwnedFd>>,
}

impl Peer {
    /// Of a connection.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        let pid = credentials.pid() as u32;
        let process = peer_process(socket).or_else(|| crate::kernel::pidfd(pid).ok());
        Ok(Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: groups(socket)?,
            process: process.map(Arc::new),
        })
    }

    /// Whether it may use the control socket: root, or a member of the group.
    #[must_use]
    pub fn may_control(&self, group: Option<Gid>) -> bool {
        let member = |group: Gid| self.gid == group.as_raw() || self.groups.contains(&group.as_raw());
        self.uid == 0 || group.is_some_and(member)
    }
}

/// The group whose members may use the control socket, if the machine has it.
#[must_use]
pub fn control_group() -> Option<Gid> {
    Group::from_name(GROUP).ok().flatten().map(|group| group.gid)
}

fn peer_process(socket: &impl AsFd) -> Option<OwnedFd> {
    let mut number: i32 = -1;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes a number of the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    // SAFETY: the descriptor is fresh.
    (result == 0 && number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

fn groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    // As many as a user can have (`NGROUPS_MAX`).
    let mut groups = vec![0_u32; 65_536];
    let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the buffer has, and sets it to what it wrote.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<u32>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::Peer;
    use nix::unistd::{Gid, getgid, getuid};
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_other_end_is_this_process() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of(&here).unwrap();
        assert_eq!((peer.pid, peer.uid), (std::process::id(), getuid().as_raw()));
        assert_eq!(peer.gid, getgid().as_raw());
        assert!(peer.process.is_some());
    }

    #[test]
    fn root_and_the_group_may_control_and_nobody_else() {
        let peer =
            |uid, gid, groups: &[u32]| Peer { pid: 1, uid, gid, groups: groups.to_vec(), process: None };
        let group = Some(Gid::from_raw(900));
        assert!(peer(0, 0, &[]).may_control(None));
        assert!(peer(1000, 900, &[]).may_control(group) && peer(1000, 100, &[7, 900]).may_control(group));
        assert!(!peer(1000, 100, &[7]).may_control(group) && !peer(1000, 900, &[]).may_control(None));
    }
}
