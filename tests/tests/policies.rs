//! The example policies: each is read without a word, and compiles to the tables of its snapshot.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use enforcer::policy::{CompiledTables, Look, check_file};

fn policies() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".toml") && !name.ends_with(".test.toml")
    });
    paths.sort();
    paths
}

#[test]
fn example_policies_are_without_errors_and_warnings() {
    for path in policies() {
        let (found, checked) = check_file(&path).unwrap();
        assert!(found.is_empty(), "{}", found.render(Look::PLAIN));
        assert!(checked.is_some());
    }
}

/// All of a table that the loader writes, as text. A change of it is a change of what lies in kernels: raise
/// `LAYOUT_VERSION` if programs of another version would read it wrongly.
fn written(tables: &CompiledTables) -> String {
    let mut text = String::new();
    let mut line = |part: String| text.push_str(&(part + "\n"));
    let header = &tables.header;
    line(format!(
        "{} rules, defaults {} {} {}, cells at {}, roots {:#010x} {:#010x}, audit {}",
        header.rules,
        header.default_network,
        header.default_file,
        header.default_exec,
        header.cells,
        header.root_v4,
        header.root_v6,
        tables.audit
    ));
    for (rule, name) in tables.rules.iter().zip(&tables.names) {
        line(format!("{} line {}: {rule:?}", name.name, name.line));
    }
    for (lane, automaton) in header.lanes.iter().enumerate() {
        let classes = digest(automaton.classes.iter().map(|class| u32::from(*class)));
        line(format!("lane {lane}: start {} end {} classes {classes:016x}", automaton.start, automaton.end));
    }
    line(format!("{} words {:016x}", tables.words.len(), digest(tables.words.iter().copied())));
    text
}

/// FNV-1a over the bytes.
fn digest(words: impl Iterator<Item = u32>) -> u64 {
    let bytes = words.flat_map(u32::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn example_policies_compile_to_the_tables_on_record() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    for path in policies() {
        let (_, checked) = check_file(&path).unwrap();
        let (policy, tables) = checked.unwrap();
        insta::assert_snapshot!(format!("tables-{}", policy.name), written(&tables));
    }
}
