//! An action: one attempt of an agent, with the facts that rules look at.

use crate::address::Address;

/// What is attempted. The numbers are stable: they are in events and in stored records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ActionKind {
    /// Connecting a socket to an address, also by a TCP fast open.
    Connect = 1,
    /// Sending a datagram to an address.
    Send = 2,
    /// Opening a file that exists.
    Open = 16,
    /// Making a file, by an open or by `mknod`.
    Create = 17,
    /// Executing a program.
    Exec = 32,
}

impl ActionKind {
    /// The kind that a record names, or nothing for a number of a later version.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Connect,
            2 => Self::Send,
            16 => Self::Open,
            17 => Self::Create,
            32 => Self::Exec,
            _ => return None,
        })
    }

    /// The word for people and for JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Open => "open",
            Self::Create => "create",
            Self::Exec => "exec",
        }
    }
}

/// `sk_protocol` of UDP-Lite.
pub const IPPROTO_UDPLITE: u32 = 136;

/// Transport protocols that rules can name. The numbers are those of the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// No rule can name it: the default decides.
    Other = 0,
    /// TCP, and MPTCP, which is TCP to everybody but the kernel.
    Tcp = 6,
    /// UDP, and UDP-Lite.
    Udp = 17,
}

impl Protocol {
    /// The protocol of a socket from `sk_type` and `sk_protocol`. A raw socket has none that a rule could name, whatever
    /// its number: its program writes the headers, ports among them.
    #[inline(always)]
    #[must_use]
    pub fn from_socket(kind: u32, number: u32) -> Self {
        const SOCK_RAW: u32 = 3;
        const IPPROTO_MPTCP: u32 = 262;
        match number {
            _ if kind == SOCK_RAW => Self::Other,
            6 | IPPROTO_MPTCP => Self::Tcp,
            17 | IPPROTO_UDPLITE => Self::Udp,
            _ => Self::Other,
        }
    }

    /// The word for people and for JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The other end of a network action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Canonical, so that one host has one spelling.
    pub address: Address,
    /// In host byte order.
    pub port: u16,
    /// Of the socket.
    pub protocol: Protocol,
}

/// How many kinds of access there are, and so how many rules a path can match at once.
pub const ACCESS_KINDS: usize = 4;

/// A set of kinds of access to a path. One act can be several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Access(pub u8);

impl Access {
    /// Opening for reading.
    pub const READ: Self = Self(1);
    /// Opening for writing, or truncating.
    pub const WRITE: Self = Self(2);
    /// Making the file.
    pub const CREATE: Self = Self(4);
    /// Executing it.
    pub const EXEC: Self = Self(8);

    /// Both sets together.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the kind with the given position (0 read, 1 write, 2 create, 3 exec) is in the set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, position: usize) -> bool {
        self.0 & (1 << position) != 0
    }

    /// The words of the set, for people and for JSON.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        ["read", "write", "create", "exec"]
            .into_iter()
            .enumerate()
            .filter_map(move |(position, word)| self.has(position).then_some(word))
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol;

    #[test]
    fn a_raw_socket_has_no_protocol_that_rules_name() {
        const STREAM: u32 = 1;
        const DATAGRAM: u32 = 2;
        const RAW: u32 = 3;
        for (kind, number, protocol) in [
            (STREAM, 6, Protocol::Tcp),
            (STREAM, 262, Protocol::Tcp),
            (DATAGRAM, 17, Protocol::Udp),
            (DATAGRAM, 136, Protocol::Udp),
            (DATAGRAM, 1, Protocol::Other),
            (STREAM, 132, Protocol::Other),
            (RAW, 17, Protocol::Other),
            (RAW, 6, Protocol::Other),
        ] {
            assert_eq!(Protocol::from_socket(kind, number), protocol, "{kind} {number}");
        }
    }
}
