//! The cgroup v2 hierarchy: where it is mounted, and where in it agents live.
//!
//! The mount is found in `/proc/self/mountinfo` and never assumed: beside v1 it is at `…/unified`, without
//! controllers, and the hooks run there all the same.

use nix::unistd::{AccessFlags, access};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The inode number of the root of every cgroup hierarchy: `kernfs_create_root` numbers from 1.
const ROOT_INODE: u64 = 1;

/// Controllers that agents' cgroups should have, for limits; none is needed for governing.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Why there is no place for agents.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cgroup v2 is not mounted.
    #[error("cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`")]
    NotMounted,
    /// The mount shows a part of the hierarchy only.
    #[error(
        "the cgroup v2 mount at `{}` does not begin at the root of the hierarchy: enforcer must run outside of \
         containers, or with `--cgroupns=host`", mount.display()
    )]
    Namespaced {
        /// Where.
        mount: PathBuf,
    },
    /// A root for agents that is elsewhere.
    #[error("`{}` is not below the cgroup v2 mount at `{}`", root.display(), mount.display())]
    Outside {
        /// The root that was asked for.
        root: PathBuf,
        /// The mount.
        mount: PathBuf,
    },
    /// A file or folder of the hierarchy.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// The mount of cgroup v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// Finds the mount that begins at the root of the hierarchy.
    pub fn find() -> Result<Self, Error> {
        let path = Path::new(MOUNTINFO);
        let text = fs::read(path).map_err(failed("read", path))?;
        let mounts = mounts(&text);
        let whole =
            mounts.iter().find(|mount| fs::metadata(mount).is_ok_and(|root| root.ino() == ROOT_INODE));
        match (whole, mounts.first()) {
            (Some(mount), _) => Ok(Self { mount: mount.clone() }),
            (None, Some(mount)) => Err(Error::Namespaced { mount: mount.clone() }),
            (None, None) => Err(Error::NotMounted),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The controllers that cgroups in it can have.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        let text = fs::read_to_string(self.mount.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(ToOwned::to_owned).collect()
    }

    /// The place for agents: `enforcer` at the root, unless another is asked for. Nothing is made yet.
    pub fn agents_root(&self, asked: Option<&Path>) -> Result<AgentsRoot, Error> {
        let path = asked.map_or_else(|| self.mount.join("enforcer"), Path::to_owned);
        let outside = || Error::Outside { root: path.clone(), mount: self.mount.clone() };
        let below = path.strip_prefix(&self.mount).map_err(|_| outside())?;
        let level = below.components().count() as u32;
        if level == 0 || below.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(outside());
        }
        Ok(AgentsRoot { mount: self.mount.clone(), path: path.clone(), level })
    }
}

/// The cgroup below which every agent has one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentsRoot {
    mount: PathBuf,
    path: PathBuf,
    level: u32,
}

impl AgentsRoot {
    /// The mount of the hierarchy.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The level of the agents' own cgroups; the root of the hierarchy has level 0.
    #[must_use]
    pub fn agent_level(&self) -> u32 {
        self.level + 1
    }

    /// Makes it, with what controllers there are.
    pub fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.path).map_err(failed("make the cgroup", &self.path))?;
        let mut above: Vec<_> = self.path.ancestors().take(self.agent_level() as usize).collect();
        above.reverse();
        for folder in above {
            for controller in CONTROLLERS {
                // Limits are for other tools; without the controller, or with processes in the way, agents are
                // governed all the same.
                if let Err(error) = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
                {
                    tracing::debug!(cgroup = %folder.display(), controller, %error, "controller not enabled");
                }
            }
        }
        Ok(())
    }

    /// The id of the cgroup, which is its folder's inode number.
    pub fn id(&self) -> Result<u64, Error> {
        id(&self.path)
    }

    /// Whether cgroups can be frozen.
    #[must_use]
    pub fn has_freezer(&self) -> bool {
        access(&self.path.join("cgroup.freeze"), AccessFlags::W_OK).is_ok()
    }

    /// Removes it, if no agent is left in it.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The id of a cgroup, which is its folder's inode number.
pub fn id(cgroup: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(cgroup).map_err(failed("look at the cgroup", cgroup))?.ino())
}

/// The mount points of cgroup v2, in the order of the table.
fn mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    let of_line = |line: &[u8]| {
        // Identifier, parent, device, root, mount point, options, optional fields, `-`, kind, source, options.
        let mut fields = line.split(|byte| *byte == b' ');
        let point = fields.nth(4)?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| PathBuf::from(OsString::from_vec(unescape(point))))
    };
    mountinfo.split(|byte| *byte == b'\n').filter_map(of_line).collect()
}

/// Undoes the kernel's `\ooo` for blanks, tabs, ends of line and backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(value.unwrap_or(*first));
        rest = after.get(if value.is_some() { 3 } else { 0 }..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Error, Hierarchy, mounts};
    use std::path::{Path, PathBuf};

    #[test]
    fn the_mount_is_found_beside_v1_and_under_any_name() {
        let table = b"22 1 0:20 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755\n\
            23 22 0:21 / /sys/fs/cgroup/memory rw shared:5 master:1 - cgroup cgroup rw,memory\n\
            24 22 0:22 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
            25 1 0:22 /a /mnt/a\\040b rw shared:6 - cgroup2 none rw\n\n";
        assert_eq!(mounts(table), [PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/mnt/a b")]);
        assert!(mounts(b"garbage\n1 2 3\n").is_empty());
    }

    #[test]
    fn the_level_counts_from_the_mount() {
        let hierarchy = Hierarchy { mount: "/sys/fs/cgroup/unified".into() };
        let root = hierarchy.agents_root(None).unwrap();
        assert_eq!((root.path(), root.agent_level()), (Path::new("/sys/fs/cgroup/unified/enforcer"), 2));
        let deeper = Path::new("/sys/fs/cgroup/unified/a/b");
        assert_eq!(hierarchy.agents_root(Some(deeper)).unwrap().agent_level(), 3);
    }

    #[test]
    fn a_root_elsewhere_is_refused() {
        let hierarchy = Hierarchy { mount: "/sys/fs/cgroup".into() };
        for root in ["/sys/fs/cgroup", "/tmp", "/sys/fs/cgroup/a/../..", "/sys/fs/cgroup2"] {
            let result = hierarchy.agents_root(Some(Path::new(root)));
            assert!(matches!(result, Err(Error::Outside { .. })), "{root}");
        }
    }
}
