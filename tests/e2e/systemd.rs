//! Agents that are units of a real systemd, which are stopped and started again while a call of theirs waits.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use enforcer_tests::harness::Daemon;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    governed::{Agent, enforcer, eventually, shell, succeed, text_of},
    trial::{Outcome, PASS, equal, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("systemd::a_unit_restarts_and_stops_while_a_thread_is_held", restarts),
        trial("systemd::a_unit_whose_process_was_attached_stops_while_a_thread_is_held", attached),
    ]
}

const RULES: &str =
    "[[file]]\nname = \"ask\"\naction = \"escalate\"\npaths = [\"@/asked-*\"]\ntimeout = \"1h\"\n";

/// What systemd takes for an end that it need not force: far below its own 90 seconds.
const SOON: Duration = Duration::from_secs(10);

/// A systemd that manages units of its own, in a cgroup of its own.
struct Manager {
    child: Child,
    runtime: PathBuf,
}

impl Manager {
    fn start(name: &str) -> Result<Self, Failed> {
        let runtime = PathBuf::from(format!("/run/e2e-{name}"));
        fs::create_dir_all(runtime.join("systemd/user"))?;
        // Without it systemd believes that it would not work.
        fs::create_dir_all("/run/systemd/system")?;
        let cgroup = format!("/sys/fs/cgroup/e2e-{name}");
        fs::create_dir_all(&cgroup)?;
        let line =
            format!("echo $$ > {cgroup}/cgroup.procs; exec /lib/systemd/systemd --user --log-target=console");
        let mut systemd = Command::new("sh");
        systemd.args(["-ec", &line]).env("XDG_RUNTIME_DIR", &runtime);
        let child = systemd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let manager = Self { child, runtime };
        eventually("systemd", || {
            let state = manager.command(&["is-system-running"]).output()?;
            Ok((state.stdout == b"running\n").then_some(()))
        })?;
        Ok(manager)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut systemctl = Command::new("systemctl");
        systemctl.arg("--user").args(arguments).env("XDG_RUNTIME_DIR", &self.runtime);
        systemctl
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String, Failed> {
        succeed(&mut self.command(arguments))
    }

    fn add(&self, unit: &str, command: &str) -> Result<(), Failed> {
        let socket = Daemon::shared()?.control_socket();
        let text = format!(
            "[Service]\nType=exec\nExecStart={command}\nSuccessExitStatus=143\nEnvironment=ENFORCER_SOCKET={}\n",
            socket.display()
        );
        fs::write(self.runtime.join("systemd/user").join(unit), text)?;
        self.ctl(&["daemon-reload"]).map(drop)
    }

    /// Does something to a unit that takes no longer than it would without governance.
    fn soon(&self, what: &str, unit: &str) -> Result<(), Failed> {
        let started = Instant::now();
        self.ctl(&[what, unit])?;
        equal(&(started.elapsed() < SOON), &true).map_err(|_| format!("{what}: {:?}", started.elapsed()))?;
        Ok(())
    }

    /// How a unit stands that has ended.
    fn ended(&self, unit: &str) -> Result<(), Failed> {
        let said = self.ctl(&["show", "-p", "ActiveState,Result", unit])?;
        let mut lines: Vec<_> = said.lines().collect();
        lines.sort_unstable();
        equal(&lines, &["ActiveState=inactive", "Result=success"])?;
        Ok(())
    }

    fn main_pid(&self, unit: &str) -> Result<u32, Failed> {
        let said = self.ctl(&["show", "-p", "MainPID", "--value", unit])?;
        said.trim().parse().map_err(|_| format!("no process: `{said}`").into())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It is asked to end, so that it ends its units.
        let _ = self.command(&["exit"]).output();
        let _ = self.child.wait();
    }
}

/// The request of an agent for this file, of a process other than one, once its thread is frozen.
fn held(agent: &Agent, file: &str, other_than: Option<u64>) -> Result<(String, u64), Failed> {
    let path = agent.at(file);
    eventually("a held thread", || {
        let list: Value = serde_json::from_str(&enforcer(&["approvals", "list", "--json"])?)?;
        let own = |request: &&Value| {
            text_of(request, "agent") == agent.name
                && text_of(request, "object") == path
                && text_of(request, "hold") == "thread"
                && request["pid"].as_u64() != other_than
        };
        let found = list.as_array().into_iter().flatten().find(own);
        Ok(found.and_then(|request| Some((text_of(request, "id").to_owned(), request["pid"].as_u64()?))))
    })
}

/// Waits until nothing is left of an agent: no request, no process, no cgroup.
fn gone(agent: &Agent, cgroup: &str) -> Result<(), Failed> {
    eventually("nothing is left", || {
        let requests: Value = serde_json::from_str(&enforcer(&["approvals", "list", "--json"])?)?;
        let agents: Value = serde_json::from_str(&enforcer(&["agents", "--json"])?)?;
        let is_left = [requests, agents]
            .iter()
            .any(|list| list.as_array().into_iter().flatten().any(|one| text_of(one, "agent") == agent.name));
        Ok((!is_left && !Path::new(cgroup).exists()).then_some(()))
    })
}

fn service(name: &'static str) -> Result<(Agent, String), Failed> {
    let agent = Agent::new(name, RULES)?;
    agent.file("asked-1")?;
    agent.file("asked-2")?;
    let script = agent.file("agent.py")?;
    fs::write(&script, include_str!("systemd/agent.py"))?;
    let command = format!("python3 {script} {}", agent.at(""));
    Ok((agent, command))
}

fn done(agent: &Agent) -> [bool; 2] {
    ["done-1", "done-2"].map(|name| Path::new(&agent.at(name)).exists())
}

/// The unit stops while its second call waits: that has had no effect, and nothing is left.
fn stops(manager: &Manager, unit: &str, agent: &Agent) -> Outcome {
    let cgroup = agent.cgroup()?;
    manager.soon("stop", unit)?;
    manager.ended(unit)?;
    gone(agent, &cgroup)?;
    equal(&done(agent), &[true, false])?;
    Ok(PASS)
}

fn restarts() -> Outcome {
    const UNIT: &str = "restarts.service";
    let (agent, command) = service("systemd-restarts")?;
    let manager = Manager::start(agent.name)?;
    let program = shell("command -v enforcer")?;
    let policy = agent.policy().display();
    manager.add(
        UNIT,
        &format!("{} run --policy {policy} --agent {} -- {command}", program.trim(), agent.name),
    )?;
    manager.ctl(&["start", UNIT])?;
    let (_, first) = held(&agent, "asked-1", None)?;
    manager.soon("restart", UNIT)?;
    let (request, second) = held(&agent, "asked-1", Some(first))?;
    equal(&Path::new(&format!("/proc/{first}")).exists(), &false)?;
    equal(&done(&agent), &[false, false])?;
    enforcer(&["approvals", "approve", &request])?;
    let (_, third) = held(&agent, "asked-2", None)?;
    equal(&third, &second)?;
    equal(&done(&agent), &[true, false])?;
    stops(&manager, UNIT, &agent)
}

fn attached() -> Outcome {
    const UNIT: &str = "attached.service";
    let (agent, command) = service("systemd-attached")?;
    let manager = Manager::start(agent.name)?;
    let go = agent.at("go");
    let begin = format!("until [ -e {go} ]; do sleep 0.1; done; exec {command}");
    manager.add(UNIT, &format!("/bin/sh -c '{begin}'"))?;
    manager.ctl(&["start", UNIT])?;
    let process = manager.main_pid(UNIT)?;
    agent.attach(process)?;
    fs::write(&go, "")?;
    let (request, pid) = held(&agent, "asked-1", None)?;
    equal(&pid, &u64::from(process))?;
    enforcer(&["approvals", "approve", &request])?;
    held(&agent, "asked-2", None)?;
    stops(&manager, UNIT, &agent)
}
