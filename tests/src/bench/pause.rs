//! `pause`: how long until a thread that waits is frozen, until its call returns after the answer, and what a turn costs.
//!
//! The whole of Enforcer, natively: the daemon, its socket, and an agent that sends datagrams. There is no peer to stand
//! beside: nothing else holds one thread. The baseline of a turn is the same datagram without a pause.
#![allow(clippy::indexing_slicing, reason = "a JSON value gives null for what it does not have")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail};
use aya::sys::{Stats, enable_stats};
use enforcer_tests::harness::{self, Agent, Daemon, policy};
use serde_json::Value;

use crate::report::{figure, goal, kernel, percentile, say, table};

/// Pauses of each kind.
const PAUSES: usize = 200;
/// Long enough for a released thread to go back to where it lives.
const REST: Duration = Duration::from_millis(300);
/// What may take as long has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits for a token, each of a millisecond.
const WAITS: u64 = 1000;
/// The hook's program.
const PROGRAM: &str = "cg_sendmsg4";
/// Nobody listens there; a datagram goes out all the same.
const TARGET: &str = "127.0.0.7:20000";

/// Figures of some pauses, in milliseconds.
#[derive(Default)]
struct Pauses {
    frozen: Vec<f64>,
    returned: Vec<f64>,
}

pub(crate) fn run() -> Result<()> {
    let daemon = Daemon::start("bench-pause").map_err(failed)?;
    let outcome = measure(&daemon);
    daemon.unload();
    outcome
}

fn failed(error: harness::Error) -> anyhow::Error {
    anyhow!(error)
}

fn measure(daemon: &Daemon) -> Result<()> {
    println!("pause, natively, kernel {}: {PAUSES} pauses of each kind, in milliseconds.\n", kernel());
    let rule = "[[network]]\nname = \"ask\"\naction = \"escalate\"\nto = [\"127.0.0.7\"]\ntimeout = \"1h\"\n";
    let agent = daemon.agent(&policy(rule)).map_err(failed)?;
    let mut sender = Sender::start(&agent)?;
    say("pauses with a rest between them");
    let rested = pauses(&agent, &mut sender, REST)?;
    say("pauses that follow one another");
    let following = pauses(&agent, &mut sender, Duration::ZERO)?;
    let row = |name: &str, figures: &[f64]| {
        let at = |share| figure(percentile(figures.to_vec(), share));
        vec![name.to_owned(), at(0.5), at(0.99)]
    };
    table(
        &["what", "p50", "p99"],
        &[
            row("request to frozen, after a rest", &rested.frozen),
            row("request to frozen, one after another", &following.frozen),
            row("answer to return, after a rest", &rested.returned),
            row("answer to return, one after another", &following.returned),
        ],
    );
    turns(daemon)?;
    let median = |figures: &[f64]| percentile(figures.to_vec(), 0.5);
    let last = |figures: &[f64]| percentile(figures.to_vec(), 0.99);
    goal("request to frozen, p99, ms", last(&rested.frozen), 25.0);
    goal("request to frozen, one after another, p99, ms", last(&following.frozen), 0.3);
    goal("answer to return, median, ms", median(&rested.returned), 1.0);
    goal("answer to return, p99, ms", last(&rested.returned), 5.0);
    println!();
    Ok(())
}

/// Has a datagram wait, sees the thread freeze, and answers, again and again.
fn pauses(agent: &Agent<'_>, sender: &mut Sender, rest: Duration) -> Result<Pauses> {
    let mut pauses = Pauses::default();
    let own = agent.counts().map_err(failed)?;
    let leaf = PathBuf::from(own["cgroup"].as_str().context("the agent's cgroup")?);
    let events = leaf.join(format!("enforcer-hold-{}", sender.thread)).join("cgroup.events");
    for _ in 0..PAUSES {
        thread::sleep(rest);
        sender.begin("1")?;
        let frozen = until_frozen(&events)?;
        let request = pending(agent)?;
        let answered = now();
        post(&agent.daemon.control_socket(), &format!("/approvals/{request}/approve"))?;
        let sent = sender.came()?;
        pauses.frozen.push(frozen.saturating_sub(sent.began) as f64 / 1e6);
        pauses.returned.push(sent.ended.saturating_sub(answered) as f64 / 1e6);
    }
    Ok(pauses)
}

/// When the cgroup was seen frozen. It is looked at all the time: a sleep would be part of the figure.
fn until_frozen(events: &Path) -> Result<u64> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if fs::read_to_string(events).is_ok_and(|events| events.contains("frozen 1")) {
            return Ok(now());
        }
        thread::yield_now();
    }
    bail!("nobody is frozen: without BPF LSM a datagram pauses from Linux 6.18 on")
}

/// The request that waits.
fn pending(agent: &Agent<'_>) -> Result<String> {
    let request = agent.daemon.request_of(&agent.name).map_err(failed)?;
    Ok(request["id"].as_str().context("a request without an id")?.to_owned())
}

/// Posts an empty object, by hand: a process for each answer would be most of the figure.
fn post(socket: &Path, path: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("the daemon's socket")?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: enforcer\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
         connection: close\r\n\r\n{{}}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { bail!("{path}: {answer}") }
}

/// What a turn costs: waits for tokens that come too soon for a freeze to pay.
fn turns(daemon: &Daemon) -> Result<()> {
    say("turns");
    let rule = "[[network]]\nname = \"slow\"\naction = \"throttle\"\nto = [\"127.0.0.7\"]\nrate = \"1000/s\"\n\
                burst = 1\non_exceed = \"pause\"\n";
    let paused = daemon.agent(&policy(rule)).map_err(failed)?;
    let free = daemon.agent(&policy("")).map_err(failed)?;
    let statistics = enable_stats(Stats::RunTime).context("enable the kernel's statistics")?;
    let mut rows = Vec::new();
    for (name, agent) in [("not paused", &free), ("paused for a millisecond each", &paused)] {
        let mut sender = Sender::start(agent)?;
        let before = runs(daemon)?;
        sender.begin(&WAITS.to_string())?;
        let sent = sender.came()?;
        let runs = runs(daemon)? - before;
        let each = |figure: u64| figure as f64 / runs.max(1) as f64;
        rows.push(vec![
            name.to_owned(),
            figure((sent.ended - sent.began) as f64 / 1e6),
            runs.to_string(),
            figure(each(sent.processor) / 1e3),
        ]);
    }
    drop(statistics);
    println!("{WAITS} datagrams, each of which runs the hook once, and once more for each turn:\n");
    table(&["datagrams", "took, ms", "runs of the hook", "processor time of a run, µs"], &rows);
    Ok(())
}

/// How often the hook has run.
fn runs(daemon: &Daemon) -> Result<u64> {
    let status = daemon.json(&["status"]).map_err(failed)?;
    let programs = status["programs"].as_array().context("no programs")?;
    let own = programs.iter().find(|program| program["program"] == PROGRAM);
    own.and_then(|program| program["runs"].as_u64()).with_context(|| format!("no runs of `{PROGRAM}`"))
}

/// What came of some datagrams: when the first began and the last ended, in nanoseconds since boot, and for how many the
/// sender had a processor.
struct Sent {
    began: u64,
    ended: u64,
    processor: u64,
}

/// A process of an agent that sends datagrams when it is told to.
struct Sender {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The number of its only thread.
    thread: u32,
}

impl Sender {
    fn start(agent: &Agent<'_>) -> Result<Self> {
        let myself = std::env::current_exe().context("find this program")?.display().to_string();
        let mut command = agent.command(&[&myself, "pause-sender"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the sender")?;
        let (orders, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(orders), Some(answers)) = (orders, answers) else { bail!("the sender has no pipes") };
        let mut sender = Self { child, orders, answers: BufReader::new(answers), thread: 0 };
        sender.thread = sender.line()?.parse().context("the sender's number")?;
        Ok(sender)
    }

    fn begin(&mut self, count: &str) -> Result<()> {
        writeln!(self.orders, "{count}").context("tell the sender")
    }

    fn came(&mut self) -> Result<Sent> {
        let line = self.line()?;
        let [began, ended, processor] = serde_json::from_str(&line).with_context(|| line.clone())?;
        Ok(Sent { began, ended, processor })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hear the sender")?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sender itself: sends as many datagrams as each line says.
pub(crate) fn sender() -> Result<()> {
    println!("{}", std::process::id());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    for line in std::io::stdin().lock().lines() {
        let count: u64 = line?.parse().context("a number")?;
        let (began, processor) = (now(), clock(libc::CLOCK_PROCESS_CPUTIME_ID));
        for _ in 0..count {
            socket.send_to(b"hello", TARGET)?;
        }
        let (ended, spent) = (now(), clock(libc::CLOCK_PROCESS_CPUTIME_ID) - processor);
        println!("{}", Value::from(vec![began, ended, spent]));
    }
    Ok(())
}

/// Nanoseconds since boot.
fn now() -> u64 {
    clock(libc::CLOCK_BOOTTIME)
}

/// What a clock says, in nanoseconds.
pub(crate) fn clock(which: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the time; the clock is always there.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
