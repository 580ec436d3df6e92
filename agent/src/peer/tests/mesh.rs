//! Calls between members: who is let in, and what happens as certificates come and go.

use super::*;
use crate::peer::connect::connect;
use crate::trust::verify::Unproven;
use pgaa_core::ids::LineageId;
use pgaa_core::roster::Tombstone;
use pgaa_core::rows::{Mend, Mended, Repair, RowValues};
use pgaa_core::verify::{Definition, Digest, PieceName, Range};
use pgaa_proto::v1 as wire;
use std::time::Duration;

async fn refusal_code(peers: &Peers, to: &Agent) -> String {
    match peers.ping(to.node, to.address, 1).await {
        Err(PeerError::Refused { refusal, .. }) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn members_exchange_everything_there_is() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    let (node, at) = (one.node, one.address);
    assert_eq!(peers.ping(node, at, 6).await.unwrap(), 7);
    let claim = |run| Some(Claim { run, at });
    assert_eq!(
        peers.vouch(node, at, claim(u64::MAX)).await.unwrap(),
        u64::MAX
    );
    assert_eq!(
        peers.vouch(node, at, None).await.unwrap(),
        2,
        "its own UUID ends so"
    );
    let refused = peers.vouch(node, at, claim(0)).await.unwrap_err();
    assert!(
        matches!(&refused, PeerError::Refused { refusal, .. } if refusal.message == at.to_string()),
        "{refused:?}"
    );

    let have = BTreeMap::from([(id(4), 9), (id(5), 1)]);
    let (back, want) = peers.exchange(node, at, have, roster()).await.unwrap();
    assert_eq!((back, want), (roster(), vec![id(4), id(5)]));
    assert_eq!(one.asked(), [two.node]);

    let catalog = peers.catalog(node, at).await.unwrap();
    assert_eq!((catalog.digest, catalog.tables[0].structure), (7, u64::MAX));
    assert_eq!(
        catalog.tables[0].name, "public.\"o dd\"",
        "control characters never travel"
    );

    let times = peers.measure_clock(node, at).await.unwrap();
    let order = [
        times.sent_us,
        times.received_us,
        times.answered.raw_us,
        times.arrived_us,
    ];
    assert!(order.is_sorted(), "{order:?}");

    let proposal = ForgetProposal {
        target: id(3),
        parent: Some(LineageId(Uuid::from_u128(1))),
        link: LineageId(Uuid::from_u128(2)),
        tombstone: Tombstone {
            name: Name::new("three").unwrap(),
            epoch: DataEpoch(Uuid::from_u128(5)),
            ordinal: None,
            left: true,
            unsettled: false,
        },
        commit: false,
    };
    let answer = peers
        .propose_forget(node, at, proposal.clone())
        .await
        .unwrap();
    assert_eq!(
        (answer.consent, answer.reason),
        (true, format!("{proposal:?}"))
    );

    let token = two
        .host
        .tokens
        .create(two.clocks.wall(), Duration::from_secs(60))
        .unwrap();
    let theirs = peers
        .exchange_tokens(node, at, &two.host.tokens.share())
        .await
        .unwrap();
    assert_eq!(theirs.len(), 3, "two of the test's agents, one made here");
    assert!(one.host.tokens.find(&token.id, one.clocks.wall()).is_ok());
}

#[tokio::test]
async fn leases_and_steps_travel() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    let (node, at) = (one.node, one.address);
    let ask = |kind| LeaseAsk {
        joiner: id(2),
        epoch: 4,
        kind,
        ttl: Duration::from_secs(30),
    };
    let granted = peers
        .lease(node, at, ask(LeaseKind::Acquire))
        .await
        .unwrap();
    assert_eq!((granted.verdict, granted.epoch), (LeaseVerdict::Granted, 5));
    let denied = peers.lease(node, at, ask(LeaseKind::Renew)).await.unwrap();
    let reason = "30s".to_owned();
    assert_eq!(
        denied.verdict,
        LeaseVerdict::Denied {
            holder: Some(id(2)),
            reason
        }
    );

    let step = async |step| {
        peers
            .join_step(
                node,
                at,
                StepAsk {
                    joiner: id(2),
                    epoch: 4,
                    sequence: 1,
                    step,
                },
            )
            .await
            .unwrap()
    };
    let subscription = "0a_1b".to_owned();
    let origins = BTreeMap::from([(subscription.clone(), Lsn(1))]);
    assert_eq!(
        step(Step::CreateSlot { subscription }).await,
        StepAnswer::Origins(origins)
    );
    assert_eq!(step(Step::DropSlots).await, StepAnswer::Done);
    assert_eq!(step(Step::Commit).await, StepAnswer::Done);
    let find = Step::FindSlot {
        subscription: "0a_1b".to_owned(),
    };
    assert_eq!(step(find).await, StepAnswer::Absent);
    assert_eq!(
        step(Step::Facts).await,
        StepAnswer::Facts(Box::new(super::facts()))
    );
    assert_eq!(step(Step::Beat).await, StepAnswer::Heartbeat(5));
    assert_eq!(step(Step::Arrived).await, StepAnswer::Heartbeat(6));
    assert_eq!(
        step(Step::InsertPosition).await,
        StepAnswer::Position(Lsn(u64::MAX))
    );
    let positions = Step::OriginPositions {
        since: Lsn(1),
        until: Lsn(8),
    };
    assert_eq!(step(positions).await, StepAnswer::Position(Lsn(7)));
    let quoted = Step::CreateSlot {
        subscription: "a'; drop".to_owned(),
    };
    let ask = StepAsk {
        joiner: id(2),
        epoch: 4,
        sequence: 2,
        step: quoted,
    };
    let refused = peers.join_step(node, at, ask).await;
    assert!(
        matches!(refused, Err(PeerError::Refused { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn questions_about_rows_keep_every_field() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    let asked = async |ask| peers.compare(one.node, one.address, ("t", ask)).await;
    let key = |text: &str| vec![text.to_owned(), "\u{1}\u{7f}\u{e9}".to_owned()];
    let range = Range {
        after: Some(key("a")),
        upto: Some(key("b")),
    };
    let hash = [i64::MIN, i64::MAX];
    let digest = CompareAnswer::Digest(-1, Digest { rows: 2, hash });
    assert_eq!(
        asked(CompareAsk::Digest(range.clone())).await.unwrap(),
        digest
    );
    let bound = asked(CompareAsk::Bound(range.clone(), 2)).await.unwrap();
    assert_eq!(bound, CompareAnswer::Bound(range.after.clone()));
    let none = asked(CompareAsk::Bound(range.clone(), 1)).await.unwrap();
    assert_eq!(none, CompareAnswer::Bound(None));
    let rows = asked(CompareAsk::Rows(Range::default())).await.unwrap();
    assert_eq!(rows, CompareAnswer::Rows(BTreeMap::new()));
    let looked = asked(CompareAsk::Look(vec![key("c")])).await.unwrap();
    let expected = BTreeMap::from([(key("c"), [1, -1])]);
    assert_eq!(looked, CompareAnswer::Rows(expected));
    assert_eq!(
        asked(CompareAsk::Beat).await.unwrap(),
        CompareAnswer::Beat(1)
    );
    let arrived = BTreeMap::from([(one.node, u64::MAX)]);
    let heartbeats = asked(CompareAsk::Heartbeats).await.unwrap();
    assert_eq!(heartbeats, CompareAnswer::Heartbeats(arrived));
    let expected = CompareAnswer::Orphans(vec![orphans([key("a"), key("b")].into_iter())]);
    let found = asked(CompareAsk::Orphans(range.clone())).await.unwrap();
    assert_eq!(found, expected);
    let keys = vec![key("a"), key("b")];
    let found = asked(CompareAsk::OrphansAmong(keys)).await.unwrap();
    assert_eq!(found, expected);
    let endless = CompareAsk::Look(vec![vec!["x".repeat(20_000)]]);
    let refused = asked(endless).await;
    assert!(
        matches!(refused, Err(PeerError::Refused { .. })),
        "{refused:?}"
    );
    let nameless = asked(CompareAsk::Look(vec![Vec::new()])).await;
    assert!(nameless.is_err(), "a key without columns");
}

#[tokio::test]
async fn questions_about_structure_keep_every_field_and_unknown_ones_are_told_apart() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    let asked = async |ask| peers.compare(one.node, one.address, ("", ask)).await;
    let piece = PieceName {
        kind: "index".to_owned(),
        name: "public.\"a\u{1}\"".to_owned(),
    };
    let tables = vec!["a".to_owned(), "b".to_owned()];
    let pieces = asked(CompareAsk::Pieces(tables, Some(piece.clone()))).await;
    let expected = BTreeMap::from([(piece.clone(), [i64::MIN, -1])]);
    assert_eq!(pieces.unwrap(), CompareAnswer::Pieces((expected, true)));
    let none = asked(CompareAsk::Pieces(Vec::new(), None)).await;
    let expected = CompareAnswer::Pieces((BTreeMap::new(), false));
    assert_eq!(none.unwrap(), expected);
    let defined = asked(CompareAsk::Definitions(vec![piece.clone()], 2)).await;
    let definition = Definition {
        hash: [1, i64::MAX],
        text: "\u{1}\n\u{1}\n".to_owned(),
        within: vec!["table a".to_owned(), String::new()],
    };
    let expected = BTreeMap::from([(piece.clone(), definition)]);
    assert_eq!(defined.unwrap(), CompareAnswer::Definitions(expected));
    let endless = PieceName {
        name: "x".repeat(3_000),
        ..piece
    };
    let refused = asked(CompareAsk::Definitions(vec![endless], 0)).await;
    assert!(
        matches!(refused, Err(PeerError::Refused { .. })),
        "{refused:?}"
    );
    // A kind of question that comes after this version is read as none.
    let unknown = wire::CompareRequest {
        table: String::new(),
        ask: None,
    };
    let refused = peers.compare_by((one.node, one.address), unknown).await;
    assert!(matches!(refused, Err(PeerError::TooOld(_))), "{refused:?}");
}

#[tokio::test]
async fn what_is_said_of_rows_and_done_to_them_keeps_every_field() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    let asked = async |ask| peers.check_rows(one.node, one.address, ("t", ask)).await;
    let key = vec!["a".to_owned(), "\u{1}\u{7f}\u{e9}".to_owned()];
    let looked = asked(CheckAsk::Look(vec![key.clone(); 2])).await.unwrap();
    assert_eq!(looked, CheckAnswer::Seen(moment(), vec![seen(); 2]));
    let begun = asked(CheckAsk::Begins(vec![key.clone()])).await.unwrap();
    assert_eq!(begun, CheckAnswer::Keys([key.clone()].into()));
    let versions = vec![(key.clone(), u32::MAX), (key.clone(), 0)];
    let values = asked(CheckAsk::Values(versions)).await.unwrap();
    let nulls: RowValues = key.iter().map(|text| (text.clone(), None)).collect();
    assert_eq!(values, CheckAnswer::Values(vec![Some(nulls), None]));
    let text = |value: &str| Some(value.to_owned());
    let values: RowValues = [("a".to_owned(), text("")), ("b".to_owned(), None)].into();
    let repair = |seen, right| Repair {
        key: key.clone(),
        seen,
        right,
        rule: "r".to_owned(),
        looked: moment(),
    };
    let right = |stamp| {
        let values = values.clone();
        Some(Mend { stamp, values })
    };
    let repairs = vec![
        repair(Some(u32::MAX), right(Some(stamp()))),
        repair(None, right(None)),
        repair(Some(0), None),
        repair(None, None),
    ];
    let mended = asked(CheckAsk::Mend(repairs)).await.unwrap();
    let refused = Mended::Refused(format!("{values:?} r"));
    let blocked = Mended::Blocked(key.clone());
    let expected = vec![refused, Mended::Done, blocked, Mended::Raced];
    assert_eq!(mended, CheckAnswer::Mended(expected));
    let plain = vec!["a b".to_owned(), "\u{e9}".to_owned()];
    let referring = asked(CheckAsk::Referrers(plain.clone())).await.unwrap();
    assert_eq!(referring, CheckAnswer::Referrers(vec![referrers(&plain)]));
    let nameless = asked(CheckAsk::Look(vec![Vec::new()])).await;
    assert!(nameless.is_err(), "a key without columns");
}

#[tokio::test]
async fn the_ca_travels_to_those_the_host_gives_it() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    let refused = peers.authority(one.node, one.address).await.err();
    assert!(
        matches!(refused, Some(PeerError::Refused { .. })),
        "{refused:?}"
    );
    *one.host.authority.lock().unwrap() = Some(ca);
    let answer = peers.authority(one.node, one.address).await.ok().unwrap();
    let copy = Authority::from_parts(&answer.key_pkcs8, &answer.ca_der).unwrap();
    two.renew(&copy);
    assert_eq!(two.peers().ping(one.node, one.address, 1).await.unwrap(), 2);
}

#[tokio::test]
async fn only_members_of_this_cluster_get_in() {
    let now = Clocks::start().wall();
    let (ca, forged) = (authority(now), authority(now));
    let one = Agent::member(1, &ca, 0).await;

    let stranger = Agent::member(2, &forged, 0).await;
    let refused = stranger
        .peers()
        .ping(one.node, one.address, 1)
        .await
        .unwrap_err();
    let expected = Unproven::OtherAuthority;
    assert!(
        matches!(refused, PeerError::Unproven { why, .. } if why == expected),
        "{refused}"
    );
    // The stranger's own checks aside: the member refuses it as well.
    assert_eq!(raw_ping(&stranger, &one).await, "unproven");

    let token = JoinToken::mint().unwrap();
    let fresh = Agent::start(3, &token).await;
    let refused = fresh
        .peers()
        .ping(one.node, one.address, 1)
        .await
        .unwrap_err();
    assert!(matches!(refused, PeerError::NotEnrolled), "{refused}");
    assert_eq!(raw_ping(&fresh, &one).await, "unproven");

    let member = Agent::member(4, &ca, 0).await;
    let refused = member
        .peers()
        .ping(id(9), one.address, 1)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, PeerError::OtherNode { expected, found, .. }
            if expected == id(9) && found.node == one.node),
        "{refused}"
    );
    let refused = member
        .peers()
        .ping(fresh.node, fresh.address, 1)
        .await
        .unwrap_err();
    assert!(matches!(refused, PeerError::Unproven { .. }), "{refused}");

    let twin = Agent::member(1, &ca, 0).await;
    assert_eq!(raw_ping(&twin, &one).await, "twin");
}

/// Calls without any check of the server, and returns the word of the refusal.
async fn raw_ping(from: &Agent, to: &Agent) -> String {
    let connection = connect(&from.credentials.current(), to.address)
        .await
        .unwrap();
    let stream = Mutex::new(Some(connection.stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.lock().unwrap().take();
        async move { stream.map(hyper_util::rt::TokioIo::new).ok_or("used") }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://agent.pgaa");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut stub = pgaa_proto::v1::mesh_client::MeshClient::new(channel);
    let request = pgaa_proto::v1::PingRequest { generation: 1 };
    let status = stub.ping(request).await.unwrap_err();
    crate::peer::mesh::refusal_of(&status).unwrap().code
}

#[tokio::test]
async fn a_buried_member_is_told_so_on_its_open_connection() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    peers.ping(one.node, one.address, 1).await.unwrap();
    one.host.buried.lock().unwrap().insert(two.node);
    assert_eq!(refusal_code(&peers, &one).await, "buried");
}

#[tokio::test]
async fn a_new_certificate_is_presented_without_a_restart() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    peers.ping(one.node, one.address, 1).await.unwrap();
    let seen = async || {
        let own = two.credentials.current();
        connect(&own, one.address).await.unwrap().peer_fingerprint
    };
    let before = seen().await;
    assert_eq!(before, one.credentials.current().fingerprint);
    one.renew(&ca);
    peers.ping(one.node, one.address, 1).await.unwrap();
    let after = seen().await;
    assert_ne!(after, before);
    assert_eq!(after, one.credentials.current().fingerprint);
    // And the client's own new certificate takes effect with its next call.
    two.renew(&ca);
    peers.ping(one.node, one.address, 1).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_both_sides_until_it_is_renewed() {
    let ca = authority(Clocks::start().wall());
    let (one, late) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 100).await,
    );
    assert!(late.credentials.needs_renewal(late.clocks.wall()));
    assert_eq!(refusal_code(&late.peers(), &one).await, "unproven");
    let refused = one
        .peers()
        .ping(late.node, late.address, 1)
        .await
        .unwrap_err();
    let expected = Unproven::Expired;
    assert!(
        matches!(refused, PeerError::Unproven { why, .. } if why == expected),
        "{refused}"
    );
    late.renew(&ca);
    assert_eq!(
        late.peers().ping(one.node, one.address, 1).await.unwrap(),
        2
    );
    assert_eq!(
        one.peers().ping(late.node, late.address, 1).await.unwrap(),
        2
    );
}

#[tokio::test]
async fn a_peer_that_came_back_is_reached_by_the_next_call() {
    let ca = authority(Clocks::start().wall());
    let (mut one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let peers = two.peers();
    peers.ping(one.node, one.address, 1).await.unwrap();
    let address = one.address;
    one.stop.take().unwrap().send(()).unwrap();
    one.task.await.unwrap().unwrap();
    let gone = peers.ping(one.node, address, 1).await.unwrap_err();
    assert!(
        matches!(gone, PeerError::Connect(_) | PeerError::Lost { .. }),
        "{gone}"
    );

    let listener = TcpListener::bind(address).await.unwrap();
    let host = one.host.clone();
    let serving = serve(
        listener,
        one.credentials.clone(),
        host.clone(),
        host,
        std::future::pending(),
    );
    let again = tokio::spawn(serving);
    assert_eq!(peers.ping(one.node, address, 1).await.unwrap(), 2);
    again.abort();
    drop(one.directory);
}

#[tokio::test]
async fn strangers_that_hold_connections_open_keep_no_member_out() {
    let ca = authority(Clocks::start().wall());
    let (one, two) = (
        Agent::member(1, &ca, 0).await,
        Agent::member(2, &ca, 0).await,
    );
    let token = JoinToken::mint().unwrap();
    let stranger = Agent::start(3, &token).await;
    let own = stranger.credentials.current();
    let mut held = Vec::new();
    for _ in 0..80 {
        held.push(connect(&own, one.address).await);
    }
    let pairing = stranger.pairing(&token);
    let refused = pairing
        .ask(one.address, Ask::Founding(Request::Hello(hello(id(3)))))
        .await;
    assert_eq!(refused.unwrap_err().code(), "lost");
    assert_eq!(two.peers().ping(one.node, one.address, 1).await.unwrap(), 2);
}
