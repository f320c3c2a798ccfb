//! The kernels that a guest may boot: Debian's, from the oldest supported line to the newest.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::tree;

/// One of the lines that the suite runs on.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's newer one, which is Debian 13's.
    #[value(name = "6.12")]
    V6_12,
    /// Debian unstable's, or what it has gone on to.
    #[value(name = "7.2")]
    V7_2,
}

impl Kernel {
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7_2];

    pub(crate) fn version(self) -> Version {
        match self {
            Self::V6_1 => Version(6, 1),
            Self::V6_12 => Version(6, 12),
            Self::V7_2 => Version(7, 2),
        }
    }

    /// Where `setup` puts it.
    pub(crate) fn folder(self) -> PathBuf {
        tree::setup().join("kernels").join(self.to_string())
    }

    /// What `uname -r` says in a guest that runs it.
    pub(crate) fn release(self) -> Result<String> {
        let path = self.folder().join("release");
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version(major, minor) = self.version();
        write!(f, "{major}.{minor}")
    }
}

/// Major and minor of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Version(u32, u32);

impl Version {
    /// Reads the start of a release such as `6.12.117+deb12-cloud-amd64`.
    pub(crate) fn of_release(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_starts_with_its_version() {
        assert_eq!(Version::of_release("6.1.0-56-cloud-amd64"), Some(Version(6, 1)));
        assert_eq!(Version::of_release("7.2.13+deb14-cloud-amd64"), Some(Version(7, 2)));
        assert_eq!(Version::of_release("cloud-amd64"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version(6, 12) > Version(6, 2));
        assert!(Version(10, 0) > Version(7, 9));
    }
}
