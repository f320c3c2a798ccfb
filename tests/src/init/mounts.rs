//! What an ordinary system has mounted before its first user logs in.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::{Context, Result};

/// The controllers that the suite counts on below the root of the cgroup tree.
const CONTROLLERS: &str = "+memory +pids +cpu";

/// Mount point, file system type, options.
const SYSTEM: &[(&str, &str, &str)] = &[
    ("/proc", "proc", ""),
    ("/sys", "sysfs", ""),
    ("/dev/pts", "devpts", "mode=620,ptmxmode=666"),
    ("/dev/shm", "tmpfs", "mode=1777"),
    ("/sys/kernel/security", "securityfs", ""),
    ("/sys/kernel/debug", "debugfs", ""),
    ("/sys/kernel/tracing", "tracefs", ""),
    ("/sys/fs/bpf", "bpf", "mode=700"),
    ("/sys/fs/cgroup", "cgroup2", ""),
    ("/run", "tmpfs", "mode=755"),
    ("/tmp", "tmpfs", "mode=1777"),
];

/// Device nodes, in the initial file system.
pub(crate) fn devices() -> Result<()> {
    attach("devtmpfs", "/dev", "devtmpfs", "")
}

/// Makes the first disk the root and takes the device nodes along.
pub(crate) fn switch_root() -> Result<()> {
    appear("/dev/vda")?;
    attach("/dev/vda", "/root", "ext4", "")?;
    shift("/dev", "/root/dev")?;
    std::env::set_current_dir("/root").context("enter the new root")?;
    shift(".", "/")?;
    nix::unistd::chroot(".").context("change to the new root")?;
    std::env::set_current_dir("/").context("enter the new root")
}

/// Everything else, the disks that xtask attached, the controllers and the loopback device.
pub(crate) fn system() -> Result<()> {
    for &(at, kind, options) in SYSTEM {
        if !Path::new(at).is_dir() {
            fs::create_dir_all(at).context(at)?;
        }
        attach(kind, at, kind, options)?;
    }
    appear("/dev/vdb")?;
    attach("/dev/vdb", "/opt/enforcer", "ext4", "")?;
    if Path::new("/dev/vdc").exists() {
        attach("/dev/vdc", "/mnt/dir", "ext4", "")?;
    }
    for disk in ["/opt/enforcer", "/mnt/dir"] {
        // Only a new file system has one, and a copy of a folder should look like the folder.
        let _ = fs::remove_dir(format!("{disk}/lost+found"));
    }
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", CONTROLLERS).context("cgroup controllers")?;
    let up = Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status().context("/bin/ip")?;
    if up.success() { Ok(()) } else { Err(format!("ip link set lo up: {up}")) }
}

fn attach(source: &str, at: &str, kind: &str, options: &str) -> Result<()> {
    mount(Some(source), at, Some(kind), MsFlags::empty(), Some(options))
        .context(format_args!("mount {kind} on {at}"))
}

fn shift(from: &str, to: &str) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context(format_args!("move mount {from} to {to}"))
}

/// Drivers probe in the background: a disk may be there only a moment after its module.
fn appear(device: &str) -> Result<()> {
    for _ in 0..200 {
        if Path::new(device).exists() {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    Err(format!("{device} did not appear"))
}
