//! From an address and a port to a rule: each is mapped to a class, and the pair of classes to the first rule
//! that matches both.
//!
//! An *address class* is the set of rules that cover a prefix, whatever their ports; a *port class* the set of
//! rules that cover a (protocol, port), whatever their addresses. The compiler numbers the sets that occur and
//! resolves first-match: an address class carries the first of its rules that covers every port, and the table
//! of pairs holds only those pairs whose first common rule comes before that one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The value of an address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddressClass {
    /// The number of the class within its policy.
    pub id: u32,
    /// The first rule of the class that covers every port of TCP and of UDP, or the default.
    pub base: u32,
}

/// The port class of ports that only rules for every port cover. No pair has it.
pub const PORT_CLASS_ANY: u32 = 0;

/// The key of the table of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PairKey {
    /// [`AddressClass::id`].
    pub address: u32,
    /// A port class that is not [`PORT_CLASS_ANY`].
    pub port: u32,
}

/// The bytes that the trie of ports is keyed by: protocol, zero, port in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortKey {
    /// The number of [`crate::action::Protocol`].
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
    /// In network order.
    pub port_be: [u8; 2],
}

impl PortKey {
    /// The bits before the port.
    pub const PORT_AT_BITS: u32 = 16;

    /// The key of one port.
    #[inline(always)]
    #[must_use]
    pub const fn new(protocol: crate::action::Protocol, port: u16) -> Self {
        Self { protocol: protocol as u8, zero: 0, port_be: port.to_be_bytes() }
    }
}

crate::layout!(AddressClass: 8, PairKey: 8, PortKey: 4);
