//! Nodes with one small table, replicated as pglogical does it: each stream in its own order, none
//! in the order of another, and no delete knows its time where it arrives.

use pgaa_core::ids::NodeId;
use pgaa_core::rows::{Mended, Moment, Repair, RowValues, Seen, Stamp, Version};
use pgaa_core::verify::Key;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// A row as one node holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Unique for each write.
    pub content: i64,
    /// Who wrote it when.
    pub stamp: Stamp,
    /// Changes with each write here.
    token: u32,
    mended: bool,
}

/// A row in a node's list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Suspect {
    /// The number of its last naming.
    pub named: u64,
    /// When the node deleted it itself.
    pub deleted_us: Option<i64>,
    /// When it last ordered repairs of it, true time.
    pub ordered_us: Option<i64>,
}

/// A repair on its way.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its number.
    pub number: u64,
    at: usize,
    repair: Repair,
}

/// What a stream carries.
#[derive(Debug, Clone)]
enum Change {
    Insert(Key, i64, Stamp),
    Update(Key, i64, Stamp),
    Delete(Key),
}

/// What an application did, for the oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// By whom, when.
    pub stamp: Stamp,
    /// The row afterwards.
    pub content: Option<i64>,
}

/// One node.
#[derive(Debug, Default)]
pub struct Node {
    /// Its rows.
    pub rows: BTreeMap<Key, Row>,
    /// Rows that it has named.
    pub suspects: BTreeMap<Key, Suspect>,
    sent: Vec<Change>,
    /// How much of each other node's changes it has applied.
    applied: BTreeMap<usize, usize>,
}

/// All of them.
#[derive(Debug)]
pub struct World {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// True time, microseconds.
    pub now_us: i64,
    /// By how much each node's clock is wrong.
    pub ahead_us: Vec<i64>,
    /// Microseconds that stand for a millisecond of the agents: so that orders become too old within
    /// some stories, and arrive very late in others.
    pub slower: u64,
    /// Which streams are cut: (from, to).
    pub cut: Vec<(usize, usize)>,
    /// What was done to each key, in the order of true time.
    pub done: BTreeMap<Key, Vec<Done>>,
    /// Repairs on their way: they may arrive late, also after whoever ordered them has gone.
    pub orders: Vec<Order>,
    /// What came of the others.
    pub outcomes: BTreeMap<u64, Mended>,
    /// Lines for people.
    pub trace: Option<Vec<String>>,
    number: u64,
    tokens: u32,
    contents: i64,
}

/// The identity of the node at a place.
pub fn id(place: usize) -> NodeId {
    NodeId(Uuid::from_u128(place as u128 + 1))
}

/// The place of a node.
pub fn place(node: NodeId) -> usize {
    usize::try_from(node.0.as_u128()).unwrap() - 1
}

impl World {
    /// Nodes without rows.
    pub fn new(count: usize, traced: bool) -> World {
        World {
            nodes: (0..count).map(|_| Node::default()).collect(),
            now_us: 1_000_000_000,
            ahead_us: vec![0; count],
            slower: 1,
            cut: Vec::new(),
            done: BTreeMap::new(),
            orders: Vec::new(),
            outcomes: BTreeMap::new(),
            trace: traced.then(Vec::new),
            number: 0,
            tokens: 0,
            contents: 0,
        }
    }

    /// Writes a line of the trace.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now_us;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now} {}", text()));
        }
    }

    fn token(&mut self) -> u32 {
        self.tokens += 1;
        self.tokens
    }

    /// Names a row on a node.
    pub fn name(&mut self, at: usize, key: &Key, deleted_us: Option<i64>) {
        self.number += 1;
        let entry = self.nodes[at].suspects.entry(key.clone()).or_default();
        entry.named = self.number;
        entry.deleted_us = entry.deleted_us.max(deleted_us);
    }

    /// An application writes on a node: inserts what is not there; changes or deletes what is.
    pub fn write(&mut self, at: usize, key: &Key, deletes: bool) {
        let stamp = Stamp {
            at_us: self.now_us + self.ahead_us[at],
            author: id(at),
        };
        let there = self.nodes[at].rows.contains_key(key);
        let change = if there && deletes {
            self.nodes[at].rows.remove(key);
            self.name(at, key, Some(stamp.at_us));
            Change::Delete(key.clone())
        } else {
            self.contents += 1;
            let content = self.contents;
            self.put(at, key, (content, stamp));
            match there {
                true => Change::Update(key.clone(), content, stamp),
                false => Change::Insert(key.clone(), content, stamp),
            }
        };
        let content = self.nodes[at].rows.get(key).map(|row| row.content);
        let history = self.done.entry(key.clone()).or_default();
        history.push(Done { stamp, content });
        self.note(|| format!("{at} writes {change:?}"));
        self.nodes[at].sent.push(change);
    }

    fn put(&mut self, at: usize, key: &Key, (content, stamp): (i64, Stamp)) {
        let token = self.token();
        let mended = false;
        let row = Row {
            content,
            stamp,
            token,
            mended,
        };
        self.nodes[at].rows.insert(key.clone(), row);
    }

    /// Where something waits: the streams that are not cut.
    pub fn streams(&self) -> Vec<(usize, usize)> {
        let count = self.nodes.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs
            .filter(|pair| pair.0 != pair.1 && !self.cut.contains(pair))
            .filter(|(from, to)| self.arrived(*from, *to) < self.nodes[*from].sent.len())
            .collect()
    }

    fn arrived(&self, from: usize, to: usize) -> usize {
        self.nodes[to].applied.get(&from).copied().unwrap_or(0)
    }

    /// What each node has sent so far.
    pub fn positions(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.sent.len()).collect()
    }

    /// Has everything up to these positions arrived everywhere?
    pub fn have_arrived(&self, positions: &[usize]) -> bool {
        let count = self.nodes.len();
        let mut pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs.all(|(from, to)| from == to || self.arrived(from, to) >= positions[from])
    }

    /// The next change of a stream is applied, as pglogical does it. What it logs is named; of
    /// updates that were applied it logs what nobody needs.
    pub fn apply(&mut self, from: usize, to: usize) {
        let next = self.arrived(from, to);
        let change = self.nodes[from].sent[next].clone();
        self.nodes[to].applied.insert(from, next + 1);
        self.note(|| format!("{to} applies {change:?} of {from}"));
        match change {
            Change::Insert(key, content, stamp) => {
                let local = self.nodes[to].rows.get(&key).copied();
                if local.is_some() {
                    self.name(to, &key, None);
                }
                if local.is_none_or(|row| stamp.at_us >= row.stamp.at_us) {
                    self.put(to, &key, (content, stamp));
                }
            }
            Change::Update(key, content, stamp) => match self.nodes[to].rows.get(&key).copied() {
                None => self.name(to, &key, None),
                Some(row) if row.stamp.author == stamp.author => {
                    self.put(to, &key, (content, stamp));
                }
                Some(row) => {
                    if stamp.at_us >= row.stamp.at_us {
                        self.put(to, &key, (content, stamp));
                    }
                    if stamp.at_us <= row.stamp.at_us {
                        self.name(to, &key, None);
                    }
                }
            },
            // Whatever is there goes, and nothing is logged of it.
            Change::Delete(key) => {
                if self.nodes[to].rows.remove(&key).is_none() {
                    self.name(to, &key, None);
                }
            }
        }
    }

    /// What a node knows of a key.
    pub fn seen(&self, at: usize, key: &Key) -> Seen {
        let node = &self.nodes[at];
        let suspect = node.suspects.get(key).copied().unwrap_or_default();
        Seen {
            row: node.rows.get(key).map(|row| Version {
                stamp: Some(row.stamp),
                hash: [row.content, 0],
                token: row.token,
                mended: row.mended,
            }),
            deleted_us: suspect.deleted_us,
            deletes_since_us: None,
            ordered: suspect.ordered_us.is_some(),
        }
    }

    /// The values of a version.
    pub fn values(&self, at: usize, (key, token): &(Key, u32)) -> Option<RowValues> {
        let row = self.nodes[at]
            .rows
            .get(key)
            .filter(|row| row.token == *token)?;
        let text = row.content.to_string();
        Some(RowValues::from([("v".to_owned(), Some(text))]))
    }

    /// When a node looks, by its own clock.
    pub fn moment(&self) -> Moment {
        Moment {
            run: 0,
            at_ms: self.now_us.unsigned_abs() / self.slower,
        }
    }

    /// How long ago true time was so, by the clocks of the agents.
    pub fn age(&self, of_us: i64) -> Duration {
        Duration::from_millis((self.now_us - of_us).unsigned_abs() / self.slower)
    }

    /// Sends an order on its way.
    pub fn order(&mut self, at: usize, repair: &Repair) -> u64 {
        self.number += 1;
        self.orders.push(Order {
            number: self.number,
            at,
            repair: repair.clone(),
        });
        self.number
    }

    /// An order arrives.
    pub fn deliver(&mut self, place: usize) {
        let Order { number, at, repair } = self.orders.swap_remove(place);
        let outcome = match repair.looked.valid_for(self.moment()) {
            Some(_) => self.mend(at, &repair),
            None => Mended::Raced,
        };
        self.outcomes.insert(number, outcome);
    }

    /// A node mends a row, if it still is what was seen.
    fn mend(&mut self, at: usize, repair: &Repair) -> Mended {
        let held = self.nodes[at].rows.get(&repair.key).map(|row| row.token);
        if held != repair.seen {
            return Mended::Raced;
        }
        self.note(|| format!("{at} mends {repair:?}"));
        match &repair.right {
            None => drop(self.nodes[at].rows.remove(&repair.key)),
            Some(right) => {
                let content = right.values["v"].as_ref().unwrap().parse().unwrap();
                self.put(at, &repair.key, (content, right.stamp.unwrap()));
                if let Some(row) = self.nodes[at].rows.get_mut(&repair.key) {
                    row.mended = true;
                }
            }
        }
        Mended::Done
    }
}
