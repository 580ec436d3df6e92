//! What the operator wants, validated: the part of the configuration that decisions rest on.

use crate::backup::BackupPolicy;
use crate::clock::ClockPolicy;
use crate::ids::Name;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// The validated wishes of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The cluster's name; the same on every node.
    pub cluster_name: Name,
    /// The one database that is replicated.
    pub database: String,
    /// How many nodes found the cluster; at least 1.
    pub expect: u16,
    /// How many nodes the servers are sized for.
    pub max_nodes: u16,
    /// Where founding peers are found.
    pub founding_set: FoundingSet,
    /// How long empty founders keep their gates shut for a decreed member that is missing.
    pub founding_wait: Duration,
    /// What pglogical does with a conflict.
    pub conflict_resolution: ConflictResolution,
    /// Schemas whose tables never enter the replication set, beside our own and pglogical's.
    pub excluded_schemas: Vec<String>,
    /// What slots may hold back.
    pub slots: SlotPolicy,
    /// What clocks must be like.
    pub clock: ClockPolicy,
    /// Who keeps the backups, and what may wait for the repository.
    pub backup: BackupPolicy,
}

/// What slots may hold back before they are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPolicy {
    /// The most one slot may hold back, bytes; `None`: what the disk can give.
    pub budget_bytes: Option<u64>,
    /// The share of the WAL's disk that slots must leave free, percent.
    pub reserve_percent: u8,
    /// The most that PostgreSQL's own limit may be, percent of the disk.
    pub backstop_percent_max: u8,
    /// More than this share of its budget is worth a warning, percent.
    pub warn_percent: u8,
    /// More than this share needs somebody, percent.
    pub alarm_percent: u8,
    /// Beyond `alarm_percent` a slot is given up this long before its budget is spent.
    pub give_up_within: Duration,
}

impl Default for SlotPolicy {
    fn default() -> SlotPolicy {
        SlotPolicy {
            budget_bytes: None,
            reserve_percent: 10,
            backstop_percent_max: 95,
            warn_percent: 50,
            alarm_percent: 80,
            give_up_within: Duration::from_secs(60),
        }
    }
}

/// Which nodes may found the cluster together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundingSet {
    /// Exactly the nodes at these addresses (`expect` of them).
    Addresses(Vec<SocketAddr>),
    /// Any `expect` nodes, under the stated condition that fewer than 2 x `expect` machines
    /// start before the founding: two sets of that size then share a node, and a node promises
    /// itself to one candidate at a time.
    Any,
}

/// pglogical's `conflict_resolution` settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ConflictResolution {
    /// The newer commit wins.
    #[default]
    LastUpdateWins,
    /// The remote row wins.
    ApplyRemote,
    /// The local row wins.
    KeepLocal,
    /// Apply stops.
    Error,
}

impl ConflictResolution {
    /// The value of `pglogical.conflict_resolution`.
    #[must_use]
    pub fn as_setting(self) -> &'static str {
        match self {
            ConflictResolution::LastUpdateWins => "last_update_wins",
            ConflictResolution::ApplyRemote => "apply_remote",
            ConflictResolution::KeepLocal => "keep_local",
            ConflictResolution::Error => "error",
        }
    }
}
