//! The end-to-end suite.

pub mod cases;
pub mod oracle;
