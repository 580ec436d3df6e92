//! What the loop remembers between two looks, so that the plan can speak of durations.
//!
//! Nothing here is stored: after a restart of the agent it is learned again.

use crate::ids::{DataEpoch, NodeId};
use crate::observed::{Observed, Reach};
use crate::roster::Roster;
use crate::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Moments the loop has noticed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Since when each enabled subscription has had no worker.
    pub down_since: BTreeMap<String, Mono>,
    /// When each subscription was last kicked, and how often since it last replicated.
    pub kicked: BTreeMap<String, (Mono, u32)>,
    /// The newest heartbeat of each node, and when it arrived.
    pub heartbeats: BTreeMap<NodeId, (DataEpoch, u64, Mono)>,
    /// Since when each peer has been unreachable.
    pub unreachable_since: BTreeMap<NodeId, Mono>,
    /// When each peer last came back, and for how long it had been away. A change of its address,
    /// or of our own, counts as well: no connection survives it, and gossip needn't notice.
    pub returned: BTreeMap<NodeId, (Mono, Duration)>,
    /// Where each node's server was last known.
    pub addresses: BTreeMap<NodeId, IpAddr>,
    /// Returns for which the senders on this node have been ended.
    pub senders_ended: BTreeMap<NodeId, Mono>,
    /// Since when this node has been in its stage with a roster: bounds the founding.
    pub stage_since: Option<Mono>,
}

impl Memory {
    /// Notes what changed since the last look.
    pub fn note(&mut self, observed: &Observed, now: Mono) {
        self.note_peers(observed, now);
        let Some(postgres) = observed.postgres.known() else {
            return;
        };
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
        self.kicked
            .retain(|name, _| postgres.subscriptions.contains_key(name));
        for (node, heartbeat) in &postgres.heartbeats {
            let newest = (heartbeat.epoch, heartbeat.number);
            match self.heartbeats.get(node) {
                Some((epoch, number, _)) if (*epoch, *number) == newest => {}
                Some(_) | None => {
                    self.heartbeats.insert(*node, (newest.0, newest.1, now));
                }
            }
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
