//! A policy replaces another while its agent runs, and answers hold for as long as the rule means the same.

use std::{fs, thread};

use enforcer_tests::harness::{Agent, Daemon, TcpServer, policy};
use libtest_mimic::{Failed, Trial};

use crate::trial::{Outcome, PASS, equal, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("replace::the_next_action_is_judged_by_the_new_policy", next_action),
        trial("replace::a_policy_with_an_error_leaves_the_one_in_force", broken),
        trial("replace::no_action_passes_while_policies_change", under_load),
        trial("replace::counters_go_on", counters),
        trial("replace::an_answer_outlives_names_and_order", names_and_order),
        trial("replace::an_answer_ends_when_its_rule_means_something_else", other_content),
        trial("replace::an_answer_is_of_one_agent", other_agent),
    ]
}

/// Puts the agent under another policy; what the command said.
fn apply(agent: &Agent<'_>, text: &str) -> Result<(bool, String), Failed> {
    let file = format!("/run/{}-next.toml", agent.name);
    fs::write(&file, text)?;
    let output = agent.daemon.cli(&["policy", "apply", "--agent", &agent.name, &file])?;
    fs::remove_file(&file)?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

pub(crate) fn apply_well(agent: &Agent<'_>, text: &str) -> Result<(), Failed> {
    let (good, said) = apply(agent, text)?;
    if good { Ok(()) } else { Err(said.into()) }
}

fn block(port: u16) -> String {
    policy(&format!("[[network]]\nname = \"no\"\naction = \"block\"\nports = [{port}]\n"))
}

fn next_action() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    let mut came = vec![acting.act(&talk)?];
    apply_well(&agent, &block(server.at.port()))?;
    came.push(acting.act(&talk)?);
    apply_well(&agent, &policy(""))?;
    came.push(acting.act(&talk)?);
    equal(&came, &["open", "EPERM", "open"])?;
    acting.end()?;
    Ok(PASS)
}

fn broken() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = Daemon::shared()?.agent(&block(server.at.port()))?;
    let mut acting = agent.start()?;
    let (good, said) = apply(&agent, &policy("[[network]]\naction = \"allwo\"\n"))?;
    equal(&(good, said.contains("allwo")), &(false, true)).map_err(|_| said)?;
    equal(&acting.act(&format!("talk {}", server.at))?.as_str(), &"EPERM")?;
    acting.end()?;
    Ok(PASS)
}

/// What was counted by a rule stays with it at whatever place it stands, and in the sum when it is gone.
fn counters() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "shut")?;
    let port = server.at.port();
    let agent = Daemon::shared()?.agent(&block(port))?;
    let mut acting = agent.start()?;
    let mut refused = || equal(&acting.act(&format!("talk {}", server.at))?.as_str(), &"EPERM");
    let blocked = || -> Result<(u64, Option<u64>), Failed> {
        let state = agent.counts()?;
        let rules = state["rules"].as_array().cloned().unwrap_or_default();
        let rule = rules.into_iter().find(|entry| entry["rule"] == "no");
        let sum = state["counts"]["block"].as_u64().unwrap_or_default();
        Ok((sum, rule.and_then(|entry| entry["counts"]["block"].as_u64())))
    };
    refused()?;
    refused()?;
    equal(&blocked()?, &(2, Some(2)))?;
    let other = "[[network]]\nname = \"first\"\naction = \"allow\"\nports = [1]\n";
    let moved = format!("[[network]]\nname = \"no\"\naction = \"block\"\nports = [{port}]\n");
    apply_well(&agent, &policy(&format!("{other}{moved}")))?;
    equal(&blocked()?, &(2, Some(2)))?;
    refused()?;
    equal(&blocked()?, &(3, Some(3)))?;
    apply_well(&agent, &policy(""))?;
    equal(&blocked()?, &(3, None))?;
    acting.end()?;
    Ok(PASS)
}

/// Both policies refuse the port, by rules of their own: at no moment is there none.
fn under_load() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "shut")?;
    let port = server.at.port();
    let first = block(port);
    let second = policy(
        "[[network]]\nname = \"other\"\naction = \"allow\"\nports = [1]\n\
         [[network]]\nname = \"range\"\naction = \"block\"\nto = [\"127.0.0.0/8\"]\nports = [\"2-65535\"]\n",
    );
    let agent = Daemon::shared()?.agent(&first)?;
    let mut acting = agent.start()?;
    acting.act("pid")?;
    let tried = thread::scope(|scope| {
        let changes = scope.spawn(|| {
            (0..4).try_for_each(|_| {
                apply_well(&agent, &second)?;
                apply_well(&agent, &first)
            })
        });
        let mut tried = Vec::new();
        while !changes.is_finished() {
            tried.push(acting.act(&format!("connect-for {} 300", server.at))?);
        }
        changes.join().map_err(|_| "the changes panicked")??;
        Ok::<_, Failed>(tried)
    })?;
    let passed_none = |said: &String| said.starts_with("tried ") && said.ends_with("passed 0");
    equal(&(!tried.is_empty() && tried.iter().all(passed_none)), &true).map_err(|_| format!("{tried:?}"))?;
    equal(&server.met(), &0)?;
    acting.end()?;
    Ok(PASS)
}

/// A rule that asks, with what is written before it, in it, and its name.
fn asking(port: u16, before: &str, name: &str, keys: &str) -> String {
    policy(&format!(
        "{before}[[network]]\nname = \"{name}\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{port}]\nremember = \"1h\"\n{keys}"
    ))
}

/// Has the request of an agent approved, which passes then for an hour.
fn answered(
    agent: &Agent<'_>,
    acting: &mut enforcer_tests::harness::Acting,
    talk: &str,
) -> Result<(), Failed> {
    equal(&acting.act(talk)?.as_str(), &"EAGAIN")?;
    let request = agent.daemon.request_of(&agent.name)?;
    let answer = agent.daemon.cli(&["approvals", "approve", request["id"].as_str().unwrap_or_default()])?;
    equal(&answer.status.success(), &true).map_err(|_| format!("{answer:?}"))?;
    equal(&acting.act(talk)?.as_str(), &"open")
}

fn names_and_order() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = Daemon::shared()?.agent(&asking(server.at.port(), "", "ask", ""))?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    answered(&agent, &mut acting, &talk)?;
    let before = "[[network]]\nname = \"first\"\naction = \"block\"\nports = [9]\n";
    apply_well(&agent, &asking(server.at.port(), before, "renamed", ""))?;
    equal(&acting.act(&talk)?.as_str(), &"open")?;
    acting.end()?;
    Ok(PASS)
}

fn other_content() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = Daemon::shared()?.agent(&asking(server.at.port(), "", "ask", ""))?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    answered(&agent, &mut acting, &talk)?;
    apply_well(&agent, &asking(server.at.port(), "", "ask", "on_timeout = \"allow\"\n"))?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    acting.end()?;
    Ok(PASS)
}

fn other_agent() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = asking(server.at.port(), "", "ask", "");
    let (agent, other) = (Daemon::shared()?.agent(&text)?, Daemon::shared()?.agent(&text)?);
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    answered(&agent, &mut acting, &talk)?;
    equal(&other.act(&[&talk])?, &["EAGAIN"])?;
    equal(&acting.act(&talk)?.as_str(), &"open")?;
    acting.end()?;
    Ok(PASS)
}
