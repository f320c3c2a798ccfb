//! Stopping a cgroup with all that is below it, letting it go on, and ending it.
//!
//! The kernel does each of them to all tasks at once, so no fork outruns it. It is also where the state is: nothing is
//! kept beside it, and a daemon that comes back finds what is frozen.

use super::cgroup::is_gone;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long between two looks at a cgroup that is on its way.
const PAUSE: Duration = Duration::from_millis(5);

/// Whether an agent goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It goes on.
    Running,
    /// It is to stop, and some task of it is still in a call of the kernel that nothing interrupts.
    Freezing,
    /// All tasks in its cgroup stand still.
    Frozen,
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Freezing => "freezing",
            Self::Frozen => "frozen",
        })
    }
}

impl AgentState {
    /// What `cgroup.freeze` asks for, and what `cgroup.events` says has come of it. A cgroup that is frozen from above
    /// stands still without having been asked to.
    fn of(freeze: &str, events: &str) -> Self {
        match (events.lines().any(|line| line == "frozen 1"), freeze.trim() == "1") {
            (true, _) => Self::Frozen,
            (false, true) => Self::Freezing,
            (false, false) => Self::Running,
        }
    }
}

/// Whether a cgroup is frozen. One that is gone is not.
pub(crate) fn state(folder: &Path) -> io::Result<AgentState> {
    let read = |file| match fs::read_to_string(folder.join(file)) {
        Err(error) if is_gone(&error) => Ok(String::new()),
        read => read,
    };
    Ok(AgentState::of(&read("cgroup.freeze")?, &read("cgroup.events")?))
}

/// Has all tasks in a cgroup and below it stop, or go on. One that is gone has none.
pub(crate) fn set(folder: &Path, frozen: bool) -> io::Result<()> {
    write(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })
}

/// Ends all tasks in a cgroup and below it, frozen or not. One that is gone has none.
pub(super) fn kill(folder: &Path) -> io::Result<()> {
    write(&folder.join("cgroup.kill"), "1")
}

/// Waits until a cgroup is in a state, looking once at least; whether it came to that in time.
pub(super) fn wait(folder: &Path, wanted: AgentState, until: Instant) -> io::Result<bool> {
    loop {
        if state(folder)? == wanted {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        sleep(PAUSE);
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    match fs::write(file, text) {
        Err(error) if is_gone(&error) => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentState, state};
    use std::path::Path;

    #[test]
    fn a_cgroup_is_frozen_when_all_of_it_stands_still_and_not_when_it_was_asked() {
        let of = |freeze, frozen| AgentState::of(freeze, &format!("populated 1\nfrozen {frozen}\n"));
        assert_eq!(of("0\n", 0), AgentState::Running);
        assert_eq!(of("1\n", 0), AgentState::Freezing);
        assert_eq!(of("1\n", 1), AgentState::Frozen);
        assert_eq!(of("0\n", 1), AgentState::Frozen, "from above");
    }

    #[test]
    fn a_cgroup_that_is_gone_is_not_frozen() {
        assert_eq!(state(Path::new("/nowhere/at/all")).unwrap(), AgentState::Running);
    }
}
