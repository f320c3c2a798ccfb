//! The daemon's configuration: a file, every key of which is a flag too, and the flag wins.

use crate::kernel::{Governing, LogLevel};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the file is unless told.
pub const FILE: &str = "/etc/enforcer/config.toml";
/// Where the control socket is unless told.
pub const SOCKET: &str = "/run/enforcer/control.sock";
/// Where everything is pinned unless told.
pub const PINS: &str = "/sys/fs/bpf/enforcer";
/// Where the registry is unless told.
pub const STATE: &str = "/var/lib/enforcer";
/// Where policies are looked for by name unless told.
pub const POLICIES: &str = "/etc/enforcer/policies";

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("`{}` is not a configuration:\n{source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
}

/// Whether LSM programs are wanted, as the file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LsmChoice {
    /// Where the kernel can.
    Auto,
    /// Or else the daemon does not start.
    Require,
    /// Never: only the network is governed.
    Never,
}

/// What the file can say; nothing means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where everything is pinned.
    pub bpffs: Option<PathBuf>,
    /// The cgroup of all agents.
    pub cgroup_root: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// The socket for agents.
    pub agents_socket: Option<PathBuf>,
    /// Where the registry is.
    pub state: Option<PathBuf>,
    /// Where policies are looked for by name.
    pub policies: Option<PathBuf>,
    /// The file that events are written to.
    pub events: Option<PathBuf>,
    /// Which lines for debugging the kernel programs write.
    pub kernel_log: Option<LogLevel>,
    /// Whether LSM programs are wanted.
    pub lsm: Option<LsmChoice>,
}

impl Config {
    /// Reads a file. One that nobody named need not exist.
    pub fn read(named: Option<&Path>) -> Result<Self, Error> {
        let path = named.unwrap_or(Path::new(FILE));
        match fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(Self::default()),
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    /// This, and where it says nothing, the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            bpffs: self.bpffs.or(other.bpffs),
            cgroup_root: self.cgroup_root.or(other.cgroup_root),
            socket: self.socket.or(other.socket),
            agents_socket: self.agents_socket.or(other.agents_socket),
            state: self.state.or(other.state),
            policies: self.policies.or(other.policies),
            events: self.events.or(other.events),
            kernel_log: self.kernel_log.or(other.kernel_log),
            lsm: self.lsm.or(other.lsm),
        }
    }
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where everything is pinned.
    pub pins: PathBuf,
    /// The cgroup of all agents; `enforcer` at the root of the hierarchy where nothing else is said.
    pub cgroup_root: Option<PathBuf>,
    /// The control socket.
    pub socket: PathBuf,
    /// The socket for agents, beside it unless told.
    pub agents_socket: PathBuf,
    /// Where the registry is.
    pub state: PathBuf,
    /// Where policies are looked for by name.
    pub policies: PathBuf,
    /// The file that events are written to.
    pub events: Option<PathBuf>,
    /// Which lines for debugging the kernel programs write.
    pub kernel_log: Option<LogLevel>,
    /// Whether LSM programs are wanted.
    pub governing: Governing,
}

impl From<Config> for Settings {
    fn from(config: Config) -> Self {
        let socket = config.socket.unwrap_or_else(|| SOCKET.into());
        Self {
            pins: config.bpffs.unwrap_or_else(|| PINS.into()),
            cgroup_root: config.cgroup_root,
            agents_socket: config.agents_socket.unwrap_or_else(|| agents_socket(&socket)),
            socket,
            state: config.state.unwrap_or_else(|| STATE.into()),
            policies: config.policies.unwrap_or_else(|| POLICIES.into()),
            events: config.events,
            kernel_log: config.kernel_log,
            governing: match config.lsm {
                None | Some(LsmChoice::Auto) => Governing::Auto,
                Some(LsmChoice::Require) => Governing::RequireLsm,
                Some(LsmChoice::Never) => Governing::NetworkOnly,
            },
        }
    }
}

/// The socket for agents beside a control socket.
#[must_use]
pub fn agents_socket(control: &Path) -> PathBuf {
    control.with_file_name("agents.sock")
}

#[cfg(test)]
mod tests {
    use super::{Config, LsmChoice, PINS, Settings};
    use crate::kernel::{Governing, LogLevel};
    use std::path::Path;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file: Config = toml::from_str(
            "bpffs = \"/a\"\nsocket = \"/run/x/c.sock\"\nlsm = \"require\"\nkernel-log = \"debug\"",
        )
        .unwrap();
        let flags = Config { bpffs: Some("/b".into()), lsm: Some(LsmChoice::Never), ..Config::default() };
        let settings = Settings::from(flags.or(file));
        assert_eq!(settings.pins, Path::new("/b"));
        assert_eq!(settings.agents_socket, Path::new("/run/x/agents.sock"));
        assert_eq!(settings.governing, Governing::NetworkOnly);
        assert_eq!(settings.kernel_log, Some(LogLevel::Debug));
        assert_eq!(Settings::from(Config::default()).pins, Path::new(PINS));
    }

    #[test]
    fn a_key_that_does_not_exist_is_an_error_that_names_it() {
        let error = toml::from_str::<Config>("bpfs = \"/a\"").unwrap_err().to_string();
        assert!(error.contains("unknown field `bpfs`"), "{error}");
    }

    #[test]
    fn only_a_file_that_was_named_must_exist() {
        assert!(Config::read(Some(Path::new("/no/such/file"))).is_err());
    }
}
