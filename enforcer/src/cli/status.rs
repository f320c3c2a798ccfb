//! `enforcer status`

use super::{
    Shared,
    exit::{Exit, Problem},
    output::{Output, span, time},
    runtime,
};
use crate::{control::api::StatusView, kernel::probe::NETWORK_ONLY};
use jiff::SignedDuration;

/// Say how the daemon is, what it lost and what the canary saw
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(Args {}: &Args, shared: &Shared, output: &Output) -> Result<Exit, Problem> {
    let status: StatusView = runtime()?.block_on(shared.client().get("/status"))?;
    output.data(&status, told);
    Ok(Exit::Done)
}

fn told(status: &StatusView) -> String {
    let governed = match &status.lsm_lack {
        None => "network, files and programs".to_owned(),
        Some(lack) => format!("the network only: {lack}"),
    };
    let canary = match &status.canary {
        None => "has not flown yet".to_owned(),
        Some(seen) if seen.ok => format!("enforcement is on, seen at {}", time(seen.at)),
        Some(seen) => match &seen.error {
            Some(error) => format!("could not try at {}: {error}", time(seen.at)),
            None => {
                let bad: Vec<_> =
                    seen.trials.iter().filter(|trial| !trial.ok).map(|trial| trial.family.as_str()).collect();
                format!("NOT ENFORCED at {}: {}", time(seen.at), bad.join(", "))
            }
        },
    };
    let losses = &status.losses;
    let lost = [
        (losses.alerts, "refusals and escalations"),
        (losses.events, "other events"),
        (losses.counts, "counts"),
        (losses.forks, "forks refused"),
        (losses.marks, "tasks not marked"),
        (losses.scratch, "decisions without memory"),
        (losses.file, "lines of the file of events"),
    ];
    let lost: Vec<_> = lost.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let skipped: u64 = status.programs.iter().map(|program| program.recursion_misses).sum();
    let kind = if status.transient { "for runs" } else { "service" };
    let mut lines = vec![
        (
            "daemon",
            format!(
                "{} {kind}, process {}, up {}",
                status.version,
                status.pid,
                span(SignedDuration::from_secs(status.uptime as i64))
            ),
        ),
        ("governed", governed),
    ];
    if status.lsm_lack.is_some() {
        lines.extend(NETWORK_ONLY.map(|what| ("", what.to_owned())));
    }
    lines.extend([
        ("canary", canary),
        ("agents", agents(status)),
        ("waiting", status.pending.to_string()),
        ("held", status.held.to_string()),
        ("lost", if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") }),
        ("pins", format!("{}{}", status.pins.display(), if status.taken_over { ", taken over" } else { "" })),
        ("cgroups", status.cgroup_root.display().to_string()),
    ]);
    if !status.missing.is_empty() {
        lines.push(("ALARM", format!("programs are not attached: {}", status.missing.join(", "))));
    }
    if skipped > 0 {
        lines.push(("ALARM", format!("programs were skipped {skipped} times")));
    }
    lines.iter().map(|(what, text)| format!("{what:<9} {text}\n")).collect()
}

fn agents(status: &StatusView) -> String {
    match status.frozen {
        0 => status.agents.to_string(),
        frozen => format!("{}, {frozen} frozen", status.agents),
    }
}

#[cfg(test)]
mod tests {
    use super::told;
    use crate::control::api::{LossesView, StatusView};
    use jiff::Timestamp;

    #[test]
    fn a_status_can_be_read_at_night() {
        let status = StatusView {
            version: "0.1.0".into(),
            layout_version: 1,
            pid: 77,
            transient: false,
            lsm: false,
            lsm_lack: Some("the kernel refuses LSM programs although it has them: EPERM".into()),
            agents: 2,
            frozen: 1,
            pending: 1,
            held: 3,
            losses: LossesView { alerts: 0, events: 7, counts: 0, forks: 1, marks: 0, scratch: 0, file: 0 },
            canary: None,
            pins: "/sys/fs/bpf/enforcer".into(),
            cgroup_root: "/sys/fs/cgroup/enforcer".into(),
            since: Timestamp::UNIX_EPOCH,
            uptime: 252,
            taken_over: true,
            programs: vec![],
            missing: vec!["cg_connect4".into()],
        };
        insta::assert_snapshot!(told(&status), @r"
        daemon    0.1.0 service, process 77, up 4m 12s
        governed  the network only: the kernel refuses LSM programs although it has them: EPERM
                  a process that leaves its agent's cgroup, which root can, is governed no longer, and may use the control socket
                  sockets that were made outside of the agent pass, wherever they connect and send
                  connects of UDP-Lite, and raw and packet sockets, pass
        canary    has not flown yet
        agents    2, 1 frozen
        waiting   1
        held      3
        lost      7 other events, 1 forks refused
        pins      /sys/fs/bpf/enforcer, taken over
        cgroups   /sys/fs/cgroup/enforcer
        ALARM     programs are not attached: cg_connect4
        ");
    }
}
