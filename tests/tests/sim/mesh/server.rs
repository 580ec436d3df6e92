//! A model of PostgreSQL with pglogical, as far as a mesh can see it, with its flaws.
//!
//! Flaws that are modelled, each measured on the real thing: a worker that fails waits longer
//! each time, up to three minutes, unless it is kicked; a stream that was cut hangs half-open on
//! both sides, looks alive, and holds its slot; a stream whose start lies before its slot's says
//! nothing of the gap; dropping a subscription leaves the slot on a provider out of reach.

mod acts;
pub mod disk;
mod stream;

use crate::world::Links;
use pgaa_core::history::SLIP;
use pgaa_core::ids::{DataEpoch, Lsn, NodeId};
use pgaa_core::observed::{
    Fact, HeartbeatFacts, PostgresFacts, SlotFacts, SubscriptionFacts, TableFacts,
};
use pgaa_core::time::{Mono, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// The shortest and longest pause of a worker that has failed.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(180));

/// How long a half-open connection lasts on either side.
const HALF_OPEN_FOR: Duration = Duration::from_secs(60);

/// How long a worker takes to start after its subscription was enabled.
const WORKER_START: Duration = Duration::from_millis(60);

/// Applications write this often to each node that lets them.
const WRITE_EVERY: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Heartbeat(u64),
    Row(u64),
}

#[derive(Debug, Clone)]
struct Slot {
    confirmed: usize,
    sender: Option<Sender>,
}

/// The process that serves the reader of a slot.
#[derive(Debug, Clone, Copy)]
struct Sender {
    pid: i32,
    /// Which server reads.
    by: usize,
    /// When it gives up, if the connection is dead.
    until: Option<Mono>,
}

#[derive(Debug, Clone, Copy)]
enum Worker {
    Waiting {
        next: Mono,
        pause: Duration,
    },
    /// Since when the connection has been dead, if it is, or until when it stays silent.
    Running {
        dead_since: Option<Mono>,
        silent_until: Mono,
    },
}

#[derive(Debug, Clone)]
struct Subscription {
    provider: usize,
    provider_name: String,
    slot: String,
    dsn: String,
    enabled: bool,
    origin: usize,
    worker: Worker,
}

/// One server.
#[derive(Debug, Clone)]
pub struct Server {
    node: NodeId,
    epoch: DataEpoch,
    address: SocketAddr,
    /// Does it run?
    pub up: bool,
    prepared: bool,
    /// Do applications get in?
    pub gate_open: bool,
    admitted: BTreeSet<NodeId>,
    local: Option<(String, String)>,
    replicates_table: bool,
    wal: Vec<Entry>,
    rows_written: u64,
    slots: BTreeMap<String, Slot>,
    subscriptions: BTreeMap<String, Subscription>,
    heartbeats: BTreeMap<NodeId, (DataEpoch, u64, Mono)>,
    /// How many rows of each other server have arrived. They arrive in order, each once.
    arrived: BTreeMap<usize, u64>,
    next_write: Mono,
    pub disk: disk::Disk,
    /// Do its workers run without applying anything?
    pub stuck: bool,
    /// Where it was put back to an earlier state: what follows differs from what it had written.
    forked_at: Option<usize>,
    /// Where its WAL ended when it last stopped: a record that was being flushed is cut off.
    cut_at: Option<usize>,
}

/// All servers, and the wires between them.
#[derive(Debug, Default)]
pub struct Servers {
    /// By machine.
    pub all: Vec<Server>,
    /// Do applications write?
    pub applications: bool,
    /// What went wrong for good: rows lost, or twice.
    pub wrong: Option<String>,
    /// Slots that were dropped because a disk was about to fill.
    pub given_up: Vec<disk::GivenUp>,
    /// How many senders there have been.
    pub(super) senders: i32,
}

impl Server {
    /// A server right after its first start. One with rows of its own serves its applications.
    pub fn new((node, epoch): (NodeId, DataEpoch), address: SocketAddr, rows: u64) -> Server {
        Server {
            node,
            epoch,
            address,
            up: true,
            prepared: false,
            gate_open: rows > 0,
            admitted: BTreeSet::new(),
            local: None,
            replicates_table: false,
            wal: (1..=rows).map(Entry::Row).collect(),
            rows_written: rows,
            slots: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            arrived: BTreeMap::new(),
            next_write: Mono(0),
            disk: disk::Disk::of(u64::MAX / 4),
            stuck: false,
            forked_at: None,
            cut_at: None,
        }
    }

    /// Does it follow the server of another machine?
    pub fn follows(&self, machine: usize) -> bool {
        let mut subscriptions = self.subscriptions.values();
        subscriptions.any(|s| s.enabled && s.provider == machine)
    }

    /// Does it follow any?
    pub fn follows_anybody(&self) -> bool {
        self.subscriptions.values().any(|s| s.enabled)
    }

    /// How far its WAL is flushed: into the next record, unless a crash has just cut it off.
    fn flushed(&self) -> Lsn {
        let end = position(self.wal.len());
        match self.cut_at {
            Some(cut) if cut == self.wal.len() => end,
            Some(_) | None => Lsn(end.0 + SLIP),
        }
    }

    fn write_heartbeat(&mut self, floor: u64, now: Mono) -> u64 {
        let last = self
            .heartbeats
            .get(&self.node)
            .map_or(0, |(_, number, _)| *number);
        let number = last.max(floor) + 1;
        self.heartbeats.insert(self.node, (self.epoch, number, now));
        self.wal.push(Entry::Heartbeat(number));
        number
    }
}

impl Slot {
    fn at(confirmed: usize) -> Slot {
        Slot {
            confirmed,
            sender: None,
        }
    }

    fn read_by(&self, machine: usize) -> bool {
        self.sender.is_some_and(|sender| sender.by == machine)
    }

    /// A reader has closed its connection; a sender that isn't told waits for its time-out.
    fn left(&mut self, machine: usize, told: bool, now: Mono) {
        let until = Some(now.plus(HALF_OPEN_FOR));
        if self.read_by(machine) {
            self.sender = self.sender.filter(|_| !told);
            self.sender.iter_mut().for_each(|s| s.until = until);
        }
    }
}

fn slot_name(provider: &str, subscription: &str) -> String {
    format!("pgl_shop_{provider}_{subscription}")
}

impl Servers {
    fn at(&self, dsn: &str) -> Option<usize> {
        self.all
            .iter()
            .position(|server| server.address.to_string() == dsn)
    }

    /// The machine has another address now.
    pub fn moved(&mut self, machine: usize, address: SocketAddr) {
        self.all[machine].address = address;
    }

    /// A server that has stopped is put back to an earlier state.
    pub fn put_back(&mut self, machine: usize, earlier: Server, now: Mono) {
        let address = self.all[machine].address;
        let forked_at = Some(earlier.wal.len());
        self.all[machine] = Server {
            address,
            up: false,
            forked_at,
            next_write: now,
            ..earlier
        };
    }

    /// Stops or starts a server. What it had open is closed; whoever can't be told notices late.
    pub fn set_up(&mut self, machine: usize, up: bool, now: Mono, links: &Links) {
        let server = &mut self.all[machine];
        server.up = up;
        server.cut_at = Some(server.wal.len());
        for subscription in server.subscriptions.values_mut() {
            let next = now.plus(WORKER_START);
            subscription.worker = Worker::Waiting {
                next,
                pause: BACK_OFF.0,
            };
        }
        for slot in server.slots.values_mut() {
            slot.sender = None;
        }
        for (provider, server) in self.all.iter_mut().enumerate() {
            let told = links.connected(machine, provider);
            for slot in server.slots.values_mut() {
                slot.left(machine, told, now);
            }
        }
    }

    /// What one look at a server finds.
    pub fn look(&self, machine: usize, now: Mono) -> Fact<PostgresFacts> {
        let server = &self.all[machine];
        if !server.up {
            return Fact::Unknown("connection refused".to_owned());
        }
        let beat = |(epoch, number, at): &(DataEpoch, u64, Mono)| HeartbeatFacts {
            epoch: *epoch,
            number: *number,
            sent_at: Wall(at.0 as i64),
            lag_ms: 1,
            seen_at: now,
        };
        Fact::Known(PostgresFacts {
            version_num: 150_020,
            pglogical: server.prepared.then(|| "2.4.2".to_owned()),
            system_identifier: server.node.0.as_u128() as u64 | 1,
            epoch: server.prepared.then_some(server.epoch),
            wal: server.flushed(),
            local_node: server.local.clone(),
            subscriptions: server
                .subscriptions
                .iter()
                .map(|(n, s)| (n.clone(), facts(s)))
                .collect(),
            slots: server
                .slots
                .iter()
                .map(|(name, s)| (name.clone(), slot_facts(s, self.held_bytes(machine, s))))
                .collect(),
            heartbeats: server
                .heartbeats
                .iter()
                .map(|(node, b)| (*node, beat(b)))
                .collect(),
            tables: vec![TableFacts {
                name: "public.t".to_owned(),
                structure: 1,
                primary_key: true,
                replicated: server.replicates_table,
                plain_sequences: Vec::new(),
                replicable: true,
            }],
            catalog: 1,
            has_rows: server.rows_written > 0 || !server.arrived.is_empty(),
            gate_open: server.gate_open,
            admitted: server.admitted.clone(),
            ..PostgresFacts::default()
        })
    }

    /// Does the subscriber's stream from the provider run, with nothing left to carry?
    pub fn all_carried(&self, subscriber: usize, provider: usize) -> bool {
        let arrived = self.all[subscriber]
            .arrived
            .get(&provider)
            .copied()
            .unwrap_or(0);
        arrived == self.all[provider].rows_written
    }

    /// How many edges a server has: subscriptions, and slots.
    pub fn edges(&self, machine: usize) -> (usize, usize) {
        let server = &self.all[machine];
        (server.subscriptions.len(), server.slots.len())
    }
    /// Is a server there, prepared, and a pglogical node?
    pub fn is_whole(&self, machine: usize) -> bool {
        self.all[machine].up && self.all[machine].local.is_some()
    }
}

/// Where an entry of the WAL begins. Each is larger than what a crash may cost.
fn position(entry: usize) -> Lsn {
    Lsn(entry as u64 * 2 * SLIP)
}

fn facts(subscription: &Subscription) -> SubscriptionFacts {
    SubscriptionFacts {
        provider: subscription.provider_name.clone(),
        slot: subscription.slot.clone(),
        enabled: subscription.enabled,
        worker: matches!(subscription.worker, Worker::Running { .. }),
        forwards_nothing: true,
        sync_status: Some('r'),
        origin: true,
        dsn: subscription.dsn.clone(),
        position: position(subscription.origin),
    }
}

fn slot_facts(slot: &Slot, retained_bytes: u64) -> SlotFacts {
    SlotFacts {
        active: slot.sender.is_some(),
        sender: slot.sender.map(|sender| sender.pid),
        wal_status: "reserved".to_owned(),
        retained_bytes,
        confirmed: position(slot.confirmed),
        made_anew: false,
    }
}
