//! Where kernel structs keep their fields, and the two ways to read them.
//!
//! Rust has no CO-RE: the daemon reads each offset from the BTF of the running kernel and sets the globals
//! below before it loads the programs. The verifier takes them for constants. No other file reads a struct of
//! the kernel.

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use core::mem::MaybeUninit;

macro_rules! offsets {
    ($($name:ident: $field:literal),+ $(,)?) => { $(
        #[doc = concat!("`", $field, "`")]
        #[unsafe(no_mangle)]
        pub(crate) static $name: Global<u64> = Global::new(0);
    )+ };
}

offsets! {
    FILE_DENTRY: "file.f_path.dentry",
    FILE_MNT: "file.f_path.mnt",
    FILE_MODE: "file.f_mode",
    FILE_FLAGS: "file.f_flags",
    PATH_DENTRY: "path.dentry",
    PATH_MNT: "path.mnt",
    DENTRY_PARENT: "dentry.d_parent",
    DENTRY_NAME: "dentry.d_name.name",
    DENTRY_LEN: "dentry.d_name.len",
    DENTRY_HASH: "dentry.d_name.hash",
    DENTRY_INODE: "dentry.d_inode",
    VFSMOUNT_ROOT: "vfsmount.mnt_root",
    VFSMOUNT_SB: "vfsmount.mnt_sb",
    VFSMOUNT_FLAGS: "vfsmount.mnt_flags",
    MOUNT_MNT: "mount.mnt",
    MOUNT_PARENT: "mount.mnt_parent",
    MOUNT_MOUNTPOINT: "mount.mnt_mountpoint",
    MOUNT_NS: "mount.mnt_ns",
    TASK_LEADER: "task_struct.group_leader",
    TASK_STORAGE: "task_struct.bpf_storage",
    STORAGE_LIST: "bpf_local_storage.list",
    STORAGE_NODE: "bpf_local_storage_elem.snode",
    STORAGE_DATA: "bpf_local_storage_elem.sdata",
    STORAGE_VALUE: "bpf_local_storage_data.data",
    TASK_NSPROXY: "task_struct.nsproxy",
    TASK_START: "task_struct.start_boottime",
    TASK_NAMEIDATA: "task_struct.nameidata",
    TASK_FLAGS: "task_struct.flags",
    TASK_EXEC_ID: "task_struct.self_exec_id",
    TASK_PID: "task_struct.pid",
    TASK_TGID: "task_struct.tgid",
    TASK_BLOCKED: "task_struct.blocked",
    TASK_SIGHAND: "task_struct.sighand",
    TASK_PENDING: "task_struct.thread_info.flags",
    TASK_ABI: "task_struct.thread_info.status",
    SIGHAND_ACTION: "sighand_struct.action",
    ACTION_HANDLER: "k_sigaction.sa.sa_handler",
    ACTION_FLAGS: "k_sigaction.sa.sa_flags",
    REGS_RESULT: "pt_regs.ax",
    REGS_CALL: "pt_regs.orig_ax",
    REGS_SECOND: "pt_regs.si",
    REGS_THIRD: "pt_regs.dx",
    TASK_CGROUPS: "task_struct.cgroups",
    CSS_SET_CGROUP: "css_set.dfl_cgrp",
    NSPROXY_MNT: "nsproxy.mnt_ns",
    CGROUP_KN: "cgroup.kn",
    CGROUP_PARENT: "cgroup.self.parent",
    KERNFS_ID: "kernfs_node.id",
    BPRM_FILE: "linux_binprm.file",
    BPRM_FILENAME: "linux_binprm.filename",
    BPRM_INTERP: "linux_binprm.interp",
    BPRM_BUF: "linux_binprm.buf",
    SOCKET_SK: "socket.sk",
    SOCK_FAMILY: "sock.__sk_common.skc_family",
    SOCK_TYPE: "sock.sk_type",
    SOCK_PROTOCOL: "sock.sk_protocol",
    SOCK_SOURCE_V6: "sock.__sk_common.skc_v6_rcv_saddr",
    SOCK_CGROUP: "sock.sk_cgrp_data.cgroup",
    MSGHDR_NAME: "msghdr.msg_name",
    MSGHDR_NAMELEN: "msghdr.msg_namelen",
    MSGHDR_FLAGS: "msghdr.msg_flags",
    UNIX_DENTRY: "unix_sock.path.dentry",
    INODE_INO: "inode.i_ino",
    INODE_SB: "inode.i_sb",
    SB_DEV: "super_block.s_dev",
    SB_FLAGS: "super_block.s_flags",
}

/// 1 when the LSM programs are attached beside the cgroup programs, so that they decide first.
#[unsafe(no_mangle)]
pub(crate) static LSM: Global<u8> = Global::new(0);

/// 1 when a look-up in task storage may fail because a task that was preempted on this processor is in the middle of
/// another: before 6.2, where look-ups were made to go on without the lock ("bpf: Avoid taking spinlock in
/// bpf_task_storage_get if potential deadlock is detected").
#[unsafe(no_mangle)]
pub(crate) static STORAGE_LOCKS: Global<u8> = Global::new(0);

/// 1 when the kernel has MPTCP, and the helper that finds the socket behind a subflow.
#[unsafe(no_mangle)]
pub(crate) static MPTCP: Global<u8> = Global::new(0);

/// 1 when cgroup programs may send signals, which they may since about 6.18.
#[unsafe(no_mangle)]
pub(crate) static SIGNALS: Global<u8> = Global::new(0);

/// `TIF_SIGPENDING`, by its bit, which is no constant of all kernels.
#[unsafe(no_mangle)]
pub(crate) static SIGNAL_PENDING: Global<u64> = Global::new(0);

/// The level of the agents' own cgroups below the root of the hierarchy, which is 0.
#[unsafe(no_mangle)]
pub(crate) static AGENT_LEVEL: Global<u32> = Global::new(0);

/// The first half of the key that objects are hashed under.
#[unsafe(no_mangle)]
pub(crate) static HASH_KEY0: Global<u64> = Global::new(0);

/// The second half of it.
#[unsafe(no_mangle)]
pub(crate) static HASH_KEY1: Global<u64> = Global::new(0);

/// A direct load.
///
/// # Safety
///
/// The verifier must know the type of `base`: an argument of a hook, or something loaded from one this way. It
/// checks the offset against that type; a fault reads 0.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: &Global<u64>) -> T {
    // SAFETY: the caller's contract, which the verifier checks again; volatile, so that LLVM neither merges the
    // load with its neighbours (6.1 refuses a load over two fields) nor moves it.
    unsafe { base.add(offset.load() as usize).cast::<T>().read_volatile() }
}

/// A load through the helper, for pointers without a type: anything reached by `container_of`, or by this. A
/// fault reads 0.
#[inline(always)]
pub(crate) fn probe<T: Copy>(base: *const u8, offset: &Global<u64>) -> T {
    probe_at(base.wrapping_add(offset.load() as usize))
}

/// [`probe`] without an offset.
#[inline(always)]
pub(crate) fn probe_at<T: Copy>(from: *const u8) -> T {
    let mut out = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes `T`'s bytes or none, and every `T` here is an integer or a pointer or an array
    // of them, for which zero is a value.
    unsafe {
        bpf_probe_read_kernel(out.as_mut_ptr().cast(), size_of::<T>() as u32, from.cast());
        out.assume_init()
    }
}

/// Hides a value from LLVM, so that a mask stays next to the access it bounds.
///
/// VERIFIER: without it LLVM turns `buf[(start + i) & MASK]` into `(buf + (start & MASK))[i]`, which no kernel
/// accepts.
#[inline(always)]
pub(crate) fn opaque(mut value: u64) -> u64 {
    // SAFETY: moves a register to itself. An empty template would do for LLVM, but leaves two line records for
    // one instruction, which the kernel refuses ("Invalid line_info").
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// Makes the verifier forget what it knows of a value, without changing it.
///
/// VERIFIER: constants that differ from way to way keep states apart to the end of the program, and so multiply with
/// each other. A value that nothing is known of lets the ways meet. `unknown` is any value of which nothing is
/// known, such as one read from a map.
#[inline(always)]
pub(crate) fn forget(mut value: u64, unknown: u64) -> u64 {
    // SAFETY: changes a register twice, back to what it was.
    unsafe {
        core::arch::asm!(
            "{0} ^= {1}",
            "{0} ^= {1}",
            inout(reg) value,
            in(reg) unknown,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    value
}
