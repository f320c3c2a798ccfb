//! The pause: a call waits for its answer, nobody around it notices, and the same call goes on.
//!
//! What these tests hold are network actions, so that they run wherever the kernel lets a cgroup program pause; files and
//! programs are in `held.rs`.

pub(crate) mod answering;
mod crowd;
mod places;
mod rates;
mod seen;
mod signals;
mod tables;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Acting, Agent, Daemon, TcpServer, UdpServer, policy};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    governed::eventually,
    replace::apply_well,
    trial::{Outcome, PASS, equal, skip, with_spare},
};

/// A trial for kernels on which an action on the network pauses.
fn trial(name: &'static str, test: impl Fn() -> Outcome + Send + 'static) -> Trial {
    crate::trial::trial(name, move || if pauses()? { test() } else { skip(NO_PAUSE) })
}

const NO_PAUSE: &str = "without BPF LSM a connect pauses from 6.18 on";

/// Whether the kernel has either.
fn pauses() -> Result<bool, Failed> {
    let release = nix::sys::utsname::uname()?;
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(Daemon::shared()?.lsm || version >= (6, 18))
}

pub(crate) fn trials() -> Vec<Trial> {
    let own = vec![
        trial("pause::a_connect_waits_and_goes_on", || connects("127.0.0.1")),
        trial("pause::a_v6_connect_waits_and_goes_on", || connects("::1")),
        trial("pause::a_datagram_waits_and_goes_on", || datagrams("127.0.0.1")),
        trial("pause::a_v6_datagram_waits_and_goes_on", || datagrams("::1")),
        trial("pause::a_rejected_call_fails", rejected),
        trial("pause::a_call_that_nobody_answers_fails", timed_out),
        trial("pause::a_wait_makes_one_event_and_takes_one_use", one_event),
        trial("pause::equal_calls_wait_for_one_answer", equal_calls),
        trial("pause::a_remembered_answer_lets_the_next_pass", remembered),
        trial("pause::an_answer_that_is_used_up_lets_nobody_else_pass", used_up),
        trial("pause::an_answer_to_a_rule_that_has_changed_lets_nobody_pass", changed),
        trial("pause::an_answer_that_has_expired_lets_nobody_pass", expired),
        trial("pause::a_new_policy_decides_a_call_that_waits", replaced),
        trial("pause::a_frozen_agent_keeps_what_it_asked_for", frozen_agent),
        trial("pause::what_came_due_without_a_daemon_is_refused", overdue),
        trial("pause::a_call_that_ends_before_its_thread_is_frozen_is_held_for_nobody", ended),
        trial("pause::the_request_tells_who_waits", told),
        trial("pause::the_request_tells_of_a_program_whose_first_thread_has_ended", leaderless),
        trial("pause::what_refuses_is_held_for_nobody", refuses),
        trial("pause::many_datagrams_in_one_call_are_refused_and_held", datagrams_in_one_call),
    ];
    [own, places::trials(), rates::trials(), seen::trials(), signals::trials(), crowd::trials()]
        .into_iter()
        .flatten()
        .collect()
}

/// A rule that asks for a port.
fn ask(port: u16, more: &str) -> String {
    format!("[[network]]\nname = \"ask\"\naction = \"escalate\"\nports = [{port}]\n{more}\n")
}

/// An agent that has to ask for a port.
fn asking<'d>(daemon: &'d Daemon, port: u16, more: &str) -> Result<Agent<'d>, Failed> {
    Ok(daemon.agent(&policy(&ask(port, more)))?)
}

/// An agent whose call to a server waits: it is there, acts, has asked, and its thread is frozen.
fn waiting<'d>(
    daemon: &'d Daemon,
    server: &TcpServer,
    more: &str,
) -> Result<(Agent<'d>, Acting, Value), Failed> {
    let agent = asking(daemon, server.at.port(), more)?;
    let mut acting = agent.start()?;
    acting.begin(&format!("talk {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    Ok((agent, acting, request))
}

/// The same with a program of the folder `pause`, which is given the server's port, and `more` behind it.
fn held<'d>(
    daemon: &'d Daemon,
    server: &TcpServer,
    text: &str,
    more: &[&str],
) -> Result<(Agent<'d>, Child, Value), Failed> {
    let agent = asking(daemon, server.at.port(), "")?;
    let port = server.at.port().to_string();
    let child = program(&agent, text, &[&[port.as_str()], more].concat())?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    Ok((agent, child, request))
}

/// The process of the first thread that waits for an answer.
fn pid_of(daemon: &Daemon, request: &Value) -> Result<String, Failed> {
    let id = request["id"].as_str().ok_or("a request without an id")?;
    Ok(daemon.json(&["approvals", "show", id])?["waits"][0]["pid"].to_string())
}

/// What `/proc/PID/stat` has after the name, which may have anything in it: the state first, which is the third field of
/// proc(5).
fn stat(pid: &str) -> Result<Vec<String>, Failed> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit(") ").next().unwrap_or_default().split(' ').map(str::to_owned).collect())
}

/// The folder of an agent's cgroup, once the agent is there.
fn cgroup(agent: &Agent<'_>) -> Result<PathBuf, Failed> {
    let own = eventually("the agent", || Ok(agent.counts().ok()))?;
    Ok(PathBuf::from(own["cgroup"].as_str().ok_or("no cgroup")?))
}

/// The cgroups below a folder that threads are held in.
fn holds(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("enforcer-hold-")).collect()
}

/// Waits until nothing is left of a hold.
fn all_gone(agent: &Agent<'_>) -> Result<(), Failed> {
    let folder = cgroup(agent)?;
    eventually("the holds go", || Ok(holds(&folder).is_empty().then_some(())))?;
    eventually("nobody waits", || {
        Ok((own_requests(agent)?.is_empty() && agent.counts()?["held"] == 0).then_some(()))
    })
}

/// Waits until as many threads of the agent are held, each in a cgroup that is frozen.
fn frozen(agent: &Agent<'_>, count: usize) -> Result<(), Failed> {
    let folder = cgroup(agent)?;
    eventually("frozen", || Ok((count_frozen(&folder) == count).then_some(())))
}

/// How many of the cgroups below a folder in which threads are held are frozen.
pub(crate) fn count_frozen(folder: &std::path::Path) -> usize {
    let frozen = |name: &String| {
        let events = fs::read_to_string(folder.join(name).join("cgroup.events")).unwrap_or_default();
        // An empty one is frozen as well.
        events.contains("frozen 1") && events.contains("populated 1")
    };
    holds(folder).iter().filter(|name| frozen(name)).count()
}

fn connects(address: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start(address, "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "")?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    equal(&server.met(), &1)?;
    all_gone(&agent)?;
    acting.end()?;
    Ok(PASS)
}

fn datagrams(address: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let server = UdpServer::start(address, "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    acting.begin(&format!("ask {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, &format!("{} open", server.at))?;
    equal(&server.met(), &1)?;
    all_gone(&agent)?;
    Ok(PASS)
}

fn rejected() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    acting.begin(&format!("talk {}", server.at))?;
    daemon.answer(&daemon.request_of(&agent.name)?, "reject")?;
    equal(&acting.came()?, "EPERM")?;
    equal(&server.met(), &0)?;
    all_gone(&agent)?;
    acting.end()?;
    let server = UdpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    acting.begin(&format!("ask {}", server.at))?;
    daemon.answer(&daemon.request_of(&agent.name)?, "reject")?;
    equal(&acting.came()?, "EPERM")?;
    // Loopback delivers within the call: it would be there.
    equal(&server.met(), &0)?;
    all_gone(&agent)?;
    Ok(PASS)
}

fn timed_out() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let datagrams = UdpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, datagrams.at.port(), "timeout = \"2s\"")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&format!("ask {}", datagrams.at))?, "EPERM")?;
    equal(&datagrams.met(), &0)?;
    all_gone(&agent)?;
    acting.end()?;
    for (on_timeout, came) in [("block", "EPERM"), ("allow", "open")] {
        let keys = format!("timeout = \"2s\"\non_timeout = \"{on_timeout}\"");
        let agent = asking(daemon, server.at.port(), &keys)?;
        let mut acting = agent.start()?;
        let started = Instant::now();
        equal(&acting.act(&format!("talk {}", server.at))?, came)?;
        equal(&(started.elapsed() >= Duration::from_secs(2)), &true)?;
        all_gone(&agent)?;
    }
    equal(&server.met(), &1)?;
    Ok(PASS)
}

fn one_event() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    acting.begin(&format!("talk {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    thread::sleep(Duration::from_millis(500));
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    // The use is used up: the next one asks again.
    acting.begin(&format!("talk {}", server.at))?;
    daemon.answer(&daemon.request_of(&agent.name)?, "reject")?;
    equal(&acting.came()?, "EPERM")?;
    let events = agent.expect_events(4, |event| event["port"] == server.at.port())?;
    let verdicts: Vec<_> = events.iter().map(|event| event["verdict"].as_str().unwrap_or_default()).collect();
    equal(&verdicts, &["escalate", "allow", "escalate", "block"])?;
    let decided = &agent.counts()?["rules"];
    let own = decided.as_array().into_iter().flatten().find(|rule| rule["rule"] == "ask");
    let counts = &own.ok_or_else(|| format!("no counts in {decided}"))?["counts"];
    equal(&[&counts["escalate"], &counts["allow"], &counts["block"]], &[2, 1, 1])?;
    Ok(PASS)
}

fn equal_calls() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let child = program(&agent, include_str!("pause/equal.py"), &[&server.at.port().to_string()])?;
    daemon.request_of(&agent.name)?;
    frozen(&agent, 3)?;
    let own = own_requests(&agent)?;
    equal(&own.len(), &1).map_err(|_| format!("{own:?}"))?;
    equal(&server.met(), &0)?;
    daemon.answer(&own[0], "approve")?;
    equal(&output(child)?, "open open open")?;
    equal(&server.met(), &3)?;
    Ok(PASS)
}

fn remembered() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "remember = \"1h\"")?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    acting.begin(&talk)?;
    daemon.answer(&daemon.request_of(&agent.name)?, "approve")?;
    equal(&acting.came()?, "open")?;
    equal(&acting.act(&talk)?, "open")?;
    Ok(PASS)
}

/// Three wait for what is allowed once: one goes on, the others ask again.
fn used_up() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let child = program(&agent, include_str!("pause/equal.py"), &[&server.at.port().to_string()])?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 3)?;
    let answer = ["approvals", "approve", request["id"].as_str().unwrap_or_default(), "--uses", "1"];
    equal(&daemon.cli(&answer)?.status.success(), &true)?;
    let again = eventually("the others ask again", || {
        let mut own = own_requests(&agent)?;
        own.retain(|request| request["waits"].as_array().is_some_and(|waits| waits.len() == 2));
        Ok(own.pop())
    })?;
    frozen(&agent, 2)?;
    equal(&server.met(), &1)?;
    daemon.answer(&again, "reject")?;
    let said = output(child)?;
    let mut came: Vec<_> = said.split(' ').collect();
    came.sort_unstable();
    equal(&came, &["1", "1", "open"])?;
    equal(&server.met(), &1)?;
    Ok(PASS)
}

/// The policy is replaced by one whose rule asks as well, but is another: it is asked for anew, and an answer to the first
/// lets nobody pass.
fn changed() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, first) = waiting(daemon, &server, "timeout = \"1h\"")?;
    apply_well(&agent, &policy(&ask(server.at.port(), "timeout = \"2h\"")))?;
    // It may have been dropped by then.
    let _ = daemon.answer(&first, "approve");
    let second = eventually("it asks again", || {
        Ok(own_requests(&agent)?.into_iter().find(|request| request["id"] != first["id"]))
    })?;
    frozen(&agent, 1)?;
    equal(&server.met(), &0)?;
    daemon.answer(&second, "reject")?;
    equal(&acting.came()?, "EPERM")?;
    equal(&server.met(), &0)?;
    all_gone(&agent)?;
    acting.end()?;
    Ok(PASS)
}

/// A call that waits is decided by the policy that is in force: at once by a new one.
fn replaced() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let port = server.at.port();
    let block = format!("[[network]]\nname = \"no\"\naction = \"block\"\nports = [{port}]\n");
    for (rules, came) in [("", "open"), (block.as_str(), "EPERM")] {
        let (agent, mut acting, _) = waiting(daemon, &server, "timeout = \"1h\"")?;
        apply_well(&agent, &policy(rules))?;
        equal(&acting.came()?, came)?;
        all_gone(&agent)?;
        acting.end()?;
    }
    equal(&server.met(), &1)?;
    Ok(PASS)
}

/// The red button while a thread is held: the request stays, through a new policy too, and the call goes on once it is
/// answered and the agent goes on.
fn frozen_agent() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "timeout = \"1h\"")?;
    equal(&daemon.cli(&["freeze", &agent.name, "--why", "test"])?.status.success(), &true)?;
    let other = "[[network]]\nname = \"first\"\naction = \"block\"\nports = [9]\n";
    apply_well(&agent, &policy(&format!("{other}{}", ask(server.at.port(), "timeout = \"1h\""))))?;
    // Longer than it takes to forget who does not turn, and to drop what nobody waits for.
    thread::sleep(Duration::from_secs(5));
    equal(&own_requests(&agent)?.len(), &1)?;
    daemon.answer(&request, "approve")?;
    equal(&server.met(), &0)?;
    equal(&daemon.cli(&["resume", &agent.name, "--why", "test"])?.status.success(), &true)?;
    equal(&acting.came()?, "open")?;
    equal(&server.met(), &1)?;
    all_gone(&agent)?;
    acting.end()?;
    Ok(PASS)
}

/// The answer comes to its end before the thread can use it, since its agent is frozen: it asks anew.
fn expired() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "timeout = \"1h\"")?;
    equal(&daemon.cli(&["freeze", &agent.name, "--why", "test"])?.status.success(), &true)?;
    let id = request["id"].as_str().ok_or("a request without an id")?;
    equal(&daemon.cli(&["approvals", "approve", id, "--for", "1s"])?.status.success(), &true)?;
    thread::sleep(Duration::from_millis(1500));
    equal(&daemon.cli(&["resume", &agent.name, "--why", "test"])?.status.success(), &true)?;
    let again = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    equal(&server.met(), &0)?;
    daemon.answer(&again, "reject")?;
    equal(&acting.came()?, "EPERM")?;
    equal(&server.met(), &0)?;
    Ok(PASS)
}

/// The time runs out while no daemon runs: the next one refuses, whatever the rule says of a time that runs out.
fn overdue() -> Outcome {
    with_spare(|daemon| {
        let server = TcpServer::start("127.0.0.1", "open")?;
        let (agent, mut acting, _) = waiting(daemon, &server, "timeout = \"3s\"\non_timeout = \"allow\"")?;
        daemon.kill()?;
        thread::sleep(Duration::from_secs(4));
        equal(&server.met(), &0)?;
        daemon.begin()?;
        equal(&acting.came()?, "EPERM")?;
        equal(&server.met(), &0)?;
        all_gone(&agent)?;
        acting.end()?;
        Ok(PASS)
    })
}

/// What a thread waited for is gone before it is frozen: it goes on.
fn ended() -> Outcome {
    let daemon = Daemon::shared()?;
    let agent = daemon.agent(&policy(ASK_EACH))?;
    let child = program(&agent, include_str!("pause/ended.py"), &[])?;
    let said = output(child)?;
    let counts: Vec<usize> = said.split(' ').take(2).filter_map(|count| count.parse().ok()).collect();
    equal(&(counts.len() == 2 && counts[0] == 0 && counts[1] > 0), &true).map_err(|_| said.clone())?;
    Ok(PASS)
}

/// What the wait of the one thread became that waits for an answer, once it is held.
fn held_as(daemon: &Daemon, request: &Value) -> Result<String, Failed> {
    let id = request["id"].as_str().ok_or("a request without an id")?;
    eventually("held", || {
        let shown = daemon.json(&["approvals", "show", id])?;
        let held = shown["waits"][0]["held"].as_str().unwrap_or_default().to_owned();
        Ok((held != "turning" && !held.is_empty()).then_some(held))
    })
}

fn told() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "message = \"Ask before you connect.\"")?;
    let mut acting = agent.start()?;
    let pid = acting.act("pid")?;
    acting.begin(&format!("talk {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    equal(&held_as(daemon, &request)?, "thread")?;
    let id = request["id"].as_str().ok_or("a request without an id")?;
    let shown = daemon.json(&["approvals", "show", id])?;
    let all = shown.to_string();
    let waiting = &shown["waits"][0];
    equal(&waiting["pid"].to_string(), &pid).map_err(|_| all.clone())?;
    for (key, expected) in [("rule", "ask"), ("message", "Ask before you connect."), ("action", "connect")] {
        equal(&shown[key], expected).map_err(|_| all.clone())?;
    }
    let program = shown["program"].as_str().unwrap_or_default();
    equal(&program.ends_with("actor"), &true).map_err(|_| all.clone())?;
    let arguments: Vec<_> = shown["arguments"].as_array().into_iter().flatten().cloned().collect();
    equal(&(arguments.len() == 2 && arguments[1] == "follow"), &true).map_err(|_| all.clone())?;
    let directory = fs::read_link(format!("/proc/{pid}/cwd"))?.display().to_string();
    equal(&shown["directory"], directory.as_str()).map_err(|_| all.clone())?;
    equal(&shown["on_timeout"], "block").map_err(|_| all.clone())?;
    for time in ["since", "deadline"] {
        equal(&shown[time].as_str().is_some_and(|time| time.starts_with("20")), &true)
            .map_err(|_| all.clone())?;
    }
    let text = daemon.cli(&["approvals", "show", id])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let at = server.at.to_string();
    let words = [
        agent.name.as_str(),
        "actor follow",
        "Ask before you connect.",
        &at,
        "s ago\n",
        "block at ",
        ", in ",
    ];
    for word in words {
        equal(&text.contains(word), &true).map_err(|_| format!("no `{word}` in\n{text}"))?;
    }
    equal(&agent.counts()?["held"], &Value::from(1))?;
    daemon.answer(&request, "reject")?;
    equal(&acting.came()?, "EPERM")?;
    Ok(PASS)
}

/// A program whose first thread has ended while another one waits.
fn leaderless() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (_, child, request) = held(daemon, &server, include_str!("pause/leaderless.py"), &[])?;
    let shown = daemon.json(&["approvals", "show", request["id"].as_str().unwrap_or_default()])?;
    let path = shown["program"].as_str().unwrap_or_default();
    equal(&path.contains("python3"), &true).map_err(|_| shown.to_string())?;
    equal(&shown["arguments"][1], "-c").map_err(|_| shown.to_string())?;
    equal(&shown["directory"].is_string(), &true).map_err(|_| shown.to_string())?;
    daemon.answer(&request, "approve")?;
    equal(&output(child)?, "open")?;
    Ok(PASS)
}

fn refuses() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "hold = \"refuse\"")?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    equal(&acting.act(&talk)?, "EAGAIN")?;
    // Nobody waits for it, and it stays all the same.
    thread::sleep(Duration::from_secs(4));
    daemon.answer(&daemon.request_of(&agent.name)?, "approve")?;
    equal(&acting.act(&talk)?, "open")?;
    Ok(PASS)
}

/// Runs a program of the folder `pause` as an agent that has to ask for the port that it is given.
fn program(agent: &Agent<'_>, text: &str, arguments: &[&str]) -> Result<Child, Failed> {
    let mut command = vec!["python3", "-c", text];
    command.extend(arguments);
    let mut command = agent.command(&command);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn output(child: Child) -> Result<String, Failed> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{}: {said}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Every port is asked for by itself.
const ASK_EACH: &str =
    "[[network]]\nname = \"ask\"\naction = \"escalate\"\nto = [\"127.0.0.7\"]\ntimeout = \"1h\"\n";

/// The requests of an agent that wait.
fn own_requests(agent: &Agent<'_>) -> Result<Vec<Value>, Failed> {
    let mut own = agent.daemon.pending()?;
    own.retain(|request| request["agent"] == agent.name.as_str());
    Ok(own)
}

/// `sendmmsg` says how many datagrams went out, whatever the hook returns, and is told to try again later.
fn datagrams_in_one_call() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = UdpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "remember = \"1h\"")?;
    let mut acting = agent.start()?;
    let send = format!("sendmmsg {} 2", server.at);
    equal(&acting.act(&send)?, "EBUSY")?;
    equal(&server.met(), &0)?;
    daemon.answer(&daemon.request_of(&agent.name)?, "approve")?;
    equal(&acting.act(&send)?, "2")?;
    Ok(PASS)
}
