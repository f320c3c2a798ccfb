//! The machine is the one that the suite believes it runs on. Without this, a kernel that was
//! swapped or booted with other options would let every other test pass or skip for the wrong reason.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::trial::{Outcome, PASS, booted, skip, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials =
        vec![trial("machine::the_unified_cgroup_tree_is_mounted", the_unified_cgroup_tree_is_mounted)];
    if booted().is_some() {
        trials.extend([
            trial("guest::kernel_is_the_one_that_was_booted", kernel_is_the_one_that_was_booted),
            trial("guest::bpf_is_among_the_security_modules", bpf_is_among_the_security_modules),
            trial("guest::cgroups_are_unified_with_controllers", cgroups_are_unified_with_controllers),
            trial("preempt::kernel_preempts_its_own_code", kernel_preempts_its_own_code),
        ]);
    }
    trials
}

/// Anywhere: machines that keep the old tree as well have it beside that.
fn the_unified_cgroup_tree_is_mounted() -> Outcome {
    let mounts = read("/proc/self/mountinfo")?;
    check(mounts.lines().any(|mount| mount.contains(" - cgroup2 ")), || "no mount of it".into())
}

fn kernel_is_the_one_that_was_booted() -> Outcome {
    let booted = booted().unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease")?;
    check(release.trim() == booted, || format!("`{booted}` was booted, `{}` runs", release.trim()))
}

fn bpf_is_among_the_security_modules() -> Outcome {
    let modules = read("/sys/kernel/security/lsm")?;
    check(modules.trim().split(',').any(|module| module == "bpf"), || format!("`{}`", modules.trim()))
}

fn cgroups_are_unified_with_controllers() -> Outcome {
    let enabled = read("/sys/fs/cgroup/cgroup.subtree_control")?;
    let has = |name: &str| enabled.split_whitespace().any(|controller| controller == name);
    check(has("memory") && has("pids") && has("cpu"), || format!("enabled: `{}`", enabled.trim()))
}

/// Tests called `preempt::…` run in a boot of their own, with `preempt=full`.
fn kernel_preempts_its_own_code() -> Outcome {
    if !read("/proc/cmdline")?.split_whitespace().any(|option| option == "preempt=full") {
        return skip("needs a boot with preempt=full");
    }
    let mode = read("/sys/kernel/debug/sched/preempt")?;
    check(mode.contains("(full)"), || format!("`{}`", mode.trim()))
}

fn read(path: &str) -> Result<String, Failed> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}").into())
}

fn check(holds: bool, met: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(PASS) } else { Err(met().into()) }
}
