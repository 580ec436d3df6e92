//! Pairing: two agents that share a join token prove it to one another, then one asks and the
//! other answers, all on a single TLS connection.
//!
//! The token is never sent. Each side sends an HMAC under the token's secret over everything
//! that makes this connection this one (both certificates and the TLS exporter), so a man in the
//! middle, who has two connections, can pass on neither proof. The client proves first: a server
//! that does not hold the token learns nothing it could use. [A client that reconnected in
//! silence would let a man in the middle answer the second half, so a connection is used once.]

mod client;
mod proof;
mod server;

pub use client::PairingClient;
pub(super) use server::Pairing;

use super::connect::ConnectError;
use super::convert::{BadMessage, text_of_refusal};
use super::types::Refusal;
use pgaa_proto::v1 as wire;
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

/// For a whole pairing, from dialling to the answer.
const PAIRING_TIMEOUT: Duration = Duration::from_secs(5);

/// A pairing came to nothing. Nothing was changed by it.
#[derive(Debug, Error, Clone)]
pub enum PairingError {
    /// There is nothing to prove.
    #[error(
        "this node has no join token: put one into its token file (`pgaa-agent token create` \
             on a member prints one), then: systemctl restart pgaa-agent"
    )]
    NoToken,
    /// Nobody was reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It took too long.
    #[error("{0} did not answer within 5 s")]
    TimedOut(SocketAddr),
    /// The address is this very agent's.
    #[error("{0} is this node itself")]
    Myself(SocketAddr),
    /// Another machine has this node's UUID.
    #[error(
        "{0} has the UUID of this node: one is a copy of the other. Run `pgaa-agent image seal` \
         on the copy, which gives it an identity of its own"
    )]
    Twin(SocketAddr),
    /// The other side says no.
    #[error("{address} refuses: {refusal}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The other side did not prove the token.
    #[error(
        "{0} does not hold the join token this node has, or somebody sits between the two: \
         compare the token files, and what is in the path"
    )]
    Unproven(SocketAddr),
    /// The connection ended early.
    #[error("{0} ended the connection before it answered")]
    Lost(SocketAddr),
    /// The other side sent what makes no sense.
    #[error(transparent)]
    BadAnswer(#[from] BadMessage),
}

impl PairingError {
    /// A stable word for programs and logs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            PairingError::NoToken => "no_token",
            PairingError::Connect(_) => "unreachable",
            PairingError::TimedOut(_) => "timed_out",
            PairingError::Myself(_) => "myself",
            PairingError::Twin(_) => "twin",
            PairingError::Refused { refusal, .. } => &refusal.code,
            PairingError::Unproven(_) => "unproven",
            PairingError::Lost(_) => "lost",
            PairingError::BadAnswer(_) => "bad_answer",
        }
    }
}

fn frame(frame: wire::pairing_frame::Frame) -> wire::PairingFrame {
    wire::PairingFrame { frame: Some(frame) }
}

fn refused_frame(refusal: &Refusal) -> wire::PairingFrame {
    frame(wire::pairing_frame::Frame::Refused(wire::Refused {
        code: refusal.code.clone(),
        message: text_of_refusal(&refusal.message),
    }))
}

/// A client's proof, for tests that speak the protocol by hand.
#[cfg(test)]
pub(super) fn prove_as_client(
    token: &crate::trust::JoinToken,
    client: (pgaa_core::ids::NodeId, &crate::trust::Fingerprint),
    server: (pgaa_core::ids::NodeId, &crate::trust::Fingerprint),
    exporter: &[u8; 32],
) -> Vec<u8> {
    let cluster_name = &pgaa_core::ids::Name::new("shop").unwrap();
    let transcript = proof::Transcript {
        cluster_name,
        token: &token.id,
        client: client.0,
        server: server.0,
        client_certificate: client.1,
        server_certificate: server.1,
        exporter,
    };
    transcript.prove(&token.secret, proof::Direction::ClientProves)
}
