//! A policy by what the caller has of it: a text, or a name in the daemon's folder.

use super::{
    api::{Failure, FailureKind, PolicyChoice},
    refused::{Refused, refused},
};
use crate::{
    agents::policy::{self, Prepared},
    daemon::policy_file,
    policy::{Look, PolicySource},
};
use std::{fs, io, path::Path};

/// Reads and compiles a policy.
pub fn compile(folder: &Path, choice: &PolicyChoice) -> Result<(Prepared, Option<String>), Refused> {
    let source = match choice {
        PolicyChoice::Text { file, text } => PolicySource::new(file.clone(), text.clone()),
        PolicyChoice::Name(name) => named(folder, name)?,
    };
    let (prepared, found) = policy::prepare(source);
    let report = (!found.is_empty()).then(|| found.render(Look::PLAIN));
    prepared.map(|prepared| (prepared, report.clone())).ok_or_else(|| {
        refused(Failure {
            report,
            diagnostics: Some(found.to_json()),
            ..Failure::new(
                FailureKind::Invalid,
                format!("the policy `{}` has {}", found.source().name(), found.summary()),
            )
        })
    })
}

fn named(folder: &Path, name: &str) -> Result<PolicySource, Refused> {
    let missing = || {
        let failure = Failure::new(FailureKind::NotFound, format!("there is no policy `{name}`"));
        refused(failure.with_help(format!(
            "policies are looked for in `{}`; a path with a slash names a file",
            folder.display()
        )))
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(missing());
    }
    let path = policy_file(folder, name);
    match fs::read(&path) {
        Ok(bytes) => {
            Ok(PolicySource::new(path.to_string_lossy(), String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(refused(Failure::new(
            FailureKind::Failed,
            format!("cannot read `{}`: {error}", path.display()),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::named;
    use crate::control::api::FailureKind;

    #[test]
    fn a_name_is_no_way_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.toml"), "x").unwrap();
        assert_eq!(named(folder.path(), "a").unwrap().text(), "x");
        for name in ["b", "", "../a", "/a", ".a"] {
            assert_eq!(named(folder.path(), name).unwrap_err().0.kind, FailureKind::NotFound, "{name}");
        }
    }
}
