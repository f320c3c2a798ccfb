//! Kernel modules from the initial file system, in the order that its list gives.

use std::fs::{self, File};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::{Context, Result};

pub(crate) fn load() -> Result<()> {
    let order = fs::read_to_string("/modules/order").context("/modules/order")?;
    for name in order.lines() {
        let path = format!("/modules/{name}.ko");
        let file = File::open(&path).context(&path)?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(format!("load module `{name}`: {error}")),
        }
    }
    Ok(())
}
