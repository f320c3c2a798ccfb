//! What governing costs, measured: `cargo xtask bench` runs this here and in a guest.
//!
//! Everything stands beside a baseline (the same work without governance) and a peer (Landlock with as many rules)
//! that were measured in the same run. Natively it is time, in pairs, as medians; in a guest whose clock counts
//! instructions it is instructions, which repeat.

mod bpf;
mod connect;
mod governed;
mod landlock;
mod load;
mod open;
mod pause;
mod policies;
mod random;
mod report;
mod worker;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    match run(env::args().nth(1).as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("enforcer-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: Option<&str>) -> Result<()> {
    match what {
        Some("connect") => connect::run(),
        Some("open") => open::run(),
        Some("load") => load::run(),
        Some("pause") => pause::run(),
        Some("pause-sender") => pause::sender(),
        _ => bail!("usage: enforcer-bench connect|open|load|pause"),
    }
}
