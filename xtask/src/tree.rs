//! Where things lie in the source tree and below its `target/`.

use std::path::{Path, PathBuf};

/// What the binaries are built for: static, so that they run in any guest.
pub(crate) const TRIPLE: &str = "x86_64-unknown-linux-musl";

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
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(TRIPLE).join("release")
}
