//! Counters of decisions: arrays that the programs count in, and what is left of earlier ones.
//!
//! An agent's array is as long as its policy has rules, so a new policy takes a new array. Once no program uses the
//! earlier one, what it says is added to `COUNTS`, by the contents of the rules, and goes on being told with the rest.

use super::{
    maps::{Error, Maps, failed, locked},
    slot::{self, INNER_MAP, MMAPABLE},
    sys,
};
use crate::agents::AgentId;
use aya::{maps::PerCpuValues, util::nr_cpus};
use enforcer_common::{
    agent::{AgentEntry, CounterKey, Counts},
    counter::{HEAD, content_at, counter_at, stripes, words},
    limits::{COUNTER_ARRAYS_MAX, COUNTERS_BYTES},
    rule::Rule,
};
use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::AsFd as _,
};

/// Which places are free.
#[derive(Debug)]
pub(super) struct Free {
    places: BTreeSet<u32>,
    processors: u32,
}

impl Free {
    /// All places, where nothing was pinned yet.
    pub(super) fn all() -> Result<Self, Error> {
        let processors = nr_cpus().map_err(|(_, error)| Error::io("size", "COUNTERS", error))? as u32;
        Ok(Self { places: (0..COUNTER_ARRAYS_MAX).collect(), processors })
    }

    /// All but those in use, where another daemon was before. What no agent uses is an earlier array of one: that daemon
    /// ended before it could add it up.
    pub(super) fn find(maps: &Maps, agents: &[(u64, AgentEntry)]) -> Result<Self, Error> {
        let mut free = Self::all()?;
        for (_, entry) in agents {
            free.places.remove(&entry.counters);
        }
        for place in &free.places {
            let Some(array) = read(maps, *place)? else { continue };
            if agents.iter().any(|(agent, _)| *agent == array.agent) {
                add_up(maps, &array)?;
            }
            maps.counters.clear(*place)?;
        }
        Ok(free)
    }

    pub(super) fn give_back(&mut self, place: u32) {
        self.places.insert(place);
    }
}

/// Makes the counters of an agent under the policy in a slot, all zero.
pub(super) fn make(
    maps: &Maps,
    free: &mut Free,
    agent: AgentId,
    entry: AgentEntry,
) -> Result<AgentEntry, Error> {
    let contents: Vec<u64> = match maps.rules.inner(entry.slot)? {
        Some(rules) => {
            let rules: Vec<Rule> =
                sys::read_all(rules.as_fd()).map_err(|error| Error::io("read", "RULES", error))?;
            rules.iter().map(|rule| rule.content).collect()
        }
        None => Vec::new(),
    };
    let rules = contents.len() as u32;
    let stripes = stripes(rules, free.processors, COUNTERS_BYTES);
    let none = || Error::io("find room in", "COUNTERS", io::ErrorKind::StorageFull.into());
    let place = free.places.pop_first().ok_or_else(none)?;
    let AgentId(agent) = agent;
    let mut head = vec![agent, u64::from(rules), u64::from(stripes)];
    head.resize(HEAD as usize, 0);
    head.extend(contents);
    let room = words(rules, stripes) as usize;
    slot::part(&maps.counters, place, (INNER_MAP | MMAPABLE, room), &head)
        .inspect_err(|_| free.give_back(place))?;
    Ok(AgentEntry { counters: place, rules, stripes, ..entry })
}

/// Takes the counters of an earlier policy away and adds them up. No program may use them any more.
pub(super) fn retire(maps: &Maps, place: u32) -> Result<(), Error> {
    if let Some(array) = read(maps, place)? {
        add_up(maps, &array)?;
    }
    maps.counters.clear(place)
}

/// Decisions of all agents by rule.
pub(super) fn all(maps: &Maps, agents: &[(AgentId, AgentEntry)]) -> Result<Vec<(CounterKey, Counts)>, Error> {
    let mut all: HashMap<CounterKey, Counts> = HashMap::new();
    let earlier = locked(&maps.counts);
    for entry in earlier.iter() {
        // Where a key is removed meanwhile the kernel begins again, and tells some keys twice.
        let (key, values) = entry.map_err(failed("read", "COUNTS"))?;
        all.insert(key, sum(values.iter().copied()));
    }
    for (_, entry) in agents {
        let Some(array) = read(maps, entry.counters)? else { continue };
        for (key, counts) in array.counts() {
            let before = all.entry(key).or_default();
            *before = sum([*before, counts]);
        }
    }
    Ok(all.into_iter().collect())
}

/// A copy of an array.
struct Array {
    agent: u64,
    rules: u32,
    stripes: u32,
    words: Vec<u64>,
}

impl Array {
    /// What was counted, for rules that have decided at all.
    fn counts(&self) -> impl Iterator<Item = (CounterKey, Counts)> {
        let word = |at: u32| self.words.get(at as usize).copied().unwrap_or(0);
        (0..self.rules).filter_map(move |rule| {
            let stripe = |stripe| {
                let counter =
                    |verdict| word(counter_at(self.rules, self.stripes, stripe, verdict as u32, rule));
                Counts(std::array::from_fn(counter))
            };
            let counts = sum((0..self.stripes).map(stripe));
            let key = CounterKey { agent: self.agent, rule: word(content_at(rule)) };
            (counts != Counts::default()).then_some((key, counts))
        })
    }
}

/// Counts may have been taken back elsewhere than where they were made, so they wrap.
fn sum(counts: impl IntoIterator<Item = Counts>) -> Counts {
    counts.into_iter().fold(Counts::default(), |all, one| {
        Counts(std::array::from_fn(|verdict| {
            let of = |counts: &Counts| counts.0.get(verdict).copied().unwrap_or(0);
            of(&all).wrapping_add(of(&one))
        }))
    })
}

fn read(maps: &Maps, place: u32) -> Result<Option<Array>, Error> {
    let Some(array) = maps.counters.inner(place)? else { return Ok(None) };
    let words: Vec<u64> =
        sys::read_all(array.as_fd()).map_err(|error| Error::io("read", "COUNTERS", error))?;
    let [agent, rules, stripes, ..] = *words else { return Ok(None) };
    // As `make` wrote them.
    Ok(Some(Array { agent, rules: rules as u32, stripes: stripes as u32, words }))
}

fn add_up(maps: &Maps, array: &Array) -> Result<(), Error> {
    let mut earlier = locked(&maps.counts);
    for (key, counts) in array.counts() {
        let mut values = match earlier.get(&key, 0) {
            Ok(values) => values.iter().copied().collect(),
            Err(_) => {
                vec![Counts::default(); nr_cpus().map_err(|(_, error)| Error::io("size", "COUNTS", error))?]
            }
        };
        if let Some(first) = values.first_mut() {
            *first = sum([*first, counts]);
        }
        let values =
            PerCpuValues::try_from(values).map_err(|error| Error::io("write to", "COUNTS", error))?;
        earlier.insert(key, values, 0).map_err(failed("write to", "COUNTS"))?;
    }
    Ok(())
}
