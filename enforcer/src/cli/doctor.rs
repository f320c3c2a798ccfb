//! `enforcer doctor`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, table},
    reach::reach_or_start,
    runtime,
};
use crate::{
    control::api::{CanaryView, StatusView, chain},
    daemon::{Config, Settings},
    kernel::{
        Governing,
        hierarchy::Hierarchy,
        pin::{Pins, State},
        probe::{LsmLack, NETWORK_ONLY, Probe},
    },
};
use serde::Serialize;

/// Say what this machine can and cannot do, with the fix for each
///
/// The last lines are the canary's: a process in an agent of its own tries, for each family of hooks, an action that must
/// be refused and one that must pass. Exits with 1 when something is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look only, and have no canary fly: needs no daemon and loads nothing
    #[arg(long)]
    no_canary: bool,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    check: String,
    ok: bool,
    detail: String,
    fix: Option<String>,
}

impl Check {
    fn new<E: std::error::Error>(check: &str, result: Result<String, &E>, fix: &str) -> Self {
        match result {
            Ok(detail) => Self { check: check.to_owned(), ok: true, detail, fix: None },
            Err(error) => {
                Self { check: check.to_owned(), ok: false, detail: chain(error), fix: Some(fix.to_owned()) }
            }
        }
    }

    fn good(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), ok: true, detail: detail.into(), fix: None }
    }

    /// What is as it was meant to be, and should be known all the same.
    fn note(check: &str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { ok: true, ..Self::bad(check, detail, fix) }
    }

    fn state(&self) -> &'static str {
        match (self.ok, &self.fix) {
            (true, None) => "ok",
            (true, Some(_)) => "note",
            (false, _) => "FAIL",
        }
    }

    fn bad(check: &str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.to_owned(), ok: false, detail: detail.into(), fix: Some(fix.into()) }
    }
}

pub(super) fn run(args: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let config = Config { socket: shared.socket_flag(), ..Config::default() };
    let file = Config::read(None).map_err(|error| Problem::of(Exit::Usage, &error))?;
    let settings = Settings::from(config.or(file));
    let probe = Probe::run();
    let mut checks = machine(&settings, &probe);
    let mut lsm = settings.governing != Governing::NetworkOnly && probe.lsm.is_ok();
    if !args.no_canary {
        let (seen, governs) = runtime()?.block_on(alive(shared));
        checks.extend(seen);
        lsm = governs.unwrap_or(lsm);
    }
    if !lsm {
        checks.extend(without_lsm());
    }
    output.data(&checks, |checks| listed(checks));
    Ok(if checks.iter().all(|check| check.ok) { Exit::Done } else { Exit::Failed })
}

/// What can be seen without a daemon.
fn machine(settings: &Settings, probe: &Probe) -> Vec<Check> {
    let mut checks = vec![Check::good("kernel", probe.release.clone())];
    checks.extend(hierarchy(settings));
    checks.push(Check::new(
        "cgroup programs",
        probe.cgroup.as_ref().map(|()| "they load".to_owned()),
        "run as root; the kernel needs CONFIG_CGROUP_BPF, and no lockdown of bpf()",
    ));
    checks.push(Check::new(
        "kernel types",
        probe.offsets.as_ref().map(|fields| format!("all {} fields are there", fields.len())),
        "the kernel needs CONFIG_DEBUG_INFO_BTF; a field that is missing needs another version of enforcer",
    ));
    let lsm = probe.lsm.as_ref().map(|()| "files and programs can be governed too".to_owned());
    checks.push(Check::new("BPF LSM", lsm, probe.lsm.as_ref().err().map_or("", lsm_fix)));
    checks.push(pins(settings));
    checks
}

/// What the network alone comes to.
fn without_lsm() -> [Check; 3] {
    NETWORK_ONLY.map(|what| {
        Check::note(
            "network only",
            what,
            "have agents run as a user (`enforcer run --user`), or govern with BPF LSM",
        )
    })
}

fn lsm_fix(lack: &LsmLack) -> &'static str {
    match lack {
        LsmLack::Version { .. } => "boot a kernel of 6.2 or later, or 6.1.54 or later of its line",
        LsmLack::NotBuilt { .. } => "boot a kernel with CONFIG_BPF_LSM=y",
        LsmLack::NotActive { .. } => {
            "add `bpf` to `lsm=` on the kernel's command line (as in `lsm=landlock,lockdown,yama,apparmor,bpf`) and reboot"
        }
        LsmLack::Refused { .. } => {
            "run as root; if it stays, this machine's owner has locked them: use policies on the network only"
        }
        LsmLack::NotWanted => "`enforcer unload`, then start the daemon without `--network-only`",
        LsmLack::Types(_) => "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
    }
}

fn hierarchy(settings: &Settings) -> Vec<Check> {
    let found = Hierarchy::find().and_then(|found| {
        let root = found.agents_root(settings.cgroup_root.as_deref())?;
        Ok((found, root))
    });
    match found {
        Err(error) => {
            vec![Check::bad("cgroup v2", chain(&error), "mount it, and run enforcer outside of containers")]
        }
        Ok((found, root)) => {
            let controllers = found.controllers();
            let controllers =
                if controllers.is_empty() { "no controllers".to_owned() } else { controllers.join(" ") };
            vec![Check::good(
                "cgroup v2",
                format!(
                    "at `{}` ({controllers}); agents go below `{}`",
                    found.mount().display(),
                    root.path().display()
                ),
            )]
        }
    }
}

fn pins(settings: &Settings) -> Check {
    let dir = settings.pins.display();
    match Pins::new(&settings.pins).state() {
        Ok(State::Absent) => Check::good("pins", format!("nothing under `{dir}` yet")),
        Ok(State::Complete(meta)) => {
            let what = if meta.lsm == 1 { "network, files and programs" } else { "the network" };
            Check::good("pins", format!("`{dir}` governs {what}"))
        }
        Ok(State::HalfMade) => {
            Check::bad("pins", format!("`{dir}` is not complete"), "start the daemon, which makes them anew")
        }
        Ok(State::Foreign(version)) => {
            Check::bad("pins", format!("`{dir}` has layout version {version}"), "run `enforcer unload`")
        }
        Err(error) => {
            Check::bad("pins", chain(&error), "run as root; `enforcer unload --force` removes them")
        }
    }
}

/// What only a daemon can tell; and whether it governs more than the network.
async fn alive(shared: &Shared) -> (Vec<Check>, Option<bool>) {
    let told = async {
        let client = reach_or_start(shared).await?;
        let status: StatusView = client.get("/status").await?;
        let seen: CanaryView = client.post("/canary", &()).await?;
        Ok::<_, Problem>((status, seen))
    };
    match told.await {
        Err(problem) => {
            let fix = problem.hint.unwrap_or_else(|| "see its log".to_owned());
            (vec![Check::bad("daemon", problem.message, fix)], None)
        }
        Ok((status, seen)) => {
            let mut checks =
                vec![Check::good("daemon", format!("version {}, process {}", status.version, status.pid))];
            if !status.missing.is_empty() {
                let missing = format!("not attached: {}", status.missing.join(", "));
                checks.push(Check::bad(
                    "programs",
                    missing,
                    "stop the daemon, `enforcer unload --force`, start it again",
                ));
            }
            let skipped: u64 = status.programs.iter().map(|program| program.recursion_misses).sum();
            if skipped > 0 {
                checks.push(Check::bad(
                    "programs",
                    format!("they were skipped {skipped} times"),
                    "use another kernel",
                ));
            }
            checks.extend(flown(&seen));
            (checks, Some(status.lsm))
        }
    }
}

fn flown(seen: &CanaryView) -> Vec<Check> {
    if let Some(error) = &seen.error {
        return vec![Check::bad("canary", format!("it could not try: {error}"), "see the daemon's log")];
    }
    let one = |trial: &crate::control::api::Trial| {
        let name = format!("canary: {}", trial.family);
        let detail = format!("what must be refused: {}; what must pass: {}", trial.refused, trial.allowed);
        if trial.ok {
            Check::good(&name, detail)
        } else {
            Check::bad(
                &name,
                detail,
                "NOTHING IS ENFORCED HERE: `enforcer unload`, start again, and report it if it stays",
            )
        }
    };
    seen.trials.iter().map(one).collect()
}

fn listed(checks: &[Check]) -> String {
    let rows: Vec<_> = checks
        .iter()
        .map(|check| vec![check.state().to_owned(), check.check.clone(), check.detail.clone()])
        .collect();
    let mut out = table(&["", "CHECK", "FOUND"], &rows);
    let mut told = None;
    for check in checks {
        if let Some(fix) = check.fix.as_ref().filter(|fix| told != Some(*fix)) {
            out.push_str(&format!("\n{}: {fix}\n", check.check));
            told = Some(fix);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Check, listed, without_lsm};

    #[test]
    fn what_fails_comes_with_its_fix() {
        let checks =
            [Check::good("kernel", "6.12.1"), Check::bad("BPF LSM", "not active", "add it to `lsm=`")];
        let checks = checks.into_iter().chain(without_lsm()).collect::<Vec<_>>();
        insta::assert_snapshot!(listed(&checks), @r"
              CHECK         FOUND
        ok    kernel        6.12.1
        FAIL  BPF LSM       not active
        note  network only  a process that leaves its agent's cgroup, which root can, is governed no longer, and may use the control socket
        note  network only  sockets that were made outside of the agent pass, wherever they connect and send
        note  network only  connects of UDP-Lite, and raw and packet sockets, pass

        BPF LSM: add it to `lsm=`

        network only: have agents run as a user (`enforcer run --user`), or govern with BPF LSM
        ");
    }
}
