//! The static binaries, and the end-to-end suite as a program of its own.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::command;
use crate::progress::{say, timed};
use crate::setup::{self, Need};
use crate::tree;

/// What a build leaves behind.
pub(crate) struct Built {
    /// The end-to-end suite.
    pub(crate) suite: PathBuf,
}

/// `cargo xtask build`.
pub(crate) fn run() -> Result<ExitCode> {
    let built = all()?;
    say(format_args!("binaries: {}", tree::binaries().display()));
    say(format_args!("suite: {}", built.suite.display()));
    Ok(ExitCode::SUCCESS)
}

/// Builds everything that a guest is given.
pub(crate) fn all() -> Result<Built> {
    setup::ensure(&[Need::Toolchain, Need::Linker])?;
    timed("build", || {
        let mut build = command("cargo");
        build.current_dir(tree::root()).args(["build", "--release", "--target", tree::TRIPLE]);
        build.args(["-p", "enforcer", "-p", "enforcer-tests", "--bins", "--test", "e2e"]);
        // Only cargo knows what it calls the suite, and it says so in these messages.
        build.arg("--message-format=json-render-diagnostics");
        let built = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo build")?;
        if !built.status.success() {
            bail!("the tree does not build");
        }
        let messages = String::from_utf8_lossy(&built.stdout);
        let suite = messages.lines().filter(|line| line.contains("\"name\":\"e2e\"")).find_map(executable);
        Ok(Built { suite: suite.context("cargo names no executable of the end-to-end suite")? })
    })
}

/// The value of `executable` in one of cargo's messages. Paths need no unescaping: a quote or a
/// backslash in the tree's own path is the one thing this does not understand.
fn executable(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once("\"executable\":\"")?;
    let (path, _) = rest.split_once('"')?;
    Some(PathBuf::from(path))
}
