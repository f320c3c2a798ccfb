//! The mark of being governed, looked up from outside.
//!
//! The kernel finds a task's storage by a descriptor of the process, which names its first thread. Threads have
//! the mark of the thread that made them, and a process that is moved in is marked at its first thread, so a
//! process is governed when that one is.

use super::sys::{self, TypedMap};
use crate::agents::AgentId;
use enforcer_common::agent::Mark;
use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

/// The agent whose mark a process bears.
pub(super) fn of(marks: &TypedMap<i32, Mark>, process: BorrowedFd<'_>) -> io::Result<Option<AgentId>> {
    let mark = marks.lookup(&process.as_raw_fd())?;
    Ok(mark.map(|mark| AgentId(mark.agent)))
}

/// All processes that bear a mark, with their agents. One that ends meanwhile is not among them.
pub(super) fn scan(marks: &TypedMap<i32, Mark>) -> io::Result<Vec<(u32, AgentId)>> {
    let mut marked = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = match sys::pidfd(pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(error) => return Err(error),
        };
        match of(marks, process.as_fd()) {
            Ok(Some(agent)) => marked.push((pid, agent)),
            Ok(None) => {}
            // The process is gone, and with it its storage.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(marked)
}
