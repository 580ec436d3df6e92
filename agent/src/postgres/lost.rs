//! Whole rows by their keys, read from one server and written to another as any application
//! writes them: triggers fire, and the mesh replicates them.
//!
//! Must not know which rows, nor why.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{Session, SqlError, column, sql};
use pgaa_core::verify::Key;
use tokio_postgres::Row;

/// One row as it lies in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeRow {
    /// Its primary key.
    pub key: Key,
    /// The row as PostgreSQL writes it; it can be read back.
    pub text: String,
    /// Its values by column, as a JSON object of texts.
    pub values: String,
    /// The transaction that wrote it: it identifies this version of the row here.
    pub xmin: String,
    /// When that was committed, where it is still known.
    pub committed: Option<String>,
}

struct Queries {
    structure: String,
    fetch: String,
    insert: String,
    update: Option<String>,
}

async fn queries(session: &Session, table: &str) -> Result<Queries, SqlError> {
    let sql = sql!("row_queries");
    let Some(row) = session.maybe(&sql, &[&table]).await? else {
        return Err(SqlError::Unexpected {
            what: sql.name,
            found: format!(
                "there is no table {table}, or it has no primary key; see: pgaa-agent status"
            ),
        });
    };
    Ok(Queries {
        structure: column(sql.name, &row, 0)?,
        fetch: column(sql.name, &row, 1)?,
        insert: column(sql.name, &row, 2)?,
        update: column(sql.name, &row, 3)?,
    })
}

fn keys_of(rows: &[Row], what: &'static str) -> Result<Vec<Key>, SqlError> {
    rows.iter().map(|row| column(what, row, 0)).collect()
}

impl Postgres {
    /// The replicated tables.
    pub async fn user_tables(&self) -> Result<Vec<String>, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("user_tables");
        let rows = session.rows(&sql, &[]).await?;
        self.give_back(session);
        rows.iter().map(|row| column(sql.name, row, 0)).collect()
    }

    /// Which table refers to which: child, parent.
    pub async fn references(&self) -> Result<Vec<(String, String)>, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("references");
        let rows = session.rows(&sql, &[]).await?;
        self.give_back(session);
        let pair = |row: &Row| Ok((column(sql.name, row, 0)?, column(sql.name, row, 1)?));
        rows.iter().map(pair).collect()
    }

    /// A table's columns and key in words: a row of one fits where these are equal.
    pub async fn row_structure(&self, table: &str) -> Result<String, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        self.give_back(session);
        Ok(queries.structure)
    }

    /// The rows with these keys, as far as they are there.
    pub async fn whole_rows(&self, table: &str, keys: &[Key]) -> Result<Vec<WholeRow>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let what = "reading whole rows";
        let flat: Vec<&String> = keys.iter().flatten().collect();
        let rows = session.rows_by(what, &queries.fetch, &[&flat]).await?;
        self.give_back(session);
        let whole = |row: &Row| {
            Ok(WholeRow {
                key: column(what, row, 0)?,
                text: column(what, row, 1)?,
                values: column(what, row, 2)?,
                xmin: column(what, row, 3)?,
                committed: column(what, row, 4)?,
            })
        };
        rows.iter().map(whole).collect()
    }

    /// Inserts rows, all or none; the keys of those that weren't in the way of another.
    pub async fn write_deleted(&self, table: &str, rows: &[String]) -> Result<Vec<Key>, SqlError> {
        let session = self.open(Purpose::WriteBack).await?;
        let queries = queries(&session, table).await?;
        let what = "writing rows back";
        let written = session.rows_by(what, &queries.insert, &[&rows]).await?;
        keys_of(&written, what)
    }

    /// Sets rows to what they were where they are still what was seen, all or none; the keys of
    /// those.
    pub async fn write_changed(
        &self,
        table: &str,
        rows: &[String],
        seen: &[String],
    ) -> Result<Vec<Key>, SqlError> {
        let session = self.open(Purpose::WriteBack).await?;
        let Some(update) = queries(&session, table).await?.update else {
            return Ok(Vec::new());
        };
        let what = "writing rows back";
        let written = session.rows_by(what, &update, &[&rows, &seen]).await?;
        keys_of(&written, what)
    }
}
