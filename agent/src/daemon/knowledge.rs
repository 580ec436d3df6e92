//! What this agent knows of the cluster, shared between its tasks: life, roster, the peers'
//! reach and their tables. Durable parts are stored before a change is visible.
//!
//! Must not talk to anybody.

use super::store::Store;
use crate::durable::DurableError;
use pgaa_core::ids::NodeId;
use pgaa_core::life::{Life, Stage};
use pgaa_core::observed::{Fact, Reach};
use pgaa_core::publish::says_the_same;
use pgaa_core::record::NodeRecord;
use pgaa_core::roster::{MergeRefused, Merged, Roster};
use pgaa_core::tables::Catalog;
use pgaa_core::time::{Mono, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::{Notify, watch};

/// Learning something failed.
#[derive(Debug, Error)]
pub enum LearnError {
    /// The rosters don't belong together.
    #[error(transparent)]
    Refused(#[from] MergeRefused),
    /// The roster could not be stored.
    #[error("what was learned could not be stored")]
    Store(#[from] DurableError),
    /// This node is in no cluster yet.
    #[error("this node is in no cluster yet")]
    NoCluster,
}

#[derive(Debug, Default)]
struct Known {
    life: Life,
    roster: Option<Roster>,
    /// When each record arrived here.
    arrived: BTreeMap<NodeId, Mono>,
    /// Reach by gossip.
    gossip: BTreeMap<NodeId, Reach>,
    /// When each peer last answered a call.
    answered: BTreeMap<NodeId, Mono>,
    catalogs: BTreeMap<NodeId, Catalog>,
    /// The last roster that refused to merge, for people.
    parted: Option<String>,
}

/// The shared knowledge.
#[derive(Debug)]
pub struct Knowledge {
    /// This node.
    pub me: NodeId,
    store: Store,
    known: Mutex<Known>,
    /// Wakes the reconciler: something it plans by has changed.
    pub changed: Notify,
    /// Wakes the exchange: our own record has a new version that matters to others.
    pub record_changed: Notify,
    /// The newest version of our own record.
    pub published: watch::Sender<u64>,
}

impl Knowledge {
    /// Loads what earlier runs have stored.
    pub fn load(me: NodeId, store: Store) -> Result<Knowledge, DurableError> {
        let known = Known {
            life: store.life()?,
            roster: store.roster()?,
            ..Known::default()
        };
        Ok(Knowledge {
            me,
            store,
            known: Mutex::new(known),
            changed: Notify::new(),
            record_changed: Notify::new(),
            published: watch::channel(0).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's life.
    #[must_use]
    pub fn life(&self) -> Life {
        self.lock().life.clone()
    }

    /// Changes this node's life, durably, and returns the new one.
    pub fn live(&self, change: impl FnOnce(&mut Life)) -> Result<Life, DurableError> {
        let mut known = self.lock();
        let mut life = known.life.clone();
        change(&mut life);
        if life != known.life {
            self.store.set_life(&life)?;
            known.life = life.clone();
        }
        drop(known);
        self.changed.notify_one();
        Ok(life)
    }

    /// Enters a stage, durably.
    pub fn enter(&self, stage: Stage) -> Result<Life, DurableError> {
        self.live(|life| life.stage = stage)
    }

    /// The roster, once there is one.
    #[must_use]
    pub fn roster(&self) -> Option<Roster> {
        self.lock().roster.clone()
    }

    /// Looks something up in the roster without copying it.
    pub fn with_roster<T>(&self, look: impl FnOnce(&Roster) -> T) -> Option<T> {
        self.lock().roster.as_ref().map(look)
    }

    /// Every other node that has a record, and where its agent is.
    #[must_use]
    pub fn others(&self) -> Vec<(NodeId, SocketAddr)> {
        let look = |roster: &Roster| {
            let others = roster.records.values().filter(|r| r.node != self.me);
            others.map(|r| (r.node, r.endpoints.grpc)).collect()
        };
        self.with_roster(look).unwrap_or_default()
    }

    /// Takes a first roster: at the founding, or with the certificate.
    pub fn adopt(&self, roster: Roster, now: Now) -> Result<(), LearnError> {
        let mut known = self.lock();
        if let Some(own) = &known.roster
            && own.decree.cluster != roster.decree.cluster
        {
            let (ours, theirs) = (own.decree.cluster, roster.decree.cluster);
            return Err(MergeRefused::OtherCluster { ours, theirs }.into());
        }
        self.store.set_roster(&roster)?;
        let arrived = roster.records.keys().map(|node| (*node, now.mono));
        known.arrived.extend(arrived);
        known.roster = Some(roster);
        drop(known);
        self.changed.notify_one();
        Ok(())
    }

    /// Joins another roster into ours. Only what can't be learned again from its owner is
    /// stored at once: members that are new, and tombstones.
    pub fn merge(&self, other: &Roster, now: Now) -> Result<Merged, LearnError> {
        let mut known = self.lock();
        let Some(mut roster) = known.roster.clone() else {
            return Err(LearnError::NoCluster);
        };
        let before: BTreeSet<NodeId> = roster.records.keys().copied().collect();
        let mut other = other.clone();
        // Nobody but this node speaks for this node; but others are witnesses of what it was.
        let own = other.records.remove(&self.me);
        let vouched = own.is_some_and(|record| roster.history.vouch(&record));
        let before_history = roster.history.rolled_back.len();
        let merged = match roster.merge(&other) {
            Ok(merged) => merged,
            Err(refused) => {
                known.parted = Some(refused.to_string());
                return Err(refused.into());
            }
        };
        if merged.is_empty() && !vouched {
            return Ok(merged);
        }
        let newcomers = merged.updated.iter().any(|node| !before.contains(node));
        let history = vouched || roster.history.rolled_back.len() != before_history;
        let news = history
            || !merged.buried.is_empty()
            || merged.updated.iter().any(|node| {
                let old = known.roster.as_ref().and_then(|r| r.records.get(node));
                match (old, roster.records.get(node)) {
                    (Some(old), Some(new)) => !says_the_same(old, new),
                    _ => true,
                }
            });
        // Whose tables have changed and aren't known is asked at once: a record may come by way
        // of its owner's call, and the next own exchange with that node is a matter of chance.
        let own = roster.records.get(&self.me).map(|record| record.catalog);
        let tables_unknown = merged.updated.iter().any(|node| {
            let old = known.roster.as_ref().and_then(|r| r.records.get(node));
            roster.records.get(node).is_some_and(|new| {
                old.is_none_or(|old| old.catalog != new.catalog)
                    && own != Some(new.catalog)
                    && known
                        .catalogs
                        .get(node)
                        .is_none_or(|catalog| catalog.digest != new.catalog)
            })
        });
        if newcomers || history || !merged.buried.is_empty() {
            self.store.set_roster(&roster)?;
        }
        for node in &merged.updated {
            known.arrived.insert(*node, now.mono);
        }
        known.roster = Some(roster);
        drop(known);
        if tables_unknown {
            self.record_changed.notify_one();
        }
        // Numbers that were only refreshed can wait for the next look.
        if news {
            self.changed.notify_one();
        }
        Ok(merged)
    }

    /// Publishes this node's own record. `matters` says whether others should hear of it now.
    pub fn publish(&self, record: NodeRecord, matters: bool, now: Mono) {
        let mut known = self.lock();
        let me = record.node;
        if let Some(roster) = &mut known.roster
            && roster.learn(&record)
        {
            known.arrived.insert(me, now);
        }
        drop(known);
        if matters {
            self.published.send_replace(record.version);
            self.record_changed.notify_one();
        }
    }

    /// Changes the roster, durably: for burying a member.
    pub fn amend<T>(&self, change: impl FnOnce(&mut Roster) -> T) -> Result<T, LearnError> {
        let mut known = self.lock();
        let Some(mut roster) = known.roster.clone() else {
            return Err(LearnError::NoCluster);
        };
        let result = change(&mut roster);
        self.store.set_roster(&roster)?;
        known.roster = Some(roster);
        drop(known);
        self.changed.notify_one();
        self.record_changed.notify_one();
        Ok(result)
    }

    /// Stores the roster as it is, so that addresses survive a restart.
    pub fn store_roster(&self) -> Result<(), DurableError> {
        match &self.lock().roster {
            Some(roster) => self.store.set_roster(roster),
            None => Ok(()),
        }
    }

    /// Notes that another member takes this node for no member any more, or for one of another
    /// cluster.
    pub fn note_parted(&self, why: String) {
        self.lock().parted = Some(why);
        self.changed.notify_one();
    }

    /// Why another part of the cluster was refused, or refuses this node, if so.
    #[must_use]
    pub fn parted(&self) -> Option<String> {
        self.lock().parted.clone()
    }

    /// Takes the reach of every member as gossip sees it. Returns those that have come back.
    pub fn set_gossip(&self, reach: BTreeMap<NodeId, Reach>) -> Vec<NodeId> {
        let mut known = self.lock();
        if known.gossip == reach {
            return Vec::new();
        }
        let was_up = |node: &NodeId| known.gossip.get(node) == Some(&Reach::Up);
        let up = reach
            .iter()
            .filter(|(_, reach)| **reach == Reach::Up)
            .map(|(node, _)| *node);
        let returned = up.filter(|node| !was_up(node)).collect();
        known.gossip = reach;
        drop(known);
        self.changed.notify_one();
        returned
    }

    /// Notes that a peer answered a call, or called.
    pub fn note_answer(&self, node: NodeId, now: Mono) {
        self.lock().answered.insert(node, now);
    }

    /// The reach of every member: what gossip says, where it has an opinion; else whether a call
    /// was answered lately.
    #[must_use]
    pub fn reach(&self, now: Mono) -> BTreeMap<NodeId, Reach> {
        /// A peer that answered a call within this time is up even if gossip knows nothing yet.
        const ANSWER_FRESH_MS: u64 = 5_000;
        let known = self.lock();
        let Some(roster) = &known.roster else {
            return BTreeMap::new();
        };
        let others = roster.members().into_iter().filter(|node| *node != self.me);
        others
            .map(|node| {
                let answered = known
                    .answered
                    .get(&node)
                    .is_some_and(|at| now.since(*at).as_millis() < u128::from(ANSWER_FRESH_MS));
                let reach = match known.gossip.get(&node) {
                    Some(Reach::Up) => Reach::Up,
                    Some(Reach::Down) => Reach::Down,
                    Some(Reach::Unknown) | None if answered => Reach::Up,
                    Some(Reach::Unknown) | None => Reach::Unknown,
                };
                (node, reach)
            })
            .collect()
    }

    /// Where the other members that are up take calls.
    #[must_use]
    pub fn answering(&self, now: Mono) -> BTreeSet<SocketAddr> {
        let reach = self.reach(now);
        let up = |node: &NodeId| reach.get(node) == Some(&Reach::Up);
        let others = self.others().into_iter().filter(|(node, _)| up(node));
        others.map(|(_, at)| at).collect()
    }

    /// How long ago each record arrived, milliseconds.
    #[must_use]
    pub fn ages(&self, now: Mono) -> BTreeMap<NodeId, u64> {
        let age = |at: &Mono| u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX);
        self.lock()
            .arrived
            .iter()
            .map(|(node, at)| (*node, age(at)))
            .collect()
    }

    /// Are the tables of `node` known as of `digest`?
    #[must_use]
    pub fn has_catalog(&self, node: NodeId, digest: u64) -> bool {
        self.lock()
            .catalogs
            .get(&node)
            .is_some_and(|catalog| catalog.digest == digest)
    }

    /// Takes the tables of another member.
    pub fn set_catalog(&self, node: NodeId, catalog: Catalog) {
        self.lock().catalogs.insert(node, catalog);
        self.changed.notify_one();
    }

    /// The tables of every other member in `nodes`; unknown where they were never fetched, or
    /// have changed since.
    #[must_use]
    pub fn catalogs(
        &self,
        nodes: &BTreeMap<NodeId, u64>,
        own: &Catalog,
    ) -> BTreeMap<NodeId, Fact<Catalog>> {
        let known = self.lock();
        let fact = |node: &NodeId, digest: u64| match known.catalogs.get(node) {
            _ if digest == own.digest => Fact::Known(own.clone()),
            Some(catalog) if catalog.digest == digest => Fact::Known(catalog.clone()),
            Some(_) | None => Fact::Unknown("its tables were not fetched yet".to_owned()),
        };
        nodes
            .iter()
            .map(|(node, digest)| (*node, fact(node, *digest)))
            .collect()
    }
}
