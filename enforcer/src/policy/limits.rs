//! Each limit of a policy file once, with what sets it.

use std::time::Duration;

/// Bytes of one policy file: forty bytes for each of 100,000 addresses.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;

/// Rules of all tables of one policy: each has counters of its own in per-CPU maps that are sized when they
/// are made.
pub const MAX_RULES: usize = 16_384;

/// Characters of the name of a policy or a rule: a DNS label, so that a name can stand wherever one can.
pub const MAX_NAME_CHARS: usize = 63;

/// Bytes of a rule's message: it is stored beside the rule and shown as one line.
pub const MAX_MESSAGE_BYTES: usize = 500;

/// Bytes of a glob: `PATH_MAX`, which no path that a program hands to the kernel can exceed.
pub const MAX_GLOB_BYTES: usize = 4096;

/// Patterns that the braces of one glob may stand for: nested braces multiply.
pub const MAX_ALTERNATIVES: usize = 256;

/// Patterns that all globs of one policy may stand for: what the automata were built and measured with is
/// 10,000.
pub const MAX_PATTERNS: usize = 65_536;

/// Steps over the ports of all hosts that differ in their rules: eight to 16 bytes each in the policy's words.
pub const MAX_PORT_STEPS: usize = 4_000_000;

/// Words of the automaton of one lane of a path table: 64 MiB.
pub const MAX_LANE_WORDS: usize = 16 * 1024 * 1024;

/// Bytes that the subsets of one automaton may take while it is built: a second of work. Ten thousand long
/// paths take a hundredth of it.
pub const MAX_SUBSET_BYTES: usize = 64 * 1024 * 1024;

/// Braces within braces: the reader of globs recurses.
pub const MAX_BRACE_DEPTH: usize = 16;

/// Actions in a rate, and in a burst: so that the time between two stays above a microsecond and counts fit
/// the 32 bits of a table entry.
pub const MAX_RATE_COUNT: u32 = 1_000_000;

/// The longest period of a rate.
pub const MAX_RATE_PERIOD: Duration = Duration::from_secs(30 * 86_400);

/// The longest time an empty bucket may take to fill: it is added to a 64-bit clock of nanoseconds, and a
/// bucket that takes longer is a mistake.
pub const MAX_REFILL: Duration = Duration::from_secs(365 * 86_400);

/// The time an escalated action waits for its answer when the rule names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The shortest `timeout` and `remember`: nobody answers faster.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest `timeout`: a request that waits is a process that waits.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

/// The longest `remember`: what holds for longer belongs in the policy as a rule.
pub const MAX_REMEMBER: Duration = Duration::from_secs(30 * 86_400);

/// Errors, and warnings, that one run keeps; the rest is only counted. More than a person reads.
pub const MAX_FINDINGS: usize = 100;

/// Bytes of a source line that a diagnostic shows; a longer line is cut around the place.
pub const MAX_SHOWN_BYTES: usize = 160;

/// Characters of a diagnostic's message, and of its help: they may repeat a path.
pub const MAX_MESSAGE_CHARS: usize = 2_000;

/// Characters of the user's text that a message quotes.
pub const MAX_QUOTED_CHARS: usize = 80;
