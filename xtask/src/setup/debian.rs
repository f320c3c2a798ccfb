//! Debian's archive, read with package lists of our own: the system's sources stay as they are,
//! and a machine that runs another release or Ubuntu reads the same suites.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{command, output, quietly};
use crate::progress::say;
use crate::tree;

/// The keys that sign Debian's suites, in the package debian-archive-keyring.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where a machine finds Debian that does not run it.
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// A release whose packages a guest is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Release {
    /// Debian 12 with its security suite.
    Bookworm,
    /// Debian unstable.
    Sid,
}

impl Release {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Sid => "sid",
        }
    }

    /// Lines for apt's list of sources.
    pub(crate) fn sources(self) -> String {
        let (main, security) = mirrors();
        match self {
            Self::Bookworm => format!(
                "deb [signed-by={KEYRING}] {main} bookworm main\n\
                 deb [signed-by={KEYRING}] {security} bookworm-security main\n"
            ),
            Self::Sid => format!("deb [signed-by={KEYRING}] {main} sid main\n"),
        }
    }
}

/// The archive as seen by one run: each release's lists are fetched once, and are worth nothing
/// to the next run.
#[derive(Default)]
pub(crate) struct Archive {
    fetched: HashSet<Release>,
}

impl Archive {
    /// What a package depends on, by name.
    pub(crate) fn depends(&mut self, release: Release, package: &str) -> Result<Vec<String>> {
        let options = self.options(release)?;
        let text = output(command("apt-cache").args(options).args(["depends", "--important", package]))?;
        let named =
            text.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
        Ok(named.map(str::to_owned).collect())
    }

    /// Downloads packages and unpacks them, each over the other, without installing anything.
    pub(crate) fn unpack(&mut self, release: Release, packages: &[String], into: &Path) -> Result<()> {
        let options = self.options(release)?;
        let folder = into.with_extension("packages");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        quietly(command("apt-get").args(options).arg("download").args(packages).current_dir(&folder))?;
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            quietly(command("dpkg-deb").arg("--extract").arg(entry?.path()).arg(into))?;
        }
        Ok(())
    }

    /// The options that point apt at lists of our own, which are fetched now if they were not.
    fn options(&mut self, release: Release) -> Result<Vec<String>> {
        let folder = lists().join(release.name());
        let options = options(&folder);
        if self.fetched.insert(release) {
            for name in ["lists/partial", "cache/archives/partial"] {
                fs::create_dir_all(folder.join(name)).with_context(|| folder.display().to_string())?;
            }
            let sources = folder.join("sources.list");
            fs::write(&sources, release.sources()).with_context(|| sources.display().to_string())?;
            quietly(command("apt-get").args(&options).args(["update", "-q"]))?;
        }
        Ok(options)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.fetched.is_empty()
            && let Err(error) = fs::remove_dir_all(lists())
        {
            say(format_args!("package lists: {error}"));
        }
    }
}

fn lists() -> PathBuf {
    tree::setup().join("apt")
}

fn options(folder: &Path) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    let values = [
        ("Dir::Etc::SourceList", at("sources.list")),
        ("Dir::Etc::SourceParts", "/dev/null".into()),
        ("Dir::Etc::Preferences", "/dev/null".into()),
        ("Dir::Etc::PreferencesParts", "/dev/null".into()),
        ("Dir::State::Lists", at("lists")),
        ("Dir::State::Status", "/dev/null".into()),
        ("Dir::Cache", at("cache")),
        ("APT::Architecture", "amd64".into()),
        ("APT::Sandbox::User", "root".into()),
        ("Acquire::Languages", "none".into()),
        ("Acquire::Retries", "3".into()),
    ];
    values.into_iter().flat_map(|(name, value)| ["-o".into(), format!("{name}={value}")]).collect()
}

/// The mirrors that the machine itself uses for Debian, or the public ones.
fn mirrors() -> (String, String) {
    let format = "$(REPO_URI) $(ORIGIN) $(LABEL)";
    let mut ask = command("apt-get");
    let targets = output(indextargets(&mut ask, format)).unwrap_or_default();
    let find = |label: &str, path: &str| {
        let uris = targets.lines().filter_map(|line| line.split_once(' '));
        // Who a source is from is known only once its lists were fetched; its path tells as well.
        let mut fitting = uris.filter(|(uri, from)| {
            *from == format!("Debian {label}") || uri.trim_end_matches('/').ends_with(path)
        });
        fitting.next().map(|(uri, _)| uri.to_owned())
    };
    (
        find("Debian", "/debian").unwrap_or_else(|| MIRROR.into()),
        find("Debian-Security", "/debian-security").unwrap_or_else(|| SECURITY_MIRROR.into()),
    )
}

fn indextargets<'a>(ask: &'a mut Command, format: &str) -> &'a mut Command {
    ask.args(["indextargets", "--format", format, "Identifier: Packages"])
}

/// The first file below a folder that the test accepts.
pub(crate) fn find(folder: &Path, accept: &dyn Fn(&Path) -> bool) -> Result<Option<PathBuf>> {
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| folder.display().to_string())?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&path, accept)? {
                return Ok(Some(found));
            }
        } else if accept(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
