//! Starting a command inside an agent.
//!
//! The command line makes the process, so that it is its parent: terminal, signals and exit code pass through.
//! The process is made, waits before its first instruction until the daemon has moved it into the agent's cgroup
//! and has seen that it is governed, and only then becomes the command.

use crate::kernel::pidfd;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd, siginfo},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid, User, getgrouplist, pipe2, read, setgid, setgroups, setuid, write},
};
use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command},
    thread::JoinHandle,
};

/// Signals that are passed on to the command when they are sent to its parent alone.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Sent by the kernel, which for these signals means the terminal: the whole group in front got it.
const SI_KERNEL: i32 = 0x80;

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Descriptors above 2 that it inherits; all others are closed.
    pub keep: Vec<RawFd>,
    /// Whom it runs as, if not the caller.
    pub user: Option<User>,
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such command.
    #[error("`{}`: no such command", .command.to_string_lossy())]
    NotFound {
        /// The command.
        command: OsString,
    },
    /// It is there and cannot be executed.
    #[error("`{}` cannot be executed: {source}", .command.to_string_lossy())]
    NotExecutable {
        /// The command.
        command: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// A descriptor that is to be kept and is not open.
    #[error("descriptor {number} is not open")]
    Descriptor {
        /// The descriptor.
        number: RawFd,
    },
    /// A system call.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Io { what, source: error.into() }
}

/// A process that is there and waits to become the command.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    go: OwnedFd,
    spawning: JoinHandle<io::Result<Child>>,
    signals: SignalFd,
    command: OsString,
}

impl Launch {
    /// Makes the process. It waits until [`Held::release`], and ends if that never comes.
    pub fn hold(&self) -> Result<Held, Error> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| Error::NotFound { command: OsString::new() })?;
        for number in &self.keep {
            // SAFETY: only asks whether the number is a descriptor.
            if unsafe { libc::fcntl(*number, libc::F_GETFD) } < 0 {
                return Err(Error::Descriptor { number: *number });
            }
        }
        // Before there is a child, so that none of its signals is missed.
        let mask = SigSet::thread_get_mask().map_err(failed("take signals"))?;
        let signals = signals().map_err(failed("take signals"))?;
        let (ready_in, ready_out) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
        let (go_in, go_out) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(user) = &self.user {
            command
                .env("HOME", &user.dir)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name)
                .env("SHELL", &user.shell);
        }
        let identity = self.user.as_ref().map(Identity::of).transpose()?;
        let keep = self.keep.clone();
        let go_out_number = go_out.as_raw_fd();
        let before = move || {
            before_exec(&ready_out, &go_in, go_out_number, &keep, identity.as_ref())?;
            // As it was: the signals that are taken here are the command's own business there.
            Ok(mask.thread_set_mask()?)
        };
        // SAFETY: `before_exec` makes system calls only, and takes no lock and no memory.
        unsafe { command.pre_exec(before) };
        // `spawn` returns only when the exec has succeeded or failed, which is after the release.
        let spawning = std::thread::spawn(move || command.spawn());
        let pid = read_pid(ready_in.as_fd()).map_err(failed("make the process"))?;
        Ok(Held { pid, go: go_out, spawning, signals, command: program.clone() })
    }
}

/// Whom a process becomes.
#[derive(Clone, Debug)]
struct Identity {
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
}

impl Identity {
    fn of(user: &User) -> Result<Self, Error> {
        let name = CString::new(user.name.as_str()).map_err(failed("use the name of the user"))?;
        let groups = getgrouplist(&name, user.gid).map_err(failed("find the groups of the user"))?;
        Ok(Self { user: user.uid, group: user.gid, groups })
    }

    fn assume(&self) -> nix::Result<()> {
        setgroups(&self.groups)?;
        setgid(self.group)?;
        setuid(self.user)
    }
}

/// In the new process: says who it is, waits, and gives up what is not for the command.
fn before_exec(
    ready: &OwnedFd,
    go: &OwnedFd,
    parents_end: RawFd,
    keep: &[RawFd],
    identity: Option<&Identity>,
) -> io::Result<()> {
    // SAFETY: the copy in this process; with it open the parent's end could not be seen to close.
    unsafe { libc::close(parents_end) };
    write(ready, &std::process::id().to_ne_bytes())?;
    let mut byte = [0];
    if read(go, &mut byte)? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ECANCELED));
    }
    // SAFETY: marks descriptors; those of the standard library for its own report are marked already.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for number in keep {
        // SAFETY: unmarks a descriptor that was open before the fork.
        if unsafe { libc::fcntl(*number, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if let Some(identity) = identity {
        identity.assume()?;
    }
    Ok(())
}

fn read_pid(ready: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes = [0; 4];
    match read(ready, &mut bytes)? {
        4 => Ok(u32::from_ne_bytes(bytes)),
        _ => Err(io::Error::other("it ended before it had begun")),
    }
}

fn signals() -> nix::Result<SignalFd> {
    let set: SigSet = FORWARDED.into_iter().collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

impl Held {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it become the command.
    pub fn release(self) -> Result<Running, Error> {
        let Self { go, spawning, signals, command, .. } = self;
        write(&go, &[1]).map_err(failed("release the process"))?;
        let spawned = spawning.join().map_err(|_| io::Error::other("a thread panicked"));
        match spawned.and_then(|spawned| spawned) {
            Ok(child) => {
                let process = pidfd(child.id()).map_err(failed("watch the command"))?;
                Ok(Running { pid: Pid::from_raw(child.id() as i32), process, signals })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NotFound { command }),
            Err(source) => Err(Error::NotExecutable { command, source }),
        }
    }

    /// Ends it before it has begun.
    pub fn cancel(self) {
        drop(self.go);
        // It says that it was cancelled, which is known here.
        let _ = self.spawning.join();
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    /// Readable once it has ended.
    process: OwnedFd,
    signals: SignalFd,
}

impl Running {
    /// Waits for its end, passes signals on meanwhile, and tells its exit code: 128 and the number of the signal
    /// where one ended it.
    pub fn wait(self) -> Result<i32, Error> {
        loop {
            if let Some(code) = self.ended()? {
                return Ok(code);
            }
            let mut ready =
                [self.signals.as_fd(), self.process.as_fd()].map(|one| PollFd::new(one, PollFlags::POLLIN));
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed("wait for the command")(errno)),
            }
            while let Some(signal) = self.signals.read_signal().map_err(failed("read signals"))? {
                self.forward(&signal);
            }
        }
    }

    fn ended(&self) -> Result<Option<i32>, Error> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Ok(Some(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(128 + signal as i32)),
            Ok(_) | Err(Errno::EINTR) => Ok(None),
            Err(errno) => Err(failed("wait for the command")(errno)),
        }
    }

    fn forward(&self, signal: &siginfo) {
        let from_command = signal.ssi_pid == self.pid.as_raw() as u32;
        if signal.ssi_code == SI_KERNEL || from_command {
            return;
        }
        if let Ok(number) = Signal::try_from(signal.ssi_signo as i32)
            && FORWARDED.contains(&number)
        {
            // It may have ended this instant.
            let _ = kill(self.pid, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Launch};
    use nix::sys::signal::Signal;
    use std::{ffi::OsString, io::Read as _, os::fd::AsRawFd as _};

    fn launch(command: &[&str]) -> Launch {
        Launch { command: command.iter().map(OsString::from).collect(), keep: vec![], user: None }
    }

    fn code(command: &[&str]) -> i32 {
        launch(command).hold().unwrap().release().unwrap().wait().unwrap()
    }

    #[test]
    fn the_exit_code_is_the_commands() {
        assert_eq!(code(&["true"]), 0);
        assert_eq!(code(&["sh", "-c", "exit 42"]), 42);
        assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    }

    #[test]
    fn nothing_runs_before_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("made");
        let held = launch(&["touch", file.to_str().unwrap()]).hold().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!file.exists());
        let held_too = launch(&["touch", file.to_str().unwrap()]).hold().unwrap();
        held_too.cancel();
        assert!(!file.exists());
        held.release().unwrap().wait().unwrap();
        assert!(file.exists());
    }

    #[test]
    fn what_cannot_start_says_why() {
        let missing = launch(&["/no/such/command"]).hold().unwrap().release().unwrap_err();
        assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
        let folder = launch(&["/tmp"]).hold().unwrap().release().unwrap_err();
        assert!(matches!(folder, Error::NotExecutable { .. }), "{folder}");
        let closed = Launch { keep: vec![999], ..launch(&["true"]) }.hold().unwrap_err();
        assert!(matches!(closed, Error::Descriptor { number: 999 }), "{closed}");
    }

    #[test]
    fn only_named_descriptors_are_inherited() {
        let (mut kept, kept_end) = std::io::pipe().unwrap();
        let (_other, other_end) = std::io::pipe().unwrap();
        let number = kept_end.as_raw_fd();
        // As an agent's parent would leave them: open for children.
        for end in [number, other_end.as_raw_fd()] {
            // SAFETY: unmarks a descriptor of this test.
            unsafe { libc::fcntl(end, libc::F_SETFD, 0) };
        }
        let script = format!("ls /proc/self/fd >&{number}");
        let held = Launch { keep: vec![number], ..launch(&["bash", "-c", &script]) }.hold().unwrap();
        drop(kept_end);
        assert_eq!(held.release().unwrap().wait().unwrap(), 0);
        let mut listed = String::new();
        kept.read_to_string(&mut listed).unwrap();
        let open: Vec<i32> = listed.lines().map(|line| line.parse().unwrap()).collect();
        assert!(open.contains(&number), "{open:?}");
        assert!(!open.contains(&other_end.as_raw_fd()), "{open:?}");
    }

    #[test]
    fn a_signal_to_the_parent_alone_reaches_the_command() {
        let running = launch(&["sleep", "30"]).hold().unwrap().release().unwrap();
        // To this thread alone: the other tests' threads would die of it.
        nix::sys::signal::raise(Signal::SIGTERM).unwrap();
        assert_eq!(running.wait().unwrap(), 128 + 15);
    }
}
