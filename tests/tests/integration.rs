//! Real PostgreSQL in network namespaces.
fn main() {}
