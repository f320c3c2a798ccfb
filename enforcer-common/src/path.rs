//! From a path to the rules that match it: a few small automata over its bytes.
//!
//! One automaton for all globs of a policy explodes, because a front-anchored glob and one that begins with
//! `**` multiply. So the compiler sorts globs into *lanes*: automata that read the path from its front, one
//! that reads single names (for `**/name/**`), and some that read it from its end (for `**/x`). Each lane
//! yields a *cell*, the first matching rule for each kind of access, and the least index over all lanes is the
//! first match of the policy. This holds because a rule of version 1 has no condition that could fail after
//! its path has matched.
//!
//! # The table
//!
//! The automata lie at the beginning of the policy's [words](crate::words).
//!
//! - A *state* is the index of the first word of its row. The row has one word for each byte class: the next
//!   state. The word in the column [`Automaton::end`] is not a state but the number of the cell that holds
//!   when the input ends here.
//! - The first 256 words are zero: [`DEAD`], the state that is never left and matches nothing, of any lane.
//! - Rows are powers of two long and aligned to that, so that no row lies in two chunks. Cells are
//!   [`ACCESS_KINDS`] words, aligned to that, from [`crate::rule::SlotHeader::cells`] on; cell 0 holds
//!   [`NO_RULE`] throughout.

use crate::{
    action::ACCESS_KINDS,
    limits::CHUNK_WORDS,
    rule::{LANES, LANES_BACKWARD, LANES_FORWARD, LANES_NAMES, NO_RULE},
    words::{Reader, Words},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The state that matches nothing and is never left.
pub const DEAD: u32 = 0;

/// The words before the first row that is not [`DEAD`].
pub const DEAD_WORDS: u32 = 256;

/// Which way a lane reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The path from its first byte, the slash, to its last.
    Forward,
    /// Each name that a slash follows, from the start state anew.
    Names,
    /// The path from its last byte to its first, the slash.
    Backward,
}

/// The direction of a lane.
#[inline(always)]
#[must_use]
pub const fn direction(lane: usize) -> Direction {
    if lane < LANES_FORWARD {
        Direction::Forward
    } else if lane < LANES_FORWARD + LANES_NAMES {
        Direction::Names
    } else {
        Direction::Backward
    }
}

const _: () = assert!(LANES == LANES_FORWARD + LANES_NAMES + LANES_BACKWARD);

/// One automaton of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Automaton {
    /// The start state; [`DEAD`] where the lane is not used.
    pub start: u32,
    /// The column that holds the cell for an input that ends in the row's state.
    pub end: u32,
    /// The column of each byte.
    pub classes: [u8; 256],
}

impl Automaton {
    /// A lane that is not used.
    pub const NONE: Self = Self { start: DEAD, end: 0, classes: [0; 256] };
}

/// The first matching rule for each kind of access, in the order of [`crate::action::Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Matched(pub [u32; ACCESS_KINDS]);

impl Matched {
    /// No rule matches.
    pub const NOTHING: Self = Self([NO_RULE; ACCESS_KINDS]);

    /// Takes the earlier rule of each kind.
    #[inline(always)]
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            if theirs < *mine {
                *mine = theirs;
            }
        }
    }
}

/// Reads a cell. Cell 0 is [`Matched::NOTHING`] and need not be read.
#[inline(always)]
pub fn cell<W: Words>(words: &W, cells: u32, number: u32) -> Option<Matched> {
    let at = cells.wrapping_add(number.wrapping_mul(ACCESS_KINDS as u32));
    let mut reader = Reader::new(words, at)?;
    Some(Matched([
        reader.word(words, at)?,
        reader.word(words, at.wrapping_add(1))?,
        reader.word(words, at.wrapping_add(2))?,
        reader.word(words, at.wrapping_add(3))?,
    ]))
}

/// A lane in the middle of a path: what the loops of both sides step.
pub struct Run<C> {
    state: u32,
    reader: Reader<C>,
}

impl<C: Copy> Run<C> {
    /// A lane at `state`, which is its start state unless a loop of the kernel goes on where it was.
    #[inline(always)]
    pub fn resume<W: Words<Chunk = C>>(words: &W, state: u32) -> Option<Self> {
        Some(Self { state, reader: Reader::new(words, state)? })
    }

    /// Where the lane is.
    #[inline(always)]
    #[must_use]
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Takes one byte, by its column.
    #[inline(always)]
    pub fn step<W: Words<Chunk = C>>(&mut self, words: &W, column: u32) -> Option<()> {
        self.state = self.reader.word(words, self.state.wrapping_add(column))?;
        Some(())
    }

    /// Takes one byte, by its column; whether the lane is still in the chunk it was in. When it is not, the next step
    /// must be by a lane that was resumed. For loops of the kernel, where a way that leads back into the loop costs
    /// the verifier more than one that leads out.
    #[inline(always)]
    pub fn step_within<W: Words<Chunk = C>>(&mut self, words: &W, column: u32) -> bool {
        let at = self.state.wrapping_add(column);
        let next = words.word(self.reader.chunk, at % CHUNK_WORDS as u32);
        let within = (next ^ self.state) / CHUNK_WORDS as u32 == 0;
        self.state = next;
        within
    }

    /// The number of the cell that holds if the input ends here, for a lane that has not left its chunk.
    #[inline(always)]
    pub fn end_within<W: Words<Chunk = C>>(&self, words: &W, end: u32) -> u32 {
        words.word(self.reader.chunk, self.state.wrapping_add(end) % CHUNK_WORDS as u32)
    }

    /// The number of the cell that holds if the input ends here.
    #[inline(always)]
    pub fn end<W: Words<Chunk = C>>(&mut self, words: &W, end: u32) -> Option<u32> {
        self.reader.word(words, self.state.wrapping_add(end))
    }

    /// Goes back to a start state.
    #[inline(always)]
    pub fn restart(&mut self, start: u32) {
        self.state = start;
    }
}

/// Matches a whole path, which begins with a slash, against all lanes. The kernel programs have loops of their
/// own, shaped for the verifier, around the same steps.
#[must_use]
pub fn matched<W: Words>(words: &W, cells: u32, lanes: &[Automaton; LANES], path: &[u8]) -> Option<Matched> {
    let mut found = Matched::NOTHING;
    for (lane, automaton) in lanes.iter().enumerate().filter(|(_, automaton)| automaton.start != DEAD) {
        let mut run = Run::resume(words, automaton.start)?;
        let mut merge = |number: u32| {
            if number != 0 {
                found.merge(&cell(words, cells, number)?);
            }
            Some(())
        };
        match direction(lane) {
            Direction::Forward => {
                for byte in path {
                    run.step(words, column(automaton, *byte))?;
                }
                merge(run.end(words, automaton.end)?)?;
            }
            Direction::Backward => {
                for byte in path.iter().rev() {
                    run.step(words, column(automaton, *byte))?;
                }
                merge(run.end(words, automaton.end)?)?;
            }
            Direction::Names => {
                for byte in path.iter().skip(1) {
                    if *byte == b'/' {
                        merge(run.end(words, automaton.end)?)?;
                        run.restart(automaton.start);
                    } else {
                        run.step(words, column(automaton, *byte))?;
                    }
                }
            }
        }
    }
    Some(found)
}

/// The column of a byte.
#[inline(always)]
#[must_use]
pub fn column(automaton: &Automaton, byte: u8) -> u32 {
    // Not by `[]`: the lint cannot see that a byte is always below 256.
    automaton.classes.get(byte as usize).map_or(0, |class| u32::from(*class))
}

crate::layout!(Automaton: 264, Matched: 16);
