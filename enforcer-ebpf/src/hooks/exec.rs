//! Executing programs.

use crate::{
    agent::{self, Current},
    enact,
    hold::At,
    offsets::{
        BPRM_BUF, BPRM_FILE, BPRM_FILENAME, BPRM_INTERP, FILE_DENTRY, FILE_MNT, TASK_EXEC_ID, forget, load,
        probe,
    },
    scratch, walk,
};
use aya_ebpf::{helpers::generated::bpf_get_current_task_btf, macros::lsm, programs::LsmContext};
use aya_log_ebpf::debug;
use core::ptr;
use enforcer_common::{
    action::{Access, ActionKind},
    event::flag,
    verdict::Verdict,
};

/// `bprm_check_security(struct linux_binprm *bprm)`
///
/// Runs once for the program and once more for each interpreter that it names.
#[lsm(hook = "bprm_check_security")]
pub(crate) fn lsm_bprm_check(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    // SAFETY: the hook's argument; the mark is a value of the map.
    let errno = unsafe { executing(&current, ctx.arg(0)) };
    debug!(&ctx, "bprm_check_security returns {}", errno);
    errno
}

#[inline(always)]
unsafe fn executing(current: &Current, bprm: *const u8) -> i32 {
    // SAFETY: the caller passes a mark and the hook's argument.
    unsafe {
        let file: *const u8 = load(bprm, &BPRM_FILE);
        let Some(claim) = scratch::claim() else { return Verdict::Block.errno() };
        let dentry: *const u8 = load(file, &FILE_DENTRY);
        let walked = walk::resolve(&claim, dentry, load(file, &FILE_MNT));
        let Current { agent, mark } = *current;
        let begins: [u8; 4] = probe(bprm, &BPRM_BUF);
        let begins = u32::from_le_bytes(begins);
        let elf = u64::from(begins == u32::from_le_bytes(*b"\x7fELF"));
        let script = u64::from(begins as u16 == u16::from_le_bytes(*b"#!"));
        // What it names may be refused yet.
        let flags = forget((script | elf) * u64::from(flag::TENTATIVE), agent) as u8;
        if mark.is_null() {
            return enact::path(
                agent,
                (ActionKind::Exec, Access::EXEC, At::Lsm),
                (&claim, walked),
                flags,
                ptr::null_mut(),
            );
        }
        let act = &raw mut (*mark).act;
        // The kernel renames what it interprets, so equal names mean the program itself.
        let first = load::<u64>(bprm, &BPRM_FILENAME) == load::<u64>(bprm, &BPRM_INTERP);
        let errno = if first || (*act).kind != ActionKind::Exec as u8 {
            enact::path(agent, (ActionKind::Exec, Access::EXEC, At::Lsm), (&claim, walked), flags, act)
        } else if (*act).folder == dentry as u64 {
            // An ELF file whose format somebody registered an interpreter for: its open was decided on.
            0
        } else {
            enact::interpreter(agent, act, (&claim, walked), flags, 0)
        };
        if errno == 0 {
            (*act).name = exec_id();
            (*act).elf = elf as u8;
        } else {
            (*act).kind = 0;
        }
        enact::rebound(errno, agent)
    }
}

/// What only an exec that comes through moves on.
#[inline(always)]
pub(crate) fn exec_id() -> u64 {
    // SAFETY: the current task is live and typed.
    unsafe { u64::from(load::<u32>(bpf_get_current_task_btf().cast(), &TASK_EXEC_ID)) }
}
