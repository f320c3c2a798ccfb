//! How a test is written down, and how it says that it cannot run here.
//!
//! A test is a function that returns [`Outcome`]. It passes with `Ok(PASS)`, fails with `?` on any
//! error (or a panic), and ends with [`skip`] where the machine lacks what it is about. A skip names
//! what is missing; it is counted and listed, never a pass, and in a guest it is a failure.

use std::{env, fs};

use enforcer_tests::harness::Daemon;
use libtest_mimic::{Completion, Failed};

/// How a test ended.
pub(crate) type Outcome = Result<Completion, Failed>;

/// The test ran to its end.
pub(crate) const PASS: Completion = Completion::Completed;

/// Ends a test that cannot run on this machine. The guests have all that the suite needs, so there it fails: a test
/// that none of the kernels can run would otherwise never be missed.
pub(crate) fn skip(reason: impl std::fmt::Display) -> Outcome {
    match booted() {
        None => Ok(Completion::ignored_with(reason)),
        Some(kernel) => Err(format!("skipped in a guest with {kernel}: {reason}").into()),
    }
}

/// A test by its name, `concept::sentence`.
pub(crate) fn trial(name: &'static str, test: impl Fn() -> Outcome + Send + 'static) -> libtest_mimic::Trial {
    libtest_mimic::Trial::ignorable_test(name, move || {
        mark(name);
        let outcome = test();
        if let Err(failed) = &outcome {
            // The harness tells it only when all have ended, which a crash may prevent.
            eprintln!("{name}: {}", failed.message().unwrap_or("failed"));
            if let Some(words) = Daemon::last_words_of_shared() {
                eprintln!("{words}");
            }
        }
        outcome
    })
}

/// A test of what only BPF LSM governs; `lack` is what is not so without it.
pub(crate) fn lsm_trial(
    name: &'static str,
    lack: &'static str,
    test: impl Fn() -> Outcome + Send + 'static,
) -> libtest_mimic::Trial {
    trial(name, move || if Daemon::shared()?.lsm { test() } else { skip(lack) })
}

/// Runs a test with the daemon of those that kill one or need one without agents.
pub(crate) fn with_spare(test: impl FnOnce(&Daemon) -> Outcome) -> Outcome {
    Daemon::with_spare(|daemon| {
        test(daemon).map_err(|failed| {
            format!("{}\n{}", failed.message().unwrap_or_default(), daemon.last_words()).into()
        })
    })
}

/// The release that xtask booted; absent where the suite runs on the machine itself.
pub(crate) fn booted() -> Option<String> {
    env::var("ENFORCER_KERNEL").ok()
}

/// Puts the test's beginning into a guest's console: what the kernel says there, and what its last
/// test was, should both be found in one place.
fn mark(name: &str) {
    if booted().is_some() {
        // A console that cannot be written to is no reason to fail the test.
        let _ = fs::write("/dev/kmsg", format!("<4>test: {name}\n"));
    }
}

/// Fails with both sides when they differ.
pub(crate) fn equal<A: PartialEq<B> + std::fmt::Debug + ?Sized, B: std::fmt::Debug + ?Sized>(
    met: &A,
    expected: &B,
) -> Result<(), Failed> {
    if met == expected { Ok(()) } else { Err(format!("met {met:?}\nexpected {expected:?}").into()) }
}
