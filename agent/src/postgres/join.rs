//! What a join needs of the local server, on the joiner and on its source.
//!
//! Must not know the protocol: `daemon::join` does.

use super::Postgres;
use super::deletes::DELETES_SLOT;
use super::purpose::Purpose;
use super::session::{Session, SqlError, column, sql};
use bytes::Bytes;
use futures_util::SinkExt;
use pgaa_core::ids::{DataEpoch, Lsn, NodeId};
use pgaa_core::join::ServerFacts;
use pgaa_core::time::Wall;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::CopyInSink;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;

/// Between two looks at whether a worker has gone.
const LOOK: Duration = Duration::from_millis(5);

/// How long a worker may take to go after it was told to.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Transactions of this age and above, seconds, are told to a joiner: its slots wait for them.
const BLOCKER_AGE_S: f64 = 60.0;

/// A session whose rows carry a copy origin and look old.
pub struct CopySession {
    session: Session,
}

/// A table on its way into this server.
pub struct CopyInto {
    sink: Pin<Box<CopyInSink<Bytes>>>,
}

impl CopySession {
    /// Opens a transaction, empties a table and starts to copy into it, by statements that a
    /// server has written.
    pub async fn begin(&self, empty: &str, copy: &str) -> Result<CopyInto, SqlError> {
        self.session.begin().await?;
        self.session.row(&sql!("copy_stamp"), &[]).await?;
        self.session.script("emptying a table", empty).await?;
        let sink = Box::pin(self.session.copy_in("copying in", copy).await?);
        Ok(CopyInto { sink })
    }

    /// Commits the table.
    pub async fn commit(&self) -> Result<(), SqlError> {
        self.session.commit().await
    }
}

impl CopyInto {
    /// Sends a part of the rows, in COPY's binary format.
    pub async fn send(&mut self, rows: Bytes) -> Result<(), SqlError> {
        let sent = self.sink.send(rows).await;
        sent.map_err(|error| SqlError::from_driver("copying in", Duration::ZERO, error))
    }

    /// Ends the copy. Without it nothing is kept.
    pub async fn finish(mut self) -> Result<u64, SqlError> {
        let rows = self.sink.as_mut().finish().await;
        rows.map_err(|error| SqlError::from_driver("copying in", Duration::ZERO, error))
    }
}

fn lsn(position: PgLsn) -> Lsn {
    Lsn(position.into())
}

impl Postgres {
    /// What a join asks of this server, as a joiner's or as a member's.
    pub async fn join_facts(&self, joins: bool) -> Result<ServerFacts, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("join_facts");
        let row = session.row(&sql, &[&joins, &BLOCKER_AGE_S]).await?;
        let free = |index| {
            let count: i32 = column(sql.name, &row, index)?;
            Ok::<u32, SqlError>(u32::try_from(count).unwrap_or(0))
        };
        let list = |index| column::<Vec<String>>(sql.name, &row, index);
        let facts = ServerFacts {
            version_num: column::<i32>(sql.name, &row, 0)?.unsigned_abs(),
            locale: column(sql.name, &row, 1)?,
            collation_version: column(sql.name, &row, 2)?,
            database_bytes: column::<i64>(sql.name, &row, 3)?.unsigned_abs(),
            free_bytes: None,
            slots_free: free(4)?,
            senders_free: free(5)?,
            workers_free: free(6)?,
            wal_can_be_read: column(sql.name, &row, 7)?,
            replicated: list(8)?.into_iter().collect(),
            blockers: list(9)?,
            prepared: list(10)?,
            extensions: list(11)?.into_iter().collect(),
            collation_recorded: column(sql.name, &row, 12)?,
        };
        self.give_back(session);
        Ok(facts)
    }

    /// Refuses schema changes here until a time, because a node joins.
    pub async fn guard_schema(&self, joiner: &str, until: Wall) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        let until_s = until.0 as f64 / 1_000.0;
        session
            .rows(&sql!("join_guard_set"), &[&joiner, &until_s])
            .await?;
        self.give_back(session);
        Ok(())
    }

    /// Allows schema changes again.
    pub async fn release_schema(&self) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        session.rows(&sql!("join_guard_clear"), &[]).await?;
        self.give_back(session);
        Ok(())
    }

    /// From where on a slot is complete, when it is there and still holds that.
    pub async fn find_slot(&self, name: &str) -> Result<Option<Lsn>, SqlError> {
        if self.is_made_anew(name).await {
            return Ok(None);
        }
        let session = self.take(Purpose::Change).await?;
        let find = sql!("slot_find");
        let position = match session.maybe(&find, &[&name]).await? {
            Some(row) if column::<String>(find.name, &row, 4)? != "lost" => {
                Some(lsn(column(find.name, &row, 2)?))
            }
            Some(_) | None => None,
        };
        self.give_back(session);
        Ok(position)
    }

    /// Where the next WAL record of this server will begin.
    pub async fn insert_position(&self) -> Result<Lsn, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("insert_position");
        let position = column::<PgLsn>(sql.name, &session.row(&sql, &[]).await?, 0)?;
        self.give_back(session);
        Ok(lsn(position))
    }

    /// For each replication origin the last of its commits that was applied here in WAL between
    /// the two positions.
    pub async fn origin_positions(
        &self,
        since: Lsn,
        until: Lsn,
    ) -> Result<BTreeMap<String, Lsn>, SqlError> {
        let session = self.take(Purpose::Long).await?;
        let sql = sql!("origin_positions");
        let rows = session
            .rows(&sql, &[&PgLsn::from(since.0), &PgLsn::from(until.0)])
            .await?;
        let mut positions = BTreeMap::new();
        for row in &rows {
            let position: PgLsn = column(sql.name, row, 1)?;
            positions.insert(column(sql.name, row, 0)?, lsn(position));
        }
        self.give_back(session);
        Ok(positions)
    }

    /// How far a subscription of this node has been applied, in its provider's WAL.
    pub async fn origin_progress(&self, subscription: &str) -> Result<Lsn, SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("origin_progress");
        let progress: Option<PgLsn> =
            column(sql.name, &session.row(&sql, &[&subscription]).await?, 0)?;
        self.give_back(session);
        progress.map(lsn).ok_or_else(|| SqlError::Unexpected {
            what: sql.name,
            found: format!("nothing has been applied yet by subscription {subscription}"),
        })
    }

    /// Waits until a disabled subscription has no worker any more.
    pub async fn wait_until_stopped(&self, subscription: &str) -> Result<(), SqlError> {
        let mut waited = Duration::ZERO;
        loop {
            let missing = self.wake_workers(&[subscription]).await?;
            if !missing.is_empty() {
                return Ok(());
            }
            if waited >= GONE_WITHIN {
                return Err(SqlError::TimedOut {
                    what: "stopping a subscription",
                    after: waited,
                });
            }
            sleep(LOOK).await;
            waited += LOOK;
        }
    }

    /// From one forwarding stream to direct ones, in one transaction: every stream in `starts`
    /// goes on where it says, `through` stops forwarding, and all are enabled.
    pub async fn hand_over(
        &self,
        through: &str,
        starts: &BTreeMap<String, Lsn>,
    ) -> Result<(), SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        for (subscription, start) in starts {
            let start = PgLsn::from(start.0);
            session
                .row(&sql!("subscription_advance"), &[subscription, &start])
                .await?;
        }
        session.rows(&sql!("forward_nothing"), &[&through]).await?;
        for subscription in starts.keys().map(String::as_str).chain([through]) {
            session
                .row(&sql!("subscription_enable"), &[&subscription])
                .await?;
        }
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }

    /// The newest heartbeat of each node that has arrived: its epoch and number.
    pub async fn heartbeats(&self) -> Result<BTreeMap<NodeId, (DataEpoch, u64)>, SqlError> {
        let session = self.take(Purpose::Look).await?;
        let sql = sql!("heartbeats");
        let rows = session.rows(&sql, &[]).await?;
        let mut heartbeats = BTreeMap::new();
        for row in &rows {
            let node: Uuid = column(sql.name, row, 0)?;
            let epoch: Uuid = column(sql.name, row, 1)?;
            let number: i64 = column(sql.name, row, 2)?;
            heartbeats.insert(NodeId(node), (DataEpoch(epoch), number.unsigned_abs()));
        }
        self.give_back(session);
        Ok(heartbeats)
    }

    /// Drops every subscription of this node and every slot that others read here. The numbers
    /// of their origins are held, so that nobody gets them.
    pub async fn drop_all_edges(&self) -> Result<(), SqlError> {
        let session = self.take(Purpose::Change).await?;
        let sql = sql!("own_edges");
        let row = session.row(&sql, &[]).await?;
        let subscriptions: Vec<String> = column(sql.name, &row, 0)?;
        let slots: Vec<String> = column(sql.name, &row, 1)?;
        self.give_back(session);
        for subscription in &subscriptions {
            self.drop_subscription(subscription).await?;
        }
        for slot in &slots {
            self.drop_slot(slot, true).await?;
        }
        Ok(())
    }

    /// A session that copies under `origin`, which no other session may use meanwhile.
    pub async fn copy_session(&self, origin: &str) -> Result<CopySession, SqlError> {
        let session = self.take(Purpose::Copy).await?;
        session.row(&sql!("copy_session"), &[&origin]).await?;
        session.row(&sql!("copy_origin"), &[&origin]).await?;
        Ok(CopySession { session })
    }

    /// Makes the contents of this database nobody's: it is no pglogical node any more, gets a new
    /// epoch, which is returned, and knows nothing of what was deleted before. Its edges must be
    /// gone. Not idempotent: each call mints another.
    pub async fn renew_epoch(&self) -> Result<DataEpoch, SqlError> {
        // What it has deleted while it was set apart must be nobody's word about a row.
        let _nobody_reads = self.inner.calm.lock().await;
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        session.rows(&sql!("node_drop"), &[]).await?;
        let sql = sql!("epoch_renew");
        let renewed = session.row(&sql, &[]).await?;
        session.commit().await?;
        session.rows(&sql!("slot_drop"), &[&DELETES_SLOT]).await?;
        self.give_back(session);
        self.inner.watch.lock().await.forget();
        column(sql.name, &renewed, 0).map(DataEpoch)
    }

    /// Gathers the planner's statistics of the user's tables.
    pub async fn analyze(&self) -> Result<(), SqlError> {
        let session = self.take(Purpose::Copy).await?;
        session.run_written(&sql!("analyze_ddl"), &[]).await?;
        self.give_back(session);
        Ok(())
    }

    /// Empties the database of the user's schemas, before a copy begins anew.
    pub async fn drop_user_objects(&self) -> Result<(), SqlError> {
        let session = self.take(Purpose::Long).await?;
        session.begin().await?;
        session
            .run_written(&sql!("user_objects_drop_ddl"), &[])
            .await?;
        let public = sql!("public_schema");
        session.script(public.name, public.text).await?;
        session.commit().await?;
        self.give_back(session);
        Ok(())
    }
}
