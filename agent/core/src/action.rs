//! What a plan may ask for. An action starts something; whether it worked is what the next look
//! shows.

use crate::ids::{NodeId, Ordinal};
use std::collections::BTreeSet;
use std::fmt;

/// One step on the local node. Nothing here reaches into another node's database: every node
/// makes its own subscriptions and its own slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Create what is missing of role, database, extension and schema.
    Prepare,
    /// Write the settings again, and reload.
    WriteSettings,
    /// Restart PostgreSQL. Only before the node ever took writes.
    RestartPostgres {
        /// The settings that wait for it.
        settings: Vec<String>,
    },
    /// Let exactly these members' servers log in.
    AdmitMembers {
        /// The members.
        members: BTreeSet<NodeId>,
    },
    /// Drop a subscription whose provider is gone for good.
    DropSubscription {
        /// Its name.
        subscription: String,
        /// The provider's name, when the last of what it wrote may have reached some members only:
        /// then this node has all tables compared.
        compare: Option<String>,
    },
    /// Drop a slot whose subscriber is gone for good.
    DropSlot {
        /// Its name.
        slot: String,
        /// Whose it was, for people.
        subscriber: NodeId,
    },
    /// Drop a member's slot, and end its sender, because the disk is about to fill. The member
    /// lacks changes from then on.
    GiveUpSlot {
        /// Its name.
        slot: String,
        /// Whose it was.
        subscriber: NodeId,
        /// What it held back and how full the disk is, for people.
        because: String,
    },
    /// Write a checkpoint, so that WAL nobody holds back goes.
    Checkpoint,
    /// Create the local pglogical node, or correct the address it announces.
    EnsureLocalNode,
    /// Create the slot from which `subscriber` will read. Only while this node takes no writes.
    CreateSlot {
        /// The subscriber.
        subscriber: NodeId,
        /// Its subscription's name, from which pglogical derives the slot's.
        subscription: String,
    },
    /// Create a subscription, disabled, that starts where its slot starts.
    CreateSubscription {
        /// The provider.
        provider: NodeId,
        /// The subscription's name.
        subscription: String,
    },
    /// Point a subscription at the provider's new address.
    RedirectSubscription {
        /// The provider.
        provider: NodeId,
        /// The subscription's name.
        subscription: String,
    },
    /// Enable a subscription.
    EnableSubscription {
        /// The provider.
        provider: NodeId,
        /// The subscription's name.
        subscription: String,
    },
    /// Disable a subscription: what would come through it can't be trusted.
    DisableSubscription {
        /// The subscription's name.
        subscription: String,
        /// Why, for people.
        because: String,
    },
    /// Set this node apart, durably, until an operator decides.
    Quarantine {
        /// Why, for people.
        because: String,
    },
    /// Make a subscription reconnect now, not after pglogical's back-off.
    KickSubscription {
        /// The provider.
        provider: NodeId,
        /// The subscription's name.
        subscription: String,
        /// Why, for people.
        because: &'static str,
    },
    /// End the sender that still serves a connection its subscriber has lost.
    EndStaleSender {
        /// The subscriber that came back.
        subscriber: NodeId,
        /// The slot.
        slot: String,
    },
    /// Put a table into the replication set.
    AddTable {
        /// "schema.table"
        table: String,
        /// Send the rows that were written before through the stream as well. Needed when other
        /// members read from here already.
        send_existing: bool,
    },
    /// Become ready, durably.
    DeclareReady,
    /// Let applications write.
    OpenGate,
    /// Keep applications out, and end the sessions they have.
    ShutGate,
    /// Start the protocol by which a node joins members that serve writes.
    StartJoin,
    /// Start to synchronise this node anew: it has lost what it needs next from a member.
    StartResync,
    /// Every edge is alive both ways: have the members promise to keep their slots.
    CommitJoin,
    /// Tell every member that this node is gone for good.
    AnnounceLeaving {
        /// It goes by force before all rows were compared that it alone knows to be open, or before
        /// all members have what it wrote.
        unsettled: bool,
    },
    /// Remove our own edges and declare this node gone.
    FinishLeaving,
    /// Take this ordinal, durably.
    TakeOrdinal {
        /// The ordinal the decree gives.
        ordinal: Ordinal,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Prepare => write!(f, "prepare role, database and extension"),
            Action::WriteSettings => write!(f, "write the settings"),
            Action::RestartPostgres { settings } => {
                write!(f, "restart PostgreSQL for {}", settings.join(", "))
            }
            Action::AdmitMembers { members } => write!(f, "admit {} members", members.len()),
            Action::DropSubscription { subscription, .. } => {
                write!(f, "drop subscription {subscription}")
            }
            Action::DropSlot { slot, .. } => write!(f, "drop slot {slot}"),
            Action::GiveUpSlot { slot, because, .. } => {
                write!(f, "give up slot {slot}: {because}")
            }
            Action::Checkpoint => write!(f, "write a checkpoint"),
            Action::EnsureLocalNode => write!(f, "create or correct the pglogical node"),
            Action::CreateSlot { subscriber, .. } => {
                write!(f, "create the slot for {}", subscriber.short())
            }
            Action::CreateSubscription { provider, .. } => {
                write!(f, "subscribe to {}", provider.short())
            }
            Action::RedirectSubscription { provider, .. } => {
                write!(f, "follow {} to its new address", provider.short())
            }
            Action::EnableSubscription { provider, .. } => {
                write!(f, "enable the subscription to {}", provider.short())
            }
            Action::DisableSubscription {
                subscription,
                because,
            } => write!(f, "disable subscription {subscription}: {because}"),
            Action::Quarantine { because } => write!(f, "set this node apart: {because}"),
            Action::KickSubscription {
                provider, because, ..
            } => {
                write!(f, "reconnect to {} ({because})", provider.short())
            }
            Action::EndStaleSender { subscriber, .. } => {
                write!(f, "end the stale sender for {}", subscriber.short())
            }
            Action::AddTable { table, .. } => write!(f, "replicate table {table}"),
            Action::DeclareReady => write!(f, "become ready"),
            Action::OpenGate => write!(f, "open the gate"),
            Action::ShutGate => write!(f, "shut the gate"),
            Action::StartJoin => write!(f, "start joining"),
            Action::StartResync => write!(f, "start to be synchronised anew"),
            Action::CommitJoin => write!(f, "have the members keep the slots for this node"),
            Action::AnnounceLeaving { .. } => write!(f, "tell the others that this node is gone"),
            Action::FinishLeaving => write!(f, "remove our own edges and go"),
            Action::TakeOrdinal { ordinal } => write!(f, "take ordinal {ordinal}"),
        }
    }
}

impl Action {
    /// Can this action lose data when it is wrong?
    #[must_use]
    pub fn destructive(&self) -> bool {
        match self {
            Action::DropSubscription { .. }
            | Action::DropSlot { .. }
            | Action::GiveUpSlot { .. }
            | Action::AnnounceLeaving { .. }
            | Action::FinishLeaving => true,
            Action::Prepare
            | Action::WriteSettings
            | Action::RestartPostgres { .. }
            | Action::AdmitMembers { .. }
            | Action::Checkpoint
            | Action::EnsureLocalNode
            | Action::CreateSlot { .. }
            | Action::CreateSubscription { .. }
            | Action::RedirectSubscription { .. }
            | Action::EnableSubscription { .. }
            | Action::DisableSubscription { .. }
            | Action::Quarantine { .. }
            | Action::KickSubscription { .. }
            | Action::EndStaleSender { .. }
            | Action::AddTable { .. }
            | Action::DeclareReady
            | Action::OpenGate
            | Action::ShutGate
            | Action::StartJoin
            | Action::StartResync
            | Action::CommitJoin
            | Action::TakeOrdinal { .. } => false,
        }
    }
}
