//! Against a server that says what the test tells it to, over real TLS.

use super::super::conninfo::{Remote, words};
use super::*;
use crate::clock::Clocks;
use crate::trust::{Authority, Credentials};
use pgaa_core::ids::{ClusterId, Name, NodeId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
const SOURCE: NodeId = NodeId(Uuid::from_u128(1));
const JOINER: NodeId = NodeId(Uuid::from_u128(2));
const OTHER: NodeId = NodeId(Uuid::from_u128(3));

fn authority(clocks: Clocks) -> Authority {
    Authority::create(CLUSTER, &Name::new("shop").unwrap(), clocks.wall()).unwrap()
}

fn enrolled(authority: &Authority, node: NodeId, clocks: Clocks) -> (TempDir, Credentials) {
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(directory.path(), node, clocks).unwrap();
    let request = credentials.csr().unwrap();
    let issued = authority.issue(&request, CLUSTER, node, clocks.wall());
    let ca = vec![authority.ca_der().clone()];
    credentials.install(CLUSTER, issued.unwrap(), ca).unwrap();
    (directory, credentials)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

async fn one(link: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let length = link.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    link.read_exact(&mut body).await.unwrap();
    body
}

/// A server of `credentials` that lets its first client in, answers its first query with `answer`,
/// and hangs up. Where it listens, and what it was asked.
async fn server(
    credentials: &Credentials,
    answer: Vec<u8>,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(credentials.current().server.clone());
    let played = async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        assert_eq!(one(&mut tcp).await, message::WANT_TLS[4..]);
        tcp.write_all(b"S").await.unwrap();
        let Ok(mut tls) = acceptor.accept(tcp).await else {
            return Vec::new();
        };
        assert!(tls.get_ref().1.peer_certificates().is_some());
        let mut said = one(&mut tls).await;
        let let_in = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        tls.write_all(&let_in).await.unwrap();
        assert_eq!(tls.read_u8().await.unwrap(), b'Q');
        said.extend(one(&mut tls).await);
        tls.write_all(&answer).await.unwrap();
        tls.shutdown().await.unwrap();
        said
    };
    (address, tokio::spawn(played))
}

/// What comes of a copy from a server of `SOURCE` that answers so, by one who wants `wanted`.
async fn copy(wanted: NodeId, own_ca: bool, answer: Vec<u8>) -> Result<Vec<u8>, WireError> {
    let clocks = Clocks::start();
    let shared = authority(clocks);
    let other = authority(clocks);
    let (_theirs, source) = enrolled(&shared, SOURCE, clocks);
    let trusted = if own_ca { &shared } else { &other };
    let (_ours, joiner) = enrolled(trusted, JOINER, clocks);
    let (address, served) = server(&source, answer).await;
    let files = joiner.files();
    let remote = Remote {
        node: wanted,
        address,
        database: "shop",
        role: "pgaa",
        cert: &files.certificate,
        key: &files.key,
        ca: &files.ca,
    };
    let string = remote.conninfo().unwrap();
    let mut wire = Wire::connect(&words(&string), &[("options", "-c jit=off")]).await?;
    wire.ask("COPY t TO STDOUT").await?;
    wire.copy_begins().await?;
    let mut rows = Vec::new();
    while let Some(some) = wire.copied().await? {
        rows.extend_from_slice(&some);
    }
    let said = served.await.unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("user\0pgaa\0database\0shop\0options\0-c jit=off\0\0"));
    assert!(said.ends_with("COPY t TO STDOUT\0"));
    Ok(rows)
}

fn rows() -> Vec<u8> {
    let began = message(b'H', &[0; 7]);
    [began, message(b'd', b"one"), message(b'd', b"two")].concat()
}

fn ended() -> Vec<u8> {
    let complete = message(b'C', b"COPY 2\0");
    [message(b'c', b""), complete, message(b'Z', b"I")].concat()
}

#[tokio::test]
async fn rows_come_by_the_certificates_of_the_mesh() {
    let copied = copy(SOURCE, true, [rows(), ended()].concat()).await;
    assert_eq!(copied.unwrap(), b"onetwo");
}

#[tokio::test]
async fn a_server_whose_certificate_names_another_node_is_refused() {
    let error = copy(OTHER, true, [rows(), ended()].concat()).await;
    let WireError::Unreachable { source, .. } = error.unwrap_err() else {
        panic!("not for its name");
    };
    assert!(
        source.to_string().contains("not valid for name"),
        "{source}"
    );
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let error = copy(SOURCE, false, [rows(), ended()].concat()).await;
    let WireError::Unreachable { source, .. } = error.unwrap_err() else {
        panic!("not for its authority");
    };
    let text = source.to_string();
    assert!(text.contains("invalid peer certificate"), "{text}");
}

#[tokio::test]
async fn a_copy_without_its_end_is_none() {
    let lost = copy(SOURCE, true, rows()).await.unwrap_err();
    assert!(matches!(lost, WireError::Lost { .. }), "{lost}");
    let cancelled = message(b'E', b"SERROR\0C57014\0Mcancelled\0\0");
    let refused = copy(SOURCE, true, [rows(), cancelled].concat()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.ends_with("refused: cancelled (57014)"), "{text}");
    let only_ready = [rows(), message(b'c', b""), message(b'Z', b"I")].concat();
    let unexpected = copy(SOURCE, true, only_ready).await.unwrap_err();
    assert!(matches!(unexpected, WireError::Unexpected { .. }));
}
