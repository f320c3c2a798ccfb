//! Signals to a thread that waits, frozen or turning.

use std::{fs, process::Stdio, thread, time::Duration};

use enforcer_tests::harness::{Daemon, TcpServer};
use libtest_mimic::Trial;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    all_gone, asking, frozen, held, output, own_requests, pid_of, program, stat, tables::all_empty, trial,
};
use crate::{
    governed::eventually,
    trial::{Outcome, PASS, equal, with_spare},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("pause::sigkill_ends_a_held_thread", || ends(Signal::SIGKILL)),
        trial("pause::sigterm_ends_a_held_thread", || ends(Signal::SIGTERM)),
        trial("pause::sigquit_ends_a_held_thread", || ends(Signal::SIGQUIT)),
        trial("pause::a_stop_of_a_held_program_stops_it_and_it_waits_on", stopped),
        trial("pause::sigkill_ends_a_thread_that_turns", || ends_turning(Signal::SIGKILL)),
        trial("pause::sigterm_ends_a_thread_that_turns", || ends_turning(Signal::SIGTERM)),
        trial("pause::stray_sigconts_change_nothing", sigconts),
        trial("pause::sigconts_of_its_own_change_nothing", own_sigconts),
        trial("pause::blocked_signals_change_nothing", blocked),
        trial("pause::a_handler_of_sigcont_runs_once_for_one_stop_at_most", handler_of_sigcont),
    ]
}

/// Another process of the agent lives on.
fn ends(signal: Signal) -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let line = format!("actor 'talk {}'; echo ended $?; read _", server.at);
    let mut command = agent.command(&["sh", "-c", &line]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    let pid = pid_of(daemon, &request)?;
    kill(Pid::from_raw(pid.parse()?), signal)?;
    all_gone(&agent)?;
    equal(&server.met(), &0)?;
    drop(child.stdin.take());
    let number = 128 + signal as i32;
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
        kill(Pid::from_raw(pid.parse()?), Signal::SIGCONT)?;
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
        let (_, child, request) = held(daemon, &server, include_str!("signals.py"), &[how])?;
        daemon.answer(&request, "approve")?;
        equal(&output(child)?, "open")?;
    }
    Ok(PASS)
}

/// What Ctrl-Z and `kill -STOP` send to a program that is held: its parent sees it stop at once, and go on when it is to,
/// and the call waits on.
fn stopped() -> Outcome {
    let daemon = Daemon::shared()?;
    for signal in [Signal::SIGTSTP, Signal::SIGSTOP] {
        let server = TcpServer::start("127.0.0.1", "open")?;
        let agent = asking(daemon, server.at.port(), "")?;
        let went_on = format!("/run/enforcer-e2e-{}-went-on", agent.name);
        let _ = fs::remove_dir(&went_on);
        let arguments = [server.at.port().to_string(), (signal as i32).to_string(), went_on.clone()];
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let child =
            program(&agent, concat!(include_str!("watched.py"), include_str!("stopped.py")), &arguments)?;
        let request = daemon.request_of(&agent.name)?;
        eventually("it was stopped and goes on", || Ok(fs::remove_dir(&went_on).ok()))?;
        frozen(&agent, 1)?;
        equal(&server.met(), &0)?;
        daemon.answer(&request, "approve")?;
        let said: Value = serde_json::from_str(&output(child)?)?;
        let expected = [format!("stopped {}", signal as i32), "continued".to_owned(), "exited 7".to_owned()];
        equal(&said["statuses"], &serde_json::json!(expected)).map_err(|_| said.to_string())?;
        equal(&said["came"], "open").map_err(|_| said.to_string())?;
        equal(&said["counted"], &Value::from(0)).map_err(|_| said.to_string())?;
        equal(&(said["after"].as_f64() < Some(5.0)), &true).map_err(|_| said.to_string())?;
    }
    Ok(PASS)
}

/// The daemon stands still, so that the thread turns until the heartbeat is missed; the signal comes in that time.
fn ends_turning(signal: Signal) -> Outcome {
    /// Some come too late on a machine that is busy: the process has stopped by then.
    const TRIES: usize = 50;
    with_spare(|daemon| {
        let server = TcpServer::start("127.0.0.1", "open")?;
        let own = Pid::from_raw(daemon.pid()?.cast_signed());
        let agent = asking(daemon, server.at.port(), "")?;
        for _ in 0..TRIES {
            let mut acting = agent.start()?;
            let pid = acting.act("pid")?;
            kill(own, Signal::SIGSTOP)?;
            acting.begin(&format!("talk {}", server.at))?;
            // Longer than a call takes that does not wait, shorter than the bound of the heartbeat.
            thread::sleep(Duration::from_millis(20));
            let turned = stat(&pid)?[0] == "R";
            kill(Pid::from_raw(pid.parse()?), signal)?;
            let in_time = turned && gone_within(&pid, Duration::from_millis(500));
            kill(own, Signal::SIGCONT)?;
            // One that had stopped ends once the daemon has it go on.
            eventually("it ends", || Ok(acting.child.try_wait()?))?;
            if in_time {
                equal(&server.met(), &0)?;
                all_empty(daemon)?;
                return Ok(PASS);
            }
        }
        Err(format!("no thread turned when the signal came, or none ended of it, in {TRIES} tries").into())
    })
}

/// Whether a process ends, or waits to be reaped, in this time.
fn gone_within(pid: &str, time: Duration) -> bool {
    let started = std::time::Instant::now();
    while started.elapsed() < time {
        if stat(pid).is_ok_and(|stat| stat[0] == "Z") || stat(pid).is_err() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Another thread of the program sends it and the thread that waits SIGCONTs, while it turns and while it is frozen, as
/// a parent sees it that asks for every change.
fn own_sigconts() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = concat!(include_str!("watched.py"), include_str!("sigconts.py"));
    let (agent, child, request) = held(daemon, &server, text, &[])?;
    thread::sleep(Duration::from_secs(1));
    frozen(&agent, 1)?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    let said: Value = serde_json::from_str(&output(child)?)?;
    equal(&said["came"], "open").map_err(|_| said.to_string())?;
    equal(&said["statuses"], &serde_json::json!(["exited 7"])).map_err(|_| said.to_string())?;
    equal(&(said["sent"].as_u64() > Some(100)), &true).map_err(|_| said.to_string())?;
    equal(&server.met(), &1)?;
    Ok(PASS)
}

/// A program with a handler for SIGCONT stops and is continued once, which is what its parent may see.
fn handler_of_sigcont() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = concat!(include_str!("watched.py"), include_str!("handler.py"));
    let (agent, child, request) = held(daemon, &server, text, &[])?;
    thread::sleep(Duration::from_secs(1));
    daemon.answer(&request, "approve")?;
    let said: Value = serde_json::from_str(&output(child)?)?;
    equal(&said["came"], "open").map_err(|_| said.to_string())?;
    equal(&said["ran"], &Value::from(1)).map_err(|_| said.to_string())?;
    // It may be frozen before it has stopped, or go on before the parent has looked.
    let seen: Vec<_> = said["statuses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let right = [
        &["stopped 19", "continued", "exited 7"][..],
        &["stopped 19", "exited 7"],
        &["continued", "exited 7"],
        &["exited 7"],
    ];
    equal(&right.contains(&seen.as_slice()), &true).map_err(|_| said.to_string())?;
    equal(&own_requests(&agent)?.len(), &0)?;
    Ok(PASS)
}
