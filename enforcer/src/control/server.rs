//! The daemon's ends of the two sockets.
//!
//! Who connects is looked at before a byte is read. The control socket is for root and the group `enforcer`, and
//! for no governed task, root or not: the kernel refuses those by their mark, and where it cannot, the look here
//! does. Whoever it is not for is told so, and nothing else. The agents' socket is for governed tasks, and tells each
//! only of itself.

use super::{
    api::chain,
    peer::{GROUP, Peer, control_group},
    routes::{agents_router, control_router},
};
use crate::{
    agents::AgentId,
    daemon::{Daemon, Settings},
    kernel::pin::{self, Lock},
};
use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// Why a socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("cannot {what} the socket `{}`", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("another process listens at `{}`: give each daemon a socket of its own", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// What is there is no socket, and so not a daemon's to replace.
    #[error("`{}` is there and is no socket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// Another daemon has it.
    #[error(transparent)]
    Lock(#[from] pin::Error),
    /// The kernel is not told of it.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
}

/// Which socket a connection came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Control,
    Agents,
}

/// A listener that turns away at the door.
struct Guarded {
    listener: UnixListener,
    door: Door,
    daemon: Arc<Daemon>,
}

/// Who came in, and as which agent.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) peer: Peer,
    pub(super) agent: Option<AgentId>,
    /// Why the door is not for them, if it is not.
    pub(super) refused: Option<String>,
}

impl Guarded {
    /// Who it is; an error where that cannot be told, and so nobody can be told anything.
    fn look_at(&self, stream: &UnixStream) -> Result<Guest, String> {
        let peer = Peer::of(stream).map_err(|error| error.to_string())?;
        if peer.process.is_none() {
            return Err("the process has ended".to_owned());
        }
        let agent = self.daemon.agents.of_peer(&peer).map_err(|error| chain(&error))?;
        let refused = match (self.door, agent) {
            (Door::Control, Some(agent)) => Some(format!("the process belongs to agent {agent}")),
            (Door::Control, None) if !peer.may_control(control_group()) => {
                Some(format!("user {} is neither root nor in the group `{GROUP}`", peer.uid))
            }
            _ => None,
        };
        if let Some(reason) = &refused {
            tracing::warn!(door = ?self.door, pid = peer.pid, reason, "connection refused");
        }
        Ok(Guest { peer, agent, refused })
    }
}

impl Listener for Guarded {
    type Io = UnixStream;
    type Addr = Guest;

    async fn accept(&mut self) -> (UnixStream, Guest) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match self.look_at(&stream) {
                    Ok(guest) => return (stream, guest),
                    Err(reason) => tracing::warn!(door = ?self.door, reason, "connection refused"),
                },
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Guest> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Guarded>> for Guest {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        stream.remote_addr().clone()
    }
}

/// The two servers.
#[derive(Debug)]
pub struct Servers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    sockets: [SocketFile; 2],
}

impl Servers {
    /// Stops them, with a moment for answers that are under way, and removes their sockets.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for socket in &self.sockets {
            if let Err(error) = socket.remove() {
                tracing::warn!(socket = %socket.path.display(), %error, "a socket stays behind");
            }
        }
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(Duration::from_millis(500), task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// A socket's file, as it was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }

    /// Removes it, unless another file has come into its place: that is somebody else's.
    fn remove(&self) -> io::Result<()> {
        match Self::at(&self.path) {
            Ok(found) if (found.device, found.inode) == (self.device, self.inode) => {
                fs::remove_file(&self.path)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Takes the right to make both sockets, and sees to it that nobody listens there.
pub(crate) fn claim(settings: &Settings) -> Result<[Lock; 2], Error> {
    let claim = |path: &Path, what| -> Result<Lock, Error> {
        make_folder(path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let lock = Lock::take(Path::new(&beside), what, path)?;
        vacant(path)?;
        Ok(lock)
    };
    Ok([
        claim(&settings.socket, "the control socket")?,
        claim(&settings.agents_socket, "the agents' socket")?,
    ])
}

/// Makes both sockets and serves them. From then on the kernel refuses governed tasks the first.
pub(crate) fn start(daemon: &Arc<Daemon>) -> Result<Servers, Error> {
    let (control, agents) = (&daemon.settings.socket, &daemon.settings.agents_socket);
    let stop = watch::Sender::new(false);
    let control_listener = bind(control, 0o660, true)?;
    let control_file = SocketFile::at(control).map_err(failed("look at", control))?;
    daemon.kernel.set_control_socket(control_file.inode, kernel_device(control_file.device))?;
    let agents_listener = bind(agents, 0o666, false)?;
    let agents_file = SocketFile::at(agents).map_err(failed("look at", agents))?;
    let tasks =
        [(control_listener, Door::Control), (agents_listener, Door::Agents)].map(|(listener, door)| {
            let router = match door {
                Door::Control => control_router(daemon),
                Door::Agents => agents_router(daemon),
            };
            let guarded = Guarded { listener, door, daemon: Arc::clone(daemon) };
            let mut stopped = stop.subscribe();
            tokio::spawn(async move {
                let service = router.into_make_service_with_connect_info::<Guest>();
                let until = async move {
                    // Nobody is left to say so: that is a stop as well.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                let Ok(()) =
                    axum::serve(guarded, service).with_graceful_shutdown(until).await.map_err(|error| {
                        tracing::error!(%error, "a socket is served no longer");
                    })
                else {
                    return;
                };
            })
        });
    Ok(Servers { stop, tasks: tasks.into(), sockets: [control_file, agents_file] })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Socket { what, path: path.to_owned(), source }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(failed("make the folder of", path))
}

/// Fails where somebody listens, or where there is something that no daemon has left.
fn vacant(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(Error::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(Error::InUse { path: path.to_owned() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(failed("try", path)(error)),
    }
}

fn bind(path: &Path, mode: u32, for_group: bool) -> Result<UnixListener, Error> {
    // What is left there is of a daemon that died: whoever lives holds the claim.
    vacant(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", path)(error)),
        _ => {}
    }
    let listener = StdUnixListener::bind(path).map_err(failed("bind", path))?;
    if for_group && let Some(group) = control_group() {
        chown(path, None, Some(group.as_raw())).map_err(failed("hand over", path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))?;
    listener.set_nonblocking(true).map_err(failed("set up", path))?;
    UnixListener::from_std(listener).map_err(failed("set up", path))
}

/// A device number as the kernel keeps it (`s_dev`: 12 bits major, 20 bits minor), from the one that user space sees.
fn kernel_device(device: u64) -> u64 {
    (u64::from(libc::major(device)) << 20) | u64::from(libc::minor(device))
}

#[cfg(test)]
mod tests {
    use super::{Error, SocketFile, kernel_device, vacant};
    use std::{fs, os::unix::net::UnixListener};

    #[test]
    fn a_socket_is_replaced_only_where_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        vacant(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(vacant(&path), Err(Error::InUse { .. })));
        drop(listener);
        assert!(path.exists());
        vacant(&path).unwrap();
        let file = folder.path().join("notes");
        fs::write(&file, "mine").unwrap();
        assert!(matches!(vacant(&file), Err(Error::NoSocket { .. })));
    }

    #[test]
    fn only_its_own_socket_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let _first = UnixListener::bind(&path).unwrap();
        let own = SocketFile::at(&path).unwrap();
        fs::rename(&path, folder.path().join("aside")).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        own.remove().unwrap();
        assert!(path.exists(), "another daemon's");
        SocketFile::at(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
        own.remove().unwrap();
    }

    #[test]
    fn a_device_is_numbered_as_the_kernel_does() {
        assert_eq!(kernel_device(libc::makedev(8, 1)), 8 << 20 | 1);
        assert_eq!(kernel_device(libc::makedev(0, 300)), 300);
    }
}
