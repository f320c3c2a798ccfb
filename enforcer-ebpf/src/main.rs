//! The programs that run in the kernel: each hook gathers the facts of an action, has it decided and acts on
//! the decision. No policy logic is here; it is in `enforcer-common`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "the atomics of BPF are reached by intrinsics only")]
#![allow(clippy::needless_pass_by_value, reason = "the attributes of aya hand a hook its context by value")]

mod agent;
mod emit;
mod enact;
mod hold;
mod hooks;
mod maps;
mod offsets;
mod paths;
mod scratch;
mod tables;
mod task_storage;
mod walk;
mod words;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for programs under the GPL only, hence the second licence of this object.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
