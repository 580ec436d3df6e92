//! Who this node is, whom it believes, and with what it proves itself.
//!
//! Files and cryptography only: must not know gRPC, and must not decide who is a member (the
//! roster does). Secrets in here have no `Debug` and are wiped when they are dropped.

pub mod authority;
pub mod credentials;
pub mod identity;
pub mod keyring;
pub mod names;
pub mod token;
pub mod tokens;
pub mod verify;

pub use authority::{Authority, AuthorityError};
pub use credentials::{Credentials, CredentialsError};
pub use identity::Identity;
pub use keyring::Keyring;
pub use names::PeerName;
pub use token::{JoinToken, Secret, TokenId};
pub use tokens::{TokenEntry, Tokens, TokensError};

use ring::digest;

/// SHA-256 of a DER-encoded certificate: what both sides of a pairing name a certificate by.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a certificate.
#[must_use]
pub fn fingerprint(certificate_der: &[u8]) -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, certificate_der);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}
