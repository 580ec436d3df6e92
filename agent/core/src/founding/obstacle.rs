//! Why a node doesn't found, one reason at a time, in words that end in the next step.
//!
//! One list serves three readers: who has an obstacle is no candidate, gives no promise (for some
//! of them), and tells its operator.

use super::book::{Book, both_hold_rows, same_system};
use super::machine::Founding;
use super::{DataHeld, Hello};
use crate::ids::{ClusterId, NodeId};
use crate::policy::FoundingSet;
use crate::roster::Decree;
use crate::status::WaitingOn;
use crate::time::Mono;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A reason not to found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A cluster exists.
    Cluster {
        cluster: ClusterId,
        at: SocketAddr,
        answers: bool,
    },
    /// Two clusters of our name exist.
    TwoClusters([(ClusterId, SocketAddr); 2]),
    /// Nobody answers who could let this founding member in.
    Orphaned { name: String, founder: NodeId },
    /// PostgreSQL has not been looked at.
    DataUnknown,
    /// The seeds resolve to nothing yet.
    Unresolved,
    /// `expect` and the number of addresses differ.
    SetMismatch { addresses: usize, expect: u16 },
    /// More machines than a founding of any `expect` is safe with.
    TooMany { machines: usize, expect: u16 },
    /// A peer was told another `expect`.
    OtherExpect {
        name: String,
        theirs: u16,
        ours: u16,
    },
    /// Two machines say they are the same node.
    Twin { name: String, at: [SocketAddr; 2] },
    /// Two nodes run copies of one PostgreSQL cluster.
    SameSystem([String; 2]),
    /// Two nodes hold rows.
    TwoWithData([String; 2]),
    /// Not one of the addresses of the set is this node's.
    NotInSet(SocketAddr),
    /// Promised to another.
    Promised(String),
    /// Another goes before.
    Better(String),
    /// Some address was not tried yet.
    Untried(Vec<SocketAddr>),
    /// Too few are there.
    Missing {
        present: usize,
        expect: u16,
        absent: Vec<String>,
    },
}

impl Obstacle {
    /// Does a candidate give up because of it? One whose peers are merely silent goes on.
    pub(super) fn ends_candidacy(&self) -> bool {
        !matches!(self, Obstacle::Untried(_) | Obstacle::Missing { .. })
    }

    /// Is it a reason to refuse one's promise to somebody else?
    pub(super) fn forbids_promise(&self) -> bool {
        match self {
            Obstacle::Cluster { .. }
            | Obstacle::TwoClusters(_)
            | Obstacle::DataUnknown
            | Obstacle::SetMismatch { .. }
            | Obstacle::TooMany { .. }
            | Obstacle::OtherExpect { .. }
            | Obstacle::Twin { .. }
            | Obstacle::SameSystem(_)
            | Obstacle::TwoWithData(_) => true,
            // Matters of this node's own candidacy.
            Obstacle::Orphaned { .. }
            | Obstacle::Unresolved
            | Obstacle::NotInSet(_)
            | Obstacle::Promised(_)
            | Obstacle::Better(_)
            | Obstacle::Untried(_)
            | Obstacle::Missing { .. } => false,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Obstacle::Cluster { .. } | Obstacle::TwoClusters(_) => "clusters",
            Obstacle::DataUnknown => "postgres",
            Obstacle::Unresolved | Obstacle::Untried(_) => "seeds",
            Obstacle::SetMismatch { .. }
            | Obstacle::TooMany { .. }
            | Obstacle::OtherExpect { .. }
            | Obstacle::NotInSet(_) => "expect",
            Obstacle::Twin { .. } | Obstacle::SameSystem(_) => "clone",
            Obstacle::TwoWithData(_) => "data",
            Obstacle::Orphaned { .. } | Obstacle::Promised(_) | Obstacle::Better(_) => "promise",
            Obstacle::Missing { .. } => "peers",
        }
    }

    pub(super) fn waiting_on(&self) -> WaitingOn {
        WaitingOn::new(self.kind(), self.text())
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        match self {
            Obstacle::Cluster {
                cluster,
                at,
                answers: true,
            } => {
                format!("cluster {cluster} exists: {at} is a member of it")
            }
            Obstacle::Cluster {
                cluster,
                at,
                answers: false,
            } => format!(
                "cluster {cluster} exists, and its member at {at} answers no more: bring it \
                 back, or, if that cluster is gone for ever, restart this agent"
            ),
            Obstacle::TwoClusters([(a, at_a), (b, at_b)]) => format!(
                "two clusters of this name exist, {a} (member at {at_a}) and {b} (member at \
                 {at_b}): they never merge; keep the seeds of one of them and restart the agent"
            ),
            Obstacle::Orphaned { name, founder } => format!(
                "{name} has founded the cluster with this node, and neither it nor any ready \
                 member answers: bring it back, or, if it is destroyed for ever and no member \
                 is ready, run `pgaa-agent promise release {founder}` on every founding member"
            ),
            Obstacle::DataUnknown => {
                "PostgreSQL has not answered yet: systemctl status 'postgresql@*'".to_owned()
            }
            Obstacle::Unresolved => "the seeds have not been resolved yet".to_owned(),
            Obstacle::SetMismatch { addresses, expect } => format!(
                "cluster.seeds lists {addresses} addresses and cluster.expect is {expect}: make \
                 them equal on every node"
            ),
            Obstacle::TooMany { machines, expect } => format!(
                "{machines} machines may found, and cluster.expect = {expect} is safe with fewer \
                 than {}: stop some until the cluster is founded, or raise expect on every node",
                usize::from(*expect) * 2
            ),
            Obstacle::OtherExpect { name, theirs, ours } => format!(
                "{name} has cluster.expect = {theirs}, and here it is {ours}: make them equal"
            ),
            Obstacle::Twin { name, at: [a, b] } => format!(
                "{name} answers at {a} and at {b}: one is a clone; there: systemctl stop pgaa-agent && \
                 pgaa-agent image seal, pg_dropcluster --stop 15 main, reboot"
            ),
            Obstacle::SameSystem([a, b]) => format!(
                "{a} and {b} run copies of one PostgreSQL cluster (equal system identifiers): \
                 create one of them anew with initdb"
            ),
            Obstacle::TwoWithData([a, b]) => format!(
                "{a} and {b} both hold rows: empty the tables of one of them, or move its rows \
                 after the founding"
            ),
            Obstacle::NotInSet(at) => format!(
                "this node ({at}) is none of cluster.seeds: it waits for those to found the \
                 cluster, and joins then"
            ),
            Obstacle::Promised(text) | Obstacle::Better(text) => text.clone(),
            Obstacle::Untried(addresses) => {
                let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("trying {}", list.join(", "))
            }
            Obstacle::Missing {
                present,
                expect,
                absent,
            } => {
                let list = if absent.is_empty() {
                    "nobody else is known: check cluster.seeds".to_owned()
                } else {
                    absent.join("; ")
                };
                format!("{present} of {expect} nodes are there; {list}")
            }
        }
    }
}

/// Orders candidates: who holds rows goes first, then who has the lowest UUID.
pub(super) fn rank(hello: &Hello) -> (Reverse<bool>, NodeId) {
    (Reverse(hello.data == DataHeld::Rows), hello.node)
}

impl Founding {
    /// Everything that keeps this node from being a candidate now, most important first.
    pub(super) fn obstacles(&self, now: Mono) -> Vec<Obstacle> {
        let mut found = self.clusters_heard(now);
        if self.me.data == DataHeld::Unknown {
            found.push(Obstacle::DataUnknown);
        }
        found.extend(self.wrong_set());
        found.extend(self.wrong_peers());
        if let Some(promise) = &self.durable.promise {
            found.push(Obstacle::Promised(self.promise_text(now, promise)));
        }
        let better = self
            .founding_nodes(now)
            .into_iter()
            .filter_map(|n| self.book.peers.get(&n));
        if found.iter().all(|o| !matches!(o, Obstacle::Promised(_)))
            && let Some(best) = better.map(|p| &p.hello).min_by_key(|hello| rank(hello))
            && rank(best) < rank(&self.me)
        {
            found.push(Obstacle::Better(format!(
                "{} goes before this node as founder; `pgaa-agent status` there says what it \
                 waits for",
                best.name
            )));
        }
        found.extend(self.absent(now));
        found
    }

    /// What a member has to say about founding: nothing, unless another cluster is about, or
    /// nobody is left to let it in.
    pub(super) fn obstacles_of_a_member(&self, now: Mono) -> Vec<Obstacle> {
        let Some(ours) = self.cluster() else {
            return Vec::new();
        };
        let theirs = self
            .book
            .clusters_heard()
            .find(|(cluster, ..)| *cluster != ours);
        let here = (ours, self.me.endpoints.grpc);
        let mut found: Vec<Obstacle> = theirs
            .map(|(cluster, _, at)| Obstacle::TwoClusters([here, (cluster, at)]))
            .into_iter()
            .collect();
        if let Some(decree) = self.orphaned(now) {
            let name = decree.member(decree.founder).map(|m| m.name.to_string());
            found.push(Obstacle::Orphaned {
                name: name.unwrap_or_else(|| decree.founder.short()),
                founder: decree.founder,
            });
        }
        found
    }

    /// The decree this node obeys, when neither its founder nor anyone else who could let this
    /// node in answers.
    pub(super) fn orphaned(&self, now: Mono) -> Option<&Decree> {
        let outside = self.me.cluster.is_none();
        let decree = self
            .durable
            .decree
            .as_ref()
            .filter(|d| outside && d.founder != self.me.node)?;
        let mut fellows = self
            .book
            .fresh(now)
            .filter(|h| h.cluster == Some(decree.cluster));
        let helped = fellows.any(|hello| hello.enrols || hello.node == decree.founder);
        (!helped).then_some(decree)
    }

    /// Why this node is set apart, if it is.
    pub(super) fn quarantine(&self, now: Mono) -> Option<String> {
        let heard = self.clusters_heard(now);
        if let Some(two @ Obstacle::TwoClusters(_)) = heard.first() {
            return Some(two.text());
        }
        let (cluster, _, at) = self.book.clusters_heard().next()?;
        (self.me.data == DataHeld::Rows).then(|| {
            format!(
                "this node holds rows of unknown lineage, and cluster {cluster} exists (member \
                 at {at}): dump what you need, empty the tables, and it joins by itself"
            )
        })
    }

    fn clusters_heard(&self, now: Mono) -> Vec<Obstacle> {
        let mut heard = self.book.clusters_heard();
        match (heard.next(), heard.next()) {
            (Some((a, _, at_a)), Some((b, _, at_b))) => {
                vec![Obstacle::TwoClusters([(a, at_a), (b, at_b)])]
            }
            (Some((cluster, _, at)), None) => {
                let answers = self
                    .book
                    .fresh(now)
                    .any(|hello| hello.cluster == Some(cluster));
                vec![Obstacle::Cluster {
                    cluster,
                    at,
                    answers,
                }]
            }
            (None, _) => Vec::new(),
        }
    }

    /// What is wrong with the founding set itself.
    fn wrong_set(&self) -> Option<Obstacle> {
        let expect = self.me.expect;
        match (&self.set, &self.resolved) {
            (FoundingSet::Addresses(addresses), _) if addresses.len() != usize::from(expect) => {
                Some(Obstacle::SetMismatch {
                    addresses: addresses.len(),
                    expect,
                })
            }
            (FoundingSet::Addresses(addresses), _) => {
                let mine = addresses
                    .iter()
                    .any(|at| self.node_at(*at) == Some(self.me.node));
                (!mine).then_some(Obstacle::NotInSet(self.me.endpoints.grpc))
            }
            (FoundingSet::Any, None) => Some(Obstacle::Unresolved),
            (FoundingSet::Any, Some(resolved)) => {
                let machines = self.machines(resolved);
                (machines >= usize::from(expect) * 2)
                    .then_some(Obstacle::TooMany { machines, expect })
            }
        }
    }

    /// How many machines may take part: nodes that were heard, and addresses where nobody was
    /// heard yet. Several addresses of one node count once.
    fn machines(&self, resolved: &[SocketAddr]) -> usize {
        let forming = self
            .book
            .peers
            .values()
            .filter(|p| p.hello.cluster.is_none());
        let heard: BTreeSet<SocketAddr> = forming.clone().map(|p| p.hello.endpoints.grpc).collect();
        let unheard = |at: &&SocketAddr| self.node_at(**at).is_none() && !heard.contains(at);
        let unheard: BTreeSet<&SocketAddr> = resolved.iter().filter(unheard).collect();
        1 + forming.count() + unheard.len()
    }

    /// What is wrong with the nodes that were heard.
    fn wrong_peers(&self) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let forming = self
            .book
            .peers
            .values()
            .map(|p| &p.hello)
            .filter(|h| h.cluster.is_none());
        if let Some(other) = forming.clone().find(|hello| hello.expect != self.me.expect) {
            found.push(Obstacle::OtherExpect {
                name: other.name.to_string(),
                theirs: other.expect,
                ours: self.me.expect,
            });
        }
        if let Some((node, twin)) = self.book.twins.first_key_value() {
            found.push(Obstacle::Twin {
                name: self.name_of(*node),
                at: twin.at,
            });
        }
        let names =
            |[a, b]: [&Hello; 2]| [a, b].map(|h| format!("{} ({})", h.name, h.endpoints.grpc));
        let pair = |alike: fn(&Hello, &Hello) -> bool| Book::pair(&self.book, &self.me, alike);
        found.extend(pair(same_system).map(|both| Obstacle::SameSystem(names(both))));
        found.extend(pair(both_hold_rows).map(|both| Obstacle::TwoWithData(names(both))));
        found
    }

    /// Who is missing.
    fn absent(&self, now: Mono) -> Option<Obstacle> {
        let present = self.founding_nodes(now).len();
        let expect = self.me.expect;
        if present >= usize::from(expect.max(1)) {
            let mut untried = self.book.untried();
            untried.extend(self.set_addresses().filter(|at| !self.book.was_tried(*at)));
            untried.sort_unstable();
            untried.dedup();
            return (!untried.is_empty()).then_some(Obstacle::Untried(untried));
        }
        let silent = self.set_addresses().filter(|at| self.book.is_silent(*at));
        let mut absent: Vec<String> = silent.map(|at| self.silence_text(now, at)).collect();
        let unready = self.book.fresh(now).filter(|h| h.data == DataHeld::Unknown);
        absent.extend(unready.map(|h| format!("{} waits for its PostgreSQL", h.name)));
        let strangers = self.book.strangers.values();
        absent.extend(strangers.map(|(h, _)| {
            format!(
                "{} belongs to another cluster name, {:?}",
                h.endpoints.grpc,
                h.cluster_name.as_str()
            )
        }));
        Some(Obstacle::Missing {
            present,
            expect,
            absent,
        })
    }

    fn silence_text(&self, now: Mono, at: SocketAddr) -> String {
        match self.book.silence(at) {
            Some((since, why)) => {
                format!(
                    "{at} has not answered for {} s ({why})",
                    now.since(*since).as_secs()
                )
            }
            None => format!("{at} is being tried"),
        }
    }

    /// The nodes of the founding set that answer and could take part now, this one included.
    pub(super) fn founding_nodes(&self, now: Mono) -> BTreeSet<NodeId> {
        let fits = |node: &NodeId| {
            let fresh = || self.book.is_fresh(now, *node);
            let peer = || {
                self.book
                    .peers
                    .get(node)
                    .is_some_and(|p| self.suits(&p.hello))
            };
            *node == self.me.node || (fresh() && peer())
        };
        match &self.set {
            FoundingSet::Any => {
                let peers = self.book.peers.keys().copied();
                peers.chain([self.me.node]).filter(fits).collect()
            }
            FoundingSet::Addresses(addresses) => addresses
                .iter()
                .filter_map(|at| self.node_at(*at))
                .filter(fits)
                .collect(),
        }
    }

    /// Could this node be a founding member beside us?
    pub(super) fn suits(&self, hello: &Hello) -> bool {
        hello.data != DataHeld::Unknown
            && hello.cluster.is_none()
            && hello.expect == self.me.expect
            && hello.cluster_name == self.me.cluster_name
    }

    /// The node at an address: the one that says it is reached there, or who answered there last.
    pub(super) fn node_at(&self, at: SocketAddr) -> Option<NodeId> {
        if at == self.me.endpoints.grpc {
            return Some(self.me.node);
        }
        self.book.node_at(at)
    }

    fn promise_text(&self, now: Mono, promise: &super::Promise) -> String {
        let super::Promise {
            candidate,
            name,
            at,
            ..
        } = promise;
        if self.book.is_fresh(now, *candidate) {
            return format!("promised to {name} ({at}), which collects the others' promises");
        }
        let silence = match self.book.silence(*at) {
            Some((since, why)) => {
                format!(
                    "has not answered for {} s ({why})",
                    now.since(*since).as_secs()
                )
            }
            None => "has not been heard lately".to_owned(),
        };
        format!(
            "promised to {name} ({at}), which {silence}: bring it back, or, if it is destroyed \
             for ever, run `pgaa-agent promise release {candidate}`"
        )
    }

    /// What was asked of others and refused.
    pub(super) fn open_questions(&self) -> Vec<WaitingOn> {
        let mut open = Vec::new();
        if let Some(candidacy) = &self.candidacy {
            for (node, (holder, reason)) in &candidacy.refusals {
                let held = match holder == node {
                    true => String::new(),
                    false => format!(" (its promise is held by {})", self.name_of(*holder)),
                };
                let text = format!("the promise of {}{held}: {reason}", self.name_of(*node));
                open.push(WaitingOn::new("promise", text));
            }
            if open.is_empty() {
                let granted = candidacy.granted.len() + 1;
                let text = format!("{granted} of {} promises are here", self.me.expect);
                open.push(WaitingOn::new("promise", text));
            }
        }
        for node in self.unaccepted() {
            let member = self.durable.decree.as_ref().and_then(|d| d.member(node));
            let name = member.map_or_else(|| node.short(), |m| m.name.to_string());
            let why = match self.book.decree_refusals.get(&node) {
                Some(reason) => format!("{name} refuses the founding: {reason}"),
                None => format!("{name} has not heard of the founding yet"),
            };
            open.push(WaitingOn::new("peers", why));
        }
        open
    }
}
