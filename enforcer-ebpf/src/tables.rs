//! The decision engine's tables over the maps, for one action of one agent.

use crate::{
    emit::{self, What},
    maps::{ALERTS, BUCKETS, EVENTS, GRANTS, REQUESTS, SLOTS, rule_in},
    offsets::{HASH_KEY0, HASH_KEY1},
    paths, scratch,
    scratch::Claim,
    words::{self, SlotWords},
};
use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_ktime_get_boot_ns};
use core::{
    cell::Cell,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};
use enforcer_common::{
    action::Endpoint,
    address::Address,
    agent::{AgentEntry, CounterKey},
    decide::{Defaults, Tables},
    event::Event,
    grant::{Answer, Grant, RequestKey},
    limits::SWAP_TRIES,
    network::Entry,
    rate::{self, Token},
    rule::{Rule, SlotHeader},
    siphash::SipHash,
};

const SEQ: AtomicOrdering = AtomicOrdering::SeqCst;

/// Who acts, by the agent's entry.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    /// The agent's id.
    pub(crate) agent: u64,
    /// The slot of its policy.
    pub(crate) slot: u32,
    /// The number of the policy's load.
    pub(crate) policy: u32,
    /// 1 when decisions are only noted.
    pub(crate) audit: u32,
    /// Where its counters are; see [`AgentEntry`].
    pub(crate) counters: u32,
    /// Rules of the policy; 0 where there is none.
    pub(crate) rules: u32,
    /// Stripes of the counters.
    pub(crate) stripes: u32,
}

impl Actor {
    /// The actor of an agent's entry.
    #[inline(always)]
    pub(crate) fn new(agent: u64, entry: &AgentEntry) -> Self {
        Self {
            agent,
            slot: entry.slot,
            policy: entry.policy,
            audit: entry.audit & 1,
            counters: entry.counters,
            rules: entry.rules,
            stripes: entry.stripes,
        }
    }

    /// An agent that has no entry.
    #[inline(always)]
    pub(crate) fn unknown(agent: u64) -> Self {
        Self { agent, slot: 0, policy: 0, audit: 0, counters: 0, rules: 0, stripes: 0 }
    }
}

/// What is acted on.
///
/// VERIFIER: a trait and not an enum, so that each kind has functions of its own: 6.1 does not follow a number of one
/// byte over the stack, and would look into the pointers of the kind that it is not.
pub(crate) trait Object {
    /// The number of the kind of action.
    fn kind(&self) -> u64;
    /// The hash that names it in a request.
    fn hash(&self) -> [u64; 2];
    /// Writes what it is into an event.
    ///
    /// # Safety
    ///
    /// `event` can be written.
    unsafe fn describe(&self, event: *mut Event);
    /// Files a request about it; whether there was room.
    fn file(&self, actor: &Actor, what: &What, key: &RequestKey) -> bool;
    /// Writes an event about it; whether there was room.
    fn emit(&self, actor: &Actor, what: &What, alert: bool) -> bool;
}

/// The other end of a connect or a send.
pub(crate) struct Peer<'a> {
    /// The number of the kind of action.
    pub(crate) kind: u64,
    /// The other end.
    pub(crate) endpoint: &'a Endpoint,
}

/// A path in working memory.
pub(crate) struct Place<'a> {
    /// The number of the kind of action.
    pub(crate) kind: u64,
    /// The set of kinds of access.
    pub(crate) access: u64,
    /// The working memory.
    pub(crate) claim: &'a Claim,
}

impl Object for Peer<'_> {
    #[inline(always)]
    fn kind(&self) -> u64 {
        self.kind
    }

    #[inline(always)]
    fn hash(&self) -> [u64; 2] {
        let mut hash = [0; 2];
        let facts = self.kind as u32
            | u32::from(self.endpoint.protocol as u8) << 8
            | u32::from(self.endpoint.port) << 16;
        hash_words(&self.endpoint.address.words(), facts, &mut hash);
        hash
    }

    #[inline(always)]
    unsafe fn describe(&self, event: *mut Event) {
        // SAFETY: the caller's contract.
        unsafe {
            (*event).kind = self.kind as u8;
            (*event).access = 0;
            (*event).address = self.endpoint.address;
            (*event).port = self.endpoint.port;
            (*event).protocol = self.endpoint.protocol as u8;
        }
    }

    #[inline(always)]
    fn file(&self, actor: &Actor, what: &What, key: &RequestKey) -> bool {
        scratch::claim().is_some_and(|claim| insert(&claim, self, actor, what, key))
    }

    #[inline(always)]
    fn emit(&self, actor: &Actor, what: &What, alert: bool) -> bool {
        let Some(mut entry) = (if alert { ALERTS.reserve(0) } else { EVENTS.reserve(0) }) else {
            return false;
        };
        // SAFETY: the entry has an event's size.
        unsafe { emit::fill(entry.as_mut_ptr(), actor, self, what) };
        entry.submit(0);
        true
    }
}

impl Object for Place<'_> {
    #[inline(always)]
    fn kind(&self) -> u64 {
        self.kind
    }

    #[inline(always)]
    fn hash(&self) -> [u64; 2] {
        paths::hash_path(self.claim, self.kind as u8, self.access as u8)
    }

    #[inline(always)]
    unsafe fn describe(&self, event: *mut Event) {
        // SAFETY: the caller's contract.
        unsafe {
            (*event).kind = self.kind as u8;
            (*event).access = self.access as u8;
            (*event).address = Address([0; 16]);
            (*event).port = 0;
            (*event).protocol = 0;
        }
    }

    #[inline(always)]
    fn file(&self, actor: &Actor, what: &What, key: &RequestKey) -> bool {
        emit::copy_path(self.claim);
        insert(self.claim, self, actor, what, key)
    }

    #[inline(always)]
    fn emit(&self, actor: &Actor, what: &What, alert: bool) -> bool {
        emit::output(self.claim, actor, self, what, alert)
    }
}

#[inline(always)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "a record moved would be a record on the stack")]
fn insert<O: Object>(claim: &Claim, object: &O, actor: &Actor, what: &What, key: &RequestKey) -> bool {
    // SAFETY: the area is claimed, and `fill` fills all of the record but bytes that mean nothing.
    unsafe {
        let path_bytes = (*claim.area).record.event.path_bytes;
        emit::fill(&raw mut (*claim.area).record.event, actor, object, what);
        (*claim.area).record.event.path_bytes = path_bytes;
        REQUESTS.insert(key, &(*claim.area).record, u64::from(BPF_NOEXIST)).is_ok()
    }
}

/// The tables for one action.
pub(crate) struct KernelTables<'a, O> {
    header: *const SlotHeader,
    actor: &'a Actor,
    object: &'a O,
    /// Nanoseconds that a token costs, when one was taken.
    pub(crate) token_ns: Cell<u64>,
    /// The object's hash, when the grants were asked.
    pub(crate) hash: Cell<[u64; 2]>,
}

impl<'a, O: Object> KernelTables<'a, O> {
    /// The tables of the actor's policy; `None` when it has none.
    #[inline(always)]
    pub(crate) fn new(actor: &'a Actor, object: &'a O) -> Option<Self> {
        let header = SLOTS.get_ptr(actor.slot)?;
        Some(Self { header, actor, object, token_ns: Cell::new(0), hash: Cell::new([0; 2]) })
    }
}

impl<O: Object> Tables for KernelTables<'_, O> {
    type Words = SlotWords;

    #[inline(always)]
    fn defaults(&self) -> Option<Defaults> {
        // SAFETY: `header` is a value of the map.
        let header = unsafe { &*self.header };
        Some(Defaults {
            network: header.default_network,
            file: header.default_file,
            exec: header.default_exec,
        })
    }

    #[inline(always)]
    fn root(&self, address: &Address) -> Option<Entry> {
        // SAFETY: `header` is a value of the map.
        let header = unsafe { &*self.header };
        Some(Entry(if address.is_v4() { header.root_v4 } else { header.root_v6 }))
    }

    #[inline(always)]
    fn words(&self) -> Option<SlotWords> {
        words::of(self.actor.slot)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        rule_in(self.actor.slot, index)
    }

    #[inline(always)]
    fn take_token(&self, rule: &Rule) -> Option<bool> {
        match take(self.actor.agent, rule.content, rule.interval_ns, rule.tolerance_ns) {
            TAKEN => {
                self.token_ns.set(rule.interval_ns);
                Some(true)
            }
            EMPTY => Some(false),
            _ => None,
        }
    }

    #[inline(always)]
    fn answer(&self, _index: u32, rule: &Rule) -> Option<Answer> {
        let object = self.object.hash();
        self.hash.set(object);
        let key = RequestKey { agent: self.actor.agent, rule: rule.content, object };
        match ask(&key) {
            0 => {}
            1 => return Some(Answer::Refused),
            _ => return Some(Answer::Allowed),
        }
        // Filed once the decision is there (`enact::request`), which needs what is on the stack here.
        Some(Answer::Waiting)
    }
}

const TAKEN: u64 = 1;
const EMPTY: u64 = 0;
const NO_BUCKET: u64 = 2;

/// Takes a token. VERIFIER: not inlined, so that its ways meet in one number.
#[inline(never)]
fn take(agent: u64, rule: u64, interval_ns: u64, tolerance_ns: u64) -> u64 {
    let key = CounterKey { agent, rule };
    let bucket = match BUCKETS.get_ptr_mut(key) {
        Some(bucket) => bucket,
        None => {
            // Another processor may have been first; that is as good.
            let _ = BUCKETS.insert(key, 0, u64::from(BPF_NOEXIST));
            match BUCKETS.get_ptr_mut(key) {
                Some(bucket) => bucket,
                None => return NO_BUCKET,
            }
        }
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    for _ in 0..SWAP_TRIES {
        // SAFETY: `bucket` is a value of the map.
        let held = unsafe { bucket.read_volatile() };
        match rate::take(held, now, interval_ns, tolerance_ns) {
            Token::None => return EMPTY,
            Token::Taken(next) => {
                // SAFETY: as above.
                if unsafe { atomic_cxchg::<u64, SEQ, SEQ>(bucket, held, next) }.1 {
                    return TAKEN;
                }
            }
        }
    }
    // So many took one at the same time that this one lost: "try again" is the answer to that.
    EMPTY
}

/// What a grant says: 0 nothing, 1 it refuses, 2 it allows; takes a use of one that says something.
/// VERIFIER: not inlined, so that its ways meet in one number.
#[inline(never)]
fn ask(key: &RequestKey) -> u64 {
    let Some(grant) = GRANTS.get_ptr_mut(key) else { return 0 };
    if !use_grant(grant) {
        return 0;
    }
    // SAFETY: `grant` is a value of the map; one that is deleted meanwhile was valid a moment ago.
    if unsafe { (*grant).allows } == 1 { 2 } else { 1 }
}

/// Takes a use of a grant; whether it had one and has not expired.
#[inline(always)]
fn use_grant(grant: *mut Grant) -> bool {
    // SAFETY: the caller passes a value of the map; a helper without arguments.
    unsafe {
        if (*grant).expires_ns <= bpf_ktime_get_boot_ns() {
            return false;
        }
        let uses = &raw mut (*grant).uses;
        for _ in 0..SWAP_TRIES {
            let held = uses.read_volatile();
            if held <= 0 {
                return false;
            }
            if atomic_cxchg::<i64, SEQ, SEQ>(uses, held, held - 1).1 {
                return true;
            }
        }
    }
    false
}

/// The hash that names the other end of a network action. VERIFIER: not inlined, so that its loop is walked once and LLVM does not spread it.
#[inline(never)]
fn hash_words(address: &[u32; 4], facts: u32, hash: &mut [u64; 2]) {
    let mut sip = SipHash::new([HASH_KEY0.load(), HASH_KEY1.load()]);
    let [a, b, c, d] = *address;
    sip.word(u64::from(facts));
    sip.word(u64::from(a) | u64::from(b) << 32);
    sip.word(u64::from(c) | u64::from(d) << 32);
    *hash = sip.finish();
}
