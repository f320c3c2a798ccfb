//! SipHash-2-4 with 128 bits: names the object of a request.
//!
//! A grant is found by the hash of its object. The agent chooses paths, so the hash must be one for which it
//! cannot make two names that collide: keyed, with a key that the kernel draws and no agent sees.
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", and the reference `siphash.c`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The hash in the middle of its input, which is taken byte by byte. Lies in a map, so that `bpf_loop` can go on
/// with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SipHash {
    v: [u64; 4],
    tail: u64,
    bytes: u64,
}

impl SipHash {
    /// Starts a hash under a key.
    #[inline(always)]
    #[must_use]
    pub const fn new(key: [u64; 2]) -> Self {
        Self {
            v: [
                key[0] ^ 0x736f_6d65_7073_6575,
                key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                key[0] ^ 0x6c79_6765_6e65_7261,
                key[1] ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            bytes: 0,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.v;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.v = [a, b, c, d];
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.round();
        self.round();
        self.v[0] ^= word;
    }

    /// Takes one byte.
    #[inline(always)]
    pub fn byte(&mut self, byte: u8) {
        self.tail |= u64::from(byte) << ((self.bytes & 7) * 8);
        self.bytes = self.bytes.wrapping_add(1);
        if self.bytes & 7 == 0 {
            let word = self.tail;
            self.tail = 0;
            self.word(word);
        }
    }

    /// Takes all bytes.
    #[inline(always)]
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.byte(*byte);
        }
    }

    /// The hash of what was taken.
    #[inline(always)]
    #[must_use]
    pub fn finish(mut self) -> [u64; 2] {
        let last = self.tail | (self.bytes & 0xff) << 56;
        self.word(last);
        self.v[2] ^= 0xee;
        for _ in 0..4 {
            self.round();
        }
        let first = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        self.v[1] ^= 0xdd;
        for _ in 0..4 {
            self.round();
        }
        [first, self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3]]
    }
}

crate::layout!(SipHash: 48);

#[cfg(test)]
mod tests {
    use super::SipHash;
    use core::hash::Hasher as _;

    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    #[test]
    fn agrees_with_the_reference_vector() {
        let [a, b] = SipHash::new(KEY).finish();
        let vector =
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93];
        assert_eq!([a.to_le_bytes(), b.to_le_bytes()].as_flattened(), vector);
    }

    #[test]
    fn agrees_with_another_implementation_at_every_length() {
        for length in 0..300_u16 {
            let bytes = (0..length).map(|i| (i * 7) as u8);
            let mut mine = SipHash::new(KEY);
            let mut theirs = siphasher::sip128::SipHasher24::new_with_keys(KEY[0], KEY[1]);
            for byte in bytes {
                mine.byte(byte);
                theirs.write(&[byte]);
            }
            let theirs = siphasher::sip128::Hasher128::finish128(&theirs);
            assert_eq!(mine.finish(), [theirs.h1, theirs.h2], "{length} bytes");
        }
    }
}
