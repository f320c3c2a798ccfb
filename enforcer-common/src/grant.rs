//! Requests and grants: an action that waits for a person, and the answer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a request is for, and so what a grant answers: the agent, the content of the rule, the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestKey {
    /// The agent's id.
    pub agent: u64,
    /// [`crate::rule::Rule::content`].
    pub rule: u64,
    /// The keyed hash of the object: kind of action, access and path, or protocol, address and port.
    pub object: [u64; 2],
}

/// An answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Grant {
    /// When it ends, in nanoseconds since boot.
    pub expires_ns: u64,
    /// How often it can still be used. Counted down by atomic subtraction: below zero is none.
    pub uses: i64,
    /// 1 when it allows, 0 when it refuses.
    pub allows: u64,
}

impl Grant {
    /// As many uses as it likes until it expires.
    pub const UNLIMITED: i64 = i64::MAX / 2;

    /// Whether it has run out or is used up.
    #[must_use]
    pub fn is_useless(&self, now_ns: u64) -> bool {
        self.expires_ns <= now_ns || self.uses <= 0
    }
}

/// What the grants say about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Allowed, and one use is taken.
    Allowed,
    /// Refused, and one use is taken.
    Refused,
    /// No answer; the request is filed, now or before.
    Waiting,
    /// No answer, and the request cannot be filed.
    Full,
}

crate::layout!(RequestKey: 32, Grant: 24);
