//! The states of a node, and the only ways from one to another.
//!
//! A state is derived from what is observed (`plan::state_of`); the table of transitions exists
//! so that a surprising one is noticed, and so that ARCHITECTURE.md can draw it (a test compares
//! the two).

use serde::{Deserialize, Serialize};

/// Where a node stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// The agent runs; PostgreSQL has not answered yet.
    #[default]
    Booting,
    /// PostgreSQL answers, but isn't configured as the mesh needs it.
    Configuring,
    /// Looking for peers; no cluster is known.
    Discovering,
    /// Peers are known, none of them is a member: founding.
    Forming,
    /// A cluster is known; its certificate and roster are being fetched.
    Enrolling,
    /// Clocks don't agree well enough to join.
    WaitingForClock,
    /// Making edges, or copying rows first.
    Joining,
    /// In the mesh: takes writes.
    Ready,
    /// Has lost what it needs next: draining before it is copied anew.
    Resyncing,
    /// Draining before it goes.
    Leaving,
    /// Gone, by its operator's wish.
    Left,
    /// Set apart until an operator decides.
    Quarantined,
}

impl NodeState {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            NodeState::Booting => "booting",
            NodeState::Configuring => "configuring",
            NodeState::Discovering => "discovering",
            NodeState::Forming => "forming",
            NodeState::Enrolling => "enrolling",
            NodeState::WaitingForClock => "waiting_for_clock",
            NodeState::Joining => "joining",
            NodeState::Ready => "ready",
            NodeState::Resyncing => "resyncing",
            NodeState::Leaving => "leaving",
            NodeState::Left => "left",
            NodeState::Quarantined => "quarantined",
        }
    }
}

/// One permitted transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// From this state
    pub from: NodeState,
    /// to this one,
    pub to: NodeState,
    /// because of this.
    pub because: &'static str,
}

const fn t(from: NodeState, to: NodeState, because: &'static str) -> Transition {
    Transition { from, to, because }
}

/// Every transition there is. `Booting` can be reached from anywhere by a restart of the agent
/// and `Quarantined` from anywhere by a finding; the two are not listed again for each state.
pub const TRANSITIONS: &[Transition] = {
    use NodeState::{
        Booting, Configuring, Discovering, Enrolling, Forming, Joining, Leaving, Left, Quarantined,
        Ready, Resyncing, WaitingForClock,
    };
    &[
        t(Booting, Configuring, "PostgreSQL answers"),
        t(
            Configuring,
            Discovering,
            "settings, role, database and extension are right",
        ),
        t(Discovering, Forming, "peers answer, none is a member"),
        t(Discovering, Enrolling, "a peer is a member"),
        t(
            Forming,
            Enrolling,
            "the decree names this node, or a cluster was founded without it",
        ),
        t(Forming, Joining, "this node founded the cluster"),
        t(
            Enrolling,
            WaitingForClock,
            "certificate and roster are here, the clock is not trusted",
        ),
        t(Enrolling, Joining, "certificate and roster are here"),
        t(WaitingForClock, Joining, "the clocks agree"),
        t(
            Joining,
            WaitingForClock,
            "the clocks differ, and no row has been copied",
        ),
        t(Joining, Ready, "every edge is seen alive both ways"),
        t(Configuring, Ready, "restarted after it was ready"),
        t(Configuring, Joining, "restarted while joining"),
        t(
            Ready,
            Resyncing,
            "a member has lost what this node needs next",
        ),
        t(Resyncing, Joining, "drained and exported"),
        t(Resyncing, Ready, "it can't be drained now"),
        t(Ready, Leaving, "leave"),
        t(Leaving, Left, "drained, edges removed"),
        t(Quarantined, Discovering, "the operator cleared it"),
        t(
            Quarantined,
            Joining,
            "rejoin: exported, and given up by its operator",
        ),
    ]
};

/// The table as a Mermaid state diagram, for ARCHITECTURE.md.
#[must_use]
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> booting\n");
    for transition in TRANSITIONS {
        let Transition { from, to, because } = transition;
        text.push_str(&format!(
            "    {} --> {}: {because}\n",
            from.word(),
            to.word()
        ));
    }
    text
}
