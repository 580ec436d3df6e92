//! Wire types of pgaa: generated from `proto/`, and nothing else.
//!
//! Only `agent/src/peer/` and `agent/src/control/` may use this crate; everything else speaks
//! the types of `pgaa-core`.
#![allow(
    clippy::all,
    clippy::allow_attributes,
    missing_docs,
    reason = "generated code"
)]

/// Version 1 of the protocol.
pub mod v1 {
    tonic::include_proto!("pgaa.v1");
}
