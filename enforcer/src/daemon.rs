//! The daemon: everything put together, from its start to its end.
//!
//! Enforcement is the kernel's and goes on without it. The daemon loads, names, tells and answers. When it stops,
//! everything stays as it is; only one that was started for a single run takes it all away at its end.

pub mod config;
mod notify;

pub use self::{
    config::{Config, Settings},
    notify::notify,
};

use crate::{
    agents::{
        self, AgentId, AgentRecord, Agents, Purpose, Remains,
        names::Names,
        policy::{self, Prepared},
        registry::{self, Registry},
    },
    approvals::{self, Approvals},
    control::{
        api::{CanaryView, LossesView, PolicyChoice, StatusView, Trial, chain},
        choice::compile,
        refused::Refused,
        server,
    },
    events::{self, Events},
    holds::{self, Holds},
    kernel::{
        self, Kernel, Options, Origin,
        canary::Stage,
        clock::now_ns,
        pin::{self, Lock},
    },
    policy::PolicySource,
};
use enforcer_common::limits::LAYOUT_VERSION;
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, sleep_until},
};

/// How often it is looked for agents that nobody is left of.
const REAP: Duration = Duration::from_secs(1);
/// How often grants that have run out are removed.
const SWEEP: Duration = Duration::from_secs(60);
/// How often requests are looked for whose event was lost.
const LOOK: Duration = Duration::from_secs(5);
/// The share of its time that this may take, as one part of so many, however many requests are filed.
const LOOK_SHARE: u32 = 5;
/// How often the canary flies.
const CANARY: Duration = Duration::from_secs(600);
/// How long a daemon for a run waits for its first agent.
const FIRST_AGENT: Duration = Duration::from_secs(15);
/// The exit code after an unload, for which the service manager must not start it again.
pub const UNLOADED: u8 = 10;

/// Why the daemon cannot start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// Agents.
    #[error(transparent)]
    Agents(#[from] agents::Error),
    /// Approvals.
    #[error(transparent)]
    Approvals(#[from] approvals::Error),
    /// Events.
    #[error(transparent)]
    Events(#[from] events::Error),
    /// Holds.
    #[error(transparent)]
    Holds(#[from] holds::Error),
    /// A socket.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The lock of the state folder.
    #[error(transparent)]
    Lock(#[from] pin::Error),
    /// A policy of the daemon's own.
    #[error("the canary cannot fly: {0}")]
    Canary(String),
    /// A system call.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Agents still have processes.
    #[error("agents still have processes: {}", names(.0))]
    Populated(Vec<String>),
}

fn names(agents: &[String]) -> String {
    agents.join(", ")
}

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything stays in the kernel.
    Leave,
    /// Everything is taken away.
    Unloaded,
}

/// The daemon.
#[derive(Debug)]
pub struct Daemon {
    /// How it is set up.
    pub settings: Settings,
    /// Whether it ends with the last run.
    pub transient: bool,
    /// The kernel's side.
    pub kernel: Arc<Kernel>,
    /// Names for numbers.
    pub names: Arc<Names>,
    /// Agents.
    pub agents: Agents,
    /// Events.
    pub events: Arc<Events>,
    /// Threads that wait.
    pub holds: Arc<Holds>,
    /// Approvals.
    pub approvals: Approvals,
    origin: Origin,
    since: Timestamp,
    started: Instant,
    canary: Mutex<Option<CanaryView>>,
    flight: Mutex<()>,
    had_agent: AtomicBool,
    ending: watch::Sender<Option<Ending>>,
    _locks: [Lock; 3],
}

impl Daemon {
    /// Opens the kernel's side and the registry, and takes over what is there.
    pub fn open(settings: Settings, transient: bool) -> Result<Self, Error> {
        kernel::be_root()?;
        // Before anything is loaded: a daemon that nobody could reach is none.
        let [control_claim, agents_claim] = server::claim(&settings)?;
        let (kernel, origin) = Kernel::open(&Options {
            pins: settings.pins.clone(),
            cgroup_root: settings.cgroup_root.clone(),
            governing: settings.governing,
            kernel_log: settings.kernel_log,
        })?;
        let state = Lock::take(&settings.state.join("lock"), "the state", &settings.state)?;
        let mut registry = Registry::open(&settings.state)?;
        if origin == Origin::Made {
            registry.clear();
            registry.set_kernel_log(settings.kernel_log.is_some());
        }
        if !transient {
            registry.set_service();
        }
        let (kernel, names) = (Arc::new(kernel), Arc::new(Names::default()));
        if origin == Origin::Made {
            clear_root(&kernel);
        }
        let agents = Agents::open(Arc::clone(&kernel), Arc::clone(&names), registry)?;
        let holds = Arc::new(Holds::start(Arc::clone(&kernel), Arc::clone(&names))?);
        let approvals = Approvals::new(Arc::clone(&kernel), Arc::clone(&names), Arc::clone(&holds));
        approvals.refuse_overdue()?;
        let had_agent = AtomicBool::new(!agents.list().is_empty());
        Ok(Self {
            settings,
            transient,
            kernel,
            names,
            agents,
            events: Arc::new(Events::default()),
            holds,
            approvals,
            origin,
            since: Timestamp::now(),
            started: Instant::now(),
            canary: Mutex::new(None),
            flight: Mutex::new(()),
            had_agent,
            ending: watch::Sender::new(None),
            _locks: [control_claim, agents_claim, state],
        })
    }

    /// Says in one line what there is, and what there is not.
    pub fn introduce(&self) {
        let agents = self.agents.list().len();
        let how = match self.origin {
            Origin::Made => "loaded",
            Origin::TakenOver => "taken over",
        };
        let pins = self.settings.pins.display();
        match self.kernel.lsm() {
            Ok(()) => tracing::info!(%pins, agents, "{how}; network, files and programs are governed"),
            Err(lack) => {
                tracing::warn!(%pins, agents, "{how}; only the network is governed: {lack}");
                for what in kernel::probe::NETWORK_ONLY {
                    tracing::warn!("without BPF LSM {what}");
                }
            }
        }
        let logs = self.agents.registry(|registry| registry.kernel_log());
        if self.settings.kernel_log.is_some() && !logs {
            tracing::warn!(
                "`--kernel-log` takes effect only when the programs are loaded anew, after `enforcer unload`"
            );
        }
    }

    /// Runs until it is told to end.
    pub async fn run(self: Arc<Self>, ready: impl FnOnce()) -> Result<Ending, Error> {
        let reader = events::start(
            Arc::clone(&self.events),
            Arc::clone(&self.kernel),
            Arc::clone(&self.names),
            self.settings.events.as_deref(),
        )?;
        let log =
            self.agents.registry(|registry| registry.kernel_log()).then(|| kernel::log::start(&self.kernel));
        let mut ending = self.ending.subscribe();
        let servers = server::start(&self)?;
        let canary = Arc::clone(&self);
        spawn_blocking(move || canary.fly()).await.map_err(|error| Error::Canary(error.to_string()))?;
        ready();
        let tasks = [
            tokio::spawn(Arc::clone(&self).answer_in_time()),
            tokio::spawn(Arc::clone(&self).keep_house()),
            tokio::spawn(Arc::clone(&self).fly_now_and_then()),
        ];
        let how =
            ending.wait_for(Option::is_some).await.map_or(Ending::Leave, |how| how.unwrap_or(Ending::Leave));
        for task in tasks.into_iter().chain(log) {
            task.abort();
        }
        self.events.stop();
        servers.stop().await;
        // Whoever is held stays so, for the next daemon.
        self.holds.stop();
        if reader.join().is_err() {
            tracing::error!("the thread that reads events panicked");
        }
        if how == Ending::Leave {
            // The number of the socket's file may come to be another file's.
            self.kernel.set_control_socket(0, 0)?;
        }
        Ok(how)
    }

    /// Tells the daemon to end, with everything left as it is.
    pub fn end(&self) {
        self.ending.send_replace(Some(Ending::Leave));
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Waits until it is told to end.
    pub fn ending(&self) -> impl Future<Output = ()> + use<> {
        let mut ending = self.ending.subscribe();
        async move {
            // Nobody is left to say so: that is an end as well.
            let _ = ending.wait_for(Option::is_some).await;
        }
    }

    /// Notes that somebody uses the daemon, so that one for a run waits no longer for its first agent.
    pub fn note_agent(&self) {
        self.had_agent.store(true, Ordering::Relaxed);
    }

    /// Detaches everything and removes the pins, then ends. Nobody is governed afterwards.
    pub fn unload(&self, force: bool) -> Result<(), Error> {
        let remains = self.agents.remains()?;
        if !remains.is_empty() {
            let frozen = self.agents.frozen()?;
            let told = self.tell_of(&remains, &frozen);
            if !force {
                return Err(Error::Populated(told));
            }
            tracing::warn!(agents = ?told, "unloading though agents have processes: they are governed no longer");
            for agent in frozen {
                // Who was stopped because of what it did is not to go on just when nothing governs it any more.
                let file = agent.cgroup.join("cgroup.freeze");
                tracing::warn!(agent = %agent.name, "a frozen agent stays so; writing 0 to `{}` lets it go on", file.display());
            }
        }
        self.kernel.unload()?;
        // Not before: they would wait again.
        self.holds.free();
        for agent in self.agents.list() {
            self.agents.registry(|registry| registry.remove(agent.id));
        }
        self.agents.registry(|registry| {
            registry.clear();
            registry.write()
        })?;
        clear_root(&self.kernel);
        if let Err(error) = self.kernel.root().remove() {
            tracing::warn!(cgroup = %self.kernel.root().path().display(), %error, "the cgroup of all agents stays");
        }
        tracing::warn!(pins = %self.settings.pins.display(), "unloaded: nothing is governed any more");
        self.ending.send_replace(Some(Ending::Unloaded));
        Ok(())
    }

    fn tell_of(&self, remains: &BTreeMap<AgentId, Remains>, frozen: &[Arc<AgentRecord>]) -> Vec<String> {
        let tell = |(id, remains): (&AgentId, &Remains)| {
            let name =
                self.names.agent(*id).map_or_else(|| format!("agent-{id}"), |agent| agent.name.clone());
            let pids: Vec<_> =
                remains.inside.iter().chain(&remains.outside).map(ToString::to_string).collect();
            let stands = if frozen.iter().any(|agent| agent.id == *id) { ", frozen" } else { "" };
            format!("{name} ({}{stands})", pids.join(" "))
        };
        remains.iter().map(tell).collect()
    }

    /// Compiles a policy, by its name in the folder of policies or from its text.
    pub fn policy(&self, choice: &PolicyChoice) -> Result<(Prepared, Option<String>), Refused> {
        compile(&self.settings.policies, choice)
    }

    /// Has the canary try, and keeps what it found.
    pub fn fly(&self) -> CanaryView {
        // Two at a time would stand on one stage.
        let _flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = match self.fly_once() {
            Ok(trials) => CanaryView {
                ok: trials.iter().all(|trial| trial.ok),
                at: Timestamp::now(),
                trials,
                error: None,
            },
            Err(error) => {
                CanaryView { ok: false, at: Timestamp::now(), trials: Vec::new(), error: Some(chain(&error)) }
            }
        };
        match &seen.error {
            Some(error) => tracing::error!(error, "the canary could not try whether enforcement is on"),
            None if !seen.ok => {
                tracing::error!(trials = ?seen.trials, "the canary says that enforcement is not on");
            }
            None => {}
        }
        *self.canary.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen.clone());
        seen
    }

    fn fly_once(&self) -> Result<Vec<Trial>, Error> {
        let failed = |what| move |source| Error::Io { what, source };
        let lsm = self.kernel.lsm().is_ok();
        let stage = Stage::new(&self.settings.state).map_err(failed("lay out the canary's stage"))?;
        let (prepared, found) = policy::prepare(PolicySource::new("canary", stage.policy(lsm)));
        let prepared = prepared.ok_or_else(|| Error::Canary(found.render(crate::policy::Look::PLAIN)))?;
        let agent = self.canary_agent(&prepared)?;
        let flown = stage.run(lsm, |pid| self.agents.enter(agent.id, pid));
        // It has been waited for, so nobody is left of it.
        self.agents.end(agent.id)?;
        let attempts = flown.map_err(failed("run the canary"))??;
        Ok(attempts.into_iter().map(trial).collect())
    }

    /// Its slot may be one that is being emptied, which takes a moment.
    fn canary_agent(&self, policy: &Prepared) -> Result<Arc<AgentRecord>, agents::Error> {
        const TRIES: usize = 20;
        let create = || self.agents.create(Some("canary"), Purpose::Canary, policy);
        for _ in 0..TRIES {
            match create() {
                Err(agents::Error::Kernel(kernel::Error::NoSlot)) => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                made => return made,
            }
        }
        create()
    }

    /// How everything is.
    pub fn status(&self) -> Result<StatusView, Error> {
        let (programs, missing) = self.kernel.programs();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout_version: LAYOUT_VERSION,
            pid: std::process::id(),
            transient: self.transient,
            lsm: self.kernel.lsm().is_ok(),
            lsm_lack: self.kernel.lsm().err().map(ToString::to_string),
            agents: self.agents.list().len(),
            frozen: self.agents.frozen()?.len(),
            pending: self.approvals.pending()?.len(),
            held: self.holds.by_agent()?.into_values().sum(),
            losses: LossesView::new(self.kernel.losses()?, self.events.dropped()),
            canary: self.canary.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            pins: self.settings.pins.clone(),
            cgroup_root: self.kernel.root().path().to_owned(),
            since: self.since,
            uptime: self.started.elapsed().as_secs(),
            taken_over: self.origin == Origin::TakenOver,
            programs,
            missing,
        })
    }

    /// Answers requests when their time has run out.
    async fn answer_in_time(self: Arc<Self>) {
        loop {
            let daemon = Arc::clone(&self);
            let began = Instant::now();
            let next = match spawn_blocking(move || daemon.approvals.expire()).await {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => {
                    tracing::error!(error = chain(&error), "requests cannot be answered");
                    None
                }
                Err(error) => {
                    tracing::error!(%error, "answering requests panicked");
                    None
                }
            };
            let until =
                next.map_or(LOOK, |next| Duration::from_nanos(next.saturating_sub(now_ns())).min(LOOK));
            let until = tokio::time::Instant::now() + until;
            sleep(began.elapsed().saturating_mul(LOOK_SHARE - 1).min(LOOK)).await;
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.events.requests.notified() => {}
            }
        }
    }

    /// Ends agents that nobody is left of, and the daemon with them if it was started for them.
    async fn keep_house(self: Arc<Self>) {
        let mut swept = Instant::now();
        loop {
            sleep(REAP).await;
            let sweep = swept.elapsed() >= SWEEP;
            if sweep {
                swept = Instant::now();
            }
            let daemon = Arc::clone(&self);
            match spawn_blocking(move || daemon.tidy(sweep)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(error = chain(&error), "agents cannot be looked after"),
                Err(error) => tracing::error!(%error, "looking after agents panicked"),
            }
        }
    }

    fn tidy(&self, sweep: bool) -> Result<(), Error> {
        let left = self.agents.reap()?;
        if sweep {
            self.approvals.sweep()?;
            self.agents.registry(|registry| registry.forget_policies())?;
        }
        let begun = self.had_agent.load(Ordering::Relaxed) || self.started.elapsed() > FIRST_AGENT;
        if self.transient && left == 0 && begun && !self.is_ending() {
            if self.agents.registry(|registry| registry.service()) {
                self.end();
            } else {
                self.unload(false)?;
            }
        }
        Ok(())
    }

    async fn fly_now_and_then(self: Arc<Self>) {
        loop {
            sleep(CANARY).await;
            let daemon = Arc::clone(&self);
            if let Err(error) = spawn_blocking(move || daemon.fly()).await {
                tracing::error!(%error, "the canary panicked");
            }
        }
    }
}

fn trial(attempt: kernel::canary::Attempt) -> Trial {
    let word = |number: i32| match number {
        0 => "passed".to_owned(),
        number => io::Error::from_raw_os_error(number).to_string(),
    };
    Trial {
        ok: attempt.is_ok(),
        refused: word(attempt.refused),
        allowed: word(attempt.allowed),
        family: attempt.family,
    }
}

/// Removes the cgroups of agents that a daemon before the pins has left, if nobody is in them.
fn clear_root(kernel: &Kernel) {
    let root = kernel.root().path();
    let folders = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    for folder in folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path: PathBuf = folder.path();
        if let Err(error) = agents::cgroup::remove(&path) {
            tracing::warn!(cgroup = %path.display(), %error, "processes in this cgroup are not governed");
        }
    }
}

/// Where a policy lies that is chosen by its name.
#[must_use]
pub fn policy_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.toml"))
}
