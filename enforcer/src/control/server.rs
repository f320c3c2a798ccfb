//! The daemon's ends of the two sockets.
//!
//! Who connects is looked at before a byte is read. The control socket is for root and the group `enforcer`, and
//! for no governed task, root or not: the kernel refuses those by their mark, and where it cannot, the look here
//! does. The agents' socket is for governed tasks, and tells each only of itself.

use super::{
    api::chain,
    peer::{GROUP, Peer, control_group},
    routes::{agents_router, control_router},
};
use crate::{agents::AgentId, daemon::Daemon};
use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener as StdUnixListener,
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
}

impl Guarded {
    /// Who it is, if it may come in.
    fn look_at(&self, stream: &UnixStream) -> Result<Guest, String> {
        let peer = Peer::of(stream).map_err(|error| error.to_string())?;
        if peer.process.is_none() {
            return Err("the process has ended".to_owned());
        }
        let agent = self.daemon.agents.of_peer(&peer).map_err(|error| chain(&error))?;
        match (self.door, agent) {
            (Door::Control, Some(agent)) => Err(format!("the process belongs to agent {agent}")),
            (Door::Control, None) if !peer.may_control(control_group()) => {
                Err(format!("user {} is neither root nor in the group `{GROUP}`", peer.uid))
            }
            _ => Ok(Guest { peer, agent }),
        }
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
    sockets: Vec<PathBuf>,
}

impl Servers {
    /// Stops them, with a moment for answers that are under way, and removes their sockets.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for path in &self.sockets {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(socket = %path.display(), %error, "a socket stays behind");
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

/// Makes both sockets and serves them. From then on the kernel refuses governed tasks the first.
pub(crate) fn start(daemon: &Arc<Daemon>) -> Result<Servers, Error> {
    let (control, agents) = (&daemon.settings.socket, &daemon.settings.agents_socket);
    let stop = watch::Sender::new(false);
    let control_listener = bind(control, 0o660, true)?;
    let file = fs::metadata(control).map_err(failed("look at", control))?;
    daemon.kernel.set_control_socket(file.ino(), kernel_device(file.dev()))?;
    let agents_listener = bind(agents, 0o666, false)?;
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
    Ok(Servers { stop, tasks: tasks.into(), sockets: vec![control.clone(), agents.clone()] })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Socket { what, path: path.to_owned(), source }
}

fn bind(path: &Path, mode: u32, for_group: bool) -> Result<UnixListener, Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of", folder))?;
    }
    // Whoever holds the lock of the pins is the only daemon, so a socket that is there is nobody's.
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
    use super::kernel_device;

    #[test]
    fn a_device_is_numbered_as_the_kernel_does() {
        assert_eq!(kernel_device(libc::makedev(8, 1)), 8 << 20 | 1);
        assert_eq!(kernel_device(libc::makedev(0, 300)), 300);
    }
}
