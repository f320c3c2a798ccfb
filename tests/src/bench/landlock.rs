//! Landlock by its system calls: the peer that a process can put itself under.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};

const SYS_CREATE_RULESET: libc::c_long = 444;
const SYS_ADD_RULE: libc::c_long = 445;
const SYS_RESTRICT_SELF: libc::c_long = 446;

const FLAG_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const RULE_NET_PORT: u32 = 2;
const FS_WRITE_FILE: u64 = 1 << 1;
const FS_READ_FILE: u64 = 1 << 2;
const FS_READ_DIR: u64 = 1 << 3;
const NET_CONNECT_TCP: u64 = 1 << 1;

/// The first version with rules for ports.
pub(crate) const WITH_PORTS: i64 = 4;

/// `struct landlock_ruleset_attr`, as far as it is used.
#[repr(C)]
struct Handled {
    files: u64,
    network: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

#[repr(C)]
struct NetPort {
    allowed: u64,
    port: u64,
}

fn checked(result: libc::c_long) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The version that the running kernel has; an error where it has none.
pub(crate) fn version() -> io::Result<i64> {
    // SAFETY: asks for a number and passes nothing.
    checked(unsafe { libc::syscall(SYS_CREATE_RULESET, 0, 0, FLAG_VERSION) })
}

/// Rules that are being put together.
struct Ruleset(OwnedFd);

impl Ruleset {
    fn new(files: u64, network: u64) -> Result<Self> {
        let handled = Handled { files, network };
        // Older kernels know the first field only.
        let bytes = if network == 0 { size_of::<u64>() } else { size_of::<Handled>() };
        // SAFETY: the attributes with their size.
        let ruleset = checked(unsafe { libc::syscall(SYS_CREATE_RULESET, &raw const handled, bytes, 0) });
        let number = ruleset.context("make a Landlock ruleset")? as i32;
        // SAFETY: the descriptor is new.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    fn add<T>(&self, kind: u32, rule: &T) -> Result<()> {
        // SAFETY: the caller passes the attributes of that kind of rule.
        let added =
            unsafe { libc::syscall(SYS_ADD_RULE, self.0.as_raw_fd(), kind, std::ptr::from_ref(rule), 0) };
        checked(added).context("add a Landlock rule").map(drop)
    }

    /// Puts this process under the rules for good.
    fn restrict(&self) -> Result<()> {
        // SAFETY: two calls that take numbers only.
        unsafe {
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into()).context("no_new_privs")?;
            checked(libc::syscall(SYS_RESTRICT_SELF, self.0.as_raw_fd(), 0))
                .context("restrict this process")?;
        }
        Ok(())
    }
}

/// Lets this process read below some folders and nowhere else.
pub(crate) fn allow_reading<P: AsRef<Path>>(folders: impl Iterator<Item = P>) -> Result<()> {
    let read = FS_READ_FILE | FS_READ_DIR;
    let ruleset = Ruleset::new(read | FS_WRITE_FILE, 0)?;
    for folder in folders {
        let folder = folder.as_ref();
        let opened = File::open(folder).with_context(|| folder.display().to_string())?;
        ruleset.add(RULE_PATH_BENEATH, &PathBeneath { allowed: read, parent: opened.as_raw_fd() })?;
    }
    ruleset.restrict()
}

/// Lets this process connect to some ports of TCP and to no other.
pub(crate) fn allow_connecting(ports: impl Iterator<Item = u16>) -> Result<()> {
    let ruleset = Ruleset::new(0, NET_CONNECT_TCP)?;
    for port in ports {
        ruleset.add(RULE_NET_PORT, &NetPort { allowed: NET_CONNECT_TCP, port: port.into() })?;
    }
    ruleset.restrict()
}
