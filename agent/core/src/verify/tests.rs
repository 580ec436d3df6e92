//! Against tables in memory whose rows travel late.

use super::{
    Difference, Digest, Failure, Key, Progress, REST_MAX, Range, RowHash, Tables, Verdict,
    by_ranges, rest_after,
};
use crate::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use uuid::Uuid;

type Table = BTreeMap<Key, RowHash>;

/// Rows that differ for ever are touched by nobody; all others are written to while the nodes are
/// compared, and what was written arrives at the next fence.
struct Model {
    tables: Mutex<Vec<Table>>,
    on_their_way: Mutex<Vec<(usize, Key, Option<RowHash>)>>,
    random: Mutex<u64>,
    busy: Vec<Key>,
    writes: bool,
    fences: Mutex<u32>,
    /// Progress as it was told, and after how many more ranges the nodes can't be reached.
    told: Mutex<Vec<Progress>>,
    reachable: Mutex<Option<usize>>,
    /// The smallest key that was hashed since this was emptied.
    lowest: Mutex<Option<Key>>,
}

fn key(number: u64) -> Key {
    vec![format!("{number:08}")]
}

fn node(number: usize) -> NodeId {
    NodeId(Uuid::from_u128(number as u128 + 1))
}

impl Model {
    fn new(nodes: usize, rows: u64, seed: u64) -> Model {
        let table: Table = (0..rows).map(|n| (key(n), [n as i64, 7])).collect();
        Model {
            tables: Mutex::new(vec![table; nodes]),
            on_their_way: Mutex::default(),
            random: Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            busy: Vec::new(),
            writes: false,
            fences: Mutex::new(0),
            told: Mutex::default(),
            reachable: Mutex::new(None),
            lowest: Mutex::default(),
        }
    }

    /// xorshift64
    fn random(&self, below: u64) -> u64 {
        let mut state = self.random.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % below.max(1)
    }

    fn spoil(&self, at: usize, key: Key, row: Option<RowHash>) {
        let mut tables = self.tables.lock().unwrap();
        match row {
            Some(row) => tables[at].insert(key, row),
            None => tables[at].remove(&key),
        };
    }

    /// An application writes on one node; the others hear of it later.
    fn write(&self) {
        if !self.writes || self.busy.is_empty() {
            return;
        }
        let key = self.busy[self.random(self.busy.len() as u64) as usize].clone();
        let row = (self.random(4) > 0).then(|| [self.random(1 << 40) as i64, 1]);
        let mut tables = self.tables.lock().unwrap();
        let at = self.random(tables.len() as u64) as usize;
        let nodes = tables.len();
        match row {
            Some(row) => tables[at].insert(key.clone(), row),
            None => tables[at].remove(&key),
        };
        let mut way = self.on_their_way.lock().unwrap();
        way.retain(|(_, other, _)| *other != key);
        let others = (0..nodes).filter(|other| *other != at);
        way.extend(others.map(|other| (other, key.clone(), row)));
    }

    fn within(&self, at: NodeId, range: &Range) -> Table {
        self.write();
        let tables = self.tables.lock().unwrap();
        let after = range
            .after
            .clone()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let upto = range.upto.clone().map_or(Bound::Unbounded, Bound::Included);
        let index = usize::try_from(at.0.as_u128() - 1).unwrap();
        let rows = tables[index].range((after, upto));
        rows.map(|(key, row)| (key.clone(), *row)).collect()
    }
}

impl Tables for Model {
    fn me(&self) -> NodeId {
        node(0)
    }

    fn nodes(&self) -> Vec<NodeId> {
        (0..self.tables.lock().unwrap().len()).map(node).collect()
    }

    async fn digest(&self, at: NodeId, _: &str, range: &Range) -> Result<Digest, Failure> {
        if *self.reachable.lock().unwrap() == Some(0) {
            return Err(Failure("a cable is pulled".to_owned()));
        }
        let rows = self.within(at, range);
        if let Some((first, _)) = rows.first_key_value() {
            let mut lowest = self.lowest.lock().unwrap();
            if lowest.as_ref().is_none_or(|key| first < key) {
                *lowest = Some(first.clone());
            }
        }
        let mut hash = [0, 0];
        for (key, row) in &rows {
            let number: i64 = key[0].parse().unwrap();
            hash[0] ^= row[0].wrapping_mul(31).wrapping_add(number);
            hash[1] ^= row[1].wrapping_mul(37).wrapping_add(number);
        }
        Ok(Digest {
            rows: rows.len() as u64,
            hash,
        })
    }

    async fn bound(
        &self,
        at: NodeId,
        _: &str,
        range: &Range,
        step: u64,
    ) -> Result<Option<Key>, Failure> {
        let rows = self.within(at, range);
        Ok(rows.into_keys().nth(usize::try_from(step).unwrap() - 1))
    }

    async fn rows(&self, at: NodeId, _: &str, range: &Range) -> Result<Table, Failure> {
        Ok(self.within(at, range))
    }

    async fn look(&self, at: NodeId, _: &str, keys: &[Key]) -> Result<Table, Failure> {
        let mut all = self.within(at, &Range::default());
        all.retain(|key, _| keys.contains(key));
        Ok(all)
    }

    async fn fence(&self) -> Result<(), Failure> {
        *self.fences.lock().unwrap() += 1;
        let mut tables = self.tables.lock().unwrap();
        for (at, key, row) in self.on_their_way.lock().unwrap().drain(..) {
            match row {
                Some(row) => tables[at].insert(key, row),
                None => tables[at].remove(&key),
            };
        }
        Ok(())
    }

    async fn rest(&self) {}

    fn compared(&self, _: &str, done: &Progress) {
        self.told.lock().unwrap().push(done.clone());
        if let Some(left) = self.reachable.lock().unwrap().as_mut() {
            *left -= 1;
        }
    }
}

fn go_on(model: &Model, done: &mut Progress) -> Result<Verdict, Failure> {
    let mut work = pin!(by_ranges(model, "public.t", 4_000, done));
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => panic!("the model never waits"),
    }
}

fn run(model: &Model) -> Verdict {
    go_on(model, &mut Progress::default()).unwrap()
}

#[test]
fn a_busy_machine_is_given_most_of_the_time() {
    let took = Duration::from_millis(20);
    assert_eq!(rest_after(took, 0.0), took);
    assert_eq!(rest_after(took, 1.0), took * 19);
    assert_eq!(rest_after(took, f64::NAN.max(2.0)), took * 19);
    assert_eq!(rest_after(Duration::from_secs(60), 0.5), REST_MAX);
}

#[test]
fn equal_tables_need_no_second_look() {
    let model = Model::new(3, 35_000, 1);
    let verdict = run(&model);
    assert_eq!(verdict.rows, 35_000);
    assert!(verdict.different.is_empty() && verdict.undecided.is_empty());
    assert_eq!(*model.fences.lock().unwrap(), 0);
}

#[test]
fn an_empty_table_is_equal() {
    let verdict = run(&Model::new(2, 0, 1));
    assert_eq!((verdict.rows, verdict.different.len()), (0, 0));
}

#[test]
fn rows_that_only_another_node_has_are_found_behind_the_last() {
    let model = Model::new(2, 10_000, 1);
    for number in 20_000..32_000 {
        model.spoil(1, key(number), Some([1, 1]));
    }
    let verdict = run(&model);
    assert!(verdict.cut_short, "more than are kept");
    assert_eq!(verdict.different.len(), super::SUSPECTS_MAX);
}

/// Lost, extra and different rows are all found, and nothing that is only on its way.
#[test]
fn what_differs_is_found_and_nothing_else() {
    for seed in 1..60 {
        let mut model = Model::new(3, 12_000, seed);
        let mut spoilt: BTreeSet<Key> = BTreeSet::new();
        for _ in 0..model.random(40) {
            let (at, number) = (model.random(3) as usize, model.random(13_000));
            let row = (model.random(2) == 0).then(|| [model.random(1 << 40) as i64, 9]);
            // Taking away what isn't there changes nothing.
            if (row.is_some() || number < 12_000) && spoilt.insert(key(number)) {
                model.spoil(at, key(number), row);
            }
        }
        let busy = (0..300).map(|_| key(model.random(13_000)));
        let busy: Vec<Key> = busy.filter(|key| !spoilt.contains(key)).collect();
        model.busy = busy;
        model.writes = true;
        let verdict = run(&model);
        let found: BTreeSet<Key> = verdict.different.iter().map(|d| d.key.clone()).collect();
        assert_eq!(found, spoilt, "seed {seed}");
    }
}

#[test]
fn what_each_node_holds_is_told() {
    let model = Model::new(3, 10, 1);
    model.spoil(1, key(4), None);
    model.spoil(2, key(4), Some([5, 5]));
    let held = vec![Some([4, 7]), None, Some([5, 5])];
    let expected = Difference { key: key(4), held };
    assert_eq!(run(&model).different, [expected]);
}

/// Broken off after any range, and gone on with as it was kept, it finds what a whole comparison
/// finds, counts each row once, and hashes nothing again.
#[test]
fn a_comparison_that_was_broken_off_goes_on_where_it_was() {
    let spoilt = [3, 4_500, 9_001, 15_999, 17_000];
    for broken_after in 0..=4 {
        let model = Model::new(3, 17_500, 1);
        for number in spoilt {
            model.spoil(1, key(number), Some([1, 1]));
        }
        *model.reachable.lock().unwrap() = Some(broken_after);
        let mut done = Progress::default();
        let failed = go_on(&model, &mut done);
        assert_eq!(failed, Err(Failure("a cable is pulled".to_owned())));
        let told = model.told.lock().unwrap().last().cloned();
        assert_eq!(
            told.unwrap_or_default(),
            done,
            "what is told is what was done"
        );
        assert_eq!(done.rows, 4_000 * broken_after as u64);
        let kept = serde_json::to_string(&done).unwrap();
        let mut done: Progress = serde_json::from_str(&kept).unwrap();
        *model.reachable.lock().unwrap() = None;
        *model.lowest.lock().unwrap() = None;
        let verdict = go_on(&model, &mut done).unwrap();
        let found: Vec<Key> = verdict.different.into_iter().map(|d| d.key).collect();
        assert_eq!(found, spoilt.map(key), "broken after {broken_after}");
        assert_eq!(verdict.rows, 17_500);
        let lowest = model.lowest.lock().unwrap().clone();
        assert_eq!(lowest, Some(key(4_000 * broken_after as u64)));
    }
}

#[test]
fn one_that_has_hashed_everything_only_looks_at_its_suspects_again() {
    let model = Model::new(2, 9_000, 1);
    model.spoil(1, key(8_999), None);
    run(&model);
    let mut done = model.told.lock().unwrap().last().cloned().unwrap();
    assert!(done.ended && done.suspects == BTreeSet::from([key(8_999)]));
    *model.lowest.lock().unwrap() = None;
    // Mended since: found in the earlier part, and no difference any more.
    model.spoil(1, key(8_999), Some([8_999, 7]));
    let verdict = go_on(&model, &mut done).unwrap();
    assert_eq!((verdict.rows, verdict.different.len()), (9_000, 0));
    assert_eq!(
        *model.lowest.lock().unwrap(),
        None,
        "nothing is hashed again"
    );
}
