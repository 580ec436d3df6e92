//! The members, as the row check sees them.

use crate::daemon::circle::Circle;
use crate::peer::{CheckAnswer, CheckAsk};
use pgaa_core::ids::NodeId;
use pgaa_core::rows::{Kept, Mended, Moment, Repair, RowValues, Rows, Seen};
use pgaa_core::verify::{Failure, Key};

/// All members, by their agents.
pub struct Mesh<'a>(pub &'a Circle<'a>);

impl Rows for Mesh<'_> {
    fn me(&self) -> NodeId {
        self.0.me()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.0.nodes()
    }

    async fn look(
        &self,
        of: NodeId,
        table: &str,
        keys: &[Key],
    ) -> Result<(Moment, Vec<Seen>), Failure> {
        let answer = self
            .0
            .check(of, table, CheckAsk::Look(keys.to_vec()))
            .await?;
        let CheckAnswer::Seen(at, mut seen) = answer else {
            return Err(self.0.unfit(of));
        };
        // What a member wrote that isn't asked now (it is synchronised anew, or set apart) may be
        // deleted there: it must not be taken for one that is gone.
        for row in seen.iter_mut().filter_map(|one| one.row.as_mut()) {
            row.stamp = row.stamp.filter(|stamp| !self.0.is_absent(stamp.author));
        }
        match seen.len() == keys.len() {
            true => Ok((at, seen)),
            false => Err(self.0.unfit(of)),
        }
    }

    async fn fence(&self) -> Result<(), Failure> {
        self.0.fence().await
    }

    async fn fetch(
        &self,
        of: NodeId,
        table: &str,
        versions: &[(Key, u32)],
    ) -> Result<Vec<Option<RowValues>>, Failure> {
        let answer = self
            .0
            .check(of, table, CheckAsk::Values(versions.to_vec()))
            .await?;
        let CheckAnswer::Values(values) = answer else {
            return Err(self.0.unfit(of));
        };
        match values.len() == versions.len() {
            true => Ok(values),
            false => Err(self.0.unfit(of)),
        }
    }

    async fn ordering(&self, table: &str, keys: &[Key]) -> Result<(), Failure> {
        let noted = self.0.node().postgres.order_repairs(table, keys).await;
        noted.map_err(|error| Failure(error.to_string()))
    }

    async fn kept(&self, table: &str, key: &Key) -> Result<Option<Kept>, Failure> {
        super::referrers::kept(self.0, table, key).await
    }

    async fn mend(
        &self,
        of: NodeId,
        table: &str,
        repairs: &[Repair],
    ) -> Result<Vec<Mended>, Failure> {
        let answer = self
            .0
            .check(of, table, CheckAsk::Mend(repairs.to_vec()))
            .await?;
        let CheckAnswer::Mended(done) = answer else {
            return Err(self.0.unfit(of));
        };
        match done.len() == repairs.len() {
            true => Ok(done),
            false => Err(self.0.unfit(of)),
        }
    }
}
