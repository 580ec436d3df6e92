//! The list of rows that may not be the same on all nodes (`pgaa.suspects`).
//!
//! Must not know why a row is named, nor what comes of it.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{Session, SqlError, column, sql};
use pgaa_core::rows::{NamedBy, Suspect};
use pgaa_core::verify::Key;
use serde::Serialize;
use std::time::Duration;
use uuid::Uuid;

/// A row of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// schema.table, quoted where needed.
    pub table: String,
    /// See [`Suspect::key`].
    pub key: Key,
    /// See [`Suspect::cut`].
    pub cut: bool,
    /// How long ago this node last ordered repairs of it.
    pub ordered: Option<Duration>,
    digest: Uuid,
    named_us: i64,
}

impl Named {
    /// When it was named last, microseconds of the server's clock: stands for this naming.
    #[must_use]
    pub fn named_us(&self) -> i64 {
        self.named_us
    }

    /// Is the whole table meant?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.key.is_empty()
    }
}

/// Names rows, in whichever transaction the session is in: where they are named for something that
/// was read, the position behind it is stored in the same one, so that none is forgotten.
pub(super) async fn name(session: &Session, suspects: &[Suspect]) -> Result<(), SqlError> {
    if suspects.is_empty() {
        return Ok(());
    }
    let sql = sql!("suspects_name");
    let named = as_json(suspects)?;
    session.rows(&sql, &[&named]).await.map(drop)
}

/// Names all replicated tables, likewise. Asks the server which they are: an agent that has just
/// started doesn't know yet.
pub(super) async fn name_all(session: &Session, by: NamedBy) -> Result<(), SqlError> {
    let sql = sql!("suspects_name_all");
    session.rows(&sql, &[&by.word()]).await.map(drop)
}

impl Postgres {
    /// Has all replicated tables compared as a whole.
    pub async fn name_all_tables(&self, by: NamedBy) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        name_all(&session, by).await?;
        self.give_back(session);
        Ok(())
    }

    /// Names rows.
    pub async fn name_suspects(&self, suspects: &[Suspect]) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        name(&session, suspects).await?;
        self.give_back(session);
        Ok(())
    }

    /// The rows that were named first, whole tables behind them; they stay in the list.
    pub async fn suspects(&self, count_max: i64) -> Result<Vec<Named>, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("suspects_take");
        let rows = session.rows(&sql, &[&count_max]).await?;
        self.give_back(session);
        let one = |row| {
            Ok(Named {
                table: column(sql.name, row, 0)?,
                key: column(sql.name, row, 1)?,
                cut: column(sql.name, row, 2)?,
                digest: column(sql.name, row, 3)?,
                named_us: column(sql.name, row, 4)?,
                ordered: column::<Option<i64>>(sql.name, row, 5)?
                    .map(|age_ms| Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))),
            })
        };
        rows.iter().map(one).collect()
    }

    /// How many rows are in the list, counted up to `count_max`.
    pub async fn suspects_count(&self, count_max: i64) -> Result<u64, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("suspects_count");
        let row = session.row(&sql, &[&count_max]).await?;
        self.give_back(session);
        Ok(column::<i64>(sql.name, &row, 0)?.unsigned_abs())
    }

    /// These are the same on all nodes.
    pub async fn settle_suspects(&self, settled: &[Named]) -> Result<(), SqlError> {
        let times: Vec<i64> = settled.iter().map(|named| named.named_us).collect();
        let (tables, digests) = columns(settled);
        let session = self.take(Purpose::Change).await?;
        session
            .rows(&sql!("suspects_settle"), &[&tables, &digests, &times])
            .await?;
        self.give_back(session);
        Ok(())
    }

    /// Repairs of these rows are being ordered.
    pub async fn order_repairs(&self, table: &str, keys: &[Key]) -> Result<(), SqlError> {
        let sql = sql!("suspects_order");
        let keys = as_json(keys)?;
        let session = self.take(Purpose::Change).await?;
        session.rows(&sql, &[&table, &keys]).await?;
        self.give_back(session);
        Ok(())
    }

    /// Nobody waits any more for repairs of these.
    pub async fn end_orders(&self, over: &[Named]) -> Result<(), SqlError> {
        let (tables, digests) = columns(over);
        let session = self.take(Purpose::Change).await?;
        session
            .rows(&sql!("suspects_orders_over"), &[&tables, &digests])
            .await?;
        self.give_back(session);
        Ok(())
    }

    /// These are looked at again, after all others.
    pub async fn put_off_suspects(&self, open: &[Named]) -> Result<(), SqlError> {
        let (tables, digests) = columns(open);
        let session = self.take(Purpose::Change).await?;
        session
            .rows(&sql!("suspects_put_off"), &[&tables, &digests])
            .await?;
        self.give_back(session);
        Ok(())
    }

    /// Names whole tables instead of the rows in the list. Returns the tables.
    pub async fn give_up_suspects(&self) -> Result<Vec<String>, SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        let sql = sql!("suspects_give_up");
        let rows = session.rows(&sql, &[]).await?;
        let tables: Vec<String> = rows
            .iter()
            .map(|row| column(sql.name, row, 0))
            .collect::<Result<_, _>>()?;
        let whole = tables.iter().map(|t| Suspect::whole(t, NamedBy::Verify));
        name(&session, &whole.collect::<Vec<_>>()).await?;
        session.commit().await?;
        self.give_back(session);
        Ok(tables)
    }
}

/// A list for the server, which has no type for lists of lists of different lengths.
pub(super) fn as_json<T: Serialize + ?Sized>(list: &T) -> Result<String, SqlError> {
    serde_json::to_string(list).map_err(|error| SqlError::Unexpected {
        what: "naming rows",
        found: format!("they can't be written as JSON: {error}"),
    })
}

fn columns(named: &[Named]) -> (Vec<&str>, Vec<Uuid>) {
    let columns = named.iter().map(|one| (one.table.as_str(), one.digest));
    columns.unzip()
}
