//! Globs to the automata of [`enforcer_common::path`].
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
pub(super) fn compile(rules: &[PathRule<'_>], max_subset_bytes: usize) -> Result<Paths, CompileError> {
    let entries = entries(rules);
    let mut lanes: [Vec<&Entry<'_>>; LANES] = Default::default();
    for entry in &entries {
        if let Some(lane) = lanes.get_mut(lane_of(entry.pattern)) {
            lane.push(entry);
        }
    }
    let mut table = Table::new();
    for (lane, machine) in build(lanes, max_subset_bytes)?.into_iter().enumerate() {
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

/// Where patterns explode, they do long before the limit.
const BLAME_SHARE: usize = 16;

/// The automaton would be over a limit.
struct TooLarge;

/// Builds all lanes, each over the limit in two halves if a lane of its direction is free.
fn build(
    mut lanes: [Vec<&Entry<'_>>; LANES],
    limit: usize,
) -> Result<[Option<Machine>; LANES], CompileError> {
    let mut machines: [Option<Machine>; LANES] = Default::default();
    for lane in 0..LANES {
        let Some(entries) = lanes.get_mut(lane).map(std::mem::take).filter(|entries| !entries.is_empty())
        else {
            continue;
        };
        let way = direction(lane);
        match machine(way, &entries, limit) {
            Ok(built) => put(&mut machines, lane, built),
            Err(TooLarge) => {
                let free = (lane + 1..LANES)
                    .find(|&other| direction(other) == way && lanes.get(other).is_some_and(Vec::is_empty))
                    .filter(|&other| machines.get(other).is_some_and(Option::is_none));
                let Some(free) = free else { return Err(explosion(way, &entries, limit)) };
                let [first, second] = halves(way, entries, limit)?;
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
fn halves(way: Direction, mut entries: Vec<&Entry<'_>>, limit: usize) -> Result<[Machine; 2], CompileError> {
    entries.sort_by_key(|entry| entry.pattern);
    let second = entries.split_off(entries.len() / 2);
    let build = |entries: &[&Entry<'_>]| {
        machine(way, entries, limit).map_err(|TooLarge| explosion(way, entries, limit))
    };
    Ok([build(&entries)?, build(&second)?])
}

/// Finds the pattern with which the automaton begins to grow out of bounds: it is looked for below the limit,
/// because each try costs what the limit allows.
fn explosion(way: Direction, entries: &[&Entry<'_>], limit: usize) -> CompileError {
    let (mut within, mut over) = (0, entries.len());
    while within + 1 < over {
        let middle = within.midpoint(over);
        match machine(way, entries.get(..middle).unwrap_or_default(), limit / BLAME_SHARE) {
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

fn machine(way: Direction, entries: &[&Entry<'_>], max_subset_bytes: usize) -> Result<Machine, TooLarge> {
    let mut nfa = Nfa::new();
    for entry in entries {
        nfa.add(way, entry.pattern, &entry.matched);
    }
    Machine::new(&nfa, max_subset_bytes)
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
        Paths { words: self.words, cells: index(cells), lanes: self.lanes }
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::path::matched;

    use super::*;
    use crate::policy::limits::MAX_SUBSET_BYTES;
    use crate::policy::tables::Chunks;

    fn globs(texts: &[&str]) -> Vec<Vec<Glob>> {
        texts.iter().map(|text| vec![Glob::new(text).unwrap()]).collect()
    }

    /// One rule for each glob, by its place, for reading.
    fn rules(globs: &[Vec<Glob>]) -> Vec<PathRule<'_>> {
        globs
            .iter()
            .enumerate()
            .map(|(place, paths)| PathRule { index: index(place), line: place + 1, access: 1, paths })
            .collect()
    }

    fn first_match(mut paths: Paths, path: &str) -> u32 {
        super::super::pad(&mut paths.words);
        matched(&Chunks(&paths.words), paths.cells, &paths.lanes, path.as_bytes()).unwrap().0[0]
    }

    #[test]
    fn patterns_go_to_the_lane_of_their_shape() {
        for (glob, lane) in [
            ("/a/b", FORWARD_ENDS),
            ("/a/b*", FORWARD_ENDS),
            ("/a/**", FORWARD_ENDS),
            ("/a/*/**", FORWARD_ENDS),
            ("**", FORWARD_ENDS),
            ("/a/*.c", FORWARD_INNER),
            ("/home/*/.ssh/**", FORWARD_INNER),
            ("/a/**/b", FORWARD_REST),
            ("**/a/**/b", FORWARD_REST),
            ("**/a/b/**", FORWARD_REST),
            ("**/a/**", NAMES),
            ("**/a*/**", NAMES),
            ("**/.env", BACKWARD_FIXED),
            ("**/*.pem", BACKWARD_FIXED),
            ("**/a/*/b", BACKWARD_FIXED),
            ("**/id_*", BACKWARD_OPEN),
            ("**/a/?", BACKWARD_OPEN),
        ] {
            assert_eq!(lane_of(&Glob::new(glob).unwrap().alternatives()[0]), lane, "{glob}");
        }
    }

    #[test]
    fn rows_are_aligned() {
        let globs = globs(&["/a/**", "**/b", "**/c/**", "/*/d", "/a/**/e"]);
        let paths = compile(&rules(&globs), MAX_SUBSET_BYTES).ok().unwrap();
        assert!(paths.words[..DEAD_WORDS as usize].iter().all(|word| *word == 0));
        assert_eq!(paths.cells as usize % ACCESS_KINDS, 0);
        assert_eq!(paths.words[paths.cells as usize..][..ACCESS_KINDS], Matched::NOTHING.0);
        for lane in paths.lanes.iter().filter(|lane| lane.start != DEAD) {
            let stride = (lane.end + 1).next_power_of_two();
            assert_eq!(lane.start % stride, 0);
            assert!(lane.classes.iter().all(|class| u32::from(*class) < lane.end));
        }
    }

    #[test]
    fn without_patterns_nothing_matches() {
        let paths = compile(&[], MAX_SUBSET_BYTES).ok().unwrap();
        assert_eq!(first_match(paths, "/a"), enforcer_common::rule::NO_RULE);
    }

    #[test]
    fn what_a_tree_has_settled_needs_no_states() {
        let settled = globs(&["/a/**", "/a/b/c/d/e/**", "/a/f/g/h"]);
        let alone = globs(&["/a/**"]);
        let words = |globs: &[Vec<Glob>]| {
            let rules = rules(globs);
            let mut entries = entries(&rules);
            entries.truncate(globs.len());
            let entries: Vec<_> = entries.iter().collect();
            machine(Direction::Forward, &entries, MAX_SUBSET_BYTES).ok().unwrap().ends.len()
        };
        assert_eq!(words(&settled), words(&alone));
    }

    /// Patterns whose automaton has a state for each set of the letters that a name has.
    fn exploding(count: u8) -> Vec<String> {
        (b'a'..b'a' + count).map(char::from).map(|letter| format!("/*{letter}*/{letter}")).collect()
    }

    #[test]
    fn a_lane_over_the_limit_is_split_once() {
        let texts = exploding(10);
        let globs = globs(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let limit = 1 << 16;
        let all: Vec<_> = rules(&globs);
        assert!(machine(Direction::Forward, &entries(&all).iter().collect::<Vec<_>>(), limit).is_err());
        let paths = compile(&all, limit).ok().unwrap();
        let used = paths.lanes.iter().filter(|lane| lane.start != DEAD).count();
        assert_eq!(used, 2);
        assert_eq!(first_match(paths, "/xjx/j"), 9);
    }

    #[test]
    fn an_explosion_names_the_glob() {
        let texts: Vec<_> = ["/plain/a".to_owned()].into_iter().chain(exploding(26)).collect();
        let globs = globs(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let error = compile(&rules(&globs), 1 << 16).err().unwrap();
        let CompileError::PathsExplode { glob, line } = error else { panic!("{error}") };
        assert!(glob.starts_with("/*"), "{glob}");
        assert_eq!(texts[line - 1], glob);
    }
}
