//! What the docs say is so: examples of policies are read, the table of globs holds, and links lead somewhere.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use enforcer::policy::{Look, PolicySource, parse};
use enforcer_tests::oracle::Oracle;

const HEAD: &str =
    "version = 1\nname = \"p\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// Reads the examples of a page without a word; how many there are.
fn examples_are_read(page: &str) -> usize {
    let examples: Vec<_> =
        page.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    for example in &examples {
        let text =
            if example.contains("version =") { (*example).to_owned() } else { format!("{HEAD}{example}") };
        let (policy, found) = parse(PolicySource::new("example.toml", text));
        assert!(policy.is_some() && found.is_empty(), "{}", found.render(Look::PLAIN));
    }
    examples.len()
}

#[test]
fn examples_of_policies_are_read() {
    assert!(examples_are_read(&page("docs/policy.md")) >= 4);
    assert_eq!(examples_are_read(&page("README.md")), 1);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages =
        ["agents", "kernels", "operations", "performance", "policy"].map(|name| format!("docs/{name}.md"));
    let readme = page("README.md");
    for name in &pages {
        assert!(readme.contains(&format!("]({name})")), "README.md does not name {name}");
    }
    let root = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned);
    for name in root.iter().chain(&pages) {
        let text = page(name);
        let named = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to);
        for to in named.filter(|to| !to.contains("://")) {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).with_file_name("").join(to);
            assert!(path.exists(), "{name}: {to}");
        }
    }
}

/// The programs that an object must have are those of the table.
#[test]
fn every_program_is_in_the_table_of_kernels() {
    let kernels = page("docs/kernels.md");
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../enforcer-ebpf/src/hooks");
    let mut programs = 0;
    for file in fs::read_dir(hooks).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let attributes = ["#[lsm(", "#[cgroup_sock_addr(", "#[btf_tracepoint("];
        for part in attributes.iter().flat_map(|attribute| text.split(attribute).skip(1)) {
            let name = part.split_once("fn ").unwrap().1.split_once('(').unwrap().0;
            assert!(kernels.contains(name.trim_end_matches(['4', '6'])), "{name} is not in docs/kernels.md");
            programs += 1;
        }
    }
    assert!(programs >= 15, "{programs}");
}

/// The texts in backticks of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_table_of_globs_holds() {
    let reference = page("docs/policy.md");
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
