//! What this node answers to the questions of others.

use super::machine::{Founding, Promise};
use super::obstacle::{Obstacle, rank};
use super::{Ballot, DataHeld, Hello, Request, Response};
use crate::ids::NodeId;
use crate::policy::FoundingSet;
use crate::roster::Decree;
use crate::time::Mono;

/// Bound on the ballots that are remembered, whatever others say. Forgetting one costs at most a
/// promise to a candidacy that is over, which its candidate releases when it hears of it.
const SEEN_MAX: usize = 256;

impl Founding {
    /// Answers a question that `from` asked, as the connection proved. When the second value is
    /// true, [`Founding::durable`] must be on disk, and [`Founding::saved`] called, before the
    /// answer is sent; if it can't be written, no answer may be sent.
    pub fn request(&mut self, now: Mono, from: NodeId, request: &Request) -> (Response, bool) {
        let response = match request {
            Request::Hello(hello) => {
                self.book.observe(now, &self.me, from, hello);
                Response::Hello(self.hello())
            }
            Request::AskPromise { hello, ballot } => {
                self.book.observe(now, &self.me, from, hello);
                match self.may_promise(now, from, hello, *ballot) {
                    Ok(()) => {
                        self.promise(hello, *ballot);
                        Response::Promised { ballot: *ballot }
                    }
                    Err((holder, reason)) => Response::PromiseHeld { holder, reason },
                }
            }
            Request::ReleasePromise { candidate, ballot } => {
                if *candidate == from {
                    self.void(*candidate, *ballot);
                }
                Response::Released
            }
            Request::Decree(decree) => match self.may_obey(from, decree) {
                Ok(()) => {
                    self.obey(decree);
                    Response::Accepted
                }
                Err(reason) => Response::PromiseHeld {
                    holder: self.me.node,
                    reason,
                },
            },
        };
        (response, self.unsaved)
    }

    /// Says why not, and who has the promise.
    fn may_promise(
        &self,
        now: Mono,
        from: NodeId,
        asker: &Hello,
        ballot: Ballot,
    ) -> Result<(), (NodeId, String)> {
        let mine = |reason: String| Err((self.me.node, reason));
        if asker.node != from || from == self.me.node {
            return mine("a node asks for itself".to_owned());
        }
        if let Some(cluster) = self.cluster() {
            return mine(format!("is a member of cluster {cluster}"));
        }
        if self.me.data == DataHeld::Rows {
            return mine("holds rows, and founds the cluster itself or not at all".to_owned());
        }
        if !self.suits(asker) || !self.is_of_the_set(asker) {
            return mine(
                "the asking node is none of the founding set as configured here".to_owned(),
            );
        }
        let obstacles = self.obstacles(now);
        if let Some(obstacle) = obstacles.iter().find(|obstacle| obstacle.forbids_promise()) {
            return mine(obstacle.text());
        }
        self.is_not_given(asker, ballot)
    }

    /// Is the promise free for this ballot?
    fn is_not_given(&self, asker: &Hello, ballot: Ballot) -> Result<(), (NodeId, String)> {
        if let Some(held) = &self.durable.promise {
            if held.candidate != asker.node {
                return Err((
                    held.candidate,
                    format!("promised to {} ({})", held.name, held.at),
                ));
            }
            let moved = held.at != asker.endpoints.grpc;
            if moved && held.ballot.generation == ballot.generation {
                let text = Obstacle::Twin {
                    name: asker.name.to_string(),
                    at: [held.at, asker.endpoints.grpc],
                };
                return Err((
                    held.candidate,
                    format!("{}; or restart its agent", text.text()),
                ));
            }
            if held.ballot == ballot {
                return Ok(());
            }
        }
        if self
            .durable
            .seen
            .get(&asker.node)
            .is_some_and(|seen| *seen >= ballot)
        {
            let reason = "the question is older than one that was seen; if that lasts, the asking \
                          machine was set back to an earlier state";
            return Err((self.me.node, reason.to_owned()));
        }
        if self.candidacy.is_some() && rank(&self.me) < rank(asker) {
            return Err((
                self.me.node,
                "is a candidate itself, and goes before".to_owned(),
            ));
        }
        Ok(())
    }

    fn is_of_the_set(&self, asker: &Hello) -> bool {
        match &self.set {
            FoundingSet::Any => true,
            FoundingSet::Addresses(addresses) => addresses.iter().any(|at| {
                *at == asker.endpoints.grpc || self.book.node_at(*at) == Some(asker.node)
            }),
        }
    }

    /// Gives the promise. A candidacy of our own ends with it, and what others promised us is
    /// released as soon as they say so.
    fn promise(&mut self, asker: &Hello, ballot: Ballot) {
        let promise = Promise {
            candidate: asker.node,
            ballot,
            name: asker.name.clone(),
            at: asker.endpoints.grpc,
        };
        self.candidacy = None;
        self.durable.seen.insert(asker.node, ballot);
        self.unsaved |= self.durable.promise.as_ref() != Some(&promise);
        self.durable.promise = Some(promise);
    }

    /// Voids what was promised to a candidate for this ballot or an earlier one, and remembers
    /// the ballot, so that a question still on its way is recognised.
    pub(super) fn void(&mut self, candidate: NodeId, ballot: Ballot) {
        let held = self.durable.promise.as_ref();
        let voided = held.is_some_and(|p| p.candidate == candidate && p.ballot <= ballot);
        if voided {
            self.durable.promise = None;
        }
        let seen = self
            .durable
            .seen
            .get(&candidate)
            .copied()
            .unwrap_or_default();
        let news = ballot > seen && self.durable.seen.len() < SEEN_MAX;
        if news {
            self.durable.seen.insert(candidate, ballot);
        }
        self.unsaved |= voided || news;
    }

    /// A decree is a fact: it was minted with this node's promise, and refusing can't undo it,
    /// while obeying makes this node answer as a member, which stops every other candidate. So a
    /// node obeys whatever it has promised since (an operator may have released its promise),
    /// unless it already belongs to another cluster or rows have come into its tables.
    fn may_obey(&self, from: NodeId, decree: &Decree) -> Result<(), String> {
        if decree.founder != from || decree.cluster_name != self.me.cluster_name {
            return Err("only the founder of the same cluster name can say so".to_owned());
        }
        if let Some(ours) = self.cluster() {
            return match ours == decree.cluster {
                true => Ok(()),
                false => Err(format!(
                    "is a member of cluster {ours}, and {} is another: two clusters never merge; \
                     empty one side's nodes and let them join the other",
                    decree.cluster
                )),
            };
        }
        if decree.member(self.me.node).is_none() {
            return Err("is not named in the decree".to_owned());
        }
        match self.me.data {
            DataHeld::Empty => Ok(()),
            DataHeld::Unknown => Err("its PostgreSQL has not been looked at yet".to_owned()),
            DataHeld::Rows => Err(
                "rows have come into its tables since it promised; empty them, \
                                   and it joins"
                    .to_owned(),
            ),
        }
    }

    fn obey(&mut self, decree: &Decree) {
        if self.cluster().is_some() {
            return;
        }
        self.durable.decree = Some(decree.clone());
        self.durable.promise = None;
        self.candidacy = None;
        self.unsaved = true;
    }
}
