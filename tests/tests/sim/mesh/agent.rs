//! One agent: founding, gossip, records, and the loop, each the real thing, put together as the
//! daemon does it. Must not decide anything: what it says is in `talk`, what it does to the model
//! of PostgreSQL in `deed`.

use super::deed::act;
use super::message::{Body, Message};
use super::server::Servers;
use crate::world::{Program, Turn};
use pgaa_agent::gossip::engine::Engine;
use pgaa_core::action::Action;
use pgaa_core::beats;
use pgaa_core::check::check;
use pgaa_core::clock::ClockView;
use pgaa_core::founding::{Ask, DataHeld, Durable, Founding, Hello};
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
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const FOUNDING_TICK: Duration = Duration::from_millis(200);
const FOUNDING_TICK_OF_A_MEMBER: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(100);
pub(super) const SOON: Duration = Duration::from_millis(10);
const BEAT: Duration = Duration::from_secs(1);
const BEAT_FORMING: Duration = Duration::from_millis(200);
const EXCHANGE_PERIOD: Duration = Duration::from_secs(5);
const KNOWN_PERIOD: Duration = Duration::from_secs(2);
const TRUST_PERIOD: Duration = Duration::from_secs(5);
const ANSWER_FRESH: Duration = Duration::from_secs(5);

/// How often a look at PostgreSQL fails while times are rough.
const LOOK_FAILS: f64 = 0.01;

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

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
    /// Was the mesh whole so soon after its last fault?
    pub whole_after: [u64; 4],
}

pub struct Agent {
    pub disk: Disk,
    pub plan: Plan,
    /// Has it planned since it started?
    pub has_planned: bool,
    pub founding: Founding,
    pub roster: Option<Roster>,
    pub(super) memory: Memory,
    pub(super) endpoints: Endpoints,
    pub(super) engine: Option<Engine>,
    pub(super) gossip: BTreeMap<NodeId, Reach>,
    pub(super) answered: BTreeMap<NodeId, Mono>,
    pub(super) asked: Vec<(Ask, Option<Mono>)>,
    pub(super) enrolled_at: Option<Mono>,
    pub(super) stage: Option<Stage>,
    pub(super) local: DataHeld,
    pub(super) due: Due,
    pub(super) wake_at: Option<Mono>,
}

/// When each of the agent's tasks wants to run next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) founding: Mono,
    pub(super) reconcile: Mono,
    pub(super) beat: Mono,
    pub(super) exchange: Mono,
    pub(super) known: Mono,
    pub(super) trust: Mono,
}

fn endpoints(at: SocketAddr) -> Endpoints {
    Endpoints {
        grpc: at,
        gossip: at,
        postgres: at,
    }
}

impl Agent {
    pub fn id(&self) -> NodeId {
        self.disk.setup.node
    }

    pub(super) fn send(&self, turn: &mut Turn<'_, Agent>, to: SocketAddr, body: Body) {
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

    pub(super) fn hello(&self) -> Hello {
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

    pub(super) fn wake_loop(&mut self, now: Mono) {
        self.due.reconcile = self.due.reconcile.min(now.plus(SOON));
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
    pub(super) fn reconcile(&mut self, turn: &mut Turn<'_, Agent>) -> Duration {
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
            exports: Vec::new(),
            wal_disk: turn.shared.servers.disk(turn.machine),
            clock: ClockView::exact(self.roster.iter().flat_map(Roster::members)),
            settled: Some(turn.now),
        };
        if self.stage != Some(self.disk.life.stage) {
            self.stage = Some(self.disk.life.stage);
            self.memory.stage_since = Some(turn.now);
        }
        self.memory.note(&observed, turn.now);
        if let Some(roster) = &self.roster {
            self.memory
                .note_roster(self.disk.setup.node, roster, turn.now);
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
        if let Some(heartbeat) = self.publish(turn, publication) {
            self.memory.note_published(heartbeat, &observed);
        }
        let outcome = act(self, turn, &dsns);
        for subscription in outcome.kicked {
            self.memory.note_kick(&subscription, turn.now);
        }
        for action in &outcome.guarded {
            self.memory.note_guarded(action, turn.now);
        }
        for node in outcome.senders_ended {
            self.memory
                .note_sender_ended(node, self.roster.as_ref(), turn.now);
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

    pub(super) fn catalogs(&self) -> BTreeMap<NodeId, Fact<Catalog>> {
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

    pub(super) fn dsns(&self, own: SocketAddr) -> BTreeMap<NodeId, String> {
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

    pub(super) fn publication(
        &self,
        turn: &Turn<'_, Agent>,
        inputs: &Inputs<'_>,
    ) -> Option<Publication> {
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
            backup: Default::default(),
        };
        let previous = self.roster.as_ref().and_then(|r| r.records.get(&self.id()));
        publish(&publisher, inputs, seen, previous)
    }

    /// Returns the heartbeat in the record that was published.
    pub(super) fn publish(
        &mut self,
        turn: &mut Turn<'_, Agent>,
        publication: Option<Publication>,
    ) -> Option<u64> {
        let (mut record, matters): (NodeRecord, bool) = match publication {
            Some(Publication::Changed(record)) => (record, true),
            Some(Publication::Refreshed(record)) => (record, false),
            Some(Publication::Unchanged) | None => return None,
        };
        let heartbeat = record.heartbeat;
        self.roster.as_ref()?;
        let vouched = self.roster.iter().filter_map(|r| r.history.vouched);
        let known = vouched.map(|vouched| vouched.version).max().unwrap_or(0);
        self.disk.version = self.disk.version.max(record.version).max(known) + 1;
        record.version = self.disk.version;
        self.persist(turn);
        if let Some(roster) = &mut self.roster {
            roster.learn(&record);
        }
        if !matters {
            return Some(heartbeat);
        }
        if let Some(engine) = &mut self.engine {
            let _ = engine.hint(turn.now, record.version);
        }
        self.exchange_with(turn, &self.addresses().into_keys().collect());
        self.listen(turn);
        Some(heartbeat)
    }

    pub(super) fn beat(&mut self, turn: &mut Turn<'_, Agent>) -> Duration {
        let stage = self.disk.life.stage;
        let apart = self.disk.life.quarantined.is_some();
        if stage == Stage::Single || stage == Stage::Left || apart {
            return BEAT_FORMING;
        }
        let roster = self.roster.as_ref();
        let own = roster.and_then(|r| r.records.get(&self.id()));
        let Some(series) = self.memory.series else {
            return BEAT_FORMING;
        };
        let floor = own.map_or(0, |r| r.heartbeat).max(beats::floor(series));
        turn.shared.servers.beat(turn.machine, floor, turn.now);
        let joining = |r: &Roster| r.records.values().any(|r| r.state == NodeState::Joining);
        match stage == Stage::Ready && !roster.is_some_and(joining) {
            true => BEAT,
            false => BEAT_FORMING,
        }
    }

    pub(super) fn run_what_is_due(&mut self, turn: &mut Turn<'_, Agent>) {
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
    pub(super) fn sleep(&mut self, turn: &mut Turn<'_, Agent>) {
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
