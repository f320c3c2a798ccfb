//! What can be said of the source without running it.

use std::process::Command;

use anyhow::Result;

use super::tally::Tally;
use crate::process::{command, run as run_command};
use crate::tree;

/// The kernel programs' own target, built apart because it needs the standard library's source.
const BPF_TARGET: [&str; 4] = ["--target", "bpfel-unknown-none", "-Z", "build-std=core"];

/// A name as tests have, and the programs that must succeed.
struct Check {
    name: &'static str,
    programs: fn() -> Vec<Command>,
}

const CHECKS: [Check; 4] = [
    Check { name: "checks::fmt", programs: fmt },
    Check { name: "checks::clippy", programs: clippy },
    Check { name: "checks::clippy_of_the_kernel_programs", programs: clippy_bpf },
    Check { name: "checks::deny", programs: deny },
];

pub(super) fn run(filter: Option<&str>) -> Result<Tally> {
    let mut tally = Tally::default();
    for Check { name, programs } in CHECKS {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let failure = programs().iter_mut().find_map(|program| run_command(program).err());
        println!("test {name} ... {}", if failure.is_none() { "ok" } else { "FAILED" });
        match failure {
            None => tally.passed += 1,
            Some(error) => tally.fail(name, format!("{error:#}")),
        }
    }
    Ok(tally)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command("cargo");
    cargo.current_dir(tree::root()).args(arguments);
    cargo
}

fn fmt() -> Vec<Command> {
    vec![cargo(&["fmt", "--all", "--check"])]
}

fn clippy() -> Vec<Command> {
    let strict = ["--", "-D", "warnings"];
    let workspace = ["clippy", "--quiet", "--workspace", "--exclude", "enforcer-ebpf", "--all-targets"];
    // Not in `--all-targets`, because it is no unit test.
    let suite = ["clippy", "--quiet", "-p", "enforcer-tests", "--test", "e2e"];
    vec![cargo(&[&workspace[..], &strict].concat()), cargo(&[&suite[..], &strict].concat())]
}

/// In a target folder of its own: the variable that unlocks `-Z` would otherwise make cargo
/// rebuild, back and forth, what other builds share.
fn clippy_bpf() -> Vec<Command> {
    let scope = ["clippy", "--quiet", "-p", "enforcer-ebpf", "--target-dir", "target/ebpf"];
    let mut clippy = cargo(&[&scope[..], &BPF_TARGET, &["--", "-D", "warnings"]].concat());
    clippy.env("RUSTC_BOOTSTRAP", "1");
    vec![clippy]
}

/// Every crate of the lock file must be there for the offline check, also other systems'.
fn deny() -> Vec<Command> {
    vec![
        cargo(&["fetch", "--quiet", "--locked"]),
        cargo(&["deny", "--offline", "--log-level", "warn", "check", "licenses", "bans", "sources"]),
    ]
}
