//! Answers members. Who calls is the node in the certificate, checked on every call.
//!
//! Translates and nothing else; the answers are the host's.

use super::convert::{self, BadMessage};
use super::listener::ConnectionInfo;
use super::types::{MeshHost, Refusal};
use crate::trust::Credentials;
use crate::trust::verify::Unproven;
use pgaa_core::ids::NodeId;
use pgaa_proto::v1 as wire;
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// Where a status carries the refusal's word.
const REASON: &str = "pgaa-reason";

/// The service.
#[derive(Clone)]
pub(super) struct Mesh {
    pub(super) host: Arc<dyn MeshHost>,
    pub(super) credentials: Arc<Credentials>,
}

impl Mesh {
    /// The member that calls, if it is one, and if it may.
    fn caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let info = request.extensions().get::<Arc<ConnectionInfo>>();
        let info = info.ok_or_else(|| Status::internal("the connection is unknown"))?;
        let proven = info
            .proven(self.credentials.clocks().wall())
            .map_err(unproven)?;
        let Some(cluster) = self.credentials.cluster() else {
            return Err(refused(&Refusal::new(
                "not_a_member",
                "this node is in no cluster yet",
            )));
        };
        if proven.name.cluster != cluster {
            let text = format!("this is cluster {cluster}, not {}", proven.name.cluster);
            return Err(refused(&Refusal::new("other_cluster", &text)));
        }
        if proven.name.node == self.credentials.node() {
            let text = "the caller has the UUID of this node: one is a copy of the other";
            return Err(refused(&Refusal::new("twin", text)));
        }
        self.host
            .admits(proven.name.node)
            .map_err(|refusal| refused(&refusal))?;
        Ok(proven.name.node)
    }
}

fn unproven(why: Unproven) -> Status {
    let text = format!("the call was refused: {why}");
    status(Code::Unauthenticated, "unproven", &text)
}

/// A refusal as a status that `refusal_of` reads back.
fn refused(refusal: &Refusal) -> Status {
    status(Code::PermissionDenied, &refusal.code, &refusal.message)
}

fn malformed(bad: &BadMessage) -> Status {
    status(Code::InvalidArgument, "malformed", &bad.to_string())
}

fn status(code: Code, reason: &str, message: &str) -> Status {
    let mut metadata = MetadataMap::new();
    if let Ok(reason) = reason.parse() {
        metadata.insert(REASON, reason);
    }
    Status::with_metadata(code, convert::text_of_refusal(message), metadata)
}

/// The refusal in a status, if a host refused.
pub(super) fn refusal_of(status: &Status) -> Option<Refusal> {
    let reason = status.metadata().get(REASON)?.to_str().ok()?;
    convert::refusal(reason.to_owned(), status.message().to_owned()).ok()
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl wire::mesh_server::Mesh for Mesh {
    async fn exchange(
        &self,
        request: Request<wire::ExchangeRequest>,
    ) -> Reply<wire::ExchangeReply> {
        let from = self.caller(&request)?;
        let asked = request.into_inner();
        let have = convert::versions(asked.have).map_err(|bad| malformed(&bad))?;
        let offer = convert::roster(asked.offer).map_err(|bad| malformed(&bad))?;
        let answer = self.host.exchange(from, have, offer).await;
        let (roster, want) = answer.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(wire::ExchangeReply {
            roster: Some(convert::roster_out(&roster)),
            want: want.into_iter().map(convert::node_out).collect(),
        }))
    }

    async fn fetch_catalog(
        &self,
        request: Request<wire::CatalogRequest>,
    ) -> Reply<wire::CatalogReply> {
        self.caller(&request)?;
        let catalog = self
            .host
            .catalog()
            .await
            .map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(convert::catalog_out(&catalog)))
    }

    async fn measure_clock(&self, request: Request<wire::ClockPing>) -> Reply<wire::ClockPong> {
        let received = self.host.instants();
        self.caller(&request)?;
        let answered = self.host.instants();
        Ok(Response::new(wire::ClockPong {
            received_us: received.raw_us,
            answered_us: answered.raw_us,
            ahead_us: answered.ahead_us,
            error_us: answered.error_us,
        }))
    }

    async fn propose_forget(
        &self,
        request: Request<wire::ForgetRequest>,
    ) -> Reply<wire::ForgetReply> {
        let from = self.caller(&request)?;
        let proposal = convert::forget_proposal(request.into_inner());
        let proposal = proposal.map_err(|bad| malformed(&bad))?;
        let answer = self.host.propose_forget(from, proposal).await;
        Ok(Response::new(convert::forget_answer_out(&answer)))
    }

    async fn exchange_tokens(&self, request: Request<wire::TokenSet>) -> Reply<wire::TokenSet> {
        let from = self.caller(&request)?;
        let theirs = convert::tokens(request.into_inner()).map_err(|bad| malformed(&bad))?;
        let ours = self.host.exchange_tokens(from, theirs).await;
        let ours = ours.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(convert::tokens_out(&ours)))
    }

    async fn fetch_authority(
        &self,
        request: Request<wire::AuthorityRequest>,
    ) -> Reply<wire::AuthorityReply> {
        let from = self.caller(&request)?;
        let answer = self
            .host
            .authority(from)
            .await
            .map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(wire::AuthorityReply {
            key_pkcs8: answer.key_pkcs8.to_vec(),
            ca_der: answer.ca_der,
        }))
    }

    async fn lease(&self, request: Request<wire::LeaseRequest>) -> Reply<wire::LeaseReply> {
        let from = self.caller(&request)?;
        let ask = convert::lease_ask(request.into_inner()).map_err(|bad| malformed(&bad))?;
        let answer = self
            .host
            .lease(from, ask)
            .await
            .map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(convert::lease_answer_out(&answer)))
    }

    async fn join_step(
        &self,
        request: Request<wire::JoinStepRequest>,
    ) -> Reply<wire::JoinStepReply> {
        let from = self.caller(&request)?;
        let ask = convert::step_ask(request.into_inner()).map_err(|bad| malformed(&bad))?;
        let answer = self.host.join_step(from, ask).await;
        let answer = answer.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(convert::step_answer_out(&answer)))
    }

    async fn compare_rows(
        &self,
        request: Request<wire::CompareRequest>,
    ) -> Reply<wire::CompareReply> {
        self.caller(&request)?;
        let asked = convert::compare_ask(request.into_inner());
        let (table, ask) = asked.map_err(|bad| malformed(&bad))?;
        let answer = self.host.compare(&table, ask).await;
        let answer = answer.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(convert::compare_answer_out(&answer)))
    }

    async fn check_rows(&self, request: Request<wire::CheckRequest>) -> Reply<wire::CheckReply> {
        self.caller(&request)?;
        let asked = convert::check_ask(request.into_inner());
        let (table, ask) = asked.map_err(|bad| malformed(&bad))?;
        let answer = self.host.check_rows(&table, ask).await;
        let answer = answer.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(convert::check_answer_out(&answer)))
    }

    async fn vouch(&self, request: Request<wire::VouchRequest>) -> Reply<wire::VouchReply> {
        let from = self.caller(&request)?;
        let claim = convert::claim(request.into_inner()).map_err(|bad| malformed(&bad))?;
        let answer = self.host.vouch(from, claim).await;
        let run = answer.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(wire::VouchReply { run }))
    }

    async fn ping(&self, request: Request<wire::PingRequest>) -> Reply<wire::PingReply> {
        let from = self.caller(&request)?;
        let generation = self.host.ping(from, request.into_inner().generation).await;
        Ok(Response::new(wire::PingReply { generation }))
    }
}
