//! The pause: a call waits for its answer, nobody around it notices, and the same call goes on.
//!
//! What these tests hold are network actions, so that they run wherever the kernel lets a cgroup program pause; files and
//! programs are in `held.rs`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Acting, Agent, Daemon, TcpServer, UdpServer, end_all_in, policy};
use libtest_mimic::{Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    governed::{Context as _, eventually, within},
    replace::apply_well,
    trial::{Outcome, PASS, booted, equal, skip, with_spare},
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
    let mut trials = vec![
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
        trial("pause::a_new_policy_decides_a_call_that_waits", replaced),
        trial("pause::a_frozen_agent_keeps_what_it_asked_for", frozen_agent),
        trial("pause::what_came_due_without_a_daemon_is_refused", overdue),
        trial("pause::a_call_that_ends_before_its_thread_is_frozen_is_held_for_nobody", ended),
        trial("pause::a_process_is_held_where_that_is_asked_for", whole_process),
        trial("pause::the_request_tells_who_waits", told),
        trial("pause::what_refuses_is_held_for_nobody", refuses),
        trial("pause::a_rate_waits_for_its_token", rates),
        trial("pause::other_threads_and_the_parent_see_nothing", witness),
        trial("pause::sigkill_ends_a_held_thread", || ends("KILL")),
        trial("pause::sigterm_ends_a_held_thread", || ends("TERM")),
        trial("pause::stray_sigconts_change_nothing", sigconts),
        trial("pause::blocked_signals_change_nothing", blocked),
        trial("pause::a_cgroup_with_children_holds_the_process", populated),
        trial("pause::threads_of_a_process_that_is_held_as_one_wait_together", together),
        trial("pause::a_cgroup_that_is_made_meanwhile_works", made_meanwhile),
        trial("pause::a_thousand_wait_at_once", many),
        trial("pause::the_next_daemon_answers_who_was_held_and_who_turned", daemons),
        trial("pause::many_datagrams_in_one_call_are_refused_and_held", datagrams_in_one_call),
        trial("pause::a_process_in_a_pid_namespace_is_held", namespace),
        trial("pause::a_shell_with_job_control_sees_nothing", shell),
    ];
    // Emulated, a thousand threads at once are enough.
    if booted().is_none() {
        trials.push(trial("pause::who_asks_beyond_an_agents_share_is_told_to_try_again", share));
    }
    trials
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
        events.contains("frozen 1")
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

/// An agent that asks for more than its share is told to try again, and nobody circles.
fn share() -> Outcome {
    const SHARE: usize = 1024;
    const THREADS: usize = SHARE + 40;
    let daemon = Daemon::shared()?;
    let agent = daemon.agent(&policy(ASK_EACH))?;
    let end = format!("/run/enforcer-e2e-{}-end", agent.name);
    let child = program(&agent, include_str!("pause/share.py"), &[&end, &THREADS.to_string()])?;
    let folder = cgroup(&agent)?;
    eventually("the share is frozen", || Ok((count_frozen(&folder) == SHARE).then_some(())))?;
    // Nothing is asked for any more.
    let asked = || -> Result<Value, Failed> { Ok(agent.counts()?["counts"]["escalate"].clone()) };
    eventually("quiet", || {
        let before = asked()?;
        thread::sleep(Duration::from_secs(1));
        Ok((asked()? == before && own_requests(&agent)?.len() <= SHARE).then_some(()))
    })?;
    fs::write(&end, "")?;
    let said: Value = serde_json::from_str(&output(child)?)?;
    fs::remove_file(&end)?;
    equal(&said["wait"], &Value::from(SHARE)).map_err(|_| said.to_string())?;
    let busy = vec![libc::EBUSY; THREADS - SHARE];
    equal(&said["came"], &Value::from(busy)).map_err(|_| said.to_string())?;
    Ok(PASS)
}

fn whole_process() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "hold = \"process\"")?;
    equal(&held_as(daemon, &request)?, "process")?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    all_gone(&agent)?;
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
    equal(&shown["directory"].is_string(), &true).map_err(|_| all.clone())?;
    let text = daemon.cli(&["approvals", "show", id])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for word in [agent.name.as_str(), "actor follow", "Ask before you connect.", &server.at.to_string()] {
        equal(&text.contains(word), &true).map_err(|_| format!("no `{word}` in\n{text}"))?;
    }
    equal(&agent.counts()?["held"], &Value::from(1))?;
    daemon.answer(&request, "reject")?;
    equal(&acting.came()?, "EPERM")?;
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

fn rates() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let rule = format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{}]\nrate = \"1/1s\"\nburst = 1\non_exceed = \"pause\"\n",
        server.at.port()
    );
    let agent = daemon.agent(&policy(&rule))?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    let started = Instant::now();
    for _ in 0..4 {
        equal(&acting.act(&talk)?, "open")?;
    }
    let took = started.elapsed();
    equal(&(took >= Duration::from_millis(2900)), &true).map_err(|_| format!("{took:?}"))?;
    all_gone(&agent)?;
    acting.end()?;
    let events = agent.expect_events(7, |event| event["port"] == server.at.port())?;
    equal(&events.iter().filter(|event| event["verdict"] == "throttle").count(), &3)?;
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

/// A parent that asks for every change of its child's, whose other threads count, fork and take signals meanwhile.
fn witness() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let child = program(&agent, include_str!("pause/witness.py"), &[&server.at.port().to_string()])?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    thread::sleep(Duration::from_secs(2));
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    let said: Value = serde_json::from_str(&output(child)?)?;
    let all = said.to_string();
    equal(&said["statuses"], &serde_json::json!(["exited 7"])).map_err(|_| all.clone())?;
    equal(&said["sigchld"], &Value::from(1)).map_err(|_| all.clone())?;
    equal(&said["came"], "open").map_err(|_| all.clone())?;
    equal(&said["forked_wrong"], &Value::from(0)).map_err(|_| all.clone())?;
    for what in ["counted", "forked", "alarms"] {
        equal(&(said[what].as_u64().unwrap_or(0) > 10), &true).map_err(|_| format!("{what}: {all}"))?;
    }
    Ok(PASS)
}

/// Another process of the agent lives on.
fn ends(signal: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let line = format!("actor 'talk {}'; echo ended $?; read _", server.at);
    let mut command = agent.command(&["sh", "-c", &line]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    let id = request["id"].as_str().ok_or("a request without an id")?;
    let pid = daemon.json(&["approvals", "show", id])?["waits"][0]["pid"].to_string();
    std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status()?;
    all_gone(&agent)?;
    equal(&server.met(), &0)?;
    drop(child.stdin.take());
    let number = if signal == "KILL" { 137 } else { 143 };
    let said = String::from_utf8_lossy(&child.wait_with_output()?.stdout).trim().to_owned();
    equal(&said, &format!("ended {number}"))?;
    Ok(PASS)
}

fn sigconts() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    let pid = acting.act("pid")?;
    acting.begin(&format!("talk {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    for _ in 0..20 {
        std::process::Command::new("kill").args(["-CONT", &pid]).status()?;
    }
    frozen(&agent, 1)?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    Ok(PASS)
}

/// A program that blocks all signals, and one that ignores SIGCONT.
fn blocked() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    for how in ["block", "ignore"] {
        let agent = asking(daemon, server.at.port(), "")?;
        let child = program(&agent, include_str!("pause/signals.py"), &[&server.at.port().to_string(), how])?;
        let request = daemon.request_of(&agent.name)?;
        frozen(&agent, 1)?;
        daemon.answer(&request, "approve")?;
        equal(&output(child)?, "open")?;
    }
    Ok(PASS)
}

/// The agent has a cgroup of its own with somebody in it: no thread can be held apart there.
fn populated() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    acting.act("pid")?;
    let mut inner = populate(&agent)?;
    acting.begin(&format!("talk {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    equal(&held_as(daemon, &request)?, "process")?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    all_gone(&agent)?;
    inner.kill()?;
    inner.wait()?;
    Ok(PASS)
}

/// Three threads wait where only their process can be held: it is frozen once, and stays so.
fn together() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "hold = \"process\"")?;
    let go = format!("/run/enforcer-e2e-{}-go", agent.name);
    let mut child = program(&agent, include_str!("pause/equal.py"), &[&server.at.port().to_string(), &go])?;
    let mut inner = populate(&agent)?;
    fs::write(&go, "")?;
    let request = daemon.request_of(&agent.name)?;
    equal(&held_as(daemon, &request)?, "process")?;
    let folder = cgroup(&agent)?;
    frozen(&agent, 1)?;
    // A cgroup that was made anew is another one.
    let made = || -> Result<Vec<u64>, Failed> {
        let number = |name: String| Ok(fs::metadata(folder.join(&name)).context(&name)?.ino());
        holds(&folder).into_iter().map(number).collect()
    };
    let before = made()?;
    // An agent that can thaws it, and is frozen there again.
    for hold in holds(&folder) {
        fs::write(folder.join(&hold).join("cgroup.freeze"), "0").context(&hold)?;
    }
    thread::sleep(Duration::from_millis(100));
    frozen(&agent, 1)?;
    thread::sleep(Duration::from_secs(1));
    equal(&made()?, &before)?;
    equal(&count_frozen(&folder), &1)?;
    equal(&server.met(), &0)?;
    // Whoever had not begun to wait when the process was frozen asks for itself.
    while child.try_wait()?.is_none() {
        for request in own_requests(&agent)? {
            daemon.answer(&request, "approve")?;
        }
        thread::sleep(Duration::from_millis(100));
    }
    equal(&output(child)?, "open open open")?;
    fs::remove_file(&go)?;
    inner.kill()?;
    inner.wait()?;
    Ok(PASS)
}

/// Puts a process into a cgroup below that of an agent, which then holds no thread alone.
fn populate(agent: &Agent<'_>) -> Result<Child, Failed> {
    let inner = std::process::Command::new("sleep").arg("60").spawn()?;
    let pid = inner.id().to_string();
    let folder = cgroup(agent)?.join("inner");
    let policy = agent.policy().display().to_string();
    let attached = agent.daemon.cli(&["attach", "--policy", &policy, "--agent", &agent.name, &pid])?;
    equal(&attached.status.success(), &true).map_err(|_| format!("{attached:?}"))?;
    fs::create_dir(&folder).context(folder.display())?;
    fs::write(folder.join("cgroup.procs"), &pid).context("move a process down")?;
    Ok(inner)
}

/// A cgroup that the agent makes while a thread of it is held is as good as any once the thread goes on.
fn made_meanwhile() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "")?;
    let later = cgroup(&agent)?.join("later");
    fs::create_dir(&later).context(later.display())?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    all_gone(&agent)?;
    fs::write(later.join("cgroup.procs"), acting.act("pid")?).context("move a process down")?;
    equal(&acting.act("pid")?.is_empty(), &false)?;
    Ok(PASS)
}

/// Threads of many processes wait at once, each for an answer of its own, and the parents see no stop.
fn many() -> Outcome {
    const PROCESSES: usize = 100;
    const THREADS: usize = 10;
    let daemon = Daemon::shared()?;
    let agent = daemon.agent(&policy(ASK_EACH))?;
    let arguments = [PROCESSES.to_string(), THREADS.to_string()];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let child = program(&agent, include_str!("pause/many.py"), &arguments)?;
    let folder = cgroup(&agent)?;
    // Emulated, to freeze one takes up to a tenth of a second.
    let patience = Duration::from_secs(240);
    let waiting = within(patience, "all are frozen", || {
        Ok((count_frozen(&folder) == PROCESSES * THREADS).then_some(()))
    });
    if waiting.is_err() {
        // What turns would take the processor from all tests to come.
        end_all_in(&folder);
    }
    waiting?;
    equal(&own_requests(&agent)?.len(), &(PROCESSES * THREADS))?;
    let started = Instant::now();
    daemon.json(&["status"])?;
    equal(&(started.elapsed() < Duration::from_secs(5)), &true)?;
    let (said, answers) = Answering::start(daemon, &agent.name)?.until_end_of(child)?;
    let said: Value = serde_json::from_str(&said)?;
    equal(&answers, &(PROCESSES * THREADS))?;
    equal(&said["wrong"], &Value::Array(Vec::new()))?;
    equal(&said["right"], &Value::from(PROCESSES * THREADS))?;
    equal(&said["stops"], &Value::from(0))?;
    Ok(PASS)
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

/// A person who answers whatever an agent asks for: what ends in an even digit is allowed, the rest refused.
pub(crate) struct Answering {
    child: Child,
    end: PathBuf,
}

impl Answering {
    pub(crate) fn start(daemon: &Daemon, agent: &str) -> Result<Self, Failed> {
        let end = PathBuf::from(format!("/run/enforcer-e2e-{agent}-answered"));
        let _ = fs::remove_file(&end);
        let mut command = std::process::Command::new("python3");
        command
            .args(["-c", include_str!("pause/answer.py")])
            .arg(daemon.control_socket())
            .arg(agent)
            .arg(&end);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { child, end })
    }

    /// Waits for the end of a program whose requests are answered; what it said, and how many were.
    pub(crate) fn until_end_of(mut self, mut program: Child) -> Result<(String, usize), Failed> {
        let started = Instant::now();
        let mut told = started;
        while program.try_wait()?.is_none() {
            let is_over = self.child.try_wait()?.is_some();
            if is_over || started.elapsed() > ANSWERED * times() {
                program.kill()?;
                self.child.kill()?;
                let daemon = Daemon::shared()?;
                let answers = output(self.child).unwrap_or_else(|error| format!("{error:?}"));
                let said = format!(
                    "{answers}; pending: {:?}; agents: {}",
                    daemon.pending()?,
                    daemon.json(&["agents"])?
                );
                return Err(format!("the program has not ended after {:?}: {said}", started.elapsed()).into());
            }
            // A guest that says nothing for minutes is taken for one that hangs.
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                println!("answering for {} s", started.elapsed().as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        fs::write(&self.end, "")?;
        let answers = output(self.child)?.parse()?;
        fs::remove_file(&self.end)?;
        Ok((output(program)?, answers))
    }
}

/// How often what is done now and then is done: more where there is a night for it.
pub(crate) fn times() -> u32 {
    if std::env::var_os("ENFORCER_LONG").is_some() { 12 } else { 1 }
}

/// How long a program may take whose requests are answered at once.
const ANSWERED: Duration = Duration::from_secs(240);

/// The daemon dies while ten threads are held and ten of the same process turn. Without one nothing passes and nothing
/// turns on; the next one shows all twenty, and they go on as they are answered.
fn daemons() -> Outcome {
    const EACH: usize = 10;
    with_spare(|daemon| {
        let agent = daemon.agent(&policy(ASK_EACH))?;
        let go = format!("/run/enforcer-e2e-{}-go", agent.name);
        let child = program(&agent, include_str!("pause/lots.py"), &[&go, &EACH.to_string()])?;
        frozen(&agent, EACH)?;
        let first: Vec<_> = own_requests(&agent)?.into_iter().map(|request| request["id"].clone()).collect();
        let shown = daemon.json(&["approvals", "show", first[0].as_str().unwrap_or_default()])?;
        let pid = shown["waits"][0]["pid"].to_string();
        // It freezes nobody from here on.
        let own = Pid::from_raw(daemon.pid()?.cast_signed());
        kill(own, Signal::SIGSTOP)?;
        fs::write(&go, "")?;
        thread::sleep(Duration::from_millis(50));
        daemon.kill()?;
        thread::sleep(Duration::from_secs(2));
        let before = ticks(&pid)?;
        thread::sleep(Duration::from_secs(5) * times());
        equal(&ticks(&pid)?, &before)?;
        daemon.begin()?;
        eventually("all wait again", || Ok((own_requests(&agent)?.len() == 2 * EACH).then_some(())))?;
        let now: Vec<_> = own_requests(&agent)?.into_iter().map(|request| request["id"].clone()).collect();
        equal(&first.iter().all(|id| now.contains(id)), &true)?;
        frozen(&agent, 2 * EACH)?;
        let (said, answers) = Answering::start(daemon, &agent.name)?.until_end_of(child)?;
        let said: Value = serde_json::from_str(&said)?;
        equal(&answers, &(2 * EACH))?;
        equal(&said["wrong"], &Value::Array(Vec::new()))?;
        equal(&said["right"], &Value::from(2 * EACH))?;
        fs::remove_file(&go)?;
        Ok(PASS)
    })
}

/// Hundredths of a second for which a process has run.
fn ticks(pid: &str) -> Result<u64, Failed> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may have anything in it: the state is the third field, the times are the 14th and 15th.
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
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

fn namespace() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let talk = format!("talk {}", server.at);
    let mut command = agent.command(&["unshare", "--fork", "--pid", "actor", &talk]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    daemon.answer(&request, "approve")?;
    equal(&output(child)?, "open")?;
    Ok(PASS)
}

/// An interactive bash on a terminal of its own, of which a child waits.
fn shell() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut child = program(&agent, include_str!("pause/shell.py"), &[&format!("talk {}", server.at)])?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    daemon.answer(&request, "approve")?;
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?);
    lines.read_line(&mut said)?;
    lines.read_to_string(&mut said)?;
    child.wait()?;
    let wrong = ["Stopped", "Continued", "Resource"].iter().find(|word| said.contains(**word));
    equal(&(wrong, said.contains("came open"), said.contains("ended 0")), &(None, true, true))
        .map_err(|_| said.clone())?;
    Ok(PASS)
}
