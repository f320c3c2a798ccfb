//! Who is governed, and by what.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An agent's entry. An agent without one is refused everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AgentEntry {
    /// The slot of its policy.
    pub slot: u32,
    /// The number of that policy's load.
    pub policy: u32,
    /// 1 in audit mode.
    pub audit: u32,
    /// Where its counters are; see [`crate::counter`].
    pub counters: u32,
    /// The id of the agent's cgroup.
    pub cgroup: u64,
    /// Rules of the policy, the defaults among them.
    pub rules: u32,
    /// Stripes of the counters: a power of two.
    pub stripes: u32,
}

/// The mark of being governed, in the storage of a task. It is set once and never taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mark {
    /// The agent's id; ids are never used again.
    pub agent: u64,
    /// A number that only the programs know, by which a mark is told from what other programs keep with a task.
    pub key: u64,
    /// The act that the task is in the middle of.
    pub act: Act,
}

/// What a later hook of the same act needs to know of an earlier one. Overwritten at each act, used once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Act {
    /// The event that was made, or 0.
    pub event: u64,
    /// The folder's dentry, of a creating open; of an exec, the dentry of an interpreter that its open had decided on.
    pub folder: u64,
    /// The hash of the name, of a creating open; of an exec, the `self_exec_id` of the task, which only an exec that
    /// comes through moves on.
    pub name: u64,
    /// What to give back to the rule's rate, in nanoseconds; 0 where no token was taken.
    pub interval_ns: u64,
    /// The object of a request that this act filed, or zero.
    pub object: [u64; 2],
    /// The content of the rule that decided.
    pub rule_content: u64,
    /// The rule that decided; no rule has the greatest number.
    pub rule: u16,
    /// What was decided on of a creating open: [`crate::action::Access`].
    pub access: u8,
    /// 1 when the program of an exec is an ELF file, so that the next file that is opened for the exec is loaded beside it
    /// and passes no other hook.
    pub elf: u8,
    /// The number of an [`crate::action::ActionKind`]; 0 for no act.
    pub kind: u8,
    /// The number of the verdict.
    pub verdict: u8,
    /// The number of the reason.
    pub reason: u8,
    /// 1 when the decision is void should the file exist.
    pub tentative: u8,
}

/// What the programs and the pins are, for the daemon that finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Meta {
    /// [`crate::limits::LAYOUT_VERSION`].
    pub layout_version: u32,
    /// 1 when the LSM programs are attached.
    pub lsm: u32,
    /// Nanoseconds since boot when the pins were made.
    pub created_ns: u64,
    /// The inode number of the control socket; 0 for none.
    pub control_inode: u64,
    /// The device of the control socket, as the kernel numbers it (`s_dev`).
    pub control_device: u64,
}

/// What a socket remembers between two hooks, and for the answers that come back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketRecord {
    /// The thread whose LSM hook decided, as (tgid, tid); 0 when that was used already, all ones in the middle of it.
    pub pid_tgid: u64,
    /// Where the action was to go.
    pub asked: crate::address::Address,
    /// Where the action is to go instead, when the decision was to redirect.
    pub to: crate::address::Address,
    /// Where the socket went when it was last redirected.
    pub replica: crate::address::Address,
    /// The address that is shown instead of `replica`.
    pub shown: crate::address::Address,
    /// The port of `asked`, in host byte order.
    pub asked_port: u16,
    /// The port of `to`, in host byte order.
    pub to_port: u16,
    /// The port of `replica`, in host byte order.
    pub replica_port: u16,
    /// The port of `shown`, in host byte order.
    pub shown_port: u16,
    /// 1 when the decision was to redirect.
    pub redirect: u8,
    /// 1 when the socket shows the address it asked for.
    pub hides: u8,
    /// 1 when a signal ended its connect before that had begun, and nobody has asked for its error yet.
    pub aborted: u8,
    /// Zero.
    pub zero: [u8; 5],
}

/// The key of a counter and of a rate bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CounterKey {
    /// The agent's id.
    pub agent: u64,
    /// [`crate::rule::Rule::content`]; 0 counts decisions that reached no rule.
    pub rule: u64,
}

/// Decisions by verdict, in the order of [`crate::verdict::Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counts(pub [u64; crate::verdict::VERDICTS]);

crate::layout!(
    AgentEntry: 32,
    Act: 64,
    Mark: 80,
    Meta: 32,
    SocketRecord: 88,
    CounterKey: 16,
    Counts: 40,
);
