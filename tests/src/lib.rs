//! The end-to-end suite.

pub mod cases;
pub mod harness;
pub mod oracle;
