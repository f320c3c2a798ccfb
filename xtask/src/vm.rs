//! Guests: a kernel, a Debian root, the built binaries, perhaps a folder of the caller's, and one
//! command that runs inside as root.
//!
//! A guest starts from the same state every time: whatever it writes is forgotten with it. It has
//! no network but its own loopback. See `tests/src/init` for what happens inside.

pub(crate) mod accelerator;
mod console;
mod disk;
mod initramfs;
pub(crate) mod kernel;
pub(crate) mod qemu;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::console::Console;
use self::kernel::Kernel;
use self::qemu::{Accelerator, End, Limits, Machine, Stream};
use crate::progress::say;
use crate::setup::{self, Need};
use crate::{build, tree};

/// What a guest has in its environment, beside what the caller adds.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("PATH", "/opt/enforcer/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("TERM", "xterm"),
    (tree::POLICIES, "/opt/enforcer/policies"),
    (tree::CASES, "/opt/enforcer/cases"),
];

/// How often a guest is booted whose kernel panics before the command has printed anything. Under emulation on several
/// processors a kernel that changes its own code now and then runs into the breakpoint that it has put there itself.
const BOOTS: u32 = 3;

/// Boot a kernel with the built binaries (/opt/enforcer/bin, on PATH) and run a command as root.
/// What the guest writes is forgotten. Exits with the command's code.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel to boot
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Kernel,
    /// A folder to copy to /mnt/dir, where the command then starts
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Add to the kernel's command line, as in --append preempt=full
    #[arg(long, default_value = "")]
    append: String,
    /// Processors
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Let the guest's clock count instructions, on one processor: costs repeat to the digit
    #[arg(long, conflicts_with = "smp")]
    icount: bool,
    /// Give up after that many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    limit: u64,
    /// Give up after that many seconds without output
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    silence: u64,
    /// Use the binaries as they were last built
    #[arg(long)]
    no_build: bool,
    /// The command and its arguments; a shell without
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// One guest and its command.
pub(crate) struct Guest {
    pub(crate) kernel: Kernel,
    pub(crate) processors: u32,
    pub(crate) memory_mib: u32,
    pub(crate) accelerator: Accelerator,
    pub(crate) append: String,
    pub(crate) dir: Option<PathBuf>,
    /// Programs to put beside the built binaries.
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) limits: Limits,
    /// Nothing stands for a shell on this terminal.
    pub(crate) command: Vec<OsString>,
}

/// `cargo xtask vm`.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let programs = if args.no_build { Vec::new() } else { vec![build::all()?.suite] };
    let shell = args.command.is_empty();
    if shell && !io::stdin().is_terminal() {
        bail!("no terminal for a shell: give a command after `--`");
    }
    let seconds = |seconds| Some(Duration::from_secs(seconds)).filter(|_| !shell);
    setup::ensure(&Guest::needs(args.kernel))?;
    let guest = Guest {
        kernel: args.kernel,
        processors: if args.icount { 1 } else { args.smp },
        memory_mib: args.memory,
        accelerator: if args.icount { Accelerator::Counting } else { accelerator::best(args.kernel)? },
        append: args.append,
        dir: args.dir,
        programs,
        limits: Limits { whole: seconds(args.limit), silence: seconds(args.silence) },
        command: args.command,
    };
    exit(guest.run(&mut pass_on)?)
}

/// The command's exit code as this program's own: a byte on both sides.
pub(crate) fn exit(code: i32) -> Result<ExitCode> {
    u8::try_from(code).map(ExitCode::from).with_context(|| format!("exit code {code}"))
}

/// What comes from the guest goes where it would have gone here. Nobody to read it is no reason
/// to end the guest.
pub(crate) fn pass_on(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Out => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Err => io::stderr().write_all(bytes),
    };
}

impl Guest {
    /// What a guest of this kernel needs to be installed.
    pub(crate) fn needs(kernel: Kernel) -> [Need; 3] {
        [Need::Qemu, Need::Kernel(kernel), Need::GuestRoot]
    }

    /// Boots, passes on what the command prints, and returns its exit code. A guest that does not
    /// come to report one is an error, and its console is kept. What [`Self::needs`] names must be
    /// there, and the binaries built.
    pub(crate) fn run(&self, print: &mut dyn FnMut(Stream, &[u8])) -> Result<i32> {
        let folder = Folder::claim(&self.name())?;
        let machine = self.machine(&folder.path)?;
        let mut boots = 1;
        let (end, console) = loop {
            let mut is_silent = true;
            let end = qemu::run(&machine, self.limits, &mut |stream, bytes| {
                is_silent = false;
                print(stream, bytes);
            })?;
            let console = Console::read(&machine.console);
            let panicked = matches!(end, End::Lost(_)) && is_silent && console.panicked();
            if !panicked || boots == BOOTS {
                break (end, console);
            }
            boots += 1;
            let said = console.last_words();
            say(format_args!("kernel {}: it panicked before the command began; again\n{said}", self.name()));
        };
        match end {
            End::Exit(code) => {
                for alarm in console.alarms() {
                    say(format_args!("kernel {}: {alarm} ({})", self.name(), machine.console.display()));
                }
                Ok(code)
            }
            End::Lost(reason) => {
                let complaints = fs::read_to_string(&machine.complaints).unwrap_or_default();
                let said = console.last_words();
                let log = machine.console.display();
                bail!("kernel {}: {reason}\n{complaints}{said}\nconsole: {log}", self.name())
            }
        }
    }

    /// The kernel and what is special about its boot.
    pub(crate) fn name(&self) -> String {
        if self.append.is_empty() {
            self.kernel.to_string()
        } else {
            format!("{} {}", self.kernel, self.append)
        }
    }

    fn machine(&self, folder: &Path) -> Result<Machine> {
        let at = |name: &str| folder.join(name);
        initramfs::write(self.kernel, &at("initramfs"))?;
        self.payload(&at("payload"))?;
        disk::make(&at("payload"), &at("payload.ext4"))?;
        let mut disks = vec![setup::guest_image(), at("payload.ext4")];
        if let Some(dir) = &self.dir {
            disk::make(dir, &at("dir.ext4")).with_context(|| format!("copy {}", dir.display()))?;
            disks.push(at("dir.ext4"));
        }
        File::create(at("console.log")).context("console.log")?;
        Ok(Machine {
            accelerator: self.accelerator,
            processors: self.processors,
            memory_mib: self.memory_mib,
            vmlinuz: self.kernel.folder().join("vmlinuz"),
            initramfs: at("initramfs"),
            disks,
            append: self.append.clone(),
            console: at("console.log"),
            complaints: at("qemu.log"),
            terminal: self.command.is_empty(),
        })
    }

    /// What the guest finds at /opt/enforcer: programs, policies and cases of the tree, the job.
    fn payload(&self, payload: &Path) -> Result<()> {
        if payload.exists() {
            fs::remove_dir_all(payload).context("remove the last payload")?;
        }
        let bin = payload.join("bin");
        fs::create_dir_all(&bin).context("payload")?;
        for program in executables(&tree::binaries())?.iter().chain(&self.programs) {
            disk::place(program, &bin.join(plain_name(program)))?;
        }
        for (from, to) in [("policies", "policies"), ("tests/cases", "cases")] {
            let from = tree::root().join(from);
            if from.exists() {
                disk::place(&from, &payload.join(to))?;
            }
        }
        self.job(&payload.join("job"))
    }

    /// Files and not the kernel's command line carry the command: nothing in it needs quoting.
    fn job(&self, job: &Path) -> Result<()> {
        fs::create_dir_all(job).context("job")?;
        let write = |name: &str, strings: &[&OsStr]| {
            let bytes: Vec<u8> =
                strings.iter().flat_map(|s| s.as_bytes().iter().copied().chain([0])).collect();
            fs::write(job.join(name), bytes).with_context(|| format!("job: {name}"))
        };
        let shell = [OsString::from("bash"), OsString::from("-l")];
        let command = if self.command.is_empty() { &shell[..] } else { &self.command };
        write("argv", &command.iter().map(OsString::as_os_str).collect::<Vec<_>>())?;
        let release = self.kernel.release()?;
        let variables = ENVIRONMENT.into_iter().chain([("ENFORCER_KERNEL", release.as_str())]);
        write(
            "env",
            &variables.flat_map(|(name, value)| [OsStr::new(name), OsStr::new(value)]).collect::<Vec<_>>(),
        )?;
        write("cwd", &[OsStr::new(if self.dir.is_some() { "/mnt/dir" } else { "/root" })])?;
        if self.command.is_empty() {
            fs::write(job.join("terminal"), terminal_size()).context("job: terminal")?;
        }
        Ok(())
    }
}

/// Programs among what cargo leaves in a folder of binaries.
fn executables(folder: &Path) -> Result<Vec<PathBuf>> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}: build first", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_file() && about.permissions().mode() & 0o111 != 0 {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A program's name without the hash that cargo gives to tests.
fn plain_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('-') {
        Some((plain, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            plain.into()
        }
        _ => name.into_owned(),
    }
}

/// Rows and columns, or what a terminal has that tells nothing.
fn terminal_size() -> String {
    let size = std::process::Command::new("stty").arg("size").stdin(std::process::Stdio::inherit()).output();
    let size = size.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    size.map(|size| size.trim().to_owned())
        .filter(|size| size.contains(' '))
        .unwrap_or_else(|| "24 80".into())
}

/// A folder for one guest's images and console, nobody else's while it runs.
struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    fn claim(name: &str) -> Result<Self> {
        let name = name.replace([' ', '/'], "-");
        for number in 1.. {
            let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
            let path = tree::guests().join(name);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
            let lock = File::create(path.join(".lock")).with_context(|| path.display().to_string())?;
            if lock.try_lock().is_ok() {
                return Ok(Self { path, _lock: lock });
            }
        }
        bail!("no free folder below {}", tree::guests().display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for image in ["payload.ext4", "dir.ext4", "initramfs"] {
            // Each is made anew by the next guest.
            let _ = fs::remove_file(self.path.join(image));
        }
        if let Err(error) = fs::remove_dir_all(self.path.join("payload")) {
            say(format_args!("payload: {error}"));
        }
    }
}
