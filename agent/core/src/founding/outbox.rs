//! What to ask whom, and when again: decided from what is known at each tick, so that a lost
//! message is one that is sent once more.

use super::machine::{Ask, Founding};
use super::{Ballot, Request};
use crate::ids::NodeId;
use crate::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How long an unanswered question is left open before it is asked again.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Hellos are said this often at first,
const HELLO_EVERY: Duration = Duration::from_millis(250);
/// for this long after the start,
const EAGER_FOR: Duration = Duration::from_secs(60);
/// and then this often.
const HELLO_EVERY_LATER: Duration = Duration::from_secs(2);
/// A member says hello to the seeds this often, for the machine there may have been made anew,
/// with no other seed than itself: it would never find the cluster.
const MEMBER_HELLO_EVERY: Duration = Duration::from_secs(30);
/// How soon a question that was refused is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What was last asked of a node, beside who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letter {
    Promise(Ballot),
    Release(Ballot),
    Decree,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    letter: Letter,
    at: Mono,
    pub(super) pending: bool,
}

impl Founding {
    /// Says hello wherever somebody may be.
    pub(super) fn dial(&mut self, now: Mono) -> Vec<Ask> {
        let mut wanted: BTreeSet<SocketAddr> = self.set_addresses().collect();
        let settled = self.me.cluster.is_some() && self.unaccepted().is_empty();
        let eager = now.since(self.started.unwrap_or(now)) < EAGER_FOR;
        let every = match (settled, eager) {
            (true, _) => MEMBER_HELLO_EVERY,
            (false, true) => HELLO_EVERY,
            (false, false) => HELLO_EVERY_LATER,
        };
        if settled {
            wanted.retain(|at| !self.answering.contains(at));
        } else {
            wanted.extend(self.durable.promise.iter().map(|promise| promise.at));
            wanted.extend(self.book.addresses());
            wanted.remove(&self.me.endpoints.grpc);
        }
        let due = self.book.due(now, wanted, every);
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
    pub(super) fn post(&mut self, now: Mono) -> Vec<Ask> {
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
