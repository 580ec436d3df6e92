//! Rows that refer to nothing. Replication checks no foreign key, and nor does a repair.

use super::Postgres;
use super::session::{Purpose, SqlError, column, sql};
use pgaa_core::rows::Referrers;
use pgaa_core::verify::Key;
use std::collections::BTreeSet;

/// Rows whose foreign key refers to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    /// The constraint.
    pub constraint: String,
    /// The table they are in: schema.table, quoted where needed.
    pub table: String,
    /// The table that lacks what they refer to.
    pub parent: String,
    /// Their primary keys, a thousand at most.
    pub keys: BTreeSet<Key>,
}

impl Postgres {
    /// Looks for rows that refer to nothing: rows of `table` with these keys, and rows of other
    /// tables that refer to these keys.
    pub async fn orphans(&self, table: &str, keys: &[Key]) -> Result<Vec<Orphans>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let sql = sql!("foreign_keys");
        let flat: Vec<&String> = keys.iter().flatten().collect();
        let mut found = Vec::new();
        for row in session.rows(&sql, &[&table]).await? {
            let query: String = column(sql.name, &row, 3)?;
            let rows = session
                .rows_by("looking for what rows refer to", &query, &[&flat])
                .await?;
            let keys: BTreeSet<Key> = rows
                .iter()
                .map(|row| column(sql.name, row, 0))
                .collect::<Result<_, SqlError>>()?;
            if !keys.is_empty() {
                found.push(Orphans {
                    constraint: column(sql.name, &row, 0)?,
                    table: column(sql.name, &row, 1)?,
                    parent: column(sql.name, &row, 2)?,
                    keys,
                });
            }
        }
        self.give_back(session);
        Ok(found)
    }

    /// How many rows refer to the row of `table` with this key, by which foreign key.
    pub async fn referrers(&self, table: &str, key: &Key) -> Result<Vec<Referrers>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let sql = sql!("referrers");
        let mut found = Vec::new();
        for row in session.rows(&sql, &[&table, key]).await? {
            let query: String = column(sql.name, &row, 2)?;
            let what = "looking for rows that refer to one";
            let counted = session.rows_by(what, &query, &[key]).await?;
            let counted = counted.first().map(|row| column::<i64>(what, row, 0));
            let rows = counted.transpose()?.unwrap_or(0).unsigned_abs();
            if rows > 0 {
                found.push(Referrers {
                    constraint: column(sql.name, &row, 0)?,
                    table: column(sql.name, &row, 1)?,
                    rows,
                    command: column(sql.name, &row, 3)?,
                });
            }
        }
        self.give_back(session);
        Ok(found)
    }
}
