//! Creating files: decided before the file exists.

use std::fs;

use libtest_mimic::Trial;

use crate::governed::{Agent, same, shell, tally, text_of};
use crate::trial::{Outcome, PASS, trial};

const NO_NEW: &str =
    "[[file]]\nname = \"no-new\"\naction = \"block\"\npaths = [\"@/full/*\"]\naccess = [\"create\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("create::a_refused_file_is_not_there", a_refused_file_is_not_there),
        trial("create::an_allowed_file_makes_one_event", an_allowed_file_makes_one_event),
        trial("create::a_file_that_is_there_is_opened", a_file_that_is_there_is_opened),
        trial("create::a_file_that_is_there_takes_no_token", a_file_that_is_there_takes_no_token),
        trial("create::a_new_file_is_read_where_it_is_opened_for_that", a_new_file_is_read),
        trial("create::io_uring_makes_no_file_to_read", io_uring_makes_no_file_to_read),
        trial("create::what_a_file_is_made_for_takes_one_token", what_a_file_is_made_for_takes_one_token),
        trial("create::an_approved_create_passes_once", an_approved_create_passes_once),
        trial("create::a_rejected_create_is_refused", a_rejected_create_is_refused),
        trial("create::a_new_file_to_read_asks_before_it_is_there", a_new_file_to_read_asks),
        trial("create::a_file_that_is_there_asks_nobody", a_file_that_is_there_asks_nobody),
        trial("create::audit_mode_makes_everything_and_tells_all", audit_mode_makes_everything),
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

const DROP_BOX: &str =
    "[[file]]\nname = \"drop-box\"\naction = \"block\"\npaths = [\"@/drop/*\"]\naccess = [\"read\"]\n";

/// Whichever call it is, a new file that may be written but not read is refused to who would read it, before it is
/// there.
fn a_new_file_is_read() -> Outcome {
    let agent = Agent::new("create-read", DROP_BOX)?;
    agent.file("drop/old")?;
    agent.expect(&[
        ("create-both @/drop/old", "EPERM"),
        ("create-both @/drop/a", "EPERM"),
        ("create-new-both @/drop/a", "EPERM"),
        ("create-to-read @/drop/a", "EPERM"),
        ("open-create-both @/drop/a", "EPERM"),
        ("openat2-create-both @/drop/a", "EPERM"),
        ("create @/drop/b", "ok"),
        ("open-create @/drop/c", "ok"),
        ("openat2-create @/drop/d", "ok"),
        ("creat @/drop/e", "ok"),
        ("create-both @/drop/e", "EPERM"),
        ("create-both @/elsewhere", "ok"),
    ])?;
    same(&fs::exists(agent.at("drop/a"))?, &false)?;
    same(
        &agent.tally()?,
        &tally([
            ("open block drop/old", 1),
            ("create block drop/a", 5),
            ("create allow drop/b", 1),
            ("create allow drop/c", 1),
            ("create allow drop/d", 1),
            ("create allow drop/e", 1),
            ("open block drop/e", 1),
            ("create allow elsewhere", 1),
        ]),
    )?;
    let events = agent.events()?;
    let elsewhere = events.iter().find(|event| text_of(event, "path").ends_with("/elsewhere"));
    same(&elsewhere.and_then(|event| event.get("access")), &Some(&["read", "write", "create"][..].into()))
}

/// What io_uring opens a new file for is known only when it is there, and refused then; as one act.
fn io_uring_makes_no_file_to_read() -> Outcome {
    let agent = Agent::new("create-uring", DROP_BOX)?;
    fs::create_dir_all(agent.at("drop"))?;
    agent.expect(&[
        ("worker-create @/drop/a", "ok"),
        ("worker-create-both @/drop/b", "EPERM"),
        ("worker-create-both @/c", "ok"),
    ])?;
    same(
        &agent.tally()?,
        &tally([("create allow drop/a", 1), ("create block drop/b", 1), ("create allow c", 1)]),
    )
}

fn what_a_file_is_made_for_takes_one_token() -> Outcome {
    let slow = |access: &str| {
        format!(
            "[[file]]\nname = \"{access}\"\naction = \"throttle\"\npaths = [\"@/{access}/*\"]\n\
             access = [\"{access}\"]\nrate = \"1/hour\"\nburst = 3\n"
        )
    };
    let rules = ["create", "read", "write"].map(slow).concat();
    let agent = Agent::new("create-one-token", &rules)?;
    for folder in ["create", "read", "write"] {
        fs::create_dir_all(agent.at(folder))?;
        agent.expect(&[
            (&format!("create-both @/{folder}/a"), "ok"),
            (&format!("worker-create-both @/{folder}/b"), "ok"),
            (&format!("openat2-create-both @/{folder}/c"), "ok"),
            (&format!("create-both @/{folder}/d"), "EAGAIN"),
        ])?;
        same(&fs::exists(agent.at(&format!("{folder}/d")))?, &false)?;
        let tallied = agent.tally_of(&agent.at(&format!("{folder}/")))?;
        let expected =
            [("create allow a", 1), ("create allow b", 1), ("create allow c", 1), ("create throttle d", 1)];
        same(&tallied, &tally(expected))?;
    }
    Ok(PASS)
}

const ASK: &str = "[[file]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\npaths = [\"@/asked\"]\naccess = [\"create\"]\n";

/// With O_EXCL, a file that the call that was held had left behind would show.
fn an_approved_create_passes_once() -> Outcome {
    let agent = Agent::new("create-approved", ASK)?;
    same(&agent.ask("create-new @/asked", "approve")?.join(" ").as_str(), &"EAGAIN ok EEXIST")?;
    fs::remove_file(agent.at("asked"))?;
    agent.expect(&[("create-new @/asked", "EAGAIN")])?;
    same(&agent.tally()?, &tally([("create allow asked", 1), ("create escalate asked", 2)]))
}

fn a_rejected_create_is_refused() -> Outcome {
    let agent = Agent::new("create-rejected", ASK)?;
    same(&agent.ask("create @/asked", "reject")?.join(" ").as_str(), &"EAGAIN EPERM EAGAIN")?;
    same(&fs::exists(agent.at("asked"))?, &false)?;
    same(&agent.tally()?, &tally([("create block asked", 1), ("create escalate asked", 2)]))
}

fn a_new_file_to_read_asks() -> Outcome {
    let agent = Agent::new("create-read-asks", &ASK.replace("create", "read"))?;
    same(&agent.ask("create-new-both @/asked", "approve")?.join(" ").as_str(), &"EAGAIN ok EEXIST")?;
    same(&agent.tally()?, &tally([("create allow asked", 1), ("create escalate asked", 1)]))
}

/// The kernel asks about creating also where the file exists; that is no reason to ask a person.
fn a_file_that_is_there_asks_nobody() -> Outcome {
    let agent = Agent::new("create-asks-nobody", ASK)?;
    agent.file("asked")?;
    shell("sync; echo 3 > /proc/sys/vm/drop_caches")?;
    agent.expect_unasked(&[("create @/asked", "ok")])?;
    same(&agent.tally()?, &tally([("open allow asked", 1)]))
}

fn audit_mode_makes_everything() -> Outcome {
    let rules = "[[file]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/full/*\"]\naccess = [\"create\"]\n\
        [[file]]\nname = \"slow\"\naction = \"throttle\"\npaths = [\"@/slow/*\"]\nrate = \"1/hour\"\n";
    let sections = format!("mode = \"audit\"\n{}{rules}{DROP_BOX}{ASK}", crate::governed::OPEN);
    let agent = Agent::new("create-audit", &sections)?;
    for folder in ["full", "slow", "drop"] {
        fs::create_dir_all(agent.at(folder))?;
    }
    agent.expect_unasked(&[
        ("create @/full/a", "ok"),
        ("mknod @/full/b", "ok"),
        ("worker-create-both @/full/c", "ok"),
        ("create-both @/drop/a", "ok"),
        ("worker-create-both @/drop/b", "ok"),
        ("create @/slow/a", "ok"),
        ("create @/slow/b", "ok"),
        ("create-new @/asked", "ok"),
    ])?;
    same(&agent.events()?.iter().all(|event| event.get("audit") == Some(&true.into())), &true)?;
    same(
        &agent.tally()?,
        &tally([
            ("create block full/a", 1),
            ("create block full/b", 1),
            ("create block full/c", 1),
            ("create block drop/a", 1),
            ("create block drop/b", 1),
            ("create allow slow/a", 1),
            ("create throttle slow/b", 1),
            ("create escalate asked", 1),
        ]),
    )
}
