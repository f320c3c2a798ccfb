//! A checked policy as plain data: what the compiler compiles and the oracle reads.
//!
//! Having a [`Policy`] proves that every value in it is in range and canonical. No text of the file is in it
//! but names, messages and globs.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use enforcer_common::hold::Hold;
use ipnet::IpNet;

use super::glob::Glob;
pub use super::rate::Rate;

/// The version of the policy language that this program reads.
pub const VERSION: u32 = 1;

/// What an agent may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The version of the language it is written in.
    pub version: u32,
    /// What people call it.
    pub name: String,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Which actions make events.
    pub log: Log,
    /// The verdicts on what no rule matches.
    pub default: Defaults,
    /// The rules on connections and datagrams, the first match decides.
    pub network: Vec<NetworkRule>,
    /// The rules on files, the first match decides.
    pub file: Vec<FileRule>,
    /// The rules on programs, the first match decides.
    pub exec: Vec<ExecRule>,
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    Enforce,
    /// Actions are decided and logged, and all of them pass.
    Audit,
}

/// Which actions make events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Those that are not simply allowed.
    Denied,
    /// All.
    All,
}

/// The verdicts on what no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// On connections and datagrams.
    pub network: Answer,
    /// On opening and creating files.
    pub files: Answer,
    /// On starting programs.
    pub exec: Answer,
    /// The line on which they begin.
    pub line: usize,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The action passes.
    Allow,
    /// The action is refused.
    Block,
}

/// One rule: when it matches, its action decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<M> {
    /// What people call it: unique in its policy. A rule without one is called by its place, `network[1]`.
    pub name: String,
    /// The line on which it begins.
    pub line: usize,
    /// What becomes of a matching action.
    pub action: Action,
    /// What the agent is told when it asks why.
    pub message: Option<String>,
    /// Which actions it matches.
    pub matches: M,
}

/// A rule on connections and datagrams.
pub type NetworkRule = Rule<NetworkMatch>;
/// A rule on files.
pub type FileRule = Rule<FileMatch>;
/// A rule on programs.
pub type ExecRule = Rule<ExecMatch>;

/// What becomes of an action, with all that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is refused.
    Block,
    /// It passes while there are tokens.
    Throttle {
        /// How fast tokens come back.
        rate: Rate,
        /// How many there are at most: at least 1.
        burst: u32,
        /// What waits for one where there is none.
        hold: Hold,
    },
    /// It goes somewhere harmless. Only network rules have it.
    Sandbox {
        /// Where connections go: of the family of all addresses of the rule.
        redirect: SocketAddr,
    },
    /// It waits for a person.
    Escalate {
        /// For how long.
        timeout: Duration,
        /// What holds when nobody has answered.
        on_timeout: Answer,
        /// How long an answer holds for the same object; nothing: for the one action.
        remember: Option<Duration>,
        /// What waits.
        hold: Hold,
    },
}

/// Which connections and datagrams a rule matches: those that meet all three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMatch {
    /// The networks of the other end, without host bits; empty: any address.
    pub to: Vec<IpNet>,
    /// The ports of the other end, in order and apart from each other; empty: any port.
    pub ports: Vec<RangeInclusive<u16>>,
    /// The protocols.
    pub protocols: Protocols,
}

/// A set of protocols, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// Which uses of files a rule matches: those that meet both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMatch {
    /// The paths, at least one.
    pub paths: Vec<Glob>,
    /// The kinds of access.
    pub access: Access,
}

/// A set of kinds of access, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Opening to read.
    pub read: bool,
    /// Opening to write.
    pub write: bool,
    /// Making a file.
    pub create: bool,
}

/// Which programs a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecMatch {
    /// The paths of their files, at least one.
    pub paths: Vec<Glob>,
}

impl Action {
    /// Its word in a policy.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Throttle { .. } => "throttle",
            Self::Sandbox { .. } => "sandbox",
            Self::Escalate { .. } => "escalate",
        }
    }
}

impl Protocols {
    /// Both.
    pub const ALL: Self = Self { tcp: true, udp: true };
    /// None, to begin with.
    pub(crate) const NONE: Self = Self { tcp: false, udp: false };

    /// Whether it has all that another has.
    pub fn covers(self, other: Self) -> bool {
        (self.tcp || !other.tcp) && (self.udp || !other.udp)
    }
}

impl Access {
    /// All kinds.
    pub const ALL: Self = Self { read: true, write: true, create: true };
    /// None, to begin with.
    pub(crate) const NONE: Self = Self { read: false, write: false, create: false };

    /// Whether it has all that another has.
    pub fn covers(self, other: Self) -> bool {
        (self.read || !other.read) && (self.write || !other.write) && (self.create || !other.create)
    }
}

impl NetworkMatch {
    /// The networks it matches, `any` spelled out.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        if self.to.is_empty() { super::address::everywhere().to_vec() } else { self.to.clone() }
    }
}

impl Policy {
    /// How many rules it has.
    pub fn rules(&self) -> usize {
        self.network.len() + self.file.len() + self.exec.len()
    }
}
