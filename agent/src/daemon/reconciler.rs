//! The loop: observe, plan, act, report. Events only wake it.

use super::act::{self, Dsns};
use super::node::Node;
use super::rhythm;
use crate::durable::DurableError;
use crate::events::Severity;
use crate::postgres::conninfo::{BadConninfo, Remote};
use crate::postgres::provision::needed_now;
use crate::postgres::{self, Inspector};
use crate::telemetry::Systemd;
use log::{debug, error, warn};
use pgaa_core::action::Action;
use pgaa_core::check::check;
use pgaa_core::clock::distrust::Distrust;
use pgaa_core::ids::NodeId;
use pgaa_core::life::{Life, Stage};
use pgaa_core::memory::Memory;
use pgaa_core::observed::{DiskFacts, Fact, Observed, PostgresFacts};
use pgaa_core::plan::{Inputs, Plan, awaits_joiner, plan, state_of};
use pgaa_core::publish::{Publication, Publisher, Seen, publish};
use pgaa_core::record::{JoinPhase, NodeRecord};
use pgaa_core::report::report;
use pgaa_core::roster::Roster;
use pgaa_core::state::NodeState;
use pgaa_core::tables::Catalog;
use pgaa_core::time::{Now, Wall};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks of a mesh at rest.
const REST: Duration = Duration::from_millis(1000);

/// Between two looks while something is under way that nothing else wakes the loop for.
const BUSY: Duration = Duration::from_millis(50);

/// Between two looks while a join does what there is to do, and wakes the loop when it has come
/// further: for its progress alone.
const JOINING: Duration = Duration::from_millis(250);

/// Between two wakes of pglogical's manager.
const WAKE_PERIOD: Duration = Duration::from_millis(10);

/// How long workers are given to start before the next look, while pglogical's manager is woken.
const WORKERS_START: Duration = Duration::from_millis(1500);

/// The loop and what it remembers.
pub struct Reconciler {
    node: Arc<Node>,
    systemd: Systemd,
    memory: Memory,
    inspector: Inspector,
    publisher: Publisher,
    stage: Option<Stage>,
    state: Option<NodeState>,
    since: Wall,
    last_failure: Option<String>,
    status_line: String,
    /// When clocks were too far apart.
    distrust: Distrust,
    /// Has the schema been brought up to this agent's version since it started?
    migrated: bool,
}

/// What one turn has looked at.
struct Look {
    now: Now,
    life: Life,
    roster: Option<Roster>,
    observed: Observed,
    catalogs: BTreeMap<NodeId, Fact<Catalog>>,
    dsns: Dsns,
}

impl Look {
    fn inputs<'a>(&'a self, node: &'a Node, memory: &'a Memory) -> Inputs<'a> {
        Inputs {
            now: self.now.mono,
            me: node.id(),
            policy: &node.settings.policy,
            life: &self.life,
            roster: self.roster.as_ref(),
            observed: &self.observed,
            memory,
            catalogs: &self.catalogs,
            dsns: &self.dsns,
        }
    }
}

impl Reconciler {
    /// A loop that has not turned yet.
    #[must_use]
    pub fn new(node: Arc<Node>, systemd: Systemd) -> Reconciler {
        let publisher = Publisher {
            node: node.id(),
            name: node.settings.node.name.clone(),
            site: node.settings.node.site.clone(),
            generation: node.identity.generation(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let since = node.clocks.wall();
        let distrust = node.store.distrust().unwrap_or_else(|error| {
            warn!("when clocks differed is not known any more: {error}");
            Distrust::default()
        });
        Reconciler {
            distrust,
            node,
            systemd,
            memory: Memory::default(),
            inspector: Inspector::default(),
            publisher,
            stage: None,
            state: None,
            since,
            last_failure: None,
            status_line: String::new(),
            migrated: false,
        }
    }

    /// Turns until the task is dropped.
    pub async fn run(mut self) {
        let node = Arc::clone(&self.node);
        let settings = node.settings.clone();
        // It runs the server's program once, which takes a moment.
        let needed = tokio::task::spawn_blocking(move || needed_now(&settings)).await;
        match needed {
            Ok(Ok(needed)) => node.postgres.compare_settings_with(needed).await,
            Ok(Err(error)) => warn!("the settings can't be checked: {error}"),
            Err(error) => warn!("the settings can't be checked: {error}"),
        }
        loop {
            let pause = self.turn().await;
            self.systemd.ready();
            self.systemd.watchdog();
            tokio::select! {
                () = node.knowledge.changed.notified() => {}
                () = self.rest(pause) => {}
            }
        }
    }

    /// At rest all that is periodic turns together.
    async fn rest(&self, pause: Duration) {
        if pause == REST {
            self.node.clocks.pulse(REST).await;
        } else {
            sleep(pause).await;
        }
    }

    /// One turn. Returns how long the next may wait when nothing wakes it.
    async fn turn(&mut self) -> Duration {
        let look = self.look().await;
        self.note_stage(&look);
        self.memory.note(&look.observed, look.now.mono);
        if let Some(roster) = &look.roster {
            self.memory
                .note_roster(self.node.id(), roster, look.now.mono);
        }
        let node = Arc::clone(&self.node);
        let inputs = look.inputs(&node, &self.memory);
        let plan = plan(&inputs);
        let awaits_joiner = awaits_joiner(&inputs);
        if plan.waiting.iter().any(|on| on.kind == "clock") {
            node.clock_wanted.notify_one();
        }
        super::clock::note_distrust(&node, &mut self.distrust, &inputs);
        self.publish(&look);
        self.report(&look, &plan);
        if let Err(flaw) = check(&plan, &look.inputs(&node, &self.memory)) {
            error!("a plan was refused, please report this: {flaw}");
            node.event(Severity::Critical, "plan_refused", flaw.to_string());
            return REST;
        }
        self.migrate(&look).await;
        let outcome = self.carry_out(&plan, &look.dsns).await;
        self.note_outcome(&look, &outcome);
        if !outcome.started.is_empty() {
            self.start_workers(&outcome.started).await;
        }
        let settled = plan.actions.is_empty() && plan.waiting.is_empty();
        debug!(
            "a turn of {:?}: {} of {} actions done, {} waits",
            node.clocks.mono().since(look.now.mono),
            outcome.done,
            plan.actions.len(),
            plan.waiting.len()
        );
        match (settled, outcome.failure) {
            (true, _) if awaits_joiner => BUSY,
            (true, _) => REST,
            (false, Some(_)) => BUSY * 4,
            (false, None) if outcome.done > 0 => Duration::ZERO,
            (false, None) if copies(look.life.stage) => JOINING,
            (false, None) => BUSY,
        }
    }

    /// A new agent may bring migrations that no look can tell are missing: once after each start
    /// the database is prepared again, which changes nothing when all is there.
    async fn migrate(&mut self, look: &Look) {
        let prepared = look
            .observed
            .postgres
            .known()
            .is_some_and(|p| p.epoch.is_some());
        if self.migrated || !prepared {
            return;
        }
        match self.node.postgres.prepare(self.node.id()).await {
            Ok(_) => {
                self.migrated = true;
                self.node.migrated.send_replace(true);
            }
            Err(error) => warn!("the database could not be prepared: {error}"),
        }
    }

    /// Carries the plan out. pglogical's manager sleeps for up to a second, with its node locked,
    /// when it has looked too early for a worker that it started; enabling the next subscription
    /// would wait for that. So it is woken all the while.
    async fn carry_out(&self, plan: &Plan, dsns: &Dsns) -> act::Outcome {
        let enabled = |action: &Action| {
            let Action::EnableSubscription { subscription, .. } = action else {
                return None;
            };
            Some(subscription.clone())
        };
        let names: Vec<String> = plan.actions.iter().filter_map(enabled).collect();
        let acting = act::act(&self.node, &plan.actions, dsns);
        if names.is_empty() {
            return acting.await;
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let waking = async {
            loop {
                sleep(WAKE_PERIOD).await;
                // What can't be woken wakes by itself, only later.
                let _ = self.node.postgres.wake_workers(&names).await;
            }
        };
        tokio::select! {
            outcome = acting => outcome,
            () = waking => act::Outcome::default(),
        }
    }

    async fn look(&mut self) -> Look {
        let node = &self.node;
        let now = node.clocks.now();
        let life = node.knowledge.life();
        // Before the server is looked at: what a member says it has applied was there before.
        let roster = node.knowledge.roster();
        let mut postgres = node.postgres.observe(now.mono, life.ordinal).await;
        if let Fact::Known(facts) = &mut postgres {
            self.inspector.inspect(&node.settings, now.mono, facts);
            node.remember(facts);
        }
        let own = postgres.known().map(own_catalog).unwrap_or_default();
        let catalogs = roster
            .as_ref()
            .map(|r| ready_digests(r, node.id()))
            .unwrap_or_default();
        Look {
            now,
            life,
            dsns: roster.as_ref().map(|r| dsns(node, r)).unwrap_or_default(),
            catalogs: node.knowledge.catalogs(&catalogs, &own),
            observed: Observed {
                postgres,
                wal_disk: wal_disk(node),
                peers: node.knowledge.reach(now.mono),
                exports: super::join::exports(node),
                clock: super::clock::view(node),
                settled: *node.rows_settled.borrow(),
            },
            roster,
        }
    }

    fn note_stage(&mut self, look: &Look) {
        if self.stage != Some(look.life.stage) {
            self.stage = Some(look.life.stage);
            self.memory.stage_since = Some(look.now.mono);
        }
        let forming = rhythm::forming(&self.node, look.life.stage);
        self.node
            .forming
            .send_if_modified(|was| std::mem::replace(was, forming) != forming);
    }

    fn note_outcome(&mut self, look: &Look, outcome: &act::Outcome) {
        let now = self.node.clocks.mono();
        for subscription in &outcome.kicked {
            self.memory.note_kick(subscription, now);
        }
        for subscriber in &outcome.senders_ended {
            self.memory
                .note_sender_ended(*subscriber, look.roster.as_ref(), now);
        }
        for action in &outcome.guarded {
            self.memory.note_guarded(action, now);
        }
        if outcome.failure != self.last_failure {
            if let Some(failure) = &outcome.failure {
                warn!("{failure}");
            }
            self.last_failure.clone_from(&outcome.failure);
        }
    }

    /// pglogical's manager sleeps a second between two workers; it is woken until every
    /// subscription that was just enabled has one.
    async fn start_workers(&self, subscriptions: &[String]) {
        let names: Vec<&str> = subscriptions.iter().map(String::as_str).collect();
        match self
            .node
            .postgres
            .start_workers(&names, WORKERS_START)
            .await
        {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => debug!("no apply worker yet for {}", missing.join(", ")),
            Err(error) => debug!("pglogical's manager could not be woken: {error}"),
        }
    }

    fn publish(&mut self, look: &Look) {
        let node = &self.node;
        self.publisher.generation = node.identity.generation();
        let previous = look.roster.as_ref().and_then(|r| r.records.get(&node.id()));
        let seen = Seen {
            now: look.now,
            endpoints: node.endpoints(),
            backup: node.backups.word.borrow().clone(),
        };
        let inputs = look.inputs(node, &self.memory);
        let publication = publish(&self.publisher, &inputs, seen, previous);
        let (mut record, matters): (NodeRecord, bool) = match publication {
            Some(Publication::Changed(record)) => (record, true),
            Some(Publication::Refreshed(record)) => (record, false),
            Some(Publication::Unchanged) | None => return,
        };
        let vouched = look.roster.as_ref().and_then(|r| r.history.vouched);
        let known = previous.map(|record| record.version);
        match next_version(node, known.max(vouched.map(|vouched| vouched.version))) {
            Ok(version) => {
                record.version = version;
                let heartbeat = record.heartbeat;
                node.knowledge.publish(record, matters, look.now.mono);
                self.memory.note_published(heartbeat, &look.observed);
                if let Some(series) = self.memory.series {
                    node.series.store(series, Ordering::Release);
                }
            }
            Err(error) => warn!("the node record can't be published: {error}"),
        }
    }

    fn report(&mut self, look: &Look, plan: &Plan) {
        let node = Arc::clone(&self.node);
        let inputs = look.inputs(&node, &self.memory);
        let (mut state, _, _) = state_of(&inputs);
        let around = super::surroundings::surroundings(&node, look.now, self.since);
        if let (Some((_, founding, _)), NodeState::Discovering) = (&around.founding, state) {
            state = *founding;
        }
        let mut around = around;
        if self.state != Some(state) {
            self.since = look.now.wall;
            around.since = look.now.wall;
            let from = self.state.map_or("started", NodeState::word);
            let text = format!("{from} -> {}", state.word());
            node.event(Severity::Info, "state_changed", text);
            self.state = Some(state);
        }
        if let Some(failure) = &self.last_failure {
            around
                .findings
                .push(super::surroundings::failure_finding(failure));
        }
        let report = report(&inputs, plan, around);
        let line = super::surroundings::status_line(&report);
        if line != self.status_line {
            self.systemd.status(&line);
            self.status_line = line;
        }
        node.status.send_replace(Arc::new(report));
    }
}

/// Is it the join that goes on now, and not the loop?
fn copies(stage: Stage) -> bool {
    match stage {
        Stage::Joining(phase) => phase < JoinPhase::Linking,
        Stage::Resyncing => true,
        Stage::Single | Stage::Founding | Stage::Ready | Stage::Leaving | Stage::Left => false,
    }
}

/// The next version of our own record: above every one that was ever sent.
fn next_version(node: &Node, known: Option<u64>) -> Result<u64, DurableError> {
    if let Some(known) = known {
        node.identity.raise_record_version(known)?;
    }
    node.identity.next_record_version()
}

fn own_catalog(facts: &PostgresFacts) -> Catalog {
    let tables = facts.tables.iter().filter(|table| table.replicable);
    Catalog {
        digest: facts.catalog,
        tables: tables
            .map(|t| (t.name.clone(), (t.structure, t.primary_key)))
            .collect(),
    }
}

/// The other members that count for tables: those that are ready, and those about to be.
fn ready_digests(roster: &Roster, me: NodeId) -> BTreeMap<NodeId, u64> {
    let counts = |record: &&NodeRecord| {
        record.node != me
            && match record.state {
                NodeState::Left | NodeState::Enrolling => false,
                NodeState::Joining => {
                    record.phase != Some(JoinPhase::Leasing)
                        && record.phase != Some(JoinPhase::Copying)
                }
                NodeState::Booting
                | NodeState::Configuring
                | NodeState::Discovering
                | NodeState::Forming
                | NodeState::WaitingForClock
                | NodeState::Ready
                | NodeState::Resyncing
                | NodeState::Leaving
                | NodeState::Quarantined => true,
            }
    };
    roster
        .records
        .values()
        .filter(counts)
        .map(|r| (r.node, r.catalog))
        .collect()
}

/// How each member's server is reached from here, by its newest record; and the local one.
fn dsns(node: &Node, roster: &Roster) -> Dsns {
    let others = roster
        .records
        .values()
        .filter(|record| record.node != node.id());
    let remote = others.filter_map(|record| {
        let dsn = dsn(node, record.node, record.endpoints.postgres);
        dsn.inspect_err(|error| warn!("{} can't be subscribed to: {error}", record.name))
            .ok()
            .map(|dsn| (record.node, dsn))
    });
    let mut dsns: Dsns = remote.collect();
    match node.postgres.local_conninfo() {
        Ok(own) => {
            dsns.insert(node.id(), own);
        }
        Err(error) => warn!("the local server can't be named: {error}"),
    }
    dsns
}

/// A call that may block for a moment; a look waits for the server's disk anyway.
fn wal_disk(node: &Node) -> Fact<DiskFacts> {
    match postgres::wal_disk(&node.settings.postgres.data_dir) {
        Ok(disk) => Fact::Known(disk),
        Err(error) => Fact::Unknown(format!("{:#}", anyhow::Error::from(error))),
    }
}

/// How the server of one member is reached from here.
pub fn dsn(node: &Node, member: NodeId, address: SocketAddr) -> Result<String, BadConninfo> {
    let files = node.credentials.files();
    let remote = Remote {
        node: member,
        address,
        database: &node.settings.policy.database,
        role: &node.settings.postgres.mesh_role,
        cert: &files.certificate,
        key: &files.key,
        ca: &files.ca,
    };
    remote.conninfo()
}
