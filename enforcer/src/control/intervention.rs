//! The red button's route: finds the agents, has it done, and sees to it that it is told who did it, and why.

use super::{
    api::{
        Failure, FailureKind,
        intervention::{Intervene, Intervened, WHY_MAX, Whom},
    },
    peer::Peer,
    refused::{Refused, blocking, refused},
    routes::Shared,
    server::Guest,
};
use crate::{
    agents::{
        AgentRecord,
        intervention::{Intervention, Outcome},
    },
    daemon::Daemon,
    events::intervention::InterventionEvent,
};
use axum::{
    Json,
    extract::{ConnectInfo, State},
};
use jiff::Timestamp;
use nix::unistd::{Uid, User};
use std::sync::Arc;

pub(super) async fn intervene(
    State(daemon): Shared,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(asked): Json<Intervene>,
) -> Result<Json<Vec<Intervened>>, Refused> {
    blocking(move || intervene_as(&daemon, &guest.peer, &asked)).await.map(Json)
}

fn intervene_as(daemon: &Daemon, peer: &Peer, asked: &Intervene) -> Result<Vec<Intervened>, Refused> {
    let time = Timestamp::now();
    if asked.why.as_ref().is_some_and(|why| why.len() > WHY_MAX) {
        let message = format!("the reason is longer than {WHY_MAX} bytes: say it in fewer words");
        return Err(refused(Failure::new(FailureKind::Invalid, message)));
    }
    let agents = daemon.agents.list();
    let agents = match &asked.whom {
        Whom::All => agents,
        Whom::Agent(wanted) => vec![one(&agents, wanted)?],
    };
    let by = By::of(peer);
    tracing::warn!(action = %asked.what, whom = ?asked.whom, by = by.told(), why = asked.why, "asked to intervene");
    let outcomes = daemon.agents.intervene(asked.what, &agents);
    let mut answer = Vec::new();
    for (agent, outcome) in agents.iter().zip(outcomes) {
        log(asked.what, agent, &by, &outcome);
        daemon.events.report(InterventionEvent {
            time,
            agent: agent.name.clone(),
            agent_id: agent.id,
            policy: daemon.names.policy(agent.policy).map(|policy| policy.name.clone()),
            action: asked.what,
            why: asked.why.clone(),
            pid: by.pid,
            uid: by.uid,
            user: by.user.clone(),
            outcome: outcome.clone(),
        });
        answer.push(Intervened { agent: agent.name.clone(), id: agent.id, outcome });
    }
    Ok(answer)
}

/// The only agent with a name or number.
fn one(agents: &[Arc<AgentRecord>], wanted: &str) -> Result<Arc<AgentRecord>, Refused> {
    let mut found = agents.iter().filter(|agent| agent.name == wanted || agent.id.to_string() == wanted);
    match (found.next(), found.count()) {
        (Some(agent), 0) => Ok(Arc::clone(agent)),
        (Some(_), more) => {
            let message = format!("{} agents are called `{wanted}`", more + 1);
            let failure = Failure::new(FailureKind::Conflict, message);
            Err(refused(failure.with_help("name one by its number; `enforcer agents` lists them")))
        }
        (None, _) => {
            let failure = Failure::new(FailureKind::NotFound, format!("there is no agent `{wanted}`"));
            Err(refused(failure.with_help("`enforcer agents` lists them; `--all` is for all of them")))
        }
    }
}

/// Who asks.
struct By {
    pid: u32,
    uid: u32,
    user: Option<String>,
}

impl By {
    fn of(peer: &Peer) -> Self {
        let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten();
        Self { pid: peer.pid, uid: peer.uid, user: user.map(|user| user.name) }
    }

    fn told(&self) -> String {
        let Self { pid, uid, user } = self;
        match user {
            Some(user) => format!("user {user} ({uid}), process {pid}"),
            None => format!("user {uid}, process {pid}"),
        }
    }
}

fn log(what: Intervention, agent: &AgentRecord, by: &By, outcome: &Outcome) {
    let Outcome { done, processes, brought_back, signalled, left, error } = outcome;
    if *done {
        tracing::warn!(action = %what, agent = %agent.name, id = %agent.id, by = by.told(), processes, ?brought_back, ?signalled, "done");
    } else {
        tracing::error!(action = %what, agent = %agent.name, id = %agent.id, by = by.told(), processes, ?brought_back, ?signalled, ?left, error, "not done");
    }
}

#[cfg(test)]
mod tests {
    use super::one;
    use crate::{
        agents::{AgentId, AgentRecord, PolicyNumber, Purpose},
        control::api::FailureKind,
    };
    use jiff::Timestamp;
    use std::sync::Arc;

    fn agent(id: u64, name: &str) -> Arc<AgentRecord> {
        Arc::new(AgentRecord {
            id: AgentId(id),
            name: name.into(),
            policy: PolicyNumber(1),
            cgroup: format!("/sys/fs/cgroup/enforcer/{name}-{id}").into(),
            cgroup_id: id,
            started: Timestamp::UNIX_EPOCH,
            purpose: Purpose::Run,
        })
    }

    #[test]
    fn an_agent_is_found_by_its_name_or_number_and_never_guessed() {
        let agents = [agent(1, "research"), agent(2, "twin"), agent(3, "twin"), agent(4, "1")];
        assert_eq!(one(&agents, "research").unwrap().id, AgentId(1));
        assert_eq!(one(&agents, "3").unwrap().id, AgentId(3));
        for (wanted, kind) in [
            ("twin", FailureKind::Conflict),
            // The number of one, and the name of another.
            ("1", FailureKind::Conflict),
            ("resear", FailureKind::NotFound),
            ("", FailureKind::NotFound),
        ] {
            assert_eq!(one(&agents, wanted).unwrap_err().0.kind, kind, "{wanted}");
        }
    }
}
