//! What must be known of agents and policies when the daemon that made them is gone: names for numbers.
//!
//! The kernel keeps numbers. This file keeps what they stand for, and the counters that give them out, so that
//! none is given out twice. It is written before the kernel uses a number, as a whole and by renaming, so that
//! there is always one that can be read.
//!
//! In the state folder: `registry.json`, and `policies/NUMBER.json` for each loaded policy.

use super::{AgentId, AgentRecord, PolicyNumber, policy::PolicyRecord};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

const VERSION: u32 = 1;

/// How long what is known of a policy stays after the last agent under it: events may lie in the rings.
const KEPT: Duration = Duration::from_secs(3600);

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A registry of another version.
    #[error("`{}` has version {found}, this enforcer knows version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// Agents do not outlive the machine's run; counters do.
    boot: String,
    next_agent: u64,
    next_policy: u32,
    /// Whether a service holds the pins, so that a daemon for one run leaves them.
    service: bool,
    /// Whether the programs were loaded to write lines for debugging.
    kernel_log: bool,
    agents: BTreeMap<u64, AgentRecord>,
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
    contents: Contents,
}

impl Registry {
    /// Reads the registry in a folder, or begins one.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let policies = folder.join("policies");
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&policies);
        made.map_err(failed("make the folder", &policies))?;
        let boot = boot()?;
        let path = folder.join("registry.json");
        let contents = match read_json::<Contents>(&path)? {
            Some(contents) if contents.version != VERSION => {
                return Err(Error::Version { path, found: contents.version });
            }
            Some(contents) if contents.boot == boot => contents,
            Some(before) => {
                Contents { boot, service: false, kernel_log: false, agents: BTreeMap::new(), ..before }
            }
            None => Contents {
                version: VERSION,
                boot,
                next_agent: 1,
                next_policy: 1,
                service: false,
                kernel_log: false,
                agents: BTreeMap::new(),
            },
        };
        Ok(Self { folder: folder.to_owned(), contents })
    }

    /// The agents, by their ids.
    pub fn agents(&self) -> impl Iterator<Item = &AgentRecord> {
        self.contents.agents.values()
    }

    /// Whether a service holds the pins.
    #[must_use]
    pub fn service(&self) -> bool {
        self.contents.service
    }

    /// Whether the programs were loaded to write lines for debugging.
    #[must_use]
    pub fn kernel_log(&self) -> bool {
        self.contents.kernel_log
    }

    /// Gives out an id that no agent has had.
    pub fn next_agent(&mut self) -> AgentId {
        let id = self.contents.next_agent;
        self.contents.next_agent += 1;
        AgentId(id)
    }

    /// Gives out a number that no policy has had.
    pub fn next_policy(&mut self) -> PolicyNumber {
        let number = self.contents.next_policy;
        self.contents.next_policy += 1;
        PolicyNumber(number)
    }

    /// Sees to it that ids and numbers that the kernel knows are not given out again, whatever was lost here.
    pub fn skip(
        &mut self,
        agents: impl Iterator<Item = AgentId>,
        policies: impl Iterator<Item = PolicyNumber>,
    ) {
        for AgentId(id) in agents {
            self.contents.next_agent = self.contents.next_agent.max(id + 1);
        }
        for PolicyNumber(number) in policies {
            self.contents.next_policy = self.contents.next_policy.max(number + 1);
        }
    }

    /// Sets or replaces an agent's record.
    pub fn insert(&mut self, record: AgentRecord) {
        let AgentId(id) = record.id;
        self.contents.agents.insert(id, record);
    }

    /// Removes an agent's record.
    pub fn remove(&mut self, agent: AgentId) {
        let AgentId(id) = agent;
        self.contents.agents.remove(&id);
    }

    /// Removes all agents: their pins are new.
    pub fn clear(&mut self) {
        self.contents.agents.clear();
        self.contents.service = false;
        self.contents.kernel_log = false;
    }

    /// Says that a service holds the pins.
    pub fn set_service(&mut self) {
        self.contents.service = true;
    }

    /// Says whether the programs write lines for debugging.
    pub fn set_kernel_log(&mut self, on: bool) {
        self.contents.kernel_log = on;
    }

    /// Writes the registry.
    pub fn write(&self) -> Result<(), Error> {
        write_json(&self.folder.join("registry.json"), &self.contents)
    }

    /// Writes what is known of a policy.
    pub fn write_policy(&self, record: &PolicyRecord) -> Result<(), Error> {
        let PolicyNumber(number) = record.number;
        write_json(&self.folder.join(format!("policies/{number}.json")), record)
    }

    /// Removes what is known of a policy.
    pub fn remove_policy(&self, policy: PolicyNumber) -> Result<(), Error> {
        let PolicyNumber(number) = policy;
        let path = self.folder.join(format!("policies/{number}.json"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// What is known of all policies.
    pub fn policies(&self) -> Result<Vec<PolicyRecord>, Error> {
        let mut all = Vec::new();
        for (_, path) in self.policy_files()? {
            all.extend(read_json::<PolicyRecord>(&path)?);
        }
        Ok(all)
    }

    /// Removes what is known of policies that no agent has been under for a while.
    pub fn forget_policies(&self) -> Result<(), Error> {
        for (number, path) in self.policy_files()? {
            let used = self.agents().any(|agent| agent.policy == number);
            let loaded = fs::metadata(&path).and_then(|file| file.modified());
            let age = loaded.ok().and_then(|loaded| SystemTime::now().duration_since(loaded).ok());
            if !used && age.is_some_and(|age| age > KEPT) {
                self.remove_policy(number)?;
            }
        }
        Ok(())
    }

    /// The files with what is known of policies. What was put aside, or is being written, is none.
    fn policy_files(&self) -> Result<Vec<(PolicyNumber, PathBuf)>, Error> {
        let folder = self.folder.join("policies");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let path = entry.map_err(failed("list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_suffix(".json")?.parse().ok());
            files.extend(number.map(|number| (PolicyNumber(number), path.clone())));
        }
        Ok(files)
    }
}

fn boot() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(failed("read", path))?.trim().to_owned())
}

/// Reads a file; nothing where there is none. One that cannot be understood is put aside: names are lost then, and
/// a daemon that would not start for that would lose more.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let aside = path.with_extension("broken");
            tracing::error!(path = %path.display(), aside = %aside.display(), %error, "cannot be understood; put aside");
            fs::rename(path, &aside).map_err(failed("put aside", path))?;
            Ok(None)
        }
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let next = path.with_extension("next");
    let written = File::create(&next).and_then(|file| {
        let mut out = io::BufWriter::new(file);
        serde_json::to_writer(&mut out, value)?;
        out.flush()?;
        out.get_ref().sync_data()
    });
    written.map_err(failed("write", &next))?;
    fs::rename(&next, path).map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::Registry;
    use crate::agents::{AgentId, AgentRecord, PolicyNumber, Purpose};
    use jiff::Timestamp;

    fn agent(id: u64) -> AgentRecord {
        AgentRecord {
            id: AgentId(id),
            name: "a".into(),
            policy: PolicyNumber(1),
            cgroup: "/sys/fs/cgroup/enforcer/a-1".into(),
            cgroup_id: 42,
            started: Timestamp::UNIX_EPOCH,
            purpose: Purpose::Run,
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(folder.path()).unwrap();
        let id = registry.next_agent();
        registry.insert(agent(id.0));
        registry.set_service();
        registry.write().unwrap();
        let again = Registry::open(folder.path()).unwrap();
        assert_eq!(again.contents, registry.contents);
        assert_eq!(again.agents().cloned().collect::<Vec<_>>(), [agent(1)]);
    }

    #[test]
    fn numbers_are_never_given_out_twice_not_even_after_a_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(folder.path()).unwrap();
        assert_eq!((registry.next_agent(), registry.next_policy()), (AgentId(1), PolicyNumber(1)));
        registry.insert(agent(1));
        registry.contents.boot = "another".into();
        registry.write().unwrap();
        let mut again = Registry::open(folder.path()).unwrap();
        assert_eq!(again.agents().count(), 0);
        assert_eq!((again.next_agent(), again.next_policy()), (AgentId(2), PolicyNumber(2)));
        again.skip([AgentId(9)].into_iter(), [PolicyNumber(4)].into_iter());
        assert_eq!((again.next_agent(), again.next_policy()), (AgentId(10), PolicyNumber(5)));
    }

    #[test]
    fn only_what_is_known_of_policies_is_read_and_it_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(folder.path()).unwrap();
        registry.insert(agent(1));
        for number in 1..=3 {
            registry.write_policy(&crate::agents::unknown_policy(PolicyNumber(number))).unwrap();
        }
        let policies = folder.path().join("policies");
        let long_ago = std::time::SystemTime::now() - 2 * super::KEPT;
        for number in [1, 2] {
            let file = std::fs::File::options().write(true).open(policies.join(format!("{number}.json")));
            file.unwrap().set_modified(long_ago).unwrap();
        }
        std::fs::copy(policies.join("3.json"), policies.join("4.broken")).unwrap();
        std::fs::write(policies.join("5.broken"), "{").unwrap();
        let numbers = || {
            let mut all: Vec<_> = registry.policies().unwrap().iter().map(|policy| policy.number.0).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(numbers(), [1, 2, 3]);
        registry.forget_policies().unwrap();
        assert_eq!(numbers(), [1, 3], "an agent is under the first, and the third is new");
        registry.remove_policy(PolicyNumber(3)).unwrap();
        assert_eq!(numbers(), [1]);
    }

    #[test]
    fn a_broken_registry_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("registry.json"), "{\"version\": 1, ").unwrap();
        assert_eq!(Registry::open(folder.path()).unwrap().agents().count(), 0);
        assert!(folder.path().join("registry.broken").exists());
    }
}
