//! The record of a decision, as it goes through a ring buffer and as a request lies in its map.

use crate::{
    address::Address,
    limits::{COMM_BYTES, PATH_MAX},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of [`Event::flags`].
pub mod flag {
    /// The policy is in audit mode: the verdict is what would have been, and the action went on.
    pub const AUDIT: u8 = 1;
    /// The decision is on making a file that may turn out to exist. When it does, an event with [`VOID`] and the
    /// same id follows within the same system call.
    pub const TENTATIVE: u8 = 2;
    /// Takes the event with the same id back; all else in it is a copy.
    pub const VOID: u8 = 4;
    /// The call is held until there is an answer. Of a request: whoever waits for it is held, and it goes with them.
    pub const HELD: u8 = 8;
}

/// One decision. In a ring buffer, [`Event::path_bytes`] bytes of the object's path follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// Unique while the programs are loaded: the processor in the upper 16 bits, a count in the others.
    pub id: u64,
    /// The agent's id.
    pub agent: u64,
    /// [`crate::rule::Rule::content`] of the rule that decided; 0 where none was reached.
    pub rule_content: u64,
    /// The object's hash; zero unless the verdict is about a request.
    pub object: [u64; 2],
    /// Of a request: when it is answered by the rule's `on_timeout`, in nanoseconds since boot; else 0.
    pub deadline_ns: u64,
    /// When the acting thread began, in nanoseconds since boot: with `tid` it names the thread for good.
    pub thread_start_ns: u64,
    /// The other end of a network action.
    pub address: Address,
    /// The name of the acting task.
    pub comm: [u8; COMM_BYTES],
    /// The number of the policy's load that decided.
    pub policy: u32,
    /// The index of the rule in it, or [`crate::rule::NO_RULE`].
    pub rule: u32,
    /// What people call the process id.
    pub tgid: u32,
    /// The thread's id.
    pub tid: u32,
    /// The user.
    pub uid: u32,
    /// The port of the other end, in host byte order.
    pub port: u16,
    /// Bytes of the path that follow.
    pub path_bytes: u16,
    /// The number of an [`crate::action::ActionKind`].
    pub kind: u8,
    /// The set of an [`crate::action::Access`].
    pub access: u8,
    /// The number of a [`crate::action::Protocol`].
    pub protocol: u8,
    /// The number of a [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// The number of a [`crate::verdict::Reason`].
    pub reason: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Zero.
    pub zero: [u8; 2],
}

/// An event with its path in place: a request as it lies in its map.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// The decision.
    pub event: Event,
    /// The path; the bytes after [`Event::path_bytes`] mean nothing.
    pub path: [u8; PATH_MAX],
}

/// What was lost or could not be done, per processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Losses {
    /// Events that the ring buffer of refusals and escalations had no room for.
    pub alerts: u64,
    /// Events that the other ring buffer had no room for.
    pub events: u64,
    /// Decisions that no counter was free for.
    pub counts: u64,
    /// Forks refused because the mark could not be stored.
    pub forks: u64,
    /// Tasks that entered an agent's cgroup and could not be marked.
    pub marks: u64,
    /// Decisions refused because no scratch memory was free.
    pub scratch: u64,
}

crate::layout!(Event: 128, Record: 128 + PATH_MAX, Losses: 48);
