//! Every broken policy in `tests/bad` gives the diagnostics of the snapshot beside it: message, place,
//! underlined text and help. A file without a snapshot fails, and so does a snapshot without a file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use enforcer::policy::{self, Diagnostics, Look};

fn bad() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bad")
}

/// Reads a file under its bare name, so that no path is in a snapshot.
fn diagnose(path: &Path) -> Diagnostics {
    let name = path.file_name().unwrap().to_str().unwrap();
    let (policy, diagnostics) = policy::parse_bytes(name, fs::read(path).unwrap());
    assert_eq!(policy.is_none(), diagnostics.has_errors(), "{name}: a policy with an error, or none without");
    assert!(!diagnostics.is_empty(), "{name}: nothing was found");
    for one in diagnostics.iter() {
        assert!(one.help().is_some(), "{name}: `{}` does not say what to do", one.message());
        assert!(one.message().starts_with(|c: char| !c.is_uppercase()), "{name}: {}", one.message());
        assert!(!one.message().ends_with('.'), "{name}: {}", one.message());
    }
    diagnostics
}

#[test]
fn bad_policies_say_what_is_wrong_and_what_to_write() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(bad().join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    insta::glob!("../../tests/bad", "*.toml", |path| {
        let diagnostics = diagnose(path);
        let shown = format!("{}{}", diagnostics.render(Look::PLAIN), diagnostics.summary());
        insta::assert_snapshot!("bad", shown);
    });
}

#[test]
fn every_snapshot_has_its_policy() {
    let names = |folder: &Path, strip: fn(&str) -> Option<&str>| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter_map(|name| strip(name.to_str().unwrap()).map(str::to_owned)).collect()
    };
    let policies = names(&bad(), |name| name.strip_suffix(".toml"));
    let snapshots =
        names(&bad().join("snapshots"), |name| name.strip_prefix("bad@")?.strip_suffix(".toml.snap"));
    assert_eq!(policies, snapshots);
    assert!(policies.len() >= 30);
}
