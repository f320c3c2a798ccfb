//! `enforcer agents`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, table, time},
    runtime,
};
use crate::control::api::{AgentView, CountsView};

/// List agents with their decisions
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also by rule
    #[arg(long)]
    rules: bool,
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let agents: Vec<AgentView> = runtime()?.block_on(shared.client().get("/agents"))?;
    output.data(&agents, |agents| listed(agents, args.rules));
    Ok(Exit::Done)
}

const COUNTS: [&str; 5] = ["ALLOW", "THROTTLE", "SANDBOX", "ESCALATE", "BLOCK"];

fn counts(counts: &CountsView) -> [String; 5] {
    let CountsView { allow, throttle, sandbox, escalate, block } = counts;
    [allow, throttle, sandbox, escalate, block].map(ToString::to_string)
}

fn listed(agents: &[AgentView], rules: bool) -> String {
    if agents.is_empty() {
        return "no agents\n".to_owned();
    }
    let row = |agent: &AgentView| {
        let name = [agent.agent.clone(), agent.id.to_string(), agent.policy.clone(), agent.mode.clone()];
        let rest = [
            agent.state.to_string(),
            agent.processes.to_string(),
            agent.held.to_string(),
            time(agent.started),
        ];
        name.into_iter().chain(rest).chain(counts(&agent.counts)).collect()
    };
    let rows: Vec<Vec<String>> = agents.iter().map(row).collect();
    let headers: Vec<_> = ["AGENT", "ID", "POLICY", "MODE", "STATE", "PROCESSES", "HELD", "SINCE"]
        .into_iter()
        .chain(COUNTS)
        .collect();
    let mut out = table(&headers, &rows);
    if rules {
        for agent in agents {
            let row = |rule: &crate::control::api::RuleCounts| {
                let name = rule.rule.clone().unwrap_or_else(|| "(no rule of this policy)".to_owned());
                [name].into_iter().chain(counts(&rule.counts)).collect()
            };
            let rows: Vec<Vec<String>> = agent.rules.iter().map(row).collect();
            let headers: Vec<_> = ["RULE"].into_iter().chain(COUNTS).collect();
            out.push_str(&format!("\n{} ({})\n{}", agent.agent, agent.id, table(&headers, &rows)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::listed;
    use crate::{
        agents::{AgentId, AgentState},
        control::api::{AgentView, CountsView, RuleCounts},
    };
    use jiff::Timestamp;

    #[test]
    fn a_list_has_the_counts_of_each_agent_and_of_each_rule() {
        let counts = CountsView { allow: 120, throttle: 3, sandbox: 0, escalate: 1, block: 17 };
        let agent = AgentView {
            agent: "research".into(),
            id: AgentId(4),
            policy: "demo".into(),
            mode: "enforce".into(),
            state: AgentState::Frozen,
            cgroup: "/sys/fs/cgroup/enforcer/research-4".into(),
            processes: 2,
            held: 1,
            started: Timestamp::UNIX_EPOCH,
            counts,
            rules: vec![
                RuleCounts { rule: Some("llm-api".into()), counts },
                RuleCounts { rule: None, counts: CountsView::default() },
            ],
        };
        let text = listed(&[agent], true);
        let text = text.replace(&super::time(Timestamp::UNIX_EPOCH), "1970-01-01 00:00:00");
        insta::assert_snapshot!(text, @r"
        AGENT     ID  POLICY  MODE     STATE   PROCESSES  HELD  SINCE                ALLOW  THROTTLE  SANDBOX  ESCALATE  BLOCK
        research  4   demo    enforce  frozen  2          1     1970-01-01 00:00:00  120    3         0        1         17

        research (4)
        RULE                      ALLOW  THROTTLE  SANDBOX  ESCALATE  BLOCK
        llm-api                   120    3         0        1         17
        (no rule of this policy)  0      0         0        0         0
        ");
        assert_eq!(listed(&[], false), "no agents\n");
    }
}
