//! The emulator: how it is called, what comes out of it, and when it is given up.
//!
//! Four ways lead out of a guest, none of which can be taken for another: the command's output and
//! its errors, each through a port of its own; the result, through a third that only `init` has
//! open; and the console, which holds what the kernel says and goes into a file.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::command;

/// What every kernel is told: `bpf` among the security modules, warnings and what programs log on
/// the console, and an end instead of a wait when something is badly wrong. The timer is not checked: on a busy
/// machine the emulator's ticks come too late for that, and the guest panics.
const APPEND: &str = "console=ttyS0 loglevel=5 printk.devkmsg=on panic=-1 oops=panic no_timer_check \
     lsm=landlock,lockdown,yama,integrity,apparmor,bpf";

/// How often the limits are looked at.
const TICK: Duration = Duration::from_millis(200);

/// How long a guest that has reported may take to power off, and an emulator that has ended to
/// have its sockets read.
const FAREWELL: Duration = Duration::from_secs(10);

/// What runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// Emulation on as many host threads as the guest has processors.
    Emulation,
    /// Emulation in which the guest's clock counts instructions, so that costs repeat to the digit.
    Counting,
}

/// One machine, described.
pub(crate) struct Machine {
    pub(crate) accelerator: Accelerator,
    pub(crate) processors: u32,
    pub(crate) memory_mib: u32,
    pub(crate) vmlinuz: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// In the order in which the guest sees them.
    pub(crate) disks: Vec<PathBuf>,
    /// Added to the kernel's command line.
    pub(crate) append: String,
    /// What the kernel says, then what the emulator itself complains of.
    pub(crate) console: PathBuf,
    pub(crate) complaints: PathBuf,
    /// Whether the command gets this terminal instead of ports for its output.
    pub(crate) terminal: bool,
}

/// When a guest is given up.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) whole: Option<Duration>,
    /// Without a byte of output or from the kernel.
    pub(crate) silence: Option<Duration>,
}

/// Which of the command's streams a piece came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// How a guest ended.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The command's exit code, as `init` reported it.
    Exit(i32),
    /// No report: what is known instead.
    Lost(String),
}

/// Starts the machine and passes on what its command prints until it has ended.
pub(crate) fn run(machine: &Machine, limits: Limits, print: &mut dyn FnMut(Stream, &[u8])) -> Result<End> {
    let ports = Ports::open(machine.terminal)?;
    let child = start(machine, &ports)?;
    let mut guest = Guest {
        child,
        started: Instant::now(),
        heard: Instant::now(),
        console: machine.console.clone(),
        console_bytes: 0,
    };
    let (sender, pieces) = mpsc::channel();
    ports.read(&sender);
    drop(sender);
    guest.watch(&pieces, limits, print)
}

fn start(machine: &Machine, ports: &Ports) -> Result<Child> {
    // The emulator must not outlive this program, however that ends.
    let mut qemu = command("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    arguments(machine, ports, &mut qemu);
    if !machine.terminal {
        qemu.stdin(Stdio::null());
    }
    let complaints = &machine.complaints;
    qemu.stderr(fs::File::create(complaints).with_context(|| complaints.display().to_string())?);
    qemu.spawn().context("start qemu-system-x86_64")
}

fn arguments(machine: &Machine, ports: &Ports, qemu: &mut Command) {
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
    match machine.accelerator {
        Accelerator::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Emulation => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        Accelerator::Counting => qemu.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", "max"]),
    };
    qemu.arg("-smp").arg(machine.processors.to_string()).arg("-m").arg(format!("{}M", machine.memory_mib));
    qemu.arg("-kernel").arg(&machine.vmlinuz).arg("-initrd").arg(&machine.initramfs);
    qemu.arg("-append").arg(format!("{APPEND} {}", machine.append));
    qemu.arg("-serial").arg(format!("file:{}", escaped(&machine.console)));
    for disk in &machine.disks {
        qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,snapshot=on", escaped(disk)));
    }
    qemu.args(["-device", "virtio-serial-pci"]);
    for port in &ports.listeners {
        let path = ports.folder.join(port.name);
        qemu.arg("-chardev").arg(format!("socket,id={},path={}", port.name, escaped(&path)));
        qemu.arg("-device").arg(format!("virtserialport,chardev={0},name={0}", port.name));
    }
    if machine.terminal {
        qemu.args(["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"]);
    }
}

/// In the emulator's option lists a comma is written twice.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The sockets that the guest's ports lead to. Their folder is short, since a socket's path must be.
struct Ports {
    folder: PathBuf,
    listeners: Vec<Port>,
}

struct Port {
    name: &'static str,
    kind: PortKind,
    listener: UnixListener,
}

#[derive(Clone, Copy)]
enum PortKind {
    Output(Stream),
    Result,
}

enum Piece {
    Output(Stream, Vec<u8>),
    Result(Vec<u8>),
}

impl Ports {
    fn open(terminal: bool) -> Result<Self> {
        let unique = format!("enforcer-{}-{:?}", std::process::id(), thread::current().id());
        let folder = std::env::temp_dir().join(unique.replace(['(', ')'], ""));
        if folder.exists() {
            // Left by a run of the same number that was killed.
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut ports = Self { folder, listeners: Vec::new() };
        ports.add("result", PortKind::Result)?;
        if !terminal {
            ports.add("out", PortKind::Output(Stream::Out))?;
            ports.add("err", PortKind::Output(Stream::Err))?;
        }
        Ok(ports)
    }

    fn add(&mut self, name: &'static str, kind: PortKind) -> Result<()> {
        let listener =
            UnixListener::bind(self.folder.join(name)).with_context(|| format!("socket `{name}`"))?;
        self.listeners.push(Port { name, kind, listener });
        Ok(())
    }

    /// Reads each port in a thread of its own, so that a full one never stops the guest.
    fn read(&self, sender: &Sender<Piece>) {
        for port in &self.listeners {
            let (sender, kind) = (sender.clone(), port.kind);
            let Ok(listener) = port.listener.try_clone() else { continue };
            thread::spawn(move || read_port(&listener, kind, &sender));
        }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // A folder left in the system's temporary one harms nobody.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn read_port(listener: &UnixListener, kind: PortKind, sender: &Sender<Piece>) {
    let Ok((mut stream, _)) = listener.accept() else { return };
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        let piece = match kind {
            PortKind::Output(stream) => Piece::Output(stream, bytes),
            PortKind::Result => Piece::Result(bytes),
        };
        if sender.send(piece).is_err() {
            return;
        }
    }
}

struct Guest {
    child: Child,
    started: Instant,
    /// When anything last came from the guest.
    heard: Instant,
    console: PathBuf,
    console_bytes: u64,
}

impl Guest {
    fn watch(
        &mut self,
        pieces: &Receiver<Piece>,
        limits: Limits,
        print: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<End> {
        let mut report = Vec::new();
        // Since when there has been nothing to wait for but the end.
        let mut leaving = None;
        let lost = loop {
            match pieces.recv_timeout(TICK) {
                Ok(Piece::Output(stream, bytes)) => {
                    self.heard = Instant::now();
                    print(stream, &bytes);
                }
                Ok(Piece::Result(bytes)) => {
                    report.extend(bytes);
                    leaving.get_or_insert_with(Instant::now);
                }
                // The sockets are closed and all that they held was read.
                Err(RecvTimeoutError::Disconnected) => break "the guest ended without a report".into(),
                Err(RecvTimeoutError::Timeout) => {
                    if self.child.try_wait().context("wait for the emulator")?.is_some() {
                        leaving.get_or_insert_with(Instant::now);
                    }
                }
            }
            if leaving.is_some_and(|since: Instant| since.elapsed() > FAREWELL) {
                break "the emulator did not end".into();
            }
            if let Some(reason) = self.over(limits) {
                break reason;
            }
        };
        let status = self.end()?;
        Ok(match exit_code(&report) {
            Some(code) => End::Exit(code),
            None if status.success() => End::Lost(lost),
            None => End::Lost(format!("{lost} (emulator: {status})")),
        })
    }

    /// Which limit the guest has passed, if any.
    fn over(&mut self, limits: Limits) -> Option<String> {
        let bytes = fs::metadata(&self.console).map_or(0, |about| about.len());
        if bytes != self.console_bytes {
            self.console_bytes = bytes;
            self.heard = Instant::now();
        }
        if let Some(limit) = limits.silence.filter(|&limit| self.heard.elapsed() > limit) {
            return Some(format!("nothing was printed for {} s", limit.as_secs()));
        }
        let limit = limits.whole.filter(|&limit| self.started.elapsed() > limit)?;
        Some(format!("not done after {} s", limit.as_secs()))
    }

    fn end(&mut self) -> Result<ExitStatus> {
        // With its sockets closed it needs only a moment more.
        let patience = Instant::now();
        while patience.elapsed() < TICK {
            if let Some(status) = self.child.try_wait().context("wait for the emulator")? {
                return Ok(status);
            }
            thread::sleep(TICK / 20);
        }
        self.child.kill().context("end the emulator")?;
        self.child.wait().context("wait for the emulator")
    }
}

/// The one line that `init` reports.
fn exit_code(report: &[u8]) -> Option<i32> {
    std::str::from_utf8(report).ok()?.strip_prefix("exit ")?.strip_suffix('\n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_whole_line() {
        assert_eq!(exit_code(b"exit 3\n"), Some(3));
        assert_eq!(exit_code(b"exit 3"), None);
        assert_eq!(exit_code(b""), None);
        assert_eq!(exit_code(b"exit 0\nexit 1\n"), None);
    }
}
