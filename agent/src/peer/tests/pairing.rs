//! Pairing: what succeeds, and everything that must not.

use super::*;
use crate::peer::connect::connect;
use crate::peer::convert;
use crate::peer::pairing::PairingError;
use pgaa_core::founding::Ballot;
use pgaa_proto::v1 as wire;
use pgaa_proto::v1::pairing_client::PairingClient as Stub;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use wire::pairing_frame::Frame;

fn question(from: NodeId) -> Ask {
    Ask::Founding(Request::Hello(hello(from)))
}

fn code(result: Result<(NodeId, Answer), PairingError>) -> String {
    result.unwrap_err().code().to_owned()
}

#[tokio::test]
async fn two_agents_with_one_token_pair() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let client = two.pairing(&token);
    let (from, answer) = client.ask(one.address, question(two.node)).await.unwrap();
    assert_eq!(from, one.node);
    assert_eq!(answer, Answer::Founding(Response::Hello(hello(one.node))));
    assert_eq!(one.asked(), [two.node]);
    let release = Request::ReleasePromise {
        candidate: two.node,
        ballot: Ballot::default(),
    };
    client
        .ask(one.address, Ask::Founding(release))
        .await
        .unwrap();
}

#[tokio::test]
async fn enrolment_makes_a_member_that_others_take() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let authority = authority(one.clocks.wall());
    let client = two.pairing(&token);
    let ask = || Ask::Enrol {
        hello: hello(two.node),
        csr_der: two.credentials.csr().unwrap(),
    };
    let refused = client.ask(one.address, ask()).await;
    assert_eq!(code(refused), "no_authority");
    one.renew(&authority);
    *one.host.authority.lock().unwrap() = Some(authority);
    let (_, answer) = client.ask(one.address, ask()).await.unwrap();
    let Answer::Enrolled(enrolled) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (&enrolled.keyring, &enrolled.roster),
        (&one.host.keyring, &roster())
    );
    let ca = vec![enrolled.ca_der.into()];
    two.credentials
        .install(CLUSTER, enrolled.certificate_der.into(), ca)
        .unwrap();
    assert_eq!(two.peers().ping(one.node, one.address, 4).await.unwrap(), 5);
    assert_eq!(one.host.tokens.list(one.clocks.wall())[0].uses, 1);
    // A member still answers those that only hold the token.
    let three = Agent::start(3, &token).await;
    three
        .pairing(&token)
        .ask(two.address, question(three.node))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_named_and_changes_nothing() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let ask = async |client: PairingClient| client.ask(one.address, question(two.node)).await;

    let mut forged = JoinToken::mint().unwrap();
    let unknown = ask(two.pairing(&forged)).await.unwrap_err();
    assert_eq!(unknown.code(), "unknown_token");
    assert!(
        unknown.to_string().contains("pgaa-agent token create"),
        "{unknown}"
    );
    forged.id = token.id.clone();
    assert_eq!(code(ask(two.pairing(&forged)).await), "wrong_token");

    let other = Name::new("other").unwrap();
    let client = PairingClient::new(two.credentials.clone(), other, Some(token.clone()));
    let wrong = ask(client).await.unwrap_err();
    assert_eq!(wrong.code(), "wrong_cluster");
    assert!(wrong.to_string().contains("cluster.name"), "{wrong}");

    let short = one
        .host
        .tokens
        .create(one.clocks.wall(), Duration::ZERO)
        .unwrap();
    assert_eq!(code(ask(two.pairing(&short)).await), "expired_token");
    one.host.tokens.revoke(&token.id).unwrap();
    assert_eq!(code(ask(two.pairing(&token)).await), "revoked_token");
    assert!(one.asked().is_empty());
}

#[tokio::test]
async fn nobody_speaks_for_another_node() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let client = two.pairing(&token);
    let csr_der = two.credentials.csr().unwrap();
    let ballot = Ballot::default();
    let questions = [
        question(id(3)),
        Ask::Enrol {
            hello: hello(id(3)),
            csr_der,
        },
        Ask::Founding(Request::AskPromise {
            hello: hello(id(3)),
            ballot,
        }),
        Ask::Founding(Request::ReleasePromise {
            candidate: id(3),
            ballot,
        }),
    ];
    for ask in questions {
        assert_eq!(code(client.ask(one.address, ask).await), "malformed");
    }
    assert!(one.asked().is_empty());
}

#[tokio::test]
async fn a_node_knows_itself_from_its_twin() {
    let token = JoinToken::mint().unwrap();
    let one = Agent::start(1, &token).await;
    let twin = Agent::start(1, &token).await;
    let client = one.pairing(&token);
    assert_eq!(
        code(client.ask(one.address, question(one.node)).await),
        "myself"
    );
    assert_eq!(
        code(client.ask(twin.address, question(one.node)).await),
        "twin"
    );
}

#[tokio::test]
async fn no_agent_is_not_an_agent() {
    let token = JoinToken::mint().unwrap();
    let one = Agent::start(1, &token).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"220 mail ready\r\n")
            .await
            .unwrap();
    });
    let error = one
        .pairing(&token)
        .ask(address, question(one.node))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PairingError::Connect(ConnectError::NoAgent(_))),
        "{error:?}"
    );
    let error = one
        .pairing(&token)
        .ask(address, question(one.node))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PairingError::Connect(ConnectError::Network { .. })),
        "{error:?}"
    );
}

/// Terminates TLS in the middle with `inward` towards the client and `outward` towards the
/// server, and passes on every byte of what they say.
async fn man_in_the_middle(
    inward: Arc<Credentials>,
    outward: Arc<Credentials>,
    server: SocketAddr,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(inward.current().server.clone());
            let mut client = acceptor.accept(tcp).await.unwrap();
            let mut onward = connect(&outward.current(), server).await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut onward.stream).await;
        }
    });
    address
}

#[tokio::test]
async fn a_man_in_the_middle_passes_on_nothing() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let evil = Agent::start(3, &JoinToken::mint().unwrap())
        .await
        .credentials;
    let client = two.pairing(&token);
    let middle = man_in_the_middle(evil.clone(), evil, one.address).await;
    assert_eq!(
        code(client.ask(middle, question(two.node)).await),
        "wrong_token"
    );
    // Even one who has stolen both nodes' keys, so that both certificates are the right ones:
    // the two connections have different exporters.
    let (inward, outward) = (one.credentials.clone(), two.credentials.clone());
    let middle = man_in_the_middle(inward, outward, one.address).await;
    assert_eq!(
        code(client.ask(middle, question(two.node)).await),
        "wrong_token"
    );
    assert!(one.asked().is_empty());
    client.ask(one.address, question(two.node)).await.unwrap();
}

/// A client that says what it likes.
struct Raw {
    send: mpsc::Sender<wire::PairingFrame>,
    answers: Streaming<wire::PairingFrame>,
    channel: Channel,
    exporter: [u8; 32],
}

impl Raw {
    async fn dial(agent: &Agent, to: SocketAddr) -> Raw {
        let connection = connect(&agent.credentials.current(), to).await.unwrap();
        let exporter = connection.exporter;
        let stream = Mutex::new(Some(connection.stream));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = stream.lock().unwrap().take();
            async move { stream.map(hyper_util::rt::TokioIo::new).ok_or("used") }
        });
        let endpoint = Endpoint::from_static("http://agent.pgaa");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let (send, frames) = mpsc::channel(8);
        let mut stub = Stub::new(channel.clone());
        let answers = stub
            .introduce(ReceiverStream::new(frames))
            .await
            .unwrap()
            .into_inner();
        Raw {
            send,
            answers,
            channel,
            exporter,
        }
    }

    async fn say(&self, said: Frame) {
        self.send
            .send(wire::PairingFrame { frame: Some(said) })
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> Frame {
        self.answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .frame
            .unwrap()
    }

    async fn refusal(&mut self) -> String {
        let heard = self.hear().await;
        let Frame::Refused(refused) = heard else {
            panic!("{heard:?}")
        };
        refused.code
    }
}

fn start(node: NodeId, token: &JoinToken) -> wire::Start {
    wire::Start {
        protocol: 1,
        cluster_name: shop().to_string(),
        node: convert::node_out(node),
        token_id: token.id.to_string(),
        run: vec![0; 16],
    }
}

#[tokio::test]
async fn a_proof_is_worth_nothing_on_another_connection() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let transcript = |exporter: &[u8; 32]| {
        crate::peer::pairing::prove_as_client(
            &token,
            (two.node, &two.credentials.current().fingerprint),
            (one.node, &one.credentials.current().fingerprint),
            exporter,
        )
    };
    let mut first = Raw::dial(&two, one.address).await;
    first.say(Frame::Start(start(two.node, &token))).await;
    assert!(matches!(first.hear().await, Frame::Start(_)));
    let mac = transcript(&first.exporter);
    first
        .say(Frame::Proof(wire::Proof { mac: mac.clone() }))
        .await;
    assert!(
        matches!(first.hear().await, Frame::Proof(_)),
        "the proof is right here"
    );

    let mut second = Raw::dial(&two, one.address).await;
    assert_ne!(second.exporter, first.exporter);
    second.say(Frame::Start(start(two.node, &token))).await;
    assert!(matches!(second.hear().await, Frame::Start(_)));
    second.say(Frame::Proof(wire::Proof { mac })).await;
    assert_eq!(second.refusal().await, "wrong_token");
}

#[tokio::test]
async fn a_connection_carries_one_pairing() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let raw = Raw::dial(&two, one.address).await;
    let again = Stub::new(raw.channel.clone())
        .introduce(tokio_stream::empty())
        .await;
    assert_eq!(again.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn frames_have_one_order() {
    let token = JoinToken::mint().unwrap();
    let (one, two) = (Agent::start(1, &token).await, Agent::start(2, &token).await);
    let ask = || Frame::Ask(convert::ask_out(&question(two.node)));
    let mut raw = Raw::dial(&two, one.address).await;
    raw.say(ask()).await;
    assert_eq!(raw.refusal().await, "malformed");
    let mut raw = Raw::dial(&two, one.address).await;
    raw.say(Frame::Start(start(two.node, &token))).await;
    assert!(matches!(raw.hear().await, Frame::Start(_)));
    raw.say(ask()).await;
    assert_eq!(raw.refusal().await, "malformed");
    let mut raw = Raw::dial(&two, one.address).await;
    raw.say(Frame::Start(wire::Start {
        protocol: 2,
        ..start(two.node, &token)
    }))
    .await;
    assert_eq!(raw.refusal().await, "wrong_protocol");
    let mut raw = Raw::dial(&two, one.address).await;
    raw.say(Frame::Start(wire::Start {
        node: vec![1; 15],
        ..start(two.node, &token)
    }))
    .await;
    assert_eq!(raw.refusal().await, "malformed");
    assert!(one.asked().is_empty());
}

/// A server without the token that sends the client's own proof back.
struct Mirror(NodeId);

#[tonic::async_trait]
impl wire::pairing_server::Pairing for Mirror {
    type IntroduceStream = ReceiverStream<Result<wire::PairingFrame, tonic::Status>>;

    async fn introduce(
        &self,
        request: tonic::Request<Streaming<wire::PairingFrame>>,
    ) -> Result<tonic::Response<Self::IntroduceStream>, tonic::Status> {
        let mut heard = request.into_inner();
        let (send, frames) = mpsc::channel(8);
        let node = convert::node_out(self.0);
        tokio::spawn(async move {
            while let Ok(Some(mut frame)) = heard.message().await {
                if let Some(Frame::Start(start)) = &mut frame.frame {
                    start.node = node.clone();
                }
                let _ = send.send(Ok(frame)).await;
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(frames)))
    }
}

#[tokio::test]
async fn a_server_must_prove_the_token_too() {
    let token = JoinToken::mint().unwrap();
    let two = Agent::start(2, &token).await;
    let evil = Agent::start(3, &token).await.credentials;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (taken, connections) = mpsc::channel(1);
    let quiet = Arc::new(crate::peer::quiet::Quiet::new(two.clocks));
    tokio::spawn(crate::peer::listener::Door::new(evil, quiet).accept(listener, taken));
    let mirror = wire::pairing_server::PairingServer::new(Mirror(id(3)));
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(mirror, ReceiverStream::new(connections)));
    let result = two.pairing(&token).ask(address, question(two.node)).await;
    assert_eq!(code(result), "unproven");
}
