//! What goes over the control socket, for both of its ends.
//!
//! HTTP with JSON bodies; `GET /events` answers with one JSON object a line for as long as it is read.

pub mod intervention;

use crate::{
    agents::{AgentId, AgentState},
    approvals::RequestId,
    holds::HeldAs,
    kernel::attach::ProgramReport,
};
use enforcer_common::{
    agent::Counts,
    event::Losses,
    verdict::{VERDICTS, Verdict},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A policy, by what the caller has of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyChoice {
    /// The name of a file in the daemon's folder of policies.
    Name(String),
    /// The text of a file that the caller has read.
    Text {
        /// What the file is called, for messages.
        file: String,
        /// What is in it.
        text: String,
    },
}

/// Asks for an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewAgent {
    /// What it is called; the policy's name by default.
    pub agent: Option<String>,
    /// Its policy.
    pub policy: PolicyChoice,
    /// Whether processes are moved in, and an agent of the same name will do.
    pub attach: bool,
}

/// An agent that can be entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeAgent {
    /// Its number.
    pub id: AgentId,
    /// What it is called.
    pub agent: String,
    /// Its policy.
    pub policy: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Whether it was there before.
    pub existed: bool,
    /// What the policy's diagnostics warn of, as text.
    pub warnings: Option<String>,
}

/// Processes that enter an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enter {
    /// Their numbers.
    pub pids: Vec<u32>,
}

/// What became of the processes that were to enter an agent.
#[must_use = "a process that was turned away is not governed"]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Those that are in it and governed.
    pub entered: Vec<u32>,
    /// Those that are not.
    pub refused: Vec<NotEntered>,
}

/// A process that is not in the agent that it was to enter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotEntered {
    /// The process.
    pub pid: u32,
    /// Why not.
    pub reason: String,
}

/// Replaces the policy of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetPolicy {
    /// The new one.
    pub policy: PolicyChoice,
}

/// Who is left of an agent whose command has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Processes in its cgroup.
    pub inside: Vec<u32>,
    /// Processes that left it and are governed all the same.
    pub outside: Vec<u32>,
}

impl Ended {
    /// Whether nobody is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }
}

/// Decisions by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the verdicts")]
pub struct CountsView {
    pub allow: u64,
    pub throttle: u64,
    pub sandbox: u64,
    pub escalate: u64,
    pub block: u64,
}

impl From<Counts> for CountsView {
    fn from(counts: Counts) -> Self {
        const _: () = assert!(Verdict::Block as usize + 1 == VERDICTS);
        let Counts([allow, throttle, sandbox, escalate, block]) = counts;
        Self { allow, throttle, sandbox, escalate, block }
    }
}

impl CountsView {
    pub(crate) fn add(&mut self, other: Self) {
        self.allow += other.allow;
        self.throttle += other.throttle;
        self.sandbox += other.sandbox;
        self.escalate += other.escalate;
        self.block += other.block;
    }
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// What it is called.
    pub agent: String,
    /// Its number.
    pub id: AgentId,
    /// Its policy.
    pub policy: String,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Whether it goes on.
    pub state: AgentState,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Processes in its cgroup.
    pub processes: usize,
    /// Threads of it that wait, for an answer or for a token.
    pub held: usize,
    /// When it began.
    pub started: Timestamp,
    /// Its decisions.
    pub counts: CountsView,
    /// The same by rule, where there were any.
    pub rules: Vec<RuleCounts>,
}

/// Decisions by a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCounts {
    /// The rule, or `default.network` and its like; nothing for what reached none, or one of a policy before.
    pub rule: Option<String>,
    /// Its decisions.
    pub counts: CountsView,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalView {
    /// What it is called.
    pub id: RequestId,
    /// The agent.
    pub agent: String,
    /// The agent's number.
    pub agent_id: AgentId,
    /// What was attempted.
    pub action: String,
    /// On what.
    pub object: String,
    /// The kinds of access.
    pub access: Vec<String>,
    /// The rule that asks.
    pub rule: Option<String>,
    /// What it says.
    pub message: Option<String>,
    /// The process that tried first.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// The user.
    pub uid: u32,
    /// When it was filed.
    pub since: Timestamp,
    /// When it is answered by itself.
    pub deadline: Timestamp,
    /// `block` or `allow`: how.
    pub on_timeout: String,
    /// What the wait became: `thread` or `process` where one is held, `turning` where one is about to be, and `refused`
    /// where the call failed instead, and passes when it is tried again after the answer.
    pub hold: HeldAs,
    /// The threads that wait, those first that wait longest.
    pub waits: Vec<WaitView>,
    /// The file of the program; nothing where its process is gone.
    pub program: Option<String>,
    /// Its arguments, its name among them.
    pub arguments: Option<Vec<String>>,
    /// The folder that it works in.
    pub directory: Option<String>,
}

/// A thread that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitView {
    /// Its process.
    pub pid: u32,
    /// Its number.
    pub tid: u32,
    /// What became of it: `thread`, `process`, `refused` or `turning`.
    pub held: HeldAs,
    /// Since when it waits.
    pub since: Timestamp,
}

/// Approves a request.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Approve {
    /// How often it may be used.
    pub uses: Option<u64>,
    /// For how many milliseconds.
    pub for_ms: Option<u64>,
}

/// Rejects a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reject {
    /// Why, for the daemon's log.
    pub reason: Option<String>,
}

/// What was lost since the pins were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossesView {
    /// Refusals and escalations that the ring had no room for.
    pub alerts: u64,
    /// Other events.
    pub events: u64,
    /// Decisions that no counter was free for.
    pub counts: u64,
    /// Forks refused because the mark could not be stored.
    pub forks: u64,
    /// Tasks that entered an agent and could not be marked.
    pub marks: u64,
    /// Decisions refused for want of working memory.
    pub scratch: u64,
    /// Events that could not be written to the file.
    pub file: u64,
}

impl LossesView {
    pub(crate) fn new(losses: Losses, file: u64) -> Self {
        let Losses { alerts, events, counts, forks, marks, scratch } = losses;
        Self { alerts, events, counts, forks, marks, scratch, file }
    }
}

/// What the canary found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// Whether every refused action was refused and every allowed one passed.
    pub ok: bool,
    /// When it ran.
    pub at: Timestamp,
    /// What it tried.
    pub trials: Vec<Trial>,
    /// Why it could not try, if it could not.
    pub error: Option<String>,
}

/// One family of hooks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// `connect`, `send`, `open`, `create` or `exec`.
    pub family: String,
    /// Whether it was as it should be.
    pub ok: bool,
    /// What became of the action that should be refused.
    pub refused: String,
    /// What became of the one that should pass.
    pub allowed: String,
}

/// The daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// Of enforcer.
    pub version: String,
    /// Of what lies in the kernel's maps.
    pub layout_version: u32,
    /// The daemon's process.
    pub pid: u32,
    /// Whether it ends with the last run.
    pub transient: bool,
    /// Whether files and programs are governed too.
    pub lsm: bool,
    /// Why not.
    pub lsm_lack: Option<String>,
    /// Agents.
    pub agents: usize,
    /// How many of them are frozen, or on their way to it.
    pub frozen: usize,
    /// Requests that wait.
    pub pending: usize,
    /// Threads that wait, for an answer or for a token.
    pub held: usize,
    /// What was lost.
    pub losses: LossesView,
    /// The last look of the canary.
    pub canary: Option<CanaryView>,
    /// Where everything is pinned.
    pub pins: PathBuf,
    /// The cgroup of all agents.
    pub cgroup_root: PathBuf,
    /// When the daemon began.
    pub since: Timestamp,
    /// Seconds since.
    pub uptime: u64,
    /// Whether the daemon found the pins as another had left them.
    pub taken_over: bool,
    /// The attached programs.
    pub programs: Vec<ProgramReport>,
    /// Those that should be attached and are not.
    pub missing: Vec<String>,
}

/// One refusal, for the agent that met it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When.
    pub time: Timestamp,
    /// What was attempted.
    pub action: String,
    /// On what.
    pub object: String,
    /// The rule that refused.
    pub rule: Option<String>,
    /// What it says.
    pub message: Option<String>,
    /// What became of the action.
    pub verdict: String,
    /// Why, as a word.
    pub reason: String,
    /// Why, as a sentence.
    pub explanation: String,
    /// What the request is called, where one waits.
    pub request: Option<RequestId>,
    /// Whether the verdict was only noted.
    pub audit: bool,
}

/// Asks a daemon for a run to make room for a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Yield {
    /// Over which pins: one over others is in nobody's way.
    pub pins: PathBuf,
}

/// Asks for the end of everything.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Unload {
    /// Also while agents have processes.
    pub force: bool,
}

/// Which events to send.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Of one agent, by name or number.
    pub agent: Option<String>,
    /// With one of these verdicts, separated by commas.
    pub verdict: Option<String>,
    /// Beginning with those that are kept.
    #[serde(default)]
    pub since_start: bool,
}

/// A line of events that is none: the reader was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// How many events it missed.
    pub missed: u64,
}

/// What kind of failure it is, and so which exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request makes no sense.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// It cannot be done now.
    Conflict,
    /// The kernel lacks what it takes.
    Lacks,
    /// The caller may not.
    Refused,
    /// It did not work.
    Failed,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Of what kind.
    pub kind: FailureKind,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The diagnostics of a policy, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// The diagnostics of a policy, as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<serde_json::Value>,
}

impl Failure {
    /// A failure of a kind.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, report: None, diagnostics: None }
    }

    /// With what to do.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// All of what a chain of errors says, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // `#[error(transparent)]` and wrappers that repeat their cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Sorts counts by agent.
#[must_use]
pub fn by_agent(
    counts: &[(enforcer_common::agent::CounterKey, Counts)],
) -> BTreeMap<AgentId, Vec<(u64, CountsView)>> {
    let mut sorted: BTreeMap<AgentId, Vec<_>> = BTreeMap::new();
    for (key, counts) in counts {
        sorted.entry(AgentId(key.agent)).or_default().push((key.rule, CountsView::from(*counts)));
    }
    sorted
}
