//! Waits for a token.

use std::time::{Duration, Instant};

use enforcer_tests::harness::{Daemon, TcpServer, policy};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{all_gone, output, program, trial};
use crate::trial::{Outcome, PASS, equal};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("pause::a_rate_waits_for_its_token", rates),
        trial("pause::a_high_rate_is_kept_by_threads_that_turn", fast),
    ]
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

/// More tokens in a second than threads could be frozen: those that wait for one turn. None passes before its token, and
/// none is refused.
fn fast() -> Outcome {
    const RATE: u32 = 500;
    const THREADS: u32 = 4;
    const CALLS: u32 = 250;
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let rule = format!(
        "[[network]]\naction = \"throttle\"\nports = [{}]\nrate = \"{RATE}/s\"\nburst = 1\non_exceed = \"pause\"\n",
        server.at.port()
    );
    let agent = daemon.agent(&policy(&rule))?;
    let arguments = [u32::from(server.at.port()), THREADS, CALLS].map(|number| number.to_string());
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let said: Value =
        serde_json::from_str(&output(program(&agent, include_str!("connects.py"), &arguments)?)?)?;
    equal(&said["came"], &serde_json::json!({ "ok": THREADS * CALLS })).map_err(|_| said.to_string())?;
    let least = f64::from(THREADS * CALLS - 1) / f64::from(RATE);
    equal(&(said["took"].as_f64() >= Some(least * 0.999)), &true).map_err(|_| said.to_string())?;
    Ok(PASS)
}
