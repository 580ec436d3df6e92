//! Tells of rows that refer to nothing, after rows were checked: one node deleted what another one
//! referred to at the same time. Nothing is done about them: only people know which is right.

use crate::daemon::node::Node;
use crate::events::Severity;
use log::warn;
use pgaa_core::rows::Round;
use pgaa_core::time::Mono;
use pgaa_core::verify::{Key, Orphans};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys of one constraint that are told.
const TOLD: usize = 5;

/// Keys that are remembered: with more all are told again.
const REMEMBERED_MAX: usize = 10_000;

/// What has been told stays so for this long.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// What has been told: rows are looked at again and again until all nodes agree on them.
#[derive(Default)]
pub(super) struct Told {
    since: Option<Mono>,
    keys: BTreeSet<(String, String, Key)>,
}

impl Told {
    /// Keeps those that have not been told yet.
    fn only_new(&mut self, orphans: &mut Orphans, now: Mono) {
        let since = *self.since.get_or_insert(now);
        if now.since(since) > REMEMBERED_FOR || self.keys.len() > REMEMBERED_MAX {
            (self.since, self.keys) = (Some(now), BTreeSet::new());
        }
        let (table, constraint) = (&orphans.table, &orphans.constraint);
        orphans.keys.retain(|key| {
            let one = (table.clone(), constraint.clone(), key.clone());
            self.keys.insert(one)
        });
    }
}

/// Looks at the foreign keys of rows that are the same everywhere now, and of rows that refer to
/// them. On one node: the others hold the same.
pub(super) async fn tell(node: &Node, rounds: &BTreeMap<String, Round>, told: &mut Told) {
    for (table, round) in rounds {
        let keys: Vec<Key> = round.equal.iter().cloned().collect();
        if keys.is_empty() {
            continue;
        }
        match node.postgres.orphans(table, &keys).await {
            Ok(found) => {
                for mut orphans in found {
                    told.only_new(&mut orphans, node.clocks.mono());
                    if !orphans.keys.is_empty() {
                        node.event(Severity::Warning, "orphans", text(&orphans));
                    }
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
