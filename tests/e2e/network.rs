//! Connects and datagrams: what is allowed arrives, what is blocked fails at once and reaches nobody.

use std::sync::atomic::Ordering;

use enforcer_tests::harness::{Daemon, TcpServer, UdpServer, policy, ungoverned};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("network::v4_is_allowed_and_blocked", || tcp("127.0.0.1", "127.0.0.1")),
        trial("network::v6_is_allowed_and_blocked", || tcp("::1", "::1")),
        trial("network::v4_mapped_is_judged_as_v4", || tcp("127.0.0.1", "::ffff:127.0.0.1")),
        trial("network::the_unspecified_address_is_loopback", || tcp("127.0.0.1", "0.0.0.0")),
        trial("network::datagrams_are_allowed_and_blocked", || udp("127.0.0.1")),
        trial("network::v6_datagrams_are_allowed_and_blocked", || udp("::1")),
        trial("network::a_connected_datagram_socket_is_judged_at_its_connect", connected_udp),
        trial("network::ports_and_ranges_hold_at_their_ends", ranges),
        trial("network::the_default_decides_what_no_rule_names", default_block),
        trial("network::children_in_nested_cgroups_are_governed", nested),
        trial("network::nobody_outside_is_governed", outside),
        trial("network::one_connect_makes_one_event", one_event),
        trial("network::a_connect_that_fails_makes_one_event", failing_connects),
        trial("network::each_datagram_of_one_call_makes_one_event", many_datagrams),
        trial("network::a_fast_open_is_one_connect", fast_open),
    ]
}

/// An address and a port as an action writes them.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn about(port: u16) -> impl Fn(&Value) -> bool {
    move |event| event["port"] == port
}

fn block(port: u16) -> String {
    policy(&format!("[[network]]\nname = \"no\"\naction = \"block\"\nports = [{port}]\n"))
}

fn tcp(listen: &str, connect: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let (open, shut) = (TcpServer::start(listen, "open")?, TcpServer::start(listen, "shut")?);
    let agent = daemon.agent(&block(shut.at.port()))?;
    let (yes, no) = (at(connect, open.at.port()), at(connect, shut.at.port()));
    let came = agent.act(&[&format!("talk {yes}"), &format!("talk {no}")])?;
    equal(&came, &["open", "EPERM"])?;
    equal(&shut.met(), &0)?;
    equal(&ungoverned(&[&format!("talk {no}")])?, &["shut"])?;
    let events = agent.expect_events(1, about(shut.at.port()))?;
    equal(&events.first().map(|event| event["verdict"].clone()), &Some("block".into()))?;
    Ok(PASS)
}

fn udp(address: &str) -> Outcome {
    let daemon = Daemon::shared()?;
    let (open, shut) = (UdpServer::start(address, "open")?, UdpServer::start(address, "shut")?);
    let agent = daemon.agent(&block(shut.at.port()))?;
    let came = agent.act(&[&format!("ask {}", open.at), &format!("ask {}", shut.at)])?;
    equal(&came, &[format!("{} open", open.at), "EPERM".into()])?;
    equal(&shut.met(), &0)?;
    equal(&ungoverned(&[&format!("ask {}", shut.at)])?, &[format!("{} shut", shut.at)])?;
    let events = agent.expect_events(1, about(shut.at.port()))?;
    equal(&events.first().map(|event| event["action"].clone()), &Some("send".into()))?;
    Ok(PASS)
}

fn connected_udp() -> Outcome {
    let daemon = Daemon::shared()?;
    let (open, shut) = (UdpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "shut")?);
    let agent = daemon.agent(&block(shut.at.port()))?;
    let came =
        agent.act(&[&format!("udp-connected-ask {}", open.at), &format!("udp-connect {}", shut.at)])?;
    equal(&came, &[format!("{} open", open.at), "EPERM".into()])?;
    agent.expect_events(1, about(open.at.port()))?;
    Ok(PASS)
}

fn ranges() -> Outcome {
    let daemon = Daemon::shared()?;
    let rule = "[[network]]\nname = \"range\"\naction = \"block\"\nports = [\"20000-20007\", 20020]\nprotocols = [\"tcp\"]\n";
    let agent = daemon.agent(&policy(rule))?;
    let came = agent.act(&[
        "connect 127.0.0.1:19999",
        "connect 127.0.0.1:20000",
        "connect 127.0.0.1:20007",
        "connect 127.0.0.1:20008",
        "connect 127.0.0.1:20020",
        "connect 127.0.0.1:20021",
        // The rule is for TCP only.
        "sendto 127.0.0.1:20000",
    ])?;
    let refused = "ECONNREFUSED";
    equal(&came, &[refused, "EPERM", "EPERM", refused, "EPERM", refused, "ok"])?;
    Ok(PASS)
}

fn default_block() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let text = policy(&format!(
        "[[network]]\naction = \"allow\"\nto = [\"127.0.0.1\"]\nports = [{}]\n",
        server.at.port()
    ))
    .replace("network = \"allow\"", "network = \"block\"");
    let agent = daemon.agent(&text)?;
    let came = agent.act(&[
        &format!("talk {}", server.at),
        "connect 127.0.0.1:9",
        "connect [::1]:9",
        "connect 192.0.2.1:443",
        "sendto 192.0.2.1:53",
    ])?;
    equal(&came, &["open", "EPERM", "EPERM", "EPERM", "EPERM"])?;
    Ok(PASS)
}

fn nested() -> Outcome {
    let daemon = Daemon::shared()?;
    let shut = TcpServer::start("127.0.0.1", "shut")?;
    let agent = daemon.agent(&block(shut.at.port()))?;
    let script = format!(
        r#"here=$(sed -n 's/^0:://p' /proc/self/cgroup)
           top={}$here
           mkdir -p "$top/a/b"
           echo $$ > "$top/a/cgroup.procs" && actor "connect {at}"
           bash -c 'echo $$ > "'"$top"'/a/b/cgroup.procs" && actor "connect {at}"; true'
           echo $$ > "$top/cgroup.procs"; rmdir "$top/a/b" "$top/a"; true"#,
        enforcer_tests::harness::cgroup_mount()?,
        at = shut.at
    );
    let output = agent.run(&["bash", "-c", &script])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    equal(&said.lines().collect::<Vec<_>>(), &vec!["EPERM", "EPERM"])
        .map_err(|_| format!("{said}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    equal(&shut.met(), &0)?;
    Ok(PASS)
}

fn outside() -> Outcome {
    let daemon = Daemon::shared()?;
    let shut = TcpServer::start("127.0.0.1", "shut")?;
    let agent = daemon.agent(&block(shut.at.port()))?;
    let mut acting = agent.start()?;
    equal(&acting.act(&format!("talk {}", shut.at))?.as_str(), &"EPERM")?;
    equal(&ungoverned(&[&format!("talk {}", shut.at)])?, &["shut"])?;
    acting.end()?;
    Ok(PASS)
}

fn one_event() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = daemon.agent(&policy(""))?;
    equal(&agent.act(&[&format!("talk {}", server.at)])?, &["open"])?;
    let events = agent.expect_events(1, about(server.at.port()))?;
    equal(&events.first().map(|event| event["action"].clone()), &Some("connect".into()))?;
    equal(&server.met.load(Ordering::SeqCst), &1)?;
    Ok(PASS)
}

fn failing_connects() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = daemon.agent(&policy(""))?;
    // Port 9 refuses; the second connect of a connected socket fails between the two hooks.
    let came = agent.act(&["connect 127.0.0.1:9", &format!("connect-twice {}", server.at)])?;
    equal(&came, &["ECONNREFUSED", "EISCONN"])?;
    agent.expect_events(1, about(9))?;
    // Where the LSM hook decides, the second connect is an act of its own.
    agent.expect_events(1 + usize::from(daemon.lsm), about(server.at.port()))?;
    Ok(PASS)
}

fn many_datagrams() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = UdpServer::start("127.0.0.1", "open")?;
    let rule = format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{}]\nrate = \"10/hour\"\nburst = 3\n",
        server.at.port()
    );
    let agent = daemon.agent(&policy(&rule))?;
    equal(&agent.act(&[&format!("sendmmsg {} 5", server.at)])?, &["3"])?;
    equal(&server.met(), &3)?;
    // Three passed and the fourth did not; the kernel does not try the fifth.
    let events = agent.expect_events(4, about(server.at.port()))?;
    equal(&events.iter().filter(|event| event["verdict"] == "allow").count(), &3)?;
    Ok(PASS)
}

fn fast_open() -> Outcome {
    std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3")?;
    let daemon = Daemon::shared()?;
    let (open, shut) = (TcpServer::start("127.0.0.1", "open")?, TcpServer::start("127.0.0.1", "shut")?);
    let agent = daemon.agent(&block(shut.at.port()))?;
    let came = agent.act(&[&format!("fastopen {}", open.at), &format!("fastopen {}", shut.at)])?;
    equal(&came, &["ok", "EPERM"])?;
    for (server, verdict) in [(&open, "allow"), (&shut, "block")] {
        let events = agent.expect_events(1, about(server.at.port()))?;
        let event = events.first().ok_or("no event")?;
        equal(&(event["action"].clone(), event["verdict"].clone()), &("connect".into(), verdict.into()))?;
    }
    equal(&shut.met(), &0)?;
    Ok(PASS)
}
