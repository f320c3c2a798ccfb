//! The daemon, the policy compiler and the command line.

pub mod policy;
