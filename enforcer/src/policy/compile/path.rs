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
//! An automaton is built by `regex-automata` from all patterns of its lane, and read out row by row: a state's
//! cell is the first rule for each kind of access among the patterns that match when the input ends there.
//! States that do the same are merged, because many patterns of one rule end in many states that say the same.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use enforcer_common::action::ACCESS_KINDS;
use enforcer_common::limits::CHUNK_WORDS;
use enforcer_common::path::{Automaton, DEAD, DEAD_WORDS, Direction, Matched, direction};
use enforcer_common::rule::{LANES, LANES_FORWARD, LANES_NAMES};
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Dot, Hir, Look, Repetition};

use super::{CompileError, PathRule, index};
use crate::policy::glob::{ByteSet, Component, Glob, NamePart, NamePattern, Pattern};
use crate::policy::limits::{MAX_DETERMINIZE_BYTES, MAX_LANE_WORDS};

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

/// An automaton of one lane, by the numbers of its states. State 0 is the start.
struct Machine {
    classes: [u8; 256],
    /// Byte classes, and so transitions of each state.
    width: usize,
    /// The transitions of all states; nothing leads to the dead state.
    next: Vec<Option<u32>>,
    /// What each state matches when the input ends in it.
    ends: Vec<Matched>,
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
    let patterns: Vec<_> = entries.iter().map(|entry| hir(way, entry.pattern)).collect();
    let nfa = thompson::NFA::compiler()
        .configure(
            thompson::Config::new()
                .utf8(false)
                .which_captures(thompson::WhichCaptures::None)
                .reverse(way == Direction::Backward)
                .nfa_size_limit(Some(MAX_DETERMINIZE_BYTES)),
        )
        .build_many_from_hir(&patterns)
        .map_err(|_| TooLarge)?;
    let dfa = dense::Builder::new()
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .accelerate(false)
                .dfa_size_limit(Some(size_of::<u32>() * MAX_LANE_WORDS))
                .determinize_size_limit(Some(MAX_DETERMINIZE_BYTES)),
        )
        .build_from_nfa(&nfa)
        .map_err(|_| TooLarge)?;
    let mut machine = read_out(&dfa, entries)?;
    machine.merge_states();
    // The dead row is read like any other.
    let fits = machine.stride() <= DEAD_WORDS as usize && machine.words() <= MAX_LANE_WORDS;
    if fits { Ok(machine) } else { Err(TooLarge) }
}

/// Walks the states of an automaton from its start.
fn read_out(dfa: &dense::DFA<Vec<u32>>, entries: &[&Entry<'_>]) -> Result<Machine, TooLarge> {
    let byte_classes = dfa.byte_classes();
    let classes: [u8; 256] =
        std::array::from_fn(|byte| u8::try_from(byte).map_or(0, |byte| byte_classes.get(byte)));
    let mut columns: Vec<(u8, u8)> = (0..=u8::MAX).map(|byte| (byte_classes.get(byte), byte)).collect();
    columns.sort_unstable();
    columns.dedup_by_key(|(class, _)| *class);

    let start = dfa.start_state_forward(&Input::new("").anchored(Anchored::Yes)).map_err(|_| TooLarge)?;
    let mut machine = Machine { classes, width: columns.len(), next: Vec::new(), ends: Vec::new() };
    let mut numbers: HashMap<StateID, u32> = HashMap::from([(start, 0)]);
    let mut states = vec![start];
    let mut at = 0;
    while let Some(&state) = states.get(at) {
        at += 1;
        machine.ends.push(matched_at_end(dfa, state, entries));
        for &(_, byte) in &columns {
            let next = dfa.next_state(state, byte);
            machine.next.push((!dfa.is_dead_state(next)).then(|| {
                *numbers.entry(next).or_insert_with(|| {
                    states.push(next);
                    index(states.len() - 1)
                })
            }));
        }
    }
    Ok(machine)
}

fn matched_at_end(dfa: &dense::DFA<Vec<u32>>, state: StateID, entries: &[&Entry<'_>]) -> Matched {
    let mut matched = Matched::NOTHING;
    let end = dfa.next_eoi_state(state);
    if dfa.is_match_state(end) {
        for number in 0..dfa.match_len(end) {
            if let Some(entry) = entries.get(dfa.match_pattern(end, number).as_usize()) {
                matched.merge(&entry.matched);
            }
        }
    }
    matched
}

impl Machine {
    /// Words of a row: its transitions and the column of its cell, and up to a power of two.
    fn stride(&self) -> usize {
        (self.width + 1).next_power_of_two()
    }

    fn words(&self) -> usize {
        self.stride() * self.ends.len()
    }

    /// Merges states that match the same and lead to the same states, or to themselves where the other does;
    /// again, until that is no longer so.
    fn merge_states(&mut self) {
        while self.merge_once() {}
    }

    fn merge_once(&mut self) -> bool {
        /// A transition that leads back, in a row that is compared.
        const ITSELF: u32 = u32::MAX;
        const DEAD_END: u32 = u32::MAX - 1;
        let mut first_of: HashMap<([u32; ACCESS_KINDS], Vec<u32>), u32> =
            HashMap::with_capacity(self.ends.len());
        let mut representative = Vec::with_capacity(self.ends.len());
        let mut kept = 0;
        for (state, (row, end)) in self.next.chunks(self.width).zip(&self.ends).enumerate() {
            let itself = index(state);
            let compared = row.iter().map(|next| match next {
                None => DEAD_END,
                Some(next) if *next == itself => ITSELF,
                Some(next) => *next,
            });
            representative.push(*first_of.entry((end.0, compared.collect())).or_insert_with(|| {
                kept += 1;
                kept - 1
            }));
        }
        if kept as usize == self.ends.len() {
            return false;
        }
        self.keep(&representative);
        true
    }

    /// Keeps the first state of each new number.
    fn keep(&mut self, numbers: &[u32]) {
        let (mut next, mut ends) = (Vec::new(), Vec::new());
        for ((row, end), &number) in self.next.chunks(self.width).zip(&self.ends).zip(numbers) {
            if number as usize == ends.len() {
                ends.push(*end);
                next.extend(row.iter().map(|next| next.and_then(|next| numbers.get(next as usize).copied())));
            }
        }
        (self.next, self.ends) = (next, ends);
    }
}

/// A pattern as an expression over a whole path, or over a single name.
fn hir(way: Direction, pattern: &Pattern) -> Hir {
    let mut parts = vec![Hir::look(Look::Start)];
    match (way, pattern.components()) {
        (Direction::Names, [_, Component::Name(name), _]) => parts.extend(name_hirs(name)),
        (_, components) => parts.extend(path_hirs(components)),
    }
    parts.push(Hir::look(Look::End));
    Hir::concat(parts)
}

fn path_hirs(components: &[Component]) -> Vec<Hir> {
    let slash = || Hir::literal(*b"/");
    let anything = || repeat(Hir::dot(Dot::AnyByte));
    let mut hirs = Vec::new();
    let mut needs_separator = true;
    let mut components = components.iter().peekable();
    while let Some(component) = components.next() {
        match component {
            Component::AnyDepth if components.peek().is_none() => hirs.extend([slash(), anything()]),
            Component::AnyDepth => {
                let folders = Hir::concat(vec![slash(), anything(), slash()]);
                hirs.push(Hir::alternation(vec![slash(), folders]));
                needs_separator = false;
            }
            Component::Name(name) => {
                hirs.extend(needs_separator.then(slash));
                hirs.extend(name_hirs(name));
                needs_separator = true;
            }
        }
    }
    hirs
}

fn name_hirs(name: &NamePattern) -> impl Iterator<Item = Hir> {
    name.parts().iter().map(|part| match part {
        NamePart::Literal(bytes) => Hir::literal(bytes.clone()),
        NamePart::AnyRun => repeat(class([0..=b'/' - 1, b'/' + 1..=u8::MAX])),
        NamePart::AnyByte => class([0..=b'/' - 1, b'/' + 1..=u8::MAX]),
        NamePart::Set(set) => set_hir(set),
    })
}

fn repeat(hir: Hir) -> Hir {
    Hir::repetition(Repetition { min: 0, max: None, greedy: true, sub: Box::new(hir) })
}

fn set_hir(set: &ByteSet) -> Hir {
    class((0..=u8::MAX).filter(|byte| set.contains(*byte)).map(|byte| byte..=byte))
}

fn class(ranges: impl IntoIterator<Item = RangeInclusive<u8>>) -> Hir {
    let ranges = ranges.into_iter().map(|range| ClassBytesRange::new(*range.start(), *range.end()));
    Hir::class(Class::Bytes(ClassBytes::new(ranges)))
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
        for (row, end) in machine.next.chunks(machine.width).zip(&machine.ends) {
            let row_end = self.words.len() + stride;
            self.words.extend(row.iter().map(|next| next.map_or(DEAD, row_at)));
            let cell = self.cell(*end);
            self.words.push(cell);
            self.words.resize(row_end, 0);
        }
        if let Some(automaton) = self.lanes.get_mut(lane) {
            *automaton = Automaton { start: row_at(0), end: index(machine.width), classes: machine.classes };
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
