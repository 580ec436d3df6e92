//! One agent: founding, gossip, records, and the loop, each the real thing, put together as the
//! daemon does it; what it does to PostgreSQL goes to the model.

use super::deed::act;
use super::message::{Body, Connection, Message};
use super::server::Servers;
use crate::world::{Program, Turn};
use pgaa_agent::config::NetworkProfile;
use pgaa_agent::gossip::engine::{Engine, Output};
use pgaa_agent::gossip::member::Member;
use pgaa_core::action::Action;
use pgaa_core::check::check;
use pgaa_core::founding::{Ask, DataHeld, Durable, Founding, Hello, Standing};
use pgaa_core::ids::{ClusterId, DataEpoch, Name, NodeId};
use pgaa_core::life::{Life, Stage};
use pgaa_core::memory::Memory;
use pgaa_core::observed::{Fact, Observed, Reach};
use pgaa_core::plan::{Inputs, Plan, plan};
use pgaa_core::policy::Policy;
use pgaa_core::publish::{Publication, Publisher, Seen, publish};
use pgaa_core::record::{Endpoints, NodeRecord};
use pgaa_core::roster::Roster;
use pgaa_core::state::NodeState;
use pgaa_core::tables::Catalog;
use pgaa_core::time::{Mono, Now, Wall};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

const FOUNDING_TICK: Duration = Duration::from_millis(200);
const FOUNDING_TICK_OF_A_MEMBER: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(10);
const BEAT: Duration = Duration::from_secs(1);
const BEAT_FORMING: Duration = Duration::from_millis(200);
const EXCHANGE_PERIOD: Duration = Duration::from_secs(5);
const KNOWN_PERIOD: Duration = Duration::from_secs(2);
const TRUST_PERIOD: Duration = Duration::from_secs(5);
const ANSWER_FRESH: Duration = Duration::from_secs(5);

/// How often a look at PostgreSQL fails while times are rough.
const LOOK_FAILS: f64 = 0.01;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct Setup {
    pub node: NodeId,
    pub epoch: DataEpoch,
    pub name: Name,
    pub policy: Policy,
    pub seeds: Vec<SocketAddr>,
}

#[derive(Debug, Clone)]
pub struct Disk {
    pub setup: Rc<Setup>,
    pub generation: u64,
    pub founding: Durable,
    pub life: Life,
    pub roster: Option<Rc<Roster>>,
    pub version: u64,
    pub authority: bool,
}

impl Disk {
    pub fn new(setup: Setup) -> Disk {
        Disk {
            setup: Rc::new(setup),
            generation: 0,
            founding: Durable::default(),
            life: Life::default(),
            roster: None,
            version: 0,
            authority: false,
        }
    }
}

/// What lies outside the agents.
#[derive(Debug, Default)]
pub struct Outside {
    pub servers: Servers,
    /// The nodes, by machine.
    pub nodes: Vec<(NodeId, DataEpoch)>,
    pub minted: BTreeSet<ClusterId>,
    /// Who joins right now: every member's lease.
    pub joining: Option<NodeId>,
    /// Who can take part in a join now: machines whose agent runs.
    pub running: BTreeSet<usize>,
    /// Machines that are members and ready: each of them lends to a joiner.
    pub ready: BTreeSet<usize>,
    /// Machines that are being founded: they don't lend yet.
    pub founding: BTreeSet<usize>,
    /// Do looks and statements fail now and then?
    pub rough: bool,
    pub wrong: Option<String>,
    pub kicks: u64,
    pub joins: u64,
    pub drops: u64,
    pub stale_senders: u64,
    pub acts: u64,
}

pub struct Agent {
    pub disk: Disk,
    pub plan: Plan,
    /// Has it planned since it started?
    pub has_planned: bool,
    pub founding: Founding,
    pub roster: Option<Roster>,
    memory: Memory,
    pub(super) endpoints: Endpoints,
    engine: Option<Engine>,
    gossip: BTreeMap<NodeId, Reach>,
    answered: BTreeMap<NodeId, Mono>,
    asked: Vec<(Ask, Option<Mono>)>,
    enrolled_at: Option<Mono>,
    stage: Option<Stage>,
    local: DataHeld,
    due: Due,
    wake_at: Option<Mono>,
}

/// When each of the agent's tasks wants to run next.
#[derive(Debug, Clone, Copy)]
struct Due {
    founding: Mono,
    reconcile: Mono,
    beat: Mono,
    exchange: Mono,
    known: Mono,
    trust: Mono,
}

fn endpoints(at: SocketAddr) -> Endpoints {
    Endpoints {
        grpc: at,
        gossip: at,
        postgres: at,
    }
}

fn only(roster: &Roster, nodes: &BTreeSet<NodeId>) -> Rc<Roster> {
    let mut some = roster.clone();
    some.records.retain(|node, _| nodes.contains(node));
    Rc::new(some)
}

impl Agent {
    pub fn id(&self) -> NodeId {
        self.disk.setup.node
    }

    fn send(&self, turn: &mut Turn<'_, Agent>, to: SocketAddr, body: Body) {
        turn.send(
            to,
            Message {
                from: self.id(),
                body,
            },
        );
    }

    pub(super) fn persist(&mut self, turn: &mut Turn<'_, Agent>) {
        self.disk.founding = self.founding.durable().clone();
        self.founding.saved();
        turn.persist(self.disk.clone());
    }

    fn hello(&self) -> Hello {
        let setup = &self.disk.setup;
        Hello {
            node: setup.node,
            name: setup.name.clone(),
            cluster_name: setup.policy.cluster_name.clone(),
            endpoints: self.endpoints,
            generation: self.disk.generation,
            epoch: setup.epoch,
            system_identifier: setup.node.0.as_u128() as u64 | 1,
            expect: setup.policy.expect,
            data: self.local,
            cluster: self.roster.as_ref().map(|roster| roster.decree.cluster),
            enrols: self.roster.is_some() && self.disk.authority,
            known: self.addresses().into_iter().collect(),
            promised: None,
        }
    }

    /// Where every other member is, as far as known.
    fn addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        let roster = self.roster.iter();
        let members =
            roster.flat_map(|roster| roster.members().into_iter().map(move |m| (m, roster)));
        members
            .filter(|(member, _)| *member != self.id())
            .filter_map(|(member, roster)| {
                let record = roster
                    .records
                    .get(&member)
                    .map(|record| record.endpoints.grpc);
                Some((member, record.or_else(|| self.founding.address_of(member))?))
            })
            .collect()
    }

    fn found(&mut self, turn: &mut Turn<'_, Agent>) {
        for (ask, sent) in &mut self.asked {
            if sent.is_some_and(|sent| turn.now.since(sent) >= PATIENCE) {
                *sent = None;
                self.founding.unanswered(turn.now, ask, "no answer");
            }
        }
        // Until the database is prepared the agent has nothing to say of itself.
        if self.local == DataHeld::Unknown && self.roster.is_none() {
            return;
        }
        self.founding.set_me(self.hello());
        self.founding.set_resolved(self.disk.setup.seeds.clone());
        let rng = &mut *turn.rng;
        let step = self
            .founding
            .tick(turn.now, &mut || Uuid::from_u128(rng.random()));
        if step.persist {
            self.persist(turn);
        }
        for ask in step.asks {
            let number: Connection = (self.disk.generation, self.asked.len());
            let body = Body::Ask(number, ask.request.clone());
            self.send(turn, ask.to, body);
            self.asked.push((ask, Some(turn.now)));
        }
        if self.roster.is_none() {
            self.settle(turn);
        }
    }

    /// Turns a standing into membership.
    fn settle(&mut self, turn: &mut Turn<'_, Agent>) {
        let via = match self.founding.standing(turn.now) {
            Standing::Founder(decree) => {
                let stage = match decree.founder_holds_data {
                    true => Stage::Ready,
                    false => Stage::Founding,
                };
                self.disk.authority = true;
                return self.adopt(turn, Roster::founded(decree), stage);
            }
            Standing::Decreed(_) => self.founding.fellows(),
            Standing::ClusterFound { via, .. } => via,
            Standing::Discovering
            | Standing::Forming
            | Standing::Candidate { .. }
            | Standing::Promised { .. }
            | Standing::Member(_)
            | Standing::Quarantined { .. } => return,
        };
        let rested = self
            .enrolled_at
            .is_none_or(|at| turn.now.since(at) >= PATIENCE);
        if rested && !via.is_empty() {
            self.enrolled_at = Some(turn.now);
            for (_, at) in via {
                self.send(turn, at, Body::Enrol);
            }
        }
    }

    fn adopt(&mut self, turn: &mut Turn<'_, Agent>, roster: Roster, stage: Stage) {
        turn.note(|| format!("is a member of {}, {stage:?}", roster.decree.cluster));
        self.disk.life.stage = stage;
        self.disk.roster = Some(Rc::new(roster.clone()));
        self.roster = Some(roster);
        self.persist(turn);
        self.begin_gossip(turn);
        self.due.reconcile = turn.now;
        self.due.exchange = turn.now;
    }

    fn begin_gossip(&mut self, turn: &mut Turn<'_, Agent>) {
        let me = Member::new(turn.address, self.id(), self.disk.generation);
        let rng = SmallRng::seed_from_u64(turn.rng.random());
        self.engine = Some(Engine::new(me, NetworkProfile::Lan, rng, turn.now));
        self.due.known = turn.now;
    }

    fn tell_gossip(&mut self, now: Mono) {
        let (Some(roster), Some(engine)) = (&self.roster, &mut self.engine) else {
            return;
        };
        let me = self.disk.setup.node;
        let others = roster.records.values().filter(|record| record.node != me);
        let known = others.map(|r| Member::new(r.endpoints.gossip, r.node, r.generation));
        let known: Vec<Member> = known.collect();
        let _ = engine.apply_known(now, known);
    }

    /// Takes what gossip has to say, and sends what it wants to send.
    fn listen(&mut self, turn: &mut Turn<'_, Agent>) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let mut hinted = BTreeSet::new();
        let mut packets = Vec::new();
        let mut moved = false;
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Send { to, bytes } => packets.push((to, bytes)),
                Output::Hint(hint) => {
                    let known = self.roster.as_ref().and_then(|r| r.records.get(&hint.node));
                    if known.is_none_or(|record| record.version < hint.version) {
                        hinted.insert(hint.node);
                    }
                }
                Output::Up { .. } | Output::Down { .. } => moved = true,
                Output::Idle | Output::Rejoined | Output::Defunct => {}
            }
        }
        if moved {
            let views = engine.members().into_iter();
            let reach = views.map(|(node, view)| {
                (
                    node,
                    if view.liveness.is_active() {
                        Reach::Up
                    } else {
                        Reach::Down
                    },
                )
            });
            let reach: BTreeMap<NodeId, Reach> = reach.collect();
            let up = reach
                .iter()
                .filter(|(_, reach)| **reach == Reach::Up)
                .map(|(node, _)| *node);
            hinted.extend(up.filter(|n| self.gossip.get(n) != Some(&Reach::Up)));
            if reach != self.gossip {
                turn.note(|| format!("gossip {reach:?}"));
                self.gossip = reach;
                self.wake_loop(turn.now);
            }
        }
        for (to, bytes) in packets {
            self.send(turn, to, Body::Gossip(Rc::new(bytes)));
        }
        self.exchange_with(turn, &hinted);
    }

    fn wake_loop(&mut self, now: Mono) {
        self.due.reconcile = self.due.reconcile.min(now.plus(SOON));
    }

    fn exchange_with(&mut self, turn: &mut Turn<'_, Agent>, nodes: &BTreeSet<NodeId>) {
        let Some(roster) = &self.roster else { return };
        let have = Rc::new(roster.versions());
        let offer = only(roster, &BTreeSet::from([self.id()]));
        for (_, at) in self
            .addresses()
            .iter()
            .filter(|(node, _)| nodes.contains(node))
        {
            self.send(
                turn,
                *at,
                Body::Exchange(Rc::clone(&have), Rc::clone(&offer)),
            );
        }
    }

    fn exchange(&mut self, turn: &mut Turn<'_, Agent>) {
        let mut all: Vec<NodeId> = self.addresses().into_keys().collect();
        // The first time everybody is asked.
        if self.due.exchange > Mono(0) && !all.is_empty() && self.answered.len() >= all.len() {
            let chosen = turn.rng.random_range(0..all.len());
            all = vec![all[chosen]];
        }
        self.exchange_with(turn, &all.into_iter().collect());
    }

    /// Joins what another member knows into ours.
    fn merge(&mut self, turn: &mut Turn<'_, Agent>, theirs: &Roster) -> bool {
        let Some(roster) = &mut self.roster else {
            return false;
        };
        let before = roster.members();
        let known: BTreeSet<NodeId> = roster.records.keys().copied().collect();
        let mut theirs = theirs.clone();
        theirs.records.remove(&self.disk.setup.node);
        let Ok(merged) = roster.merge(&theirs) else {
            return false;
        };
        if merged.is_empty() {
            return true;
        }
        let newcomers = merged.updated.iter().any(|node| !known.contains(node));
        if newcomers || before != roster.members() {
            self.disk.roster = Some(Rc::new(roster.clone()));
            self.persist(turn);
        }
        self.wake_loop(turn.now);
        true
    }

    pub fn reach(&self, now: Mono) -> BTreeMap<NodeId, Reach> {
        let members = self.roster.iter().flat_map(Roster::members);
        let fresh = |node: &NodeId| {
            self.answered
                .get(node)
                .is_some_and(|at| now.since(*at) < ANSWER_FRESH)
        };
        members
            .filter(|node| *node != self.id())
            .map(|node| match self.gossip.get(&node) {
                Some(Reach::Unknown) | None if fresh(&node) => (node, Reach::Up),
                seen => (node, seen.copied().unwrap_or(Reach::Unknown)),
            })
            .collect()
    }

    /// Observe, plan, publish, check, act.
    fn reconcile(&mut self, turn: &mut Turn<'_, Agent>) -> Duration {
        turn.shared.servers.pump(turn.now, turn.links);
        let mut postgres = turn.shared.servers.look(turn.machine, turn.now);
        if turn.shared.rough && turn.rng.random_bool(LOOK_FAILS) {
            postgres = Fact::Unknown("the look took too long".to_owned());
        }
        if let Fact::Known(facts) = &postgres {
            self.local = match (facts.epoch, facts.has_rows) {
                (None, _) => DataHeld::Unknown,
                (Some(_), true) => DataHeld::Rows,
                (Some(_), false) => DataHeld::Empty,
            };
        }
        let observed = Observed {
            postgres,
            peers: self.reach(turn.now),
        };
        if self.stage != Some(self.disk.life.stage) {
            self.stage = Some(self.disk.life.stage);
            self.memory.stage_since = Some(turn.now);
        }
        self.memory.note(&observed, turn.now);
        if let Some(roster) = &self.roster {
            self.memory
                .note_addresses(self.disk.setup.node, roster, turn.now);
        }
        let catalogs = self.catalogs();
        let dsns = self.dsns(turn.address);
        let disk = self.disk.clone();
        let inputs = Inputs {
            now: turn.now,
            me: disk.setup.node,
            policy: &disk.setup.policy,
            life: &disk.life,
            roster: self.roster.as_ref(),
            observed: &observed,
            memory: &self.memory,
            catalogs: &catalogs,
            dsns: &dsns,
        };
        let made = plan(&inputs);
        if let Err(flaw) = check(&made, &inputs) {
            turn.shared
                .wrong
                .get_or_insert(format!("{}: {flaw}", disk.setup.name));
        }
        let publication = self.publication(turn, &inputs);
        if self.plan.actions != made.actions {
            let actions: Vec<String> = made.actions.iter().map(Action::to_string).collect();
            turn.note(|| format!("plans {}", actions.join(", ")));
        }
        self.plan = made;
        self.has_planned = true;
        self.publish(turn, publication);
        let outcome = act(self, turn, &dsns);
        for subscription in outcome.kicked {
            self.memory.note_kick(&subscription, turn.now);
        }
        for node in outcome.senders_ended {
            self.memory.senders_ended.insert(node, turn.now);
        }
        match (
            self.plan.actions.is_empty() && self.plan.waiting.is_empty(),
            outcome.done,
        ) {
            (true, _) => REST,
            (false, 0) => BUSY,
            (false, _) => SOON,
        }
    }

    fn catalogs(&self) -> BTreeMap<NodeId, Fact<Catalog>> {
        let catalog = Catalog {
            digest: 1,
            tables: BTreeMap::from([("public.t".to_owned(), (1, true))]),
        };
        let records = self
            .roster
            .iter()
            .flat_map(|roster| roster.records.values());
        let others = records.filter(|r| r.node != self.id() && r.state == NodeState::Ready);
        others
            .map(|record| (record.node, Fact::Known(catalog.clone())))
            .collect()
    }

    fn dsns(&self, own: SocketAddr) -> BTreeMap<NodeId, String> {
        let records = self
            .roster
            .iter()
            .flat_map(|roster| roster.records.values());
        let mut dsns: BTreeMap<NodeId, String> = records
            .map(|r| (r.node, r.endpoints.postgres.to_string()))
            .collect();
        dsns.insert(self.id(), own.to_string());
        dsns
    }

    fn publication(&self, turn: &Turn<'_, Agent>, inputs: &Inputs<'_>) -> Option<Publication> {
        let publisher = Publisher {
            node: self.id(),
            name: self.disk.setup.name.clone(),
            site: String::new(),
            generation: self.disk.generation,
            agent_version: String::new(),
        };
        let seen = Seen {
            now: Now {
                mono: turn.now,
                wall: Wall(turn.now.0 as i64),
            },
            endpoints: Some(endpoints(turn.address)),
            clock: Default::default(),
        };
        let previous = self.roster.as_ref().and_then(|r| r.records.get(&self.id()));
        publish(&publisher, inputs, seen, previous)
    }

    fn publish(&mut self, turn: &mut Turn<'_, Agent>, publication: Option<Publication>) {
        let (mut record, matters): (NodeRecord, bool) = match publication {
            Some(Publication::Changed(record)) => (record, true),
            Some(Publication::Refreshed(record)) => (record, false),
            Some(Publication::Unchanged) | None => return,
        };
        if self.roster.is_none() {
            return;
        }
        self.disk.version = self.disk.version.max(record.version) + 1;
        record.version = self.disk.version;
        self.persist(turn);
        if let Some(roster) = &mut self.roster {
            roster.learn(&record);
        }
        if !matters {
            return;
        }
        if let Some(engine) = &mut self.engine {
            let _ = engine.hint(turn.now, record.version);
        }
        self.exchange_with(turn, &self.addresses().into_keys().collect());
        self.listen(turn);
    }

    fn beat(&mut self, turn: &mut Turn<'_, Agent>) -> Duration {
        let stage = self.disk.life.stage;
        if stage == Stage::Single || stage == Stage::Left {
            return BEAT_FORMING;
        }
        let roster = self.roster.as_ref();
        let floor = roster
            .and_then(|r| r.records.get(&self.id()))
            .map_or(0, |r| r.heartbeat);
        turn.shared.servers.beat(turn.machine, floor, turn.now);
        let joining = |r: &Roster| r.records.values().any(|r| r.state == NodeState::Joining);
        match stage == Stage::Ready && !roster.is_some_and(joining) {
            true => BEAT,
            false => BEAT_FORMING,
        }
    }

    /// A ready member fetches the CA's key, so that it can enrol others.
    fn keep_trust(&mut self, turn: &mut Turn<'_, Agent>) {
        if self.disk.life.stage == Stage::Ready && !self.disk.authority {
            for at in self.addresses().into_values() {
                self.send(turn, at, Body::AskAuthority);
            }
        }
    }

    fn run_what_is_due(&mut self, turn: &mut Turn<'_, Agent>) {
        let now = turn.now;
        if self.endpoints.grpc != turn.address {
            self.endpoints = endpoints(turn.address);
            if self.engine.is_some() {
                self.begin_gossip(turn);
            }
            self.wake_loop(now);
        }
        if self.due.beat <= now {
            self.due.beat = now.plus(self.beat(turn));
        }
        if self.due.reconcile <= now {
            // Whatever wakes it meanwhile wins.
            self.due.reconcile = Mono(u64::MAX);
            let pause = self.reconcile(turn);
            self.due.reconcile = self.due.reconcile.min(now.plus(pause));
        }
        if self.due.founding <= now {
            self.found(turn);
            let over = self.roster.is_some() && self.founding.unaccepted().is_empty();
            let pause = if over {
                FOUNDING_TICK_OF_A_MEMBER
            } else {
                FOUNDING_TICK
            };
            self.due.founding = now.plus(pause);
        }
        if self.due.exchange <= now {
            self.exchange(turn);
            self.due.exchange = now.plus(EXCHANGE_PERIOD);
        }
        if self.due.known <= now {
            self.tell_gossip(now);
            self.due.known = now.plus(KNOWN_PERIOD);
        }
        if self.due.trust <= now {
            self.keep_trust(turn);
            self.due.trust = now.plus(TRUST_PERIOD);
        }
        if let Some(engine) = &mut self.engine {
            let _ = engine.advance(now);
        }
        self.listen(turn);
    }

    /// One pending wake at a time, for whatever is due first.
    fn sleep(&mut self, turn: &mut Turn<'_, Agent>) {
        let Due {
            founding,
            reconcile,
            beat,
            exchange,
            known,
            trust,
        } = self.due;
        let engine = self.engine.as_ref().and_then(Engine::next_deadline);
        let due = [founding, reconcile, beat, exchange, known, trust];
        let next = due.into_iter().chain(engine).min().unwrap_or(turn.now);
        let next = next.max(Mono(turn.now.0 + 1));
        if self.wake_at.is_none_or(|at| at <= turn.now || at > next) {
            self.wake_at = Some(next);
            turn.wake_at(next);
        }
    }

    fn take(&mut self, turn: &mut Turn<'_, Agent>, from: SocketAddr, message: Message) {
        let who = message.from;
        match message.body {
            Body::Ask(number, request) => {
                if self.local == DataHeld::Unknown && self.roster.is_none() {
                    return;
                }
                self.founding.set_me(self.hello());
                let (response, changed) = self.founding.request(turn.now, who, &request);
                if changed {
                    self.persist(turn);
                }
                self.send(turn, from, Body::Answer(number, response));
                self.due.founding = turn.now;
            }
            Body::Answer((life, number), response) => {
                let ours = life == self.disk.generation;
                if let Some((ask, sent)) = self.asked.get_mut(number).filter(|_| ours) {
                    *sent = None;
                    self.founding.answered(turn.now, ask, who, response);
                    self.due.founding = turn.now;
                }
            }
            Body::Enrol => {
                let buried = |r: &Roster| r.tombstones.contains_key(&who);
                let roster = self
                    .roster
                    .clone()
                    .filter(|r| self.disk.authority && !buried(r));
                if let Some(roster) = roster {
                    self.founding.settled(who);
                    self.send(turn, from, Body::Enrolled(Rc::new(roster)));
                }
            }
            Body::Enrolled(roster) => self.enrolled(turn, &roster),
            Body::Exchange(have, offer) => self.answer_exchange(turn, from, who, &have, &offer),
            Body::Exchanged(theirs, want) => {
                if self.merge(turn, &theirs) {
                    self.answered.insert(who, turn.now);
                    let wanted: BTreeSet<NodeId> = want.into_iter().collect();
                    if let Some(roster) = self.roster.as_ref().filter(|_| !wanted.is_empty()) {
                        let have = Rc::new(roster.versions());
                        let offer = only(roster, &wanted);
                        self.send(turn, from, Body::Exchange(have, offer));
                    }
                }
            }
            Body::AskAuthority => {
                let roster = self.roster.as_ref();
                let record = roster.and_then(|roster| roster.records.get(&who));
                if self.disk.authority && record.is_some_and(|r| r.state == NodeState::Ready) {
                    self.send(turn, from, Body::Authority);
                }
            }
            Body::Authority => {
                self.disk.authority = true;
                self.persist(turn);
            }
            Body::Gossip(bytes) => {
                if let Some(engine) = &mut self.engine {
                    let _ = engine.datagram(turn.now, &bytes);
                }
            }
        }
    }

    fn enrolled(&mut self, turn: &mut Turn<'_, Agent>, roster: &Roster) {
        let wanted = match self.founding.standing(turn.now) {
            Standing::Decreed(decree) => decree.cluster == roster.decree.cluster,
            Standing::ClusterFound { cluster, .. } => cluster == roster.decree.cluster,
            Standing::Discovering
            | Standing::Forming
            | Standing::Candidate { .. }
            | Standing::Promised { .. }
            | Standing::Founder(_)
            | Standing::Member(_)
            | Standing::Quarantined { .. } => false,
        };
        if wanted && self.roster.is_none() {
            let stage = Stage::enrolled(&roster.decree, self.id());
            self.adopt(turn, roster.clone(), stage);
        }
    }

    fn answer_exchange(
        &mut self,
        turn: &mut Turn<'_, Agent>,
        from: SocketAddr,
        who: NodeId,
        have: &BTreeMap<NodeId, u64>,
        offer: &Roster,
    ) {
        let known = self.roster.as_ref();
        if known.is_none_or(|roster| roster.tombstones.contains_key(&who)) {
            return;
        }
        if !self.merge(turn, offer) {
            return;
        }
        self.answered.insert(who, turn.now);
        let Some(roster) = &self.roster else { return };
        let older = |(node, version): &(&NodeId, &u64)| {
            roster
                .records
                .get(node)
                .is_none_or(|known| known.version < **version)
                && !roster.tombstones.contains_key(node)
                && **node != self.id()
        };
        let want = have.iter().filter(older).map(|(node, _)| *node).collect();
        let newer = |record: &&NodeRecord| {
            have.get(&record.node)
                .is_none_or(|version| *version < record.version)
        };
        let newer = roster
            .records
            .values()
            .filter(newer)
            .map(|r| r.node)
            .collect();
        let answer = Body::Exchanged(only(roster, &newer), want);
        self.send(turn, from, answer);
    }
}

impl Program for Agent {
    type Message = Message;
    type Disk = Disk;
    type Shared = Outside;

    fn boot(turn: &mut Turn<'_, Agent>) -> Agent {
        let mut disk = turn.disk.clone();
        disk.generation += 1;
        turn.persist(disk.clone());
        turn.shared.running.insert(turn.machine);
        let now = turn.now;
        let due = Due {
            founding: now,
            reconcile: now,
            beat: now,
            exchange: now,
            known: now,
            trust: now,
        };
        let setup = Rc::clone(&disk.setup);
        let roster = disk.roster.as_deref().cloned();
        let hello = Hello {
            node: setup.node,
            name: setup.name.clone(),
            cluster_name: setup.policy.cluster_name.clone(),
            endpoints: endpoints(turn.address),
            generation: disk.generation,
            epoch: setup.epoch,
            system_identifier: 0,
            expect: setup.policy.expect,
            data: DataHeld::Unknown,
            cluster: roster.as_ref().map(|roster| roster.decree.cluster),
            enrols: false,
            known: Vec::new(),
            promised: None,
        };
        let mut agent = Agent {
            founding: Founding::restore(hello, &setup.policy, disk.founding.clone()),
            disk,
            plan: Plan::default(),
            has_planned: false,
            roster,
            memory: Memory::default(),
            endpoints: endpoints(turn.address),
            engine: None,
            gossip: BTreeMap::new(),
            answered: BTreeMap::new(),
            asked: Vec::new(),
            enrolled_at: None,
            stage: None,
            local: DataHeld::Unknown,
            due,
            wake_at: None,
        };
        if agent.roster.is_some() {
            agent.begin_gossip(turn);
        }
        agent.wake(turn);
        agent
    }

    fn wake(&mut self, turn: &mut Turn<'_, Agent>) {
        self.run_what_is_due(turn);
        self.sleep(turn);
    }

    fn receive(&mut self, turn: &mut Turn<'_, Agent>, from: SocketAddr, message: Message) {
        self.take(turn, from, message);
        self.run_what_is_due(turn);
        self.sleep(turn);
    }

    fn persisted(shared: &mut Outside, machine: usize, disk: &Disk) -> Result<(), String> {
        let stage = disk.life.stage;
        for (of, machines) in [
            (Stage::Ready, &mut shared.ready),
            (Stage::Founding, &mut shared.founding),
        ] {
            match stage == of {
                true => machines.insert(machine),
                false => machines.remove(&machine),
            };
        }
        if let Some(decree) = &disk.founding.decree {
            shared.minted.insert(decree.cluster);
        }
        if shared.minted.len() > 1 {
            return Err(format!(
                "two foundings, seen on {machine}: {:?}",
                shared.minted
            ));
        }
        Ok(())
    }

    fn stopped(shared: &mut Outside, machine: usize) {
        shared.running.remove(&machine);
    }

    fn complaint(shared: &mut Outside) -> Option<String> {
        shared.wrong.take().or_else(|| shared.servers.wrong.take())
    }
}
