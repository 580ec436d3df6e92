//! The listening side as a whole: one port, two services.
//!
//! Ties the listener to the services; judges nobody.

use super::MESSAGE_BYTES_MAX;
use super::listener::Door;
use super::mesh::Mesh;
use super::pairing::Pairing;
use super::quiet::Quiet;
use super::types::{MeshHost, PairingHost};
use crate::trust::Credentials;
use pgaa_proto::v1::mesh_server::MeshServer;
use pgaa_proto::v1::pairing_server::PairingServer;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;

/// Calls at the same time on one connection.
const STREAMS_MAX: u32 = 32;
/// Size of a request's headers, in bytes; ours are below 1 KiB.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// For any one call, above the longest that a caller waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a shutdown waits for calls that are under way.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// A connection whose other end vanished is noticed by asking it.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The server ended by itself.
#[derive(Debug, Error)]
#[error("the agents' port is not served any more")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves pairing and mesh on `listener` until `shutdown` is ready.
pub async fn serve(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    pairing_host: Arc<dyn PairingHost>,
    mesh_host: Arc<dyn MeshHost>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let quiet = Arc::new(Quiet::new(credentials.clocks()));
    let pairing = Pairing {
        host: pairing_host,
        credentials: credentials.clone(),
        quiet: quiet.clone(),
    };
    let mesh = Mesh {
        host: mesh_host,
        credentials: credentials.clone(),
    };
    let services = Services {
        pairing: PairingServer::new(pairing).max_decoding_message_size(MESSAGE_BYTES_MAX),
        mesh: MeshServer::new(mesh).max_decoding_message_size(MESSAGE_BYTES_MAX),
    };
    let (taken, connections) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .timeout(CALL_TIMEOUT)
        .serve_with_incoming_shutdown(services, ReceiverStream::new(connections), told(stopped));
    let mut served = pin!(served);
    let accepting = Door::new(credentials, quiet).accept(listener, taken);
    tokio::select! {
        result = &mut served => return Ok(result?),
        () = accepting => {}
        () = shutdown => {}
    }
    stop.send_replace(true);
    // Members keep their connections open: what is left after the grace is theirs to close.
    match timeout(SHUTDOWN_GRACE, served).await {
        Ok(result) => Ok(result?),
        Err(_) => Ok(()),
    }
}

async fn told(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Both services, told apart by the first part of a request's path.
#[derive(Clone)]
struct Services {
    pairing: PairingServer<Pairing>,
    mesh: MeshServer<Mesh>,
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if service == <PairingServer<Pairing> as NamedService>::NAME {
            self.pairing.call(request)
        } else if service == <MeshServer<Mesh> as NamedService>::NAME {
            self.mesh.call(request)
        } else {
            let status = tonic::Status::unimplemented("there is no such service on this port");
            Box::pin(async move { Ok(status.into_http()) })
        }
    }
}
