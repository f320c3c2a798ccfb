//! The red button: agents are stopped, go on where they were, and are ended, whatever they fork and wherever they went.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Agent, Daemon, TcpServer, end_all_in, policy};
use libtest_mimic::{Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    governed,
    trial::{Outcome, PASS, equal, lsm_trial, trial, with_spare},
};

pub(crate) fn trials() -> Vec<Trial> {
    const NO_MARKS: &str = "without BPF LSM whoever leaves its agent's cgroup bears no mark";
    vec![
        trial("freeze::every_thread_stands_still_and_goes_on_where_it_was", still),
        trial("freeze::who_did_it_and_why_is_told", told),
        trial("freeze::nobody_is_meant_by_mistake", mistakes),
        trial("freeze::a_kill_outruns_every_fork", forks),
        trial("freeze::a_frozen_command_can_be_ended", signals),
        trial("freeze::an_answer_holds_after_the_resume", answered),
        trial("freeze::it_outlives_the_daemon", outlives),
        trial("freeze::all_are_all_that_there_are", all),
        trial("freeze::a_daemon_does_not_stop_itself", own),
        lsm_trial("freeze::whoever_left_is_brought_back", NO_MARKS, brought_back),
        lsm_trial("freeze::whoever_cannot_be_brought_back_is_stopped_where_it_is", NO_MARKS, stopped_outside),
        lsm_trial("freeze::a_kill_ends_whoever_left_and_forks", NO_MARKS, forks_outside),
        // The last that needs the spare daemon.
        trial("freeze::an_unload_neither_waits_nor_lets_anybody_go_on", unloads),
    ]
}

/// Two processes of two threads each count, each thread in a file of its own; a process for each cgroup that is named,
/// `.` being the one that it is in, and others being below that or, with a slash in front, below the mount.
const COUNT: &str = r#"
import os, sys, threading, time
folder, mount, places = sys.argv[1], sys.argv[2], sys.argv[3:]
own = next(line[3:].strip() for line in open("/proc/self/cgroup") if line.startswith("0::"))
def count(name):
    with open(os.path.join(folder, name), "wb", 0) as file:
        n = 0
        while True:
            n += 1
            os.pwrite(file.fileno(), b"%012d" % n, 0)
            time.sleep(0.005)
def work(number, place):
    if place != ".":
        path = mount + (place if place.startswith("/") else own + "/" + place)
        os.makedirs(path, exist_ok=True)
        with open(path + "/cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))
    threading.Thread(target=count, args=(f"{number}-a",)).start()
    count(f"{number}-b")
for number, place in enumerate(places):
    if os.fork() == 0:
        work(number, place)
print("ready", flush=True)
time.sleep(600)
"#;

/// Ten lines of processes, each of which makes the next one and ends; and one that makes many that end soon.
const FORK: &str = r#"
import os, sys, time
if len(sys.argv) > 1:
    with open(sys.argv[1], "w") as procs:
        procs.write(str(os.getpid()))
def hop():
    while True:
        time.sleep(0.002)
        if os.fork():
            os._exit(0)
def spray():
    import signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            time.sleep(0.05)
            os._exit(0)
        time.sleep(0.001)
for line in range(4 if len(sys.argv) > 1 else 10):
    if os.fork() == 0:
        spray() if line % 2 or len(sys.argv) > 1 else hop()
print("ready", flush=True)
time.sleep(600)
"#;

/// A command of an agent that has said that it is ready, in the background.
struct Working {
    child: Child,
    folder: PathBuf,
}

impl Working {
    fn start(agent: &Agent<'_>, script: &str, arguments: &[&str]) -> Result<Self, Failed> {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/run/enforcer-e2e-freeze-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let at = folder.display().to_string();
        let arguments = arguments.iter().map(|argument| argument.replace('@', &at)).collect::<Vec<_>>();
        let mut command = vec!["python3", "-c", script];
        command.extend(arguments.iter().map(String::as_str));
        let mut run = agent.command(&command);
        let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut said)?;
        let working = Self { child, folder };
        equal(&said.trim(), &"ready")?;
        Ok(working)
    }

    /// Counting in processes of these cgroups, two threads for each.
    fn count(agent: &Agent<'_>, places: &[&str]) -> Result<Self, Failed> {
        let mount = enforcer_tests::harness::cgroup_mount()?;
        let working = Self::start(agent, COUNT, &[&["@", mount.as_str()], places].concat())?;
        eventually("every thread counts", || Ok(working.counts()?.len() == places.len() * 2))?;
        Ok(working)
    }

    /// How far each thread has come.
    fn counts(&self) -> Result<Vec<(PathBuf, u64)>, Failed> {
        let mut counts = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            if let Ok(count) = fs::read_to_string(&path)?.trim().parse() {
                counts.push((path, count));
            }
        }
        counts.sort();
        Ok(counts)
    }

    /// Fails unless no thread gets on for a while.
    fn stands_still(&self) -> Result<(), Failed> {
        let before = self.counts()?;
        thread::sleep(Duration::from_millis(500));
        equal(&self.counts()?, &before)
    }

    /// Fails unless every thread gets on.
    fn goes_on(&self) -> Result<(), Failed> {
        let before = self.counts()?;
        eventually("every thread gets on", || {
            Ok(self.counts()?.iter().zip(&before).all(|((_, now), (_, before))| now > before))
        })
    }

    /// Waits for the end of `enforcer run`.
    fn ended(&mut self) -> Result<ExitStatus, Failed> {
        let mut status = None;
        eventually("the run ends", || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        Ok(status.ok_or("no status")?)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool, Failed>) -> Result<(), Failed> {
    governed::eventually(what, || Ok(holds()?.then_some(())))
}

/// Has a command succeed, and reads what it says about the one agent that it was about.
fn done(daemon: &Daemon, arguments: &[&str]) -> Result<Value, Failed> {
    let answer = daemon.json(arguments)?;
    let one = answer.as_array().filter(|all| all.len() == 1).and_then(|all| all.first());
    let one = one.ok_or_else(|| format!("not about one agent: {answer}"))?;
    equal(&one["done"], &Value::Bool(true)).map_err(|_| format!("{answer:#}"))?;
    Ok(one.clone())
}

fn state(agent: &Agent<'_>) -> Result<String, Failed> {
    Ok(agent.counts()?["state"].as_str().unwrap_or_default().to_owned())
}

fn cgroup(agent: &Agent<'_>) -> Result<PathBuf, Failed> {
    Ok(agent.counts()?["cgroup"].as_str().unwrap_or_default().into())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends what a test has started, also where it failed half-way.
fn with_agent(test: impl FnOnce(&Agent<'_>) -> Outcome) -> Outcome {
    let agent = Daemon::shared()?.agent(&policy(""))?;
    let outcome = test(&agent);
    let outcome = outcome
        .map_err(|failed| format!("{}\n{}", failed.message().unwrap_or_default(), agent.state()).into());
    // One name can be several agents'.
    let agents = agent.daemon.json(&["agents"])?;
    for one in agents.as_array().into_iter().flatten().filter(|one| one["agent"] == agent.name.as_str()) {
        end_all_in(one["cgroup"].as_str().unwrap_or_default().as_ref());
    }
    outcome
}

fn still() -> Outcome {
    with_agent(|agent| {
        let working = Working::count(agent, &[".", "below", "below/deeper"])?;
        working.goes_on()?;
        equal(&state(agent)?, "running")?;
        let frozen = done(agent.daemon, &["freeze", &agent.name])?;
        // The command, and a process in each of three cgroups.
        equal(&frozen["processes"], &Value::from(4))?;
        working.stands_still()?;
        equal(&state(agent)?, "frozen")?;
        let before = working.counts()?;
        let list = String::from_utf8(agent.daemon.cli(&["agents"])?.stdout)?;
        equal(&(list.contains("STATE") && list.contains("frozen")), &true).map_err(|_| list.clone())?;
        // Twice is as good as once.
        done(agent.daemon, &["freeze", &agent.name])?;
        done(agent.daemon, &["resume", &agent.name])?;
        working.goes_on()?;
        equal(&state(agent)?, "running")?;
        // Nobody has begun anew.
        let further = working.counts()?.iter().zip(&before).all(|((_, now), (_, before))| now > before);
        equal(&further, &true)?;
        Ok(PASS)
    })
}

fn told() -> Outcome {
    with_agent(|agent| {
        let daemon = agent.daemon;
        let _working = Working::count(agent, &["."])?;
        done(daemon, &["freeze", &agent.name, "--why", "it \"writes\"\nwrongly"])?;
        let by_number = agent.counts()?["id"].to_string();
        done(daemon, &["resume", &by_number])?;
        done(daemon, &["kill", &agent.name, "--why", "enough"])?;
        let about = |event: &Value| event["done"].is_boolean();
        let events = agent.expect_events(3, about)?;
        let words: Vec<_> = events.iter().map(|event| event["action"].as_str().unwrap_or_default()).collect();
        equal(&words, &["freeze", "resume", "kill"])?;
        let why: Vec<_> = events.iter().map(|event| event["why"].clone()).collect();
        equal(&why, &vec![Value::from("it \"writes\"\nwrongly"), Value::Null, Value::from("enough")])?;
        for event in &events {
            let who = (&event["user"], &event["uid"], &event["policy"]);
            equal(&who, &(&"root".into(), &0.into(), &"test".into())).map_err(|_| format!("{event:#}"))?;
            let known =
                event["pid"].as_u64().is_some_and(|pid| pid > 1 && pid != u64::from(std::process::id()));
            equal(&(known, event["time"].is_string()), &(true, true)).map_err(|_| format!("{event:#}"))?;
        }
        let tail = |more: &[&str]| -> Result<String, Failed> {
            let mut tail = daemon.command(&["tail", "--since-start", "--agent", &agent.name]);
            let mut tail = tail.args(more).stdout(Stdio::piped()).spawn()?;
            let out = tail.stdout.take().ok_or("no output")?;
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            // Decisions are among them where files are governed too.
            let of_people = |line: &String| line.contains(" by root[") || line.contains("\"done\":");
            let three: Vec<_> = lines.filter(of_people).take(3).collect();
            tail.kill()?;
            tail.wait()?;
            Ok(three.join("\n"))
        };
        let people = tail(&[])?;
        for part in ["by root[", "\"enough\"", "\\nwrongly", &agent.name] {
            equal(&people.contains(part), &true).map_err(|_| people.clone())?;
        }
        let lines = tail(&["--json"])?;
        let last = lines.lines().last().unwrap_or_default();
        equal(&serde_json::from_str::<Value>(last)?, &events[2])?;
        let log = daemon.log();
        equal(&(log.contains("user root (0), process") && log.contains("enough")), &true)?;
        Ok(PASS)
    })
}

fn mistakes() -> Outcome {
    with_agent(|agent| {
        let daemon = agent.daemon;
        let working = Working::count(agent, &["."])?;
        for what in ["freeze", "resume", "kill"] {
            let output = daemon.cli(&[what])?;
            let tells = said(&output).contains(&format!("enforcer {what} AGENT"))
                && said(&output).contains(&format!("enforcer {what} --all"));
            equal(&(output.status.code(), tells), &(Some(2), true)).map_err(|_| said(&output))?;
            let output = daemon.cli(&[what, &agent.name, "--all"])?;
            equal(&output.status.code(), &Some(2)).map_err(|_| said(&output))?;
            let output = daemon.cli(&[what, "nobody-of-this-name"])?;
            let tells = said(&output).contains("there is no agent `nobody-of-this-name`");
            equal(&(output.status.code(), tells), &(Some(1), true)).map_err(|_| said(&output))?;
            let output = daemon.cli(&[what, &agent.name, "--why", &"x".repeat(1001)])?;
            let tells = said(&output).contains("1000 bytes");
            equal(&(output.status.code(), tells), &(Some(1), true)).map_err(|_| said(&output))?;
        }
        // Two of one name are told apart by their numbers.
        let mut twin = Working::count(agent, &["."])?;
        let output = daemon.cli(&["kill", &agent.name])?;
        let tells = said(&output).contains("2 agents are called") && said(&output).contains("number");
        equal(&(output.status.code(), tells), &(Some(1), true)).map_err(|_| said(&output))?;
        working.goes_on()?;
        twin.goes_on()?;
        let agents = daemon.json(&["agents"])?;
        let named = |one: &&Value| one["agent"] == agent.name.as_str();
        let newest =
            agents.as_array().into_iter().flatten().filter(named).filter_map(|one| one["id"].as_u64()).max();
        done(daemon, &["kill", &newest.ok_or("no agent")?.to_string()])?;
        equal(&twin.ended()?.code(), &Some(137))?;
        working.goes_on()?;
        Ok(PASS)
    })
}

fn forks() -> Outcome {
    with_agent(|agent| {
        let mut working = Working::start(agent, FORK, &[])?;
        let folder = cgroup(agent)?;
        let procs = || fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let alive = procs();
        eventually("others come", || Ok(procs() != alive))?;
        done(agent.daemon, &["freeze", &agent.name])?;
        let frozen = procs();
        thread::sleep(Duration::from_millis(300));
        equal(&procs(), &frozen)?;
        done(agent.daemon, &["resume", &agent.name])?;
        eventually("others come again", || Ok(procs() != frozen))?;
        done(agent.daemon, &["kill", &agent.name])?;
        equal(&procs().as_str(), &"")?;
        equal(&working.ended()?.code(), &Some(137))?;
        eventually("the agent ends", || Ok(!folder.exists()))?;
        Ok(PASS)
    })
}

/// Who runs `enforcer run` in a terminal, or under a supervisor, is not left with something that cannot be ended.
fn signals() -> Outcome {
    with_agent(|agent| {
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
            let mut run = agent.command(&["sleep", "600"]);
            let mut child = run.process_group(0).spawn()?;
            eventually("the command runs", || Ok(agent.counts().is_ok_and(|own| own["processes"] == 1)))?;
            done(agent.daemon, &["freeze", &agent.name])?;
            kill(Pid::from_raw(child.id().cast_signed()), signal)?;
            eventually("the run ends", || Ok(child.try_wait()?.is_some()))?;
            let status = child.wait()?;
            equal(&(status.code(), status.signal()), &(Some(code), None))?;
            eventually("the agent ends", || Ok(agent.counts().is_err()))?;
        }
        // A handler waits for the resume, and then runs.
        let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let mut child =
            agent.command(&["bash", "-c", script]).stdout(Stdio::piped()).process_group(0).spawn()?;
        let mut output = child.stdout.take().ok_or("no output")?;
        output.read_exact(&mut [0; 6])?;
        done(agent.daemon, &["freeze", &agent.name])?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        thread::sleep(Duration::from_millis(500));
        equal(&child.try_wait()?, &None)?;
        done(agent.daemon, &["resume", &agent.name])?;
        eventually("the run ends", || Ok(child.try_wait()?.is_some()))?;
        equal(&child.wait()?.code(), &Some(3))?;
        Ok(PASS)
    })
}

fn answered() -> Outcome {
    let daemon = Daemon::shared()?;
    let asks = TcpServer::start("127.0.0.1", "asked")?;
    let rules = format!(
        "[[network]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\nports = [{}]\n",
        asks.at.port()
    );
    let agent = daemon.agent(&policy(&rules))?;
    let mut acting = agent.start()?;
    let talk = format!("talk {}", asks.at);
    equal(&acting.act(&talk)?.as_str(), &"EAGAIN")?;
    done(daemon, &["freeze", &agent.name])?;
    let request = daemon.request_of(&agent.name)?;
    let id = request["id"].as_str().unwrap_or_default();
    let approved = daemon.cli(&["approvals", "approve", id])?;
    // The actor reads its next line once it goes on.
    done(daemon, &["resume", &agent.name])?;
    equal(&approved.status.code(), &Some(0)).map_err(|_| said(&approved))?;
    equal(&acting.act(&talk)?.as_str(), &"asked")?;
    acting.end()?;
    Ok(PASS)
}

fn outlives() -> Outcome {
    with_spare(|daemon| {
        let agent = daemon.agent(&policy(""))?;
        let working = Working::count(&agent, &[".", "below"])?;
        equal(&daemon.json(&["status"])?["frozen"], &Value::from(0))?;
        done(daemon, &["freeze", &agent.name])?;
        daemon.kill()?;
        working.stands_still()?;
        daemon.begin()?;
        equal(&state(&agent)?, "frozen")?;
        equal(&daemon.json(&["status"])?["frozen"], &Value::from(1))?;
        let status = String::from_utf8(daemon.cli(&["status"])?.stdout)?;
        equal(&status.contains("1, 1 frozen"), &true).map_err(|_| status.clone())?;
        working.stands_still()?;
        done(daemon, &["resume", &agent.name])?;
        working.goes_on()?;
        equal(&daemon.json(&["status"])?["frozen"], &Value::from(0))?;
        Ok(PASS)
    })
}

fn all() -> Outcome {
    with_spare(|daemon| {
        let nobody = daemon.cli(&["freeze", "--all"])?;
        equal(
            &(nobody.status.code(), String::from_utf8_lossy(&nobody.stdout).trim()),
            &(Some(0), "no agents"),
        )?;
        let agents = [daemon.agent(&policy(""))?, daemon.agent(&policy(""))?, daemon.agent(&policy(""))?];
        let mut workings =
            agents.iter().map(|agent| Working::count(agent, &["."])).collect::<Result<Vec<_>, _>>()?;
        let each = |what: &str| -> Result<(), Failed> {
            let answer = daemon.json(&[what, "--all", "--why", "drill"])?;
            let all = answer.as_array().ok_or("not a list")?;
            equal(&(all.len(), all.iter().all(|one| one["done"] == true)), &(3, true))
                .map_err(|_| format!("{answer:#}"))?;
            Ok(())
        };
        each("freeze")?;
        for working in &workings {
            working.stands_still()?;
        }
        equal(&daemon.json(&["status"])?["frozen"], &Value::from(3))?;
        each("resume")?;
        for working in &workings {
            working.goes_on()?;
        }
        each("kill")?;
        for working in &mut workings {
            equal(&working.ended()?.code(), &Some(137))?;
        }
        for agent in &agents {
            agent.expect_events(3, |event| event["why"] == "drill")?;
        }
        eventually("all agents end", || Ok(daemon.json(&["agents"])?.as_array().is_some_and(Vec::is_empty)))?;
        Ok(PASS)
    })
}

fn unloads() -> Outcome {
    with_spare(|daemon| {
        let agent = daemon.agent(&policy(""))?;
        let mut working = Working::count(&agent, &["."])?;
        let folder = cgroup(&agent)?;
        done(daemon, &["freeze", &agent.name])?;
        let started = Instant::now();
        let refused = daemon.cli(&["unload"])?;
        let tells = said(&refused).contains(&agent.name) && said(&refused).contains("frozen");
        equal(&(refused.status.code(), tells), &(Some(1), true)).map_err(|_| said(&refused))?;
        let forced = daemon.cli(&["unload", "--force"])?;
        equal(&forced.status.code(), &Some(0)).map_err(|_| said(&forced))?;
        equal(&(started.elapsed() < Duration::from_secs(10)), &true)?;
        // Nothing governs it any more, so nothing lets it go on by itself; the log says how a person does.
        working.stands_still()?;
        let file = folder.join("cgroup.freeze").display().to_string();
        equal(&daemon.log().contains(&file), &true)?;
        fs::write(&file, "0")?;
        working.goes_on()?;
        fs::write(folder.join("cgroup.kill"), "1")?;
        equal(&working.ended()?.code(), &Some(137))?;
        Ok(PASS)
    })
}

fn own() -> Outcome {
    with_spare(|daemon| {
        let agent = daemon.agent(&policy(""))?;
        let working = Working::count(&agent, &["."])?;
        fs::write(cgroup(&agent)?.join("cgroup.procs"), daemon.pid()?.to_string())?;
        for what in ["freeze", "kill"] {
            let output = daemon.cli(&[what, &agent.name])?;
            let pid = daemon.pid()?.to_string();
            let tells = said(&output).contains("the daemon itself") && said(&output).contains(&pid);
            equal(&(output.status.code(), tells), &(Some(1), true)).map_err(|_| said(&output))?;
        }
        working.goes_on()?;
        // One that starts elsewhere can.
        daemon.kill()?;
        daemon.begin()?;
        done(daemon, &["freeze", &agent.name])?;
        working.stands_still()?;
        Ok(PASS)
    })
}

fn brought_back() -> Outcome {
    with_agent(|agent| {
        let working = Working::count(agent, &[".", "/", "/e2e-elsewhere"])?;
        let frozen = done(agent.daemon, &["freeze", &agent.name])?;
        equal(&frozen["brought_back"].as_array().map(Vec::len), &Some(2))
            .map_err(|_| format!("{frozen:#}"))?;
        working.stands_still()?;
        for pid in frozen["brought_back"].as_array().into_iter().flatten() {
            let now = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            equal(&now.contains(&agent.name), &true).map_err(|_| now.clone())?;
        }
        done(agent.daemon, &["resume", &agent.name])?;
        working.goes_on()?;
        let _ = fs::remove_dir("/sys/fs/cgroup/e2e-elsewhere");
        Ok(PASS)
    })
}

/// A cgroup that hands controllers down takes no processes.
fn stopped_outside() -> Outcome {
    with_agent(|agent| {
        let mut working = Working::count(agent, &["below", "/"])?;
        let folder = cgroup(agent)?;
        let below = folder.join("below/cgroup.procs");
        for pid in fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
            fs::write(&below, pid)?;
        }
        fs::write(folder.join("cgroup.subtree_control"), "+pids")?;
        let frozen = done(agent.daemon, &["freeze", &agent.name])?;
        let outside = frozen["signalled"].as_array().and_then(|all| all.first()).cloned();
        let outside = outside.ok_or_else(|| format!("{frozen:#}"))?;
        let state = || -> Result<String, Failed> {
            let status = fs::read_to_string(format!("/proc/{outside}/status"))?;
            Ok(status.lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned())
        };
        equal(&state()?.contains("stopped"), &true).map_err(|_| state().unwrap_or_default())?;
        working.stands_still()?;
        done(agent.daemon, &["resume", &agent.name])?;
        working.goes_on()?;
        done(agent.daemon, &["freeze", &agent.name])?;
        done(agent.daemon, &["kill", &agent.name])?;
        equal(&working.ended()?.code(), &Some(137))?;
        // It bears the mark until its end, and the agent lasts as long.
        eventually("the agent ends", || Ok(!folder.exists()))?;
        Ok(PASS)
    })
}

fn forks_outside() -> Outcome {
    with_agent(|agent| {
        let mount = enforcer_tests::harness::cgroup_mount()?;
        let mut working = Working::start(agent, FORK, &[&format!("{mount}/cgroup.procs")])?;
        let folder = cgroup(agent)?;
        equal(&fs::read_to_string(folder.join("cgroup.procs"))?.as_str(), &"")?;
        let killed = done(agent.daemon, &["kill", &agent.name])?;
        let outside = ["brought_back", "signalled"].map(|what| killed[what].as_array().map_or(0, Vec::len));
        equal(&(outside.iter().sum::<usize>() >= 5), &true).map_err(|_| format!("{killed:#}"))?;
        equal(&working.ended()?.code(), &Some(137))?;
        eventually("the agent ends", || Ok(!folder.exists()))?;
        Ok(PASS)
    })
}
