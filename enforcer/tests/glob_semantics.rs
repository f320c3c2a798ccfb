//! Our globs match what `globset` matches: the union of a glob's patterns, compiled as `regex-automata`
//! compiles them for the kernel's automata, against `globset` itself.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use enforcer::policy::{Glob, Pattern};
use globset::{GlobBuilder, GlobMatcher};
use proptest::prelude::*;
use regex_automata::dfa::Automaton;
use regex_automata::dfa::dense::{Config, DFA};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

type Dfa = DFA<Vec<u32>>;

/// A glob of theirs. They also match relative paths, so that their leading `**` may take nothing at all; ours
/// begin at the root, and `**/x` is `/**/x`.
fn theirs(text: &str) -> GlobMatcher {
    let text = if text.starts_with("**") { format!("/{text}") } else { text.to_owned() };
    GlobBuilder::new(&text).literal_separator(true).empty_alternates(true).build().unwrap().compile_matcher()
}

fn ours(glob: &Glob) -> Vec<Dfa> {
    glob.alternatives().iter().map(compile).collect()
}

fn compile(pattern: &Pattern) -> Dfa {
    DFA::builder()
        .configure(Config::new())
        .syntax(syntax::Config::new().utf8(false).unicode(false))
        .build(&pattern.regex())
        .unwrap()
}

fn matches(patterns: &[Dfa], path: &[u8]) -> bool {
    patterns.iter().any(|pattern| {
        let input = Input::new(path).anchored(Anchored::Yes);
        pattern.try_search_fwd(&input).unwrap().is_some_and(|found| found.offset() == path.len())
    })
}

fn globset_matches(matcher: &GlobMatcher, path: &[u8]) -> bool {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    matcher.is_match(OsStr::from_bytes(path))
}

/// Names of one component: letters, wildcards, sets, escapes.
fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ab.]",
        2 => Just("*".to_owned()),
        2 => Just("?".to_owned()),
        1 => Just("é".to_owned()),
        1 => Just(r"\*".to_owned()),
        1 => Just(r"\a".to_owned()),
        1 => Just("[ab]".to_owned()),
        1 => Just("[!a]".to_owned()),
        1 => Just("[^.-b]".to_owned()),
        1 => Just("[]a-]".to_owned()),
        1 => Just("[+-9]".to_owned()),
        1 => Just("[[:alpha:].]".to_owned()),
    ];
    prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat())
}

/// Braces within a component or across some, up to two deep.
fn braced() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![name(), (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")), Just(String::new())];
    leaf.prop_recursive(2, 8, 3, |inner| {
        (prop::collection::vec(inner, 1..4), name(), any::<bool>()).prop_map(
            |(alternatives, name, before)| {
                let braces = format!("{{{}}}", alternatives.join(","));
                if before { format!("{name}{braces}") } else { format!("{braces}{name}") }
            },
        )
    })
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![4 => name(), 2 => braced(), 3 => Just("**".to_owned())]
}

fn glob() -> impl Strategy<Value = String> {
    (any::<bool>(), prop::collection::vec(component(), 1..5)).prop_map(|(rooted, components)| {
        let path = components.join("/");
        if rooted || !path.starts_with("**") { format!("/{path}") } else { path }
    })
}

/// Absolute paths, bytes that are not UTF-8 included.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        6 => prop::sample::select(b"ab.*-9".to_vec()).prop_map(|byte| vec![byte]),
        1 => Just("é".as_bytes().to_vec()),
        1 => Just(vec![0xff]),
        1 => Just(b"\n".to_vec()),
    ];
    let name = prop::collection::vec(byte, 1..4).prop_map(|bytes| bytes.concat());
    prop::collection::vec(name, 0..5).prop_map(|names| {
        let mut path = Vec::new();
        for name in &names {
            path.push(b'/');
            path.extend(name);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn globs_match_what_globset_matches(text in glob(), paths in prop::collection::vec(path(), 16)) {
        // A glob that we refuse, because of `.` or an empty component after expansion, has no meaning here.
        let Ok(glob) = Glob::new(&text) else { return Ok(()) };
        // Beside braces that stand for nothing, `**` is a whole component for us and two stars for them.
        prop_assume!(!text.contains("}**") && !text.contains("**{"));
        let (ours, theirs) = (ours(&glob), theirs(&text));
        for path in &paths {
            prop_assert_eq!(
                matches(&ours, path),
                globset_matches(&theirs, path),
                "{} on {:?}, patterns {:?}", text, String::from_utf8_lossy(path), glob.alternatives()
            );
        }
    }

    #[test]
    fn any_text_is_a_glob_or_a_fault(text in r"[/*?\[\]{},!\\a.~:-]{0,12}") {
        if let Err(fault) = Glob::new(&text) {
            prop_assert!(fault.help().is_some(), "{}: {}", text, fault);
            let part = fault.part().unwrap();
            prop_assert!(text.get(part).is_some(), "{}: {}", text, fault);
        }
    }
}

#[test]
fn known_cases() {
    for (glob, path, expected) in [
        ("/a/**", "/a", false),
        ("/a/**", "/a/b/c", true),
        ("/**", "/", true),
        ("/*", "/", true),
        ("/*", "/.hidden", true),
        ("/*", "/a/b", false),
        ("**", "/", true),
        ("**/x", "/x", true),
        ("**/x", "/a/b/x", true),
        ("**/x", "/ax", false),
        ("/a/**/b", "/a/b", true),
        ("/a/**/b", "/a/x/y/b", true),
        ("/a/**/**/b", "/a/b", true),
        ("/a?c", "/a/c", false),
        ("/a[!b]c", "/a/c", false),
        ("/a[+-9]c", "/a/c", false),
        ("/a[+-9]c", "/a0c", true),
        ("/é?", "/éa", true),
        ("/?", "/é", false),
        ("/??", "/é", true),
        ("/a{,.bak}", "/a", true),
        ("/a{,.bak}", "/a.bak", true),
        ("/{a/b,c}/d", "/a/b/d", true),
        ("/{a,{b,c}}", "/c", true),
        ("/x/{a,**}/b", "/x/b", true),
        ("/x/{a,**}/b", "/x/y/z/b", true),
        ("/workspace{,/**}", "/workspace", true),
        ("/workspace{,/**}", "/workspace/a/b", true),
        ("/workspace{,/**}", "/workspaces", false),
        (r"/\{a\}", "/{a}", true),
        ("/a,b", "/a,b", true),
        ("/[]]", "/]", true),
    ] {
        let patterns = ours(&Glob::new(glob).unwrap());
        assert_eq!(matches(&patterns, path.as_bytes()), expected, "{glob} on {path}");
    }
}
