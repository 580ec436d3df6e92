//! Single rules of the founding protocol, by hand. Its schedules are searched by
//! `tests/tests/sim`.

use super::*;
use crate::policy::{ConflictResolution, FoundingSet, Policy};
use crate::time::Mono;
use std::time::Duration;
use uuid::Uuid;

const START: Mono = Mono(0);

fn id(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn address(n: u128) -> SocketAddr {
    format!("10.0.0.{n}:7432").parse().unwrap()
}

fn hello(n: u128, data: DataHeld) -> Hello {
    let at = address(n);
    Hello {
        node: id(n),
        name: Name::new(&format!("node-{n}")).unwrap(),
        cluster_name: Name::new("shop").unwrap(),
        endpoints: Endpoints {
            grpc: at,
            gossip: at,
            postgres: at,
        },
        generation: 1,
        epoch: DataEpoch(Uuid::from_u128(n)),
        system_identifier: n as u64,
        expect: 3,
        data,
        cluster: None,
        enrols: false,
        known: Vec::new(),
        promised: None,
    }
}

fn policy(expect: u16, founding_set: FoundingSet) -> Policy {
    Policy {
        cluster_name: Name::new("shop").unwrap(),
        database: "shop".to_owned(),
        expect,
        max_nodes: 16,
        founding_set,
        founding_wait: Duration::from_secs(60),
        conflict_resolution: ConflictResolution::LastUpdateWins,
        excluded_schemas: Vec::new(),
        slots: Default::default(),
        clock: Default::default(),
        backup: Default::default(),
    }
}

fn node(n: u128, data: DataHeld) -> Founding {
    let set = FoundingSet::Addresses((1..=3).map(address).collect());
    Founding::restore(hello(n, data), &policy(3, set), Durable::default())
}

fn uuids() -> impl FnMut() -> Uuid {
    let mut next = 0xC1_u128 << 64;
    move || {
        next += 1;
        Uuid::from_u128(next)
    }
}

/// Carries every question to its addressee and back until nothing new is asked, one round a
/// second.
fn run(nodes: &mut [Founding], rounds: u64) {
    let mut mint = uuids();
    for round in 0..rounds {
        let now = Mono(1_000 * round);
        for i in 0..nodes.len() {
            for ask in nodes[i].tick(now, &mut mint).asks {
                let from = nodes[i].hello().node;
                let to = nodes
                    .iter()
                    .position(|n| n.hello().endpoints.grpc == ask.to);
                let Some(to) = to else {
                    nodes[i].unanswered(now, &ask, "connection refused");
                    continue;
                };
                let (response, _) = nodes[to].request(now, from, &ask.request);
                let by = nodes[to].hello().node;
                nodes[i].answered(now, &ask, by, response);
            }
        }
    }
}

fn ask(n: u128, round: u64) -> Request {
    let ballot = Ballot {
        generation: 1,
        round,
    };
    Request::AskPromise {
        hello: hello(n, DataHeld::Empty),
        ballot,
    }
}

/// Puts a question, and saves what it changed.
fn put(it: &mut Founding, from: u128, request: &Request) -> (Response, bool) {
    let answer = it.request(START, id(from), request);
    it.saved();
    answer
}

fn texts(node: &Founding, now: Mono) -> String {
    let waiting = node.waiting(now);
    waiting
        .iter()
        .map(|w| format!("{}: {}\n", w.kind, w.text))
        .collect()
}

#[test]
fn three_empty_nodes_found_one_cluster_under_the_lowest() {
    let mut nodes = [3, 1, 2].map(|n| node(n, DataHeld::Empty));
    run(&mut nodes, 6);
    let Standing::Founder(decree) = nodes[1].standing(START) else {
        panic!("{nodes:?}")
    };
    let ordinals: Vec<_> = decree
        .members
        .iter()
        .map(|m| (m.node, m.ordinal.0))
        .collect();
    assert_eq!(ordinals, [(id(1), 1), (id(2), 2), (id(3), 3)]);
    assert!(!decree.founder_holds_data);
    assert_eq!(nodes[0].standing(START), Standing::Decreed(decree.clone()));
    assert_eq!(nodes[2].standing(START), Standing::Decreed(decree));
    assert!(nodes[1].unaccepted().is_empty());
    assert!(nodes.iter().all(|n| n.waiting(START).is_empty()));
}

#[test]
fn the_node_with_data_founds() {
    let mut nodes = [
        node(1, DataHeld::Empty),
        node(2, DataHeld::Empty),
        node(3, DataHeld::Rows),
    ];
    run(&mut nodes, 6);
    let Standing::Founder(decree) = nodes[2].standing(START) else {
        panic!("{nodes:?}")
    };
    assert!(decree.founder_holds_data);
}

#[test]
fn two_nodes_with_data_found_nothing_and_are_named() {
    let mut nodes = [
        node(1, DataHeld::Empty),
        node(2, DataHeld::Rows),
        node(3, DataHeld::Rows),
    ];
    run(&mut nodes, 10);
    for node in &nodes {
        assert!(node.durable().decree.is_none());
        let said = texts(node, Mono(9_000));
        assert!(said.contains("node-2") && said.contains("node-3"), "{said}");
    }
}

#[test]
fn a_promise_is_given_to_one_and_a_late_question_is_refused() {
    let mut it = node(3, DataHeld::Empty);
    let ballot = |round| Ballot {
        generation: 1,
        round,
    };
    assert_eq!(
        put(&mut it, 2, &ask(2, 2)),
        (Response::Promised { ballot: ballot(2) }, true)
    );
    let again = put(&mut it, 2, &ask(2, 2));
    assert_eq!(again, (Response::Promised { ballot: ballot(2) }, false));
    let (other, _) = put(&mut it, 1, &ask(1, 1));
    assert!(
        matches!(other, Response::PromiseHeld { holder, .. } if holder == id(2)),
        "{other:?}"
    );
    let early = Request::ReleasePromise {
        candidate: id(2),
        ballot: ballot(1),
    };
    assert_eq!(put(&mut it, 2, &early), (Response::Released, false));
    let forged = Request::ReleasePromise {
        candidate: id(2),
        ballot: ballot(2),
    };
    assert_eq!(put(&mut it, 1, &forged), (Response::Released, false));
    assert!(it.durable().promise.is_some());
    assert_eq!(put(&mut it, 2, &forged), (Response::Released, true));
    assert!(it.durable().promise.is_none());
    let (late, _) = put(&mut it, 2, &ask(2, 2));
    assert!(
        matches!(late, Response::PromiseHeld { holder, .. } if holder == id(3)),
        "{late:?}"
    );
}

#[test]
fn who_is_unknown_or_holds_rows_gives_no_promise() {
    for data in [DataHeld::Unknown, DataHeld::Rows] {
        let (answer, changed) = node(3, data).request(START, id(1), &ask(1, 1));
        assert!(
            matches!(answer, Response::PromiseHeld { .. }) && !changed,
            "{data:?}"
        );
    }
}

#[test]
fn a_decree_is_obeyed_by_whom_it_names_and_only_one() {
    let mut founders = [1, 2, 3].map(|n| node(n, DataHeld::Empty));
    run(&mut founders, 6);
    let decree = founders[0].durable().decree.clone().unwrap();
    let mut it = node(3, DataHeld::Empty);
    assert!(put(&mut it, 2, &ask(2, 1)).1);
    let (answer, changed) = put(&mut it, 1, &Request::Decree(decree.clone()));
    assert_eq!((answer, changed), (Response::Accepted, true));
    let other = Decree {
        cluster: ClusterId(Uuid::from_u128(7)),
        ..decree
    };
    let (answer, changed) = put(&mut it, 1, &Request::Decree(other));
    assert!(matches!(answer, Response::PromiseHeld { .. }) && !changed);
}

#[test]
fn a_member_says_hello_only_where_no_member_answers() {
    let mut founders = [1, 2, 3].map(|n| node(n, DataHeld::Empty));
    run(&mut founders, 6);
    let it = &mut founders[0];
    let cluster = it.durable().decree.as_ref().map(|decree| decree.cluster);
    it.set_me(Hello {
        cluster,
        ..hello(1, DataHeld::Empty)
    });
    let mut greeted = |up: &[u128], minute: u64| {
        it.set_answering(up.iter().copied().map(address).collect());
        let asks = it.tick(Mono(60_000 * minute), &mut uuids()).asks;
        asks.iter().map(|ask| ask.to).collect::<Vec<_>>()
    };
    assert_eq!(greeted(&[2, 3], 1), []);
    assert_eq!(greeted(&[3], 2), [address(2)], "it may be made anew");
    assert_eq!(greeted(&[], 3), [address(2), address(3)]);
    assert_eq!(greeted(&[2, 3], 4), []);
}

#[test]
fn rows_facing_a_member_are_quarantined_and_empty_nodes_join() {
    let member = Hello {
        cluster: Some(ClusterId(Uuid::from_u128(9))),
        ..hello(9, DataHeld::Rows)
    };
    for data in [DataHeld::Rows, DataHeld::Empty] {
        let mut it = node(1, data);
        let _ = it.request(START, id(9), &Request::Hello(member.clone()));
        match (data, it.standing(START)) {
            (DataHeld::Rows, Standing::Quarantined { reason }) => {
                assert!(reason.contains("unknown lineage"), "{reason}");
            }
            (_, Standing::ClusterFound { cluster, via }) => {
                assert_eq!((Some(cluster), via[0].0), (member.cluster, id(9)));
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn two_clusters_are_both_named_and_neither_is_joined() {
    let mut it = node(1, DataHeld::Empty);
    for n in [8, 9] {
        let cluster = Some(ClusterId(Uuid::from_u128(n)));
        let member = Hello {
            cluster,
            ..hello(n, DataHeld::Empty)
        };
        let _ = it.request(START, id(n), &Request::Hello(member));
    }
    let Standing::Quarantined { reason } = it.standing(START) else {
        panic!()
    };
    assert!(
        reason.contains(&id(8).to_string()) && reason.contains(&id(9).to_string()),
        "{reason}"
    );
}

#[test]
fn clones_are_refused_and_named() {
    let mut it = node(1, DataHeld::Empty);
    let twin = Hello {
        node: id(1),
        ..hello(2, DataHeld::Empty)
    };
    let _ = it.request(START, id(1), &Request::Hello(twin));
    assert!(
        texts(&it, START).contains("10.0.0.2:7432: one is a clone"),
        "{}",
        texts(&it, START)
    );
    let mut it = node(1, DataHeld::Empty);
    let copy = Hello {
        system_identifier: 1,
        ..hello(2, DataHeld::Empty)
    };
    let _ = it.request(START, id(2), &Request::Hello(copy.clone()));
    assert!(
        texts(&it, START).contains("equal system identifiers"),
        "{}",
        texts(&it, START)
    );
    let ballot = Ballot {
        generation: 1,
        round: 1,
    };
    let asked = Request::AskPromise {
        hello: copy,
        ballot,
    };
    let (answer, _) = it.request(START, id(2), &asked);
    assert!(matches!(answer, Response::PromiseHeld { .. }), "{answer:?}");
}

#[test]
fn another_expect_is_named() {
    let mut it = node(1, DataHeld::Empty);
    let other = Hello {
        expect: 5,
        ..hello(2, DataHeld::Empty)
    };
    let _ = it.request(START, id(2), &Request::Hello(other));
    assert!(
        texts(&it, START).contains("cluster.expect = 5"),
        "{}",
        texts(&it, START)
    );
}

#[test]
fn seeds_that_resolve_to_too_many_are_refused() {
    let mut it = Founding::restore(
        Hello {
            expect: 1,
            ..hello(1, DataHeld::Empty)
        },
        &policy(1, FoundingSet::Any),
        Durable::default(),
    );
    let mut mint = uuids();
    let _ = it.tick(START, &mut mint);
    assert!(
        texts(&it, START).contains("not been resolved"),
        "{}",
        texts(&it, START)
    );
    it.set_resolved(vec![address(1), address(2)]);
    let step = it.tick(START, &mut mint);
    for ask in step.asks {
        it.unanswered(START, &ask, "connection refused");
    }
    assert!(!it.tick(START, &mut mint).persist);
    assert!(
        texts(&it, START).contains("fewer than 2"),
        "{}",
        texts(&it, START)
    );
    it.set_resolved(vec![address(1)]);
    assert!(it.tick(START, &mut mint).persist, "expect = 1 founds alone");
    assert!(matches!(it.standing(START), Standing::Founder(_)));
}

#[test]
fn a_vanished_candidate_is_waited_for_until_an_operator_releases_its_promise() {
    let mut it = node(3, DataHeld::Empty);
    let _ = it.request(START, id(2), &ask(2, 1));
    assert!(it.release_promise(START, id(1)).is_err());
    let answers = it.release_promise(START, id(2)).unwrap_err();
    assert!(matches!(answers, ReleaseRefused::Answers(_)));
    let later = Mono(60_000);
    let _ = it.tick(later, &mut uuids());
    let said = texts(&it, later);
    assert!(
        said.contains(&format!("promise release {}", id(2))),
        "{said}"
    );
    assert_eq!(it.release_promise(later, id(2)), Ok(Released::Promise));
    assert!(it.durable().promise.is_none());
}

#[test]
fn only_me_is_refused_while_anyone_answers_or_holds_the_promise() {
    let mut it = node(3, DataHeld::Empty);
    let mut mint = uuids();
    let at = |it: &mut Founding, now| {
        for ask in it.tick(now, &mut uuids()).asks {
            it.unanswered(now, &ask, "no route to host");
        }
    };
    at(&mut it, START);
    let early = it.found_only_me(START, None, &mut mint).unwrap_err();
    assert!(matches!(early, OnlyMeRefused::TooEarly(_)), "{early}");
    let _ = it.request(START, id(2), &ask(2, 1));
    let answers = it.found_only_me(Mono(1_000), None, &mut mint).unwrap_err();
    assert!(matches!(answers, OnlyMeRefused::Answers(_)), "{answers}");
    let later = Mono(60_000);
    at(&mut it, later);
    let held = it.found_only_me(later, None, &mut mint).unwrap_err();
    assert!(matches!(held, OnlyMeRefused::Promised { candidate, .. } if candidate == id(2)));
    assert!(
        it.found_only_me(later, Some(id(2)), &mut mint)
            .unwrap()
            .persist
    );
    assert!(matches!(it.standing(later), Standing::Founder(_)));
}

#[test]
fn what_could_not_be_written_is_not_said_the_second_time_either() {
    let mut it = node(3, DataHeld::Empty);
    assert!(it.request(START, id(2), &ask(2, 1)).1);
    assert!(
        it.request(START, id(2), &ask(2, 1)).1,
        "the disk was full, and still may be"
    );
    assert!(it.tick(START, &mut uuids()).persist);
    it.saved();
    assert!(!it.request(START, id(2), &ask(2, 1)).1);
}

#[test]
fn durable_state_survives_json() {
    let mut it = node(3, DataHeld::Empty);
    let _ = it.request(START, id(2), &ask(2, 1));
    let text = serde_json::to_string(it.durable()).unwrap();
    assert_eq!(
        &serde_json::from_str::<Durable>(&text).unwrap(),
        it.durable()
    );
}

#[test]
fn a_grant_for_a_ballot_that_was_given_up_does_not_count() {
    let mut it = node(2, DataHeld::Empty);
    let mut mint = uuids();
    let mut meet = |it: &mut Founding, now: Mono, peers: &[u128]| {
        for n in peers {
            let said = Request::Hello(hello(*n, DataHeld::Empty));
            let _ = it.request(now, id(*n), &said);
        }
        let asks = it.tick(now, &mut mint).asks;
        for ask in asks
            .iter()
            .filter(|ask| matches!(ask.request, Request::Hello(_)))
        {
            let n = if ask.to == address(1) { 4 } else { 3 };
            it.answered(now, ask, id(n), Response::Hello(hello(n, DataHeld::Empty)));
        }
        it.tick(now, &mut mint)
            .asks
            .into_iter()
            .chain(asks)
            .collect::<Vec<Ask>>()
    };
    // Node 4 answers where node 1 will be, so that node 2 is the best of the set at first.
    let asks = meet(&mut it, START, &[3]);
    let promise = |ask: &&Ask| matches!(ask.request, Request::AskPromise { .. });
    let first = asks
        .iter()
        .find(promise)
        .expect("node 2 is a candidate")
        .clone();
    let _ = meet(&mut it, Mono(1_000), &[]);
    let lost = it.request(Mono(2_000), id(1), &ask(1, 1)).0;
    assert!(matches!(lost, Response::Promised { .. }), "{lost:?}");
    let void = Request::ReleasePromise {
        candidate: id(1),
        ballot: Ballot {
            generation: 1,
            round: 1,
        },
    };
    let _ = it.request(Mono(3_000), id(1), &void);
    it.saved();
    let asks = meet(&mut it, Mono(40_000), &[3]);
    assert!(
        asks.iter().any(|ask| promise(&ask)),
        "node 2 stands again: {asks:?}"
    );
    let Request::AskPromise { ballot, .. } = first.request else {
        panic!()
    };
    for n in [3, 4] {
        it.answered(Mono(40_001), &first, id(n), Response::Promised { ballot });
    }
    assert!(
        !it.tick(Mono(40_002), &mut uuids()).persist,
        "minted with promises given up"
    );
    let now = Mono(40_003);
    for ask in asks.iter().filter(promise) {
        let Request::AskPromise { ballot, .. } = ask.request else {
            panic!()
        };
        let node = ask.node.unwrap();
        it.answered(now, ask, node, Response::Promised { ballot });
    }
    assert!(
        it.tick(now, &mut uuids()).persist,
        "minted with the promises of this ballot"
    );
}

#[test]
fn a_promise_outlives_the_news_that_its_candidate_is_a_member() {
    let mut it = node(3, DataHeld::Empty);
    let _ = it.request(START, id(2), &ask(2, 1));
    let member = Hello {
        cluster: Some(ClusterId(Uuid::from_u128(9))),
        generation: 2,
        ..hello(2, DataHeld::Empty)
    };
    let _ = it.request(START, id(2), &Request::Hello(member));
    let _ = it.tick(START, &mut uuids());
    assert!(matches!(it.standing(START), Standing::ClusterFound { .. }));
    assert!(
        it.durable().promise.is_some(),
        "a crash now would let it be given twice"
    );
}
