//! `enforcer run`: what passes between the command and whoever runs it, and what else the daemon's commands tell.

use std::{
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Daemon, policy};
use libtest_mimic::Trial;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::trial::{Outcome, PASS, booted, equal, skip, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("run::exit_codes_pass_through", exit_codes),
        trial("run::signals_reach_the_command", signals),
        trial("run::the_first_instruction_is_governed", first_instruction),
        trial("run::descriptors_are_closed_unless_named", descriptors),
        trial("run::another_user_runs_the_command", user),
        trial("run::without_a_daemon_one_comes_and_goes", own_daemon),
        trial("status::the_canary_was_refused", canary),
        trial("tail::shows_what_was_asked_for", tail),
    ]
}

fn exit_codes() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let code = |command: &[&str]| agent.run(command).map(|output| output.status.code());
    equal(&code(&["true"])?, &Some(0))?;
    equal(&code(&["sh", "-c", "exit 7"])?, &Some(7))?;
    equal(&code(&["sh", "-c", "kill -9 $$"])?, &Some(137))?;
    equal(&code(&["/nowhere/at/all"])?, &Some(127))?;
    equal(&code(&["/etc/passwd"])?, &Some(126))?;
    Ok(PASS)
}

fn signals() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = agent.command(&["bash", "-c", script]).stdout(Stdio::piped()).spawn()?;
    thread::sleep(Duration::from_millis(2500));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    let started = Instant::now();
    while child.try_wait()?.is_none() && started.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    equal(
        &(said.as_str(), output.status.code(), output.status.signal()),
        &("ready\ncaught\n", Some(3), None),
    )?;
    Ok(PASS)
}

fn first_instruction() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy("[[network]]\naction = \"block\"\nports = [9]\n"))?;
    for _ in 0..5 {
        equal(&agent.act(&["connect 127.0.0.1:9"])?, &["EPERM"])?;
    }
    Ok(PASS)
}

fn descriptors() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let kept = std::fs::File::open("/dev/null")?;
    fcntl(&kept, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let number = kept.as_raw_fd().to_string();
    let script = format!("if [ -e /proc/$$/fd/{number} ]; then echo open; else echo closed; fi");
    let said = |more: &[&str]| -> Result<String, libtest_mimic::Failed> {
        let mut run = agent.daemon.command(&["run", "--policy"]);
        run.arg(agent.policy()).args(more).args(["--", "bash", "-c", &script]);
        Ok(String::from_utf8_lossy(&run.output()?.stdout).trim().to_owned())
    };
    equal(&said(&[])?, "closed")?;
    equal(&said(&["--keep-fd", &number])?, "open")?;
    Ok(PASS)
}

fn user() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy("[[network]]\naction = \"block\"\nports = [9]\n"))?;
    let mut run = agent.daemon.command(&["run", "--policy"]);
    run.arg(agent.policy()).args(["--user", "nobody", "--", "bash", "-c"]);
    run.arg("id -un; (echo > /dev/tcp/127.0.0.1/9) 2>&1 | grep -o 'Operation not permitted' | head -1");
    let output = run.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    equal(&said, "nobody\nOperation not permitted\n").map_err(|_| format!("{output:?}"))?;
    Ok(PASS)
}

/// The places are the default ones, which on a machine of somebody's may be in use.
fn own_daemon() -> Outcome {
    if booted().is_none() {
        return skip("it would use this machine's own /sys/fs/bpf/enforcer");
    }
    let file = "/run/own-daemon.toml";
    std::fs::write(file, policy("[[network]]\naction = \"block\"\nports = [9]\n"))?;
    let run = |command: &[&str]| {
        Command::new("enforcer").args(["run", "--policy", file, "--"]).args(command).output()
    };
    let output =
        run(&["bash", "-c", "actor 'connect 127.0.0.1:9'; test -d /sys/fs/bpf/enforcer && echo pinned"])?;
    equal(&String::from_utf8_lossy(&output.stdout), "EPERM\npinned\n").map_err(|_| format!("{output:?}"))?;
    let started = Instant::now();
    while Path::new("/sys/fs/bpf/enforcer").exists() && started.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(100));
    }
    equal(&Path::new("/sys/fs/bpf/enforcer").exists(), &false)?;
    Ok(PASS)
}

fn canary() -> Outcome {
    let daemon = Daemon::shared()?;
    let status = daemon.json(&["status"])?;
    equal(&status["canary"]["ok"], &Value::Bool(true)).map_err(|_| format!("{status:#}"))?;
    let families: Vec<_> = status["canary"]["trials"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|trial| trial["family"].as_str().unwrap_or_default().to_owned())
        .collect();
    let expected: &[&str] =
        if daemon.lsm { &["connect", "send", "open", "create", "exec"] } else { &["connect", "send"] };
    equal(&families, expected)?;
    let losses = status["losses"].as_object().ok_or("no losses")?;
    equal(&losses.values().all(|lost| *lost == 0), &true).map_err(|_| format!("{losses:?}"))?;
    Ok(PASS)
}

fn tail() -> Outcome {
    let daemon = Daemon::shared()?;
    let rules = "[[network]]\nname = \"no\"\naction = \"block\"\nports = [9]\nmessage = \"not there\"\n";
    let (agent, other) = (daemon.agent(&policy(rules))?, daemon.agent(&policy(rules))?);
    let arguments = ["tail", "--json", "--agent", &agent.name, "--verdict", "block"];
    let child = daemon.command(&arguments).stdout(Stdio::piped()).spawn()?;
    thread::sleep(Duration::from_millis(1000));
    agent.act(&["connect 127.0.0.1:9", "connect 127.0.0.1:10"])?;
    other.act(&["connect 127.0.0.1:9"])?;
    thread::sleep(Duration::from_millis(1000));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let events: Result<Vec<Value>, _> = said.lines().map(serde_json::from_str).collect();
    let events = events.map_err(|error| format!("{error}: {said}"))?;
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            (event["agent"].clone(), event["object"].clone(), event["rule"].clone(), event["message"].clone())
        })
        .collect();
    let expected = (agent.name.as_str().into(), "tcp 127.0.0.1:9".into(), "no".into(), "not there".into());
    equal(&seen, &vec![expected]).map_err(|_| said)?;
    Ok(PASS)
}
