//! The end-to-end suite in guests, several of them side by side.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::reader::Reader;
use super::tally::Stage;
use crate::build::Built;
use crate::progress::say;
use crate::vm::kernel::Kernel;
use crate::vm::qemu::{Accelerator, Limits, Stream};
use crate::vm::{Guest, accelerator};

/// How many guests run at once. Emulation keeps a processor busy only while the guest has work,
/// and the suite often waits, so two processors carry more than one guest.
const AT_ONCE: usize = 2;

const LIMITS: Limits =
    Limits { whole: Some(Duration::from_secs(60 * 60)), silence: Some(Duration::from_secs(5 * 60)) };

/// Tests that need a kernel which may take the processor from a task at any point. They run in a
/// boot of their own, since all others should meet the kernel as it comes.
const PREEMPT: &str = "preempt::";

/// One boot of a kernel and what to run in it.
struct Boot {
    kernel: Kernel,
    append: &'static str,
    arguments: Vec<OsString>,
}

/// Runs the suite on each kernel. The binaries must be built and the kernels there.
pub(super) fn run(
    kernels: &[Kernel],
    built: &Built,
    variables: &[(&str, String)],
    filter: Option<&str>,
) -> Result<Vec<Stage>> {
    let Some(&first) = kernels.first() else { return Ok(Vec::new()) };
    // Asked before the guests start, and not by each of them.
    let accelerator = accelerator::best(first)?;
    let boots: Vec<_> = kernels.iter().flat_map(|&kernel| boots(kernel, filter)).collect();
    let results: Vec<_> = boots.iter().map(|_| Mutex::new(None)).collect();
    let queue = Mutex::new(boots.iter().zip(&results));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    // Taken in a statement of its own, so that the queue is free while a guest runs.
                    let next = lock(&queue).next();
                    let Some((boot, result)) = next else { return };
                    let stage = suite(boot, built, variables, accelerator, filter.is_some());
                    *lock(result) = Some(stage);
                }
            });
        }
    });
    Ok(results.iter().filter_map(|result| lock(result).take()).collect())
}

/// What a panicking thread left is still a result.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn boots(kernel: Kernel, filter: Option<&str>) -> Vec<Boot> {
    let plain = Boot { kernel, append: "", arguments: arguments(filter) };
    let preempt = Boot {
        kernel,
        append: "preempt=full",
        arguments: harness(Some(filter.filter(|filter| filter.starts_with(PREEMPT)).unwrap_or(PREEMPT))),
    };
    match filter {
        None => vec![plain, preempt],
        Some(filter) if filter.starts_with(PREEMPT) => vec![preempt],
        Some(_) => vec![plain],
    }
}

/// The suite's arguments where the kernel is as it comes.
pub(super) fn arguments(filter: Option<&str>) -> Vec<OsString> {
    let mut arguments = harness(filter);
    arguments.extend(["--skip", PREEMPT].map(OsString::from));
    arguments
}

fn harness(filter: Option<&str>) -> Vec<OsString> {
    ["--color", "never"].into_iter().chain(filter).map(OsString::from).collect()
}

fn suite(
    boot: &Boot,
    built: &Built,
    variables: &[(&str, String)],
    accelerator: Accelerator,
    filtered: bool,
) -> Stage {
    let start = Instant::now();
    let mut command = vec![OsString::from("env")];
    command.extend(variables.iter().map(|(name, value)| format!("{name}={value}").into()));
    command.push("e2e".into());
    command.extend(boot.arguments.iter().cloned());
    let guest = Guest {
        kernel: boot.kernel,
        accelerator,
        // With several the emulator runs in several threads, and the kernel patching its own text has ended guests.
        processors: 1,
        memory_mib: 2048,
        append: boot.append.into(),
        dir: None,
        programs: vec![built.suite.clone()],
        limits: LIMITS,
        command,
    };
    let name = format!("vm {}", guest.name());
    say(format_args!("test: {name} …"));
    let mut reader = Reader::new(Some(guest.name()));
    let mut complaints = Reader::new(Some(guest.name()));
    let ended = guest.run(&mut |stream, bytes| match stream {
        Stream::Out => show(io::stdout(), &reader.read(bytes)),
        Stream::Err => show(io::stderr(), &complaints.read(bytes)),
    });
    let tally = match ended {
        Ok(code) => {
            let mut tally = reader.end(code == 0);
            // A guest has what the suite needs: where all of it was skipped, the guest is the wrong one.
            if tally.passed == 0 && tally.failed.is_empty() && !filtered {
                tally.fail("guest", "every test was skipped");
            }
            tally
        }
        Err(error) => {
            let mut tally = reader.lost();
            tally.fail("guest", format!("{error:#}"));
            tally
        }
    };
    Stage { name, tally, seconds: start.elapsed().as_secs_f64() }
}

/// Nobody to read it is no reason to end the guest.
fn show(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
