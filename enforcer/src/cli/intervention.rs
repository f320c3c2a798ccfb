//! `enforcer freeze`, `enforcer resume` and `enforcer kill`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::Output,
    runtime,
};
use crate::{
    agents::intervention::{Intervention, PATIENCE},
    control::api::intervention::{Intervene, Intervened, Whom},
};

/// Stop an agent at once, with everything that it has started
///
/// All its tasks stand still where they are, until `enforcer resume`. They keep what they have open, and see nothing of
/// it but that time has passed. Tasks that left the agent's cgroup are brought back into it. The state outlives the
/// daemon. Exits with 1 when a task did not stop within two seconds, and says so.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer freeze night-shift --why \"writes to the wrong bucket\"
  enforcer freeze --all --why \"incident 4711\"")]
pub(super) struct Freeze {
    #[command(flatten)]
    asked: Asked,
}

/// Let a frozen agent go on where it was
///
/// What was answered meanwhile, and a policy that was replaced, hold from its next action on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer resume night-shift --why \"bucket policy fixed\"
  enforcer resume --all")]
pub(super) struct Resume {
    #[command(flatten)]
    asked: Asked,
}

/// End an agent at once, with everything that it has started
///
/// All its tasks get SIGKILL, frozen or not, also those that left the agent's cgroup. Nothing of it can be brought back.
/// Exits with 1 when a task has not ended in time, and says which.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer kill night-shift --why \"compromised\"
  enforcer kill --all")]
pub(super) struct Kill {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, clap::Args)]
struct Asked {
    /// The agent, by its name or number
    #[arg(value_name = "AGENT", conflicts_with = "all")]
    agent: Option<String>,
    /// All agents that there are now
    #[arg(long)]
    all: bool,
    /// Why, for the event and the daemon's log
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

pub(super) fn freeze(args: &Freeze, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    run(Intervention::Freeze, &args.asked, shared, output)
}

pub(super) fn resume(args: &Resume, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    run(Intervention::Resume, &args.asked, shared, output)
}

pub(super) fn kill(args: &Kill, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    run(Intervention::Kill, &args.asked, shared, output)
}

fn run(what: Intervention, asked: &Asked, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let asked = Intervene { what, whom: whom(what, asked)?, why: asked.why.clone() };
    let all: Vec<Intervened> = runtime()?.block_on(shared.client().post("/interventions", &asked))?;
    output.data(&all, |all| told(what, all));
    problem(what, &all).map_or(Ok(Exit::Done), Err)
}

fn whom(what: Intervention, asked: &Asked) -> Result<Whom, Problem> {
    match &asked.agent {
        Some(agent) => Ok(Whom::Agent(agent.clone())),
        None if asked.all => Ok(Whom::All),
        None => Err(Problem::new(Exit::Usage, format!("which agent to {what} is not said")).hint(format!(
            "write `enforcer {what} AGENT` for one, by its name or number, or `enforcer {what} --all`; `enforcer agents` \
             lists them"
        ))),
    }
}

/// What was done, a line for each agent where it was.
fn told(what: Intervention, all: &[Intervened]) -> String {
    if all.is_empty() {
        return "no agents\n".to_owned();
    }
    let line = |one: &Intervened| {
        let outcome = &one.outcome;
        let done = match what {
            Intervention::Freeze => "frozen",
            Intervention::Resume => "resumed",
            Intervention::Kill => "killed",
        };
        let mut line = format!("{done}: {} ({}), {}", one.agent, one.id, processes(outcome.processes));
        if !outcome.brought_back.is_empty() {
            line.push_str(&format!("; brought back into its cgroup: {}", pids(&outcome.brought_back)));
        }
        if !outcome.signalled.is_empty() {
            let how = match what {
                Intervention::Freeze => "stopped outside of its cgroup",
                Intervention::Resume => "continued outside of its cgroup",
                Intervention::Kill => "killed outside of its cgroup",
            };
            line.push_str(&format!("; {how}: {}", pids(&outcome.signalled)));
        }
        line + "\n"
    };
    all.iter().filter(|one| one.outcome.done).map(line).collect()
}

/// What is wrong where it was not done at some agent.
fn problem(what: Intervention, all: &[Intervened]) -> Option<Problem> {
    let not_done: Vec<_> =
        all.iter().filter(|one| !one.outcome.done).map(|one| not_done(what, one)).collect();
    if not_done.is_empty() {
        return None;
    }
    let problem = Problem::new(Exit::Failed, not_done.join("; "));
    Some(problem.hint(match what {
        Intervention::Freeze => {
            "what stands still stays so; `enforcer agents` tells when all does, and the same command tries again"
        }
        Intervention::Resume => "`enforcer agents` tells how it stands",
        Intervention::Kill => "what is left stays frozen where that could be done; the same command tries again",
    }))
}

fn not_done(what: Intervention, one: &Intervened) -> String {
    let (outcome, name) = (&one.outcome, format!("agent `{}` ({})", one.agent, one.id));
    let seconds = PATIENCE.as_secs();
    let why = match (&outcome.error, what) {
        (Some(error), _) => error.clone(),
        (None, _) if !outcome.left.is_empty() => {
            format!("after {seconds} s these processes are left: {}", pids(&outcome.left))
        }
        (None, Intervention::Freeze) => {
            format!(
                "after {seconds} s a task is still in a call that nothing interrupts, and stops when it returns"
            )
        }
        (None, Intervention::Resume) => "a cgroup above it is frozen".to_owned(),
        (None, Intervention::Kill) => format!("after {seconds} s somebody was still found"),
    };
    let not = match what {
        Intervention::Freeze => "not wholly frozen",
        Intervention::Resume => "not resumed",
        Intervention::Kill => "not wholly killed",
    };
    format!("{name} is {not}: {why}")
}

fn processes(count: usize) -> String {
    match count {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    }
}

fn pids(pids: &[u32]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Asked, problem, told, whom};
    use crate::{
        agents::{
            AgentId,
            intervention::{Intervention, Outcome},
        },
        control::api::intervention::{Intervened, Whom},
    };

    fn at(id: u64, outcome: Outcome) -> Intervened {
        Intervened { agent: "research".into(), id: AgentId(id), outcome }
    }

    #[test]
    fn nobody_is_meant_unless_somebody_is_named() {
        let asked = |agent: Option<&str>, all| Asked { agent: agent.map(Into::into), all, why: None };
        assert_eq!(whom(Intervention::Kill, &asked(Some("a"), false)).unwrap(), Whom::Agent("a".into()));
        assert_eq!(whom(Intervention::Kill, &asked(None, true)).unwrap(), Whom::All);
        let problem = whom(Intervention::Kill, &asked(None, false)).unwrap_err();
        assert_eq!(problem.exit.code(), 2);
        assert_eq!(problem.message, "which agent to kill is not said");
        assert!(problem.hint.unwrap().contains("enforcer kill --all"));
    }

    #[test]
    fn what_was_done_is_told_apart_from_what_was_not() {
        let all = [
            at(1, Outcome { done: true, processes: 3, brought_back: vec![12], ..Outcome::default() }),
            at(2, Outcome { done: true, processes: 1, signalled: vec![13, 14], ..Outcome::default() }),
            at(3, Outcome { left: vec![15], ..Outcome::default() }),
            at(4, Outcome { processes: 2, ..Outcome::default() }),
            at(5, Outcome { error: Some("no".into()), ..Outcome::default() }),
        ];
        assert_eq!(
            told(Intervention::Freeze, &all),
            "frozen: research (1), 3 processes; brought back into its cgroup: 12\n\
             frozen: research (2), 1 process; stopped outside of its cgroup: 13 14\n"
        );
        let problem = problem(Intervention::Freeze, &all).unwrap();
        assert_eq!(problem.exit.code(), 1);
        assert_eq!(
            problem.message,
            "agent `research` (3) is not wholly frozen: after 2 s these processes are left: 15; agent `research` (4) is \
             not wholly frozen: after 2 s a task is still in a call that nothing interrupts, and stops when it returns; \
             agent `research` (5) is not wholly frozen: no"
        );
        assert!(super::problem(Intervention::Freeze, &all[..2]).is_none());
        assert_eq!(told(Intervention::Freeze, &[]), "no agents\n");
    }
}
