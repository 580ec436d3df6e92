//! How long changes take on each edge, sampled once a second: by it conflicts are judged.

use crate::daemon::node::Node;
use pgaa_core::conflicts::judge::Lags;
use pgaa_core::ids::NodeId;
use pgaa_core::record::EdgeState;
use pgaa_core::time::Now;
use std::collections::{BTreeMap, BTreeSet};

/// Heartbeats come every second: after so long without one, one is missing.
const HEARTBEAT_MS: i64 = 1_500;

/// Notes the lags of now: of this node's own edges as they are, of the others' as reported.
pub fn note(node: &Node, lags: &mut Lags, now: Now) {
    let report = node.status.borrow().clone();
    let overdue = overdue(node, now);
    for edge in &report.edges {
        if edge.desired != EdgeState::Replicating {
            continue;
        }
        // What comes late in one direction may be late in the other, which only the other node
        // sees, and can't tell while nothing passes.
        let other = match node.id() {
            me if me == edge.subscriber => edge.provider,
            _ => edge.subscriber,
        };
        let late = overdue.get(&other).copied().unwrap_or(0);
        let carries = edge.state == EdgeState::Replicating;
        let lag = edge.lag_ms.filter(|_| carries).map(|lag| lag.max(late));
        lags.note(edge.subscriber, edge.provider, now.wall, lag);
    }
    let members: BTreeSet<NodeId> = report.members.iter().map(|member| member.node).collect();
    lags.keep(|node| members.contains(&node));
}

/// How long nothing has come from nodes whose next heartbeat is late, milliseconds.
fn overdue(node: &Node, now: Now) -> BTreeMap<NodeId, i64> {
    let Some(facts) = node.last_facts() else {
        return BTreeMap::new();
    };
    let late = |seen_at| i64::try_from(now.mono.since(seen_at).as_millis()).unwrap_or(i64::MAX);
    let beats = facts.heartbeats.iter();
    beats
        .map(|(node, beat)| (*node, late(beat.seen_at)))
        .filter(|(_, late)| *late > HEARTBEAT_MS)
        .collect()
}
