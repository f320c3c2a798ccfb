//! Threads that take the processor from each other in the middle of a decision are each judged by their own path.

use std::fs;

use libtest_mimic::Trial;

use crate::governed::{Agent, same, text_of};
use crate::trial::{Outcome, skip, trial};

/// How many opens the two threads make together.
const OPENS: &str = "100000";

/// How often the processor must have been taken from one of them meanwhile.
const TAKEN: u64 = 100;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("preempt::opens_of_two_priorities_are_not_mixed_up", || {
            are_not_mixed_up("preempt-fifo", "fifo")
        }),
        trial("preempt::opens_that_take_turns_are_not_mixed_up", || are_not_mixed_up("preempt-rr", "rr")),
    ]
}

fn are_not_mixed_up(name: &'static str, order: &str) -> Outcome {
    let mode = fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
    if !mode.contains("(full)") {
        return skip(format!("needs full preemption, this kernel has `{}`", mode.trim()));
    }
    let rule = "[[file]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/forbidden/**\"]\n";
    let agent = Agent::new(name, &format!("{}{rule}", crate::governed::OPEN))?;
    let deep = "folder/".repeat(12);
    let forbidden = agent.file(&format!("forbidden/{deep}key"))?;
    let allowed = agent.file(&format!("permitted/{deep}key"))?;
    let ran = agent.run(&["actor", &format!("preempt {forbidden} {allowed} {OPENS} {order}")])?;
    eprintln!("{name}: {:?} {}", ran.lines, ran.errors);
    let line = ran.lines.first().ok_or_else(|| ran.errors.clone())?;
    let (judged, taken) = line.split_once("; the processor was taken ").ok_or_else(|| line.clone())?;
    same(&judged, &format!("0 forbidden passed, 0 allowed refused, of {OPENS}").as_str())?;
    // Without that the test would show nothing.
    if taken.split(' ').next().and_then(|times| times.parse().ok()).unwrap_or(0) < TAKEN {
        return Err(line.clone().into());
    }
    let blocked = |event: &&serde_json::Value| text_of(event, "verdict") == "block";
    let events = agent.events()?;
    let wrong = events.iter().filter(blocked).filter(|event| text_of(event, "path") != forbidden).count();
    same(&wrong, &0)
}
