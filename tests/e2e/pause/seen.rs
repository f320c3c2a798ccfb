//! What those around a thread that waits see of it: nothing.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use enforcer_tests::harness::{Daemon, TcpServer};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{asking, frozen, held, output, program, trial};
use crate::trial::{Outcome, PASS, equal};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("pause::other_threads_and_the_parent_see_nothing", witness),
        trial("pause::a_shell_with_job_control_prints_what_it_prints_without_governance", shell),
        trial("pause::a_program_that_runs_others_prints_what_it_prints_without_governance", subprocess),
    ]
}

/// A parent that asks for every change of its child's, whose other threads count, fork and take signals meanwhile.
fn witness() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = concat!(include_str!("watched.py"), include_str!("witness.py"));
    let (_, child, request) = held(daemon, &server, text, &[])?;
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

/// What a program prints that no policy is about.
fn without_governance(text: &str, argument: &str) -> Result<String, Failed> {
    let mut command = Command::new("python3");
    output(command.args(["-c", text, argument]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// An interactive bash on a terminal of its own, of which a child waits, prints what it prints without governance.
fn shell() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = include_str!("shell.py");
    let talk = format!("talk {}", server.at);
    let free = without_governance(text, &talk)?;
    equal(&(free.contains("came open"), free.contains("ended 0")), &(true, true))
        .map_err(|_| free.clone())?;
    let agent = asking(daemon, server.at.port(), "")?;
    let child = program(&agent, text, &[&talk])?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    thread::sleep(Duration::from_secs(1));
    daemon.answer(&request, "approve")?;
    equal(&output(child)?, &free)?;
    Ok(PASS)
}

/// A program that runs others by `subprocess` prints what it prints without governance.
fn subprocess() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = include_str!("subprocess.py");
    let talk = format!("talk {}", server.at);
    let free = without_governance(text, &talk)?;
    equal(&free.contains("open"), &true).map_err(|_| free.clone())?;
    let agent = asking(daemon, server.at.port(), "")?;
    let child = program(&agent, text, &[&talk])?;
    for _ in 0..3 {
        let request = daemon.request_of(&agent.name)?;
        frozen(&agent, 1)?;
        thread::sleep(Duration::from_millis(300));
        daemon.answer(&request, "approve")?;
    }
    equal(&output(child)?, &free)?;
    Ok(PASS)
}
