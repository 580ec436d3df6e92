//! Hashes of whole tables, as they are now or as a snapshot shows them.
//!
//! Must not know what they are compared with.

use super::Postgres;
use super::purpose::Purpose;
use super::queries::queries;
use super::session::{Session, SqlError, column};
use super::source::begin;
use pgaa_core::verify::{Digest, Key};

async fn digest(session: &Session, table: &str) -> Result<Digest, SqlError> {
    let queries = queries(session, table).await?;
    let what = "hashing a table";
    let all: Option<Key> = None;
    let rows = session
        .rows_by(what, &queries.digest, &[&all, &all])
        .await?;
    let row = rows.first().ok_or_else(|| SqlError::Unexpected {
        what,
        found: "no row".to_owned(),
    })?;
    Ok(Digest {
        rows: column::<i64>(what, row, 0)?.unsigned_abs(),
        hash: [column(what, row, 1)?, column(what, row, 2)?],
    })
}

impl Postgres {
    /// Hashes all rows of a table.
    pub async fn digest_whole(&self, table: &str) -> Result<Digest, SqlError> {
        let session = self.open(Purpose::CompareWhole).await?;
        digest(&session, table).await
    }

    /// Hashes all rows that a snapshot shows, of each of these tables. The snapshot is needed only
    /// until this has begun.
    pub async fn digests_under(
        &self,
        snapshot: &str,
        tables: &[String],
    ) -> Result<Vec<Digest>, SqlError> {
        let session = self.open(Purpose::CompareWhole).await?;
        session.script("a snapshot", &begin(snapshot)).await?;
        let mut digests = Vec::with_capacity(tables.len());
        for table in tables {
            digests.push(digest(&session, table).await?);
        }
        Ok(digests)
    }
}
