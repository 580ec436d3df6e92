//! Settles by itself what stops an apply worker, where that is safe: once each time it has failed.
//!
//! Must not know how.

use super::{emptied, rivals};
use crate::daemon::node::Node;
use pgaa_core::conflicts::stuck::{Stuck, StuckEdges, Unsettled};
use pgaa_core::ids::Lsn;
use pgaa_core::rows::Kept;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// SQLSTATE of a unique violation.
const UNIQUE_VIOLATION: &str = "23505";

/// SQLSTATE of what PostgreSQL never does: to empty a table alone that another one refers to.
const NOT_SUPPORTED: &str = "0A000";

/// For as long as the agent runs.
pub async fn run(node: Arc<Node>) {
    let mut stuck = node.stuck.subscribe();
    let mut tried: BTreeSet<(u32, Lsn, u32)> = BTreeSet::new();
    loop {
        let edges = all(&mut stuck);
        tried.retain(|(subscription, ..)| edges.iter().any(|(number, _)| number == subscription));
        for (subscription, edge) in edges {
            let Some((provider, commit)) = edge.provider.zip(edge.failure.commit) else {
                continue;
            };
            if !tried.insert((subscription, commit.lsn, edge.times)) {
                continue;
            }
            let settled = match edge.failure.sqlstate.as_str() {
                UNIQUE_VIOLATION => {
                    rivals::make_way(&node, &edge.failure, (provider, commit)).await
                }
                NOT_SUPPORTED => emptied::make_way(&node, provider, commit).await,
                _ => continue,
            };
            let why = settled.err().map(|error| unsettled(&error));
            node.stuck.send_if_modified(|stuck| {
                stuck.note_unsettled(subscription, why);
                false
            });
        }
        if stuck.changed().await.is_err() {
            return;
        }
    }
}

fn all(stuck: &mut watch::Receiver<StuckEdges>) -> Vec<(u32, Stuck)> {
    let edges = stuck.borrow_and_update();
    let all = edges.iter().map(|(number, edge)| (number, edge.clone()));
    all.collect()
}

fn unsettled(error: &anyhow::Error) -> Unsettled {
    match error.downcast_ref::<Kept>() {
        Some(kept) => Unsettled {
            why: kept.why.clone(),
            command: Some(kept.command.clone()),
        },
        None => Unsettled {
            why: format!("{error:#}"),
            command: None,
        },
    }
}
