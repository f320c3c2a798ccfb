//! One spelling for one host.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A canonical IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`. The unspecified addresses are
/// the loopback ones, because that is where the programs send them. Aligned, so that they copy it by words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The bits of the prefix that all IPv4 addresses share.
    pub const V4_PREFIX_BITS: u32 = 96;

    /// The loopback address of IPv4.
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);

    /// Whether an IPv6 address as it lies in memory (network order) is that of no host: `::`, or `0.0.0.0` in IPv6
    /// notation.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified_v6(words: [u32; 4]) -> bool {
        words[0] == 0
            && words[1] == 0
            && words[3] == 0
            && (words[2] == 0 || words[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff]))
    }

    /// From the four bytes of an IPv4 address in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        let v4 = if u32::from_ne_bytes(v4) == 0 { [127, 0, 0, 1] } else { v4 };
        Self::from_words([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(v4)])
    }

    /// From the four words of an IPv6 address as they lie in memory (network order).
    #[inline(always)]
    #[must_use]
    pub const fn from_v6(words: [u32; 4]) -> Self {
        if words[0] == 0 && words[1] == 0 {
            if words[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff]) {
                return Self::from_v4(words[3].to_ne_bytes());
            }
            if words[2] == 0 && words[3] == 0 {
                return Self::from_words([0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);
            }
        }
        Self::from_words(words)
    }

    #[inline(always)]
    const fn from_words(words: [u32; 4]) -> Self {
        Self(zerocopy::transmute!(words))
    }

    /// The four words as they lie in memory (network order).
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        zerocopy::transmute!(self.0)
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let words = self.words();
        words[0] == 0 && words[1] == 0 && words[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }

    /// The IPv4 address as it lies in memory (network order), for what [`Self::is_v4`] says is one.
    #[inline(always)]
    #[must_use]
    pub const fn v4(&self) -> u32 {
        self.words()[3]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self(v6.octets()).canonical(),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.0).to_canonical()
    }
}

impl Address {
    fn canonical(self) -> Self {
        Self::from_v6(self.words())
    }
}

crate::layout!(Address: 16);

#[cfg(test)]
mod tests {
    use super::Address;
    use core::net::IpAddr;

    fn canonical(text: &str) -> IpAddr {
        Address::from(text.parse::<IpAddr>().unwrap()).into()
    }

    #[test]
    fn one_host_has_one_spelling() {
        for (written, is) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("0.0.0.0", "127.0.0.1"),
            ("::ffff:0.0.0.0", "127.0.0.1"),
            ("::", "::1"),
            ("::1", "::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(canonical(written), is.parse::<IpAddr>().unwrap(), "{written}");
        }
    }

    #[test]
    fn addresses_of_no_host_are_told_from_others() {
        for (written, unspecified) in [
            ("::", true),
            ("::ffff:0.0.0.0", true),
            ("::1", false),
            ("::ffff:0.0.0.1", false),
            ("::1:0:0", false),
            ("1::", false),
        ] {
            let address = Address(written.parse::<core::net::Ipv6Addr>().unwrap().octets());
            assert_eq!(Address::is_unspecified_v6(address.words()), unspecified, "{written}");
        }
    }

    #[test]
    fn v4_is_told_from_v6() {
        assert!(Address::from_v4([10, 0, 0, 1]).is_v4());
        assert_eq!(Address::from_v4([10, 0, 0, 1]).v4().to_ne_bytes(), [10, 0, 0, 1]);
        assert!(!Address::from_v6([0, 0, 0, 1]).is_v4());
    }
}
