//! Executing programs: one exec is one act, whatever interprets the program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use libtest_mimic::{Failed, Trial};

use crate::governed::{Agent, same, tally};
use crate::trial::{Outcome, PASS, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("exec::a_blocked_program_does_not_start", a_blocked_program_does_not_start),
        trial("exec::what_is_not_listed_does_not_start", what_is_not_listed_does_not_start),
        trial("exec::a_script_and_its_interpreter_are_one_act", a_script_and_its_interpreter_are_one_act),
        trial("exec::a_script_of_a_blocked_interpreter_does_not_start", a_script_of_a_blocked_interpreter),
        trial("exec::an_exec_takes_one_token", an_exec_takes_one_token),
        trial("exec::a_script_takes_one_token", a_script_takes_one_token),
        trial("exec::an_approved_exec_passes_once", an_approved_exec_passes_once),
        trial("exec::a_rejected_exec_is_refused", a_rejected_exec_is_refused),
        trial("exec::an_interpreter_asks_too", an_interpreter_asks_too),
        trial("exec::what_loads_a_blocked_file_does_not_start", what_loads_a_blocked_file),
        trial("exec::what_loads_a_file_that_no_rule_names_starts", what_loads_a_file_that_no_rule_names),
        trial("exec::a_rate_on_what_is_loaded_holds", a_rate_on_what_is_loaded_holds),
        trial("exec::what_is_loaded_asks_too", what_is_loaded_asks_too),
        trial("exec::what_follows_an_exec_that_failed_is_decided", an_exec_after_one_that_failed),
        trial("exec::audit_mode_starts_everything_and_tells_all", audit_mode_starts_everything),
        trial("exec::rules_on_files_do_not_decide_execs", rules_on_files_do_not_decide_execs),
    ]
}

/// Copies a program, or writes a script, into the agent's folder.
fn program(agent: &Agent, name: &str) -> Result<(), Failed> {
    fs::copy("/usr/bin/true", agent.at(name)).map_err(|error| format!("{name}: {error}"))?;
    Ok(())
}

fn script(agent: &Agent, name: &str, interpreter: &str) -> Result<(), Failed> {
    let path = agent.at(name);
    fs::write(&path, format!("#!{interpreter}\n")).map_err(|error| format!("{path}: {error}"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("{path}: {error}"))?;
    Ok(())
}

fn a_blocked_program_does_not_start() -> Outcome {
    let agent =
        Agent::new("exec-blocked", "[[exec]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/no\"]\n")?;
    program(&agent, "yes")?;
    program(&agent, "no")?;
    std::os::unix::fs::symlink(agent.at("no"), agent.at("link"))?;
    agent.expect(&[("exec @/yes", "exit 0"), ("exec @/no", "EPERM"), ("exec @/link", "EPERM")])?;
    same(&agent.tally()?, &tally([("exec allow yes", 1), ("exec block no", 2)]))
}

fn what_is_not_listed_does_not_start() -> Outcome {
    let policy = "[default]\nnetwork = \"allow\"\nfiles = \"block\"\nexec = \"block\"\n\
        [[exec]]\nname = \"listed\"\naction = \"allow\"\npaths = [\"/opt/enforcer/bin/actor\", \"@/listed\"]\n\
        [[file]]\nname = \"libraries\"\naction = \"allow\"\naccess = [\"read\"]\n\
        paths = [\"/usr/lib/**\", \"/lib/**\", \"/lib64/**\", \"/etc/ld.so.cache\", \"/usr/lib64/**\"]\n\
        [[file]]\nname = \"nothing\"\naction = \"allow\"\npaths = [\"/dev/null\"]\n";
    let agent = Agent::new("exec-listed", policy)?;
    program(&agent, "listed")?;
    program(&agent, "other")?;
    agent.expect(&[
        ("exec @/listed", "exit 0"),
        ("exec @/other", "EPERM"),
        ("exec /usr/bin/true", "EPERM"),
    ])?;
    same(&agent.tally()?, &tally([("exec allow listed", 1), ("exec block other", 1)]))
}

fn a_script_and_its_interpreter_are_one_act() -> Outcome {
    let agent = Agent::new("exec-script", "")?;
    script(&agent, "script", &agent.at("true"))?;
    program(&agent, "true")?;
    script(&agent, "outer", &agent.at("script"))?;
    agent.expect(&[("exec @/script", "exit 0"), ("exec @/outer", "exit 0")])?;
    same(&agent.tally()?, &tally([("exec allow script", 1), ("exec allow outer", 1)]))
}

fn a_script_of_a_blocked_interpreter() -> Outcome {
    let rule = "[[exec]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/no\"]\n";
    let agent = Agent::new("exec-interpreter", rule)?;
    program(&agent, "no")?;
    program(&agent, "yes")?;
    script(&agent, "script", &agent.at("no"))?;
    script(&agent, "good", &agent.at("yes"))?;
    agent.expect(&[("exec @/script", "EPERM"), ("exec @/good", "exit 0")])?;
    same(&agent.tally()?, &tally([("exec block no", 1), ("exec allow good", 1)]))
}

const FEW: &str =
    "[[exec]]\nname = \"few\"\naction = \"throttle\"\npaths = [\"@/*\"]\nrate = \"1/hour\"\nburst = 3\n";

fn an_exec_takes_one_token() -> Outcome {
    let agent = Agent::new("exec-tokens", FEW)?;
    program(&agent, "program")?;
    agent.expect(&[
        ("exec @/program", "exit 0"),
        ("exec @/program", "exit 0"),
        ("exec @/program", "exit 0"),
        ("exec @/program", "EAGAIN"),
    ])?;
    Ok(PASS)
}

fn a_script_takes_one_token() -> Outcome {
    let agent = Agent::new("exec-script-tokens", FEW)?;
    program(&agent, "program")?;
    script(&agent, "script", &agent.at("program"))?;
    agent.expect(&[
        ("exec @/script", "exit 0"),
        ("exec @/script", "exit 0"),
        ("exec @/script", "exit 0"),
        ("exec @/script", "EAGAIN"),
    ])?;
    Ok(PASS)
}

const ASK: &str =
    "[[exec]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\npaths = [\"@/asked\"]\n";

fn an_approved_exec_passes_once() -> Outcome {
    let agent = Agent::new("exec-approved", ASK)?;
    program(&agent, "asked")?;
    same(&agent.ask("exec @/asked", "approve")?.join(", ").as_str(), &"EAGAIN, exit 0, EAGAIN")?;
    // The one that passed, and each of the two requests.
    same(&agent.tally()?, &tally([("exec allow asked", 1), ("exec escalate asked", 2)]))
}

fn a_rejected_exec_is_refused() -> Outcome {
    let agent = Agent::new("exec-rejected", ASK)?;
    program(&agent, "asked")?;
    same(&agent.ask("exec @/asked", "reject")?.join(", ").as_str(), &"EAGAIN, EPERM, EAGAIN")?;
    same(&agent.tally()?, &tally([("exec block asked", 1), ("exec escalate asked", 2)]))
}

fn an_interpreter_asks_too() -> Outcome {
    let agent = Agent::new("exec-interpreter-asks", ASK)?;
    program(&agent, "asked")?;
    script(&agent, "script", &agent.at("asked"))?;
    same(&agent.ask("exec @/script", "approve")?.join(", ").as_str(), &"EAGAIN, exit 0, EAGAIN")?;
    same(&agent.tally()?, &tally([("exec allow script", 1), ("exec escalate asked", 2)]))
}

/// A program with its own copy of the dynamic linker, at `@/ld` unless it is said to be elsewhere.
fn loaded(agent: &Agent, name: &str, linker: &str) -> Result<(), Failed> {
    const LINKER: &[u8] = b"/lib64/ld-linux-x86-64.so.2";
    let failed = |error| format!("{name}: {error}");
    fs::copy("/lib64/ld-linux-x86-64.so.2", agent.at("ld")).map_err(failed)?;
    program(agent, name)?;
    let mut bytes = fs::read(agent.at(name)).map_err(failed)?;
    let at =
        bytes.windows(LINKER.len()).position(|found| found == LINKER).ok_or("a program without a linker")?;
    let mut path = agent.at(linker).into_bytes();
    path.resize(LINKER.len(), 0);
    bytes.splice(at..at + LINKER.len(), path);
    fs::write(agent.at(name), bytes).map_err(failed)?;
    Ok(())
}

/// The kernel runs what an ELF program names as its interpreter, and no hook for programs sees it.
fn what_loads_a_blocked_file() -> Outcome {
    let agent = Agent::new("elf-no", "[[exec]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/ld\"]\n")?;
    loaded(&agent, "loaded", "ld")?;
    program(&agent, "plain")?;
    script(&agent, "script", &agent.at("loaded"))?;
    agent.expect(&[
        ("exec @/loaded", "EPERM"),
        ("exec @/script", "EPERM"),
        ("exec @/ld", "EPERM"),
        ("exec @/plain", "exit 0"),
    ])?;
    same(&agent.tally()?, &tally([("exec block ld", 3), ("exec allow plain", 1)]))
}

fn what_loads_a_file_that_no_rule_names() -> Outcome {
    let policy = "[default]\nnetwork = \"block\"\nfiles = \"allow\"\nexec = \"block\"\n\
        [[exec]]\nname = \"listed\"\naction = \"allow\"\n\
        paths = [\"@/loaded\", \"@/script\", \"/opt/enforcer/bin/*\"]\n";
    let agent = Agent::new("elf-list", policy)?;
    loaded(&agent, "loaded", "ld")?;
    script(&agent, "script", &agent.at("loaded"))?;
    agent.expect(&[("exec @/loaded", "exit 0"), ("exec @/script", "exit 0"), ("exec @/ld", "EPERM")])?;
    same(&agent.tally()?, &tally([("exec allow loaded", 1), ("exec allow script", 1), ("exec block ld", 1)]))
}

fn a_rate_on_what_is_loaded_holds() -> Outcome {
    let rule = "[[exec]]\nname = \"few\"\naction = \"throttle\"\npaths = [\"@/ld\"]\nrate = \"1/hour\"\n\
        burst = 2\n";
    let agent = Agent::new("elf-few", rule)?;
    loaded(&agent, "loaded", "ld")?;
    script(&agent, "script", &agent.at("loaded"))?;
    agent.expect(&[("exec @/loaded", "exit 0"), ("exec @/script", "exit 0"), ("exec @/loaded", "EAGAIN")])?;
    same(
        &agent.tally()?,
        &tally([("exec allow loaded", 1), ("exec allow script", 1), ("exec throttle ld", 1)]),
    )
}

fn what_is_loaded_asks_too() -> Outcome {
    let rule = "[[exec]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\npaths = [\"@/ld\"]\n";
    let agent = Agent::new("elf-ask", rule)?;
    loaded(&agent, "loaded", "ld")?;
    same(&agent.ask("exec @/loaded", "approve")?.join(", ").as_str(), &"EAGAIN, exit 0, EAGAIN")?;
    same(&agent.tally()?, &tally([("exec allow loaded", 1), ("exec escalate ld", 2)]))
}

/// The program that is opened next looks like what the first would load.
fn an_exec_after_one_that_failed() -> Outcome {
    let agent = Agent::new("elf-gone", "[[exec]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/no\"]\n")?;
    loaded(&agent, "broken", "gone")?;
    program(&agent, "no")?;
    program(&agent, "yes")?;
    for (next, code) in [("no", 126), ("yes", 0)] {
        let script = format!("shopt -s execfail; exec {}; exec {}", agent.at("broken"), agent.at(next));
        same(&agent.run(&["bash", "-c", &script])?.code, &code)?;
    }
    // The one that was followed by a refusal is told of as that.
    let mut met = agent.tally()?;
    met.retain(|what, _| what.starts_with("exec"));
    same(&met, &tally([("exec block no", 1), ("exec allow broken", 1), ("exec allow yes", 1)]))
}

fn audit_mode_starts_everything() -> Outcome {
    let rules = "[[exec]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/no\"]\n\
        [[exec]]\nname = \"slow\"\naction = \"throttle\"\npaths = [\"@/slow\"]\nrate = \"1/hour\"\n";
    let agent =
        Agent::new("exec-audit", &format!("mode = \"audit\"\n{}{rules}{ASK}", crate::governed::OPEN))?;
    for name in ["no", "slow", "asked"] {
        program(&agent, name)?;
    }
    script(&agent, "script", &agent.at("no"))?;
    agent.expect_unasked(&[
        ("exec @/no", "exit 0"),
        ("exec @/slow", "exit 0"),
        ("exec @/slow", "exit 0"),
        ("exec @/asked", "exit 0"),
        ("exec @/script", "exit 0"),
    ])?;
    same(&agent.events()?.iter().all(|event| event.get("audit") == Some(&true.into())), &true)?;
    same(
        &agent.tally()?,
        // What the script would have failed at is its interpreter.
        &tally([
            ("exec block no", 2),
            ("exec allow slow", 1),
            ("exec throttle slow", 1),
            ("exec escalate asked", 1),
        ]),
    )
}

/// That a program may be executed but not read is no contradiction.
fn rules_on_files_do_not_decide_execs() -> Outcome {
    let agent =
        Agent::new("exec-files", "[[file]]\nname = \"hush\"\naction = \"block\"\npaths = [\"@/hush\"]\n")?;
    program(&agent, "hush")?;
    agent.expect(&[("read @/hush", "EPERM"), ("exec @/hush", "exit 0")])?;
    same(&agent.tally()?, &tally([("open block hush", 1), ("exec allow hush", 1)]))
}
