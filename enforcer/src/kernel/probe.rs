//! What this kernel can do, found out by trying.
//!
//! A kernel's version, its configuration and even its `lsm=` list say what it should do. Some machines refuse
//! LSM and tracing programs although the list names `bpf`, so the smallest program of each kind is loaded.

use super::{
    btf::Btf,
    offsets::{self, Missing},
    sys::{ProgramKind, try_program},
};
use aya::util::KernelVersion;
use std::{fs, io};

const SECURITY_MODULES: &str = "/sys/kernel/security/lsm";

/// What it comes to that only the network is governed, and that by cgroup hooks alone.
pub const NETWORK_ONLY: [&str; 3] = [
    "a process that leaves its agent's cgroup, which root can, is governed no longer, and may use the control socket",
    "sockets that were made outside of the agent pass, wherever they connect and send",
    "connects of UDP-Lite, and raw and packet sockets, pass",
];

/// Why LSM programs cannot be relied on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LsmLack {
    /// Before 6.2 and 6.1.54 a program that is active on a processor is skipped there, that is, allows.
    #[error(
        "kernel {release} can skip LSM programs; governing files and programs needs 6.2, or 6.1.54 of its line"
    )]
    Version {
        /// The running kernel.
        release: String,
    },
    /// The kernel has no BPF LSM.
    #[error("the kernel has no `{function}`: it was built without CONFIG_BPF_LSM")]
    NotBuilt {
        /// The function that programs would attach to.
        function: &'static str,
    },
    /// `bpf` is not among the security modules.
    #[error(
        "`bpf` is not among the active security modules ({active}): add it to `lsm=` on the kernel's command line"
    )]
    NotActive {
        /// The list.
        active: String,
    },
    /// The kernel refuses to load one.
    #[error("the kernel refuses {what} although it has them: {reason}")]
    Refused {
        /// LSM or tracing programs.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// The daemon was started so.
    #[error("the daemon was started with `--network-only`; unload and start it without")]
    NotWanted,
    /// The types of the kernel cannot be read.
    #[error("{0}")]
    Types(String),
}

/// What the running kernel can do.
#[derive(Debug)]
pub struct Probe {
    /// `uname -r`.
    pub release: String,
    /// Whether cgroup programs load.
    pub cgroup: Result<(), io::Error>,
    /// Whether LSM and tracing programs load and can be relied on.
    pub lsm: Result<(), LsmLack>,
    /// The fields that the programs read.
    pub offsets: Result<Vec<(&'static str, u64)>, OffsetsLack>,
    /// Whether programs can find the MPTCP socket behind a subflow.
    pub mptcp: bool,
    /// Whether cgroup programs may send signals, so that they can hold a thread.
    pub signals: bool,
}

/// Why the fields that the programs read are not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OffsetsLack {
    /// The types of the kernel cannot be read.
    #[error("{0}")]
    Types(String),
    /// Some fields are missing.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Fields(Vec<Missing>),
}

impl Probe {
    /// Tries everything.
    #[must_use]
    pub fn run() -> Self {
        let release = release();
        let (lsm, offsets, mptcp) = match Btf::of_kernel() {
            Ok(btf) => (
                lsm(&btf, &release),
                offsets::resolve(&btf, &release).map_err(OffsetsLack::Fields),
                // What the helper calls, where the kernel has both it and MPTCP.
                btf.function("bpf_mptcp_sock_from_subflow").is_some(),
            ),
            Err(error) => {
                let reason = error.to_string();
                (Err(LsmLack::Types(reason.clone())), Err(OffsetsLack::Types(reason)), false)
            }
        };
        Self {
            release,
            cgroup: try_program(ProgramKind::CgroupConnect),
            lsm,
            offsets,
            mptcp,
            signals: try_program(ProgramKind::CgroupSignal).is_ok(),
        }
    }
}

/// `uname -r`.
#[must_use]
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |u| u.release().to_string_lossy().into_owned())
}

fn lsm(btf: &Btf, release: &str) -> Result<(), LsmLack> {
    const HOOK: &str = "bpf_lsm_file_open";
    const TRACEPOINT: &str = "btf_trace_cgroup_attach_task";
    let version = KernelVersion::current().unwrap_or(KernelVersion::new(0, 0, 0));
    if !never_skips(version) {
        return Err(LsmLack::Version { release: release.to_owned() });
    }
    let hook = btf.function(HOOK).ok_or(LsmLack::NotBuilt { function: HOOK })?;
    let tracepoint = btf.typedef(TRACEPOINT).ok_or(LsmLack::NotBuilt { function: TRACEPOINT })?;
    // The list is in securityfs, which may not be mounted; then loading and the canary have the last word.
    if let Ok(active) = fs::read_to_string(SECURITY_MODULES)
        && !active.trim().split(',').any(|module| module == "bpf")
    {
        return Err(LsmLack::NotActive { active: active.trim().to_owned() });
    }
    let refused = |what| move |error: io::Error| LsmLack::Refused { what, reason: error.to_string() };
    try_program(ProgramKind::Lsm(hook)).map_err(refused("LSM programs"))?;
    try_program(ProgramKind::Tracepoint(tracepoint)).map_err(refused("tracing programs"))
}

/// Whether an LSM program runs also where the same program is active on the processor already: since
/// "bpf: Remove prog->active check for bpf_lsm and bpf_iter" (6.2), and 6.1.54 of the line before.
fn never_skips(version: KernelVersion) -> bool {
    version >= KernelVersion::new(6, 1, 54)
}

/// Whether a look-up in task storage takes a lock, and so may fail while a task that was preempted on the processor
/// holds it: until "bpf: Avoid taking spinlock in bpf_task_storage_get if potential deadlock is detected" (6.2). A
/// kernel whose version cannot be told may be such a one.
pub(super) fn storage_locks() -> bool {
    KernelVersion::current().map_or(true, |version| version < KernelVersion::new(6, 2, 0))
}

/// `TIF_SIGPENDING`, by its bit: 2 on x86, until it took the bits of all architectures in 6.18 ("x86: Use generic TIF
/// bits"). Of a kernel whose version cannot be told it may be either.
pub(super) fn signal_pending() -> u64 {
    const OWN: u64 = 1 << 2;
    const GENERIC: u64 = 1 << 1;
    match KernelVersion::current() {
        Ok(version) if version < KernelVersion::new(6, 18, 0) => OWN,
        Ok(_) => GENERIC,
        Err(_) => OWN | GENERIC,
    }
}

#[cfg(test)]
mod tests {
    use super::never_skips;
    use aya::util::KernelVersion;

    #[test]
    fn versions_that_skip_are_told_apart() {
        for ((major, minor, patch), good) in [
            ((5, 15, 200), false),
            ((6, 0, 99), false),
            ((6, 1, 53), false),
            ((6, 1, 54), true),
            ((6, 1, 192), true),
            ((6, 2, 0), true),
            ((7, 2, 13), true),
        ] {
            assert_eq!(never_skips(KernelVersion::new(major, minor, patch)), good, "{major}.{minor}.{patch}");
        }
    }
}
