//! The cases of `tests/cases`, judged by the oracle and by the decision engine over compiled tables.

use enforcer::policy::{CompiledTables, MemoryTables, compile};
use enforcer_common::action::{Access, Endpoint, Protocol};
use enforcer_common::rule::Rule;
use enforcer_common::verdict::{Decision, Verdict};
use enforcer_tests::cases::{self, Attempt, Case};
use enforcer_tests::oracle::{Oracle, Ruling};

fn oracle_judges(oracle: &Oracle<'_>, attempt: &Attempt) -> Ruling {
    match attempt {
        Attempt::Connect(to) => oracle.network(to.ip(), to.port(), Protocol::Tcp),
        Attempt::Send(to) => oracle.network(to.ip(), to.port(), Protocol::Udp),
        Attempt::Open { path, access } => oracle.path(*access, path),
        Attempt::Exec { path } => oracle.path(Access::EXEC, path),
    }
}

/// The engine's judgement with fresh buckets and without grants.
fn engine_judges(compiled: &CompiledTables, attempt: &Attempt) -> Ruling {
    let tables = MemoryTables::new(compiled);
    let network = |to: &std::net::SocketAddr, protocol| {
        tables.decide_network(Endpoint { address: to.ip().into(), port: to.port(), protocol })
    };
    let Decision { rule, .. } = match attempt {
        Attempt::Connect(to) => network(to, Protocol::Tcp),
        Attempt::Send(to) => network(to, Protocol::Udp),
        Attempt::Open { path, access } => tables.decide_path(*access, path.as_bytes()),
        Attempt::Exec { path } => tables.decide_path(Access::EXEC, path.as_bytes()),
    };
    let verdict = compiled.rules.get(rule as usize).map_or(Verdict::Block, Rule::verdict);
    let name = compiled.names.get(rule as usize).map_or("none", |name| &name.name);
    Ruling { verdict, rule: name.to_owned() }
}

#[test]
fn the_oracle_and_the_engine_judge_as_written() {
    let mut judged = 0;
    for file in cases::load() {
        let oracle = Oracle::new(&file.policy);
        let compiled = compile(&file.policy).unwrap();
        for Case { attempt, verdict, rule, why } in &file.cases {
            let expected = Ruling { verdict: *verdict, rule: rule.clone() };
            assert_eq!(
                oracle_judges(&oracle, attempt),
                expected,
                "oracle, {}: {attempt:?}: {why}",
                file.name
            );
            assert_eq!(
                engine_judges(&compiled, attempt),
                expected,
                "engine, {}: {attempt:?}: {why}",
                file.name
            );
            judged += 1;
        }
    }
    assert!(judged > 100, "only {judged} cases");
}

#[test]
fn paths_of_cases_can_be_made_by_a_test_in_a_kernel() {
    for file in cases::load() {
        for case in &file.cases {
            if let Attempt::Open { path, .. } | Attempt::Exec { path } = &case.attempt {
                assert!(path.starts_with("/case/"), "{}: {path}", file.name);
            }
        }
    }
}
