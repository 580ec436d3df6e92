//! Tells of rows that refer to nothing, after rows were checked: one node deleted what another one
//! referred to at the same time. Nothing is done about them: only people know which is right.

use crate::daemon::node::Node;
use crate::events::Severity;
use crate::postgres::Orphans;
use log::warn;
use pgaa_core::rows::Round;
use pgaa_core::verify::Key;
use std::collections::BTreeMap;

/// Keys of one constraint that are told.
const TOLD: usize = 5;

/// Looks at the foreign keys of rows that are the same everywhere now, and of rows that refer to
/// them. On one node: the others hold the same.
pub(super) async fn tell(node: &Node, rounds: &BTreeMap<String, Round>) {
    for (table, round) in rounds {
        let keys: Vec<Key> = round.equal.iter().cloned().collect();
        if keys.is_empty() {
            continue;
        }
        match node.postgres.orphans(table, &keys).await {
            Ok(found) => {
                for orphans in found {
                    node.event(Severity::Warning, "orphans", text(&orphans));
                }
            }
            Err(error) => warn!("the foreign keys of {table} were not looked at: {error}"),
        }
    }
}

fn text(orphans: &Orphans) -> String {
    let keys = orphans.keys.iter().take(TOLD).map(|key| key.join(", "));
    let keys: Vec<String> = keys.collect();
    let more = match orphans.keys.len() > TOLD {
        true => "; ...",
        false => "",
    };
    format!(
        "{} rows of {} refer to rows of {} that are gone ({}), on all nodes: {}{more}. Delete them, or \
         insert what they refer to",
        orphans.keys.len(),
        orphans.table,
        orphans.parent,
        orphans.constraint,
        keys.join("; ")
    )
}
