//! Where peers are looked for: static addresses, DNS names, the output of a program.
//!
//! Must not decide who founds or joins; it only turns seeds into addresses.

mod address;
mod resolve;

pub use address::own_address;
pub use resolve::{ResolveError, Resolver};
