//! One round of the check: what was named is compared behind a fence, and mended.

use super::rivals::outlives;
use super::rule::{Ruling, judge};
use super::{Kept, Moment, OLDER_RIVAL, STALE_RIVAL, Seen, Stamp, Version};
use crate::ids::NodeId;
use crate::verify::Key;
use futures_util::future::{join_all, try_join_all};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

pub use crate::verify::Failure;

/// Keys that are looked at by one call.
const BATCH: usize = 500;

/// A row's values: the text of each column by its name, without those that are generated.
pub type RowValues = BTreeMap<String, Option<String>>;

/// A version to be made everybody's, with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mend {
    /// Which version it is; `None` where nobody knows.
    pub stamp: Option<Stamp>,
    /// What it contains.
    pub values: RowValues,
}

/// What one node is to do about one row: only if it still holds what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The row.
    pub key: Key,
    /// The transaction that wrote what was seen there; `None`: there was no row.
    pub seen: Option<u32>,
    /// What is right; `None`: no row.
    pub right: Option<Mend>,
    /// Why, for people.
    pub rule: String,
    /// When the node looked.
    pub looked: Moment,
}

/// What came of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mended {
    /// It is done.
    Done,
    /// The node holds something else by now, or somebody else is at work on it.
    Raced,
    /// Another row, with this key, has the same value of a unique column.
    Blocked(Key),
    /// The server refused it.
    Refused(String),
}

/// The nodes whose rows are checked.
pub trait Rows: Sync {
    /// The node that checks.
    fn me(&self) -> NodeId;
    /// All nodes that must agree.
    fn nodes(&self) -> Vec<NodeId>;
    /// What a node knows of each of these keys, in their order, and when it looked.
    fn look(
        &self,
        node: NodeId,
        table: &str,
        keys: &[Key],
    ) -> impl Future<Output = Result<(Moment, Vec<Seen>), Failure>> + Send;
    /// Returns when everything that was committed on any node before the call has arrived on all.
    fn fence(&self) -> impl Future<Output = Result<(), Failure>> + Send;
    /// The values of these versions (see [`Version::token`]), as far as the node still has them.
    fn fetch(
        &self,
        node: NodeId,
        table: &str,
        versions: &[(Key, u32)],
    ) -> impl Future<Output = Result<Vec<Option<RowValues>>, Failure>> + Send;
    /// Notes, to survive a crash, that repairs of these rows are being ordered.
    fn ordering(
        &self,
        table: &str,
        keys: &[Key],
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Must this row be kept, though it is the older of two with one unique value? See [`super::kept`].
    fn kept(
        &self,
        table: &str,
        key: &Key,
    ) -> impl Future<Output = Result<Option<Kept>, Failure>> + Send;
    /// Mends rows on a node, each for itself; the outcomes in the same order.
    fn mend(
        &self,
        node: NodeId,
        table: &str,
        repairs: &[Repair],
    ) -> impl Future<Output = Result<Vec<Mended>, Failure>> + Send;
}

/// What a round has found, for each table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// The same on all nodes, or on none: nothing is open about them.
    pub equal: BTreeSet<Key>,
    /// Those of them that another node has ordered repairs of.
    pub awaited: BTreeSet<Key>,
    /// Mended on at least one node; to be looked at once more.
    pub mended: Vec<Key>,
    /// Being written to, or not to be mended now; to be looked at again.
    pub open: Vec<Key>,
    /// Other rows that were met, and may be wrong as well.
    pub rivals: BTreeSet<Key>,
    /// What the rule says of those that were not the same at two looks behind a fence.
    pub rulings: BTreeMap<Key, Ruling>,
    /// Why some are open that will stay so without help, for people.
    pub problems: BTreeMap<Key, String>,
}

/// Checks the rows with these keys, and mends them where `mend` says so.
pub async fn check<H: Rows>(
    host: &H,
    suspects: &BTreeMap<String, Vec<Key>>,
    mend: bool,
) -> Result<BTreeMap<String, Round>, Failure> {
    host.fence().await?;
    let mut rounds: BTreeMap<String, Round> = BTreeMap::new();
    let mut unlike: BTreeMap<String, Sightings> = BTreeMap::new();
    for (table, keys) in suspects {
        let nodes = host.nodes();
        let round = rounds.entry(table.clone()).or_default();
        for (key, (_, seen)) in look(host, table, keys).await? {
            match judge(&nodes, &seen) {
                Ruling::Equal => round.note_equal(host, key, &seen),
                Ruling::Stays(..) | Ruling::Goes(..) => {
                    unlike.entry(table.clone()).or_default().insert(key, seen);
                }
            }
        }
    }
    if unlike.is_empty() {
        return Ok(rounds);
    }
    host.fence().await?;
    for (table, before) in unlike {
        let round = rounds.entry(table.clone()).or_default();
        settle(host, &table, (&before, mend), round).await?;
    }
    Ok(rounds)
}

/// What each node holds, in the order of [`Rows::nodes`].
type Sightings = BTreeMap<Key, Vec<Seen>>;

impl Round {
    /// Does all that is open wait for people?
    #[must_use]
    pub fn stands(&self) -> bool {
        let told = |key: &Key| self.problems.contains_key(key) || self.rivals.contains(key);
        self.mended.is_empty() && self.open.iter().all(told)
    }

    fn note_equal<H: Rows>(&mut self, host: &H, key: Key, seen: &[Seen]) {
        let me = host.me();
        let nodes = host.nodes();
        let mut all = nodes.iter().zip(seen);
        if all.any(|(node, one)| *node != me && one.ordered) {
            self.awaited.insert(key.clone());
        }
        self.equal.insert(key);
    }
}

/// When each node looked, and what it saw.
type Looked = (Vec<Moment>, Vec<Seen>);

async fn look<H: Rows>(
    host: &H,
    table: &str,
    keys: &[Key],
) -> Result<BTreeMap<Key, Looked>, Failure> {
    let nodes = host.nodes();
    let mut sightings = BTreeMap::new();
    for batch in keys.chunks(BATCH) {
        let all = try_join_all(nodes.iter().map(|n| host.look(*n, table, batch))).await?;
        for (place, key) in batch.iter().enumerate() {
            let seen = all.iter().map(|(_, seen)| seen.get(place).copied());
            let seen: Option<Vec<Seen>> = seen.collect();
            let seen = seen.ok_or_else(|| {
                Failure("a node told of fewer rows than it was asked for".to_owned())
            })?;
            let moments = all.iter().map(|(moment, _)| *moment).collect();
            sightings.insert(key.clone(), (moments, seen));
        }
    }
    Ok(sightings)
}

/// What the second look has shown of rows that differed at the first.
async fn settle<H: Rows>(
    host: &H,
    table: &str,
    (before, mend): (&Sightings, bool),
    round: &mut Round,
) -> Result<(), Failure> {
    let keys: Vec<Key> = before.keys().cloned().collect();
    // What is ordered is valid for some seconds after the look: so one part is looked at and mended
    // after the other.
    for batch in keys.chunks(BATCH) {
        let wrong = wrong(host, table, (before, batch), round).await?;
        match mend {
            true if wrong.is_empty() => {}
            true => mend_all(host, table, &wrong, round).await?,
            false => round.open.extend(wrong.into_iter().map(|one| one.key)),
        }
    }
    Ok(())
}

/// Those of these rows that were not the same everywhere at two looks.
async fn wrong<H: Rows>(
    host: &H,
    table: &str,
    (before, keys): (&Sightings, &[Key]),
    round: &mut Round,
) -> Result<Vec<Wrong>, Failure> {
    let nodes = host.nodes();
    let mut wrong = Vec::new();
    for (key, (looked, seen)) in look(host, table, keys).await? {
        let ruling = judge(&nodes, &seen);
        if ruling == Ruling::Equal {
            round.note_equal(host, key, &seen);
        } else if before.get(&key) != Some(&seen) {
            round.open.push(key);
        } else {
            round.rulings.insert(key.clone(), ruling);
            wrong.push(Wrong {
                key,
                looked,
                seen,
                ruling,
            });
        }
    }
    Ok(wrong)
}

/// A row that is not the same everywhere, and what is to be done about it.
struct Wrong {
    key: Key,
    looked: Vec<Moment>,
    seen: Vec<Seen>,
    ruling: Ruling,
}

impl Wrong {
    /// The version that stays, and where it is held.
    fn winner(&self) -> Option<(usize, Version)> {
        match self.ruling {
            Ruling::Stays(place, _) => Some((place, self.seen.get(place)?.row?)),
            Ruling::Goes(_) | Ruling::Equal => None,
        }
    }

    fn rule(&self) -> String {
        match self.ruling {
            Ruling::Stays(_, reason) | Ruling::Goes(reason) => reason.to_string(),
            Ruling::Equal => String::new(),
        }
    }
}

async fn mend_all<H: Rows>(
    host: &H,
    table: &str,
    wrong: &[Wrong],
    round: &mut Round,
) -> Result<(), Failure> {
    let values = winners(host, table, wrong).await?;
    let keys: Vec<Key> = wrong.iter().map(|one| one.key.clone()).collect();
    host.ordering(table, &keys).await?;
    let nodes = host.nodes();
    let orders = nodes.iter().enumerate().map(|(place, node)| {
        let repairs = repairs(wrong, &values, place);
        async move {
            let done = match repairs.is_empty() {
                true => Ok(Vec::new()),
                false => host.mend(*node, table, &repairs).await,
            };
            (repairs, done)
        }
    });
    let mut outcomes: BTreeMap<&Key, Vec<(usize, &Repair, Mended)>> = BTreeMap::new();
    let done = join_all(orders).await;
    for (place, (repairs, done)) in done.iter().enumerate() {
        // A node that did not answer may have mended some: all are looked at again.
        let lost = |_| Mended::Raced;
        let done: Vec<Mended> = match done {
            Ok(done) if done.len() == repairs.len() => done.clone(),
            Ok(_) | Err(_) => repairs.iter().map(lost).collect(),
        };
        for (repair, outcome) in repairs.iter().zip(done) {
            let list = outcomes.entry(&repair.key).or_default();
            list.push((place, repair, outcome));
        }
    }
    for one in wrong {
        let outcomes = outcomes.remove(&one.key).unwrap_or_default();
        note(one, &outcomes, round);
        let met = outcomes
            .iter()
            .find_map(|(place, repair, outcome)| match outcome {
                Mended::Blocked(rival) => Some((one, *repair, *place, rival)),
                Mended::Done | Mended::Raced | Mended::Refused(_) => None,
            });
        if let Some(met) = met {
            round.rivals.insert(met.3.clone());
            rule_out(host, table, met, round).await?;
        }
    }
    Ok(())
}

/// Two rows have the same value of a unique column on the node at this place: the newer one stays, the
/// other goes, everywhere, unless rows refer to it. Both are looked at again.
async fn rule_out<H: Rows>(
    host: &H,
    table: &str,
    (one, repair, place, rival): (&Wrong, &Repair, usize, &Key),
    round: &mut Round,
) -> Result<(), Failure> {
    let nodes = host.nodes();
    let mut sightings = look(host, table, &[one.key.clone(), rival.clone()]).await?;
    let (again, own) = sightings.remove(&one.key).unwrap_or_default();
    let (looked, seen) = sightings.remove(rival).unwrap_or_default();
    let (Some(held), Some(node)) = (seen.get(place).and_then(|one| one.row), nodes.get(place))
    else {
        return Ok(());
    };
    let theirs = match judge(&nodes, &seen) {
        Ruling::Equal => seen.iter().filter_map(|one| one.row?.stamp).max(),
        Ruling::Stays(winner, _) => {
            let right = seen.get(winner).and_then(|one| one.row);
            if right.map(|row| row.hash) != Some(held.hash) {
                let rows = (rival, &seen[place..=place], &looked[place..=place]);
                return take_away(host, table, &nodes[place..=place], (rows, STALE_RIVAL)).await;
            }
            right.and_then(|row| row.stamp)
        }
        // It goes by itself.
        Ruling::Goes(_) => return Ok(()),
    };
    // One that was written to since may have let go of the value: it is still in the way, as the
    // very version that was seen just now, or neither goes.
    let unchanged = own
        .iter()
        .map(|seen| seen.row)
        .eq(one.seen.iter().map(|seen| seen.row));
    let (Some(looked_at), true) = (again.get(place), unchanged) else {
        return Ok(());
    };
    let repair = Repair {
        looked: *looked_at,
        ..repair.clone()
    };
    if !still_blocked(host, table, (*node, repair), (rival, held)).await? {
        return Ok(());
    }
    let ours = one.winner().and_then(|(_, version)| version.stamp);
    let (key, seen, looked) = match outlives((ours, &one.key), (theirs, rival)) {
        true => (rival, &seen, &looked),
        false => (&one.key, &one.seen, &again),
    };
    if seen.iter().all(|one| one.row.is_none()) {
        return Ok(());
    }
    if let Some(kept) = host.kept(table, key).await? {
        round.problems.insert(one.key.clone(), kept.to_string());
        return Ok(());
    }
    take_away(host, table, &nodes, ((key, seen, looked), OLDER_RIVAL)).await
}

/// Does this version of the rival, and no other, keep the node from mending a row?
async fn still_blocked<H: Rows>(
    host: &H,
    table: &str,
    (node, repair): (NodeId, Repair),
    (rival, version): (&Key, Version),
) -> Result<bool, Failure> {
    if host.mend(node, table, &[repair]).await? != [Mended::Blocked(rival.clone())] {
        return Ok(false);
    }
    let (_, after) = host.look(node, table, std::slice::from_ref(rival)).await?;
    let after = after.first().and_then(|one| one.row);
    Ok(after.map(|row| row.token) == Some(version.token))
}

/// Takes a row away on these nodes, where it is what was seen there.
async fn take_away<H: Rows>(
    host: &H,
    table: &str,
    nodes: &[NodeId],
    ((key, seen, looked), rule): ((&Key, &[Seen], &[Moment]), &str),
) -> Result<(), Failure> {
    for ((node, held), looked) in nodes.iter().zip(seen).zip(looked) {
        let Some(row) = held.row else {
            continue;
        };
        let repair = Repair {
            key: key.clone(),
            seen: Some(row.token),
            right: None,
            rule: rule.to_owned(),
            looked: *looked,
        };
        host.mend(*node, table, &[repair]).await?;
    }
    Ok(())
}

fn note(one: &Wrong, outcomes: &[(usize, &Repair, Mended)], round: &mut Round) {
    let done = outcomes
        .iter()
        .any(|(_, _, outcome)| *outcome == Mended::Done);
    match done {
        true => round.mended.push(one.key.clone()),
        false => round.open.push(one.key.clone()),
    }
    let problem = outcomes.iter().find_map(|(_, _, outcome)| match outcome {
        Mended::Refused(why) => Some(why.clone()),
        Mended::Done | Mended::Raced | Mended::Blocked(_) => None,
    });
    if let Some(problem) = problem {
        round.problems.insert(one.key.clone(), problem);
    }
}

/// The values of every version that stays, as far as they are still there.
async fn winners<H: Rows>(
    host: &H,
    table: &str,
    wrong: &[Wrong],
) -> Result<BTreeMap<Key, Mend>, Failure> {
    let nodes = host.nodes();
    let mut wanted: BTreeMap<usize, Vec<(Key, Version)>> = BTreeMap::new();
    for one in wrong {
        if let Some((place, version)) = one.winner() {
            let list = wanted.entry(place).or_default();
            list.push((one.key.clone(), version));
        }
    }
    let mut found = BTreeMap::new();
    for (place, versions) in wanted {
        let Some(node) = nodes.get(place) else {
            continue;
        };
        let asked: Vec<(Key, u32)> = versions.iter().map(|(k, v)| (k.clone(), v.token)).collect();
        let values = host.fetch(*node, table, &asked).await?;
        for ((key, version), values) in versions.into_iter().zip(values) {
            if let Some(values) = values {
                let stamp = version.stamp;
                found.insert(key, Mend { stamp, values });
            }
        }
    }
    Ok(found)
}

/// What the node at this place has to do.
fn repairs(wrong: &[Wrong], values: &BTreeMap<Key, Mend>, place: usize) -> Vec<Repair> {
    let one = |one: &Wrong| {
        let held = one.seen.get(place)?.row;
        let right = match one.winner() {
            Some((_, version)) if held.map(|row| row.hash) == Some(version.hash) => return None,
            Some(_) => Some(values.get(&one.key)?.clone()),
            None => {
                held?;
                None
            }
        };
        Some(Repair {
            key: one.key.clone(),
            seen: held.map(|row| row.token),
            right,
            rule: one.rule(),
            looked: *one.looked.get(place)?,
        })
    };
    wrong.iter().filter_map(one).collect()
}
