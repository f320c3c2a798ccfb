//! Enforcer in the kernel, with pins and a cgroup of its own so that no other one is disturbed, and agents in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, bail};
use enforcer::agents::AgentId;
use enforcer::kernel::attach::ProgramReport;
use enforcer::kernel::hierarchy::{self, Hierarchy};
use enforcer::kernel::{Assignment, Governing, Kernel, LogLevel, Options};
use enforcer::policy::{CompiledTables, Look, PolicySource, check_source};
use nix::unistd::Pid;

/// What is loaded; taken away when dropped.
pub(crate) struct Governed {
    kernel: Kernel,
    agents: u64,
}

impl Governed {
    /// Loads everything, or the network's part alone.
    pub(crate) fn open(governing: Governing, kernel_log: Option<LogLevel>) -> Result<Self> {
        let name = format!("enforcer-bench-{}", process::id());
        let options = Options {
            pins: Path::new("/sys/fs/bpf").join(&name),
            cgroup_root: Some(Hierarchy::find()?.mount().join(&name)),
            governing,
            kernel_log,
        };
        let (kernel, _) = Kernel::open(&options).context("load enforcer")?;
        Ok(Self { kernel, agents: 0 })
    }

    /// Loads a policy and makes an agent under it: its cgroup, still empty.
    pub(crate) fn agent(&mut self, tables: &CompiledTables) -> Result<Cgroup> {
        self.agents += 1;
        let number = self.agents;
        let cgroup = Cgroup::make(self.kernel.root().path().join(format!("agent-{number}")))?;
        let slot = self.kernel.load_policy(number as u32, tables)?;
        let id = hierarchy::id(cgroup.path())?;
        let assignment = Assignment { slot, policy: number as u32, audit: false, cgroup: id };
        self.kernel.set_agent(AgentId(number), assignment)?;
        Ok(cgroup)
    }

    /// The kernel's side itself.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// What the kernel tells about one of the programs.
    pub(crate) fn program(&self, name: &str) -> Result<ProgramReport> {
        let (programs, _) = self.kernel.programs();
        programs.into_iter().find(|program| program.program == name).context("no such program")
    }
}

impl Drop for Governed {
    fn drop(&mut self) {
        let removed = self.kernel.unload().map_err(|error| error.to_string());
        if let Err(error) =
            removed.and_then(|()| self.kernel.root().remove().map_err(|error| error.to_string()))
        {
            eprintln!("enforcer-bench: {error}");
        }
    }
}

/// A cgroup; removed when dropped, which takes that nobody is in it.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes it, and those above it that are missing.
    pub(crate) fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        let Self(path) = self;
        path
    }

    /// Moves a process into it.
    pub(crate) fn enter(&self, process: Pid) -> Result<()> {
        let file = self.path().join("cgroup.procs");
        fs::write(&file, process.to_string()).with_context(|| file.display().to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(self.path()) {
            eprintln!("enforcer-bench: {}: {error}", self.path().display());
        }
    }
}

/// A cgroup for whoever is not governed, as deep as an agent's and with the same controllers.
pub(crate) struct Outside {
    /// Where to be.
    pub(crate) plain: Cgroup,
    _above: Cgroup,
}

impl Outside {
    /// Makes it.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let hierarchy = Hierarchy::find()?;
        let path = hierarchy.mount().join(format!("enforcer-bench-{name}-{}", process::id()));
        hierarchy.agents_root(Some(&path))?.create()?;
        let above = Cgroup(path);
        Ok(Self { plain: Cgroup::make(above.path().join("plain"))?, _above: above })
    }
}

/// Compiles the text of a policy.
pub(crate) fn compiled(text: &str) -> Result<CompiledTables> {
    match check_source(PolicySource::new("bench.toml", text)) {
        (_, Some((_, tables))) => Ok(tables),
        (found, None) => bail!("{}", found.render(Look::PLAIN)),
    }
}
