//! Where a thread is held, and what that does to the cgroups around it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use enforcer_tests::harness::{Agent, Daemon, TcpServer};
use libtest_mimic::{Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    all_gone, asking, cgroup, count_frozen, frozen, held_as, holds, output, own_requests, program,
    tables::{TABLES, all_empty, entries},
    trial, waiting,
};
use crate::{
    governed::{Context as _, eventually},
    trial::{Outcome, PASS, equal, with_spare},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("pause::a_process_is_held_where_that_is_asked_for", whole_process),
        trial("pause::a_cgroup_with_children_holds_the_process", populated),
        trial("pause::threads_of_a_process_that_is_held_as_one_wait_together", together),
        trial("pause::a_cgroup_that_is_made_meanwhile_works", made_meanwhile),
        trial("pause::a_cgroup_that_the_agent_makes_meanwhile_works", made_by_the_agent),
        trial("pause::a_process_in_a_pid_namespace_is_held", namespace),
        trial("pause::nothing_is_left_in_the_tables", nothing_left),
    ]
}

fn whole_process() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "hold = \"process\"")?;
    equal(&held_as(daemon, &request)?, "process")?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    all_gone(&agent)?;
    Ok(PASS)
}

/// The agent has a cgroup of its own with somebody in it: no thread can be held apart there.
fn populated() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let mut acting = agent.start()?;
    acting.act("pid")?;
    let mut inner = populate(&agent)?;
    acting.begin(&format!("talk {}", server.at))?;
    let request = daemon.request_of(&agent.name)?;
    equal(&held_as(daemon, &request)?, "process")?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    all_gone(&agent)?;
    inner.kill()?;
    inner.wait()?;
    Ok(PASS)
}

/// Three threads wait where only their process can be held: it is frozen once, and stays so.
fn together() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "hold = \"process\"")?;
    let go = format!("/run/enforcer-e2e-{}-go", agent.name);
    let mut child = program(&agent, include_str!("equal.py"), &[&server.at.port().to_string(), &go])?;
    let mut inner = populate(&agent)?;
    fs::write(&go, "")?;
    let request = daemon.request_of(&agent.name)?;
    equal(&held_as(daemon, &request)?, "process")?;
    let folder = cgroup(&agent)?;
    frozen(&agent, 1)?;
    // A cgroup that was made anew is another one.
    let made = || -> Result<Vec<u64>, Failed> {
        let number = |name: String| Ok(fs::metadata(folder.join(&name)).context(&name)?.ino());
        holds(&folder).into_iter().map(number).collect()
    };
    let before = made()?;
    // An agent that can thaws it, and is frozen there again.
    for hold in holds(&folder) {
        fs::write(folder.join(&hold).join("cgroup.freeze"), "0").context(&hold)?;
    }
    thread::sleep(Duration::from_millis(100));
    frozen(&agent, 1)?;
    thread::sleep(Duration::from_secs(1));
    equal(&made()?, &before)?;
    equal(&count_frozen(&folder), &1)?;
    equal(&server.met(), &0)?;
    // Whoever had not begun to wait when the process was frozen asks for itself.
    while child.try_wait()?.is_none() {
        for request in own_requests(&agent)? {
            daemon.answer(&request, "approve")?;
        }
        thread::sleep(Duration::from_millis(100));
    }
    equal(&output(child)?, "open open open")?;
    fs::remove_file(&go)?;
    inner.kill()?;
    inner.wait()?;
    Ok(PASS)
}

/// Puts a process into a cgroup below that of an agent, which then holds no thread alone.
fn populate(agent: &Agent<'_>) -> Result<Child, Failed> {
    let inner = std::process::Command::new("sleep").arg("60").spawn()?;
    let pid = inner.id().to_string();
    let folder = cgroup(agent)?.join("inner");
    let policy = agent.policy().display().to_string();
    let attached = agent.daemon.cli(&["attach", "--policy", &policy, "--agent", &agent.name, &pid])?;
    equal(&attached.status.success(), &true).map_err(|_| format!("{attached:?}"))?;
    fs::create_dir(&folder).context(folder.display())?;
    fs::write(folder.join("cgroup.procs"), &pid).context("move a process down")?;
    Ok(inner)
}

/// A cgroup that the agent makes while a thread of it is held is as good as any once the thread goes on.
fn made_meanwhile() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let (agent, mut acting, request) = waiting(daemon, &server, "")?;
    let later = cgroup(&agent)?.join("later");
    fs::create_dir(&later).context(later.display())?;
    daemon.answer(&request, "approve")?;
    equal(&acting.came()?, "open")?;
    all_gone(&agent)?;
    fs::write(later.join("cgroup.procs"), acting.act("pid")?).context("move a process down")?;
    equal(&acting.act("pid")?.is_empty(), &false)?;
    Ok(PASS)
}

fn namespace() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let talk = format!("talk {}", server.at);
    let mut command = agent.command(&["unshare", "--fork", "--pid", "actor", &talk]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let request = daemon.request_of(&agent.name)?;
    frozen(&agent, 1)?;
    daemon.answer(&request, "approve")?;
    equal(&output(child)?, "open")?;
    Ok(PASS)
}

/// The agent makes a cgroup while a thread of it is held, and uses it afterwards.
fn made_by_the_agent() -> Outcome {
    let daemon = Daemon::shared()?;
    let server = TcpServer::start("127.0.0.1", "open")?;
    let agent = asking(daemon, server.at.port(), "")?;
    let root = daemon.cgroup_root()?;
    let mount = root.parent().ok_or("no mount")?.display().to_string();
    let child = program(&agent, include_str!("made.py"), &[&mount, &server.at.port().to_string()])?;
    let request = daemon.request_of(&agent.name)?;
    let folder = cgroup(&agent)?;
    eventually("it is made", || Ok(folder.join("own").exists().then_some(())))?;
    frozen(&agent, 1)?;
    equal(&server.met(), &0)?;
    daemon.answer(&request, "approve")?;
    equal(&output(child)?, "open /own")?;
    Ok(PASS)
}

/// Once all is over, the tables of who waits have nobody in them, and the agent's cgroup can be removed.
fn nothing_left() -> Outcome {
    with_spare(|daemon| {
        let server = TcpServer::start("127.0.0.1", "open")?;
        let agent = asking(daemon, server.at.port(), "")?;
        // Of those who had the daemon before.
        all_empty(daemon)?;
        let child = program(&agent, include_str!("equal.py"), &[&server.at.port().to_string()])?;
        let request = daemon.request_of(&agent.name)?;
        frozen(&agent, 3)?;
        for (table, expected) in TABLES.into_iter().zip([3, 1, 1, 1]) {
            equal(&entries(daemon, table)?, &expected).map_err(|_| table)?;
        }
        daemon.answer(&request, "approve")?;
        equal(&output(child)?, "open open open")?;
        all_empty(daemon)?;
        // One that is ended while it waits.
        let mut acting = agent.start()?;
        let pid = acting.act("pid")?;
        let folder = cgroup(&agent)?;
        acting.begin(&format!("talk {}", server.at))?;
        daemon.request_of(&agent.name)?;
        frozen(&agent, 1)?;
        kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL)?;
        acting.child.wait()?;
        all_empty(daemon)?;
        // The daemon may be faster.
        eventually("the agent's cgroup goes", || {
            Ok((fs::remove_dir(&folder).is_ok() || !folder.exists()).then_some(()))
        })?;
        Ok(PASS)
    })
}
