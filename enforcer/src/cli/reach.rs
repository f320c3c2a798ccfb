//! Reaching the daemon, and starting one for a run where none is.

use super::{
    Shared,
    exit::{Exit, Problem},
};
use crate::control::{
    api::{Failure, FailureKind, StatusView},
    client::{self, Client},
};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// What a daemon for a run says once it can be reached.
pub(super) const READY: &str = "ready";

/// How often it is tried while daemons come and go, and how long it is waited between.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// A client of a daemon that answers; one is started where none does.
pub(super) async fn reach_or_start(shared: &Shared) -> Result<Client, Problem> {
    let client = shared.client();
    let mut last = None;
    for _ in 0..TRIES {
        match client.get::<StatusView>("/status").await {
            Ok(_) => return Ok(client),
            // It is about to end: there is room for another in a moment.
            Err(client::Error::Closed { .. }) => tokio::time::sleep(PAUSE).await,
            Err(client::Error::Failure(failure)) if failure.kind == FailureKind::Conflict => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(client::Error::Unreachable { .. }) => match start(&shared.socket) {
                Ok(()) => {}
                Err(problem) if problem.exit == Exit::Busy => {
                    last = Some(problem);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(problem) => return Err(problem),
            },
            Err(error) => return Err(error.into()),
        }
    }
    match (client.get::<StatusView>("/status").await, last) {
        (Ok(_), _) => Ok(client),
        (Err(_), Some(problem)) => Err(problem),
        (Err(error), None) => Err(error.into()),
    }
}

/// Starts a daemon that ends with the last run, and waits until it can be reached.
fn start(socket: &Path) -> Result<(), Problem> {
    if !nix::unistd::geteuid().is_root() {
        let problem = Problem::new(Exit::Unreachable, format!("no daemon answers at `{}`", socket.display()));
        return Err(problem
            .hint("start it with `systemctl start enforcer`; only root can have one started for a run"));
    }
    let failed =
        |what: &str, error: &std::io::Error| Problem::new(Exit::Failed, format!("cannot {what}: {error}"));
    // One at a time: the others find the daemon that the first has started.
    let _turn = turn(socket).map_err(|error| failed("take turns to start a daemon", &error))?;
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    let log = log_beside(socket).map_err(|error| failed("open the daemon's log", &error))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("enforcer").args(["daemon", "--transient", "--socket"]).arg(socket);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // SAFETY: a system call without arguments. In a session of its own it does not hear the terminal.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
    let mut child = command.spawn().map_err(|error| failed("start a daemon", &error))?;
    let mut told = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut told).map_err(|error| failed("hear from the daemon", &error))?;
    }
    if told.trim() == READY {
        return Ok(());
    }
    let lost = || Problem::new(Exit::Failed, "the daemon that was started for this run ended");
    let problem = serde_json::from_str::<Failure>(&told).map_or_else(|_| lost(), Problem::from);
    Err(problem.hint_unless(format!("see `{}`", log_path(socket).display())))
}

fn turn(socket: &Path) -> std::io::Result<Flock<fs::File>> {
    let path = socket.with_file_name("start.lock");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn log_path(socket: &Path) -> std::path::PathBuf {
    socket.with_file_name("transient.log")
}

fn log_beside(socket: &Path) -> std::io::Result<fs::File> {
    let path = log_path(socket);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Each daemon's log replaces that of the one before.
    let log = OpenOptions::new().append(true).create(true).open(path)?;
    log.set_len(0)?;
    Ok(log)
}

impl Problem {
    fn hint_unless(self, hint: String) -> Self {
        Self { hint: self.hint.or(Some(hint)), ..self }
    }
}
