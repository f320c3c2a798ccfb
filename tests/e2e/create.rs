//! Creating files: decided before the file exists.

use std::fs;

use libtest_mimic::Trial;

use crate::governed::{Agent, same, shell, tally};
use crate::trial::{Outcome, trial};

const NO_NEW: &str =
    "[[file]]\nname = \"no-new\"\naction = \"block\"\npaths = [\"@/full/*\"]\naccess = [\"create\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("create::a_refused_file_is_not_there", a_refused_file_is_not_there),
        trial("create::an_allowed_file_makes_one_event", an_allowed_file_makes_one_event),
        trial("create::a_file_that_is_there_is_opened", a_file_that_is_there_is_opened),
        trial("create::a_file_that_is_there_takes_no_token", a_file_that_is_there_takes_no_token),
    ]
}

fn a_refused_file_is_not_there() -> Outcome {
    let agent = Agent::new("create-refused", NO_NEW)?;
    fs::create_dir_all(agent.at("full"))?;
    agent.expect(&[
        ("create @/full/a", "EPERM"),
        ("create-new @/full/b", "EPERM"),
        ("create-to-read @/full/c", "EPERM"),
        ("mknod @/full/d", "EPERM"),
        ("fifo @/full/e", "EPERM"),
    ])?;
    same(&fs::read_dir(agent.at("full"))?.count(), &0)?;
    same(
        &agent.tally()?,
        &tally([
            ("create block full/a", 1),
            ("create block full/b", 1),
            ("create block full/c", 1),
            ("create block full/d", 1),
            ("create block full/e", 1),
        ]),
    )
}

fn an_allowed_file_makes_one_event() -> Outcome {
    let agent = Agent::new("create-allowed", NO_NEW)?;
    agent.expect(&[
        ("create @/a", "ok"),
        ("create-new @/b", "ok"),
        ("create-new @/b", "EEXIST"),
        ("create-to-read @/c", "ok"),
        ("mknod @/d", "ok"),
        ("fifo @/e", "ok"),
    ])?;
    same(&fs::read_dir(agent.at(""))?.count(), &5)?;
    same(
        &agent.tally()?,
        &tally([
            ("create allow a", 1),
            ("create allow b", 1),
            ("create allow c", 1),
            ("create allow d", 1),
            ("create allow e", 1),
        ]),
    )
}

/// The kernel asks about creating when the name is not in its cache, also where the file exists.
fn a_file_that_is_there_is_opened() -> Outcome {
    let agent = Agent::new("create-existing", NO_NEW)?;
    for name in ["a", "b", "c"] {
        agent.file(&format!("full/{name}"))?;
    }
    shell("sync; echo 3 > /proc/sys/vm/drop_caches")?;
    agent.expect(&[
        ("create @/full/a", "ok"),
        ("create-to-read @/full/b", "ok"),
        ("create @/full/b", "ok"),
        ("create-new @/full/c", "EEXIST"),
    ])?;
    let mut met = agent.tally()?;
    // With O_EXCL nothing is opened; whether the refusal is told depends on which the kernel looks at first.
    met.retain(|what, _| !what.ends_with("full/c"));
    same(&met, &tally([("open allow full/a", 1), ("open allow full/b", 2)]))
}

fn a_file_that_is_there_takes_no_token() -> Outcome {
    let rule = "[[file]]\nname = \"few\"\naction = \"throttle\"\npaths = [\"@/few/*\"]\naccess = [\"create\"]\n\
                rate = \"1/hour\"\nburst = 2\n";
    let agent = Agent::new("create-tokens", rule)?;
    for name in ["a", "b", "c"] {
        agent.file(&format!("few/{name}"))?;
    }
    shell("sync; echo 3 > /proc/sys/vm/drop_caches")?;
    agent.expect(&[
        ("create @/few/a", "ok"),
        ("create @/few/b", "ok"),
        ("create @/few/c", "ok"),
        ("create @/few/d", "ok"),
        ("create @/few/e", "ok"),
        ("create @/few/f", "EAGAIN"),
    ])?;
    same(&fs::exists(agent.at("few/f"))?, &false)
}
