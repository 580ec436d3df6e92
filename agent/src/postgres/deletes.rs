//! What this node itself has deleted, from its own WAL: a slot that is read by `test_decoding`,
//! for this node's own transactions alone, and kept a little behind.
//!
//! A delete leaves nothing behind in the table, and pglogical logs none that it applies: without
//! this list nobody could tell a row that was deleted from one that never arrived. Must not know
//! what the list is for.

use super::Postgres;
use super::queries::{canonical, queries_if_any};
use super::session::{Purpose, Session, SqlError, column, sql};
use super::suspects;
use log::warn;
use pgaa_core::rows::{Change, NamedBy, Suspect, decode};
use pgaa_core::time::Mono;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::types::PgLsn;

/// The slot's name.
pub const DELETES_SLOT: &str = "pgaa_deletes";

/// Changes that are read at once. A transaction is never cut.
const CHANGES: i32 = 100_000;

/// Deletes of one reading that are named. With more the tables are compared as a whole.
const GONE_MAX: i64 = 100_000;

/// PostgreSQL's counters may be so much late (`PGSTAT_IDLE_INTERVAL` and some reserve): what was
/// written before, with nothing counted since, holds no delete.
const COUNTED_WITHIN: Duration = Duration::from_secs(15);

/// What reading the own deletes has brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletes {
    /// Can they not be read, because the slot isn't there, or was lost?
    pub unknown: bool,
    /// Rows that were named.
    pub named: usize,
    /// Tables that were emptied, or of which too much was deleted to name it row by row, or whose
    /// deletes don't tell their primary keys.
    pub whole: Vec<String>,
}

/// What the counters said when, to leave alone WAL in which nothing is deleted.
#[derive(Debug, Default)]
pub(super) struct Calm {
    deleted: Option<i64>,
    since: Option<(Mono, PgLsn)>,
}

impl Postgres {
    /// Makes sure that own deletes are remembered from now on. `from_birth` says that nobody has
    /// written here before. Returns whether there is a gap: the slot was lost, or made only now.
    pub async fn remember_deletes(&self, from_birth: bool) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Long).await?;
        let known = session.maybe(&sql!("deletes_known"), &[]).await?;
        let slot = sql!("deletes_slot");
        let found = session.maybe(&slot, &[&DELETES_SLOT]).await?;
        let readable = match &found {
            Some(row) => column::<bool>(slot.name, row, 0)?,
            None => false,
        };
        if readable && known.is_some() {
            self.give_back(session);
            return Ok(false);
        }
        if found.is_some() {
            session.rows(&sql!("slot_drop"), &[&DELETES_SLOT]).await?;
        }
        session
            .rows(&sql!("deletes_slot_create"), &[&DELETES_SLOT])
            .await?;
        let from_birth = from_birth && known.is_none();
        session
            .rows(&sql!("deletes_known_set"), &[&from_birth])
            .await?;
        self.give_back(session);
        Ok(!from_birth)
    }

    /// Drops what own deletes are read from, with the WAL that it holds back.
    pub async fn forget_deletes(&self) -> Result<(), SqlError> {
        let _nobody_reads = self.inner.calm.lock().await;
        let session = self.take(Purpose::Change).await?;
        session.rows(&sql!("slot_drop"), &[&DELETES_SLOT]).await?;
        self.give_back(session);
        Ok(())
    }

    /// Names the rows that this node has deleted since it was last asked: with a time, which is
    /// the agent's, only when the server has counted deletes; without one everything that is on
    /// disk is read.
    pub async fn name_deletes(&self, at_rest: Option<Mono>) -> Result<Deletes, SqlError> {
        // One at a time: two would name everything twice.
        let mut calm = self.inner.calm.lock().await;
        let session = self.take(Purpose::Decode).await?;
        let slot = sql!("deletes_slot");
        let mut deletes = Deletes::default();
        let found = session.maybe(&slot, &[&DELETES_SLOT]).await?;
        let readable = match &found {
            Some(row) => column::<bool>(slot.name, row, 0)?,
            None => false,
        };
        let (Some(row), true) = (found, readable) else {
            self.give_back(session);
            deletes.unknown = true;
            return Ok(deletes);
        };
        let mut read: PgLsn = column(slot.name, &row, 1)?;
        let end: PgLsn = column(slot.name, &row, 2)?;
        if let Some(now) = at_rest
            && let Some(unread) = calm.rest(&session, (now, end)).await?
        {
            if unread > read {
                advance(&session, unread).await?;
            }
            self.give_back(session);
            return Ok(deletes);
        }
        while read < end {
            let part = read_part(&session, end).await?;
            session.begin().await?;
            name(&session, &part, &mut deletes).await?;
            session.commit().await?;
            read = match part.upto {
                Some(upto) if part.changes >= i64::from(CHANGES) => upto,
                Some(_) | None => end,
            };
            advance(&session, read).await?;
        }
        self.give_back(session);
        Ok(deletes)
    }
}

impl Calm {
    /// Up to where the WAL holds no deletes, if none were counted since the last look.
    async fn rest(
        &mut self,
        session: &Session,
        (now, end): (Mono, PgLsn),
    ) -> Result<Option<PgLsn>, SqlError> {
        let sql = sql!("deletes_counted");
        let row = session.row(&sql, &[]).await?;
        let deleted: i64 = column(sql.name, &row, 0)?;
        if self.deleted.replace(deleted) != Some(deleted) {
            self.since = None;
            return Ok(None);
        }
        let (began, position) = *self.since.get_or_insert((now, end));
        if now.since(began) < COUNTED_WITHIN {
            return Ok(Some(PgLsn::from(0)));
        }
        self.since = Some((now, end));
        Ok(Some(position))
    }
}

async fn advance(session: &Session, upto: PgLsn) -> Result<(), SqlError> {
    let sql = sql!("deletes_advance");
    session.rows(&sql, &[&DELETES_SLOT, &upto]).await.map(drop)
}

/// A part of the WAL.
struct Part {
    changes: i64,
    upto: Option<PgLsn>,
    gone: Vec<(String, i64)>,
}

async fn read_part(session: &Session, end: PgLsn) -> Result<Part, SqlError> {
    let sql = sql!("deletes_read");
    let row = session
        .row(&sql, &[&DELETES_SLOT, &end, &CHANGES, &(GONE_MAX + 1)])
        .await?;
    let lines: Vec<String> = column(sql.name, &row, 2)?;
    let times: Vec<i64> = column(sql.name, &row, 3)?;
    Ok(Part {
        changes: column(sql.name, &row, 0)?,
        upto: column(sql.name, &row, 1)?,
        gone: lines.into_iter().zip(times).collect(),
    })
}

/// Names what a part of the WAL has deleted.
async fn name(session: &Session, part: &Part, deletes: &mut Deletes) -> Result<(), SqlError> {
    let mut rows: BTreeMap<String, Vec<(Change, i64)>> = BTreeMap::new();
    for (line, at_us) in &part.gone {
        match decode(line) {
            Ok(Some(Change::Emptied { tables })) => deletes.whole.extend(tables),
            Ok(Some(change @ Change::Gone { .. })) => {
                let Change::Gone { table, .. } = &change else {
                    continue;
                };
                let list = rows.entry(table.clone()).or_default();
                list.push((change, *at_us));
            }
            Ok(None) => {}
            Err(error) => warn!("{error}: a delete may go unnoticed"),
        }
    }
    let too_many = i64::try_from(part.gone.len()).is_ok_and(|count| count > GONE_MAX);
    for (table, gone) in rows {
        let Some(queries) = queries_if_any(session, &table).await? else {
            continue;
        };
        let keys: Vec<_> = gone
            .iter()
            .filter_map(|(c, _)| c.key(&queries.key))
            .collect();
        if too_many || keys.len() != gone.len() {
            deletes.whole.push(table);
            continue;
        }
        let keys = canonical(session, &queries, &keys).await?;
        let suspect = |(key, (_, at_us)): (Vec<String>, &(Change, i64))| Suspect {
            table: table.clone(),
            key,
            cut: false,
            by: NamedBy::Delete,
            deleted_us: Some(*at_us),
        };
        let named: Vec<Suspect> = keys.into_iter().zip(&gone).map(suspect).collect();
        suspects::name(session, &named).await?;
        deletes.named += named.len();
    }
    Ok(())
}
