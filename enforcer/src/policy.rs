//! Policies: from a file that a person wrote to checked data, or to what is wrong with the file.
//!
//! [`PolicySource`] is the text. [`parse`] makes a [`Policy`] of it, in which every value is in range and
//! canonical, and [`Diagnostics`] that point into the text. There is a policy exactly when there is no
//! error: a policy with an error is never loaded, and the one in force stays.
//!
//! Nothing here touches the kernel, the clock or any file but the policy's own.

mod address;
mod check;
mod compile;
mod diagnostics;
mod duration;
mod glob;
mod hash;
mod limits;
mod model;
mod rate;
mod read;
mod section;
mod source;
mod suggest;
mod syntax;
mod tables;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use self::compile::{CompileError, CompiledTables, RuleName, Table, compile};
pub use self::diagnostics::{Diagnostic, Diagnostics, Fault, Look, Severity};
use self::diagnostics::{Findings, quote};
pub use self::glob::{ByteSet, Component, Glob, NamePart, NamePattern, Pattern};
pub use self::hash::Content;
pub use self::limits::*;
pub use self::model::*;
pub use self::source::{PolicySource, Position};
pub use self::tables::MemoryTables;

/// Why a policy could not even be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the policy {}", quote(&path.to_string_lossy()))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A policy and its tables.
pub type Checked = (Policy, CompiledTables);

/// Reads a policy from a file.
///
/// # Errors
///
/// Only when the file cannot be read; what is wrong in it is in the diagnostics.
pub fn load(path: &Path) -> Result<(Option<Policy>, Diagnostics), LoadError> {
    let source = read_source(path)?;
    Ok(source.map_or_else(|diagnostics| (None, diagnostics), parse))
}

/// Reads and compiles a policy from a file: all that can be found wrong with it without a kernel.
///
/// # Errors
///
/// Only when the file cannot be read; what is wrong in it is in the diagnostics.
pub fn check_file(path: &Path) -> Result<(Diagnostics, Option<Checked>), LoadError> {
    let source = read_source(path)?;
    Ok(source.map_or_else(|diagnostics| (diagnostics, None), check_source))
}

/// Reads a policy from its text.
pub fn parse(source: PolicySource) -> (Option<Policy>, Diagnostics) {
    let mut found = Findings::default();
    let policy = policy(&mut found, &source);
    (policy, Diagnostics::new(source, found))
}

/// Reads a policy from bytes that may not be text, under the name that messages give them.
pub fn parse_bytes(name: &str, bytes: Vec<u8>) -> (Option<Policy>, Diagnostics) {
    source(name, bytes).map_or_else(|diagnostics| (None, diagnostics), parse)
}

/// Reads and compiles a policy from its text.
pub fn check_source(source: PolicySource) -> (Diagnostics, Option<Checked>) {
    let mut found = Findings::default();
    let checked = policy(&mut found, &source).and_then(|policy| {
        let tables = compile(&policy).map_err(|error| report(&mut found, &source, &error)).ok()?;
        Some((policy, tables))
    });
    (Diagnostics::new(source, found), checked)
}

/// Reports what compiling said, at the glob or the rule that it named.
fn report(found: &mut Findings, source: &PolicySource, error: &CompileError) {
    let header = source.line_span(error.line().saturating_sub(1));
    let glob = match error {
        CompileError::PathsExplode { glob, .. } => {
            let start = header.start;
            source.slice(start..source.text().len()).find(glob).map(|at| start + at..start + at + glob.len())
        }
        CompileError::TooManyPorts { .. } | CompileError::TooLarge { .. } => None,
    };
    found.error(&glob.unwrap_or(header), error.to_string()).with_help(error.help());
}

fn policy(found: &mut Findings, source: &PolicySource) -> Option<Policy> {
    if source.text().len() > MAX_FILE_BYTES {
        return too_large(found);
    }
    let tree = syntax::tree(found, source)?;
    let (policy, places) = read::policy(found, source, &tree)?;
    check::check(found, &policy, &places);
    Some(policy)
}

fn too_large<T>(found: &mut Findings) -> Option<T> {
    found
        .error(&(0..0), format!("the file is over the limit of {} MiB", MAX_FILE_BYTES / 1024 / 1024))
        .with_help("write CIDRs instead of single addresses, and globs instead of single paths");
    None
}

fn read_source(path: &Path) -> Result<Result<PolicySource, Diagnostics>, LoadError> {
    let bytes = read_file(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    Ok(source(&path.to_string_lossy(), bytes))
}

/// The file's bytes, up to one more than it may have.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes of a file as text, or what is wrong with them.
fn source(name: &str, bytes: Vec<u8>) -> Result<PolicySource, Diagnostics> {
    let mut found = Findings::default();
    if bytes.len() > MAX_FILE_BYTES {
        let _: Option<()> = too_large(&mut found);
        return Err(Diagnostics::new(PolicySource::new(name, ""), found));
    }
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(PolicySource::new(name, text)),
        Err(error) => error,
    };
    let valid = error.utf8_error().valid_up_to();
    let bytes = error.as_bytes();
    let help = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        "it seems to be UTF-16: save it as UTF-8"
    } else {
        "save it as UTF-8; a path that is not UTF-8 is matched with `?` for each of its bytes"
    };
    let at = valid..valid + char::REPLACEMENT_CHARACTER.len_utf8();
    found.error(&at, "the file is not UTF-8 from here on").with_help(help);
    Err(Diagnostics::new(PolicySource::new(name, String::from_utf8_lossy(bytes)), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compiling_refuses_is_shown_at_the_glob_or_the_rule() {
        let text = "[[file]]\npaths = [\"/a\"]\n\n[[file]]\npaths = [\"/x\", \"/a\"]\n";
        let source = PolicySource::new("p.toml", text);
        let mut found = Findings::default();
        report(&mut found, &source, &CompileError::PathsExplode { glob: "/a".to_owned(), line: 4 });
        report(&mut found, &source, &CompileError::TooManyPorts { rule: "file[2]".to_owned(), line: 4 });
        let shown = Diagnostics::new(source, found).to_json();
        let places: Vec<_> =
            shown.as_array().unwrap().iter().map(|one| (&one["line"], &one["column"])).collect();
        let expected = serde_json::json!([[4, 1], [5, 17]]);
        assert_eq!(serde_json::to_value(places).unwrap(), expected);
    }
}
