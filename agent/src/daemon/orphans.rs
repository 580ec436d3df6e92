//! Looks through tables on all members for rows that refer to nothing, for an operator: by ranges of
//! the primary key, with rests between them. What is found is looked at again behind a fence.
//! Nothing is done about it: only people know which is right.

use super::circle::Circle;
use crate::events::Severity;
use crate::peer::{CompareAnswer, CompareAsk};
use futures_util::future::try_join_all;
use pgaa_core::verify::{
    Failure, Key, Orphans, OrphansFound, OrphansReport, RANGE_ROWS, Range, rest_after,
};
use tokio::time::sleep;

/// Keys that are looked at again by one call.
const BATCH: usize = 500;

/// Looks through these tables; with `eager` there are no rests.
pub async fn look(circle: &Circle<'_>, tables: &[String], eager: bool) -> OrphansReport {
    let mut report = OrphansReport::default();
    for table in tables {
        match in_table(circle, table, eager).await {
            Ok(found) => report.found.extend(found.told(circle.nodes().len())),
            Err(failure) => report.left_out.push(format!("{table}: {failure}")),
        }
    }
    let keys = report.found.len();
    if keys > 0 {
        let text = format!(
            "a comparison of all nodes found rows that refer to nothing, by {keys} foreign keys: \
             pgaa-agent verify"
        );
        circle.node().event(Severity::Warning, "orphans", text);
    }
    report
}

async fn in_table(circle: &Circle<'_>, table: &str, eager: bool) -> Result<OrphansFound, Failure> {
    let refers = circle.node().postgres.refers(table).await;
    if !refers.map_err(|error| Failure(error.to_string()))? {
        return Ok(OrphansFound::default());
    }
    let mut found = OrphansFound::default();
    let mut range = Range::default();
    loop {
        let began = circle.node().clocks.mono();
        range.upto = bound(circle, table, &range).await?;
        let asked = circle.nodes().into_iter().map(|of| {
            let ask = CompareAsk::Orphans(range.clone());
            ask_one(circle, of, (table, ask))
        });
        for (place, told) in try_join_all(asked).await?.into_iter().enumerate() {
            found.take(place, told);
        }
        let Some(upto) = range.upto.take() else {
            break;
        };
        range.after = Some(upto);
        let worked = circle.node().clocks.mono().since(began);
        if !eager {
            sleep(rest_after(worked, super::pressure::of_processors())).await;
        }
    }
    if found.is_empty() {
        return Ok(found);
    }
    circle.fence().await?;
    let mut again = OrphansFound::default();
    for (place, of) in circle.nodes().into_iter().enumerate() {
        let keys: Vec<Key> = found.keys(place).into_iter().collect();
        for batch in keys.chunks(BATCH) {
            let ask = CompareAsk::OrphansAmong(batch.to_vec());
            again.take(place, ask_one(circle, of, (table, ask)).await?);
        }
    }
    Ok(found.still(&again))
}

async fn bound(circle: &Circle<'_>, table: &str, range: &Range) -> Result<Option<Key>, Failure> {
    let me = circle.me();
    let ask = CompareAsk::Bound(range.clone(), RANGE_ROWS);
    let CompareAnswer::Bound(bound) = circle.compare(me, table, ask).await? else {
        return Err(circle.unfit(me));
    };
    Ok(bound)
}

async fn ask_one(
    circle: &Circle<'_>,
    of: pgaa_core::ids::NodeId,
    (table, ask): (&str, CompareAsk),
) -> Result<Vec<Orphans>, Failure> {
    let CompareAnswer::Orphans(found) = circle.compare(of, table, ask).await? else {
        return Err(circle.unfit(of));
    };
    Ok(found)
}
