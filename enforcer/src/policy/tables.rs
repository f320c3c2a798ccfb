//! Compiled tables in memory: the other implementation of the decision engine's tables, beside the kernel's.
//!
//! What the tools say of a policy is said by the engine over the same tables that the loader writes into maps.
//! Time, buckets and grants are given by the caller; nothing here looks at a clock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use enforcer_common::action::{Access, Endpoint};
use enforcer_common::address::Address;
use enforcer_common::decide::{Defaults, Facts, Tables, decide};
use enforcer_common::grant::Answer;
use enforcer_common::limits::CHUNK_WORDS;
use enforcer_common::network::Entry;
use enforcer_common::path::matched;
use enforcer_common::rate::{Token, take};
use enforcer_common::rule::Rule;
use enforcer_common::verdict::{Decision, Reason};
use enforcer_common::words::{ROW_WORDS, Words};

use super::compile::CompiledTables;

/// One agent under a policy that lies in memory.
#[derive(Debug)]
pub struct MemoryTables<'t> {
    compiled: &'t CompiledTables,
    now_ns: Cell<u64>,
    buckets: RefCell<HashMap<u64, u64>>,
    grants: RefCell<HashMap<u32, Answer>>,
}

impl<'t> MemoryTables<'t> {
    /// An agent with full buckets, without grants, at a time far enough from zero.
    pub fn new(compiled: &'t CompiledTables) -> Self {
        Self { compiled, now_ns: Cell::new(1 << 60), buckets: RefCell::default(), grants: RefCell::default() }
    }

    /// What it decides with.
    pub fn compiled(&self) -> &'t CompiledTables {
        self.compiled
    }

    /// Lets time pass.
    pub fn advance(&self, by: std::time::Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.now_ns.set(self.now_ns.get().saturating_add(by));
    }

    /// Answers the requests of a rule from now on, whatever their object.
    pub fn answer_with(&self, rule: u32, answer: Answer) {
        self.grants.borrow_mut().insert(rule, answer);
    }

    /// Decides a connect or a send.
    pub fn decide_network(&self, endpoint: Endpoint) -> Decision {
        decide(self, &Facts::Network(&endpoint))
    }

    /// Decides an act on an absolute path.
    pub fn decide_path(&self, access: Access, path: &[u8]) -> Decision {
        let header = &self.compiled.header;
        let words = Chunks(&self.compiled.words);
        match matched(&words, header.cells, &header.lanes, path) {
            Some(matched) => decide(self, &Facts::Path { access, matched }),
            None => Decision::refuse(Reason::NoTable),
        }
    }
}

impl<'t> Tables for MemoryTables<'t> {
    type Words = Chunks<'t>;

    fn defaults(&self) -> Option<Defaults> {
        let header = &self.compiled.header;
        Some(Defaults {
            network: header.default_network,
            file: header.default_file,
            exec: header.default_exec,
        })
    }

    fn root(&self, address: &Address) -> Option<Entry> {
        let header = &self.compiled.header;
        Some(Entry(if address.is_v4() { header.root_v4 } else { header.root_v6 }))
    }

    fn words(&self) -> Option<Self::Words> {
        Some(Chunks(&self.compiled.words))
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.compiled.rules.get(index as usize)
    }

    fn take_token(&self, rule: &Rule) -> Option<bool> {
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry(rule.content).or_default();
        Some(match take(*bucket, self.now_ns.get(), rule.interval_ns, rule.tolerance_ns) {
            Token::Taken(next) => {
                *bucket = next;
                true
            }
            Token::None => false,
        })
    }

    fn answer(&self, index: u32, _: &Rule) -> Option<Answer> {
        Some(self.grants.borrow().get(&index).copied().unwrap_or(Answer::Waiting))
    }
}

/// A policy's words by chunks.
#[derive(Debug)]
pub struct Chunks<'t>(pub(super) &'t [u32]);

impl<'t> Words for Chunks<'t> {
    type Chunk = &'t [u32];
    type Row = &'t [u32];

    fn chunk(&self, number: u32) -> Option<&'t [u32]> {
        let start = number as usize * CHUNK_WORDS;
        self.0.get(start..start + CHUNK_WORDS)
    }

    fn word(&self, chunk: &'t [u32], index: u32) -> u32 {
        chunk.get(index as usize).copied().unwrap_or(0)
    }

    fn row(&self, chunk: &'t [u32], index: u32) -> &'t [u32] {
        chunk.get(index as usize..index as usize + ROW_WORDS).unwrap_or(&[])
    }

    fn at(&self, row: &'t [u32], place: usize) -> u64 {
        row.get(place).copied().map_or(0, u64::from)
    }
}
