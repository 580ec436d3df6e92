//! Compares a table on all nodes while they serve writes.
//!
//! Ranges of the primary key are hashed where their rows are; a range that differs is narrowed
//! down to rows. Rows on their way look like differences, so each suspect is looked at again after
//! a fence has passed on every edge, and counts only when two such looks in a row saw the same.
//!
//! Must not know how a range is hashed, and must not write to any table.

mod host;
mod orphans;
mod report;
mod structure;
#[cfg(test)]
mod structure_tests;
#[cfg(test)]
mod tests;

pub use host::{Digest, Failure, Key, Range, RowHash, Tables};
pub use orphans::{OrphanRows, Orphans, OrphansFound, OrphansReport};
pub use report::{
    DifferentPiece, DifferentRow, Finding, Mending, News, Report, StructureReport, TableReport,
    Wish,
};
pub use structure::{Definition, Outcome, PieceName, Pieces, Structures, Unlike, structure};

use crate::ids::NodeId;
use futures_util::future::{try_join, try_join_all};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Rows of one range that is hashed as a whole: they take some 20 ms, ten times what asking does.
pub const RANGE_ROWS: u64 = 50_000;

/// A range with no more rows than this on any node is compared row by row.
const LEAF_ROWS: u64 = 500;

/// Into how many parts a larger range is cut.
const PARTS: u64 = 20;

/// How often a range is cut again before it is said to change too fast.
const CUTS_MAX: u32 = 64;

/// Suspects that are kept. With more the nodes differ in general, and nobody reads them all.
pub const SUSPECTS_MAX: usize = 10_000;

/// Suspects that are looked at by one call.
const BATCH: usize = 500;

/// How often suspects are looked at, each time behind a new fence.
const LOOKS: u32 = 8;

/// A row on each node, in the order of [`Tables::nodes`]; `None` where there is none.
pub type Sighting = Vec<Option<RowHash>>;

/// A row that is not the same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its primary key.
    pub key: Key,
    /// What each node holds, in the order of [`Tables::nodes`].
    pub held: Sighting,
}

/// What came of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were compared: of each range those of the node that has most.
    pub rows: u64,
    /// Rows that differ, by key.
    pub different: Vec<Difference>,
    /// Keys that were different at every look, and each time in another way: they are being
    /// written to.
    pub undecided: Vec<Key>,
    /// Was the comparison ended early, because too many rows differ?
    pub cut_short: bool,
}

/// The longest rest between two ranges.
const REST_MAX: Duration = Duration::from_secs(5);

/// By how much a rest is longer on a machine where somebody always waits for a processor.
const BUSY_RESTS: f64 = 19.0;

/// How long to rest after a range that took so long: as long on a machine that has processors to
/// spare, and nineteen times that, so that it takes a twentieth of the time, where somebody always
/// waits for one. `waiting` is the share of the time in which somebody does, 0 to 1.
#[must_use]
pub fn rest_after(worked: Duration, waiting: f64) -> Duration {
    let times = 1.0 + (BUSY_RESTS - 1.0) * waiting.clamp(0.0, 1.0);
    worked.min(REST_MAX).mul_f64(times).min(REST_MAX)
}

/// How far the comparison of a table has come. Whoever has kept it goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Everything up to this key was compared; `None` at the table's beginning.
    pub after: Option<Key>,
    /// Was everything compared? Suspects are still to be looked at again.
    pub ended: bool,
    /// Rows that were compared: of each range those of the node that has most.
    pub rows: u64,
    /// Keys of rows that were not the same everywhere.
    pub suspects: BTreeSet<Key>,
}

/// Compares one table, from where `done` says on; after a failure `done` says how far it has come.
pub async fn verify<H: Tables>(
    host: &H,
    table: &str,
    done: &mut Progress,
) -> Result<Verdict, Failure> {
    by_ranges(host, table, RANGE_ROWS, done).await
}

async fn by_ranges<H: Tables>(
    host: &H,
    table: &str,
    range_rows: u64,
    done: &mut Progress,
) -> Result<Verdict, Failure> {
    if !done.ended {
        scan(host, table, range_rows, done).await?;
    }
    let cut_short = done.suspects.len() > SUSPECTS_MAX;
    let kept = done.suspects.iter().take(SUSPECTS_MAX).cloned().collect();
    let (different, undecided) = settle(host, table, kept).await?;
    Ok(Verdict {
        rows: done.rows,
        different,
        undecided,
        cut_short,
    })
}

/// Hashes range after range, until the table's end or until too much differs.
async fn scan<H: Tables>(
    host: &H,
    table: &str,
    range_rows: u64,
    done: &mut Progress,
) -> Result<(), Failure> {
    let mut range = next_range(host, table, done.after.clone(), range_rows).await?;
    loop {
        // The next range is found while this one is hashed.
        let (hashed, next) = try_join(digest(host, table, &range), async {
            match &range.upto {
                Some(end) => next_range(host, table, Some(end.clone()), range_rows)
                    .await
                    .map(Some),
                None => Ok(None),
            }
        })
        .await?;
        let (most, alike) = hashed;
        if !alike {
            narrow(host, table, range.clone(), &mut done.suspects).await?;
        }
        done.rows = done.rows.saturating_add(most);
        done.ended = range.upto.is_none();
        if range.upto.is_some() {
            done.after = range.upto;
        }
        host.compared(table, done);
        match next {
            Some(next) if done.suspects.len() <= SUSPECTS_MAX => range = next,
            Some(_) | None => return Ok(()),
        }
        host.rest().await;
    }
}

async fn next_range<H: Tables>(
    host: &H,
    table: &str,
    after: Option<Key>,
    rows: u64,
) -> Result<Range, Failure> {
    let open = Range { after, upto: None };
    let upto = host.bound(host.me(), table, &open, rows).await?;
    Ok(Range { upto, ..open })
}

/// Hashes a range everywhere. Returns the rows of the node that has most, and whether all agree.
async fn digest<H: Tables>(host: &H, table: &str, range: &Range) -> Result<(u64, bool), Failure> {
    let nodes = host.nodes();
    let digests = try_join_all(nodes.iter().map(|n| host.digest(*n, table, range))).await?;
    let most = digests.iter().map(|digest| digest.rows).max().unwrap_or(0);
    let alike = digests.windows(2).all(|pair| pair[0] == pair[1]);
    Ok((most, alike))
}

/// Cuts a range that differs into smaller ones, until the rows themselves can be compared.
async fn narrow<H: Tables>(
    host: &H,
    table: &str,
    whole: Range,
    suspects: &mut BTreeSet<Key>,
) -> Result<(), Failure> {
    let mut open = vec![(whole, 0)];
    while let Some((range, cuts)) = open.pop() {
        if suspects.len() > SUSPECTS_MAX {
            return Ok(());
        }
        let nodes = host.nodes();
        let digests = try_join_all(nodes.iter().map(|n| host.digest(*n, table, &range))).await?;
        if digests.windows(2).all(|pair| pair[0] == pair[1]) {
            continue;
        }
        let largest = digests.iter().zip(&nodes).max_by_key(|(d, _)| d.rows);
        let Some((most, node)) = largest.map(|(d, node)| (d.rows, *node)) else {
            continue;
        };
        if most <= LEAF_ROWS {
            suspects.extend(differing(host, table, &range).await?);
            continue;
        }
        if cuts == CUTS_MAX {
            let text = format!(
                "{table} grows faster than its ranges can be compared; try again when less is \
                 written: pgaa-agent verify {table}"
            );
            return Err(Failure(text));
        }
        let step = most.div_ceil(PARTS).max(LEAF_ROWS / 2);
        let parts = cut(host, (node, table), &range, step).await?;
        open.extend(parts.into_iter().map(|part| (part, cuts + 1)));
    }
    Ok(())
}

/// Parts of a range with `step` rows each on `node`.
async fn cut<H: Tables>(
    host: &H,
    (node, table): (NodeId, &str),
    range: &Range,
    step: u64,
) -> Result<Vec<Range>, Failure> {
    let mut parts = Vec::new();
    let mut rest = range.clone();
    // A node that writes meanwhile has a few parts more; the last one holds whatever is left.
    for _ in 0..2 * PARTS {
        let Some(bound) = host.bound(node, table, &rest, step).await? else {
            break;
        };
        let after = rest.after.replace(bound.clone());
        parts.push(Range {
            after,
            upto: Some(bound),
        });
    }
    parts.push(rest);
    Ok(parts)
}

/// The keys of a small range that aren't the same everywhere.
async fn differing<H: Tables>(
    host: &H,
    table: &str,
    range: &Range,
) -> Result<BTreeSet<Key>, Failure> {
    let nodes = host.nodes();
    let all = try_join_all(nodes.iter().map(|n| host.rows(*n, table, range))).await?;
    Ok(unlike(all).into_keys().collect())
}

/// Rows that aren't the same everywhere, with what each node holds.
fn unlike(all: Vec<BTreeMap<Key, RowHash>>) -> BTreeMap<Key, Sighting> {
    let keys: BTreeSet<&Key> = all.iter().flat_map(BTreeMap::keys).collect();
    let sightings = keys.into_iter().map(|key| {
        let sighting: Sighting = all.iter().map(|rows| rows.get(key).copied()).collect();
        (key.clone(), sighting)
    });
    sightings
        .filter(|(_, sighting)| sighting.windows(2).any(|pair| pair[0] != pair[1]))
        .collect()
}

/// Tells differences from rows that were on their way.
async fn settle<H: Tables>(
    host: &H,
    table: &str,
    suspects: Vec<Key>,
) -> Result<(Vec<Difference>, Vec<Key>), Failure> {
    let mut open: BTreeMap<Key, Option<Sighting>> =
        suspects.into_iter().map(|key| (key, None)).collect();
    let mut different = Vec::new();
    for _ in 0..LOOKS {
        if open.is_empty() {
            break;
        }
        host.fence().await?;
        let keys: Vec<Key> = open.keys().cloned().collect();
        let mut seen = BTreeMap::new();
        for batch in keys.chunks(BATCH) {
            let nodes = host.nodes();
            let all = try_join_all(nodes.iter().map(|n| host.look(*n, table, batch))).await?;
            seen.extend(unlike(all));
        }
        for (key, before) in std::mem::take(&mut open) {
            match seen.remove(&key) {
                None => {}
                Some(held) if before.as_ref() == Some(&held) => {
                    different.push(Difference { key, held });
                }
                Some(held) => {
                    open.insert(key, Some(held));
                }
            }
        }
    }
    different.sort_by(|one, other| one.key.cmp(&other.key));
    Ok((different, open.into_keys().collect()))
}
