//! The naive reading of a policy: plain loops over its rules, with `globset` for the paths. What the compiler
//! and the kernel make of a policy is held to it, so it must stay too simple to be wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer::policy::{Action, Answer, Glob, NetworkMatch, Policy};
use enforcer_common::action::{Access, Protocol};
use enforcer_common::verdict::Verdict;
use globset::{GlobBuilder, GlobMatcher};

/// What a policy says about an action: the verdict of the rule that it falls under. Whether a token is left or
/// a grant is there is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule's name, or `default.network`, `default.files`, `default.exec`.
    pub rule: String,
}

/// A policy with its globs made ready.
pub struct Oracle<'p> {
    policy: &'p Policy,
    files: Vec<Vec<GlobMatcher>>,
    programs: Vec<Vec<GlobMatcher>>,
}

impl<'p> Oracle<'p> {
    /// Makes a policy ready.
    pub fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            files: policy.file.iter().map(|rule| matchers(&rule.matches.paths)).collect(),
            programs: policy.exec.iter().map(|rule| matchers(&rule.matches.paths)).collect(),
        }
    }

    /// Judges a connect or a send.
    pub fn network(&self, address: IpAddr, port: u16, protocol: Protocol) -> Ruling {
        let address = one_spelling(address);
        for rule in &self.policy.network {
            if covers(&rule.matches, address, port, protocol) {
                return Ruling { verdict: verdict(&rule.action), rule: rule.name.clone() };
            }
        }
        default(self.policy.default.network, "default.network")
    }

    /// Judges an act on an absolute path. Each kind of access is decided by its first match; of the kinds the
    /// strictest holds, and of equally strict ones the rule that comes first in the policy.
    pub fn path(&self, access: Access, path: &str) -> Ruling {
        let mut strictest: Option<(Verdict, usize, Ruling)> = None;
        for kind in [Access::READ, Access::WRITE, Access::CREATE, Access::EXEC] {
            if access.0 & kind.0 == 0 {
                continue;
            }
            let (place, ruling) = if kind == Access::EXEC { self.exec(path) } else { self.file(kind, path) };
            let is_stricter = strictest.as_ref().is_none_or(|(verdict, earlier, _)| {
                ruling.verdict > *verdict || (ruling.verdict == *verdict && place < *earlier)
            });
            if is_stricter {
                strictest = Some((ruling.verdict, place, ruling));
            }
        }
        strictest.map_or_else(|| default(Answer::Block, "no access"), |(_, _, ruling)| ruling)
    }

    fn file(&self, kind: Access, path: &str) -> (usize, Ruling) {
        for (place, (rule, globs)) in self.policy.file.iter().zip(&self.files).enumerate() {
            let access = rule.matches.access;
            let has = (kind == Access::READ && access.read)
                || (kind == Access::WRITE && access.write)
                || (kind == Access::CREATE && access.create);
            if has && globs.iter().any(|glob| glob.is_match(path)) {
                return (place, Ruling { verdict: verdict(&rule.action), rule: rule.name.clone() });
            }
        }
        (usize::MAX - 1, default(self.policy.default.files, "default.files"))
    }

    fn exec(&self, path: &str) -> (usize, Ruling) {
        for (place, (rule, globs)) in self.policy.exec.iter().zip(&self.programs).enumerate() {
            if globs.iter().any(|glob| glob.is_match(path)) {
                let place = self.policy.file.len() + place;
                return (place, Ruling { verdict: verdict(&rule.action), rule: rule.name.clone() });
            }
        }
        (usize::MAX, default(self.policy.default.exec, "default.exec"))
    }
}

fn covers(matches: &NetworkMatch, address: IpAddr, port: u16, protocol: Protocol) -> bool {
    let named = match protocol {
        Protocol::Tcp => matches.protocols.tcp,
        Protocol::Udp => matches.protocols.udp,
        Protocol::Other => false,
    };
    named
        && (matches.to.is_empty() || matches.to.iter().any(|net| net.contains(&address)))
        && (matches.ports.is_empty() || matches.ports.iter().any(|range| range.contains(&port)))
}

/// The address that the kernel goes to: IPv4 for what is IPv4 in IPv6 notation, loopback for no address.
fn one_spelling(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

fn verdict(action: &Action) -> Verdict {
    match action {
        Action::Allow => Verdict::Allow,
        Action::Block => Verdict::Block,
        Action::Throttle { .. } => Verdict::Throttle,
        Action::Sandbox { .. } => Verdict::Sandbox,
        Action::Escalate { .. } => Verdict::Escalate,
    }
}

fn default(answer: Answer, rule: &str) -> Ruling {
    let verdict = match answer {
        Answer::Allow => Verdict::Allow,
        Answer::Block => Verdict::Block,
    };
    Ruling { verdict, rule: rule.to_owned() }
}

/// `globset` also matches relative paths; ours begin at the root, and `**/x` is `/**/x`. A `**` within braces
/// means something else there, so policies for the oracle have none.
#[expect(clippy::expect_used, reason = "a glob that we take and globset does not is a failed test")]
fn matchers(globs: &[Glob]) -> Vec<GlobMatcher> {
    let build = |text: &str| {
        let text = if text.starts_with("**") { format!("/{text}") } else { text.to_owned() };
        let glob = GlobBuilder::new(&text).literal_separator(true).empty_alternates(true).build();
        glob.expect("globset reads what we read").compile_matcher()
    };
    globs.iter().map(|glob| build(glob.text())).collect()
}
