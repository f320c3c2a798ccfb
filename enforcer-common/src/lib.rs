//! The vocabulary and the decision engine that the kernel programs and the user-space tools share.
#![no_std]
