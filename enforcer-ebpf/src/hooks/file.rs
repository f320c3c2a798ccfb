//! Opening and making files.

use crate::{
    agent::{self, Current},
    emit, enact,
    hold::At,
    hooks::exec::exec_id,
    offsets::{
        DENTRY_HASH, DENTRY_LEN, DENTRY_PARENT, FILE_DENTRY, FILE_FLAGS, FILE_MNT, FILE_MODE, PATH_MNT,
        REGS_CALL, REGS_SECOND, REGS_THIRD, TASK_FLAGS, TASK_NAMEIDATA, forget, load, probe,
    },
    scratch,
    tables::Actor,
    walk::{self, Walk},
};
use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs},
    macros::lsm,
    programs::LsmContext,
};
use aya_log_ebpf::debug;
use core::ptr;
use enforcer_common::{
    action::{Access, ActionKind},
    event::flag,
    verdict::Verdict,
};

/// Opened for reading, for writing (`f_mode`).
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
/// The kernel made the file for this open.
const FMODE_CREATED: u32 = 0x0010_0000;
/// The kernel's own open of a layer's file, for an overlay whose file was decided on.
const FMODE_NOACCOUNT: u32 = 0x2000_0000;
/// The open of a program for exec (`f_flags`; no open of user space can set it).
const FMODE_EXEC: u32 = 0x20;
const O_WRONLY: u32 = 1;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
/// A worker of io_uring (`task_struct.flags`), whose registers are a copy of what its maker once called.
const PF_IO_WORKER: u32 = 0x10;
/// The calls that open, by their numbers on x86-64. Those of 32-bit programs are none of them, or mean the same.
const SYS_OPEN: u64 = 2;
const SYS_OPENAT: u64 = 257;
const SYS_OPENAT2: u64 = 437;

/// `file_open(struct file *file)`
#[lsm(hook = "file_open")]
pub(crate) fn lsm_file_open(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    // SAFETY: the hook's argument; the mark is a value of the map.
    let errno = unsafe { opened(&current, ctx.arg(0)) };
    debug!(&ctx, "file_open returns {}", errno);
    errno
}

#[inline(always)]
unsafe fn opened(current: &Current, file: *const u8) -> i32 {
    // SAFETY: the caller passes a mark and the hook's argument.
    unsafe {
        let flags: u32 = load(file, &FILE_FLAGS);
        let mode: u32 = load(file, &FILE_MODE);
        if mode & FMODE_NOACCOUNT != 0 {
            return 0;
        }
        if flags & FMODE_EXEC != 0 {
            return started(current, file);
        }
        let dentry: *const u8 = load(file, &FILE_DENTRY);
        let access = access_of(mode, flags);
        let created = mode & FMODE_CREATED != 0;
        let Current { agent, mark } = *current;
        if !mark.is_null() && (*mark).act.kind == ActionKind::Create as u8 {
            let same = flags & O_CREAT != 0
                && (*mark).act.folder == load::<u64>(dentry, &DENTRY_PARENT)
                && (*mark).act.name == name_of(dentry);
            (*mark).act.kind = 0;
            if same && created && access.0 & !(*mark).act.access == 0 {
                // Decided when the file was made.
                return 0;
            }
            if same && (*mark).act.tentative == 1 {
                // Nothing was made, or it is opened for more than was known when it was made. What it turned out to be
                // is decided as a whole.
                let actor = enact::actor(agent).unwrap_or(Actor::unknown(agent));
                emit::withdraw(&actor, &(*mark).act);
            }
        }
        if access.0 == 0 {
            return 0;
        }
        let Some(claim) = scratch::claim() else { return Verdict::Block.errno() };
        let walked = walk::resolve(&claim, dentry, load(file, &FILE_MNT));
        if walked == Walk::Private as u64 {
            // A layer of an overlay whose file was decided on, or memory of the agent's own.
            return 0;
        }
        let kind = if created { ActionKind::Create } else { ActionKind::Open };
        // To make the call again would find the file.
        let at = if created { At::Nowhere } else { At::Lsm };
        enact::path(agent, (kind, access, at), (&claim, walked), 0, ptr::null_mut())
    }
}

/// Decides the open of what is to be run. `bprm_check_security` comes for each of them but one: what an ELF program names
/// to be loaded beside it, its dynamic linker. That is opened when the program was decided on and before the exec comes
/// through; the open of the next program, after an exec that failed in between, looks the same and is refused here where
/// it would be there.
#[inline(always)]
unsafe fn started(current: &Current, file: *const u8) -> i32 {
    // SAFETY: the caller passes a mark and the hook's argument.
    unsafe {
        let Current { agent, mark } = *current;
        if mark.is_null() {
            return 0;
        }
        let act = &raw mut (*mark).act;
        if (*act).kind != ActionKind::Exec as u8 || (*act).elf == 0 || (*act).name != exec_id() {
            return 0;
        }
        let Some(claim) = scratch::claim() else { return Verdict::Block.errno() };
        let dentry: *const u8 = load(file, &FILE_DENTRY);
        let walked = walk::resolve(&claim, dentry, load(file, &FILE_MNT));
        let errno = enact::interpreter(agent, act, (&claim, walked), 0, dentry as u64);
        if errno != 0 {
            (*act).kind = 0;
        }
        enact::rebound(errno, agent)
    }
}

/// The kinds of access that an open is. VERIFIER: by bits, since each branch would double what follows.
#[inline(always)]
fn access_of(mode: u32, flags: u32) -> Access {
    let both = flags & (flags >> 1) & 1;
    let created = (mode & FMODE_CREATED) / FMODE_CREATED;
    let truncates = (flags & O_TRUNC) / O_TRUNC;
    let read = (mode & FMODE_READ) | both;
    let write = ((mode & FMODE_WRITE) / FMODE_WRITE) | truncates | both;
    Access(read as u8 * Access::READ.0 + write as u8 * Access::WRITE.0 + created as u8 * Access::CREATE.0)
}

/// The kinds of access of an open that is about to make its file. The kernel passes its flags to no hook before the
/// file is there, so they are taken from the call; `file_open` sees what it then is, should the two differ.
///
/// VERIFIER: not inlined, so that the ways meet in one number.
#[inline(never)]
fn access_of_call(unknown: u64) -> u64 {
    let flags = forget(flags_of_call(), unknown) as u32;
    // As `OPEN_FMODE` makes one of the other.
    u64::from(access_of((flags + 1) & (FMODE_READ | FMODE_WRITE) | FMODE_CREATED, flags).0)
}

/// The flags that the call in progress has for its open. What io_uring and 32-bit programs ask for is not found here,
/// and is taken for writing, which nearly every file is made for.
#[inline(always)]
fn flags_of_call() -> u64 {
    let unknown = u64::from(O_WRONLY);
    // SAFETY: the current task is live and typed, and so are its registers, which hold still through a call.
    unsafe {
        let task = bpf_get_current_task_btf();
        if load::<u32>(task.cast(), &TASK_FLAGS) & PF_IO_WORKER != 0 {
            return unknown;
        }
        let registers = bpf_task_pt_regs(task) as *const u8;
        match load::<u64>(registers, &REGS_CALL) {
            SYS_OPEN => load(registers, &REGS_SECOND),
            SYS_OPENAT => load(registers, &REGS_THIRD),
            SYS_OPENAT2 => {
                let how: u64 = load(registers, &REGS_THIRD);
                let mut flags = 0_u64;
                // `open_how` begins with the flags. Another thread may have changed them since.
                let read =
                    bpf_probe_read_user((&raw mut flags).cast(), size_of::<u64>() as u32, how as *const _);
                if read == 0 { flags } else { unknown }
            }
            // creat(2) is for writing too.
            _ => unknown,
        }
    }
}

/// The kinds of access of mknod(2): a regular file is made to be written.
#[inline(always)]
fn access_of_node(mode: u32) -> u64 {
    let regular = mode & S_IFMT == S_IFREG || mode & S_IFMT == 0;
    u64::from(Access::CREATE.0) + u64::from(regular) * u64::from(Access::WRITE.0)
}

/// The name of a dentry within its folder, as one number.
#[inline(always)]
unsafe fn name_of(dentry: *const u8) -> u64 {
    // SAFETY: the caller passes a typed dentry. VERIFIER: 6.1 refuses one load over both.
    unsafe {
        u64::from(load::<u32>(dentry, &DENTRY_HASH)) << 32 | u64::from(load::<u32>(dentry, &DENTRY_LEN))
    }
}

/// `path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev)`
///
/// Runs before the file exists, so that a refusal leaves nothing behind. It also runs for an open with `O_CREAT`
/// of a file that exists but is not in the cache; the kernel forgives its error then, and `file_open` withdraws
/// the decision.
#[lsm(hook = "path_mknod")]
pub(crate) fn lsm_path_mknod(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    // SAFETY: the hook's arguments; the mark is a value of the map.
    let errno = unsafe { making(&current, ctx.arg(0), ctx.arg(1), ctx.arg(2)) };
    debug!(&ctx, "path_mknod returns {}", errno);
    errno
}

#[inline(always)]
unsafe fn making(current: &Current, folder: *const u8, dentry: *const u8, mode: u32) -> i32 {
    // SAFETY: the caller passes a mark and the hook's arguments.
    unsafe {
        let Current { agent, mark } = *current;
        // An open is in the middle of its path; mknod(2) has walked it.
        let nameidata: u64 = probe(bpf_get_current_task_btf().cast(), &TASK_NAMEIDATA);
        let tentative = nameidata != 0;
        let access = if tentative { access_of_call(agent) } else { access_of_node(mode) };
        let access = Access(forget(access, agent) as u8);
        let Some(claim) = scratch::claim() else { return Verdict::Block.errno() };
        let walked = walk::resolve(&claim, dentry, load(folder, &PATH_MNT));
        let flags = forget(if tentative { u64::from(flag::TENTATIVE) } else { 0 }, agent) as u8;
        let act = if mark.is_null() { ptr::null_mut() } else { &raw mut (*mark).act };
        if !act.is_null() {
            (*act).kind = 0;
        }
        let errno = enact::path(agent, (ActionKind::Create, access, At::Lsm), (&claim, walked), flags, act);
        if act.is_null() {
            return errno;
        }
        if tentative {
            (*act).folder = load(dentry, &DENTRY_PARENT);
            (*act).name = name_of(dentry);
            (*act).access = access.0;
            (*act).tentative = 1;
        } else {
            (*act).kind = 0;
        }
        errno
    }
}
