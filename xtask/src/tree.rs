//! Where things lie in the source tree and below its `target/`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::process;

/// What the binaries are built for: static, so that they run in any guest.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-musl";

/// Tells a test or the demo where the tree's policies are.
pub(crate) const POLICIES: &str = "ENFORCER_POLICIES";

/// Tells a test where the cases of `tests/cases` are.
pub(crate) const CASES: &str = "ENFORCER_CASES";

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// What `setup` installs.
pub(crate) fn setup() -> PathBuf {
    root().join("target/setup")
}

/// Logs and images of guests.
pub(crate) fn guests() -> PathBuf {
    root().join("target/vm")
}

/// The built binaries.
pub(crate) fn binaries() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(TRIPLE).join("release")
}

/// The search path with the built binaries in front.
pub(crate) fn path_with_binaries() -> OsString {
    let mut folders = vec![binaries()];
    folders.extend(env::split_paths(&process::search_path()));
    env::join_paths(folders).unwrap_or_default()
}
