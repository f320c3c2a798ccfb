//! What is allowed and still looks like a mistake: warnings about a policy as a whole.
//!
//! That a rule is never reached is claimed only where it is certain and cheap to see: one earlier rule of its
//! kind has at least its conditions, address by address and path by path. Rules are looked up by their
//! addresses and paths, so that thousands of them take milliseconds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::address::supernets;
use super::diagnostics::{Findings, quote};
use super::glob::{Component, Glob, Pattern};
use super::model::{Access, Action, Answer, NetworkMatch, Policy, Rule};
use super::read::Places;
use super::source::Span;

/// Earlier rules that are remembered for one address or path: rules that share one and differ otherwise
/// would be compared each with each.
const MAX_REMEMBERED: usize = 64;

/// Reports what looks like a mistake.
pub(crate) fn check(found: &mut Findings, policy: &Policy, places: &Places) {
    unreachable_network(found, policy, places);
    let files = policy.file.iter().map(|rule| (rule.matches.paths.as_slice(), rule.matches.access));
    report_unreachable(found, &policy.file, &places.file, &covered_paths(files));
    let programs = policy.exec.iter().map(|rule| (rule.matches.paths.as_slice(), Access::ALL));
    report_unreachable(found, &policy.exec, &places.exec, &covered_paths(programs));
    one_family(found, policy, places);
    nothing_starts(found, policy, places);
}

/// Reports the rules that an earlier one covers; `covered` is the later and the earlier index.
fn report_unreachable<M>(
    found: &mut Findings,
    rules: &[Rule<M>],
    places: &[Span],
    covered: &[(usize, usize)],
) {
    for &(later, earlier) in covered {
        let (Some(rule), Some(cover)) = (rules.get(later), rules.get(earlier)) else { continue };
        let (Some(at), Some(cover_at)) = (places.get(later), places.get(earlier)) else { continue };
        found
            .warning(at, format!("rule {} is never reached", quote(&rule.name)))
            .and_at(cover_at, format!("{} matches all that it matches, and comes first", quote(&cover.name)))
            .with_help(format!("move it above {}, or remove it", quote(&cover.name)));
    }
}

fn unreachable_network(found: &mut Findings, policy: &Policy, places: &Places) {
    let mut by_net: HashMap<IpNet, Vec<usize>> = HashMap::new();
    let mut covered = Vec::new();
    for (index, rule) in policy.network.iter().enumerate() {
        let nets = rule.matches.networks();
        let Some(&first) = nets.first() else { continue };
        let cover = supernets(first)
            .filter_map(|net| by_net.get(&net))
            .flatten()
            .filter(|&&earlier| {
                policy.network.get(earlier).is_some_and(|earlier| covers(&earlier.matches, &rule.matches))
            })
            .min();
        match cover {
            Some(&cover) => covered.push((index, cover)),
            None => nets.into_iter().for_each(|net| remember(by_net.entry(net), index)),
        }
    }
    report_unreachable(found, &policy.network, &places.network, &covered);
}

fn remember<K>(entry: Entry<'_, K, Vec<usize>>, index: usize) {
    let rules = entry.or_default();
    if rules.len() < MAX_REMEMBERED {
        rules.push(index);
    }
}

/// Whether a match takes in all of another.
fn covers(outer: &NetworkMatch, inner: &NetworkMatch) -> bool {
    let outer_nets = outer.networks();
    outer.protocols.covers(inner.protocols)
        && covers_ports(&outer.ports, &inner.ports)
        && inner
            .networks()
            .iter()
            .all(|&net| supernets(net).any(|supernet| outer_nets.binary_search(&supernet).is_ok()))
}

fn covers_ports(outer: &[RangeInclusive<u16>], inner: &[RangeInclusive<u16>]) -> bool {
    let within = |range: &RangeInclusive<u16>| {
        outer.iter().any(|outer| outer.contains(range.start()) && outer.contains(range.end()))
    };
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(within))
}

/// Components by number; `**` is 0.
#[derive(Default)]
struct Numbers<'p>(HashMap<&'p Component, u32>);

impl<'p> Numbers<'p> {
    fn of(&mut self, pattern: &'p Pattern) -> Vec<u32> {
        pattern.components().iter().map(|component| self.one(component)).collect()
    }

    fn one(&mut self, component: &'p Component) -> u32 {
        if *component == Component::AnyDepth {
            return ANY_DEPTH;
        }
        let next = u32::try_from(self.0.len() + 1).unwrap_or(u32::MAX);
        *self.0.entry(component).or_insert(next)
    }
}

const ANY_DEPTH: u32 = 0;

/// Rules of paths that an earlier one covers, each with the first that does.
fn covered_paths<'p>(rules: impl Iterator<Item = (&'p [Glob], Access)>) -> Vec<(usize, usize)> {
    let mut numbers = Numbers::default();
    let mut by_pattern: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
    let mut accesses = Vec::new();
    let mut covered = Vec::new();
    for (index, (paths, access)) in rules.enumerate() {
        accesses.push(access);
        let patterns: Vec<_> =
            paths.iter().flat_map(Glob::alternatives).map(|pattern| numbers.of(pattern)).collect();
        let mut covers: Option<Vec<usize>> = None;
        for pattern in &patterns {
            let these = covering(pattern)
                .filter_map(|key| by_pattern.get(&key))
                .flatten()
                .copied()
                .filter(|&rule| accesses.get(rule).is_some_and(|earlier| earlier.covers(access)));
            covers = Some(match covers {
                None => these.collect(),
                Some(before) => {
                    let these: Vec<_> = these.collect();
                    before.into_iter().filter(|rule| these.contains(rule)).collect()
                }
            });
            if covers.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        match covers.into_iter().flatten().min() {
            Some(cover) => covered.push((index, cover)),
            None => patterns.into_iter().for_each(|key| remember(by_pattern.entry(key), index)),
        }
    }
    covered
}

/// The patterns that certainly match all that a pattern does: itself, each of its beginnings with `/**`, and
/// each of its ends after `**/`.
fn covering(pattern: &[u32]) -> impl Iterator<Item = Vec<u32>> {
    let beginnings = (0..pattern.len()).map(|length| {
        let head = pattern.iter().take(length).copied();
        head.chain([ANY_DEPTH]).collect::<Vec<_>>()
    });
    let ends = (0..pattern.len()).map(|skipped| {
        let tail = pattern.iter().skip(skipped).copied();
        std::iter::once(ANY_DEPTH).chain(tail).collect::<Vec<_>>()
    });
    std::iter::once(pattern.to_vec()).chain(beginnings).chain(ends).map(|mut key| {
        key.dedup_by(|a, b| (*a, *b) == (ANY_DEPTH, ANY_DEPTH));
        key
    })
}

/// Reports that the rules close one family of addresses and the default leaves the other open.
fn one_family(found: &mut Findings, policy: &Policy, places: &Places) {
    let closes = policy.network.iter().any(|rule| rule.action != Action::Allow);
    let nets: Vec<_> = policy.network.iter().flat_map(|rule| rule.matches.networks()).collect();
    let has_v4 = nets.iter().any(|net| matches!(net, IpNet::V4(_)));
    let has_v6 = nets.iter().any(|net| matches!(net, IpNet::V6(_)));
    if policy.default.network == Answer::Block || !closes || has_v4 == has_v6 {
        return;
    }
    let (named, other) = if has_v4 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    found
        .warning(
            &places.default_network,
            format!("the rules name {named} addresses only, and this lets every {other} connection pass"),
        )
        .with_help(format!("write rules for {other} too, or `network = \"block\"`"));
}

/// Reports that not even the agent itself could be started.
fn nothing_starts(found: &mut Findings, policy: &Policy, places: &Places) {
    let all_blocked = policy.exec.iter().all(|rule| rule.action == Action::Block);
    if policy.default.exec == Answer::Block && all_blocked {
        found
            .warning(
                &places.default_exec,
                "no program can be started under this policy, not even the agent's own",
            )
            .with_help("write an `[[exec]]` rule with `action = \"allow\"` for the programs that it needs");
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Look, PolicySource, parse};

    /// The messages of the warnings on a policy without errors.
    fn warnings(default_network: &str, rules: &str) -> Vec<String> {
        let head = format!(
            "version = 1\nname = \"p\"\n[default]\nnetwork = \"{default_network}\"\nfiles = \"allow\"\nexec = \"allow\"\n"
        );
        let (policy, found) = parse(PolicySource::new("p.toml", head + rules));
        assert!(policy.is_some(), "{}", found.render(Look::PLAIN));
        found.iter().map(|one| one.message().to_owned()).collect()
    }

    fn two_network_rules(first: &str, second: &str) -> bool {
        let rules =
            format!("[[network]]\naction = \"allow\"\n{first}\n[[network]]\naction = \"block\"\n{second}\n");
        let warnings = warnings("block", &rules);
        assert!(warnings.is_empty() || warnings == ["rule `network[2]` is never reached"], "{warnings:?}");
        !warnings.is_empty()
    }

    fn two_file_rules(first: &str, second: &str) -> bool {
        let rules =
            format!("[[file]]\naction = \"allow\"\n{first}\n[[file]]\naction = \"block\"\n{second}\n");
        let warnings = warnings("block", &rules);
        assert!(warnings.is_empty() || warnings == ["rule `file[2]` is never reached"], "{warnings:?}");
        !warnings.is_empty()
    }

    #[test]
    fn covered_network_rules_are_found() {
        for (first, second, covered) in [
            ("to = [\"10.0.0.0/8\"]", "to = [\"10.1.0.0/16\"]", true),
            ("to = [\"10.0.0.0/8\"]", "to = [\"10.0.0.0/8\"]", true),
            ("to = [\"10.1.0.0/16\"]", "to = [\"10.0.0.0/8\"]", false),
            ("to = [\"10.0.0.0/8\", \"::1\"]", "to = [\"10.1.0.0/16\", \"::1\"]", true),
            ("to = [\"10.0.0.0/8\"]", "to = [\"10.1.0.0/16\", \"::1\"]", false),
            ("ports = [443]", "to = [\"10.0.0.0/8\"]\nports = [443]", true),
            ("ports = [443]", "to = [\"10.0.0.0/8\"]", false),
            ("ports = [\"1-1024\"]", "ports = [80, 443]", true),
            ("ports = [\"1-1024\"]", "ports = [80, 8080]", false),
            ("to = [\"0.0.0.0/0\"]", "ports = [443]", false),
            ("to = [\"0.0.0.0/0\", \"::/0\"]", "ports = [443]", true),
            ("protocols = [\"tcp\"]", "protocols = [\"tcp\"]\nports = [443]", true),
            ("protocols = [\"tcp\"]", "ports = [443]", false),
            ("to = [\"::/0\"]", "to = [\"10.0.0.0/8\"]", false),
        ] {
            assert_eq!(two_network_rules(first, second), covered, "{first} before {second}");
        }
    }

    #[test]
    fn covered_path_rules_are_found() {
        for (first, second, covered) in [
            ("paths = [\"/a/**\"]", "paths = [\"/a/b\"]", true),
            ("paths = [\"/a/**\"]", "paths = [\"/a\"]", false),
            ("paths = [\"/a/**\"]", "paths = [\"/a/**/b\", \"/a/*/c\"]", true),
            ("paths = [\"/**\"]", "paths = [\"**/b\"]", true),
            ("paths = [\"**\"]", "paths = [\"/b\"]", true),
            ("paths = [\"**/b\"]", "paths = [\"/a/b\"]", true),
            ("paths = [\"**/b\"]", "paths = [\"/a/bb\"]", false),
            ("paths = [\"**/b/**\"]", "paths = [\"/b/**\"]", true),
            ("paths = [\"/a/*/**\"]", "paths = [\"/a/*/b\"]", true),
            ("paths = [\"/a/*/**\"]", "paths = [\"/a/b/**\"]", false),
            ("paths = [\"/{a,b}/**\"]", "paths = [\"/a/x\", \"/b/y\"]", true),
            ("paths = [\"/{a,b}/**\"]", "paths = [\"/a/x\", \"/c/y\"]", false),
            ("paths = [\"/a/**\"]\naccess = [\"read\"]", "paths = [\"/a/b\"]", false),
            ("paths = [\"/a/**\"]", "paths = [\"/a/b\"]\naccess = [\"read\"]", true),
        ] {
            assert_eq!(two_file_rules(first, second), covered, "{first} before {second}");
        }
    }

    #[test]
    fn several_rules_together_are_not_claimed_to_cover() {
        let rules = ["/a/**", "/b/**", "/{a,b}/c"]
            .map(|glob| format!("[[exec]]\naction = \"block\"\npaths = [\"{glob}\"]\n"));
        assert_eq!(warnings("block", &rules.concat()), [""; 0]);
    }

    #[test]
    fn one_family_is_told_only_where_the_other_is_open() {
        let block_v4 = "[[network]]\naction = \"block\"\nto = [\"10.0.0.0/8\"]\n";
        let open = "the rules name IPv4 addresses only, and this lets every IPv6 connection pass";
        assert_eq!(warnings("allow", block_v4), [open]);
        assert_eq!(warnings("block", block_v4), [""; 0]);
        assert_eq!(warnings("allow", "[[network]]\naction = \"allow\"\nto = [\"10.0.0.0/8\"]\n"), [""; 0]);
        assert_eq!(warnings("allow", "[[network]]\naction = \"block\"\nports = [25]\n"), [""; 0]);
    }

    #[test]
    fn thousands_of_rules_are_checked_at_once() {
        let rules: String = (0..8_000)
            .map(|i| {
                let (port, high, low) = (i + 1, i / 256, i % 256);
                format!("[[network]]\naction = \"allow\"\nto = [\"10.0.{high}.{low}\"]\nports = [{port}]\n")
                    + &format!("[[file]]\naction = \"block\"\npaths = [\"/srv/{i}/**\"]\n")
            })
            .collect();
        assert_eq!(warnings("block", &rules), [""; 0]);
    }
}
