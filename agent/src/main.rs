//! The binary: the only place that exits.
fn main() {}
