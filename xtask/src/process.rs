//! Other programs: found, run, and their failures put into words.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Where a system keeps programs that a user's own search path may leave out.
const SYSTEM_PATHS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// How much of a failed program's output is worth showing.
const LAST_LINES: usize = 30;

/// The search path with the system's own folders and the set-up's in front.
pub(crate) fn search_path() -> OsString {
    let mut folders = vec![crate::tree::setup().join("bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.extend(SYSTEM_PATHS.map(PathBuf::from));
    env::join_paths(folders).unwrap_or_default()
}

/// Whether a program of that name is on the search path.
pub(crate) fn exists(program: &str) -> bool {
    env::split_paths(&search_path()).any(|folder| folder.join(program).is_file())
}

/// A program that sees the whole search path.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

/// Runs a program whose output the user should see.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| words(command))?;
    if !status.success() {
        bail!("`{}` failed: {status}", words(command));
    }
    Ok(())
}

/// Runs a program and shows what it printed only if it fails.
pub(crate) fn quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| words(command))?;
    if !output.status.success() {
        bail!("`{}` failed: {}\n{}", words(command), output.status, last_lines(&printed(&output)));
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}`", words(command)))
}

/// The last lines of a longer text.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}

fn printed(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
