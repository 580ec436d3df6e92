//! One agent's loop: the real planner and the real record, on the model of its server.

use super::world::{Event, World};
use pgaa_core::action::Action;
use pgaa_core::births::Births;
use pgaa_core::check::check;
use pgaa_core::clock::ClockView;
use pgaa_core::ids::{Name, NodeId};
use pgaa_core::join::{Forward, Lease};
use pgaa_core::life::{Life, Stage};
use pgaa_core::memory::Memory;
use pgaa_core::observed::{Fact, Observed, Reach};
use pgaa_core::plan::{Inputs, Plan, awaits_joiner, plan};
use pgaa_core::policy::{ConflictResolution, FoundingSet, Policy};
use pgaa_core::publish::{Publication, Publisher, Seen, publish};
use pgaa_core::record::{Endpoints, NodeRecord};
use pgaa_core::roster::Roster;
use pgaa_core::state::NodeState;
use pgaa_core::tables::Catalog;
use pgaa_core::time::{Mono, Now};
use rand::RngExt;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Pauses of the loop, ms: after something was done, while something is waited for, at rest.
const SOON: u64 = 10;
const BUSY: u64 = 250;
const REST: u64 = 1_000;
/// How long a round takes that takes long, ms: a look at a server that is busy.
const SLOW: (u64, u64) = (500, 3_000);
/// Between two heartbeats, ms.
const BEAT: u64 = 1_000;
/// Until the next try of one that has not looked yet, ms.
const BEAT_UNLOOKED: u64 = 50;
/// Between two looks for a lease that has run out, ms.
const EXPIRY: u64 = 2_000;
/// Between two tellings of everything to somebody, ms.
const TELL: u64 = 2_500;
/// How long one that does not answer still counts as up, ms.
const MISSED: u64 = 2_500;
/// How long a record is on its way, ms.
const SPREAD: (u64, u64) = (3, 200);

/// One agent: what is durable, and what it only remembers.
#[derive(Debug, Default)]
pub struct Agent {
    pub up: bool,
    pub generation: u64,
    /// When it was started, ms.
    pub started: u64,
    pub life: Life,
    pub roster: Option<Roster>,
    pub version: u64,
    pub lease: Lease,
    pub births: Births,
    pub memory: Memory,
    /// The stage that it has seen last.
    pub stage: Option<Stage>,
    /// Until when a step runs, and the lease can't change hands.
    pub busy_until: u64,
    /// The plan has said that every edge is alive.
    pub linked: bool,
    /// The number of the attempt that runs, if one does.
    pub task: Option<u64>,
    /// Before this time no attempt begins.
    pub rests_until: u64,
    /// Until when a round takes long: nothing wakes the loop before.
    slow_until: u64,
    heard: BTreeMap<usize, u64>,
    ticks_at: u64,
    beats_at: u64,
    expires_at: u64,
    tells_at: u64,
}

impl Agent {
    /// It starts again at `now`, from what is durable.
    pub fn restarted(&self, now: u64) -> Agent {
        let mut lease = self.lease.clone();
        lease.sequence = 0;
        Agent {
            up: true,
            generation: self.generation + 1,
            started: now,
            life: self.life.clone(),
            roster: self.roster.clone(),
            version: self.version,
            lease,
            births: self.births.clone(),
            ..Agent::default()
        }
    }
}

pub fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(node + 1).unwrap_or(255)], 7432))
}

pub fn name(node: usize) -> Name {
    Name::new(&format!("n{node}")).unwrap()
}

pub fn endpoints(node: usize) -> Endpoints {
    Endpoints {
        grpc: address(node),
        gossip: address(node),
        postgres: address(node),
    }
}

pub fn policy() -> Policy {
    Policy {
        cluster_name: Name::new("shop").unwrap(),
        database: "shop".to_owned(),
        expect: 1,
        max_nodes: 16,
        founding_set: FoundingSet::Any,
        founding_wait: Duration::from_secs(60),
        conflict_resolution: ConflictResolution::LastUpdateWins,
        excluded_schemas: Vec::new(),
        slots: Default::default(),
        clock: Default::default(),
        backup: Default::default(),
    }
}

impl World {
    /// Has the loop of an agent run within a moment.
    pub fn tick_soon(&mut self, node: usize) {
        self.tick_at(node, self.now + SOON);
    }

    fn tick_at(&mut self, node: usize, at: u64) {
        let agent = &mut self.nodes[node].agent;
        let at = at.max(agent.slow_until);
        let sooner = agent.ticks_at <= self.now || at < agent.ticks_at;
        if agent.up && sooner {
            agent.ticks_at = at;
            let generation = agent.generation;
            self.at(at, Event::Tick { node, generation });
        }
    }

    /// One round of an agent's loop, and of the tasks beside it.
    pub fn tick(&mut self, node: usize, generation: u64) {
        let agent = &self.nodes[node].agent;
        let stale = agent.generation != generation || agent.ticks_at != self.now;
        if !agent.up || stale {
            return;
        }
        self.nodes[node].agent.ticks_at = 0;
        self.listen(node);
        if self.nodes[node].agent.beats_at <= self.now && self.nodes[node].server.up {
            let pause = match self.beat(node, false) {
                Some(_) => BEAT,
                None => BEAT_UNLOOKED,
            };
            self.nodes[node].agent.beats_at = self.now + pause;
        }
        if self.nodes[node].agent.expires_at <= self.now {
            self.nodes[node].agent.expires_at = self.now + EXPIRY;
            self.expire(node);
        }
        if self.nodes[node].agent.tells_at <= self.now {
            self.nodes[node].agent.tells_at = self.now + TELL;
            self.tell(node);
        }
        let mut pause = self.reconcile(node);
        if self.slow(self.story.slow_rounds) {
            self.count("slow rounds");
            pause = self.rng.random_range(SLOW.0..=SLOW.1);
            self.nodes[node].agent.slow_until = self.now + pause;
        }
        self.tick_at(node, self.now + pause);
    }

    /// Who answers.
    fn listen(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            if self.answers(node, other) {
                self.nodes[node].agent.heard.insert(other, self.now);
            }
        }
    }

    pub fn reach(&self, node: usize) -> BTreeMap<NodeId, Reach> {
        let agent = &self.nodes[node].agent;
        let members = agent.roster.iter().flat_map(Roster::members);
        let others = members.filter(|id| *id != self.nodes[node].id);
        let of = |id: NodeId| {
            let heard = self.of(id).and_then(|other| agent.heard.get(&other));
            let reach = match heard {
                Some(at) if self.now - at < MISSED => Reach::Up,
                Some(_) => Reach::Down,
                None => Reach::Unknown,
            };
            (id, reach)
        };
        others.map(of).collect()
    }

    fn tell(&mut self, node: usize) {
        let other = self.rng.random_range(0..self.nodes.len());
        let roster = self.nodes[node].agent.roster.clone();
        if let (true, Some(roster)) = (other != node && self.answers(node, other), roster) {
            let roster = Arc::new(roster);
            self.within(
                SPREAD,
                Event::Told {
                    node: other,
                    roster,
                },
            );
        }
    }

    /// Everything another node knows arrives.
    pub fn merge(&mut self, node: usize, theirs: &Roster) {
        if !self.nodes[node].agent.up {
            return;
        }
        let Some(roster) = &mut self.nodes[node].agent.roster else {
            return;
        };
        match roster.merge(theirs) {
            Ok(merged) if merged.is_empty() => {}
            Ok(_) => self.tick_soon(node),
            Err(refused) => self.accuse(format!("{node} merges nothing: {refused}")),
        }
    }

    pub fn hear(&mut self, node: usize, record: &NodeRecord) {
        if !self.nodes[node].agent.up {
            return;
        }
        let roster = self.nodes[node].agent.roster.as_mut();
        if roster.is_some_and(|roster| roster.learn(record)) {
            self.tick_soon(node);
        }
    }

    /// Observe, plan, publish, check, act. Returns how long to rest.
    fn reconcile(&mut self, node: usize) -> u64 {
        let now = Mono(self.now);
        let observed = Observed {
            postgres: self.look(node),
            peers: self.reach(node),
            exports: Vec::new(),
            wal_disk: Fact::Unknown("nobody looks".to_owned()),
            clock: ClockView::exact(self.nodes.iter().map(|n| n.id)),
            settled: Some(now),
        };
        let id = self.nodes[node].id;
        let agent = &mut self.nodes[node].agent;
        let Some(roster) = agent.roster.clone() else {
            return REST;
        };
        if agent.stage != Some(agent.life.stage) {
            agent.stage = Some(agent.life.stage);
            agent.memory.stage_since = Some(now);
        }
        agent.memory.note(&observed, now);
        agent.memory.note_roster(id, &roster, now);
        let (life, memory) = (agent.life.clone(), std::mem::take(&mut agent.memory));
        let (catalogs, dsns) = (catalogs(id, &roster), self.dsns());
        let policy = policy();
        let inputs = Inputs {
            now,
            me: id,
            policy: &policy,
            life: &life,
            roster: Some(&roster),
            observed: &observed,
            memory: &memory,
            catalogs: &catalogs,
            dsns: &dsns,
        };
        let made = plan(&inputs);
        let awaits_joiner = awaits_joiner(&inputs);
        if let Err(flaw) = check(&made, &inputs) {
            self.accuse(format!("{node}: {flaw}"));
        }
        let publication = self.publication(node, &inputs);
        self.nodes[node].agent.memory = memory;
        if let Some(heartbeat) = self.publish(node, publication) {
            let memory = &mut self.nodes[node].agent.memory;
            memory.note_published(heartbeat, &observed);
        }
        self.no_gap_is_called_replicating(node);
        match self.act(node, &made) {
            REST if awaits_joiner => BUSY,
            pause => pause,
        }
    }

    fn dsns(&self) -> BTreeMap<NodeId, String> {
        let all = self.nodes.iter().enumerate();
        all.map(|(node, n)| (n.id, address(node).to_string()))
            .collect()
    }

    fn publication(&self, node: usize, inputs: &Inputs<'_>) -> Option<Publication> {
        let publisher = Publisher {
            node: inputs.me,
            name: name(node),
            site: String::new(),
            generation: self.nodes[node].agent.generation,
            agent_version: String::new(),
        };
        let seen = Seen {
            now: Now {
                mono: Mono(self.now),
                wall: self.wall(),
            },
            endpoints: Some(endpoints(node)),
            backup: Default::default(),
        };
        let roster = inputs.roster;
        let previous = roster.and_then(|roster| roster.records.get(&inputs.me));
        publish(&publisher, inputs, seen, previous)
    }

    /// Returns the heartbeat in the record that was published.
    fn publish(&mut self, node: usize, publication: Option<Publication>) -> Option<u64> {
        let (mut record, matters) = match publication {
            Some(Publication::Changed(record)) => (record, true),
            Some(Publication::Refreshed(record)) => (record, false),
            Some(Publication::Unchanged) | None => return None,
        };
        let heartbeat = record.heartbeat;
        let agent = &mut self.nodes[node].agent;
        agent.version = agent.version.max(record.version) + 1;
        record.version = agent.version;
        if let Some(roster) = &mut agent.roster {
            roster.learn(&record);
        }
        if !matters {
            return Some(heartbeat);
        }
        let record = Arc::new(record);
        for other in 0..self.nodes.len() {
            if other != node && self.answers(node, other) {
                let record = Arc::clone(&record);
                let heard = Event::Heard {
                    node: other,
                    record,
                };
                self.within(SPREAD, heard);
            }
        }
        Some(heartbeat)
    }

    /// Carries out a plan, up to the first failure.
    fn act(&mut self, node: usize, plan: &Plan) -> u64 {
        let mut done = 0;
        for action in &plan.actions {
            let quiet = matches!(
                action,
                Action::StartJoin | Action::StartResync | Action::CommitJoin
            );
            if !quiet {
                self.note(|| format!("{node} acts: {action}"));
            }
            let outcome = self.one(node, action);
            if let Err(why) = outcome {
                self.note(|| format!("{node} fails: {why}"));
                break;
            }
            done += u32::from(!quiet);
        }
        match (plan.actions.is_empty() && plan.waiting.is_empty(), done) {
            (true, _) => REST,
            (false, 0) => BUSY,
            (false, _) => SOON,
        }
    }

    fn one(&mut self, node: usize, action: &Action) -> Result<(), String> {
        let number = |world: &World, id: &NodeId| world.of(*id).unwrap_or(node);
        match action {
            Action::AdmitMembers { members } => {
                self.nodes[node].server.admitted.clone_from(members);
            }
            Action::DropSubscription { subscription, .. } => {
                let found = self.names[node]
                    .iter()
                    .position(|name| name == subscription);
                self.drop_subscription(node, found.unwrap_or(node));
            }
            Action::DropSlot { subscriber, .. } => {
                self.drop_slot(node, number(self, subscriber));
            }
            Action::CreateSlot { subscriber, .. } => {
                let subscriber = number(self, subscriber);
                self.nodes[node].server.create_slot(subscriber);
            }
            Action::CreateSubscription { provider, .. } => {
                let provider = number(self, provider);
                self.subscribe((node, provider), Forward::Nothing)?;
                self.enable(node, provider, true);
            }
            Action::EnableSubscription { provider, .. } => {
                self.enable(node, number(self, provider), true);
            }
            Action::KickSubscription {
                provider,
                subscription,
                ..
            } => {
                let now = Mono(self.now);
                self.nodes[node].agent.memory.note_kick(subscription, now);
                self.restart_worker(node, number(self, provider), true);
            }
            Action::EndStaleSender { subscriber, .. } => {
                self.cast_off(node, number(self, subscriber));
                let now = Mono(self.now);
                let agent = &mut self.nodes[node].agent;
                let roster = agent.roster.as_ref();
                agent.memory.note_sender_ended(*subscriber, roster, now);
            }
            Action::OpenGate => self.nodes[node].server.gate_open = true,
            Action::ShutGate => self.nodes[node].server.gate_open = false,
            Action::DeclareReady => self.declare_ready(node),
            Action::StartJoin | Action::StartResync => self.start_join(node, action),
            Action::CommitJoin => self.nodes[node].agent.linked = true,
            Action::AnnounceLeaving { .. } => self.announce_leaving(node)?,
            Action::FinishLeaving => self.finish_leaving(node),
            Action::Prepare
            | Action::WriteSettings
            | Action::RestartPostgres { .. }
            | Action::GiveUpSlot { .. }
            | Action::Checkpoint
            | Action::EnsureLocalNode
            | Action::RedirectSubscription { .. }
            | Action::DisableSubscription { .. }
            | Action::Quarantine { .. }
            | Action::AddTable { .. }
            | Action::TakeOrdinal { .. } => self.accuse(format!("nobody asked to {action}")),
        }
        Ok(())
    }

    fn declare_ready(&mut self, node: usize) {
        self.nodes[node].agent.life.stage = Stage::Ready;
        self.count("ready");
        self.edges_are_sound();
    }

    fn start_join(&mut self, node: usize, wanted: &Action) {
        let agent = &self.nodes[node].agent;
        let joins = match agent.life.stage {
            Stage::Founding | Stage::Joining(_) | Stage::Resyncing => true,
            Stage::Ready => *wanted == Action::StartResync,
            Stage::Single | Stage::Leaving | Stage::Left => false,
        };
        if joins && agent.task.is_none() && agent.rests_until <= self.now {
            let task = self.next();
            self.nodes[node].agent.task = Some(task);
            self.count("attempts");
            self.at(self.now, Event::Poll { node, task });
        }
    }
}

fn catalogs(me: NodeId, roster: &Roster) -> BTreeMap<NodeId, Fact<Catalog>> {
    let catalog = Catalog {
        digest: 1,
        tables: BTreeMap::from([("public.t".to_owned(), (1, true))]),
    };
    let others = roster.records.values();
    others
        .filter(|record| record.node != me && record.state == NodeState::Ready)
        .map(|record| (record.node, Fact::Known(catalog.clone())))
        .collect()
}
