//! Rules for the tree that no compiler knows, each a test. A finding names file, line and rule.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tree;

/// How far above its `unsafe` the reason may begin.
const REASON_LINES: usize = 8;

/// Folders that hold nothing of ours.
const FOREIGN: [&str; 2] = ["target", ".git"];

/// Files of these kinds are text that somebody reads.
const READ: [&str; 6] = ["rs", "md", "toml", "service", "sh", "html"];

struct Source {
    path: PathBuf,
    text: String,
}

fn sources(accept: impl Fn(&Path) -> bool) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![tree::root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() || FOREIGN.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if accept(&path) {
                // Some of the broken policies are not even text.
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                found.push(Source { text, path });
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn rust() -> Vec<Source> {
    sources(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

fn readable() -> Vec<Source> {
    sources(|path| path.extension().is_some_and(|kind| READ.iter().any(|read| kind == *read)))
}

/// Fails with all findings at once.
fn check(sources: &[Source], rule: &str, broken: impl Fn(&Source) -> Vec<usize>) {
    let findings: Vec<_> = sources
        .iter()
        .flat_map(|source| broken(source).into_iter().map(|line| format!("{}:{line}", source.path.display())))
        .collect();
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

/// Numbers of the lines that the test holds for, from 1.
fn lines(source: &Source, test: impl Fn(&str) -> bool) -> Vec<usize> {
    source.text.lines().zip(1..).filter(|(line, _)| test(line)).map(|(_, number)| number).collect()
}

fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase)
}

#[test]
fn a_folder_of_modules_has_its_file_beside_it() {
    check(&rust(), "`concept.rs` beside `concept/`, not `mod.rs`", |source| {
        if source.path.ends_with("mod.rs") { vec![1] } else { Vec::new() }
    });
}

#[test]
fn every_file_says_first_what_it_is() {
    check(&rust(), "the first line starts with `//!`", |source| {
        if source.text.starts_with("//!") { Vec::new() } else { vec![1] }
    });
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not break its own rule.
    let macros = ["todo", "dbg", "unimplemented"].map(|name| format!("{name}!("));
    check(&rust(), "no macros that stand for work to do", |source| {
        lines(source, |line| macros.iter().any(|name| line.contains(name)))
    });
}

#[test]
fn the_tree_speaks_of_itself_and_not_of_how_it_came_to_be() {
    let told = [["pha", "se"], ["iss", "ue"]].map(|halves| halves.concat());
    let plural = told.clone().map(|word| word + "s");
    check(&readable(), "no word for steps of a plan or entries of a tracker", |source| {
        lines(source, |line| words(line).any(|word| told.contains(&word) || plural.contains(&word)))
    });
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    check(&rust(), "`SAFETY:` (or a function's own `# Safety`) within eight lines above", |source| {
        let all: Vec<_> = source.text.lines().collect();
        let reason = |number: usize| {
            let first = number.saturating_sub(1 + REASON_LINES);
            all[first..number].iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
        };
        lines(source, is_unsafe).into_iter().filter(|&number| !reason(number)).collect()
    });
}

/// Blocks and implementations; a function that is unsafe to call says so in its own docs.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let starts_alone = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_\"`".contains(c));
    ["unsafe {", "unsafe impl ", "unsafe extern \"C\" {"]
        .iter()
        .any(|start| code.match_indices(start).any(|(at, _)| starts_alone(at)))
}

#[test]
fn unsafe_code_is_recognised() {
    // In two pieces, since this file is looked at as well.
    assert!(is_unsafe(&["let x = unsafe", " { f() };"].concat()));
    assert!(is_unsafe("unsafe impl Pod for X {}"));
    assert!(!is_unsafe("// unsafe { f() }"));
    assert!(!is_unsafe("pub unsafe fn f() {"));
    assert!(!is_unsafe("unsafe extern \"C\" fn f() {"));
}
