//! The engine over compiled tables decides as the oracle does: random policies, and actions close to what
//! their rules name.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::IpAddr;

use enforcer::policy::{Look, MemoryTables, Policy, PolicySource, compile, parse};
use enforcer_common::action::{Access, Endpoint, Protocol};
use enforcer_common::verdict::Decision;
use enforcer_tests::oracle::{Oracle, Ruling};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

const NETS: [&str; 24] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.2/31",
    "10.1.2.3",
    "10.128.0.0/9",
    "127.0.0.0/8",
    "127.0.0.1",
    "255.255.255.255",
    "::/0",
    "::/1",
    "::/64",
    "::/96",
    "::fffe:0:0/95",
    "::1",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::1",
    "2001:db8:1::/127",
    "fe80::/10",
    "8000::/1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const PORTS: [&str; 12] = [
    "1",
    "2",
    "80",
    "443",
    "65535",
    "\"79-81\"",
    "\"1-1023\"",
    "\"1024-65535\"",
    "\"1-65535\"",
    "\"2-3\"",
    "\"440-450\"",
    "\"4-7\"",
];
const NEAR_PORTS: [u16; 16] = [0, 1, 2, 3, 4, 7, 8, 79, 80, 82, 443, 451, 1023, 1024, 65534, 65535];

fn array(items: Vec<&str>, quoted: bool) -> String {
    let items: Vec<_> =
        items.into_iter().map(|item| if quoted { format!("\"{item}\"") } else { item.to_owned() }).collect();
    format!("[{}]", items.join(", "))
}

fn action() -> impl Strategy<Value = &'static str> {
    select(vec![
        "action = \"allow\"",
        "action = \"block\"",
        "action = \"throttle\"\nrate = \"1/hour\"",
        "action = \"escalate\"",
    ])
}

fn network_rule() -> impl Strategy<Value = String> {
    let some = |pool: &'static [&'static str]| prop::collection::vec(select(pool), 1..4);
    let to = prop::option::weighted(0.8, some(&NETS));
    let ports = prop::option::weighted(0.6, some(&PORTS));
    let protocols = prop::option::weighted(0.3, some(&["tcp", "udp"]));
    (action(), to, ports, protocols).prop_map(|(action, to, ports, protocols)| {
        let to = if to.is_none() && ports.is_none() && protocols.is_none() {
            Some(vec!["0.0.0.0/0", "::/0"])
        } else {
            to
        };
        let line = |key: &str, items: Option<Vec<&str>>, quoted| {
            items.map_or_else(String::new, |items| format!("{key} = {}\n", array(items, quoted)))
        };
        let matches =
            line("to", to, true) + &line("ports", ports, false) + &line("protocols", protocols, true);
        format!("[[network]]\n{action}\n{matches}")
    })
}

fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        2 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        1 => Just("[ab]".to_owned()),
        1 => Just("[!a]".to_owned()),
        1 => Just("{a,bc}".to_owned()),
        1 => Just("{,b}".to_owned()),
        1 => Just("é".to_owned()),
    ];
    // A plain letter keeps the name from being empty, or a lone `{,b}`.
    (select(vec!["a", "b", "*", "?"]), prop::collection::vec(piece, 0..3))
        .prop_map(|(first, pieces)| format!("{first}{}", pieces.concat()).replace("**", "*"))
}

fn glob() -> impl Strategy<Value = String> {
    let component = prop_oneof![3 => name(), 1 => Just("**".to_owned())];
    prop_oneof![
        2 => prop::collection::vec(component, 1..5).prop_map(|components| format!("/{}", components.join("/"))),
        1 => name().prop_map(|name| format!("**/{name}")),
        1 => name().prop_map(|name| format!("**/{name}/**")),
        1 => (name(), name()).prop_map(|(a, b)| format!("/{a}/**/{b}")),
        1 => (name(), name()).prop_map(|(a, b)| format!("**/{a}/{b}")),
    ]
}

fn file_rule() -> impl Strategy<Value = String> {
    let access = prop::option::of(prop::collection::vec(select(vec!["read", "write", "create"]), 1..3));
    (action(), prop::collection::vec(glob(), 1..4), access).prop_map(|(action, paths, access)| {
        let access = access.map_or_else(String::new, |access| format!("access = {}\n", array(access, true)));
        let paths = array(paths.iter().map(String::as_str).collect(), true);
        format!("[[file]]\n{action}\npaths = {paths}\n{access}")
    })
}

fn exec_rule() -> impl Strategy<Value = String> {
    (action(), prop::collection::vec(glob(), 1..3)).prop_map(|(action, paths)| {
        let paths = array(paths.iter().map(String::as_str).collect(), true);
        format!("[[exec]]\n{action}\npaths = {paths}\n")
    })
}

fn policy(rules: impl Strategy<Value = Vec<String>>) -> impl Strategy<Value = Policy> {
    let answers = prop::array::uniform3(select(vec!["allow", "block"]));
    (answers, rules).prop_map(|([network, files, exec], rules)| {
        let head = format!(
            "version = 1\nname = \"p\"\n[default]\nnetwork = \"{network}\"\nfiles = \"{files}\"\nexec = \"{exec}\"\n"
        );
        let (policy, found) = parse(PolicySource::new("p.toml", head + &rules.concat()));
        policy.unwrap_or_else(|| panic!("{}", found.render(Look::PLAIN)))
    })
}

fn network_policy() -> impl Strategy<Value = Policy> {
    policy(prop::collection::vec(network_rule(), 0..8))
}

fn path_policy() -> impl Strategy<Value = Policy> {
    policy(prop::collection::vec(prop_oneof![2 => file_rule(), 1 => exec_rule()], 0..8))
}

/// The first and last addresses of the networks, the ones beside them, and other spellings of them.
fn near_addresses() -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = ["0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:10.1.2.3", "::fffe:1:1"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    for text in NETS {
        let net: IpNet = text.parse().unwrap_or_else(|_| IpNet::from(text.parse::<IpAddr>().unwrap()));
        for edge in [net.network(), net.broadcast()] {
            for step in [-1_i128, 0, 1] {
                addresses.push(match edge {
                    IpAddr::V4(v4) => v4.to_bits().wrapping_add_signed(step as i32).to_be_bytes().into(),
                    IpAddr::V6(v6) => v6.to_bits().wrapping_add_signed(step).to_be_bytes().into(),
                });
            }
            if let IpAddr::V4(v4) = edge {
                addresses.push(v4.to_ipv6_mapped().into());
            }
        }
    }
    addresses
}

fn endpoint() -> impl Strategy<Value = (IpAddr, u16, Protocol)> {
    let port = prop_oneof![4 => select(NEAR_PORTS.to_vec()), 1 => any::<u16>()];
    let protocol =
        prop_oneof![4 => Just(Protocol::Tcp), 4 => Just(Protocol::Udp), 1 => Just(Protocol::Other)];
    (select(near_addresses()), port, protocol)
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::collection::vec(select(vec!["a", "b", "c", "é"]), 1..4).prop_map(|parts| parts.concat());
    prop::collection::vec(name, 0..6).prop_map(|names| format!("/{}", names.join("/")))
}

fn ruling(tables: &MemoryTables<'_>, decision: Decision) -> Ruling {
    let index = decision.rule as usize;
    let compiled = tables.compiled();
    Ruling { verdict: compiled.rules[index].verdict(), rule: compiled.names[index].name.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn network_actions_are_decided_as_written(
        policy in network_policy(),
        endpoints in prop::collection::vec(endpoint(), 64),
    ) {
        let compiled = compile(&policy).unwrap();
        let (oracle, tables) = (Oracle::new(&policy), MemoryTables::new(&compiled));
        for (address, port, protocol) in endpoints {
            let decision = tables.decide_network(Endpoint { address: address.into(), port, protocol });
            prop_assert_eq!(
                ruling(&tables, decision), oracle.network(address, port, protocol),
                "{} {} {:?} under {:#?}", address, port, protocol, policy.network
            );
        }
    }

    #[test]
    fn path_actions_are_decided_as_written(
        policy in path_policy(),
        acts in prop::collection::vec((path(), 1..16_u8), 64),
    ) {
        let compiled = compile(&policy).unwrap();
        let (oracle, tables) = (Oracle::new(&policy), MemoryTables::new(&compiled));
        for (path, access) in acts {
            let decision = tables.decide_path(Access(access), path.as_bytes());
            prop_assert_eq!(
                ruling(&tables, decision), oracle.path(Access(access), &path),
                "{} {} under {:#?} {:#?}", access, path, policy.file, policy.exec
            );
        }
    }
}
