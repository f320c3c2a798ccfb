//! A process that works on demand and says how long it took, so that the one that measures can put it into a cgroup
//! or let it restrict itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe};

/// What a worker answers when it could not do its work.
const FAILED: u64 = u64::MAX;

/// What a worker does with an order; `None` when it failed.
pub(crate) type Work = Box<dyn FnMut(u64) -> Option<u64>>;

/// A worker. It is ended when this is dropped.
pub(crate) struct Worker {
    pid: Pid,
    orders: File,
    answers: File,
}

impl Worker {
    /// Starts one, which first makes its work ready. No other thread may run in this process.
    pub(crate) fn start(prepare: impl FnOnce() -> Result<Work>) -> Result<Self> {
        let (orders_in, orders_out) = pipe().context("pipe")?;
        let (answers_in, answers_out) = pipe().context("pipe")?;
        // SAFETY: the process has one thread, so the child may do anything.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Child => {
                drop((orders_out, answers_in));
                serve(prepare, orders_in, answers_out);
            }
            ForkResult::Parent { child } => {
                let (orders, answers) = (File::from(orders_out), File::from(answers_in));
                let mut worker = Self { pid: child, orders, answers };
                worker.answer().context("prepare a worker")?;
                Ok(worker)
            }
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Has it do its work, and gives what that came to.
    pub(crate) fn order(&mut self, what: u64) -> Result<u64> {
        self.orders.write_all(&what.to_ne_bytes()).context("order")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<u64> {
        let mut answer = [0; 8];
        self.answers.read_exact(&mut answer).context("a worker ended")?;
        match u64::from_ne_bytes(answer) {
            FAILED => bail!("a worker failed"),
            answer => Ok(answer),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing its pipe would not do: later workers have inherited that. Should it be gone, all is well.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The worker's life.
fn serve(prepare: impl FnOnce() -> Result<Work>, orders: OwnedFd, answers: OwnedFd) -> ! {
    let (mut orders, mut answers) = (File::from(orders), File::from(answers));
    let mut work = match prepare() {
        Ok(work) => work,
        Err(error) => {
            eprintln!("enforcer-bench: {error:#}");
            Box::new(|_| None)
        }
    };
    let mut answer = |value: u64| answers.write_all(&value.to_ne_bytes()).is_ok();
    let mut order = [0; 8];
    let mut going = answer(0);
    while going && orders.read_exact(&mut order).is_ok() {
        going = answer(work(u64::from_ne_bytes(order)).unwrap_or(FAILED));
    }
    // SAFETY: ends this process at once; what its parent holds is not dropped twice.
    unsafe { libc::_exit(0) }
}
