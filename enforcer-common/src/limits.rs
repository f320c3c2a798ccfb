//! Every limit once, with what sets it.

/// The version of everything in this crate that lies in a BPF map or a ring buffer. A daemon refuses pins that
/// bear another one.
pub const LAYOUT_VERSION: u32 = 3;

/// Bytes of a resolved path, without a terminator. Set by `PATH_MAX` of Linux; a longer path is refused.
pub const PATH_MAX: usize = 4096;

/// Bytes of a name within a folder. Set by `NAME_MAX` of Linux.
pub const NAME_MAX: usize = 255;

/// Bytes of a path that the kernel matches in one plain loop, of which there are as many as the path needs. Set by
/// the verifier, which walks each turn of a plain loop; most paths need two or three.
pub const PATH_BLOCK: usize = 32;

/// Folders and mount crossings that the plain loops of the walk take; deeper paths go through `bpf_loop`.
pub const DEPTH_SHORT: usize = 24;

/// Folders and mount crossings in all. Set by [`PATH_MAX`]: every step adds at least two bytes.
pub const DEPTH_MAX: usize = PATH_MAX / 2;

/// Policies in the kernel at once, one of which is being filled. Set by the fixed part of a slot, some 2 KiB.
pub const SLOTS_MAX: u32 = 256;

/// Rules of a policy, the defaults among them.
pub const RULES_MAX: u32 = 16_384 + 3;

/// Agents at once. Set by the memory of the fixed-size maps.
pub const AGENTS_MAX: u32 = 4096;

/// Rate buckets over all agents and rules.
pub const BUCKETS_MAX: u32 = 65_536;

/// Bytes of an agent's counters, from which on processors share them.
pub const COUNTERS_BYTES: u32 = 4 << 20;

/// Counters besides those of agents' rules, over all agents: of decisions that reached no rule, and of rules of
/// earlier policies.
pub const COUNTS_MAX: u32 = 65_536;

/// Arrays of counters: each agent has one, and two while its policy is replaced.
pub const COUNTER_ARRAYS_MAX: u32 = 2 * AGENTS_MAX;

/// Requests that wait at once, over all agents. Set by the size of [`crate::event::Record`], 4 KiB each.
pub const REQUESTS_MAX: u32 = 4096;

/// Requests of one agent that wait at once. Set by what is left to the others.
pub const REQUESTS_PER_AGENT: u32 = REQUESTS_MAX / 4;

/// Threads that wait at once, over all agents.
pub const WAITERS_MAX: u32 = 8192;

/// Threads of one agent that wait at once. Set by what is left to the others.
pub const WAITERS_PER_AGENT: u32 = WAITERS_MAX / 4;

/// Nanoseconds that the daemon may be silent before a waiting thread stops with its process instead of turning.
pub const BEAT_BOUND_NS: u64 = 100_000_000;

/// Nanoseconds that a thread turns without a rest before it stops with its process, though the daemon lives. Set by how
/// long it takes to freeze as many threads as may wait one after the other; longer than [`BEAT_BOUND_NS`].
pub const TURN_BOUND_NS: u64 = 10_000_000_000;

/// Nanoseconds after which a turn comes after a rest, and not after another turn.
pub const TURN_REST_NS: u64 = 20_000_000;

/// Nanoseconds after which the daemon is told again of a thread that still turns.
pub const NOTICE_AGAIN_NS: u64 = 50_000_000;

/// A wait for a token that is over in as many nanoseconds is turned away: to freeze takes as long.
pub const TURN_SHORT_NS: u64 = 5_000_000;

/// Nanoseconds that a thread turns for tokens that come so soon. Where others take them it is frozen all the same, and
/// waits for its place.
pub const TURN_SOON_NS: u64 = 50_000_000;

/// Bytes of the ring buffer of notices.
pub const NOTICES_BYTES: u32 = 1 << 20;

/// Grants at once.
pub const GRANTS_MAX: u32 = 16_384;

/// Grants of one agent. Set by what is left to the others.
pub const GRANTS_PER_AGENT: u32 = GRANTS_MAX / 16;

/// Bytes of the ring buffer of refusals and escalations.
pub const ALERTS_BYTES: u32 = 4 << 20;

/// Bytes of the ring buffer of everything else.
pub const EVENTS_BYTES: u32 = 8 << 20;

/// Words in one chunk of a slot's path table: 32 KiB. A larger chunk wastes memory in small policies, a smaller
/// one costs look-ups in large ones.
pub const CHUNK_WORDS: usize = 8192;

/// Chunks of a slot's path table: 128 MiB.
pub const CHUNKS_MAX: u32 = 4096;

/// Scratch areas of one processor: how many tasks may be in the middle of a path decision on it at once, which
/// takes full preemption and as many priorities.
pub const SCRATCH_LEVELS: u32 = 8;

/// Bytes of `comm`, the kernel's name of a task. Set by `TASK_COMM_LEN` of Linux.
pub const COMM_BYTES: usize = 16;

/// Levels of cgroups above a task that are searched for an agent when the task enters one.
pub const CGROUP_DEPTH_MAX: usize = 32;

/// Programs besides that keep something with a task, as far as a search without the lock goes.
pub const STORAGES_MAX: usize = 16;

/// Tries of a compare-and-swap before a decision gives up and refuses.
pub const SWAP_TRIES: usize = 8;
