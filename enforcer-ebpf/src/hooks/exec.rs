//! Executing programs.

use crate::{
    agent::{self, Current},
    enact,
    offsets::{BPRM_BUF, BPRM_FILE, BPRM_FILENAME, BPRM_INTERP, FILE_DENTRY, FILE_MNT, forget, load, probe},
    scratch, walk,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};
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
        let walked = walk::resolve(&claim, load(file, &FILE_DENTRY), load(file, &FILE_MNT));
        let Current { agent, mark } = *current;
        // The kernel renames what it interprets, so equal names mean the program itself.
        let first = load::<u64>(bprm, &BPRM_FILENAME) == load::<u64>(bprm, &BPRM_INTERP);
        if !first && !mark.is_null() && (*mark).act.kind == ActionKind::Exec as u8 {
            return enact::interpreter(agent, &(*mark).act, &claim, walked);
        }
        let begins: [u8; 2] = probe(bprm, &BPRM_BUF);
        let script = u64::from(u16::from_le_bytes(begins) == u16::from_le_bytes(*b"#!"));
        let flags = forget(script * u64::from(flag::TENTATIVE), agent) as u8;
        let act = if mark.is_null() { ptr::null_mut() } else { &raw mut (*mark).act };
        enact::path(agent, (ActionKind::Exec, Access::EXEC), (&claim, walked), flags, act)
    }
}
