//! The end-to-end suite on this machine. What its kernel lacks, the tests skip and say.

use std::process::Stdio;

use anyhow::Result;

use super::reader::Reader;
use super::tally::Tally;
use super::{guests, units};
use crate::build::Built;
use crate::process::{self, command};
use crate::tree;

/// A suite that takes longer hangs.
const LIMIT_S: &str = "900";

pub(super) fn run(built: &Built, variables: &[(&str, String)], filter: Option<&str>) -> Result<Tally> {
    if process::output(command("id").arg("-u"))?.trim() != "0" {
        let mut tally = Tally::default();
        tally.skipped.push(("host".into(), "needs root".into()));
        return Ok(tally);
    }
    let mut suite = command("timeout");
    suite.args(["--kill-after=10", LIMIT_S]).arg(&built.suite).args(guests::arguments(filter));
    suite.env("PATH", tree::path_with_binaries()).current_dir(tree::root()).stdin(Stdio::null());
    suite
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env(tree::POLICIES, tree::root().join("policies"))
        .env(tree::CASES, tree::root().join("tests/cases"));
    units::read(&mut suite, Reader::new(Some("host".into())))
}
