//! The world of a join in virtual time: nodes, wires, one queue of events, one source of chance.
//! Must not know the protocol.

use super::agent::Agent;
use super::postgres::Server;
use super::story::Story;
use super::wire::Wires;
use crate::seeds::Tally;
use pgaa_core::ids::{DataEpoch, NodeId, pglogical_node_name, subscription_name};
use pgaa_core::record::NodeRecord;
use pgaa_core::roster::Roster;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// What happens next.
#[derive(Debug, Clone)]
pub enum Event {
    /// The loop of an agent runs. Dropped when the agent was started again meanwhile.
    Tick { node: usize, generation: u64 },
    /// A joiner's attempt may go on.
    Poll { node: usize, task: u64 },
    /// A call arrives at a member.
    Ask { call: u64, generation: u64 },
    /// A member has done the step it was asked for.
    Done { call: u64, generation: u64 },
    /// An answer arrives.
    Answer { call: u64 },
    /// A call is given up.
    GiveUp { call: u64 },
    /// A worker connects.
    Connect {
        subscriber: usize,
        provider: usize,
        number: u64,
    },
    /// A stream carries changes.
    Carry {
        subscriber: usize,
        provider: usize,
        connection: u64,
    },
    /// Either end of a dead connection notices.
    Notice {
        subscriber: usize,
        provider: usize,
        connection: u64,
    },
    /// A node's record arrives.
    Heard {
        node: usize,
        record: Arc<NodeRecord>,
    },
    /// Everything a node knows arrives.
    Told { node: usize, roster: Arc<Roster> },
    /// What was applied is put on disk.
    Flush { node: usize },
    /// An application writes.
    Write { node: usize },
    /// A new machine comes.
    Come { node: usize },
    /// Something breaks, by its number in the story.
    Break { fault: usize },
    /// What broke is whole again.
    Mend { broken: Broken },
    /// An operator forgets a joiner that was destroyed.
    Forget { node: usize, looks: u32 },
    /// An operator forgets a member that was destroyed.
    Bury { node: usize },
    /// An operator has a member leave.
    Leave { node: usize },
}

/// What is broken.
#[derive(Debug, Clone, Copy)]
pub enum Broken {
    Agent(usize),
    Postgres(usize),
    Link(usize, usize),
}

/// One machine.
pub struct Node {
    pub id: NodeId,
    pub epoch: DataEpoch,
    pub server: Server,
    pub agent: Agent,
    /// Gone for ever.
    pub destroyed: bool,
    /// It has left, in order: nothing of what it was told to store may go with it.
    pub left: bool,
    /// What its applications were told is stored: the value of each of its keys.
    pub ledger: BTreeMap<u32, u64>,
    /// The number of the last change of its applications.
    pub written: u64,
}

pub struct World {
    pub now: u64,
    pub rng: SmallRng,
    pub story: Story,
    pub nodes: Vec<Node>,
    /// Pairs that don't reach one another, and how many faults keep them from it.
    pub cut: BTreeMap<(usize, usize), u32>,
    pub wires: Wires,
    /// Names of subscriptions: by subscriber, then provider.
    pub names: Vec<Vec<String>>,
    /// Names of slots, which are those of origins as well.
    pub slots: Vec<Vec<String>>,
    /// Do applications write?
    pub writes: bool,
    /// Do faults still happen, and calls get lost?
    pub rough: bool,
    /// What ready nodes lack for ever, unless they are synchronised anew: subscriber, provider.
    /// And since when.
    pub lost: BTreeMap<(usize, usize), u64>,
    /// Joiners that took changes with something missing before them.
    pub tainted: BTreeSet<usize>,
    /// Which faults have struck.
    pub struck: BTreeSet<usize>,
    /// How often the first joiner has come to each point.
    pub reached: BTreeMap<&'static str, u32>,
    pub trace: Option<Vec<String>>,
    pub wrong: Option<String>,
    pub tally: Tally,
    queue: BTreeMap<(u64, u64), Event>,
    number: u64,
}

/// A UUID that differs in the digits that names are made of.
fn id(order: usize) -> NodeId {
    NodeId(Uuid::from_u128(((order as u128 + 1) * 0x1234_5677) << 96))
}

impl World {
    pub fn new(story: Story, seed: u64, traced: bool) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let count = story.members + story.joiners.len();
        let mut orders: Vec<usize> = (0..count).collect();
        for i in (1..count).rev() {
            orders.swap(i, rng.random_range(0..=i));
        }
        let ids: Vec<(NodeId, DataEpoch)> = orders
            .iter()
            .map(|order| (id(*order), DataEpoch(Uuid::from_u128(*order as u128 + 1))))
            .collect();
        let named = |name: &dyn Fn((NodeId, DataEpoch), (NodeId, DataEpoch)) -> String| {
            let of = |subscriber: &(NodeId, DataEpoch)| {
                ids.iter()
                    .map(|provider| name(*subscriber, *provider))
                    .collect()
            };
            ids.iter().map(of).collect::<Vec<Vec<String>>>()
        };
        let names = named(&|subscriber, provider| subscription_name(subscriber, provider));
        let slots = named(&|subscriber, provider| {
            let node = pglogical_node_name(provider.0, provider.1);
            format!(
                "pgl_shop_{node}_{}",
                subscription_name(subscriber, provider)
            )
        });
        let nodes = ids.iter().map(|(id, epoch)| Node {
            id: *id,
            epoch: *epoch,
            server: Server::new(rng.random_range(1_000..1_000_000)),
            agent: Agent::default(),
            destroyed: false,
            left: false,
            ledger: BTreeMap::new(),
            written: 0,
        });
        World {
            now: 0,
            nodes: nodes.collect(),
            rng,
            story,
            cut: BTreeMap::new(),
            wires: Wires::default(),
            names,
            slots,
            writes: true,
            rough: true,
            lost: BTreeMap::new(),
            tainted: BTreeSet::new(),
            struck: BTreeSet::new(),
            reached: BTreeMap::new(),
            trace: traced.then(Vec::new),
            wrong: None,
            tally: Tally::new(),
            queue: BTreeMap::new(),
            number: 0,
        }
    }

    /// A number that was never given before.
    pub fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub fn at(&mut self, time: u64, event: Event) {
        let number = self.next();
        self.queue.insert((time.max(self.now), number), event);
    }

    /// `event` in so many milliseconds, at least and at most.
    pub fn within(&mut self, (least, most): (u64, u64), event: Event) {
        let time = self.now + self.rng.random_range(least..=most);
        self.at(time, event);
    }

    /// The next event, whose time it is now.
    pub fn pop(&mut self) -> Option<Event> {
        let ((time, _), event) = self.queue.pop_first()?;
        self.now = time;
        Some(event)
    }

    /// Does one thing in `one_in` befall, while times are rough?
    pub fn unlucky(&mut self, one_in: u32) -> bool {
        self.rough && one_in > 0 && self.rng.random_ratio(1, one_in)
    }

    /// Does one thing in `one_in` take long? Also when times are calm.
    pub fn slow(&mut self, one_in: u32) -> bool {
        self.writes && one_in > 0 && self.rng.random_ratio(1, one_in)
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} {}", self.now, line()));
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Something happened that must never happen.
    pub fn accuse(&mut self, text: String) {
        self.note(|| format!("WRONG: {text}"));
        let now = self.now;
        self.wrong.get_or_insert(format!("at {now} ms: {text}"));
    }

    pub fn of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Do two machines reach one another?
    pub fn linked(&self, a: usize, b: usize) -> bool {
        let gone = |node: usize| self.nodes.get(node).is_none_or(|node| node.destroyed);
        a == b || !(gone(a) || gone(b) || self.cut.contains_key(&(a.min(b), a.max(b))))
    }

    /// Does `from` reach the PostgreSQL of `to`?
    pub fn serves(&self, from: usize, to: usize) -> bool {
        self.linked(from, to) && self.nodes[to].server.up
    }

    /// Does `from` reach the agent of `to`?
    pub fn answers(&self, from: usize, to: usize) -> bool {
        self.linked(from, to) && self.nodes[to].agent.up
    }
}
