//! Other agents: gRPC over TLS that this agent terminates itself.
//!
//! The only place that sees the wire types of pairing and mesh; everything it hands on is a type
//! of `pgaa-core` or one of its own, with every field checked. Must not decide: what a question
//! means is answered by the two host traits, which the composition root implements.

mod connect;
mod convert;
mod listener;
mod mesh;
mod pairing;
mod peers;
mod quiet;
mod server;
mod types;

pub use connect::ConnectError;
pub use convert::BadMessage;
pub use pairing::{PairingClient, PairingError};
pub use peers::{PeerError, Peers};
pub use server::{ServeError, serve};
pub use types::{
    Answer, Ask, AuthorityAnswer, CatalogAnswer, CatalogTable, CheckAnswer, CheckAsk, Claim,
    CompareAnswer, CompareAsk, Enrolled, ForgetAnswer, ForgetProposal, MeshHost, PairingHost,
    Refusal,
};

/// Version of the pairing protocol; both sides must speak the same.
const PROTOCOL: u32 = 1;

/// Largest message that is taken, in bytes: a roster of a thousand members is half of it.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
