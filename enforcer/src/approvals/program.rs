//! What `/proc` tells of the program that asks. All of it but its file is what the program says of itself.

use enforcer_common::hold::ThreadKey;
use std::{
    fs::{self, File},
    io::Read as _,
};

/// Bytes of arguments that are shown.
const ARGUMENTS_MAX: u64 = 16 * 1024;

/// A program, as far as it is known: its process may be gone, or hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: Option<String>,
    /// Its arguments, its name among them.
    pub arguments: Option<Vec<String>>,
    /// The folder that it works in.
    pub directory: Option<String>,
}

impl Program {
    /// Of a thread. By that and not by its process, whose first thread may have ended: that one has no file any more.
    pub(super) fn of(thread: &ThreadKey) -> Self {
        let at = |name: &str| format!("/proc/{}/task/{}/{name}", thread.tgid, thread.tid);
        let link = |name: &str| {
            let target = fs::read_link(at(name)).ok()?;
            Some(target.to_string_lossy().into_owned())
        };
        let mut arguments = Vec::new();
        let read =
            File::open(at("cmdline")).and_then(|file| file.take(ARGUMENTS_MAX).read_to_end(&mut arguments));
        Self { path: link("exe"), arguments: read.ok().map(|_| split(&arguments)), directory: link("cwd") }
    }
}

/// Each argument ends with a zero byte; one that does not was cut off.
fn split(bytes: &[u8]) -> Vec<String> {
    let Some((last, _)) = bytes.split_last() else { return Vec::new() };
    let whole = *last == 0;
    let body = if whole { bytes.strip_suffix(&[0]).unwrap_or(bytes) } else { bytes };
    let mut arguments: Vec<_> = body
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    if !whole && let Some(last) = arguments.last_mut() {
        last.push('\u{2026}');
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::{Program, split};
    use enforcer_common::hold::ThreadKey;

    #[test]
    fn arguments_are_told_apart_and_may_be_empty() {
        assert_eq!(split(b"cat\0\0a b\0"), ["cat", "", "a b"]);
        assert_eq!(split(b"cat\0-"), ["cat", "-\u{2026}"]);
        assert!(split(b"").is_empty());
    }

    #[test]
    fn this_program_is_known_and_one_that_is_gone_is_not() {
        let tid = nix::unistd::gettid().as_raw() as u32;
        let thread = ThreadKey { start_ns: 0, tid, tgid: std::process::id() };
        let this = Program::of(&thread);
        assert_eq!(this.path.map(Into::into), std::env::current_exe().ok());
        assert_eq!(this.directory.map(Into::into), std::env::current_dir().ok());
        assert!(this.arguments.is_some_and(|arguments| !arguments.is_empty()));
        assert_eq!(Program::of(&ThreadKey { tid: u32::MAX >> 2, ..thread }), Program::default());
    }
}
