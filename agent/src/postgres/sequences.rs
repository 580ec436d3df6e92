//! Sequences that feed primary keys: two nodes must never give out the same value.
//!
//! Node number k of at most `step` gives k, k + step, k + 2 x step, ... Changes nothing unasked.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{Session, SqlError, column, sql};
use pgaa_core::ids::Ordinal;
use pgaa_core::observed::SequenceFacts;
use std::collections::BTreeMap;

/// The distance between two values of one node's sequence: the same on all nodes, for ever.
///
/// Ordinals are never reused, so there is room for eight times `max_nodes` machines in the
/// life of a cluster, and at least 128: raising `max_nodes` to 16 later changes nothing. An
/// integer key then still has room for 16 million values a node.
#[must_use]
pub fn step(max_nodes: u16) -> i64 {
    (i64::from(max_nodes) * 8)
        .max(128)
        .cast_unsigned()
        .next_power_of_two()
        .cast_signed()
}

/// A sequence and the key column it feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Feeding {
    pub(super) table_oid: u32,
    sequence_oid: u32,
    table: String,
    sequence: String,
    column: String,
    increment: i64,
    narrow: bool,
    /// What `nextval` will give.
    next: i64,
}

impl Feeding {
    /// Does it give only this node's values?
    pub(super) fn in_step(&self, ordinal: Ordinal, step: i64) -> bool {
        self.increment == step && self.next.rem_euclid(step) == i64::from(ordinal.0) % step
    }

    pub(super) fn facts(&self) -> SequenceFacts {
        SequenceFacts {
            name: self.sequence.clone(),
            column: self.column.clone(),
            increment: self.increment,
            residue: self.next.checked_rem_euclid(self.increment).unwrap_or(0),
            narrow: self.narrow,
        }
    }
}

/// Every sequence that feeds a key column.
pub(super) async fn list(
    session: &Session,
    excluded: &Vec<String>,
) -> Result<Vec<Feeding>, SqlError> {
    let sql = sql!("sequences");
    let rows = session.rows(&sql, &[excluded]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.push(Feeding {
            table_oid: column(sql.name, row, 0)?,
            sequence_oid: column(sql.name, row, 1)?,
            table: column(sql.name, row, 2)?,
            sequence: column(sql.name, row, 3)?,
            column: column(sql.name, row, 4)?,
            increment: column(sql.name, row, 5)?,
            narrow: column(sql.name, row, 6)?,
            next: 0,
        });
    }
    let oids: Vec<u32> = found.iter().map(|feeding| feeding.sequence_oid).collect();
    let states = states(session, &oids).await?;
    for feeding in &mut found {
        if let Some((last, called)) = states.get(&feeding.sequence_oid) {
            let by = if *called { feeding.increment } else { 0 };
            feeding.next = last.saturating_add(by);
        }
    }
    Ok(found)
}

async fn states(
    session: &Session,
    oids: &Vec<u32>,
) -> Result<BTreeMap<u32, (i64, bool)>, SqlError> {
    let what = "reading sequences";
    let mut states = BTreeMap::new();
    for query in session
        .written(&sql!("sequence_states_query"), &[oids])
        .await?
    {
        for row in session.rows_of(what, &query).await? {
            let state = (column(what, &row, 1)?, column(what, &row, 2)?);
            states.insert(column(what, &row, 0)?, state);
        }
    }
    Ok(states)
}

/// What was done, or would be done, about one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceFix {
    /// "schema.sequence", quoted where needed.
    pub sequence: String,
    /// The table it feeds.
    pub table: String,
    /// The column it feeds.
    pub column: String,
    /// Is the column or the sequence narrower than bigint?
    pub narrow: bool,
    /// The statement; empty when the sequence was in step before.
    pub sql: String,
}

impl Postgres {
    /// Lets every sequence that feeds a key give only the values of the node with this ordinal,
    /// above everything its column holds and it has given out. With `dry_run` the statements are
    /// written and not run. Sequences that are in step are left alone. Only those in `names`,
    /// where any are given.
    ///
    /// Each sequence is changed in a transaction of its own that locks its table against
    /// writers for a moment. A session that fetched a value before, and inserts it after, still
    /// uses the old one: run it before applications write, or expect one such value a session.
    pub async fn fix_sequences(
        &self,
        ordinal: Ordinal,
        names: &[String],
        dry_run: bool,
    ) -> Result<Vec<SequenceFix>, SqlError> {
        let wanted = |feeding: &Feeding| names.is_empty() || names.contains(&feeding.sequence);
        self.fix_those(ordinal, wanted, dry_run).await
    }

    /// The same for the sequences that give the values of another node of this cluster: they
    /// came with a copy.
    pub async fn take_own_values(&self, ordinal: Ordinal) -> Result<(), SqlError> {
        let step = step(self.inner.max_nodes);
        let wanted = |feeding: &Feeding| feeding.increment == step;
        self.fix_those(ordinal, wanted, false).await.map(|_| ())
    }

    async fn fix_those(
        &self,
        ordinal: Ordinal,
        wanted: impl Fn(&Feeding) -> bool,
        dry_run: bool,
    ) -> Result<Vec<SequenceFix>, SqlError> {
        let step = step(self.inner.max_nodes);
        let session = self.take(Purpose::Change).await?;
        let mut fixes = Vec::new();
        for feeding in list(&session, &self.inner.excluded_schemas).await? {
            if !wanted(&feeding) {
                continue;
            }
            let sql = if feeding.in_step(ordinal, step) {
                String::new()
            } else {
                fix(&session, &feeding, (ordinal, step), dry_run).await?
            };
            let Feeding {
                sequence,
                table,
                column,
                narrow,
                ..
            } = feeding;
            fixes.push(SequenceFix {
                sequence,
                table,
                column,
                narrow,
                sql,
            });
        }
        self.give_back(session);
        self.inner.watch.lock().await.forget();
        Ok(fixes)
    }
}

async fn fix(
    session: &Session,
    feeding: &Feeding,
    (ordinal, step): (Ordinal, i64),
    dry_run: bool,
) -> Result<String, SqlError> {
    let what = "finding the highest key";
    session.begin().await?;
    if !dry_run {
        session
            .run_written(&sql!("table_lock"), &[&feeding.table_oid])
            .await?;
    }
    let values: super::session::Params<'_> =
        &[&feeding.table_oid, &feeding.column, &feeding.sequence_oid];
    let mut floor: i64 = 0;
    for query in session
        .written(&sql!("sequence_floor_query"), values)
        .await?
    {
        for row in session.rows_of(what, &query).await? {
            floor = column(what, &row, 0)?;
        }
    }
    let start = next_in_step(floor, ordinal, step).ok_or_else(|| SqlError::Unexpected {
        what,
        found: format!(
            "{} has no room above {floor}; widen its key to bigint",
            feeding.table
        ),
    })?;
    let ddl = sql!("sequence_fix_ddl");
    let written = session
        .written(&ddl, &[&feeding.sequence_oid, &step, &start])
        .await?
        .concat();
    if !dry_run {
        session.script(ddl.name, &written).await?;
    }
    session.commit().await?;
    Ok(written)
}

/// The smallest value above `floor` that is `ordinal` modulo `step`.
fn next_in_step(floor: i64, ordinal: Ordinal, step: i64) -> Option<i64> {
    let first = floor.checked_add(1)?;
    let ahead = (i64::from(ordinal.0) - first).rem_euclid(step);
    first.checked_add(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_nodes_share_a_value() {
        for floor in [0, 1, 127, 128, 129, 1_000_003] {
            let starts: Vec<i64> = (1..=128)
                .map(|k| next_in_step(floor, Ordinal(k), 128).unwrap())
                .collect();
            assert!(
                starts
                    .iter()
                    .all(|start| *start > floor && *start <= floor + 128)
            );
            let residues: std::collections::BTreeSet<i64> =
                starts.iter().map(|start| start % 128).collect();
            assert_eq!(residues.len(), 128);
        }
        assert_eq!(next_in_step(i64::MAX, Ordinal(1), 128), None);
    }

    #[test]
    fn the_step_leaves_room() {
        assert_eq!(step(3), 128);
        assert_eq!(step(16), 128);
        assert_eq!(step(17), 256);
    }
}
