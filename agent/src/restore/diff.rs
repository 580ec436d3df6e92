//! One table, then and now: which rows are gone, which have other values, and writing them back to
//! the live server as ordinary writes.
//!
//! Ranges of the primary key are hashed on both sides and narrowed where they differ, so that a
//! table of millions with ten lost rows costs two scans. Must not know where the past comes from.

use crate::postgres::{Postgres, SqlError, WholeRow};
use anyhow::{Context, bail};
use pgaa_core::restore::lost::{LostRow, LostTable, Values, Written};
use pgaa_core::verify::{Key, Range};
use std::collections::BTreeMap;

/// Rows that are hashed at once.
const WIDE: u64 = 20_000;
/// Rows whose hashes are compared one by one.
const NARROW: u64 = 2_000;
/// Rows that are read, and written in one transaction.
const BATCH: usize = 500;

/// What a comparison has found, and which rows to write back.
#[derive(Debug, Default)]
pub struct Compared {
    /// The outcome.
    pub table: LostTable,
    /// The keys of rows that are gone.
    deleted: Vec<Key>,
    /// Rows with other values, as they were seen.
    changed: Vec<(Key, Seen)>,
}

/// A version of a row on the live server.
#[derive(Debug, Clone)]
struct Seen(String);

/// The two servers.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// The restored one.
    pub past: &'a Postgres,
    /// The live one.
    pub live: &'a Postgres,
}

impl Sides<'_> {
    /// Compares one table; of the rows that are lost, `rows_max` are shown. A table that can't be
    /// compared says why.
    pub async fn compare(&self, table: &str, rows_max: usize) -> Compared {
        let mut found = Compared {
            table: LostTable {
                table: table.to_owned(),
                ..LostTable::default()
            },
            ..Compared::default()
        };
        if let Err(error) = self.fill(&mut found, rows_max).await {
            found.table.problem = Some(format!("{error:#}"));
        }
        found
    }

    async fn fill(&self, found: &mut Compared, rows_max: usize) -> anyhow::Result<()> {
        let table = found.table.table.clone();
        let then = self
            .past
            .row_structure(&table)
            .await
            .context("in the past")?;
        let now = self.live.row_structure(&table).await.context("here")?;
        if then != now {
            bail!(
                "its columns or its key have changed since ({then}, now {now}): fetch its rows by \
                 hand: pgaa-agent backup restore --to DIR"
            );
        }
        let mut after = None;
        loop {
            let wide = self.next(&table, after, None, WIDE).await?;
            let (_, past) = self.past.digest(&table, &wide).await?;
            let (_, live) = self.live.digest(&table, &wide).await?;
            found.table.rows_then += past.rows;
            if past != live {
                self.narrow(found, &wide).await?;
            }
            after = wide.upto;
            if after.is_none() {
                break;
            }
        }
        self.show(found, rows_max).await
    }

    /// The next range behind `after` with at most `rows` rows on either side.
    async fn next(
        &self,
        table: &str,
        after: Option<Key>,
        upto: Option<Key>,
        rows: u64,
    ) -> Result<Range, SqlError> {
        let mut range = Range { after, upto };
        for side in [self.past, self.live] {
            if let Some(bound) = side.bound(table, &range, rows).await? {
                range.upto = Some(bound);
            }
        }
        Ok(range)
    }

    async fn narrow(&self, found: &mut Compared, wide: &Range) -> anyhow::Result<()> {
        let table = found.table.table.clone();
        let mut after = wide.after.clone();
        loop {
            let range = self.next(&table, after, wide.upto.clone(), NARROW).await?;
            let past = self.past.hashed_rows(&table, &range).await?;
            let live = self.live.hashed_rows(&table, &range).await?;
            let both = past.keys().filter(|key| live.contains_key(*key)).count();
            found.table.new += (live.len() - both) as u64;
            let gone = past.keys().filter(|key| !live.contains_key(*key));
            found.deleted.extend(gone.cloned());
            let differs = |(key, hash): &(&Key, _)| live.get(*key).is_some_and(|now| now != *hash);
            let differing: Vec<Key> = past
                .iter()
                .filter(differs)
                .map(|(key, _)| key.clone())
                .collect();
            self.note_changed(found, &table, &differing).await?;
            if range.upto == wide.upto {
                break;
            }
            after = range.upto;
        }
        found.table.deleted = found.deleted.len() as u64;
        found.table.changed = found.changed.len() as u64;
        Ok(())
    }

    /// Rows that have gone meanwhile are gone.
    async fn note_changed(
        &self,
        found: &mut Compared,
        table: &str,
        keys: &[Key],
    ) -> Result<(), SqlError> {
        for keys in keys.chunks(BATCH) {
            let mut rows = by_key(self.live.whole_rows(table, keys).await?);
            for key in keys {
                match rows.remove(key) {
                    Some(row) => found.changed.push((key.clone(), Seen(row.xmin))),
                    None => found.deleted.push(key.clone()),
                }
            }
        }
        Ok(())
    }

    /// Reads the first rows that are lost, with all their values.
    async fn show(&self, found: &mut Compared, rows_max: usize) -> anyhow::Result<()> {
        let changed = found.changed.iter().map(|(key, _)| key);
        let mut keys: Vec<Key> = found.deleted.iter().chain(changed).cloned().collect();
        keys.sort_by_cached_key(readable);
        keys.truncate(rows_max);
        for keys in keys.chunks(BATCH) {
            let table = &found.table.table;
            let mut then = by_key(self.past.whole_rows(table, keys).await?);
            let mut now = by_key(self.live.whole_rows(table, keys).await?);
            for key in keys {
                let (Some(then), now) = (then.remove(key), now.remove(key)) else {
                    continue;
                };
                let committed = now.as_ref().and_then(|row| row.committed.clone());
                found.table.rows.push(LostRow {
                    key: then.key,
                    then: values(&then.values)?,
                    now: now.map(|row| values(&row.values)).transpose()?,
                    changed_at: committed,
                });
            }
        }
        Ok(())
    }

    /// Writes back what a comparison has found: rows that are gone, and with `changed` those that
    /// have other values. Nothing that has come or changed since it looked is touched. What went
    /// wrong is noted in the table; what was written before stays written, and is not lost again.
    pub async fn write_back(&self, found: &mut Compared, changed: bool) {
        let mut written = Written::default();
        let done = self.write(found, changed, &mut written).await;
        found.table.written = Some(written);
        if let Err(error) = done {
            found.table.problem = Some(format!(
                "writing back ended here: {error:#}. What refers to another table's rows needs those \
                 first; then ask again: what is written already is passed over"
            ));
        }
    }

    async fn write(
        &self,
        found: &Compared,
        changed: bool,
        written: &mut Written,
    ) -> Result<(), SqlError> {
        let table = &found.table.table;
        for keys in found.deleted.chunks(BATCH) {
            let rows: Vec<String> = texts(self.past.whole_rows(table, keys).await?);
            let done = self.live.write_deleted(table, &rows).await?.len();
            written.inserted += done as u64;
            written.left += keys.len().saturating_sub(done) as u64;
        }
        if !changed {
            return Ok(());
        }
        for seen in found.changed.chunks(BATCH) {
            let keys: Vec<Key> = seen.iter().map(|(key, _)| key.clone()).collect();
            let mut then = by_key(self.past.whole_rows(table, &keys).await?);
            let rows = seen.iter().filter_map(|(key, seen)| {
                let row = then.remove(key)?;
                Some((row.text, seen.0.clone()))
            });
            let (rows, seen): (Vec<String>, Vec<String>) = rows.unzip();
            let done = self.live.write_changed(table, &rows, &seen).await?.len();
            written.updated += done as u64;
            written.left += keys.len().saturating_sub(done) as u64;
        }
        Ok(())
    }
}

fn by_key(rows: Vec<WholeRow>) -> BTreeMap<Key, WholeRow> {
    rows.into_iter().map(|row| (row.key.clone(), row)).collect()
}

/// An order for people: numbers by their size, the rest as text.
fn readable(key: &Key) -> Vec<(i128, String)> {
    let part = |text: &String| match text.parse::<i128>() {
        Ok(number) => (number, String::new()),
        Err(_) => (i128::MAX, text.clone()),
    };
    key.iter().map(part).collect()
}

fn texts(rows: Vec<WholeRow>) -> Vec<String> {
    rows.into_iter().map(|row| row.text).collect()
}

fn values(json: &str) -> anyhow::Result<Values> {
    serde_json::from_str(json).context("the server's answer makes no sense; upgrade pgaa-agent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_in_an_order_for_people() {
        let mut keys: Vec<Key> = ["10", "9", "b", "a", "-1"]
            .iter()
            .map(|part| vec![(*part).to_owned()])
            .collect();
        keys.sort_by_cached_key(readable);
        assert_eq!(keys.concat(), ["-1", "9", "10", "a", "b"]);
    }
}
