//! What the server's archiver does, and what waits for it. Only looks.

use super::Postgres;
use super::session::{Purpose, SqlError, column, sql};
use pgaa_core::backup::archiving::ArchiverFacts;
use pgaa_core::time::Wall;

impl Postgres {
    /// Looks at the archiver.
    pub async fn archiver(&self) -> Result<ArchiverFacts, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("archiver");
        let row = session.row(&sql, &[]).await?;
        let number = |at: usize| column::<Option<i64>>(sql.name, &row, at);
        let facts = ArchiverFacts {
            enabled: column(sql.name, &row, 0)?,
            command: column(sql.name, &row, 1)?,
            library: column(sql.name, &row, 2)?,
            place: column(sql.name, &row, 3)?,
            segment_bytes: number(4)?.unwrap_or_default().unsigned_abs(),
            waiting: number(5)?.unwrap_or_default().unsigned_abs(),
            waiting_since: number(6)?.map(Wall),
            archived_at: number(7)?.map(Wall),
            archived: column(sql.name, &row, 8)?,
            failed_at: number(9)?.map(Wall),
            failed: column(sql.name, &row, 10)?,
        };
        self.give_back(session);
        Ok(facts)
    }
}
