//! The side that was dialled: has the token proven, proves it, and answers one question.

use super::proof::{Direction, Transcript};
use super::{PAIRING_TIMEOUT, frame, refused_frame};
use crate::peer::PROTOCOL;
use crate::peer::convert;
use crate::peer::listener::ConnectionInfo;
use crate::peer::quiet::Quiet;
use crate::peer::types::{Answer, Ask, PairingHost, Refusal};
use crate::trust::tokens::TokenRefused;
use crate::trust::{Credentials, Fingerprint, Secret, TokenId};
use pgaa_core::founding::{Hello, Request as Question};
use pgaa_core::ids::{Name, NodeId};
use pgaa_proto::v1 as wire;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::pairing_frame::Frame;

type Frames = mpsc::Sender<Result<wire::PairingFrame, Status>>;

/// The service.
#[derive(Clone)]
pub(in crate::peer) struct Pairing {
    pub(in crate::peer) host: Arc<dyn PairingHost>,
    pub(in crate::peer) credentials: Arc<Credentials>,
    pub(in crate::peer) quiet: Arc<Quiet>,
}

#[tonic::async_trait]
impl wire::pairing_server::Pairing for Pairing {
    type IntroduceStream = ReceiverStream<Result<wire::PairingFrame, Status>>;

    async fn introduce(
        &self,
        request: Request<Streaming<wire::PairingFrame>>,
    ) -> Result<Response<Self::IntroduceStream>, Status> {
        let info = request.extensions().get::<Arc<ConnectionInfo>>().cloned();
        let info = info.ok_or_else(|| Status::internal("the connection is unknown"))?;
        if !info.begin_pairing() {
            return Err(Status::failed_precondition(
                "a connection carries one pairing",
            ));
        }
        let (send, frames) = mpsc::channel(2);
        let questions = request.into_inner();
        // The answers are a stream that must be returned before the conversation goes on; its
        // life is bounded by the time-out, its number by the listener.
        tokio::spawn(self.clone().converse(info, questions, send));
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// What the client said of itself, checked.
struct Client {
    node: NodeId,
    token: TokenId,
    secret: Secret,
    certificate: Fingerprint,
}

impl Pairing {
    async fn converse(
        self,
        info: Arc<ConnectionInfo>,
        questions: Streaming<wire::PairingFrame>,
        send: Frames,
    ) {
        let held = timeout(PAIRING_TIMEOUT, self.hold(&info, questions, &send)).await;
        let refusal = match held {
            Ok(Ok(())) => return,
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::new("timed_out", "the pairing takes too long; try again"),
        };
        if refusal.code != "myself" {
            let text = format!("pairing refused: {refusal}");
            self.quiet.warn(info.remote.ip(), &refusal.code, &text);
        }
        // The client may have gone already.
        let _ = send.try_send(Ok(refused_frame(&refusal)));
    }

    /// The whole conversation. What is refused has changed nothing.
    async fn hold(
        &self,
        info: &ConnectionInfo,
        mut questions: Streaming<wire::PairingFrame>,
        send: &Frames,
    ) -> Result<(), Refusal> {
        let Frame::Start(start) = next(&mut questions).await? else {
            return out_of_order();
        };
        let client = self.check_start(info, &start)?;
        say(send, Frame::Start(self.start())).await?;
        let Frame::Proof(proof) = next(&mut questions).await? else {
            return out_of_order();
        };
        let transcript = Transcript {
            cluster_name: self.host.cluster_name(),
            token: &client.token,
            client: client.node,
            server: self.credentials.node(),
            client_certificate: &client.certificate,
            server_certificate: &info.own_fingerprint,
            exporter: &info.exporter,
        };
        if !transcript.is_proven(&client.secret, Direction::ClientProves, &proof.mac) {
            return Err(wrong_token(&client.token));
        }
        let mac = transcript.prove(&client.secret, Direction::ServerProves);
        say(send, Frame::Proof(wire::Proof { mac })).await?;
        let Frame::Ask(ask) = next(&mut questions).await? else {
            return out_of_order();
        };
        let ask = convert::ask(ask).map_err(|bad| malformed(&bad.to_string()))?;
        let answer = self.answer(&client, ask).await?;
        say(send, Frame::Answer(convert::answer_out(&answer))).await
    }

    fn start(&self) -> wire::Start {
        wire::Start {
            protocol: PROTOCOL,
            cluster_name: self.host.cluster_name().to_string(),
            node: convert::node_out(self.credentials.node()),
            token_id: String::new(),
            run: self.credentials.run().to_vec(),
        }
    }

    fn check_start(&self, info: &ConnectionInfo, start: &wire::Start) -> Result<Client, Refusal> {
        if start.protocol != PROTOCOL {
            return Err(Refusal::new(
                "wrong_protocol",
                &format!(
                    "the two agents speak pairing protocols {} and {PROTOCOL}: install the same \
                     version of pgaa-agent on both",
                    start.protocol
                ),
            ));
        }
        let node = convert::node("start.node", &start.node);
        let node = node.map_err(|bad| malformed(&bad.to_string()))?;
        if node == self.credentials.node() {
            return Err(self.same_uuid(start));
        }
        let ours = self.host.cluster_name();
        let theirs = Name::new(&start.cluster_name).map_err(|bad| malformed(&bad.to_string()))?;
        if theirs != *ours {
            return Err(Refusal::new(
                "wrong_cluster",
                &format!(
                    "this is cluster {ours}, the other machine is configured for {theirs}: \
                     correct cluster.name where it is wrong"
                ),
            ));
        }
        let token = TokenId::new(&start.token_id).map_err(|bad| malformed(&bad.to_string()))?;
        let now = self.credentials.clocks().wall();
        let secret = self.host.tokens().find(&token, now);
        let secret = secret.map_err(|why| token_refused(&token, why))?;
        let certificate = info.peer_fingerprint;
        let certificate = certificate.ok_or_else(|| malformed("no certificate was presented"))?;
        Ok(Client {
            node,
            token,
            secret,
            certificate,
        })
    }

    fn same_uuid(&self, start: &wire::Start) -> Refusal {
        if start.run == self.credentials.run() {
            Refusal::new("myself", "this is the node itself")
        } else {
            let node = self.credentials.node();
            let text = format!(
                "another machine has the UUID of this node, {node}: one is a copy of the other. \
                 Run `pgaa-agent image seal` on the copy, which gives it an identity of its own"
            );
            Refusal::new("twin", &text)
        }
    }

    async fn answer(&self, client: &Client, ask: Ask) -> Result<Answer, Refusal> {
        if let Some(spoken_for) = speaks_for(&ask)
            && spoken_for != client.node
        {
            return Err(malformed(
                "the question speaks for another node than the one that asks",
            ));
        }
        if let Some(hello) = hello_of(&ask)
            && hello.cluster_name != *self.host.cluster_name()
        {
            return Err(malformed(
                "the question names another cluster than the one proven",
            ));
        }
        match ask {
            Ask::Founding(request) => Ok(Answer::Founding(
                self.host.founding(client.node, request).await,
            )),
            Ask::Enrol { hello, csr_der } => {
                let enrolled = self
                    .host
                    .enrol(client.node, &client.token, hello, &csr_der)
                    .await;
                enrolled.map(Answer::Enrolled)
            }
        }
    }
}

/// For which node a question speaks. Whom a decree may come from is the host's to say.
fn speaks_for(ask: &Ask) -> Option<NodeId> {
    match ask {
        Ask::Founding(Question::ReleasePromise { candidate, .. }) => Some(*candidate),
        Ask::Founding(Question::Hello(_) | Question::AskPromise { .. } | Question::Decree(_))
        | Ask::Enrol { .. } => hello_of(ask).map(|hello| hello.node),
    }
}

fn hello_of(ask: &Ask) -> Option<&Hello> {
    match ask {
        Ask::Founding(Question::Hello(hello) | Question::AskPromise { hello, .. })
        | Ask::Enrol { hello, .. } => Some(hello),
        Ask::Founding(Question::ReleasePromise { .. } | Question::Decree(_)) => None,
    }
}

async fn next(questions: &mut Streaming<wire::PairingFrame>) -> Result<Frame, Refusal> {
    let next = questions.message().await;
    let frame = next.ok().flatten().and_then(|frame| frame.frame);
    frame.ok_or_else(|| Refusal::new("lost", "the other side ended the pairing early"))
}

async fn say(send: &Frames, said: Frame) -> Result<(), Refusal> {
    let sent = send.send(Ok(frame(said))).await;
    sent.map_err(|_| Refusal::new("lost", "the other side ended the pairing early"))
}

fn out_of_order<T>() -> Result<T, Refusal> {
    Err(malformed("a frame comes out of order"))
}

fn malformed(why: &str) -> Refusal {
    Refusal::new("malformed", why)
}

fn wrong_token(token: &TokenId) -> Refusal {
    Refusal::new(
        "wrong_token",
        &format!(
            "the join token {token} does not have the secret that is known here: copy the whole \
             token again, from a machine of the cluster or from `pgaa-agent token create`"
        ),
    )
}

fn token_refused(token: &TokenId, why: TokenRefused) -> Refusal {
    let code = match why {
        TokenRefused::Unknown => "unknown_token",
        TokenRefused::Expired => "expired_token",
        TokenRefused::Revoked => "revoked_token",
    };
    let next = "make a new one on a member with `pgaa-agent token create`, and put it into the \
                token file of the machine that joins";
    Refusal::new(code, &format!("join token {token}: {why}; {next}"))
}
