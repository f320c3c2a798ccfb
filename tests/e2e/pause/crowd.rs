//! Many threads that wait at once, the bounds of how many may, and a daemon that dies over them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Daemon, TcpServer, end_all_in, policy};
use libtest_mimic::{Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    ASK_EACH,
    answering::{Answering, times},
    asking, cgroup, count_frozen, frozen, output, own_requests, pid_of, program, stat, trial,
};
use crate::{
    governed::{eventually, within},
    trial::{Outcome, PASS, booted, equal, with_spare},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("pause::a_thousand_wait_at_once", many),
        trial("pause::the_next_daemon_answers_who_was_held_and_who_turned", daemons),
    ];
    // Emulated, a thousand threads at once are enough.
    if booted().is_none() {
        trials.push(trial("pause::who_asks_beyond_an_agents_share_is_told_to_try_again", share));
        trials.push(trial("pause::who_waits_beyond_an_agents_bound_is_refused", bound));
    }
    trials
}

/// An agent that asks for more than its share is told to try again, and nobody circles.
fn share() -> Outcome {
    const SHARE: usize = 1024;
    const THREADS: usize = SHARE + 40;
    let daemon = Daemon::shared()?;
    let agent = daemon.agent(&policy(ASK_EACH))?;
    let end = format!("/run/enforcer-e2e-{}-end", agent.name);
    let child = program(&agent, include_str!("share.py"), &[&end, &THREADS.to_string()])?;
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

/// Threads of many processes wait at once, each for an answer of its own, and the parents see no stop.
fn many() -> Outcome {
    const PROCESSES: usize = 100;
    const THREADS: usize = 10;
    let daemon = Daemon::shared()?;
    let agent = daemon.agent(&policy(ASK_EACH))?;
    let arguments = [PROCESSES.to_string(), THREADS.to_string()];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let child = program(&agent, include_str!("many.py"), &arguments)?;
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

/// The daemon dies while ten threads are held and ten of the same process turn. Without one nothing passes and nothing
/// turns on; the next one shows all twenty, and they go on as they are answered.
fn daemons() -> Outcome {
    const EACH: usize = 10;
    with_spare(|daemon| {
        let agent = daemon.agent(&policy(ASK_EACH))?;
        let go = format!("/run/enforcer-e2e-{}-go", agent.name);
        let child = program(&agent, include_str!("lots.py"), &[&go, &EACH.to_string()])?;
        frozen(&agent, EACH)?;
        let first = own_requests(&agent)?;
        let pid = pid_of(daemon, &first[0])?;
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
        equal(&first.iter().all(|request| now.contains(&request["id"])), &true)?;
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
    // The times are the 14th field and the 15th.
    let fields = stat(pid)?;
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// More threads wait for one answer than an agent may have wait: those above it are refused at once, with an event that
/// says so, and the others go on as they are answered.
fn bound() -> Outcome {
    const BOUND: usize = 2048;
    const MORE: usize = 20;
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "timeout = \"1h\"")?;
    let arguments = [usize::from(server.at.port()), BOUND + MORE, 1].map(|number| number.to_string());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let child = program(&agent, include_str!("connects.py"), &arguments)?;
    let folder = cgroup(&agent)?;
    eventually("as many as may are frozen", || Ok((count_frozen(&folder) == BOUND).then_some(())))?;
    let own = own_requests(&agent)?;
    equal(&own.len(), &1)?;
    equal(&own[0]["waits"].as_array().map(Vec::len), &Some(BOUND))?;
    let full = |event: &Value| event["reason"] == "requests-full";
    eventually("the others are refused", || Ok((agent.events(full)?.len() == MORE).then_some(())))?;
    equal(&server.met(), &0)?;
    daemon.answer(&own[0], "reject")?;
    let said: Value = serde_json::from_str(&output(child)?)?;
    equal(&said["came"], &serde_json::json!({ "EPERM": BOUND + MORE }))?;
    equal(&server.met(), &0)?;
    Ok(PASS)
}
