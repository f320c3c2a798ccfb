//! The mark of being governed: every task of an agent bears it from its first call on, and keeps it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use libtest_mimic::{Failed, Trial};

use crate::governed::{Agent, Context as _, eventually, finish, same, shell};
use crate::trial::{Outcome, PASS, trial};

const SECRET: &str = "[[file]]\nname = \"secret\"\naction = \"block\"\npaths = [\"@/secret/**\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("mark::every_thread_of_an_attached_process_is_governed", every_thread_of_an_attached_process),
        trial(
            "mark::a_process_that_left_is_governed_after_its_run",
            a_process_that_left_is_governed_after_its_run,
        ),
        trial("mark::a_process_born_inside_is_governed_at_its_first_call", a_process_born_inside),
        trial("mark::children_in_nested_cgroups_are_governed", children_in_nested_cgroups_are_governed),
        trial("mark::no_child_of_a_fork_bomb_escapes", no_child_of_a_fork_bomb_escapes),
    ]
}

fn every_thread_of_an_attached_process() -> Outcome {
    let agent = Agent::new("threads", SECRET)?;
    let key = agent.file("secret/key")?;
    let go = agent.at("go");
    let mut threads = Command::new("actor");
    threads
        .arg(format!("threads {key} 20 {go}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut threads = threads.spawn()?;
    let mut output = BufReader::new(threads.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    same(&line, &"ready\n".to_owned())?;
    agent.attach(threads.id())?;
    agent.file("go")?;
    let rest: Vec<String> = output.lines().collect::<Result<_, _>>()?;
    finish(threads)?;
    same(&rest, &vec!["20 of 20 refused".to_owned(), "EPERM".to_owned()])
}

fn a_process_that_left_is_governed_after_its_run() -> Outcome {
    let agent = Agent::new("left", SECRET)?;
    agent.file("secret/key")?;
    agent.file("page")?;
    agent.expect(&[("daemon /sys/fs/cgroup @/go @/out @/secret/key", "ok")])?;
    // It is outside: nothing is left in the agent's cgroup, and the run has ended.
    let outside = eventually("a process that left", || {
        let list = shell("pgrep -x actor || true")?;
        Ok(list.split_whitespace().next().map(str::to_owned))
    })?;
    let cgroup = fs::read_to_string(format!("/proc/{outside}/cgroup"))?;
    same(&cgroup.trim().to_owned(), &"0::/".to_owned())?;
    agent.file("go")?;
    let ends = eventually("its last words", || {
        let text = fs::read_to_string(agent.at("out")).unwrap_or_default();
        Ok((text.lines().count() == 2).then_some(text))
    })?;
    same(&ends, &"ok\nEPERM\n".to_owned())
}

fn a_process_born_inside() -> Outcome {
    let agent = Agent::new("born", SECRET)?;
    let key = agent.file("secret/key")?;
    let child = agent.start(&["actor", &format!("wait {}", agent.at("go"))])?;
    let cgroup = agent.cgroup()?;
    let folder = File::open(&cgroup).context(&cgroup)?;
    let inside: Vec<_> = (0..100).map(|_| born_in(&folder, &key)).collect::<Result<_, _>>()?;
    let outside = File::open("/sys/fs/cgroup")?;
    let free = born_in(&outside, &key)?;
    agent.file("go")?;
    finish(child)?;
    same(&inside.iter().filter(|code| **code == libc::EPERM).count(), &100)?;
    same(&free, &0)
}

/// Makes a process in that cgroup, whose first call opens the path; the error, or 0.
fn born_in(cgroup: &File, path: &str) -> Result<i32, Failed> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let path = std::ffi::CString::new(path).context(path)?;
    // SAFETY: zeros are arguments of clone3; the child makes system calls only, with pointers that it has from its
    // parent, and ends.
    let pid = unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
        let pid = libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>());
        if pid == 0 {
            let opened = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY);
            libc::_exit(if opened >= 0 { 0 } else { *libc::__errno_location() });
        }
        pid as i32
    };
    if pid < 0 {
        return Err(format!("clone3: {}", std::io::Error::last_os_error()).into());
    }
    let mut status = 0;
    // SAFETY: waits for a child of this process.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    Ok(libc::WEXITSTATUS(status))
}

fn children_in_nested_cgroups_are_governed() -> Outcome {
    let agent = Agent::new("nested", SECRET)?;
    agent.file("secret/key")?;
    let script = format!(
        "own=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $own/a $own/a/b; \
         (echo $BASHPID > $own/a/cgroup.procs; actor 'read {0}/secret/key'; \
         (echo $BASHPID > $own/a/b/cgroup.procs; exec actor 'read {0}/secret/key')); \
         cat /proc/self/cgroup",
        agent.at("")
    );
    let ran = agent.run(&["bash", "-ec", &script])?;
    let begin: Vec<_> = ran.lines.iter().take(2).cloned().collect();
    if begin != ["EPERM", "EPERM"] {
        return Err(format!("{:?} {}", ran.lines, ran.errors).into());
    }
    Ok(PASS)
}

/// The marks are charged to the cgroup in which the maps were made, which is the daemon's. A bomb at its limit is one
/// under a daemon of its own.
fn no_child_of_a_fork_bomb_escapes() -> Outcome {
    let folder = "/srv/e2e/bomb";
    shell(&format!(
        "rm -rf {folder}; mkdir -p {folder}; echo x > {folder}/key; \
         printf 'version = 1\\nname = \"bomb\"\\n[default]\\nnetwork = \"allow\"\\nfiles = \"allow\"\\nexec = \"allow\"\\n\
         [[file]]\\nname = \"key\"\\naction = \"block\"\\npaths = [\"{folder}/key\"]\\n' > {folder}/bomb.toml"
    ))?;
    let said = shell(&format!(
        "cd {folder}; limited=/sys/fs/cgroup/e2e-limited; mkdir -p $limited; \
         (echo $BASHPID > $limited/cgroup.procs; exec enforcer daemon --bpffs /sys/fs/bpf/e2e-bomb \
         --cgroup-root /sys/fs/cgroup/e2e-bomb --socket /run/e2e-bomb/control.sock \
         --agents-socket /run/e2e-bomb/agents.sock --state {folder}/state --events {folder}/events \
         > {folder}/log 2>&1) & daemon=$!; \
         for _ in $(seq 600); do grep -q ready {folder}/log && break; sleep 0.1; done; \
         grep -q ready {folder}/log || {{ cat {folder}/log >&2; exit 1; }}; \
         export ENFORCER_SOCKET=/run/e2e-bomb/control.sock; \
         enforcer run --policy {folder}/bomb.toml --agent bomb -- bash -c \
         'actor \"wait {folder}/go\"; exec setsid -w actor \"bomb {folder}/key 10\"' > {folder}/out 2>&1 & run=$!; \
         for _ in $(seq 100); do test -d /sys/fs/cgroup/e2e-bomb && break; sleep 0.1; done; sleep 1; \
         echo $$ > /sys/fs/cgroup/cgroup.procs; echo $daemon > /sys/fs/cgroup/cgroup.procs; \
         cat $limited/memory.current > $limited/memory.max; touch {folder}/go; \
         wait $run || true; echo \"limit $(cat $limited/memory.max) current $(cat $limited/memory.current)\"; \
         cat {folder}/out; enforcer status --json | tr -d '\\n'; echo; echo max > $limited/memory.max; \
         kill $daemon; wait $daemon || true; enforcer unload --force --bpffs /sys/fs/bpf/e2e-bomb || true"
    ))?;
    let counts = said.lines().find(|line| line.contains(" born, ")).ok_or_else(|| said.clone())?;
    eprintln!("mark::no_child_of_a_fork_bomb_escapes: {said}");
    let numbers: Vec<u64> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [born, governed, escaped] = numbers[..] else { return Err(said.into()) };
    if born < 50 || governed < born || escaped != 0 {
        return Err(said.into());
    }
    Ok(PASS)
}
