//! A process that acts: one action for each argument, one line for what came of it.
//!
//! An action is words with colons between them only where the action says so, such as `connect 127.0.0.1:80`. The line
//! is `ok`, what the action says it prints, or the name of the error. With the single argument `follow` the actions
//! come as lines of standard input.

mod case;
mod file;
mod network;
mod socket;
mod sys;
mod threads;

use std::{
    io::{BufRead as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use nix::errno::Errno;

/// What came of an action.
type Came = Result<String, Errno>;

fn act(action: &str) -> Came {
    let words: Vec<&str> = action.split_whitespace().collect();
    let (Some(verb), arguments) = (words.first(), words.get(1..).unwrap_or_default()) else {
        return Err(Errno::EINVAL);
    };
    let first = arguments.first().copied().unwrap_or_default();
    match *verb {
        "sleep" => {
            thread::sleep(Duration::from_millis(first.parse().map_err(|_| Errno::EINVAL)?));
            Ok("ok".into())
        }
        "pid" => Ok(std::process::id().to_string()),
        verb => network::act(verb, arguments)
            .or_else(|| socket::act(verb, arguments))
            .or_else(|| file::act(verb, arguments))
            .or_else(|| case::act(verb, arguments))
            .or_else(|| threads::act(verb, arguments))
            .unwrap_or(Err(Errno::ENOSYS)),
    }
}

fn tell(came: &Came) {
    let line = match came {
        Ok(line) => line.clone(),
        Err(errno) => format!("{errno:?}"),
    };
    println!("{line}");
    let _ = std::io::stdout().flush();
}

fn main() -> ExitCode {
    let actions: Vec<String> = std::env::args().skip(1).collect();
    if actions == ["follow"] {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            tell(&act(&line));
        }
    } else {
        for action in &actions {
            tell(&act(action));
        }
    }
    ExitCode::SUCCESS
}
