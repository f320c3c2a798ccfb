//! Disk images made of folders, without mounting anything.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{command, quietly};

/// Room for a guest to write into, beside what the folder holds.
const ROOM_BYTES: u64 = 512 << 20;

/// What a file costs beside its content, generously.
const FILE_BYTES: u64 = 8 << 10;

/// Inodes beside one for each file of the folder.
const ROOM_INODES: u64 = 16 << 10;

/// Makes an ext4 image of a folder. The file is sparse: its size is a limit and no cost.
pub(crate) fn make(folder: &Path, image: &Path) -> Result<()> {
    let mut sum = Sum::default();
    measure(folder, &mut sum)?;
    let mib = (sum.bytes + sum.bytes / 16 + sum.files * FILE_BYTES + ROOM_BYTES) >> 20;
    match fs::remove_file(image) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("remove the old image");
        }
        _ => {}
    }
    let mut mke2fs = command("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-N"]).arg((sum.files + ROOM_INODES).to_string());
    quietly(mke2fs.args(["-E", "root_owner=0:0", "-d"]).arg(folder).arg(image).arg(format!("{mib}M")))
}

#[derive(Default)]
struct Sum {
    files: u64,
    bytes: u64,
}

fn measure(folder: &Path, sum: &mut Sum) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let about = entry.metadata().with_context(|| entry.path().display().to_string())?;
        sum.files += 1;
        sum.bytes += about.len();
        if about.is_dir() {
            measure(&entry.path(), sum)?;
        }
    }
    Ok(())
}

/// Copies a folder or a file; contents are shared with the original where both lie on one disk.
pub(crate) fn place(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("place {} at {}", from.display(), to.display());
    if from.is_dir() {
        fs::create_dir_all(to).with_context(context)?;
        for entry in fs::read_dir(from).with_context(context)? {
            let entry = entry?;
            place(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(from, to).map(drop).with_context(context),
    }
}
