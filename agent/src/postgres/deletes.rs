//! What this node itself has deleted, from its own WAL: a slot that is read by `test_decoding`,
//! for this node's own transactions alone, and kept a little behind.
//!
//! A delete leaves nothing behind in the table, and pglogical logs none that it applies: without
//! this list nobody could tell a row that was deleted from one that never arrived. Must not know
//! what the list is for.

use super::Postgres;
use super::purpose::Purpose;
use super::queries::{canonical, queries_if_any};
use super::session::{Session, SqlError, column, sql};
use super::suspects;
use log::warn;
use pgaa_core::rows::{Change, NamedBy, Suspect, decode};
use pgaa_core::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
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

/// What is counted already may be on disk only so much later (three times `wal_writer_delay`, where
/// commits don't wait for the disk, and much reserve).
const WRITTEN_WITHIN: Duration = Duration::from_secs(3);

/// What reading the own deletes has brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletes {
    /// Can they not be read, because the slot isn't there, or was lost?
    pub unknown: bool,
    /// Rows that were named, and whole tables: those that were emptied, or of which too much was
    /// deleted to name it row by row, or whose deletes don't tell their primary keys.
    pub named: usize,
}

/// What the counters said when, to leave alone WAL in which nothing is deleted.
#[derive(Debug, Default)]
pub(super) struct Calm {
    /// Rows that were deleted, and where the tables' files are.
    counted: Option<(i64, i64)>,
    /// When that was another one than before.
    changed: Option<Mono>,
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
        // Before the position: what is counted here must not lie behind it.
        let calms = match at_rest {
            Some(now) => calm.counts(&session, now).await?,
            None => false,
        };
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
        if let (Some(now), true) = (at_rest, calms) {
            let unread = calm.rest((now, end));
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
    /// Was nothing counted since the last look, nor shortly before?
    async fn counts(&mut self, session: &Session, now: Mono) -> Result<bool, SqlError> {
        let sql = sql!("deletes_counted");
        let row = session.row(&sql, &[]).await?;
        let counted = (column(sql.name, &row, 0)?, column(sql.name, &row, 1)?);
        if self.counted.replace(counted) != Some(counted) {
            self.changed = Some(now);
        }
        let recent = |changed: Mono| now.since(changed) < WRITTEN_WITHIN;
        let calms = !self.changed.is_some_and(recent);
        if !calms {
            self.since = None;
        }
        Ok(calms)
    }

    /// Up to where the WAL holds no deletes, when none were counted.
    fn rest(&mut self, (now, end): (Mono, PgLsn)) -> PgLsn {
        let (began, position) = *self.since.get_or_insert((now, end));
        if now.since(began) < COUNTED_WITHIN {
            return PgLsn::from(0);
        }
        self.since = Some((now, end));
        position
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
    let mut whole: BTreeSet<String> = BTreeSet::new();
    for (line, at_us) in &part.gone {
        match decode(line) {
            Ok(Some(Change::Emptied { tables })) => whole.extend(tables),
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
            whole.insert(table);
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
    let whole = whole.iter().map(|t| Suspect::whole(t, NamedBy::Delete));
    let whole: Vec<Suspect> = whole.collect();
    suspects::name(session, &whole).await?;
    deletes.named += whole.len();
    Ok(())
}
