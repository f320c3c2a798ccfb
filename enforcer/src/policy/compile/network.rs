//! Network rules to the searches of [`enforcer_common::network`].
//!
//! **Ports.** What the rules of one host come to is a step function over the ports of TCP, then those of UDP: up
//! to some port one rule is first, up to the next another. A rule is such a function itself, with nothing outside
//! its ports; and since a rule that comes first has the lesser index, rules together are the least of their
//! functions, port by port.
//!
//! **Addresses.** Prefixes are swept in order with a stack of those that contain the current one. A prefix takes
//! the least of what surrounds it and its own rules. Equal functions are one *class*, which is what an address
//! leads to. IPv4 inherits nothing of the IPv6 prefixes that surround `::ffff:0:0/96`.
//!
//! **Order.** Ports can be searched before the address as well: then each span of ports that the same rules cover
//! leads to a function of addresses. What takes fewer words is laid out.
//!
//! **Rows.** The outcome of the sweep is a step function over whole addresses. For IPv6 it is cut into words: where
//! a step ends within a word, that word leads to a function of the next one.

mod rows;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use enforcer_common::action::Protocol;
use enforcer_common::network::{Entry, KEY_PORT, KEY_V4, port_key};
use enforcer_common::rule::NO_RULE;
use ipnet::IpNet;

use self::rows::Rows;
use super::{CompileError, index};
use crate::policy::model::{NetworkMatch, NetworkRule};

/// Where the searches begin.
pub(super) struct Roots {
    pub(super) v4: Entry,
    pub(super) v6: Entry,
}

/// Compiles the network rules and appends their rows to the policy's words. `entries` are what leads to each rule, the
/// default for what none matches last.
pub(super) fn compile(
    rules: &[NetworkRule],
    entries: &[Entry],
    max_steps: usize,
    words: &mut Vec<u32>,
) -> Result<Roots, CompileError> {
    let default = index(rules.len());
    let mut classes = Classes::new(rules, default, max_steps);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (rule, matches) in rules.iter().map(|rule| &rule.matches).enumerate() {
        for net in matches.networks() {
            let prefix = Prefix::new(net, index(rule));
            if net.addr().is_ipv4() { v4.push(prefix) } else { v6.push(prefix) }
        }
    }
    let v4 = sweep(&mut classes, v4, Prefix::ALL_V4)?;
    let v6 = sweep(&mut classes, v6, Prefix::ALL_V6)?;
    let functions: Vec<Vec<Step<u32, Entry>>> =
        classes.functions.iter().map(|steps| with_entries(steps, entries)).collect();
    let mut rows = Rows::append_to(words);
    let v4 = lay(&mut rows, KEY_V4, &v4, &functions);
    let v6 = lay(&mut rows, 0, &v6, &functions);
    Ok(Roots { v4, v6 })
}

/// Lays out what holds for a family's addresses, whose first word is the key with the number `key`.
fn lay(
    rows: &mut Rows<'_>,
    key: usize,
    classes: &[Step<u128, u32>],
    functions: &[Vec<Step<u32, Entry>>],
) -> Entry {
    let start = rows.len();
    let by_address = address_first(rows, key, classes, functions);
    let end = rows.len();
    // Ends of spans of ports in any class; more than this many make no order in which ports are few.
    let mut ends: Vec<u32> = functions_of(classes, functions).flatten().map(|step| step.last).collect();
    ends.sort_unstable();
    ends.dedup();
    if ends.len().saturating_mul(classes.len()) > MAX_TRANSPOSED {
        return by_address;
    }
    rows.truncate(start);
    let by_port = ports_first(rows, key, classes, functions, &ends);
    if rows.len() <= end {
        return by_port;
    }
    rows.truncate(start);
    address_first(rows, key, classes, functions)
}

/// Steps of all functions together that are tried with ports before addresses: some milliseconds.
const MAX_TRANSPOSED: usize = 1 << 21;

fn functions_of<'f>(
    classes: &[Step<u128, u32>],
    functions: &'f [Vec<Step<u32, Entry>>],
) -> impl Iterator<Item = &'f [Step<u32, Entry>]> {
    let used: BTreeSet<u32> = classes.iter().map(|step| step.is).collect();
    used.into_iter().map(|class| functions.get(class as usize).map(Vec::as_slice).unwrap_or_default())
}

fn address_first(
    rows: &mut Rows<'_>,
    key: usize,
    classes: &[Step<u128, u32>],
    functions: &[Vec<Step<u32, Entry>>],
) -> Entry {
    let mut laid = HashMap::new();
    let mut steps = Vec::with_capacity(classes.len());
    for step in classes {
        let function = functions.get(step.is as usize).map(Vec::as_slice).unwrap_or_default();
        let is = *laid.entry(step.is).or_insert_with(|| rows.function(KEY_PORT, function));
        push(&mut steps, Step { last: step.last, is });
    }
    rows.address(key, &steps)
}

fn ports_first(
    rows: &mut Rows<'_>,
    key: usize,
    classes: &[Step<u128, u32>],
    functions: &[Vec<Step<u32, Entry>>],
    ends: &[u32],
) -> Entry {
    let mut steps = Vec::new();
    // Where each function is: the ends are visited in their order.
    let mut at = vec![0; functions.len()];
    for &last in ends {
        let mut addresses = Vec::new();
        for step in classes {
            let (Some(function), Some(at)) = (functions.get(step.is as usize), at.get_mut(step.is as usize))
            else {
                continue;
            };
            while function.get(*at).is_some_and(|step| step.last < last) {
                *at += 1;
            }
            if let Some(port) = function.get(*at) {
                push(&mut addresses, Step { last: step.last, is: port.is });
            }
        }
        push(&mut steps, Step { last, is: rows.address(key, &addresses) });
    }
    rows.function(KEY_PORT, &steps)
}

/// A step: what holds for all keys after the step before, up to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Step<K, V> {
    last: K,
    is: V,
}

/// A step function: ascending; the last step reaches to the greatest key there is.
type Steps = Vec<Step<u32, u32>>;

/// Appends a step, which is the one before it if they are equal.
fn push<K, V: PartialEq>(steps: &mut Vec<Step<K, V>>, step: Step<K, V>) {
    match steps.last_mut().filter(|before| before.is == step.is) {
        Some(before) => before.last = step.last,
        None => steps.push(step),
    }
}

/// What leads to the rules of a function.
fn with_entries(steps: &Steps, entries: &[Entry]) -> Vec<Step<u32, Entry>> {
    let entry = |rule: u32| entries.get(rule as usize).copied().unwrap_or(Entry::rule(rule, false));
    steps.iter().map(|step| Step { last: step.last, is: entry(step.is) }).collect()
}

/// The least of two functions, key by key.
fn least(a: &Steps, b: &Steps) -> Steps {
    let mut steps = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
        let last = left.last.min(right.last);
        push(&mut steps, Step { last, is: left.is.min(right.is) });
        let (left_ends, right_ends) = (left.last == last, right.last == last);
        a.next_if(|_| left_ends);
        b.next_if(|_| right_ends);
    }
    steps
}

/// The keys of the ports that a rule covers.
fn port_ranges(matches: &NetworkMatch) -> Vec<RangeInclusive<u32>> {
    let mut ranges = Vec::new();
    let named = [(Protocol::Tcp, matches.protocols.tcp), (Protocol::Udp, matches.protocols.udp)];
    for (protocol, _) in named.into_iter().filter(|(_, named)| *named) {
        let mut add = |from: u16, to: u16| ranges.push(port_key(protocol, from)..=port_key(protocol, to));
        if matches.ports.is_empty() {
            add(0, u16::MAX);
        }
        for ports in &matches.ports {
            add(*ports.start(), *ports.end());
        }
    }
    ranges
}

/// The last key of a port there is. What a rule says of it holds for all beyond, so that a rule for all ports is one
/// step.
const LAST_PORT: u32 = port_key(Protocol::Udp, u16::MAX);

/// The function of some rules, with [`NO_RULE`] where none of them covers a port.
fn function(rules: &[NetworkRule], of: &[u32]) -> Steps {
    let mut edges = Vec::new();
    for &number in of {
        let ranges = rules.get(number as usize).map(|rule| port_ranges(&rule.matches)).unwrap_or_default();
        for range in ranges {
            edges.push((*range.start(), true, number));
            edges.push((range.end() + 1, false, number));
        }
    }
    edges.sort_unstable();
    // A rule may name a port twice.
    let mut covering: BTreeSet<(u32, usize)> = BTreeSet::new();
    let mut times: HashMap<u32, usize> = HashMap::new();
    let mut steps = Vec::new();
    let mut edges = edges.into_iter().peekable();
    while let Some(&(at, ..)) = edges.peek() {
        if at > LAST_PORT {
            break;
        }
        if let Some(last) = at.checked_sub(1) {
            push(&mut steps, Step { last, is: covering.first().map_or(NO_RULE, |(rule, _)| *rule) });
        }
        while let Some((_, begins, rule)) = edges.next_if(|(edge, ..)| *edge == at) {
            let times = times.entry(rule).or_default();
            if begins {
                covering.insert((rule, *times));
                *times += 1;
            } else {
                *times -= 1;
                covering.remove(&(rule, *times));
            }
        }
    }
    push(&mut steps, Step { last: u32::MAX, is: covering.first().map_or(NO_RULE, |(rule, _)| *rule) });
    steps
}

/// A prefix with a rule that names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    first: u128,
    /// So that of two prefixes that begin together the wider one comes first.
    last: std::cmp::Reverse<u128>,
    rule: u32,
}

impl Prefix {
    const ALL_V4: Self = Self { first: 0, last: std::cmp::Reverse(u32::MAX as u128), rule: 0 };
    const ALL_V6: Self = Self { first: 0, last: std::cmp::Reverse(u128::MAX), rule: 0 };

    fn new(net: IpNet, rule: u32) -> Self {
        let number = |address| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        };
        Self { first: number(net.network()), last: std::cmp::Reverse(number(net.broadcast())), rule }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.first, self.last) == (other.first, other.last)
    }
}

/// The classes of a family's addresses, as a step function.
fn sweep(
    classes: &mut Classes<'_>,
    mut prefixes: Vec<Prefix>,
    all: Prefix,
) -> Result<Vec<Step<u128, u32>>, CompileError> {
    prefixes.sort_unstable();
    let mut groups = prefixes.chunk_by(Prefix::is_same).peekable();
    let own = groups.next_if(|group| group.first().is_some_and(|first| first.is_same(&all)));
    let class = classes.within(NOWHERE, own.unwrap_or_default())?;
    let mut around = vec![(all.last.0, class)];
    let mut steps: Vec<Step<u128, u32>> = Vec::new();
    let end = |steps: &mut Vec<Step<u128, u32>>, last: u128, class: u32| {
        // What lies within may end where it does itself.
        if steps.last().is_none_or(|before| before.last < last) {
            push(steps, Step { last, is: class });
        }
    };
    for group in groups {
        let Some(&prefix) = group.first() else { continue };
        while let Some((last, class)) = around.pop_if(|(last, _)| *last < prefix.first) {
            end(&mut steps, last, class);
        }
        let outer = around.last().map_or(class, |(_, class)| *class);
        if let Some(last) = prefix.first.checked_sub(1) {
            end(&mut steps, last, outer);
        }
        around.push((prefix.last.0, classes.within(outer, group)?));
    }
    while let Some((last, class)) = around.pop() {
        end(&mut steps, last, class);
    }
    Ok(steps)
}

/// The class of an address that no rule names.
const NOWHERE: u32 = 0;

/// The address classes, numbered as they are found.
struct Classes<'c> {
    rules: &'c [NetworkRule],
    default: u32,
    functions: Vec<Steps>,
    by_function: HashMap<Steps, u32>,
    by_parts: HashMap<(u32, Vec<u32>), u32>,
    steps: usize,
    max_steps: usize,
}

impl<'c> Classes<'c> {
    fn new(rules: &'c [NetworkRule], default: u32, max_steps: usize) -> Self {
        let nothing = vec![Step { last: u32::MAX, is: default }];
        Self {
            rules,
            default,
            by_function: HashMap::from([(nothing.clone(), NOWHERE)]),
            functions: vec![nothing],
            by_parts: HashMap::new(),
            steps: 1,
            max_steps,
        }
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
        let own = function(self.rules, &key.1);
        let steps = self.functions.get(outer as usize).map(|outer| least(outer, &own)).unwrap_or(own);
        let class = match self.by_function.get(&steps) {
            Some(&class) => class,
            None => self.add(steps)?,
        };
        self.by_parts.insert(key, class);
        Ok(class)
    }

    fn add(&mut self, steps: Steps) -> Result<u32, CompileError> {
        self.steps += steps.len();
        if self.steps > self.max_steps {
            return Err(self.too_many_steps(&steps));
        }
        let class = index(self.functions.len());
        self.by_function.insert(steps.clone(), class);
        self.functions.push(steps);
        Ok(class)
    }

    fn too_many_steps(&self, last: &Steps) -> CompileError {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for step in self.functions.iter().flatten().chain(last) {
            *counts.entry(step.is).or_default() += 1;
        }
        counts.remove(&self.default);
        let most = counts.into_iter().max_by_key(|&(rule, count)| (count, std::cmp::Reverse(rule)));
        let rule = most.and_then(|(rule, _)| self.rules.get(rule as usize));
        CompileError::TooManyPorts {
            rule: rule.map(|rule| rule.name.clone()).unwrap_or_default(),
            line: rule.map_or(1, |rule| rule.line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tables::Chunks;
    use crate::policy::{PolicySource, parse};
    use enforcer_common::action::Endpoint;
    use enforcer_common::address::Address;
    use enforcer_common::network::{keys, search};
    use enforcer_common::words::ROW_WORDS;

    fn rules(text: &str) -> Vec<NetworkRule> {
        let head = "version = 1\nname = \"p\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";
        parse(PolicySource::new("p.toml", format!("{head}{text}"))).0.unwrap().network
    }

    fn rule(matches: &str) -> String {
        format!("[[network]]\naction = \"allow\"\n{matches}\n")
    }

    fn entries(rules: &[NetworkRule]) -> Vec<Entry> {
        (0..=index(rules.len())).map(|rule| Entry::rule(rule, false)).collect()
    }

    /// Compiled rules.
    struct Compiled {
        roots: Roots,
        words: Vec<u32>,
        rows: usize,
    }

    impl Compiled {
        fn new(text: &str) -> Self {
            let rules = rules(text);
            let mut words = Vec::new();
            let roots = compile(&rules, &entries(&rules), usize::MAX, &mut words).unwrap();
            let rows = words.len() / ROW_WORDS;
            super::super::pad(&mut words);
            Self { roots, words, rows }
        }

        /// Which order the search for an IPv4 endpoint takes.
        fn ports_first(&self) -> bool {
            self.roots.v4.searches(KEY_PORT)
        }

        /// The rule of a TCP endpoint.
        fn tcp(&self, address: &str, port: u16) -> u32 {
            let address = Address::from(address.parse::<IpAddr>().unwrap());
            let endpoint = Endpoint { address, port, protocol: Protocol::Tcp };
            let root = if address.is_v4() { self.roots.v4 } else { self.roots.v6 };
            search(&Chunks(&self.words), root, &keys(&endpoint)).unwrap().index().unwrap()
        }
    }

    #[test]
    fn without_rules_the_roots_are_the_default() {
        let compiled = Compiled::new("");
        assert_eq!((compiled.roots.v4, compiled.roots.v6), (Entry::rule(0, false), Entry::rule(0, false)));
        assert_eq!(compiled.rows, 0);
    }

    #[test]
    fn prefixes_inherit_what_surrounds_them_and_families_do_not() {
        let text = [
            rule("to = [\"10.1.0.0/16\"]\nports = [80]"),
            rule("to = [\"10.0.0.0/8\"]"),
            rule("to = [\"10.1.2.0/24\"]"),
            rule("to = [\"::/64\"]"),
        ];
        let compiled = Compiled::new(&text.concat());
        for (address, port, rule) in [
            ("9.255.255.255", 80, 4),
            ("10.0.0.0", 80, 1),
            ("10.0.255.255", 80, 1),
            ("10.1.0.0", 80, 0),
            ("10.1.0.0", 81, 1),
            ("10.1.2.3", 80, 0),
            ("10.1.2.3", 81, 1),
            ("10.1.255.255", 80, 0),
            ("10.2.0.0", 80, 1),
            ("10.255.255.255", 80, 1),
            ("11.0.0.0", 80, 4),
            ("::2", 80, 3),
            ("0:0:0:1::", 80, 4),
        ] {
            assert_eq!(compiled.tcp(address, port), rule, "{address} {port}");
        }
    }

    #[test]
    fn both_ends_of_prefixes_of_every_length_are_found() {
        for bits in 0..=128 {
            let net: IpNet = format!("2001:db8:aaaa:5555:aaaa:5555:aaaa:5555/{bits}").parse().unwrap();
            let net = net.trunc();
            let compiled = Compiled::new(&rule(&format!("to = [\"{net}\"]")));
            assert_eq!(compiled.tcp(&net.network().to_string(), 1), 0, "{bits}");
            assert_eq!(compiled.tcp(&net.broadcast().to_string(), 1), 0, "{bits}");
            let (IpAddr::V6(first), IpAddr::V6(last)) = (net.network(), net.broadcast()) else { panic!() };
            for outside in [u128::from(first).checked_sub(1), u128::from(last).checked_add(1)] {
                let Some(outside) = outside else { continue };
                let outside = std::net::Ipv6Addr::from(outside).to_string();
                assert_eq!(compiled.tcp(&outside, 1), 1, "{bits} {outside}");
            }
        }
    }

    #[test]
    fn what_lies_within_one_word_or_ends_with_it_is_told_apart() {
        let to =
            ["::1:2", "::1:3", "::2:0/112", "0:0:0:ffff:ffff:ffff:ffff:ffff", "0:0:1::/48", "0:0:1:5::/64"];
        let text: String = to.iter().map(|to| rule(&format!("to = [\"{to}\"]"))).collect();
        let compiled = Compiled::new(&text);
        for (address, rule) in [
            ("::1:1", 6),
            ("::1:2", 0),
            ("::1:3", 1),
            ("::1:4", 6),
            ("::2:ffff", 2),
            ("::3:0", 6),
            ("0:0:0:ffff:ffff:ffff:ffff:fffe", 6),
            ("0:0:0:ffff:ffff:ffff:ffff:ffff", 3),
            ("0:0:1::", 4),
            ("0:0:1:5::", 4),
            ("0:0:1:ffff:ffff:ffff:ffff:ffff", 4),
            ("0:0:2::", 6),
        ] {
            assert_eq!(compiled.tcp(address, 1), rule, "{address}");
        }
    }

    #[test]
    fn many_prefixes_of_one_rule_share_its_ports() {
        let to: Vec<_> = (0..200).map(|i| format!("\"10.0.{i}.0/25\"")).collect();
        let compiled = Compiled::new(&rule(&format!("to = [{}]\nports = [443]", to.join(", "))));
        // Its ports are one row; the prefixes are 400 steps and what follows, in leaves of eight under four inner rows
        // and a root.
        assert_eq!(compiled.rows, 1 + 401_usize.div_ceil(8) + 4 + 1);
        assert!(compiled.ports_first());
        assert_eq!((compiled.tcp("10.0.7.1", 443), compiled.tcp("10.0.7.1", 444)), (0, 1));
        assert_eq!(compiled.tcp("10.0.7.128", 443), 1);
    }

    #[test]
    fn every_one_of_many_addresses_has_its_rule() {
        let address = |i: u32| std::net::Ipv4Addr::from(0x0a00_0000 + 7 * i);
        let text: String =
            (0..3000).map(|i| rule(&format!("to = [\"{}\"]\nports = [{}]", address(i), i + 1))).collect();
        let compiled = Compiled::new(&text);
        assert!(!compiled.ports_first());
        for i in 0..3000 {
            let port = u16::try_from(i + 1).unwrap();
            let found = [port - 1, port, port + 1].map(|port| compiled.tcp(&address(i).to_string(), port));
            assert_eq!(found, [3000, i, 3000]);
        }
    }

    #[test]
    fn rules_that_come_too_late_make_no_steps() {
        let text = rule("to = [\"10.0.0.0/8\"]")
            + &rule("ports = [80]")
            + &rule("to = [\"10.0.0.0/8\"]\nports = [81]");
        let compiled = Compiled::new(&text);
        // One row of ports, which both families share, and one of addresses.
        assert_eq!(compiled.rows, 2);
        assert_eq!([80, 81].map(|port| compiled.tcp("10.0.0.1", port)), [0, 0]);
        assert_eq!([80, 81].map(|port| compiled.tcp("11.0.0.1", port)), [1, 3]);
    }

    #[test]
    fn a_port_that_is_named_twice_is_covered_to_its_end() {
        let compiled = Compiled::new(&rule("ports = [\"80-90\", \"85-95\", 85]"));
        assert_eq!(
            [79, 80, 85, 86, 90, 95, 96].map(|port| compiled.tcp("10.0.0.1", port)),
            [1, 0, 0, 0, 0, 0, 1]
        );
    }

    #[test]
    fn the_least_of_two_functions_is_so_at_every_key() {
        let step = |last, is| Step { last, is };
        let a = vec![step(4, 9), step(6, 1), step(u32::MAX, 5)];
        let b = vec![step(2, 3), step(5, 9), step(8, 5), step(u32::MAX, 7)];
        assert_eq!(least(&a, &b), [step(2, 3), step(4, 9), step(6, 1), step(u32::MAX, 5)]);
    }

    #[test]
    fn steps_over_the_limit_name_the_rule_with_the_most() {
        let text = "[[network]]\nname = \"wide\"\naction = \"allow\"\nports = [22]\n".to_owned()
            + &(0..20)
                .map(|i| rule(&format!("to = [\"10.0.0.{i}\"]\nports = [{}]", i + 100)))
                .collect::<String>();
        let rules = rules(&text);
        let error = compile(&rules, &entries(&rules), 60, &mut Vec::new()).err().unwrap();
        assert_eq!(error, CompileError::TooManyPorts { rule: "wide".to_owned(), line: 7 });
    }
}
