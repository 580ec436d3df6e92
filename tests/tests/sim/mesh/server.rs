//! A model of PostgreSQL with pglogical, as far as a mesh can see it, with its flaws.
//!
//! Flaws that are modelled, each measured on the real thing: a worker that fails waits longer
//! each time, up to three minutes, unless it is kicked; a stream that was cut hangs half-open on
//! both sides, looks alive, and holds its slot; a stream whose start lies before its slot's says
//! nothing of the gap; dropping a subscription leaves the slot on a provider out of reach.

use crate::world::Links;
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
    /// Which server reads it, and until when, if that connection is dead.
    sender: Option<(usize, Option<Mono>)>,
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

    /// Stops or starts a server. What it had open is closed; whoever can't be told notices late.
    pub fn set_up(&mut self, machine: usize, up: bool, now: Mono, links: &Links) {
        let server = &mut self.all[machine];
        server.up = up;
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
            let read = |slot: &&mut Slot| slot.sender.is_some_and(|(by, _)| by == machine);
            for slot in server.slots.values_mut().filter(read) {
                let told = links.connected(machine, provider);
                slot.sender = (!told).then(|| (machine, Some(now.plus(HALF_OPEN_FOR))));
            }
        }
    }

    /// Lets applications write and streams flow up to now.
    pub fn pump(&mut self, now: Mono, links: &Links) {
        for server in &mut self.all {
            for slot in server.slots.values_mut() {
                if slot
                    .sender
                    .is_some_and(|(_, until)| until.is_some_and(|until| until <= now))
                {
                    slot.sender = None;
                }
            }
            if !server.up || !server.gate_open || !self.applications {
                server.next_write = now;
            }
            while server.next_write < now {
                server.rows_written += 1;
                server.wal.push(Entry::Row(server.rows_written));
                server.next_write = server.next_write.plus(WRITE_EVERY);
            }
        }
        for machine in 0..self.all.len() {
            if self.all[machine].up {
                let names: Vec<String> = self.all[machine].subscriptions.keys().cloned().collect();
                for name in names {
                    self.turn(machine, &name, now, links);
                }
            }
        }
    }

    /// One turn of the worker of a subscription.
    fn turn(&mut self, machine: usize, name: &str, now: Mono, links: &Links) {
        let subscription = self.all[machine].subscriptions[name].clone();
        if !subscription.enabled {
            return;
        }
        let provider = subscription.provider;
        let there = self.at(&subscription.dsn) == Some(provider);
        let linked = there && links.both_ways(machine, provider);
        let worker = match subscription.worker {
            Worker::Waiting { next, pause } if next <= now => {
                if linked && self.connects(machine, &subscription) {
                    Worker::Running {
                        dead_since: None,
                        silent_until: now,
                    }
                } else {
                    let pause = pause.saturating_mul(2).min(BACK_OFF.1);
                    Worker::Waiting {
                        next: now.plus(pause),
                        pause,
                    }
                }
            }
            Worker::Running {
                dead_since,
                silent_until,
            } => self.stream(
                machine,
                &subscription,
                (dead_since, silent_until),
                linked,
                now,
            ),
            waiting @ Worker::Waiting { .. } => waiting,
        };
        if let Some(subscription) = self.all[machine].subscriptions.get_mut(name) {
            subscription.worker = worker;
        }
    }

    fn connects(&mut self, machine: usize, subscription: &Subscription) -> bool {
        let subscriber = self.all[machine].node;
        let provider = &mut self.all[subscription.provider];
        let Some(slot) = provider.slots.get_mut(&subscription.slot) else {
            return false;
        };
        let free = slot.sender.is_none();
        let welcome = provider.up && provider.admitted.contains(&subscriber) && free;
        if welcome {
            slot.sender = Some((machine, None));
        }
        welcome
    }

    fn stream(
        &mut self,
        machine: usize,
        subscription: &Subscription,
        (dead_since, silent_until): (Option<Mono>, Mono),
        linked: bool,
        now: Mono,
    ) -> Worker {
        let failed = Worker::Waiting {
            next: now.plus(BACK_OFF.0),
            pause: BACK_OFF.0,
        };
        let provider = &mut self.all[subscription.provider];
        if !linked {
            let since = dead_since.unwrap_or(now);
            if now.since(since) >= HALF_OPEN_FOR {
                // The sender has given up as well by then, or soon will.
                if let Some(slot) = provider.slots.get_mut(&subscription.slot) {
                    slot.sender = Some((machine, Some(now.plus(BACK_OFF.0))));
                }
                return failed;
            }
            return Worker::Running {
                dead_since: Some(since),
                silent_until,
            };
        }
        let mine = |slot: &&mut Slot| slot.sender.is_some_and(|(by, _)| by == machine);
        let slot = provider.slots.get_mut(&subscription.slot);
        let Some(slot) = slot.filter(mine).filter(|_| provider.up) else {
            return failed;
        };
        if let Some(since) = dead_since {
            // TCP has backed off as long as the wire was dead, and waits as long again.
            slot.sender = Some((machine, None));
            let silent_until = now.plus(now.since(since));
            return Worker::Running {
                dead_since: None,
                silent_until,
            };
        }
        if silent_until <= now {
            let from = slot.confirmed.max(subscription.origin);
            slot.confirmed = provider.wal.len();
            let entries = provider.wal[from.min(provider.wal.len())..].to_vec();
            self.apply(machine, subscription, &entries, now);
        }
        Worker::Running {
            dead_since: None,
            silent_until,
        }
    }

    fn apply(&mut self, machine: usize, from: &Subscription, entries: &[Entry], now: Mono) {
        let (node, epoch) = {
            let provider = &self.all[from.provider];
            (provider.node, provider.epoch)
        };
        let end = self.all[from.provider].wal.len();
        let server = &mut self.all[machine];
        for entry in entries {
            match *entry {
                Entry::Heartbeat(number) => {
                    server.heartbeats.insert(node, (epoch, number, now));
                }
                Entry::Row(number) => {
                    let arrived = server.arrived.entry(from.provider).or_default();
                    if number != *arrived + 1 {
                        self.wrong.get_or_insert(format!(
                            "row {number} of {} arrives on {machine} after row {arrived}",
                            from.provider
                        ));
                    }
                    *arrived = number;
                }
            }
        }
        for subscription in server.subscriptions.values_mut() {
            if subscription.provider == from.provider {
                subscription.origin = end;
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
            wal: Lsn(server.wal.len() as u64),
            local_node: server.local.clone(),
            subscriptions: server
                .subscriptions
                .iter()
                .map(|(n, s)| (n.clone(), facts(s)))
                .collect(),
            slots: server
                .slots
                .iter()
                .map(|(name, s)| (name.clone(), slot_facts(s)))
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

    // What the agent's actions do.

    pub fn prepare(&mut self, machine: usize) {
        self.all[machine].prepared = true;
    }

    pub fn admit(&mut self, machine: usize, members: BTreeSet<NodeId>) {
        self.all[machine].admitted = members;
    }

    pub fn ensure_local_node(&mut self, machine: usize, name: String, dsn: String) {
        self.all[machine].local = Some((name, dsn));
    }

    pub fn add_table(&mut self, machine: usize) {
        self.all[machine].replicates_table = true;
    }

    pub fn beat(&mut self, machine: usize, floor: u64, now: Mono) {
        if self.all[machine].up && self.all[machine].prepared {
            self.all[machine].write_heartbeat(floor, now);
        }
    }

    pub fn create_slot(&mut self, machine: usize, subscription: &str) -> Result<(), String> {
        let server = &mut self.all[machine];
        let (name, _) = server.local.as_ref().ok_or("no local node")?;
        let confirmed = server.wal.len();
        let slot = Slot {
            confirmed,
            sender: None,
        };
        server
            .slots
            .entry(slot_name(name, subscription))
            .or_insert(slot);
        Ok(())
    }

    pub fn drop_slot(&mut self, machine: usize, slot: &str) {
        self.all[machine].slots.remove(slot);
    }

    /// The server asks its provider for its pglogical node, so it must be there and let it in.
    pub fn create_subscription(
        &mut self,
        machine: usize,
        name: &str,
        dsn: &str,
        links: &Links,
    ) -> Result<(), String> {
        let provider = self.at(dsn).ok_or("no route to host")?;
        if !links.both_ways(machine, provider) {
            return Err("timeout expired".to_owned());
        }
        let me = self.all[machine].node;
        let there = &self.all[provider];
        if !there.up || !there.admitted.contains(&me) {
            return Err("the provider lets nobody in".to_owned());
        }
        let (provider_name, _) = there
            .local
            .clone()
            .ok_or("the provider is no pglogical node")?;
        let slot = slot_name(&provider_name, name);
        let server = &mut self.all[machine];
        if server.local.is_none() {
            return Err("no local node".to_owned());
        }
        if server
            .subscriptions
            .values()
            .any(|s| s.provider == provider)
        {
            return Err(format!("a second subscription to {provider}"));
        }
        let worker = Worker::Waiting {
            next: Mono(0),
            pause: BACK_OFF.0,
        };
        let dsn = dsn.to_owned();
        let subscription = Subscription {
            provider,
            provider_name,
            slot,
            dsn,
            enabled: false,
            origin: 0,
            worker,
        };
        server.subscriptions.insert(name.to_owned(), subscription);
        Ok(())
    }

    pub fn drop_subscription(&mut self, machine: usize, name: &str) {
        self.all[machine].subscriptions.remove(name);
    }

    pub fn redirect(&mut self, machine: usize, name: &str, dsn: &str, now: Mono, links: &Links) {
        self.restart_worker(machine, name, now, links);
        if let Some(subscription) = self.all[machine].subscriptions.get_mut(name) {
            subscription.dsn = dsn.to_owned();
        }
    }

    pub fn enable(&mut self, machine: usize, name: &str, now: Mono, links: &Links) {
        self.restart_worker(machine, name, now, links);
        if let Some(subscription) = self.all[machine].subscriptions.get_mut(name) {
            subscription.enabled = true;
        }
    }

    /// Disabled and enabled again: the worker starts anew, and its slot is free if the provider
    /// can be told; else the sender holds it until it gives up.
    pub fn restart_worker(&mut self, machine: usize, name: &str, now: Mono, links: &Links) {
        let Some(subscription) = self.all[machine].subscriptions.get_mut(name) else {
            return;
        };
        let next = now.plus(WORKER_START);
        let pause = BACK_OFF.0;
        let before = std::mem::replace(&mut subscription.worker, Worker::Waiting { next, pause });
        let subscription = subscription.clone();
        let there = self.at(&subscription.dsn) == Some(subscription.provider);
        let told = there && links.connected(machine, subscription.provider);
        let slot = self.all[subscription.provider]
            .slots
            .get_mut(&subscription.slot);
        if let (Worker::Running { dead_since, .. }, Some(slot)) = (before, slot)
            && slot.sender.is_some_and(|(by, _)| by == machine)
        {
            let heard = told && dead_since.is_none();
            slot.sender = (!heard).then(|| (machine, Some(now.plus(HALF_OPEN_FOR))));
        }
    }

    /// Ends whoever reads a slot; a subscriber that lives notices and connects again.
    pub fn end_sender(&mut self, machine: usize, slot: &str) {
        if let Some(slot) = self.all[machine].slots.get_mut(slot) {
            slot.sender = None;
        }
    }

    /// What the join under load amounts to: the joiner holds exactly the rows of every member up
    /// to the slots that were made for it there, and follows from there.
    pub fn join(&mut self, joiner: usize, members: &[(usize, String)]) {
        self.all[joiner].subscriptions.clear();
        self.all[joiner].slots.clear();
        for (member, subscription) in members {
            let Some((provider_name, _)) = self.all[*member].local.clone() else {
                continue;
            };
            let slot = slot_name(&provider_name, subscription);
            let position = self.all[*member].wal.len();
            let made = Slot {
                confirmed: position,
                sender: None,
            };
            self.all[*member].slots.insert(slot.clone(), made);
            let rows = self.all[*member].rows_written;
            let dsn = self.all[*member].address.to_string();
            let server = &mut self.all[joiner];
            server.arrived.insert(*member, rows);
            let subscription_made = Subscription {
                provider: *member,
                provider_name,
                slot,
                dsn,
                enabled: true,
                origin: position,
                worker: Worker::Waiting {
                    next: Mono(0),
                    pause: BACK_OFF.0,
                },
            };
            server
                .subscriptions
                .insert(subscription.clone(), subscription_made);
        }
    }

    /// Is a server there, prepared, and a pglogical node?
    pub fn is_whole(&self, machine: usize) -> bool {
        self.all[machine].up && self.all[machine].local.is_some()
    }
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
    }
}

fn slot_facts(slot: &Slot) -> SlotFacts {
    SlotFacts {
        active: slot.sender.is_some(),
        wal_status: "reserved".to_owned(),
        retained_bytes: 0,
        confirmed: Lsn(slot.confirmed as u64),
    }
}
