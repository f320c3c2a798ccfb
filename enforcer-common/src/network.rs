//! From an endpoint to its rule: a chain of searches among sorted words.
//!
//! An endpoint is five *keys*: the four words of the address, the most significant first, and one of protocol and
//! port. What the rules say of it is a function of these. Seen from one key it is a *step function*: up to some
//! word one thing holds, up to the next another. A thing is the rule, where the other keys make no difference, or a
//! *link* to a step function of a later key. So hosts with the same rules lead to the same function of ports, and
//! an IPv4 address, whose first three words are always the same, is a search of one key. Ports come before the
//! address or after it, whichever makes less of a policy; a policy with the same few ports everywhere is searched by
//! address once.
//!
//! A step function is a B+ tree of *rows* of [`ROW_WORDS`] words, one cache line each, so that a search among
//! 100,000 prefixes reads five lines, of which four are in use by every search (see Bayer and McCreight, 1972, and
//! "Static B-Trees" at algorithmica.org for searching a row without a branch):
//!
//! - a *leaf* has [`STEPS`] words, the last keys of its steps in ascending order, then as many *entries*;
//! - an *inner row* has [`FENCES`] words, the last keys below its first children in ascending order, then the entry
//!   of its first child. Its children lie one after the other.
//!
//! Where a row has fewer, `u32::MAX` stands in the place of keys; the last step of a function reaches to there.

use crate::{
    action::{Endpoint, Protocol},
    limits::CHUNK_WORDS,
    words::{ROW_WORDS, Words},
};

/// Keys of an endpoint.
pub const KEYS: usize = 5;
/// The key of an IPv4 address, and the last of an IPv6 address.
pub const KEY_V4: usize = 3;
/// The key of protocol and port.
pub const KEY_PORT: usize = 4;

/// Steps of a leaf.
pub const STEPS: usize = ROW_WORDS / 2;
/// Keys of an inner row, one less than its children.
pub const FENCES: usize = ROW_WORDS - 1;

/// Rows from a root to a leaf at most: a million leaves.
pub const HEIGHT_MAX: usize = 6;

/// What holds for a range of keys: a rule, or a link to the row where the search goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry(pub u32);

impl Entry {
    const KEY_SHIFT: u32 = 29;
    /// Of a link: its row is a leaf. Of a rule: it is plain.
    const FLAG: u32 = 1 << 28;
    /// Rows, and rules, are below this.
    const NUMBER: u32 = Self::FLAG - 1;

    /// A rule by its index. A *plain* one allows and makes no events, so that nothing more need be known of it.
    #[must_use]
    pub const fn rule(index: u32, plain: bool) -> Self {
        let plain = if plain { Self::FLAG } else { 0 };
        Self(plain | index & Self::NUMBER)
    }

    /// A row by its number, where the key with the number `key` is searched.
    #[must_use]
    pub const fn row(key: usize, leaf: bool, number: u32) -> Self {
        let leaf = if leaf { Self::FLAG } else { 0 };
        Self((key as u32 + 1) << Self::KEY_SHIFT | leaf | number & Self::NUMBER)
    }

    /// Whether the search goes on with this key.
    #[inline(always)]
    #[must_use]
    pub const fn searches(self, key: usize) -> bool {
        self.0 >> Self::KEY_SHIFT == key as u32 + 1
    }

    #[inline(always)]
    const fn is_leaf(self) -> bool {
        self.0 & Self::FLAG != 0
    }

    /// The word at which its row begins.
    #[inline(always)]
    const fn word(self) -> u32 {
        (self.0 & Self::NUMBER).wrapping_mul(ROW_WORDS as u32)
    }

    /// The index of the rule; nothing for a link.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> Option<u32> {
        if self.0 >> Self::KEY_SHIFT == 0 { Some(self.0 & Self::NUMBER) } else { None }
    }

    /// Whether a rule is plain.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        self.0 & Self::FLAG != 0
    }
}

/// The key of a port.
#[inline(always)]
#[must_use]
pub const fn port_key(protocol: Protocol, port: u16) -> u32 {
    let udp = matches!(protocol, Protocol::Udp);
    (udp as u32) << 16 | port as u32
}

/// The keys of an endpoint.
#[inline(always)]
#[must_use]
pub const fn keys(endpoint: &Endpoint) -> [u32; KEYS] {
    let [a, b, c, d] = endpoint.address.words();
    let port = port_key(endpoint.protocol, endpoint.port);
    [u32::from_be(a), u32::from_be(b), u32::from_be(c), u32::from_be(d), port]
}

/// Searches from a root on, to a rule. `None` when the words cannot be read.
#[inline(always)]
pub fn search<W: Words>(words: &W, root: Entry, keys: &[u32; KEYS]) -> Option<Entry> {
    let mut entry = root;
    let mut turn = 0;
    while turn <= KEYS {
        let number = if turn == 0 { KEY_PORT } else { turn - 1 };
        let key = *keys.get(number)?;
        let mut height = 0;
        while height < HEIGHT_MAX && entry.searches(number) {
            entry = descend(words, entry, key)?;
            height += 1;
        }
        turn += 1;
    }
    if entry.index().is_some() { Some(entry) } else { None }
}

/// From a row to what its keys say of `key`.
#[inline(always)]
fn descend<W: Words>(words: &W, entry: Entry, key: u32) -> Option<Entry> {
    let at = entry.word();
    let (number, index) = (at / CHUNK_WORDS as u32, at % CHUNK_WORDS as u32);
    let chunk = words.chunk(number)?;
    let row = words.row(chunk, index);
    Some(if entry.is_leaf() {
        // The last step reaches to the end, so its key need not be looked at.
        let step = rank::<W, { STEPS - 1 }>(words, row, key);
        Entry(words.word(chunk, index + STEPS as u32 + step))
    } else {
        let child = rank::<W, FENCES>(words, row, key);
        Entry((words.at(row, FENCES) as u32).wrapping_add(child))
    })
}

/// How many of the first words of a row are less than `key`.
///
/// By the sign of a difference and not by a comparison, which would be a branch for each word in the kernel: their
/// outcome cannot be predicted, and the verifier would follow both ways of each.
#[inline(always)]
fn rank<W: Words, const COUNT: usize>(words: &W, row: W::Row, key: u32) -> u32 {
    let mut rank = 0;
    let mut place = 0;
    while place < COUNT {
        rank += words.at(row, place).wrapping_sub(u64::from(key)) >> 63;
        place += 1;
    }
    rank as u32
}

#[cfg(test)]
mod tests {
    use super::{Entry, KEY_PORT, KEY_V4};

    #[test]
    fn an_entry_is_a_rule_or_a_link() {
        for plain in [false, true] {
            let rule = Entry::rule(7, plain);
            assert_eq!((rule.index(), rule.is_plain()), (Some(7), plain));
            assert!(!rule.searches(KEY_PORT));
        }
        let link = Entry::row(KEY_V4, true, 9);
        assert_eq!(link.index(), None);
        assert!(link.searches(KEY_V4) && !link.searches(KEY_PORT));
        assert_eq!((link.word(), link.is_leaf()), (9 * 16, true));
        assert!(!Entry::row(0, false, 9).is_leaf());
    }
}
