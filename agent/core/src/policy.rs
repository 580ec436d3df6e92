//! What the operator wants, validated: the part of the configuration that decisions rest on.

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
