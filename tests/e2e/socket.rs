//! Sockets as few programs use them. What is decided is what happens, whichever way the kernel takes from the one to
//! the other, and honest work on such sockets goes on.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use enforcer_tests::harness::{Agent, Daemon, TcpServer, UdpServer, cgroup_mount, policy};
use libtest_mimic::{Failed, Trial};
use nix::errno::Errno;
use serde_json::Value;

use crate::trial::{Outcome, PASS, equal, lsm_trial, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("socket::an_unspecified_address_is_loopback_whatever_the_source", unspecified),
        trial("socket::a_v4_mapped_source_reaches_v4_loopback", mapped_source),
        lsm_trial(
            "socket::an_unspecified_address_that_cannot_be_named_is_refused",
            NO_LSM,
            unspecified_foreign,
        ),
        lsm_trial("socket::a_raw_socket_is_judged_by_the_default", NO_LSM, raw),
        lsm_trial("socket::what_no_hook_can_redirect_is_refused", NO_LSM, lite),
        lsm_trial("socket::each_datagram_takes_a_token_after_leaving", NO_LSM, left),
        lsm_trial("socket::many_datagrams_of_a_foreign_socket_are_not_counted_as_one", NO_LSM, left_first),
        trial("socket::who_is_handed_a_socket_is_not_governed_by_it", handed),
        trial("socket::a_connect_to_the_replica_itself_shows_it", reconnect),
        trial("socket::a_datagram_to_the_replica_itself_is_ambiguous", ask_both),
        trial("socket::threads_that_share_a_socket_do_not_miss_the_replica", race),
        trial("socket::a_connect_that_fails_changes_no_peer", second_connect),
        trial("socket::what_a_connected_datagram_socket_sends_is_decided_once", connected_once),
        trial("socket::an_mptcp_connect_is_one_act", mptcp),
        trial("socket::an_mptcp_connect_goes_to_the_replica_unseen", mptcp_redirect),
        lsm_trial("socket::an_mptcp_socket_is_governed_after_leaving", NO_LSM, mptcp_left),
    ]
}

const NO_LSM: &str = "without BPF LSM only the sockets of a cgroup are governed";

fn about(port: u16) -> impl Fn(&Value) -> bool {
    move |event| event["port"] == port
}

fn block(to: &str, ports: &[u16]) -> String {
    policy(&format!("[[network]]\nname = \"no\"\naction = \"block\"\nto = [\"{to}\"]\nports = {ports:?}\n"))
}

fn slow(port: u16, burst: u32) -> String {
    policy(&format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{port}]\nrate = \"1/hour\"\nburst = {burst}\n"
    ))
}

fn replica(port: u16, to: &str) -> String {
    policy(&format!(
        "[[network]]\nname = \"replica\"\naction = \"sandbox\"\nto = [\"127.0.0.1\"]\nports = [{port}]\nredirect = \"{to}\"\n"
    ))
}

/// What the agent is told of its last refusal.
fn expect_reason(agent: &Agent<'_>, port: u16, reason: &str) -> Result<(), Failed> {
    let events = agent.expect_events(1, about(port))?;
    let met: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    equal(&met, &vec![reason]).map_err(|_| agent.state())?;
    Ok(())
}

fn unspecified() -> Outcome {
    let daemon = Daemon::shared()?;
    let (shut, shut_udp) = (TcpServer::start("127.0.0.9", "shut")?, UdpServer::start("127.0.0.9", "shut")?);
    let (open, open_udp) = (TcpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "open")?);
    let agent = daemon.agent(&block("127.0.0.9", &[shut.at.port(), shut_udp.at.port()]))?;
    let (tcp, udp) = (shut.at.port(), shut_udp.at.port());
    // Nobody listens at that port of 127.0.0.1.
    let came = agent.act(&[
        &format!("bound-talk 0.0.0.0:{tcp} 127.0.0.9"),
        &format!("bound-talk [::ffff:0.0.0.0]:{tcp} ::ffff:127.0.0.9"),
        &format!("bound-talk [::]:{tcp} ::ffff:127.0.0.9"),
        &format!("bound-connected-ask 0.0.0.0:{udp} 127.0.0.9"),
        &format!("bound-connected-ask [::ffff:0.0.0.0]:{udp} ::ffff:127.0.0.9"),
        &format!("bound-sendto 0.0.0.0:{udp} 127.0.0.9"),
        &format!("bound-sendto [::ffff:0.0.0.0]:{udp} ::ffff:127.0.0.9"),
        &format!("pktinfo-sendto 0.0.0.0:{udp} 127.0.0.9"),
    ])?;
    let refused = "ECONNREFUSED";
    equal(&came, &[refused, refused, refused, refused, refused, "ok", "ok", "ok"])?;
    equal(&(shut.met(), shut_udp.met()), &(0, 0))?;
    let (tcp, udp) = (open.at.port(), open_udp.at.port());
    let came = agent.act(&[
        &format!("bound-talk 0.0.0.0:{tcp} 127.0.0.1"),
        &format!("bound-talk 0.0.0.0:{tcp} 127.0.0.9"),
        &format!("bound-ask 0.0.0.0:{udp} 127.0.0.1"),
        &format!("bound-connected-ask 0.0.0.0:{udp} 127.0.0.9"),
        &format!("ask 0.0.0.0:{udp}"),
    ])?;
    let answer = format!("127.0.0.1:{udp} open");
    equal(&came, &["open", "open", &answer, &answer, &answer])?;
    agent.expect_events(2, about(tcp))?;
    agent.expect_events(3, about(udp))?;
    Ok(PASS)
}

fn mapped_source() -> Outcome {
    let daemon = Daemon::shared()?;
    let (shut, shut_udp) = (TcpServer::start("127.0.0.1", "shut")?, UdpServer::start("127.0.0.1", "shut")?);
    let (open, open_udp) = (TcpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "open")?);
    let six = TcpServer::start("::1", "six")?;
    let agent = daemon.agent(&block("127.0.0.1", &[shut.at.port(), shut_udp.at.port()]))?;
    let (tcp, udp) = (shut.at.port(), shut_udp.at.port());
    let came = agent.act(&[
        &format!("bound-talk [::]:{tcp} ::ffff:127.0.0.1"),
        &format!("bound-ask [::]:{udp} ::ffff:127.0.0.1"),
        &format!("bound-connected-ask [::]:{udp} ::ffff:127.0.0.1"),
    ])?;
    equal(&came, &["EPERM", "EPERM", "EPERM"])?;
    equal(&(shut.met(), shut_udp.met()), &(0, 0))?;
    let events = agent.expect_events(2, about(udp))?;
    equal(&events.iter().all(|event| event["address"] == "127.0.0.1"), &true).map_err(|_| agent.state())?;
    let (tcp, udp) = (open.at.port(), open_udp.at.port());
    let came = agent.act(&[
        &format!("bound-talk [::]:{tcp} ::ffff:127.0.0.1"),
        &format!("bound-ask [::]:{udp} ::ffff:127.0.0.1"),
        &format!("bound-talk [::]:{} ::1", six.at.port()),
        &format!("talk [::]:{}", six.at.port()),
    ])?;
    equal(&came, &["open", &format!("[::ffff:127.0.0.1]:{udp} open"), "six", "six"])?;
    agent.expect_events(1, about(tcp))?;
    agent.expect_events(1, about(udp))?;
    Ok(PASS)
}

fn unspecified_foreign() -> Outcome {
    let daemon = Daemon::shared()?;
    let shut = TcpServer::start("127.0.0.9", "shut")?;
    let open = TcpServer::start("127.0.0.1", "open")?;
    let agent = daemon.agent(&block("127.0.0.9", &[shut.at.port()]))?;
    let came = agent.act(&[
        &format!("leave {}", cgroup_mount()?),
        &format!("bound-talk 0.0.0.0:{} 127.0.0.9", shut.at.port()),
        &format!("talk {}", open.at),
    ])?;
    equal(&came, &["ok", "EPERM", "open"])?;
    equal(&shut.met(), &0)?;
    expect_reason(&agent, shut.at.port(), "unspecified-address")?;
    let no_lite = lite_answer()?;
    let came = agent.act(&[&format!("lite-connect 0.0.0.0:{}", shut.at.port() ^ 1)])?;
    equal(&came, &[no_lite.unwrap_or("EPERM")])?;
    Ok(PASS)
}

/// What the kernel says to all of UDP-Lite, where it has none: 7.1 has removed it.
fn lite_answer() -> Result<Option<&'static str>, Failed> {
    let came = enforcer_tests::harness::ungoverned(&["lite-sendto 127.0.0.1:9"])?;
    Ok((came == ["EPROTONOSUPPORT"]).then_some("EPROTONOSUPPORT"))
}

fn raw() -> Outcome {
    let daemon = Daemon::shared()?;
    let (open, shut) = (UdpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.9", "shut")?);
    let rule = format!(
        "[[network]]\nname = \"open\"\naction = \"allow\"\nto = [\"127.0.0.1\", \"::1\"]\nports = [{}]\n",
        open.at.port()
    );
    let closed = daemon.agent(&policy(&rule).replace("network = \"allow\"", "network = \"block\""))?;
    let send = format!("raw-sendto {} {}", open.at, shut.at);
    let came = closed.act(&[&send, "raw-sendto-unspec [::1]:0", &format!("ask {}", open.at)])?;
    equal(&came, &["EPERM", "EPERM", &format!("{} open", open.at)])?;
    equal(&shut.met(), &0)?;
    let refused = closed.events(|event| event["verdict"] == "block")?;
    let reasons: Vec<_> = refused.iter().map(|event| (&event["protocol"], &event["reason"])).collect();
    equal(&reasons, &vec![(&Value::from("other"), &Value::from("default")); 2])?;
    // Where the default allows it, it goes wherever its own header says.
    let allowed = daemon.agent(&policy(&rule.replace("\"allow\"", "\"block\"")))?;
    equal(&allowed.act(&[&send, "raw-sendto-unspec [::1]:0"])?, &["ok", "ok"])?;
    equal(&shut.met(), &1)?;
    Ok(PASS)
}

fn lite() -> Outcome {
    let daemon = Daemon::shared()?;
    let real = UdpServer::start("127.0.0.1", "real")?;
    let agent = daemon.agent(&replica(real.at.port(), "127.0.0.8:7"))?;
    let came = agent.act(&[&format!("lite-connect {}", real.at), "lite-connect 127.0.0.1:9"])?;
    if let Some(no_lite) = lite_answer()? {
        equal(&came, &[no_lite, no_lite])?;
        return Ok(PASS);
    }
    equal(&came, &["EPERM", "127.0.0.1:9"])?;
    expect_reason(&agent, real.at.port(), "redirect-protocol")?;
    // Datagrams of an unconnected socket are redirected by its hook.
    equal(&agent.act(&[&format!("lite-sendto {}", real.at)])?, &["ok"])?;
    agent.expect_events(2, about(real.at.port()))?;
    Ok(PASS)
}

fn left() -> Outcome {
    let daemon = Daemon::shared()?;
    let (server, real) = (UdpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "real")?);
    let copy = UdpServer::start("127.0.0.1", "replica")?;
    let mount = cgroup_mount()?;
    let agent = daemon.agent(&slow(server.at.port(), 2))?;
    equal(&agent.act(&[&format!("left-sendmmsg {} {mount}", server.at)])?, &["2"])?;
    equal(&server.met(), &2)?;
    agent.expect_events(3, about(server.at.port()))?;
    let agent = daemon.agent(&replica(real.at.port(), &copy.at.to_string()))?;
    equal(&agent.act(&[&format!("left-sendmmsg {} {mount}", real.at)])?, &["5"])?;
    equal(&(real.met(), copy.met()), &(0, 5))?;
    agent.expect_events(5, about(real.at.port()))?;
    Ok(PASS)
}

fn left_first() -> Outcome {
    let daemon = Daemon::shared()?;
    let (server, free) = (UdpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "free")?);
    let leave = format!("leave {}", cgroup_mount()?);
    let agent = daemon.agent(&slow(server.at.port(), 2))?;
    let came = agent.act(&[
        &leave,
        &format!("sendmmsg {} 5", server.at),
        &format!("sendmmsg {} 5", free.at),
        &format!("sendto {}", server.at),
    ])?;
    equal(&came, &["ok", "EPERM", "5", "ok"]).map_err(|_| agent.state())?;
    equal(&(server.met(), free.met()), &(1, 5))?;
    let events = agent.expect_events(2, about(server.at.port()))?;
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    equal(&reasons, &vec!["uncounted", "within-rate"])?;
    Ok(PASS)
}

/// This process takes a socket of the agent that has no token left.
fn handed() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = UdpServer::start("127.0.0.1", "open")?;
    let agent = daemon.agent(&slow(server.at.port(), 1))?;
    let mut acting = agent.start()?;
    let pid: i32 = acting.act("pid")?.parse()?;
    let number: i32 = acting.act(&format!("hold {}", server.at))?.parse()?;
    let socket = taken(pid, number)?;
    for _ in 0..3 {
        let to = nix::sys::socket::SockaddrStorage::from(server.at);
        nix::sys::socket::sendto(socket.as_raw_fd(), b"hello", &to, nix::sys::socket::MsgFlags::empty())?;
    }
    equal(&acting.act(&format!("sendto {}", server.at))?.as_str(), &"EBUSY")?;
    acting.end()?;
    equal(&server.met(), &4)?;
    agent.expect_events(2, about(server.at.port()))?;
    Ok(PASS)
}

/// Another process's descriptor.
fn taken(pid: i32, number: i32) -> Result<OwnedFd, Failed> {
    // SAFETY: calls without pointers, whose descriptors nobody else has.
    unsafe {
        let process = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        let process = OwnedFd::from_raw_fd(process as i32);
        let taken = Errno::result(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0))?;
        Ok(OwnedFd::from_raw_fd(taken as i32))
    }
}

fn reconnect() -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, copy) = (UdpServer::start("127.0.0.1", "real")?, UdpServer::start("127.0.0.1", "replica")?);
    let agent = daemon.agent(&replica(real.at.port(), &copy.at.to_string()))?;
    let came = agent.act(&[&format!("reconnect-peers {} {}", real.at, copy.at)])?;
    equal(&came, &[format!("{} {}", real.at, copy.at)])?;
    let came = agent.act(&[&format!("reconnect-peers {} {}", copy.at, real.at)])?;
    equal(&came, &[format!("{} {}", copy.at, real.at)])?;
    Ok(PASS)
}

fn ask_both() -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, copy) = (UdpServer::start("127.0.0.1", "real")?, UdpServer::start("127.0.0.1", "replica")?);
    let agent = daemon.agent(&replica(real.at.port(), &copy.at.to_string()))?;
    let came = agent.act(&[&format!("ask-both {} {}", real.at, copy.at)])?;
    equal(&came, &[format!("{} replica, EPERM", real.at)])?;
    expect_reason(&agent, copy.at.port(), "redirect-ambiguous")?;
    // By a socket that hides nothing, and by one that hid nothing yet.
    let other = UdpServer::start("127.0.0.1", "other")?;
    let came = agent.act(&[
        &format!("ask {}", copy.at),
        &format!("ask-both {} {}", copy.at, real.at),
        &format!("ask-both {} {}", real.at, other.at),
    ])?;
    let (real, copy) = (real.at, copy.at);
    equal(
        &came,
        &[
            format!("{copy} replica"),
            format!("{copy} replica, {real} replica"),
            format!("{real} replica, {} other", other.at),
        ],
    )?;
    Ok(PASS)
}

fn race() -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, copy) = (UdpServer::start("127.0.0.1", "real")?, UdpServer::start("127.0.0.1", "replica")?);
    let text = replica(real.at.port(), &copy.at.to_string());
    let agent = daemon.agent(&text.replace("log = \"all\"\n", ""))?;
    equal(&agent.act(&[&format!("race-sendto {} 2000", real.at)])?, &["8000 of 8000"])?;
    equal(&real.met(), &0)?;
    equal(&(copy.met() > 0), &true)?;
    Ok(PASS)
}

fn second_connect() -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, copy) = (TcpServer::start("127.0.0.1", "real")?, TcpServer::start("127.0.0.1", "replica")?);
    let agent = daemon.agent(&replica(real.at.port(), &copy.at.to_string()))?;
    let came = agent.act(&[
        &format!("peer-after-second {} {}", real.at, copy.at),
        &format!("peer-after-second {} {}", copy.at, real.at),
    ])?;
    equal(&came, &[format!("Err(EISCONN) {}", real.at), format!("Err(EISCONN) {}", copy.at)])?;
    Ok(PASS)
}

fn connected_once() -> Outcome {
    let daemon = Daemon::shared()?;
    let (server, real) = (UdpServer::start("127.0.0.1", "open")?, UdpServer::start("127.0.0.1", "real")?);
    let copy = UdpServer::start("127.0.0.1", "replica")?;
    let (port, from) = (server.at.port(), real.at.port());
    let rule = format!(
        "[[network]]\nname = \"slow\"\naction = \"throttle\"\nports = [{port}]\nrate = \"1/hour\"\nburst = 2\n\
         [[network]]\nname = \"replica\"\naction = \"sandbox\"\nto = [\"127.0.0.1\"]\nports = [{from}]\nredirect = \"{}\"\n",
        copy.at
    );
    let agent = daemon.agent(&policy(&rule).replace("network = \"allow\"", "network = \"block\""))?;
    // The kernel sends what a connected IPv6 socket sends to IPv4 as if it had been given the address.
    let came = agent.act(&[
        &format!("tos-connected-ask {}", server.at),
        &format!("udp-connected-ask [::ffff:127.0.0.1]:{port}"),
        &format!("udp-connected-ask [::ffff:127.0.0.1]:{from}"),
    ])?;
    equal(
        &came,
        &[
            format!("{} open", server.at),
            format!("[::ffff:127.0.0.1]:{port} open"),
            format!("[::ffff:127.0.0.1]:{from} replica"),
        ],
    )?;
    equal(&real.met(), &0)?;
    agent.expect_events(2, about(port))?;
    agent.expect_events(1, about(from))?;
    agent.expect_events(0, |event| event["verdict"] == "block")?;
    Ok(PASS)
}

fn mptcp() -> Outcome {
    let daemon = Daemon::shared()?;
    let (server, shut) = (TcpServer::start("127.0.0.1", "open")?, TcpServer::start("127.0.0.1", "shut")?);
    let agent = daemon.agent(&slow(server.at.port(), 3))?;
    let talk = format!("mptcp-talk {}", server.at);
    let mapped = format!("mptcp-talk [::ffff:127.0.0.1]:{}", server.at.port());
    let came = agent.act(&[&talk, &mapped, &talk, &talk])?;
    equal(&came, &["open", "open", "open", "EAGAIN"])?;
    agent.expect_events(4, about(server.at.port()))?;
    let agent = daemon.agent(&block("127.0.0.1", &[shut.at.port()]))?;
    equal(&agent.act(&[&format!("mptcp-talk {}", shut.at), &talk])?, &["EPERM", "open"])?;
    equal(&shut.met(), &0)?;
    agent.expect_events(1, about(shut.at.port()))?;
    Ok(PASS)
}

fn mptcp_redirect() -> Outcome {
    let daemon = Daemon::shared()?;
    let (real, copy) = (TcpServer::start("127.0.0.1", "real")?, TcpServer::start("127.0.0.1", "replica")?);
    let agent = daemon.agent(&replica(real.at.port(), &copy.at.to_string()))?;
    let came = agent.act(&[&format!("mptcp-talk {}", real.at), &format!("mptcp-peer {}", real.at)])?;
    equal(&came, &["replica".to_owned(), real.at.to_string()])?;
    equal(&real.met(), &0)?;
    let events = agent.expect_events(2, about(real.at.port()))?;
    equal(&events.iter().all(|event| event["verdict"] == "sandbox"), &true)?;
    Ok(PASS)
}

fn mptcp_left() -> Outcome {
    let daemon = Daemon::shared()?;
    let (shut, real) = (TcpServer::start("127.0.0.1", "shut")?, TcpServer::start("127.0.0.1", "real")?);
    let (copy, open) = (TcpServer::start("127.0.0.1", "replica")?, TcpServer::start("127.0.0.1", "open")?);
    let mount = cgroup_mount()?;
    for (text, at, came) in [
        (block("127.0.0.1", &[shut.at.port()]), shut.at, "EPERM"),
        (block("127.0.0.1", &[shut.at.port()]), open.at, "open"),
        (replica(real.at.port(), &copy.at.to_string()), real.at, "replica"),
    ] {
        let agent = daemon.agent(&text)?;
        equal(&agent.act(&[&format!("mptcp-left-talk {at} {mount}")])?, &[came])?;
        agent.expect_events(1, about(at.port()))?;
    }
    equal(&(shut.met(), real.met()), &(0, 0))?;
    Ok(PASS)
}
