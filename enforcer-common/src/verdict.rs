//! What becomes of an action, and why.

/// What becomes of an action, from the mildest to the strictest: the order decides when one act is several
/// kinds of access. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// It goes on.
    Allow = 0,
    /// Over the rate: `EAGAIN`.
    Throttle = 1,
    /// It happens somewhere harmless.
    Sandbox = 2,
    /// It waits for a person.
    Escalate = 3,
    /// `EPERM`.
    Block = 4,
}

/// How many verdicts there are.
pub const VERDICTS: usize = 5;

impl Verdict {
    /// The verdict that a record names.
    #[inline(always)]
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Allow,
            1 => Self::Throttle,
            2 => Self::Sandbox,
            3 => Self::Escalate,
            4 => Self::Block,
            _ => return None,
        })
    }

    /// The word for people and for JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Throttle => "throttle",
            Self::Sandbox => "sandbox",
            Self::Escalate => "escalate",
            Self::Block => "block",
        }
    }

    /// What the call returns: 0, or an error number below zero.
    #[inline(always)]
    #[must_use]
    pub fn errno(self) -> i32 {
        errno_of(self as u8)
    }
}

/// What becomes of a call that waits; numbers beside those of [`Verdict`].
pub mod outcome {
    /// The kernel makes it again: `ERESTARTNOINTR`, which no program sees.
    pub const AGAIN: u8 = 5;
    /// A signal ends it: `EINTR`.
    pub const INTERRUPTED: u8 = 6;
}

/// What a call returns by the number of its [`Verdict`], or of its [`outcome`]. Without branches, which the kernel's
/// verifier would each follow to the end.
#[inline(always)]
#[must_use]
pub const fn errno_of(number: u8) -> i32 {
    const EPERM: u64 = 1;
    const EINTR: u64 = 4;
    const EAGAIN: u64 = 11;
    /// 513, its ninth bit in place of the seventh.
    const ERESTARTNOINTR: u64 = 0x81;
    const BY_NUMBER: u64 = EAGAIN << (8 * Verdict::Throttle as u64)
        | EAGAIN << (8 * Verdict::Escalate as u64)
        | EPERM << (8 * Verdict::Block as u64)
        | ERESTARTNOINTR << (8 * outcome::AGAIN as u64)
        | EINTR << (8 * outcome::INTERRUPTED as u64);
    let byte = BY_NUMBER >> ((number as u32 * 8) & 63) & 0xff;
    -((byte & 0x7f | (byte & 0x80) << 2) as i32)
}

/// Why a decision came out as it did. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// A rule matched.
    Rule = 1,
    /// No rule matched.
    Default = 2,
    /// A throttle rule matched and had a token.
    WithinRate = 3,
    /// A throttle rule matched and had none.
    OverRate = 4,
    /// An escalate rule matched, and a person has allowed this object.
    Granted = 5,
    /// An escalate rule matched, and a person, or the time that ran out, has refused this object.
    Rejected = 6,
    /// An escalate rule matched, and the request waits for an answer.
    Waiting = 7,
    /// An escalate rule matched, and as many requests wait as there may.
    RequestsFull = 8,
    /// The task is governed, but its agent has no policy.
    NoPolicy = 9,
    /// The policy's tables cannot be read.
    NoTable = 10,
    /// The path is longer or deeper than [`crate::limits::PATH_MAX`].
    PathTooLong = 11,
    /// The path does not lead to the root of the task's mount namespace.
    Disconnected = 12,
    /// No scratch memory is free on this processor.
    NoScratch = 13,
    /// No rate bucket is free, or it could not be taken from.
    NoBucket = 14,
    /// A redirect to an address of the other family.
    RedirectFamily = 15,
    /// A redirect of a socket that was made outside the agent's cgroup.
    RedirectForeign = 16,
    /// A second target on one replica from one unconnected socket, or the replica itself: answers could not be told
    /// apart.
    RedirectAmbiguous = 17,
    /// The facts of the action cannot be read.
    Unreadable = 18,
    /// The daemon's control socket is not for governed tasks.
    ControlSocket = 19,
    /// A redirect of a socket whose protocol no hook can redirect.
    RedirectProtocol = 20,
    /// An unspecified address, where no hook can write loopback in its place.
    Unspecified = 21,
    /// Many datagrams in one call under a rule that counts them, where the kernel shows the first one only.
    Uncounted = 22,
}

impl Reason {
    /// The reason that a record names, or nothing for a number of a later version.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Rule,
            2 => Self::Default,
            3 => Self::WithinRate,
            4 => Self::OverRate,
            5 => Self::Granted,
            6 => Self::Rejected,
            7 => Self::Waiting,
            8 => Self::RequestsFull,
            9 => Self::NoPolicy,
            10 => Self::NoTable,
            11 => Self::PathTooLong,
            12 => Self::Disconnected,
            13 => Self::NoScratch,
            14 => Self::NoBucket,
            15 => Self::RedirectFamily,
            16 => Self::RedirectForeign,
            17 => Self::RedirectAmbiguous,
            18 => Self::Unreadable,
            19 => Self::ControlSocket,
            20 => Self::RedirectProtocol,
            21 => Self::Unspecified,
            22 => Self::Uncounted,
            _ => return None,
        })
    }

    /// The word for JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Default => "default",
            Self::WithinRate => "within-rate",
            Self::OverRate => "over-rate",
            Self::Granted => "granted",
            Self::Rejected => "rejected",
            Self::Waiting => "waiting",
            Self::RequestsFull => "requests-full",
            Self::NoPolicy => "no-policy",
            Self::NoTable => "no-table",
            Self::PathTooLong => "path-too-long",
            Self::Disconnected => "disconnected",
            Self::NoScratch => "no-scratch",
            Self::NoBucket => "no-bucket",
            Self::RedirectFamily => "redirect-family",
            Self::RedirectForeign => "redirect-foreign",
            Self::RedirectAmbiguous => "redirect-ambiguous",
            Self::Unreadable => "unreadable",
            Self::ControlSocket => "control-socket",
            Self::RedirectProtocol => "redirect-protocol",
            Self::Unspecified => "unspecified-address",
            Self::Uncounted => "uncounted",
        }
    }

    /// The sentence for people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Rule => "a rule of the policy decides this action",
            Self::Default => "no rule names this action, so the policy's default decides",
            Self::WithinRate => "the rate of the rule has room",
            Self::OverRate => "the rate of the rule is used up for now; try again later",
            Self::Granted => "a person has allowed this object",
            Self::Rejected => "a person has refused this object, or nobody answered in time",
            Self::Waiting => "the request waits for a person; try again once it is answered",
            Self::RequestsFull => "as many requests wait for people as may; try again later",
            Self::NoPolicy => "the agent has no policy any more, so everything is refused",
            Self::NoTable => "the policy's tables cannot be read, so everything is refused",
            Self::PathTooLong => "the path is longer than can be decided",
            Self::Disconnected => "the path does not lead to the root of the mount namespace",
            Self::NoScratch => "the kernel has no working memory free for this decision; try again",
            Self::NoBucket => "the rate of the rule cannot be counted at the moment",
            Self::RedirectFamily => "the replica has an address of the other family",
            Self::RedirectForeign => "the socket was made outside the agent, so it cannot be redirected",
            Self::RedirectAmbiguous => "the socket already sends to the same replica under another address",
            Self::Unreadable => "the facts of the action cannot be read",
            Self::ControlSocket => "the control socket of the daemon is not for agents",
            Self::RedirectProtocol => "connects of this protocol cannot be redirected",
            Self::Unspecified => "name the address: where this socket's would go is not certain",
            Self::Uncounted => "send the datagrams one by one: this socket's cannot be counted in one call",
        }
    }
}

/// A verdict with its rule and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the action.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, or [`crate::rule::NO_RULE`] where none was reached.
    pub rule: u32,
}

impl Decision {
    /// A refusal because something needed for a decision is missing: what cannot be decided is refused.
    #[inline(always)]
    #[must_use]
    pub const fn refuse(reason: Reason) -> Self {
        Self { verdict: Verdict::Block, reason, rule: crate::rule::NO_RULE }
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, errno_of, outcome};

    #[test]
    fn each_verdict_has_its_error() {
        let errors = [Verdict::Allow, Verdict::Throttle, Verdict::Sandbox, Verdict::Escalate, Verdict::Block];
        assert_eq!(errors.map(Verdict::errno), [0, -11, 0, -11, -1]);
        assert_eq!([outcome::AGAIN, outcome::INTERRUPTED].map(errno_of), [-513, -4]);
    }
}
