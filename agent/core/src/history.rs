//! The furthest that was seen of each node's database. One that shows less than was seen of it
//! was rolled back: its disk was restored, or its machine was. pglogical notices nothing: it says
//! "replicating", delivers nothing until the server has written as much again, and then goes on
//! behind the gap.
//!
//! Positions are of WAL that was flushed, so that no crash takes one back by more than [`SLIP`].

use crate::ids::{DataEpoch, Lsn, NodeId};
use crate::record::NodeRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// WAL is flushed by pages, so that its flushed end may lie within a record, bytes; a crash cuts
/// that record off. Most are small, but a commit names all it invalidates: one that made ten
/// thousand tables takes megabytes. What a member has *applied* was whole, and needs no allowance:
/// a roll-back that is smaller than this is found by that.
pub const SLIP: u64 = 16 << 20;

/// Does `shown` lie so far before `seen` that no crash explains it?
fn behind(shown: Lsn, seen: Lsn) -> bool {
    shown.0.saturating_add(SLIP) < seen.0
}

/// A database that shows less than was seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Which contents: a node that starts over has others.
    pub epoch: DataEpoch,
    /// How far it had written.
    pub seen: Lsn,
    /// How far it says it has.
    pub shown: Lsn,
}

impl RolledBack {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "its database was rolled back: its WAL ends at {}, and had reached {}",
            self.shown, self.seen
        )
    }
}

/// What others have seen of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    /// The version of this node's record that says so.
    pub version: u64,
    /// Of which contents.
    pub epoch: DataEpoch,
    /// How far it had written.
    pub wal: Lsn,
}

/// What one node remembers of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct History {
    /// How far each node's WAL was seen to reach, and of which contents.
    pub furthest: BTreeMap<NodeId, (DataEpoch, Lsn)>,
    /// Databases that were rolled back.
    pub rolled_back: BTreeMap<NodeId, RolledBack>,
    /// The furthest that others have seen of this node's database.
    pub vouched: Option<Vouched>,
    /// The last start of this node's agent that others have heard of.
    #[serde(default)]
    pub generation: u64,
}

impl History {
    /// Takes a newer record of a node. One that says nothing of its WAL, because the server
    /// didn't answer, proves nothing.
    pub fn note(&mut self, record: &NodeRecord) {
        let node = record.node;
        let same = |epoch: DataEpoch| epoch == record.epoch;
        self.rolled_back
            .retain(|of, rolled_back| *of != node || same(rolled_back.epoch));
        self.furthest
            .retain(|of, (epoch, _)| *of != node || same(*epoch));
        if record.wal == Lsn(0) {
            return;
        }
        let (_, seen) = self
            .furthest
            .entry(node)
            .or_insert((record.epoch, record.wal));
        if behind(record.wal, *seen) {
            let rolled_back = RolledBack {
                epoch: record.epoch,
                seen: *seen,
                shown: record.wal,
            };
            self.rolled_back.insert(node, rolled_back);
        }
        *seen = record.wal.max(*seen);
    }

    /// Was the database that a record speaks of rolled back? Once it was, it stays so: what it
    /// writes again is not what it had written.
    #[must_use]
    pub fn rolled_back(&self, record: &NodeRecord) -> Option<&RolledBack> {
        let rolled_back = self.rolled_back.get(&record.node)?;
        (rolled_back.epoch == record.epoch).then_some(rolled_back)
    }

    /// Takes a record of this node that another member holds. Returns whether it says more than
    /// what is known.
    pub fn vouch(&mut self, record: &NodeRecord) -> bool {
        let vouched = Vouched {
            version: record.version,
            epoch: record.epoch,
            wal: record.wal,
        };
        let more = |known: &Vouched| {
            known.epoch != vouched.epoch && known.version < vouched.version
                || known.epoch == vouched.epoch && known.wal < vouched.wal
        };
        let later = record.generation > self.generation;
        self.generation = self.generation.max(record.generation);
        let further = vouched.wal != Lsn(0) && self.vouched.as_ref().is_none_or(more);
        if further {
            self.vouched = Some(vouched);
        }
        further || later
    }

    /// Does this node's database, whose WAL ends at `wal`, show less than it, or others, have seen
    /// of it?
    #[must_use]
    pub fn own(&self, me: NodeId, epoch: DataEpoch, wal: Lsn) -> Option<RolledBack> {
        let vouched = self.vouched.map(|vouched| (vouched.epoch, vouched.wal));
        let known = self.furthest.get(&me).copied().into_iter().chain(vouched);
        let seen = known.filter(|(of, _)| *of == epoch).map(|(_, seen)| seen);
        let seen = seen.max()?;
        behind(wal, seen).then_some(RolledBack {
            epoch,
            seen,
            shown: wal,
        })
    }
}
