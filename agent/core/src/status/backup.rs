//! The part of the report that is about the backups.

use crate::backup::BackupKind;
use crate::backup::repository::{Gap, Window};
use crate::ids::NodeId;
use crate::time::Wall;
use serde::{Deserialize, Serialize};

/// The backups, as the answering node sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Where they are kept, in words.
    pub repository: String,
    /// Who owns them, the highest claim first. More than one only for a moment, and where the mesh
    /// is parted.
    pub owners: Vec<BackupOwner>,
    /// Since when the answering node archives every segment of its WAL, if it does.
    pub archiving: Option<Wall>,
    /// WAL of the answering node that waits for the repository, bytes.
    pub waiting_bytes: u64,
    /// Since when the oldest of it waits.
    pub waiting_since: Option<Wall>,
    /// How much may wait before it is let go, bytes.
    pub waiting_bytes_max: Option<u64>,
    /// The backup that the answering node takes.
    pub running: Option<RunningBackup>,
    /// The newest backup of all.
    pub last: Option<LastBackup>,
    /// The next that the schedules want, where the answering node is the owner.
    pub next: Option<(BackupKind, Wall)>,
    /// What can be restored, over all owners.
    pub windows: Vec<Window>,
    /// What lies between and can't.
    pub gaps: Vec<Gap>,
    /// Why the answering node can't own the backups, where it can't.
    pub unable: Option<String>,
    /// Why the repository can't be read, where it can't.
    pub unread: Option<String>,
}

/// A node that owns the backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOwner {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The epoch of its claim.
    pub epoch: u64,
    /// Since when.
    pub since: Wall,
    /// Has it taken a full backup since?
    pub covered: bool,
    /// Does it answer?
    pub reachable: bool,
    /// Up to when its WAL is in the repository, as it last said.
    pub archived_until: Option<Wall>,
    /// What is wrong there; empty when nothing is.
    pub problem: String,
}

/// A backup under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningBackup {
    /// What it rests on.
    pub kind: BackupKind,
    /// Since when.
    pub since: Wall,
    /// How much of the database was copied.
    pub percent: u32,
}

/// The newest backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// pgBackRest's name for it.
    pub label: String,
    /// What it rests on.
    pub kind: BackupKind,
    /// Of which node; empty where it isn't noted.
    pub node_name: String,
    /// When it was complete.
    pub stopped_at: Wall,
    /// What it takes in the repository, bytes.
    pub stored_bytes: u64,
}
