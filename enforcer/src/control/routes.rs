//! What can be asked for, and what is done then.

use super::{
    api::{
        AgentView, ApprovalView, Approve, CanaryView, CountsView, Ended, Enter, Entered, Failure,
        FailureKind, MadeAgent, NewAgent, NotEntered, Refusal, Reject, RuleCounts, SetPolicy, StatusView,
        Unload, WaitView, Yield, by_agent, chain,
    },
    intervention::intervene,
    peer::{NOT_FOR_ALL, Peer},
    refused::{Refused, blocking, refused},
    server::Guest,
    stream::events,
};
use crate::{
    agents::{self, AgentId, AgentRecord, Purpose},
    approvals::{self, Answer, Pending},
    daemon::Daemon,
    events::Decided,
    holds::{HeldAs, Wait},
    kernel::clock::Wall,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, Path as InPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use enforcer_common::verdict::Reason;
use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

pub(super) type Shared = State<Arc<Daemon>>;
type Answered<T> = Result<Json<T>, Refused>;

pub(super) fn control_router(daemon: &Arc<Daemon>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/agents", get(list_agents).post(new_agent))
        .route("/agents/{id}/processes", post(enter))
        .route("/agents/{id}/policy", put(set_policy))
        .route("/agents/{id}/end", post(end_agent))
        .route("/events", get(events))
        .route("/approvals", get(list_approvals))
        .route("/approvals/{id}", get(show_approval))
        .route("/approvals/{id}/approve", post(approve))
        .route("/approvals/{id}/reject", post(reject))
        .route("/interventions", post(intervene))
        .route("/canary", post(canary))
        .route("/unload", post(unload))
        .route("/yield", post(give_way))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(Arc::clone(daemon), not_while_ending))
        .layer(middleware::from_fn(only_guests))
        .with_state(Arc::clone(daemon))
}

pub(super) fn agents_router(daemon: &Arc<Daemon>) -> Router {
    Router::new().route("/why", get(why)).fallback(nothing_here).with_state(Arc::clone(daemon))
}

async fn nothing_here(request: Request) -> Refused {
    let what = format!("there is no `{} {}` here", request.method(), request.uri().path());
    refused(Failure::new(FailureKind::NotFound, what))
}

/// Tells those whom the socket is not for, who get nowhere else.
async fn only_guests(ConnectInfo(guest): ConnectInfo<Guest>, request: Request, next: Next) -> Response {
    match guest.refused {
        Some(reason) => {
            let failure = Failure::new(
                FailureKind::Refused,
                format!("the control socket is not for this process: {reason}"),
            );
            refused(failure.with_help(NOT_FOR_ALL)).into_response()
        }
        None => next.run(request).await,
    }
}

async fn not_while_ending(State(daemon): Shared, request: Request, next: Next) -> Response {
    if daemon.is_ending() {
        return refused(Failure::new(FailureKind::Conflict, "the daemon is ending")).into_response();
    }
    next.run(request).await
}

async fn status(State(daemon): Shared) -> Answered<StatusView> {
    blocking(move || daemon.status()).await.map(Json)
}

async fn list_agents(State(daemon): Shared) -> Answered<Vec<AgentView>> {
    blocking(move || agent_views(&daemon)).await.map(Json)
}

fn agent_views(daemon: &Daemon) -> Result<Vec<AgentView>, agents::Error> {
    let counts = by_agent(&daemon.kernel.counts()?);
    let held = daemon.holds.by_agent()?;
    let view = |agent: &Arc<AgentRecord>| {
        let held = held.get(&agent.id).copied().unwrap_or(0);
        Ok(AgentView { held, ..agent_view(daemon, agent, counts.get(&agent.id))? })
    };
    daemon.agents.list().iter().map(view).collect()
}

fn agent_view(
    daemon: &Daemon,
    agent: &AgentRecord,
    counts: Option<&Vec<(u64, CountsView)>>,
) -> Result<AgentView, agents::Error> {
    let policy = daemon.names.policy(agent.policy);
    let mut all = CountsView::default();
    let mut rules: BTreeMap<usize, RuleCounts> = BTreeMap::new();
    for (content, counts) in counts.into_iter().flatten() {
        all.add(*counts);
        let found = policy.as_ref().and_then(|policy| {
            let at = policy.rules.iter().position(|rule| rule.content == *content)?;
            Some((at, policy.rules.get(at)?.name.clone()))
        });
        let (at, rule) = found.map_or((usize::MAX, None), |(at, name)| (at, Some(name)));
        rules
            .entry(at)
            .or_insert_with(|| RuleCounts { rule, counts: CountsView::default() })
            .counts
            .add(*counts);
    }
    Ok(AgentView {
        agent: agent.name.clone(),
        id: agent.id,
        policy: policy
            .as_ref()
            .map_or_else(|| format!("policy-{}", agent.policy.0), |policy| policy.name.clone()),
        mode: if policy.is_some_and(|policy| policy.audit) { "audit" } else { "enforce" }.to_owned(),
        state: daemon.agents.agent_state(agent)?,
        cgroup: agent.cgroup.clone(),
        processes: daemon.agents.processes(agent)?,
        held: 0,
        started: agent.started,
        counts: all,
        rules: rules.into_values().collect(),
    })
}

async fn new_agent(State(daemon): Shared, Json(asked): Json<NewAgent>) -> Answered<MadeAgent> {
    blocking(move || make_agent(&daemon, &asked)).await.map(Json)
}

fn make_agent(daemon: &Daemon, asked: &NewAgent) -> Result<MadeAgent, Refused> {
    daemon.note_agent();
    let (prepared, warnings) = daemon.policy(&asked.policy)?;
    let existing = match (&asked.agent, asked.attach) {
        (Some(name), true) => daemon.agents.find(name)?,
        _ => None,
    };
    let existed = existing.is_some();
    let agent = match existing {
        Some(agent) => {
            let policy = daemon.names.policy(agent.policy).filter(|policy| policy.digest == prepared.digest);
            policy.map(|_| agent.clone()).ok_or_else(|| agents::Error::OtherPolicy {
                name: agent.name.clone(),
                policy: daemon
                    .names
                    .policy(agent.policy)
                    .map_or_else(String::new, |policy| policy.name.clone()),
            })?
        }
        None => {
            let purpose = if asked.attach { Purpose::Attach } else { Purpose::Run };
            daemon.agents.create(asked.agent.as_deref(), purpose, &prepared)?
        }
    };
    tracing::info!(agent = %agent.name, id = %agent.id, policy = %prepared.name, existed, "agent");
    Ok(MadeAgent {
        id: agent.id,
        agent: agent.name.clone(),
        policy: prepared.name,
        cgroup: agent.cgroup.clone(),
        existed,
        warnings,
    })
}

async fn enter(
    State(daemon): Shared,
    ConnectInfo(guest): ConnectInfo<Guest>,
    InPath(id): InPath<u64>,
    Json(asked): Json<Enter>,
) -> Answered<Entered> {
    let agent = AgentId(id);
    blocking(move || {
        for pid in &asked.pids {
            may_move(&guest.peer, *pid)?;
        }
        enter_each(&daemon, agent, &asked.pids, guest.peer.pid)
    })
    .await
    .map(Json)
}

/// One that cannot enter keeps none of the others out: they were meant to be governed.
fn enter_each(daemon: &Daemon, agent: AgentId, pids: &[u32], by: u32) -> Result<Entered, Refused> {
    let mut all = Entered::default();
    for pid in pids {
        match daemon.agents.enter(agent, *pid) {
            Ok(()) => all.entered.push(*pid),
            Err(error @ agents::Error::NoAgent { .. }) => return Err(error.into()),
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(%agent, pid, by, reason, "not entered");
                all.refused.push(NotEntered { pid: *pid, reason });
            }
        }
    }
    tracing::info!(%agent, pids = ?all.entered, by, "entered");
    Ok(all)
}

/// Root may move any process, others only children of theirs that run as themselves.
fn may_move(peer: &Peer, pid: u32) -> Result<(), Refused> {
    if peer.uid == 0 {
        return Ok(());
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    if field("PPid:") == Some(peer.pid) && field("Uid:") == Some(peer.uid) {
        return Ok(());
    }
    Err(refused(Failure::new(
        FailureKind::Refused,
        format!("only root may move process {pid}, which is no child of yours"),
    )))
}

async fn set_policy(
    State(daemon): Shared,
    InPath(id): InPath<u64>,
    Json(asked): Json<SetPolicy>,
) -> Answered<MadeAgent> {
    blocking(move || {
        let (prepared, warnings) = daemon.policy(&asked.policy)?;
        let agent = daemon.agents.set_policy(AgentId(id), &prepared)?;
        daemon.holds.decide_again(agent.id);
        tracing::info!(agent = %agent.name, id = %agent.id, policy = %prepared.name, "policy replaced");
        Ok::<_, Refused>(MadeAgent {
            id: agent.id,
            agent: agent.name.clone(),
            policy: prepared.name,
            cgroup: agent.cgroup.clone(),
            existed: true,
            warnings,
        })
    })
    .await
    .map(Json)
}

async fn end_agent(State(daemon): Shared, InPath(id): InPath<u64>) -> Answered<Ended> {
    blocking(move || {
        let remains = daemon.agents.end(AgentId(id))?;
        Ok::<_, agents::Error>(Ended { inside: remains.inside, outside: remains.outside })
    })
    .await
    .map(Json)
}

async fn list_approvals(State(daemon): Shared) -> Answered<Vec<ApprovalView>> {
    blocking(move || {
        let pending = daemon.approvals.pending()?;
        let shown = pending.iter().filter(|pending| !pending.decided.is_canary());
        Ok::<_, approvals::Error>(shown.map(approval_view).collect())
    })
    .await
    .map(Json)
}

async fn show_approval(State(daemon): Shared, InPath(id): InPath<String>) -> Answered<ApprovalView> {
    blocking(move || daemon.approvals.find(&id).map(|pending| approval_view(&pending))).await.map(Json)
}

/// Reads what `/proc` tells of the program, hence not where it would keep others from being served.
fn approval_view(pending: &Pending) -> ApprovalView {
    let view = pending.decided.view();
    let program = pending.program();
    let wall = Wall::now();
    let wait = |wait: &Wait| WaitView {
        pid: wait.thread.tgid,
        tid: wait.thread.tid,
        held: wait.held,
        since: wall.at(wait.since_ns),
    };
    ApprovalView {
        id: pending.id.clone(),
        agent: view.agent.into_owned(),
        agent_id: pending.decided.agent_id(),
        action: view.action.into_owned(),
        object: view.object.into_owned(),
        access: view.access.into_iter().map(Into::into).collect(),
        rule: view.rule.map(Into::into),
        message: view.message.map(Into::into),
        pid: view.pid,
        tid: view.tid,
        comm: view.comm.into_owned(),
        uid: view.uid,
        since: view.time,
        deadline: pending.deadline,
        on_timeout: if pending.allows_on_timeout { "allow" } else { "block" }.to_owned(),
        hold: pending.waits.iter().map(|wait| wait.held).min().unwrap_or(HeldAs::Refused),
        waits: pending.waits.iter().map(wait).collect(),
        program: program.path,
        arguments: program.arguments,
        directory: program.directory,
    }
}

async fn approve(
    State(daemon): Shared,
    ConnectInfo(guest): ConnectInfo<Guest>,
    InPath(id): InPath<String>,
    Json(asked): Json<Approve>,
) -> Answered<ApprovalView> {
    if asked.uses == Some(0) {
        return Err(refused(Failure::new(
            FailureKind::Invalid,
            "an approval for 0 uses is a rejection: reject it",
        )));
    }
    let answer = Answer { allows: true, uses: asked.uses, lasts: asked.for_ms.map(Duration::from_millis) };
    answered(daemon, id, answer, by(&guest)).await
}

async fn reject(
    State(daemon): Shared,
    ConnectInfo(guest): ConnectInfo<Guest>,
    InPath(id): InPath<String>,
    Json(asked): Json<Reject>,
) -> Answered<ApprovalView> {
    let by = match asked.reason {
        Some(reason) => format!("{}: {reason}", by(&guest)),
        None => by(&guest),
    };
    answered(daemon, id, Answer::plain(false), by).await
}

async fn answered(daemon: Arc<Daemon>, id: String, answer: Answer, by: String) -> Answered<ApprovalView> {
    blocking(move || daemon.approvals.answer(&id, answer, &by).map(|pending| approval_view(&pending)))
        .await
        .map(Json)
}

fn by(guest: &Guest) -> String {
    format!("user {} (process {})", guest.peer.uid, guest.peer.pid)
}

async fn canary(State(daemon): Shared) -> Answered<CanaryView> {
    blocking(move || Ok::<_, Refused>(daemon.fly())).await.map(Json)
}

async fn unload(
    State(daemon): Shared,
    ConnectInfo(guest): ConnectInfo<Guest>,
    Json(asked): Json<Unload>,
) -> Answered<()> {
    if guest.peer.uid != 0 {
        return Err(refused(Failure::new(FailureKind::Refused, "only root may unload")));
    }
    tracing::warn!(by = by(&guest), force = asked.force, "asked to unload");
    blocking(move || daemon.unload(asked.force)).await.map(Json)
}

/// A daemon for a run makes room for a service.
async fn give_way(State(daemon): Shared, Json(asked): Json<Yield>) -> Answered<()> {
    if !daemon.transient {
        return Err(refused(Failure::new(FailureKind::Conflict, "this daemon is a service and stays")));
    }
    if asked.pins != daemon.settings.pins {
        return Err(refused(Failure::new(FailureKind::Conflict, "this daemon is over other pins and stays")));
    }
    tracing::info!("giving way to a service");
    daemon.end();
    Ok(Json(()))
}

async fn why(State(daemon): Shared, ConnectInfo(guest): ConnectInfo<Guest>) -> Answered<Vec<Refusal>> {
    let Some(agent) = guest.agent else {
        let failure =
            Failure::new(FailureKind::Refused, "this process is not governed, so nothing was refused");
        return Err(refused(failure.with_help("`enforcer tail` tells of all agents")));
    };
    Ok(Json(daemon.events.refusals(agent).iter().map(|decided| refusal(decided)).collect()))
}

fn refusal(decided: &Decided) -> Refusal {
    let view = decided.view();
    let explanation = Reason::from_number(decided.event.reason).map_or("", Reason::sentence);
    Refusal {
        time: view.time,
        action: view.action.into_owned(),
        object: view.object.into_owned(),
        rule: view.rule.map(Into::into),
        message: view.message.map(Into::into),
        verdict: view.verdict.into_owned(),
        reason: view.reason.into_owned(),
        explanation: explanation.to_owned(),
        request: view.request,
        audit: view.audit,
    }
}
