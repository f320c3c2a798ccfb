//! `enforcer run`: what passes between the command and whoever runs it, and what else the daemon's commands tell.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Daemon, policy};
use libtest_mimic::{Failed, Trial};
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
        trial("run::exit_codes_pass_where_ends_of_children_are_ignored", ignored_children),
        trial("run::signals_reach_the_command", signals),
        trial("run::the_first_instruction_is_governed", first_instruction),
        trial("run::descriptors_are_closed_unless_named", descriptors),
        trial("run::another_user_runs_the_command", user),
        trial("run::a_number_without_a_name_runs_the_command", nameless_user),
        trial("run::without_a_daemon_one_comes_and_goes", own_daemon),
        trial("policy::each_file_is_checked_also_beside_one_that_cannot_be_read", checked),
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

fn ignored_children() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let run = agent.command(&["sh", "-c", "exit 7"]);
    let script = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])";
    let mut ignoring = Command::new("python3");
    ignoring.args(["-c", script]).arg(run.get_program()).args(run.get_args());
    ignoring.env("ENFORCER_SOCKET", agent.daemon.control_socket()).stdin(Stdio::null());
    let output = ignoring.output()?;
    equal(&output.status.code(), &Some(7)).map_err(|_| format!("{output:?}"))?;
    Ok(PASS)
}

fn signals() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = agent.command(&["bash", "-c", script]).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut said = String::new();
    output.read_line(&mut said)?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    let started = Instant::now();
    while child.try_wait()?.is_none() && started.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    output.read_to_string(&mut said)?;
    let status = child.wait()?;
    equal(&(said.as_str(), status.code(), status.signal()), &("ready\ncaught\n", Some(3), None))?;
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
    let said = |more: &[&str]| -> Result<String, Failed> {
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

fn nameless_user() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let mut run = agent.daemon.command(&["run", "--policy"]);
    run.arg(agent.policy()).args([
        "--user",
        "4711",
        "--",
        "sh",
        "-c",
        "id -u; id -g; id -G; echo $HOME $USER",
    ]);
    let output = run.output()?;
    equal(&String::from_utf8_lossy(&output.stdout), "4711\n4711\n4711\n/ 4711\n")
        .map_err(|_| format!("{output:?}"))?;
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

fn checked() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let file = agent.policy().display().to_string();
    let check = |more: &[&str]| {
        let mut check = Command::new("enforcer");
        check.args(["policy", "check"]).args(more).args([&file, "/nowhere/at/all", &file]).output()
    };
    let output = check(&["--json"])?;
    equal(&output.status.code(), &Some(1))?;
    let all: Value = serde_json::from_slice(&output.stdout)?;
    let found: Vec<_> = all.as_array().into_iter().flatten().map(|one| one["ok"] == true).collect();
    equal(&found, &[true, false, true]).map_err(|_| format!("{all:#}"))?;
    let told = all[1]["unreadable"].as_str().is_some_and(|why| why.contains("/nowhere/at/all"));
    equal(&told, &true).map_err(|_| format!("{all:#}"))?;
    let output = check(&[])?;
    let lines = String::from_utf8_lossy(&output.stdout).lines().count();
    equal(&(lines, output.status.code()), &(3, Some(1))).map_err(|_| format!("{output:?}"))?;
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
    let mut tail = Command::new("timeout");
    tail.args([
        "60",
        "enforcer",
        "tail",
        "--json",
        "--since-start",
        "--verdict",
        "block",
        "--agent",
        &agent.name,
    ]);
    tail.env("ENFORCER_SOCKET", daemon.control_socket()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut tail = tail.spawn()?;
    let mut lines = BufReader::new(tail.stdout.take().ok_or("no output")?).lines();
    let mut next = || -> Result<Value, Failed> {
        let line = lines.next().ok_or("nothing within a minute")??;
        Ok(serde_json::from_str(&line)?)
    };
    let mut acting = agent.start()?;
    // Whether this one is seen as it is made or afterwards depends on who is first.
    acting.act("connect 127.0.0.1:9")?;
    let mut events = vec![next()?];
    acting.act("connect 127.0.0.1:10")?;
    other.act(&["connect 127.0.0.1:9"])?;
    acting.act("connect 127.0.0.2:9")?;
    events.push(next()?);
    acting.end()?;
    kill(Pid::from_raw(tail.id().cast_signed()), Signal::SIGTERM)?;
    tail.wait()?;
    let seen: Vec<_> = events.iter().map(|event| event["object"].as_str().unwrap_or_default()).collect();
    equal(&seen, &["tcp 127.0.0.1:9", "tcp 127.0.0.2:9"])?;
    let is_told = |event: &Value| event["rule"] == "no" && event["message"] == "not there";
    equal(&events.iter().all(is_told), &true).map_err(|_| format!("{events:#?}"))?;
    Ok(PASS)
}
