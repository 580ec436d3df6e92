//! Nodes with one small table, replicated as pglogical does it: each stream in its own order, none
//! in the order of another, and no delete knows its time where it arrives. What pglogical does with
//! a change that arrives is in `apply`.

mod apply;
mod parting;

use crate::seeds::Tally;
pub use parting::{How, Parting};
use pgaa_core::ids::NodeId;
use pgaa_core::rows::{
    Mended, Moment, OLDER_RIVAL, Repair, RowValues, Ruling, Seen, Stamp, Version, judge,
};
use pgaa_core::verify::Key;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// A content says which value of the unique column it has: the rest of its division by this. 0 is
/// null, of which there may be many.
const VALUES: i64 = 8;

/// How long an order is valid, and how long one takes at most, milliseconds of the agents.
const VALID_MS: u64 = 5_000;
const LATE_MAX_MS: u64 = 14_000;

/// The value of the unique column that a row of this content has.
pub fn value_of(content: i64) -> Option<i64> {
    (content % VALUES != 0).then_some(content % VALUES)
}

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
    /// When it arrives at the soonest, true time.
    pub due_us: i64,
    by: usize,
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

impl Change {
    fn key(&self) -> &Key {
        match self {
            Change::Insert(key, ..) | Change::Update(key, ..) | Change::Delete(key) => key,
        }
    }
}

/// What an application does with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It deletes it.
    Delete,
    /// It inserts or updates it, with this value of the unique column.
    Put(i64),
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
    sent: Vec<(Change, Stamp)>,
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
    /// Do many orders take long?
    pub late: bool,
    rng: SmallRng,
    /// Which streams are cut: (from, to).
    pub cut: Vec<(usize, usize)>,
    /// What was done to each key, in the order of true time.
    pub done: BTreeMap<Key, Vec<Done>>,
    /// Repairs on their way: they may arrive late, also after whoever ordered them has gone.
    pub orders: Vec<Order>,
    /// What came of the others.
    pub outcomes: BTreeMap<u64, Mended>,
    /// Which streams stand still at a value of the unique column that another row has.
    pub stuck: BTreeSet<(usize, usize)>,
    /// A node that goes.
    pub parting: Option<Parting>,
    /// What must never happen, and did.
    pub wrong: Option<String>,
    /// How often the rarer things happened.
    pub tally: Tally,
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
    pub fn new(count: usize, seed: u64, traced: bool) -> World {
        World {
            nodes: (0..count).map(|_| Node::default()).collect(),
            now_us: 1_000_000_000,
            ahead_us: vec![0; count],
            slower: 1,
            late: false,
            rng: SmallRng::seed_from_u64(seed),
            cut: Vec::new(),
            done: BTreeMap::new(),
            orders: Vec::new(),
            outcomes: BTreeMap::new(),
            stuck: BTreeSet::new(),
            parting: None,
            wrong: None,
            tally: Tally::new(),
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

    /// An application writes on a node: inserts what is not there; changes or deletes what is. The
    /// server refuses a value that another row has.
    pub fn write(&mut self, at: usize, key: &Key, write: Write) {
        if self.is_shut(at) {
            return;
        }
        let stamp = Stamp {
            at_us: self.now_us + self.ahead_us[at],
            author: id(at),
        };
        let mut done = self.done.get(key).into_iter().flatten();
        if done.any(|one| one.stamp == stamp) {
            // No server commits twice to one row within a microsecond.
            return;
        }
        let there = self.nodes[at].rows.contains_key(key);
        let change = match (there, write) {
            (true, Write::Delete) => {
                self.nodes[at].rows.remove(key);
                self.name(at, key, Some(stamp.at_us));
                Change::Delete(key.clone())
            }
            (_, Write::Delete) => return,
            (_, Write::Put(value)) => {
                self.contents += 1;
                let content = self.contents * VALUES + value;
                if self.rival(at, key, content).is_some() {
                    return;
                }
                self.put(at, key, (content, stamp));
                match there {
                    true => Change::Update(key.clone(), content, stamp),
                    false => Change::Insert(key.clone(), content, stamp),
                }
            }
        };
        let content = self.nodes[at].rows.get(key).map(|row| row.content);
        let history = self.done.entry(key.clone()).or_default();
        history.push(Done { stamp, content });
        self.note(|| format!("{at} writes {change:?}"));
        self.nodes[at].sent.push((change, stamp));
    }

    /// Another row with the value of the unique column that this content has.
    fn rival(&self, at: usize, key: &Key, content: i64) -> Option<Key> {
        let value = value_of(content)?;
        let mut rows = self.nodes[at].rows.iter();
        let found = rows.find(|(other, row)| *other != key && value_of(row.content) == Some(value));
        found.map(|(other, _)| other.clone())
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
            .filter(|(from, to)| self.arrived(*from, *to) < self.reach(*from, *to))
            .collect()
    }

    fn arrived(&self, from: usize, to: usize) -> usize {
        self.nodes[to].applied.get(&from).copied().unwrap_or(0)
    }

    /// What each node has sent so far.
    pub fn positions(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.sent.len()).collect()
    }

    /// Has everything up to these positions arrived on all of `among`?
    pub fn have_arrived(&self, positions: &[usize], among: &[usize]) -> bool {
        let mut pairs = among
            .iter()
            .flat_map(|from| among.iter().map(move |to| (*from, *to)));
        pairs.all(|(from, to)| from == to || self.arrived(from, to) >= positions[from])
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

    /// How long the next order takes: at once, or where orders are late up to twice as long as it is
    /// valid and more.
    pub fn takes_ms(&mut self) -> u64 {
        match (self.late, self.rng.random_range(0..10)) {
            (true, 0..4) => self.rng.random_range(0..VALID_MS),
            (true, 4..6) => self.rng.random_range(VALID_MS..LATE_MAX_MS),
            (true | false, _) => 0,
        }
    }

    /// Sends an order on its way. It rests on looks, the first of which began at `looked_us`.
    /// It takes so many milliseconds of the agents at least.
    pub fn order(
        &mut self,
        (by, at): (usize, usize),
        repair: &Repair,
        (looked_us, takes_ms): (i64, u64),
    ) -> u64 {
        self.scrutinise(repair, looked_us);
        self.number += 1;
        let takes_us = i64::try_from(takes_ms * self.slower).unwrap();
        self.orders.push(Order {
            number: self.number,
            due_us: self.now_us + takes_us,
            by,
            at,
            repair: repair.clone(),
        });
        self.number
    }

    /// No order brings a version back that was deleted before anybody looked; and whoever judges a
    /// row by what there is now comes to the same, in whatever order it lists the nodes.
    fn scrutinise(&mut self, repair: &Repair, looked_us: i64) {
        let key = &repair.key;
        let stamp = repair.right.as_ref().and_then(|right| right.stamp);
        let mut done = self.done.get(key).into_iter().flatten();
        let deleted = done.find(|one| {
            let later = stamp.is_some_and(|stamp| one.stamp.at_us > stamp.at_us);
            let known = !self.is_dead(place(one.stamp.author));
            one.content.is_none() && later && one.stamp.at_us < looked_us && known
        });
        if let Some(deleted) = deleted
            && self.clocks_agree()
        {
            self.wrong.get_or_insert(format!(
                "{repair:?} brings back what was deleted before: {deleted:?}"
            ));
        }
        let all = self.members();
        let verdicts: BTreeSet<Option<i64>> = (0..all.len())
            .map(|first| self.verdict(key, [&all[first..], &all[..first]].concat()))
            .collect();
        if verdicts.len() > 1 {
            self.wrong
                .get_or_insert(format!("{key:?} is judged in several ways: {verdicts:?}"));
        }
    }

    /// A row that goes because another has its value is the older one, of versions that both had it.
    fn scrutinise_rival(&mut self, at: usize, repair: &Repair) {
        let row = self.nodes[at].rows.get(&repair.key).copied();
        let Some(row) = row.filter(|_| repair.rule == OLDER_RIVAL) else {
            return;
        };
        let value = |one: &Done| one.content.and_then(value_of);
        let of = |other: bool| {
            let histories = self
                .done
                .iter()
                .filter(move |(key, _)| (**key != repair.key) == other);
            histories.flat_map(|(_, done)| done)
        };
        // It may be a version of it that comes only now, and doesn't stay.
        let mut versions = of(false).filter(|one| one.stamp.at_us >= row.stamp.at_us);
        let overtaken = versions.any(|one| {
            let mut rivals = of(true).filter(|rival| rival.stamp.at_us >= one.stamp.at_us);
            value(one).is_some() && rivals.any(|rival| value(rival) == value(one))
        });
        if !overtaken && self.clocks_agree() {
            self.wrong.get_or_insert(format!(
                "{repair:?} takes {row:?} away, and no row with its value is newer"
            ));
        }
    }

    /// What the rule says of a key when the nodes are listed so.
    fn verdict(&self, key: &Key, places: Vec<usize>) -> Option<i64> {
        let nodes: Vec<NodeId> = places.iter().map(|place| id(*place)).collect();
        let seen: Vec<Seen> = places.iter().map(|place| self.seen(*place, key)).collect();
        match judge(&nodes, &seen) {
            Ruling::Stays(place, _) => seen[place].row.map(|row| row.hash[0]),
            Ruling::Equal => seen[0].row.map(|row| row.hash[0]),
            Ruling::Goes(_) => None,
        }
    }

    /// Is no node's clock wrong?
    pub fn clocks_agree(&self) -> bool {
        self.ahead_us.iter().all(|ahead| *ahead == 0)
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// An order arrives.
    pub fn deliver(&mut self, place: usize) {
        let Order {
            number,
            by,
            at,
            repair,
            ..
        } = self.orders.swap_remove(place);
        if self.is_gone(at) {
            return;
        }
        if self.has_buried(at, by) {
            self.count("orders of one that is gone");
            return;
        }
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
        self.scrutinise_rival(at, repair);
        match &repair.right {
            None => drop(self.nodes[at].rows.remove(&repair.key)),
            Some(right) => {
                let content = right.values["v"].as_ref().unwrap().parse().unwrap();
                if let Some(rival) = self.rival(at, &repair.key, content) {
                    self.count("repairs that met a rival");
                    return Mended::Blocked(rival);
                }
                self.put(at, &repair.key, (content, right.stamp.unwrap()));
                if let Some(row) = self.nodes[at].rows.get_mut(&repair.key) {
                    row.mended = true;
                }
            }
        }
        Mended::Done
    }
}
