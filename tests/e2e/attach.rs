//! `enforcer attach`: who is in the agent afterwards, and who is told not to be.

use std::process::{Child, Command, Stdio};

use enforcer_tests::harness::{Agent, Daemon, policy};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, lsm_trial, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("attach::a_process_that_is_not_there_is_told_and_keeps_nobody_out", not_there),
        lsm_trial(
            "attach::a_process_of_another_agent_stays_there_and_that_is_told",
            "without BPF LSM processes bear no mark, and can change agents",
            of_another,
        ),
    ]
}

/// A process that sleeps, and ends with this.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Result<Self, Failed> {
        Ok(Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn cgroup(&self) -> Result<String, Failed> {
        Ok(std::fs::read_to_string(format!("/proc/{}/cgroup", self.0.id()))?)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attaches, and tells the exit code, the data and what was said.
fn attach(agent: &Agent<'_>, pids: &[&str]) -> Result<(Option<i32>, Value, String), Failed> {
    let mut command = agent.daemon.command(&["attach", "--json", "--agent", &agent.name, "--policy"]);
    let output = command.arg(agent.policy()).args(pids).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let data = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok((output.status.code(), data, said))
}

fn not_there() -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let (first, second) = (Sleeper::start()?, Sleeper::start()?);
    let (code, _, said) = attach(&agent, &[&first.pid()])?;
    equal(&code, &Some(0)).map_err(|_| said)?;
    let (code, data, said) = attach(&agent, &["99999999", &second.pid()])?;
    equal(&code, &Some(1)).map_err(|_| format!("{data:#} {said}"))?;
    equal(&said.contains("99999999"), &true).map_err(|_| said.clone())?;
    equal(&said.contains(&second.pid()), &false).map_err(|_| said.clone())?;
    equal(&data["entered"], &serde_json::json!([second.0.id()]))?;
    equal(&data["refused"][0]["pid"], &Value::from(99_999_999))?;
    for sleeper in [&first, &second] {
        equal(&sleeper.cgroup()?.contains(&agent.name), &true)
            .map_err(|_| sleeper.cgroup().unwrap_or_default())?;
    }
    Ok(PASS)
}

fn of_another() -> Outcome {
    let daemon = Daemon::shared()?;
    let (agent, other) = (daemon.agent(&policy(""))?, daemon.agent(&policy(""))?);
    let (first, second) = (Sleeper::start()?, Sleeper::start()?);
    attach(&agent, &[&first.pid()])?;
    attach(&other, &[&second.pid()])?;
    let (code, data, said) = attach(&agent, &[&second.pid()])?;
    equal(&code, &Some(1)).map_err(|_| format!("{data:#} {said}"))?;
    equal(&(said.contains(&second.pid()) && said.contains("for good")), &true).map_err(|_| said.clone())?;
    equal(&second.cgroup()?.contains(&other.name), &true).map_err(|_| second.cgroup().unwrap_or_default())?;
    Ok(PASS)
}
