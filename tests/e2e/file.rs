//! Opening files: by whatever name, on whatever file system, the path at which a file is opened decides.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::governed::{Agent, Context as _, eventually, finish, same, shell, tally, text_of};
use crate::trial::{Outcome, PASS, skip, trial};

const SECRET: &str = "[[file]]\nname = \"secret\"\naction = \"block\"\npaths = [\"@/secret/**\"]\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("file::a_file_on_ext4_is_refused_by_every_name", a_file_on_ext4_is_refused_by_every_name),
        trial("file::a_file_on_tmpfs_is_refused_by_every_name", a_file_on_tmpfs_is_refused_by_every_name),
        trial(
            "file::the_mount_through_which_it_is_opened_decides",
            the_mount_through_which_it_is_opened_decides,
        ),
        trial("file::chroot_renames_nothing", chroot_renames_nothing),
        trial("file::a_deep_path_is_decided", a_deep_path_is_decided),
        trial("file::a_path_of_4090_bytes_is_decided", a_path_of_4090_bytes_is_decided),
        trial("file::a_path_that_is_too_long_is_refused", a_path_that_is_too_long_is_refused),
        trial("file::a_detached_mount_is_refused", a_detached_mount_is_refused),
        trial("file::what_left_its_mount_is_refused", || what_left_its_mount_is_refused("left-mount", "sub")),
        trial("file::what_left_its_mount_is_refused_however_deep", || {
            what_left_its_mount_is_refused("left-mount-deep", &format!("sub/{}", "f/".repeat(30)))
        }),
        trial(
            "file::what_is_renamed_within_its_mount_is_decided",
            what_is_renamed_within_its_mount_is_decided,
        ),
        trial("file::memory_and_pipes_keep_working", memory_and_pipes_keep_working),
        trial("file::what_the_kernel_keeps_for_queues_is_opened", || {
            kept_by_the_kernel("queues", "queue /e2e-kept")
        }),
        trial("file::what_the_kernel_keeps_for_huge_pages_is_opened", || {
            kept_by_the_kernel("huge", "huge-memory")
        }),
        trial("file::what_is_unmounted_is_refused", what_is_unmounted_is_refused),
        trial("file::truncating_is_writing", truncating_is_writing),
        trial(
            "file::the_strictest_kind_decides_an_open_for_both",
            the_strictest_kind_decides_an_open_for_both,
        ),
        trial("file::a_rate_on_reading_holds", a_rate_on_reading_holds),
        trial("file::an_approved_open_passes_once", an_approved_open_passes_once),
        trial("file::a_rejected_open_is_refused", a_rejected_open_is_refused),
        trial("file::audit_mode_refuses_nothing_and_tells_all", audit_mode_refuses_nothing_and_tells_all),
        trial("file::a_process_outside_is_not_governed", a_process_outside_is_not_governed),
    ]
}

fn a_file_on_ext4_is_refused_by_every_name() -> Outcome {
    by_every_name(&Agent::new("names-ext4", SECRET)?)
}

fn a_file_on_tmpfs_is_refused_by_every_name() -> Outcome {
    by_every_name(&Agent::within("/tmp/e2e", "names-tmpfs", SECRET)?)
}

fn by_every_name(agent: &Agent) -> Outcome {
    let secret = agent.file("secret/key")?;
    agent.file("open/page")?;
    std::os::unix::fs::symlink(&secret, agent.at("open/link"))?;
    std::os::unix::fs::symlink(agent.at("secret"), agent.at("open/folder"))?;
    agent.expect(&[
        ("read @/secret/key", "EPERM"),
        ("write @/secret/key", "EPERM"),
        ("read-write @/secret/key", "EPERM"),
        ("read @/open/../secret/key", "EPERM"),
        ("read @/open/link", "EPERM"),
        ("write @/open/link", "EPERM"),
        ("read @/open/folder/key", "EPERM"),
        ("beside @/secret key", "EPERM"),
        ("again @/secret/key", "EPERM"),
        ("again-to-write @/secret/key", "EPERM"),
        ("read @/secret/missing", "ENOENT"),
        ("chdir @/secret", "ok"),
        ("read key", "EPERM"),
        ("read ../secret/./key", "EPERM"),
        ("read ../open/page", "ok"),
        ("write ../open/page", "ok"),
        ("again @/open/page", "ok"),
        ("read /proc/self/cwd/key", "EPERM"),
        ("read /proc/self/root/etc/hostname", "ok"),
    ])?;
    same(&agent.tally()?, &tally([("open block secret/key", 13), ("open allow open/page", 3)]))
}

fn the_mount_through_which_it_is_opened_decides() -> Outcome {
    let agent = Agent::new("mounts", SECRET)?;
    agent.file("secret/key")?;
    agent.file("open/page")?;
    for folder in ["public", "secret/bound", "secret/nested"] {
        fs::create_dir_all(agent.at(folder))?;
    }
    shell(&format!(
        "cd {}; mount --bind secret public; mount --bind open secret/bound; mount -t tmpfs tmpfs secret/nested; \
         mkdir secret/nested/in; mount --bind open secret/nested/in; echo x > secret/nested/own",
        agent.at("")
    ))?;
    agent.expect(&[
        ("read @/public/key", "ok"),
        ("write @/public/key", "ok"),
        ("read @/open/page", "ok"),
        ("read @/secret/key", "EPERM"),
        ("read @/secret/bound/page", "EPERM"),
        ("read @/secret/nested/own", "EPERM"),
        ("read @/secret/nested/in/page", "EPERM"),
        ("write @/secret/nested/in/page", "EPERM"),
    ])?;
    same(
        &agent.tally()?,
        &tally([
            ("open allow public/key", 2),
            ("open allow open/page", 1),
            ("open block secret/key", 1),
            ("open block secret/bound/page", 1),
            ("open block secret/nested/own", 1),
            ("open block secret/nested/in/page", 2),
        ]),
    )
}

fn chroot_renames_nothing() -> Outcome {
    let agent = Agent::new("chroot", SECRET)?;
    agent.file("secret/key")?;
    agent.file("page")?;
    agent.expect(&[("chroot @", "ok"), ("read /page", "ok"), ("read /secret/key", "EPERM")])?;
    same(&agent.tally()?, &tally([("open allow page", 1), ("open block secret/key", 1)]))
}

fn a_deep_path_is_decided() -> Outcome {
    let agent = Agent::new("deep", SECRET)?;
    let deep = "a-folder-of-it/".repeat(40);
    agent.file(&format!("secret/{deep}key"))?;
    agent.file(&format!("open/{deep}key"))?;
    agent.expect(&[
        (&format!("read @/secret/{deep}key"), "EPERM"),
        (&format!("read @/open/{deep}key"), "ok"),
        (&format!("create @/secret/{deep}new"), "EPERM"),
        (&format!("create @/open/{deep}new"), "ok"),
    ])?;
    let expected = [
        (format!("open block secret/{deep}key"), 1),
        (format!("open allow open/{deep}key"), 1),
        (format!("create block secret/{deep}new"), 1),
        (format!("create allow open/{deep}new"), 1),
    ];
    same(&agent.tally()?, &expected.into())
}

fn a_path_of_4090_bytes_is_decided() -> Outcome {
    let agent = Agent::new("long", SECRET)?;
    for (top, expected) in [("secret", "EPERM"), ("open", "ok")] {
        let mut path = top.to_owned();
        let room = 4090 - agent.at("").len() - 1;
        while path.len() + 202 < room {
            path += "/";
            path += &"n".repeat(200);
        }
        path += "/";
        path += &"k".repeat(room - path.len());
        let whole = agent.file(&path)?;
        same(&whole.len(), &4090)?;
        agent.expect(&[(&format!("read {whole}"), expected), (&format!("write {whole}"), expected)])?;
    }
    // A path of nothing but short names has the most folders.
    let many = format!("secret/{}key", "f/".repeat(1900));
    agent.file(&many)?;
    agent.expect(&[(&format!("read @/{many}"), "EPERM")])?;
    Ok(PASS)
}

fn a_path_that_is_too_long_is_refused() -> Outcome {
    let agent = Agent::new("too-long", "")?;
    let enter = format!("descend {} 21", "n".repeat(200));
    let folder = agent.at("");
    shell(&format!("cd {folder} && actor '{enter}' 'create key'"))?;
    agent.expect(&[("chdir @", "ok"), (&enter, "ok"), ("read key", "EPERM"), ("create new", "EPERM")])?;
    let long = |event: &&serde_json::Value| text_of(event, "reason") == "path-too-long";
    same(&agent.events()?.iter().filter(long).count(), &2)
}

fn a_detached_mount_is_refused() -> Outcome {
    let agent = Agent::new("detached", "")?;
    agent.file("page")?;
    agent.expect(&[("read @/page", "ok"), ("detached @ page", "EPERM")])?;
    let apart = |event: &&serde_json::Value| text_of(event, "reason") == "disconnected";
    same(&agent.events()?.iter().filter(apart).count(), &1)
}

/// Runs an agent in a folder of the mount `@/mount` of `@/inside`, and moves things about before it takes its steps.
fn moved(agent: &Agent, folder: &str, moves: &str, steps: &[&str]) -> Result<Vec<String>, Failed> {
    for name in ["page", "kept"] {
        agent.file(&format!("inside/{folder}/{name}"))?;
    }
    fs::copy("/usr/bin/true", agent.at(&format!("inside/{folder}/true"))).context("true")?;
    shell(&format!("cd {}; mkdir -p mount outside; mount --bind inside mount", agent.at("")))?;
    let mut command = vec!["actor".to_owned(), format!("chdir {}", agent.at(&format!("mount/{folder}")))];
    command.extend([format!("create {}", agent.at("there")), format!("wait {}", agent.at("moved"))]);
    command.extend(steps.iter().map(|&step| step.to_owned()));
    let child = agent.start(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
    eventually("the agent in its folder", || Ok(fs::exists(agent.at("there"))?.then_some(())))?;
    shell(&format!("cd {}; {moves}", agent.at("")))?;
    agent.file("moved")?;
    let ran = finish(child)?;
    match ran.lines.split_at_checked(3) {
        Some((_, ends)) => Ok(ends.to_vec()),
        None => Err(format!("{:?} {}", ran.lines, ran.errors).into()),
    }
}

/// A folder that somebody moves to where the mount does not reach has no path any more, and no rule can name what is in
/// it.
fn what_left_its_mount_is_refused(name: &'static str, folder: &str) -> Outcome {
    let agent = Agent::new(name, "")?;
    let steps = ["read page", "write page", "create new", "mknod node", "exec ./true", "read @/inside/kept"];
    let steps = steps.map(|step| step.replace('@', &agent.at("")));
    agent.file("inside/kept")?;
    let steps: Vec<_> = steps.iter().map(String::as_str).collect();
    let ends = moved(&agent, folder, "mv inside/sub outside/sub", &steps)?;
    same(&ends.join(" ").as_str(), &"EPERM EPERM EPERM EPERM EPERM ok")?;
    same(&fs::exists(agent.at(&format!("outside/{folder}/new")))?, &false)?;
    let apart = |event: &&serde_json::Value| text_of(event, "reason") == "disconnected";
    same(&agent.events()?.iter().filter(apart).count(), &5)
}

fn what_is_renamed_within_its_mount_is_decided() -> Outcome {
    let rule = "[[file]]\nname = \"no\"\naction = \"block\"\npaths = [\"@/mount/other/kept\"]\n";
    let agent = Agent::new("renamed-in-mount", rule)?;
    // The mount's own folder is renamed too, at its source: that names nothing below the mount.
    let moves = "mkdir inside/deep; mv inside/sub inside/deep/sub; mv inside/deep inside/other; \
                 mv inside/other/sub/* inside/other; mv inside elsewhere";
    let steps = ["read ../page", "read ../kept", "create new", "exec ../true"];
    let ends = moved(&agent, "sub", moves, &steps)?;
    same(&ends.join(" ").as_str(), &"ok EPERM ok exit 0")?;
    let mut met = agent.tally()?;
    met.retain(|what, _| what.contains("mount/"));
    let expected = [
        ("open allow mount/other/page", 1),
        ("open block mount/other/kept", 1),
        ("create allow mount/other/sub/new", 1),
        ("exec allow mount/other/true", 1),
    ];
    same(&met, &tally(expected))
}

fn memory_and_pipes_keep_working() -> Outcome {
    let agent = Agent::new("memory", SECRET)?;
    agent.expect(&[("memory", "ok"), ("pipe", "ok")])?;
    Ok(PASS)
}

/// What the kernel keeps on a mount of its own, where it has such a thing at all.
fn kept_by_the_kernel(name: &'static str, step: &str) -> Outcome {
    let free = shell(&format!("actor '{step}'"))?;
    if free.trim() != "ok" {
        return skip(format!("`{step}` gives {} where nothing is governed", free.trim()));
    }
    let agent = Agent::new(name, SECRET)?;
    agent.expect(&[(step, "ok")])?;
    Ok(PASS)
}

/// The mounts of message queues show what the kernel's own mount has.
fn what_is_unmounted_is_refused() -> Outcome {
    for (name, kind) in
        [("unmounted-queues", "mqueue"), ("unmounted-debug", "debugfs"), ("unmounted", "tmpfs")]
    {
        let agent = Agent::new(name, "")?;
        let at = agent.at("mount");
        let mounted = shell(&format!(
            "mkdir {at}; mount -t {kind} none {at}; cd {at}; [ -d sched ] && echo sched/features || {{ touch page; echo page; }}"
        ))?;
        let file = mounted.trim();
        agent.expect(&[
            (&format!("read @/mount/{file}"), "ok"),
            (&format!("unmounted @/mount {file}"), "EPERM"),
        ])?;
        let apart = |event: &&serde_json::Value| text_of(event, "reason") == "disconnected";
        same(&agent.events()?.iter().filter(apart).count(), &1)?;
    }
    Ok(PASS)
}

fn truncating_is_writing() -> Outcome {
    let rule = "[[file]]\nname = \"kept\"\naction = \"block\"\npaths = [\"@/kept\"]\naccess = [\"write\"]\n";
    let agent = Agent::new("truncate", rule)?;
    let kept = agent.file("kept")?;
    agent.expect(&[("read @/kept", "ok"), ("truncate @/kept", "EPERM"), ("write @/kept", "EPERM")])?;
    same(&fs::read_to_string(kept)?, &"text\n".to_owned())
}

fn the_strictest_kind_decides_an_open_for_both() -> Outcome {
    let rules = "[[file]]\nname = \"to-read\"\naction = \"allow\"\npaths = [\"@/page\"]\naccess = [\"read\"]\n\
                 [[file]]\nname = \"not-to-write\"\naction = \"block\"\npaths = [\"@/page\"]\naccess = [\"write\"]\n";
    let agent = Agent::new("both", rules)?;
    agent.file("page")?;
    agent.expect(&[("read @/page", "ok"), ("read-write @/page", "EPERM"), ("write @/page", "EPERM")])?;
    same(&agent.tally()?, &tally([("open allow page", 1), ("open block page", 2)]))
}

fn a_rate_on_reading_holds() -> Outcome {
    let rule = "[[file]]\nname = \"slow\"\naction = \"throttle\"\npaths = [\"@/slow/*\"]\naccess = [\"read\"]\n\
                rate = \"1/hour\"\nburst = 3\n";
    let agent = Agent::new("rate", rule)?;
    agent.file("slow/a")?;
    agent.file("slow/b")?;
    agent.expect(&[
        ("read @/slow/a", "ok"),
        ("read @/slow/b", "ok"),
        ("write @/slow/b", "ok"),
        ("read @/slow/a", "ok"),
        ("read @/slow/a", "EAGAIN"),
        ("read @/slow/b", "EAGAIN"),
    ])?;
    Ok(PASS)
}

const ASK: &str = "[[file]]\nname = \"ask\"\naction = \"escalate\"\nhold = \"refuse\"\npaths = [\"@/asked\"]\ntimeout = \"5m\"\n";

fn an_approved_open_passes_once() -> Outcome {
    let agent = Agent::new("approved", ASK)?;
    agent.file("asked")?;
    same(&agent.ask("read @/asked", "approve")?.join(" ").as_str(), &"EAGAIN ok EAGAIN")
}

fn a_rejected_open_is_refused() -> Outcome {
    let agent = Agent::new("rejected", ASK)?;
    agent.file("asked")?;
    same(&agent.ask("read @/asked", "reject")?.join(" ").as_str(), &"EAGAIN EPERM EAGAIN")
}

fn audit_mode_refuses_nothing_and_tells_all() -> Outcome {
    let agent = Agent::new("audit", &format!("mode = \"audit\"\n{}{SECRET}", crate::governed::OPEN))?;
    agent.file("secret/key")?;
    agent.expect(&[("read @/secret/key", "ok"), ("create @/secret/new", "ok")])?;
    same(&agent.tally()?, &tally([("open block secret/key", 1), ("create block secret/new", 1)]))
}

fn a_process_outside_is_not_governed() -> Outcome {
    let agent = Agent::new("outside", SECRET)?;
    let key = agent.file("secret/key")?;
    agent.expect(&[("read @/secret/key", "EPERM")])?;
    let ends = shell(&format!("actor 'read {key}' 'write {key}' 'create {key}2'"))?;
    same(&ends, &"ok\nok\nok\n".to_owned())
}
