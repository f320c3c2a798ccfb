//! What event loops make of an action that is refused for now: the program learns of it, and no processor spins.
//!
//! What the programs see is written down in `docs/agents.md`.

use std::fs;

use enforcer_tests::harness::{Daemon, TcpServer, UdpServer, policy};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, skip, trial};

const PYTHON: Program =
    Program { runner: "python3", file: "program.py", text: include_str!("nonblocking/program.py") };
const NODE: Program =
    Program { runner: "node", file: "program.js", text: include_str!("nonblocking/program.js") };

/// Seconds for which a program may run, or wait to run, in the two seconds after the refusal.
const IDLE: f64 = 0.5;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("nonblocking::asyncio_does_not_spin_on_a_connect", || connects(&PYTHON, "read: OSError 107")),
        trial("nonblocking::node_does_not_spin_on_a_connect", || connects(&NODE, "connect: EAGAIN")),
        trial("nonblocking::asyncio_does_not_spin_on_a_datagram", || datagrams(&PYTHON, "send: OSError 16")),
        trial("nonblocking::node_does_not_spin_on_a_datagram", || datagrams(&NODE, "send: EBUSY")),
    ]
}

struct Program {
    runner: &'static str,
    file: &'static str,
    text: &'static str,
}

/// The rules over which a second action is refused for now: one has no token, the other asks.
fn rules(throttled: u16, held: u16) -> String {
    policy(&format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{throttled}]\nrate = \"1/hour\"\n\
         [[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{held}]\n"
    ))
}

fn connects(program: &Program, expected: &str) -> Outcome {
    let (slow, held) = (TcpServer::start("127.0.0.1", "open")?, TcpServer::start("127.0.0.1", "open")?);
    let Some(told) = program.run("tcp", slow.at.port(), held.at.port())? else { return absent(program) };
    equal(&(slow.met(), held.met()), &(1, 0))?;
    for line in &told {
        equal(&line["saw"], expected).map_err(|_| format!("{told:#?}"))?;
        idle(line)?;
    }
    Ok(PASS)
}

fn datagrams(program: &Program, expected: &str) -> Outcome {
    let (slow, held) = (UdpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "open")?);
    let Some(told) = program.run("udp", slow.at.port(), held.at.port())? else { return absent(program) };
    equal(&(slow.met(), held.met()), &(1, 0))?;
    for line in &told {
        equal(&line["saw"], expected).map_err(|_| format!("{told:#?}"))?;
        idle(line)?;
    }
    Ok(PASS)
}

fn idle(line: &Value) -> Result<(), Failed> {
    let spent = line["busy"].as_f64().ok_or("no time")?;
    if spent < IDLE { Ok(()) } else { Err(format!("busy for {spent} s of 2 s: {line}").into()) }
}

fn absent(program: &Program) -> Outcome {
    skip(format!("there is no `{}`", program.runner))
}

impl Program {
    /// What it tells of the throttled and the held port; nothing where there is no such runner.
    fn run(&self, protocol: &str, throttled: u16, held: u16) -> Result<Option<Vec<Value>>, Failed> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&folders).any(|folder| folder.join(self.runner).exists()) {
            return Ok(None);
        }
        let agent = Daemon::shared()?.agent(&rules(throttled, held))?;
        let file = format!("/run/{}-{}", agent.name, self.file);
        fs::write(&file, self.text)?;
        let targets = [throttled, held].map(|port| format!("{protocol}:{port}"));
        let output = agent.run(&[self.runner, &file, &targets[0], &targets[1]])?;
        fs::remove_file(&file)?;
        let lines: Result<Vec<Value>, _> =
            String::from_utf8_lossy(&output.stdout).lines().map(serde_json::from_str).collect();
        match lines {
            Ok(lines) if lines.len() == 2 => Ok(Some(lines)),
            _ => Err(format!("{output:?}\n{}", agent.state()).into()),
        }
    }
}
