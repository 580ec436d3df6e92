//! Connections that come in: accepted, taken through the TLS handshake, and told apart by what
//! they prove. Bounded in number and time, because anyone can dial.

use super::connect::{exporter, tune};
use super::quiet::Quiet;
use crate::trust::credentials::Installed;
use crate::trust::verify::{Proven, Unproven, unix_time};
use crate::trust::{Credentials, Fingerprint, fingerprint};
use pgaa_core::time::Wall;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// For the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For everything on a connection that proves no membership: one pairing.
const UNPROVEN_LIFE: Duration = Duration::from_secs(15);
/// Handshakes at the same time.
const HANDSHAKES_MAX: usize = 128;
/// Connections of members at the same time: more than one from each of a large mesh.
const MEMBERS_MAX: usize = 512;
/// Other connections at the same time.
const UNPROVEN_MAX: usize = 64;
/// After the system could not accept (most likely no file descriptor is left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known of a connection; every request on it can ask.
pub(super) struct ConnectionInfo {
    /// Where it comes from.
    pub(super) remote: SocketAddr,
    /// The client's certificate, whatever it proves.
    pub(super) peer_fingerprint: Option<Fingerprint>,
    /// Whom the client's certificate speaks for.
    pub(super) peer: Result<Proven, Unproven>,
    /// The certificate this node presented on this connection.
    pub(super) own_fingerprint: Fingerprint,
    /// Bytes that only the two ends of this connection know.
    pub(super) exporter: [u8; 32],
    paired: AtomicBool,
}

impl ConnectionInfo {
    /// Whom the connection speaks for now: a certificate may have run out since the handshake.
    pub(super) fn proven(&self, now: Wall) -> Result<Proven, Unproven> {
        let proven = self.peer?;
        if proven.not_after < now {
            Err(Unproven::Expired)
        } else {
            Ok(proven)
        }
    }

    /// True once: a connection carries one pairing.
    pub(super) fn begin_pairing(&self) -> bool {
        !self.paired.swap(true, Ordering::Relaxed)
    }
}

/// An accepted connection.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    info: Arc<ConnectionInfo>,
    /// When a connection without proof ends.
    end: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Arc<ConnectionInfo>;

    fn connect_info(&self) -> Arc<ConnectionInfo> {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Accepts, with the bounds that hold for all connections together.
pub(super) struct Door {
    credentials: Arc<Credentials>,
    quiet: Arc<Quiet>,
    members: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(credentials: Arc<Credentials>, quiet: Arc<Quiet>) -> Arc<Door> {
        Arc::new(Door {
            credentials,
            quiet,
            members: Arc::new(Semaphore::new(MEMBERS_MAX)),
            unproven: Arc::new(Semaphore::new(UNPROVEN_MAX)),
        })
    }

    /// Accepts until nobody takes the connections any more.
    pub(super) async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        taken: mpsc::Sender<io::Result<Connection>>,
    ) {
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                () = taken.closed() => return,
                Some(_) = handshakes.join_next(), if !handshakes.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((_, remote)) if handshakes.len() >= HANDSHAKES_MAX => {
                        self.quiet.warn(remote.ip(), "busy", "too many handshakes at once");
                    }
                    Ok((tcp, remote)) => {
                        handshakes.spawn(self.clone().admit(tcp, remote, taken.clone()));
                    }
                    Err(error) => {
                        log::warn!("no connection can be accepted: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn admit(
        self: Arc<Self>,
        tcp: TcpStream,
        remote: SocketAddr,
        taken: mpsc::Sender<io::Result<Connection>>,
    ) {
        // The newest credentials, kept for this connection: what it presents and what the proof
        // names are the same certificate.
        let own = self.credentials.current();
        match timeout(HANDSHAKE_TIMEOUT, self.shake_hands(&own, tcp, remote)).await {
            Ok(Ok(connection)) => {
                // Nobody takes it any more when the server is shutting down.
                let _ = taken.send(Ok(connection)).await;
            }
            Ok(Err(error)) => {
                self.quiet.warn(
                    remote.ip(),
                    "handshake",
                    &format!("no TLS handshake: {error}"),
                );
            }
            Err(_) => self
                .quiet
                .warn(remote.ip(), "handshake", "the TLS handshake takes too long"),
        }
    }

    async fn shake_hands(
        &self,
        own: &Installed,
        tcp: TcpStream,
        remote: SocketAddr,
    ) -> io::Result<Connection> {
        tune(&tcp)?;
        let stream = TlsAcceptor::from(own.server.clone()).accept(tcp).await?;
        let tls = stream.get_ref().1;
        if tls.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the client does not speak HTTP/2"));
        }
        let certificate = tls.peer_certificates().and_then(<[_]>::first);
        let now = unix_time(self.credentials.clocks().wall());
        let peer = own.verifier.client(certificate, now);
        let permits = if peer.is_ok() {
            &self.members
        } else {
            &self.unproven
        };
        let permit = permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| io::Error::other("too many connections"))?;
        let info = ConnectionInfo {
            remote,
            peer_fingerprint: certificate.map(|der| fingerprint(der)),
            peer,
            own_fingerprint: own.fingerprint,
            exporter: exporter(tls).map_err(io::Error::other)?,
            paired: AtomicBool::new(false),
        };
        let end = info.peer.is_err().then(|| Box::pin(sleep(UNPROVEN_LIFE)));
        Ok(Connection {
            stream,
            info: Arc::new(info),
            end,
            _permit: permit,
        })
    }
}
