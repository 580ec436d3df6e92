//! What only an operator may decide: to found alone, and to void a dead candidate's promise.

use super::DataHeld;
use super::machine::{Founding, Step};
use crate::ids::NodeId;
use crate::time::Mono;
use std::collections::BTreeSet;
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

/// How long peers are looked for before an operator may say that there are none.
const ALONE_AFTER: Duration = Duration::from_secs(10);

/// Why `found --only-me` is refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum OnlyMeRefused {
    /// This node belongs to a cluster.
    #[error("this node belongs to a cluster already; `pgaa-agent status` shows it")]
    Member,
    /// Somebody answers.
    #[error("{0} answers: found together with it, or stop its agent first")]
    Answers(String),
    /// A cluster was heard of.
    #[error("a cluster exists: {0}; this node joins it, or stop its members and restart the agent")]
    ClusterExists(String),
    /// It has not been looked for peers long enough.
    #[error("peers are still being looked for; try again in {0:?}")]
    TooEarly(Duration),
    /// PostgreSQL is unknown.
    #[error("PostgreSQL has not been looked at yet; `pgaa-agent status` says why")]
    DataUnknown,
    /// This node is promised, and the candidate's UUID was not given.
    #[error(
        "this node is promised to {name} ({candidate}), which may have founded the cluster with \
         it; if that machine is destroyed for ever, say `pgaa-agent found --only-me {candidate}`"
    )]
    Promised {
        /// To whom.
        candidate: NodeId,
        /// Its name.
        name: String,
    },
}

/// What `promise release` has voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// A promise. This node takes part in the founding again.
    Promise,
    /// A decree whose founder is gone. The agent must be restarted, so that others believe that
    /// this node, which called itself a member, is none.
    Decree,
}

/// Why `promise release` is refused.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ReleaseRefused {
    /// Not promised to that node.
    #[error("this node is not promised to {asked}{}", match held {
        Some(held) => format!(", but to {held}"),
        None => String::new(),
    })]
    NotHeld {
        /// Who was named.
        asked: NodeId,
        /// Who holds the promise.
        held: Option<NodeId>,
    },
    /// The candidate lives.
    #[error("{0} answers, so it is not destroyed: stop its agent for good first")]
    Answers(String),
}

impl Founding {
    /// Founds a cluster of this node alone. `holder` is the candidate this node is promised to,
    /// as the operator typed it. The step must be taken like that of a tick.
    pub fn found_only_me(
        &mut self,
        now: Mono,
        holder: Option<NodeId>,
        uuids: &mut dyn FnMut() -> Uuid,
    ) -> Result<Step, OnlyMeRefused> {
        self.may_found_alone(now, holder)?;
        self.found_with(&BTreeSet::from([self.me.node]), uuids);
        Ok(Step {
            persist: self.unsaved,
            asks: Vec::new(),
        })
    }

    fn may_found_alone(&self, now: Mono, holder: Option<NodeId>) -> Result<(), OnlyMeRefused> {
        if self.cluster().is_some() {
            return Err(OnlyMeRefused::Member);
        }
        if self.me.data == DataHeld::Unknown {
            return Err(OnlyMeRefused::DataUnknown);
        }
        if let Some((cluster, _, at)) = self.book.clusters_heard().next() {
            return Err(OnlyMeRefused::ClusterExists(format!(
                "{cluster} (member at {at})"
            )));
        }
        if let Some(peer) = self.book.fresh(now).next() {
            let text = format!("{} ({})", peer.name, peer.endpoints.grpc);
            return Err(OnlyMeRefused::Answers(text));
        }
        let looked = self
            .started
            .map_or(Duration::ZERO, |started| now.since(started));
        let tried = self.set_addresses().all(|at| self.book.was_tried(at));
        if looked < ALONE_AFTER || !tried {
            let left = ALONE_AFTER
                .saturating_sub(looked)
                .max(Duration::from_secs(1));
            return Err(OnlyMeRefused::TooEarly(left));
        }
        match &self.durable.promise {
            Some(promise) if holder != Some(promise.candidate) => Err(OnlyMeRefused::Promised {
                candidate: promise.candidate,
                name: promise.name.to_string(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Voids the promise held by `candidate`, a machine destroyed for ever, or its decree, as
    /// long as nobody could be enrolled by it. On `Ok`, [`Founding::durable`] must be on disk, and
    /// [`Founding::saved`] called, before the operator is told.
    pub fn release_promise(
        &mut self,
        now: Mono,
        candidate: NodeId,
    ) -> Result<Released, ReleaseRefused> {
        if self
            .orphaned(now)
            .is_some_and(|decree| decree.founder == candidate)
        {
            self.durable.decree = None;
            self.unsaved = true;
            return Ok(Released::Decree);
        }
        let held = self.durable.promise.as_ref();
        let Some(promise) = held.filter(|promise| promise.candidate == candidate) else {
            let held = held.map(|promise| promise.candidate);
            return Err(ReleaseRefused::NotHeld {
                asked: candidate,
                held,
            });
        };
        if self.book.is_fresh(now, candidate) {
            return Err(ReleaseRefused::Answers(format!(
                "{} ({})",
                promise.name, promise.at
            )));
        }
        let ballot = promise.ballot;
        self.void(candidate, ballot);
        Ok(Released::Promise)
    }
}
