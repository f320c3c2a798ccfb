//! The first process of a test guest.
//!
//! It loads the disk drivers, makes the Debian tree on the first disk the root, mounts what an
//! ordinary system has, runs one command and powers the machine off. The command comes as a file
//! on the second disk and its end is reported through a port of its own, so that neither the
//! kernel's command line nor anything printed can stand in for either.
//!
//! Nothing here knows Enforcer: a test that needs a daemon starts one.

mod drivers;
mod job;
mod mounts;
mod ports;

use nix::sys::reboot::{RebootMode, reboot};

/// What went wrong, in words for the console log.
type Result<T> = std::result::Result<T, String>;

/// Adds to an error what was being done.
trait Context<T> {
    fn context(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

fn main() {
    if let Err(error) = guest() {
        // Without a report the machine going away counts as a failure, and this line is in the log.
        eprintln!("init: {error}");
    }
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("init: power off: {error}");
}

fn guest() -> Result<()> {
    mounts::devices()?;
    drivers::load()?;
    mounts::switch_root()?;
    mounts::system()?;
    nix::unistd::sethostname("enforcer").context("set the host name")?;
    let job = job::Job::read()?;
    let mut ports = ports::Ports::find(job.has_terminal())?;
    let code = job.run(&mut ports)?;
    ports.report(code)
}
