//! The one command that the guest was started for.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::ports::Ports;
use crate::{Context, Result};

const JOB: &str = "/opt/enforcer/job";
const TERMINAL: &str = "/dev/hvc0";

/// What a shell returns for a command that it cannot start.
const CANNOT_START: i32 = 127;

pub(crate) struct Job {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: OsString,
    /// Rows and columns, where the command gets a terminal.
    terminal: Option<(String, String)>,
}

impl Job {
    pub(crate) fn read() -> Result<Self> {
        let env = strings("env")?.chunks_exact(2).filter_map(pair).collect();
        let cwd = strings("cwd")?.pop().ok_or("the job names no folder")?;
        let terminal = fs::read_to_string(format!("{JOB}/terminal")).ok();
        let terminal = terminal
            .and_then(|size| size.split_once(' ').map(|(rows, columns)| (rows.into(), columns.into())));
        Ok(Self { argv: strings("argv")?, env, cwd, terminal })
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Runs the command, reaps whatever is orphaned meanwhile, and ends all that is left after it.
    pub(crate) fn run(&self, ports: &mut Ports) -> Result<i32> {
        let (program, arguments) = self.argv.split_first().ok_or("the job has no command")?;
        let mut command = match &self.terminal {
            Some(size) => on_terminal(program, size)?,
            None => piped(program),
        };
        command.args(arguments).env_clear().envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(&self.cwd);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                ports.complain(&format!("start `{}`: {error}", program.display()));
                return Ok(CANNOT_START);
            }
        };
        ports.carry(child.stdout.take(), child.stderr.take());
        let code = end_of(Pid::from_raw(child.id().cast_signed()))?;
        end_the_rest();
        Ok(code)
    }
}

fn piped(program: &OsString) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn on_terminal(program: &OsString, (rows, columns): &(String, String)) -> Result<Command> {
    let terminal = OpenOptions::new().read(true).write(true).open(TERMINAL).context(TERMINAL)?;
    let copy = || terminal.try_clone().map(Stdio::from).context(TERMINAL);
    let sized = Command::new("/bin/stty").args(["rows", rows, "columns", columns]).stdin(copy()?).status();
    if let Err(error) = sized {
        eprintln!("init: stty: {error}");
    }
    let mut command = Command::new("/usr/bin/setsid");
    command.args(["--ctty", "--wait"]).arg(program).stdin(copy()?).stdout(copy()?).stderr(copy()?);
    Ok(command)
}

/// Waits as PID 1 must: for every child there is, until the one that counts has ended.
fn end_of(main: Pid) -> Result<i32> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("wait for the command: {error}")),
        }
    }
}

/// A process left behind would hold the pipes open.
fn end_the_rest() {
    // ESRCH says that nothing was left.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}

fn strings(name: &str) -> Result<Vec<OsString>> {
    let path = format!("{JOB}/{name}");
    let bytes = fs::read(&path).context(&path)?;
    let mut strings: Vec<_> =
        bytes.split(|&byte| byte == 0).map(|s| OsString::from_vec(s.to_vec())).collect();
    // Each string ends with a NUL, so the last piece is empty and none.
    strings.pop();
    Ok(strings)
}

fn pair(two: &[OsString]) -> Option<(OsString, OsString)> {
    match two {
        [key, value] => Some((key.clone(), value.clone())),
        _ => None,
    }
}
