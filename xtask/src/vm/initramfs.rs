//! The first file system of a guest: `init` and the modules it loads, as a `newc` archive, which
//! is what the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` calls it.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::tree;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Every member starts at a multiple of this.
const ALIGNMENT: usize = 4;

/// Writes the archive for a kernel.
pub(crate) fn write(kernel: Kernel, to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["dev", "modules", "root"] {
        archive.add(folder, FOLDER, &[])?;
    }
    archive.add("init", PROGRAM, &read(&tree::binaries().join("init"))?)?;
    let modules = kernel.folder().join("modules");
    for entry in fs::read_dir(&modules).with_context(|| modules.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{name}"), FILE, &read(&path)?)?;
    }
    fs::write(to, archive.end()?).with_context(|| to.display().to_string())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.members += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("size of `{name}`"))?;
        let name_size = u32::try_from(name.len() + 1).with_context(|| format!("length of `{name}`"))?;
        // Inode, mode, owner, group, links, time, size, two device numbers for the file system and
        // two for a node, the name's length with its NUL, and a checksum that this format ignores.
        let fields = [self.members, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        write!(self.bytes, "070701").context("archive")?;
        for field in fields {
            write!(self.bytes, "{field:08x}").context("archive")?;
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
        Ok(())
    }

    fn end(mut self) -> Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_named() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"abc").unwrap();
        let bytes = archive.end().unwrap();
        assert!(bytes.starts_with(b"070701"));
        // The header's 110 bytes, the name's 5 and a byte of padding come before the content.
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..119], b"abc");
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }
}
