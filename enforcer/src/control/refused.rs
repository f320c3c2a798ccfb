//! Failures as responses: which kind each error of the daemon is to whoever asked.

use super::api::{Failure, FailureKind, chain};
use crate::{agents, approvals, daemon, kernel};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tokio::task::spawn_blocking;

/// A failure as a response.
#[derive(Debug)]
pub struct Refused(pub Box<Failure>);

pub(super) fn refused(failure: Failure) -> Refused {
    Refused(Box::new(failure))
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        let status = match failure.kind {
            FailureKind::Invalid | FailureKind::Lacks => StatusCode::UNPROCESSABLE_ENTITY,
            FailureKind::NotFound => StatusCode::NOT_FOUND,
            FailureKind::Conflict => StatusCode::CONFLICT,
            FailureKind::Refused => StatusCode::FORBIDDEN,
            FailureKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(*failure)).into_response()
    }
}

impl From<agents::Error> for Refused {
    fn from(error: agents::Error) -> Self {
        use agents::Error as E;
        let kind = match &error {
            E::NeedsLsm { .. } => FailureKind::Lacks,
            E::NoAgent { .. } => FailureKind::NotFound,
            E::Name { .. } => FailureKind::Invalid,
            E::OtherPolicy { .. } | E::Ambiguous { .. } | E::Full | E::Policies | E::Process { .. } => {
                FailureKind::Conflict
            }
            _ => FailureKind::Failed,
        };
        let failure = Failure::new(kind, chain(&error));
        refused(match error {
            E::NeedsLsm { .. } => failure.with_help(
                "`enforcer doctor` tells what to do about the kernel; a policy with `files = \"allow\"`, `exec = \
                 \"allow\"` and network rules only works here",
            ),
            _ => failure,
        })
    }
}

impl From<approvals::Error> for Refused {
    fn from(error: approvals::Error) -> Self {
        use approvals::Error as E;
        let kind = match &error {
            E::Unknown { .. } => FailureKind::NotFound,
            E::Ambiguous { .. } | E::NoRoom { .. } => FailureKind::Conflict,
            E::Kernel(_) => FailureKind::Failed,
        };
        refused(Failure::new(kind, chain(&error)))
    }
}

impl From<daemon::Error> for Refused {
    fn from(error: daemon::Error) -> Self {
        match error {
            daemon::Error::Populated(_) => {
                let failure = Failure::new(FailureKind::Conflict, error.to_string());
                refused(failure.with_help(
                    "end them first, as `enforcer kill --all` does; with `--force` they go on, or stay frozen, and \
                     nothing governs them",
                ))
            }
            error => refused(Failure::new(FailureKind::Failed, chain(&error))),
        }
    }
}

impl From<kernel::Error> for Refused {
    fn from(error: kernel::Error) -> Self {
        refused(Failure::new(FailureKind::Failed, chain(&error)))
    }
}

/// Runs what may block away from the threads that serve.
pub(super) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Refused>
where
    T: Send + 'static,
    E: Into<Refused> + Send + 'static,
{
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(refused(Failure::new(FailureKind::Failed, error.to_string()))),
    }
}
