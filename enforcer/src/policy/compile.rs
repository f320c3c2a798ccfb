//! From a checked policy to the tables that the kernel decides with. Pure: the loader writes them into maps.
//!
//! The layout is `enforcer-common`'s: rules lie in the order network, file, exec, then the three defaults;
//! addresses and ports become searches among sorted words, paths automata. First match is resolved here, so that a decision costs
//! the same however many rules there are.

mod network;
mod path;
mod rate;

use enforcer_common::{
    address::Address,
    hold::Hold,
    limits::{CHUNK_WORDS, CHUNKS_MAX, RULES_MAX},
    network::Entry,
    rule::{NO_RULE, Rule as KernelRule, SlotHeader},
    verdict::Verdict,
};

use super::diagnostics::quote;
use super::hash::default_hash;
use super::limits::{MAX_PORT_STEPS, MAX_RULES, MAX_SUBSET_BYTES};
use super::model::{Action, Answer, Log, Mode, Policy, Rule};
use super::{Content, Glob, Pattern};

/// A policy compiled for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledTables {
    /// The fixed part of the slot. Its `policy` is 0 until it is loaded.
    pub header: SlotHeader,
    /// The rules by index, the defaults last.
    pub rules: Vec<KernelRule>,
    /// The automata of paths and the searches for endpoints, whole chunks.
    pub words: Vec<u32>,
    /// What people call each rule, by index.
    pub names: Vec<RuleName>,
    /// Whether decisions are only noted.
    pub audit: bool,
}

/// What people call a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// Where it stands.
    pub table: Table,
    /// Its name; `default.network` and its like for the defaults.
    pub name: String,
    /// What the agent is told when it asks why.
    pub message: Option<String>,
    /// The line on which it begins.
    pub line: usize,
}

/// A kind of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `[[network]]`.
    Network,
    /// `[[file]]`.
    File,
    /// `[[exec]]`.
    Exec,
}

/// Why a checked policy does not become tables: one of its rules multiplies with others beyond a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Rules on many addresses meet rules on many ports.
    #[error(
        "the addresses and ports of this policy combine to more than {MAX_PORT_STEPS} entries, most of them through rule `{rule}`"
    )]
    TooManyPorts {
        /// The rule with the most entries.
        rule: String,
        /// The line on which it begins.
        line: usize,
    },
    /// The globs of a lane need an automaton over the limit.
    #[error(
        "the paths of this policy combine to a table over the limit, which grows out of bounds with {}",
        quote(glob)
    )]
    PathsExplode {
        /// The glob with which it begins to grow out of bounds.
        glob: String,
        /// The line on which its rule begins.
        line: usize,
    },
    /// All automata and searches together are over the limit.
    #[error(
        "the rules of this policy combine to a table of {mib} MiB, over the limit of {MAX_TABLE_MIB} MiB"
    )]
    TooLarge {
        /// The size of the table.
        mib: usize,
        /// The line on which the first rule begins.
        line: usize,
    },
}

/// What a slot of the kernel holds.
const MAX_TABLE_MIB: usize = CHUNKS_MAX as usize * CHUNK_WORDS * size_of::<u32>() / (1024 * 1024);

// Each rule and each default has a place in the kernel.
const _: () = assert!(MAX_RULES + DEFAULTS == RULES_MAX as usize);

impl CompileError {
    /// The line of the rule that is named.
    pub fn line(&self) -> usize {
        match self {
            Self::TooManyPorts { line, .. }
            | Self::PathsExplode { line, .. }
            | Self::TooLarge { line, .. } => *line,
        }
    }

    /// What to write instead.
    pub fn help(&self) -> &'static str {
        match self {
            Self::TooManyPorts { .. } => {
                "give rules that share an action and ports one `to` list, and rules on ports only `to` as well"
            }
            Self::TooLarge { .. } => "write `*` instead of many names, and CIDRs instead of many addresses",
            Self::PathsExplode { .. } => {
                "write fewer wildcards, or begin the paths with a folder of their own"
            }
        }
    }
}

impl Table {
    /// Its key in a policy.
    pub fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::File => "file",
            Self::Exec => "exec",
        }
    }
}

/// Compiles a policy.
///
/// # Errors
///
/// When rules multiply beyond a limit.
pub fn compile(policy: &Policy) -> Result<CompiledTables, CompileError> {
    let (rules, names) = rules(policy);
    let defaults = index(rules.len() - DEFAULTS);
    let paths = path::compile(&path_rules(policy), MAX_SUBSET_BYTES)?;
    let mut words = paths.words;
    let roots =
        network::compile(&policy.network, &network_entries(policy, &rules), MAX_PORT_STEPS, &mut words)?;
    pad(&mut words);
    if words.len() > CHUNKS_MAX as usize * CHUNK_WORDS {
        let mib = words.len() * size_of::<u32>() / (1024 * 1024);
        return Err(CompileError::TooLarge { mib, line: names.first().map_or(1, |name| name.line) });
    }
    Ok(CompiledTables {
        header: SlotHeader {
            policy: 0,
            rules: index(rules.len()),
            default_network: defaults,
            default_file: defaults + 1,
            default_exec: defaults + 2,
            cells: paths.cells,
            root_v4: roots.v4.0,
            root_v6: roots.v6.0,
            lanes: paths.lanes,
        },
        rules,
        words,
        names,
        audit: policy.mode == Mode::Audit,
    })
}

/// Fills the last chunk up.
fn pad(words: &mut Vec<u32>) {
    words.resize(words.len().next_multiple_of(CHUNK_WORDS), 0);
}

/// The defaults that stand behind the rules.
const DEFAULTS: usize = 3;

/// An index or a count, which limits hold far below 2³².
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(NO_RULE)
}

fn rules(policy: &Policy) -> (Vec<KernelRule>, Vec<RuleName>) {
    let log_all = policy.log == Log::All;
    let mut rules = Vec::with_capacity(policy.rules() + DEFAULTS);
    let mut names = Vec::with_capacity(rules.capacity());
    append(&policy.network, Table::Network, log_all, &mut rules, &mut names);
    append(&policy.file, Table::File, log_all, &mut rules, &mut names);
    append(&policy.exec, Table::Exec, log_all, &mut rules, &mut names);
    for (table, key, answer) in [
        (Table::Network, "network", policy.default.network),
        (Table::File, "files", policy.default.files),
        (Table::Exec, "exec", policy.default.exec),
    ] {
        let blank = blank_rule(default_hash(key, answer), log_all);
        rules.push(KernelRule { verdict: verdict_of(answer) as u8, is_default: 1, ..blank });
        let name = format!("default.{key}");
        names.push(RuleName { table, name, message: None, line: policy.default.line });
    }
    (rules, names)
}

/// What leads to each network rule in a search, and to the default.
fn network_entries(policy: &Policy, rules: &[KernelRule]) -> Vec<Entry> {
    let default = rules.len() - DEFAULTS;
    let indexes = (0..policy.network.len()).chain([default]);
    let entry = |at: usize| {
        let is_plain = |rule: &KernelRule| rule.verdict == Verdict::Allow as u8 && rule.log_all == 0;
        Entry::rule(index(at), rules.get(at).is_some_and(is_plain))
    };
    indexes.map(entry).collect()
}

fn append<M: Content>(
    from: &[Rule<M>],
    table: Table,
    log_all: bool,
    rules: &mut Vec<KernelRule>,
    names: &mut Vec<RuleName>,
) {
    for rule in from {
        rules.push(kernel_rule(&rule.action, blank_rule(rule.content_hash(), log_all)));
        let (name, message) = (rule.name.clone(), rule.message.clone());
        names.push(RuleName { table, name, message, line: rule.line });
    }
}

fn blank_rule(content: u64, log_all: bool) -> KernelRule {
    KernelRule {
        content,
        interval_ns: 0,
        tolerance_ns: 0,
        timeout_ns: 0,
        remember_ns: 0,
        redirect: Address::default(),
        redirect_port: 0,
        verdict: Verdict::Block as u8,
        on_timeout: Verdict::Block as u8,
        is_default: 0,
        log_all: u8::from(log_all),
        hold: Hold::Refuse as u8,
        zero: [0; 1],
    }
}

fn kernel_rule(action: &Action, blank: KernelRule) -> KernelRule {
    match action {
        Action::Allow => KernelRule { verdict: Verdict::Allow as u8, ..blank },
        Action::Block => KernelRule { verdict: Verdict::Block as u8, ..blank },
        Action::Throttle { rate, burst, hold } => KernelRule {
            verdict: Verdict::Throttle as u8,
            hold: *hold as u8,
            interval_ns: rate::interval_ns(*rate),
            tolerance_ns: rate::tolerance_ns(*rate, *burst),
            ..blank
        },
        Action::Sandbox { redirect } => KernelRule {
            verdict: Verdict::Sandbox as u8,
            redirect: Address::from(redirect.ip()),
            redirect_port: redirect.port(),
            ..blank
        },
        Action::Escalate { timeout, on_timeout, remember, hold } => KernelRule {
            verdict: Verdict::Escalate as u8,
            hold: *hold as u8,
            timeout_ns: rate::nanoseconds(*timeout),
            on_timeout: verdict_of(*on_timeout) as u8,
            remember_ns: remember.map_or(0, rate::nanoseconds),
            ..blank
        },
    }
}

fn verdict_of(answer: Answer) -> Verdict {
    match answer {
        Answer::Allow => Verdict::Allow,
        Answer::Block => Verdict::Block,
    }
}

/// A rule on paths, as the path compiler sees it.
struct PathRule<'p> {
    index: u32,
    line: usize,
    /// The kinds of access, by the bits of [`enforcer_common::action::Access`].
    access: u8,
    paths: &'p [Glob],
}

fn path_rules(policy: &Policy) -> Vec<PathRule<'_>> {
    use enforcer_common::action::Access;
    let first_file = policy.network.len();
    let first_exec = first_file + policy.file.len();
    let files = policy.file.iter().enumerate().map(|(at, rule)| {
        let access = rule.matches.access;
        let kinds =
            [(access.read, Access::READ), (access.write, Access::WRITE), (access.create, Access::CREATE)];
        let set = kinds.into_iter().filter(|(has, _)| *has).fold(Access(0), |set, (_, kind)| set.with(kind));
        let (index, paths) = (index(first_file + at), rule.matches.paths.as_slice());
        PathRule { index, line: rule.line, access: set.0, paths }
    });
    let programs = policy.exec.iter().enumerate().map(|(at, rule)| {
        let (index, paths) = (index(first_exec + at), rule.matches.paths.as_slice());
        PathRule { index, line: rule.line, access: Access::EXEC.0, paths }
    });
    files.chain(programs).collect()
}

impl<'p> PathRule<'p> {
    fn patterns(&self) -> impl Iterator<Item = (&'p Glob, &'p Pattern)> + use<'p> {
        self.paths.iter().flat_map(|glob| glob.alternatives().iter().map(move |pattern| (glob, pattern)))
    }
}
