//! Policies of any number of rules, the same in every run.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::random::Random;

/// A policy on the network, and addresses that its rules allow.
pub(crate) struct Network {
    /// Its text.
    pub(crate) text: String,
    /// Addresses at random, each within a prefix of a rule.
    pub(crate) allowed: Vec<Ipv4Addr>,
}

/// How many addresses are drawn; more than there are rules in most policies.
pub(crate) const ADDRESSES: usize = 16_384;

/// Prefixes are of 20 to 32 bits.
const SHORTEST: u32 = 20;

fn head(network: &str, files: &str) -> String {
    format!(
        "version = 1\nname = \"bench\"\n[default]\nnetwork = \"{network}\"\nfiles = \"{files}\"\nexec = \"allow\"\n"
    )
}

/// Rules that each allow one port on some prefixes of the loopback network, drawn at random.
pub(crate) fn network(rules: usize, prefixes_each: usize, port: u16) -> Network {
    let mut random = Random::new(rules as u64);
    let mut drawn = BTreeSet::new();
    let mut prefixes = Vec::new();
    while prefixes.len() < rules * prefixes_each {
        let bits = SHORTEST + random.below(33 - SHORTEST);
        let mask = u32::MAX << (32 - bits);
        let address = (127 << 24 | random.word() >> 8) & mask;
        // The kernel does not connect to what ends a network of the loopback interface.
        if address != 127 << 24 && drawn.insert((address, bits)) {
            prefixes.push((address, bits, mask));
        }
    }
    let mut text = head("block", "allow");
    for (number, own) in prefixes.chunks(prefixes_each).enumerate() {
        let to: Vec<_> =
            own.iter().map(|(address, bits, _)| format!("\"{}/{bits}\"", Ipv4Addr::from(*address))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "[[network]]\nname = \"r{number}\"\naction = \"allow\"\nto = [{}]\nports = [{port}]",
            to.join(", ")
        );
    }
    let count = prefixes.len() as u32;
    let mut address = || {
        let (address, _, mask) = prefixes.get(random.below(count) as usize)?;
        Some(Ipv4Addr::from(address | random.word() & !mask))
    };
    Network { text, allowed: std::iter::from_fn(&mut address).take(ADDRESSES).collect() }
}

/// Which globs a policy on files has.
#[derive(Clone, Copy)]
pub(crate) enum Globs {
    /// All begin with fixed folders: one automaton.
    Fixed,
    /// Of every kind: six of ten begin with fixed folders, two have a wildcard in between, one names the end of a
    /// path, one a folder anywhere.
    Mixed,
}

/// Rules of one glob each that allow reading; the last, and it alone, covers what is measured. Nothing else can be
/// read.
pub(crate) fn files(rules: usize, globs: Globs, measured: &str) -> String {
    let mut random = Random::new(rules as u64);
    let mut text = head("allow", "block");
    for number in 0..rules {
        let kind = match globs {
            Globs::Fixed => 0,
            Globs::Mixed => number % 10,
        };
        let drawn = random.word();
        let path = match kind {
            _ if number + 1 == rules => measured.to_owned(),
            0..6 => format!("/srv/{drawn:08x}/data/**"),
            6 | 7 => format!("/srv/*/{drawn:08x}/**"),
            8 => format!("**/{drawn:08x}.txt"),
            _ => format!("**/{drawn:08x}/**"),
        };
        let _ = writeln!(
            text,
            "[[file]]\nname = \"r{number}\"\naction = \"allow\"\npaths = [\"{path}\"]\naccess = [\"read\"]"
        );
    }
    text
}
