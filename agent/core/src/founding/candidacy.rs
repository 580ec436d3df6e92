//! Becoming the founder: when to stand, when to give way, and the one moment in which a cluster
//! is minted.

use super::machine::Founding;
use super::obstacle::Obstacle;
use super::{Ballot, DataHeld, Hello};
use crate::ids::{ClusterId, NodeId, Ordinal};
use crate::policy::FoundingSet;
use crate::roster::{Decree, FoundingMember};
use crate::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use uuid::Uuid;

/// One attempt to become the founder. It lives in memory only: after a crash it is over, because
/// the generation has grown.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidacy {
    pub(super) ballot: Ballot,
    pub(super) granted: BTreeSet<NodeId>,
    pub(super) refusals: BTreeMap<NodeId, (NodeId, String)>,
}

impl Founding {
    /// Begins or ends a candidacy.
    pub(super) fn reconsider(&mut self, now: Mono) {
        let obstacles = match self.cluster() {
            Some(_) => return self.candidacy = None,
            None => self.obstacles(now),
        };
        if self.candidacy.is_some() {
            if obstacles.iter().any(Obstacle::ends_candidacy) {
                self.candidacy = None;
            }
        } else if obstacles.is_empty() {
            self.round += 1;
            let ballot = self.ballot();
            self.candidacy = Some(Candidacy {
                ballot,
                ..Candidacy::default()
            });
        }
    }

    /// The highest ballot this node has used since it started.
    pub(super) fn ballot(&self) -> Ballot {
        Ballot {
            generation: self.me.generation,
            round: self.round,
        }
    }

    pub(super) fn mint(&mut self, uuids: &mut dyn FnMut() -> Uuid) {
        let candidacy = self.candidacy.as_ref();
        if let Some(members) = candidacy.and_then(|c| self.founders(&c.granted)) {
            self.found_with(&members, uuids);
        }
    }

    /// The founding members, if those who have promised are enough.
    fn founders(&self, granted: &BTreeSet<NodeId>) -> Option<BTreeSet<NodeId>> {
        let may = |node: &NodeId| {
            self.book
                .peers
                .get(node)
                .is_some_and(|p| self.suits(&p.hello))
        };
        let promised = granted.iter().copied().filter(may);
        let expect = usize::from(self.me.expect.max(1));
        let members: BTreeSet<NodeId> = match &self.set {
            FoundingSet::Any => promised.take(expect - 1).chain([self.me.node]).collect(),
            FoundingSet::Addresses(addresses) => {
                let promised: BTreeSet<NodeId> = promised.chain([self.me.node]).collect();
                let at = |at: &SocketAddr| self.node_at(*at).filter(|n| promised.contains(n));
                addresses.iter().filter_map(at).collect()
            }
        };
        (members.len() == expect && members.contains(&self.me.node)).then_some(members)
    }

    /// Founds the cluster. Ordinals follow the names, so that node-1 gets 1.
    pub(super) fn found_with(
        &mut self,
        members: &BTreeSet<NodeId>,
        uuids: &mut dyn FnMut() -> Uuid,
    ) {
        let peers = members
            .iter()
            .filter_map(|node| self.book.peers.get(node))
            .map(|p| &p.hello);
        let mut hellos: Vec<&Hello> = peers.chain([&self.me]).collect();
        hellos.sort_by_key(|hello| (hello.name.clone(), hello.node));
        let members = hellos
            .iter()
            .zip(1..)
            .map(|(hello, ordinal)| FoundingMember {
                node: hello.node,
                name: hello.name.clone(),
                ordinal: Ordinal(ordinal),
                epoch: hello.epoch,
            });
        self.durable.decree = Some(Decree {
            cluster: ClusterId(uuids()),
            cluster_name: self.me.cluster_name.clone(),
            founder: self.me.node,
            founder_holds_data: self.me.data == DataHeld::Rows,
            members: members.collect(),
        });
        self.candidacy = None;
        self.durable.promise = None;
        self.unsaved = true;
    }
}
