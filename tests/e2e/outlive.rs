//! Enforcement outlives the daemon, and the next daemon takes over what is there.

use std::{thread, time::Duration};

use enforcer_tests::harness::{Daemon, TcpServer, policy};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, trial, with_spare};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("outlive::a_killed_daemon_leaves_enforcement_counters_and_requests", || with_spare(killed)),
        trial("outlive::pins_of_another_layout_are_refused", || with_spare(other_layout)),
    ]
}

fn killed(daemon: &Daemon) -> Outcome {
    let (shut, ask) = (TcpServer::start("127.0.0.1", "shut")?, TcpServer::start("127.0.0.1", "ask")?);
    let rules = format!(
        "[[network]]\nname = \"no\"\naction = \"block\"\nports = [{}]\n[[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{}]\ntimeout = \"1h\"\n",
        shut.at.port(),
        ask.at.port()
    );
    let agent = daemon.agent(&policy(&rules))?;
    let mut asking = agent.start()?;
    equal(&asking.act(&format!("talk {}", ask.at))?.as_str(), &"EAGAIN")?;
    let refused = format!("talk {}", shut.at);
    equal(&asking.act(&refused)?.as_str(), &"EPERM")?;
    let request = daemon.request_of(&agent.name)?;
    let programs = programs(daemon)?;
    let load = agent
        .command(&["actor", &format!("connect-for {} 6000", shut.at)])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    thread::sleep(Duration::from_millis(1500));
    daemon.kill()?;
    thread::sleep(Duration::from_millis(1500));
    daemon.begin()?;
    let output = load.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let tried: u64 = said.split(' ').nth(1).and_then(|tried| tried.parse().ok()).unwrap_or(0);
    equal(&(tried > 100 && said.trim().ends_with("passed 0")), &true).map_err(|_| said.clone())?;
    equal(&shut.met(), &0)?;
    // The same programs run, and none was loaded anew.
    equal(&daemon.json(&["status"])?["taken_over"], &Value::Bool(true))?;
    equal(&self::programs(daemon)?, &programs)?;
    // What was counted before and after the death is one count.
    equal(&asking.act(&refused)?.as_str(), &"EPERM")?;
    let agents = daemon.json(&["agents"])?;
    let counted = agents
        .as_array()
        .into_iter()
        .flatten()
        .find(|listed| listed["agent"] == agent.name.as_str())
        .and_then(|listed| listed["counts"]["block"].as_u64());
    equal(&counted, &Some(2)).map_err(|_| format!("{agents:#}"))?;
    // The request is shown again, under the name it had, and can be answered.
    equal(&daemon.request_of(&agent.name)?["id"], &request["id"])?;
    let answer = daemon.cli(&["approvals", "approve", request["id"].as_str().unwrap_or_default()])?;
    equal(&answer.status.success(), &true)?;
    equal(&asking.act(&format!("talk {}", ask.at))?.as_str(), &"ask")?;
    asking.end()?;
    Ok(PASS)
}

/// The kernel's numbers of the attached programs, none of which may have been skipped.
fn programs(daemon: &Daemon) -> Result<Vec<(Value, Value)>, Failed> {
    let status = daemon.json(&["status"])?;
    let programs = status["programs"].as_array().ok_or("no programs")?;
    equal(&programs.iter().all(|program| program["recursion_misses"] == 0), &true)
        .map_err(|_| format!("{programs:#?}"))?;
    Ok(programs.iter().map(|program| (program["program"].clone(), program["id"].clone())).collect())
}

fn other_layout(daemon: &Daemon) -> Outcome {
    use aya::maps::{Array, Map, MapData};
    use enforcer_common::{agent::Meta, limits::LAYOUT_VERSION};
    daemon.kill()?;
    let pin = daemon.pins().join("maps/META");
    let mut meta: Array<_, Meta> = Map::from_map_data(MapData::from_pin(&pin)?)?.try_into()?;
    let real = meta.get(&0, 0)?;
    meta.set(0, Meta { layout_version: LAYOUT_VERSION + 1, ..real }, 0)?;
    let refused = daemon.begin().err().ok_or("the pins of another layout were taken over")?.to_string();
    meta.set(0, real, 0)?;
    let told = refused.contains(&(LAYOUT_VERSION + 1).to_string()) && refused.contains("unload");
    equal(&told, &true).map_err(|_| refused)?;
    daemon.begin()?;
    Ok(PASS)
}
