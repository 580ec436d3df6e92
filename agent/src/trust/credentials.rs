//! This node's key, its certificate and the CAs it trusts: on disk, and in use.
//!
//! PostgreSQL reads the very same three files (`ssl_key_file`, `ssl_cert_file`, `ssl_ca_file`,
//! and `sslkey`, `sslcert`, `sslrootcert` of its subscriptions), so they exist from the first
//! boot on: until the node is enrolled the certificate is self-signed, and trusts only itself.
//! The key is minted once and stays, so a crash between two writes never leaves a certificate
//! with another's key. Must not decide when to renew or whom to ask.

use super::authority::node_params;
use super::names::{self, PeerName};
use super::verify::{AnyCertificate, Unproven, Verifier, unix_time};
use super::{Fingerprint, fingerprint};
use crate::clock::Clocks;
use crate::durable::{self, DurableError};
use pgaa_core::ids::{ClusterId, NodeId};
use pgaa_core::time::Wall;
use rcgen::{KeyPair, PublicKeyData};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring as ring_provider};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;
use tokio::sync::watch;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The application protocol: gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";
/// Most CAs that are trusted at once: one, and another while the CA is being replaced.
const CA_COUNT_MAX: usize = 4;

/// The credentials could not be read, made or installed.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// The file system refused.
    #[error("the node's certificate files can't be kept on disk")]
    Durable(#[from] DurableError),
    /// A file makes no sense.
    #[error(
        "{} is damaged or does not fit the others beside it; move the directory away and the \
         node enrols anew",
        .0.display()
    )]
    Damaged(PathBuf),
    /// What was to be installed is not for this node.
    #[error("the certificate was not installed: {0}")]
    Unfit(&'static str),
    /// What was to be installed proves nothing.
    #[error("the certificate was not installed")]
    Unproven(#[from] Unproven),
    /// The cryptography failed.
    #[error("no certificate or request can be made")]
    Crypto(#[from] rcgen::Error),
    /// TLS refused the files.
    #[error("TLS does not take the node's certificate")]
    Tls(#[from] rustls::Error),
}

/// The three files, as PostgreSQL's settings name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The private key, PKCS #8 PEM, 0600.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The trusted CAs, PEM.
    pub ca: PathBuf,
}

impl TlsFiles {
    /// Where they lie below `state_dir`; the paths never change.
    #[must_use]
    pub fn below(state_dir: &Path) -> TlsFiles {
        let directory = state_dir.join("tls");
        TlsFiles {
            key: directory.join("node.key"),
            certificate: directory.join("node.crt"),
            ca: directory.join("ca.crt"),
        }
    }
}

/// The node's membership, as its certificate states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Cluster and node.
    pub name: PeerName,
    /// The trusted CAs.
    pub ca: Vec<CertificateDer<'static>>,
    /// From when the certificate counts.
    pub not_before: Wall,
    /// Until when.
    pub not_after: Wall,
}

/// One state of the credentials; a connection keeps the one it began with.
#[derive(Debug)]
pub struct Installed {
    /// The certificate that is presented.
    pub certificate: CertificateDer<'static>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// `None` while the certificate is self-signed.
    pub enrolment: Option<Enrolment>,
    /// Judges peers' certificates.
    pub verifier: Verifier,
    /// For connections that come in.
    pub server: Arc<ServerConfig>,
    /// For connections that go out.
    pub client: Arc<ClientConfig>,
    /// Grows with every installation.
    pub serial: u64,
}

/// The node's credentials. New ones take effect for new connections, without a restart.
pub struct Credentials {
    files: TlsFiles,
    node: NodeId,
    key: KeyPair,
    clocks: Clocks,
    run: [u8; 16],
    provider: Arc<CryptoProvider>,
    installed: RwLock<Arc<Installed>>,
    changes: watch::Sender<u64>,
}

impl Credentials {
    /// Reads the credentials below `state_dir`; at first boot mints the key and a self-signed
    /// certificate.
    pub fn open(
        state_dir: &Path,
        node: NodeId,
        clocks: Clocks,
    ) -> Result<Credentials, CredentialsError> {
        let files = TlsFiles::below(state_dir);
        durable::make_directory(&state_dir.join("tls"), 0o700)?;
        let key = open_key(&files.key)?;
        let provider = Arc::new(ring_provider::default_provider());
        let stored = match durable::read(&files.certificate)? {
            Some(text) => Stored::read(&files, &text, &key)?,
            None => Stored::self_signed(&files, node, &key)?,
        };
        let enrolment = stored.enrolment(node);
        let parts = Parts {
            key: &key,
            clocks,
            provider: &provider,
        };
        let installed = parts.assemble(stored.certificate, enrolment, 0)?;
        Ok(Credentials {
            files,
            node,
            key,
            clocks,
            run: *Uuid::new_v4().as_bytes(),
            provider,
            installed: RwLock::new(Arc::new(installed)),
            changes: watch::channel(0).0,
        })
    }

    /// The node whose credentials these are.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The files, for PostgreSQL's settings.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The clock by which certificates are judged.
    #[must_use]
    pub fn clocks(&self) -> Clocks {
        self.clocks
    }

    /// The credentials in force.
    #[must_use]
    pub fn current(&self) -> Arc<Installed> {
        self.installed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The cluster this node holds a certificate of.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.current()
            .enrolment
            .as_ref()
            .map(|enrolment| enrolment.name.cluster)
    }

    /// When the certificate ends; `None` while it is self-signed.
    #[must_use]
    pub fn expires(&self) -> Option<Wall> {
        self.current()
            .enrolment
            .as_ref()
            .map(|enrolment| enrolment.not_after)
    }

    /// A random number of this run of the agent: by it a node that dialled itself is told from
    /// a twin, which has the same UUID and may have the same key.
    #[must_use]
    pub fn run(&self) -> [u8; 16] {
        self.run
    }

    /// Follows installations, by serial: whoever handed the files to somebody else (PostgreSQL
    /// rereads them on a reload) wants to know.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A request for a certificate of this node's key, PKCS #10 in DER.
    pub fn csr(&self) -> Result<Vec<u8>, CredentialsError> {
        Ok(node_params(self.node)?
            .serialize_request(&self.key)?
            .der()
            .to_vec())
    }

    /// Is it time for a new certificate: two thirds of this one's life are over?
    #[must_use]
    pub fn needs_renewal(&self, now: Wall) -> bool {
        self.current().enrolment.as_ref().is_some_and(|enrolment| {
            let life_ms = enrolment.not_after.0.saturating_sub(enrolment.not_before.0);
            now.0 >= enrolment.not_before.0.saturating_add(life_ms / 3 * 2)
        })
    }

    /// Takes a certificate into use, on disk and for new connections, after checking that it is
    /// this node's, fits its key, and is proven by one of `ca`. While a CA is being replaced
    /// `ca` holds both, so that a crash between the two files leaves a pair that works.
    pub fn install(
        &self,
        cluster: ClusterId,
        certificate: CertificateDer<'static>,
        ca: Vec<CertificateDer<'static>>,
    ) -> Result<(), CredentialsError> {
        if ca.is_empty() || ca.len() > CA_COUNT_MAX {
            return Err(CredentialsError::Unfit(
                "it came with no CA, or with too many",
            ));
        }
        let name = PeerName {
            cluster,
            node: self.node,
        };
        if !fits(&certificate, &self.key) {
            return Err(CredentialsError::Unfit("it certifies another key"));
        }
        let stored = Stored { certificate, ca };
        let enrolment = stored
            .enrolment(self.node)
            .filter(|enrolment| enrolment.name == name)
            .ok_or(CredentialsError::Unfit("it names another node or cluster"))?;
        let mut installed = self
            .installed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let parts = Parts {
            key: &self.key,
            clocks: self.clocks,
            provider: &self.provider,
        };
        let serial = installed.serial.saturating_add(1);
        let next = parts.assemble(stored.certificate.clone(), Some(enrolment), serial)?;
        next.verifier
            .server(&next.certificate, unix_time(self.clocks.wall()))?;
        stored.write(&self.files)?;
        *installed = Arc::new(next);
        drop(installed);
        self.changes.send_replace(serial);
        Ok(())
    }
}

/// What the two certificate files hold.
struct Stored {
    certificate: CertificateDer<'static>,
    ca: Vec<CertificateDer<'static>>,
}

impl Stored {
    fn read(files: &TlsFiles, text: &[u8], key: &KeyPair) -> Result<Stored, CredentialsError> {
        let damaged = || CredentialsError::Damaged(files.certificate.clone());
        let certificate = certificates(text).and_then(|mut found| found.pop());
        let certificate = certificate
            .filter(|der| fits(der, key))
            .ok_or_else(damaged)?;
        let ca = durable::read(&files.ca)?.and_then(|text| certificates(&text));
        let ca = ca.ok_or_else(|| CredentialsError::Damaged(files.ca.clone()))?;
        Ok(Stored { certificate, ca })
    }

    fn self_signed(
        files: &TlsFiles,
        node: NodeId,
        key: &KeyPair,
    ) -> Result<Stored, CredentialsError> {
        let certificate = node_params(node)?.self_signed(key)?.der().clone();
        let stored = Stored {
            ca: vec![certificate.clone()],
            certificate,
        };
        stored.write(files)?;
        Ok(stored)
    }

    /// The CAs first: a certificate is never there without what proves it.
    fn write(&self, files: &TlsFiles) -> Result<(), DurableError> {
        let encode = |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", &**der));
        let ca: String = self.ca.iter().map(encode).collect();
        durable::write(&files.ca, ca.as_bytes(), 0o644)?;
        durable::write(
            &files.certificate,
            encode(&self.certificate).as_bytes(),
            0o644,
        )
    }

    /// The membership that the certificate states, if one of the CAs signed it for `node`. Says
    /// nothing of its dates: a node that was switched off for months is still a member.
    fn enrolment(&self, node: NodeId) -> Option<Enrolment> {
        let certificate = names::parse(&self.certificate).ok()?;
        let name = names::peer_name(&certificate)
            .ok()
            .filter(|name| name.node == node)?;
        let signed_by = |ca: &CertificateDer<'_>| {
            names::parse(ca).is_ok_and(|ca| {
                ca.is_ca() && certificate.verify_signature(Some(ca.public_key())).is_ok()
            })
        };
        if !self.ca.iter().any(signed_by) {
            return None;
        }
        let validity = certificate.validity();
        let wall = |seconds: i64| Wall(seconds.saturating_mul(1000));
        Some(Enrolment {
            name,
            ca: self.ca.clone(),
            not_before: wall(validity.not_before.timestamp()),
            not_after: wall(validity.not_after.timestamp()),
        })
    }
}

fn fits(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    names::parse(certificate).is_ok_and(|parsed| {
        parsed.public_key().raw == PublicKeyData::subject_public_key_info(key).as_slice()
    })
}

fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let blocks = pem::parse_many(text).ok()?;
    let certificates: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    (1..=CA_COUNT_MAX)
        .contains(&certificates.len())
        .then_some(certificates)
}

fn open_key(path: &Path) -> Result<KeyPair, CredentialsError> {
    if let Some(text) = durable::read(path)?.map(Zeroizing::new) {
        let damaged = || CredentialsError::Damaged(path.to_owned());
        let block = pem::parse(text.as_slice()).map_err(|_| damaged())?;
        let pkcs8 = PrivatePkcs8KeyDer::from(block.into_contents());
        return KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| damaged());
    }
    let key = KeyPair::generate()?;
    let text = Zeroizing::new(pem::encode(&pem::Pem::new(
        "PRIVATE KEY",
        key.serialized_der(),
    )));
    durable::write(path, text.as_bytes(), 0o600)?;
    Ok(key)
}

/// What TLS configurations are made of.
struct Parts<'a> {
    key: &'a KeyPair,
    clocks: Clocks,
    provider: &'a Arc<CryptoProvider>,
}

impl Parts<'_> {
    fn assemble(
        &self,
        certificate: CertificateDer<'static>,
        enrolment: Option<Enrolment>,
        serial: u64,
    ) -> Result<Installed, CredentialsError> {
        let ca = enrolment
            .as_ref()
            .map(|enrolment| enrolment.ca.as_slice())
            .unwrap_or_default();
        Ok(Installed {
            verifier: Verifier::new(ca, self.provider)?,
            server: Arc::new(self.server(certificate.clone())?),
            client: Arc::new(self.client(certificate.clone())?),
            fingerprint: fingerprint(&certificate),
            certificate,
            enrolment,
            serial,
        })
    }

    fn key_der(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der())
    }

    fn time(&self) -> Arc<ClockTime> {
        Arc::new(ClockTime(self.clocks))
    }

    /// TLS 1.3 only; nothing is resumed and nothing sent early: the pairing rests on each
    /// connection having keys of its own.
    fn server(&self, certificate: CertificateDer<'static>) -> Result<ServerConfig, rustls::Error> {
        let verifier = Arc::new(AnyCertificate::new(self.provider));
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), self.time())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], self.key_der().into())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn client(&self, certificate: CertificateDer<'static>) -> Result<ClientConfig, rustls::Error> {
        let verifier = Arc::new(AnyCertificate::new(self.provider));
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), self.time())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![certificate], self.key_der().into())?;
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

/// The agent's clock, as rustls asks for it.
#[derive(Debug)]
struct ClockTime(Clocks);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.wall()))
    }
}

#[cfg(test)]
mod tests;
