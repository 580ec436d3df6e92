//! What one node can see: its own PostgreSQL, and whether its peers answer.
//!
//! A fact may be unknown, and then says why. Nothing that can lose data may follow from an
//! unknown fact, nor from a peer being unreachable.

use crate::clock::ClockView;
use crate::ids::{DataEpoch, Lsn, NodeId};
use crate::time::{Mono, Wall};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Something that was looked at, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    /// It was seen.
    Known(T),
    /// It could not be seen; the reason, for people.
    Unknown(String),
}

impl<T> Fact<T> {
    /// The value, where it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Fact::Known(value) => Some(value),
            Fact::Unknown(_) => None,
        }
    }
}

/// Everything one look has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The local PostgreSQL.
    pub postgres: Fact<PostgresFacts>,
    /// Whether each peer answers, by gossip and by gRPC.
    pub peers: BTreeMap<NodeId, Reach>,
    /// The file system that holds the WAL.
    pub wal_disk: Fact<DiskFacts>,
    /// Files with what this node held before it was synchronised anew, until somebody removes them.
    pub exports: Vec<String>,
    /// This node's clock, and how far the others' are from it.
    pub clock: ClockView,
    /// When the last look began that found none of the rows named here open any more, own deletes
    /// included; `None` while some are.
    pub settled: Option<Mono>,
}

/// The file system that holds the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFacts {
    /// Its size, bytes.
    pub total_bytes: u64,
    /// What PostgreSQL's account can still use of it, bytes.
    pub free_bytes: u64,
    /// What the WAL takes of it, bytes.
    pub wal_bytes: u64,
}

/// Whether a peer answers. Down means unreachable from here, never that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Never heard of since this agent started.
    Unknown,
    /// It answers.
    Up,
    /// It has stopped to answer.
    Down,
}

/// The local PostgreSQL, as one look finds it. Names are pglogical's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PostgresFacts {
    /// `server_version_num`.
    pub version_num: u32,
    /// pglogical's extension version; `None` when the extension isn't there.
    pub pglogical: Option<String>,
    /// From `pg_control_system()`.
    pub system_identifier: u64,
    /// The epoch stored in `pgaa.local`, once minted.
    pub epoch: Option<DataEpoch>,
    /// Is this a standby?
    pub in_recovery: bool,
    /// `pg_current_wal_flush_lsn()`: no crash takes it back. 0 in recovery: nobody knows yet how
    /// far that goes.
    pub wal: Lsn,
    /// `max_slot_wal_keep_size`, bytes; `None` where slots are not bounded.
    pub backstop_bytes: Option<u64>,
    /// Settings that differ from what the mesh needs.
    pub drifts: Vec<SettingDrift>,
    /// Settings whose new value waits for a restart.
    pub restart_pending: Vec<String>,
    /// The local pglogical node: name and DSN.
    pub local_node: Option<(String, String)>,
    /// Subscriptions by name.
    pub subscriptions: BTreeMap<String, SubscriptionFacts>,
    /// Logical replication slots of the mesh's database that pglogical's plug-in reads, by name.
    pub slots: BTreeMap<String, SlotFacts>,
    /// Newest heartbeat of each node that has arrived here (our own among them).
    pub heartbeats: BTreeMap<NodeId, HeartbeatFacts>,
    /// User tables of the database.
    pub tables: Vec<TableFacts>,
    /// Digest over `tables` that must agree between nodes (see `TableFacts::structure`).
    pub catalog: u64,
    /// Does any user table hold a row? Empty tables don't count as data.
    pub has_rows: bool,
    /// Is the gate's block in pg_hba.conf the open one, and in force?
    pub gate_open: bool,
    /// The members that pg_ident.conf lets in.
    pub admitted: BTreeSet<NodeId>,
    /// Lines of pg_hba.conf or pg_ident.conf that PostgreSQL can't read, with line number.
    pub hba_errors: Vec<String>,
}

/// A setting that is not what the mesh needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingDrift {
    /// The setting's name.
    pub name: String,
    /// Its value now, as `SHOW` prints it.
    pub value: String,
    /// What the mesh needs, for people ("at least 32", "logical").
    pub needed: String,
    /// Where the value comes from: "file:line", "default", "ALTER SYSTEM (postgresql.auto.conf:3)".
    pub source: String,
    /// Does a change need a restart?
    pub needs_restart: bool,
}

/// One subscription of the local node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionFacts {
    /// The provider's pglogical node name.
    pub provider: String,
    /// `sub_slot_name`.
    pub slot: String,
    /// Enabled?
    pub enabled: bool,
    /// Does an apply worker run for it (its process has attached)?
    pub worker: bool,
    /// `sub_forward_origins` is empty?
    pub forwards_nothing: bool,
    /// `sync_status` of the whole subscription: 'r' is ready.
    pub sync_status: Option<char>,
    /// Does the replication origin of its slot's name exist?
    pub origin: bool,
    /// The DSN it uses to reach the provider.
    pub dsn: String,
    /// How far of the provider's WAL has been applied.
    pub position: Lsn,
}

/// One slot on the local node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    /// Does somebody read it right now?
    pub active: bool,
    /// The process that serves its reader (`active_pid`).
    pub sender: Option<i32>,
    /// `wal_status`: reserved, extended, unreserved, lost.
    pub wal_status: String,
    /// WAL it retains, bytes.
    pub retained_bytes: u64,
    /// `confirmed_flush_lsn`.
    pub confirmed: Lsn,
    /// Was it dropped and made anew under its name, by somebody else? Then there is a gap before it.
    pub made_anew: bool,
}

/// The newest heartbeat of one node that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatFacts {
    /// The epoch under which it was written.
    pub epoch: DataEpoch,
    /// Its number.
    pub number: u64,
    /// When its writer wrote it, by the writer's clock.
    pub sent_at: Wall,
    /// Milliseconds from sending to arrival, by the two nodes' own clocks.
    pub lag_ms: i64,
    /// When this agent first saw this number.
    pub seen_at: Mono,
}

/// One table of the user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// "schema.table", quoted where needed.
    pub name: String,
    /// Digest over columns (name, type, not null, generated) and primary key, comparable between
    /// nodes.
    pub structure: u64,
    /// Has it a primary key?
    pub primary_key: bool,
    /// Is it in our replication set?
    pub replicated: bool,
    /// Sequences that feed key columns and would give the same values on two nodes.
    pub plain_sequences: Vec<SequenceFacts>,
    /// UNLOGGED and temporary tables, foreign tables and the like can't be replicated.
    pub replicable: bool,
}

/// A sequence that feeds a key column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceFacts {
    /// "schema.sequence", quoted where needed.
    pub name: String,
    /// The column it feeds.
    pub column: String,
    /// Increment.
    pub increment: i64,
    /// The next value modulo the increment, which must be the node's ordinal.
    pub residue: i64,
    /// Is the column narrower than bigint?
    pub narrow: bool,
}
