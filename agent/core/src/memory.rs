//! What the loop remembers between two looks, so that the plan can speak of durations.
//!
//! Nothing here is stored: after a restart of the agent it is learned again.

use crate::action::Action;
use crate::beats;
use crate::guard::Growth;
use crate::ids::{DataEpoch, NodeId, pglogical_node_name};
use crate::observed::{Observed, PostgresFacts, Reach};
use crate::record::EdgeState;
use crate::roster::Roster;
use crate::state::NodeState;
use crate::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Moments the loop has noticed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The first look at the server, and the subscriptions that had a worker then and have had one
    /// ever since: their connections are older than this agent.
    pub inherited: Option<(Mono, BTreeSet<String>)>,
    /// Since when each enabled subscription has had no worker.
    pub down_since: BTreeMap<String, Mono>,
    /// When each subscription was last kicked, and how often since it last replicated.
    pub kicked: BTreeMap<String, (Mono, u32)>,
    /// The newest heartbeat of each node, and when it arrived.
    pub heartbeats: BTreeMap<NodeId, (DataEpoch, u64, Mono)>,
    /// The series of this agent's own heartbeats (see [`crate::beats`]); `None` before it has looked at
    /// its slots and published what it found.
    pub series: Option<u64>,
    /// Since when each peer has been unreachable.
    pub unreachable_since: BTreeMap<NodeId, Mono>,
    /// Since when each peer's agent has said that its server doesn't answer.
    pub serverless_since: BTreeMap<NodeId, Mono>,
    /// When each peer last came back, and for how long it had been away. A change of its address,
    /// or of our own, counts as well: no connection survives it, and gossip needn't notice.
    pub returned: BTreeMap<NodeId, (Mono, Duration)>,
    /// Where each node's server was last known.
    pub addresses: BTreeMap<NodeId, IpAddr>,
    /// Returns for which the senders on this node have been ended.
    pub senders_ended: BTreeMap<NodeId, Mono>,
    /// Since when each slot has had the sender it has.
    pub senders: BTreeMap<String, (i32, Mono)>,
    /// Subscribers that say that no worker reads what this node sends them.
    pub unread: BTreeMap<NodeId, Unread>,
    /// What each slot has held back lately.
    pub growth: BTreeMap<String, Growth>,
    /// When a slot was last given up.
    pub gave_up: Option<Mono>,
    /// When a checkpoint was last asked for, so that what a slot held back goes.
    pub checkpointed: Option<Mono>,
    /// When the settings were last written because the disk had changed.
    pub settings_written: Option<Mono>,
    /// Since when this node has been in its stage with a roster: bounds the founding.
    pub stage_since: Option<Mono>,
}

/// What a subscriber that has no worker for its edge from here gave rise to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    /// Since when its record has said so, without saying in between that the edge replicates.
    pub since: Mono,
    /// When the sender was last ended for it, on which version of the record, and how often.
    pub ended: Option<(Mono, u64, u32)>,
}

impl Memory {
    /// Notes what changed since the last look.
    pub fn note(&mut self, observed: &Observed, now: Mono) {
        self.note_peers(observed, now);
        let Some(postgres) = observed.postgres.known() else {
            return;
        };
        self.note_workers(postgres, now);
        self.down_since.retain(|name, _| {
            postgres
                .subscriptions
                .get(name)
                .is_some_and(|s| s.enabled && !s.worker)
        });
        for (name, subscription) in &postgres.subscriptions {
            if subscription.enabled && !subscription.worker {
                self.down_since.entry(name.clone()).or_insert(now);
            }
        }
        self.note_slots(postgres, now);
        self.kicked
            .retain(|name, _| postgres.subscriptions.contains_key(name));
        for (node, heartbeat) in &postgres.heartbeats {
            let newest = (heartbeat.epoch, heartbeat.number);
            match self.heartbeats.get(node) {
                Some((epoch, number, _)) if (*epoch, *number) == newest => {}
                Some(_) | None => {
                    self.heartbeats.insert(*node, (newest.0, newest.1, now));
                    self.note_arrival(postgres, (*node, heartbeat.epoch));
                }
            }
        }
    }

    /// The own record was published, with this heartbeat in it, from this look.
    pub fn note_published(&mut self, heartbeat: u64, observed: &Observed) {
        let looked = observed.postgres.known();
        if looked.is_some_and(|seen| seen.epoch.is_some()) {
            self.series = Some(beats::series(heartbeat));
        }
    }

    /// Something has come through a subscription again: when it is down next time it is kicked at
    /// once, however often it was before.
    fn note_arrival(&mut self, postgres: &PostgresFacts, provider: (NodeId, DataEpoch)) {
        let provider = pglogical_node_name(provider.0, provider.1);
        for (name, subscription) in &postgres.subscriptions {
            if subscription.worker && subscription.provider == provider {
                self.kicked.remove(name);
            }
        }
    }

    fn note_workers(&mut self, postgres: &PostgresFacts, now: Mono) {
        let works = |name: &String| postgres.subscriptions.get(name).is_some_and(|s| s.worker);
        let (_, inherited) = self.inherited.get_or_insert_with(|| {
            let all = postgres.subscriptions.keys();
            (now, all.filter(|name| works(name)).cloned().collect())
        });
        inherited.retain(works);
    }

    fn note_slots(&mut self, postgres: &PostgresFacts, now: Mono) {
        self.growth
            .retain(|name, _| postgres.slots.contains_key(name));
        for (name, slot) in &postgres.slots {
            let growth = self.growth.entry(name.clone()).or_default();
            growth.note(slot.retained_bytes, now);
        }
        let sender = |name: &str| postgres.slots.get(name).and_then(|slot| slot.sender);
        self.senders
            .retain(|name, (pid, _)| sender(name) == Some(*pid));
        for (name, slot) in &postgres.slots {
            if let Some(pid) = slot.sender {
                self.senders.entry(name.clone()).or_insert((pid, now));
            }
        }
    }

    /// Notes what the members' records say that matters beyond the moment.
    pub fn note_roster(&mut self, me: NodeId, roster: &Roster, now: Mono) {
        self.note_addresses(me, roster, now);
        self.note_servers(roster, now);
        let state = |node: &NodeId| {
            let record = roster.records.get(node)?;
            record.edges.get(&me).map(|edge| edge.state)
        };
        // A worker that starts and fails at once shows up as connecting for a moment.
        self.unread
            .retain(|node, _| matches!(state(node), Some(EdgeState::Down | EdgeState::Connecting)));
        for node in roster.records.keys() {
            if state(node) == Some(EdgeState::Down) {
                let unread = Unread {
                    since: now,
                    ended: None,
                };
                self.unread.entry(*node).or_insert(unread);
            }
        }
    }

    /// A server that was away comes back as its machine would: no connection has survived, and
    /// whoever was kicked in vain all the while must not wait for the next kick.
    fn note_servers(&mut self, roster: &Roster, now: Mono) {
        for (node, record) in &roster.records {
            if record.state == NodeState::Booting {
                self.serverless_since.entry(*node).or_insert(now);
            } else if let Some(since) = self.serverless_since.remove(node) {
                self.returned.insert(*node, (now, now.since(since)));
            }
        }
    }

    /// Records that the sender for a subscriber was ended, and which version of its record was
    /// known then.
    pub fn note_sender_ended(&mut self, subscriber: NodeId, roster: Option<&Roster>, now: Mono) {
        self.senders_ended.insert(subscriber, now);
        let record = roster.and_then(|roster| roster.records.get(&subscriber));
        let version = record.map_or(0, |record| record.version);
        if let Some(unread) = self.unread.get_mut(&subscriber) {
            let times = unread.ended.map_or(0, |(_, _, times)| times);
            unread.ended = Some((now, version, times.saturating_add(1)));
        }
    }

    /// Notes who is known at another address than before.
    pub fn note_addresses(&mut self, me: NodeId, roster: &Roster, now: Mono) {
        let mut moved = BTreeSet::new();
        for (node, record) in &roster.records {
            let address = record.endpoints.postgres.ip();
            let before = self.addresses.insert(*node, address);
            if before.is_some_and(|before| before != address) {
                moved.insert(*node);
            }
        }
        let cut_off = |node: &NodeId| *node != me && (moved.contains(&me) || moved.contains(node));
        for node in roster.records.keys().filter(|node| cut_off(node)) {
            self.returned.insert(*node, (now, Duration::MAX));
        }
    }

    fn note_peers(&mut self, observed: &Observed, now: Mono) {
        for (node, reach) in &observed.peers {
            match reach {
                Reach::Down => {
                    self.unreachable_since.entry(*node).or_insert(now);
                }
                Reach::Up => {
                    if let Some(since) = self.unreachable_since.remove(node) {
                        self.returned.insert(*node, (now, now.since(since)));
                    }
                }
                Reach::Unknown => {}
            }
        }
    }

    /// Records that the guard's part of a plan was carried out.
    pub fn note_guarded(&mut self, action: &Action, now: Mono) {
        if matches!(action, Action::GiveUpSlot { .. }) {
            self.gave_up = Some(now);
        } else if *action == Action::Checkpoint {
            self.checkpointed = Some(now);
        } else if *action == Action::WriteSettings {
            self.settings_written = Some(now);
        }
    }

    /// Records that a subscription was kicked.
    pub fn note_kick(&mut self, subscription: &str, now: Mono) {
        let entry = self
            .kicked
            .entry(subscription.to_owned())
            .or_insert((now, 0));
        *entry = (now, entry.1.saturating_add(1));
    }

    /// Has a heartbeat of `node` arrived within `window`, under `epoch`?
    #[must_use]
    pub fn heartbeat_fresh(
        &self,
        node: NodeId,
        epoch: DataEpoch,
        now: Mono,
        window: Duration,
    ) -> bool {
        self.heartbeats
            .get(&node)
            .is_some_and(|(seen, _, at)| *seen == epoch && now.since(*at) <= window)
    }
}
