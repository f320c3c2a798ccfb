//! Dentries and mounts → the bytes of a path, from the root of the mount namespace.
//!
//! The walk goes from the file up and writes names in front of each other. It takes no notice of the task's own
//! root, so that `chroot` renames nothing. A path counts only when its last mount belongs to the task's own
//! mount namespace: else it is disconnected (a detached mount, say), or the kernel's own.

use crate::{
    maps::SCRATCH,
    offsets::{
        DENTRY_LEN, DENTRY_NAME, DENTRY_PARENT, MOUNT_MNT, MOUNT_MOUNTPOINT, MOUNT_NS, MOUNT_PARENT,
        NSPROXY_MNT, SB_FLAGS, TASK_NSPROXY, VFSMOUNT_FLAGS, VFSMOUNT_ROOT, VFSMOUNT_SB, forget, load, probe,
    },
    scratch::{Claim, Scratch},
};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_probe_read_kernel};
use core::ffi::c_void;
use enforcer_common::limits::{DEPTH_MAX, DEPTH_SHORT, NAME_MAX, PATH_MAX};

/// Where a walk came out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Walk {
    /// At the root of the task's mount namespace.
    Rooted = 0,
    /// At a mount that only the kernel sees: an overlay's layer, a memfd, a pipe.
    Private = 1,
    /// At a mount that is in another namespace or in none.
    Disconnected = 2,
    /// Nowhere: too long or too deep.
    TooLong = 3,
}

/// `mnt_ns` of a mount that the kernel made for itself: `ERR_PTR(-EINVAL)`, `MNT_NS_INTERNAL` in fs/mount.h.
const MNT_NS_INTERNAL: u64 = -22_i64 as u64;

/// A file system that the kernel mounted for itself (`s_flags`); no call takes it.
const SB_KERNMOUNT: u64 = 1 << 22;
/// A mount that was taken off its place (`mnt_flags`).
const MNT_UMOUNT: u32 = 0x0800_0000;

const GOING: u64 = 0;
const DONE: u64 = 1;
const LONG: u64 = 2;
/// The file is not below its mount's root: it has no folder, as memory and pipes, or was moved out of the mount's reach.
const LOOSE: u64 = 3;

/// Writes the path of `dentry` on `mnt` (a `struct vfsmount`) into the claimed area. Gives the number of a [`Walk`].
///
/// # Safety
///
/// The verifier must know the types of both pointers.
#[inline(always)]
pub(crate) unsafe fn resolve(claim: &Claim, dentry: *const u8, mnt: *const u8) -> u64 {
    // SAFETY: the caller's contract.
    forget(unsafe { walked(claim.area, claim.level, dentry, mnt) }, claim.unknown())
}

/// [`resolve`].
///
/// VERIFIER: not inlined, so that the many ways out of its loops meet in one number.
///
/// # Safety
///
/// As for [`resolve`]; the area is claimed.
#[inline(never)]
unsafe fn walked(area: *mut Scratch, level: u32, dentry: *const u8, mnt: *const u8) -> u64 {
    // SAFETY: the caller's contract.
    unsafe {
        (&raw mut (*area).outcome).write_volatile(GOING);
        let _ = short(area, dentry, mnt);
        if (&raw const (*area).outcome).read_volatile() == GOING {
            long(area, level, dentry, mnt);
        }
        let outcome = (&raw const (*area).outcome).read_volatile();
        if outcome != DONE && outcome != LOOSE {
            return Walk::TooLong as u64;
        }
        let walk = finish(area, (&raw const (*area).mount).read_volatile() as *const u8);
        if outcome == LOOSE && walk == Walk::Rooted { Walk::Disconnected as u64 } else { walk as u64 }
    }
}

/// The walk in plain loops, which serve nearly every path. The outcome is in the area; it is still
/// [`GOING`] when the path is too deep for them.
///
/// # Safety
///
/// As for [`resolve`].
#[inline(always)]
unsafe fn short(area: *mut Scratch, dentry: *const u8, mnt: *const u8) -> Option<()> {
    // SAFETY: the caller's contract: within the file's own mount every pointer is typed.
    unsafe {
        (&raw mut (*area).start).write_volatile(PATH_MAX as u32);
        let mut dentry = dentry;
        let root: *const u8 = load(mnt, &VFSMOUNT_ROOT);
        let mut at_root = false;
        for _ in 0..DEPTH_SHORT {
            if dentry == root {
                at_root = true;
                break;
            }
            push(area, load(dentry, &DENTRY_NAME), load(dentry, &DENTRY_LEN))?;
            let parent: *const u8 = load(dentry, &DENTRY_PARENT);
            if parent == dentry {
                (&raw mut (*area).mount).write_volatile((mnt as u64).wrapping_sub(MOUNT_MNT.load()));
                (&raw mut (*area).outcome).write_volatile(LOOSE);
                return None;
            }
            dentry = parent;
        }
        if !at_root {
            return None;
        }
        // VERIFIER: container_of(mnt, struct mount, mnt) loses the type; from here on only the helper reads.
        let mut mount = (mnt as u64).wrapping_sub(MOUNT_MNT.load()) as *const u8;
        let mut dentry = dentry as u64 as *const u8;
        let mut root = root as u64 as *const u8;
        for _ in 0..DEPTH_SHORT {
            if dentry == root {
                let parent: *const u8 = probe(mount, &MOUNT_PARENT);
                if parent == mount {
                    (&raw mut (*area).mount).write_volatile(mount as u64);
                    (&raw mut (*area).outcome).write_volatile(DONE);
                    return Some(());
                }
                dentry = probe(mount, &MOUNT_MOUNTPOINT);
                mount = parent;
                root = probe(mount.wrapping_add(MOUNT_MNT.load() as usize), &VFSMOUNT_ROOT);
            } else {
                push(area, probe(dentry, &DENTRY_NAME), probe(dentry, &DENTRY_LEN))?;
                dentry = probe(dentry, &DENTRY_PARENT);
            }
        }
        None
    }
}

/// Puts `/name` in front of what is there.
///
/// VERIFIER: where the path begins is read from the area and written back each time: what comes from a map has no
/// bounds that would differ from turn to turn and keep states from pruning each other.
///
/// # Safety
///
/// The area is claimed.
#[inline(always)]
unsafe fn push(area: *mut Scratch, name: *const u8, len: u32) -> Option<()> {
    let len = u64::from(len);
    // SAFETY: the caller's contract; the masks keep every access within `path` and its tail.
    unsafe {
        let at = u64::from((&raw const (*area).start).read_volatile());
        // One byte is left at the front, so that a path is never as long as the buffer.
        if len > NAME_MAX as u64 || at <= len + 1 {
            (&raw mut (*area).outcome).write_volatile(LONG);
            return None;
        }
        let path: *mut u8 = (&raw mut (*area).path).cast();
        // VERIFIER: 6.1 forgets the bounds of the comparison above; the masks change nothing.
        let len = crate::offsets::opaque(len) & NAME_MAX as u64;
        let start = crate::offsets::opaque(at.wrapping_sub(len)) & (PATH_MAX as u64 - 1);
        bpf_probe_read_kernel(path.add(start as usize).cast(), len as u32, name.cast());
        let slash = crate::offsets::opaque(start.wrapping_sub(1)) & (PATH_MAX as u64 - 1);
        *path.add(slash as usize) = b'/';
        (&raw mut (*area).start).write_volatile(slash as u32);
    }
    Some(())
}

/// What the callback is told; it changes nothing here. VERIFIER: 6.1 checks a callback once, from its first
/// entry, and takes what it leaves on the stack for constant; so all that changes lies in the area.
struct Level {
    level: u32,
}

/// The walk anew, of any depth.
///
/// # Safety
///
/// As for [`resolve`]; the area is claimed.
#[inline(always)]
unsafe fn long(area: *mut Scratch, level: u32, dentry: *const u8, mnt: *const u8) {
    // SAFETY: the caller's contract; the callback gets a pointer to the stack that lives through the call.
    unsafe {
        (*area).start = PATH_MAX as u32;
        (*area).dentry = dentry as u64;
        (*area).mount = (mnt as u64).wrapping_sub(MOUNT_MNT.load());
        (*area).root = probe(mnt, &VFSMOUNT_ROOT);
        let mut level = Level { level };
        bpf_loop(DEPTH_MAX as u32, climb as *mut c_void, (&raw mut level).cast(), 0);
    }
}

/// One step of [`long`]: a name or a mount.
unsafe extern "C" fn climb(_turn: u64, level: *mut Level) -> i64 {
    // SAFETY: `bpf_loop` hands over what it was given; the area is claimed by the caller of `bpf_loop`.
    unsafe {
        let Some(area) = SCRATCH.get_ptr_mut((*level).level) else { return 1 };
        let dentry = (*area).dentry as *const u8;
        let mount = (*area).mount as *const u8;
        if (*area).dentry == (*area).root {
            let parent: *const u8 = probe(mount, &MOUNT_PARENT);
            if parent == mount {
                (*area).outcome = DONE;
                return 1;
            }
            (*area).dentry = probe(mount, &MOUNT_MOUNTPOINT);
            (*area).mount = parent as u64;
            (*area).root = probe(parent.wrapping_add(MOUNT_MNT.load() as usize), &VFSMOUNT_ROOT);
            return 0;
        }
        let len: u32 = probe(dentry, &DENTRY_LEN);
        if push(area, probe(dentry, &DENTRY_NAME), len).is_none() {
            return 1;
        }
        let parent: u64 = probe(dentry, &DENTRY_PARENT);
        if parent == (*area).dentry {
            (*area).outcome = LOOSE;
            return 1;
        }
        (*area).dentry = parent;
        0
    }
}

/// What the top mount says of the path, which is made `/` where it is the root itself.
///
/// # Safety
///
/// The area is claimed.
#[inline(always)]
unsafe fn finish(area: *mut Scratch, top: *const u8) -> Walk {
    // SAFETY: the caller's contract; the current task is live and typed.
    unsafe {
        if (&raw const (*area).start).read_volatile() >= PATH_MAX as u32 {
            let path: *mut u8 = (&raw mut (*area).path).cast();
            *path.add(PATH_MAX - 1) = b'/';
            (*area).start = PATH_MAX as u32 - 1;
        }
        let namespace: u64 = probe(top, &MOUNT_NS);
        if namespace == MNT_NS_INTERNAL {
            return Walk::Private;
        }
        if namespace == 0 && never_mounted(top) {
            return Walk::Private;
        }
        let nsproxy: *const u8 = probe(bpf_get_current_task_btf().cast(), &TASK_NSPROXY);
        let own: u64 = probe(nsproxy, &NSPROXY_MNT);
        if namespace != 0 && namespace == own { Walk::Rooted } else { Walk::Disconnected }
    }
}

/// Whether a mount in no namespace is the kernel's own, as those of message queues and of huge pages are where they are
/// not marked so (6.1 and 6.12). The file systems of some can be mounted by anyone as well; what was in a namespace once
/// was taken off its place, and that stays written on it.
#[inline(always)]
fn never_mounted(top: *const u8) -> bool {
    let mount = top.wrapping_add(MOUNT_MNT.load() as usize);
    let own: u64 = probe(probe(mount, &VFSMOUNT_SB), &SB_FLAGS);
    let flags: u32 = probe(mount, &VFSMOUNT_FLAGS);
    own & SB_KERNMOUNT != 0 && flags & MNT_UMOUNT == 0
}
