//! The verdicts that remember: throttle, sandbox and escalate; audit mode, and what an agent is told.

use std::{
    io::{BufRead as _, BufReader},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Agent, Daemon, TcpServer, UdpServer, policy};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, lsm_trial, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("redirect::a_connect_goes_to_the_replica_unseen", || redirect_tcp("127.0.0.1")),
        trial("redirect::a_v6_connect_goes_to_the_replica_unseen", || redirect_tcp("::1")),
        trial("redirect::a_v4_mapped_connect_goes_to_the_replica_unseen", redirect_mapped),
        trial("redirect::a_fast_open_goes_to_the_replica", redirect_fast_open),
        trial("redirect::datagrams_go_to_the_replica_unseen", || redirect_udp("127.0.0.1")),
        trial("redirect::v6_datagrams_go_to_the_replica_unseen", || redirect_udp("::1")),
        trial("throttle::passes_at_the_burst_and_rate_written", throttle),
        trial("escalate::an_approved_retry_passes_once", approved),
        trial("escalate::an_answer_for_two_uses_passes_twice", approved_twice),
        trial("escalate::a_datagram_asks_too", datagram_asks),
        trial("escalate::a_rejected_retry_is_refused", rejected),
        trial("escalate::nobody_answers_in_time", timed_out),
        trial("escalate::the_time_out_may_allow_where_it_is_written", timed_out_to_allow),
        trial("escalate::a_remembered_answer_holds_for_its_time", remembered),
        trial("escalate::equal_requests_are_one_and_others_are_not", equal_requests),
        trial("escalate::one_agent_leaves_room_for_the_others", room_for_requests),
        trial("escalate::a_time_out_refuses_also_where_no_grant_fits", room_for_grants),
        trial("audit::everything_passes_and_is_told", audit),
        trial("why::an_agent_learns_its_own_refusals_only", why),
        lsm_trial(
            "why::no_agent_reaches_the_control_socket",
            "the kernel refuses by the mark, which needs BPF LSM",
            control_socket,
        ),
    ]
}

fn redirect_tcp(address: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, replica) = (TcpServer::start(address, "real")?, TcpServer::start(address, "replica")?);
    let agent = daemon.agent(&redirect(&real.at.to_string(), real.at.port(), &replica.at.to_string()))?;
    let came = agent.act(&[&format!("talk {}", real.at), &format!("peer {}", real.at)])?;
    equal(&came, &["replica".to_owned(), real.at.to_string()])?;
    equal(&real.met(), &0)?;
    let events = agent.expect_events(2, |event| event["port"] == real.at.port())?;
    equal(&events.iter().all(|event| event["verdict"] == "sandbox"), &true)?;
    Ok(PASS)
}

fn redirect_mapped() -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, replica) = (TcpServer::start("127.0.0.1", "real")?, TcpServer::start("127.0.0.1", "replica")?);
    let agent = daemon.agent(&redirect(&real.at.to_string(), real.at.port(), &replica.at.to_string()))?;
    let asked = format!("[::ffff:127.0.0.1]:{}", real.at.port());
    let came = agent.act(&[&format!("talk {asked}"), &format!("peer {asked}")])?;
    equal(&came, &["replica", asked.as_str()])?;
    equal(&real.met(), &0)?;
    Ok(PASS)
}

fn redirect_fast_open() -> Outcome {
    std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3")?;
    let daemon = Daemon::shared()?;
    let (real, replica) = (TcpServer::start("127.0.0.1", "real")?, TcpServer::start("127.0.0.1", "replica")?);
    let agent = daemon.agent(&redirect(&real.at.to_string(), real.at.port(), &replica.at.to_string()))?;
    equal(&agent.act(&[&format!("fastopen {}", real.at)])?, &["ok"])?;
    equal(&(real.met(), replica.met()), &(0, 1))?;
    agent.expect_events(1, |event| event["port"] == real.at.port())?;
    Ok(PASS)
}

fn redirect_udp(address: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, replica) = (UdpServer::start(address, "real")?, UdpServer::start(address, "replica")?);
    let agent = daemon.agent(&redirect(&real.at.to_string(), real.at.port(), &replica.at.to_string()))?;
    let came = agent.act(&[
        &format!("ask {}", real.at),
        &format!("udp-connected-ask {}", real.at),
        &format!("udp-peer {}", real.at),
    ])?;
    let answer = format!("{} replica", real.at);
    equal(&came, &[answer.clone(), answer, real.at.to_string()])?;
    equal(&real.met(), &0)?;
    Ok(PASS)
}

fn redirect(to: &str, port: u16, replica: &str) -> String {
    let address = to.rsplit_once(':').map_or(to, |(address, _)| address).trim_matches(['[', ']']);
    policy(&format!(
        "[[network]]\nname = \"replica\"\naction = \"sandbox\"\nto = [\"{address}\"]\nports = [{port}]\nredirect = \"{replica}\"\n"
    ))
}

fn throttle() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let rule = format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{}]\nrate = \"1/3s\"\nburst = 3\n",
        server.at.port()
    );
    let agent = daemon.agent(&policy(&rule))?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", server.at);
    let mut came = Vec::new();
    for _ in 0..5 {
        came.push(acting.act(&talk)?);
    }
    equal(&came, &["open", "open", "open", "EAGAIN", "EAGAIN"])?;
    thread::sleep(Duration::from_millis(3200));
    equal(&[acting.act(&talk)?, acting.act(&talk)?], &["open".to_owned(), "EAGAIN".to_owned()])?;
    acting.end()?;
    let events = agent.expect_events(7, |event| event["port"] == server.at.port())?;
    equal(&events.iter().filter(|event| event["verdict"] == "throttle").count(), &3)?;
    Ok(PASS)
}

/// An agent that has to ask for a server, and the action that asks.
fn asking<'d>(daemon: &'d Daemon, server: &TcpServer, more: &str) -> Result<(Agent<'d>, String), Failed> {
    let rule = format!(
        "[[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{}]\n{more}\n",
        server.at.port()
    );
    Ok((daemon.agent(&policy(&rule))?, format!("talk {}", server.at)))
}

fn id(request: &Value) -> String {
    request["id"].as_str().unwrap_or_default().to_owned()
}

fn approved() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "")?;
    let mut acting = agent.start()?;
    equal(&[acting.act(&talk)?, acting.act(&talk)?], &["EAGAIN".to_owned(), "EAGAIN".to_owned()])?;
    equal(&server.met(), &0)?;
    let request = daemon.request_of(&agent.name)?;
    equal(&request["object"], &Value::from(format!("tcp {}", server.at)))?;
    equal(&request["rule"], &Value::from("ask"))?;
    let answer = daemon.cli(&["approvals", "approve", &id(&request)])?;
    equal(&answer.status.success(), &true)?;
    // Once, since nothing was said about how long it is remembered.
    equal(&[acting.act(&talk)?, acting.act(&talk)?], &["open".to_owned(), "EAGAIN".to_owned()])?;
    acting.end()?;
    // Filed, granted, filed anew: the retries in between make no events.
    agent.expect_events(3, |event| event["port"] == server.at.port())?;
    Ok(PASS)
}

fn approved_twice() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    let request = daemon.request_of(&agent.name)?;
    let answer = daemon.cli(&["approvals", "approve", &id(&request), "--uses", "2"])?;
    equal(&answer.status.success(), &true).map_err(|_| format!("{answer:?}"))?;
    let came = [acting.act(&talk)?, acting.act(&talk)?, acting.act(&talk)?];
    equal(&came, &["open", "open", "EAGAIN"])?;
    acting.end()?;
    Ok(PASS)
}

fn datagram_asks() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = UdpServer::start("127.0.0.1", "open")?;
    let port = server.at.port();
    let agent = daemon.agent(&policy(&format!(
        "[[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{port}]\n"
    )))?;
    let mut acting = agent.start()?;
    let ask = format!("ask {}", server.at);
    equal(&acting.act(&ask)?.as_str(), &"EBUSY")?;
    equal(&server.met(), &0)?;
    let request = daemon.request_of(&agent.name)?;
    equal(&request["object"], &Value::from(format!("udp {}", server.at)))?;
    equal(&daemon.cli(&["approvals", "approve", &id(&request)])?.status.success(), &true)?;
    equal(&acting.act(&ask)?, &format!("{} open", server.at))?;
    acting.end()?;
    Ok(PASS)
}

fn rejected() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "remember = \"1h\"")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    let request = daemon.request_of(&agent.name)?;
    equal(&daemon.cli(&["approvals", "reject", &id(&request)])?.status.success(), &true)?;
    equal(&[acting.act(&talk)?, acting.act(&talk)?], &["EPERM".to_owned(), "EPERM".to_owned()])?;
    acting.end()?;
    Ok(PASS)
}

fn timed_out() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "timeout = \"1s\"\nremember = \"1h\"")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    thread::sleep(Duration::from_millis(3000));
    equal(&acting.act(&talk)?.as_str(), &"EPERM")?;
    acting.end()?;
    Ok(PASS)
}

fn timed_out_to_allow() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "timeout = \"1s\"\non_timeout = \"allow\"")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    thread::sleep(Duration::from_millis(3000));
    equal(&acting.act(&talk)?.as_str(), &"open")?;
    acting.end()?;
    Ok(PASS)
}

fn remembered() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "remember = \"4s\"")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    let request = daemon.request_of(&agent.name)?;
    equal(&daemon.cli(&["approvals", "approve", &id(&request)])?.status.success(), &true)?;
    equal(&[acting.act(&talk)?, acting.act(&talk)?], &["open".to_owned(), "open".to_owned()])?;
    thread::sleep(Duration::from_millis(4500));
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    acting.end()?;
    Ok(PASS)
}

fn equal_requests() -> Outcome {
    let daemon = Daemon::shared()?;
    let (one, other) = (TcpServer::start("127.0.0.1", "one")?, TcpServer::start("127.0.0.1", "other")?);
    let rule = format!(
        "[[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{}, {}]\n",
        one.at.port(),
        other.at.port()
    );
    let agent = daemon.agent(&policy(&rule))?;
    let actor = format!("actor 'talk {}'", one.at);
    // Two processes ask for the same, and one for something else; they are all through when it says so.
    let script = format!("{actor}; {actor}; actor 'talk {}'; echo done; read rest", other.at);
    let mut child = agent
        .command(&["bash", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let came: Vec<String> = output.lines().take(4).collect::<Result<_, _>>()?;
    equal(&came, &["EAGAIN", "EAGAIN", "EAGAIN", "done"])?;
    let objects: Vec<Value> = daemon
        .pending()?
        .into_iter()
        .filter(|request| request["agent"] == agent.name.as_str())
        .map(|request| request["object"].clone())
        .collect();
    drop(child.stdin.take());
    child.wait()?;
    equal(&objects.len(), &2).map_err(|_| format!("{objects:?}"))?;
    Ok(PASS)
}

/// As many requests as may wait at all, from one agent at once.
fn room_for_requests() -> Outcome {
    const ALL: u32 = enforcer_common::limits::REQUESTS_MAX;
    const SHARE: usize = enforcer_common::limits::REQUESTS_PER_AGENT as usize;
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let rule = "[[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nto = [\"127.0.0.7\"]\ntimeout = \"1h\"\n";
    let flooding = daemon.agent(&policy(rule))?;
    let mut flood = flooding.start()?;
    flood.act(&format!("sendto-ports 127.0.0.7:20000 {}", 2 * ALL))?;
    let own = || -> Result<usize, Failed> {
        let pending = daemon.pending()?;
        Ok(pending.iter().filter(|request| request["agent"] == flooding.name.as_str()).count())
    };
    let started = Instant::now();
    while own()? > SHARE && started.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(100));
    }
    equal(&own()?, &SHARE)?;
    let (agent, talk) = asking(daemon, &server, "")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    let request = daemon.request_of(&agent.name)?;
    equal(&daemon.cli(&["approvals", "approve", &id(&request)])?.status.success(), &true)?;
    equal(&acting.act(&talk)?.as_str(), &"open")?;
    acting.end()?;
    flood.end()?;
    Ok(PASS)
}

/// Another agent's refusals fill the map, as one does that lets thousands of requests run out.
fn room_for_grants() -> Outcome {
    use aya::maps::{HashMap, Map, MapData};
    use enforcer_common::{
        grant::{Grant, RequestKey},
        limits::GRANTS_MAX,
    };
    let daemon = Daemon::shared()?;
    let pin = daemon.pins().join("maps/GRANTS");
    let mut grants: HashMap<_, RequestKey, Grant> =
        Map::from_map_data(MapData::from_pin(&pin)?)?.try_into()?;
    let key = |object: u32| RequestKey { agent: u64::MAX, rule: 1, object: [u64::from(object), 1] };
    let refusal = Grant { expires_ns: u64::MAX, uses: 1, allows: 0 };
    let full = (0..=GRANTS_MAX).find(|object| grants.insert(key(*object), refusal, 0).is_err());
    let outcome = room_for_grants_in(daemon);
    for object in 0..GRANTS_MAX {
        let _ = grants.remove(&key(object));
    }
    equal(&full.is_some(), &true)?;
    outcome
}

fn room_for_grants_in(daemon: &Daemon) -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, talk) = asking(daemon, &server, "timeout = \"1s\"")?;
    let mut acting = agent.start()?;
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    thread::sleep(Duration::from_secs(4));
    equal(&acting.act(&talk)?.as_str(), &"EPERM")?;
    acting.end()?;
    Ok(PASS)
}

/// One of each verdict: all pass, to the server that was asked for, and each says what it would have been.
fn audit() -> Outcome {
    let daemon = Daemon::shared()?;
    let servers: Vec<_> = (0..4).map(|_| TcpServer::start("127.0.0.1", "real")).collect::<Result<_, _>>()?;
    let [block, slow, ask, replica] = servers.as_slice() else { return Err("four servers".into()) };
    let elsewhere = TcpServer::start("127.0.0.1", "elsewhere")?;
    let rules = format!(
        "[[network]]\naction = \"block\"\nports = [{}]\n\
         [[network]]\naction = \"throttle\"\nports = [{}]\nrate = \"1/hour\"\n\
         [[network]]\naction = \"escalate\"\nhold = \"refuse\"\nports = [{}]\n\
         [[network]]\naction = \"sandbox\"\nto = [\"127.0.0.1\"]\nports = [{}]\nredirect = \"{}\"\n",
        block.at.port(),
        slow.at.port(),
        ask.at.port(),
        replica.at.port(),
        elsewhere.at
    );
    let text = policy(&rules).replace("name = \"test\"", "name = \"test\"\nmode = \"audit\"");
    let agent = daemon.agent(&text.replace("network = \"allow\"", "network = \"block\""))?;
    let talks = [block, slow, slow, ask, replica].map(|server| format!("talk {}", server.at));
    let mut actions: Vec<_> = talks.iter().map(String::as_str).collect();
    // No rule names this one.
    actions.push("connect 127.0.0.1:9");
    let mut acting = agent.start()?;
    let came = actions.iter().map(|action| acting.act(action)).collect::<Result<Vec<_>, _>>()?;
    equal(&came, &["real", "real", "real", "real", "real", "ECONNREFUSED"])?;
    equal(&elsewhere.met(), &0)?;
    let mut events = agent.expect_events(6, |event| event["action"] == "connect")?;
    // Refusals have a ring of their own, so that the file may have them in another order.
    events.sort_by_key(|event| event["time"].to_string());
    let verdicts: Vec<_> = events.iter().map(|event| event["verdict"].as_str().unwrap_or_default()).collect();
    equal(&verdicts, &["block", "allow", "throttle", "escalate", "sandbox", "block"])
        .map_err(|_| agent.state())?;
    equal(&events.iter().all(|event| event["audit"] == true), &true).map_err(|_| agent.state())?;
    equal(&daemon.pending()?.iter().any(|request| request["agent"] == agent.name.as_str()), &false)?;
    acting.end()?;
    Ok(PASS)
}

fn why() -> Outcome {
    let daemon = Daemon::shared()?;
    let rules = "[[network]]\nname = \"no\"\naction = \"block\"\nports = [9]\nmessage = \"ask the vault\"\n";
    let (agent, other) = (daemon.agent(&policy(rules))?, daemon.agent(&policy(rules))?);
    other.act(&["connect 127.0.0.1:9"])?;
    let output = agent.run(&["bash", "-c", "actor 'connect 127.0.0.2:9' >/dev/null; enforcer why --json"])?;
    let refusals: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let refusals = refusals.as_array().ok_or("not a list")?.clone();
    equal(&refusals.len(), &1).map_err(|_| format!("{refusals:#?}"))?;
    let refusal = refusals.first().ok_or("none")?;
    equal(&(refusal["rule"].clone(), refusal["message"].clone()), &("no".into(), "ask the vault".into()))?;
    equal(&refusal["object"], &Value::from("tcp 127.0.0.2:9"))?;
    Ok(PASS)
}

fn control_socket() -> Outcome {
    let daemon = Daemon::shared()?;
    let agent = daemon.agent(&policy(""))?;
    let connect = |path: &std::path::Path| {
        format!(
            "import socket; s = socket.socket(socket.AF_UNIX)\ntry:\n  s.connect('{}'); print('ok')\nexcept OSError as e: print(e.errno)",
            path.display()
        )
    };
    for (socket, expected) in [(daemon.control_socket(), "1"), (daemon.agents_socket(), "ok")] {
        let output = agent.run(&["python3", "-c", &connect(&socket)])?;
        equal(&String::from_utf8_lossy(&output.stdout).trim(), &expected)?;
    }
    Ok(PASS)
}
