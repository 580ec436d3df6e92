//! What a founding node tells of itself: where it stands, who is there, what it waits for.

use super::DataHeld;
use super::machine::Founding;
use super::obstacle::Obstacle;
use crate::ids::{ClusterId, NodeId};
use crate::roster::Decree;
use crate::status::WaitingOn;
use crate::time::Mono;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Where a node stands in the founding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody else answers yet.
    Discovering,
    /// Peers answer, none is a member.
    Forming,
    /// Asking for promises.
    Candidate {
        /// Who has promised, this node included.
        granted: BTreeSet<NodeId>,
    },
    /// Promised to a candidate.
    Promised {
        /// Whom.
        to: NodeId,
    },
    /// This node has founded the cluster, and tells the others.
    Founder(Decree),
    /// This node is a founding member.
    Decreed(Decree),
    /// There is a cluster to be joined.
    ClusterFound {
        /// Which.
        cluster: ClusterId,
        /// Its members that answer, those that can enrol first.
        via: Vec<(NodeId, SocketAddr)>,
    },
    /// This node has joined a cluster, and only answers questions.
    Member(ClusterId),
    /// An operator must decide.
    Quarantined {
        /// Why, and what to do.
        reason: String,
    },
}

impl Founding {
    /// Where this node stands.
    #[must_use]
    pub fn standing(&self, now: Mono) -> Standing {
        if let Some(decree) = &self.durable.decree {
            let decree = decree.clone();
            return match decree.founder == self.me.node {
                true => Standing::Founder(decree),
                false => Standing::Decreed(decree),
            };
        }
        if let Some(cluster) = self.me.cluster {
            return Standing::Member(cluster);
        }
        if let Some(reason) = self.quarantine(now) {
            return Standing::Quarantined { reason };
        }
        if let Some(candidacy) = &self.candidacy {
            let granted = candidacy
                .granted
                .iter()
                .copied()
                .chain([self.me.node])
                .collect();
            return Standing::Candidate { granted };
        }
        let cluster = self
            .book
            .clusters_heard()
            .next()
            .map(|(cluster, ..)| cluster);
        match (&self.durable.promise, cluster) {
            // The candidate may have founded with this node's promise, or may withdraw: while it
            // answers, it is given the time to say so. The promise is kept even then, until this
            // node is durably a member: whoever crashed in between could give it twice.
            (Some(promise), Some(cluster)) if self.is_silent_or_member(now, promise.candidate) => {
                self.found(cluster)
            }
            (Some(promise), Some(_) | None) => Standing::Promised {
                to: promise.candidate,
            },
            (None, Some(cluster)) if self.me.data == DataHeld::Empty => self.found(cluster),
            (None, Some(_) | None) if self.book.peers.is_empty() => Standing::Discovering,
            (None, Some(_) | None) => Standing::Forming,
        }
    }

    fn is_silent_or_member(&self, now: Mono, candidate: NodeId) -> bool {
        !self.book.is_fresh(now, candidate) || self.book.cluster_of(candidate).is_some()
    }

    fn found(&self, cluster: ClusterId) -> Standing {
        Standing::ClusterFound {
            cluster,
            via: self.book.members_of(cluster),
        }
    }

    /// Members of this node's cluster that were heard: the founder first, which holds the CA, then
    /// others that can enrol.
    #[must_use]
    pub fn fellows(&self) -> Vec<(NodeId, SocketAddr)> {
        let Some(cluster) = self.cluster() else {
            return Vec::new();
        };
        let founder = self.durable.decree.as_ref().map(|decree| decree.founder);
        let first = founder.and_then(|node| Some((node, self.book.address_of(node)?)));
        let others = self.book.members_of(cluster).into_iter();
        first
            .into_iter()
            .chain(others.filter(|(node, _)| Some(*node) != founder))
            .collect()
    }

    /// Where a peer is reached, if it was heard of lately.
    #[must_use]
    pub fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.book.address_of(node)
    }

    /// Founding members that have not accepted the decree yet, as far as the founder knows since
    /// its agent started. Empty on any other node.
    #[must_use]
    pub fn unaccepted(&self) -> BTreeSet<NodeId> {
        let minted = self
            .durable
            .decree
            .iter()
            .filter(|d| d.founder == self.me.node);
        let members = minted.flat_map(|d| d.members.iter()).map(|m| m.node);
        let open = members.filter(|n| *n != self.me.node && !self.accepted.contains(n));
        open.filter(|n| self.book.cluster_of(*n) != self.cluster())
            .collect()
    }

    /// A founding member has been enrolled or forgotten: it need not be told the decree any more.
    pub fn settled(&mut self, node: NodeId) {
        self.accepted.insert(node);
    }

    /// What is waited for, most important first; empty once this node is decreed and nothing is
    /// wrong.
    #[must_use]
    pub fn waiting(&self, now: Mono) -> Vec<WaitingOn> {
        let obstacles = match self.cluster() {
            Some(_) => self.obstacles_of_a_member(now),
            None => self.obstacles(now),
        };
        let mut waiting: Vec<WaitingOn> = obstacles.iter().map(Obstacle::waiting_on).collect();
        waiting.extend(self.open_questions());
        waiting
    }

    /// Names of the nodes that are there and can take part, this one included.
    #[must_use]
    pub fn present(&self, now: Mono) -> Vec<String> {
        let nodes = self.founding_nodes(now);
        nodes.iter().map(|node| self.name_of(*node)).collect()
    }

    /// Addresses that don't answer.
    #[must_use]
    pub fn missing(&self) -> Vec<SocketAddr> {
        self.set_addresses()
            .filter(|at| self.book.is_silent(*at))
            .collect()
    }
}
