//! Real processes against a real kernel. One file per concept, each with its list of trials.

mod create;
mod exec;
mod file;
mod governed;
mod guest;
mod mark;
mod overlay;
mod preempt;
mod trial;
mod uring;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut trials = guest::trials();
    if trial::booted().is_some() {
        let governed = [
            create::trials(),
            exec::trials(),
            file::trials(),
            mark::trials(),
            overlay::trials(),
            preempt::trials(),
            uring::trials(),
            work::trials(),
        ];
        trials.extend(governed.into_iter().flatten());
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
