//! Which program goes where, and its attaching.
//!
//! Attaching and detaching of LSM programs side by side has crashed kernels, so all of it happens under the
//! lock of the pins, one program after the other.

use super::sys;
use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSockAddr, Lsm, ProgramError,
        links::{FdLink, LinkError},
    },
};
use std::{fs::File, io, os::fd::AsFd as _, path::Path};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The cgroup of all agents, by the attach type in the program's section.
    Cgroup,
    /// An LSM hook.
    Lsm(&'static str),
    /// A tracepoint.
    Tracepoint(&'static str),
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its name, which is also that of its link's pin.
    pub program: &'static str,
    /// Where it goes.
    pub hook: Hook,
}

const fn place(program: &'static str, hook: Hook) -> Place {
    Place { program, hook }
}

/// All programs, in the order in which they are attached: the mark first, since the others go by it.
pub const PLACES: &[Place] = &[
    place("tp_attach", Hook::Tracepoint("cgroup_attach_task")),
    place("tp_fork", Hook::Tracepoint("sched_process_fork")),
    place("tp_signal", Hook::Tracepoint("signal_generate")),
    place("tp_handler", Hook::Tracepoint("signal_deliver")),
    place("lsm_task_alloc", Hook::Lsm("task_alloc")),
    place("lsm_file_open", Hook::Lsm("file_open")),
    place("lsm_path_mknod", Hook::Lsm("path_mknod")),
    place("lsm_bprm_check", Hook::Lsm("bprm_check_security")),
    place("lsm_connect", Hook::Lsm("socket_connect")),
    place("lsm_getsockopt", Hook::Lsm("socket_getsockopt")),
    place("lsm_sendmsg", Hook::Lsm("socket_sendmsg")),
    place("lsm_unix_connect", Hook::Lsm("unix_stream_connect")),
    place("cg_connect4", Hook::Cgroup),
    place("cg_connect6", Hook::Cgroup),
    place("cg_sendmsg4", Hook::Cgroup),
    place("cg_sendmsg6", Hook::Cgroup),
    place("cg_recvmsg4", Hook::Cgroup),
    place("cg_recvmsg6", Hook::Cgroup),
    place("cg_getpeer4", Hook::Cgroup),
    place("cg_getpeer6", Hook::Cgroup),
];

/// The programs of a kernel with or without LSM.
pub fn places(lsm: bool) -> impl Iterator<Item = &'static Place> {
    PLACES.iter().filter(move |place| lsm || place.hook == Hook::Cgroup)
}

/// Why a program is not in its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object and the table above differ.
    #[error("the object has no program `{program}` of the right kind")]
    NoProgram {
        /// The program.
        program: &'static str,
    },
    /// The verifier, or the kernel before it, refuses the program.
    #[error("the kernel refuses to load the program `{program}`: {reason}")]
    Load {
        /// The program.
        program: &'static str,
        /// The error number and the last lines of the verifier.
        reason: String,
    },
    /// The program is loaded but not attached.
    #[error("the kernel refuses to attach the program `{program}`")]
    Attach {
        /// The program.
        program: &'static str,
        /// What it said.
        source: ProgramError,
    },
    /// The link cannot be pinned.
    #[error("cannot pin the link of `{program}`")]
    Pin {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Loads all programs, then attaches them and pins their links into `links`. Programs that fail to load leave
/// nothing behind.
pub(super) fn load_and_attach(
    ebpf: &mut Ebpf,
    lsm: bool,
    types: &Btf,
    cgroup: &File,
    links: &Path,
) -> Result<(), Error> {
    for place in places(lsm) {
        load(ebpf, place, types)?;
    }
    for place in places(lsm) {
        let link = attach(ebpf, place, cgroup)?;
        link.pin(links.join(place.program))
            .map_err(|error| Error::Pin { program: place.program, source: error.into() })?;
    }
    Ok(())
}

fn program<'a, T>(ebpf: &'a mut Ebpf, place: &Place) -> Result<&'a mut T, Error>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(place.program)
        .and_then(|program| program.try_into().ok())
        .ok_or(Error::NoProgram { program: place.program })
}

fn load(ebpf: &mut Ebpf, place: &Place, types: &Btf) -> Result<(), Error> {
    let loaded = match place.hook {
        Hook::Cgroup => program::<CgroupSockAddr>(ebpf, place)?.load(),
        Hook::Lsm(hook) => program::<Lsm>(ebpf, place)?.load(hook, types),
        Hook::Tracepoint(point) => program::<BtfTracePoint>(ebpf, place)?.load(point, types),
    };
    loaded.map_err(|error| Error::Load { program: place.program, reason: short(&error) })
}

fn attach(ebpf: &mut Ebpf, place: &Place, cgroup: &File) -> Result<FdLink, Error> {
    let attached = match place.hook {
        Hook::Cgroup => {
            let program = program::<CgroupSockAddr>(ebpf, place)?;
            // `Single` is "no flags", which is what a link wants: it is one of many anyway.
            program.attach(cgroup, CgroupAttachMode::Single).and_then(|id| {
                let link = program.take_link(id)?;
                link.try_into().map_err(|error: LinkError| match error {
                    LinkError::SyscallError(error) => error.into(),
                    LinkError::InvalidLink | LinkError::UnknownLinkType(_) => ProgramError::NotAttached,
                })
            })
        }
        Hook::Lsm(_) => {
            let program = program::<Lsm>(ebpf, place)?;
            program.attach().and_then(|id| Ok(program.take_link(id)?.into()))
        }
        Hook::Tracepoint(_) => {
            let program = program::<BtfTracePoint>(ebpf, place)?;
            program.attach().and_then(|id| Ok(program.take_link(id)?.into()))
        }
    };
    attached.map_err(|source| Error::Attach { program: place.program, source })
}

/// The last lines of the verifier say why; the thousands before them do not.
fn short(error: &ProgramError) -> String {
    const LINES: usize = 12;
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    if tail.is_empty() { io_error.to_string() } else { format!("{io_error}\n  | {}", tail.join("\n  | ")) }
}

/// What the kernel tells about an attached program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProgramReport {
    /// Its name.
    pub program: String,
    /// The kernel's number for it.
    pub id: u32,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// How often it ran; counted while the kernel's `bpf_stats_enabled` is on.
    pub runs: u64,
    /// How long in all; likewise.
    pub run_time_ns: u64,
    /// How often it was skipped because it ran already. Anything but 0 is an alarm.
    pub recursion_misses: u64,
}

/// Reports on the program behind each pinned link; and which links are not there, though they should be.
pub(super) fn report(lsm: bool, links: &Path) -> (Vec<ProgramReport>, Vec<String>) {
    let (mut reports, mut missing) = (Vec::new(), Vec::new());
    for place in places(lsm) {
        match report_one(place, links) {
            Ok(report) => reports.push(report),
            Err(error) => {
                tracing::error!(program = place.program, %error, "a program is not where it should be");
                missing.push(place.program.to_owned());
            }
        }
    }
    (reports, missing)
}

fn report_one(place: &Place, links: &Path) -> io::Result<ProgramReport> {
    let link = sys::open_pin(&links.join(place.program))?;
    let info = sys::program_info(sys::cgroup_link_info(link.as_fd())?.program)?;
    Ok(ProgramReport {
        program: place.program.to_owned(),
        id: info.id,
        verified_instructions: info.verified_instructions,
        runs: info.runs,
        run_time_ns: info.run_time_ns,
        recursion_misses: info.recursion_misses,
    })
}
