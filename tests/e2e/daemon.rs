//! The daemon's own ways: what it shares with others, what it says when it ends, and what it writes.

use std::{
    fs,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::{Daemon, policy};
use libtest_mimic::{Failed, Trial};
use nix::{
    mount::{MsFlags, mount, umount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::governed::eventually;
use crate::trial::{Outcome, PASS, equal, trial, with_spare};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("daemon::nobody_takes_a_socket_or_a_cgroup_from_one_that_lives", places),
        trial("daemon::whoever_tails_is_told_that_it_has_ended", tails),
        trial("daemon::lines_of_the_programs_are_shown_where_they_are_asked_for", kernel_log),
        trial("daemon::a_full_disk_leaves_whole_lines_and_counts_the_rest", full_disk),
        trial("daemon::the_canary_leaves_nothing_behind", canary_files),
        trial("daemon::the_canary_flies_beside_as_many_policies_as_there_may_be", full_slots),
        trial("daemon::what_the_network_alone_comes_to_is_told", network_only),
    ]
}

/// Runs a test with a daemon of its own.
fn with(name: &str, flags: &[&str], test: impl FnOnce(&Daemon) -> Outcome) -> Outcome {
    let daemon = Daemon::start_with(name, flags)?;
    let outcome = test(&daemon).map_err(|failed| {
        let said = failed.message().unwrap_or_default();
        Failed::from(format!("{said}\n{}", daemon.last_words()))
    });
    daemon.unload();
    outcome
}

/// Waits for a process; the exit code, or nothing where it does not end.
fn ended(child: &mut Child) -> Result<Option<i32>, Failed> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(120) {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn places() -> Outcome {
    with_spare(|daemon| {
        let mount = daemon.cgroup_root()?;
        let other = mount.with_file_name("e2e-places-other");
        let same = [
            ("socket", daemon.control_socket(), other.clone()),
            ("cgroup", "/run/enforcer-e2e-spare/other.sock".into(), daemon.cgroup_root()?),
        ];
        for (what, socket, root) in same {
            let mut second = Command::new("enforcer");
            second.args(["daemon", "--bpffs", "/sys/fs/bpf/e2e-places-other"]).arg("--socket").arg(&socket);
            second
                .args(["--agents-socket", "/run/enforcer-e2e-spare/other-agents.sock"])
                .arg("--cgroup-root")
                .arg(&root);
            second
                .args(["--state", "/run/enforcer-e2e-spare/other-state"])
                .stdin(Stdio::null())
                .stderr(Stdio::piped());
            let mut second = second.spawn()?;
            let code = ended(&mut second)?;
            let mut said = String::new();
            second.stderr.take().ok_or("no output")?.read_to_string(&mut said)?;
            equal(&code, &Some(1)).map_err(|_| said.clone())?;
            let tells = said.contains(what) && said.contains(&daemon.pid()?.to_string());
            equal(&tells, &true).map_err(|_| said.clone())?;
            equal(&Path::new("/sys/fs/bpf/e2e-places-other").exists(), &false)?;
            equal(&daemon.json(&["status"])?["pid"], &Value::from(daemon.pid()?))?;
        }
        let _ = fs::remove_dir(&other);
        // One that died leaves its socket, which is nobody's.
        daemon.kill()?;
        equal(&daemon.control_socket().exists(), &true)?;
        daemon.begin()?;
        equal(&daemon.json(&["status"])?["taken_over"], &Value::Bool(true))?;
        kill(Pid::from_raw(daemon.pid()?.cast_signed()), Signal::SIGTERM)?;
        let started = Instant::now();
        while daemon.control_socket().exists() && started.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(20));
        }
        equal(&daemon.control_socket().exists(), &false)?;
        daemon.kill()?;
        daemon.begin()?;
        Ok(PASS)
    })
}

fn tails() -> Outcome {
    with_spare(|daemon| {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let mut tail = daemon.command(&["tail"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
            thread::sleep(Duration::from_millis(1000));
            kill(Pid::from_raw(daemon.pid()?.cast_signed()), signal)?;
            let code = ended(&mut tail)?;
            let mut said = String::new();
            tail.stderr.take().ok_or("no output")?.read_to_string(&mut said)?;
            equal(&(code, said.contains("the daemon has ended")), &(Some(3), true))
                .map_err(|_| format!("{signal}: {code:?} {said}"))?;
            daemon.kill()?;
            daemon.begin()?;
        }
        Ok(PASS)
    })
}

fn kernel_log() -> Outcome {
    with("kernel-log", &["--kernel-log", "debug"], |daemon| {
        let agent = daemon.agent(&policy("[[network]]\naction = \"block\"\nports = [9]\n"))?;
        agent.act(&["connect 127.0.0.1:9"])?;
        let started = Instant::now();
        while !daemon.log().contains("connect4 returns") && started.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(50));
        }
        equal(&daemon.log().contains("connect4 returns"), &true)?;
        Ok(PASS)
    })
}

/// The file of events is on a file system of 256 KiB, some of which something else takes and gives back.
fn full_disk() -> Outcome {
    let disk = Path::new("/run/enforcer-e2e-disk");
    fs::create_dir_all(disk)?;
    mount(Some("tmpfs"), disk, Some("tmpfs"), MsFlags::empty(), Some("size=256k"))?;
    let outcome = full_disk_at(disk);
    umount(disk)?;
    outcome
}

fn full_disk_at(disk: &Path) -> Outcome {
    const SENT: usize = 6000;
    let file = disk.join("events.jsonl");
    with_spare(|daemon| {
        let lost = || -> Result<u64, Failed> {
            Ok(daemon.json(&["status"])?["losses"]["file"].as_u64().ok_or("no losses")?)
        };
        // The daemon writes to the small disk from the next look on.
        let events = daemon.events_file();
        let elsewhere = events.with_extension("elsewhere");
        fs::rename(&events, &elsewhere)?;
        std::os::unix::fs::symlink(&file, &events)?;
        eventually("the daemon writes to the small disk", || Ok(file.exists().then_some(())))?;
        let before = lost()?;
        fs::write(disk.join("other"), vec![0; 100_000])?;
        let agent = daemon.agent(&policy("[[network]]\naction = \"block\"\nto = [\"127.0.0.7\"]\n"))?;
        let mut acting = agent.start()?;
        for _ in 0..SENT / 1000 {
            acting.act("sendto-ports 127.0.0.7:20000 1000")?;
            thread::sleep(Duration::from_millis(300));
        }
        fs::remove_file(disk.join("other"))?;
        acting.act("sendto-ports 127.0.0.7:20000 1")?;
        thread::sleep(Duration::from_millis(1000));
        acting.end()?;
        let lost = lost()? - before;
        let mut good = 0;
        // The daemon tries again and again, and takes back what of a line the disk has no room for: a reader that
        // comes in between sees the beginning of one at the end.
        let written = fs::read_to_string(&file)?;
        for line in written.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line)?;
            good += u64::from(event["agent"] == agent.name.as_str() && event["action"] == "send");
        }
        equal(&(lost > 0 && good > 0), &true).map_err(|_| format!("{good} written, {lost} lost"))?;
        // What waits in memory is neither yet; there is a mebibyte for it.
        let known = good + lost;
        equal(&(known <= SENT as u64 + 1 && known + 4000 > SENT as u64), &true)
            .map_err(|_| format!("{good} written, {lost} lost of {SENT}"))?;
        // The disk is in use until the daemon writes elsewhere.
        fs::remove_file(&events)?;
        eventually("the daemon writes to its own file", || Ok(events.exists().then_some(())))?;
        fs::remove_file(&elsewhere)?;
        Ok(PASS)
    })
}

fn canary_files() -> Outcome {
    with_spare(|daemon| {
        let files = || -> Result<usize, Failed> {
            let files = fs::read_dir(daemon.state().join("policies"))?;
            let read = |file: fs::DirEntry| fs::read_to_string(file.path()).unwrap_or_default();
            Ok(files
                .filter_map(Result::ok)
                .filter(|file| file.path().is_file())
                .map(read)
                .filter(|text| text.contains("enforcer-canary"))
                .count())
        };
        // The daemon's own first flight may still be on its way.
        let mut left = files()?;
        for _ in 0..100 {
            if left == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
            left = files()?;
        }
        equal(&left, &0)?;
        for _ in 0..3 {
            equal(&daemon.cli(&["daemon", "--check"])?.status.code(), &Some(0))?;
        }
        equal(&files()?, &0)?;
        Ok(PASS)
    })
}

/// Makes agents, each under a policy of its own, until that is refused; tells how many, and why no more.
const MAKE_AGENTS: &str = r#"
import http.client, json, socket, sys
made = 0
while True:
    client = http.client.HTTPConnection("enforcer")
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(sys.argv[1])
    text = f'version = 1\nname = "p{made}"\n[default]\nnetwork = "block"\nfiles = "allow"\nexec = "allow"\n'
    asked = {"agent": f"a{made}", "policy": {"text": {"file": "p.toml", "text": text}}, "attach": False}
    client.request("POST", "/agents", json.dumps(asked), {"content-type": "application/json"})
    answer = client.getresponse()
    told = answer.read().decode()
    if answer.status != 200:
        break
    made += 1
print(made, json.loads(told)["message"])
"#;

fn full_slots() -> Outcome {
    with_spare(|daemon| {
        let mut make = Command::new("python3");
        let made = make.args(["-c", MAKE_AGENTS]).arg(daemon.control_socket()).output()?;
        let check = daemon.cli(&["daemon", "--check"])?;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        equal(&said.trim(), &"254 254 policies are in force, which is as many as there may be")
            .map_err(|_| format!("{made:?}"))?;
        equal(&check.status.code(), &Some(0)).map_err(|_| format!("{check:?}"))?;
        Ok(PASS)
    })
}

/// Whoever runs as root leaves its cgroup, where no mark holds it.
fn network_only() -> Outcome {
    with("network-only", &["--network-only"], |daemon| {
        let status = String::from_utf8(daemon.cli(&["status"])?.stdout)?;
        let doctor = String::from_utf8(daemon.cli(&["doctor"])?.stdout)?;
        for said in [status, doctor, daemon.log()] {
            for what in ["leaves its agent's cgroup", "made outside of the agent", "UDP-Lite"] {
                equal(&said.contains(what), &true).map_err(|_| said.clone())?;
            }
        }
        // Within its cgroup the door is closed to it, and it is told why.
        let agent = daemon.agent(&policy(""))?;
        let mut run = agent.command(&["enforcer", "status"]);
        let output = run.process_group(0).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        equal(&(output.status.code(), said.contains("belongs to agent")), &(Some(5), true))
            .map_err(|_| said)?;
        Ok(PASS)
    })
}
