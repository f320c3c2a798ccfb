//! The end-to-end suite on this machine. What its kernel lacks, the tests skip and say.

use std::env;
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

pub(super) fn run(built: &Built, filter: Option<&str>) -> Result<Tally> {
    if process::output(command("id").arg("-u"))?.trim() != "0" {
        let mut tally = Tally::default();
        tally.skipped.push(("host".into(), "needs root".into()));
        return Ok(tally);
    }
    let mut suite = command("timeout");
    suite.args(["--kill-after=10", LIMIT_S]).arg(&built.suite).args(guests::arguments(filter));
    let mut path = vec![tree::binaries()];
    path.extend(env::split_paths(&process::search_path()));
    suite.env("PATH", env::join_paths(path)?).current_dir(tree::root()).stdin(Stdio::null());
    units::read(&mut suite, Reader::new(Some("host".into())))
}
