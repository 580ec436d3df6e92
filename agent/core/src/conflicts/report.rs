//! What is told of conflicts: a few numbers in the status, and the answer of `pgaa-agent conflicts`.
//!
//! Field names are a public schema, as those of the status are.

use crate::ids::Lsn;
use crate::time::Wall;
use serde::{Deserialize, Serialize};

/// Version of the JSON document.
pub const SCHEMA_VERSION: u32 = 1;

/// Conflicts that this node met in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Lines about conflicts.
    pub lines: u64,
    /// Those in which neither node knew of the other's change.
    pub conflicts: u64,
    /// Ordinary updates of a row that another node had written last: no conflict.
    pub ordinary: u64,
    /// Updates of which nobody can tell any more.
    pub unsure: u64,
    /// Decided by clocks that could not be trusted.
    pub untrusted_clock: u64,
}

/// In the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictsReport {
    /// Are conflicts read?
    pub reading: bool,
    /// If not, why; ends in the next step.
    pub off: Option<String>,
    /// In the last hour.
    pub hour: Counts,
    /// In the last day.
    pub day: Counts,
    /// Bytes of the log that are not read yet.
    pub behind_bytes: u64,
    /// Why rows may differ that nobody has named, until all tables were compared.
    pub gap: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Query {
    /// Conflicts since then.
    pub since: Wall,
    /// Of this table only: "schema.table", or the table alone.
    pub table: Option<String>,
    /// Between these two nodes only, by name.
    pub pair: Option<(String, String)>,
    /// So many single conflicts at most.
    pub limit: u32,
}

/// The answer of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Who answers: each node meets the conflicts of the changes that come to it.
    pub node: String,
    /// When.
    pub at: Wall,
    /// Since when.
    pub since: Wall,
    /// How many there were.
    pub counts: Counts,
    /// The tables with the most, the most first.
    pub tables: Vec<Hot>,
    /// The keys with the most.
    pub keys: Vec<Hot>,
    /// The pairs of nodes with the most.
    pub pairs: Vec<Hot>,
    /// Single ones, newest first.
    pub conflicts: Vec<Shown>,
    /// What would make them fewer.
    pub advice: Vec<String>,
    /// Why conflicts are not read, if they aren't.
    pub off: Option<String>,
}

/// Something with many conflicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hot {
    /// "public.orders", "public.orders id=5", "db1 - db2".
    pub name: String,
    /// How many.
    pub conflicts: u64,
}

/// One conflict; the names are those of the columns of `pgaa.conflict_history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see the comments on the table's columns")]
pub struct Shown {
    pub conflict_id: i64,
    pub local_conflict_time: Wall,
    pub object_schema: String,
    pub object_name: String,
    pub object_key: Option<String>,
    pub remote_node: String,
    pub remote_txid: u32,
    pub remote_commit_time: Wall,
    pub remote_commit_lsn: Lsn,
    pub conflict_type: String,
    pub conflict_resolution: String,
    pub local_tuple_origin: Option<String>,
    pub local_commit_time: Option<Wall>,
    pub concurrent: Option<bool>,
    pub clock_trusted: bool,
    pub local_tuple: Option<serde_json::Value>,
    pub remote_tuple: Option<serde_json::Value>,
}

/// A table, a key or a pair with this share of all conflicts is worth a word of its own, percent.
const HOT_PERCENT: u64 = 50;

/// Fewer conflicts than this show no pattern.
const PATTERN_MIN: u64 = 10;

/// What would make conflicts fewer, as far as the numbers say.
#[must_use]
pub fn advice(report: &Report) -> Vec<String> {
    let total = report.counts.conflicts;
    let mut advice = Vec::new();
    if report.counts.untrusted_clock > 0 {
        advice.push(format!(
            "{} were decided by clocks that were too far apart to say which update was the last: \
             pgaa-agent clock",
            report.counts.untrusted_clock
        ));
    }
    if total < PATTERN_MIN {
        return advice;
    }
    let hot = |list: &[Hot]| {
        let share = |hot: &&Hot| hot.conflicts.saturating_mul(100) >= total * HOT_PERCENT;
        list.first().filter(share).cloned()
    };
    let part = |hot: &Hot| format!("{} of {total}", hot.conflicts);
    if let Some(key) = hot(&report.keys) {
        advice.push(format!(
            "{} are on the one row {}: a counter or a status that all nodes write. Keep one row a \
             node and add them up when reading, or write it on one node only",
            part(&key),
            key.name
        ));
    } else if let Some(table) = hot(&report.tables) {
        advice.push(format!(
            "{} are in {}: give each of its rows a home, the node (or region) that alone writes it, \
             by user, tenant or key, and let the others read it or take over",
            part(&table),
            table.name
        ));
    }
    if let Some(pair) = hot(&report.pairs).filter(|_| report.pairs.len() > 1) {
        advice.push(format!(
            "{} are between {}: the same rows are written at both. Route their writers to one of \
             the two",
            part(&pair),
            pair.name
        ));
    }
    if advice.is_empty() {
        advice.push(
            "they are spread over tables and nodes: give rows a home region, and write them there; \
             an active-active mesh is no way to share the load of writes to the same rows"
                .to_owned(),
        );
    }
    advice
}
