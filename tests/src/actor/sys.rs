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

/// The interface of 32-bit programs, which a 64-bit one can call too.
pub(crate) mod compat {
    use nix::errno::Errno;

    pub(crate) const OPEN: u32 = 5;
    pub(crate) const CREAT: u32 = 8;
    pub(crate) const EXECVE: u32 = 11;
    pub(crate) const CONNECT: u32 = 362;

    const PAGE: usize = 4096;

    /// Makes a call with bytes in a page that the interface can name; `arguments` is told where. `EINVAL` where they are
    /// more than a page has room for.
    pub(crate) fn call(
        number: u32,
        data: &[u8],
        arguments: impl FnOnce(u32) -> [u32; 3],
    ) -> Result<u32, Errno> {
        if data.len() > PAGE {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a mapping of its own below 4 GiB, as long as what is copied to it. The call clobbers nothing but its
        // result; LLVM keeps rbx for itself, so it is put back.
        let result = unsafe {
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            );
            let page = libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0);
            if page == libc::MAP_FAILED {
                return Err(Errno::last());
            }
            std::ptr::copy_nonoverlapping(data.as_ptr(), page.cast(), data.len());
            let [first, second, third] = arguments(page as usize as u32);
            let mut result = number;
            std::arch::asm!(
                "xchg rbx, {first}",
                "int 0x80",
                "xchg rbx, {first}",
                first = inout(reg) u64::from(first) => _,
                inout("eax") result,
                in("ecx") second,
                in("edx") third,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
            libc::munmap(page, PAGE);
            result
        };
        let signed = result.cast_signed();
        if signed < 0 { Err(Errno::from_raw(-signed)) } else { Ok(result) }
    }
}
