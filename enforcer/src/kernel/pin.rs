//! The pins: what keeps programs, links and maps in the kernel while no daemon runs.
//!
//! One folder on a bpffs, with `maps/` and `links/` in it, and names without a dot, which bpffs refuses. The
//! map `META` is written last and so marks the whole as complete; anything without that mark was left by a
//! daemon that died in the middle, is of no use to anybody, and is removed and made anew.
//!
//! Whoever makes or removes pins holds their [`Lock`].

use super::{
    attach, load,
    sys::{self, MapInfo},
};
use enforcer_common::{agent::Meta, limits::LAYOUT_VERSION};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};
use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Where bpffs is usually mounted, and where it is mounted when it is not.
const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: FsType = FsType(0xcafe_4a11);

/// Where the locks lie.
const LOCKS: &str = "/run/enforcer";

/// Why the pins are of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Pins of another version of enforcer.
    #[error(
        "the pins under `{}` have layout version {found}, this enforcer knows version {LAYOUT_VERSION}: run \
         `enforcer unload` of the version that made them, or of this one", dir.display()
    )]
    Layout {
        /// Where.
        dir: PathBuf,
        /// Their version.
        found: u32,
    },
    /// A pinned map that is not what the programs of this version work with.
    #[error(
        "the pinned map `{name}` is {found}, expected {expected}: run `enforcer unload`, then start again"
    )]
    Map {
        /// The map.
        name: String,
        /// Its shape.
        found: String,
        /// The shape it should have.
        expected: String,
    },
    /// Something is missing.
    #[error("the pin `{}` is missing though the pins are complete: run `enforcer unload --force`, then start again", path.display())]
    Missing {
        /// What.
        path: PathBuf,
    },
    /// A folder that is not on a bpffs.
    #[error("`{}` is not on a bpffs, so nothing can be pinned there", dir.display())]
    NotBpffs {
        /// Where.
        dir: PathBuf,
    },
    /// Another process has what a daemon must have for itself.
    #[error("another enforcer daemon (process {pid}) has {what} `{}`", path.display())]
    Held {
        /// What it is.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Its holder; 0 where that is not known.
        pid: u32,
    },
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
    /// The object cannot be read; a mistake of the build.
    #[error("the built-in object cannot be read")]
    Object(#[from] aya_obj::ParseError),
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// What lies in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// Something, without the mark of being complete.
    HalfMade,
    /// Everything.
    Complete(Meta),
    /// Everything, of a version with this number.
    Foreign(u32),
}

/// The folder of the pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// The pins in a folder, which need not exist.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    /// Where the links are pinned.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// Looks at what is there.
    pub fn state(&self) -> Result<State, Error> {
        if !fs::exists(&self.dir).map_err(failed("look at", &self.dir))? {
            return Ok(State::Absent);
        }
        let path = self.map("META");
        let meta = match sys::open_pin(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::HalfMade),
            Err(error) => return Err(failed("open the pin", &path)(error)),
        };
        let unreadable = |error| failed("read the pinned map", &path)(error);
        match sys::first_word(meta.as_fd()).map_err(unreadable)? {
            0 => Ok(State::HalfMade),
            LAYOUT_VERSION => {
                let meta = sys::TypedMap::new(meta).and_then(|meta| meta.lookup(&0_u32));
                let meta = meta.map_err(|error| failed("read the pinned map", &path)(error))?;
                Ok(meta.map_or(State::HalfMade, State::Complete))
            }
            version => Ok(State::Foreign(version)),
        }
    }

    /// Makes the empty folders, on a bpffs that is mounted if need be.
    pub fn prepare(&self) -> Result<(), Error> {
        mount_bpffs(&self.dir)?;
        for folder in [self.dir.clone(), self.dir.join("maps"), self.links()] {
            let made = DirBuilder::new().mode(0o700).recursive(true).create(&folder);
            made.map_err(failed("make the folder", &folder))?;
        }
        Ok(())
    }

    /// Checks that all links and maps are there and that the maps are what this version works with. Aya reuses
    /// a pinned map of any size without a word.
    pub(super) fn check(&self, lsm: bool) -> Result<(), Error> {
        for place in attach::places(lsm) {
            let path = self.links().join(place.program);
            if !fs::exists(&path).map_err(failed("look at", &path))? {
                return Err(Error::Missing { path });
            }
        }
        for (name, shape) in load::map_shapes()? {
            let path = self.map(&name);
            let map = match sys::open_pin(&path) {
                Ok(map) => map,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { path }),
                Err(error) => return Err(failed("open the pin", &path)(error)),
            };
            let info = sys::map_info(map.as_fd()).map_err(failed("look at the pinned map", &path))?;
            let found = (info.kind, info.key_bytes, info.value_bytes, info.max_entries);
            if found != (shape.kind, shape.key_bytes, shape.value_bytes, shape.max_entries) {
                let expected = MapInfo {
                    kind: shape.kind,
                    key_bytes: shape.key_bytes,
                    value_bytes: shape.value_bytes,
                    max_entries: shape.max_entries,
                    ..MapInfo::default()
                };
                return Err(Error::Map { name, found: describe(&info), expected: describe(&expected) });
            }
        }
        Ok(())
    }

    /// The cgroup that the links hold on to; nothing once it is gone, or where they do not agree. A cgroup that
    /// is removed takes its programs along; the pins then keep links to nothing.
    pub(super) fn governed_cgroup(&self) -> Result<Option<u64>, Error> {
        let mut cgroups = BTreeSet::new();
        for place in attach::places(false) {
            let path = self.links().join(place.program);
            let link = sys::open_pin(&path).map_err(failed("open the pin", &path))?;
            let info =
                sys::cgroup_link_info(link.as_fd()).map_err(failed("look at the pinned link", &path))?;
            cgroups.insert(info.cgroup);
        }
        let only = cgroups.pop_first().filter(|cgroup| *cgroup != 0 && cgroups.is_empty());
        Ok(only)
    }

    /// Removes everything: links first, so that nothing is governed by halves of a table, and among them the
    /// mark's last.
    pub fn remove(&self) -> Result<(), Error> {
        for place in attach::PLACES.iter().rev() {
            remove_file(&self.links().join(place.program))?;
        }
        for folder in [self.links(), self.dir.join("maps")] {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("list", &folder)(error)),
            };
            for entry in entries {
                remove_file(&entry.map_err(failed("list", &folder))?.path())?;
            }
            fs::remove_dir(&folder).map_err(failed("remove the folder", &folder))?;
        }
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the folder", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Takes the lock of these pins, or says who has it.
    pub fn lock(&self) -> Result<Lock, Error> {
        Lock::on("the pins", &self.dir)
    }
}

fn describe(map: &MapInfo) -> String {
    format!(
        "of kind {} with keys of {} bytes, values of {} and {} entries",
        map.kind, map.key_bytes, map.value_bytes, map.max_entries
    )
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the pin", path)(error)),
        _ => Ok(()),
    }
}

/// Sees to it that `dir` is on a bpffs.
fn mount_bpffs(dir: &Path) -> Result<(), Error> {
    if is_bpffs(dir)? {
        return Ok(());
    }
    let not = || Error::NotBpffs { dir: dir.to_owned() };
    if !dir.starts_with(BPFFS) {
        return Err(not());
    }
    let target = Path::new(BPFFS);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| failed("mount a bpffs on", target)(errno.into()))?;
    tracing::info!(path = %target.display(), "mounted bpffs");
    if is_bpffs(dir)? { Ok(()) } else { Err(not()) }
}

/// Whether the folder, or what exists of the way to it, is on a bpffs.
fn is_bpffs(dir: &Path) -> Result<bool, Error> {
    for folder in dir.ancestors() {
        match statfs(folder) {
            Ok(info) => return Ok(info.filesystem_type() == BPFFS_MAGIC),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed("look at", folder)(errno.into())),
        }
    }
    Ok(false)
}

/// The right to be the only daemon over something, such as pins. Ends with the process.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock on a folder in which no lock can lie.
    pub(super) fn on(what: &'static str, folder: &Path) -> Result<Self, Error> {
        let name: String = folder.to_string_lossy().trim_matches('/').replace('/', "-");
        Self::take(&Path::new(LOCKS).join(format!("{name}.lock")), what, folder)
    }

    /// Takes a lock on something, or says who has it.
    pub fn take(path: &Path, what: &'static str, on: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        }
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = open.map_err(failed("open the lock", path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                written.map_err(failed("write to the lock", path))?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Err(Error::Held { what, path: on.to_owned(), pid: pid.unwrap_or(0) })
            }
            Err((_, errno)) => Err(failed("lock", path)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Lock, Pins, State};
    use std::path::Path;

    #[test]
    fn a_lock_names_its_holder_and_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/lock");
        let take = || Lock::take(&path, "the state", folder.path());
        let held = take().unwrap();
        let again = take().unwrap_err();
        assert!(matches!(again, Error::Held { pid, .. } if pid == std::process::id()), "{again}");
        drop(held);
        take().unwrap();
    }

    #[test]
    fn nothing_is_absent_and_an_empty_folder_is_half_made() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(&folder.path().join("enforcer"));
        assert_eq!(pins.state().unwrap(), State::Absent);
        std::fs::create_dir(pins.dir()).unwrap();
        assert_eq!(pins.state().unwrap(), State::HalfMade);
    }

    #[test]
    fn only_a_bpffs_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::new(folder.path()).prepare().unwrap_err();
        assert!(matches!(error, Error::NotBpffs { .. }), "{error}");
        assert_eq!(Pins::new(Path::new("/a/b")).map("META"), Path::new("/a/b/maps/META"));
    }
}
