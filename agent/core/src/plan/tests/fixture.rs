//! A model of three nodes that the tests bend.

use super::super::*;
use crate::check::check;
use crate::ids::{ClusterId, Lsn, Name, Ordinal, subscription_name};
use crate::observed::{DiskFacts, HeartbeatFacts, Reach, SlotFacts, SubscriptionFacts};
use crate::policy::{ConflictResolution, FoundingSet, SlotPolicy};
use crate::record::{EdgeReport, EdgeState, Endpoints, JoinPhase, NodeRecord, Versions};
use crate::roster::{Decree, FoundingMember};
use crate::state::NodeState;
use crate::time::Wall;
use std::net::SocketAddr;
use uuid::Uuid;

pub(super) const ME: u128 = 1 << 96;
pub(super) const NOW: Mono = Mono(100_000);

pub(super) fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n << 96))
}

/// Tells the slots of different subscribers apart: their names have seven digits of both.
pub(super) fn epoch(n: u128) -> DataEpoch {
    DataEpoch(Uuid::from_u128(n << 124))
}

pub(super) fn name(n: u128) -> Name {
    Name::new(&format!("n{n}")).unwrap()
}

pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) life: Life,
    pub(super) roster: Option<Roster>,
    pub(super) observed: Observed,
    pub(super) memory: Memory,
    pub(super) catalogs: BTreeMap<NodeId, Fact<Catalog>>,
    pub(super) dsns: BTreeMap<NodeId, String>,
}

pub(super) fn record(n: u128) -> NodeRecord {
    let at: SocketAddr = format!("10.0.0.{n}:7432").parse().unwrap();
    NodeRecord {
        node: node(n),
        version: 1,
        generation: 1,
        name: name(n),
        site: String::new(),
        ordinal: Some(Ordinal(n as u16)),
        endpoints: Endpoints {
            grpc: at,
            gossip: at,
            postgres: at,
        },
        epoch: epoch(n),
        system_identifier: n as u64,
        versions: Versions::default(),
        state: NodeState::Joining,
        phase: Some(JoinPhase::Founding),
        gate_open: false,
        slots_for: std::collections::BTreeSet::new(),
        edges: BTreeMap::new(),
        catalog: 0,
        heartbeat: 0,
        wal: Lsn(0),
        clock: crate::clock::ClockReading::default(),
        clock_pairs: BTreeMap::new(),
        backup: Default::default(),
        written_at: Wall(0),
    }
}

impl World {
    /// Three founding members, right after the decree: nothing is there yet.
    pub(super) fn founding() -> World {
        let members = (1..=3)
            .map(|n| FoundingMember {
                node: node(n),
                name: name(n),
                ordinal: Ordinal(n as u16),
                epoch: epoch(n),
            })
            .collect();
        let mut roster = Roster::founded(Decree {
            cluster: ClusterId(Uuid::from_u128(9)),
            cluster_name: Name::new("shop").unwrap(),
            founder: node(1),
            founder_holds_data: false,
            members,
        });
        for n in 1..=3 {
            roster.learn(&record(n));
        }
        let postgres = PostgresFacts {
            pglogical: Some("2.4.2".to_owned()),
            epoch: Some(epoch(1)),
            ..PostgresFacts::default()
        };
        let dsns = (1..=3).map(|n| (node(n), format!("dsn {n}"))).collect();
        World {
            policy: policy(),
            life: Life {
                stage: Stage::Founding,
                ordinal: Some(Ordinal(1)),
                ..Life::default()
            },
            roster: Some(roster),
            observed: Observed {
                postgres: Fact::Known(postgres),
                peers: [2, 3].map(|n| (node(n), Reach::Up)).into_iter().collect(),
                exports: Vec::new(),
                wal_disk: Fact::Known(DiskFacts {
                    total_bytes: 100_000_000_000,
                    free_bytes: 60_000_000_000,
                    wal_bytes: 0,
                }),
                clock: crate::clock::ClockView::exact([2, 3].map(node)),
                settled: Some(NOW),
            },
            memory: Memory {
                stage_since: Some(Mono(0)),
                ..Memory::default()
            },
            catalogs: BTreeMap::new(),
            dsns,
        }
    }

    /// The same three, converged.
    pub(super) fn converged() -> World {
        let mut world = World::founding();
        world.life.stage = Stage::Ready;
        let everybody: Vec<NodeId> = (1..=3).map(node).collect();
        for n in 1..=3 {
            let id = node(n);
            let record = world.record_mut(n);
            record.state = NodeState::Ready;
            record.phase = None;
            record.gate_open = true;
            for other in everybody.iter().filter(|other| **other != id) {
                record.slots_for.insert(*other);
                let edge = EdgeReport {
                    state: EdgeState::Replicating,
                    lag_ms: Some(1),
                    heartbeat: 7,
                    detail: String::new(),
                    position: Lsn(0),
                };
                record.edges.insert(*other, edge);
            }
        }
        let postgres = world.postgres_mut();
        postgres.gate_open = true;
        postgres.admitted = [2, 3].map(node).into_iter().collect();
        postgres.local_node = Some((pglogical_name(1), "dsn 1".to_owned()));
        for n in [2, 3] {
            link(postgres, n);
        }
        for n in [2, 3] {
            world.memory.heartbeats.insert(node(n), (epoch(n), 7, NOW));
        }
        world
    }

    pub(super) fn record_mut(&mut self, n: u128) -> &mut NodeRecord {
        self.roster
            .as_mut()
            .unwrap()
            .records
            .get_mut(&node(n))
            .unwrap()
    }

    pub(super) fn postgres_mut(&mut self) -> &mut PostgresFacts {
        match &mut self.observed.postgres {
            Fact::Known(facts) => facts,
            Fact::Unknown(why) => panic!("{why}"),
        }
    }

    pub(super) fn subscription_mut(&mut self, provider: u128) -> &mut SubscriptionFacts {
        let name = subscription_name((node(1), epoch(1)), (node(provider), epoch(provider)));
        self.postgres_mut().subscriptions.get_mut(&name).unwrap()
    }

    pub(super) fn with_inputs<T>(&self, look: impl FnOnce(&Inputs<'_>) -> T) -> T {
        look(&Inputs {
            now: NOW,
            me: NodeId(Uuid::from_u128(ME)),
            policy: &self.policy,
            life: &self.life,
            roster: self.roster.as_ref(),
            observed: &self.observed,
            memory: &self.memory,
            catalogs: &self.catalogs,
            dsns: &self.dsns,
        })
    }

    pub(super) fn plan(&self) -> Plan {
        self.with_inputs(|inputs| {
            let plan = plan(inputs);
            assert_eq!(check(&plan, inputs), Ok(()));
            plan
        })
    }

    pub(super) fn text(&self) -> String {
        let plan = self.plan();
        let does = plan.actions.iter().map(|action| format!("do {action}\n"));
        let waits = plan
            .waiting
            .iter()
            .map(|on| format!("wait for {}\n", on.text));
        let finds = plan
            .findings
            .iter()
            .map(|f| format!("{:?} {}\n", f.severity, f.code));
        does.chain(waits).chain(finds).collect()
    }
}

pub(super) fn policy() -> Policy {
    Policy {
        cluster_name: Name::new("shop").unwrap(),
        database: "shop".to_owned(),
        expect: 3,
        max_nodes: 8,
        founding_set: FoundingSet::Any,
        founding_wait: Duration::from_secs(60),
        conflict_resolution: ConflictResolution::LastUpdateWins,
        excluded_schemas: Vec::new(),
        slots: SlotPolicy::default(),
        clock: crate::clock::ClockPolicy::default(),
        backup: crate::backup::BackupPolicy::default(),
    }
}

pub(super) fn pglogical_name(n: u128) -> String {
    crate::ids::pglogical_node_name(node(n), epoch(n))
}

/// Subscription to `n`, slot for `n`, and a fresh heartbeat of `n`.
pub(super) fn link(postgres: &mut PostgresFacts, n: u128) {
    let (me, other) = ((node(1), epoch(1)), (node(n), epoch(n)));
    postgres.subscriptions.insert(
        subscription_name(me, other),
        SubscriptionFacts {
            provider: pglogical_name(n),
            slot: "slot".to_owned(),
            enabled: true,
            worker: true,
            forwards_nothing: true,
            sync_status: Some('r'),
            origin: true,
            dsn: format!("dsn {n}"),
            position: Lsn(0),
        },
    );
    let slot = format!(
        "pgl_shop_{}_{}",
        pglogical_name(1),
        subscription_name(other, me)
    );
    postgres.slots.insert(
        slot,
        SlotFacts {
            active: true,
            sender: Some(100),
            wal_status: "reserved".to_owned(),
            retained_bytes: 0,
            confirmed: Lsn(0),
            made_anew: false,
        },
    );
    postgres.heartbeats.insert(
        node(n),
        HeartbeatFacts {
            epoch: epoch(n),
            number: 7,
            sent_at: Wall(0),
            lag_ms: 1,
            seen_at: NOW,
        },
    );
}
