//! Tests in virtual time.
fn main() {}
