//! Who belongs to the cluster: records, tombstones, and the lineage that ties them together.
//!
//! Rosters are joined, never replaced: for each node the record with the highest version stays,
//! a tombstone covers its UUID for ever, and two rosters merge only when one's lineage continues
//! the other's. [Two halves of a partition that forgot one another would otherwise both obey.]

use crate::history::History;
use crate::ids::{ClusterId, DataEpoch, LineageId, Name, NodeId, Ordinal};
use crate::record::NodeRecord;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// One founding member, as the decree names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingMember {
    /// Who.
    pub node: NodeId,
    /// Its name at the founding.
    pub name: Name,
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// The epoch of its database at the founding.
    pub epoch: DataEpoch,
}

/// The founding, minted once and durably by the founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decree {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: Name,
    /// Who minted it.
    pub founder: NodeId,
    /// Did the founder hold rows of the user's? Then its gate opens at once, and the other
    /// founding members copy from it.
    pub founder_holds_data: bool,
    /// The founding members, ordinals 1, 2, 3, ... in this order; the founder among them.
    pub members: Vec<FoundingMember>,
}

impl Decree {
    /// The founding member `node`, if it is one.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&FoundingMember> {
        self.members.iter().find(|m| m.node == node)
    }
}

/// A node that is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The name it had.
    pub name: Name,
    /// Its data epoch, from which the names of its slots and subscriptions derive.
    pub epoch: DataEpoch,
    /// Its ordinal, never to be given again.
    pub ordinal: Option<Ordinal>,
    /// Did it leave by itself (else it was forgotten)?
    pub left: bool,
    /// Did it leave by force, before all rows were compared that it alone knew to be open, or before
    /// all members had what it wrote?
    #[serde(default)]
    pub unsettled: bool,
}

/// The cluster as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// The founding.
    pub decree: Decree,
    /// The chain of memberships, oldest first: one link per tombstone.
    pub lineage: Vec<LineageId>,
    /// The newest record of each living member.
    pub records: BTreeMap<NodeId, NodeRecord>,
    /// Those that are gone.
    pub tombstones: BTreeMap<NodeId, Tombstone>,
    /// What was seen of each before; every node has its own.
    #[serde(default)]
    pub history: History,
}

/// Why two rosters don't merge.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MergeRefused {
    /// Another cluster altogether.
    #[error(
        "cluster {theirs} is not ours ({ours}): two clusters never merge; empty one side's nodes \
         and let them join the other"
    )]
    OtherCluster {
        /// Our cluster.
        ours: ClusterId,
        /// Theirs.
        theirs: ClusterId,
    },
    /// The memberships parted.
    #[error(
        "the memberships parted: each side has forgotten a node since {since:?}; decide which \
         side is the cluster and let the other side's nodes join it as new ones"
    )]
    LineageParted {
        /// The last link both sides share.
        since: Option<LineageId>,
    },
}

/// What a merge changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Merged {
    /// Nodes whose record is new or newer now.
    pub updated: BTreeSet<NodeId>,
    /// Nodes that are covered by a tombstone since this merge.
    pub buried: BTreeSet<NodeId>,
}

impl Merged {
    /// Did the merge change nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.updated.is_empty() && self.buried.is_empty()
    }
}

impl Roster {
    /// The roster right after the founding: no record is known yet.
    #[must_use]
    pub fn founded(decree: Decree) -> Roster {
        Roster {
            decree,
            lineage: Vec::new(),
            records: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            history: History::default(),
        }
    }

    /// Takes over one record if it is newer than what is known and its node is not buried.
    /// Returns whether it was.
    pub fn learn(&mut self, record: &NodeRecord) -> bool {
        if self.tombstones.contains_key(&record.node) {
            return false;
        }
        match self.records.get(&record.node) {
            Some(known) if known.version >= record.version => false,
            Some(_) | None => {
                self.history.note(record);
                self.records.insert(record.node, record.clone());
                true
            }
        }
    }

    /// Joins `other` into this roster. Nothing changes when it is refused.
    pub fn merge(&mut self, other: &Roster) -> Result<Merged, MergeRefused> {
        if self.decree.cluster != other.decree.cluster {
            return Err(MergeRefused::OtherCluster {
                ours: self.decree.cluster,
                theirs: other.decree.cluster,
            });
        }
        self.check_lineage(&other.lineage)?;
        let mut merged = Merged::default();
        if other.lineage.len() > self.lineage.len() {
            self.lineage.clone_from(&other.lineage);
            for (node, tombstone) in &other.tombstones {
                if self.tombstones.insert(*node, tombstone.clone()).is_none() {
                    self.records.remove(node);
                    merged.buried.insert(*node);
                }
            }
        }
        for record in other.records.values() {
            if self.learn(record) {
                merged.updated.insert(record.node);
            }
        }
        Ok(merged)
    }

    /// Refuses a lineage that neither continues ours nor is continued by it.
    pub fn check_lineage(&self, other: &[LineageId]) -> Result<(), MergeRefused> {
        let shared = self
            .lineage
            .iter()
            .zip(other)
            .take_while(|(a, b)| a == b)
            .count();
        if shared == self.lineage.len().min(other.len()) {
            return Ok(());
        }
        let since = shared
            .checked_sub(1)
            .and_then(|i| self.lineage.get(i))
            .copied();
        Err(MergeRefused::LineageParted { since })
    }

    /// Buries `node`: no record of it is taken any more, and the membership gets the new link
    /// `lineage`. Returns false when it was buried before.
    pub fn bury(&mut self, node: NodeId, tombstone: Tombstone, lineage: LineageId) -> bool {
        if self.tombstones.contains_key(&node) {
            return false;
        }
        self.tombstones.insert(node, tombstone);
        self.records.remove(&node);
        self.lineage.push(lineage);
        true
    }

    /// The first ordinal that was never given to anyone.
    #[must_use]
    pub fn next_ordinal(&self) -> Ordinal {
        let founded = self.decree.members.iter().map(|m| m.ordinal);
        let living = self.records.values().filter_map(|r| r.ordinal);
        let buried = self.tombstones.values().filter_map(|t| t.ordinal);
        let highest = founded
            .chain(living)
            .chain(buried)
            .map(|o| o.0)
            .max()
            .unwrap_or(0);
        Ordinal(highest.saturating_add(1))
    }

    /// Is an ordinal that of another node than `me`, living or buried?
    #[must_use]
    pub fn is_taken(&self, ordinal: Ordinal, me: NodeId) -> bool {
        let founded = self.decree.members.iter();
        let founded = founded.map(|member| (member.node, Some(member.ordinal)));
        let living = self
            .records
            .iter()
            .map(|(node, record)| (*node, record.ordinal));
        let buried = self
            .tombstones
            .iter()
            .map(|(node, tomb)| (*node, tomb.ordinal));
        let mut all = founded.chain(living).chain(buried);
        all.any(|(node, theirs)| node != me && theirs == Some(ordinal))
    }

    /// Every node that belongs to the cluster as far as is known here: those with a record, and
    /// founding members that have not written one yet.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        let decreed = self.decree.members.iter().map(|m| m.node);
        decreed
            .chain(self.records.keys().copied())
            .filter(|node| !self.tombstones.contains_key(node))
            .collect()
    }

    /// The data epoch of a member, from its record or else from the decree.
    #[must_use]
    pub fn epoch(&self, node: NodeId) -> Option<DataEpoch> {
        let recorded = self.records.get(&node).map(|r| r.epoch);
        recorded.or_else(|| self.decree.member(node).map(|m| m.epoch))
    }

    /// A node's name for people: from its record, the decree or its tombstone, else its UUID.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> String {
        let recorded = self.records.get(&node).map(|r| r.name.to_string());
        let decreed = || self.decree.member(node).map(|m| m.name.to_string());
        let buried = || self.tombstones.get(&node).map(|t| t.name.to_string());
        recorded
            .or_else(decreed)
            .or_else(buried)
            .unwrap_or_else(|| node.short())
    }

    /// Version of each record, for an exchange by digest.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<NodeId, u64> {
        self.records
            .iter()
            .map(|(node, record)| (*node, record.version))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockReading;
    use crate::ids::Lsn;
    use crate::record::{Endpoints, Versions};
    use crate::state::NodeState;
    use crate::time::Wall;
    use std::net::SocketAddr;
    use uuid::Uuid;

    fn node(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn link(n: u128) -> LineageId {
        LineageId(Uuid::from_u128(n))
    }

    fn name(n: u128) -> Name {
        Name::new(&format!("n{n}")).unwrap()
    }

    fn record(n: u128, version: u64) -> NodeRecord {
        let at: SocketAddr = format!("10.0.0.{n}:7432").parse().unwrap();
        NodeRecord {
            node: node(n),
            version,
            generation: 1,
            name: name(n),
            site: String::new(),
            ordinal: Some(Ordinal(n as u16)),
            endpoints: Endpoints {
                grpc: at,
                gossip: at,
                postgres: at,
            },
            epoch: DataEpoch(Uuid::from_u128(n)),
            system_identifier: n as u64,
            versions: Versions::default(),
            state: NodeState::Ready,
            phase: None,
            gate_open: true,
            slots_for: BTreeSet::new(),
            edges: BTreeMap::new(),
            catalog: 0,
            heartbeat: version,
            wal: Lsn(0),
            clock: ClockReading::default(),
            clock_pairs: BTreeMap::new(),
            backup: Default::default(),
            written_at: Wall(0),
        }
    }

    fn tombstone(n: u128) -> Tombstone {
        Tombstone {
            name: name(n),
            epoch: DataEpoch(Uuid::from_u128(n)),
            ordinal: Some(Ordinal(n as u16)),
            left: false,
            unsettled: false,
        }
    }

    fn roster(records: &[(u128, u64)]) -> Roster {
        let member = |n: u128| FoundingMember {
            node: node(n),
            name: name(n),
            ordinal: Ordinal(n as u16),
            epoch: DataEpoch(Uuid::from_u128(n)),
        };
        let mut roster = Roster::founded(Decree {
            cluster: ClusterId(Uuid::from_u128(99)),
            cluster_name: Name::new("shop").unwrap(),
            founder: node(1),
            founder_holds_data: false,
            members: (1..=3).map(member).collect(),
        });
        for (n, version) in records {
            roster.learn(&record(*n, *version));
        }
        roster
    }

    /// Merges in every order of the three end in the same roster.
    #[test]
    fn the_order_of_merges_does_not_matter() {
        let mut burying = roster(&[(1, 4), (2, 9), (5, 1)]);
        burying.bury(node(2), tombstone(2), link(1));
        let parts = [
            roster(&[(1, 5), (2, 1)]),
            burying,
            roster(&[(1, 2), (3, 7), (5, 3)]),
        ];
        let mut ends = Vec::new();
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut all = roster(&[]);
            for i in order {
                all.merge(&parts[i]).unwrap();
                assert!(
                    all.merge(&parts[i]).unwrap().is_empty(),
                    "a merge twice is one"
                );
            }
            ends.push(all);
        }
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:#?}");
        let versions = BTreeMap::from([(node(1), 5), (node(3), 7), (node(5), 3)]);
        assert_eq!(ends[0].versions(), versions);
        assert_eq!(ends[0].members(), [1, 3, 5].map(node).into());
    }

    #[test]
    fn an_older_record_never_replaces_a_newer_one() {
        let mut ours = roster(&[(1, 5)]);
        assert!(!ours.learn(&record(1, 4)) && !ours.learn(&record(1, 5)));
        assert!(ours.merge(&roster(&[(1, 4)])).unwrap().is_empty());
        assert_eq!(ours.versions()[&node(1)], 5);
        assert!(ours.learn(&record(1, 6)));
    }

    #[test]
    fn a_tombstone_covers_its_node_for_ever() {
        let mut ours = roster(&[(1, 1), (2, 1)]);
        assert!(ours.bury(node(2), tombstone(2), link(1)));
        assert!(!ours.bury(node(2), tombstone(2), link(2)), "once is enough");
        assert!(!ours.learn(&record(2, 99)));
        assert!(ours.merge(&roster(&[(2, 99)])).unwrap().is_empty());
        assert_eq!(ours.members(), [1, 3].map(node).into());
        assert_eq!(ours.name_of(node(2)), "n2");
        assert_eq!(ours.lineage, [link(1)]);
    }

    #[test]
    fn parted_memberships_and_other_clusters_change_nothing() {
        let mut ours = roster(&[(1, 1)]);
        ours.bury(node(2), tombstone(2), link(1));
        let mut theirs = roster(&[(1, 9)]);
        theirs.bury(node(3), tombstone(3), link(2));
        let before = ours.clone();
        let parted = ours.merge(&theirs).unwrap_err();
        assert_eq!(parted, MergeRefused::LineageParted { since: None });
        let mut other = roster(&[(1, 9)]);
        other.decree.cluster = ClusterId(Uuid::from_u128(98));
        assert!(matches!(
            ours.merge(&other),
            Err(MergeRefused::OtherCluster { .. })
        ));
        assert_eq!(ours, before);
    }

    #[test]
    fn ordinals_are_never_given_again() {
        let mut ours = roster(&[(1, 1), (5, 1)]);
        assert_eq!(ours.next_ordinal(), Ordinal(6));
        ours.bury(node(5), tombstone(5), link(1));
        assert_eq!(ours.next_ordinal(), Ordinal(6));
        assert_eq!(
            roster(&[]).next_ordinal(),
            Ordinal(4),
            "the decree's count as well"
        );
    }

    #[test]
    fn an_ordinal_is_taken_by_others_living_or_buried() {
        let mut ours = roster(&[(1, 1), (5, 1)]);
        let five = Ordinal(5);
        assert!(ours.is_taken(five, node(1)));
        assert!(!ours.is_taken(five, node(5)), "it is its own");
        ours.bury(node(5), tombstone(5), link(1));
        assert!(ours.is_taken(five, node(1)));
        assert!(ours.is_taken(Ordinal(3), node(1)), "by the decree");
        assert!(!ours.is_taken(Ordinal(6), node(1)));
    }
}
