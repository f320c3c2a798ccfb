//! What the end-to-end tests share: a daemon of their own, agents under a policy, and what was told about them.
//!
//! Nothing here decides what is right; it starts things, waits with a bound, and prints the whole state when a wait
//! is in vain.
#![allow(clippy::indexing_slicing, reason = "a JSON value gives null for what it does not have")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a daemon may take to load its programs; emulated verifiers are slow.
const READY: Duration = Duration::from_secs(180);

/// How long an event may take to be told.
const TOLD: Duration = Duration::from_secs(10);

/// What went wrong, for a test's `?`.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A daemon with places of its own.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    folder: PathBuf,
    flags: Vec<String>,
    child: Mutex<Option<Child>>,
    /// Whether files and programs are governed too.
    pub lsm: bool,
}

static SHARED: OnceLock<Result<Daemon, String>> = OnceLock::new();
static AGENTS: AtomicU32 = AtomicU32::new(0);
static SPARE: Mutex<Option<Daemon>> = Mutex::new(None);

impl Daemon {
    /// The daemon that all tests use which need none of their own.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn shared() -> Result<&'static Self> {
        SHARED
            .get_or_init(|| Self::start("shared").map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|error| error.clone().into())
    }

    /// The end of what the shared daemon has logged, if a test has started it.
    #[must_use]
    pub fn last_words_of_shared() -> Option<String> {
        SHARED.get()?.as_ref().ok().map(Self::last_words)
    }

    /// Runs a test with the daemon of those that kill one or need one without agents. They have one in turn, since an
    /// emulated verifier takes a minute for the programs; it is made anew where a test has failed or has unloaded it.
    ///
    /// # Errors
    ///
    /// When it is not ready in time, or the test fails.
    pub fn with_spare<T, E: From<Error>>(test: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let broken = |_| E::from(Error::from("a test panicked with the spare daemon"));
        let mut spare = SPARE.lock().map_err(broken)?;
        let daemon = match spare.take() {
            Some(daemon) => daemon,
            None => Self::start("spare")?,
        };
        let outcome = test(&daemon);
        if outcome.is_ok() && daemon.is_cleared() {
            *spare = Some(daemon);
        } else {
            daemon.unload();
        }
        outcome
    }

    /// Ends all agents; whether the daemon lives and has none any more.
    fn is_cleared(&self) -> bool {
        let Ok(root) = self.cgroup_root() else { return false };
        let started = Instant::now();
        while started.elapsed() < TOLD {
            end_all_in(&root);
            match self.json(&["agents"]) {
                Ok(agents) if agents.as_array().is_some_and(Vec::is_empty) => return true,
                Ok(_) => thread::sleep(Duration::from_millis(50)),
                Err(_) => return false,
            }
        }
        false
    }

    /// Ends the daemons that tests have shared.
    pub fn end_shared() {
        if let Some(Ok(daemon)) = SHARED.get() {
            daemon.unload();
        }
        if let Some(daemon) = SPARE.lock().ok().and_then(|mut spare| spare.take()) {
            daemon.unload();
        }
    }

    /// A daemon whose places bear `name`.
    ///
    /// # Errors
    ///
    /// When it is not ready in time.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_with(name, &[])
    }

    /// [`Self::start`] with more flags.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`].
    pub fn start_with(name: &str, flags: &[&str]) -> Result<Self> {
        let folder = PathBuf::from(format!("/run/enforcer-e2e-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut daemon = Self { name: name.to_owned(), folder, flags, child: Mutex::new(None), lsm: false };
        daemon.begin()?;
        daemon.lsm = daemon.json(&["status"])?["lsm"] == true;
        Ok(daemon)
    }

    /// Starts the process, and waits until it answers.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`].
    pub fn begin(&self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log"))?;
        let child = Command::new("enforcer")
            .arg("daemon")
            .args(self.places()?)
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *self.child.lock().map_err(|_| "the lock of the child is broken")? = Some(child);
        let started = Instant::now();
        while started.elapsed() < READY {
            if self.cli(&["status"])?.status.success() {
                return Ok(());
            }
            if let Some(child) = self.child.lock().map_err(|_| "the lock of the child is broken")?.as_mut()
                && let Some(status) = child.try_wait()?
            {
                return Err(format!("the daemon ended with {status}:\n{}", self.log()).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the daemon is not ready after {READY:?}:\n{}", self.log()).into())
    }

    /// The flags that name its places.
    fn places(&self) -> Result<Vec<String>> {
        let at = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        Ok(vec![
            at("bpffs", &self.pins()),
            at("cgroup-root", &self.cgroup_root()?),
            at("socket", &self.socket()),
            at("agents-socket", &self.agents_socket()),
            at("state", &self.state()),
            at("policies", &self.folder.join("policies")),
            at("events", &self.events_file()),
        ])
    }

    /// The process, which is to be alive.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn pid(&self) -> Result<u32> {
        let child = self.child.lock().map_err(|_| "the lock of the child is broken")?;
        Ok(child.as_ref().ok_or("the daemon is not running")?.id())
    }

    /// Where names and numbers are kept.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The cgroup of all agents.
    ///
    /// # Errors
    ///
    /// When cgroup v2 is not mounted.
    pub fn cgroup_root(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(cgroup_mount()?).join(format!("e2e-{}", self.name)))
    }

    /// Kills the process with SIGKILL. What is pinned stays.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().map_err(|_| "the lock of the child is broken")?;
        let mut child = child.take().ok_or("the daemon is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Detaches and removes everything, with all agents.
    pub fn unload(&self) {
        let root = self.cgroup_root();
        if let Ok(root) = &root {
            end_all_in(root);
        }
        let _ = self.cli(&["unload", "--force"]);
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.folder);
        // What an unload by force leaves behind.
        if let Ok(root) = &root {
            for folder in fs::read_dir(root).into_iter().flatten().filter_map(Result::ok) {
                let _ = fs::remove_dir(folder.path());
            }
            let _ = fs::remove_dir(root);
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Where the pins are.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        format!("/sys/fs/bpf/e2e-{}", self.name).into()
    }

    /// The socket at which agents ask.
    #[must_use]
    pub fn agents_socket(&self) -> PathBuf {
        self.folder.join("agents.sock")
    }

    /// The socket that is not for agents.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.socket()
    }

    /// The file that events are written to.
    #[must_use]
    pub fn events_file(&self) -> PathBuf {
        self.folder.join("events.jsonl")
    }

    /// What the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The end of what the daemon has logged.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
        format!("daemon `{}`:\n{}", self.name, last.join("\n"))
    }

    /// A command that talks to this daemon.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("enforcer");
        command.args(arguments).env("ENFORCER_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// What a command prints with `--json`.
    ///
    /// # Errors
    ///
    /// When it fails, or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.cli(&[arguments, &["--json"]].concat())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("enforcer {arguments:?}: {}: {said}", output.status).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// An agent that has not run yet, under a policy of its own.
    ///
    /// # Errors
    ///
    /// When the policy cannot be written.
    pub fn agent(&self, policy: &str) -> Result<Agent<'_>> {
        let name = format!("t{}", AGENTS.fetch_add(1, Ordering::Relaxed));
        let file = self.folder.join(format!("{name}.toml"));
        fs::write(&file, policy)?;
        Ok(Agent { daemon: self, name, policy: file })
    }

    /// The requests that wait.
    ///
    /// # Errors
    ///
    /// As for [`Self::json`].
    pub fn pending(&self) -> Result<Vec<Value>> {
        match self.json(&["approvals", "list"])? {
            Value::Array(requests) => Ok(requests),
            other => Err(format!("not a list: {other}").into()),
        }
    }

    /// Answers a request by a word of `enforcer approvals`.
    ///
    /// # Errors
    ///
    /// When it cannot be answered.
    pub fn answer(&self, request: &Value, word: &str) -> Result<()> {
        let id = request["id"].as_str().ok_or("a request without an id")?;
        let output = self.cli(&["approvals", word, id])?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
    }

    /// The request of an agent, once it is there.
    ///
    /// # Errors
    ///
    /// When none is there in time.
    pub fn request_of(&self, agent: &str) -> Result<Value> {
        let started = Instant::now();
        while started.elapsed() < TOLD {
            if let Some(request) = self.pending()?.into_iter().find(|request| request["agent"] == agent) {
                return Ok(request);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("no request of `{agent}` waits: {:?}", self.pending()?).into())
    }
}

/// A policy by its rules: everything else is allowed, and every decision is told.
#[must_use]
pub fn policy(rules: &str) -> String {
    format!(
        "version = 1\nname = \"test\"\nlog = \"all\"\n[default]\nnetwork = \"allow\"\nfiles = \"allow\"\nexec = \"allow\"\n{rules}"
    )
}

/// An agent by its name, which may run several times.
#[derive(Debug)]
pub struct Agent<'d> {
    /// Who governs it.
    pub daemon: &'d Daemon,
    /// Its name.
    pub name: String,
    policy: PathBuf,
}

impl Agent<'_> {
    /// The file with its policy.
    #[must_use]
    pub fn policy(&self) -> &Path {
        &self.policy
    }

    /// `enforcer run` with a command of the agent's.
    #[must_use]
    pub fn command(&self, command: &[&str]) -> Command {
        let mut run = self.daemon.command(&["run", "--policy"]);
        run.arg(&self.policy).args(["--agent", &self.name, "--"]).args(command);
        run
    }

    /// Runs a command of the agent's to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn run(&self, command: &[&str]) -> Result<Output> {
        Ok(self.command(command).output()?)
    }

    /// Has the actor act; a line of what came of each action.
    ///
    /// # Errors
    ///
    /// When the actor did not come to its end.
    pub fn act(&self, actions: &[&str]) -> Result<Vec<String>> {
        lines(&self.run(&[&["actor"], actions].concat())?)
    }

    /// Starts the actor as a process that stays in the middle of its actions: each is given by [`Acting::act`].
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(&self) -> Result<Acting> {
        let mut child = self
            .command(&["actor", "follow"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        Ok(Acting { child, output: std::io::BufReader::new(output) })
    }

    /// Everything that helps to see why a test failed: the agent, its events, and the daemon's last words.
    #[must_use]
    pub fn state(&self) -> String {
        let agents = self.daemon.json(&["agents"]).unwrap_or_default();
        let agents = agents.as_array().into_iter().flatten();
        let own: Vec<_> = agents.filter(|agent| agent["agent"] == self.name.as_str()).collect();
        let events = self.events(|_| true).unwrap_or_default();
        let events: Vec<_> = events.iter().map(ToString::to_string).collect();
        format!("agent: {own:?}\nevents:\n{}\n{}", events.join("\n"), self.daemon.last_words())
    }

    /// Decisions of the agent so far by verdict and by rule, as `enforcer agents` counts them. It must be running.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn counts(&self) -> Result<Value> {
        let agents = self.daemon.json(&["agents"])?;
        let own = agents.as_array().into_iter().flatten().find(|agent| agent["agent"] == self.name.as_str());
        Ok(own.ok_or_else(|| format!("no agent `{}` in {agents}", self.name))?.clone())
    }

    /// The events of the agent so far, without those of the actor's own start: what `about` says is to be seen.
    ///
    /// # Errors
    ///
    /// When the file of events cannot be read.
    pub fn events(&self, about: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.daemon.events_file()).unwrap_or_default();
        let mut events = Vec::new();
        // The last line may be in the middle of being written.
        let (text, _) = text.rsplit_once('\n').unwrap_or_default();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            if event["agent"] == self.name.as_str() && about(&event) {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// The events of the agent, when there are as many as expected; more than that fails too, a moment later.
    ///
    /// # Errors
    ///
    /// When there are not, in time.
    pub fn expect_events(&self, expected: usize, about: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let started = Instant::now();
        loop {
            let events = self.events(&about)?;
            if events.len() >= expected || started.elapsed() > TOLD {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        // What is tentative is held back for a quarter of a second.
        thread::sleep(Duration::from_millis(400));
        let events = self.events(&about)?;
        if events.len() == expected {
            return Ok(events);
        }
        Err(format!("{} events instead of {expected}\n{}", events.len(), self.state()).into())
    }
}

/// An actor that waits for its next action.
#[derive(Debug)]
pub struct Acting {
    /// `enforcer run`.
    pub child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Acting {
    /// Has it act once; what came of it.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn act(&mut self, action: &str) -> Result<String> {
        self.begin(action)?;
        self.came()
    }

    /// Has it begin to act, which may take until somebody answers.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn begin(&mut self, action: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{action}")?;
        Ok(input.flush()?)
    }

    /// What came of the action that it began.
    ///
    /// # Errors
    ///
    /// As for [`Self::act`].
    pub fn came(&mut self) -> Result<String> {
        use std::io::BufRead as _;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("the actor ended: {:?}", self.child.try_wait()?).into());
        }
        Ok(line.trim().to_owned())
    }

    /// Lets it end.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // After a failure it may be held, and nobody answers any more.
        let started = Instant::now();
        while started.elapsed() < TOLD {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The actor outside governance; a line of what came of each action.
///
/// # Errors
///
/// When the actor did not come to its end.
pub fn ungoverned(actions: &[&str]) -> Result<Vec<String>> {
    lines(&Command::new("actor").args(actions).stdin(Stdio::null()).output()?)
}

fn lines(output: &Output) -> Result<Vec<String>> {
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the actor: {}: {said}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout.clone())?.lines().map(str::to_owned).collect())
}

/// Ends all processes in a cgroup, whatever holds them.
pub fn end_all_in(folder: &Path) {
    let _ = fs::write(folder.join("cgroup.kill"), "1");
    let _ = fs::write(folder.join("cgroup.freeze"), "0");
}

/// Where cgroup v2 is mounted.
///
/// # Errors
///
/// When it is not.
pub fn cgroup_mount() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .find(|mount| mount.contains(" - cgroup2 "))
        .and_then(|mount| mount.split(' ').nth(4))
        .map(str::to_owned)
        .ok_or_else(|| "cgroup v2 is not mounted".into())
}

/// A TCP server that sends its name to whoever connects.
#[derive(Debug)]
pub struct TcpServer {
    /// Where it listens.
    pub at: SocketAddr,
    /// How many have connected.
    pub met: Arc<AtomicUsize>,
}

impl TcpServer {
    /// Listens on a free port of `address`.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn start(address: &str, name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let (at, met) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&met);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(name.as_bytes());
                thread::spawn(move || {
                    let _ = stream.read(&mut [0; 64]);
                });
            }
        });
        Ok(Self { at, met })
    }

    /// How many have connected, after a moment for those that just did.
    #[must_use]
    pub fn met(&self) -> usize {
        thread::sleep(Duration::from_millis(100));
        self.met.load(Ordering::SeqCst)
    }
}

/// A UDP server that answers each datagram with its name.
#[derive(Debug)]
pub struct UdpServer {
    /// Where it listens.
    pub at: SocketAddr,
    /// How many datagrams have come.
    pub met: Arc<AtomicUsize>,
}

impl UdpServer {
    /// Listens on a free port of `address`.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn start(address: &str, name: &'static str) -> Result<Self> {
        let socket = UdpSocket::bind((address, 0))?;
        let (at, met) = (socket.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&met);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
        Ok(Self { at, met })
    }

    /// How many datagrams have come, after a moment for those that were just sent.
    #[must_use]
    pub fn met(&self) -> usize {
        thread::sleep(Duration::from_millis(100));
        self.met.load(Ordering::SeqCst)
    }
}
