//! This node's heartbeat: a replicated row that shows subscribers that everything before it has
//! arrived, and how long it took.
//!
//! Has a connection of its own, so that a long statement never looks like a dead node.

use super::Postgres;
use super::purpose::Purpose;
use super::session::{Session, SqlError, column, sql};
use pgaa_core::ids::{DataEpoch, NodeId};

/// When a heartbeat reaches the disk, and with it everything that was committed before it. Only
/// then it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// With the next round of the WAL writer, 200 ms later at most. A heartbeat that a crash
    /// swallows is followed by the next one, and idle nodes don't write to their disks for it.
    Later,
    /// Before the answer: somebody waits for its arrival.
    Now,
}

impl Postgres {
    /// Writes the heartbeat and returns its number, which is above every number in the table and
    /// above `floor`: the highest number that is known to have been sent. So a database that was
    /// set back doesn't repeat numbers that others have seen.
    pub async fn beat(
        &self,
        node: NodeId,
        epoch: DataEpoch,
        floor: u64,
        flush: Flush,
    ) -> Result<u64, SqlError> {
        let mut kept = self.inner.beat.lock().await;
        let session = match kept.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => Session::open(&self.inner.place, &self.inner.database, Purpose::Beat).await?,
        };
        let sql = sql!("beat");
        let flush = match flush {
            Flush::Later => "off",
            Flush::Now => "local",
        };
        let floor = i64::try_from(floor).unwrap_or(i64::MAX - 1);
        let row = session
            .row(&sql, &[&node.0, &epoch.0, &floor, &flush])
            .await?;
        let number: i64 = column(sql.name, &row, 0)?;
        *kept = Some(session);
        Ok(number.unsigned_abs())
    }
}
