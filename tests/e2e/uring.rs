//! io_uring: an open is governed whoever makes it, the call, a worker or a poller, and the refusal is in the completion.

use libtest_mimic::Trial;

use crate::governed::{Agent, same, tally};
use crate::trial::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("uring::an_inline_open_is_governed", || is_governed("uring-inline", "inline")),
        trial("uring::an_open_by_a_worker_is_governed", || is_governed("uring-worker", "worker")),
        trial("uring::an_open_by_a_poller_is_governed", || is_governed("uring-poller", "polled")),
    ]
}

fn is_governed(name: &'static str, way: &str) -> Outcome {
    let agent =
        Agent::new(name, "[[file]]\nname = \"secret\"\naction = \"block\"\npaths = [\"@/secret\"]\n")?;
    agent.file("secret")?;
    agent.file("page")?;
    agent.expect(&[
        (&format!("{way} @/page"), "ok"),
        (&format!("{way} @/secret"), "EPERM"),
        (&format!("{way} @/page"), "ok"),
    ])?;
    same(&agent.tally()?, &tally([("open allow page", 2), ("open block secret", 1)]))
}
