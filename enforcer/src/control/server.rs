//! The daemon's ends of the two sockets.
//!
//! Who connects is looked at before a byte is read. The control socket is for root and the group `enforcer`, and
//! for no governed task, root or not: the kernel refuses those by their mark, and where it cannot, the look here
//! does. The agents' socket is for governed tasks, and tells each only of itself.

use super::{
    api::{
        AgentView, ApprovalView, Approve, CanaryView, CountsView, Ended, Enter, EventsQuery, Failure,
        FailureKind, MadeAgent, Missed, NewAgent, PolicyChoice, Refusal, Reject, RuleCounts, SetPolicy,
        StatusView, Unload, by_agent, chain,
    },
    peer::{GROUP, Peer, control_group},
};
use crate::{
    agents::{
        self, AgentId, AgentRecord, Purpose,
        policy::{self, Prepared},
    },
    approvals::{self, Answer, Pending},
    daemon::{self, Daemon, policy_file},
    events::Decided,
    policy::{Look, PolicySource},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Path as InPath, Query, Request, State, connect_info::Connected},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
    serve::{IncomingStream, Listener},
};
use enforcer_common::verdict::Reason;
use http_body_util::channel::{Channel, Sender};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::UnixListener as StdUnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{broadcast, watch},
    task::{JoinHandle, spawn_blocking},
};

/// Why a socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("cannot {what} the socket `{}`", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel is not told of it.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
}

/// A failure as a response.
#[derive(Debug)]
pub struct Refused(pub Box<Failure>);

fn refused(failure: Failure) -> Refused {
    Refused(Box::new(failure))
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        let status = match failure.kind {
            FailureKind::Invalid | FailureKind::Lacks => StatusCode::UNPROCESSABLE_ENTITY,
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Conflict => StatusCode::CONFLICT,
            FailureKind::Refused => StatusCode::FORBIDDEN,
            FailureKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(*failure)).into_response()
    }
}

impl From<agents::Error> for Refused {
    fn from(error: agents::Error) -> Self {
        use agents::Error as E;
        let kind = match &error {
            E::NeedsLsm { .. } => FailureKind::Lacks,
            E::NoAgent { .. } => FailureKind::NotFound,
            E::Name { .. } => FailureKind::Invalid,
            E::OtherPolicy { .. } | E::Ambiguous { .. } | E::Full | E::Process { .. } => {
                FailureKind::Conflict
            }
            _ => FailureKind::Failed,
        };
        let failure = Failure::new(kind, chain(&error));
        refused(match error {
            E::NeedsLsm { .. } => failure.with_help(
                "`enforcer doctor` tells what to do about the kernel; a policy with `files = \"allow\"`, `exec = \
                 \"allow\"` and network rules only works here",
            ),
            _ => failure,
        })
    }
}

impl From<approvals::Error> for Refused {
    fn from(error: approvals::Error) -> Self {
        use approvals::Error as E;
        let kind = match &error {
            E::Unknown { .. } => FailureKind::NotFound,
            E::Ambiguous { .. } => FailureKind::Conflict,
            E::Kernel(_) => FailureKind::Failed,
        };
        refused(Failure::new(kind, chain(&error)))
    }
}

impl From<daemon::Error> for Refused {
    fn from(error: daemon::Error) -> Self {
        match error {
            daemon::Error::Populated(_) => {
                let failure = Failure::new(FailureKind::Conflict, error.to_string());
                refused(
                    failure.with_help("end them first; with `--force` they go on, and nothing governs them"),
                )
            }
            error => refused(Failure::new(FailureKind::Failed, chain(&error))),
        }
    }
}

impl From<crate::kernel::Error> for Refused {
    fn from(error: crate::kernel::Error) -> Self {
        refused(Failure::new(FailureKind::Failed, chain(&error)))
    }
}

/// Runs what may block away from the threads that serve.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Refused>
where
    T: Send + 'static,
    E: Into<Refused> + Send + 'static,
{
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(refused(Failure::new(FailureKind::Failed, error.to_string()))),
    }
}

/// Reads and compiles a policy.
pub fn compile(folder: &Path, choice: &PolicyChoice) -> Result<(Prepared, Option<String>), Refused> {
    let source = match choice {
        PolicyChoice::Text { file, text } => PolicySource::new(file.clone(), text.clone()),
        PolicyChoice::Name(name) => named(folder, name)?,
    };
    let (prepared, found) = policy::prepare(source);
    let report = (!found.is_empty()).then(|| found.render(Look::PLAIN));
    prepared.map(|prepared| (prepared, report.clone())).ok_or_else(|| {
        refused(Failure {
            report,
            diagnostics: Some(found.to_json()),
            ..Failure::new(
                FailureKind::Invalid,
                format!("the policy `{}` has {}", found.source().name(), found.summary()),
            )
        })
    })
}

fn named(folder: &Path, name: &str) -> Result<PolicySource, Refused> {
    let missing = || {
        let failure = Failure::new(FailureKind::NotFound, format!("there is no policy `{name}`"));
        refused(failure.with_help(format!(
            "policies are looked for in `{}`; a path with a slash names a file",
            folder.display()
        )))
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(missing());
    }
    let path = policy_file(folder, name);
    match fs::read(&path) {
        Ok(bytes) => {
            Ok(PolicySource::new(path.to_string_lossy(), String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(refused(Failure::new(
            FailureKind::Failed,
            format!("cannot read `{}`: {error}", path.display()),
        ))),
    }
}

/// Which socket a connection came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Control,
    Agents,
}

/// A listener that turns away at the door.
struct Guarded {
    listener: UnixListener,
    door: Door,
    daemon: Arc<Daemon>,
}

/// Who came in, and as which agent.
#[derive(Clone, Debug)]
struct Guest {
    peer: Peer,
    agent: Option<AgentId>,
}

impl Guarded {
    /// Who it is, if it may come in.
    fn look_at(&self, stream: &UnixStream) -> Result<Guest, String> {
        let peer = Peer::of(stream).map_err(|error| error.to_string())?;
        if peer.process.is_none() {
            return Err("the process has ended".to_owned());
        }
        let agent = self.daemon.agents.of_peer(&peer).map_err(|error| chain(&error))?;
        match (self.door, agent) {
            (Door::Control, Some(agent)) => Err(format!("the process belongs to agent {agent}")),
            (Door::Control, None) if !peer.may_control(control_group()) => {
                Err(format!("user {} is neither root nor in the group `{GROUP}`", peer.uid))
            }
            _ => Ok(Guest { peer, agent }),
        }
    }
}

impl Listener for Guarded {
    type Io = UnixStream;
    type Addr = Guest;

    async fn accept(&mut self) -> (UnixStream, Guest) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match self.look_at(&stream) {
                    Ok(guest) => return (stream, guest),
                    Err(reason) => tracing::warn!(door = ?self.door, reason, "connection refused"),
                },
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Guest> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Guarded>> for Guest {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Self {
        stream.remote_addr().clone()
    }
}

/// The two servers.
#[derive(Debug)]
pub struct Servers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    sockets: Vec<PathBuf>,
}

impl Servers {
    /// Stops them, with a moment for answers that are under way, and removes their sockets.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for path in &self.sockets {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(socket = %path.display(), %error, "a socket stays behind");
            }
        }
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(Duration::from_millis(500), task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// Makes both sockets and serves them. From then on the kernel refuses governed tasks the first.
pub(crate) fn start(daemon: &Arc<Daemon>) -> Result<Servers, Error> {
    let (control, agents) = (&daemon.settings.socket, &daemon.settings.agents_socket);
    let stop = watch::Sender::new(false);
    let control_listener = bind(control, 0o660, true)?;
    let file = fs::metadata(control).map_err(failed("look at", control))?;
    daemon.kernel.set_control_socket(file.ino(), kernel_device(file.dev()))?;
    let agents_listener = bind(agents, 0o666, false)?;
    let tasks =
        [(control_listener, Door::Control), (agents_listener, Door::Agents)].map(|(listener, door)| {
            let router = match door {
                Door::Control => control_router(daemon),
                Door::Agents => agents_router(daemon),
            };
            let guarded = Guarded { listener, door, daemon: Arc::clone(daemon) };
            let mut stopped = stop.subscribe();
            tokio::spawn(async move {
                let service = router.into_make_service_with_connect_info::<Guest>();
                let until = async move {
                    // Nobody is left to say so: that is a stop as well.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                let Ok(()) =
                    axum::serve(guarded, service).with_graceful_shutdown(until).await.map_err(|error| {
                        tracing::error!(%error, "a socket is served no longer");
                    })
                else {
                    return;
                };
            })
        });
    Ok(Servers { stop, tasks: tasks.into(), sockets: vec![control.clone(), agents.clone()] })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Socket { what, path: path.to_owned(), source }
}

fn bind(path: &Path, mode: u32, for_group: bool) -> Result<UnixListener, Error> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of", folder))?;
    }
    // Whoever holds the lock of the pins is the only daemon, so a socket that is there is nobody's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace", path)(error)),
        _ => {}
    }
    let listener = StdUnixListener::bind(path).map_err(failed("bind", path))?;
    if for_group && let Some(group) = control_group() {
        chown(path, None, Some(group.as_raw())).map_err(failed("hand over", path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", path))?;
    listener.set_nonblocking(true).map_err(failed("set up", path))?;
    UnixListener::from_std(listener).map_err(failed("set up", path))
}

/// A device number as the kernel keeps it (`s_dev`: 12 bits major, 20 bits minor), from the one that user space sees.
fn kernel_device(device: u64) -> u64 {
    (u64::from(libc::major(device)) << 20) | u64::from(libc::minor(device))
}

type Shared = State<Arc<Daemon>>;
type Answered<T> = Result<Json<T>, Refused>;

fn control_router(daemon: &Arc<Daemon>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/agents", get(list_agents).post(new_agent))
        .route("/agents/{id}/processes", post(enter))
        .route("/agents/{id}/policy", put(set_policy))
        .route("/agents/{id}/end", post(end_agent))
        .route("/events", get(events))
        .route("/approvals", get(list_approvals))
        .route("/approvals/{id}/approve", post(approve))
        .route("/approvals/{id}/reject", post(reject))
        .route("/canary", post(canary))
        .route("/unload", post(unload))
        .route("/yield", post(give_way))
        .fallback(nothing_here)
        .layer(middleware::from_fn_with_state(Arc::clone(daemon), not_while_ending))
        .with_state(Arc::clone(daemon))
}

fn agents_router(daemon: &Arc<Daemon>) -> Router {
    Router::new().route("/why", get(why)).fallback(nothing_here).with_state(Arc::clone(daemon))
}

async fn nothing_here(request: Request) -> Refused {
    let what = format!("there is no `{} {}` here", request.method(), request.uri().path());
    refused(Failure::new(FailureKind::NotFound, what))
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
    daemon.agents.list().iter().map(|agent| agent_view(daemon, agent, counts.get(&agent.id))).collect()
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
        cgroup: agent.cgroup.clone(),
        processes: daemon.agents.processes(agent)?,
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
) -> Answered<()> {
    let agent = AgentId(id);
    blocking(move || {
        for pid in &asked.pids {
            may_move(&guest.peer, *pid)?;
        }
        daemon.agents.enter(agent, &asked.pids)?;
        tracing::info!(%agent, pids = ?asked.pids, by = guest.peer.pid, "entered");
        Ok::<_, Refused>(())
    })
    .await
    .map(Json)
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
    let pending = blocking(move || daemon.approvals.pending()).await?;
    Ok(Json(pending.iter().filter(|pending| !pending.decided.is_canary()).map(approval_view).collect()))
}

fn approval_view(pending: &Pending) -> ApprovalView {
    let view = pending.decided.view();
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
async fn give_way(State(daemon): Shared) -> Answered<()> {
    if !daemon.transient {
        return Err(refused(Failure::new(FailureKind::Conflict, "this daemon is a service and stays")));
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

/// Which events a reader wants.
struct Filter {
    agent: Option<String>,
    verdicts: Vec<String>,
}

impl Filter {
    fn new(query: &EventsQuery) -> Self {
        let verdicts =
            query.verdict.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
        Self { agent: query.agent.clone(), verdicts: verdicts.map(ToOwned::to_owned).collect() }
    }

    fn wants(&self, decided: &Decided) -> bool {
        let named = |wanted: &String| {
            decided.agent.as_ref().is_some_and(|agent| agent.name == *wanted)
                || decided.agent_id().to_string() == *wanted
        };
        self.agent.as_ref().is_none_or(named)
            && (self.verdicts.is_empty() || self.verdicts.iter().any(|word| word == decided.verdict().word()))
    }
}

async fn events(State(daemon): Shared, Query(query): Query<EventsQuery>) -> Response {
    let filter = Filter::new(&query);
    let (before, receiver) = if query.since_start {
        daemon.events.listen_from_start()
    } else {
        (Vec::new(), daemon.events.listen())
    };
    let (sender, body) = Channel::<Bytes, Infallible>::new(64);
    tokio::spawn(async move {
        // It ends when the reader does.
        let _ = send_events(sender, &filter, before, receiver).await;
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response()
}

/// The reader is gone.
struct Gone;

async fn send_events(
    mut sender: Sender<Bytes, Infallible>,
    filter: &Filter,
    before: Vec<Arc<Decided>>,
    mut receiver: broadcast::Receiver<Arc<Decided>>,
) -> Result<(), Gone> {
    // An empty line says that from here on nothing is missed.
    send(&mut sender, b"\n".to_vec()).await?;
    for decided in before.iter().filter(|decided| filter.wants(decided)) {
        send(&mut sender, line(&decided.view())).await?;
    }
    loop {
        match receiver.recv().await {
            Ok(decided) if filter.wants(&decided) => send(&mut sender, line(&decided.view())).await?,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                send(&mut sender, line(&Missed { missed })).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(sender: &mut Sender<Bytes, Infallible>, line: Vec<u8>) -> Result<(), Gone> {
    sender.send_data(line.into()).await.map_err(|_| Gone)
}

fn line<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // Nothing in these types cannot be written as JSON.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::{Filter, kernel_device, named};
    use crate::{
        agents::names::Names,
        control::api::{EventsQuery, FailureKind},
        events::{Decided, decode::tests::event},
        kernel::clock::Wall,
    };

    #[test]
    fn a_device_is_numbered_as_the_kernel_does() {
        assert_eq!(kernel_device(libc::makedev(8, 1)), 8 << 20 | 1);
        assert_eq!(kernel_device(libc::makedev(0, 300)), 300);
    }

    #[test]
    fn a_reader_gets_what_it_asked_for() {
        let decided = Decided::new(event(), b"/a", &Names::default(), &Wall::now());
        let wants = |agent: Option<&str>, verdict: Option<&str>| {
            let query = EventsQuery {
                agent: agent.map(Into::into),
                verdict: verdict.map(Into::into),
                since_start: false,
            };
            Filter::new(&query).wants(&decided)
        };
        assert!(wants(None, None) && wants(Some("7"), None) && wants(None, Some("throttle,block")));
        assert!(!wants(Some("8"), None) && !wants(None, Some("allow")));
    }

    #[test]
    fn a_name_is_no_way_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.toml"), "x").unwrap();
        assert_eq!(named(folder.path(), "a").unwrap().text(), "x");
        for name in ["b", "", "../a", "/a", ".a"] {
            assert_eq!(named(folder.path(), name).unwrap_err().0.kind, FailureKind::NotFound, "{name}");
        }
    }
}
