//! One act is one decision: it takes one token and is counted once, however many hooks it passes. That it makes one
//! event is shown in `network.rs`.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use enforcer_tests::harness::{Acting, Agent, Daemon, TcpServer, UdpServer, policy};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::trial::{Outcome, PASS, equal, lsm_trial, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("acts::a_connect_takes_one_token", connect),
        trial("acts::a_connect_that_is_not_answered_takes_one_token", refused_port),
        trial("acts::a_datagram_takes_one_token", datagram),
        trial("acts::what_a_connected_datagram_socket_sends_takes_none", connected_datagrams),
        trial("acts::a_fast_open_takes_one_token", fast_open),
        lsm_trial(
            "acts::what_a_chain_of_interpreters_comes_to_is_counted",
            "programs are governed with BPF LSM only",
            interpreters,
        ),
        trial("acts::each_is_counted_once_by_its_rule_and_verdict", counted),
    ]
}

/// An agent with so many tokens for a port, and none for an hour afterwards.
fn agent_with_tokens(port: u16, tokens: u32) -> Result<Agent<'static>, Failed> {
    let rule = format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{port}]\nrate = \"1/hour\"\nburst = {tokens}\n"
    );
    Ok(Daemon::shared()?.agent(&policy(&rule))?)
}

fn repeat(agent: &Agent<'_>, action: &str, times: usize) -> Result<Vec<String>, Failed> {
    Ok(agent.act(&vec![action; times])?)
}

fn connect() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = agent_with_tokens(server.at.port(), 3)?;
    equal(&repeat(&agent, &format!("talk {}", server.at), 4)?, &["open", "open", "open", "EAGAIN"])?;
    equal(&server.met(), &3)?;
    Ok(PASS)
}

fn refused_port() -> Outcome {
    let agent = agent_with_tokens(9, 2)?;
    equal(&repeat(&agent, "connect 127.0.0.1:9", 3)?, &["ECONNREFUSED", "ECONNREFUSED", "EAGAIN"])?;
    agent.expect_events(3, |event| event["port"] == 9)?;
    Ok(PASS)
}

fn datagram() -> Outcome {
    let server = UdpServer::start("127.0.0.1", "open")?;
    let agent = agent_with_tokens(server.at.port(), 3)?;
    equal(&repeat(&agent, &format!("sendto {}", server.at), 4)?, &["ok", "ok", "ok", "EBUSY"])?;
    equal(&server.met(), &3)?;
    agent.expect_events(4, |event| event["port"] == server.at.port())?;
    Ok(PASS)
}

fn connected_datagrams() -> Outcome {
    let server = UdpServer::start("127.0.0.1", "open")?;
    let agent = agent_with_tokens(server.at.port(), 1)?;
    let answer = format!("{} open", server.at);
    equal(&repeat(&agent, &format!("udp-connected-ask {}", server.at), 2)?, &[answer.as_str(), "EAGAIN"])?;
    agent.expect_events(2, |event| event["port"] == server.at.port())?;
    Ok(PASS)
}

fn fast_open() -> Outcome {
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3")?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = agent_with_tokens(server.at.port(), 2)?;
    equal(&repeat(&agent, &format!("fastopen {}", server.at), 3)?, &["ok", "ok", "EAGAIN"])?;
    equal(&server.met(), &2)?;
    agent.expect_events(3, |event| event["port"] == server.at.port())?;
    Ok(PASS)
}

fn counted() -> Outcome {
    let (open, slow) = (TcpServer::start("127.0.0.1", "open")?, TcpServer::start("127.0.0.1", "slow")?);
    let asked = TcpServer::start("127.0.0.1", "asked")?;
    let rules = format!(
        "[[network]]\nname = \"no\"\naction = \"block\"\nports = [9]\n\
         [[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{}]\nrate = \"1/hour\"\n\
         [[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{}]\n\
         [[network]]\nname = \"replica\"\naction = \"sandbox\"\nto = [\"127.0.9.9\"]\nredirect = \"{}\"\n",
        slow.at.port(),
        asked.at.port(),
        open.at
    );
    let agent = Daemon::shared()?.agent(&policy(&rules))?;
    let mut acting = agent.start()?;
    // Until it answers it may not be there yet.
    acting.act("pid")?;
    let (slow, asked) = (format!("talk {}", slow.at), format!("talk {}", asked.at));
    counts_move(&agent, &mut acting, &format!("talk {}", open.at), "open", None, "allow")?;
    counts_move(&agent, &mut acting, "connect 127.0.0.1:9", "EPERM", Some("no"), "block")?;
    counts_move(&agent, &mut acting, "sendto 127.0.0.1:9", "EPERM", Some("no"), "block")?;
    counts_move(&agent, &mut acting, &slow, "slow", Some("slow"), "allow")?;
    counts_move(&agent, &mut acting, &slow, "EAGAIN", Some("slow"), "throttle")?;
    // A retry is told once and counted each time.
    counts_move(&agent, &mut acting, &asked, "EAGAIN", Some("ask"), "escalate")?;
    counts_move(&agent, &mut acting, &asked, "EAGAIN", Some("ask"), "escalate")?;
    counts_move(&agent, &mut acting, "talk 127.0.9.9:80", "open", Some("replica"), "sandbox")?;
    acting.end()?;
    Ok(PASS)
}

/// In audit mode an exec goes on after a refusal: of a chain of interpreters only the last refusal counts.
fn interpreters() -> Outcome {
    let folder = "/srv/e2e-chain";
    fs::create_dir_all(folder)?;
    fs::copy("/usr/bin/true", format!("{folder}/c"))?;
    for (name, next) in [("a", "b"), ("b", "c")] {
        let path = format!("{folder}/{name}");
        fs::write(&path, format!("#!{folder}/{next}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let rules = ["allow", "block", "block"].iter().zip(["a", "b", "c"]).map(|(action, name)| {
        format!("[[exec]]\nname = \"{name}\"\naction = \"{action}\"\npaths = [\"{folder}/{name}\"]\n")
    });
    let agent = Daemon::shared()?.agent(&policy(&rules.collect::<String>()).replacen(
        "name =",
        "mode = \"audit\"\nname =",
        1,
    ))?;
    let mut acting = agent.start()?;
    acting.act("pid")?;
    equal(&acting.act(&format!("exec {folder}/a"))?.as_str(), &"exit 0")?;
    thread::sleep(Duration::from_millis(20));
    let state = agent.counts()?;
    let counted = state["rules"].as_array().cloned().unwrap_or_default();
    let counted: Vec<_> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| counted.iter().filter(move |rule| rule["rule"] == *name))
        .map(|rule| (rule["rule"].clone(), rule["counts"]["allow"].clone(), rule["counts"]["block"].clone()))
        .collect();
    equal(&counted, &[(json!("c"), json!(0), json!(1))])?;
    acting.end()?;
    agent.expect_events(1, |event| event["path"].as_str().is_some_and(|path| path.starts_with(folder)))?;
    Ok(PASS)
}

/// Acts once: of all counters of the agent, the verdict's moves by one, in the sum and at the rule, and the rest
/// stand still.
fn counts_move(
    agent: &Agent<'_>,
    acting: &mut Acting,
    action: &str,
    came: &str,
    rule: Option<&str>,
    verdict: &str,
) -> Result<(), Failed> {
    let before = agent.counts()?;
    equal(&acting.act(action)?.as_str(), &came)?;
    thread::sleep(Duration::from_millis(20));
    let after = agent.counts()?;
    let moved = |before: &Value, after: &Value| -> Value {
        let number = |counts: &Value, verdict: &str| counts[verdict].as_i64().unwrap_or(0);
        let moves = ["allow", "throttle", "sandbox", "escalate", "block"]
            .map(|verdict| (verdict.to_owned(), json!(number(after, verdict) - number(before, verdict))));
        Value::Object(moves.into_iter().filter(|(_, moved)| *moved != 0).collect())
    };
    let once = json!({ verdict: 1 });
    let sum = moved(&before["counts"], &after["counts"]);
    equal(&sum, &once).map_err(|failed| about(action, agent, &failed))?;
    if let Some(rule) = rule {
        let at = |state: &Value| {
            let rules = state["rules"].as_array().cloned().unwrap_or_default();
            rules.into_iter().find(|entry| entry["rule"] == rule).unwrap_or_default()["counts"].clone()
        };
        equal(&moved(&at(&before), &at(&after)), &once).map_err(|failed| about(action, agent, &failed))?;
    }
    Ok(())
}

fn about(action: &str, agent: &Agent<'_>, failed: &Failed) -> Failed {
    format!("`{action}`: {}\n{}", failed.message().unwrap_or_default(), agent.state()).into()
}
