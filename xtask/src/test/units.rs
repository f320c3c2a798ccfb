//! Tests that need no kernel of ours: of functions, of whole commands, of the tree's tidiness.

use std::io::Read;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::reader::Reader;
use super::tally::Tally;
use crate::process::command;
use crate::tree;

pub(super) fn run(filter: Option<&str>) -> Result<Tally> {
    let mut cargo = command("cargo");
    cargo.current_dir(tree::root()).args([
        "test",
        "--workspace",
        "--exclude",
        "enforcer-ebpf",
        "--no-fail-fast",
    ]);
    cargo.args(filter).args(["--", "--color", "never"]);
    read(cargo.stdin(Stdio::null()), Reader::new(None))
}

/// Runs a test program, prints what it prints, and counts.
pub(super) fn read(program: &mut std::process::Command, mut reader: Reader) -> Result<Tally> {
    let mut child = program.stdout(Stdio::piped()).spawn().context("start the tests")?;
    let mut out = child.stdout.take().context("the tests' output")?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = out.read(&mut buffer).context("read the tests' output")?;
        if length == 0 {
            break;
        }
        print!("{}", reader.read(buffer.get(..length).unwrap_or_default()));
    }
    let status = child.wait().context("wait for the tests")?;
    Ok(reader.end(status.success()))
}
