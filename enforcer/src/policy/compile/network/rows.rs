//! Step functions to rows: the writing side of [`enforcer_common::network`].

use std::collections::HashMap;

use enforcer_common::network::{Entry, FENCES, KEY_V4, STEPS};
use enforcer_common::words::ROW_WORDS;

use super::super::index;
use super::{Step, push};

/// Children of an inner row.
const CHILDREN: usize = FENCES + 1;

/// A function of the key with a number.
type Function = (usize, Vec<Step<u32, Entry>>);

/// Rows that are appended to a policy's words.
pub(super) struct Rows<'w> {
    words: &'w mut Vec<u32>,
    /// The functions that are there and where their rows begin, so that equal ones are one.
    known: HashMap<Function, (Entry, usize)>,
}

impl<'w> Rows<'w> {
    pub(super) fn append_to(words: &'w mut Vec<u32>) -> Self {
        words.resize(words.len().next_multiple_of(ROW_WORDS), 0);
        Self { words, known: HashMap::new() }
    }

    /// Words that are there, rows and what was before them.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Takes back what was laid out since there were so many words.
    pub(super) fn truncate(&mut self, len: usize) {
        self.words.truncate(len);
        self.known.retain(|_, (_, start)| *start < len);
    }

    /// Lays out a function of one key, and gives what leads to it.
    pub(super) fn function(&mut self, key: usize, steps: &[Step<u32, Entry>]) -> Entry {
        if let [Step { is, .. }] = steps {
            return *is;
        }
        let known = (key, steps.to_vec());
        if let Some(&(entry, _)) = self.known.get(&known) {
            return entry;
        }
        let start = self.words.len();
        let entry = self.lay(key, steps);
        self.known.insert(known, (entry, start));
        entry
    }

    fn lay(&mut self, key: usize, steps: &[Step<u32, Entry>]) -> Entry {
        // A level from its leaves to its root: the last key below each row, and what leads to it.
        let mut level: Vec<Step<u32, Entry>> = Vec::new();
        for leaf in steps.chunks(STEPS) {
            let entry = Entry::row(key, true, self.next());
            let entries = leaf.iter().map(|step| step.is.0);
            self.row(STEPS, leaf, entries);
            level.extend(leaf.last().map(|step| Step { last: step.last, is: entry }));
        }
        while level.len() > 1 {
            let mut above = Vec::new();
            for children in level.chunks(CHILDREN) {
                let entry = Entry::row(key, false, self.next());
                let (fences, first) = (children.get(..FENCES).unwrap_or(children), children.first());
                self.row(FENCES, fences, first.map(|step| step.is.0));
                above.extend(children.last().map(|step| Step { last: step.last, is: entry }));
            }
            level = above;
        }
        level.first().map_or(Entry(0), |root| root.is)
    }

    /// The number of the next row.
    fn next(&self) -> u32 {
        index(self.words.len() / ROW_WORDS)
    }

    /// Appends a row: the last keys of `steps` in `keys` words, then entries.
    fn row(&mut self, keys: usize, steps: &[Step<u32, Entry>], entries: impl IntoIterator<Item = u32>) {
        let start = self.words.len();
        self.words.extend(steps.iter().map(|step| step.last));
        self.words.resize(start + keys, u32::MAX);
        self.words.extend(entries);
        self.words.resize(start + ROW_WORDS, 0);
    }

    /// Lays out a function of what an IPv6 address has from the word with the number `key` on.
    pub(super) fn address(&mut self, key: usize, steps: &[Step<u128, Entry>]) -> Entry {
        let rest_bits = 32 * (KEY_V4 - key);
        let rest = !(u128::MAX << rest_bits);
        let mut function = Vec::new();
        // The first word of which not all is said, and the steps that end within it.
        let mut word = 0;
        let mut within = Vec::new();
        for step in steps {
            let (last, last_of_rest) = (step.last >> rest_bits, step.last & rest);
            if last > word && !within.is_empty() {
                within.push(Step { last: rest, is: step.is });
                self.word(key, word, &mut within, &mut function);
                word += 1;
            }
            if within.is_empty() {
                let whole = if last_of_rest == rest { last + 1 } else { last };
                if let Some(before) = whole.checked_sub(1).filter(|before| *before >= word) {
                    push(&mut function, Step { last: before as u32, is: step.is });
                    word = whole;
                }
                if whole > last {
                    continue;
                }
            }
            within.push(Step { last: last_of_rest, is: step.is });
            if last_of_rest == rest {
                self.word(key, word, &mut within, &mut function);
                word += 1;
            }
        }
        self.function(key, &function)
    }

    /// Says of one word what the steps within it say of the next ones.
    fn word(
        &mut self,
        key: usize,
        word: u128,
        within: &mut Vec<Step<u128, Entry>>,
        function: &mut Vec<Step<u32, Entry>>,
    ) {
        let is = self.address(key + 1, within);
        within.clear();
        push(function, Step { last: word as u32, is });
    }
}
