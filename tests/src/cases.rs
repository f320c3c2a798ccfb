//! Cases: actions under a policy and what becomes of them, in `tests/cases/*.toml`.
//!
//! One file is one policy and its cases; the oracle, the engine over compiled tables and the kernel judge the
//! same file.
//!
//! ```toml
//! policy = """
//! version = 1
//! ...
//! """
//!
//! [[case]]
//! connect = "127.0.0.1:443"       # TCP; or `send` for UDP
//! verdict = "block"               # of the rule: a throttle rule's first action passes, its verdict is throttle
//! rule    = "no-loopback"         # or default.network, default.files, default.exec
//! why     = "the first match decides"
//!
//! [[case]]
//! open    = "/case/data/a.csv"    # absolute and resolved; `access` is read, write, create, or several
//! access  = ["read"]
//! verdict = "allow"
//! rule    = "data"
//! why     = "…"
//!
//! [[case]]
//! exec    = "/case/bin/tool"
//! verdict = "block"
//! rule    = "tools"
//! why     = "…"
//! ```
//!
//! Paths lie under `/case`, so that a test in a kernel can make them. Addresses other than loopback need a
//! verdict only: nobody answers there.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use enforcer::policy::{Look, Policy, PolicySource, parse};
use enforcer_common::action::Access;
use enforcer_common::verdict::Verdict;
use serde::Deserialize;

/// A policy with its cases.
#[derive(Debug)]
pub struct CaseFile {
    /// The file's name without `.toml`.
    pub name: String,
    /// The policy as text, for whoever loads it from a file.
    pub text: String,
    /// The policy.
    pub policy: Policy,
    /// The cases in order.
    pub cases: Vec<Case>,
}

/// An action and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is attempted.
    pub attempt: Attempt,
    /// The verdict of the rule.
    pub verdict: Verdict,
    /// The rule's name.
    pub rule: String,
    /// What the case shows.
    pub why: String,
}

/// What is attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A TCP connect.
    Connect(SocketAddr),
    /// A UDP datagram.
    Send(SocketAddr),
    /// An open, or one that makes the file when `access` has create.
    Open {
        /// The resolved path.
        path: String,
        /// The kinds of access.
        access: Access,
    },
    /// Starting a program.
    Exec {
        /// The resolved path.
        path: String,
    },
}

/// Reads all files of cases, by name.
///
/// # Panics
///
/// When one of them is not well formed: a test fails by panicking.
pub fn load() -> Vec<CaseFile> {
    // A guest has them elsewhere.
    let folder = env::var_os("ENFORCER_CASES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"), PathBuf::from);
    let mut files: Vec<_> = read_folder(&folder);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    policy: String,
    case: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    connect: Option<SocketAddr>,
    send: Option<SocketAddr>,
    open: Option<String>,
    exec: Option<String>,
    access: Option<Vec<String>>,
    verdict: String,
    rule: String,
    why: String,
}

#[expect(clippy::expect_used, reason = "a test fails by panicking")]
fn read_folder(folder: &Path) -> Vec<CaseFile> {
    let entries = fs::read_dir(folder).expect("the folder of cases");
    let paths = entries.map(|entry| entry.expect("an entry of the folder of cases").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let text = fs::read_to_string(&path).expect("a file of cases");
            parse_file(&name, &text)
        })
        .collect()
}

/// Reads one file of cases.
#[expect(clippy::panic, reason = "a test fails by panicking")]
fn parse_file(name: &str, text: &str) -> CaseFile {
    let raw: RawFile = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (policy, diagnostics) = parse(PolicySource::new(format!("the policy of {name}"), raw.policy.clone()));
    assert!(diagnostics.is_empty(), "{}", diagnostics.render(Look::PLAIN));
    let cases = raw.case.into_iter().map(|case| read_case(name, case)).collect();
    let policy = policy.unwrap_or_else(|| panic!("{name}: no policy"));
    CaseFile { name: name.to_owned(), text: raw.policy, policy, cases }
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn read_case(file: &str, raw: RawCase) -> Case {
    let attempt = match (raw.connect, raw.send, raw.open, raw.exec, raw.access) {
        (Some(to), None, None, None, None) => Attempt::Connect(to),
        (None, Some(to), None, None, None) => Attempt::Send(to),
        (None, None, Some(path), None, Some(access)) => {
            Attempt::Open { path, access: read_access(file, &access) }
        }
        (None, None, None, Some(path), None) => Attempt::Exec { path },
        _ => panic!("{file}: `{}` is not one of connect, send, open with access, exec", raw.why),
    };
    let verdict = (0..=u8::MAX).map_while(Verdict::from_number).find(|verdict| verdict.word() == raw.verdict);
    let verdict = verdict.unwrap_or_else(|| panic!("{file}: `{}` is no verdict", raw.verdict));
    Case { attempt, verdict, rule: raw.rule, why: raw.why }
}

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn read_access(file: &str, words: &[String]) -> Access {
    words.iter().fold(Access::default(), |set, word| {
        set.with(match word.as_str() {
            "read" => Access::READ,
            "write" => Access::WRITE,
            "create" => Access::CREATE,
            other => panic!("{file}: `{other}` is no kind of access"),
        })
    })
}
