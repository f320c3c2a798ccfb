//! What a good policy becomes, what is said in other forms than text, and where limits lie.

use enforcer_common::hold::Hold;
use std::net::SocketAddr;
use std::time::Duration;

use enforcer::policy::{
    Access, Action, Answer, Diagnostics, Log, Look, MAX_FILE_BYTES, MAX_RULES, Mode, Policy, PolicySource,
    Protocols, check_source, parse, parse_bytes,
};

const HEAD: &str =
    "version = 1\nname = \"p\"\n[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"allow\"\n";

#[expect(clippy::panic, reason = "a test fails by panicking")]
fn good(text: &str) -> Policy {
    let (policy, found) = parse(PolicySource::new("p.toml", text));
    policy.unwrap_or_else(|| panic!("{}", found.render(Look::PLAIN)))
}

fn bad(text: &str) -> Diagnostics {
    let (policy, found) = parse(PolicySource::new("p.toml", text));
    assert!(policy.is_none());
    found
}

#[test]
fn defaults_of_keys_are_those_of_the_reference() {
    let policy = good(&format!(
        "{HEAD}
[[network]]
action = \"escalate\"
ports = [443]

[[file]]
action = \"throttle\"
paths = [\"/a\"]
rate = \"30/minute\"
"
    ));
    assert_eq!((policy.mode, policy.log, policy.version), (Mode::Enforce, Log::Denied, 1));
    let rule = &policy.network[0];
    assert_eq!((rule.name.as_str(), rule.line, &rule.message), ("network[1]", 8, &None));
    assert_eq!((rule.matches.to.len(), rule.matches.protocols), (0, Protocols::ALL));
    let escalate = Action::Escalate {
        timeout: Duration::from_secs(300),
        on_timeout: Answer::Block,
        remember: None,
        hold: Hold::Thread,
    };
    assert_eq!(rule.action, escalate);
    assert_eq!(policy.file[0].matches.access, Access::ALL);
    let Action::Throttle { rate, burst, hold: Hold::Refuse } = policy.file[0].action else {
        panic!("{:?}", policy.file[0].action)
    };
    assert_eq!((rate.count(), rate.period(), burst), (30, Duration::from_secs(60), 30));
}

#[test]
fn values_are_canonical() {
    let policy = good(
        &format!(
            "{HEAD}
[[network]]
name = \"r\"
action = \"sandbox\"
to = [\"10.1.0.0/16\", \"192.0.2.1\", \"10.1.0.0/16\", \"::ffff:192.0.2.1\"]
ports = [443, \"440-442\", 80, \"0x1F-90\"]
redirect = \"[::ffff:127.0.0.1]:15432\"
"
        )
        .replace("\"0x1F-90\"", "0x1F"),
    );
    let rule = &policy.network[0];
    let to: Vec<_> = rule.matches.to.iter().map(ToString::to_string).collect();
    assert_eq!(to, ["10.1.0.0/16", "192.0.2.1/32"]);
    assert_eq!(rule.matches.ports, [31..=31, 80..=80, 440..=443]);
    let redirect: SocketAddr = "127.0.0.1:15432".parse().unwrap();
    assert_eq!(rule.action, Action::Sandbox { redirect });
}

#[test]
fn rules_may_be_written_inline() {
    let policy = good(
        "version = 1
name = \"p\"
default = { network = \"block\", files = \"block\", exec = \"block\" }
exec = [{ action = \"allow\", paths = [\"/bin/*\"] }, { name = \"last\", action = \"block\", paths = [\"/**\"] }]
",
    );
    let names: Vec<_> = policy.exec.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["exec[1]", "last"]);
}

#[test]
fn findings_are_data_for_programs() {
    let found = bad(
        "version = 1\nname = \"p\"\nmodus = \"audit\"\n[default]\nnetwork = \"deny\"\nfiles = \"allow\"\nexec = \"allow\"\n",
    );
    let expected = serde_json::json!([
        {
            "file": "p.toml", "line": 3, "column": 1, "end_column": 6, "severity": "error",
            "message": "unknown key `modus` in the policy", "help": "did you mean `mode`?",
        },
        {
            "file": "p.toml", "line": 5, "column": 11, "end_column": 17, "severity": "error",
            "message": "`deny` is not a value of `network`", "help": "did you mean `block`?",
        },
    ]);
    assert_eq!(found.to_json(), expected);
    assert_eq!(found.summary(), "2 errors");
}

#[test]
fn a_terminal_gets_colour_and_others_do_not() {
    let found = bad("");
    let plain = found.render(Look::PLAIN);
    assert!(plain.is_ascii());
    let colour = found.render(Look { unicode: true, colour: true, width: 80 });
    assert!(colour.contains('\u{1b}') && colour.contains('─'));
}

#[test]
fn long_lines_are_shown_around_the_place() {
    let paths = (0..500).map(|i| format!("\"/srv/data/{i}\"")).collect::<Vec<_>>().join(", ");
    let text = format!("{HEAD}[[file]]\naction = \"block\"\npaths = [{paths}, \"relative\", {paths}]\n");
    let plain = bad(&text).render(Look::PLAIN);
    assert!(plain.contains("\"relative\""), "{plain}");
    assert!(plain.lines().all(|line| line.len() < 250), "{plain}");
}

#[test]
fn findings_beyond_a_hundred_are_counted() {
    let rules = "[[exec]]\naction = \"block\"\npaths = [\"relative\"]\n".repeat(150);
    let found = bad(&format!("{HEAD}{rules}"));
    assert_eq!((found.errors(), found.iter().count()), (150, 100));
    assert!(found.render(Look::PLAIN).ends_with("... and 50 more\n"));
}

#[test]
fn limits_are_errors_and_not_more() {
    let rule = "[[exec]]\naction = \"block\"\npaths = [\"/x\"]\n";
    let found = bad(&format!("{HEAD}{}", rule.repeat(MAX_RULES + 1)));
    assert_eq!(found.errors(), 1);
    let large = vec![b' '; MAX_FILE_BYTES + 1];
    let (policy, found) = parse_bytes("p.toml", large);
    assert!(policy.is_none());
    assert_eq!(found.iter().next().unwrap().message(), "the file is over the limit of 4 MiB");
    let braces = "{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}";
    let globs: Vec<_> = (0..300).map(|i| format!("\"/{i}/{braces}\"")).collect();
    let found = bad(&format!("{HEAD}[[exec]]\naction = \"block\"\npaths = [{}]\n", globs.join(", ")));
    assert_eq!(found.errors(), 1);
}

#[test]
fn a_checked_source_has_tables() {
    let (found, checked) = check_source(PolicySource::new("p.toml", HEAD));
    assert!(found.is_empty());
    let (policy, tables) = checked.unwrap();
    assert_eq!((policy.rules(), tables.rules.len(), tables.names[1].name.as_str()), (0, 3, "default.files"));
    let (found, checked) = check_source(PolicySource::new("p.toml", "x"));
    assert!(found.has_errors() && checked.is_none());
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_its_own() {
    let error = enforcer::policy::load("/nowhere/p.toml".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the policy `/nowhere/p.toml`");
}
