//! The side that dials, proves first and asks.

use super::proof::{Direction, Transcript};
use super::{PAIRING_TIMEOUT, PairingError, frame};
use crate::peer::connect::{Outgoing, connect};
use crate::peer::convert::{self, BadMessage};
use crate::peer::quiet::Quiet;
use crate::peer::types::{Answer, Ask};
use crate::peer::{MESSAGE_BYTES_MAX, PROTOCOL};
use crate::trust::credentials::Installed;
use crate::trust::{Credentials, Fingerprint, JoinToken};
use hyper_util::rt::TokioIo;
use pgaa_core::ids::{Name, NodeId};
use pgaa_proto::v1 as wire;
use pgaa_proto::v1::pairing_client::PairingClient as Stub;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use wire::pairing_frame::Frame;

/// Pairs with other agents.
pub struct PairingClient {
    credentials: Arc<Credentials>,
    cluster_name: Name,
    token: Option<JoinToken>,
    quiet: Quiet,
}

impl PairingClient {
    /// Pairs by proving `token`, for the cluster of this name. A member may have none: then
    /// nobody can be paired with.
    #[must_use]
    pub fn new(
        credentials: Arc<Credentials>,
        cluster_name: Name,
        token: Option<JoinToken>,
    ) -> PairingClient {
        let quiet = Quiet::new(credentials.clocks());
        PairingClient {
            credentials,
            cluster_name,
            token,
            quiet,
        }
    }

    /// Dials `address`, proves the token and has it proven, and asks. Returns who answered.
    pub async fn ask(
        &self,
        address: SocketAddr,
        ask: Ask,
    ) -> Result<(NodeId, Answer), PairingError> {
        let paired = timeout(PAIRING_TIMEOUT, self.pair(address, &ask)).await;
        let paired = paired.unwrap_or(Err(PairingError::TimedOut(address)));
        if let Err(error) = &paired
            && !matches!(error, PairingError::Connect(_) | PairingError::Myself(_))
        {
            self.quiet.warn(
                address.ip(),
                error.code(),
                &format!("pairing failed: {error}"),
            );
        }
        paired
    }

    async fn pair(&self, address: SocketAddr, ask: &Ask) -> Result<(NodeId, Answer), PairingError> {
        let token = self.token.as_ref().ok_or(PairingError::NoToken)?;
        let own = self.credentials.current();
        let connection = connect(&own, address).await?;
        let seen = Seen {
            server_certificate: connection.peer_fingerprint,
            exporter: connection.exporter,
        };
        let lost = |_: tonic::Status| PairingError::Lost(address);
        let channel = single_use(connection)
            .await
            .map_err(|_| PairingError::Lost(address))?;
        let mut stub = Stub::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (send, frames) = mpsc::channel(2);
        let say = async |said: Frame| {
            send.send(frame(said))
                .await
                .map_err(|_| PairingError::Lost(address))
        };
        say(Frame::Start(self.start(token))).await?;
        let answers = stub
            .introduce(ReceiverStream::new(frames))
            .await
            .map_err(lost)?;
        let mut answers = Answers {
            address,
            answers: answers.into_inner(),
        };
        let server = self.check_start(address, answers.start().await?)?;
        let transcript = self.transcript(token, &own, &seen, server);
        let secret = &token.secret;
        let mac = transcript.prove(secret, Direction::ClientProves);
        say(Frame::Proof(wire::Proof { mac })).await?;
        let proof = answers.proof().await?;
        if !transcript.is_proven(secret, Direction::ServerProves, &proof.mac) {
            return Err(PairingError::Unproven(address));
        }
        say(Frame::Ask(convert::ask_out(ask))).await?;
        Ok((server, convert::answer(answers.answer().await?)?))
    }

    fn start(&self, token: &JoinToken) -> wire::Start {
        wire::Start {
            protocol: PROTOCOL,
            cluster_name: self.cluster_name.to_string(),
            node: convert::node_out(self.credentials.node()),
            token_id: token.id.to_string(),
            run: self.credentials.run().to_vec(),
        }
    }

    /// Who the server says it is. It has proven nothing yet; the proof covers what is used.
    fn check_start(&self, address: SocketAddr, start: wire::Start) -> Result<NodeId, PairingError> {
        let server = convert::node("start.node", &start.node)?;
        if start.protocol != PROTOCOL {
            return Err(BadMessage {
                field: "start.protocol",
                problem: "is another one",
            }
            .into());
        }
        if server != self.credentials.node() {
            return Ok(server);
        }
        if start.run == self.credentials.run() {
            Err(PairingError::Myself(address))
        } else {
            Err(PairingError::Twin(address))
        }
    }

    fn transcript<'a>(
        &'a self,
        token: &'a JoinToken,
        own: &'a Installed,
        seen: &'a Seen,
        server: NodeId,
    ) -> Transcript<'a> {
        Transcript {
            cluster_name: &self.cluster_name,
            token: &token.id,
            client: self.credentials.node(),
            server,
            client_certificate: &own.fingerprint,
            server_certificate: &seen.server_certificate,
            exporter: &seen.exporter,
        }
    }
}

/// What this side of the connection saw.
struct Seen {
    server_certificate: Fingerprint,
    exporter: [u8; 32],
}

/// A channel over this connection and no other.
async fn single_use(connection: Outgoing) -> Result<Channel, tonic::transport::Error> {
    let stream = Mutex::new(Some(connection.stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { once(taken) }
    });
    Endpoint::from_static("http://agent.pgaa")
        .connect_with_connector(connector)
        .await
}

fn once<S>(stream: Option<TlsStream<S>>) -> Result<TokioIo<TlsStream<S>>, std::io::Error> {
    let used = || std::io::Error::other("a pairing has one connection");
    stream.map(TokioIo::new).ok_or_else(used)
}

/// The server's frames, in the only order there is.
struct Answers {
    address: SocketAddr,
    answers: Streaming<wire::PairingFrame>,
}

impl Answers {
    async fn next(&mut self) -> Result<Frame, PairingError> {
        let next = self.answers.message().await;
        let frame = next
            .ok()
            .flatten()
            .ok_or(PairingError::Lost(self.address))?;
        match frame.frame {
            Some(Frame::Refused(refused)) => Err(self.refused(refused)),
            Some(frame) => Ok(frame),
            None => Err(BadMessage {
                field: "frame",
                problem: "is missing",
            }
            .into()),
        }
    }

    fn refused(&self, refused: wire::Refused) -> PairingError {
        let address = self.address;
        match refused.code.as_str() {
            "myself" => PairingError::Myself(address),
            "twin" => PairingError::Twin(address),
            _ => match convert::refusal(refused.code, refused.message) {
                Ok(refusal) => PairingError::Refused { address, refusal },
                Err(bad) => bad.into(),
            },
        }
    }

    async fn start(&mut self) -> Result<wire::Start, PairingError> {
        if let Frame::Start(start) = self.next().await? {
            Ok(start)
        } else {
            out_of_order()
        }
    }

    async fn proof(&mut self) -> Result<wire::Proof, PairingError> {
        if let Frame::Proof(proof) = self.next().await? {
            Ok(proof)
        } else {
            out_of_order()
        }
    }

    async fn answer(&mut self) -> Result<wire::Answer, PairingError> {
        if let Frame::Answer(answer) = self.next().await? {
            Ok(answer)
        } else {
            out_of_order()
        }
    }
}

fn out_of_order<T>() -> Result<T, PairingError> {
    Err(BadMessage {
        field: "frame",
        problem: "comes out of order",
    }
    .into())
}
