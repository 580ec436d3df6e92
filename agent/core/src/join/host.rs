//! What the join needs of the world, and what it says to members.

use super::Failure;
use super::preflight::{Problem, ServerFacts};
use crate::ids::{DataEpoch, Lsn, NodeId, Ordinal};
use crate::life::Stage;
use crate::observed::Reach;
use crate::record::JoinPhase;
use crate::roster::Roster;
use crate::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Another member of the mesh, as the join sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// The epoch of its database.
    pub epoch: DataEpoch,
    /// Its name, for people.
    pub name: String,
    /// Where its PostgreSQL listens.
    pub postgres: SocketAddr,
}

/// What is to become of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    /// Give it to the joiner.
    Acquire,
    /// Give it to a member that is to be synchronised anew: its slots are a member's, and are kept
    /// whatever becomes of the lease, until it has them dropped itself.
    AcquireAnew,
    /// Let it last longer.
    Renew,
    /// The joiner is done.
    Release,
}

/// A joiner's question for a member's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Who joins.
    pub joiner: NodeId,
    /// The fencing epoch it acts under; 0 when it asks for one.
    pub epoch: u64,
    /// What for.
    pub kind: LeaseKind,
    /// For how long.
    pub ttl: Duration,
}

/// Was the lease granted?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseVerdict {
    /// It is the joiner's (or, after a release, nobody's).
    Granted,
    /// It is not.
    Denied {
        /// Who has it, if somebody has.
        holder: Option<NodeId>,
        /// Why not, for people.
        reason: String,
    },
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// Granted?
    pub verdict: LeaseVerdict,
    /// The fencing epoch in force.
    pub epoch: u64,
    /// The member's roster: the joiner joins them until they no longer grow.
    pub roster: Roster,
}

/// One step of a join on a member, in the name of a joiner that holds its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepAsk {
    /// Who joins.
    pub joiner: NodeId,
    /// The fencing epoch it acts under.
    pub epoch: u64,
    /// Grows with every step under that epoch: one that arrives late, after a newer one, is
    /// refused. A late [`Step::CreateSlot`] would throw away what the slot holds.
    pub sequence: u64,
    /// What to do.
    pub step: Step,
}

/// What a member does for a joiner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell what the server is like, and what would be in the way of a join.
    Facts,
    /// Make the slot for this subscription of the joiner's; answers with its position.
    CreateSlot {
        /// The subscription's name.
        subscription: String,
    },
    /// Is the slot for this subscription, of the joiner's or of its source's, there, and the one it
    /// always was? Answers with its position, or `Absent`.
    FindSlot {
        /// The subscription's name.
        subscription: String,
    },
    /// Drop what was made for the joiner: its slot, and the subscription to it.
    DropSlots,
    /// Bump the heartbeat; answers with its number.
    Beat,
    /// Tell the newest heartbeat of the joiner, of its present contents, that has arrived; 0 when
    /// none has.
    Arrived,
    /// Tell the WAL insert position.
    InsertPosition,
    /// For each origin, by slot name, the last commit applied at or before `until`.
    OriginPositions {
        /// Where the records that matter begin.
        since: Lsn,
        /// Where they end.
        until: Lsn,
    },
    /// The joiner is about to be ready: from now on its slots are kept as a member's, whatever
    /// becomes of the lease.
    Commit,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepAnswer {
    /// It is done.
    Done,
    /// There is none.
    Absent,
    /// A position in the member's WAL.
    Position(Lsn),
    /// The number of a heartbeat.
    Heartbeat(u64),
    /// Positions by origin, each in the WAL of that origin's node.
    Origins(BTreeMap<String, Lsn>),
    /// What the server is like.
    Facts(Box<ServerFacts>),
}

/// Why a member did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// Nobody knows whether it was done; asking again may help.
    Unreachable(String),
    /// It said no, and would again.
    Refused(String),
}

impl CallError {
    /// The words.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            CallError::Unreachable(text) | CallError::Refused(text) => text,
        }
    }
}

/// Which origins a provider forwards to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Only what was written on the provider itself: between ready nodes, always.
    Nothing,
    /// Everybody's changes: only while a joiner follows its source alone.
    All,
}

/// The result of a step on the local server.
pub type Done<T> = Result<T, Failure>;

/// Every point of the protocol where tests interrupt it, in its order; "structured" and
/// "rows_copied" lie within [`Host::copy`].
pub const POINTS: [&str; 12] = [
    "leased",
    "copying",
    "structured",
    "rows_copied",
    "copied",
    "caught_up",
    "prepared",
    "stopped",
    "placed",
    "handed_over",
    "linking",
    "committed",
];

/// The points at which tests interrupt a member that is synchronised anew, before it is a joiner.
pub const POINTS_ANEW: [&str; 3] = ["resyncing", "drained", "exported"];

/// The world of one joiner: its own server, the clock, and the other members' agents.
pub trait Host: Sync {
    /// This node.
    fn me(&self) -> NodeId;
    /// The epoch of its database.
    fn epoch(&self) -> Done<DataEpoch>;
    /// The durable stage of its life.
    fn stage(&self) -> Stage;
    /// Goes on to a phase, durably, before it returns.
    fn enter(&self, phase: JoinPhase) -> Done<()>;
    /// What this node knows of the cluster.
    fn roster(&self) -> Done<Roster>;
    /// Learns from another's roster.
    fn merge(&self, theirs: &Roster) -> Done<()>;
    /// Takes an ordinal, durably, in place of the one it may have.
    fn take_ordinal(&self, free: Ordinal) -> Done<()>;
    /// The ordinal that this node has, if it has one.
    fn ordinal(&self) -> Option<Ordinal>;
    /// Who answers.
    fn reach(&self) -> BTreeMap<NodeId, Reach>;
    /// The name of the dead node whose place this one takes, if it takes one's.
    fn replaces(&self) -> Option<String>;
    /// What is in the way of the join, all of it, for `status`; empty when nothing is.
    fn show(&self, problems: Vec<Problem>);
    /// Something to be known that is in nobody's way.
    fn remark(&self, remark: Problem);

    /// The time.
    fn now(&self) -> Mono;
    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// A point of the protocol is reached: tests interrupt the join there.
    fn reached(&self, point: &'static str) -> impl Future<Output = ()> + Send;
    /// Asks a member about its lease.
    fn lease(
        &self,
        member: (NodeId, SocketAddr),
        ask: LeaseAsk,
    ) -> impl Future<Output = Result<LeaseAnswer, CallError>> + Send;
    /// Asks a member for a step.
    fn step(
        &self,
        member: (NodeId, SocketAddr),
        ask: StepAsk,
    ) -> impl Future<Output = Result<StepAnswer, CallError>> + Send;
    /// Buries a dead member whose place this node takes.
    fn forget(&self, member: NodeId) -> impl Future<Output = Done<()>> + Send;

    /// What the local server is like.
    fn facts(&self) -> impl Future<Output = Done<ServerFacts>> + Send;
    /// Drops every edge of this node: what an earlier attempt has left.
    fn clear(&self) -> impl Future<Output = Done<()>> + Send;
    /// Was this node set apart, and has its operator given up what it holds?
    fn given_up(&self) -> bool;
    /// Gives the database, of which nothing is left on members, a new epoch, durably: what it held is
    /// not given up any more, but gone. Returns when everything here speaks of that epoch.
    fn renew(&self) -> impl Future<Output = Done<()>> + Send;
    /// Makes the slot for this node on the source, and brings structure and rows here as they
    /// are at its position, which it returns. What was here of the user's is dropped before.
    fn copy(&self, source: &Member) -> impl Future<Output = Done<Lsn>> + Send;
    /// Makes a subscription, disabled. Its slot need not be there yet.
    fn subscribe(
        &self,
        name: &str,
        to: &Member,
        forward: Forward,
    ) -> impl Future<Output = Done<()>> + Send;
    /// Enables a subscription, to start at this position, and gets its worker going.
    fn start(&self, name: &str, at: Lsn) -> impl Future<Output = Done<()>> + Send;
    /// Gets the workers going of those of the enabled subscriptions that have none: a sender that
    /// was ended, or a server that was restarted, makes pglogical wait for minutes.
    fn revive(&self, names: &[String]) -> impl Future<Output = Done<()>> + Send;
    /// Disables a subscription, waits until its worker is gone, and returns how far it had come
    /// in its provider's WAL.
    fn stop(&self, name: &str) -> impl Future<Output = Done<Lsn>> + Send;
    /// In one transaction: every stream in `starts` goes on where it says, `through` forwards
    /// nothing any more, all are enabled. Then gets their workers going.
    fn hand_over(
        &self,
        through: &str,
        starts: &BTreeMap<String, Lsn>,
    ) -> impl Future<Output = Done<()>> + Send;
    /// The newest heartbeat of each node that has arrived: its epoch and number.
    fn heartbeats(&self) -> impl Future<Output = Done<BTreeMap<NodeId, (DataEpoch, u64)>>> + Send;
    /// Puts the tables, named as the source names them, into the own replication set, and gives
    /// sequences that are in step the values of this node.
    fn adopt_tables(&self, tables: BTreeSet<String>) -> impl Future<Output = Done<()>> + Send;
    /// Becomes, durably, a member that is synchronised anew: its gate stays shut.
    fn resync(&self) -> Done<()>;
    /// Becomes a ready member again, durably.
    fn reopen(&self) -> Done<()>;
    /// Shuts the gate, and returns when nobody who came through it is in any more.
    fn shut(&self) -> impl Future<Output = Done<()>> + Send;
    /// Writes a heartbeat; returns its number, and a position in the own WAL behind it.
    fn fence(&self) -> impl Future<Output = Done<(u64, Lsn)>> + Send;
    /// Up to where in the own WAL a member has everything on disk, as the slot that it reads here
    /// says; nothing when that slot is lost.
    fn confirmed(&self, member: &Member) -> impl Future<Output = Done<Option<Lsn>>> + Send;
    /// Exports what the own database holds, to a file that status names.
    fn export(&self) -> impl Future<Output = Done<()>> + Send;
    /// Returns when the plan sees every edge of this node alive both ways, or the node ready.
    fn linked(&self) -> impl Future<Output = ()> + Send;
    /// Returns when this node has declared itself ready.
    fn ready(&self) -> impl Future<Output = ()> + Send;
}
