//! Which keys each table has, and what to say about one that it has not.

use crate::policy::diagnostics::{any_of, quote};
use crate::policy::section::{Context, Section};
use crate::policy::suggest::nearest;

/// The kinds of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Root,
    Default,
    Network,
    File,
    Exec,
}

const RULE: [&str; 11] = [
    "name",
    "action",
    "message",
    "rate",
    "burst",
    "on_exceed",
    "redirect",
    "timeout",
    "on_timeout",
    "remember",
    "hold",
];

/// Keys that the design has and version 1 does not, with what to do without them.
const LATER: [(Keys, &str, &str); 10] = [
    (Keys::Root, "extends", "copy the rules of the other policy into this one"),
    (Keys::Root, "match", "name the policy where the agent is started: `enforcer run --policy`"),
    (Keys::Root, "degrade", "remove it: a policy that the kernel cannot carry out is not loaded"),
    (Keys::Root, "hold", "write it in the rules that escalate"),
    (Keys::Network, "domains", "write the addresses in `to`"),
    (Keys::Network, "when", "remove it: a rule holds at all times"),
    (Keys::Network, "approvers", "remove it: whoever may use the daemon may answer"),
    (Keys::Network, "exe", "remove it: a rule holds for all programs of the agent"),
    (Keys::Network, "user", "remove it: a rule holds for all users of the agent"),
    (Keys::Exec, "args", "remove it: a rule holds for all arguments of its programs"),
];

impl Keys {
    const ALL: [Self; 5] = [Self::Root, Self::Default, Self::Network, Self::File, Self::Exec];

    /// Its key in the file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Root => "policy",
            Self::Default => "default",
            Self::Network => "network",
            Self::File => "file",
            Self::Exec => "exec",
        }
    }

    /// As people write it, in backticks if it can be written.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Root => "the policy",
            Self::Default => "`[default]`",
            Self::Network => "`[[network]]`",
            Self::File => "`[[file]]`",
            Self::Exec => "`[[exec]]`",
        }
    }

    /// All keys, those of the table itself first.
    fn known(self) -> Vec<&'static str> {
        match self {
            Self::Root => vec!["version", "name", "mode", "log", "default", "network", "file", "exec"],
            Self::Default => vec!["network", "files", "exec"],
            Self::Network => [["to", "ports", "protocols"].as_slice(), &RULE].concat(),
            Self::File => [["paths", "access"].as_slice(), &RULE].concat(),
            Self::Exec => [["paths"].as_slice(), &RULE].concat(),
        }
    }

    fn is_rule(self) -> bool {
        matches!(self, Self::Network | Self::File | Self::Exec)
    }

    fn later(self, key: &str) -> Option<&'static str> {
        let fits =
            |table: Self| table == self || (table == Self::Network && self.is_rule() && key != "domains");
        LATER.iter().find(|(table, name, _)| *name == key && fits(*table)).map(|(_, _, instead)| *instead)
    }

    /// The key that is meant by one of another spelling.
    fn meant(self, key: &str) -> Option<&'static str> {
        let meant = match key.to_lowercase().as_str() {
            "files" | "filesystem" => "file",
            "net" | "networks" | "connect" => "network",
            "execs" | "process" | "program" | "programs" => "exec",
            "cidr" | "cidrs" | "address" | "addresses" | "ip" | "ips" | "hosts" | "destination" => "to",
            "protocol" | "proto" => "protocols",
            "path" | "glob" | "globs" => "paths",
            "mode" | "operations" | "ops" | "permissions" => "access",
            "verdict" | "decision" => "action",
            "reason" | "comment" | "description" => "message",
            "limit" => "rate",
            "target" => "redirect",
            "id" => "name",
            _ => return nearest(key, self.known()),
        };
        self.known().into_iter().find(|known| *known == meant)
    }
}

/// Reports every key that a table does not have, and notes which keys were probably meant.
pub(super) fn check(cx: &mut Context<'_>, section: &mut Section<'_>, table: Keys) {
    let known = table.known();
    let mut misspelt = Vec::new();
    for (key, span) in section.keys().filter(|(key, _)| !known.contains(key)) {
        if let Some(instead) = table.later(key) {
            cx.found.error(&span, format!("{} is not there yet", quote(key))).with_help(instead);
            misspelt.extend((key == "domains").then_some("to"));
            continue;
        }
        let help = match elsewhere(table, key) {
            Some(help) => help,
            None => match table.meant(key) {
                Some(word) => {
                    misspelt.push(word);
                    format!("did you mean {}?", quote(word))
                }
                None => format!("its keys are {}", any_of(&known).replace(" or ", " and ")),
            },
        };
        cx.found.error(&span, format!("unknown key {} in {}", quote(key), table.title())).with_help(help);
    }
    section.misspelt = misspelt;
}

/// Where a key belongs that another table has.
fn elsewhere(table: Keys, key: &str) -> Option<String> {
    let owners: Vec<_> =
        Keys::ALL.into_iter().filter(|other| *other != table && other.known().contains(&key)).collect();
    let is_top_level = owners.contains(&Keys::Root) && !matches!(key, "network" | "exec");
    if is_top_level {
        return Some(format!("{} belongs at the top of the file, above the first `[...]`", quote(key)));
    }
    if table == Keys::Root && owners.iter().any(|owner| owner.is_rule()) {
        return Some(format!("{} belongs in a rule, below its `[[...]]`", quote(key)));
    }
    let titles: Vec<_> = owners.iter().filter(|owner| owner.is_rule()).map(|owner| owner.title()).collect();
    (!titles.is_empty()).then(|| format!("{} belongs in {}", quote(key), titles.join(" and ")))
}
