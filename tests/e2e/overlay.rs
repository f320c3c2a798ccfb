//! Files in a container: the root is an overlay, entered by `pivot_root`.

use std::fs;

use libtest_mimic::Trial;

use crate::governed::{Agent, same, tally};
use crate::trial::{Outcome, trial};

const RULES: &str = "[[file]]\nname = \"secret\"\naction = \"block\"\npaths = [\"/hush/**\"]\n\
    [[file]]\nname = \"kept\"\naction = \"block\"\npaths = [\"/kept/**\"]\naccess = [\"write\", \"create\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("overlay::an_open_in_a_container_is_decided_once", an_open_in_a_container_is_decided_once)]
}

fn an_open_in_a_container_is_decided_once() -> Outcome {
    let agent = Agent::new("container", RULES)?;
    for file in ["page", "copied", "both", "hush/key", "kept/file", "kept/other"] {
        agent.file(&format!("lower/data/{file}"))?;
    }
    fs::rename(agent.at("lower/data/hush"), agent.at("lower/hush"))?;
    fs::rename(agent.at("lower/data/kept"), agent.at("lower/kept"))?;
    for folder in ["upper", "work", "root"] {
        fs::create_dir_all(agent.at(folder))?;
    }
    agent.expect(&[
        ("container @", "ok"),
        ("read /data/page", "ok"),
        ("write /data/copied", "ok"),
        ("read /data/copied", "ok"),
        ("read-write /data/both", "ok"),
        ("create /data/new", "ok"),
        ("read /data/new", "ok"),
        ("read /hush/key", "EPERM"),
        ("write /hush/key", "EPERM"),
        ("read /kept/file", "ok"),
        ("write /kept/file", "EPERM"),
        ("truncate /kept/other", "EPERM"),
        ("create /kept/new", "EPERM"),
        ("mknod /kept/node", "EPERM"),
    ])?;
    // A refused open for writing has copied nothing up.
    same(&fs::exists(agent.at("upper/data/copied"))?, &true)?;
    same(&fs::exists(agent.at("upper/kept/new"))?, &false)?;
    same(&fs::read_to_string(agent.at("lower/kept/other"))?, &"text\n".to_owned())?;
    same(
        &agent.tally_of("/data/")?,
        &tally([
            ("open allow page", 1),
            ("open allow copied", 2),
            ("open allow both", 1),
            ("create allow new", 1),
            ("open allow new", 1),
        ]),
    )?;
    same(&agent.tally_of("/hush/")?, &tally([("open block key", 2)]))?;
    same(
        &agent.tally_of("/kept/")?,
        &tally([
            ("open allow file", 1),
            ("open block file", 1),
            ("open block other", 1),
            ("create block new", 1),
            ("create block node", 1),
        ]),
    )
}
