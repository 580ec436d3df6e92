//! The way to a server: a Unix socket, or TCP with TLS, as the words of a connection string say
//! ("Database Connection Control Functions" in libpq's manual).
//!
//! TLS is always `verify-full`: the certificate must be signed by one of `sslrootcert` and name the
//! host. The files are read anew for each connection, as libpq does.

use super::{WireError, Words, message::WANT_TLS};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::crypto::ring as ring_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// TLS asks for a few KiB at a time, and each time would be a call of the kernel.
const READ_AHEAD: usize = 256 * 1024;

/// What bytes come and go through.
pub(super) trait Link: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Link for T {}

fn word<'a>(words: &'a Words, name: &'static str) -> Result<&'a str, WireError> {
    let found = words.get(name).map(String::as_str);
    found.ok_or(WireError::Unfit(name))
}

/// Which server that is, for people.
pub(super) fn place(words: &Words) -> String {
    let word = |name: &str| words.get(name).map(String::as_str);
    let host = word("hostaddr").or(word("host")).unwrap_or_default();
    match (host.starts_with('/'), word("port").unwrap_or_default()) {
        (true, port) => format!("the server at {host}/.s.PGSQL.{port}"),
        (false, port) if host.contains(':') => format!("the server at [{host}]:{port}"),
        (false, port) => format!("the server at {host}:{port}"),
    }
}

/// Opens it.
pub(super) async fn open(words: &Words, place: &str) -> Result<Box<dyn Link>, WireError> {
    let (host, port) = (word(words, "host")?, word(words, "port")?);
    let unreachable = |source| WireError::Unreachable {
        place: place.to_owned(),
        source,
    };
    if host.starts_with('/') {
        let socket = Path::new(host).join(format!(".s.PGSQL.{port}"));
        let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
        return Ok(Box::new(stream));
    }
    // Nothing that this speaks to is spoken to otherwise.
    if word(words, "sslmode")? != "verify-full" {
        return Err(WireError::Unfit("sslmode"));
    }
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| WireError::Unfit("host"))?;
    let address: IpAddr = number(words, "hostaddr")?;
    let address = SocketAddr::new(address, number(words, "port")?);
    let stream = async {
        let mut stream = TcpStream::connect(address).await?;
        tend(&stream, words)?;
        stream.write_all(&WANT_TLS).await?;
        if stream.read_u8().await? != b'S' {
            return Err(io::Error::other("it does not speak TLS"));
        }
        let tls = TlsConnector::from(Arc::new(security(words)?));
        let stream = BufReader::with_capacity(READ_AHEAD, stream);
        tls.connect(name, stream).await
    };
    Ok(Box::new(stream.await.map_err(unreachable)?))
}

fn number<T: std::str::FromStr>(words: &Words, name: &'static str) -> Result<T, WireError> {
    let parsed = word(words, name)?.parse();
    parsed.map_err(|_| WireError::Unfit(name))
}

/// Small messages leave at once, and a server that vanished is noticed.
fn tend(tcp: &TcpStream, words: &Words) -> io::Result<()> {
    let number = |name: &str| words.get(name).and_then(|value| value.parse::<u32>().ok());
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    if let Some(idle_s) = number("keepalives_idle") {
        setsockopt(tcp, sockopt::TcpKeepIdle, &idle_s)?;
    }
    if let Some(interval_s) = number("keepalives_interval") {
        setsockopt(tcp, sockopt::TcpKeepInterval, &interval_s)?;
    }
    if let Some(count) = number("keepalives_count") {
        setsockopt(tcp, sockopt::TcpKeepCount, &count)?;
    }
    if let Some(timeout_ms) = number("tcp_user_timeout") {
        setsockopt(tcp, sockopt::TcpUserTimeout, &timeout_ms)?;
    }
    Ok(())
}

/// Whom to believe, and what to show.
fn security(words: &Words) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(words, "sslrootcert")? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let key = Zeroizing::new(file(words, "sslkey")?);
    let key = pem::parse(key.as_slice()).map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(key.into_contents());
    let shown = certificates(words, "sslcert")?;
    let provider = Arc::new(ring_provider::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(shown, key.into());
    config.map_err(io::Error::other)
}

fn file(words: &Words, name: &str) -> io::Result<Vec<u8>> {
    let path = words.get(name).map(Path::new).unwrap_or(Path::new(""));
    let text = std::fs::read(path);
    text.map_err(|error| io::Error::other(format!("{name} {}: {error}", path.display())))
}

fn certificates(words: &Words, name: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let blocks = pem::parse_many(file(words, name)?).map_err(io::Error::other)?;
    let blocks = blocks.into_iter();
    Ok(blocks
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect())
}
