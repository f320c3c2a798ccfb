//! What the reference of the policy says is so: its examples are read, and its table of globs holds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use enforcer::policy::{Look, PolicySource, parse};
use enforcer_tests::oracle::Oracle;

const HEAD: &str =
    "version = 1\nname = \"p\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";

fn reference() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md")).unwrap()
}

#[test]
fn examples_of_the_reference_are_read() {
    let reference = reference();
    let examples: Vec<_> =
        reference.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(examples.len() >= 4);
    for example in examples {
        let text =
            if example.contains("version =") { example.to_owned() } else { format!("{HEAD}{example}") };
        let (policy, found) = parse(PolicySource::new("example.toml", text));
        assert!(policy.is_some() && found.is_empty(), "{}", found.render(Look::PLAIN));
    }
}

/// The texts in backticks of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_globs_holds() {
    let reference = reference();
    let section = reference.split_once("## Globs").unwrap().1.split_once("\n- ").unwrap().0;
    let mut rows = 0;
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').collect();
        let &[_, glob, matched, unmatched, _] = cells.as_slice() else { panic!("{row}") };
        let glob = quoted(glob)[0];
        let text = format!("{HEAD}[[file]]\nname = \"it\"\naction = \"block\"\npaths = ['{glob}']\n");
        let (policy, found) = parse(PolicySource::new("glob.toml", text));
        let policy = policy.unwrap_or_else(|| panic!("{}", found.render(Look::PLAIN)));
        let compiled = enforcer::policy::compile(&policy).unwrap();
        let tables = enforcer::policy::MemoryTables::new(&compiled);
        let oracle = Oracle::new(&policy);
        let read = enforcer_common::action::Access::READ;
        let says = |path: &str| {
            let rule = tables.decide_path(read, path.as_bytes()).rule;
            assert_eq!(oracle.path(read, path).rule == "it", rule == 0, "{glob} on {path}");
            rule == 0
        };
        quoted(matched).into_iter().for_each(|path| assert!(says(path), "{glob} on {path}"));
        quoted(unmatched).into_iter().for_each(|path| assert!(!says(path), "{glob} on {path}"));
        rows += 1;
    }
    assert!(rows >= 10);
}
