//! A person who answers as fast as there are requests.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use enforcer_tests::harness::Daemon;
use libtest_mimic::Failed;

use super::output;

/// A person who answers whatever an agent asks for: what ends in an even digit is allowed, the rest refused.
pub(crate) struct Answering {
    child: Child,
    end: PathBuf,
}

impl Answering {
    pub(crate) fn start(daemon: &Daemon, agent: &str) -> Result<Self, Failed> {
        let end = PathBuf::from(format!("/run/enforcer-e2e-{agent}-answered"));
        let _ = fs::remove_file(&end);
        let mut command = std::process::Command::new("python3");
        command.args(["-c", include_str!("answer.py")]).arg(daemon.control_socket()).arg(agent).arg(&end);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self { child, end })
    }

    /// Waits for the end of a program whose requests are answered; what it said, and how many were.
    pub(crate) fn until_end_of(mut self, mut program: Child) -> Result<(String, usize), Failed> {
        let started = Instant::now();
        let mut told = started;
        while program.try_wait()?.is_none() {
            let is_over = self.child.try_wait()?.is_some();
            if is_over || started.elapsed() > ANSWERED * times() {
                program.kill()?;
                self.child.kill()?;
                let daemon = Daemon::shared()?;
                let answers = output(self.child).unwrap_or_else(|error| format!("{error:?}"));
                let said = format!(
                    "{answers}; pending: {:?}; agents: {}",
                    daemon.pending()?,
                    daemon.json(&["agents"])?
                );
                return Err(format!("the program has not ended after {:?}: {said}", started.elapsed()).into());
            }
            // A guest that says nothing for minutes is taken for one that hangs.
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                println!("answering for {} s", started.elapsed().as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        fs::write(&self.end, "")?;
        let answers = output(self.child)?.parse()?;
        fs::remove_file(&self.end)?;
        Ok((output(program)?, answers))
    }
}

/// How often what is done now and then is done: more where there is a night for it.
pub(crate) fn times() -> u32 {
    if std::env::var_os("ENFORCER_LONG").is_some() { 12 } else { 1 }
}

/// How long a program may take whose requests are answered at once.
const ANSWERED: Duration = Duration::from_secs(240);
