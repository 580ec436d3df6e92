//! Asks every node that answers which rows refer to one. A node that doesn't answer may make such
//! rows meanwhile, as it may while people delete the row: they come back as rows that refer to nothing.

use crate::daemon::circle::Circle;
use crate::peer::{CheckAnswer, CheckAsk};
use futures_util::future::try_join_all;
use pgaa_core::rows::{self, Kept};
use pgaa_core::verify::{Failure, Key};

/// Must this row be kept, though it is the older of two with one unique value?
pub async fn kept(circle: &Circle<'_>, table: &str, key: &Key) -> Result<Option<Kept>, Failure> {
    let ask = async |of| {
        let ask = CheckAsk::Referrers(key.clone());
        let CheckAnswer::Referrers(found) = circle.check(of, table, ask).await? else {
            return Err(circle.unfit(of));
        };
        Ok((circle.name(of), found))
    };
    let mut referring = try_join_all(circle.nodes().into_iter().map(ask)).await?;
    referring.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(rows::kept(&key.join(", "), &referring))
}
