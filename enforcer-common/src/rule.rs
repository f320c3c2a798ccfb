//! A rule as the kernel holds it, and the fixed part of a policy's slot.

use crate::{address::Address, path::Automaton, verdict::Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The index of no rule.
pub const NO_RULE: u32 = u32::MAX;

/// One rule of a policy, at its index in the slot's rules. Network rules come first in their order, then file
/// rules, then exec rules, then the three defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rule {
    /// Names the rule's content over reloads: grants, counters and rates are bound to it.
    pub content: u64,
    /// Throttle: nanoseconds for one token.
    pub interval_ns: u64,
    /// Throttle: nanoseconds that tokens may be ahead of time, (burst - 1) × interval.
    pub tolerance_ns: u64,
    /// Escalate: nanoseconds until the request is answered by `on_timeout`.
    pub timeout_ns: u64,
    /// Escalate: nanoseconds that an answer holds, from the answer on; 0 for one use.
    pub remember_ns: u64,
    /// Sandbox: where the action goes instead.
    pub redirect: Address,
    /// Sandbox: the port there, in host byte order.
    pub redirect_port: u16,
    /// The number of a [`Verdict`].
    pub verdict: u8,
    /// Escalate: the number of the verdict when time runs out, allow or block.
    pub on_timeout: u8,
    /// 1 for the default of a table, which no rule stands behind.
    pub is_default: u8,
    /// 1 when allowed actions make events too.
    pub log_all: u8,
    /// Escalate and throttle: the number of the [`crate::hold::Hold`] of a call that has to wait.
    pub hold: u8,
    /// Zero.
    pub zero: [u8; 1],
}

impl Rule {
    /// The rule's verdict; a number that is none blocks.
    #[inline(always)]
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::from_number(self.verdict).unwrap_or(Verdict::Block)
    }
}

/// Automata of a policy that read the path from its front.
pub const LANES_FORWARD: usize = 4;
/// Automata of a policy that read single names.
pub const LANES_NAMES: usize = 1;
/// Automata of a policy that read the path from its end.
pub const LANES_BACKWARD: usize = 3;
/// All automata of a policy, in the order forward, names, backward.
pub const LANES: usize = LANES_FORWARD + LANES_NAMES + LANES_BACKWARD;

/// The fixed part of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotHeader {
    /// Which policy lies here, by the number of its load; 0 for none.
    pub policy: u32,
    /// Rules in the slot.
    pub rules: u32,
    /// The index of the default of network actions.
    pub default_network: u32,
    /// The index of the default of file actions.
    pub default_file: u32,
    /// The index of the default of exec actions.
    pub default_exec: u32,
    /// The word at which the cells of the automata begin; see [`crate::path`].
    pub cells: u32,
    /// Where the search for an IPv4 endpoint begins: an [`crate::network::Entry`].
    pub root_v4: u32,
    /// Where the search for an IPv6 endpoint begins.
    pub root_v6: u32,
    /// The automata; one whose `start` is [`crate::path::DEAD`] is not there.
    pub lanes: [Automaton; LANES],
}

/// A mark keeps a rule's index in 16 bits.
const _: () = assert!(crate::limits::RULES_MAX <= u16::MAX as u32);

/// The kernel masks the number of a lane instead of comparing it.
const _: () = assert!(LANES.is_power_of_two());

crate::layout!(Rule: 64, SlotHeader: 32 + LANES * size_of::<Automaton>());
