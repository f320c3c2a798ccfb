//! Many tasks at once: busy threads, threads of real-time priority, a fork bomb.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Came;
use crate::sys::try_open;

/// Does what a verb says; nothing for a verb of another family.
pub(super) fn act(verb: &str, arguments: &[&str]) -> Option<Came> {
    Some(match (verb, arguments) {
        ("threads", [path, count, go]) => busy(path, number(count), go),
        ("preempt", [forbidden, allowed, opens, order]) => {
            Ok(preempt(forbidden, allowed, number(opens).into(), *order == "rr"))
        }
        ("bomb", [path, seconds]) => bomb(path, number(seconds)),
        _ => return None,
    })
}

fn number(word: &str) -> u32 {
    word.parse().unwrap_or(1)
}

static STOP: AtomicBool = AtomicBool::new(false);

/// So many threads open the path over and over. Prints `ready` once each has; when the file `GO` has
/// appeared, each thread opens once more and the results are counted; then one thread execs and opens again.
fn busy(path: &str, count: u32, go: &str) -> Came {
    let opened = AtomicU32::new(0);
    let refused = AtomicU32::new(0);
    let after = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..count {
            let (opened, refused, after) = (&opened, &refused, &after);
            scope.spawn(move || {
                let mut first = true;
                while !STOP.load(SeqCst) {
                    if try_open(path, libc::O_RDONLY).is_ok() && first {
                        opened.fetch_add(1, SeqCst);
                        first = false;
                    }
                    thread::yield_now();
                }
                if try_open(path, libc::O_RDONLY) == Err(Errno::EPERM) {
                    refused.fetch_add(1, SeqCst);
                }
                after.fetch_add(1, SeqCst);
                // One that is not the leader goes on as another program, once all have been counted.
                if number == count - 1 {
                    while after.load(SeqCst) < count {
                        thread::sleep(Duration::from_millis(5));
                    }
                    println!("{} of {count} refused", refused.load(SeqCst));
                    let error = exec(path);
                    println!("exec: {error}");
                }
                loop {
                    thread::sleep(Duration::from_secs(1));
                }
            });
        }
        while opened.load(SeqCst) < count {
            thread::sleep(Duration::from_millis(5));
        }
        println!("ready");
        while !fs::exists(go).unwrap_or(false) {
            thread::sleep(Duration::from_millis(5));
        }
        STOP.store(true, SeqCst);
    });
    Ok("ended".into())
}

fn exec(path: &str) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    match std::env::current_exe() {
        Ok(actor) => Command::new(actor).arg(format!("read {path}")).exec(),
        Err(error) => error,
    }
}

/// Two threads of real-time priority on one processor, one for each path: of the same priority, taking turns, or of two.
/// Tells how many opens were judged wrongly, of how many.
fn preempt(forbidden: &str, allowed: &str, opens: u64, rr: bool) -> String {
    let done = AtomicU64::new(0);
    let taken = AtomicU64::new(0);
    let (passed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        // The one of higher priority sleeps between its opens, and wakes in the middle of the other's.
        let open = |path: &str, priority: i32, wrong: &AtomicU64, expected: Result<(), Errno>, nap: bool| {
            if let Err(errno) = real_time(if rr { libc::SCHED_RR } else { libc::SCHED_FIFO }, priority) {
                println!("real time: {errno:?}");
                return;
            }
            let mut turn = 0_u64;
            while done.fetch_add(1, SeqCst) < opens {
                if try_open(path, libc::O_RDONLY) != expected {
                    wrong.fetch_add(1, SeqCst);
                }
                if nap {
                    turn =
                        turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    thread::sleep(Duration::from_nanos(turn >> 33 & 0xffff));
                }
            }
            taken.fetch_add(losses_of_the_processor(), SeqCst);
        };
        let (passed, refused) = (&passed, &refused);
        scope.spawn(move || open(forbidden, if rr { 5 } else { 10 }, passed, Err(Errno::EPERM), true));
        scope.spawn(move || open(allowed, 5, refused, Ok(()), rr));
    });
    format!(
        "{} forbidden passed, {} allowed refused, of {opens}; the processor was taken {} times",
        passed.load(SeqCst),
        refused.load(SeqCst),
        taken.load(SeqCst)
    )
}

/// How often the processor was taken from the calling thread while it would have gone on.
fn losses_of_the_processor() -> u64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)
        .map_or(0, |usage| usage.involuntary_context_switches().cast_unsigned())
}

/// Makes the calling thread one of real-time priority, on processor 0.
fn real_time(order: i32, priority: i32) -> Result<(), Errno> {
    // SAFETY: zeros are a set of processors and the arguments live through the calls.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        Errno::result(libc::sched_setaffinity(0, size_of_val(&set), &raw const set))?;
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = priority;
        // Not musl's own function, which refuses all but the default.
        Errno::result(libc::syscall(libc::SYS_sched_setscheduler, 0, order, &raw const parameters))?;
    }
    Ok(())
}

/// Forks without end, each child opening the path first, and telling by a pipe how that went. Tells how many there were,
/// and how forks failed.
fn bomb(path: &str, seconds: u32) -> Came {
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let path = crate::sys::path(path);
    let (from, to) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC)?;
    let (mut born, mut lived, mut errors) = (0_u64, 0_u64, std::collections::BTreeMap::<String, u64>::new());
    let mut escaped = 0_u64;
    let mut count = |bytes: &[u8]| {
        for byte in bytes {
            if *byte == b'!' {
                escaped += 1;
            } else {
                lived += 1;
            }
        }
    };
    let mut buffer = [0; 4096];
    while Instant::now() < until {
        // SAFETY: the process has one thread; the child only makes system calls and ends.
        match Errno::result(unsafe { libc::fork() }) {
            Ok(0) => child(&path, &to),
            Ok(_) => born += 1,
            Err(errno) => {
                *errors.entry(format!("{errno:?}")).or_default() += 1;
                thread::sleep(Duration::from_millis(1));
            }
        }
        if let Ok(length) = nix::unistd::read(&from, &mut buffer) {
            count(buffer.get(..length).unwrap_or_default());
        }
    }
    thread::sleep(Duration::from_secs(1));
    while let Ok(length) = nix::unistd::read(&from, &mut buffer) {
        count(buffer.get(..length).unwrap_or_default());
        if length == 0 {
            break;
        }
    }
    let told = format!("{born} born, {lived} governed, {escaped} escaped, refused {errors:?}");
    // The children sleep; their group ends with this process's.
    // SAFETY: a call without pointers; the agent has a group of its own.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        libc::kill(0, libc::SIGTERM);
    }
    Ok(told)
}

/// Opens, tells, and stays for a while, so that memory fills.
fn child(path: &std::ffi::CStr, to: &std::os::fd::OwnedFd) -> ! {
    // SAFETY: plain system calls with pointers that live through them.
    unsafe {
        let opened = libc::open(path.as_ptr(), libc::O_RDONLY);
        let byte: u8 = if opened >= 0 { b'!' } else { b'.' };
        libc::write(std::os::fd::AsRawFd::as_raw_fd(to), (&raw const byte).cast(), 1);
        libc::sleep(60);
        libc::_exit(0);
    }
}
