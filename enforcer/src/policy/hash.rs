//! The content hash of a rule: what a grant binds to.
//!
//! It is the hash of what the rule means, so it stays when the file is formatted anew, other rules move, or
//! the rule gets another name or message, and changes when the rule matches or does anything else. It is
//! stored in grants that outlive the daemon, so the bytes hashed here must not change between releases: a
//! test holds their hashes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use enforcer_common::hold::Hold;
use ipnet::IpNet;
use siphasher::sip::SipHasher24;

use super::glob::{ByteSet, Component, Glob, NamePart, NamePattern, Pattern};
use super::model::{Access, Action, Answer, ExecMatch, FileMatch, NetworkMatch, Protocols, Rule};

impl<M: Content> Rule<M> {
    /// The hash of the rule's action and of what it matches, without its name, message and place.
    pub fn content_hash(&self) -> u64 {
        let mut bytes = Vec::new();
        self.matches.write(&mut bytes);
        self.action.write(&mut bytes);
        hash(&bytes)
    }
}

/// The content hash of the default of a table, which no rule stands behind.
pub(crate) fn default_hash(table: &str, answer: Answer) -> u64 {
    let mut bytes = b"default".to_vec();
    write_len(&mut bytes, table.len());
    bytes.extend(table.as_bytes());
    answer.write(&mut bytes);
    hash(&bytes)
}

/// A hash that is not 0, which stands for no rule where hashes are keys.
fn hash(bytes: &[u8]) -> u64 {
    SipHasher24::new().hash(bytes).max(1)
}

/// A part of a rule as canonical bytes: the same meaning gives the same bytes, another gives others.
pub trait Content {
    /// Appends the bytes.
    fn write(&self, bytes: &mut Vec<u8>);
}

impl Content for NetworkMatch {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(1);
        let mut nets = IpNet::aggregate(&self.networks());
        nets.sort_unstable();
        nets.write(bytes);
        write_len(bytes, self.ports.len());
        for range in &self.ports {
            bytes.extend(range.start().to_le_bytes());
            bytes.extend(range.end().to_le_bytes());
        }
        self.protocols.write(bytes);
    }
}

impl Content for FileMatch {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(2);
        write_paths(bytes, &self.paths);
        self.access.write(bytes);
    }
}

impl Content for ExecMatch {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(3);
        write_paths(bytes, &self.paths);
    }
}

impl Content for Action {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Allow => bytes.push(1),
            Self::Block => bytes.push(2),
            Self::Throttle { rate, burst, hold } => {
                bytes.push(3);
                bytes.extend(rate.count().to_le_bytes());
                rate.period().write(bytes);
                bytes.extend(burst.to_le_bytes());
                write_hold(bytes, *hold, Hold::Refuse);
            }
            Self::Sandbox { redirect } => {
                bytes.push(4);
                redirect.write(bytes);
            }
            Self::Escalate { timeout, on_timeout, remember, hold } => {
                bytes.push(5);
                timeout.write(bytes);
                on_timeout.write(bytes);
                bytes.push(u8::from(remember.is_some()));
                remember.unwrap_or_default().write(bytes);
                write_hold(bytes, *hold, Hold::Thread);
            }
        }
    }
}

impl Content for Answer {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(match self {
            Self::Allow => 1,
            Self::Block => 2,
        });
    }
}

impl Content for Duration {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.as_nanos().to_le_bytes());
    }
}

impl Content for SocketAddr {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.ip().write(bytes);
        bytes.extend(self.port().to_le_bytes());
    }
}

impl Content for IpAddr {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::V4(address) => {
                bytes.push(4);
                bytes.extend(address.octets());
            }
            Self::V6(address) => {
                bytes.push(6);
                bytes.extend(address.octets());
            }
        }
    }
}

impl Content for IpNet {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.addr().write(bytes);
        bytes.push(self.prefix_len());
    }
}

impl Content for Protocols {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.tcp) | u8::from(self.udp) << 1);
    }
}

impl Content for Access {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.read) | u8::from(self.write) << 1 | u8::from(self.create) << 2);
    }
}

impl Content for Pattern {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.components().write(bytes);
    }
}

impl Content for Component {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::AnyDepth => bytes.push(1),
            Self::Name(name) => {
                bytes.push(2);
                name.write(bytes);
            }
        }
    }
}

impl Content for NamePattern {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.parts().write(bytes);
    }
}

impl Content for NamePart {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Literal(text) => {
                bytes.push(1);
                write_len(bytes, text.len());
                bytes.extend(text);
            }
            Self::AnyRun => bytes.push(2),
            Self::AnyByte => bytes.push(3),
            Self::Set(set) => {
                bytes.push(4);
                set.write(bytes);
            }
        }
    }
}

impl Content for ByteSet {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.negated()));
        write_len(bytes, self.ranges().len());
        bytes.extend(self.ranges().iter().flat_map(|&(first, last)| [first, last]));
    }
}

impl<T: Content> Content for [T] {
    fn write(&self, bytes: &mut Vec<u8>) {
        write_len(bytes, self.len());
        self.iter().for_each(|one| one.write(bytes));
    }
}

fn write_paths(bytes: &mut Vec<u8>, paths: &[Glob]) {
    let mut patterns: Vec<Vec<u8>> = Vec::new();
    for pattern in paths.iter().flat_map(Glob::alternatives) {
        let mut one = Vec::new();
        pattern.write(&mut one);
        patterns.push(one);
    }
    patterns.sort_unstable();
    patterns.dedup();
    write_len(bytes, patterns.len());
    patterns.iter().for_each(|pattern| bytes.extend(pattern));
}

/// What is not the default only, so that rules from before there was a choice keep their hashes.
fn write_hold(bytes: &mut Vec<u8>, hold: Hold, default: Hold) {
    if hold != default {
        bytes.push(hold as u8);
    }
}

fn write_len(bytes: &mut Vec<u8>, len: usize) {
    bytes.extend((len as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use crate::policy::{Policy, PolicySource, parse};

    fn policy(rules: &str) -> Policy {
        let head = "version = 1\nname = \"p\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";
        let (policy, found) = parse(PolicySource::new("p.toml", format!("{head}{rules}")));
        policy.unwrap_or_else(|| panic!("{}", found.render(crate::policy::Look::PLAIN)))
    }

    fn network(rule: &str) -> u64 {
        policy(&format!("[[network]]\n{rule}")).network[0].content_hash()
    }

    fn file(rule: &str) -> u64 {
        policy(&format!("[[file]]\n{rule}")).file[0].content_hash()
    }

    #[test]
    fn what_means_the_same_has_the_same_hash() {
        let plain =
            network("action = \"block\"\nto = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nports = [80, 443]");
        for other in [
            "name = \"x\"\naction = \"block\"\nmessage = \"m\"\nto = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nports = [80, 443]",
            "ports = [443, 80, \"80\"]\nto = [\"2001:db8::/32\", \"10.128.0.0/9\", \"10.0.0.0/9\"]\naction = \"block\"",
            "action = \"block\"\nprotocols = [\"udp\", \"tcp\"]\nto = [\"10.0.0.0/8\", \"2001:DB8::/32\"]\nports = [80, 443]",
        ] {
            assert_eq!(network(other), plain, "{other}");
        }
        assert_eq!(
            network("action = \"block\"\nto = [\"::/0\", \"0.0.0.0/0\"]\nports = [1]"),
            network("action = \"block\"\nports = [1]")
        );
        assert_eq!(
            file("action = \"block\"\npaths = [\"/a/{b,c}\", \"/a/b\"]"),
            file(
                "action = \"block\"\npaths = [\"/a/c\", \"/a/b\"]\naccess = [\"write\", \"read\", \"create\"]"
            )
        );
        assert_eq!(
            file("action = \"throttle\"\npaths = [\"/a\"]\nrate = \"60/hour\""),
            file("action = \"throttle\"\npaths = [\"/a\"]\nrate = \"60/1h\"\nburst = 60")
        );
    }

    #[test]
    fn what_means_something_else_has_another_hash() {
        let rules = [
            "action = \"block\"\npaths = [\"/a\"]",
            "action = \"allow\"\npaths = [\"/a\"]",
            "action = \"block\"\npaths = [\"/b\"]",
            "action = \"block\"\npaths = [\"/a\", \"/b\"]",
            "action = \"block\"\npaths = [\"/a*\"]",
            "action = \"block\"\npaths = [\"/a?\"]",
            "action = \"block\"\npaths = [\"/a/**\"]",
            "action = \"block\"\npaths = [\"/[ab]\"]",
            "action = \"block\"\npaths = [\"/[!ab]\"]",
            "action = \"block\"\npaths = [\"/a\"]\naccess = [\"read\"]",
            "action = \"throttle\"\npaths = [\"/a\"]\nrate = \"1/s\"",
            "action = \"throttle\"\npaths = [\"/a\"]\nrate = \"2/s\"",
            "action = \"throttle\"\npaths = [\"/a\"]\nrate = \"1/s\"\nburst = 2",
            "action = \"throttle\"\npaths = [\"/a\"]\nrate = \"1/s\"\non_exceed = \"pause\"",
            "action = \"throttle\"\npaths = [\"/a\"]\nrate = \"1/s\"\non_exceed = \"pause\"\nhold = \"process\"",
            "action = \"escalate\"\npaths = [\"/a\"]",
            "action = \"escalate\"\npaths = [\"/a\"]\ntimeout = \"1m\"",
            "action = \"escalate\"\npaths = [\"/a\"]\non_timeout = \"allow\"",
            "action = \"escalate\"\npaths = [\"/a\"]\nremember = \"1m\"",
            "action = \"escalate\"\npaths = [\"/a\"]\nhold = \"process\"",
            "action = \"escalate\"\npaths = [\"/a\"]\nhold = \"refuse\"",
        ];
        let mut hashes: Vec<_> = rules.into_iter().map(file).collect();
        hashes.push(policy("[[exec]]\naction = \"block\"\npaths = [\"/a\"]").exec[0].content_hash());
        hashes.extend(
            [
                "action = \"block\"\nports = [1]",
                "action = \"block\"\nports = [2]",
                "action = \"block\"\nports = [\"1-2\"]",
                "action = \"block\"\nprotocols = [\"tcp\"]",
                "action = \"block\"\nto = [\"10.0.0.0/8\"]",
                "action = \"block\"\nto = [\"10.0.0.0/9\"]",
                "action = \"sandbox\"\nto = [\"10.0.0.0/8\"]\nredirect = \"127.0.0.1:1\"",
                "action = \"sandbox\"\nto = [\"10.0.0.0/8\"]\nredirect = \"127.0.0.1:2\"",
            ]
            .map(network),
        );
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn hashes_are_those_of_every_release() {
        // Grants in the kernel are bound to these. A change here is a change that forgets them.
        let cases = [
            (
                "[[network]]\naction = \"block\"\nto = [\"10.0.0.0/8\"]\nports = [443]",
                10_573_141_250_958_239_086,
            ),
            (
                "[[file]]\naction = \"escalate\"\npaths = [\"/srv/*/[a-c]?/**\"]\nremember = \"15m\"",
                17_273_690_716_944_670_625,
            ),
            (
                "[[exec]]\naction = \"throttle\"\npaths = [\"**/git\"]\nrate = \"30/minute\"",
                9_158_603_684_166_428_573,
            ),
        ];
        let hashes = cases.map(|(rule, _): (&str, u64)| {
            let policy = policy(rule);
            let network = policy.network.iter().map(super::Rule::content_hash);
            let file = policy.file.iter().map(super::Rule::content_hash);
            let exec = policy.exec.iter().map(super::Rule::content_hash);
            network.chain(file).chain(exec).next().unwrap()
        });
        assert_eq!(hashes, cases.map(|(_, hash)| hash));
    }
}
