//! Compiled tables in memory: the other implementation of the decision engine's tables, beside the kernel's.
//!
//! What the tools say of a policy is said by the engine over the same tables that the loader writes into maps.
//! Time, buckets and grants are given by the caller; nothing here looks at a clock.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use enforcer_common::action::{Access, Endpoint};
use enforcer_common::address::Address;
use enforcer_common::class::{AddressClass, PORT_CLASS_ANY, PairKey, PortKey};
use enforcer_common::decide::{Defaults, Facts, Tables, decide};
use enforcer_common::grant::Answer;
use enforcer_common::limits::CHUNK_WORDS;
use enforcer_common::path::{Words, matched};
use enforcer_common::rate::{Token, take};
use enforcer_common::rule::{NO_RULE, Rule};
use enforcer_common::verdict::{Decision, Reason};

use super::compile::CompiledTables;

/// One agent under a policy that lies in memory.
#[derive(Debug)]
pub struct MemoryTables<'t> {
    compiled: &'t CompiledTables,
    addresses: Trie<u128, AddressClass>,
    ports: Trie<u32, u32>,
    pairs: HashMap<PairKey, u32>,
    now_ns: Cell<u64>,
    buckets: RefCell<HashMap<u64, u64>>,
    grants: RefCell<HashMap<u32, Answer>>,
}

impl<'t> MemoryTables<'t> {
    /// An agent with full buckets, without grants, at a time far enough from zero.
    pub fn new(compiled: &'t CompiledTables) -> Self {
        let addresses =
            compiled.addresses.iter().map(|&(bits, key, class)| (bits, u128::from_be_bytes(key), class));
        let ports = compiled.ports.iter().map(|&(bits, key, class)| (bits, port_bits(&key), class));
        Self {
            compiled,
            addresses: Trie::new(addresses, mask_128),
            ports: Trie::new(ports, mask_32),
            pairs: compiled.pairs.iter().copied().collect(),
            now_ns: Cell::new(1 << 60),
            buckets: RefCell::default(),
            grants: RefCell::default(),
        }
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

impl Tables for MemoryTables<'_> {
    fn defaults(&self) -> Option<Defaults> {
        let header = &self.compiled.header;
        Some(Defaults {
            network: header.default_network,
            file: header.default_file,
            exec: header.default_exec,
        })
    }

    fn address(&self, address: &Address) -> Option<AddressClass> {
        self.addresses.longest(u128::from_be_bytes(address.0))
    }

    fn port(&self, key: &PortKey) -> Option<u32> {
        Some(self.ports.longest(port_bits(key)).unwrap_or(PORT_CLASS_ANY))
    }

    fn pair(&self, key: &PairKey) -> Option<u32> {
        Some(self.pairs.get(key).copied().unwrap_or(NO_RULE))
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

/// The longest prefix that covers a key, as the kernel's trie finds it.
#[derive(Debug)]
struct Trie<K, V> {
    /// The lengths that occur, each with the prefixes of that length.
    lengths: BTreeSet<u32>,
    prefixes: HashMap<(u32, K), V>,
    mask: fn(u32) -> K,
}

impl<K: Copy + Eq + Hash + std::ops::BitAnd<Output = K>, V: Copy> Trie<K, V> {
    fn new(entries: impl Iterator<Item = (u32, K, V)>, mask: fn(u32) -> K) -> Self {
        let prefixes: HashMap<_, _> =
            entries.map(|(bits, key, value)| ((bits, key & mask(bits)), value)).collect();
        Self { lengths: prefixes.keys().map(|(bits, _)| *bits).collect(), prefixes, mask }
    }

    fn longest(&self, key: K) -> Option<V> {
        let lengths = self.lengths.iter().rev();
        lengths.filter_map(|&bits| self.prefixes.get(&(bits, key & (self.mask)(bits)))).next().copied()
    }
}

fn mask_128(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

fn mask_32(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn port_bits(key: &PortKey) -> u32 {
    u32::from_be_bytes([key.protocol, key.zero, key.port_be[0], key.port_be[1]])
}

/// A path table by chunks.
struct Chunks<'t>(&'t [u32]);

impl<'t> Words for Chunks<'t> {
    type Chunk = &'t [u32];

    fn chunk(&self, number: u32) -> Option<&'t [u32]> {
        let start = number as usize * CHUNK_WORDS;
        self.0.get(start..start + CHUNK_WORDS)
    }

    fn word(&self, chunk: &'t [u32], index: u32) -> u32 {
        chunk.get(index as usize).copied().unwrap_or(0)
    }
}
