//! The vocabulary and the decision engine that the kernel programs and the user-space tools share.
//!
//! Facts come in, a decision goes out: no clock, no allocation and no input or output is here. The tables that
//! a decision needs are behind [`decide::Tables`], which the kernel programs implement over BPF maps and the
//! tools over memory, so that `enforcer policy test` and the kernel cannot differ.
//!
//! Reading order: [`action`] (what is attempted), [`verdict`] (what becomes of it), [`rule`] (one entry of a
//! policy as the kernel holds it), [`address`], [`network`] and [`path`] (how an action finds its rule, in
//! [`words`]),
//! [`rate`], [`grant`] and [`hold`] (the verdicts that remember and wait), [`decide`] (all of it together), [`event`] (the
//! record of a decision), [`counter`], [`agent`] (who is governed), [`limits`].
#![no_std]

pub mod action;
pub mod address;
pub mod agent;
pub mod counter;
pub mod decide;
pub mod event;
pub mod grant;
pub mod hold;
pub mod limits;
pub mod network;
pub mod path;
pub mod rate;
pub mod rule;
pub mod siphash;
pub mod verdict;
pub mod words;

/// Declares that the types are plain data with the given sizes, which is what both sides rely on.
macro_rules! layout {
    ($($type:ty: $size:expr),+ $(,)?) => { $(
        const _: () = assert!(size_of::<$type>() == $size, concat!(stringify!($type), " changed its size"));
        const _: () = assert!(align_of::<$type>() <= 8, "map values are aligned to 8 bytes");
        #[cfg(feature = "user")]
        // SAFETY: `zerocopy::IntoBytes` is derived for the type, which proves that it has no padding; it holds
        // integers and arrays of them only, so that any bytes are a valid value.
        unsafe impl aya::Pod for $type {}
    )+ };
}
pub(crate) use layout;
