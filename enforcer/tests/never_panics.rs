//! Whatever is in a file, reading it ends with a policy or with an error that can be shown.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use enforcer::policy::{Look, parse_bytes};
use proptest::prelude::*;

/// Every policy in the tree, good and bad.
fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seeds = Vec::new();
    for folder in ["tests/bad", "policies"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                seeds.push(fs::read(path).unwrap());
            }
        }
    }
    seeds
}

#[derive(Clone, Debug)]
enum Mutation {
    Remove { at: prop::sample::Index, bytes: usize },
    Insert { at: prop::sample::Index, text: Vec<u8> },
    Repeat { at: prop::sample::Index, bytes: usize, times: usize },
    Swap { a: prop::sample::Index, b: prop::sample::Index },
    Truncate { at: prop::sample::Index },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let text = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..4),
        prop::sample::select(vec![
            "\"",
            "'",
            "\"\"\"",
            "'''",
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            ",",
            "\n",
            "\r",
            "\\",
            "#",
            "\\u0000",
            "\u{202e}",
            "é",
            "-",
            "0",
            "99999999999999999999",
            "1.5",
            "true",
            "1979-05-27",
            "[]",
            "{}",
            "**",
            "/",
            "::",
            "/0",
            "[[network]]\n",
            "[default]\n",
            "action = \"throttle\"\n",
            "rate = \"1/d\"\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        (at(), 1..40usize).prop_map(|(at, bytes)| Mutation::Remove { at, bytes }),
        (at(), text).prop_map(|(at, text)| Mutation::Insert { at, text }),
        (at(), 1..60usize, 1..4usize).prop_map(|(at, bytes, times)| Mutation::Repeat { at, bytes, times }),
        (at(), at()).prop_map(|(a, b)| Mutation::Swap { a, b }),
        at().prop_map(|at| Mutation::Truncate { at }),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let len = bytes.len();
    if len == 0 {
        return;
    }
    match mutation {
        Mutation::Remove { at, bytes: count } => {
            let start = at.index(len);
            bytes.drain(start..(start + count).min(len));
        }
        Mutation::Insert { at, text } => {
            let start = at.index(len);
            bytes.splice(start..start, text.iter().copied());
        }
        Mutation::Repeat { at, bytes: count, times } => {
            let start = at.index(len);
            let part = bytes.get(start..(start + count).min(len)).unwrap().repeat(*times);
            bytes.splice(start..start, part);
        }
        Mutation::Swap { a, b } => bytes.swap(a.index(len), b.index(len)),
        Mutation::Truncate { at } => bytes.truncate(at.index(len)),
    }
}

fn read_and_show(bytes: Vec<u8>) {
    let (policy, diagnostics) = parse_bytes("p.toml", bytes);
    assert_eq!(policy.is_none(), diagnostics.has_errors());
    let plain = diagnostics.render(Look::PLAIN);
    assert!(!plain.chars().any(|c| c.is_control() && c != '\n'), "{plain:?}");
    let _ = diagnostics.render(Look { unicode: true, colour: true, width: 40 });
    let _ = diagnostics.to_json();
    if let Some(policy) = policy {
        let _: Vec<u64> = policy.network.iter().map(enforcer::policy::Rule::content_hash).collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_policies_are_read_or_refused(
        seed in prop::sample::select(seeds()),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let mut bytes = seed;
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        read_and_show(bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_and_show(bytes);
    }

    #[test]
    fn toml_of_odd_shapes_is_read_or_refused(
        text in r#"((version|name|default|network|file|exec|to|paths|action|rate)(\.[a-z]{1,3})? ?= ?(1|"x"|\[1, "a"\]|\{ action = 1 \}|\[\{ to = "x" \}\]|true|1\.5)\n){0,8}"#
    ) {
        read_and_show(text.into_bytes());
    }
}

#[test]
fn deep_nesting_is_refused() {
    read_and_show(format!("a = {}", "[".repeat(200_000)).into_bytes());
    read_and_show(format!("a = {}", "{b=".repeat(200_000)).into_bytes());
    read_and_show(format!("a.{}x = 1", "b.".repeat(200_000)).into_bytes());
    read_and_show(format!("[{}x]", "b.".repeat(200_000)).into_bytes());
}
