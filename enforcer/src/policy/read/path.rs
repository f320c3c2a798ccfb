//! What `[[file]]` and `[[exec]]` rules match.

use std::collections::HashSet;

use super::Places;
use super::network::wrong_element;
use crate::policy::glob::Glob;
use crate::policy::limits::MAX_PATTERNS;
use crate::policy::model::{Access, Action, ExecMatch, ExecRule, FileMatch, FileRule};
use crate::policy::section::{Context, Section, report, word};

const FILE_EXAMPLE: &str = "[\"/srv/data/**\"]";
const EXEC_EXAMPLE: &str = "[\"/usr/bin/sudo\"]";
const ACCESS_EXAMPLE: &str = "[\"read\", \"write\"]";

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Create,
}

/// Reads `paths` and `access`.
pub(super) fn file(cx: &mut Context<'_>, section: &Section<'_>, _: Option<&Action>) -> Option<FileMatch> {
    let paths = paths(cx, section, FILE_EXAMPLE);
    let access = access(cx, section);
    Some(FileMatch { paths: paths?, access: access? })
}

/// Reads `paths`.
pub(super) fn exec(cx: &mut Context<'_>, section: &Section<'_>, _: Option<&Action>) -> Option<ExecMatch> {
    Some(ExecMatch { paths: paths(cx, section, EXEC_EXAMPLE)? })
}

fn paths(cx: &mut Context<'_>, section: &Section<'_>, example: &str) -> Option<Vec<Glob>> {
    let help = format!("write `paths = {example}`, or `paths = [\"/**\"]` for every path");
    let field = section.required(cx, "paths", &help)?;
    let mut paths: Vec<Option<Glob>> = Vec::new();
    let mut seen = HashSet::new();
    for element in field.elements(cx, example)? {
        let Some(text) = element.string() else {
            wrong_element(cx, "paths", "a string", &element, example);
            paths.push(None);
            continue;
        };
        if seen.insert(text) {
            paths.push(Glob::new(text).map_err(|fault| report(cx, &element, &fault).severity()).ok());
        }
    }
    paths.into_iter().collect()
}

fn access(cx: &mut Context<'_>, section: &Section<'_>) -> Option<Access> {
    let Some(field) = section.field("access") else { return Some(Access::ALL) };
    let words = [("read", Kind::Read), ("write", Kind::Write), ("create", Kind::Create)];
    let meant = [
        ("r", "read"),
        ("w", "write"),
        ("append", "write"),
        ("truncate", "write"),
        ("open", "read"),
        ("new", "create"),
        ("rw", "write `[\"read\", \"write\"]`"),
        ("all", "leave `access` out for all kinds"),
        ("any", "leave `access` out for all kinds"),
        ("exec", "starting programs is governed by `[[exec]]` rules"),
        ("execute", "starting programs is governed by `[[exec]]` rules"),
        ("x", "starting programs is governed by `[[exec]]` rules"),
        ("delete", "`delete` is not there yet: write `read`, `write` or `create`"),
        ("unlink", "`delete` is not there yet: write `read`, `write` or `create`"),
        ("rename", "`rename` is not there yet: write `read`, `write` or `create`"),
    ];
    let mut set = Some(Access::NONE);
    for element in field.elements(cx, ACCESS_EXAMPLE)? {
        if element.string().is_none() {
            wrong_element(cx, "access", "a string", &element, ACCESS_EXAMPLE);
            set = None;
            continue;
        }
        let kind = word(cx, "access", &element, &words, &meant);
        set = match (set, kind) {
            (Some(set), Some(Kind::Read)) => Some(Access { read: true, ..set }),
            (Some(set), Some(Kind::Write)) => Some(Access { write: true, ..set }),
            (Some(set), Some(Kind::Create)) => Some(Access { create: true, ..set }),
            _ => None,
        };
    }
    set
}

/// Reports a policy whose globs stand for too many patterns, at the rule that passes the limit.
pub(super) fn check_total(cx: &mut Context<'_>, file: &[FileRule], exec: &[ExecRule], places: &Places) {
    let globs =
        file.iter().map(|rule| &rule.matches.paths).chain(exec.iter().map(|rule| &rule.matches.paths));
    let mut total = 0;
    for (paths, span) in globs.zip(places.file.iter().chain(&places.exec)) {
        total += paths.iter().map(|glob| glob.alternatives().len()).sum::<usize>();
        if total > MAX_PATTERNS {
            cx.found
                .error(span, format!("the paths of this policy stand for more than {MAX_PATTERNS} patterns"))
                .with_help("write a `*` instead of many names, and fewer alternatives in braces");
            return;
        }
    }
}
