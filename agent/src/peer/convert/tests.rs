//! What is written is read back; what makes no sense is an error that names the field.

use super::*;
use crate::peer::{Answer, Ask};
use pgaa_core::backup::claim::{BackupWord, Claim, Wish};
use pgaa_core::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict, PairReading};
use pgaa_core::founding::{Ballot, DataHeld, Hello, Request, Response};
use pgaa_core::history::History;
use pgaa_core::ids::{ClusterId, DataEpoch, LineageId, Lsn};
use pgaa_core::record::{EdgeReport, EdgeState, JoinPhase, NodeRecord, Versions};
use pgaa_core::roster::{Decree, FoundingMember, Roster, Tombstone};
use pgaa_core::state::NodeState;
use pgaa_core::time::Wall;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

const STATES: [NodeState; 12] = [
    NodeState::Booting,
    NodeState::Configuring,
    NodeState::Discovering,
    NodeState::Forming,
    NodeState::Enrolling,
    NodeState::WaitingForClock,
    NodeState::Joining,
    NodeState::Ready,
    NodeState::Resyncing,
    NodeState::Leaving,
    NodeState::Left,
    NodeState::Quarantined,
];
const PHASES: [JoinPhase; 6] = [
    JoinPhase::Founding,
    JoinPhase::Leasing,
    JoinPhase::Copying,
    JoinPhase::CatchingUp,
    JoinPhase::Linking,
    JoinPhase::Checking,
];
const EDGES: [EdgeState; 7] = [
    EdgeState::Unknown,
    EdgeState::Missing,
    EdgeState::Disabled,
    EdgeState::Down,
    EdgeState::Connecting,
    EdgeState::Replicating,
    EdgeState::NeedsResync,
];
const VERDICTS: [ClockVerdict; 4] = [
    ClockVerdict::Unknown,
    ClockVerdict::Synchronized,
    ClockVerdict::Drifting,
    ClockVerdict::Unsynchronized,
];
const SOURCES: [ClockSource; 5] = [
    ClockSource::None,
    ClockSource::Chrony,
    ClockSource::Kernel,
    ClockSource::Timesyncd,
    ClockSource::NtpdRs,
];
const CAUSES: [ClockCause; 5] = [
    ClockCause::None,
    ClockCause::NoSource,
    ClockCause::Unreachable,
    ClockCause::Stale,
    ClockCause::Error,
];
const DATA: [DataHeld; 3] = [DataHeld::Unknown, DataHeld::Empty, DataHeld::Rows];

/// Makes values of every shape from a seed.
struct Maker(SmallRng);

impl Maker {
    fn new(seed: u64) -> Maker {
        Maker(SmallRng::seed_from_u64(seed))
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.0.random_range(0..all.len())]
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Maker) -> T) -> Option<T> {
        if self.0.random() {
            Some(make(self))
        } else {
            None
        }
    }

    fn many<T>(&mut self, make: impl Fn(&mut Maker) -> T) -> Vec<T> {
        (0..self.0.random_range(0..4)).map(|_| make(self)).collect()
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.0.random())
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.uuid())
    }

    fn name(&mut self) -> Name {
        Name::new(self.of(&["a", "db-1", "0", "shop"])).unwrap()
    }

    fn ordinal(&mut self) -> Ordinal {
        Ordinal(self.0.random_range(1..=u16::MAX))
    }

    fn address(&mut self) -> SocketAddr {
        let ip = match self.maybe(|make| make.0.random::<u32>()) {
            Some(v4) => IpAddr::from(v4.to_be_bytes()),
            None => IpAddr::from(self.0.random::<u128>().to_be_bytes()),
        };
        SocketAddr::new(ip, self.0.random_range(1..=u16::MAX))
    }

    fn endpoints(&mut self) -> Endpoints {
        Endpoints {
            grpc: self.address(),
            gossip: self.address(),
            postgres: self.address(),
        }
    }

    fn edge(&mut self) -> EdgeReport {
        EdgeReport {
            state: self.of(&EDGES),
            lag_ms: self.maybe(|make| make.0.random()),
            heartbeat: self.0.random(),
            detail: self.of(&["", "permission denied\nfor schema ä"]).to_owned(),
            position: Lsn(self.0.random()),
        }
    }

    fn record(&mut self) -> NodeRecord {
        NodeRecord {
            node: self.node(),
            version: self.0.random(),
            generation: self.0.random(),
            name: self.name(),
            site: self.of(&["", "eu-west"]).to_owned(),
            ordinal: self.maybe(Maker::ordinal),
            endpoints: self.endpoints(),
            epoch: DataEpoch(self.uuid()),
            system_identifier: self.0.random(),
            versions: Versions {
                agent: "0.1.0".to_owned(),
                postgres: self.0.random(),
                pglogical: self.of(&["", "2.4.2"]).to_owned(),
            },
            state: self.of(&STATES),
            phase: self.maybe(|make| make.of(&PHASES)),
            gate_open: self.0.random(),
            slots_for: self.many(Maker::node).into_iter().collect(),
            edges: self
                .many(|make| (make.node(), make.edge()))
                .into_iter()
                .collect(),
            catalog: self.0.random(),
            heartbeat: self.0.random(),
            wal: Lsn(self.0.random()),
            backup: BackupWord {
                able: self.0.random(),
                claim: self.maybe(|make| Claim {
                    epoch: make.0.random(),
                    since: Wall(make.0.random()),
                    covered: make.0.random(),
                }),
                wish: self.maybe(|make| Wish {
                    target: make.node(),
                    epoch: make.0.random(),
                }),
                archived_until: self.maybe(|make| Wall(make.0.random())),
                gap_since: self.maybe(|make| Wall(make.0.random())),
                problem: self.of(&["", "the repository is full"]).to_owned(),
            },
            clock: ClockReading {
                verdict: self.of(&VERDICTS),
                cause: self.of(&CAUSES),
                source: self.of(&SOURCES),
                offset_us: self.0.random(),
                error_us: self.maybe(|make| make.0.random()),
            },
            clock_pairs: self
                .many(|make| (make.node(), make.pair()))
                .into_iter()
                .collect(),
            written_at: Wall(self.0.random()),
        }
    }

    fn pair(&mut self) -> PairReading {
        PairReading {
            offset_us: self.0.random(),
            error_us: self.0.random(),
            round_trip_us: self.0.random(),
            age_ms: self.0.random(),
        }
    }

    fn decree(&mut self) -> Decree {
        let mut members = self.many(Maker::member);
        members.push(self.member());
        Decree {
            cluster: ClusterId(self.uuid()),
            cluster_name: self.name(),
            founder: self.node(),
            founder_holds_data: self.0.random(),
            members,
        }
    }

    fn member(&mut self) -> FoundingMember {
        let epoch = DataEpoch(self.uuid());
        FoundingMember {
            node: self.node(),
            name: self.name(),
            ordinal: self.ordinal(),
            epoch,
        }
    }

    fn tombstone(&mut self) -> Tombstone {
        Tombstone {
            name: self.name(),
            epoch: DataEpoch(self.uuid()),
            ordinal: self.maybe(Maker::ordinal),
            left: self.0.random(),
            unsettled: self.0.random(),
        }
    }

    fn roster(&mut self) -> Roster {
        let records = self.many(Maker::record).into_iter();
        Roster {
            history: History::default(),
            decree: self.decree(),
            lineage: self.many(|make| LineageId(make.uuid())),
            records: records.map(|record| (record.node, record)).collect(),
            tombstones: self
                .many(|make| (make.node(), make.tombstone()))
                .into_iter()
                .collect(),
        }
    }

    fn hello(&mut self) -> Hello {
        Hello {
            node: self.node(),
            name: self.name(),
            cluster_name: self.name(),
            endpoints: self.endpoints(),
            generation: self.0.random(),
            epoch: DataEpoch(self.uuid()),
            system_identifier: self.0.random(),
            expect: self.0.random_range(1..=u16::MAX),
            data: self.of(&DATA),
            cluster: self.maybe(|make| ClusterId(make.uuid())),
            enrols: self.0.random(),
            known: self.many(|make| (make.node(), make.address())),
            promised: self.maybe(|make| (make.node(), make.ballot())),
        }
    }

    fn ballot(&mut self) -> Ballot {
        Ballot {
            generation: self.0.random(),
            round: self.0.random(),
        }
    }
}

#[test]
fn rosters_and_questions_are_read_as_they_were_written() {
    for seed in 0..200 {
        let mut make = Maker::new(seed);
        let whole = make.roster();
        assert_eq!(roster(Some(roster_out(&whole))), Ok(whole), "seed {seed}");
        let (hello, ballot) = (make.hello(), make.ballot());
        let asks = [
            Ask::Founding(Request::Hello(hello.clone())),
            Ask::Founding(Request::AskPromise {
                hello: hello.clone(),
                ballot,
            }),
            Ask::Founding(Request::ReleasePromise {
                candidate: make.node(),
                ballot,
            }),
            Ask::Founding(Request::Decree(make.decree())),
            Ask::Enrol {
                hello: hello.clone(),
                csr_der: vec![1, 2],
            },
        ];
        for asked in asks {
            assert_eq!(ask(ask_out(&asked)), Ok(asked), "seed {seed}");
        }
        let reason = "because\nof that".to_owned();
        let answers = [
            Answer::Founding(Response::Hello(hello)),
            Answer::Founding(Response::Promised { ballot }),
            Answer::Founding(Response::PromiseHeld {
                holder: make.node(),
                reason,
            }),
            Answer::Founding(Response::Released),
            Answer::Founding(Response::Accepted),
        ];
        for given in answers {
            assert_eq!(answer(answer_out(&given)), Ok(given), "seed {seed}");
        }
    }
}

#[test]
fn every_word_has_one_spelling_on_both_sides() {
    let mut make = Maker::new(1);
    let base = make.record();
    let read = |record: &NodeRecord| record::record(record::record_out(record)).unwrap();
    for state in STATES {
        assert_eq!(
            read(&NodeRecord {
                state,
                ..base.clone()
            })
            .state,
            state
        );
    }
    for phase in PHASES {
        assert_eq!(
            read(&NodeRecord {
                phase: Some(phase),
                ..base.clone()
            })
            .phase,
            Some(phase)
        );
    }
    for state in EDGES {
        let edges = BTreeMap::from([(
            make.node(),
            EdgeReport {
                state,
                ..make.edge()
            },
        )]);
        assert_eq!(
            read(&NodeRecord {
                edges: edges.clone(),
                ..base.clone()
            })
            .edges,
            edges
        );
    }
}

#[test]
fn long_and_ugly_texts_of_ours_are_cut_rather_than_refused() {
    let mut make = Maker::new(2);
    let detail = format!("\u{1b}[31mä{}", "ö".repeat(2_000));
    let edges = BTreeMap::from([(
        make.node(),
        EdgeReport {
            detail,
            ..make.edge()
        },
    )]);
    let written = NodeRecord {
        edges,
        site: "x".repeat(1_000),
        ..make.record()
    };
    let read = record::record(record::record_out(&written)).unwrap();
    assert_eq!(read.site.len(), SHORT_BYTES_MAX);
    let detail = &read.edges.first_key_value().unwrap().1.detail;
    assert!(
        detail.starts_with(" [31mäö") && detail.len() <= TEXT_BYTES_MAX,
        "{detail}"
    );
}

#[test]
fn each_wrong_field_is_named() {
    let mut make = Maker::new(3);
    let good = record::record_out(&NodeRecord {
        ordinal: None,
        ..make.record()
    });
    type Spoil = fn(&mut wire::NodeRecord);
    let cases: [(&str, Spoil); 17] = [
        ("record.node", |r| r.node = vec![1; 15]),
        ("record.name", |r| r.name = "A".to_owned()),
        ("record.site", |r| r.site = "\u{1b}]0;x".to_owned()),
        ("record.ordinal", |r| r.ordinal = Some(0)),
        ("record.ordinal", |r| r.ordinal = Some(65_536)),
        ("endpoints", |r| r.endpoints = None),
        ("endpoints.grpc", |r| {
            r.endpoints.as_mut().unwrap().grpc = Some(wire::Endpoint {
                ip: vec![1],
                port: 1,
            });
        }),
        ("endpoints.gossip", |r| {
            let ip = vec![127, 0, 0, 1];
            r.endpoints.as_mut().unwrap().gossip = Some(wire::Endpoint { ip, port: 65_536 });
        }),
        ("record.epoch", |r| r.epoch.clear()),
        ("record.state", |r| r.state = "superb".to_owned()),
        ("record.phase", |r| r.phase = "Founding".to_owned()),
        ("record.slots_for", |r| {
            r.slots_for = vec![vec![0; 16]; COUNT_MAX + 1]
        }),
        ("clock.verdict", |r| r.clock.as_mut().unwrap().verdict = 4),
        ("clock.source", |r| r.clock.as_mut().unwrap().source = 5),
        ("clock.cause", |r| r.clock.as_mut().unwrap().cause = 5),
        ("record.clock", |r| r.clock = None),
        ("record.clock_pairs", |r| {
            r.clock_pairs = vec![wire::ClockPair::default(); COUNT_MAX + 1]
        }),
    ];
    for (field, spoil) in cases {
        let mut spoiled = good.clone();
        spoil(&mut spoiled);
        let error = record::record(spoiled).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains(field), "{error}");
    }
    assert_eq!(
        record::record(good.clone()).map(|r| r.node.0.as_bytes().to_vec()),
        Ok(good.node)
    );
}

/// A decoder of one message, as the services use it.
type Decoder = fn(&[u8]) -> bool;

#[test]
fn garbage_never_panics() {
    let decoders: [Decoder; 8] = [
        |b| wire::Roster::decode(b).is_ok_and(|m| roster(Some(m)).is_ok()),
        |b| wire::Ask::decode(b).is_ok_and(|m| ask(m).is_ok()),
        |b| wire::Answer::decode(b).is_ok_and(|m| answer(m).is_ok()),
        |b| wire::TokenSet::decode(b).is_ok_and(|m| tokens(m).is_ok()),
        |b| wire::ForgetRequest::decode(b).is_ok_and(|m| forget_proposal(m).is_ok()),
        |b| wire::LeaseReply::decode(b).is_ok_and(|m| lease_answer(m).is_ok()),
        |b| wire::JoinStepRequest::decode(b).is_ok_and(|m| step_ask(m).is_ok()),
        |b| wire::JoinStepReply::decode(b).is_ok_and(|m| step_answer(m).is_ok()),
    ];
    let mut make = Maker::new(4);
    let mut taken = BTreeSet::new();
    for round in 0..2_000 {
        let mut bytes = match round % 3 {
            0 => roster_out(&make.roster()).encode_to_vec(),
            1 => ask_out(&Ask::Founding(Request::Hello(make.hello()))).encode_to_vec(),
            _ => (0..make.0.random_range(0..200))
                .map(|_| make.0.random())
                .collect(),
        };
        for _ in 0..round % 5 {
            if bytes.is_empty() {
                break;
            }
            let at = make.0.random_range(0..bytes.len());
            bytes[at] = make.0.random();
        }
        for (which, decoder) in decoders.iter().enumerate() {
            if decoder(&bytes) {
                taken.insert(which);
            }
        }
    }
    assert!(
        taken.contains(&0) && taken.contains(&1),
        "unspoiled messages are taken: {taken:?}"
    );
}
