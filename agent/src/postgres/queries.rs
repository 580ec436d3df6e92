//! The queries that compare and mend one table, as the server itself writes them.

use super::session::{Session, SqlError, column, sql};
use pgaa_core::verify::Key;

/// What all of them do is in `sql/table_queries.sql`.
pub(super) struct Queries {
    pub(super) shape: i64,
    pub(super) digest: String,
    pub(super) bound: String,
    pub(super) rows: String,
    pub(super) look: String,
    pub(super) versions: String,
    pub(super) canonical: String,
    pub(super) begins: String,
    pub(super) values: String,
    pub(super) rivals: String,
    pub(super) insert: String,
    /// `None` for a table that has only its key.
    pub(super) update: Option<String>,
    pub(super) delete: String,
    pub(super) key: Vec<String>,
    pub(super) columns: Vec<String>,
}

/// Step and table, for messages.
pub(super) const WHAT: &str = "comparing a table";

/// That something doesn't fit.
pub(super) fn unexpected(found: String) -> SqlError {
    SqlError::Unexpected { what: WHAT, found }
}

/// The queries of a replicated table.
pub(super) async fn queries(session: &Session, table: &str) -> Result<Queries, SqlError> {
    let found = queries_if_any(session, table).await?;
    found.ok_or_else(|| {
        unexpected(format!(
            "{table} is not replicated here, or has no primary key; see: pgaa-agent status"
        ))
    })
}

/// The same; `None` for a table that is not replicated here, or has no primary key.
pub(super) async fn queries_if_any(
    session: &Session,
    table: &str,
) -> Result<Option<Queries>, SqlError> {
    let sql = sql!("table_queries");
    let Some(row) = session.maybe(&sql, &[&table]).await? else {
        return Ok(None);
    };
    let text = |index| column::<String>(sql.name, &row, index);
    Ok(Some(Queries {
        shape: column(sql.name, &row, 0)?,
        digest: text(1)?,
        bound: text(2)?,
        rows: text(3)?,
        look: text(4)?,
        versions: text(5)?,
        canonical: text(6)?,
        begins: text(7)?,
        values: text(8)?,
        rivals: text(9)?,
        insert: text(10)?,
        update: column(sql.name, &row, 11)?,
        delete: text(12)?,
        key: column(sql.name, &row, 13)?,
        columns: column(sql.name, &row, 14)?,
    }))
}

/// These keys as this server itself would write them, in the same order: `true` for `t`.
pub(super) async fn canonical(
    session: &Session,
    queries: &Queries,
    keys: &[Key],
) -> Result<Vec<Key>, SqlError> {
    let flat: Vec<&String> = keys.iter().flatten().collect();
    let rows = session.rows_by(WHAT, &queries.canonical, &[&flat]).await?;
    let found: Vec<Key> = rows
        .iter()
        .map(|row| column(WHAT, row, 0))
        .collect::<Result<_, _>>()?;
    match found.len() == keys.len() {
        true => Ok(found),
        false => Err(unexpected("a key has another number of columns".to_owned())),
    }
}
