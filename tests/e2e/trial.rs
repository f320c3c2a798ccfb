//! How a test is written down, and how it says that it cannot run here.
//!
//! A test is a function that returns [`Outcome`]. It passes with `Ok(PASS)`, fails with `?` on any
//! error (or a panic), and ends with [`skip`] where the machine lacks what it is about. A skip names
//! what is missing and since which kernel it exists; it is counted and listed, never a pass.

use libtest_mimic::{Completion, Failed};

/// How a test ended.
pub(crate) type Outcome = Result<Completion, Failed>;

/// The test ran to its end.
pub(crate) const PASS: Completion = Completion::Completed;

/// Ends a test that cannot run here: `return skip("uring_allowed exists since 6.15")`.
pub(crate) fn skip(reason: impl std::fmt::Display) -> Outcome {
    Ok(Completion::ignored_with(reason))
}

/// A test by its name, `concept::sentence`.
pub(crate) fn trial(name: &str, test: fn() -> Outcome) -> libtest_mimic::Trial {
    libtest_mimic::Trial::ignorable_test(name, test)
}
