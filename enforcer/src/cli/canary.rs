//! The hidden command that tries what the canary tries; see [`crate::kernel::canary`].

use super::exit::{Exit, Problem};
use crate::kernel::canary::try_all;
use std::{io::Write as _, path::PathBuf};

/// Tries what must be refused, and what must pass
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The stage
    folder: PathBuf,
    /// Whether files and programs are governed
    #[arg(long)]
    lsm: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Problem> {
    let failed = |error: std::io::Error| Problem::of(Exit::Failed, &error);
    let attempts = try_all(&args.folder, args.lsm).map_err(failed)?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &attempts).map_err(|error| failed(error.into()))?;
    out.flush().map_err(failed)?;
    Ok(Exit::Done)
}
