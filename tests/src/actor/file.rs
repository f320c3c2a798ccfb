//! File and exec actions.

use std::process::Command;

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use super::Came;

/// Does what a verb says; nothing for a verb of another family.
pub(super) fn act(verb: &str, arguments: &[&str]) -> Option<Came> {
    let path = *arguments.first()?;
    let flags = match verb {
        "read" => OFlag::O_RDONLY,
        "write" => OFlag::O_WRONLY,
        "read-write" => OFlag::O_RDWR,
        "truncate" => OFlag::O_RDONLY | OFlag::O_TRUNC,
        "create" => OFlag::O_WRONLY | OFlag::O_CREAT,
        "create-new" => OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL,
        "exec" => return Some(exec(arguments)),
        _ => return None,
    };
    Some(open(path, flags | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o644)).map(|_| "ok".into()))
}

fn exec(arguments: &[&str]) -> Came {
    let (program, arguments) = arguments.split_first().ok_or(Errno::EINVAL)?;
    match Command::new(program).args(arguments).status() {
        Ok(status) => Ok(status.code().map_or_else(|| "signal".into(), |code| format!("exit {code}"))),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(5))),
    }
}
