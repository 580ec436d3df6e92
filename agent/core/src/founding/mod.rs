//! Founding: how machines that know nothing but one another become one cluster, once.
//!
//! Two foundings are the one error nobody can repair, so the founder is never guessed: a
//! candidate needs the durable promise of every founding member, and a promise is given to one
//! candidate at a time.
//!
//! [`Founding`] is the whole protocol without its I/O. Its owner calls [`Founding::tick`] a few
//! times a second and after every other call, and does what it returns. Must not send, store or
//! wait by itself.
//!
//! Why there is at most one founding. A candidate mints under one [`Ballot`], once, and only with
//! the promises of `expect` nodes given for that very ballot. It leaves a ballot before it
//! releases it, never returns to it (a restart raises the generation), and never releases after
//! it has minted. Any two sets of `expect` nodes out of fewer than 2 x `expect` share a node, and
//! that node has promised itself to one candidate only.

mod answer;
mod book;
mod candidacy;
mod machine;
mod obstacle;
mod operator;
mod outbox;
mod standing;
#[cfg(test)]
mod tests;

pub use machine::{Ask, Durable, Founding, Promise, Step};
pub use operator::{OnlyMeRefused, ReleaseRefused, Released};
pub use standing::Standing;

use crate::ids::{ClusterId, DataEpoch, Name, NodeId};
use crate::record::Endpoints;
use crate::roster::Decree;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Does a node's database hold rows of the user's? Empty tables don't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum DataHeld {
    /// PostgreSQL has not been looked at yet.
    #[default]
    Unknown,
    /// No rows.
    Empty,
    /// Rows.
    Rows,
}

/// What a node says of itself to another before they share a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// The cluster's name in its configuration.
    pub cluster_name: Name,
    /// Where it can be reached.
    pub endpoints: Endpoints,
    /// How often its agent has started.
    pub generation: u64,
    /// Its database's epoch.
    pub epoch: DataEpoch,
    /// PostgreSQL's system identifier; 0 while unknown.
    pub system_identifier: u64,
    /// `expect` in its configuration.
    pub expect: u16,
    /// Does it hold rows?
    pub data: DataHeld,
    /// The cluster it is a member of; `None` while forming.
    pub cluster: Option<ClusterId>,
    /// A member that can enrol others right now.
    pub enrols: bool,
    /// Other nodes it knows, and where: how one seed is enough to find all.
    pub known: Vec<(NodeId, SocketAddr)>,
    /// To whom it has promised itself, under which ballot: a candidate that has given that
    /// ballot up, or has forgotten it in a crash, releases it when it reads this.
    pub promised: Option<(NodeId, Ballot)>,
}

/// The number of one candidacy: grows with every restart and every new attempt, so that an
/// answer to an earlier attempt is recognised. Ordered by generation, then round.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Ballot {
    /// The candidate's generation: how often its agent has started.
    pub generation: u64,
    /// Attempts since that start.
    pub round: u64,
}

/// A question of the founding protocol. Each travels on a connection that proved the join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Tell me what you are; here is what I am.
    Hello(Hello),
    /// Promise yourself to me.
    AskPromise {
        /// The candidate.
        hello: Hello,
        /// Which candidacy.
        ballot: Ballot,
    },
    /// I withdraw: the promise of this ballot, and of any earlier one, is void.
    ReleasePromise {
        /// The candidate.
        candidate: NodeId,
        /// Which candidacy.
        ballot: Ballot,
    },
    /// The cluster is founded, and you are in it.
    Decree(Decree),
}

/// An answer of the founding protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "short-lived, and the large variant is the usual one"
)]
pub enum Response {
    /// This is what I am.
    Hello(Hello),
    /// I am yours, durably.
    Promised {
        /// The ballot that was asked for.
        ballot: Ballot,
    },
    /// I can't: I am another's, or a member, or not what you think.
    PromiseHeld {
        /// Who has the promise; the answering node itself when nobody has.
        holder: NodeId,
        /// Why, for people.
        reason: String,
    },
    /// Whatever you had of me, you have it no more.
    Released,
    /// I obey the decree.
    Accepted,
}
