//! Many gossip engines, one thread, virtual time: a network that delays, loses and cuts, and the
//! exchange of records as the daemon does it. Must not know what a scenario wants to see.

use pgaa_agent::config::NetworkProfile;
use pgaa_agent::gossip::engine::{Engine, Output};
use pgaa_agent::gossip::member::{Liveness, Member};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;
use uuid::Uuid;

/// How many exchanges of records one node has under way at a time.
const EXCHANGES_AT_ONCE_MAX: usize = 4;

/// Between two exchanges with a random member.
const EXCHANGE_PERIOD: Duration = Duration::from_secs(30);

/// How long a call to an unreachable member takes to fail.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the network does to a datagram.
#[derive(Clone)]
pub struct Net {
    pub profile: NetworkProfile,
    /// One-way delay, in microseconds.
    pub delay_us: Range<u64>,
    /// Share of datagrams lost.
    pub loss: f64,
}

impl Net {
    pub fn lan(loss: f64) -> Net {
        Net {
            profile: NetworkProfile::Lan,
            delay_us: 100..2_000,
            loss,
        }
    }

    pub fn wan(loss: f64) -> Net {
        Net {
            profile: NetworkProfile::Wan,
            delay_us: 20_000..80_000,
            loss,
        }
    }
}

enum Event {
    Wake(usize),
    Datagram { to: usize, bytes: Vec<u8> },
    Exchanged { from: usize, with: usize, boot: u64 },
    Periodic { node: usize, boot: u64 },
}

/// What one engine said about another node.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    pub at_us: u64,
    pub by: usize,
    pub about: usize,
    pub up: bool,
}

struct Node {
    id: NodeId,
    addr: SocketAddr,
    generation: u64,
    version: u64,
    paused_until_us: u64,
    engine: Option<Engine>,
    wake_us: u64,
    /// By node: version of the record, gossip address and generation in it.
    records: BTreeMap<NodeId, (u64, Member)>,
    hinted: BTreeMap<NodeId, u64>,
    in_flight: BTreeSet<usize>,
    wanted: BTreeSet<usize>,
}

/// The nodes, what is on its way between them, and what was said.
pub struct World {
    pub now_us: u64,
    pub net: Net,
    pub said: Vec<Said>,
    pub rejoins: usize,
    pub datagrams: u64,
    nodes: Vec<Node>,
    side: Vec<usize>,
    one_way: Option<(usize, usize)>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    rng: SmallRng,
}

fn id_of(index: usize) -> NodeId {
    NodeId(Uuid::from_u128(index as u128 + 1))
}

fn addr_of(index: usize) -> SocketAddr {
    let octets = (index as u32 + 1).to_be_bytes();
    (Ipv4Addr::new(10, octets[1], octets[2], octets[3]), 7432).into()
}

fn index_at(addr: SocketAddr, nodes: &[Node]) -> Option<usize> {
    nodes
        .iter()
        .rposition(|node| node.addr == addr && node.engine.is_some())
}

impl World {
    pub fn new(count: usize, net: Net, seed: u64) -> World {
        let nodes = (0..count).map(|index| Node {
            id: id_of(index),
            addr: addr_of(index),
            generation: 0,
            version: 0,
            paused_until_us: 0,
            engine: None,
            wake_us: u64::MAX,
            records: BTreeMap::new(),
            hinted: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            wanted: BTreeSet::new(),
        });
        World {
            now_us: 0,
            net,
            said: Vec::new(),
            rejoins: 0,
            datagrams: 0,
            nodes: nodes.collect(),
            side: vec![0; count],
            one_way: None,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    fn mono(&self) -> Mono {
        Mono(self.now_us / 1000)
    }

    fn push(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at_us, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    /// Starts a node's agent, with the records it had saved.
    pub fn start(&mut self, index: usize, seeds: &[usize]) {
        let (now, profile) = (self.mono(), self.net.profile);
        let rng = self.rng.fork();
        let seeds: Vec<SocketAddr> = seeds.iter().map(|seed| self.nodes[*seed].addr).collect();
        let node = &mut self.nodes[index];
        node.generation += 1;
        node.version += 1;
        node.in_flight.clear();
        node.wanted.clear();
        let me = Member::new(node.addr, node.id, node.generation);
        let mut engine = Engine::new(me, profile, rng, now);
        node.records.insert(node.id, (node.version, me));
        engine
            .apply_known(now, node.records.values().map(|(_, member)| *member))
            .expect("known members are taken");
        engine.hint(now, node.version).expect("a hint is taken");
        for seed in seeds {
            engine.announce(now, seed).expect("a seed is taken");
        }
        let boot = node.generation;
        node.engine = Some(engine);
        node.wake_us = u64::MAX;
        let first_us = self.rng.random_range(0..EXCHANGE_PERIOD.as_micros() as u64);
        self.push(
            self.now_us + first_us,
            Event::Periodic { node: index, boot },
        );
        self.settle(index);
    }

    /// Kills a node's agent: it says nothing any more.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].engine = None;
    }

    /// Forgets a node: nobody's records name it any more.
    pub fn forget(&mut self, gone: usize) {
        let (id, now) = (self.nodes[gone].id, self.mono());
        for node in &mut self.nodes {
            node.records.remove(&id);
            let known: Vec<Member> = node.records.values().map(|(_, member)| *member).collect();
            if let Some(engine) = &mut node.engine {
                engine
                    .apply_known(now, known)
                    .expect("known members are taken");
            }
        }
    }

    /// Stops a node's process for a while, as a hypervisor does; what arrives meanwhile waits.
    pub fn pause(&mut self, index: usize, time: Duration) {
        self.nodes[index].paused_until_us = self.now_us + time.as_micros() as u64;
    }

    /// Puts the node under another address before its next start.
    pub fn move_to_address_of(&mut self, index: usize, old: usize) {
        self.nodes[index].addr = self.nodes[old].addr;
    }

    /// Writes a new version of the node's record and says so.
    pub fn write_record(&mut self, index: usize) -> u64 {
        let now = self.mono();
        let node = &mut self.nodes[index];
        node.version += 1;
        let (id, version) = (node.id, node.version);
        let engine = node.engine.as_mut().expect("the node runs");
        node.records.insert(id, (version, engine.me()));
        engine.hint(now, version).expect("a hint is taken");
        self.settle(index);
        version
    }

    /// The newest version of `about`'s record that gossip has told `by` of.
    pub fn hinted(&self, by: usize, about: usize) -> u64 {
        self.nodes[by]
            .hinted
            .get(&self.nodes[about].id)
            .copied()
            .unwrap_or(0)
    }

    pub fn leave(&mut self, index: usize) {
        let now = self.mono();
        self.nodes[index]
            .engine
            .as_mut()
            .expect("the node runs")
            .leave(now)
            .expect("a node can leave");
        self.settle(index);
    }

    /// Puts each node on a side; nothing passes between sides.
    pub fn partition(&mut self, side_of: impl Fn(usize) -> usize) {
        self.side = (0..self.nodes.len()).map(side_of).collect();
    }

    /// Cuts one direction between two sides only.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.one_way = Some((from, to));
    }

    pub fn heal(&mut self) {
        self.side = vec![0; self.nodes.len()];
        self.one_way = None;
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        match self.one_way {
            Some(cut) => cut != (self.side[from], self.side[to]),
            None => self.side[from] == self.side[to],
        }
    }

    pub fn sees(&self, by: usize, about: usize) -> Option<Liveness> {
        let members = self.nodes[by].engine.as_ref()?.members();
        members.get(&self.nodes[about].id).map(|view| view.liveness)
    }

    pub fn generation_seen(&self, by: usize, about: usize) -> Option<u64> {
        let members = self.nodes[by].engine.as_ref()?.members();
        members
            .get(&self.nodes[about].id)
            .map(|view| view.generation)
    }

    /// How many pairs of running nodes don't see each other as active.
    pub fn unknown_pairs(&self) -> usize {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|i| self.nodes[*i].engine.is_some())
            .collect();
        let ids: BTreeSet<NodeId> = running.iter().map(|i| self.nodes[*i].id).collect();
        let seen = |i: usize| {
            let members = self.nodes[i]
                .engine
                .as_ref()
                .map(Engine::members)
                .unwrap_or_default();
            let active = members.values().filter(|view| view.liveness.is_active());
            active.filter(|view| ids.contains(&view.node)).count()
        };
        running.iter().map(|i| running.len() - 1 - seen(*i)).sum()
    }

    /// Runs until `done`, looked at every `step`; `None` when that is not within `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        step: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Option<Duration> {
        let start_us = self.now_us;
        loop {
            if done(self) {
                return Some(Duration::from_micros(self.now_us - start_us));
            }
            if self.now_us - start_us >= limit.as_micros() as u64 {
                return None;
            }
            self.run_for(step);
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end_us = self.now_us + time.as_micros() as u64;
        while let Some(Reverse((at_us, sequence))) = self.queue.peek().copied() {
            if at_us > end_us {
                break;
            }
            self.queue.pop();
            self.now_us = at_us;
            if let Some(event) = self.events.remove(&sequence) {
                self.happen(event);
            }
        }
        self.now_us = end_us;
    }

    /// If the node's process is stopped: until when.
    fn paused_until(&self, event: &Event) -> Option<u64> {
        let index = match event {
            Event::Wake(index) | Event::Datagram { to: index, .. } => *index,
            Event::Exchanged { from, .. } => *from,
            Event::Periodic { node, .. } => *node,
        };
        Some(self.nodes[index].paused_until_us).filter(|until| *until > self.now_us)
    }

    fn happen(&mut self, event: Event) {
        let now = self.mono();
        if let Some(until_us) = self.paused_until(&event) {
            if let Event::Wake(index) = event {
                self.nodes[index].wake_us = until_us;
            }
            return self.push(until_us, event);
        }
        match event {
            Event::Wake(index) => {
                let node = &mut self.nodes[index];
                if node.wake_us == self.now_us {
                    node.wake_us = u64::MAX;
                    if let Some(engine) = &mut node.engine {
                        engine.advance(now).expect("timers come in order");
                    }
                    self.settle(index);
                }
            }
            Event::Datagram { to, bytes } => {
                if let Some(engine) = &mut self.nodes[to].engine {
                    engine.datagram(now, &bytes).expect("a packet of an engine");
                    self.settle(to);
                }
            }
            Event::Exchanged { from, with, boot } => self.exchanged(from, with, boot),
            Event::Periodic { node, boot } => {
                if self.nodes[node].engine.is_some() && self.nodes[node].generation == boot {
                    let next_us = self.now_us + EXCHANGE_PERIOD.as_micros() as u64;
                    self.push(next_us, Event::Periodic { node, boot });
                    self.want_any(node);
                    self.begin_exchanges(node);
                }
            }
        }
    }

    fn settle(&mut self, index: usize) {
        while let Some(output) = self.nodes[index]
            .engine
            .as_mut()
            .and_then(Engine::poll_output)
        {
            match output {
                Output::Send { to, bytes } => self.send(index, to, bytes),
                Output::Up { member } => self.say(index, member, true),
                Output::Down { member } => self.say(index, member, false),
                Output::Hint(hint) => {
                    self.nodes[index].hinted.insert(hint.node, hint.version);
                    let known = self.nodes[index].records.get(&hint.node).map(|(v, _)| *v);
                    if known.is_none_or(|known| known < hint.version) {
                        let owner = self.nodes.iter().position(|node| node.id == hint.node);
                        self.nodes[index]
                            .wanted
                            .extend(owner.filter(|owner| *owner != index));
                    }
                }
                Output::Rejoined => self.rejoins += 1,
                Output::Idle | Output::Defunct => {}
            }
        }
        self.begin_exchanges(index);
        self.schedule_wake(index);
    }

    fn schedule_wake(&mut self, index: usize) {
        let Some(deadline) = self.nodes[index]
            .engine
            .as_ref()
            .and_then(Engine::next_deadline)
        else {
            return;
        };
        let at_us = (deadline.0 * 1000).max(self.now_us);
        if at_us < self.nodes[index].wake_us {
            self.nodes[index].wake_us = at_us;
            self.push(at_us, Event::Wake(index));
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.datagrams += 1;
        let Some(to) = index_at(to, &self.nodes) else {
            return;
        };
        let lost = self.net.loss > 0.0 && self.rng.random_bool(self.net.loss);
        let delay_us = self.rng.random_range(self.net.delay_us.clone());
        if !lost && self.passes(from, to) {
            self.push(self.now_us + delay_us, Event::Datagram { to, bytes });
        }
    }

    fn say(&mut self, by: usize, member: Member, up: bool) {
        let Some(about) = self.nodes.iter().position(|node| node.id == member.node) else {
            return;
        };
        self.said.push(Said {
            at_us: self.now_us,
            by,
            about,
            up,
        });
        if up && !self.nodes[by].records.contains_key(&member.node) {
            self.nodes[by].wanted.insert(about);
        }
    }

    fn want_any(&mut self, index: usize) {
        let others = self.nodes[index]
            .records
            .keys()
            .filter(|id| **id != self.nodes[index].id);
        let chosen = others.choose(&mut self.rng).copied();
        let position = chosen.and_then(|id| self.nodes.iter().position(|node| node.id == id));
        self.nodes[index].wanted.extend(position);
    }

    fn begin_exchanges(&mut self, from: usize) {
        while self.nodes[from].in_flight.len() < EXCHANGES_AT_ONCE_MAX {
            let Some(with) = self.nodes[from].wanted.pop_first() else {
                return;
            };
            if !self.nodes[from].in_flight.insert(with) {
                continue;
            }
            let reached = self.passes(from, with)
                && self.passes(with, from)
                && self.nodes[with].engine.is_some();
            let takes_us = if reached {
                // TCP, TLS 1.3 and the call itself: three round trips, and a little work.
                let one_way = self.net.delay_us.clone();
                (0..6)
                    .map(|_| self.rng.random_range(one_way.clone()))
                    .sum::<u64>()
                    + 1_000
            } else {
                CALL_TIMEOUT.as_micros() as u64
            };
            let boot = self.nodes[from].generation;
            self.push(
                self.now_us + takes_us,
                Event::Exchanged { from, with, boot },
            );
        }
    }

    fn exchanged(&mut self, from: usize, with: usize, boot: u64) {
        if self.nodes[from].generation != boot || self.nodes[from].engine.is_none() {
            return;
        }
        self.nodes[from].in_flight.remove(&with);
        let both_ways = self.passes(from, with) && self.passes(with, from);
        if both_ways && self.nodes[with].engine.is_some() {
            self.learn(from, with);
            self.learn(with, from);
        }
        self.begin_exchanges(from);
    }

    fn learn(&mut self, by: usize, of: usize) {
        let theirs = self.nodes[of].records.clone();
        let now = self.mono();
        let node = &mut self.nodes[by];
        let mut news = false;
        for (id, (version, member)) in theirs {
            let newer = node
                .records
                .get(&id)
                .is_none_or(|(known, _)| *known < version);
            if newer {
                node.records.insert(id, (version, member));
                news = true;
            }
        }
        let still_unknown = |index: &usize| !node.records.contains_key(&id_of(*index));
        node.wanted.retain(still_unknown);
        if news && let Some(engine) = &mut node.engine {
            let known: Vec<Member> = node.records.values().map(|(_, member)| *member).collect();
            engine
                .apply_known(now, known)
                .expect("known members are taken");
            self.settle(by);
        }
    }
}
