//! The report: what `pgaa-agent status -o json` prints, and everything the tables show.
//!
//! Field names are a public schema; a change that removes or renames one raises
//! [`SCHEMA_VERSION`]. Times are Unix milliseconds by the answering node's clock, ages are
//! milliseconds.

mod backup;

pub use backup::{BackupOwner, BackupReport, LastBackup, RunningBackup};

use crate::clock::ClockReading;
use crate::conflicts::report::ConflictsReport;
use crate::ids::{ClusterId, Lsn, NodeId, Ordinal};
use crate::observed::{Reach, SettingDrift};
use crate::record::{EdgeState, Endpoints, JoinPhase, Versions};
use crate::restore::proof::Proofs;
use crate::rows::RowsView;
use crate::state::NodeState;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Version of the JSON document.
pub const SCHEMA_VERSION: u32 = 1;

/// How well it goes, as one word; the exit code of `status` follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is as it should be: exit code 0.
    Ok,
    /// It works, and something needs a look: exit code 1.
    Degraded,
    /// Something needs somebody now: exit code 2.
    Critical,
}

/// The whole report of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The worst of all findings.
    pub health: Health,
    /// Who answers.
    pub answered_by: AnsweredBy,
    /// The cluster, once one is known.
    pub cluster: Option<ClusterReport>,
    /// The answering node's own state.
    pub node: LocalReport,
    /// Every member that is known, the answering one among them, by name.
    pub members: Vec<MemberReport>,
    /// Every directed edge of the full mesh.
    pub edges: Vec<EdgeRow>,
    /// How far the members' clocks are apart.
    #[serde(default)]
    pub clock: ClocksReport,
    /// Tables and the replication set.
    pub tables: TablesReport,
    /// Rows that may not be the same on all nodes, as this node has named them.
    #[serde(default)]
    pub rows: RowsView,
    /// Conflicts that the answering node has met.
    #[serde(default)]
    pub conflicts: ConflictsReport,
    /// What is waited for, most important first.
    pub waiting_on: Vec<WaitingOn>,
    /// What somebody should know, most important first.
    pub findings: Vec<Finding>,
    /// What the agent is doing about it: the last plan's actions, in words.
    pub doing: Vec<String>,
    /// The founding, while there is none.
    pub founding: Option<FoundingReport>,
    /// What is remembered of proofs of the backups that this node has made, if it has tried.
    #[serde(default)]
    pub proofs: Option<Proofs>,
    /// The backups, where there is a repository.
    #[serde(default)]
    pub backup: Option<BackupReport>,
}

/// Who answers, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredBy {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// When.
    pub at: Wall,
    /// The agent's version.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Its identity.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// The replicated database.
    pub database: String,
    /// Who founded it.
    pub founder: NodeId,
    /// Members that are ready.
    pub ready: usize,
    /// Members in all.
    pub members: usize,
    /// How many nodes the servers are sized for.
    pub max_nodes: u16,
    /// pglogical's conflict resolution.
    pub conflict_resolution: String,
}

/// The answering node's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalReport {
    /// Where it stands.
    pub state: NodeState,
    /// How far it has come, while joining.
    pub phase: Option<JoinPhase>,
    /// Progress of the current phase, while there is one.
    pub progress: Option<Progress>,
    /// Why it stands there, in words.
    pub because: String,
    /// Since when.
    pub since: Wall,
    /// Can applications write here?
    pub gate_open: bool,
    /// Its ordinal.
    pub ordinal: Option<Ordinal>,
    /// How often this agent has started.
    pub generation: u64,
    /// Does PostgreSQL answer? If not, why.
    pub postgres_error: Option<String>,
    /// Settings that aren't what the mesh needs.
    pub drifts: Vec<SettingDrift>,
    /// Settings that wait for a restart.
    pub restart_pending: Vec<String>,
    /// The clock.
    pub clock: ClockReading,
    /// Why load balancers should avoid this node although it takes writes.
    #[serde(default)]
    pub withheld: Option<String>,
    /// When the certificate of this node expires; `None` before it has one.
    pub certificate_expires: Option<Wall>,
}

/// How far something long has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done ("copying public.orders").
    pub what: String,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all, as estimated.
    pub bytes_total: u64,
    /// Bytes a second, since it began.
    pub bytes_per_s: u64,
    /// Its parts, where it has any: the tables of a copy, largest first.
    #[serde(default)]
    pub parts: Vec<ProgressPart>,
}

/// How far a part of it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressPart {
    /// Its name ("public.orders").
    pub name: String,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all, as estimated; what is done can be more.
    pub bytes_total: u64,
    /// Is it finished?
    pub done: bool,
}

impl Progress {
    /// How much of it is done, percent.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let total = self.bytes_total.max(self.bytes_done).max(1);
        self.bytes_done.saturating_mul(100) / total
    }

    /// In one line: "copying public.orders, 45 %, 12 s left".
    #[must_use]
    pub fn line(&self) -> String {
        let left = self.seconds_left();
        let left = left.map_or_else(String::new, |s| format!(", {s} s left"));
        format!("{}, {} %{left}", self.what, self.percent())
    }

    /// How long it will take from here, seconds, at the rate so far.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.bytes_total.saturating_sub(self.bytes_done);
        left.checked_div(self.bytes_per_s)
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its place; empty when not named.
    pub site: String,
    /// Its ordinal.
    pub ordinal: Option<Ordinal>,
    /// What it says of itself; `None` while it has not said anything.
    pub state: Option<NodeState>,
    /// How far it has come, while joining.
    pub phase: Option<JoinPhase>,
    /// Does it answer the reporting node?
    pub reach: Reach,
    /// Is it the reporting node itself?
    pub local: bool,
    /// Where it is reached.
    pub endpoints: Option<Endpoints>,
    /// What runs there.
    pub versions: Versions,
    /// Its clock.
    pub clock: ClockReading,
    /// Can applications write there?
    pub gate_open: bool,
    /// Its WAL position.
    pub wal: Lsn,
    /// How old its record is, milliseconds since it arrived here.
    pub age_ms: u64,
}

/// One directed edge, subscriber <- provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// The subscriber, which owns the edge.
    pub subscriber: NodeId,
    /// The provider.
    pub provider: NodeId,
    /// What the subscriber reports.
    pub state: EdgeState,
    /// What it should be.
    pub desired: EdgeState,
    /// Milliseconds from commit to arrival, by heartbeat.
    pub lag_ms: Option<i64>,
    /// What PostgreSQL says, where the state needs an explanation.
    pub detail: String,
    /// How old this row is.
    pub age_ms: u64,
    /// Bytes of WAL the provider retains for this edge, where the reporting node is the provider.
    pub retained_bytes: Option<u64>,
    /// What it may retain before the slot is given up, where the reporting node is the provider.
    #[serde(default)]
    pub budget_bytes: Option<u64>,
    /// Seconds until the provider's disk is full if the edge goes on retaining as it does; `None`
    /// when it doesn't grow, or where the reporting node isn't the provider.
    #[serde(default)]
    pub full_in_s: Option<u64>,
}

/// How far the members' clocks are apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ClocksReport {
    /// The largest error bound of a clock that counts as synchronized, microseconds.
    pub error_us_max: u64,
    /// Is readiness withheld from nodes whose clock can't be trusted?
    pub strict: bool,
    /// The clocks that a majority contradicts.
    pub odd: BTreeSet<NodeId>,
    /// What was measured, each pair by both its nodes.
    pub rows: Vec<ClockRow>,
}

/// What one node has measured of another's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRow {
    /// Who has measured.
    pub from: NodeId,
    /// Whose clock.
    pub to: NodeId,
    /// How far that clock is ahead, microseconds.
    pub offset_us: i64,
    /// How much that can be wrong by.
    pub error_us: u64,
    /// The shortest round trip.
    pub round_trip_us: u64,
    /// How long ago, milliseconds.
    pub age_ms: u64,
    /// How far the two may be apart.
    pub tolerance_us: u64,
}

/// Tables and the replication set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TablesReport {
    /// Tables that are replicated.
    pub replicated: Vec<String>,
    /// Tables that are not, and why.
    pub waiting: Vec<TableWaiting>,
}

/// A table that isn't replicated yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWaiting {
    /// "schema.table"
    pub table: String,
    /// Names of the nodes that lack it.
    pub lacking: BTreeSet<String>,
    /// Names of the nodes where its structure differs from the reporting node's.
    pub differing: BTreeSet<String>,
    /// Names of the nodes that could not be asked.
    pub unknown: BTreeSet<String>,
    /// In words.
    pub because: String,
}

/// Something that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WaitingOn {
    /// A stable word for programs: "peers", "promise", "postgres", "slot", "clock".
    pub kind: String,
    /// In words, ending in the next step where there is one.
    pub text: String,
}

impl WaitingOn {
    /// Makes one.
    #[must_use]
    pub fn new(kind: &str, text: impl Into<String>) -> WaitingOn {
        WaitingOn {
            kind: kind.to_owned(),
            text: text.into(),
        }
    }
}

/// Something somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How serious; `Health::Ok` is a remark.
    pub severity: Health,
    /// A stable word for programs: "no_primary_key", "plain_sequence", "edge_down".
    pub code: String,
    /// In words.
    pub text: String,
    /// The command that helps; never empty.
    pub command: String,
}

/// The founding, while it is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingReport {
    /// How many nodes found the cluster.
    pub expect: u16,
    /// Who is there, by name.
    pub present: Vec<String>,
    /// Who is missing: addresses that don't answer.
    pub missing: Vec<String>,
    /// Since when founding is tried.
    pub since: Wall,
    /// To whom this node has promised itself.
    pub promised_to: Option<NodeId>,
}

/// The worst of the findings.
#[must_use]
pub fn health_of(findings: &[Finding]) -> Health {
    findings
        .iter()
        .map(|finding| finding.severity)
        .max()
        .unwrap_or(Health::Ok)
}
