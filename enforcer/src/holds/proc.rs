//! What `/proc` tells of a thread: whether it is the one that is meant, where it lives, which signals it waits to take.

use crate::{
    agents::{census, cgroup},
    kernel,
};
use enforcer_common::hold::{IGNORED_BY_DEFAULT, ThreadKey, Waiter, can_wait, state};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

/// Nanoseconds of a tick, in which `/proc` tells when a thread began: `USER_HZ` is 100 everywhere but on Alpha.
const TICK_NS: u64 = 10_000_000;

/// That the kernel knows no such thread, or not any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
}

/// Room for what the kernel tells of a thread, so that one system call reads all of it.
const ROOM: usize = 4096;

fn file(thread: &ThreadKey, name: &str) -> String {
    format!("/proc/{}/task/{}/{name}", thread.tgid, thread.tid)
}

/// What the kernel tells of a thread; nothing where it is gone.
fn read(thread: &ThreadKey, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(ROOM);
    let read = File::open(file(thread, name)).and_then(|file| file.take(u64::MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How a thread is that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It runs, sleeps or is frozen.
    Going,
    /// It was stopped by a signal, or by a tracer.
    Stopped,
}

/// How a thread is; nothing where it is dead, or another one has its number. What cannot be told is an error.
pub(super) fn condition(thread: &ThreadKey) -> io::Result<Option<Condition>> {
    Ok(read(thread, "stat")?.and_then(|stat| condition_in(&stat, thread)))
}

fn condition_in(stat: &[u8], thread: &ThreadKey) -> Option<Condition> {
    let (state, ticks) = begun(stat)?;
    match state {
        _ if ticks != thread.start_ns / TICK_NS => None,
        b'Z' | b'X' => None,
        b'T' | b't' => Some(Condition::Stopped),
        _ => Some(Condition::Going),
    }
}

/// The letter of a thread's state, and when it began, in ticks since boot.
fn begun(stat: &[u8]) -> Option<(u8, u64)> {
    let mut fields = std::str::from_utf8(census::after_name(stat)?).ok()?.split_ascii_whitespace();
    // The state is field 3, the beginning field 22.
    let state = *fields.next()?.as_bytes().first()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((state, ticks))
}

/// Has the process of a thread go on, which stopped for it; not where the thread is gone, since its number may have become
/// another's.
pub(super) fn resume(thread: &ThreadKey) -> io::Result<()> {
    let process = kernel::pidfd(thread.tgid)?;
    match condition(thread)? {
        Some(_) => kernel::signal(process.as_fd(), Signal::SIGCONT),
        None => Ok(()),
    }
}

/// Whether a thread that stands still does so in a system call that can wait; nothing where it does not stand still, or the
/// kernel does not tell.
pub(super) fn is_in_call(thread: &ThreadKey) -> Option<bool> {
    let told = String::from_utf8(read(thread, "syscall").ok()??).ok()?;
    let number = told.split_ascii_whitespace().next()?;
    match number {
        "running" => None,
        // -1 where it is in none.
        number => Some(number.parse().is_ok_and(can_wait)),
    }
}

/// The cgroup that a thread lives in, under the mount of the hierarchy; nothing where the thread is gone.
pub(super) fn cgroup_of(thread: &ThreadKey, mount: &Path) -> io::Result<Option<PathBuf>> {
    let Some(bytes) = read(thread, "cgroup")? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(cgroup::parse(&text).map(|path| mount.join(path.trim_start_matches('/'))))
}

/// The threads of a process; none where it is gone.
pub(super) fn threads_of(tgid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{tgid}/task")).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The signals of a thread, as sets of bits: signal 1 is bit 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    blocked: u64,
    ignored: u64,
    caught: u64,
    pending: u64,
}

impl Signals {
    /// Of a thread; nothing where it is gone.
    pub(super) fn of(thread: &ThreadKey) -> Option<Self> {
        // The name of a thread is any bytes.
        Self::parse(&String::from_utf8_lossy(&read(thread, "status").ok()??))
    }

    fn parse(status: &str) -> Option<Self> {
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self {
            blocked: set("SigBlk:")?,
            ignored: set("SigIgn:")?,
            caught: set("SigCgt:")?,
            pending: set("SigPnd:")? | set("ShdPnd:")?,
        })
    }

    /// Whether it would take a signal of its process.
    pub(super) fn takes(self, signal: u32) -> bool {
        signal.checked_sub(1).is_some_and(|bit| self.blocked.checked_shr(bit).unwrap_or(1) & 1 == 0)
    }

    /// Whether it has one to take that does something, which it does not while it is frozen. Not `SIGCONT`: the daemon
    /// sends that one itself, and a handler for it is to run when the wait is over. Nor the `SIGSTOP` of a turn after which
    /// its process was to stop.
    pub(super) fn has_one_to_take(self, waiter: Option<&Waiter>) -> bool {
        const CONT: u64 = 1 << (libc::SIGCONT - 1);
        const STOP: u64 = 1 << (libc::SIGSTOP - 1);
        let is_stopping = waiter.is_some_and(|waiter| waiter.state == state::STOPPED);
        let own = if is_stopping { CONT | STOP } else { CONT };
        let void = self.ignored | IGNORED_BY_DEFAULT & !self.caught;
        self.pending & !self.blocked & !void & !own != 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition, Signals, TICK_NS, begun, cgroup_of, condition, condition_in, threads_of};
    use crate::holds::tests::waiter;
    use enforcer_common::hold::{ThreadKey, Waiter, state};
    use std::path::Path;

    const STAT: &[u8] = b"812 (a) Z \xff) S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 8 7\n";

    #[test]
    fn the_beginning_is_found_behind_any_name() {
        assert_eq!(begun(STAT), Some((b'S', 4711)));
        assert_eq!(begun(b"812 (a"), None);
        assert_eq!(begun(b"812 (a) S 1 2"), None);
    }

    #[test]
    fn a_thread_with_the_number_of_another_is_not_it() {
        let thread = |start_ns| ThreadKey { start_ns, tid: 812, tgid: 812 };
        assert_eq!(condition_in(STAT, &thread(4711 * TICK_NS + 9_999_999)), Some(Condition::Going));
        assert_eq!(condition_in(STAT, &thread(4712 * TICK_NS)), None);
        let stat = |state| String::from_utf8_lossy(STAT).replace(") S 1", state).into_bytes();
        assert_eq!(condition_in(&stat(") T 1"), &thread(4711 * TICK_NS)), Some(Condition::Stopped));
        assert_eq!(condition_in(&stat(") t 1"), &thread(4711 * TICK_NS)), Some(Condition::Stopped));
        assert_eq!(condition_in(&stat(") Z 1"), &thread(4711 * TICK_NS)), None);
    }

    #[test]
    fn this_thread_lives_somewhere() {
        let tgid = std::process::id();
        let tid = nix::unistd::gettid().as_raw() as u32;
        let mut thread = ThreadKey { start_ns: 0, tid, tgid };
        let stat = std::fs::read(super::file(&thread, "stat")).unwrap();
        thread.start_ns = begun(&stat).unwrap().1 * TICK_NS;
        assert_eq!(condition(&thread).unwrap(), Some(Condition::Going));
        assert_eq!(condition(&ThreadKey { tid: u32::MAX >> 2, ..thread }).unwrap(), None);
        assert!(threads_of(tgid).contains(&tid));
        let folder = cgroup_of(&thread, Path::new("/mount")).unwrap();
        assert!(folder.is_none_or(|folder| folder.starts_with("/mount")));
        assert!(Signals::of(&thread).is_some());
    }

    #[test]
    fn a_signal_is_to_be_taken_where_it_does_something_and_nothing_blocks_it() {
        let of = |pending: &str, shared: &str, blocked: &str| {
            let text = format!(
                "Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\nSigIgn:\t0000000000001000\n\
                 SigCgt:\t0000000008020002\n"
            );
            Signals::parse(&text).unwrap()
        };
        let takes = |pending, shared, blocked| of(pending, shared, blocked).has_one_to_take(None);
        assert!(takes("2", "0", "0") && takes("0", "2", "0"), "a handler");
        assert!(!takes("2", "0", "2"), "blocked");
        assert!(
            takes("4", "0", "0") && takes("0", "80000", "0"),
            "what ends it with a core, and what stops it"
        );
        assert!(!takes("1000", "0", "0") && !takes("10000", "0", "0"), "ignored, and ignored by default");
        assert!(takes("8000000", "0", "0"), "SIGWINCH, with a handler");
        assert!(!takes("20000", "0", "0"), "that of SIGCONT waits");
        let stopping = Waiter { state: state::STOPPED, ..waiter() };
        assert!(!of("40000", "0", "0").has_one_to_take(Some(&stopping)));
        assert!(of("40000", "0", "0").has_one_to_take(Some(&waiter())));
    }

    #[test]
    fn what_a_thread_blocks_it_does_not_take() {
        let signals = Signals { blocked: 0x8000_0000_0000_0002, ..Signals::default() };
        assert!(signals.takes(1) && !signals.takes(2) && signals.takes(63) && !signals.takes(64));
        assert!(!signals.takes(0) && !signals.takes(65));
    }
}
