//! From the text of a policy to what is loaded and what is remembered of it.

use crate::policy::{Answer, Checked, CompiledTables, Diagnostics, Policy, PolicySource, check_source};
use enforcer_common::{
    rule::{NO_RULE, Rule},
    siphash::SipHash,
    verdict::Verdict,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use zerocopy::IntoBytes as _;

/// The number of a policy's load. Later loads have higher numbers, over daemons and reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyNumber(pub u32);

/// What names the content of a policy: what it decides, and what its rules are called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Of a policy that was loaded by another daemon and is not known: equal to no other but itself.
    pub(super) fn unknown() -> Self {
        Self(String::new())
    }
}

/// What is remembered of a loaded policy, so that events can be told in its words, also by the next daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Its number.
    pub number: PolicyNumber,
    /// Its name.
    pub name: String,
    /// Its content.
    pub digest: Digest,
    /// Whether it only notes what it would do.
    pub audit: bool,
    /// When it was loaded.
    pub loaded: Timestamp,
    /// The rules by their index in the kernel, the three defaults at the end.
    pub rules: Vec<RuleRecord>,
}

/// What is remembered of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRecord {
    /// Its name; `default.network` and its like for the defaults.
    pub name: String,
    /// Whether it is what holds where no rule matches.
    pub is_default: bool,
    /// What the agent is told.
    pub message: Option<String>,
    /// What names its content.
    pub content: u64,
    /// Whether a request that nobody has answered in time is allowed.
    pub allows_on_timeout: bool,
    /// How long an answer holds, in nanoseconds; 0 for once.
    pub remember_ns: u64,
    /// Of a rate, nanoseconds for one token.
    #[serde(default)]
    pub interval_ns: u64,
}

impl PolicyRecord {
    /// The rule at an index of the kernel.
    #[must_use]
    pub fn rule(&self, index: u32) -> Option<&RuleRecord> {
        if index == NO_RULE { None } else { self.rules.get(index as usize) }
    }

    /// The rule with a content.
    #[must_use]
    pub fn rule_of(&self, content: u64) -> Option<&RuleRecord> {
        self.rules.iter().find(|rule| rule.content == content)
    }
}

/// A policy that can be loaded.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Its content.
    pub digest: Digest,
    /// What the kernel must have for it, in the policy's own words; nothing for a policy on the network only.
    pub needs_lsm: Option<String>,
    /// What is loaded.
    pub tables: CompiledTables,
}

/// Checks and compiles a policy. The diagnostics may hold warnings beside it, and hold errors where there is none.
#[must_use]
pub fn prepare(source: PolicySource) -> (Option<Prepared>, Diagnostics) {
    let (diagnostics, checked) = check_source(source);
    (checked.map(Prepared::from), diagnostics)
}

impl From<Checked> for Prepared {
    fn from((policy, tables): Checked) -> Self {
        Self {
            digest: digest(&policy.name, &tables),
            needs_lsm: needs_lsm(&policy),
            name: policy.name,
            tables,
        }
    }
}

impl Prepared {
    /// What is remembered of it once it is loaded.
    #[must_use]
    pub fn record(&self, number: PolicyNumber) -> PolicyRecord {
        let rule = |(index, rule): (usize, &Rule)| {
            let named = self.tables.names.get(index);
            RuleRecord {
                name: named.map_or_else(|| format!("rule {index}"), |named| named.name.clone()),
                is_default: rule.is_default == 1,
                message: named.and_then(|named| named.message.clone()),
                content: rule.content,
                allows_on_timeout: Verdict::from_number(rule.on_timeout) == Some(Verdict::Allow),
                remember_ns: rule.remember_ns,
                interval_ns: rule.interval_ns,
            }
        };
        PolicyRecord {
            number,
            name: self.name.clone(),
            digest: self.digest.clone(),
            audit: self.tables.audit,
            loaded: Timestamp::now(),
            rules: self.tables.rules.iter().enumerate().map(rule).collect(),
        }
    }

    /// The longest time that one of its requests waits.
    #[must_use]
    pub fn longest_timeout(&self) -> Duration {
        Duration::from_nanos(self.tables.rules.iter().map(|rule| rule.timeout_ns).max().unwrap_or(0))
    }
}

/// What of a policy only the LSM programs can hold it to.
fn needs_lsm(policy: &Policy) -> Option<String> {
    let mut needs = Vec::new();
    if !policy.file.is_empty() {
        needs.push("`[[file]]` rules");
    }
    if !policy.exec.is_empty() {
        needs.push("`[[exec]]` rules");
    }
    if policy.default.files != Answer::Allow {
        needs.push("`files = \"block\"`");
    }
    if policy.default.exec != Answer::Allow {
        needs.push("`exec = \"block\"`");
    }
    (!needs.is_empty()).then(|| needs.join(" and "))
}

fn digest(name: &str, tables: &CompiledTables) -> Digest {
    let mut hash = SipHash::new([0; 2]);
    let mut part = |bytes: &[u8]| {
        hash.bytes(&(bytes.len() as u64).to_le_bytes());
        hash.bytes(bytes);
    };
    part(name.as_bytes());
    part(&[u8::from(tables.audit)]);
    part(tables.header.as_bytes());
    part(tables.rules.as_bytes());
    part(tables.words.as_bytes());
    for named in &tables.names {
        part(named.name.as_bytes());
        part(named.message.as_deref().unwrap_or_default().as_bytes());
    }
    let [high, low] = hash.finish();
    Digest(format!("{high:016x}{low:016x}"))
}

#[cfg(test)]
mod tests {
    use super::prepare;
    use crate::policy::PolicySource;

    fn prepared(text: &str) -> super::Prepared {
        let (prepared, found) = prepare(PolicySource::new("test.toml", text));
        prepared.unwrap_or_else(|| panic!("{}", found.render(crate::policy::Look::PLAIN)))
    }

    const NETWORK: &str = "version = 1\nname = \"a\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n\
        [[network]]\nname = \"dns\"\naction = \"allow\"\nto = [\"10.0.0.1\"]\n";

    #[test]
    fn a_policy_on_the_network_needs_no_lsm_and_any_other_says_what_does() {
        assert_eq!(prepared(NETWORK).needs_lsm, None);
        let files = NETWORK.replace("files = \"allow\"", "files = \"block\"");
        assert_eq!(prepared(&files).needs_lsm.as_deref(), Some("`files = \"block\"`"));
        let rules = format!("{NETWORK}[[exec]]\nname = \"no\"\naction = \"block\"\npaths = [\"/bin/su\"]\n");
        assert_eq!(prepared(&rules).needs_lsm.as_deref(), Some("`[[exec]]` rules"));
    }

    #[test]
    fn the_content_names_a_policy_and_not_its_layout() {
        let digest = |text: &str| prepared(text).digest;
        assert_eq!(digest(NETWORK), digest(&format!("# a comment\n{NETWORK}")));
        assert_ne!(digest(NETWORK), digest(&NETWORK.replace("10.0.0.1", "10.0.0.2")));
        assert_ne!(digest(NETWORK), digest(&NETWORK.replace("dns", "resolver")));
    }

    #[test]
    fn what_is_remembered_has_every_rule_at_its_index() {
        let record = prepared(NETWORK).record(super::PolicyNumber(3));
        assert_eq!(record.rules.len(), 4);
        let name = |index| record.rule(index).map(|rule| (rule.name.as_str(), rule.is_default));
        assert_eq!((name(0), name(1)), (Some(("dns", false)), Some(("default.network", true))));
        assert_eq!(name(enforcer_common::rule::NO_RULE), None);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<super::PolicyRecord>(&json).unwrap(), record);
    }
}
