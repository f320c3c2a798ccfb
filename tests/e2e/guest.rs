//! The machine is the one that the suite believes it runs on. Without this, a kernel that was
//! swapped or booted with other options would let every other test pass or skip for the wrong reason.

use std::{env, fs};

use libtest_mimic::{Failed, Trial};

use crate::trial::{Outcome, PASS, skip, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("guest::kernel_is_the_one_that_was_booted", kernel_is_the_one_that_was_booted),
        trial("guest::bpf_is_among_the_security_modules", bpf_is_among_the_security_modules),
        trial("guest::cgroups_are_unified_with_controllers", cgroups_are_unified_with_controllers),
    ]
}

/// The release that xtask booted; absent where the suite runs on the machine itself.
fn booted() -> Option<String> {
    env::var("ENFORCER_KERNEL").ok()
}

fn kernel_is_the_one_that_was_booted() -> Outcome {
    let Some(booted) = booted() else { return skip("not in a guest") };
    let release = read("/proc/sys/kernel/osrelease")?;
    check(release.trim() == booted, || format!("`{booted}` was booted, `{}` runs", release.trim()))
}

fn bpf_is_among_the_security_modules() -> Outcome {
    if booted().is_none() {
        return skip("not in a guest");
    }
    let modules = read("/sys/kernel/security/lsm")?;
    check(modules.trim().split(',').any(|module| module == "bpf"), || format!("`{}`", modules.trim()))
}

fn cgroups_are_unified_with_controllers() -> Outcome {
    if booted().is_none() {
        return skip("not in a guest");
    }
    let enabled = read("/sys/fs/cgroup/cgroup.subtree_control")?;
    let has = |name: &str| enabled.split_whitespace().any(|controller| controller == name);
    check(has("memory") && has("pids") && has("cpu"), || format!("enabled: `{}`", enabled.trim()))
}

fn read(path: &str) -> Result<String, Failed> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}").into())
}

fn check(holds: bool, met: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(PASS) } else { Err(met().into()) }
}
