//! What one look at the model of a server finds.

use super::agent::address;
use super::postgres::{Slot, Subscription, Worker};
use super::world::{Node, World};
use pgaa_core::births::Birth;
use pgaa_core::ids::{Lsn, pglogical_node_name};
use pgaa_core::join::Forward;
use pgaa_core::observed::{
    Fact, HeartbeatFacts, PostgresFacts, SlotFacts, SubscriptionFacts, TableFacts,
};
use pgaa_core::time::{Mono, Wall};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// What one look at a server finds.
    pub fn look(&mut self, node: usize) -> Fact<PostgresFacts> {
        let anew = self.slots_made_anew(node);
        let Node {
            server, id, epoch, ..
        } = &self.nodes[node];
        if !server.up {
            return Fact::Unknown("connection refused".to_owned());
        }
        let beat = |(writer, number): (&usize, &u64)| {
            let facts = HeartbeatFacts {
                epoch: self.nodes[*writer].epoch,
                number: *number,
                sent_at: Wall(0),
                lag_ms: 1,
                seen_at: Mono(self.now),
            };
            (self.nodes[*writer].id, facts)
        };
        let dsn = address(node).to_string();
        Fact::Known(PostgresFacts {
            version_num: 150_020,
            pglogical: Some("2.4.2".to_owned()),
            system_identifier: id.0.as_u128() as u64 | 1,
            epoch: Some(*epoch),
            wal: Lsn(server.end()),
            local_node: Some((pglogical_node_name(*id, *epoch), dsn)),
            subscriptions: self.subscriptions(node),
            slots: server
                .slots
                .iter()
                .map(|(subscriber, s)| {
                    let name = self.slots[*subscriber][node].clone();
                    let made_anew = anew.contains(&name);
                    (name, slot_facts(s, made_anew))
                })
                .collect(),
            heartbeats: server.beats.iter().map(beat).collect(),
            tables: vec![TableFacts {
                name: "public.t".to_owned(),
                structure: 1,
                primary_key: true,
                replicated: server.replicates,
                plain_sequences: Vec::new(),
                replicable: true,
            }],
            catalog: 1,
            has_rows: !server.rows.is_empty(),
            gate_open: server.gate_open,
            admitted: server.admitted.clone(),
            ..PostgresFacts::default()
        })
    }

    /// The slots that somebody has dropped and made anew, as the agent tells it.
    pub fn slots_made_anew(&mut self, node: usize) -> BTreeSet<String> {
        let slots = self.nodes[node].server.slots.iter();
        let born = |born_ns| Birth { born_ns };
        let seen = slots
            .map(|(subscriber, slot)| (self.slots[*subscriber][node].clone(), born(slot.born)))
            .collect();
        self.nodes[node].agent.births.compare(born(0), &seen)
    }

    fn subscriptions(&self, node: usize) -> BTreeMap<String, SubscriptionFacts> {
        let all = self.nodes[node].server.subscriptions.iter();
        let facts = |(provider, s): (&usize, &Subscription)| {
            let other = &self.nodes[*provider];
            let facts = SubscriptionFacts {
                provider: pglogical_node_name(other.id, other.epoch),
                slot: self.slots[node][*provider].clone(),
                enabled: s.enabled,
                worker: matches!(s.worker, Worker::Running { .. }),
                forwards_nothing: s.forward == Forward::Nothing,
                sync_status: Some('r'),
                origin: true,
                dsn: address(*provider).to_string(),
                position: Lsn(s.progress),
            };
            (self.names[node][*provider].clone(), facts)
        };
        all.map(facts).collect()
    }
}

fn slot_facts(slot: &Slot, made_anew: bool) -> SlotFacts {
    SlotFacts {
        active: slot.sender.is_some(),
        sender: slot
            .sender
            .map(|sender| i32::try_from(sender % 1_000_000).unwrap_or(0)),
        wal_status: "reserved".to_owned(),
        retained_bytes: 0,
        confirmed: Lsn(slot.confirmed),
        made_anew,
    }
}
