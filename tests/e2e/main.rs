//! Real processes against a real kernel. One file per concept, each with its list of trials.
#![allow(clippy::indexing_slicing, reason = "a JSON value gives null for what it does not have")]

mod acts;
mod attach;
mod cases;
mod create;
mod daemon;
mod exec;
mod file;
mod freeze;
mod governed;
mod guest;
mod held;
mod mark;
mod network;
mod nonblocking;
mod outlive;
mod overlay;
mod pause;
mod preempt;
mod programs;
mod replace;
mod run;
mod socket;
mod systemd;
mod trial;
mod uring;
mod verdicts;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // They share one daemon and its file of events; what they measure is theirs alone.
    arguments.test_threads = Some(1);
    let trials = [
        guest::trials(),
        programs::trials(),
        // Before those that make more events than the rings have room for: it is told that nothing was lost.
        run::trials(),
        network::trials(),
        socket::trials(),
        acts::trials(),
        verdicts::trials(),
        replace::trials(),
        cases::trials(),
        nonblocking::trials(),
        pause::trials(),
        attach::trials(),
        daemon::trials(),
        outlive::trials(),
        // The last of it unloads the spare daemon.
        freeze::trials(),
        governed::trials(&[
            create::trials,
            exec::trials,
            file::trials,
            held::trials,
            mark::trials,
            overlay::trials,
            preempt::trials,
            systemd::trials,
            uring::trials,
            work::trials,
        ]),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    enforcer_tests::harness::Daemon::end_shared();
    conclusion.exit_code()
}
