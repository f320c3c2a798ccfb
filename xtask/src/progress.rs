//! What a task says while it works: one line a step, on standard error.

use std::fmt::Display;
use std::time::Instant;

/// Says what begins or is the case.
pub(crate) fn say(what: impl Display) {
    eprintln!("xtask: {what}");
}

/// Says what begins, and afterwards how long it took.
pub(crate) fn timed<T>(what: impl Display, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    say(format_args!("{what} …"));
    let start = Instant::now();
    let done = work()?;
    say(format_args!("{what}: done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(done)
}
