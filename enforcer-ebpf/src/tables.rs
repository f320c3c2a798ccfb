//! The decision engine's tables over the maps, for one action of one agent.

use crate::{
    emit,
    maps::{ADDRESSES, BUCKETS, GRANTS, PAIRS, PORTS, REQUESTS, RULES, SLOTS},
    offsets::{HASH_KEY0, HASH_KEY1},
    paths, scratch,
    scratch::Claim,
};
use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::lpm_trie::Key, helpers::generated::bpf_ktime_get_boot_ns};
use core::{
    cell::Cell,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
};
use enforcer_common::{
    action::{Access, ActionKind, Endpoint},
    address::Address,
    agent::{AgentEntry, CounterKey},
    class::{AddressClass, PairKey, PortKey},
    decide::{Defaults, Tables},
    grant::{Answer, RequestKey},
    limits::SWAP_TRIES,
    rate::{self, Token},
    rule::{NO_RULE, Rule, SlotHeader},
    siphash::SipHash,
    verdict::{Reason, Verdict},
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
    /// Whether decisions are only noted.
    pub(crate) audit: bool,
}

impl Actor {
    /// The actor of an agent's entry.
    #[inline(always)]
    pub(crate) fn new(agent: u64, entry: &AgentEntry) -> Self {
        Self { agent, slot: entry.slot, policy: entry.policy, audit: entry.audit != 0 }
    }

    /// An agent that has no entry.
    #[inline(always)]
    pub(crate) fn unknown(agent: u64) -> Self {
        Self { agent, slot: 0, policy: 0, audit: false }
    }
}

/// What is acted on.
#[derive(Clone, Copy)]
pub(crate) enum Object<'a> {
    /// The other end of a connect or a send.
    Endpoint {
        /// Which of them.
        kind: ActionKind,
        /// The other end.
        endpoint: Endpoint,
    },
    /// A path in working memory.
    Path {
        /// Open, create or exec.
        kind: ActionKind,
        /// The kinds of access.
        access: Access,
        /// The working memory.
        claim: &'a Claim,
    },
}

/// The tables for one action.
pub(crate) struct KernelTables<'a> {
    header: *const SlotHeader,
    actor: &'a Actor,
    object: Object<'a>,
    /// Nanoseconds that a token costs, when one was taken.
    pub(crate) token_ns: Cell<u64>,
    /// The object's hash, when the grants were asked.
    pub(crate) hash: Cell<[u64; 2]>,
    /// When the request ends, when this action filed it.
    pub(crate) filed: Cell<u64>,
}

impl<'a> KernelTables<'a> {
    /// The tables of the actor's policy; `None` when it has none.
    #[inline(always)]
    pub(crate) fn new(actor: &'a Actor, object: Object<'a>) -> Option<Self> {
        let header = SLOTS.get_ptr(actor.slot)?;
        Some(Self {
            header,
            actor,
            object,
            token_ns: Cell::new(0),
            hash: Cell::new([0; 2]),
            filed: Cell::new(0),
        })
    }

    #[inline(always)]
    fn file(&self, claim: &Claim, index: u32, rule: &Rule, key: &RequestKey) -> Answer {
        // SAFETY: a helper without arguments.
        let deadline_ns = unsafe { bpf_ktime_get_boot_ns() }.saturating_add(rule.timeout_ns);
        let what = emit::What {
            rule: index,
            content: rule.content,
            verdict: Verdict::Escalate,
            reason: Reason::Waiting,
            flags: 0,
            object: key.object,
            deadline_ns,
            id: 0,
        };
        emit::describe(claim, self.actor, &self.object, &what);
        // SAFETY: the area is claimed, and `describe` has filled the record.
        let inserted = REQUESTS.insert(key, unsafe { &(*claim.area).record }, u64::from(BPF_NOEXIST));
        if inserted.is_err() {
            return Answer::Full;
        }
        self.filed.set(deadline_ns);
        Answer::Waiting
    }
}

impl Tables for KernelTables<'_> {
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
    fn address(&self, address: &Address) -> Option<AddressClass> {
        ADDRESSES.get(self.actor.slot)?.get(&Key::new(128, address.0)).copied()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<u32> {
        Some(PORTS.get(self.actor.slot)?.get(&Key::new(32, *key)).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn pair(&self, key: &PairKey) -> Option<u32> {
        // SAFETY: the value is copied at once, and the table of a slot in use is not written.
        Some(unsafe { PAIRS.get(self.actor.slot)?.get(key) }.copied().unwrap_or(NO_RULE))
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        RULES.get_value(self.actor.slot, &index)
    }

    #[inline(always)]
    fn take_token(&self, rule: &Rule) -> Option<bool> {
        let key = CounterKey { agent: self.actor.agent, rule: rule.content };
        let bucket = match BUCKETS.get_ptr_mut(key) {
            Some(bucket) => bucket,
            None => {
                // Another processor may have been first; that is as good.
                let _ = BUCKETS.insert(key, 0, u64::from(BPF_NOEXIST));
                BUCKETS.get_ptr_mut(key)?
            }
        };
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        for _ in 0..SWAP_TRIES {
            // SAFETY: `bucket` is a value of the map.
            let held = unsafe { bucket.read_volatile() };
            match rate::take(held, now, rule.interval_ns, rule.tolerance_ns) {
                Token::None => return Some(false),
                Token::Taken(next) => {
                    // SAFETY: as above.
                    let (_, swapped) = unsafe { atomic_cxchg::<u64, SEQ, SEQ>(bucket, held, next) };
                    if swapped {
                        self.token_ns.set(rule.interval_ns);
                        return Some(true);
                    }
                }
            }
        }
        // So many took one at the same time that this one lost: "try again" is the answer to that.
        Some(false)
    }

    #[inline(always)]
    fn answer(&self, index: u32, rule: &Rule) -> Option<Answer> {
        let object = match &self.object {
            Object::Endpoint { kind, endpoint } => hash_endpoint(*kind, endpoint),
            Object::Path { kind, access, claim } => paths::hash_path(claim, *kind as u8, access.0),
        };
        self.hash.set(object);
        let key = RequestKey { agent: self.actor.agent, rule: rule.content, object };
        if let Some(grant) = GRANTS.get_ptr_mut(key) {
            // SAFETY: `grant` is a value of the map; a grant that is deleted meanwhile was valid a moment ago.
            unsafe {
                if (*grant).expires_ns > bpf_ktime_get_boot_ns()
                    && (&raw const (*grant).uses).read_volatile() > 0
                    && atomic_xadd::<i64, i64, SEQ>(&raw mut (*grant).uses, -1) > 0
                {
                    return Some(if (*grant).allows == 1 { Answer::Allowed } else { Answer::Refused });
                }
            }
        }
        if self.actor.audit || REQUESTS.get_ptr(key).is_some() {
            return Some(Answer::Waiting);
        }
        match &self.object {
            Object::Endpoint { .. } => match scratch::claim() {
                Some(claim) => Some(self.file(&claim, index, rule, &key)),
                None => Some(Answer::Full),
            },
            Object::Path { claim, .. } => Some(self.file(claim, index, rule, &key)),
        }
    }
}

/// The hash that names the other end in a request.
#[inline(always)]
fn hash_endpoint(kind: ActionKind, endpoint: &Endpoint) -> [u64; 2] {
    let mut hash = SipHash::new([HASH_KEY0.load(), HASH_KEY1.load()]);
    let [high, low] = endpoint.port.to_be_bytes();
    for byte in [kind as u8, endpoint.protocol as u8, high, low] {
        hash.byte(byte);
    }
    for byte in endpoint.address.0 {
        hash.byte(byte);
    }
    hash.finish()
}
