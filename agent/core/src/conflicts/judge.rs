//! Is a conflict true? Two commits conflict when neither node knew of the other's.
//!
//! Any update of a row that another node has written last is logged as a conflict, and nearly all
//! of them are none: the writer had that row, and changed it. A node knows of another's commit
//! once replication has brought it, so the lag of the edge between the two decides. Lags are
//! measured between the same two clocks as the commits' times are: what the clocks differ by is
//! in both, and cancels out.

use super::Stamp;
use crate::ids::NodeId;
use crate::time::Wall;
use std::collections::{BTreeMap, VecDeque};

/// Lags are sampled once a second; one counts until the next can have come, milliseconds.
const SAMPLE_MS: i64 = 2_000;

/// Between two heartbeats, milliseconds.
const BEAT_MS: i64 = 1_000;

/// An edge is called silent this long after the last heartbeat, and one more; milliseconds.
const SILENT_MS: i64 = 6_000;

/// So many runs of similar lags are kept for each edge: minutes at least, in which the log is read.
const RUNS_MAX: usize = 120;

/// A sample this much below the longest of a run, percent, begins a new one.
const SIMILAR_PERCENT: i64 = 50;

/// Lags are measured to the millisecond.
const SLACK_US: i64 = 2_000;

/// Copied rows carry an older time than this, 2000-01-03: everybody has had them from the start.
const COPIED_BEFORE: Stamp = Stamp(946_857_600_000_000);

/// One of the two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Where it was committed; `None` for a node that is not known any more.
    pub node: Option<NodeId>,
    /// When, by that node's clock; `None` where PostgreSQL no longer knows.
    pub at: Option<Stamp>,
}

/// What is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Neither knew of the other: a conflict.
    Concurrent,
    /// One knew of the other, and changed what it saw.
    Ordered,
    /// Nobody looked at that time.
    Unknown,
}

/// A time in which changes took similarly long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// The first sample and the last, milliseconds since 1970.
    from: i64,
    until: i64,
    /// The longest lag in it, milliseconds; `None` when the edge carried nothing.
    lag_ms: Option<i64>,
}

impl Run {
    /// Does a sample belong to it?
    fn takes(&self, now: i64, lag_ms: Option<i64>) -> bool {
        let similar = match (self.lag_ms, lag_ms) {
            (Some(longest), Some(lag)) => {
                lag <= longest && lag.saturating_mul(100) >= longest.saturating_mul(SIMILAR_PERCENT)
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        similar && now - self.until <= SAMPLE_MS
    }
}

/// How long changes took lately on each edge.
#[derive(Debug, Clone, Default)]
pub struct Lags {
    /// By subscriber and provider, oldest first.
    edges: BTreeMap<(NodeId, NodeId), VecDeque<Run>>,
}

impl Lags {
    /// Notes how long changes of `provider` take to `subscriber` now; `None` when none arrive.
    pub fn note(&mut self, subscriber: NodeId, provider: NodeId, now: Wall, lag_ms: Option<i64>) {
        let runs = self.edges.entry((subscriber, provider)).or_default();
        if let Some(run) = runs.back_mut().filter(|run| run.takes(now.0, lag_ms)) {
            run.until = run.until.max(now.0);
            return;
        }
        let from = began(runs.back(), now.0, lag_ms);
        // What was thought of that time before is wrong.
        while runs.back().is_some_and(|run| run.from >= from) {
            runs.pop_back();
        }
        if let Some(run) = runs.back_mut() {
            run.until = run.until.min(from - SAMPLE_MS).max(run.from);
        }
        runs.push_back(Run {
            from,
            until: now.0,
            lag_ms,
        });
        while runs.len() > RUNS_MAX {
            runs.pop_front();
        }
    }

    /// Forgets edges of nodes that are gone.
    pub fn keep(&mut self, known: impl Fn(NodeId) -> bool) {
        self.edges
            .retain(|(one, other), _| known(*one) && known(*other));
    }

    /// Did the second know of the first? `None` when nobody looked.
    fn knew(&self, first: (NodeId, Stamp), second: (NodeId, Stamp)) -> Option<bool> {
        let runs = self.edges.get(&(second.0, first.0))?;
        let us = |ms: i64| ms.saturating_mul(1000);
        let mut looked = false;
        for run in runs.iter().filter(|run| us(run.from) <= second.1.0) {
            let end = us(run.until.saturating_add(SAMPLE_MS));
            looked = looked || second.1.0 <= end;
            let Some(lag_ms) = run.lag_ms else {
                continue;
            };
            // What had arrived by then had arrived before the commit.
            let seen_at = end.min(second.1.0);
            if seen_at.saturating_sub(first.1.0) >= us(lag_ms).saturating_add(SLACK_US) {
                return Some(true);
            }
        }
        looked.then_some(false)
    }
}

/// Since when changes have taken so long. What arrives late was held up before it was noticed: a
/// change was, that was written before the heartbeat which tells of it.
fn began(before: Option<&Run>, now: i64, lag_ms: Option<i64>) -> i64 {
    match (before.and_then(|run| run.lag_ms), lag_ms) {
        (Some(longest), Some(lag)) if lag > longest => now - lag.max(0) - BEAT_MS,
        (_, None) => now - SILENT_MS,
        _ => now,
    }
}

/// Judges an update of a row that another node had written last: `remote` came to `me`, and found
/// `local` there.
///
/// A blip shorter than the samples are apart is not in the lags. The node whose commit was the
/// later one tells the conflict all the same: its own commit can't have known what comes only now.
#[must_use]
pub fn judge(me: NodeId, local: Version, remote: Version, lags: &Lags) -> Verdict {
    let (Some(local_at), Some(remote_at)) = (local.at, remote.at) else {
        return Verdict::Unknown;
    };
    if local_at < COPIED_BEFORE || remote_at < COPIED_BEFORE {
        return Verdict::Ordered;
    }
    if local_at == remote_at {
        return Verdict::Concurrent;
    }
    let (Some(local_node), Some(remote_node)) = (local.node, remote.node) else {
        return Verdict::Unknown;
    };
    if local_node == remote_node {
        return Verdict::Ordered;
    }
    let (local, remote) = ((local_node, local_at), (remote_node, remote_at));
    let local_knew = if local_node == me {
        Some(false)
    } else {
        lags.knew(remote, local)
    };
    let answers = [lags.knew(local, remote), local_knew];
    // The one that could not have known is told by the later commit alone.
    let likely = if local_at < remote_at {
        answers[0]
    } else {
        answers[1]
    };
    match (answers.contains(&Some(true)), likely) {
        (true, _) => Verdict::Ordered,
        (false, Some(_)) => Verdict::Concurrent,
        (false, None) => Verdict::Unknown,
    }
}
