//! What an agent does in a test: a list of steps, each with one line that says how it ended.

mod file;
mod sys;
mod threads;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some((room, steps)) = arguments.split_first() else { return usage() };
    match room.as_str() {
        "file" => file::run(steps),
        "threads" => threads::busy(steps),
        "preempt" => threads::preempt(steps),
        "bomb" => threads::bomb(steps),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("actor: file STEP… | threads PATH N | preempt FORBIDDEN ALLOWED OPENS | bomb PATH SECONDS");
    ExitCode::from(2)
}
