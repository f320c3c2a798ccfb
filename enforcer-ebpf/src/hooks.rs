//! The hooks, one file for each family: facts in, decide, enact.

mod connect;
mod exec;
mod file;
mod redirect;
mod signal;
mod task;
mod unix;
