//! Holding: a thread whose call waits, for a person or for a token, and what kernel and daemon tell each other about it.
//!
//! The kernel writes a [`Waiter`] when a call first waits and has the thread make the same call again and again, its
//! *turns*. It tells the daemon by a [`Notice`]; the daemon freezes the thread, and thaws it once there is an answer,
//! which the next turn meets. As long as the daemon lives it moves the [`Beat`] on; without it a thread does not turn,
//! but stops with its process.

use crate::grant::RequestKey;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What waits when an action cannot be answered at once. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hold {
    /// Nothing: the call fails, and passes when it is tried again after the answer.
    Refuse = 0,
    /// The acting thread.
    Thread = 1,
    /// The process of the acting thread.
    Process = 2,
}

impl Hold {
    /// What a record names, or nothing for a number of a later version.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Refuse,
            1 => Self::Thread,
            2 => Self::Process,
            _ => return None,
        })
    }

    /// The word for people, for JSON and for policies.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Thread => "thread",
            Self::Process => "process",
        }
    }
}

/// Whether a system call of the x86-64 interface can wait: its result is that of the hook, and nothing has happened before
/// that. io_uring makes a result of it, `sendmmsg` a number of datagrams, and `mq_open` has made its queue by then.
#[must_use]
#[inline(always)]
pub fn can_wait(call: u64) -> bool {
    const OPEN: u64 = 2;
    const CONNECT: u64 = 42;
    const SENDTO: u64 = 44;
    const SENDMSG: u64 = 46;
    const EXECVE: u64 = 59;
    const CREAT: u64 = 85;
    const MKNOD: u64 = 133;
    const OPENAT: u64 = 257;
    const MKNODAT: u64 = 259;
    const EXECVEAT: u64 = 322;
    const OPENAT2: u64 = 437;
    matches!(
        call,
        OPEN | CONNECT | SENDTO | SENDMSG | EXECVE | CREAT | MKNOD | OPENAT | MKNODAT | EXECVEAT | OPENAT2
    )
}

/// A thread, for good: numbers of threads are used again, beginnings are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadKey {
    /// When it began, in nanoseconds since boot.
    pub start_ns: u64,
    /// Its number in the first PID namespace.
    pub tid: u32,
    /// The number of its process there.
    pub tgid: u32,
}

/// Values of [`Waiter::state`].
pub mod state {
    /// It turns, or is frozen in the middle of that. Kernel and daemon.
    pub const TURNING: u32 = 0;
    /// It was stopped and not continued: its process stops as by a `SIGSTOP`. Kernel.
    pub const STOPPED: u32 = 1;
    /// A handler without `SA_RESTART` ran: the next turn ends the call with `EINTR`. Kernel.
    pub const INTERRUPTED: u32 = 2;
    /// It cannot be held: the next turn refuses the call, whose request stays. Daemon.
    pub const REFUSED: u32 = 3;
}

/// A thread whose call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Waiter {
    /// What it waits for. The object is zero where that is a token of the rule's rate.
    pub request: RequestKey,
    /// When it began to wait, in nanoseconds since boot.
    pub since_ns: u64,
    /// When it turned last.
    pub turned_ns: u64,
    /// When it began to turn without a rest.
    pub turning_ns: u64,
    /// When the daemon was last told.
    pub noticed_ns: u64,
    /// When there will be a token, in nanoseconds since boot; 0 where it waits for a person.
    pub due_ns: u64,
    /// How often it turned.
    pub turns: u64,
    /// One of [`state`].
    pub state: u32,
    /// The number of the [`Hold`] that the rule asks for.
    pub hold: u8,
    /// The number of the [`crate::action::ActionKind`].
    pub kind: u8,
    /// Zero.
    pub zero: [u8; 2],
}

/// The signals that do nothing where nobody asked for them, as a set of bits: signal 1 is bit 0. `SIGCHLD`, `SIGCONT`,
/// `SIGURG` and `SIGWINCH`, as in signal(7).
pub const IGNORED_BY_DEFAULT: u64 = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27;

/// Values of [`Notice::what`].
pub mod notice {
    /// A thread turns, or its process stopped for it.
    pub const WAITS: u32 = 1;
    /// A signal that does something was sent to a thread, or to the whole of a process where the thread is 0.
    pub const SIGNAL: u32 = 2;
}

/// What the kernel tells the thread of the daemon that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Notice {
    /// When, in nanoseconds since boot.
    pub time_ns: u64,
    /// Of whom; of a signal to a process only the process.
    pub thread: ThreadKey,
    /// One of [`notice`].
    pub what: u32,
    /// Of a signal, its number.
    pub signal: u32,
}

/// The daemon's sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Beat {
    /// When it last said that it lives, in nanoseconds since boot.
    pub time_ns: u64,
}

crate::layout!(ThreadKey: 16, Waiter: 88, Notice: 32, Beat: 8);
