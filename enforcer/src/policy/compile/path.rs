//! Globs to the automata of a path table.
//!
//! One automaton for all globs explodes, so patterns are sorted by shape into the lanes of
//! [`enforcer_common::path`], each of which stays linear in the patterns it gets:
//!
//! | lane | patterns |
//! | --- | --- |
//! | forward 0 | from the root, nothing fixed after the first wildcard: `/a/b`, `/a/b*`, `/a/**` |
//! | forward 1 | from the root, fixed parts after wildcards: `/home/*/.ssh/**` |
//! | forward 2 | the rest: `/a/**/b`, `**/a/**/b` |
//! | forward 3 | half of one of these, if it is over the limit |
//! | names | `**/name/**` |
//! | backward 0 | `**/x` whose end is fixed: `**/.env`, `**/*.pem` |
//! | backward 1 | `**/x` whose end is a wildcard, `**/id_*`; or half of the other |
//!
//! The patterns of a lane become a tree of states that shares their beginnings ([`nfa`]), and that becomes an
//! automaton ([`machine`]). A state's cell is the first rule for each kind of access among the patterns that
//! match when the input ends there. `regex-automata` does the same for regular expressions in general; it shares
//! nothing between patterns, and took seconds where this takes milliseconds (`docs/decisions/path-automata.md`).

mod machine;
mod nfa;

use std::collections::HashMap;

use enforcer_common::action::ACCESS_KINDS;
use enforcer_common::limits::CHUNK_WORDS;
use enforcer_common::path::{Automaton, DEAD, DEAD_WORDS, Direction, Matched, direction};
use enforcer_common::rule::{LANES, LANES_FORWARD, LANES_NAMES};

use self::machine::Machine;
use self::nfa::Nfa;
use super::{CompileError, PathRule, index};
use crate::policy::glob::{Component, Glob, NamePart, NamePattern, Pattern};

/// A path table.
pub(super) struct Paths {
    pub(super) words: Vec<u32>,
    pub(super) cells: u32,
    pub(super) lanes: [Automaton; LANES],
}

/// Compiles the rules on paths.
pub(super) fn compile(rules: &[PathRule<'_>]) -> Result<Paths, CompileError> {
    let entries = entries(rules);
    let mut lanes: [Vec<&Entry<'_>>; LANES] = Default::default();
    for entry in &entries {
        if let Some(lane) = lanes.get_mut(lane_of(entry.pattern)) {
            lane.push(entry);
        }
    }
    let mut table = Table::new();
    for (lane, machine) in build(lanes)?.into_iter().enumerate() {
        if let Some(machine) = machine {
            table.add(lane, &machine);
        }
    }
    Ok(table.finish())
}

/// A pattern with what it decides.
struct Entry<'p> {
    pattern: &'p Pattern,
    glob: &'p Glob,
    line: usize,
    matched: Matched,
}

/// The patterns of all rules, each once, in the order of the rules.
fn entries<'p>(rules: &[PathRule<'p>]) -> Vec<Entry<'p>> {
    let mut numbers: HashMap<&Pattern, usize> = HashMap::new();
    let mut entries: Vec<Entry<'p>> = Vec::new();
    for rule in rules {
        let matched = Matched(std::array::from_fn(|kind| {
            if rule.access & 1 << kind == 0 { enforcer_common::rule::NO_RULE } else { rule.index }
        }));
        for (glob, pattern) in rule.patterns() {
            let number = *numbers.entry(pattern).or_insert(entries.len());
            match entries.get_mut(number) {
                Some(entry) => entry.matched.merge(&matched),
                None => entries.push(Entry { pattern, glob, line: rule.line, matched }),
            }
        }
    }
    entries
}

const FORWARD_ENDS: usize = 0;
const FORWARD_INNER: usize = 1;
const FORWARD_REST: usize = 2;
const NAMES: usize = LANES_FORWARD;
const BACKWARD_FIXED: usize = LANES_FORWARD + LANES_NAMES;
const BACKWARD_OPEN: usize = BACKWARD_FIXED + 1;

/// The lane that a pattern belongs to by its shape.
fn lane_of(pattern: &Pattern) -> usize {
    use Component::{AnyDepth, Name};
    let is_depth = |component: &Component| *component == AnyDepth;
    match pattern.components() {
        [AnyDepth, Name(_), AnyDepth] => NAMES,
        [AnyDepth, rest @ .., Name(last)] if !rest.iter().any(is_depth) => {
            if ends_fixed(last) {
                BACKWARD_FIXED
            } else {
                BACKWARD_OPEN
            }
        }
        [names @ .., AnyDepth] | names if !names.iter().any(is_depth) => {
            if open_end(names) {
                FORWARD_ENDS
            } else {
                FORWARD_INNER
            }
        }
        _ => FORWARD_REST,
    }
}

fn ends_fixed(name: &NamePattern) -> bool {
    matches!(name.parts().last(), Some(NamePart::Literal(_)))
}

/// Whether nothing fixed comes after the first wildcard.
fn open_end(names: &[Component]) -> bool {
    let parts = names.iter().flat_map(|component| match component {
        Component::Name(name) => name.parts(),
        Component::AnyDepth => &[],
    });
    let is_literal = |part: &&NamePart| matches!(part, NamePart::Literal(_));
    !parts.skip_while(is_literal).any(|part| is_literal(&part))
}

/// The automaton would be over a limit.
struct TooLarge;

/// Builds all lanes, each over the limit in two halves if a lane of its direction is free.
fn build(mut lanes: [Vec<&Entry<'_>>; LANES]) -> Result<[Option<Machine>; LANES], CompileError> {
    let mut machines: [Option<Machine>; LANES] = Default::default();
    for lane in 0..LANES {
        let Some(entries) = lanes.get_mut(lane).map(std::mem::take).filter(|entries| !entries.is_empty())
        else {
            continue;
        };
        let way = direction(lane);
        match machine(way, &entries) {
            Ok(built) => put(&mut machines, lane, built),
            Err(TooLarge) => {
                let free = (lane + 1..LANES)
                    .find(|&other| direction(other) == way && lanes.get(other).is_some_and(Vec::is_empty))
                    .filter(|&other| machines.get(other).is_some_and(Option::is_none));
                let Some(free) = free else { return Err(explosion(way, &entries)) };
                let [first, second] = halves(way, entries)?;
                put(&mut machines, lane, first);
                put(&mut machines, free, second);
            }
        }
    }
    Ok(machines)
}

fn put(machines: &mut [Option<Machine>; LANES], lane: usize, machine: Machine) {
    if let Some(place) = machines.get_mut(lane) {
        *place = Some(machine);
    }
}

/// Two automata for patterns that are too many for one. Patterns with a common beginning stay together.
fn halves(way: Direction, mut entries: Vec<&Entry<'_>>) -> Result<[Machine; 2], CompileError> {
    entries.sort_by_key(|entry| entry.pattern);
    let second = entries.split_off(entries.len() / 2);
    let build = |entries: &[&Entry<'_>]| machine(way, entries).map_err(|TooLarge| explosion(way, entries));
    Ok([build(&entries)?, build(&second)?])
}

/// Finds the pattern without which the ones before it are within the limit.
fn explosion(way: Direction, entries: &[&Entry<'_>]) -> CompileError {
    let (mut within, mut over) = (0, entries.len());
    while within + 1 < over {
        let middle = within.midpoint(over);
        match machine(way, entries.get(..middle).unwrap_or_default()) {
            Ok(_) => within = middle,
            Err(TooLarge) => over = middle,
        }
    }
    let culprit = entries.get(within);
    CompileError::PathsExplode {
        glob: culprit.map_or_else(String::new, |entry| entry.glob.text().to_owned()),
        line: culprit.map_or(1, |entry| entry.line),
    }
}

fn machine(way: Direction, entries: &[&Entry<'_>]) -> Result<Machine, TooLarge> {
    let mut nfa = Nfa::new();
    for entry in entries {
        nfa.add(way, entry.pattern, &entry.matched);
    }
    Machine::new(&nfa)
}

/// A path table while lanes are added to it.
struct Table {
    words: Vec<u32>,
    lanes: [Automaton; LANES],
    cells: Vec<Matched>,
    numbers: HashMap<[u32; ACCESS_KINDS], u32>,
}

impl Table {
    fn new() -> Self {
        Self {
            words: vec![DEAD; DEAD_WORDS as usize],
            lanes: [Automaton::NONE; LANES],
            cells: vec![Matched::NOTHING],
            numbers: HashMap::from([(Matched::NOTHING.0, 0)]),
        }
    }

    fn add(&mut self, lane: usize, machine: &Machine) {
        let stride = machine.stride();
        self.words.resize(self.words.len().next_multiple_of(stride), 0);
        let first = self.words.len();
        let row_at = |state: u32| index(first + state as usize * stride);
        for (row, end) in machine.rows().zip(&machine.ends) {
            let row_end = self.words.len() + stride;
            self.words.extend(row.map(|next| next.map_or(DEAD, row_at)));
            let cell = self.cell(*end);
            self.words.push(cell);
            self.words.resize(row_end, 0);
        }
        if let Some(automaton) = self.lanes.get_mut(lane) {
            *automaton = Automaton {
                start: row_at(machine.start),
                end: index(machine.width),
                classes: machine.classes,
            };
        }
    }

    fn cell(&mut self, matched: Matched) -> u32 {
        *self.numbers.entry(matched.0).or_insert_with(|| {
            self.cells.push(matched);
            index(self.cells.len() - 1)
        })
    }

    fn finish(mut self) -> Paths {
        let cells = self.words.len().next_multiple_of(ACCESS_KINDS);
        self.words.resize(cells, 0);
        self.words.extend(self.cells.iter().flat_map(|cell| cell.0));
        self.words.resize(self.words.len().next_multiple_of(CHUNK_WORDS), 0);
        Paths { words: self.words, cells: index(cells), lanes: self.lanes }
    }
}
