//! One outgoing TLS connection, and what it proves.
//!
//! Does not judge whom it reached: pairing and the pool of members each have their own rule.

use crate::trust::credentials::Installed;
use crate::trust::{Fingerprint, fingerprint};
use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For connecting and the handshake together. Shorter than a call's time-out, so that the caller
/// hears the cause.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long sent bytes may stay unacknowledged before the kernel gives a connection up.
const UNACKNOWLEDGED_MS_MAX: u32 = 5_000;

/// What the exporter is for (RFC 8446 section 7.5, RFC 5705).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-pgaa-pairing-v1";

/// No connection.
#[derive(Debug, Error, Clone)]
pub enum ConnectError {
    /// Nobody answers there in time.
    #[error("{0} does not answer")]
    TimedOut(SocketAddr),
    /// The network says no.
    #[error("{address} is not reached")]
    Network {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Something answers that does not speak TLS 1.3 the way an agent does.
    #[error("{0} does not speak the agents' protocol: is another program on that port?")]
    NoAgent(SocketAddr),
    /// TLS failed on our side.
    #[error("a TLS connection to {address} can't be made")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: rustls::Error,
    },
}

/// An open connection.
pub(super) struct Outgoing {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) peer_fingerprint: Fingerprint,
    pub(super) exporter: [u8; 32],
}

/// Connects with the credentials given.
pub(super) async fn connect(
    own: &Installed,
    address: SocketAddr,
) -> Result<Outgoing, ConnectError> {
    let opened = timeout(CONNECT_TIMEOUT, open(own, address)).await;
    let stream = opened.map_err(|_| ConnectError::TimedOut(address))??;
    let tls = stream.get_ref().1;
    let certificate = tls.peer_certificates().and_then(<[_]>::first).cloned();
    let certificate = certificate
        .ok_or(ConnectError::NoAgent(address))?
        .into_owned();
    let exporter = exporter(tls).map_err(|source| ConnectError::Tls { address, source })?;
    let peer_fingerprint = fingerprint(&certificate);
    Ok(Outgoing {
        stream,
        certificate,
        peer_fingerprint,
        exporter,
    })
}

async fn open(own: &Installed, address: SocketAddr) -> Result<TlsStream<TcpStream>, ConnectError> {
    let network = |error: io::Error| ConnectError::Network {
        address,
        source: Arc::new(error),
    };
    let tcp = TcpStream::connect(address).await.map_err(network)?;
    tune(&tcp).map_err(network)?;
    // The name is not verified and, being an address, not sent either.
    let name = ServerName::IpAddress(address.ip().into());
    let connected = TlsConnector::from(own.client.clone())
        .connect(name, tcp)
        .await;
    let stream = connected.map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            ConnectError::NoAgent(address)
        } else {
            network(error)
        }
    })?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(ConnectError::NoAgent(address));
    }
    Ok(stream)
}

/// Small messages leave at once, and a peer that vanished is noticed.
pub(super) fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS_MAX)?;
    Ok(())
}

/// Bytes that only the two ends of this very connection know.
pub(super) fn exporter<Side>(
    tls: &rustls::ConnectionCommon<Side>,
) -> Result<[u8; 32], rustls::Error> {
    tls.export_keying_material([0; 32], EXPORTER_LABEL, None)
}
