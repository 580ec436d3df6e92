//! Calls to other members: one channel for each, made when it is first needed, kept alive, and
//! made anew when it breaks or when this node's certificate changes.
//!
//! Must not retry: the loop that calls looks again anyway, and knows better when.

use super::MESSAGE_BYTES_MAX;
use super::connect::{ConnectError, connect};
use super::convert::{self, BadMessage};
use super::mesh::refusal_of;
use super::types::{
    AuthorityAnswer, CatalogAnswer, CheckAnswer, CheckAsk, Claim, CompareAnswer, CompareAsk,
    ForgetAnswer, ForgetProposal, Refusal,
};
use crate::trust::names::DER_BYTES_MAX;
use crate::trust::verify::{Unproven, unix_time};
use crate::trust::{Credentials, PeerName, TokenEntry, TokenId};
use hyper_util::rt::TokioIo;
use pgaa_core::clock::pair::{Exchange, Instants};
use pgaa_core::ids::NodeId;
use pgaa_core::join::{LeaseAnswer, LeaseAsk, StepAnswer, StepAsk};
use pgaa_core::roster::Roster;
use pgaa_proto::v1 as wire;
use pgaa_proto::v1::mesh_client::MeshClient;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use zeroize::Zeroizing;

/// For a call that only reads or remembers something.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// For a lease: the member writes it to disk first.
const LEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// For a step of a join: making a slot waits for transactions that are open.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// For a look at rows: a range that is not in memory is read from disk.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(65);
/// An idle connection is asked so often whether it still lives, and given up after so long: what
/// cut it (a pulled cable, a frozen machine) says nothing by itself.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A call to a member failed.
#[derive(Debug, Error, Clone)]
pub enum PeerError {
    /// This node is in no cluster.
    #[error("this node is in no cluster yet")]
    NotEnrolled,
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Another agent answers at that address.
    #[error("{address} is {found}, not {expected}: its address has gone to another machine")]
    OtherNode {
        /// Where.
        address: SocketAddr,
        /// Who was wanted.
        expected: NodeId,
        /// Who is there.
        found: PeerName,
    },
    /// What answers there proves nothing.
    #[error("{address} is not trusted: {why}")]
    Unproven {
        /// Where.
        address: SocketAddr,
        /// Why not.
        why: Unproven,
    },
    /// No answer in time.
    #[error("{0} did not answer in time")]
    TimedOut(SocketAddr),
    /// The connection broke.
    #[error("the connection to {address} broke: {why}")]
    Lost {
        /// Where.
        address: SocketAddr,
        /// What gRPC says.
        why: String,
    },
    /// The member says no.
    #[error("{address} refuses: {refusal}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The member doesn't know what it is asked.
    #[error("{0} runs an older version that doesn't know this question; upgrade pgaa-agent there")]
    TooOld(SocketAddr),
    /// The member sent what makes no sense.
    #[error(transparent)]
    BadAnswer(#[from] BadMessage),
}

type Stub = MeshClient<Channel>;

/// The channels to other members.
pub struct Peers {
    credentials: Arc<Credentials>,
    channels: Mutex<BTreeMap<(NodeId, SocketAddr), Pooled>>,
}

struct Pooled {
    channel: Channel,
    /// The credentials it was made with.
    serial: u64,
}

impl Peers {
    /// A pool that presents these credentials, the newest at each connection.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Peers {
        Peers {
            credentials,
            channels: Mutex::new(BTreeMap::new()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, SocketAddr), Pooled>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the channels to all but these.
    pub fn retain(&self, wanted: &BTreeSet<(NodeId, SocketAddr)>) {
        self.lock().retain(|peer, _| wanted.contains(peer));
    }

    fn stub(&self, node: NodeId, address: SocketAddr) -> Result<Stub, PeerError> {
        let installed = self.credentials.current();
        let enrolment = installed.enrolment.as_ref().ok_or(PeerError::NotEnrolled)?;
        let mut channels = self.lock();
        let known = channels.get(&(node, address));
        let channel = match known.filter(|pooled| pooled.serial == installed.serial) {
            Some(pooled) => pooled.channel.clone(),
            None => {
                let expected = PeerName {
                    cluster: enrolment.name.cluster,
                    node,
                };
                let channel = open(self.credentials.clone(), expected, address);
                let pooled = Pooled {
                    channel: channel.clone(),
                    serial: installed.serial,
                };
                channels.insert((node, address), pooled);
                channel
            }
        };
        Ok(MeshClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// One call with its time-out; every way it can fail has a type.
    async fn call<T>(
        &self,
        (node, address): (NodeId, SocketAddr),
        patience: Duration,
        call: impl AsyncFnOnce(Stub) -> Result<Response<T>, Status>,
    ) -> Result<T, PeerError> {
        let stub = self.stub(node, address)?;
        match timeout(patience, call(stub)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(failure(address, &status)),
            Err(_) => Err(PeerError::TimedOut(address)),
        }
    }

    /// See [`super::MeshHost::exchange`].
    pub async fn exchange(
        &self,
        node: NodeId,
        address: SocketAddr,
        have: BTreeMap<NodeId, u64>,
        offer: Roster,
    ) -> Result<(Roster, Vec<NodeId>), PeerError> {
        let request = wire::ExchangeRequest {
            have: convert::versions_out(&have),
            offer: Some(convert::roster_out(&offer)),
        };
        let call = async |mut stub: Stub| stub.exchange(request).await;
        let reply = self.call((node, address), CALL_TIMEOUT, call).await?;
        let want = reply.want.iter().map(|bytes| convert::node("want", bytes));
        Ok((
            convert::roster(reply.roster)?,
            want.collect::<Result<_, _>>()?,
        ))
    }

    /// See [`super::MeshHost::catalog`].
    pub async fn catalog(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<CatalogAnswer, PeerError> {
        let call = async |mut stub: Stub| stub.fetch_catalog(wire::CatalogRequest {}).await;
        Ok(convert::catalog(
            self.call((node, address), CALL_TIMEOUT, call).await?,
        )?)
    }

    /// Takes the four times of one exchange with a member, as close to the wire as gRPC lets us.
    pub async fn measure_clock(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Exchange, PeerError> {
        let clocks = self.credentials.clocks();
        let call = async |mut stub: Stub| {
            let sent_us = clocks.instants().raw_us;
            let pong = stub.measure_clock(wire::ClockPing {}).await?;
            let arrived_us = clocks.instants().raw_us;
            Ok(pong.map(|pong| (sent_us, pong, arrived_us)))
        };
        let times = self.call((node, address), CALL_TIMEOUT, call).await?;
        let (sent_us, pong, arrived_us) = times;
        Ok(Exchange {
            sent_us,
            received_us: pong.received_us,
            answered: Instants {
                raw_us: pong.answered_us,
                ahead_us: pong.ahead_us,
                error_us: pong.error_us,
            },
            arrived_us,
        })
    }

    /// See [`super::MeshHost::propose_forget`].
    pub async fn propose_forget(
        &self,
        node: NodeId,
        address: SocketAddr,
        proposal: ForgetProposal,
    ) -> Result<ForgetAnswer, PeerError> {
        let request = convert::forget_proposal_out(&proposal);
        let call = async |mut stub: Stub| stub.propose_forget(request).await;
        Ok(convert::forget_answer(
            self.call((node, address), LEASE_TIMEOUT, call).await?,
        )?)
    }

    /// See [`super::MeshHost::exchange_tokens`].
    pub async fn exchange_tokens(
        &self,
        node: NodeId,
        address: SocketAddr,
        ours: &BTreeMap<TokenId, TokenEntry>,
    ) -> Result<BTreeMap<TokenId, TokenEntry>, PeerError> {
        let request = convert::tokens_out(ours);
        let call = async |mut stub: Stub| stub.exchange_tokens(request).await;
        Ok(convert::tokens(
            self.call((node, address), CALL_TIMEOUT, call).await?,
        )?)
    }

    /// See [`super::MeshHost::authority`].
    pub async fn authority(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<AuthorityAnswer, PeerError> {
        let call = async |mut stub: Stub| stub.fetch_authority(wire::AuthorityRequest {}).await;
        let reply = self.call((node, address), CALL_TIMEOUT, call).await?;
        let key_pkcs8 = Zeroizing::new(reply.key_pkcs8);
        if key_pkcs8.len() > DER_BYTES_MAX || reply.ca_der.len() > DER_BYTES_MAX {
            return Err(BadMessage {
                field: "authority",
                problem: "is too large",
            }
            .into());
        }
        Ok(AuthorityAnswer {
            key_pkcs8,
            ca_der: reply.ca_der,
        })
    }

    /// See [`super::MeshHost::lease`].
    pub async fn lease(
        &self,
        node: NodeId,
        address: SocketAddr,
        ask: LeaseAsk,
    ) -> Result<LeaseAnswer, PeerError> {
        let request = convert::lease_ask_out(&ask);
        let call = async |mut stub: Stub| stub.lease(request).await;
        Ok(convert::lease_answer(
            self.call((node, address), LEASE_TIMEOUT, call).await?,
        )?)
    }

    /// See [`super::MeshHost::join_step`].
    pub async fn join_step(
        &self,
        node: NodeId,
        address: SocketAddr,
        ask: StepAsk,
    ) -> Result<StepAnswer, PeerError> {
        let request = convert::step_ask_out(&ask);
        let call = async |mut stub: Stub| stub.join_step(request).await;
        Ok(convert::step_answer(
            self.call((node, address), STEP_TIMEOUT, call).await?,
        )?)
    }

    /// See [`super::MeshHost::compare`].
    pub async fn compare(
        &self,
        node: NodeId,
        address: SocketAddr,
        (table, ask): (&str, CompareAsk),
    ) -> Result<CompareAnswer, PeerError> {
        let request = convert::compare_ask_out(table, &ask);
        self.compare_by((node, address), request).await
    }

    pub(super) async fn compare_by(
        &self,
        member: (NodeId, SocketAddr),
        request: wire::CompareRequest,
    ) -> Result<CompareAnswer, PeerError> {
        let call = async |mut stub: Stub| stub.compare_rows(request).await;
        let reply = self.call(member, COMPARE_TIMEOUT, call).await;
        // Whoever doesn't know a kind of question reads it as none.
        if let Err(PeerError::Refused { address, refusal }) = &reply
            && convert::asks_nothing(refusal)
        {
            return Err(PeerError::TooOld(*address));
        }
        Ok(convert::compare_answer(reply?)?)
    }

    /// See [`super::MeshHost::check_rows`].
    pub async fn check_rows(
        &self,
        node: NodeId,
        address: SocketAddr,
        (table, ask): (&str, CheckAsk),
    ) -> Result<CheckAnswer, PeerError> {
        let request = convert::check_ask_out(table, &ask);
        let call = async |mut stub: Stub| stub.check_rows(request).await;
        Ok(convert::check_answer(
            self.call((node, address), COMPARE_TIMEOUT, call).await?,
        )?)
    }

    /// See [`super::MeshHost::vouch`].
    pub async fn vouch(
        &self,
        node: NodeId,
        address: SocketAddr,
        claim: Option<Claim>,
    ) -> Result<u64, PeerError> {
        let request = convert::claim_out(claim);
        let call = async |mut stub: Stub| stub.vouch(request).await;
        Ok(self.call((node, address), CALL_TIMEOUT, call).await?.run)
    }

    /// See [`super::MeshHost::ping`].
    pub async fn ping(
        &self,
        node: NodeId,
        address: SocketAddr,
        generation: u64,
    ) -> Result<u64, PeerError> {
        let call = async |mut stub: Stub| stub.ping(wire::PingRequest { generation }).await;
        Ok(self
            .call((node, address), CALL_TIMEOUT, call)
            .await?
            .generation)
    }
}

/// A channel that connects when it is used, and again when it broke.
fn open(credentials: Arc<Credentials>, expected: PeerName, address: SocketAddr) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let credentials = credentials.clone();
        async move {
            reach(&credentials, expected, address)
                .await
                .map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://agent.pgaa")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// Connects, and hands the connection on only if it ends at the node that was meant.
async fn reach(
    credentials: &Credentials,
    expected: PeerName,
    address: SocketAddr,
) -> Result<TlsStream<TcpStream>, PeerError> {
    let own = credentials.current();
    let connection = connect(&own, address).await?;
    let now = unix_time(credentials.clocks().wall());
    let proven = own.verifier.server(&connection.certificate, now);
    let found = proven
        .map_err(|why| PeerError::Unproven { address, why })?
        .name;
    if found != expected {
        return Err(PeerError::OtherNode {
            address,
            expected: expected.node,
            found,
        });
    }
    Ok(connection.stream)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other code is a broken connection"
)]
fn failure(address: SocketAddr, status: &Status) -> PeerError {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(failure) = error.downcast_ref::<PeerError>() {
            return failure.clone();
        }
        source = error.source();
    }
    if let Some(refusal) = refusal_of(status) {
        return PeerError::Refused { address, refusal };
    }
    match status.code() {
        Code::DeadlineExceeded => PeerError::TimedOut(address),
        _ => PeerError::Lost {
            address,
            why: status.message().to_owned(),
        },
    }
}
