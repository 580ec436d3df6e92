//! The names in certificates: what is written into them, and read from them, in one place.
//!
//! Reading a name proves nothing: `verify` checks the signature first.

use pgaa_core::ids::{ClusterId, NodeId};
use std::fmt;
use thiserror::Error;
use uuid::Uuid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// Largest certificate or request that is parsed, in bytes; ours are below 1 KiB.
pub const DER_BYTES_MAX: usize = 8 * 1024;

/// Whom a certificate of a cluster's CA speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

impl fmt::Display for PeerName {
    /// The URI in the certificate's subject alternative name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pgaa://{}/{}", self.cluster, self.node)
    }
}

impl PeerName {
    /// Reads `pgaa://<cluster>/<node>`, in exactly the form that is written.
    #[must_use]
    pub fn parse(uri: &str) -> Option<PeerName> {
        let (cluster, node) = uri.strip_prefix("pgaa://")?.split_once('/')?;
        let name = PeerName {
            cluster: ClusterId(Uuid::try_parse(cluster).ok()?),
            node: NodeId(Uuid::try_parse(node).ok()?),
        };
        (name.to_string() == uri).then_some(name)
    }
}

/// The host name PostgreSQL's clients verify: `<uuid>.pgaa`. It is in no DNS; connections name
/// the address beside it (`hostaddr`).
#[must_use]
pub fn host_name(node: NodeId) -> String {
    format!("{node}.pgaa")
}

/// A certificate's names make no sense.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BadCertificate {
    /// Not a certificate.
    #[error("this is no X.509 certificate")]
    Form,
    /// A certificate of something else.
    #[error("the certificate names no node of a cluster (SAN pgaa://<cluster>/<node>)")]
    NoName,
}

/// Parses a certificate of bounded size with nothing after it.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, BadCertificate> {
    if der.len() > DER_BYTES_MAX {
        return Err(BadCertificate::Form);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(BadCertificate::Form),
    }
}

/// The name in a certificate: its only URI, with a common name that agrees.
pub fn peer_name(certificate: &X509Certificate<'_>) -> Result<PeerName, BadCertificate> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| BadCertificate::Form)?;
    let names = extension
        .map(|san| san.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(BadCertificate::NoName);
    };
    let name = PeerName::parse(uri).ok_or(BadCertificate::NoName)?;
    if common_name(certificate.subject()) != Some(name.node.to_string().as_str()) {
        return Err(BadCertificate::NoName);
    }
    Ok(name)
}

/// The common name, when a subject consists of nothing else.
#[must_use]
pub fn common_name<'a>(subject: &'a X509Name<'_>) -> Option<&'a str> {
    let mut attributes = subject.iter_attributes();
    let (Some(only), None) = (attributes.next(), attributes.next()) else {
        return None;
    };
    let is_common_name = *only.attr_type() == x509_parser::oid_registry::OID_X509_COMMON_NAME;
    if is_common_name {
        only.as_str().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let name = PeerName {
            cluster: ClusterId(Uuid::from_u128(1)),
            node: NodeId(Uuid::from_u128(0xAB)),
        };
        let uri = name.to_string();
        assert_eq!(PeerName::parse(&uri), Some(name));
        let others = [
            uri.to_uppercase(),
            uri.replace('-', ""),
            format!("{uri}/"),
            uri.replace("pgaa://", "https://"),
            String::new(),
        ];
        for other in others {
            assert_eq!(PeerName::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn garbage_is_no_certificate() {
        for garbage in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0x30; 64 * 1024]] {
            assert_eq!(parse(garbage).err(), Some(BadCertificate::Form));
        }
    }
}
