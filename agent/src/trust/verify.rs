//! Whom a peer's certificate speaks for, decided once in each TLS handshake.
//!
//! A certificate that proves nothing is no reason to end the handshake: pairing starts from
//! self-signed ones. It is marked instead, and every mesh call is refused on such a connection.
//! That the peer holds the certificate's key is proven in any case, by the handshake itself.

use super::names::{self, PeerName};
use pgaa_core::time::Wall;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error as ThisError;

/// A certificate that proves nothing to this node.
#[derive(Debug, ThisError, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unproven {
    /// None was sent.
    #[error("no certificate was presented")]
    Missing,
    /// Before enrolment nothing can be verified.
    #[error("this node is in no cluster yet")]
    NoCluster,
    /// Self-signed, or signed by somebody else.
    #[error("the certificate is not signed by this cluster's CA")]
    OtherAuthority,
    /// Its time is over, or has not come.
    #[error(
        "the certificate has expired or is not valid yet: compare the two clocks (timedatectl); \
         an agent renews its own certificate when it starts"
    )]
    Expired,
    /// Signed by our CA, and of no use.
    #[error("the certificate names no node of a cluster")]
    NoName,
}

/// What a verified certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// For whom it speaks.
    pub name: PeerName,
    /// Until when.
    pub not_after: Wall,
}

/// Checks peers' certificates against the cluster's CA.
pub struct Verifier {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Trusts `ca`; nobody when it is empty.
    pub fn new(
        ca: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(certificate.clone())?;
        }
        let roots = Arc::new(roots);
        let chain = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
            Some(
                builder
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?,
            )
        };
        Ok(Verifier {
            chain,
            roots,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Whom a client's certificate speaks for.
    pub fn client(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        now: UnixTime,
    ) -> Result<Proven, Unproven> {
        let certificate = certificate.ok_or(Unproven::Missing)?;
        let chain = self.chain.as_ref().ok_or(Unproven::NoCluster)?;
        chain
            .verify_client_cert(certificate, &[], now)
            .map_err(|error| unproven(&error))?;
        proven(certificate)
    }

    /// Whom a server's certificate speaks for.
    pub fn server(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Proven, Unproven> {
        if self.roots.is_empty() {
            return Err(Unproven::NoCluster);
        }
        let parsed = ParsedCertificate::try_from(certificate).map_err(|e| unproven(&e))?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            &[],
            now,
            self.algorithms.all,
        )
        .map_err(|error| unproven(&error))?;
        proven(certificate)
    }
}

fn proven(certificate: &CertificateDer<'_>) -> Result<Proven, Unproven> {
    let parsed = names::parse(certificate).map_err(|_| Unproven::NoName)?;
    let name = names::peer_name(&parsed).map_err(|_| Unproven::NoName)?;
    let not_after = Wall(parsed.validity().not_after.timestamp().saturating_mul(1000));
    Ok(Proven { name, not_after })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other error is the signer's"
)]
fn unproven(error: &Error) -> Unproven {
    match error {
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Unproven::Expired,
        _ => Unproven::OtherAuthority,
    }
}

/// Seconds since 1970 as rustls wants them.
#[must_use]
pub fn unix_time(now: Wall) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.0).unwrap_or(0)))
}

/// Accepts any certificate, and checks that the peer holds its key. The connection's owner then
/// asks a `Verifier` what the certificate is worth.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    pub(super) fn new(provider: &CryptoProvider) -> AnyCertificate {
        AnyCertificate {
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// TLS 1.2 is never offered; should rustls ask all the same, the handshake ends.
fn never_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not offered".to_owned()))
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
