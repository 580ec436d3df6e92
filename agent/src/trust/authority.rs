//! The cluster's certificate authority: born on the founder, held by every ready member.
//!
//! Signs what it was asked to sign for a node whose membership the caller has established; must
//! not decide who is a member. The time is a parameter.

use super::names::{self, BadCertificate, PeerName};
use crate::durable::{self, DurableError};
use pgaa_core::ids::{ClusterId, Name, NodeId};
use pgaa_core::time::Wall;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

/// How long a node's certificate lives.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// How far certificates are backdated: clocks need not agree to the second.
pub const BACKDATED: Duration = Duration::from_secs(3_600);
/// How long the CA lives; longer than the machines.
const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Key and certificate in one file, so that no crash leaves one without the other.
const FILE: &str = "ca.key";

/// The CA could not be made, read or used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The file system refused.
    #[error("the CA's key can't be kept on disk")]
    Durable(#[from] DurableError),
    /// The file, or what another member sent, is no CA.
    #[error("the CA key does not fit the CA certificate, or one of them is damaged")]
    Damaged,
    /// A request that must not be signed.
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
    /// The cryptography failed.
    #[error("no certificate can be made")]
    Crypto(#[from] rcgen::Error),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl From<BadCertificate> for AuthorityError {
    fn from(_: BadCertificate) -> AuthorityError {
        AuthorityError::Damaged
    }
}

/// The CA, with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Mints the CA of a cluster.
    pub fn create(
        cluster: ClusterId,
        cluster_name: &Name,
        now: Wall,
    ) -> Result<Authority, AuthorityError> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, cluster.to_string());
        subject.push(DnType::CommonName, format!("pgaa {cluster_name}"));
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial()?);
        set_life(&mut params, now, CA_LIFE);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Authority {
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA from its parts, as a member sends them. They must fit one another.
    pub fn from_parts(key_pkcs8: &[u8], ca_der: &[u8]) -> Result<Authority, AuthorityError> {
        let parsed = names::parse(ca_der)?;
        let pkcs8 = PrivatePkcs8KeyDer::from(key_pkcs8);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| AuthorityError::Damaged)?;
        let certified = parsed.public_key().subject_public_key.as_ref();
        if !parsed.is_ca() || certified != key.public_key_raw() {
            return Err(AuthorityError::Damaged);
        }
        let certificate = CertificateDer::from(ca_der.to_vec());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Authority {
            certificate,
            issuer,
        })
    }

    /// Reads the CA in `state_dir`; `None` on a node that does not hold it.
    pub fn load(state_dir: &Path) -> Result<Option<Authority>, AuthorityError> {
        let Some(text) = durable::read(&state_dir.join(FILE))?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let blocks = pem::parse_many(text.as_slice()).map_err(|_| AuthorityError::Damaged)?;
        let block = |tag| {
            blocks
                .iter()
                .find(|b| b.tag() == tag)
                .ok_or(AuthorityError::Damaged)
        };
        let key = Zeroizing::new(block("PRIVATE KEY")?.contents().to_vec());
        Authority::from_parts(&key, block("CERTIFICATE")?.contents()).map(Some)
    }

    /// Keeps the CA in `state_dir`, readable by this user alone.
    pub fn store(&self, state_dir: &Path) -> Result<(), AuthorityError> {
        let key = pem::Pem::new("PRIVATE KEY", self.issuer.key().serialized_der());
        let certificate = pem::Pem::new("CERTIFICATE", self.certificate.as_ref());
        let text = Zeroizing::new(pem::encode(&key) + &pem::encode(&certificate));
        Ok(durable::write(
            &state_dir.join(FILE),
            text.as_bytes(),
            0o600,
        )?)
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's key, for another ready member only.
    #[must_use]
    pub fn key_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    /// Certifies the key in `csr_der` for `node`. Of the request only the key is taken; one that
    /// asks for another name, or for anything else, is refused rather than corrected.
    pub fn issue(
        &self,
        csr_der: &[u8],
        cluster: ClusterId,
        node: NodeId,
        now: Wall,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let name = PeerName { cluster, node };
        let key = requested_key(csr_der, node)?;
        let mut params = node_params(node)?;
        params
            .subject_alt_names
            .push(SanType::URI(name.to_string().try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        set_life(&mut params, now, CERTIFICATE_LIFE);
        Ok(params.signed_by(&key, &self.issuer)?.der().clone())
    }
}

/// What every certificate and every request of a node says: its UUID as common name (the `cert`
/// method of PostgreSQL maps it through pg_ident) and its host name.
pub fn node_params(node: NodeId) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, node.to_string());
    params.subject_alt_names = vec![SanType::DnsName(names::host_name(node).try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    Ok(params)
}

fn set_life(params: &mut CertificateParams, now: Wall, life: Duration) {
    let since_epoch = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch.saturating_sub(BACKDATED);
    params.not_after = epoch + since_epoch.saturating_add(life);
}

fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::NoRandomness)?;
    // RFC 5280 4.1.2.2: positive, and never zero.
    bytes[0] = (bytes[0] & 0x7F) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The key of a request that is signed by that key and asks for nothing but `node`'s own name.
fn requested_key(csr_der: &[u8], node: NodeId) -> Result<SubjectPublicKeyInfo, AuthorityError> {
    use AuthorityError::Request;
    if csr_der.len() > names::DER_BYTES_MAX {
        return Err(Request("it is too large"));
    }
    let Ok(([], csr)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(Request("it is no PKCS #10 request"));
    };
    csr.verify_signature()
        .map_err(|_| Request("its signature is wrong"))?;
    let info = &csr.certification_request_info;
    if names::common_name(&info.subject) != Some(node.to_string().as_str()) {
        return Err(Request("its subject is not the node that asks"));
    }
    let extensions = csr.requested_extensions();
    for extension in extensions.into_iter().flatten() {
        if !asks_for_own_name(extension, node) {
            return Err(Request("it asks for more than the node's own name"));
        }
    }
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_| Request("its key is of an unknown kind"))?;
    if *rcgen::PublicKeyData::algorithm(&key) != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(Request("its key is not on the curve P-256"));
    }
    Ok(key)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not listed here is refused"
)]
fn asks_for_own_name(extension: &ParsedExtension<'_>, node: NodeId) -> bool {
    match extension {
        ParsedExtension::SubjectAlternativeName(san) => {
            let own = names::host_name(node);
            san.general_names
                .iter()
                .all(|name| *name == GeneralName::DNSName(&own))
        }
        ParsedExtension::BasicConstraints(constraints) => !constraints.ca,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    const NOW: Wall = Wall(1_700_000_000_000);
    const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
    const NODE: NodeId = NodeId(Uuid::from_u128(8));

    fn authority() -> Authority {
        Authority::create(CLUSTER, &Name::new("shop").unwrap(), NOW).unwrap()
    }

    fn csr(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_what_the_mesh_and_postgresql_need() {
        let key = KeyPair::generate().unwrap();
        let request = csr(&node_params(NODE).unwrap(), &key);
        let authority = authority();
        let der = authority.issue(&request, CLUSTER, NODE, NOW).unwrap();
        let certificate = names::parse(&der).unwrap();
        let name = PeerName {
            cluster: CLUSTER,
            node: NODE,
        };
        assert_eq!(names::peer_name(&certificate), Ok(name));
        let ca = names::parse(authority.ca_der()).unwrap();
        certificate.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(
            ca.subject().to_string(),
            format!("O={CLUSTER}, CN=pgaa shop")
        );
        let validity = certificate.validity();
        assert_eq!(validity.not_before.timestamp(), NOW.0 / 1000 - 3_600);
        assert_eq!(validity.not_after.timestamp(), NOW.0 / 1000 + 90 * 86_400);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(!certificate.is_ca());
        let other = authority.issue(&request, CLUSTER, NODE, NOW).unwrap();
        assert_ne!(
            names::parse(&other).unwrap().raw_serial(),
            certificate.raw_serial()
        );
    }

    #[test]
    fn only_the_own_name_and_a_valid_signature_are_certified() {
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let refused = |request: &[u8]| {
            let result = authority.issue(request, CLUSTER, NODE, NOW);
            assert!(matches!(result, Err(AuthorityError::Request(_))));
        };
        let own = node_params(NODE).unwrap();
        refused(&csr(
            &node_params(NodeId(Uuid::from_u128(9))).unwrap(),
            &key,
        ));
        let mut more = own.clone();
        more.subject_alt_names
            .push(SanType::DnsName("db.example".try_into().unwrap()));
        refused(&csr(&more, &key));
        let mut uri = own.clone();
        uri.subject_alt_names
            .push(SanType::URI("pgaa://x/y".try_into().unwrap()));
        refused(&csr(&uri, &key));
        let mut ca = own.clone();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        refused(&csr(&ca, &key));
        let mut named = own.clone();
        named.distinguished_name.push(DnType::OrganizationName, "x");
        refused(&csr(&named, &key));
        refused(&csr(
            &own,
            &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        ));
        let mut damaged = csr(&own, &key);
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        refused(&damaged);
        refused(&[]);
        refused(&[0x30; 9_000]);
        let mut longer = csr(&own, &key);
        longer.push(0);
        refused(&longer);
    }

    #[test]
    fn the_key_is_kept_in_private_and_fits_its_certificate() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Authority::load(directory.path()).unwrap().is_none());
        let first = authority();
        first.store(directory.path()).unwrap();
        let meta = std::fs::metadata(directory.path().join(FILE)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let loaded = Authority::load(directory.path()).unwrap().unwrap();
        let key = KeyPair::generate().unwrap();
        let request = csr(&node_params(NODE).unwrap(), &key);
        let der = loaded.issue(&request, CLUSTER, NODE, NOW).unwrap();
        let ca = names::parse(first.ca_der()).unwrap();
        names::parse(&der)
            .unwrap()
            .verify_signature(Some(ca.public_key()))
            .unwrap();
        let mixed = Authority::from_parts(&authority().key_pkcs8(), first.ca_der());
        assert!(matches!(mixed, Err(AuthorityError::Damaged)));
        let no_ca = Authority::from_parts(&key.serialize_der(), &der);
        assert!(matches!(no_ca, Err(AuthorityError::Damaged)));
    }
}
