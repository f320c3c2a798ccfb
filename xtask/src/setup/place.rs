//! A folder that is made beside its place and moved there when it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Holds, in a made folder, what it was made from. Another recipe makes the folder anew.
const RECIPE: &str = "recipe";

/// A folder that goes away unless it is put in its place.
pub(crate) struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    pub(crate) fn beside(place: &Path) -> Result<Self> {
        let mut name = place.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.part", std::process::id()));
        let folder = place.with_file_name(name);
        if folder.exists() {
            remove(&folder)?;
        }
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Puts one folder of the workshop in its place, with its recipe.
    pub(crate) fn deliver(self, name: &str, place: &Path, recipe: &str) -> Result<()> {
        let made = self.folder.join(name);
        fs::write(made.join(RECIPE), recipe).with_context(|| made.display().to_string())?;
        if place.exists() {
            remove(place)?;
        }
        fs::rename(&made, place).with_context(|| format!("move into {}", place.display()))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            crate::progress::say(format_args!("{error:#}"));
        }
    }
}

/// Whether the folder was made from that recipe.
pub(crate) fn was_made_from(place: &Path, recipe: &str) -> bool {
    fs::read_to_string(place.join(RECIPE)).is_ok_and(|found| found == recipe)
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))
}
