//! What all tasks of one agent share. Made once by the composition root.

use super::backup::Backups;
use super::clock::Pairs;
use super::knowledge::Knowledge;
use super::lease::Leases;
use super::store::Store;
use crate::clock::Clocks;
use crate::config::Settings;
use crate::events::{Event, Events, Severity};
use crate::peer::{PairingClient, Peers};
use crate::postgres::{Flush, Postgres};
use crate::trust::keyring::Keyring;
use crate::trust::{Authority, Credentials, Identity, TokenId, Tokens};
use anyhow::Context;
use log::warn;
use pgaa_core::beats;
use pgaa_core::clock::distrust::Distrust;
use pgaa_core::clock::{ClockReading, ClockView};
use pgaa_core::conflicts::report::ConflictsReport;
use pgaa_core::conflicts::stuck::StuckEdges;
use pgaa_core::founding::{DataHeld, Founding, Hello};
use pgaa_core::ids::{DataEpoch, NodeId};
use pgaa_core::join::Problem;
use pgaa_core::memory::Memory;
use pgaa_core::observed::{Fact, Observed, PostgresFacts};
use pgaa_core::plan::{Inputs, Plan};
use pgaa_core::record::Endpoints;
use pgaa_core::report::{Surroundings, report};
use pgaa_core::restore::proof::Proofs;
use pgaa_core::rows::RowsView;
use pgaa_core::status::{AnsweredBy, Progress, StatusReport};
use pgaa_core::time::Mono;
use rand::RngExt;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// What the local server said last, for tasks that don't look themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalFacts {
    /// The epoch of the database, once minted.
    pub epoch: Option<DataEpoch>,
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// Does it hold rows?
    pub data: DataHeld,
}

/// One agent.
pub struct Node {
    /// The configuration.
    pub settings: Settings,
    /// The time.
    pub clocks: Clocks,
    /// What happened.
    pub events: Events,
    /// Who this node is.
    pub identity: Identity,
    /// Random for this start of the agent.
    pub run: u64,
    /// May this node speak for its identity? Not before a member has looked whether another
    /// machine does.
    pub vouched: watch::Sender<bool>,
    /// Its durable files.
    pub store: Store,
    /// What it knows of the cluster.
    pub knowledge: Knowledge,
    /// Its key and certificate.
    pub credentials: Arc<Credentials>,
    /// The join tokens.
    pub tokens: Tokens,
    /// The token that this machine was given, and the file it is in.
    pub token_file: Option<(TokenId, PathBuf)>,
    /// Rings when a token was made, used or revoked here.
    pub tokens_changed: Notify,
    /// The channels to other members.
    pub peers: Peers,
    /// Questions to nodes that share no CA with this one yet.
    pub pairing: PairingClient,
    /// The local server.
    pub postgres: Arc<Postgres>,
    /// The founding machine.
    founding: Mutex<Founding>,
    /// The CA, on nodes that hold it.
    authority: Mutex<Option<Authority>>,
    /// The gossip keys, once this node is a member.
    pub keyring: watch::Sender<Option<Keyring>>,
    /// Rings once, when this node becomes a member.
    pub enrolled: Notify,
    /// This member's lease for joiners.
    pub leases: Leases,
    /// The last look at the local server that succeeded.
    facts: Mutex<Option<Arc<PostgresFacts>>>,
    /// Why the last attempt to found or to enrol failed, for people.
    pub founding_problem: watch::Sender<Option<String>>,
    /// Wakes the founding: a question or an answer has come in.
    pub founding_changed: Notify,
    /// What the local server said last.
    pub local: watch::Sender<LocalFacts>,
    /// What the clock's own source said last.
    pub clock: watch::Sender<ClockReading>,
    /// How far the others' clocks are from it.
    pub clock_pairs: Pairs,
    /// What is remembered of proofs of the backups.
    pub proofs: watch::Sender<Option<Proofs>>,
    /// Rings when the plan waits for clocks to be compared.
    pub clock_wanted: Notify,
    /// When clocks were too far apart.
    pub distrust: watch::Sender<Arc<Distrust>>,
    /// Is the schema pgaa as this agent needs it?
    pub migrated: watch::Sender<bool>,
    /// What is known of conflicts.
    pub conflicts: watch::Sender<ConflictsReport>,
    /// Edges whose apply workers give up again and again.
    pub stuck: watch::Sender<StuckEdges>,
    /// Are edges being made, here or elsewhere, so that somebody waits for heartbeats?
    pub forming: watch::Sender<bool>,
    /// The series of this agent's heartbeats; 0 before it has looked at its slots and said so.
    pub series: AtomicU64,
    /// Rings when the plan wants this node to join.
    pub join_wanted: Notify,
    /// Does the plan want this node, a member, to be synchronised anew?
    pub resync_wanted: AtomicBool,
    /// Has the operator of this node, which is set apart, given its contents up?
    pub rejoin_wanted: AtomicBool,
    /// Rings when the plan sees every edge of a joiner alive both ways.
    pub join_linked: Notify,
    /// What is in the way of the join.
    pub join_problems: watch::Sender<Vec<Problem>>,
    /// How far the join has come, while there is one.
    pub join_progress: watch::Sender<Option<Progress>>,
    /// Comparisons that an operator has wished for in this run.
    pub comparisons: AtomicU64,
    /// How the row check stands.
    pub rows: watch::Sender<RowsView>,
    /// See [`Observed::settled`].
    pub rows_settled: watch::Sender<Option<Mono>>,
    /// Rings when rows were named.
    pub rows_named: Notify,
    /// The last report.
    pub status: watch::Sender<Arc<StatusReport>>,
    /// The backups.
    pub backups: Backups,
    /// This node's own address, once known.
    pub address: watch::Sender<Option<IpAddr>>,
}

/// The parts that are made outside.
pub struct Parts {
    /// See [`Node`].
    pub settings: Settings,
    /// See [`Node`].
    pub clocks: Clocks,
    /// See [`Node`].
    pub events: Events,
    /// See [`Node`].
    pub identity: Identity,
    /// See [`Node`].
    pub store: Store,
    /// See [`Node`].
    pub knowledge: Knowledge,
    /// See [`Node`].
    pub credentials: Arc<Credentials>,
    /// See [`Node`].
    pub tokens: Tokens,
    /// See [`Node`].
    pub token_file: Option<(TokenId, PathBuf)>,
    /// See [`Node`].
    pub peers: Peers,
    /// See [`Node`].
    pub pairing: PairingClient,
    /// See [`Node`].
    pub postgres: Arc<Postgres>,
    /// See [`Node`].
    pub founding: Founding,
    /// See [`Node`].
    pub authority: Option<Authority>,
    /// See [`Node`].
    pub keyring: Option<Keyring>,
    /// See [`Node`].
    pub leases: Leases,
    /// See [`Node`].
    pub backups: Backups,
}

impl Node {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Node {
        let advertised = parts.settings.network.advertise;
        let first = first_report(&parts);
        let distrust = parts.store.distrust().unwrap_or_default();
        Node {
            settings: parts.settings,
            clocks: parts.clocks,
            events: parts.events,
            identity: parts.identity,
            run: rand::rng().random(),
            vouched: watch::channel(false).0,
            store: parts.store,
            knowledge: parts.knowledge,
            credentials: parts.credentials,
            tokens: parts.tokens,
            token_file: parts.token_file,
            tokens_changed: Notify::new(),
            peers: parts.peers,
            pairing: parts.pairing,
            postgres: parts.postgres,
            founding: Mutex::new(parts.founding),
            authority: Mutex::new(parts.authority),
            keyring: watch::channel(parts.keyring).0,
            enrolled: Notify::new(),
            leases: parts.leases,
            backups: parts.backups,
            facts: Mutex::new(None),
            founding_problem: watch::channel(None).0,
            founding_changed: Notify::new(),
            local: watch::channel(LocalFacts::default()).0,
            clock: watch::channel(ClockReading::default()).0,
            clock_pairs: Pairs::default(),
            proofs: watch::channel(None).0,
            clock_wanted: Notify::new(),
            distrust: watch::channel(Arc::new(distrust)).0,
            migrated: watch::channel(false).0,
            conflicts: watch::channel(ConflictsReport::default()).0,
            stuck: watch::channel(StuckEdges::default()).0,
            forming: watch::channel(false).0,
            series: AtomicU64::new(0),
            join_wanted: Notify::new(),
            resync_wanted: AtomicBool::new(false),
            rejoin_wanted: AtomicBool::new(false),
            join_linked: Notify::new(),
            join_problems: watch::channel(Vec::new()).0,
            join_progress: watch::channel(None).0,
            comparisons: AtomicU64::new(0),
            rows: watch::channel(RowsView::default()).0,
            rows_settled: watch::channel(None).0,
            rows_named: Notify::new(),
            status: watch::channel(Arc::new(first)).0,
            address: watch::channel(advertised).0,
        }
    }

    /// The number every further heartbeat must exceed: what the mesh has seen of this node. `None`
    /// before this agent has looked at its slots and said so: whoever hears its heartbeat trusts
    /// that what comes with it has no gap.
    #[must_use]
    pub fn beat_floor(&self) -> Option<u64> {
        let series = self.series.load(Ordering::Acquire);
        let seen = self.knowledge.with_roster(|roster| {
            let own = roster.records.get(&self.id());
            own.map(|record| record.heartbeat)
        });
        let floor = beats::floor(series).max(seen.flatten().unwrap_or(0));
        (series > 0).then_some(floor)
    }

    /// Writes a heartbeat and returns its number.
    pub async fn beat(&self, flush: Flush) -> anyhow::Result<u64> {
        let epoch = self
            .local
            .borrow()
            .epoch
            .context("the database is not prepared yet")?;
        let floor = self
            .beat_floor()
            .context("this agent has not looked at its slots yet; try again in a moment")?;
        Ok(self.postgres.beat(self.id(), epoch, floor, flush).await?)
    }

    /// This node's UUID.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.identity.node()
    }

    /// The founding machine.
    pub fn founding(&self) -> MutexGuard<'_, Founding> {
        self.founding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event with the time of now.
    pub fn event(&self, severity: Severity, kind: &str, text: impl Into<String>) {
        let at = self.clocks.wall();
        self.events.record(Event {
            at,
            severity,
            kind: kind.to_owned(),
            text: text.into(),
        });
    }

    /// Where this node is reached, once its address is known.
    #[must_use]
    pub fn endpoints(&self) -> Option<Endpoints> {
        let address = (*self.address.borrow())?;
        let network = &self.settings.network;
        Some(Endpoints {
            grpc: SocketAddr::new(address, network.grpc_port),
            gossip: SocketAddr::new(address, network.gossip_port),
            postgres: SocketAddr::new(address, self.settings.postgres.port),
        })
    }

    /// What this node says of itself to nodes it shares no cluster with yet. `None` until its
    /// database and its address are known.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        let local = *self.local.borrow();
        let cluster = self.knowledge.with_roster(|roster| roster.decree.cluster);
        Some(Hello {
            node: self.id(),
            name: self.settings.node.name.clone(),
            cluster_name: self.settings.policy.cluster_name.clone(),
            endpoints: self.endpoints()?,
            generation: self.identity.generation(),
            epoch: local.epoch?,
            system_identifier: local.system_identifier,
            expect: self.settings.policy.expect,
            data: local.data,
            cluster,
            enrols: cluster.is_some() && self.holds_authority(),
            promised: None,
            known: self.known_addresses(),
        })
    }

    /// Does this node hold the CA?
    #[must_use]
    pub fn holds_authority(&self) -> bool {
        self.with_authority(|_| ()).is_some()
    }

    /// Uses the CA, where this node holds it.
    pub fn with_authority<T>(&self, work: impl FnOnce(&Authority) -> T) -> Option<T> {
        let authority = self
            .authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        authority.as_ref().map(work)
    }

    /// Takes the CA.
    pub fn set_authority(&self, authority: Authority) {
        let mut held = self
            .authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Some(authority);
    }

    /// The gossip keys.
    pub fn keys(&self) -> anyhow::Result<Keyring> {
        self.keyring
            .borrow()
            .clone()
            .context("this node has no gossip keys yet")
    }

    /// Counts the use of a token; a count that can't be kept is no reason to refuse a member.
    pub fn count_token(&self, token: &TokenId, by: NodeId) {
        if let Err(error) = self.tokens.count_use(token, by) {
            warn!("the use of a join token could not be counted: {error}");
        }
        self.tokens_changed.notify_one();
    }

    /// The last look at the local server that succeeded.
    #[must_use]
    pub fn last_facts(&self) -> Option<Arc<PostgresFacts>> {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps a look at the local server.
    pub fn remember(&self, facts: &PostgresFacts) {
        let data = if facts.has_rows {
            DataHeld::Rows
        } else {
            DataHeld::Empty
        };
        let local = LocalFacts {
            epoch: facts.epoch,
            system_identifier: facts.system_identifier,
            data: if facts.epoch.is_some() {
                data
            } else {
                DataHeld::Unknown
            },
        };
        let changed = self.local.send_if_modified(|known| {
            let changed = *known != local;
            *known = local;
            changed
        });
        if changed {
            self.founding_changed.notify_one();
        }
        let mut kept = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_deref() != Some(facts) {
            *kept = Some(Arc::new(facts.clone()));
        }
    }

    fn known_addresses(&self) -> Vec<(NodeId, SocketAddr)> {
        let members = self.knowledge.with_roster(|roster| {
            let records = roster.records.values();
            records
                .map(|record| (record.node, record.endpoints.grpc))
                .collect()
        });
        members.unwrap_or_default()
    }
}

/// The report before the first look.
fn first_report(parts: &Parts) -> StatusReport {
    let now = parts.clocks.now();
    let life = parts.knowledge.life();
    let observed = Observed {
        postgres: Fact::Unknown("it has not been looked at yet".to_owned()),
        peers: BTreeMap::new(),
        wal_disk: Fact::Unknown("it has not been looked at yet".to_owned()),
        exports: Vec::new(),
        clock: ClockView::default(),
        settled: None,
    };
    let inputs = Inputs {
        now: now.mono,
        me: parts.identity.node(),
        policy: &parts.settings.policy,
        life: &life,
        roster: None,
        observed: &observed,
        memory: &Memory::default(),
        catalogs: &BTreeMap::new(),
        dsns: &BTreeMap::new(),
    };
    let around = Surroundings {
        answered_by: AnsweredBy {
            node: parts.identity.node(),
            name: parts.settings.node.name.to_string(),
            at: now.wall,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
        },
        generation: parts.identity.generation(),
        since: now.wall,
        ages_ms: BTreeMap::new(),
        certificate_expires: None,
        founding: None,
        founding_waiting: Vec::new(),
        findings: Vec::new(),
        rows: RowsView::default(),
        progress: None,
        proofs: None,
        backup: None,
        conflicts: ConflictsReport::default(),
    };
    report(&inputs, &Plan::default(), around)
}
