//! The programs as the kernel has them: what its verifier made of them, and what is left of them after it.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    maps::{MapInfo, loaded_maps},
    programs::loaded_programs,
};
use enforcer::kernel::{Governing, Kernel, LogLevel, Options, attach::ProgramReport, hierarchy::Hierarchy};
use enforcer_tests::harness::Daemon;
use libtest_mimic::{Failed, Trial};

use crate::trial::{Outcome, PASS, equal, trial};

/// Of the million instructions that a verifier walks before it gives up. A newer kernel may walk more than the ones
/// that were tried.
const WALKED_MAX: u32 = 700_000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("programs::none_comes_near_the_verifiers_limit", none_comes_near_the_limit),
        trial("programs::no_line_for_debugging_is_left_unless_asked_for", no_line_is_left),
    ]
}

/// The table of docs/kernels.md is what this prints.
fn none_comes_near_the_limit() -> Outcome {
    let programs = loaded(Daemon::shared()?)?;
    for program in &programs {
        eprintln!("verified: | `{}` | {} |", program.program, program.verified_instructions);
    }
    let near: Vec<_> = programs.iter().filter(|program| program.verified_instructions > WALKED_MAX).collect();
    equal(&near.is_empty(), &true).map_err(|_| format!("{near:?}"))?;
    Ok(PASS)
}

/// The level is a constant to the verifier, which takes out what cannot be reached. A line that is left loads the
/// address of the ring that it goes into.
fn no_line_is_left() -> Outcome {
    let quiet = writers(&loaded(Daemon::shared()?)?)?;
    let hierarchy = Hierarchy::find()?;
    let options = Options {
        pins: Path::new("/sys/fs/bpf/e2e-lines").to_owned(),
        cgroup_root: Some(hierarchy.mount().join("e2e-lines")),
        governing: Governing::Auto,
        kernel_log: Some(LogLevel::Debug),
    };
    let (kernel, _) = Kernel::open(&options)?;
    let talkative = writers(&kernel.programs().0);
    kernel.unload()?;
    kernel.root().remove()?;
    // Without those that write nothing at any level, the test would see nothing.
    equal(&talkative?.contains(&"cg_connect4".to_owned()), &true)?;
    equal(&quiet, &[] as &[String])?;
    Ok(PASS)
}

fn loaded(daemon: &Daemon) -> Result<Vec<ProgramReport>, Failed> {
    let mut status = daemon.json(&["status"])?;
    Ok(serde_json::from_value(status["programs"].take())?)
}

/// Which of the programs have an instruction with the address of the ring for lines.
fn writers(programs: &[ProgramReport]) -> Result<Vec<String>, Failed> {
    let rings = loaded_maps().collect::<Result<Vec<_>, _>>()?;
    let rings: Vec<_> =
        rings.iter().filter(|map| map.name_as_str() == Some("AYA_LOGS")).map(MapInfo::id).collect();
    let mut writers = Vec::new();
    for report in programs {
        let instructions = instructions(report.id)?;
        eprintln!("`{}`: {} instructions after the verifier", report.program, instructions.len());
        if instructions.iter().filter_map(|&instruction| map_of(instruction)).any(|id| rings.contains(&id)) {
            writers.push(report.program.clone());
        }
    }
    Ok(writers)
}

/// The number of the map whose address an instruction loads, which the kernel shows instead.
fn map_of(instruction: u64) -> Option<u32> {
    const LOAD_64: u8 = 0x18;
    const MAP: u8 = 1;
    let [code, registers, ..] = instruction.to_le_bytes();
    (code == LOAD_64 && registers >> 4 == MAP).then_some((instruction >> 32) as u32)
}

/// The instructions of a program as they are after the verifier, with those of its functions.
fn instructions(id: u32) -> Result<Vec<u64>, Failed> {
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    /// The words of `struct bpf_prog_info` that have the bytes of the instructions (in the upper half) and their
    /// address.
    const BYTES: usize = 2;
    const ADDRESS: usize = 4;
    let known = loaded_programs().collect::<Result<Vec<_>, _>>()?;
    let program = known.iter().find(|known| known.id() == id).ok_or("no such program")?;
    let bytes = program.size_translated().ok_or("the kernel does not tell the size of programs")?;
    let mut instructions = vec![0_u64; bytes as usize / 8];
    let mut info = [0_u64; 28];
    info[BYTES] = u64::from(bytes) << 32;
    info[ADDRESS] = instructions.as_mut_ptr() as u64;
    let fd = program.fd()?;
    let attributes = [
        u64::from(fd.as_fd().as_raw_fd() as u32) | (size_of_val(&info) as u64) << 32,
        (&raw mut info) as u64,
    ];
    // SAFETY: the kernel writes at most the bytes that it is told `info` and `instructions` have.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, attributes.as_ptr(), size_of_val(&attributes))
    };
    if done < 0 {
        return Err(std::io::Error::last_os_error().to_string().into());
    }
    Ok(instructions)
}
