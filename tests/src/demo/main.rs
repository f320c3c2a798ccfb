//! The demo: one agent under `policies/demo.toml`, told as it happens, and checked: what does not come out as told
//! makes it fail.
//!
//! The program plays everybody but the kernel: the director (`story`), the servers that the agent talks to, the
//! person who answers requests, and, as `enforcer-demo agent`, the agent itself, a process that does what it is told
//! over its standard input, as an agent does what its model says. Nothing about governance is in the agent.

mod agent;
mod screen;
mod servers;
mod stage;
mod story;

use std::process::ExitCode;

use crate::screen::Screen;

fn main() -> ExitCode {
    let told = match std::env::args().nth(1).as_deref() {
        Some("agent") => agent::work(),
        None => story::tell(&mut Screen::new()),
        Some(word) => Err(anyhow::anyhow!("the demo takes no arguments, and this is one: `{word}`")),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("enforcer-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
