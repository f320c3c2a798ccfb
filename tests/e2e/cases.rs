//! The cases of `tests/cases`, judged by the kernel. The oracle and the engine judge the same files among the unit
//! tests.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use enforcer_common::{action::Access, verdict::Verdict};
use enforcer_tests::{
    cases::{self, Attempt, Case, CaseFile},
    harness::{Acting, Daemon},
};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, skip, trial};

/// Below it is all that the cases name; another test's files are never there.
const FOLDER: &str = "/case";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cases::no_file_is_left_out", all),
        trial("cases::network_is_judged_as_written", || judge("network")),
        trial("cases::access_is_judged_as_written", || judge("access")),
        trial("cases::paths_are_judged_as_written", || judge("paths")),
        trial("cases::exec_is_judged_as_written", || judge("exec")),
    ]
}

fn all() -> Outcome {
    let names: Vec<_> = cases::load().into_iter().map(|file| file.name).collect();
    equal(&names, &["access", "exec", "network", "paths"])?;
    Ok(PASS)
}

fn judge(name: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let file = cases::load().into_iter().find(|file| file.name == name).ok_or("no such file")?;
    let on_paths = |case: &Case| matches!(case.attempt, Attempt::Open { .. } | Attempt::Exec { .. });
    if !daemon.lsm && file.cases.iter().any(on_paths) {
        return skip("files and programs are governed with BPF LSM only");
    }
    let agent = daemon.agent(&told(&file))?;
    let mut acting = agent.start()?;
    let mut wrong = Vec::new();
    for case in &file.cases {
        let came = attempt(&mut acting, case)?;
        let expected = outcome(case);
        // Passed is what was not refused: nobody listens where most of them go.
        let met =
            if ["EPERM", "EAGAIN", "EBUSY"].contains(&came.as_str()) { came.as_str() } else { "passes" };
        if met != expected {
            wrong.push(format!("{:?}: {came}, expected {expected} ({})", case.attempt, case.why));
        }
    }
    acting.end()?;
    let _ = fs::remove_dir_all(FOLDER);
    // All events are there when the last one is; a failure tells what was missing.
    std::thread::sleep(std::time::Duration::from_millis(1000));
    let events = agent.events(|_| true)?;
    for case in &file.cases {
        if !events.iter().any(|event| is_of(event, case)) {
            wrong.push(format!(
                "{:?}: no event of {:?} by {} ({})",
                case.attempt, case.verdict, case.rule, case.why
            ));
        }
    }
    if wrong.is_empty() {
        return Ok(PASS);
    }
    Err(format!(
        "{} findings in {} cases:\n{}\n{}",
        wrong.len(),
        file.cases.len(),
        wrong.join("\n"),
        agent.state()
    )
    .into())
}

/// The policy, with an event for each decision.
fn told(file: &CaseFile) -> String {
    file.text.replacen("[default]", "log = \"all\"\n\n[default]", 1)
}

fn outcome(case: &Case) -> &'static str {
    match case.verdict {
        Verdict::Block => "EPERM",
        // A datagram's "not now" must not be taken for a full buffer.
        Verdict::Escalate if matches!(case.attempt, Attempt::Send(_)) => "EBUSY",
        Verdict::Escalate => "EAGAIN",
        // The first action of a throttle rule finds a token.
        Verdict::Allow | Verdict::Throttle | Verdict::Sandbox => "passes",
    }
}

fn attempt(acting: &mut Acting, case: &Case) -> Result<String, Failed> {
    let action = match &case.attempt {
        Attempt::Connect(to) => format!("connect-now {to}"),
        Attempt::Send(to) => format!("sendto {to}"),
        Attempt::Open { path, access } => {
            lay_out(path)?;
            if !has(*access, Access::CREATE) {
                fs::write(path, "text\n")?;
            }
            format!("open-for {} {path}", words(*access).join(","))
        }
        Attempt::Exec { path } => {
            lay_out(path)?;
            // Without actions the actor ends at once; a script's interpreter would be an act of its own.
            fs::copy(actor()?, path)?;
            format!("exec {path}")
        }
    };
    Ok(acting.act(&action)?)
}

/// Makes the folders of a path, and leaves nothing else: one case's file is another's folder.
fn lay_out(path: &str) -> Result<(), Failed> {
    let _ = fs::remove_dir_all(FOLDER);
    fs::create_dir_all(Path::new(path).parent().ok_or("no folder")?)?;
    Ok(())
}

fn actor() -> Result<PathBuf, Failed> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join("actor")).find(|path| path.is_file());
    found.ok_or_else(|| "no actor on the search path".into())
}

/// Whether an event is the one that a case should make.
fn is_of(event: &Value, case: &Case) -> bool {
    let verdict = if case.verdict == Verdict::Throttle { Verdict::Allow } else { case.verdict };
    // What no rule matched has the default's name, which an event leaves out or says.
    let rule = event["rule"].as_str().unwrap_or_default();
    let rule_is = rule == case.rule || (rule.is_empty() && case.rule.starts_with("default."));
    if event["verdict"] != verdict.word() || !rule_is {
        return false;
    }
    match &case.attempt {
        Attempt::Connect(to) => event["action"] == "connect" && event["object"] == object("tcp", *to),
        Attempt::Send(to) => event["action"] == "send" && event["object"] == object("udp", *to),
        Attempt::Open { path, access } => {
            // A request that waits makes no second event, whatever the access.
            let waits = case.verdict == Verdict::Escalate;
            event["path"] == path.as_str() && (waits || event["access"] == Value::from(words(*access)))
        }
        Attempt::Exec { path } => event["action"] == "exec" && event["path"] == path.as_str(),
    }
}

/// An object as events spell it: the address that packets go to.
fn object(protocol: &str, to: SocketAddr) -> String {
    let address = match to.ip().to_canonical() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    format!("{protocol} {}", SocketAddr::new(address, to.port()))
}

fn has(set: Access, kind: Access) -> bool {
    set.0 & kind.0 != 0
}

fn words(set: Access) -> Vec<&'static str> {
    let all = [(Access::READ, "read"), (Access::WRITE, "write"), (Access::CREATE, "create")];
    all.into_iter().filter(|(kind, _)| has(set, *kind)).map(|(_, word)| word).collect()
}
