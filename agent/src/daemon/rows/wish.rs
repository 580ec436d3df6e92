//! Mending rows that an operator has had compared.

use super::{Circle, Mesh, missing, suspect};
use crate::daemon::node::Node;
use pgaa_core::policy::ConflictResolution;
use pgaa_core::rows::{NamedBy, Ruling, Suspect, check};
use pgaa_core::verify::{Failure, Key, Mending, TableReport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often rows that are being written to are looked at again.
const ROUNDS: u32 = 8;

/// Tells of every row in the report what the rule says, and mends them where that is wished.
pub async fn treat(
    node: &Arc<Node>,
    (circle, left_out): (&Circle<'_>, &[String]),
    report: &mut TableReport,
    mending: Mending,
) {
    if mending == Mending::None || report.different.is_empty() {
        return;
    }
    let treated = match can_mend(node, left_out, mending) {
        Ok(()) => treat_keys(node, circle, report, mending).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = treated {
        let text = format!("rows differ and can't be mended now: {failure}");
        report.problem = Some(text);
    }
}

fn can_mend(node: &Node, left_out: &[String], mending: Mending) -> Result<(), Failure> {
    let policy = node.settings.policy.conflict_resolution;
    if mending == Mending::Done && policy != ConflictResolution::LastUpdateWins {
        let text = "cluster.conflict_resolution isn't last_update_wins, and only that says which \
                    version is right; see: pgaa-agent config show";
        return Err(Failure(text.to_owned()));
    }
    match missing(node, left_out) {
        Some(why) => Err(Failure(why)),
        None => Ok(()),
    }
}

async fn treat_keys(
    node: &Arc<Node>,
    circle: &Circle<'_>,
    report: &mut TableReport,
    mending: Mending,
) -> Result<(), Failure> {
    let keys: BTreeSet<Key> = report.different.iter().map(|row| row.key.clone()).collect();
    if mending == Mending::Done {
        // Whatever becomes of this command, the node goes on with them.
        let named: Vec<Suspect> = keys
            .iter()
            .map(|key| suspect(&report.table, key, NamedBy::Verify))
            .collect();
        let stored = node.postgres.name_suspects(&named).await;
        stored.map_err(|error| Failure(error.to_string()))?;
        node.rows_named.notify_one();
    }
    let mut open = keys;
    let (mut rulings, mut problems) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..ROUNDS {
        let asked: Vec<Key> = open.iter().cloned().collect();
        let asked = BTreeMap::from([(report.table.clone(), asked)]);
        let mends = mending == Mending::Done;
        let Some(round) = check(&Mesh(circle), &asked, mends)
            .await?
            .remove(&report.table)
        else {
            break;
        };
        open.retain(|key| !round.equal.contains(key));
        rulings.extend(round.rulings);
        problems = round.problems;
        if open.is_empty() || !mends {
            break;
        }
    }
    for row in &mut report.different {
        let ruling = rulings.get(&row.key).map(|ruling| words(circle, *ruling));
        row.ruling = problems.remove(&row.key).or(ruling);
        row.mended = !open.contains(&row.key);
    }
    Ok(())
}

fn words(circle: &Circle<'_>, ruling: Ruling) -> String {
    match ruling {
        Ruling::Equal => "the same everywhere".to_owned(),
        Ruling::Stays(place, reason) => {
            let names = circle.names();
            let name = names.get(place).map_or("?", String::as_str);
            format!("as on {name}: {reason}")
        }
        Ruling::Goes(reason) => format!("no row: {reason}"),
    }
}
