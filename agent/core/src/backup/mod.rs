//! The backups: which node owns them, what is due, what can be restored.
//!
//! One node owns them by a claim in its record (`claim`); what lies in the repository is described
//! by `repository`. Must not know pgBackRest's programs and files, nor read a clock.

pub mod archiving;
pub mod claim;
pub mod due;
pub mod reach;
pub mod repository;

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What the operator wants of the backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPolicy {
    /// Is there a repository?
    pub enabled: bool,
    /// Nodes that are to own the backups if one of them can, by name.
    pub prefer_nodes: Vec<String>,
    /// The same by site, after the nodes.
    pub prefer_sites: Vec<String>,
    /// Nodes that never own them.
    pub exclude_nodes: Vec<String>,
    /// Sites whose nodes never own them.
    pub exclude_sites: Vec<String>,
    /// How long the owner may be gone before another node takes over.
    pub hand_over: Duration,
    /// How much WAL may wait for the repository, bytes; `None`: half of what slots may hold back.
    pub waiting_bytes_max: Option<u64>,
}

impl Default for BackupPolicy {
    fn default() -> BackupPolicy {
        BackupPolicy {
            enabled: false,
            prefer_nodes: Vec::new(),
            prefer_sites: Vec::new(),
            exclude_nodes: Vec::new(),
            exclude_sites: Vec::new(),
            hand_over: Duration::from_secs(600),
            waiting_bytes_max: None,
        }
    }
}

/// The name of what one PostgreSQL cluster has in the repository. It names node and system
/// identifier, because WAL of one can't be replayed on another; not the node's name, which may
/// change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stanza(String);

/// What every stanza of ours begins with.
const PREFIX: &str = "pgaa-";

impl Stanza {
    /// The stanza of a node's cluster.
    #[must_use]
    pub fn new(node: NodeId, system_identifier: u64) -> Stanza {
        Stanza(format!(
            "{PREFIX}{}-{system_identifier:016x}",
            node.0.simple()
        ))
    }

    /// One that was found in a repository; `None` where it is none of ours.
    #[must_use]
    pub fn read(name: &str) -> Option<Stanza> {
        let stanza = Stanza(name.to_owned());
        stanza.parts().map(|_| stanza.clone())
    }

    /// Whose it is, and the system identifier of its cluster.
    #[must_use]
    pub fn parts(&self) -> Option<(NodeId, u64)> {
        let (node, system) = self.0.strip_prefix(PREFIX)?.split_once('-')?;
        let system = (system.len() == 16).then(|| u64::from_str_radix(system, 16).ok())??;
        let node: NodeId = node.parse().ok()?;
        // Only what `new` writes: one node has one spelling.
        (Stanza::new(node, system).0 == self.0).then_some((node, system))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a backup rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// On the backup before it, whichever that is.
    Incremental,
    /// On the last full one.
    Differential,
    /// On nothing.
    Full,
}

impl BackupKind {
    /// All, the one that covers most first.
    pub const ALL: [BackupKind; 3] = [
        BackupKind::Full,
        BackupKind::Differential,
        BackupKind::Incremental,
    ];

    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            BackupKind::Full => "full",
            BackupKind::Differential => "differential",
            BackupKind::Incremental => "incremental",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_stanza_names_node_and_cluster_and_strangers_are_passed_over() {
        let node = NodeId(Uuid::from_u128(7));
        let stanza = Stanza::new(node, 0x6b02_4c1e_a5e8_0001);
        assert_eq!(
            stanza.as_str(),
            "pgaa-00000000000000000000000000000007-6b024c1ea5e80001"
        );
        assert_eq!(Stanza::read(stanza.as_str()), Some(stanza.clone()));
        assert_eq!(stanza.parts(), Some((node, 0x6b02_4c1e_a5e8_0001)));
        for strange in [
            "",
            "main",
            "pgaa-",
            "pgaa-00000000-0000-0000-0000-000000000007-6b024c1ea5e80001",
            "pgaa-00000000000000000000000000000007-6B024C1EA5E80001",
            "pgaa-00000000000000000000000000000007-1",
            "pgaa-00000000000000000000000000000007-6b024c1ea5e80001/..",
        ] {
            assert_eq!(Stanza::read(strange), None, "{strange} was taken");
        }
    }
}
