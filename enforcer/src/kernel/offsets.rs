//! The fields of kernel structs that the programs read, by the name of the global that carries each offset.
//!
//! The globals are declared in `enforcer-ebpf/src/offsets.rs`; a test holds the two lists together.

use super::btf::{Btf, FieldError};

/// One field. Kernels rename fields, so there may be several names, newest first.
#[derive(Debug)]
pub struct Field {
    /// The global of the kernel side.
    pub global: &'static str,
    /// The struct.
    pub structure: &'static str,
    /// The field, and what older kernels call it.
    pub paths: &'static [&'static str],
}

const fn field(global: &'static str, structure: &'static str, paths: &'static [&'static str]) -> Field {
    Field { global, structure, paths }
}

/// All fields.
pub const OFFSETS: &[Field] = &[
    field("FILE_DENTRY", "file", &["f_path.dentry"]),
    field("FILE_MNT", "file", &["f_path.mnt"]),
    field("FILE_MODE", "file", &["f_mode"]),
    field("FILE_FLAGS", "file", &["f_flags"]),
    field("PATH_DENTRY", "path", &["dentry"]),
    field("PATH_MNT", "path", &["mnt"]),
    field("DENTRY_PARENT", "dentry", &["d_parent"]),
    field("DENTRY_NAME", "dentry", &["d_name.name"]),
    field("DENTRY_LEN", "dentry", &["d_name.len"]),
    field("DENTRY_HASH", "dentry", &["d_name.hash"]),
    field("DENTRY_INODE", "dentry", &["d_inode"]),
    field("VFSMOUNT_ROOT", "vfsmount", &["mnt_root"]),
    field("VFSMOUNT_SB", "vfsmount", &["mnt_sb"]),
    field("VFSMOUNT_FLAGS", "vfsmount", &["mnt_flags"]),
    field("MOUNT_MNT", "mount", &["mnt"]),
    field("MOUNT_PARENT", "mount", &["mnt_parent"]),
    field("MOUNT_MOUNTPOINT", "mount", &["mnt_mountpoint"]),
    field("MOUNT_NS", "mount", &["mnt_ns"]),
    field("TASK_LEADER", "task_struct", &["group_leader"]),
    field("TASK_STORAGE", "task_struct", &["bpf_storage"]),
    field("STORAGE_LIST", "bpf_local_storage", &["list"]),
    field("STORAGE_NODE", "bpf_local_storage_elem", &["snode"]),
    field("STORAGE_DATA", "bpf_local_storage_elem", &["sdata"]),
    field("STORAGE_VALUE", "bpf_local_storage_data", &["data"]),
    field("TASK_NSPROXY", "task_struct", &["nsproxy"]),
    field("TASK_START", "task_struct", &["start_boottime", "real_start_time"]),
    field("TASK_NAMEIDATA", "task_struct", &["nameidata"]),
    field("TASK_FLAGS", "task_struct", &["flags"]),
    field("TASK_EXEC_ID", "task_struct", &["self_exec_id"]),
    field("TASK_PID", "task_struct", &["pid"]),
    field("TASK_TGID", "task_struct", &["tgid"]),
    field("TASK_BLOCKED", "task_struct", &["blocked"]),
    field("TASK_SIGHAND", "task_struct", &["sighand"]),
    field("TASK_PENDING", "task_struct", &["thread_info.flags"]),
    field("TASK_ABI", "task_struct", &["thread_info.status"]),
    field("SIGHAND_ACTION", "sighand_struct", &["action"]),
    field("ACTION_HANDLER", "k_sigaction", &["sa.sa_handler"]),
    field("ACTION_FLAGS", "k_sigaction", &["sa.sa_flags"]),
    field("REGS_RESULT", "pt_regs", &["ax"]),
    field("REGS_CALL", "pt_regs", &["orig_ax"]),
    field("REGS_SECOND", "pt_regs", &["si"]),
    field("REGS_THIRD", "pt_regs", &["dx"]),
    field("TASK_CGROUPS", "task_struct", &["cgroups"]),
    field("CSS_SET_CGROUP", "css_set", &["dfl_cgrp"]),
    field("NSPROXY_MNT", "nsproxy", &["mnt_ns"]),
    field("CGROUP_KN", "cgroup", &["kn"]),
    field("CGROUP_PARENT", "cgroup", &["self.parent"]),
    field("KERNFS_ID", "kernfs_node", &["id"]),
    field("BPRM_FILE", "linux_binprm", &["file"]),
    field("BPRM_FILENAME", "linux_binprm", &["filename"]),
    field("BPRM_INTERP", "linux_binprm", &["interp"]),
    field("BPRM_BUF", "linux_binprm", &["buf"]),
    field("SOCKET_SK", "socket", &["sk"]),
    field("SOCK_FAMILY", "sock", &["__sk_common.skc_family"]),
    field("SOCK_TYPE", "sock", &["sk_type"]),
    field("SOCK_PROTOCOL", "sock", &["sk_protocol"]),
    field("SOCK_SOURCE_V6", "sock", &["__sk_common.skc_v6_rcv_saddr"]),
    field("SOCK_CGROUP", "sock", &["sk_cgrp_data.cgroup", "sk_cgrp_data.val"]),
    field("MSGHDR_NAME", "msghdr", &["msg_name"]),
    field("MSGHDR_NAMELEN", "msghdr", &["msg_namelen"]),
    field("MSGHDR_FLAGS", "msghdr", &["msg_flags"]),
    field("UNIX_DENTRY", "unix_sock", &["path.dentry"]),
    field("INODE_INO", "inode", &["i_ino"]),
    field("INODE_SB", "inode", &["i_sb"]),
    field("SB_DEV", "super_block", &["s_dev"]),
    field("SB_FLAGS", "super_block", &["s_flags"]),
];

/// A field that the running kernel does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this kernel ({release}) does not have what `{global}` needs: {reason}")]
pub struct Missing {
    /// The global.
    pub global: &'static str,
    /// The kernel's release.
    pub release: String,
    /// Which struct or field.
    pub reason: FieldError,
}

/// Finds all fields, or all that are missing.
pub fn resolve(btf: &Btf, release: &str) -> Result<Vec<(&'static str, u64)>, Vec<Missing>> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for field in OFFSETS {
        match offset(btf, field) {
            Ok(offset) => found.push((field.global, offset)),
            Err(reason) => {
                missing.push(Missing { global: field.global, release: release.to_owned(), reason });
            }
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(missing) }
}

/// The offset by the first of the field's names that the kernel knows; the error is about the newest.
fn offset(btf: &Btf, field: &Field) -> Result<u64, FieldError> {
    let mut first = None;
    for path in field.paths {
        match btf.offset(field.structure, path) {
            Ok(offset) => return Ok(offset),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| FieldError::NoStruct { structure: field.structure.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::{OFFSETS, offset, resolve};
    use crate::kernel::btf::{Btf, tests::Builder};
    use std::collections::BTreeMap;

    /// `NAME: "struct.path"` of the kernel side's `offsets!` block.
    fn declared() -> BTreeMap<String, String> {
        let source = include_str!("../../../enforcer-ebpf/src/offsets.rs");
        let block = source.split("\noffsets! {\n").nth(1).unwrap().split("\n}").next().unwrap();
        let fields = block.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(": "));
        fields.map(|(name, path)| (name.to_owned(), path.trim_matches('"').to_owned())).collect()
    }

    #[test]
    fn both_sides_name_the_same_fields() {
        let mine = OFFSETS.iter().map(|field| {
            let path = field.paths.first().copied().unwrap_or_default();
            (field.global.to_owned(), format!("{}.{path}", field.structure))
        });
        assert_eq!(mine.collect::<BTreeMap<_, _>>(), declared());
    }

    #[test]
    fn an_older_name_does_too() {
        let mut btf = Builder::new();
        let int = btf.add(1, "int", 8, &[64]);
        btf.structure(4, "task_struct", false, &[("real_start_time", int, 128)]);
        let btf = Btf::parse(btf.build()).unwrap();
        let start = OFFSETS.iter().find(|field| field.global == "TASK_START").unwrap();
        assert_eq!(offset(&btf, start), Ok(16));
    }

    #[test]
    fn all_that_is_missing_is_told_at_once_with_the_kernel() {
        let btf = Btf::parse(Builder::new().build()).unwrap();
        let missing = resolve(&btf, "6.1.0-test").unwrap_err();
        assert_eq!(missing.len(), OFFSETS.len());
        assert_eq!(
            missing.first().map(ToString::to_string).unwrap_or_default(),
            "this kernel (6.1.0-test) does not have what `FILE_DENTRY` needs: there is no `struct file`"
        );
    }
}
