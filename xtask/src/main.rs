//! Tasks that a developer types twice.

fn main() {}
