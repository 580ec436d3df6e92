//! What was read in the server's log, in the schema `pgaa`: conflicts, counts, and how far each file
//! was read. All that one read brings is written in one transaction with the position behind it,
//! so that a line counts exactly once.
//!
//! Must not know what a line means.

use super::log_files::FileId;
use super::provision::OUR_FILE;
use super::purpose::Purpose;
use super::session::{Params, Session, SqlError, column, sql};
use super::{Postgres, suspects};
use pgaa_core::conflicts::report::{Counts, Hot, Shown};
use pgaa_core::conflicts::tuple::{Column, Shape};
use pgaa_core::ids::{Lsn, NodeId};
use pgaa_core::rows::{NamedBy, Suspect};
use pgaa_core::time::Wall;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

/// Where the server logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlace {
    /// The OID of the mesh's database.
    pub database: u32,
    /// The directory of the logs.
    pub directory: PathBuf,
    /// The JSON file that is written now; `None` when there is no JSON log.
    pub current: Option<String>,
    /// Are conflicts logged with their rows?
    pub whole: bool,
    /// Are the files ours to remove?
    pub ours: bool,
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// So many bytes.
    pub read_to: u64,
    /// Was that its end, when a newer file was there?
    pub ended: bool,
}

/// What is known of the reading so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogState {
    /// The files.
    pub positions: BTreeMap<FileId, Position>,
    /// Was the log read before?
    pub begun: bool,
    /// What of it is lost, until all tables were compared.
    pub gap: Option<String>,
}

/// A row of `pgaa.conflict_history`.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
#[expect(missing_docs, reason = "see the comments on the table's columns")]
pub struct ConflictRow {
    pub apply_xid: Option<String>,
    pub logged_us: i64,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub index: Option<String>,
    pub key: Option<String>,
    pub remote_node: Option<NodeId>,
    pub remote_name: Option<String>,
    pub remote_xid: Option<String>,
    pub remote_us: Option<i64>,
    pub remote_lsn: Option<Lsn>,
    pub kind: &'static str,
    pub resolution: &'static str,
    pub local_tuple: Option<serde_json::Value>,
    pub remote_tuple: Option<serde_json::Value>,
    pub local_xid: Option<String>,
    pub local_node: Option<NodeId>,
    pub local_name: Option<String>,
    pub local_us: Option<i64>,
    pub concurrent: Option<bool>,
    pub clock_trusted: bool,
    pub message: Option<String>,
    pub sqlstate: Option<String>,
    pub detail: Option<String>,
}

/// A part of a row of `pgaa.conflict_tally`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "see the comments on the table's columns")]
pub struct TallyRow {
    pub logged_us: i64,
    pub schema: String,
    pub table: String,
    pub remote_node: Uuid,
    pub local_node: Uuid,
    pub kind: &'static str,
    pub resolution: &'static str,
    pub lines: u64,
    pub conflicts: u64,
    pub unsure: u64,
}

/// A file that was read on, and how far it had been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The file.
    pub file: FileId,
    /// Where it stood; `None` for one that is new.
    pub from: Option<u64>,
    /// Where it stands.
    pub to: Position,
}

/// What one read brings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogBatch {
    /// Conflicts that are worth a row.
    pub rows: Vec<ConflictRow>,
    /// All of them, counted.
    pub tallies: Vec<TallyRow>,
    /// How far files were read.
    pub moves: Vec<Move>,
    /// Files that are gone.
    pub gone: Vec<FileId>,
    /// What can't be read any more. All tables are named with it.
    pub gap: Option<String>,
    /// Rows that may differ now.
    pub suspects: Vec<Suspect>,
}

/// An origin and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginFacts {
    /// Its number here.
    pub number: u32,
    /// The name that its node has in pglogical, while there is a subscription.
    pub pglogical_node: Option<String>,
    /// The node that it was last known to belong to.
    pub kept: Option<NodeId>,
}

/// Which conflicts are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Since then.
    pub since: Wall,
    /// Of this table.
    pub table: Option<String>,
    /// Between these nodes.
    pub pair: Option<(NodeId, NodeId)>,
    /// This node's name.
    pub me: String,
    /// So many single ones.
    pub limit: u32,
}

/// What is told of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// How many.
    pub counts: Counts,
    /// By "table", "key" and "pair", the most first.
    pub hot: Vec<(String, Hot)>,
    /// Single ones, newest first.
    pub single: Vec<Shown>,
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn json<T: Serialize>(what: &'static str, rows: &[T]) -> Result<String, SqlError> {
    serde_json::to_string(rows).map_err(|error| SqlError::Unexpected {
        what,
        found: format!("the rows can't be written as JSON: {error}"),
    })
}

impl Postgres {
    /// Where the server logs.
    pub async fn log_place(&self) -> Result<LogPlace, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("log_place");
        let row = session.row(&sql, &[&OUR_FILE]).await?;
        self.give_back(session);
        let data: String = column(sql.name, &row, 1)?;
        let directory: String = column(sql.name, &row, 2)?;
        let current: Option<String> = column(sql.name, &row, 3)?;
        let name = |path: String| Some(path.rsplit('/').next()?.to_owned());
        Ok(LogPlace {
            database: column(sql.name, &row, 0)?,
            directory: PathBuf::from(data).join(directory),
            current: current.and_then(name),
            whole: column(sql.name, &row, 4)?,
            ours: column(sql.name, &row, 5)?,
        })
    }

    /// How far the log was read.
    pub async fn log_state(&self) -> Result<LogState, SqlError> {
        let session = self.take(Purpose::Record).await?;
        let sql = sql!("log_positions");
        let rows = session.rows(&sql, &[]).await?;
        let position = |row: &Row| {
            let file = FileId {
                name: column(sql.name, row, 0)?,
                inode: column::<i64>(sql.name, row, 1)?.cast_unsigned(),
            };
            let position = Position {
                read_to: column::<i64>(sql.name, row, 2)?.unsigned_abs(),
                ended: column(sql.name, row, 3)?,
            };
            Ok((file, position))
        };
        let positions = rows.iter().map(position).collect::<Result<_, SqlError>>()?;
        let sql = sql!("log_reader");
        let row = session.row(&sql, &[]).await?;
        self.give_back(session);
        Ok(LogState {
            positions,
            begun: column(sql.name, &row, 0)?,
            gap: column(sql.name, &row, 1)?,
        })
    }

    /// Writes what one read has brought. After an error nobody knows whether it was written: the
    /// state has to be read again.
    pub async fn record_log(&self, batch: &LogBatch) -> Result<(), SqlError> {
        let session = self.take(Purpose::Record).await?;
        session.begin().await?;
        move_on(&session, batch).await?;
        if !batch.rows.is_empty() {
            let sql = sql!("conflict_insert");
            let rows = json(sql.name, &batch.rows)?;
            session.rows(&sql, &[&rows]).await?;
        }
        if !batch.tallies.is_empty() {
            let sql = sql!("conflict_tally_add");
            let rows = json(sql.name, &batch.tallies)?;
            session.rows(&sql, &[&rows]).await?;
        }
        suspects::name(&session, &batch.suspects).await?;
        if batch.gap.is_some() {
            suspects::name_all(&session, NamedBy::Conflict).await?;
        }
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }

    /// All tables were compared in the last `within`, or, without it, all rows that were named:
    /// a gap in the log that is older matters no more. Says whether there is none now.
    pub async fn close_log_gap(&self, within: Option<Duration>) -> Result<bool, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("log_gap_close");
        let row = session
            .row(&sql, &[&within.map(|within| within.as_secs_f64())])
            .await?;
        self.give_back(session);
        column(sql.name, &row, 0)
    }

    /// What the rows of these tables look like: of those that exist.
    pub async fn shapes(
        &self,
        tables: &[(String, String)],
    ) -> Result<BTreeMap<(String, String), Shape>, SqlError> {
        let (schemas, names): (Vec<&str>, Vec<&str>) = tables
            .iter()
            .map(|(schema, name)| (schema.as_str(), name.as_str()))
            .unzip();
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("conflict_shapes");
        let rows = session.rows(&sql, &[&schemas, &names]).await?;
        self.give_back(session);
        rows.iter().map(|row| shape(sql.name, row)).collect()
    }

    /// Which origins there are.
    pub async fn origins(&self) -> Result<Vec<OriginFacts>, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("conflict_origins");
        let rows = session.rows(&sql, &[]).await?;
        self.give_back(session);
        let origin = |row: &Row| {
            Ok(OriginFacts {
                number: u32::try_from(column::<i64>(sql.name, row, 0)?).unwrap_or_default(),
                pglogical_node: column(sql.name, row, 1)?,
                kept: column::<Option<Uuid>>(sql.name, row, 2)?.map(NodeId),
            })
        };
        rows.iter().map(origin).collect()
    }

    /// Keeps whose an origin is.
    pub async fn keep_origin(&self, number: u32, node: NodeId) -> Result<(), SqlError> {
        let session = self.take(Purpose::Record).await?;
        let sql = sql!("conflict_origin_keep");
        session.rows(&sql, &[&i64::from(number), &node.0]).await?;
        self.give_back(session);
        Ok(())
    }

    /// How many there were in the last hour, and in the last day.
    pub async fn conflict_counts(&self) -> Result<(Counts, Counts), SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("conflict_counts");
        let row = session.row(&sql, &[]).await?;
        self.give_back(session);
        Ok((
            counts(sql.name, &row, [0, 1, 2, 6])?,
            counts(sql.name, &row, [3, 4, 5, 7])?,
        ))
    }

    /// Removes old conflicts; returns how many. Some thousand at a time.
    pub async fn prune_conflicts(&self, days: u32, rows_max: u64) -> Result<usize, SqlError> {
        let session = self.take(Purpose::Record).await?;
        let sql = sql!("conflict_prune");
        let removed = session
            .rows(&sql, &[&f64::from(days), &int(rows_max)])
            .await?;
        self.give_back(session);
        Ok(removed.len())
    }

    /// Marks conflicts that two clocks decided while they were too far apart; returns how many.
    pub async fn distrust_conflicts(
        &self,
        (one, other): (NodeId, NodeId),
        from: Wall,
        until: Option<Wall>,
    ) -> Result<u64, SqlError> {
        let session = self.take(Purpose::Record).await?;
        let sql = sql!("conflict_distrust");
        let until = until.map(|until| until.0);
        let values: Params<'_> = &[&one.0, &other.0, &from.0, &until];
        let row = session.row(&sql, values).await?;
        self.give_back(session);
        Ok(column::<i64>(sql.name, &row, 0)?.unsigned_abs())
    }

    /// What there is to tell.
    pub async fn conflicts(&self, wanted: &Wanted) -> Result<Told, SqlError> {
        let session = self.take(Purpose::Record).await?;
        let (one, other) = wanted.pair.map(|(one, other)| (one.0, other.0)).unzip();
        let (since, table) = (wanted.since.0, &wanted.table);
        let limit = i64::from(wanted.limit);
        let (sum, hot, single) = (
            sql!("conflicts_sum"),
            sql!("conflicts_hot"),
            sql!("conflicts_single"),
        );
        let sums = session.row(&sum, &[&since, table, &one, &other]).await?;
        let hots = session
            .rows(&hot, &[&since, table, &one, &other, &wanted.me])
            .await?;
        let singles = session
            .rows(&single, &[&since, table, &one, &other, &limit])
            .await?;
        self.give_back(session);
        let warm = |row: &Row| {
            let hot = Hot {
                name: column(hot.name, row, 1)?,
                conflicts: column::<i64>(hot.name, row, 2)?.unsigned_abs(),
            };
            Ok((column(sql!("conflicts_hot").name, row, 0)?, hot))
        };
        Ok(Told {
            counts: counts(sum.name, &sums, [0, 1, 2, 3])?,
            hot: hots.iter().map(warm).collect::<Result<_, SqlError>>()?,
            single: singles
                .iter()
                .map(|row| shown(single.name, row))
                .collect::<Result<_, SqlError>>()?,
        })
    }
}

/// Moves the positions. Somebody else who reads the same files makes it fail, and with it all.
async fn move_on(session: &Session, batch: &LogBatch) -> Result<(), SqlError> {
    for Move { file, from, to } in &batch.moves {
        let inode = file.inode.cast_signed();
        let (until, ended) = (int(to.read_to), to.ended);
        let Some(from) = from else {
            let values: Params<'_> = &[&file.name, &inode, &until, &ended];
            session.rows(&sql!("log_position_new"), values).await?;
            continue;
        };
        let sql = sql!("log_position_move");
        let values: Params<'_> = &[&file.name, &inode, &int(*from), &until, &ended];
        if session.maybe(&sql, values).await?.is_none() {
            return Err(SqlError::Unexpected {
                what: sql.name,
                found: format!("{} was read on by somebody else", file.name),
            });
        }
    }
    for file in &batch.gone {
        let inode = file.inode.cast_signed();
        let sql = sql!("log_position_drop");
        session.rows(&sql, &[&file.name, &inode]).await?;
    }
    let sql = sql!("log_reader_set");
    session.rows(&sql, &[&batch.gap]).await?;
    Ok(())
}

fn counts(
    what: &'static str,
    row: &Row,
    [lines, conflicts, unsure, untrusted]: [usize; 4],
) -> Result<Counts, SqlError> {
    let number = |place| Ok::<_, SqlError>(column::<i64>(what, row, place)?.unsigned_abs());
    let (lines, conflicts, unsure) = (number(lines)?, number(conflicts)?, number(unsure)?);
    Ok(Counts {
        lines,
        conflicts,
        ordinary: lines.saturating_sub(conflicts).saturating_sub(unsure),
        unsure,
        untrusted_clock: number(untrusted)?,
    })
}

fn shape(what: &'static str, row: &Row) -> Result<((String, String), Shape), SqlError> {
    let names: Vec<String> = column(what, row, 2)?;
    let types: Vec<String> = column(what, row, 3)?;
    let key: Vec<String> = column(what, row, 4)?;
    let place = |column: &String| names.iter().position(|name| name == column);
    let key = key.iter().filter_map(place).collect();
    let columns = names
        .iter()
        .zip(types)
        .map(|(name, type_name)| Column {
            name: name.clone(),
            type_name,
        })
        .collect();
    Ok((
        (column(what, row, 0)?, column(what, row, 1)?),
        Shape { columns, key },
    ))
}

fn shown(what: &'static str, row: &Row) -> Result<Shown, SqlError> {
    let tuple = |place| {
        let text: Option<String> = column(what, row, place)?;
        Ok::<_, SqlError>(text.and_then(|text| serde_json::from_str(&text).ok()))
    };
    let wall = |place| Ok::<_, SqlError>(column::<Option<i64>>(what, row, place)?.map(Wall));
    let text =
        |place| Ok::<_, SqlError>(column::<Option<String>>(what, row, place)?.unwrap_or_default());
    let lsn: Option<PgLsn> = column(what, row, 8)?;
    Ok(Shown {
        conflict_id: column(what, row, 0)?,
        local_conflict_time: wall(1)?.unwrap_or_default(),
        object_schema: text(2)?,
        object_name: text(3)?,
        object_key: column(what, row, 4)?,
        remote_node: text(5)?,
        remote_txid: u32::try_from(column::<Option<i64>>(what, row, 6)?.unwrap_or_default())
            .unwrap_or_default(),
        remote_commit_time: wall(7)?.unwrap_or_default(),
        remote_commit_lsn: Lsn(lsn.map_or(0, Into::into)),
        conflict_type: text(9)?,
        conflict_resolution: text(10)?,
        local_tuple_origin: column(what, row, 11)?,
        local_commit_time: wall(12)?,
        concurrent: column(what, row, 13)?,
        clock_trusted: column(what, row, 14)?,
        local_tuple: tuple(15)?,
        remote_tuple: tuple(16)?,
    })
}
