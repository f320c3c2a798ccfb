//! Exit codes, and the problems that lead to them.

use crate::control::{
    api::{Failure, FailureKind, chain},
    client,
    peer::NOT_FOR_ALL,
};
use std::process::ExitCode;

/// How a command ends. `enforcer --help` explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// It failed, or something was found.
    Failed,
    /// Another daemon is there: a failure like any other, but one to wait for.
    Busy,
    /// Wrong usage, beyond what the parser sees.
    Usage,
    /// No daemon answers.
    Unreachable,
    /// The kernel lacks what the policy needs.
    Lacks,
    /// The caller may not.
    Refused,
    /// The daemon was unloaded.
    Unloaded,
    /// `run` failed before the command began.
    Own,
    /// The command cannot be executed.
    NotExecutable,
    /// There is no such command.
    NotFound,
    /// The command's own exit code.
    Command(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::Busy => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Lacks => 4,
            Self::Refused => 5,
            Self::Unloaded => crate::daemon::UNLOADED,
            Self::Own => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What went wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How the command ends.
    pub exit: Exit,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Diagnostics of a policy, to be shown before.
    pub report: Option<String>,
    /// The failure as data, where the daemon told it.
    pub failure: Option<Box<Failure>>,
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, report: None, failure: None }
    }

    /// A problem that an error tells of.
    #[must_use]
    pub fn of(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, chain(error))
    }

    /// With what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As a failure of `run` before its command began. What the kernel lacks keeps its own code.
    #[must_use]
    pub fn before_command(self) -> Self {
        let exit = if self.exit == Exit::Lacks { Exit::Lacks } else { Exit::Own };
        Self { exit, ..self }
    }
}

/// What to know of a daemon that has ended.
pub(super) const ENDED: &str = "everything stays enforced; start it again to see and answer more";

impl From<client::Error> for Problem {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Failure(failure) => (*failure).into(),
            client::Error::Unreachable { .. } => Self::of(Exit::Unreachable, &error)
                .hint("start it with `systemctl start enforcer`, or `enforcer daemon`; `--socket` names another one"),
            client::Error::Closed { .. } => Self::of(Exit::Unreachable, &error).hint(ENDED),
            client::Error::Refused { .. } => Self::of(Exit::Refused, &error).hint(NOT_FOR_ALL),
            client::Error::Answer(_) => Self::of(Exit::Failed, &error),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let exit = match failure.kind {
            FailureKind::Lacks => Exit::Lacks,
            FailureKind::Refused => Exit::Refused,
            FailureKind::Conflict => Exit::Busy,
            FailureKind::Invalid | FailureKind::NotFound | FailureKind::Failed => Exit::Failed,
        };
        Self {
            exit,
            message: failure.message.clone(),
            hint: failure.help.clone(),
            report: failure.report.clone(),
            failure: Some(Box::new(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Exit, Problem};
    use crate::control::{
        api::{Failure, FailureKind},
        client,
    };

    #[test]
    fn problems_end_with_the_codes_that_are_documented() {
        let code = |problem: Problem| problem.exit.code();
        let failure = |kind| code(Failure::new(kind, "x").into());
        assert_eq!(failure(FailureKind::Lacks), 4);
        assert_eq!(failure(FailureKind::Refused), 5);
        assert_eq!(failure(FailureKind::Invalid), 1);
        let path = std::path::PathBuf::from("/x");
        let source = || std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(code(client::Error::Unreachable { path: path.clone(), source: source() }.into()), 3);
        assert_eq!(code(client::Error::Refused { path, source: source() }.into()), 5);
        assert_eq!(code(Problem::new(Exit::Failed, "x").before_command()), 125);
        assert_eq!(code(Problem::new(Exit::Lacks, "x").before_command()), 4);
    }
}
