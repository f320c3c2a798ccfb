//! The pause of opens, creates and execs; signals to held threads; random pauses with random answers.

mod signals;

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Daemon, TcpServer};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    governed::{Agent, Ran, enforcer, eventually, finish, same, shell, text_of},
    pause::{
        answering::{Answering, times},
        count_frozen,
    },
    trial::{Outcome, PASS, equal, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let own = vec![
        trial("held::an_open_waits_and_goes_on", || {
            each("held-open", &[("read @/asked", true), ("write @/asked", true), ("truncate @/asked", true)])
        }),
        trial("held::a_create_waits_and_leaves_nothing_before", || {
            each(
                "held-create",
                &[
                    ("create-new @/asked", false),
                    ("create @/asked", false),
                    ("creat @/asked", false),
                    ("open-create @/asked", false),
                    ("openat2-create @/asked", false),
                    ("mknod @/asked", false),
                ],
            )
        }),
        trial("held::what_nobody_answers_fails_in_time", late),
        trial("held::a_file_that_is_there_is_created_after_a_wait", existing),
        trial("held::an_exec_waits_and_goes_on", exec),
        trial("held::an_interpreter_waits_and_goes_on", interpreter),
        trial("held::a_spawned_program_waits_and_goes_on", spawned),
        trial("held::a_node_program_with_workers_goes_on", workers),
        trial("held::cgroups_with_controllers_hold_the_thread", controllers),
        trial("held::a_traced_call_ends_as_it_was_answered", traced),
        trial("held::a_debugger_attaches_to_a_held_program", debugged),
        trial("held::what_cannot_wait_passes_when_it_is_tried_again", again),
        trial("held::a_path_that_was_swapped_is_asked_for_anew", swapped),
        trial("held::a_path_that_names_another_file_meanwhile_is_asked_for_anew", renamed),
        trial("held::a_rate_of_files_and_programs_waits_for_its_token", rates),
        trial("held::random_calls_end_as_they_were_answered", random),
    ];
    own.into_iter().chain(signals::trials()).collect()
}

const RULES: &str = "[[file]]\nname = \"ask\"\naction = \"escalate\"\npaths = [\"@/asked\", \"@/asked-*\"]\ntimeout = \"1h\"\n\
     [[exec]]\nname = \"ask-exec\"\naction = \"escalate\"\npaths = [\"@/run\", \"@/run-*\"]\ntimeout = \"1h\"\n";

/// Waits until a thread of the agent is frozen.
fn frozen(agent: &Agent) -> Result<(), Failed> {
    frozen_below(&agent.cgroup()?)
}

/// The same of a thread that lives in this cgroup.
fn frozen_below(cgroup: &str) -> Result<(), Failed> {
    eventually("frozen", || Ok((count_frozen(Path::new(cgroup)) > 0).then_some(())))
}

/// Takes a step that waits, and answers once it is held and `before` holds; how it ended.
fn answered(
    agent: &Agent,
    step: &str,
    answer: &str,
    before: impl FnOnce() -> Result<(), Failed>,
) -> Result<Ran, Failed> {
    let step = step.replace('@', &agent.at(""));
    let child = agent.start(&["actor", &step])?;
    let request = agent.request()?;
    frozen(agent)?;
    before()?;
    enforcer(&["approvals", answer, &request])?;
    finish(child)
}

fn ended(ran: &Ran, expected: &str) -> Result<(), Failed> {
    equal(&ran.lines, &[expected]).map_err(|error| {
        let message = error.message().unwrap_or_default();
        format!("{message}\n{}", ran.errors).into()
    })
}

/// Each step waits, is approved and goes on, and waits again, is rejected and fails.
fn each(name: &'static str, steps: &[(&str, bool)]) -> Outcome {
    let agent = Agent::new(name, RULES)?;
    for (step, exists) in steps {
        for (answer, end) in [("approve", "ok"), ("reject", "EPERM")] {
            let path = agent.at("asked");
            if *exists {
                agent.file("asked")?;
            } else {
                let _ = fs::remove_file(&path);
            }
            let ran = answered(&agent, step, answer, || equal(&Path::new(&path).exists(), exists))?;
            ended(&ran, end).map_err(|error| told(step, &error))?;
            equal(&Path::new(&path).exists(), &(*exists || answer == "approve"))?;
        }
    }
    Ok(PASS)
}

/// Nobody answers, and the call fails when its time is over.
fn late() -> Outcome {
    let agent = Agent::new(
        "held-late",
        "[[file]]\naction = \"escalate\"\npaths = [\"@/asked\"]\ntimeout = \"2s\"\n\
         [[exec]]\naction = \"escalate\"\npaths = [\"@/run\"]\ntimeout = \"2s\"\n",
    )?;
    program(&agent, "run", &format!("#!/bin/sh\necho ran >> {}\n", agent.at("ran")))?;
    for (step, exists) in [("read @/asked", true), ("create-new @/asked", false), ("exec @/run", true)] {
        let path = agent.at("asked");
        if exists {
            agent.file("asked")?;
        } else {
            fs::remove_file(&path)?;
        }
        let started = Instant::now();
        agent.expect_unasked(&[(step, "EPERM")])?;
        equal(&(started.elapsed() >= Duration::from_secs(2)), &true).map_err(|_| step)?;
        equal(&Path::new(&path).exists(), &exists)?;
    }
    equal(&Path::new(&agent.at("ran")).exists(), &false)?;
    Ok(PASS)
}

/// `O_CREAT` of a file that is there, but not in the cache: the wait for making it is void.
fn existing() -> Outcome {
    let agent = Agent::new(
        "held-existing",
        "[[file]]\nname = \"ask\"\naction = \"escalate\"\npaths = [\"@/asked\"]\naccess = [\"create\"]\n",
    )?;
    agent.file("asked")?;
    shell("echo 2 > /proc/sys/vm/drop_caches")?;
    agent.expect_unasked(&[("create @/asked", "ok"), ("read @/asked", "ok")])?;
    Ok(PASS)
}

fn program(agent: &Agent, name: &str, text: &str) -> Result<String, Failed> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = agent.file(name)?;
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn exec() -> Outcome {
    let agent = Agent::new("held-exec", RULES)?;
    program(&agent, "run", &format!("#!/bin/sh\necho ran >> {}\nexit 3\n", agent.at("ran")))?;
    let ran =
        answered(&agent, "exec @/run", "approve", || equal(&Path::new(&agent.at("ran")).exists(), &false))?;
    ended(&ran, "exit 3")?;
    equal(&fs::read_to_string(agent.at("ran"))?, "ran\n")?;
    ended(&answered(&agent, "exec @/run", "reject", || Ok(()))?, "EPERM")?;
    equal(&fs::read_to_string(agent.at("ran"))?, "ran\n")?;
    Ok(PASS)
}

fn interpreter() -> Outcome {
    let agent = Agent::new("held-interpreter", RULES)?;
    fs::copy("/bin/sh", agent.at("run-sh"))?;
    program(&agent, "script", &format!("#!{}\nexit 3\n", agent.at("run-sh")))?;
    ended(&answered(&agent, "exec @/script", "approve", || Ok(()))?, "exit 3")?;
    ended(&answered(&agent, "exec @/script", "reject", || Ok(()))?, "EPERM")?;
    Ok(PASS)
}

/// `posix_spawn` and `vfork`, where the parent's thread is held along, in the kernel.
fn spawned() -> Outcome {
    let agent = Agent::new("held-spawned", RULES)?;
    program(&agent, "run", "#!/bin/sh\nexit 3\n")?;
    for how in ["spawn", "vfork"] {
        for (answer, end) in [("approve", "exit 3"), ("reject", "EPERM")] {
            let child =
                agent.start(&["python3", "-c", include_str!("pause/spawn.py"), &agent.at("run"), how])?;
            let request = agent.request()?;
            frozen(&agent)?;
            enforcer(&["approvals", answer, &request])?;
            ended(&finish(child)?, end).map_err(|error| format!("{how}: {error:?}"))?;
        }
    }
    Ok(PASS)
}

/// A thread of the program's pool waits; its event loop and its workers see nothing, and it says what it says without
/// governance.
fn workers() -> Outcome {
    let agent = Agent::new("held-workers", RULES)?;
    agent.file("asked")?;
    let script = agent.at("workers.js");
    fs::write(&script, include_str!("pause/workers.js"))?;
    let free = Command::new("node").args([&script, &agent.at("asked")]).output()?;
    let free = String::from_utf8_lossy(&free.stdout).into_owned();
    equal(free.trim(), "read text; workers went on; exit 3")?;
    let child = agent.start(&["node", &script, &agent.at("asked")])?;
    let request = agent.request()?;
    frozen(&agent)?;
    thread::sleep(Duration::from_secs(1));
    enforcer(&["approvals", "approve", &request])?;
    let ran = finish(child)?;
    ended(&ran, free.trim())?;
    Ok(PASS)
}

/// The agent has a cgroup of its own, to which it hands all controllers that there are.
fn controllers() -> Outcome {
    let agent = Agent::new("held-controllers", RULES)?;
    agent.file("asked")?;
    let asked = agent.at("asked");
    let script = "import os, sys, time\n\
                  own = sys.argv[1]\n\
                  os.mkdir(own + '/inner')\n\
                  open(own + '/inner/cgroup.procs', 'w').write('0')\n\
                  names = open(own + '/cgroup.controllers').read().split()\n\
                  open(own + '/cgroup.subtree_control', 'w').write(' '.join('+' + name for name in names))\n\
                  print(bool(names), flush=True)\n\
                  print(open(sys.argv[2]).read().strip())";
    let own = "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)";
    let child = agent.start(&["sh", "-c", &format!("exec python3 -c \"{script}\" \"{own}\" {asked}")])?;
    let request = agent.request()?;
    let inner = format!("{}/inner", agent.cgroup()?);
    frozen_below(&inner)?;
    let shown: Value = serde_json::from_str(&enforcer(&["approvals", "show", &request, "--json"])?)?;
    equal(&shown["waits"][0]["held"], &Value::from("thread"))?;
    enforcer(&["approvals", "approve", &request])?;
    equal(&finish(child)?.lines, &["True", "text"])?;
    Ok(PASS)
}

/// A tracer is told of signals that nobody else sees; the call ends right all the same.
fn traced() -> Outcome {
    let agent = Agent::new("held-traced", RULES)?;
    let asked = agent.file("asked")?;
    let read = format!("read {asked}");
    let trace = agent.at("trace");
    let tracers: [&[&str]; 2] = [
        &["strace", "-f", "-o", &trace, "actor", &read],
        // By itself it stops whenever its program is told of a SIGCONT.
        &[
            "gdb",
            "-q",
            "-batch",
            "-nx",
            "-ex",
            "handle SIGCONT nostop noprint",
            "-ex",
            "run",
            "--args",
            "actor",
            &read,
        ],
    ];
    for tracer in tracers {
        for (answer, end) in [("approve", "ok"), ("reject", "EPERM")] {
            let child = agent.start(tracer)?;
            let request = agent.request()?;
            thread::sleep(Duration::from_secs(1));
            enforcer(&["approvals", answer, &request])?;
            let ran = finish(child)?;
            equal(&ran.lines.iter().any(|line| line == end), &true)
                .map_err(|_| format!("{tracer:?}: {:?} {}", ran.lines, ran.errors))?;
        }
    }
    Ok(PASS)
}

/// A debugger that attaches to a program whose thread is held sees it stopped in its call, which is held again once the
/// debugger has gone.
fn debugged() -> Outcome {
    let agent = Agent::new("held-debugged", RULES)?;
    let asked = agent.file("asked")?;
    let child = agent.start(&["actor", &format!("read {asked}")])?;
    let request = agent.request()?;
    frozen(&agent)?;
    let pid = held_pid(&request)?;
    let said =
        shell(&format!("timeout 60 gdb -q -batch -nx -p {pid} -ex 'info registers rip' -ex detach 2>&1"))?;
    equal(&said.lines().any(|line| line.starts_with("rip ")), &true).map_err(|_| said.clone())?;
    frozen(&agent)?;
    equal(&agent.request()?, &request)?;
    enforcer(&["approvals", "approve", &request])?;
    ended(&finish(child)?, "ok")?;
    Ok(PASS)
}

/// io_uring, by a worker and in the call itself, and calls of 32-bit programs: no thread can make such a call again.
fn again() -> Outcome {
    let server = TcpServer::start("127.0.0.1", "open")?;
    let network = format!("[[network]]\naction = \"escalate\"\nports = [{}]\n", server.at.port());
    let agent = Agent::new("held-again", &format!("{RULES}{network}"))?;
    agent.file("asked")?;
    program(&agent, "run", "#!/bin/sh\n")?;
    let connect = format!("connect-32 {}", server.at);
    let steps =
        ["worker @/asked", "inline @/asked", "polled @/asked", "read-32 @/asked", "exec-32 @/run", &connect];
    for step in steps {
        equal(&agent.ask(step, "approve")?, &["EAGAIN", "ok", "EAGAIN"])
            .map_err(|error| told(step, &error))?;
    }
    equal(&server.met(), &1)?;
    // Once it is made it is opened, which a person is not asked for again.
    fs::remove_file(agent.at("asked"))?;
    let created = agent.ask("creat-32 @/asked-new", "approve")?;
    equal(&created[..2], &["EAGAIN", "ok"]).map_err(|error| told("creat-32", &error))?;
    Ok(PASS)
}

fn told(step: &str, error: &Failed) -> Failed {
    format!("{step}: {}", error.message().unwrap_or_default()).into()
}

/// The path that was asked for comes to name another file while the call waits.
fn renamed() -> Outcome {
    let agent = Agent::new("held-renamed", RULES)?;
    agent.file("asked-1")?;
    agent.file("asked-2")?;
    let child = agent.start(&["actor", &format!("read {}", agent.at("asked-1"))])?;
    let first = agent.request()?;
    frozen(&agent)?;
    fs::rename(agent.at("asked-1"), agent.at("elsewhere"))?;
    std::os::unix::fs::symlink(agent.at("asked-2"), agent.at("asked-1"))?;
    asks_anew(&agent, &first, child)
}

/// Rates of files and of programs, over which a call waits for its token, twice in three calls.
fn rates() -> Outcome {
    let agent = Agent::new(
        "held-rates",
        "[[file]]\naction = \"throttle\"\npaths = [\"@/slow\"]\nrate = \"1/s\"\nburst = 1\non_exceed = \"pause\"\n\
         [[exec]]\naction = \"throttle\"\npaths = [\"@/run\"]\nrate = \"1/s\"\nburst = 1\non_exceed = \"pause\"\n",
    )?;
    agent.file("slow")?;
    program(&agent, "run", "#!/bin/sh\n")?;
    for (step, end) in [("read @/slow", "ok"), ("exec @/run", "exit 0")] {
        let started = Instant::now();
        agent.expect_unasked(&[(step, end); 3])?;
        equal(&(started.elapsed() >= Duration::from_millis(1900)), &true).map_err(|_| step)?;
    }
    let begin = agent.at("");
    let tally = agent.tally_of(&format!("{begin}/"))?;
    for what in ["open throttle slow", "exec throttle run"] {
        equal(&tally.get(what), &Some(&2)).map_err(|_| format!("{what}: {tally:?}"))?;
    }
    Ok(PASS)
}

/// The first path is allowed, and the call asks for the second.
fn asks_anew(agent: &Agent, first: &str, child: Child) -> Outcome {
    enforcer(&["approvals", "approve", first])?;
    let second = eventually("the other is asked for", || {
        let request = agent.request()?;
        Ok((request != first).then_some(request))
    })?;
    let shown: Value = serde_json::from_str(&enforcer(&["approvals", "show", &second, "--json"])?)?;
    equal(text_of(&shown, "object"), &agent.at("asked-2"))?;
    enforcer(&["approvals", "reject", &second])?;
    equal(&finish(child)?.lines, &["EPERM"])?;
    Ok(PASS)
}

/// Another thread writes another path over the one that was asked for.
fn swapped() -> Outcome {
    let agent = Agent::new("held-swapped", RULES)?;
    agent.file("asked-1")?;
    agent.file("asked-2")?;
    let child = agent.start(&[
        "python3",
        "-c",
        include_str!("pause/swap.py"),
        &agent.at("asked-1"),
        &agent.at("asked-2"),
        &agent.at("swapped"),
    ])?;
    let first = agent.request()?;
    frozen(&agent)?;
    eventually("swapped", || Ok(Path::new(&agent.at("swapped")).exists().then_some(())))?;
    asks_anew(&agent, &first, child)
}

/// The process that waits for an answer.
fn held_pid(request: &str) -> Result<String, Failed> {
    let shown: Value = serde_json::from_str(&enforcer(&["approvals", "show", request, "--json"])?)?;
    Ok(shown["waits"][0]["pid"].to_string())
}

/// Calls of random kinds by threads of a program that forks, sleeps and ends threads beside, with random answers. What
/// each came to must be what was answered.
fn random() -> Outcome {
    let calls = if times() > 1 { 10_000 } else { 1_000 };
    let seed = std::env::var("ENFORCER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    println!("held::random: seed {seed}, {calls} calls");
    let rules = format!(
        "{RULES}[[network]]\nname = \"ask-peer\"\naction = \"escalate\"\nto = [\"127.0.0.7\", \"127.0.0.8\"]\ntimeout = \"1h\"\n"
    );
    let agent = Agent::new("held-random", &rules)?;
    let (calls_text, seed_text) = (calls.to_string(), seed.to_string());
    let child = agent.start(&[
        "python3",
        "-c",
        include_str!("pause/random_calls.py"),
        &agent.at(""),
        &calls_text,
        &seed_text,
    ])?;
    let (said, answers) = Answering::start(Daemon::shared()?, agent.name)?.until_end_of(child)?;
    let said: Value = serde_json::from_str(&said).map_err(|error| format!("seed {seed}: {error}: {said}"))?;
    println!("held::random: seed {seed}: {said}, {answers} answers");
    equal(&said["wrong"], &Value::Array(Vec::new())).map_err(|_| format!("seed {seed}: {said}"))?;
    same(&said["right"], &Value::from(calls))
}
