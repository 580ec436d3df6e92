//! Hashes of the rows of one table, by ranges of its primary key.
//!
//! Must not know what they are compared with.

use super::Postgres;
use super::purpose::Purpose;
use super::queries::{WHAT, queries, unexpected};
use super::session::{SqlError, column};
use pgaa_core::verify::{Digest, Key, Range, RowHash};
use std::collections::BTreeMap;
use tokio_postgres::Row;

/// Rows of a range that is asked for row by row at most: it was counted a moment ago, and found
/// to be much smaller.
const ROWS_MAX: i64 = 4_000;

/// A table as it is compared here: it stands for its columns and key, and is equal where those are.
pub type Shape = i64;

fn hashed(rows: &[Row]) -> Result<BTreeMap<Key, RowHash>, SqlError> {
    let what = WHAT;
    let one = |row: &Row| {
        let hash = [column(what, row, 1)?, column(what, row, 2)?];
        Ok((column(what, row, 0)?, hash))
    };
    rows.iter().map(one).collect()
}

impl Postgres {
    /// The shape of a table.
    pub async fn shape(&self, table: &str) -> Result<Shape, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        self.give_back(session);
        Ok(queries.shape)
    }

    /// Hashes the rows of a range.
    pub async fn digest(&self, table: &str, range: &Range) -> Result<(Shape, Digest), SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let what = WHAT;
        let rows = session
            .rows_by(what, &queries.digest, &[&range.after, &range.upto])
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| unexpected("no row".to_owned()))?;
        let digest = Digest {
            rows: column::<i64>(what, row, 0)?.unsigned_abs(),
            hash: [column(what, row, 1)?, column(what, row, 2)?],
        };
        self.give_back(session);
        Ok((queries.shape, digest))
    }

    /// The key of the row number `step` of a range.
    pub async fn bound(
        &self,
        table: &str,
        range: &Range,
        step: u64,
    ) -> Result<Option<Key>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let step = i64::try_from(step.max(1)).unwrap_or(i64::MAX);
        let what = WHAT;
        let rows = session
            .rows_by(what, &queries.bound, &[&range.after, &range.upto, &step])
            .await?;
        let bound = rows.first().map(|row| column(what, row, 0)).transpose()?;
        self.give_back(session);
        Ok(bound)
    }

    /// The rows of a small range.
    pub async fn hashed_rows(
        &self,
        table: &str,
        range: &Range,
    ) -> Result<BTreeMap<Key, RowHash>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let limit = ROWS_MAX + 1;
        let what = WHAT;
        let rows = session
            .rows_by(what, &queries.rows, &[&range.after, &range.upto, &limit])
            .await?;
        if i64::try_from(rows.len()).is_ok_and(|count| count > ROWS_MAX) {
            return Err(unexpected(format!(
                "a small range of {table} has grown to more than {ROWS_MAX} rows meanwhile; \
                 compare it again when less is written: pgaa-agent verify {table}"
            )));
        }
        self.give_back(session);
        hashed(&rows)
    }

    /// The rows with these keys, as far as they are there.
    pub async fn hashed_keys(
        &self,
        table: &str,
        keys: &[Key],
    ) -> Result<BTreeMap<Key, RowHash>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let flat: Vec<&String> = keys.iter().flatten().collect();
        let rows = session.rows_by(WHAT, &queries.look, &[&flat]).await?;
        self.give_back(session);
        hashed(&rows)
    }
}
