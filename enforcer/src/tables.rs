//! Stand-in until the compiler is there.
use crate::policy::{Answer, Policy};
use enforcer_common::{class::*, path::Automaton, rule::*};

#[derive(Clone, Debug, PartialEq)]
pub struct RuleName { pub table: &'static str, pub name: String, pub message: Option<String>, pub line: usize }
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledTables {
    pub header: SlotHeader,
    pub rules: Vec<Rule>,
    pub addresses: Vec<(u32, [u8; 16], AddressClass)>,
    pub ports: Vec<(u32, PortKey, u32)>,
    pub pairs: Vec<(PairKey, u32)>,
    pub words: Vec<u32>,
    pub names: Vec<RuleName>,
    pub audit: bool,
}
pub fn compile(policy: &Policy) -> CompiledTables {
    use crate::policy::Action;
    let mut rules = vec![];
    let mut names = vec![];
    let mut addresses: Vec<(u32, [u8; 16], AddressClass)> = vec![];
    let base = Rule { content: 0, interval_ns: 0, tolerance_ns: 0, timeout_ns: 0, remember_ns: 0,
        redirect: enforcer_common::address::Address([0; 16]), redirect_port: 0, verdict: 0, on_timeout: 4, is_default: 0, log_all: 0, zero: [0; 2] };
    let log_all = u8::from(policy.log == crate::policy::Log::All);
    for (i, rule) in policy.network.iter().enumerate() {
        let mut r = Rule { content: rule.content_hash(), log_all, ..base };
        match &rule.action {
            Action::Allow => {}
            Action::Block => r.verdict = 4,
            Action::Throttle { rate, burst } => { let _ = rate; r.verdict = 1; r.interval_ns = 1_000_000_000; r.tolerance_ns = u64::from(*burst - 1) * r.interval_ns; }
            Action::Sandbox { redirect } => { r.verdict = 2; r.redirect = redirect.ip().into(); r.redirect_port = redirect.port(); }
            Action::Escalate { timeout, on_timeout, remember } => { r.verdict = 3; r.timeout_ns = timeout.as_nanos() as u64; r.remember_ns = remember.map_or(0, |d| d.as_nanos() as u64); r.on_timeout = if *on_timeout == Answer::Allow { 0 } else { 4 }; }
        }
        rules.push(r);
        names.push(RuleName { table: "network", name: rule.name.clone(), message: rule.message.clone(), line: rule.line });
        for net in &rule.matches.to {
            let (bits, addr) = match net { ipnet::IpNet::V4(n) => (n.prefix_len() as u32 + 96, n.network().to_ipv6_mapped().octets()), ipnet::IpNet::V6(n) => (n.prefix_len() as u32, n.network().octets()) };
            addresses.push((bits, addr, AddressClass { id: i as u32 + 1, base: i as u32 }));
        }
    }
    let n = rules.len() as u32;
    for (answer, table) in [(policy.default.network, "network"), (policy.default.files, "file"), (policy.default.exec, "exec")] {
        let _ = table;
        rules.push(Rule { is_default: 1, log_all, verdict: if answer == Answer::Allow { 0 } else { 4 }, content: 77 + rules.len() as u64, ..base });
    }
    addresses.push((0, [0; 16], AddressClass { id: 0, base: n }));
    CompiledTables { header: SlotHeader { policy: 0, rules: rules.len() as u32, default_network: n, default_file: n + 1, default_exec: n + 2, cells: 256, lanes: [Automaton::NONE; LANES] },
        rules, addresses, ports: vec![], pairs: vec![], words: vec![0; 8192], names, audit: policy.mode == crate::policy::Mode::Audit }
}
