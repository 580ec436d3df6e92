//! Versions of rows, and mending them under an origin that isn't replicated.
//!
//! Must not know who is right about a row.

use super::Postgres;
use super::purpose::Purpose;
use super::queries::{Queries, WHAT, canonical, queries, unexpected};
use super::session::{Session, SqlError, column, sql};
use super::suspects::as_json;
use futures_util::future::join_all;
use pgaa_core::ids::NodeId;
use pgaa_core::rows::{Mended, Moment, Repair, RowValues, Seen, Stamp, Version};
use pgaa_core::verify::Key;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Rows whose key begins like one that was cut, at most: with more the table is compared instead.
const BEGINS_MAX: i64 = 1_000;

/// Rows that are mended without waiting for the answer to each.
const PIPELINE: usize = 50;

/// Commit times of rows that a join has copied, and of rows whose time nobody knows: older than
/// all others (see `sql/copy_stamp.sql`). Microseconds; 2000-01-02.
const OLD_US: i64 = 946_771_200_000_000;

/// The origin under which this node writes what another one wrote first. It names both: a node
/// must never have an origin of the same name as one that it copies from.
fn repair_origin(me: NodeId, author: Option<NodeId>) -> String {
    let author = author.map_or_else(|| "nobody".to_owned(), |node| node.0.simple().to_string());
    format!("pgaa_repair_{}_{author}", me.0.simple())
}

/// Whose rows carry an origin's number, and whether a repair wrote them.
type Origins = BTreeMap<i64, (NodeId, bool)>;

/// Whose rows carry which origin's number: those of `senders`, and repairs. Rows of joins are nobody's.
async fn origins(
    session: &Session,
    me: NodeId,
    senders: &BTreeMap<u32, NodeId>,
) -> Result<Origins, SqlError> {
    let sql = sql!("repair_origins");
    let own = format!("pgaa_repair_{}_", me.0.simple());
    let sent = senders.iter();
    let mut origins: Origins = sent
        .map(|(number, node)| (i64::from(*number), (*node, false)))
        .collect();
    origins.insert(0, (me, false));
    for row in session.rows(&sql, &[&own]).await? {
        let number: i64 = column(sql.name, &row, 0)?;
        let name: String = column(sql.name, &row, 1)?;
        let author = name.strip_prefix(&own).map(Uuid::parse_str);
        if let Some(Ok(author)) = author {
            origins.insert(number, (NodeId(author), true));
        }
    }
    Ok(origins)
}

impl Postgres {
    /// What this node, `me`, knows of these keys, in their order; and how many rows and tables were
    /// named on the way, because it has deleted them itself. `senders` says whose changes come under
    /// which number of an origin.
    pub async fn row_versions(
        &self,
        me: NodeId,
        table: &str,
        (keys, senders): (&[Key], &BTreeMap<u32, NodeId>),
    ) -> Result<(Vec<Seen>, usize), SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let keys = canonical(&session, &queries, keys).await?;
        let origins = origins(&session, me, senders).await?;
        let rows = versions(&session, &queries, (&keys, &origins)).await?;
        self.give_back(session);
        // After the rows: a delete that is not in the list yet is one after this look.
        let named = self.name_deletes(None).await?.named;
        let session = self.take(Purpose::Compare).await?;
        let deleted = own_deletes(&session, table, &keys).await?;
        let known = sql!("deletes_known");
        let since = match session.maybe(&known, &[]).await? {
            Some(row) => column::<Option<i64>>(known.name, &row, 0)?,
            None => Some(i64::MAX),
        };
        self.give_back(session);
        let seen = keys.iter().enumerate().map(|(place, key)| {
            let (deleted_us, ordered) = deleted.get(&place).copied().unwrap_or_default();
            Seen {
                row: rows.get(key).copied(),
                deleted_us,
                deletes_since_us: since,
                ordered,
            }
        });
        Ok((seen.collect(), named))
    }

    /// All keys that begin like these, of which only the beginnings are known.
    pub async fn keys_that_begin(
        &self,
        table: &str,
        beginnings: &[Key],
    ) -> Result<BTreeSet<Key>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let flat: Vec<&String> = beginnings.iter().flatten().collect();
        let rows = session
            .rows_by(WHAT, &queries.begins, &[&flat, &BEGINS_MAX])
            .await?;
        self.give_back(session);
        rows.iter().map(|row| column(WHAT, row, 0)).collect()
    }

    /// The columns of the primary key.
    pub async fn key_columns(&self, table: &str) -> Result<Vec<String>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        self.give_back(session);
        Ok(queries.key)
    }

    /// The keys of rows that have a value of a unique column in common with a row of this key.
    pub async fn rivals(
        &self,
        table: &str,
        (row, key): (&RowValues, &Key),
    ) -> Result<Vec<Key>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let values = in_order(&queries, row);
        let rows = session
            .rows_by(WHAT, &queries.rivals, &[&values, key])
            .await?;
        self.give_back(session);
        rows.iter().map(|row| column(WHAT, row, 0)).collect()
    }

    /// These keys as the server would write them, in their order.
    pub async fn canonical_keys(&self, table: &str, keys: &[Key]) -> Result<Vec<Key>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let keys = canonical(&session, &queries, keys).await?;
        self.give_back(session);
        Ok(keys)
    }

    /// The values of these versions, as far as they are still there.
    pub async fn row_values(
        &self,
        table: &str,
        versions: &[(Key, u32)],
    ) -> Result<Vec<Option<RowValues>>, SqlError> {
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let flat: Vec<&String> = versions.iter().flat_map(|(key, _)| key).collect();
        let rows = session.rows_by(WHAT, &queries.values, &[&flat]).await?;
        let mut found = BTreeMap::new();
        for row in &rows {
            let values: Vec<Option<String>> = column(WHAT, row, 2)?;
            let named = queries.columns.iter().cloned().zip(values);
            let token = token(column(WHAT, row, 1)?)?;
            found.insert((column::<Key>(WHAT, row, 0)?, token), named.collect());
        }
        self.give_back(session);
        Ok(versions
            .iter()
            .map(|version| found.get(version).cloned())
            .collect())
    }

    /// Mends rows of this node, each in a transaction of its own; the outcomes in the same order.
    /// `now` are this agent's clocks: what was ordered too long ago is not done any more.
    pub async fn mend(
        &self,
        (me, now): (NodeId, impl Fn() -> Moment),
        table: &str,
        repairs: &[Repair],
    ) -> Result<Vec<Mended>, SqlError> {
        // The sessions hold their origins: a second one would be refused.
        let _one_at_a_time = self.inner.mending.lock().await;
        let mut outcomes = vec![Mended::Raced; repairs.len()];
        let mut by_author: BTreeMap<Option<NodeId>, Vec<usize>> = BTreeMap::new();
        for (place, repair) in repairs.iter().enumerate() {
            let stamp = repair.right.as_ref().and_then(|right| right.stamp);
            let list = by_author
                .entry(stamp.map(|stamp| stamp.author))
                .or_default();
            list.push(place);
        }
        for (author, places) in by_author {
            let session = self.open_repairs(table, &repair_origin(me, author)).await?;
            for part in places.chunks(PIPELINE) {
                let due = session.server_clock_us().await?;
                let valid = |place: &usize| {
                    let repair = repairs.get(*place)?;
                    let left = repair.looked.valid_for(now())?;
                    let left_us = i64::try_from(left.as_micros()).ok()?;
                    Some((*place, repair, due.saturating_add(left_us)))
                };
                let part: Vec<_> = part.iter().filter_map(valid).collect();
                // One after the other in the server, without a pause for the answer to each.
                let done = part
                    .iter()
                    .map(|(_, repair, until_us)| session.mend_one(table, repair, *until_us));
                for ((place, repair, _), done) in part.iter().zip(join_all(done).await) {
                    let outcome = match done {
                        Ok(outcome) => outcome,
                        Err(error) => self.failed(table, repair, &error).await?,
                    };
                    if let Some(place) = outcomes.get_mut(*place) {
                        *place = outcome;
                    }
                }
            }
            session.close().await?;
        }
        Ok(outcomes)
    }

    /// Locks and transactions that met are a race; a unique column has a rival; anything else won't
    /// pass by itself.
    async fn failed(
        &self,
        table: &str,
        repair: &Repair,
        error: &SqlError,
    ) -> Result<Mended, SqlError> {
        if error.retry() {
            return Ok(Mended::Raced);
        }
        let refused = Mended::Refused(error.to_string());
        let (Some(right), true) = (&repair.right, error.unique_violation()) else {
            return Ok(refused);
        };
        let session = self.take(Purpose::Compare).await?;
        let queries = queries(&session, table).await?;
        let values = in_order(&queries, &right.values);
        let rivals = session
            .rows_by(WHAT, &queries.rivals, &[&values, &repair.key])
            .await?;
        let rival = rivals.first().map(|row| column(WHAT, row, 0)).transpose()?;
        self.give_back(session);
        Ok(rival.map_or(refused, Mended::Blocked))
    }

    async fn open_repairs(&self, table: &str, origin: &str) -> Result<Repairs, SqlError> {
        let inner = &self.inner;
        let session = Session::open(&inner.place, &inner.database, Purpose::Repair).await?;
        let queries = queries(&session, table).await?;
        session.rows(&sql!("repair_session"), &[&origin]).await?;
        session.rows(&sql!("copy_origin"), &[&origin]).await?;
        let update = match &queries.update {
            Some(text) => Some(session.prepare(WHAT, text).await?),
            None => None,
        };
        Ok(Repairs {
            insert: session.prepare(WHAT, &queries.insert).await?,
            update,
            delete: session.prepare(WHAT, &queries.delete).await?,
            queries,
            session,
        })
    }
}

/// A session that mends rows of one table that one author has written. Each row is one statement
/// and so a transaction of its own: one that fails takes nothing with it.
struct Repairs {
    session: Session,
    queries: Queries,
    insert: Statement,
    /// `None` for a table that has only its key.
    update: Option<Statement>,
    delete: Statement,
}

impl Repairs {
    /// Microseconds since 1970-01-01 UTC, by the server.
    async fn server_clock_us(&self) -> Result<i64, SqlError> {
        let sql = sql!("server_clock");
        column(sql.name, &self.session.row(&sql, &[]).await?, 0)
    }

    /// Mends one row, if it still is what was seen, and it isn't later than `until_us` by the
    /// server's clock.
    async fn mend_one(
        &self,
        table: &str,
        repair: &Repair,
        until_us: i64,
    ) -> Result<Mended, SqlError> {
        let seen = repair.seen.map(i64::from);
        let statement = match (&repair.right, seen, &self.update) {
            (None, _, _) => &self.delete,
            (Some(_), None, _) => &self.insert,
            (Some(_), Some(_), Some(update)) => update,
            (Some(_), Some(_), None) => return Ok(Mended::Raced),
        };
        let values = repair.right.as_ref();
        let values = values.map(|right| in_order(&self.queries, &right.values));
        let stamp = repair.right.as_ref().and_then(|right| right.stamp);
        let author = stamp.map(|stamp| stamp.author.0);
        let known_us = stamp.map(|stamp| stamp.at_us);
        let at_us = known_us.unwrap_or(OLD_US);
        let (key, rule) = (&repair.key, &repair.rule);
        let params: [&(dyn ToSql + Sync); 9] = [
            &table, key, rule, &author, &known_us, &at_us, &until_us, &values, &seen,
        ];
        let rows = self.session.rows_prepared(WHAT, statement, &params).await?;
        let mended: i64 = match rows.first() {
            Some(row) => column(WHAT, row, 0)?,
            None => 0,
        };
        Ok(match mended {
            0 => Mended::Raced,
            _ => Mended::Done,
        })
    }

    /// Leaves its origin to the next one.
    async fn close(self) -> Result<(), SqlError> {
        self.session.rows(&sql!("repair_over"), &[]).await.map(drop)
    }
}

fn token(xmin: i64) -> Result<u32, SqlError> {
    u32::try_from(xmin).map_err(|_| unexpected(format!("{xmin} is no transaction number")))
}

/// The values in the order in which the queries take them.
fn in_order(queries: &Queries, values: &RowValues) -> Vec<Option<String>> {
    let value = |name: &String| values.get(name).cloned().flatten();
    queries.columns.iter().map(value).collect()
}

async fn versions(
    session: &Session,
    queries: &Queries,
    (keys, origins): (&[Key], &Origins),
) -> Result<BTreeMap<Key, Version>, SqlError> {
    let flat: Vec<&String> = keys.iter().flatten().collect();
    let rows = session.rows_by(WHAT, &queries.versions, &[&flat]).await?;
    let one = |row: &tokio_postgres::Row| {
        let at_us: Option<i64> = column(WHAT, row, 4)?;
        let origin: Option<i64> = column(WHAT, row, 5)?;
        let author = origin.and_then(|number| origins.get(&number).copied());
        let stamp = match (at_us, author) {
            (Some(at_us), Some((author, _))) if at_us > OLD_US => Some(Stamp { at_us, author }),
            _ => None,
        };
        let version = Version {
            stamp,
            hash: [column(WHAT, row, 1)?, column(WHAT, row, 2)?],
            token: token(column(WHAT, row, 3)?)?,
            mended: author.is_some_and(|(_, mended)| mended),
        };
        Ok((column(WHAT, row, 0)?, version))
    };
    rows.iter().map(one).collect()
}

async fn own_deletes(
    session: &Session,
    table: &str,
    keys: &[Key],
) -> Result<BTreeMap<usize, (Option<i64>, bool)>, SqlError> {
    let sql = sql!("own_deletes_of");
    let keys = as_json(keys)?;
    let mut found = BTreeMap::new();
    for row in session.rows(&sql, &[&table, &keys]).await? {
        let place: i64 = column(sql.name, &row, 0)?;
        let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
        found.insert(
            place,
            (column(sql.name, &row, 1)?, column(sql.name, &row, 2)?),
        );
    }
    Ok(found)
}
