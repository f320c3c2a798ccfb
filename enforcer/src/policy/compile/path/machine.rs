//! From the tree of a lane's patterns to a deterministic automaton, by the subset construction.
//!
//! Three things keep it small and quick. Bytes that no pattern tells apart are one column, and of the columns
//! that no literal of a state names, those in the same sets of bytes are computed once. A state that will never
//! say more than a `/**` that was already entered is dropped from a subset. And subsets that do the same are
//! merged, because the patterns of one rule end in many subsets that say the same.

use std::collections::HashMap;

use enforcer_common::path::{DEAD_WORDS, Matched};
use enforcer_common::rule::NO_RULE;

use super::nfa::{Nfa, START, StateId};
use super::{TooLarge, index};
use crate::policy::limits::MAX_LANE_WORDS;

/// A deterministic automaton, by the numbers of its states.
pub(super) struct Machine {
    pub(super) start: u32,
    /// The column of each byte.
    pub(super) classes: [u8; 256],
    /// How many columns there are.
    pub(super) width: usize,
    /// What each state matches when the input ends in it.
    pub(super) ends: Vec<Matched>,
    next: Vec<u32>,
}

/// Where nothing can match any more, in a row.
const NOWHERE: u32 = u32::MAX;

impl Machine {
    /// The automaton of a lane.
    pub(super) fn new(nfa: &Nfa, max_subset_bytes: usize) -> Result<Self, TooLarge> {
        let columns = Columns::new(nfa);
        let mut machine = Subsets::new(nfa).determinize(&columns, max_subset_bytes)?;
        machine.merge_states();
        // The dead row is read like any other.
        let fits = machine.stride() <= DEAD_WORDS as usize && machine.words() <= MAX_LANE_WORDS;
        if fits { Ok(machine) } else { Err(TooLarge) }
    }

    /// The rows, each with the state that each column leads to.
    pub(super) fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = Option<u32>>> {
        self.next.chunks(self.width).map(|row| row.iter().map(|next| (*next != NOWHERE).then_some(*next)))
    }

    /// Words of a row: its columns, one more for its cell, and up to a power of two.
    pub(super) fn stride(&self) -> usize {
        (self.width + 1).next_power_of_two()
    }

    fn words(&self) -> usize {
        self.stride() * self.ends.len()
    }

    /// Merges states that match the same and lead to the same states, or to themselves where the other does.
    /// From the last to the first, so that where a state leads is merged before the state is looked at; only
    /// what leads back is compared as it was, which misses merges but makes no wrong ones.
    fn merge_states(&mut self) {
        let mut merged: Vec<u32> = (0..index(self.ends.len())).collect();
        let mut seen: HashMap<u64, u32> = HashMap::with_capacity(self.ends.len());
        for state in (0..self.ends.len()).rev() {
            let row = state * self.width..(state + 1) * self.width;
            for next in self.next.get_mut(row.clone()).into_iter().flatten() {
                *next = merged.get(*next as usize).copied().unwrap_or(*next);
            }
            let this = index(state);
            let other = *seen.entry(self.digest(this)).or_insert(this);
            if other != this
                && self.same(this, other)
                && let Some(place) = merged.get_mut(state)
            {
                *place = other;
            }
        }
        self.keep(&merged);
    }

    fn row(&self, state: u32) -> &[u32] {
        let start = state as usize * self.width;
        self.next.get(start..start + self.width).unwrap_or_default()
    }

    fn end(&self, state: u32) -> Matched {
        self.ends.get(state as usize).copied().unwrap_or(Matched::NOTHING)
    }

    fn same(&self, a: u32, b: u32) -> bool {
        let relative = |state: u32, next: u32| if next == state { None } else { Some(next) };
        let rows = self.row(a).iter().zip(self.row(b));
        self.end(a) == self.end(b) && rows.into_iter().all(|(&x, &y)| relative(a, x) == relative(b, y))
    }

    /// A number that is the same for states that are the same.
    fn digest(&self, state: u32) -> u64 {
        const ITSELF: u32 = u32::MAX - 1;
        let row = self.row(state).iter().map(|&next| if next == state { ITSELF } else { next });
        self.end(state).0.into_iter().chain(row).fold(0, |digest: u64, word| {
            (digest.rotate_left(5) ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// Keeps the states that were not merged into others, and numbers them anew.
    fn keep(&mut self, merged: &[u32]) {
        let is_kept = |state: usize| merged.get(state).is_some_and(|other| *other as usize == state);
        let mut numbers = vec![NOWHERE; merged.len()];
        let mut kept = 0;
        for (state, number) in numbers.iter_mut().enumerate() {
            if is_kept(state) {
                *number = kept;
                kept += 1;
            }
        }
        let number_of = |state: u32| {
            let kept = merged.get(state as usize).and_then(|kept| numbers.get(*kept as usize));
            kept.copied().unwrap_or(NOWHERE)
        };
        self.start = number_of(self.start);
        let rows = self.next.chunks(self.width).enumerate().filter(|(state, _)| is_kept(*state));
        self.next = rows.flat_map(|(_, row)| row.iter().map(|next| number_of(*next))).collect();
        let ends = self.ends.iter().enumerate().filter(|(state, _)| is_kept(*state));
        self.ends = ends.map(|(_, end)| *end).collect();
    }
}

/// The columns of a table: bytes that no pattern tells apart.
struct Columns {
    classes: [u8; 256],
    width: usize,
    /// The kind of each column: which sets of bytes its bytes are in.
    kinds: Vec<usize>,
    /// For each kind, whether it is in each set.
    in_set: Vec<Vec<bool>>,
}

impl Columns {
    fn new(nfa: &Nfa) -> Self {
        let mut is_literal = [false; 256];
        for (byte, _) in nfa.states().iter().flat_map(|state| &state.bytes) {
            if let Some(place) = is_literal.get_mut(usize::from(*byte)) {
                *place = true;
            }
        }
        let mut columns = Self { classes: [0; 256], width: 0, kinds: Vec::new(), in_set: Vec::new() };
        let mut numbers: HashMap<(usize, Option<usize>), u8> = HashMap::new();
        let bytes = columns.classes.iter_mut().zip(is_literal).enumerate();
        for (byte, (class, is_literal)) in bytes {
            let in_set: Vec<bool> =
                nfa.sets().iter().map(|set| set.get(byte).copied().unwrap_or(false)).collect();
            let kind = columns.in_set.iter().position(|known| *known == in_set).unwrap_or_else(|| {
                columns.in_set.push(in_set);
                columns.in_set.len() - 1
            });
            let next = u8::try_from(numbers.len()).unwrap_or(u8::MAX);
            *class = *numbers.entry((kind, is_literal.then_some(byte))).or_insert_with(|| {
                columns.kinds.push(kind);
                next
            });
        }
        columns.width = columns.kinds.len();
        columns
    }

    fn of(&self, byte: u8) -> usize {
        self.classes.get(usize::from(byte)).map_or(0, |class| usize::from(*class))
    }

    fn has(&self, kind: usize, set: usize) -> bool {
        self.in_set.get(kind).and_then(|sets| sets.get(set)).copied().unwrap_or(false)
    }
}

/// The subset construction while it goes on.
struct Subsets<'n> {
    nfa: &'n Nfa,
    closures: Vec<Vec<StateId>>,
    /// The earliest rules that each state can still come to.
    best: Vec<Matched>,
    subsets: Vec<Box<[StateId]>>,
    numbers: HashMap<Box<[StateId]>, u32>,
    bytes: usize,
}

impl<'n> Subsets<'n> {
    fn new(nfa: &'n Nfa) -> Self {
        let states = index(nfa.states().len());
        let mut subsets = Self {
            nfa,
            closures: (0..states).map(|state| nfa.closure(state)).collect(),
            best: best(nfa),
            subsets: Vec::new(),
            numbers: HashMap::new(),
            bytes: 0,
        };
        subsets.number(&mut vec![START]);
        subsets
    }

    fn determinize(mut self, columns: &Columns, max_subset_bytes: usize) -> Result<Machine, TooLarge> {
        let (mut next, mut ends) = (Vec::new(), Vec::new());
        while ends.len() < self.subsets.len() {
            let subset = self.subsets.get(ends.len()).cloned().unwrap_or_default();
            ends.push(self.end(&subset));
            self.row(&subset, columns, &mut next);
            if self.bytes > max_subset_bytes || next.len() > MAX_LANE_WORDS {
                return Err(TooLarge);
            }
        }
        Ok(Machine { start: 0, classes: columns.classes, width: columns.width, ends, next })
    }

    fn end(&self, subset: &[StateId]) -> Matched {
        let mut end = Matched::NOTHING;
        for state in self.states(subset) {
            end.merge(&state.end);
        }
        end
    }

    fn states<'s>(&'s self, subset: &'s [StateId]) -> impl Iterator<Item = &'n super::nfa::State> + 's {
        let states = self.nfa.states();
        subset.iter().filter_map(move |state| states.get(*state as usize))
    }

    /// Appends the row of a subset.
    fn row(&mut self, subset: &[StateId], columns: &Columns, next: &mut Vec<u32>) {
        let mut literals: Vec<(usize, StateId)> = Vec::new();
        for state in self.states(subset) {
            literals.extend(state.bytes.iter().map(|(byte, to)| (columns.of(*byte), *to)));
        }
        literals.sort_unstable();
        let by_kind: Vec<Vec<StateId>> =
            (0..columns.in_set.len()).map(|kind| self.by_sets(subset, columns, kind)).collect();
        let shared: Vec<u32> = by_kind.iter().map(|reached| self.number(&mut reached.clone())).collect();

        let first = next.len();
        next.extend(columns.kinds.iter().map(|kind| shared.get(*kind).copied().unwrap_or(NOWHERE)));
        for group in literals.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(column, _)) = group.first() else { continue };
            let kind = columns.kinds.get(column).copied().unwrap_or(0);
            let mut reached = by_kind.get(kind).cloned().unwrap_or_default();
            reached.extend(group.iter().map(|(_, to)| *to));
            let number = self.number(&mut reached);
            if let Some(place) = next.get_mut(first + column) {
                *place = number;
            }
        }
    }

    /// Where a subset leads by sets of bytes that columns of a kind are in.
    fn by_sets(&self, subset: &[StateId], columns: &Columns, kind: usize) -> Vec<StateId> {
        let mut reached = Vec::new();
        for (id, state) in subset.iter().zip(self.states(subset)) {
            reached.extend(state.stays.filter(|set| columns.has(kind, *set)).map(|_| *id));
            reached.extend(state.sets.iter().filter(|(set, _)| columns.has(kind, *set)).map(|(_, to)| *to));
        }
        reached
    }

    /// The number of the subset that some states are.
    fn number(&mut self, reached: &mut Vec<StateId>) -> u32 {
        let states: Vec<StateId> = std::mem::take(reached);
        for state in states {
            reached.extend(self.closures.get(state as usize).into_iter().flatten());
        }
        reached.sort_unstable();
        reached.dedup();
        self.drop_settled(reached);
        if reached.is_empty() {
            return NOWHERE;
        }
        if let Some(&number) = self.numbers.get(reached.as_slice()) {
            return number;
        }
        let number = index(self.subsets.len());
        self.bytes += size_of::<u32>() * 2 * reached.len();
        let subset: Box<[StateId]> = reached.as_slice().into();
        self.numbers.insert(subset.clone(), number);
        self.subsets.push(subset);
        number
    }

    /// Drops the states that come to nothing earlier than what a `/**` among them has settled.
    fn drop_settled(&self, subset: &mut Vec<StateId>) {
        let rests = self.states(subset).filter(|state| state.is_rest());
        let mut settled = Matched::NOTHING;
        rests.for_each(|state| settled.merge(&state.end));
        if settled == Matched::NOTHING {
            return;
        }
        subset.retain(|&id| {
            let (Some(state), Some(best)) = (self.nfa.states().get(id as usize), self.best.get(id as usize))
            else {
                return false;
            };
            let mut kinds = best.0.iter().zip(settled.0);
            if state.is_rest() {
                kinds.any(|(best, settled)| *best == settled && settled != NO_RULE)
            } else {
                kinds.any(|(best, settled)| *best < settled)
            }
        });
    }
}

/// The earliest rules that each state can come to. States lead to later ones, but for the one that skips
/// folders, which leads to the one before it: so once for all, and once more for those.
fn best(nfa: &Nfa) -> Vec<Matched> {
    let mut best: Vec<Matched> = nfa.states().iter().map(|state| state.end).collect();
    for _ in 0..2 {
        for (id, state) in nfa.states().iter().enumerate().rev() {
            let mut earliest = state.end;
            for next in state.successors() {
                earliest.merge(best.get(next as usize).unwrap_or(&Matched::NOTHING));
            }
            if let Some(place) = best.get_mut(id) {
                place.merge(&earliest);
            }
        }
    }
    best
}
