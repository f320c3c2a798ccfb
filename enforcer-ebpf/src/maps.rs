//! Every map: key, value, size, who writes it and who reads it. "Daemon" is user space, "kernel" the programs.
//!
//! All are pinned by their names, so that they outlive the daemon.

use crate::task_storage::TaskStorage;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage},
    macros::btf_map,
};
use enforcer_common::{
    agent::{AgentEntry, CounterKey, Counts, Mark, Meta, SocketRecord},
    event::{Event, Losses, Record},
    grant::{Grant, RequestKey},
    hold::{Beat, Notice, ThreadKey, Waiter},
    limits::{
        AGENTS_MAX, ALERTS_BYTES, BUCKETS_MAX, CHUNK_WORDS, COUNTER_ARRAYS_MAX, COUNTS_MAX, EVENTS_BYTES,
        GRANTS_MAX, NOTICES_BYTES, REQUESTS_MAX, SCRATCH_LEVELS, SLOTS_MAX, WAITERS_MAX,
    },
    rule::{Rule, SlotHeader},
};

use crate::scratch::Scratch;

/// An inner array may have any number of entries.
const BPF_F_INNER_MAP: usize = 1 << 12;
/// An array begins with a page, and so its rows with a cache line.
const BPF_F_MMAPABLE: usize = 1 << 10;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// A value of an inner map that is a struct. 6.1 takes an inner map into an outer one only when both have been searched
/// for a timer or neither has; it searches a value that is a struct by its BTF, and the daemon's maps have no BTF.
type Bare<T> = [T; 1];

/// Words that are looked up at once.
pub(crate) type Chunk = [u32; CHUNK_WORDS];

/// What the pins are. Daemon writes, both read.
#[btf_map]
pub(crate) static META: Array<Meta, 1> = Array::new();

/// Agent id → entry. Daemon writes, kernel reads.
#[btf_map]
pub(crate) static AGENTS: HashMap<u64, AgentEntry, { AGENTS_MAX as usize }> = HashMap::new();

/// Cgroup id → agent id, for the agents' own cgroups. Daemon writes, kernel reads.
#[btf_map]
pub(crate) static CGROUPS: HashMap<u64, u64, { AGENTS_MAX as usize }> = HashMap::new();

/// Task → mark. Kernel writes and reads; the daemon looks up by pidfd.
#[btf_map]
pub(crate) static MARKS: TaskStorage<Mark> = TaskStorage::new();

/// Slot → fixed part of its policy. Daemon writes while no agent is on the slot, kernel reads.
#[btf_map]
pub(crate) static SLOTS: Array<SlotHeader, { SLOTS_MAX as usize }> = Array::new();

/// Slot → rules by index. Daemon writes, kernel reads.
#[btf_map]
static RULES: ArrayOfMaps<Array<Bare<Rule>, 1, BPF_F_INNER_MAP>, { SLOTS_MAX as usize }> = ArrayOfMaps::new();

/// Flags of the inner maps of [`WORDS`] and [`COUNTERS`].
pub(crate) const WORDS_FLAGS: usize = BPF_F_INNER_MAP | BPF_F_MMAPABLE;

/// Slot → chunks of words. Daemon writes, kernel reads.
#[btf_map]
pub(crate) static WORDS: ArrayOfMaps<Array<Chunk, 1, WORDS_FLAGS>, { SLOTS_MAX as usize }> =
    ArrayOfMaps::new();

/// Place in an agent's entry → counters by rule. Kernel counts, daemon makes, reads and removes.
#[btf_map]
pub(crate) static COUNTERS: ArrayOfMaps<Array<u64, 1, WORDS_FLAGS>, { COUNTER_ARRAYS_MAX as usize }> =
    ArrayOfMaps::new();

/// (agent, rule) → decisions by verdict, besides those in [`COUNTERS`]: of earlier policies, which the daemon adds, and
/// those that reached no rule, which the kernel counts. The daemon deletes them with the agent.
#[btf_map]
pub(crate) static COUNTS: PerCpuHashMap<CounterKey, Counts, { COUNTS_MAX as usize }, NO_PREALLOC> =
    PerCpuHashMap::new();

/// (agent, rule) → theoretical arrival time. Kernel writes, daemon deletes with the agent.
#[btf_map]
pub(crate) static BUCKETS: HashMap<CounterKey, u64, { BUCKETS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// Request → record. Kernel inserts, daemon reads and deletes once it has written the grant.
#[btf_map]
pub(crate) static REQUESTS: HashMap<RequestKey, Record, { REQUESTS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

/// Request → answer. Daemon inserts and deletes, kernel reads and counts the uses down.
#[btf_map]
pub(crate) static GRANTS: HashMap<RequestKey, Grant, { GRANTS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// Thread → what it waits for. Kernel inserts and deletes, daemon reads, and deletes what is gone.
#[btf_map]
pub(crate) static WAITERS: HashMap<ThreadKey, Waiter, { WAITERS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// Agent id → threads of it in [`WAITERS`]. Kernel counts, daemon counts anew now and then.
#[btf_map]
pub(crate) static WAITING: HashMap<u64, u64, { AGENTS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// Process → threads of it that are frozen for a wait. Daemon writes, kernel reads.
#[btf_map]
pub(crate) static FROZEN: HashMap<u32, u32, { WAITERS_MAX as usize }, NO_PREALLOC> = HashMap::new();

/// The daemon's sign of life. Daemon writes, kernel reads.
#[btf_map]
pub(crate) static BEAT: Array<Beat, 1> = Array::new();

/// Of threads that wait. Kernel writes, daemon reads.
#[btf_map]
pub(crate) static NOTICES: RingBuf<Notice, { NOTICES_BYTES as usize }> = RingBuf::new();

/// Refusals, throttles and escalations. Kernel writes, daemon reads.
#[btf_map]
pub(crate) static ALERTS: RingBuf<Event, { ALERTS_BYTES as usize }> = RingBuf::new();

/// Every other event. Kernel writes, daemon reads.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();

/// What was lost. Kernel writes, daemon reads.
#[btf_map]
pub(crate) static LOSSES: PerCpuArray<Losses, 1> = PerCpuArray::new();

/// How many events each processor made. Kernel only.
#[btf_map]
pub(crate) static SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Working memory. Kernel only.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, { SCRATCH_LEVELS as usize }> = PerCpuArray::new();

/// Socket → what it remembers. Kernel only.
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();

/// A rule of the policy in a slot.
#[inline(always)]
pub(crate) fn rule_in(slot: u32, index: u32) -> Option<&'static Rule> {
    RULES.get_value(slot, &index).map(|[rule]| rule)
}
