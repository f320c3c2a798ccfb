//! Signals to threads whose opens and connects are held: what has a handler, and what ends a program.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::TcpServer;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{RULES, ended, frozen, held_pid};
use crate::{
    governed::{Agent, enforcer, eventually, finish, shell, text_of},
    trial::{Outcome, PASS, equal, trial},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("held::handlers_run_while_a_thread_is_held", handlers),
        trial("held::a_flood_of_signals_keeps_nobody_from_being_held", flood),
        trial("held::control_c_ends_a_python_program", || interrupted("raise")),
        trial("held::a_program_whose_handler_returns_is_held_again", || interrupted("return")),
        trial("held::a_connect_that_a_handler_ends_is_not_taken_for_connected", aborted),
        trial("held::a_handler_of_sigcont_runs_once_and_the_call_goes_on", sigcont),
    ]
}

/// Handlers with and without `SA_RESTART`: each runs at once, and the call is held again, or ends with `EINTR`.
fn handlers() -> Outcome {
    let agent = Agent::new("held-handlers", RULES)?;
    agent.file("asked")?;
    for (how, ends) in [("restart", &["ok"][..]), ("interrupt", &["EINTR"; 3])] {
        // A machine that is busy with something else may be late once. One that waits for the next look always is.
        let mut late = f64::INFINITY;
        for _ in 0..3 {
            late = late.min(handled(&agent, how, ends)?);
            if late < HANDLED_MS {
                break;
            }
        }
        println!("held::handlers: {how}: within {late:.1} ms");
        equal(&(late < HANDLED_MS), &true).map_err(|_| format!("{how}: after {late} ms"))?;
    }
    Ok(PASS)
}

/// After how many milliseconds a handler has run.
const HANDLED_MS: f64 = 100.0;

/// Three signals to a held thread: each is handled once, and the call ends as it must; how late the last was handled.
fn handled(agent: &Agent, how: &str, ends: &[&str]) -> Result<f64, Failed> {
    let sent = agent.at("sent");
    let _ = fs::remove_dir(&sent);
    let child = agent.start(&[
        "python3",
        "-c",
        include_str!("../pause/handlers.py"),
        &agent.at("asked"),
        &sent,
        how,
    ])?;
    let request = agent.request()?;
    if how == "restart" {
        eventually("all is sent", || Ok(Path::new(&sent).exists().then_some(())))?;
        frozen(agent)?;
        enforcer(&["approvals", "approve", &request])?;
    }
    let ran = finish(child)?;
    let said: Value = serde_json::from_str(&ran.lines.join(""))
        .map_err(|error| format!("{how}: {error}: {:?} {}", ran.lines, ran.errors))?;
    let came: Vec<_> = said["came"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    equal(&came, &ends).map_err(|_| format!("{how}: {said}"))?;
    equal(&said["ran"], &Value::from(3)).map_err(|_| format!("{how}: {said}"))?;
    said["late"].as_f64().ok_or_else(|| format!("{how}: {said}").into())
}

/// One agent floods a held thread with a signal that it blocks: those of others are frozen all the same.
fn flood() -> Outcome {
    let flooding = Agent::new("held-flooding", RULES)?;
    let other = Agent::new("held-other", RULES)?;
    flooding.file("asked")?;
    other.file("asked")?;
    let end = flooding.at("end");
    let mut flood =
        flooding.start(&["python3", "-c", include_str!("../pause/flood.py"), &flooding.at("asked"), &end])?;
    flooding.request()?;
    frozen(&flooding)?;
    thread::sleep(Duration::from_secs(1));
    let child = other.start(&["actor", &format!("read {}", other.at("asked"))])?;
    let request = other.request()?;
    let asked = Instant::now();
    frozen(&other)?;
    // Below the time after which it would have stopped instead.
    equal(&(asked.elapsed() < Duration::from_secs(5)), &true)
        .map_err(|_| format!("{:?}", asked.elapsed()))?;
    enforcer(&["approvals", "approve", &request])?;
    ended(&finish(child)?, "ok")?;
    fs::write(&end, "")?;
    flood.wait()?;
    Ok(PASS)
}

fn interrupted(how: &'static str) -> Outcome {
    let agent = Agent::new(if how == "raise" { "held-raise" } else { "held-return" }, RULES)?;
    agent.file("asked")?;
    let child =
        agent.start(&["python3", "-c", include_str!("../pause/interrupt.py"), &agent.at("asked"), how])?;
    let request = agent.request()?;
    frozen(&agent)?;
    let pid = held_pid(&request)?;
    let sent = Instant::now();
    shell(&format!("kill -INT {pid}"))?;
    if how == "return" {
        eventually("the handler runs", || Ok(Path::new(&agent.at("handled")).exists().then_some(())))?;
        equal(&(sent.elapsed() < Duration::from_secs(2)), &true)?;
        thread::sleep(Duration::from_secs(3));
        frozen(&agent)?;
        // The same request, which was never gone.
        equal(&agent.request()?, &request)?;
        enforcer(&["approvals", "approve", &request])?;
        equal(&finish(child)?.lines, &["ok"])?;
    } else {
        equal(&finish(child)?.lines, &["KeyboardInterrupt"])?;
        eventually("the request goes", || {
            let list: Value = serde_json::from_str(&enforcer(&["approvals", "list", "--json"])?)?;
            let waits = list.as_array().into_iter().flatten().any(|other| text_of(other, "id") == request);
            Ok((!waits).then_some(()))
        })?;
    }
    Ok(PASS)
}

/// After `EINTR` of a connect Python waits until the socket can be written, and asks for its error.
fn aborted() -> Outcome {
    for wait in ["blocking", "timeout"] {
        let server = TcpServer::start("127.0.0.1", "open")?;
        let name = if wait == "timeout" { "held-aborted-timeout" } else { "held-aborted" };
        let port = server.at.port();
        let agent = Agent::new(name, &format!("[[network]]\naction = \"escalate\"\nports = [{port}]\n"))?;
        let child =
            agent.start(&["python3", "-c", include_str!("../pause/aborted.py"), &port.to_string(), wait])?;
        let request = agent.request()?;
        frozen(&agent)?;
        let pid = held_pid(&request)?;
        shell(&format!("kill -USR1 {pid}"))?;
        // It says so, and connects again.
        eventually("it was told", || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Ok((name.trim() == "told").then_some(()))
        })?;
        let request = agent.request()?;
        frozen(&agent)?;
        equal(&server.met(), &0)?;
        enforcer(&["approvals", "approve", &request])?;
        let ran = finish(child)?;
        equal(&ran.lines, &["handled 1, ECONNABORTED, then open, error 0"])
            .map_err(|_| format!("{wait}: {:?} {}", ran.lines, ran.errors))?;
        equal(&server.met(), &1)?;
    }
    Ok(PASS)
}

fn sigcont() -> Outcome {
    let agent = Agent::new("held-sigcont", RULES)?;
    agent.file("asked")?;
    let child = agent.start(&["python3", "-c", include_str!("../pause/sigcont.py"), &agent.at("asked")])?;
    let request = agent.request()?;
    frozen(&agent)?;
    thread::sleep(Duration::from_secs(1));
    enforcer(&["approvals", "approve", &request])?;
    equal(&finish(child)?.lines, &["ok 1"])?;
    Ok(PASS)
}
