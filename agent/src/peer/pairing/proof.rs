//! What a pairing's proofs are made of.
//!
//! Pure: the same inputs give the same proof.

use crate::peer::PROTOCOL;
use crate::trust::{Fingerprint, Secret, TokenId};
use pgaa_core::ids::{Name, NodeId};
use ring::hmac;

/// Who proves: each direction has a label of its own, so that no proof can be sent back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ClientProves,
    ServerProves,
}

impl Direction {
    fn label(self) -> &'static [u8] {
        match self {
            Direction::ClientProves => b"pgaa pairing v1, the client proves",
            Direction::ServerProves => b"pgaa pairing v1, the server proves",
        }
    }
}

/// Everything both sides must see alike.
pub(super) struct Transcript<'a> {
    pub(super) cluster_name: &'a Name,
    pub(super) token: &'a TokenId,
    pub(super) client: NodeId,
    pub(super) server: NodeId,
    pub(super) client_certificate: &'a Fingerprint,
    pub(super) server_certificate: &'a Fingerprint,
    pub(super) exporter: &'a [u8; 32],
}

impl Transcript<'_> {
    /// Each field with its length before it: no two transcripts share an encoding.
    fn encode(&self, direction: Direction) -> Vec<u8> {
        let protocol = PROTOCOL.to_be_bytes();
        let fields: [&[u8]; 9] = [
            direction.label(),
            &protocol,
            self.cluster_name.as_str().as_bytes(),
            self.token.as_str().as_bytes(),
            self.client.0.as_bytes(),
            self.server.0.as_bytes(),
            self.client_certificate,
            self.server_certificate,
            self.exporter,
        ];
        let mut encoded = Vec::with_capacity(512);
        for field in fields {
            encoded.extend_from_slice(&(field.len() as u64).to_be_bytes());
            encoded.extend_from_slice(field);
        }
        encoded
    }

    /// The proof that its sender holds `secret`.
    pub(super) fn prove(&self, secret: &Secret, direction: Direction) -> Vec<u8> {
        hmac::sign(&secret.hmac_key(), &self.encode(direction))
            .as_ref()
            .to_vec()
    }

    /// Does `proof` show that its sender holds `secret`? Compares in constant time.
    pub(super) fn is_proven(&self, secret: &Secret, direction: Direction, proof: &[u8]) -> bool {
        hmac::verify(&secret.hmac_key(), &self.encode(direction), proof).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn every_field_and_the_direction_count() {
        let secret = Secret::new([7; 32]);
        let (name, other_name) = (Name::new("a").unwrap(), Name::new("b").unwrap());
        let (token, other_token) = (TokenId::new("a").unwrap(), TokenId::new("b").unwrap());
        let (one, two) = (NodeId(Uuid::from_u128(1)), NodeId(Uuid::from_u128(2)));
        let three = NodeId(Uuid::from_u128(3));
        let base = || Transcript {
            cluster_name: &name,
            token: &token,
            client: one,
            server: two,
            client_certificate: &[1; 32],
            server_certificate: &[2; 32],
            exporter: &[3; 32],
        };
        let proof = base().prove(&secret, Direction::ClientProves);
        let proven = |transcript: Transcript<'_>, direction| {
            transcript.is_proven(&secret, direction, &proof)
        };
        assert!(proven(base(), Direction::ClientProves));
        assert!(!proven(base(), Direction::ServerProves));
        let others = [
            Transcript {
                cluster_name: &other_name,
                ..base()
            },
            Transcript {
                token: &other_token,
                ..base()
            },
            Transcript {
                client: three,
                ..base()
            },
            Transcript {
                server: three,
                ..base()
            },
            Transcript {
                client: two,
                server: one,
                ..base()
            },
            Transcript {
                client_certificate: &[9; 32],
                ..base()
            },
            Transcript {
                server_certificate: &[9; 32],
                ..base()
            },
            Transcript {
                exporter: &[9; 32],
                ..base()
            },
        ];
        for (at, other) in others.into_iter().enumerate() {
            assert!(!proven(other, Direction::ClientProves), "field {at}");
        }
        assert!(!base().is_proven(&Secret::new([8; 32]), Direction::ClientProves, &proof));
        assert!(!base().is_proven(&secret, Direction::ClientProves, &proof[1..]));
        assert!(!base().is_proven(&secret, Direction::ClientProves, &[]));
    }
}
