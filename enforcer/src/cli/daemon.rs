//! `enforcer daemon`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, table},
    reach::READY,
};
use crate::{
    control::{
        api::{CanaryView, Failure, FailureKind, Yield, chain},
        client::Client,
        server,
    },
    daemon::{self, Config, Daemon, Ending, Settings, config::LsmChoice, notify},
    kernel::{self, LogLevel, pin},
};
use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Run the daemon: load, take over, tell and answer
///
/// Enforcement is the kernel's. When the daemon stops, or is killed, everything stays enforced as it is, and the next
/// one takes over what is there; `enforcer unload` is the only way out. Every flag is a key of the configuration file
/// too (without the dashes in front), and the flag wins.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  enforcer daemon --events /var/log/enforcer/events.jsonl
  enforcer daemon --check
  enforcer daemon --network-only --bpffs /sys/fs/bpf/enforcer")]
pub(super) struct Args {
    /// The configuration file; it need not exist unless it is named
    #[arg(long, value_name = "FILE", help_heading = "Places")]
    config: Option<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/enforcer]
    #[arg(long, value_name = "PATH", help_heading = "Places")]
    bpffs: Option<PathBuf>,
    /// The cgroup below which agents have theirs [default: `enforcer` at the root of cgroup v2]
    #[arg(long, value_name = "PATH", help_heading = "Places")]
    cgroup_root: Option<PathBuf>,
    /// The socket at which agents ask why [default: `agents.sock` beside the control socket]
    #[arg(long, value_name = "PATH", help_heading = "Places")]
    agents_socket: Option<PathBuf>,
    /// Where names and numbers are kept [default: /var/lib/enforcer]
    #[arg(long, value_name = "PATH", help_heading = "Places")]
    state: Option<PathBuf>,
    /// Where policies are looked for by name [default: /etc/enforcer/policies]
    #[arg(long, value_name = "PATH", help_heading = "Places")]
    policies: Option<PathBuf>,
    /// Append every event to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Have the kernel programs write what each hook returns into the daemon's log; slows them down. Takes effect when
    /// the programs are loaded, and lasts until they are unloaded
    #[arg(long, value_name = "LEVEL")]
    kernel_log: Option<LogLevel>,
    /// Do not start unless files and programs can be governed too
    #[arg(long, conflicts_with = "network_only")]
    require_lsm: bool,
    /// Govern the network only, whatever the kernel can
    #[arg(long)]
    network_only: bool,
    /// Have the canary prove that enforcement is on, then exit: 0 when it is
    #[arg(long)]
    check: bool,
    /// End with the last run, and take everything away unless a service holds it
    #[arg(long, hide = true)]
    transient: bool,
}

impl Args {
    fn settings(&self, shared: &Shared) -> Result<Settings, Problem> {
        let lsm = match (self.require_lsm, self.network_only) {
            (true, _) => Some(LsmChoice::Require),
            (_, true) => Some(LsmChoice::Never),
            _ => None,
        };
        let flags = Config {
            bpffs: self.bpffs.clone(),
            cgroup_root: self.cgroup_root.clone(),
            socket: shared.socket_flag(),
            agents_socket: self.agents_socket.clone(),
            state: self.state.clone(),
            policies: self.policies.clone(),
            events: self.events.clone(),
            kernel_log: self.kernel_log,
            lsm,
        };
        let file = Config::read(self.config.as_deref()).map_err(|error| Problem::of(Exit::Usage, &error))?;
        Ok(flags.or(file).into())
    }
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    init_log();
    let result = args.settings(shared).and_then(|settings| {
        if args.check { check(settings, output) } else { serve(&settings, args.transient) }
    });
    if args.transient
        && let Err(problem) = &result
    {
        tell_starter(&failure_of(problem));
    }
    result
}

/// Lines of the log to standard error, as `ENFORCER_LOG` says; the journal has times of its own.
fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ENFORCER_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
}

fn open(settings: Settings, transient: bool) -> Result<Daemon, Problem> {
    Daemon::open(settings, transient).map_err(|error| problem(&error))
}

fn problem(error: &daemon::Error) -> Problem {
    let exit = match error {
        _ if is_held(error) => Exit::Busy,
        daemon::Error::Kernel(kernel::Error::NotRoot) => Exit::Refused,
        daemon::Error::Kernel(kernel) if kernel.is_lack() => Exit::Lacks,
        _ => Exit::Failed,
    };
    let problem = Problem::of(exit, error);
    if exit == Exit::Lacks { problem.hint("`enforcer doctor` tells what to do about each") } else { problem }
}

/// Opens everything; a daemon that was started for a run gives way to a service.
fn open_or_replace(settings: &Settings, transient: bool) -> Result<Daemon, Problem> {
    const TRIES: usize = 50;
    let mut opened = Daemon::open(settings.clone(), transient);
    if transient || !opened.as_ref().is_err_and(is_held) {
        return opened.map_err(|error| problem(&error));
    }
    let client = Client::new(&settings.socket);
    let asked = Yield { pins: settings.pins.clone() };
    if super::runtime()?.block_on(client.post::<()>("/yield", &asked)).is_ok() {
        tracing::info!("a daemon that was started for a run gives way");
        for _ in 0..TRIES {
            std::thread::sleep(Duration::from_millis(100));
            opened = Daemon::open(settings.clone(), transient);
            if !opened.as_ref().is_err_and(is_held) {
                break;
            }
        }
    }
    opened.map_err(|error| problem(&error))
}

/// Whether another daemon has what this one needs.
fn is_held(error: &daemon::Error) -> bool {
    matches!(
        error,
        daemon::Error::Kernel(kernel::Error::Pins(pin::Error::Held { .. }))
            | daemon::Error::Lock(pin::Error::Held { .. })
            | daemon::Error::Server(
                server::Error::Lock(pin::Error::Held { .. }) | server::Error::InUse { .. }
            )
    )
}

fn serve(settings: &Settings, transient: bool) -> Result<Exit, Problem> {
    let daemon = Arc::new(open_or_replace(settings, transient)?);
    daemon.introduce();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Problem::of(Exit::Failed, &error))?;
    let ending = runtime.block_on(async {
        end_on_signal(&daemon)?;
        let ready = || {
            tracing::info!(socket = %daemon.settings.socket.display(), "ready");
            notify("READY=1");
            if transient {
                tell_starter(READY);
            }
        };
        Arc::clone(&daemon).run(ready).await.map_err(|error| problem(&error))
    })?;
    notify("STOPPING=1");
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ending {
        Ending::Leave => {
            tracing::info!("ending; everything stays enforced");
            Ok(Exit::Done)
        }
        Ending::Unloaded if transient => Ok(Exit::Done),
        Ending::Unloaded => Ok(Exit::Unloaded),
    }
}

fn end_on_signal(daemon: &Arc<Daemon>) -> Result<(), Problem> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|error| Problem::of(Exit::Failed, &error))?;
        let daemon = Arc::clone(daemon);
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                daemon.end();
            }
        });
    }
    Ok(())
}

/// Says one line to whoever started this daemon for a run, who reads no more than that.
fn tell_starter(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever started it may have ended.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    // What is printed later goes nowhere, instead of to a pipe without a reader.
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

fn failure_of(problem: &Problem) -> String {
    let kind = match problem.exit {
        Exit::Lacks => FailureKind::Lacks,
        Exit::Refused => FailureKind::Refused,
        Exit::Busy => FailureKind::Conflict,
        _ => FailureKind::Failed,
    };
    let failure = Failure { help: problem.hint.clone(), ..Failure::new(kind, &problem.message) };
    serde_json::to_string(&failure).unwrap_or_default()
}

/// Has the canary fly, in the daemon that runs or in one that is made for it.
fn check(settings: Settings, output: &Output) -> Result<Exit, Problem> {
    let client = Client::new(&settings.socket);
    let seen: CanaryView = match super::runtime()?.block_on(client.post("/canary", &())) {
        Ok(seen) => seen,
        Err(crate::control::client::Error::Unreachable { .. }) => {
            let was_there =
                pin::Pins::new(&settings.pins).state().is_ok_and(|state| state != pin::State::Absent);
            let daemon = open(settings, true)?;
            let seen = daemon.fly();
            if !was_there {
                daemon.unload(false).map_err(|error| Problem::new(Exit::Failed, chain(&error)))?;
            }
            seen
        }
        Err(error) => return Err(error.into()),
    };
    output.data(&seen, canary_text);
    Ok(if seen.ok { Exit::Done } else { Exit::Failed })
}

/// What the canary found, for people.
pub(super) fn canary_text(seen: &CanaryView) -> String {
    let rows: Vec<_> = seen
        .trials
        .iter()
        .map(|trial| {
            let ok = if trial.ok { "ok" } else { "NOT ENFORCED" };
            vec![trial.family.clone(), ok.to_owned(), trial.refused.clone(), trial.allowed.clone()]
        })
        .collect();
    let table = table(&["FAMILY", "", "MUST BE REFUSED", "MUST PASS"], &rows);
    match &seen.error {
        Some(error) => format!("the canary could not try: {error}\n"),
        None => table,
    }
}
