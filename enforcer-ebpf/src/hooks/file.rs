//! Opening and making files.

use crate::{
    agent, emit, enact,
    offsets::{
        DENTRY_HASH, DENTRY_LEN, DENTRY_PARENT, FILE_DENTRY, FILE_FLAGS, FILE_MNT, FILE_MODE, PATH_MNT,
        TASK_NAMEIDATA, load, probe,
    },
    scratch,
    walk::{self, Walk},
};
use aya_ebpf::{helpers::generated::bpf_get_current_task_btf, macros::lsm, programs::LsmContext};
use enforcer_common::{
    action::{Access, ActionKind},
    agent::Mark,
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
/// The open of a program for exec (`f_flags`; no open of user space can set it). `bprm_check_security` decides.
const FMODE_EXEC: u32 = 0x20;
const O_ACCMODE: u32 = 3;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// `file_open(struct file *file)`
#[lsm(hook = "file_open")]
pub(crate) fn lsm_file_open(ctx: LsmContext) -> i32 {
    let mark = agent::current();
    if mark.is_null() {
        return 0;
    }
    // SAFETY: the hook's argument; the mark is a value of the map.
    unsafe { opened(mark, ctx.arg(0)) }
}

#[inline(always)]
unsafe fn opened(mark: *mut Mark, file: *const u8) -> i32 {
    // SAFETY: the caller passes a mark and the hook's argument.
    unsafe {
        let flags: u32 = load(file, &FILE_FLAGS);
        let mode: u32 = load(file, &FILE_MODE);
        if flags & FMODE_EXEC != 0 || mode & FMODE_NOACCOUNT != 0 {
            return 0;
        }
        let dentry: *const u8 = load(file, &FILE_DENTRY);
        let mut access = Access::default();
        if mode & FMODE_READ != 0 || flags & O_ACCMODE == O_ACCMODE {
            access = access.with(Access::READ);
        }
        if mode & FMODE_WRITE != 0 || flags & O_TRUNC != 0 || flags & O_ACCMODE == O_ACCMODE {
            access = access.with(Access::WRITE);
        }
        let agent = (*mark).agent;
        if (*mark).act.kind == ActionKind::Create as u8 {
            let same = flags & O_CREAT != 0
                && (*mark).act.folder == load::<u64>(dentry, &DENTRY_PARENT)
                && (*mark).act.name == name_of(dentry);
            (*mark).act.kind = 0;
            if same && mode & FMODE_CREATED != 0 {
                // Decided when the file was made.
                return 0;
            }
            if same && (*mark).act.tentative == 1 {
                // The file was there: nothing was made, and the open is decided by itself.
                (*mark).act.kind = ActionKind::Create as u8;
                if let Some(actor) = enact::actor(agent) {
                    emit::withdraw(&actor, &(*mark).act);
                }
                (*mark).act.kind = 0;
            }
        }
        if mode & FMODE_CREATED != 0 {
            access = access.with(Access::CREATE).with(Access::WRITE);
        }
        if access.0 == 0 {
            return 0;
        }
        let Some(claim) = scratch::claim() else { return Verdict::Block.errno() };
        let walked = walk::resolve(&claim, dentry, load(file, &FILE_MNT));
        if let Walk::Private = walked {
            // A layer of an overlay whose file was decided on, or memory of the agent's own.
            return 0;
        }
        enact::path(agent, ActionKind::Open, access, &claim, walked, 0).errno
    }
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
    let mark = agent::current();
    if mark.is_null() {
        return 0;
    }
    // SAFETY: the hook's arguments; the mark is a value of the map.
    unsafe {
        let mode: u32 = ctx.arg(2);
        making(mark, ctx.arg(0), ctx.arg(1), mode)
    }
}

#[inline(always)]
unsafe fn making(mark: *mut Mark, folder: *const u8, dentry: *const u8, mode: u32) -> i32 {
    // SAFETY: the caller passes a mark and the hook's arguments.
    unsafe {
        (*mark).act.kind = 0;
        let mut access = Access::CREATE;
        if mode & S_IFMT == S_IFREG || mode & S_IFMT == 0 {
            access = access.with(Access::WRITE);
        }
        // An open is in the middle of its path; mknod(2) has walked it.
        let nameidata: u64 = probe(bpf_get_current_task_btf().cast(), &TASK_NAMEIDATA);
        let tentative = nameidata != 0;
        let Some(claim) = scratch::claim() else { return Verdict::Block.errno() };
        let walked = walk::resolve(&claim, dentry, load(folder, &PATH_MNT));
        let flags = if tentative { flag::TENTATIVE } else { 0 };
        let judged = enact::path((*mark).agent, ActionKind::Create, access, &claim, walked, flags);
        if tentative {
            (*mark).act = judged.act;
            (*mark).act.folder = load(dentry, &DENTRY_PARENT);
            (*mark).act.name = name_of(dentry);
            (*mark).act.tentative = 1;
        }
        judged.errno
    }
}
