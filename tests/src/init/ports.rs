//! The ways out of the machine: the command's output, its errors, and how it ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::{Context, Result};

const PORTS: &str = "/sys/class/virtio-ports";

/// How long output may still come once every process but this one is dead.
const DRAIN: Duration = Duration::from_secs(5);

/// How often and how long a port is waited for: five seconds in all.
const TRIES: u32 = 500;
const PATIENCE: Duration = Duration::from_millis(10);

pub(crate) struct Ports {
    out: Option<File>,
    err: Option<File>,
    result: File,
    copies: Vec<mpsc::Receiver<()>>,
}

impl Ports {
    /// A guest with a terminal has no ports for output, but always one for the result.
    pub(crate) fn find(terminal: bool) -> Result<Self> {
        let output = |name| if terminal { Ok(None) } else { open(name).map(Some) };
        Ok(Self { out: output("out")?, err: output("err")?, result: open("result")?, copies: Vec::new() })
    }

    /// Copies the command's two streams out until they end. The command gets pipes and not the
    /// ports themselves, since a port cannot be opened twice and `/dev/stdout` would fail.
    pub(crate) fn carry(
        &mut self,
        out: Option<impl Read + Send + 'static>,
        err: Option<impl Read + Send + 'static>,
    ) {
        if let (Some(from), Some(to)) = (out, self.out.take()) {
            self.copies.push(copy(from, to));
        }
        if let (Some(from), Some(to)) = (err, self.err.take()) {
            self.copies.push(copy(from, to));
        }
    }

    /// Says to whoever gave the command why it did not start.
    pub(crate) fn complain(&mut self, what: &str) {
        let said = self.err.as_mut().map(|port| writeln!(port, "{what}"));
        if !matches!(said, Some(Ok(()))) {
            eprintln!("init: {what}");
        }
    }

    /// Waits for what was printed, then says how the command ended. The machine goes away after.
    pub(crate) fn report(mut self, code: i32) -> Result<()> {
        for copy in self.copies {
            // A copy that does not end in time is given up: the result matters more.
            let _ = copy.recv_timeout(DRAIN);
        }
        writeln!(self.result, "exit {code}").context("report the result")
    }
}

/// Opens a port by its name, which the machine tells the kernel a moment after the port itself.
fn open(name: &str) -> Result<File> {
    for _ in 0..TRIES {
        if let Some(path) = find(name)? {
            return OpenOptions::new().write(true).open(&path).context(path.display());
        }
        thread::sleep(PATIENCE);
    }
    Err(format!("port `{name}` did not appear"))
}

fn find(name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(PORTS).context(PORTS)? {
        let entry = entry.context(PORTS)?;
        let label = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if label.trim() == name {
            return Ok(Some(PathBuf::from("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

fn copy(from: impl Read + Send + 'static, to: File) -> mpsc::Receiver<()> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        if let Err(error) = pump(from, to) {
            eprintln!("init: copy output: {error}");
        }
        // Nobody listens any more when the time to drain is over.
        let _ = done.send(());
    });
    ended
}

/// Not `io::copy`: that splices from a pipe, and a port answers 0, which means the end, as soon as
/// the pipe is empty (`port_fops_splice_write` in the kernel).
fn pump(mut from: impl Read, mut to: File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}
