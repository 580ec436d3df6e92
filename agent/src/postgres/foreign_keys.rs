//! Rows that refer to nothing. Replication checks no foreign key, and nor does a repair.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{Params, SqlError, column, sql};
use pgaa_core::rows::Referrers;
use pgaa_core::verify::{Key, Orphans, Range};
use tokio_postgres::Row;

/// For messages.
const WHAT: &str = "looking for what rows refer to";

/// What a foreign key's query has found, if anything.
fn orphans(
    what: &'static str,
    constraint: &Row,
    rows: &[Row],
) -> Result<Option<Orphans>, SqlError> {
    let keys = rows.iter().map(|row| column(what, row, 0));
    let found = Orphans {
        constraint: column(what, constraint, 0)?,
        table: column(what, constraint, 1)?,
        parent: column(what, constraint, 2)?,
        keys: keys.collect::<Result<_, SqlError>>()?,
    };
    Ok(Some(found).filter(|found| !found.keys.is_empty()))
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
            let rows = session.rows_by(WHAT, &query, &[&flat]).await?;
            found.extend(orphans(sql.name, &row, &rows)?);
        }
        self.give_back(session);
        Ok(found)
    }

    /// Looks for rows of `table` in this range of its primary key that refer to nothing.
    pub async fn orphans_in(&self, table: &str, range: &Range) -> Result<Vec<Orphans>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let sql = sql!("foreign_keys");
        let mut found = Vec::new();
        for row in session.rows(&sql, &[&table]).await? {
            let Some(query) = column::<Option<String>>(sql.name, &row, 4)? else {
                continue;
            };
            let bounds: Params<'_> = &[&range.after, &range.upto];
            let rows = session.rows_by(WHAT, &query, bounds).await?;
            found.extend(orphans(sql.name, &row, &rows)?);
        }
        self.give_back(session);
        Ok(found)
    }

    /// Do rows of this table refer to others at all?
    pub async fn refers(&self, table: &str) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let sql = sql!("foreign_keys");
        let rows = session.rows(&sql, &[&table]).await?;
        self.give_back(session);
        let of_it = |row| Ok(column::<Option<String>>(sql.name, row, 4)?.is_some());
        let of_it: Vec<bool> = rows.iter().map(of_it).collect::<Result<_, SqlError>>()?;
        Ok(of_it.contains(&true))
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
