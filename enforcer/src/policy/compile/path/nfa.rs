//! The patterns of one lane as one tree of states: a nondeterministic automaton in which what patterns have in
//! common at their beginning is there once.
//!
//! That sharing is the point. Ten thousand patterns `/srv/*.aN` are one star with a tree of endings below it,
//! so that the automaton over them is in few states at once, and making it deterministic costs little.

use enforcer_common::path::{Direction, Matched};

use super::index;
use crate::policy::glob::{Component, NamePart, NamePattern, Pattern};

/// The number of a state.
pub(super) type StateId = u32;

/// The number of a set of bytes.
pub(super) type SetId = usize;

/// The start state.
pub(super) const START: StateId = 0;

/// A state.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Where single bytes lead.
    pub(super) bytes: Vec<(u8, StateId)>,
    /// Where sets of bytes lead.
    pub(super) sets: Vec<(SetId, StateId)>,
    /// Bytes that leave it in this state.
    pub(super) stays: Option<SetId>,
    /// What it matches when the input ends here.
    pub(super) end: Matched,
    /// States that it is in as well: after a `*`, among skipped folders, below a `/**`.
    also: [Option<StateId>; ALSO],
}

const ALSO: usize = 3;
const STAR: usize = 0;
const GAP: usize = 1;
const REST: usize = 2;

/// The tree.
pub(super) struct Nfa {
    states: Vec<State>,
    sets: Vec<[bool; 256]>,
}

/// The set of all bytes but the slash.
const NAME_BYTES: SetId = 0;
/// The set of all bytes.
const ALL_BYTES: SetId = 1;

/// One step of a pattern in the direction of reading.
enum Step {
    Byte(u8),
    Set(SetId),
    /// Any bytes of a name.
    Star,
    /// Any folders, each with the slash after it.
    Gap,
    /// Any bytes up to the end.
    Rest,
}

impl Nfa {
    pub(super) fn new() -> Self {
        let name_bytes = std::array::from_fn(|byte| byte != usize::from(b'/'));
        Self { states: vec![State::new(None)], sets: vec![name_bytes, [true; 256]] }
    }

    /// Adds a pattern with what it decides.
    pub(super) fn add(&mut self, way: Direction, pattern: &Pattern, matched: &Matched) {
        let mut at = START;
        for step in self.steps(way, pattern) {
            at = self.step(at, &step);
        }
        if let Some(state) = self.states.get_mut(at as usize) {
            state.end.merge(matched);
        }
    }

    pub(super) fn states(&self) -> &[State] {
        &self.states
    }

    pub(super) fn sets(&self) -> &[[bool; 256]] {
        &self.sets
    }

    /// The states that one is in without any input: itself and those that it is in as well.
    pub(super) fn closure(&self, state: StateId) -> Vec<StateId> {
        let mut closure = vec![state];
        let mut at = 0;
        while let Some(&next) = closure.get(at) {
            at += 1;
            closure.extend(self.states.get(next as usize).into_iter().flat_map(|state| state.also).flatten());
        }
        closure
    }

    /// The patterns' steps. A lane that reads backward has only patterns `**/x`: names, then any rest.
    fn steps(&mut self, way: Direction, pattern: &Pattern) -> Vec<Step> {
        let mut steps = Vec::new();
        match (way, pattern.components()) {
            (Direction::Names, [_, Component::Name(name), _]) => self.name(name, &mut steps),
            (Direction::Backward, [_, names @ ..]) => {
                for component in names.iter().rev() {
                    if let Component::Name(name) = component {
                        let first = steps.len();
                        self.name(name, &mut steps);
                        if let Some(name) = steps.get_mut(first..) {
                            name.reverse();
                        }
                    }
                    steps.push(Step::Byte(b'/'));
                }
                steps.push(Step::Rest);
            }
            (_, components) => self.path(components, &mut steps),
        }
        steps
    }

    fn path(&mut self, components: &[Component], steps: &mut Vec<Step>) {
        let mut needs_separator = true;
        let mut components = components.iter().peekable();
        while let Some(component) = components.next() {
            if needs_separator {
                steps.push(Step::Byte(b'/'));
            }
            needs_separator = true;
            match component {
                Component::AnyDepth if components.peek().is_none() => steps.push(Step::Rest),
                Component::AnyDepth => {
                    steps.push(Step::Gap);
                    needs_separator = false;
                }
                Component::Name(name) => self.name(name, steps),
            }
        }
    }

    fn name(&mut self, name: &NamePattern, steps: &mut Vec<Step>) {
        for part in name.parts() {
            match part {
                NamePart::Literal(bytes) => steps.extend(bytes.iter().map(|byte| Step::Byte(*byte))),
                NamePart::AnyRun => steps.push(Step::Star),
                NamePart::AnyByte => steps.push(Step::Set(NAME_BYTES)),
                NamePart::Set(set) => {
                    let bytes =
                        std::array::from_fn(|byte| u8::try_from(byte).is_ok_and(|byte| set.contains(byte)));
                    steps.push(Step::Set(self.set(bytes)));
                }
            }
        }
    }

    fn set(&mut self, bytes: [bool; 256]) -> SetId {
        self.sets.iter().position(|known| *known == bytes).unwrap_or_else(|| {
            self.sets.push(bytes);
            self.sets.len() - 1
        })
    }

    /// The state after a step, which patterns that took the same steps share.
    fn step(&mut self, from: StateId, step: &Step) -> StateId {
        match *step {
            Step::Byte(byte) => {
                let known =
                    self.at(from).and_then(|state| state.bytes.iter().find(|(known, _)| *known == byte));
                known.map(|(_, to)| *to).unwrap_or_else(|| self.link_byte(from, byte))
            }
            Step::Set(set) => {
                let known =
                    self.at(from).and_then(|state| state.sets.iter().find(|(known, _)| *known == set));
                known.map(|(_, to)| *to).unwrap_or_else(|| {
                    let to = self.push(State::new(None));
                    self.change(from, |state| state.sets.push((set, to)));
                    to
                })
            }
            Step::Star => self.also(from, STAR, Some(NAME_BYTES)),
            Step::Rest => self.also(from, REST, Some(ALL_BYTES)),
            Step::Gap => self.gap(from),
        }
    }

    fn link_byte(&mut self, from: StateId, byte: u8) -> StateId {
        let to = self.push(State::new(None));
        self.change(from, |state| state.bytes.push((byte, to)));
        to
    }

    fn also(&mut self, from: StateId, kind: usize, stays: Option<SetId>) -> StateId {
        let known = self.at(from).and_then(|state| state.also.get(kind).copied().flatten());
        known.unwrap_or_else(|| {
            let to = self.push(State::new(stays));
            self.change(from, |state| {
                if let Some(place) = state.also.get_mut(kind) {
                    *place = Some(to);
                }
            });
            to
        })
    }

    /// The state at the beginning of a name, with any folders skipped: beside it is one that skips, and comes
    /// back at each slash.
    fn gap(&mut self, from: StateId) -> StateId {
        let at_name = self.also(from, GAP, None);
        let skips = self.also(at_name, GAP, Some(ALL_BYTES));
        self.change(skips, |state| {
            if state.bytes.is_empty() {
                state.bytes.push((b'/', at_name));
            }
        });
        at_name
    }

    fn at(&self, state: StateId) -> Option<&State> {
        self.states.get(state as usize)
    }

    fn push(&mut self, state: State) -> StateId {
        self.states.push(state);
        index(self.states.len() - 1)
    }

    fn change(&mut self, state: StateId, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.states.get_mut(state as usize) {
            change(state);
        }
    }
}

impl State {
    fn new(stays: Option<SetId>) -> Self {
        Self { bytes: Vec::new(), sets: Vec::new(), stays, end: Matched::NOTHING, also: [None; ALSO] }
    }

    /// Whether it is never left.
    pub(super) fn is_rest(&self) -> bool {
        self.stays == Some(ALL_BYTES) && self.bytes.is_empty()
    }

    /// All states that it leads to, or that it is in as well.
    pub(super) fn successors(&self) -> impl Iterator<Item = StateId> {
        let (bytes, sets) = (self.bytes.iter().map(|(_, to)| *to), self.sets.iter().map(|(_, to)| *to));
        bytes.chain(sets).chain(self.also.into_iter().flatten())
    }
}
