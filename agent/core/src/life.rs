//! The few irreversible facts of a node's life: all that is stored, the rest is derived.

use crate::ids::{NodeId, Ordinal};
use crate::record::JoinPhase;
use crate::roster::Decree;
use serde::{Deserialize, Serialize};

/// How far this node's life has come. Persisted by the shell before it is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Life {
    /// The stage.
    pub stage: Stage,
    /// The ordinal, once assigned.
    pub ordinal: Option<Ordinal>,
    /// While leaving: the first heartbeat written after the gate was shut. What the others have
    /// seen of this node is complete when they have seen it.
    #[serde(default)]
    pub leave_after: Option<u64>,
    /// While leaving: don't wait for members that can't be reached.
    #[serde(default)]
    pub leave_by_force: bool,
    /// Why this node is set apart until an operator decides, if it is.
    #[serde(default)]
    pub quarantined: Option<String>,
    /// Is it set apart because this machine is a copy of another one, which is the member?
    #[serde(default)]
    pub copied: bool,
    /// Are its contents given up, so that the next join begins as another database? Then it no
    /// longer matters what was seen of them.
    #[serde(default)]
    pub renew: bool,
}

/// The stages. A node only moves forward through them, or to `Left`; but one that lacks changes
/// becomes a joiner again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not a member of any cluster.
    #[default]
    Single,
    /// Named by the decree, empty, its edges are made side by side.
    Founding,
    /// Enrolled; joins members that serve writes.
    Joining(JoinPhase),
    /// In the mesh: has taken writes, or may have.
    Ready,
    /// In the mesh, with its gate shut: has lost what it needs next, and its own changes go to all
    /// others before it becomes a joiner again. Or becomes ready again, if that can't be.
    Resyncing,
    /// Draining.
    Leaving,
    /// Gone by its operator's wish.
    Left,
}

impl Stage {
    /// The stage in which a node begins its membership, however it heard of the founding: those
    /// that the decree names make their edges side by side, unless its founder holds the data
    /// they must copy first.
    #[must_use]
    pub fn enrolled(decree: &Decree, me: NodeId) -> Stage {
        match decree.member(me) {
            Some(_) if !decree.founder_holds_data => Stage::Founding,
            Some(_) | None => Stage::Joining(JoinPhase::Leasing),
        }
    }

    /// How far a joining node has come.
    #[must_use]
    pub fn phase(self) -> Option<JoinPhase> {
        match self {
            Stage::Founding => Some(JoinPhase::Founding),
            Stage::Joining(phase) => Some(phase),
            Stage::Single | Stage::Ready | Stage::Resyncing | Stage::Leaving | Stage::Left => None,
        }
    }

    /// May applications have written here as a member of the mesh?
    #[must_use]
    pub fn took_writes(self) -> bool {
        match self {
            Stage::Ready | Stage::Resyncing | Stage::Leaving | Stage::Left => true,
            Stage::Single | Stage::Founding | Stage::Joining(_) => false,
        }
    }
}
