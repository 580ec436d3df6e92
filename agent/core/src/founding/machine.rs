//! The state of one founding node, and the level-triggered step that moves it.
//!
//! Everything is decided again from what is known at each [`Founding::tick`]; only what can't be
//! taken back is kept in [`Durable`].

use super::book::Book;
use super::candidacy::Candidacy;
use super::outbox::Posted;
use super::{Ballot, Hello, Request, Response};
use crate::ids::{ClusterId, Name, NodeId};
use crate::policy::{FoundingSet, Policy};
use crate::roster::Decree;
use crate::time::Mono;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use uuid::Uuid;

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
    /// `asks` are sent, and before [`Founding::standing`] is acted upon; then call
    /// [`Founding::saved`]. If it can't be written, do nothing of all that: the next step says so
    /// again.
    pub persist: bool,
    /// Questions to ask. Each must end in [`Founding::answered`] or [`Founding::unanswered`];
    /// one that ends in neither is asked again after 3 s.
    pub asks: Vec<Ask>,
}

/// The founding protocol as one node lives it.
#[derive(Debug, Clone)]
pub struct Founding {
    pub(super) me: Hello,
    pub(super) set: FoundingSet,
    pub(super) durable: Durable,
    pub(super) book: Book,
    pub(super) resolved: Option<Vec<SocketAddr>>,
    pub(super) answering: BTreeSet<SocketAddr>,
    pub(super) candidacy: Option<Candidacy>,
    pub(super) started: Option<Mono>,
    pub(super) round: u64,
    pub(super) accepted: BTreeSet<NodeId>,
    /// Has `durable` changed since it was written?
    pub(super) unsaved: bool,
    pub(super) posted: BTreeMap<NodeId, Posted>,
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
            answering: BTreeSet::new(),
            candidacy: None,
            started: None,
            round: 0,
            accepted: BTreeSet::new(),
            unsaved: false,
            posted: BTreeMap::new(),
        }
    }

    /// Tells what is known of this node by now: data and system identifier once PostgreSQL
    /// answers, another address, `cluster` once it is durably enrolled. The node, the generation, the
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

    /// Tells where members of this node's cluster answer now, by whatever way. Nothing at such an address can
    /// have been made anew: a member has no reason to say hello there, and the token that a hello takes
    /// may have expired long ago.
    pub fn set_answering(&mut self, members: BTreeSet<SocketAddr>) {
        self.answering = members;
    }

    /// What must be on disk.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// [`Founding::durable`] is on disk.
    pub fn saved(&mut self) {
        self.unsaved = false;
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
        self.reconsider(now);
        self.mint(uuids);
        let mut asks = self.dial(now);
        asks.extend(self.post(now));
        Step {
            persist: self.unsaved,
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
            // It is there, and can't say yet what it is.
            (Request::Hello(_), Response::PromiseHeld { reason, .. }) => {
                self.book.unanswered(now, ask.to, &reason);
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
}
