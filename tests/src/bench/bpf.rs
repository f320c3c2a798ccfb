//! Empty programs, of two instructions, to measure by: what a hook costs whoever is attached to it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Btf;
use aya_obj::btf::BtfKind;
use zerocopy::{Immutable, IntoBytes};

const PROG_LOAD: libc::c_long = 5;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const LINK_CREATE: libc::c_long = 28;

const CGROUP_SOCK_ADDR: u32 = 18;
const INET4_CONNECT: u32 = 10;
const LSM: u32 = 29;
const LSM_MAC: u32 = 27;

/// `r0 = value; exit`
const fn returns(value: u64) -> [u64; 2] {
    [0xb7 | value << 32, 0x95]
}

/// The attributes of `BPF_PROG_LOAD` as far as they are used.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
    btf: u32,
    func_info_size: u32,
    func_info: u64,
    func_info_count: u32,
    line_info_size: u32,
    line_info: u64,
    line_info_count: u32,
    attach_btf_id: u32,
}

/// # Safety
///
/// `attributes` are those of the command, and what they point to lives through the call.
unsafe fn bpf<A: IntoBytes + Immutable>(command: libc::c_long, attributes: &A) -> io::Result<i32> {
    // SAFETY: the attributes with their exact size; the rest is the caller's contract.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn load(kind: u32, expected_attach_type: u32, attach_btf_id: u32, value: u64) -> io::Result<OwnedFd> {
    let instructions = returns(value);
    let attributes = Load {
        kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"bench_empty\0\0\0\0\0",
        interface: 0,
        expected_attach_type,
        btf: 0,
        func_info_size: 0,
        func_info: 0,
        func_info_count: 0,
        line_info_size: 0,
        line_info: 0,
        line_info_count: 0,
        attach_btf_id,
    };
    // SAFETY: the instructions and the licence live through the call; the descriptor is new.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(PROG_LOAD, &attributes)?)) }
}

/// A program that does nothing, in its place until this is dropped.
pub(crate) struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    /// On `file_open`.
    pub(crate) fn on_file_open() -> Result<Self> {
        let types = Btf::from_sys_fs().context("the kernel's types")?;
        let hook = types.id_by_type_name_kind("bpf_lsm_file_open", BtfKind::Func).context("file_open")?;
        let program = load(LSM, LSM_MAC, hook, 0).context("load an empty LSM program")?;
        // A name of none, the program, and padding.
        let attributes = [0, program.as_raw_fd() as u64];
        // SAFETY: the attributes point to nothing; the descriptor is new.
        let link = unsafe { bpf(RAW_TRACEPOINT_OPEN, &attributes).map(|fd| OwnedFd::from_raw_fd(fd)) };
        Ok(Self { program, _link: link.context("attach an empty LSM program")? })
    }

    /// On the IPv4 connects of a cgroup.
    pub(crate) fn on_connect(cgroup: BorrowedFd<'_>) -> Result<Self> {
        let program = load(CGROUP_SOCK_ADDR, INET4_CONNECT, 0, 1).context("load an empty cgroup program")?;
        let attributes = [program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32, INET4_CONNECT, 0];
        // SAFETY: as above.
        let link = unsafe { bpf(LINK_CREATE, &attributes).map(|fd| OwnedFd::from_raw_fd(fd)) };
        Ok(Self { program, _link: link.context("attach an empty cgroup program")? })
    }

    /// How often it ran and how long in all, in nanoseconds, while the kernel kept statistics.
    pub(crate) fn statistics(&self) -> Result<(u64, u64)> {
        // `run_time_ns` and `run_cnt` lie at these words of `struct bpf_prog_info`.
        const RUN_TIME: usize = 24;
        const WORDS: usize = 28;
        let mut info = [0_u64; WORDS];
        let attributes = [
            u64::from(self.program.as_raw_fd() as u32) | (size_of_val(&info) as u64) << 32,
            (&raw mut info) as u64,
        ];
        // SAFETY: the kernel writes at most as many bytes as it is told `info` has.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &attributes) }.context("statistics of a program")?;
        match info.get(RUN_TIME..RUN_TIME + 2) {
            Some([time, runs]) => Ok((*runs, *time)),
            _ => Ok((0, 0)),
        }
    }
}
