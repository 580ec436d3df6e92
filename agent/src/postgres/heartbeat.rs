//! This node's heartbeat: a replicated row that shows subscribers that everything before it has
//! arrived, and how long it took.
//!
//! Has a connection of its own, so that a long statement never looks like a dead node.

use super::Postgres;
use super::session::{Purpose, Session, SqlError, column, sql};
use pgaa_core::ids::{DataEpoch, NodeId};

impl Postgres {
    /// Writes the heartbeat and returns its number, which is above every number in the table and
    /// above `floor`: the highest number that is known to have been sent. So a database that was
    /// set back doesn't repeat numbers that others have seen.
    ///
    /// The commit is not flushed: a heartbeat that a crash swallows is followed by the next one,
    /// and idle nodes don't write to their disks for it.
    pub async fn beat(&self, node: NodeId, epoch: DataEpoch, floor: u64) -> Result<u64, SqlError> {
        let mut kept = self.inner.beat.lock().await;
        let session = match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => Session::open(&self.inner.place, &self.inner.database, Purpose::Beat).await?,
        };
        let sql = sql!("beat");
        let floor = i64::try_from(floor).unwrap_or(i64::MAX - 1);
        let row = session.row(&sql, &[&node.0, &epoch.0, &floor]).await?;
        let number: i64 = column(sql.name, &row, 0)?;
        *kept = Some(session);
        Ok(number.unsigned_abs())
    }
}
