//! Rows that refer to nothing, as a comparison tells of them. Replication checks no foreign key, so
//! nodes may well hold the same rows, and all lack what some of them refer to.
//!
//! Must not know how they are found.

use super::Key;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of one node, or of a part of its table, whose foreign key refers to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    /// The constraint.
    pub constraint: String,
    /// The table they are in: schema.table, quoted where needed.
    pub table: String,
    /// The table that lacks what they refer to.
    pub parent: String,
    /// Their primary keys; a thousand at most.
    pub keys: BTreeSet<Key>,
}

/// Rows of one foreign key and node that are kept; with more nobody reads them all.
const KEPT_MAX: usize = 1_000;

/// Keys that are told of each foreign key.
const TOLD_MAX: usize = 20;

/// Where they were found: table, constraint, parent.
type Which = (String, String, String);

/// What was found on each node so far.
#[derive(Debug, Clone, Default)]
pub struct OrphansFound {
    by_key: BTreeMap<Which, BTreeMap<usize, BTreeSet<Key>>>,
}

impl OrphansFound {
    /// Takes what the node at this place has told of a part of a table.
    pub fn take(&mut self, place: usize, told: Vec<Orphans>) {
        for one in told {
            let which = (one.table, one.constraint, one.parent);
            let nodes = self.by_key.entry(which).or_default();
            let kept = nodes.entry(place).or_default();
            let room = KEPT_MAX.saturating_sub(kept.len());
            kept.extend(one.keys.into_iter().take(room));
        }
    }

    /// What has to be looked at again on the node at this place.
    #[must_use]
    pub fn keys(&self, place: usize) -> BTreeSet<Key> {
        let nodes = self.by_key.values();
        let keys = nodes.filter_map(|nodes| nodes.get(&place));
        keys.flatten().cloned().collect()
    }

    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// What was found at both looks, a fence between them: what was on its way has arrived.
    #[must_use]
    pub fn still(mut self, again: &OrphansFound) -> OrphansFound {
        self.by_key.retain(|which, nodes| {
            let seen = again.by_key.get(which);
            nodes.retain(|place, keys| {
                let seen = seen.and_then(|nodes| nodes.get(place));
                keys.retain(|key| seen.is_some_and(|seen| seen.contains(key)));
                !keys.is_empty()
            });
            !nodes.is_empty()
        });
        self
    }

    /// For the report, by so many nodes.
    #[must_use]
    pub fn told(&self, nodes: usize) -> Vec<OrphanRows> {
        let one =
            |((table, constraint, parent), held): (&Which, &BTreeMap<usize, BTreeSet<Key>>)| {
                let count = |place: usize| held.get(&place).map_or(0, BTreeSet::len);
                let keys: BTreeSet<&Key> = held.values().flatten().collect();
                OrphanRows {
                    table: table.clone(),
                    constraint: constraint.clone(),
                    parent: parent.clone(),
                    rows: (0..nodes).map(count).collect(),
                    more: held.values().any(|keys| keys.len() >= KEPT_MAX),
                    keys: keys.into_iter().take(TOLD_MAX).cloned().collect(),
                }
            };
        self.by_key.iter().map(one).collect()
    }
}

/// Rows that refer to nothing by one foreign key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrphanRows {
    /// The table they are in: schema.table, quoted where needed.
    pub table: String,
    /// The foreign key.
    pub constraint: String,
    /// The table that lacks what they refer to.
    pub parent: String,
    /// How many each node has, in the order of [`super::Report::nodes`].
    pub rows: Vec<usize>,
    /// Are there more, because only so many were counted?
    pub more: bool,
    /// The keys of some of them.
    pub keys: Vec<Key>,
}

/// All rows that refer to nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OrphansReport {
    /// By table and foreign key.
    pub found: Vec<OrphanRows>,
    /// Tables that were not looked through, and why.
    pub left_out: Vec<String>,
}

impl OrphansReport {
    /// Was everything looked through, and nothing found?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found.is_empty() && self.left_out.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphans(keys: &[&str]) -> Vec<Orphans> {
        vec![Orphans {
            constraint: "fkey".to_owned(),
            table: "public.child".to_owned(),
            parent: "public.parent".to_owned(),
            keys: keys.iter().map(|key| vec![(*key).to_owned()]).collect(),
        }]
    }

    #[test]
    fn what_has_arrived_meanwhile_is_none() {
        let (mut found, mut again) = (OrphansFound::default(), OrphansFound::default());
        found.take(0, orphans(&["1", "2"]));
        found.take(0, orphans(&["3"]));
        found.take(1, orphans(&["2"]));
        assert_eq!(found.keys(0).len(), 3);
        again.take(0, orphans(&["2"]));
        let told = found.clone().still(&again).told(2);
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0].rows, told[0].more), (&vec![1, 0], false));
        assert_eq!(told[0].keys, [vec!["2".to_owned()]]);
        assert!(found.still(&OrphansFound::default()).is_empty());
    }

    #[test]
    fn of_many_only_so_many_are_kept_and_told() {
        let keys: Vec<String> = (0..1_500).map(|key| key.to_string()).collect();
        let mut found = OrphansFound::default();
        for part in keys.chunks(300) {
            let part: Vec<&str> = part.iter().map(String::as_str).collect();
            found.take(1, orphans(&part));
        }
        let told = found.told(2);
        assert_eq!((&told[0].rows, told[0].more), (&vec![0, 1_000], true));
        assert_eq!(told[0].keys.len(), 20);
    }
}
