//! The daemon, the policy compiler and the command line.

pub mod agents;
pub mod approvals;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod events;
pub mod holds;
pub mod kernel;
pub mod policy;
