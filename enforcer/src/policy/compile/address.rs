//! Network rules to address classes, port classes and their pairs.
//!
//! **Ports.** The rules that do not cover every port cut the ports of TCP and UDP, laid one after the other,
//! into spans that the same rules cover. Spans with equal sets of rules are one port class; the set is known
//! by a hash that a sweep over the cuts keeps up, so that sets are never written out.
//!
//! **Addresses.** Prefixes are swept in order with a stack of those that contain the current one. A prefix adds
//! its own rules to what is left of the surrounding class: rules that are first for some port. A class is the
//! outcome: the first rule for every port (`base`), and the rule of each port class that has an earlier one.
//! To find it, the class's rules paint their spans in rule order, each only what is bare, with a union-find
//! that jumps over what is painted. So what a class costs is what it says, not how many rules it has.
//!
//! Both families are one trie, IPv4 below `::ffff:0:0/96`, but IPv4 inherits nothing of the IPv6 prefixes that
//! surround it there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use enforcer_common::action::Protocol;
use enforcer_common::address::Address;
use enforcer_common::class::{AddressClass, PORT_CLASS_ANY, PairKey, PortKey};
use ipnet::IpNet;

use super::{CompileError, index};
use crate::policy::model::{NetworkMatch, NetworkRule, Protocols};

/// The tables of the network rules.
pub(super) struct Network {
    pub(super) addresses: Vec<(u32, [u8; 16], AddressClass)>,
    pub(super) ports: Vec<(u32, PortKey, u32)>,
    pub(super) pairs: Vec<(PairKey, u32)>,
}

/// Compiles the network rules; `default` is the index of the rule for what none matches.
pub(super) fn compile(
    rules: &[NetworkRule],
    default: u32,
    max_pairs: usize,
) -> Result<Network, CompileError> {
    let ports = Ports::new(rules);
    let mut classes = Classes::new(rules, &ports, default, max_pairs);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (rule, matches) in rules.iter().map(|rule| &rule.matches).enumerate() {
        for net in matches.networks() {
            let prefix = Prefix::new(net, index(rule));
            if net.addr().is_ipv4() { v4.push(prefix) } else { v6.push(prefix) }
        }
    }
    let mut addresses = Vec::new();
    sweep(&mut classes, v6, Prefix::root(0), &mut addresses)?;
    sweep(&mut classes, v4, Prefix::root(Address::V4_PREFIX_BITS), &mut addresses)?;
    Ok(Network { addresses, ports: ports.trie(), pairs: classes.pairs })
}

/// Ports of both protocols in one row.
const PORTS: u32 = 1 << 16;
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Whether a rule covers every port of TCP and of UDP.
fn covers_all_ports(matches: &NetworkMatch) -> bool {
    matches.ports.is_empty() && matches.protocols == Protocols::ALL
}

/// The parts of the row of ports that a rule covers.
fn port_ranges(matches: &NetworkMatch) -> Vec<Range<u32>> {
    let mut ranges = Vec::new();
    for (protocol, named) in [matches.protocols.tcp, matches.protocols.udp].into_iter().enumerate() {
        let base = index(protocol) * PORTS;
        if named && matches.ports.is_empty() {
            ranges.push(base..base + PORTS);
        } else if named {
            let on_row = |port: u16| base + u32::from(port);
            ranges.extend(matches.ports.iter().map(|range| on_row(*range.start())..on_row(*range.end()) + 1));
        }
    }
    ranges
}

/// The row of ports, cut where a rule begins or ends.
struct Ports {
    /// The first port of each span, and the end of the row.
    cuts: Vec<u32>,
    /// The class of each span.
    classes: Vec<u32>,
    /// The spans that each rule covers, empty for a rule for every port.
    rules: Vec<Vec<Range<usize>>>,
}

impl Ports {
    fn new(rules: &[NetworkRule]) -> Self {
        let ranges: Vec<_> = rules
            .iter()
            .map(|rule| if covers_all_ports(&rule.matches) { Vec::new() } else { port_ranges(&rule.matches) })
            .collect();
        let mut cuts = vec![0, PORTS, 2 * PORTS];
        cuts.extend(ranges.iter().flatten().flat_map(|range| [range.start, range.end]));
        cuts.sort_unstable();
        cuts.dedup();
        let span_at = |port: u32| cuts.partition_point(|&cut| cut < port);
        let rules: Vec<Vec<_>> = ranges
            .iter()
            .map(|ranges| ranges.iter().map(|range| span_at(range.start)..span_at(range.end)).collect())
            .collect();
        let classes = span_classes(&rules, cuts.len() - 1);
        Self { cuts, classes, rules }
    }

    fn spans(&self) -> usize {
        self.classes.len()
    }

    /// The prefixes of the trie. Ports of [`PORT_CLASS_ANY`] are not in it.
    fn trie(&self) -> Vec<(u32, PortKey, u32)> {
        let mut trie = Vec::new();
        for (&class, cuts) in self.classes.iter().zip(self.cuts.windows(2)) {
            let &[start, end] = cuts else { continue };
            if class == PORT_CLASS_ANY {
                continue;
            }
            let Some(&protocol) = PROTOCOLS.get((start / PORTS) as usize) else { continue };
            for (port, bits) in aligned_blocks(start % PORTS, end - start) {
                trie.push((PortKey::PORT_AT_BITS + bits, PortKey::new(protocol, port), class));
            }
        }
        trie
    }
}

/// A span of ports as blocks that are prefixes: the first port of each, and the bits that are fixed.
fn aligned_blocks(start: u32, len: u32) -> impl Iterator<Item = (u16, u32)> {
    let end = start + len;
    let mut at = start;
    std::iter::from_fn(move || {
        let port = u16::try_from(at).ok().filter(|_| at < end)?;
        let free = at.trailing_zeros().min((end - at).ilog2()).min(PORTS.ilog2());
        at += 1 << free;
        Some((port, PORTS.ilog2() - free))
    })
}

/// Numbers the sets of rules that cover the spans.
fn span_classes(rules: &[Vec<Range<usize>>], spans: usize) -> Vec<u32> {
    // Each rule toggles its own random number at both ends of its ranges, so that the sum at a span is that of
    // the rules that cover it. At 128 bits two different sets do not meet.
    let mut toggles = vec![0_u128; spans + 1];
    for (rule, ranges) in rules.iter().enumerate() {
        for edge in ranges.iter().flat_map(|range| [range.start, range.end]) {
            if let Some(toggle) = toggles.get_mut(edge) {
                *toggle ^= random_of(rule as u64);
            }
        }
    }
    let mut numbers = HashMap::from([(0, PORT_CLASS_ANY)]);
    let mut set = 0;
    toggles
        .iter()
        .take(spans)
        .map(|toggle| {
            set ^= toggle;
            let next = index(numbers.len());
            *numbers.entry(set).or_insert(next)
        })
        .collect()
}

/// A number that looks random (splitmix64, twice).
fn random_of(seed: u64) -> u128 {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    u128::from(mix(2 * seed)) << 64 | u128::from(mix(2 * seed + 1))
}

/// A prefix of the trie with a rule that names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    address: u128,
    bits: u32,
    rule: u32,
}

impl Prefix {
    /// `::`, or `::ffff:0:0` for the bits of the prefix of IPv4.
    fn root(bits: u32) -> Self {
        let address = if bits == 0 { 0 } else { 0xffff_0000_0000 };
        Self { address, bits, rule: 0 }
    }

    fn new(net: IpNet, rule: u32) -> Self {
        match net.addr() {
            IpAddr::V4(address) => Self {
                address: u128::from(address.to_ipv6_mapped()),
                bits: u32::from(net.prefix_len()) + Address::V4_PREFIX_BITS,
                rule,
            },
            IpAddr::V6(address) => {
                Self { address: u128::from(address), bits: u32::from(net.prefix_len()), rule }
            }
        }
    }

    fn covers(self, other: Self) -> bool {
        let differ = self.address ^ other.address;
        self.bits <= other.bits && (self.bits == 0 || differ >> (128 - self.bits) == 0)
    }
}

/// Adds a family's prefixes to the trie: its root, and each prefix whose class is not that of what surrounds it.
fn sweep(
    classes: &mut Classes<'_>,
    mut prefixes: Vec<Prefix>,
    root: Prefix,
    trie: &mut Vec<(u32, [u8; 16], AddressClass)>,
) -> Result<(), CompileError> {
    prefixes.sort_unstable();
    let same = |a: &Prefix, b: &Prefix| (a.address, a.bits) == (b.address, b.bits);
    let mut groups = prefixes.chunk_by(same).peekable();
    let own = groups.next_if(|group| group.first().is_some_and(|first| same(first, &root)));
    let class = classes.within(NOWHERE, own.unwrap_or_default())?;
    trie.push((root.bits, root.address.to_be_bytes(), classes.entry(class)));

    let mut around = vec![(root, class)];
    for group in groups {
        let Some(&prefix) = group.first() else { continue };
        while around.last().is_some_and(|(outer, _)| !outer.covers(prefix)) {
            around.pop();
        }
        let outer = around.last().map_or(class, |(_, class)| *class);
        let inner = classes.within(outer, group)?;
        if inner != outer {
            trie.push((prefix.bits, prefix.address.to_be_bytes(), classes.entry(inner)));
        }
        around.push((prefix, inner));
    }
    Ok(())
}

/// The class of an address that no rule names.
const NOWHERE: u32 = 0;

/// What the rules of a class come to: equal outcomes are one class.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Outcome {
    /// The first rule for every port, or the default.
    base: u32,
    /// Port classes with their first rule, where that comes before `base`; by rule, then by class.
    painted: Vec<(u32, u32)>,
}

/// The address classes, numbered as they are found.
struct Classes<'c> {
    rules: &'c [NetworkRule],
    ports: &'c Ports,
    outcomes: Vec<Outcome>,
    by_outcome: HashMap<Outcome, u32>,
    by_parts: HashMap<(u32, Vec<u32>), u32>,
    pairs: Vec<(PairKey, u32)>,
    max_pairs: usize,
    paint: Paint,
}

impl<'c> Classes<'c> {
    fn new(rules: &'c [NetworkRule], ports: &'c Ports, default: u32, max_pairs: usize) -> Self {
        let nothing = Outcome { base: default, painted: Vec::new() };
        Self {
            rules,
            ports,
            by_outcome: HashMap::from([(nothing.clone(), NOWHERE)]),
            outcomes: vec![nothing],
            by_parts: HashMap::new(),
            pairs: Vec::new(),
            max_pairs,
            paint: Paint::new(ports),
        }
    }

    fn entry(&self, class: u32) -> AddressClass {
        let base = self.outcomes.get(class as usize).map_or(0, |outcome| outcome.base);
        AddressClass { id: class, base }
    }

    /// The class of a prefix within another: its own rules, of which there is one entry each, and the outer
    /// ones.
    fn within(&mut self, outer: u32, own: &[Prefix]) -> Result<u32, CompileError> {
        let mut own: Vec<u32> = own.iter().map(|prefix| prefix.rule).collect();
        own.dedup();
        if own.is_empty() {
            return Ok(outer);
        }
        let key = (outer, own);
        if let Some(&class) = self.by_parts.get(&key) {
            return Ok(class);
        }
        let outcome = self.outcome(outer, &key.1);
        let class = match self.by_outcome.get(&outcome) {
            Some(&class) => class,
            None => self.add(outcome)?,
        };
        self.by_parts.insert(key, class);
        Ok(class)
    }

    fn add(&mut self, outcome: Outcome) -> Result<u32, CompileError> {
        if self.pairs.len() + outcome.painted.len() > self.max_pairs {
            return Err(self.too_many_pairs(&outcome));
        }
        let class = index(self.outcomes.len());
        self.pairs
            .extend(outcome.painted.iter().map(|&(rule, port)| (PairKey { address: class, port }, rule)));
        self.by_outcome.insert(outcome.clone(), class);
        self.outcomes.push(outcome);
        Ok(class)
    }

    /// What the rules of a class come to: the outer class's, of which only those matter that are first for
    /// some port, and its own.
    fn outcome(&mut self, outer: u32, own: &[u32]) -> Outcome {
        let empty = Outcome { base: u32::MAX, painted: Vec::new() };
        let outer = self.outcomes.get(outer as usize).unwrap_or(&empty);
        let is_base =
            |rule: &&u32| self.rules.get(**rule as usize).is_some_and(|rule| covers_all_ports(&rule.matches));
        let base = own.iter().find(is_base).copied().unwrap_or(u32::MAX).min(outer.base);
        let mut rules: Vec<u32> = outer.painted.iter().map(|(rule, _)| *rule).collect();
        rules.dedup();
        rules.extend(own);
        rules.sort_unstable();
        rules.retain(|rule| *rule < base);
        self.paint.start();
        let mut painted = Vec::new();
        for rule in rules {
            self.paint.rule(rule, self.ports, &mut painted);
        }
        Outcome { base, painted }
    }

    fn too_many_pairs(&self, last: &Outcome) -> CompileError {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let so_far = self.pairs.iter().map(|(_, rule)| *rule);
        for rule in so_far.chain(last.painted.iter().map(|(rule, _)| *rule)) {
            *counts.entry(rule).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|&(rule, count)| (count, std::cmp::Reverse(rule)));
        let rule = most.and_then(|(rule, _)| self.rules.get(rule as usize));
        CompileError::TooManyPairs {
            rule: rule.map(|rule| rule.name.clone()).unwrap_or_default(),
            line: rule.map_or(1, |rule| rule.line),
        }
    }
}

/// The spans of ports while the rules of one class paint them.
struct Paint {
    /// The next bare span at or after each, where its stamp is the current one; else the span itself.
    next: Vec<usize>,
    stamps: Vec<u32>,
    /// The stamp of the classes that were painted.
    classes: Vec<u32>,
    stamp: u32,
}

impl Paint {
    fn new(ports: &Ports) -> Self {
        let spans = ports.spans();
        let classes = ports.classes.iter().max().map_or(0, |most| *most as usize) + 1;
        Self { next: vec![0; spans + 1], stamps: vec![0; spans + 1], classes: vec![0; classes], stamp: 0 }
    }

    /// Makes all spans bare.
    fn start(&mut self) {
        self.stamp += 1;
    }

    fn bare(&mut self, from: usize) -> usize {
        let mut span = from;
        while let Some(next) = self.jump(span).filter(|next| *next != span) {
            span = next;
        }
        // Shorten the way for the next time.
        let mut at = from;
        while let Some(next) = self.jump(at).filter(|next| *next != at) {
            self.set(at, span);
            at = next;
        }
        span
    }

    fn jump(&self, span: usize) -> Option<usize> {
        let stamped = *self.stamps.get(span)? == self.stamp;
        if stamped { self.next.get(span).copied() } else { Some(span) }
    }

    fn set(&mut self, span: usize, next: usize) {
        if let (Some(slot), Some(stamp)) = (self.next.get_mut(span), self.stamps.get_mut(span)) {
            *slot = next;
            *stamp = self.stamp;
        }
    }

    /// Paints what a rule covers and is bare; adds the port classes that get the rule.
    fn rule(&mut self, rule: u32, ports: &Ports, painted: &mut Vec<(u32, u32)>) {
        let first = painted.len();
        for range in ports.rules.get(rule as usize).into_iter().flatten() {
            let mut span = self.bare(range.start);
            while span < range.end {
                self.set(span, span + 1);
                if let Some(&class) = ports.classes.get(span)
                    && let Some(stamp) = self.classes.get_mut(class as usize)
                    && *stamp != self.stamp
                {
                    *stamp = self.stamp;
                    painted.push((rule, class));
                }
                span = self.bare(span + 1);
            }
        }
        if let Some(new) = painted.get_mut(first..) {
            new.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicySource, parse};

    fn rules(text: &str) -> Vec<NetworkRule> {
        let head = "version = 1\nname = \"p\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";
        parse(PolicySource::new("p.toml", format!("{head}{text}"))).0.unwrap().network
    }

    fn rule(matches: &str) -> String {
        format!("[[network]]\naction = \"allow\"\n{matches}\n")
    }

    fn compiled(text: &str) -> Network {
        let rules = rules(text);
        compile(&rules, index(rules.len()), usize::MAX).unwrap()
    }

    /// `bits address base` of each prefix.
    fn trie(network: &Network) -> Vec<String> {
        let shown = |address: [u8; 16]| std::net::Ipv6Addr::from(address).to_canonical();
        network
            .addresses
            .iter()
            .map(|(bits, key, class)| format!("{}/{bits} {}", shown(*key), class.base))
            .collect()
    }

    #[test]
    fn without_rules_there_are_the_two_roots() {
        let network = compiled("");
        assert_eq!(trie(&network), ["::/0 0", "0.0.0.0/96 0"]);
        assert!(network.ports.is_empty() && network.pairs.is_empty());
    }

    #[test]
    fn prefixes_inherit_what_surrounds_them_and_families_do_not() {
        let text = [
            rule("to = [\"10.1.0.0/16\"]"),
            rule("to = [\"10.0.0.0/8\"]"),
            rule("to = [\"10.1.2.0/24\"]"),
            rule("to = [\"::/64\"]"),
        ];
        // The third is within the first, which comes before it, so it makes no entry.
        let expected = ["::/0 4", "::/64 3", "0.0.0.0/96 4", "10.0.0.0/104 1", "10.1.0.0/112 0"];
        assert_eq!(trie(&compiled(&text.concat())), expected);
    }

    #[test]
    fn many_prefixes_of_one_rule_are_one_class() {
        let to: Vec<_> = (0..200).map(|i| format!("\"10.0.{i}.0/25\"")).collect();
        let network = compiled(&rule(&format!("to = [{}]\nports = [443]", to.join(", "))));
        let mut classes: Vec<_> = network.addresses.iter().map(|(_, _, class)| class.id).collect();
        classes.dedup();
        assert_eq!(classes, [NOWHERE, 1]);
        assert_eq!(network.pairs.len(), 1);
    }

    #[test]
    fn an_address_and_a_port_each_are_as_many_pairs() {
        let text: String = (0..300)
            .map(|i| rule(&format!("to = [\"10.0.{}.{}\"]\nports = [{}]", i / 250, i % 250, i + 1)))
            .collect();
        let network = compiled(&text);
        assert_eq!(network.pairs.len(), 300);
        assert_eq!(network.ports.len(), 600);
    }

    #[test]
    fn rules_that_come_too_late_make_no_pairs() {
        let text = rule("to = [\"10.0.0.0/8\"]")
            + &rule("ports = [80]")
            + &rule("to = [\"10.0.0.0/8\"]\nports = [81]");
        let network = compiled(&text);
        // The rule on port 80 holds at the two roots, which are one class; below 10.0.0.0/8 the first rule is
        // for every port.
        assert_eq!(trie(&network), ["::/0 3", "0.0.0.0/96 3", "10.0.0.0/104 0"]);
        assert_eq!(network.pairs.len(), 1);
    }

    #[test]
    fn spans_of_ports_become_aligned_blocks() {
        for (start, end) in [(0, 65_536), (1, 65_536), (80, 81), (1, 1024), (8000, 8101), (65_535, 65_536)] {
            let mut at = start;
            for (port, bits) in aligned_blocks(start, end - start) {
                let len = 1 << (16 - bits);
                assert_eq!(u32::from(port), at, "{start}..{end}");
                assert_eq!(at % len, 0, "{start}..{end}");
                at += len;
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn pairs_over_the_limit_name_the_rule_with_the_most() {
        let text = "[[network]]\nname = \"wide\"\naction = \"allow\"\nports = [22]\n".to_owned()
            + &(0..20)
                .map(|i| rule(&format!("to = [\"10.0.0.{i}\"]\nports = [{}]", i + 100)))
                .collect::<String>();
        let rules = rules(&text);
        let error = compile(&rules, index(rules.len()), 30).err().unwrap();
        assert_eq!(error, CompileError::TooManyPairs { rule: "wide".to_owned(), line: 7 });
    }
}
