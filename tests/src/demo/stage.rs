//! The stage: folders, the daemon, the agent, the events, and the way back to how the machine was before.
//!
//! Invariant: nothing outside of [`FOLDER`], the pins and the cgroup of the demo is touched, and all three are gone
//! at the end, however the story ends. An installed daemon goes on undisturbed beside it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use enforcer::kernel::hierarchy::Hierarchy;
use serde_json::Value;

use crate::agent::{HEARTBEAT, Outcome, Tool};

/// Everything that the demo writes; `policies/demo.toml` names it.
pub(crate) const FOLDER: &str = "/run/enforcer-demo";

/// What the agent is called.
pub(crate) const AGENT: &str = "demo";

const PINS: &str = "/sys/fs/bpf/enforcer-demo";
const CGROUP: &str = "enforcer-demo";

/// Programs are verified when they are loaded, and an emulated processor takes its time for it.
const PATIENCE: Duration = Duration::from_secs(100);

/// An event is told within milliseconds; more than this is a loss.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);

/// A path below [`FOLDER`].
pub(crate) fn at(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// What is there while the story is told.
#[derive(Debug)]
pub(crate) struct Stage {
    cgroups: PathBuf,
    daemon: Option<Child>,
    agent: Option<Agent>,
    events: Option<Events>,
}

#[derive(Debug)]
struct Agent {
    run: Child,
    tools: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

#[derive(Debug)]
struct Events {
    tail: Child,
    lines: Receiver<Value>,
    /// Those that nobody has asked for yet.
    waiting: Vec<Value>,
}

impl Stage {
    /// Folders with something in them, and nothing running yet.
    pub(crate) fn set() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the demo loads programs into the kernel and must be run as root");
        }
        let cgroups = Hierarchy::find().context("find a place for the agent")?.mount().join(CGROUP);
        let stage = Self { cgroups, daemon: None, agent: None, events: None };
        // Of a demo that was killed.
        stage.strike();
        for folder in ["", "state", "workspace", "secrets", "customers"] {
            fs::DirBuilder::new().mode(0o755).create(at(folder)).with_context(|| format!("make {FOLDER}"))?;
        }
        fs::write(at("secrets/api-key"), "hunter2\n").context("write a secret")?;
        fs::write(at("customers/4711.json"), "{\"name\": \"Ada\", \"city\": \"London\"}\n")
            .context("write a customer")?;
        Ok(stage)
    }

    /// Starts a daemon and waits until it is ready; how long that took.
    pub(crate) fn start_daemon(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let log = File::options().append(true).create(true).open(at("daemon.log")).context("daemon.log")?;
        let mut command = enforcer(&["daemon", "--require-lsm", "--bpffs", PINS]);
        command.arg("--state").arg(at("state")).arg("--cgroup-root").arg(&self.cgroups);
        let daemon = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = self.daemon.insert(daemon.spawn().context("start `enforcer`")?);
        while !enforcer(&["status"]).output().context("ask `enforcer status`")?.status.success() {
            if let Some(status) = daemon.try_wait().context("look for the daemon")? {
                bail!("the daemon ended ({status}):\n{}", last_lines(&at("daemon.log")));
            }
            if begun.elapsed() > PATIENCE {
                bail!("the daemon is not ready:\n{}", last_lines(&at("daemon.log")));
            }
            thread::sleep(Duration::from_millis(100));
        }
        self.listen()?;
        Ok(begun.elapsed())
    }

    /// Ends the daemon as nothing should, by SIGKILL, and returns what its process was.
    pub(crate) fn kill_daemon(&mut self) -> Result<u32> {
        let Some(mut daemon) = self.daemon.take() else { bail!("no daemon runs") };
        daemon.kill().context("kill the daemon")?;
        daemon.wait().context("wait for the daemon")?;
        Ok(daemon.id())
    }

    /// Waits for the daemon to end by itself.
    pub(crate) fn daemon_ends(&mut self) -> Result<ExitStatus> {
        let Some(daemon) = self.daemon.as_mut() else { bail!("no daemon runs") };
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = daemon.try_wait().context("look for the daemon")? {
                self.daemon = None;
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the daemon does not end")
    }

    /// Follows the events of the daemon that runs, from its start.
    fn listen(&mut self) -> Result<()> {
        let mut tail = enforcer(&["tail", "--json", "--since-start"]);
        let mut tail =
            tail.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("tail")?;
        let out = tail.stdout.take().context("the events have no pipe")?;
        let (send, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            for event in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                if send.send(event).is_err() {
                    return;
                }
            }
        });
        if let Some(mut before) = self.events.replace(Events { tail, lines, waiting: Vec::new() }) {
            before.end();
        }
        Ok(())
    }

    /// The first event of that verdict on that object that nobody has asked for before.
    pub(crate) fn event(&mut self, verdict: &str, object: &str) -> Option<Value> {
        let events = self.events.as_mut()?;
        let wanted = |event: &Value| event["verdict"] == verdict && event["object"] == object;
        if let Some(place) = events.waiting.iter().position(wanted) {
            return Some(events.waiting.remove(place));
        }
        let until = Instant::now() + EVENT_PATIENCE;
        while let Ok(event) = events.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if wanted(&event) {
                return Some(event);
            }
            events.waiting.push(event);
        }
        None
    }

    /// Starts the agent under a policy.
    pub(crate) fn start_agent(&mut self, policy: &Path) -> Result<()> {
        let myself = std::env::current_exe().context("find this program")?;
        let mut run = enforcer(&["run", "--agent", AGENT, "--policy"]);
        run.arg(policy).arg("--").arg(myself).arg("agent").current_dir(at("workspace"));
        let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the agent")?;
        let (tools, outcomes) = (run.stdin.take(), run.stdout.take());
        let (Some(tools), Some(outcomes)) = (tools, outcomes) else { bail!("the agent has no pipes") };
        self.agent = Some(Agent { run, tools, outcomes: BufReader::new(outcomes) });
        Ok(())
    }

    /// Has the agent begin something.
    pub(crate) fn begin(&mut self, tool: &Tool) -> Result<()> {
        let Some(agent) = self.agent.as_mut() else { bail!("no agent runs") };
        writeln!(agent.tools, "{}", serde_json::to_string(tool)?).context("tell the agent")
    }

    /// What came of what the agent began.
    pub(crate) fn outcome(&mut self, tool: &Tool) -> Result<Outcome> {
        let Some(agent) = self.agent.as_mut() else { bail!("no agent runs") };
        let mut line = String::new();
        agent.outcomes.read_line(&mut line).context("hear the agent")?;
        serde_json::from_str(&line).with_context(|| format!("the agent ended when it was to {tool}"))
    }

    /// How often the agent's heart has beaten.
    pub(crate) fn heartbeats() -> Result<u64> {
        let bytes = fs::read(at("workspace").join(HEARTBEAT)).context("the agent's heartbeat")?;
        Ok(bytes.try_into().map_or(0, u64::from_ne_bytes))
    }

    /// Has nothing more for the agent to do, and waits for its end.
    pub(crate) fn end_agent(&mut self) -> Result<ExitStatus> {
        let Some(Agent { mut run, tools, .. }) = self.agent.take() else { bail!("no agent runs") };
        drop(tools);
        run.wait().context("wait for the agent")
    }

    /// Whether anything is left in the kernel.
    pub(crate) fn is_pinned() -> bool {
        Path::new(PINS).exists()
    }

    /// Takes everything away without a word.
    fn strike(&self) {
        if Self::is_pinned() {
            let mut unload = enforcer(&["unload", "--force", "--bpffs", PINS]);
            unload.arg("--state").arg(at("state")).arg("--cgroup-root").arg(&self.cgroups);
            let _ = unload.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir(&self.cgroups);
        let _ = fs::remove_dir_all(FOLDER);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(Agent { mut run, tools, .. }) = self.agent.take() {
            drop(tools);
            let _ = run.wait();
        }
        if let Some(mut events) = self.events.take() {
            events.end();
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.strike();
    }
}

impl Events {
    fn end(&mut self) {
        let _ = self.tail.kill();
        let _ = self.tail.wait();
    }
}

/// `enforcer` with these words, talking to the demo's daemon.
fn enforcer(words: &[&str]) -> Command {
    let mut command = Command::new("enforcer");
    command.args(words).env("ENFORCER_SOCKET", at("control.sock"));
    command
}

/// Runs a command of `enforcer` as the person would, and returns what it printed.
pub(crate) fn ask(words: &[&str]) -> Result<String> {
    let output = enforcer(words).stdin(Stdio::null()).output().context("start `enforcer`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("`enforcer {}`: {}\n{said}", words.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &said)
}

/// The same with `--json`.
pub(crate) fn ask_json(words: &[&str]) -> Result<Value> {
    let output = enforcer(words).arg("--json").stdin(Stdio::null()).output().context("start `enforcer`")?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("`enforcer {} --json`", words.join(" ")))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
