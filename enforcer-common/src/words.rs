//! A policy's tables as words: one array of 32-bit words in chunks of [`CHUNK_WORDS`], which the kernel looks up
//! one by one. Automata ([`crate::path`]) and searches ([`crate::network`]) both lie in it.

use crate::limits::CHUNK_WORDS;

/// Words of a row of a search: a cache line, and aligned like one.
pub const ROW_WORDS: usize = 16;

/// Words, chunk by chunk. Both sides of it are cheap where one chunk serves many steps.
pub trait Words {
    /// A chunk that was looked up.
    type Chunk: Copy;
    /// A row within a chunk.
    type Row: Copy;

    /// Looks a chunk up by its number.
    fn chunk(&self, number: u32) -> Option<Self::Chunk>;

    /// The word at `index`, which is below [`CHUNK_WORDS`].
    fn word(&self, chunk: Self::Chunk, index: u32) -> u32;

    /// The row that begins at `index`, a multiple of [`ROW_WORDS`] below [`CHUNK_WORDS`].
    fn row(&self, chunk: Self::Chunk, index: u32) -> Self::Row;

    /// A word of a row, at a place below [`ROW_WORDS`] that is known when this is compiled. It has 64 bits, of which a
    /// compiler for the kernel must not know that half are zero: see `rank` in [`crate::network`].
    fn at(&self, row: Self::Row, place: usize) -> u64;
}

/// Reads words, and keeps the chunk it read from last.
pub struct Reader<C> {
    pub(crate) chunk: C,
    number: u32,
}

impl<C: Copy> Reader<C> {
    /// A reader that holds the chunk of the word at `at`.
    #[inline(always)]
    pub fn new<W: Words<Chunk = C>>(words: &W, at: u32) -> Option<Self> {
        let number = at / CHUNK_WORDS as u32;
        Some(Self { chunk: words.chunk(number)?, number })
    }

    /// The word at `at`.
    #[inline(always)]
    pub fn word<W: Words<Chunk = C>>(&mut self, words: &W, at: u32) -> Option<u32> {
        let number = at / CHUNK_WORDS as u32;
        if number != self.number {
            self.chunk = words.chunk(number)?;
            self.number = number;
        }
        Some(words.word(self.chunk, at % CHUNK_WORDS as u32))
    }
}

const _: () = assert!(CHUNK_WORDS.is_multiple_of(ROW_WORDS));
