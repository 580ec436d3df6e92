//! The state of one founding node, and the level-triggered step that moves it.
//!
//! Everything is decided again from what is known at each [`Founding::tick`]; only what can't be
//! taken back is kept in [`Durable`].

use super::book::Book;
use super::obstacle::Obstacle;
use super::{Ballot, DataHeld, Hello, Request, Response};
use crate::ids::{ClusterId, Name, NodeId, Ordinal};
use crate::policy::{FoundingSet, Policy};
use crate::roster::{Decree, FoundingMember};
use crate::status::WaitingOn;
use crate::time::Mono;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use uuid::Uuid;

/// How long an unanswered question is left open before it is asked again.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How soon a question that was refused is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a node must remember through a crash. The shell writes it where [`Step::persist`] or
/// [`Founding::request`] says so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Durable {
    /// The highest ballot seen of each candidate; an older one is refused.
    #[serde(default)]
    pub seen: BTreeMap<NodeId, Ballot>,
    /// To whom this node has promised itself.
    #[serde(default)]
    pub promise: Option<Promise>,
    /// The founding this node obeys; minted by itself when it is the founder.
    #[serde(default)]
    pub decree: Option<Decree>,
}

/// A promise that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// To whom.
    pub candidate: NodeId,
    /// For which candidacy.
    pub ballot: Ballot,
    /// The candidate's name.
    pub name: Name,
    /// Where the candidate is reached.
    pub at: SocketAddr,
}

/// A question to be asked, on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Where.
    pub to: SocketAddr,
    /// Who is thought to be there; somebody else may answer all the same.
    pub node: Option<NodeId>,
    /// What.
    pub request: Request,
}

/// What is to be done after a tick.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Step {
    /// [`Founding::durable`] has changed and must be on disk before anything else happens: before
    /// `asks` are sent, and before [`Founding::standing`] is acted upon. If it can't be written,
    /// drop the [`Founding`] and restore it from what is on disk.
    pub persist: bool,
    /// Questions to ask. Each must end in [`Founding::answered`] or [`Founding::unanswered`];
    /// one that ends in neither is asked again after 3 s.
    pub asks: Vec<Ask>,
}

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

/// One attempt to become the founder. It lives in memory only: after a crash it is over, because
/// the generation has grown.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidacy {
    pub(super) ballot: Ballot,
    pub(super) granted: BTreeSet<NodeId>,
    pub(super) refusals: BTreeMap<NodeId, (NodeId, String)>,
}

/// What was last asked of a node, beside who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letter {
    Promise(Ballot),
    Release(Ballot),
    Decree,
}

#[derive(Debug, Clone, Copy)]
struct Posted {
    letter: Letter,
    at: Mono,
    pending: bool,
}

/// The founding protocol as one node lives it.
#[derive(Debug, Clone)]
pub struct Founding {
    pub(super) me: Hello,
    pub(super) set: FoundingSet,
    pub(super) durable: Durable,
    pub(super) book: Book,
    pub(super) resolved: Option<Vec<SocketAddr>>,
    pub(super) candidacy: Option<Candidacy>,
    pub(super) started: Option<Mono>,
    round: u64,
    accepted: BTreeSet<NodeId>,
    posted: BTreeMap<NodeId, Posted>,
}

impl Founding {
    /// Picks up where the durable state says. `me.generation` must be higher than at any earlier
    /// start: it is what makes the ballots of an earlier life void.
    #[must_use]
    pub fn restore(me: Hello, policy: &Policy, durable: Durable) -> Founding {
        let resolved = match &policy.founding_set {
            FoundingSet::Addresses(addresses) => Some(addresses.clone()),
            FoundingSet::Any => None,
        };
        Founding {
            me: Hello {
                cluster_name: policy.cluster_name.clone(),
                expect: policy.expect,
                ..me
            },
            set: policy.founding_set.clone(),
            durable,
            book: Book::default(),
            resolved,
            candidacy: None,
            started: None,
            round: 0,
            accepted: BTreeSet::new(),
            posted: BTreeMap::new(),
        }
    }

    /// Tells what is known of this node by now: data and system identifier once PostgreSQL
    /// answers, another address, `cluster` once it is enrolled. The node, the generation, the
    /// cluster's name and `expect` stay what they were.
    pub fn set_me(&mut self, hello: Hello) {
        self.me = Hello {
            node: self.me.node,
            generation: self.me.generation,
            cluster_name: self.me.cluster_name.clone(),
            expect: self.me.expect,
            ..hello
        };
    }

    /// Tells what the seeds resolve to now. A static founding set is what it is.
    pub fn set_resolved(&mut self, seeds: Vec<SocketAddr>) {
        match &self.set {
            FoundingSet::Any => self.resolved = Some(seeds),
            FoundingSet::Addresses(_) => {}
        }
    }

    /// What must be on disk.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// What this node says of itself now.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let mut hello = self.me.clone();
        hello.cluster = self.cluster();
        hello.promised = self
            .durable
            .promise
            .as_ref()
            .map(|p| (p.candidate, p.ballot));
        self.book.add_known(&mut hello.known);
        hello
    }

    /// Decides anew, and says what is to be done. `uuids` mints random UUIDs.
    pub fn tick(&mut self, now: Mono, uuids: &mut dyn FnMut() -> Uuid) -> Step {
        self.started.get_or_insert(now);
        self.book.expire(now);
        let voided = self.void_spent_promise();
        self.reconsider(now);
        let minted = self.mint(uuids);
        let mut asks = self.dial(now);
        asks.extend(self.post(now));
        Step {
            persist: voided || minted,
            asks,
        }
    }

    /// An answer came. `from` is who gave it, as the connection proved.
    pub fn answered(&mut self, now: Mono, ask: &Ask, from: NodeId, response: Response) {
        if let Some(posted) = self.posted.get_mut(&ask.node.unwrap_or(from)) {
            posted.pending = false;
        }
        match (&ask.request, response) {
            (Request::Hello(_), Response::Hello(hello)) => {
                self.book.answered(now, ask.to, from);
                self.book.observe(now, &self.me, from, &hello);
            }
            (Request::AskPromise { ballot: asked, .. }, Response::Promised { ballot }) => {
                let current = self.candidacy.as_mut().filter(|c| c.ballot == ballot);
                if let Some(candidacy) = current.filter(|_| *asked == ballot) {
                    candidacy.refusals.remove(&from);
                    candidacy.granted.insert(from);
                }
            }
            (Request::AskPromise { ballot, .. }, Response::PromiseHeld { holder, reason }) => {
                let current = self.candidacy.as_mut().filter(|c| c.ballot == *ballot);
                if let Some(candidacy) = current.filter(|c| !c.granted.contains(&from)) {
                    candidacy.refusals.insert(from, (holder, reason));
                }
            }
            (Request::ReleasePromise { .. }, Response::Released) => {
                self.book.promise_is_over(from);
            }
            (Request::Decree(_), Response::Accepted) => {
                self.accepted.insert(from);
            }
            (Request::Decree(_), Response::PromiseHeld { reason, .. }) => {
                self.book.refused_decree(from, reason);
            }
            // Answers to something else: the peer is broken or of another version.
            (
                Request::Hello(_)
                | Request::AskPromise { .. }
                | Request::ReleasePromise { .. }
                | Request::Decree(_),
                Response::Hello(_)
                | Response::Promised { .. }
                | Response::PromiseHeld { .. }
                | Response::Released
                | Response::Accepted,
            ) => {}
        }
    }

    /// No answer came; `why` is for people.
    pub fn unanswered(&mut self, now: Mono, ask: &Ask, why: &str) {
        match (&ask.request, ask.node) {
            (Request::Hello(_), _) => self.book.unanswered(now, ask.to, why),
            (_, Some(node)) => {
                if let Some(posted) = self.posted.get_mut(&node) {
                    posted.pending = false;
                }
            }
            (_, None) => {}
        }
    }

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
        if let Some(reason) = self.quarantine() {
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
        match (&self.durable.promise, self.book.clusters.keys().next()) {
            (Some(promise), cluster) => match cluster {
                Some(cluster) if !self.book.is_fresh(now, promise.candidate) => {
                    self.found(*cluster)
                }
                Some(_) | None => Standing::Promised {
                    to: promise.candidate,
                },
            },
            (None, Some(cluster)) if self.me.data == DataHeld::Empty => self.found(*cluster),
            (None, Some(_) | None) if self.book.peers.is_empty() => Standing::Discovering,
            (None, Some(_) | None) => Standing::Forming,
        }
    }

    fn found(&self, cluster: ClusterId) -> Standing {
        Standing::ClusterFound {
            cluster,
            via: self.book.members_of(cluster),
        }
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
            Some(_) => self.obstacles_of_a_member(),
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

    pub(super) fn set_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let mine = self.me.endpoints.grpc;
        self.resolved
            .iter()
            .flatten()
            .copied()
            .filter(move |at| *at != mine)
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.me
            .cluster
            .or(self.durable.decree.as_ref().map(|decree| decree.cluster))
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        if node == self.me.node {
            return format!("this node ({})", self.me.name);
        }
        self.book.name_of(node)
    }

    /// A candidate that has become a member can't found any more: what was promised to it binds
    /// nobody.
    fn void_spent_promise(&mut self) -> bool {
        let candidate = self
            .durable
            .promise
            .as_ref()
            .map(|promise| promise.candidate);
        if candidate
            .and_then(|node| self.book.cluster_of(node))
            .is_none()
        {
            return false;
        }
        self.durable.promise = None;
        true
    }

    /// Begins or ends a candidacy.
    fn reconsider(&mut self, now: Mono) {
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

    fn mint(&mut self, uuids: &mut dyn FnMut() -> Uuid) -> bool {
        let Some(candidacy) = &self.candidacy else {
            return false;
        };
        let Some(members) = self.founders(&candidacy.granted) else {
            return false;
        };
        self.found_with(&members, uuids);
        true
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
    }

    /// Says hello wherever somebody may be.
    fn dial(&mut self, now: Mono) -> Vec<Ask> {
        if self.me.cluster.is_some() && self.unaccepted().is_empty() {
            return Vec::new();
        }
        let promised = self.durable.promise.iter().map(|promise| promise.at);
        let wanted: BTreeSet<SocketAddr> = self.set_addresses().chain(promised).collect();
        let due = self
            .book
            .due(now, self.started.unwrap_or(now), wanted, &self.me);
        if due.is_empty() {
            return Vec::new();
        }
        let hello = self.hello();
        let ask = |(to, node)| Ask {
            to,
            node,
            request: Request::Hello(hello.clone()),
        };
        due.into_iter().map(ask).collect()
    }

    /// Asks for promises, releases them, tells the decree.
    fn post(&mut self, now: Mono) -> Vec<Ask> {
        let mut asks = Vec::new();
        for (node, letter) in self.letters(now) {
            let Some(to) = self.book.address_of(node) else {
                continue;
            };
            let due = self.posted.get(&node).is_none_or(|posted| {
                let patience = if posted.pending {
                    ANSWER_WITHIN
                } else {
                    ASK_AGAIN
                };
                posted.letter != letter || now >= posted.at.plus(patience)
            });
            if due {
                self.posted.insert(
                    node,
                    Posted {
                        letter,
                        at: now,
                        pending: true,
                    },
                );
                asks.extend(self.request_of(letter).map(|request| Ask {
                    to,
                    node: Some(node),
                    request,
                }));
            }
        }
        asks
    }

    fn letters(&self, now: Mono) -> BTreeMap<NodeId, Letter> {
        if self.cluster().is_some() {
            return self
                .unaccepted()
                .into_iter()
                .map(|node| (node, Letter::Decree))
                .collect();
        }
        if let Some(candidacy) = &self.candidacy {
            let mut asked = self.founding_nodes(now);
            asked.retain(|node| *node != self.me.node && !candidacy.granted.contains(node));
            return asked
                .into_iter()
                .map(|n| (n, Letter::Promise(candidacy.ballot)))
                .collect();
        }
        let held = |node: &NodeId| {
            self.book
                .peers
                .get(node)
                .and_then(|peer| peer.hello.promised)
        };
        let stale = |node: &NodeId| {
            let (candidate, ballot) = held(node)?;
            // A ballot above our own was used by a twin, or before this machine was rolled back.
            let ours = candidate == self.me.node && ballot <= self.ballot();
            ours.then_some((*node, Letter::Release(ballot)))
        };
        self.book.peers.keys().filter_map(stale).collect()
    }

    fn request_of(&self, letter: Letter) -> Option<Request> {
        Some(match letter {
            Letter::Promise(ballot) => Request::AskPromise {
                hello: self.hello(),
                ballot,
            },
            Letter::Release(ballot) => Request::ReleasePromise {
                candidate: self.me.node,
                ballot,
            },
            Letter::Decree => Request::Decree(self.durable.decree.clone()?),
        })
    }
}
