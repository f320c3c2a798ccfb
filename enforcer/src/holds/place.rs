//! Where a held thread is: a frozen cgroup below the one that it lives in.
//!
//! The cgroup is frozen first and entered then, so that the thread never runs in it. A thread alone needs a *threaded*
//! cgroup. Where the kernel does not give one, since other cgroups below have processes, the whole process goes into an
//! ordinary one; its parent sees nothing of that either. Leaving is: thaw, at once; go back and remove, at leisure.

use super::proc;
use crate::agents::{AgentState, freezer};
use enforcer_common::hold::{Hold, ThreadKey};
use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// How the cgroups are called that threads are held in; the number of the thread or of the process follows.
pub(super) const PREFIX: &str = "enforcer-hold-";

/// How often it is looked who came into a cgroup while others were moved out of it.
const ROUNDS: usize = 8;

/// What a wait became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// The thread is held.
    Thread,
    /// Its whole process is.
    Process,
}

/// Where a thread is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The frozen cgroup.
    pub(super) hold: PathBuf,
    /// The cgroup above, where the thread lives.
    pub(super) leaf: PathBuf,
    /// Who is in it.
    pub(super) became: Became,
}

/// Why a thread is not held.
#[derive(Debug)]
pub(super) enum NotHeld {
    /// It is gone.
    Gone,
    /// The kernel refuses.
    Refused(io::Error),
}

impl From<io::Error> for NotHeld {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

/// Writes to a file of a cgroup, and makes none.
fn put(cgroup: &Path, file: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(cgroup.join(file))?.write_all(text.as_bytes())
}

/// Whether a cgroup is one that threads are held in.
pub(super) fn is_hold(cgroup: &Path) -> bool {
    let name = cgroup.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix(PREFIX));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where a thread lives that is in this cgroup: there, or above those that threads are held in.
fn leaf_of(cgroup: &Path) -> PathBuf {
    let leaf = cgroup.ancestors().find(|cgroup| !is_hold(cgroup));
    leaf.unwrap_or(cgroup).to_owned()
}

/// Freezes a thread, or its process where that is wanted or the thread alone cannot be. `left` gets the cgroups that were
/// made and could not be removed yet, since somebody in them is dying.
pub(super) fn hold(
    thread: &ThreadKey,
    wish: Hold,
    mount: &Path,
    left: &mut Vec<PathBuf>,
) -> Result<Place, NotHeld> {
    proc::condition(thread)?.ok_or(NotHeld::Gone)?;
    let inside = proc::cgroup_of(thread, mount)?.ok_or(NotHeld::Gone)?;
    let leaf = leaf_of(&inside);
    let attempts: &[(Became, bool)] = match wish {
        Hold::Process => &[(Became::Process, true), (Became::Process, false)],
        Hold::Thread | Hold::Refuse => &[(Became::Thread, true), (Became::Process, false)],
    };
    let mut refused = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    for &(became, threaded) in attempts {
        let number = if became == Became::Thread { thread.tid } else { thread.tgid };
        let place = Place { hold: leaf.join(format!("{PREFIX}{number}")), leaf: leaf.clone(), became };
        match place.enter(thread, threaded, inside == place.hold, left) {
            Ok(()) => return place.verify(thread, mount, left),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(NotHeld::Gone),
            Err(error) => refused = error,
        }
    }
    Err(NotHeld::Refused(refused))
}

impl Place {
    /// Moves the thread or its process in, or stops it there. A cgroup that it cannot enter goes again, unless it was
    /// there: others may be held in it.
    fn enter(
        &self,
        thread: &ThreadKey,
        threaded: bool,
        is_inside: bool,
        left: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let is_made = match fs::create_dir(&self.hold) {
            Ok(()) => true,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // One of the other kind is that of a process, and its thread is to be held in it as well; or it is empty, left
            // by a daemon that was killed.
            Err(error) if threaded && !self.is_threaded() => {
                fs::remove_dir(&self.hold).and_then(|()| fs::create_dir(&self.hold)).map_err(|_| error)?;
                true
            }
            Err(_) => {
                self.evict(Some(thread))?;
                false
            }
        };
        let entered = (|| {
            if threaded && is_made {
                put(&self.hold, "cgroup.type", "threaded")?;
            }
            put(&self.hold, "cgroup.freeze", "1")?;
            match self.became {
                Became::Thread if is_inside => Ok(()),
                Became::Thread => put(&self.hold, "cgroup.threads", &thread.tid.to_string()),
                Became::Process => put(&self.hold, "cgroup.procs", &thread.tgid.to_string()),
            }
        })();
        match &entered {
            // Whoever was born in it until it froze.
            Ok(()) if is_inside => self.evict(Some(thread))?,
            Ok(()) => {}
            Err(_) if is_made => self.give_back_or_leave(left),
            Err(_) => {}
        }
        entered
    }

    /// Gives it back, if not now then later.
    fn give_back_or_leave(&self, left: &mut Vec<PathBuf>) {
        if self.give_back().is_err() {
            left.push(self.hold.clone());
        }
    }

    /// Sees to it that it is this thread that is held: its number may have become another's meanwhile.
    fn verify(self, thread: &ThreadKey, mount: &Path, left: &mut Vec<PathBuf>) -> Result<Self, NotHeld> {
        let lives = proc::condition(thread)?.is_some()
            && proc::cgroup_of(thread, mount)?.as_deref() == Some(&self.hold);
        if lives {
            return Ok(self);
        }
        self.give_back_or_leave(left);
        Err(NotHeld::Gone)
    }

    /// Lets everybody in it run.
    pub(super) fn thaw(&self) -> io::Result<()> {
        freezer::set(&self.hold, false)
    }

    /// Thaws, moves everybody back, and removes the cgroup. Fails with `EBUSY` while somebody in it is dying.
    pub(super) fn give_back(&self) -> io::Result<()> {
        self.thaw()?;
        self.evict(None)?;
        gone_is_good(fs::remove_dir(&self.hold))
    }

    /// Moves everybody to where they live, but the thread that is held, or its process. Threads that were released have
    /// children, which are born where they are.
    fn evict(&self, but: Option<&ThreadKey>) -> io::Result<()> {
        let mut keep = HashSet::new();
        match (but, self.became) {
            (None, _) => {}
            (Some(thread), Became::Thread) => {
                keep.insert(thread.tid);
            }
            (Some(thread), Became::Process) => {
                keep.extend(proc::threads_of(thread.tgid));
                keep.insert(thread.tgid);
            }
        }
        // An ordinary cgroup gives processes only; a threaded one does not tell them.
        let file = if self.is_threaded() { "cgroup.threads" } else { "cgroup.procs" };
        for _ in 0..ROUNDS {
            let text = match fs::read_to_string(self.hold.join(file)) {
                Ok(text) => text,
                Err(error) if proc::is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let others = text.lines().filter(|line| line.parse().is_ok_and(|tid| !keep.contains(&tid)));
            let mut moved = 0;
            for other in others {
                gone_is_good(put(&self.leaf, file, other))?;
                moved += 1;
            }
            if moved == 0 {
                break;
            }
        }
        Ok(())
    }

    fn is_threaded(&self) -> bool {
        fs::read_to_string(self.hold.join("cgroup.type")).is_ok_and(|kind| kind.trim() == "threaded")
    }

    /// Whether it stands still, by itself or since what it lies in does.
    pub(super) fn is_frozen(&self) -> bool {
        freezer::state(&self.hold).is_ok_and(|state| state == AgentState::Frozen)
    }

    /// What a cgroup is that was found, with nobody known to be held in it.
    pub(super) fn found(hold: &Path) -> Self {
        Self { leaf: leaf_of(hold), hold: hold.to_owned(), became: Became::Thread }
    }
}

fn gone_is_good(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if proc::is_gone(&error) => Ok(()),
        result => result,
    }
}

/// All cgroups below a folder that threads are held in.
pub(super) fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // One that cannot be listed is gone.
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if is_hold(&path) {
                    found.push(path.clone());
                }
                folders.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{all_below, is_hold, leaf_of};
    use std::path::Path;

    #[test]
    fn a_thread_lives_above_where_it_is_held() {
        let leaf = Path::new("/c/agent-1");
        assert_eq!(leaf_of(leaf), leaf);
        assert_eq!(leaf_of(&leaf.join("enforcer-hold-7")), leaf);
        assert_eq!(leaf_of(&leaf.join("enforcer-hold-7/enforcer-hold-8")), leaf);
        assert_eq!(leaf_of(Path::new("/c/enforcer-hold-x")), Path::new("/c/enforcer-hold-x"));
    }

    #[test]
    fn only_numbers_make_a_hold() {
        assert!(is_hold(Path::new("/c/enforcer-hold-12")));
        for name in ["/c/enforcer-hold-", "/c/enforcer-hold-1a", "/c/hold-1", "/", "/c/enforcer-hold-1/x"] {
            assert!(!is_hold(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn holds_are_found_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a/enforcer-hold-1", "a/b/enforcer-hold-2", "c/other"] {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
        }
        let mut found = all_below(root.path());
        found.sort();
        assert_eq!(found, [root.path().join("a/b/enforcer-hold-2"), root.path().join("a/enforcer-hold-1")]);
    }
}
