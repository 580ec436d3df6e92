//! What a node says of itself to the mesh.
//!
//! A record is written by its owner alone and versioned by a counter the owner persists; a reader
//! keeps the highest version it has seen, so the order of arrival does not matter.

use crate::backup::claim::BackupWord;
use crate::clock::{ClockReading, PairReading};
use crate::ids::{DataEpoch, Lsn, Name, NodeId, Ordinal};
use crate::state::NodeState;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Where a node can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoints {
    /// gRPC between agents (TCP).
    pub grpc: SocketAddr,
    /// Gossip between agents (UDP).
    pub gossip: SocketAddr,
    /// PostgreSQL (TCP).
    pub postgres: SocketAddr,
}

/// What runs on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Versions {
    /// The agent's version, "0.1.0".
    pub agent: String,
    /// `server_version_num`, 150020 for 15.20; 0 while unknown.
    pub postgres: u32,
    /// pglogical's extension version, "2.4.2"; empty while unknown.
    pub pglogical: String,
}

/// How far a joining node has come. The order is the order of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinPhase {
    /// A founding member that holds no rows: its edges are made side by side, no copy is needed.
    Founding,
    /// Waiting for every member's lease.
    Leasing,
    /// Copying structure and rows from the source.
    Copying,
    /// Following the source alone, which forwards everybody's changes.
    CatchingUp,
    /// Handed over to direct streams; slots for every member exist on this node, and the members
    /// subscribe to it.
    Linking,
    /// Every edge is there; heartbeats and row checks are awaited.
    Checking,
}

impl JoinPhase {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            JoinPhase::Founding => "founding",
            JoinPhase::Leasing => "leasing",
            JoinPhase::Copying => "copying",
            JoinPhase::CatchingUp => "catching_up",
            JoinPhase::Linking => "linking",
            JoinPhase::Checking => "checking",
        }
    }
}

/// One inbound edge as its subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeReport {
    /// What the subscriber observes.
    pub state: EdgeState,
    /// Milliseconds from the provider's commit of a heartbeat to its arrival here, by the two
    /// nodes' own clocks; `None` before the first.
    pub lag_ms: Option<i64>,
    /// Number of the newest heartbeat that arrived.
    pub heartbeat: u64,
    /// What PostgreSQL says, where the state needs an explanation.
    pub detail: String,
    /// How far of the provider's WAL has been applied here.
    #[serde(default)]
    pub position: Lsn,
}

/// The state of a directed edge, subscriber <- provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeState {
    /// Nothing could be observed.
    Unknown,
    /// There is no subscription yet.
    Missing,
    /// The subscription exists and is disabled.
    Disabled,
    /// Enabled, and no worker runs.
    Down,
    /// A worker runs, and no fresh heartbeat has arrived through it.
    Connecting,
    /// Heartbeats arrive.
    Replicating,
    /// The provider no longer holds what this edge would need next.
    NeedsResync,
}

impl EdgeState {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            EdgeState::Unknown => "unknown",
            EdgeState::Missing => "missing",
            EdgeState::Disabled => "disabled",
            EdgeState::Down => "down",
            EdgeState::Connecting => "connecting",
            EdgeState::Replicating => "replicating",
            EdgeState::NeedsResync => "needs_resync",
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Whose record this is.
    pub node: NodeId,
    /// The owner's counter; persisted before it is sent.
    pub version: u64,
    /// How often the owner's agent has started.
    pub generation: u64,
    /// The node's name.
    pub name: Name,
    /// Its place, where the operator named one ("eu-west"); empty otherwise.
    pub site: String,
    /// Its ordinal, once assigned.
    pub ordinal: Option<Ordinal>,
    /// Where it is reached.
    pub endpoints: Endpoints,
    /// The epoch of its database.
    pub epoch: DataEpoch,
    /// PostgreSQL's system identifier; 0 while unknown.
    pub system_identifier: u64,
    /// What runs there.
    pub versions: Versions,
    /// Where it stands.
    pub state: NodeState,
    /// How far a joining node has come.
    pub phase: Option<JoinPhase>,
    /// Is the gate open, so that applications can write?
    pub gate_open: bool,
    /// For whom a slot exists on this node.
    pub slots_for: BTreeSet<NodeId>,
    /// Its inbound edges, by provider.
    pub edges: BTreeMap<NodeId, EdgeReport>,
    /// Digest over everything replicated tables must agree in; equal digests mean equal catalogs.
    pub catalog: u64,
    /// Number of the newest heartbeat it wrote; not below the floor of the series (see
    /// [`crate::beats`]) that goes with `slots_for`.
    pub heartbeat: u64,
    /// Its WAL position when it wrote this record; 0 while its server doesn't answer,
    /// or recovers.
    pub wal: Lsn,
    /// Its clock.
    pub clock: ClockReading,
    /// How far the clocks of others are ahead of it, as it has measured.
    #[serde(default)]
    pub clock_pairs: BTreeMap<NodeId, PairReading>,
    /// What it says of the backups.
    #[serde(default)]
    pub backup: BackupWord,
    /// When it wrote this, by its own clock.
    pub written_at: Wall,
}

impl NodeRecord {
    /// Is it one of those whose rows must be the same?
    ///
    /// A joiner that still copies is not: it gets whatever its source has by then. One that is
    /// past that is: what is mended now would not be sent to it any more.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        match self.state {
            NodeState::Ready | NodeState::Leaving | NodeState::Booting | NodeState::Configuring => {
                true
            }
            NodeState::Joining => !matches!(
                self.phase,
                None | Some(JoinPhase::Leasing | JoinPhase::Copying)
            ),
            NodeState::Discovering
            | NodeState::Forming
            | NodeState::Enrolling
            | NodeState::WaitingForClock
            | NodeState::Resyncing
            | NodeState::Quarantined
            | NodeState::Left => false,
        }
    }
}
