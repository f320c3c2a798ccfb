//! Tasks that a developer types twice: `cargo xtask TASK`.
//!
//! This program needs nothing but cargo to be built and nothing that `setup` installs to start.
//! What a task needs it asks [`setup`] for, by name; nothing here is part of Enforcer itself.

mod bench;
mod build;
mod demo;
mod process;
mod progress;
mod setup;
mod test;
#[cfg(test)]
mod tidy;
mod tree;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Enforcer tree")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the other tasks need, into target/setup and by the system's package manager
    Setup(setup::Args),
    /// Build the static binaries and the end-to-end suite
    Build,
    /// Show an agent being governed, on this machine if its kernel can, else in a guest
    Demo(demo::Args),
    /// Run the checks, the unit tests and the end-to-end suite, here and in guests
    Test(test::Args),
    /// Measure what governing costs, beside no governance and Landlock
    Bench(bench::Args),
    /// Boot a kernel and run a command inside, or a shell
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Build => build::run(),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(args),
        Task::Bench(args) => bench::run(&args),
        Task::Vm(args) => vm::run(args),
    }
}
