//! What others have said, and which addresses answer. All of it is forgotten in a crash, and
//! none of it is enough to found a cluster.

use super::{DataHeld, Hello};
use crate::ids::{ClusterId, NodeId};
use crate::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A peer that was heard within this time counts as reachable: longer than a slow round of
/// hellos with one lost.
const FRESH: Duration = Duration::from_secs(6);
/// After this silence a peer is forgotten; a machine that was replaced no longer stands in the
/// way.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Addresses that were only mentioned by others are tried for this long after the last mention.
const RUMOUR_FOR: Duration = Duration::from_secs(60);
/// Bound on what is kept of others, whatever they say: a mesh has at most a few dozen nodes.
const PEERS_MAX: usize = 256;
/// How many addresses of others are passed on in one hello.
const KNOWN_MAX: usize = 64;

/// One peer that has said hello.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// The newest thing it said.
    pub(super) hello: Hello,
    /// When.
    pub(super) heard: Mono,
    /// Where it was reached before its address changed, and since when it has the new one.
    moved_from: Option<(SocketAddr, Mono)>,
}

/// One address that is dialled.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    /// Who answered there last.
    node: Option<NodeId>,
    /// Has any attempt ended?
    tried: bool,
    sent: Option<Mono>,
    pending: bool,
    /// Since when nothing answers there, and why.
    silent: Option<(Mono, String)>,
}

/// Two machines that say they are the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Twin {
    pub(super) at: [SocketAddr; 2],
    seen: Mono,
}

/// Everything heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    pub(super) peers: BTreeMap<NodeId, Peer>,
    lanes: BTreeMap<SocketAddr, Lane>,
    rumours: BTreeMap<SocketAddr, Mono>,
    /// Clusters of our name whose members were heard, and these members. A silent member isn't
    /// forgotten while the agent runs, since the cluster may be there still; only one that takes
    /// it back is.
    pub(super) clusters: BTreeMap<ClusterId, BTreeMap<NodeId, SocketAddr>>,
    pub(super) twins: BTreeMap<NodeId, Twin>,
    /// Nodes of another cluster name.
    pub(super) strangers: BTreeMap<NodeId, (Hello, Mono)>,
    /// Why founding members refuse the decree.
    pub(super) decree_refusals: BTreeMap<NodeId, String>,
}

impl Book {
    /// Someone said hello, whether asked or by itself.
    pub(super) fn observe(&mut self, now: Mono, me: &Hello, from: NodeId, hello: &Hello) {
        if hello.node != from {
            return;
        }
        if from == me.node {
            if hello.endpoints.grpc != me.endpoints.grpc {
                self.twin(now, from, [me.endpoints.grpc, hello.endpoints.grpc]);
            }
            return;
        }
        if hello.cluster_name != me.cluster_name {
            if self.strangers.len() < PEERS_MAX {
                self.strangers.insert(from, (hello.clone(), now));
            }
            return;
        }
        if self.is_outdated(now, hello) {
            return;
        }
        self.clusters.retain(|_, members| {
            members.remove(&from);
            !members.is_empty()
        });
        if let Some(cluster) = hello.cluster.filter(|_| self.clusters.len() < PEERS_MAX) {
            self.clusters
                .entry(cluster)
                .or_default()
                .insert(from, hello.endpoints.grpc);
        }
        for (_, at) in hello.known.iter().take(KNOWN_MAX) {
            if self.rumours.len() < PEERS_MAX || self.rumours.contains_key(at) {
                self.rumours.insert(*at, now);
            }
        }
        let moved_from = self.movement(now, hello);
        if self.peers.len() < PEERS_MAX || self.peers.contains_key(&from) {
            self.peers.insert(
                from,
                Peer {
                    hello: hello.clone(),
                    heard: now,
                    moved_from,
                },
            );
        }
    }

    /// Does a hello come too late: from an earlier life of its sender, or from before it became
    /// a member? A machine that was rolled back is heard again once it has been forgotten.
    fn is_outdated(&self, now: Mono, hello: &Hello) -> bool {
        self.peers.get(&hello.node).is_some_and(|peer| {
            let known = (peer.hello.generation, peer.hello.cluster.is_some());
            let said = (hello.generation, hello.cluster.is_some());
            said < known && now.since(peer.heard) < FORGOTTEN_AFTER
        })
    }

    /// A node that answers at a new address has moved; one that then answers at the old address
    /// again is two machines.
    fn movement(&mut self, now: Mono, hello: &Hello) -> Option<(SocketAddr, Mono)> {
        let known = self.peers.get(&hello.node)?;
        let (before, at) = (known.hello.endpoints.grpc, hello.endpoints.grpc);
        if before == at || hello.generation > known.hello.generation {
            return known.moved_from;
        }
        let moved = known.moved_from;
        if moved.is_some_and(|(from, when)| from == at && now.since(when) < FORGOTTEN_AFTER) {
            self.twin(now, hello.node, [before, at]);
        }
        Some((before, now))
    }

    pub(super) fn twin(&mut self, now: Mono, node: NodeId, at: [SocketAddr; 2]) {
        self.twins.insert(node, Twin { at, seen: now });
    }

    /// A hello was answered at this address.
    pub(super) fn answered(&mut self, now: Mono, at: SocketAddr, by: NodeId) {
        let sent = self.lanes.get(&at).and_then(|lane| lane.sent).or(Some(now));
        let lane = Lane {
            node: Some(by),
            tried: true,
            sent,
            ..Lane::default()
        };
        self.lanes.insert(at, lane);
    }

    /// Nothing answered there.
    pub(super) fn unanswered(&mut self, now: Mono, at: SocketAddr, why: &str) {
        let lane = self.lanes.entry(at).or_default();
        lane.tried = true;
        lane.pending = false;
        let since = lane.silent.as_ref().map_or(now, |(since, _)| *since);
        lane.silent = Some((since, why.to_owned()));
    }

    /// Addresses where peers are, or are said to be.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let peers = self.peers.values().map(|peer| peer.hello.endpoints.grpc);
        peers.chain(self.rumours.keys().copied())
    }

    /// Where of the addresses `wanted` to say hello now.
    pub(super) fn due(
        &mut self,
        now: Mono,
        wanted: BTreeSet<SocketAddr>,
        every: Duration,
    ) -> Vec<(SocketAddr, Option<NodeId>)> {
        self.lanes.retain(|at, _| wanted.contains(at));
        let mut due = Vec::new();
        for at in wanted {
            let lane = self.lanes.entry(at).or_default();
            let patience = if lane.pending {
                super::outbox::ANSWER_WITHIN
            } else {
                every
            };
            if lane.sent.is_none_or(|sent| now >= sent.plus(patience)) {
                if lane.pending {
                    lane.tried = true;
                    let silent = lane.silent.take().unwrap_or((now, "no answer".to_owned()));
                    lane.silent = Some(silent);
                }
                lane.sent = Some(now);
                lane.pending = true;
                due.push((at, lane.node));
            }
        }
        due
    }

    /// Forgets what is too old to count.
    pub(super) fn expire(&mut self, now: Mono) {
        self.peers
            .retain(|_, peer| now.since(peer.heard) < FORGOTTEN_AFTER);
        self.strangers
            .retain(|_, (_, heard)| now.since(*heard) < FORGOTTEN_AFTER);
        self.twins
            .retain(|_, twin| now.since(twin.seen) < FORGOTTEN_AFTER);
        self.rumours
            .retain(|_, heard| now.since(*heard) < RUMOUR_FOR);
    }

    /// Adds the addresses of peers to what a hello passes on.
    pub(super) fn add_known(&self, known: &mut Vec<(NodeId, SocketAddr)>) {
        let peers = self
            .peers
            .iter()
            .map(|(node, peer)| (*node, peer.hello.endpoints.grpc));
        let new: Vec<_> = peers
            .filter(|(node, _)| known.iter().all(|(k, _)| k != node))
            .collect();
        known.extend(new);
        known.truncate(KNOWN_MAX);
    }

    /// A peer has let go of its promise.
    pub(super) fn promise_is_over(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.hello.promised = None;
        }
    }

    pub(super) fn refused_decree(&mut self, node: NodeId, reason: String) {
        if self.decree_refusals.len() < PEERS_MAX {
            self.decree_refusals.insert(node, reason);
        }
    }

    pub(super) fn is_fresh(&self, now: Mono, node: NodeId) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| now.since(peer.heard) < FRESH)
    }

    /// Everyone who answers.
    pub(super) fn fresh(&self, now: Mono) -> impl Iterator<Item = &Hello> {
        let fresh = move |peer: &&Peer| now.since(peer.heard) < FRESH;
        self.peers.values().filter(fresh).map(|peer| &peer.hello)
    }

    pub(super) fn cluster_of(&self, node: NodeId) -> Option<ClusterId> {
        self.peers.get(&node).and_then(|peer| peer.hello.cluster)
    }

    /// The clusters heard of, each with the address of a member.
    pub(super) fn clusters_heard(&self) -> impl Iterator<Item = (ClusterId, NodeId, SocketAddr)> {
        self.clusters.iter().filter_map(|(cluster, members)| {
            members
                .first_key_value()
                .map(|(node, at)| (*cluster, *node, *at))
        })
    }

    pub(super) fn members_of(&self, cluster: ClusterId) -> Vec<(NodeId, SocketAddr)> {
        let peers = self.peers.values().map(|peer| &peer.hello);
        let mut members: Vec<&Hello> = peers.filter(|h| h.cluster == Some(cluster)).collect();
        members.sort_by_key(|hello| !hello.enrols);
        let mut via: Vec<_> = members.iter().map(|h| (h.node, h.endpoints.grpc)).collect();
        if via.is_empty() {
            let silent = self.clusters.get(&cluster).into_iter().flatten();
            via.extend(silent.map(|(node, at)| (*node, *at)));
        }
        via
    }

    pub(super) fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.peers.get(&node).map(|peer| peer.hello.endpoints.grpc)
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        self.peers
            .get(&node)
            .map_or_else(|| node.short(), |peer| peer.hello.name.to_string())
    }

    /// Who answered at an address last.
    pub(super) fn node_at(&self, at: SocketAddr) -> Option<NodeId> {
        self.lanes.get(&at).and_then(|lane| lane.node)
    }

    /// Does nothing answer at an address, or not yet?
    pub(super) fn is_silent(&self, at: SocketAddr) -> bool {
        self.lanes
            .get(&at)
            .is_none_or(|lane| lane.silent.is_some() || lane.node.is_none())
    }

    /// Since when nothing answers there, and why.
    pub(super) fn silence(&self, at: SocketAddr) -> Option<&(Mono, String)> {
        self.lanes.get(&at).and_then(|lane| lane.silent.as_ref())
    }

    /// Has an attempt to reach an address ended, well or badly?
    pub(super) fn was_tried(&self, at: SocketAddr) -> bool {
        self.lanes.get(&at).is_some_and(|lane| lane.tried)
    }

    /// Addresses that were dialled and never answered or failed yet.
    pub(super) fn untried(&self) -> Vec<SocketAddr> {
        let open = self.lanes.iter().filter(|(_, lane)| !lane.tried);
        open.map(|(at, _)| *at).collect()
    }

    /// Two nodes among `me` and those who answer for whom `alike` holds.
    pub(super) fn pair<'a>(
        &'a self,
        me: &'a Hello,
        alike: impl Fn(&Hello, &Hello) -> bool,
    ) -> Option<[&'a Hello; 2]> {
        let forming = self
            .peers
            .values()
            .map(|p| &p.hello)
            .filter(|h| h.cluster.is_none());
        let all: Vec<&Hello> = forming.chain([me]).collect();
        let pairs = all
            .iter()
            .enumerate()
            .flat_map(|(i, a)| all.iter().skip(i + 1).map(move |b| [*a, *b]));
        pairs.into_iter().find(|[a, b]| alike(a, b))
    }
}

/// Do both hold rows?
pub(super) fn both_hold_rows(a: &Hello, b: &Hello) -> bool {
    a.data == DataHeld::Rows && b.data == DataHeld::Rows
}

/// Are both copies of one PostgreSQL cluster?
pub(super) fn same_system(a: &Hello, b: &Hello) -> bool {
    a.system_identifier != 0 && a.system_identifier == b.system_identifier
}
