//! Telling systemd how the daemon is.
//!
//! The protocol is a datagram to the socket that `NOTIFY_SOCKET` names; see sd_notify(3).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net::SocketAddr,
        unix::net::UnixDatagram,
    },
};

/// Sends a state such as `READY=1`, if somebody asked for it.
pub fn notify(state: &str) {
    if let Some(Err(error)) = env::var_os("NOTIFY_SOCKET").map(|to| send(to.as_bytes(), state)) {
        tracing::warn!(%error, state, "cannot tell the service manager");
    }
}

fn send(to: &[u8], state: &str) -> io::Result<()> {
    let address = match to.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(to))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::send;
    use std::os::unix::{ffi::OsStrExt as _, net::UnixDatagram};

    #[test]
    fn the_state_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        let mut buffer = [0; 16];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
