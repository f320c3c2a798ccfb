//! The daemon's control socket, which no governed task may reach, root or not.

use crate::{
    agent, enact,
    maps::META,
    offsets::{DENTRY_INODE, INODE_INO, INODE_SB, SB_DEV, UNIX_DENTRY, probe},
};
use aya_ebpf::{macros::lsm, programs::LsmContext};
use enforcer_common::{
    action::{ActionKind, Endpoint, Protocol},
    address::Address,
    verdict::{Reason, Verdict},
};

/// `unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`
#[lsm(hook = "unix_stream_connect")]
pub(crate) fn lsm_unix_connect(ctx: LsmContext) -> i32 {
    let current = agent::current();
    if current.agent == 0 {
        return 0;
    }
    let other: *const u8 = ctx.arg(1);
    let dentry: *const u8 = probe(other, &UNIX_DENTRY);
    if dentry.is_null() {
        return 0;
    }
    let inode: *const u8 = probe(dentry, &DENTRY_INODE);
    let number: u64 = probe(inode, &INODE_INO);
    let device: u32 = probe(probe(inode, &INODE_SB), &SB_DEV);
    let Some(meta) = META.get(0) else { return Verdict::Block.errno() };
    if meta.control_inode == 0 || number != meta.control_inode || u64::from(device) != meta.control_device {
        return 0;
    }
    let nowhere = Endpoint { address: Address([0; 16]), port: 0, protocol: Protocol::Other };
    let agent = current.agent;
    enact::refuse_network(agent, ActionKind::Connect, &nowhere, Reason::ControlSocket);
    // Also in audit mode: who governs is not up to the policy.
    Verdict::Block.errno()
}
