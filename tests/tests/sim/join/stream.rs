//! Replication streams: workers that connect and carry changes over, each edge at its own pace.

use super::postgres::{Change, Record, Subscription, Worker};
use super::world::{Event, World};
use pgaa_core::join::Forward;
use pgaa_core::life::Stage;
use pgaa_core::record::JoinPhase;
use rand::RngExt;

/// How long a worker that failed waits, unless it is kicked, ms.
const BACK_OFF: (u64, u64) = (4_000, 5_000);
/// How long a worker takes to start after it was enabled or kicked, ms.
const START: (u64, u64) = (10, 120);
/// How long a dead connection is taken for a living one, ms.
const HALF_OPEN: (u64, u64) = (2_000, 9_000);
/// How long a stream that stalls does so, ms.
const STALL: (u64, u64) = (100, 4_000);
/// One flush in so many moves a slot.
const CONFIRMS: u32 = 2;
/// How long what was applied may be in memory alone, ms: three rounds of the WAL writer.
const FLUSH: (u64, u64) = (1, 600);
/// And where the disk is busy.
const SLOW_FLUSH: (u64, u64) = (1_000, 6_000);

impl World {
    fn subscription(&mut self, subscriber: usize, provider: usize) -> Option<&mut Subscription> {
        let server = &mut self.nodes[subscriber].server;
        server.subscriptions.get_mut(&provider)
    }

    /// The worker of a subscription is to connect, soon or after a pause. A connection it has
    /// ends; the provider learns of it at once, or late.
    pub fn restart_worker(&mut self, subscriber: usize, provider: usize, soon: bool) {
        self.hang_up(subscriber, provider);
        let number = self.next();
        let enabled = match self.subscription(subscriber, provider) {
            Some(subscription) if subscription.enabled => {
                subscription.worker = Worker::Waiting(number);
                true
            }
            Some(_) | None => false,
        };
        if enabled {
            let event = Event::Connect {
                subscriber,
                provider,
                number,
            };
            self.within(if soon { START } else { BACK_OFF }, event);
        }
    }

    /// A subscriber ends its connection, if it has one.
    pub fn hang_up(&mut self, subscriber: usize, provider: usize) {
        let Some(subscription) = self.subscription(subscriber, provider) else {
            return;
        };
        let worker = std::mem::replace(&mut subscription.worker, Worker::Off);
        subscription.pending = false;
        let Worker::Running { connection, .. } = worker else {
            return;
        };
        let told = self.linked(subscriber, provider);
        let notice = Event::Notice {
            subscriber,
            provider,
            connection,
        };
        self.within(if told { (0, 3) } else { HALF_OPEN }, notice);
    }

    /// A provider ends the connection of one of its readers, which learns of it at once, or late.
    pub fn cast_off(&mut self, provider: usize, subscriber: usize) {
        let slot = self.nodes[provider].server.slots.get_mut(&subscriber);
        let Some(connection) = slot.and_then(|slot| slot.sender.take()) else {
            return;
        };
        let told = self.linked(subscriber, provider);
        let notice = Event::Notice {
            subscriber,
            provider,
            connection,
        };
        self.within(if told { (0, 3) } else { HALF_OPEN }, notice);
    }

    /// An end of a connection that is dead, if it is, gives it up.
    pub fn notice(&mut self, (subscriber, provider): (usize, usize), connection: u64) {
        let slot = self.nodes[provider].server.slots.get(&subscriber);
        let sends = slot.is_some_and(|slot| slot.sender == Some(connection));
        let reads = self.reads(subscriber, provider, connection);
        if sends && reads && self.linked(subscriber, provider) {
            return;
        }
        if sends && let Some(slot) = self.nodes[provider].server.slots.get_mut(&subscriber) {
            slot.sender = None;
        }
        if reads {
            self.restart_worker(subscriber, provider, false);
        }
    }

    fn reads(&self, subscriber: usize, provider: usize, number: u64) -> bool {
        let subscription = self.nodes[subscriber].server.subscriptions.get(&provider);
        subscription.is_some_and(|s| match s.worker {
            Worker::Running { connection, .. } => connection == number,
            Worker::Off | Worker::Waiting(_) => false,
        })
    }

    /// A link has broken: both ends of what crossed it will notice, each in its time.
    pub fn cut_streams(&mut self, a: usize, b: usize) {
        for (subscriber, provider) in [(a, b), (b, a)] {
            let Some(Worker::Running { connection, .. }) =
                self.subscription(subscriber, provider).map(|s| s.worker)
            else {
                continue;
            };
            for _ in 0..2 {
                let notice = Event::Notice {
                    subscriber,
                    provider,
                    connection,
                };
                self.within(HALF_OPEN, notice);
            }
        }
    }

    /// A worker connects: where its origin is, but never before its slot.
    pub fn connect(&mut self, subscriber: usize, provider: usize, number: u64) {
        let waits = Worker::Waiting(number);
        let serves = self.serves(subscriber, provider);
        let up = self.nodes[subscriber].server.up;
        let progress = match self.subscription(subscriber, provider) {
            Some(subscription) if subscription.enabled && subscription.worker == waits => {
                subscription.progress
            }
            Some(_) | None => return,
        };
        let connection = self.next();
        let slot = self.nodes[provider].server.slots.get_mut(&subscriber);
        let free = slot.filter(|slot| slot.sender.is_none() && serves && up);
        let Some(slot) = free else {
            self.restart_worker(subscriber, provider, false);
            return;
        };
        slot.sender = Some(connection);
        let at = progress.max(slot.confirmed);
        if let Some(subscription) = self.subscription(subscriber, provider) {
            subscription.worker = Worker::Running { at, connection };
        }
        self.note(|| format!("{subscriber} reads {provider} from {at} (origin {progress})"));
        self.carry_soon(subscriber, provider);
    }

    /// Something was committed on a server: whoever reads it will have it.
    pub fn wake_readers(&mut self, provider: usize) {
        let readers: Vec<usize> = self.nodes[provider].server.slots.keys().copied().collect();
        for subscriber in readers {
            self.carry_soon(subscriber, provider);
        }
    }

    fn carry_soon(&mut self, subscriber: usize, provider: usize) {
        let Some(subscription) = self.subscription(subscriber, provider) else {
            return;
        };
        let Worker::Running { connection, .. } = subscription.worker else {
            return;
        };
        if subscription.pending {
            return;
        }
        subscription.pending = true;
        let stalls = self.unlucky(self.story.stalls);
        let event = Event::Carry {
            subscriber,
            provider,
            connection,
        };
        self.within(if stalls { STALL } else { (1, 30) }, event);
    }

    /// A stream carries some changes over.
    pub fn carry(&mut self, subscriber: usize, provider: usize, connection: u64) {
        if !self.reads(subscriber, provider, connection) {
            return;
        }
        let alive = self.serves(subscriber, provider);
        let Some(subscription) = self.subscription(subscriber, provider) else {
            return;
        };
        subscription.pending = false;
        let (forward, worker) = (subscription.forward, subscription.worker);
        let Worker::Running { mut at, .. } = worker else {
            return;
        };
        if !alive {
            return;
        }
        let batch = self.rng.random_range(1..12);
        let wal = self.nodes[provider].server.flushed();
        let from = wal.partition_point(|record| record.end <= at);
        let records: Vec<Record> = wal[from..].iter().take(batch).copied().collect();
        let more = wal.len() > from + records.len();
        for record in &records {
            at = record.end;
            if forward == Forward::All || record.origin.is_none() {
                self.apply(subscriber, provider, record);
            }
        }
        if let Some(subscription) = self.subscription(subscriber, provider) {
            subscription.worker = Worker::Running { at, connection };
        }
        self.flush_soon(subscriber);
        if more {
            self.carry_soon(subscriber, provider);
        }
    }

    fn apply(&mut self, subscriber: usize, provider: usize, record: &Record) {
        let gap = self.tolerates(subscriber, provider, record);
        let server = &mut self.nodes[subscriber].server;
        if let Err(text) = server.apply(provider, record, gap) {
            self.accuse(format!("on {subscriber}: {text}"));
        }
        if !matches!(record.change, Change::Beat(_)) {
            self.count("changes applied");
        }
    }

    /// May changes be missing before this one? On a ready node that lacks what its provider has
    /// lost, and on a joiner that starts over: what an attempt has left follows whom it can.
    fn tolerates(&mut self, subscriber: usize, provider: usize, record: &Record) -> bool {
        let reader = &self.nodes[subscriber];
        let next = reader
            .server
            .arrived
            .get(&record.writer)
            .map_or(1, |had| had + 1);
        let beat = matches!(record.change, Change::Beat(_));
        let filling = matches!(
            reader.agent.life.stage,
            Stage::Joining(JoinPhase::Leasing | JoinPhase::Copying | JoinPhase::CatchingUp)
        );
        if filling && !beat && record.number != next {
            self.tainted.insert(subscriber);
            return true;
        }
        self.lost.contains_key(&(subscriber, provider)) && record.number > next
    }

    /// The WAL writer puts on disk what was committed without waiting for it, in its time.
    pub fn flush_soon(&mut self, node: usize) {
        let server = &mut self.nodes[node].server;
        if server.is_ahead_of_disk() && !std::mem::replace(&mut server.flushes, true) {
            let slow = self.slow(self.story.slow_disks);
            self.within(if slow { SLOW_FLUSH } else { FLUSH }, Event::Flush { node });
        }
    }

    /// What was applied is on disk: whoever reads here may have it, and the providers are told, now
    /// and then, how far this server is.
    pub fn flush(&mut self, node: usize) {
        let server = &mut self.nodes[node].server;
        server.flushes = false;
        if !server.up {
            return;
        }
        server.flush();
        self.wake_readers(node);
        let reads = self.nodes[node].server.subscriptions.iter();
        let reads: Vec<(usize, Worker)> = reads.map(|(from, s)| (*from, s.worker)).collect();
        for (provider, worker) in reads {
            let told = self.serves(node, provider) && self.rng.random_ratio(1, CONFIRMS);
            let slot = self.nodes[provider].server.slots.get_mut(&node);
            if let (true, Worker::Running { at, connection }, Some(slot)) = (told, worker, slot)
                && slot.sender == Some(connection)
            {
                slot.confirmed = slot.confirmed.max(at);
            }
        }
    }

    /// An agent drops a slot that nobody relies on, and whoever reads it loses its connection.
    pub fn drop_slot(&mut self, provider: usize, subscriber: usize) {
        self.remove_slot(provider, subscriber);
        let name = self.slots[subscriber][provider].clone();
        self.nodes[provider].agent.births.forget(&name);
        self.edges_are_sound();
    }

    fn remove_slot(&mut self, provider: usize, subscriber: usize) {
        self.cast_off(provider, subscriber);
        self.nodes[provider].server.slots.remove(&subscriber);
    }

    /// Somebody drops the slot by which one ready node reads another, and perhaps makes it anew:
    /// then what comes next arrives, and nothing shows that something is missing.
    pub fn lose_slot(&mut self, provider: usize, subscriber: usize, anew: bool) {
        let ready = |node: usize| self.nodes[node].agent.life.stage == Stage::Ready;
        let both = ready(provider) && ready(subscriber) && self.nodes[provider].server.up;
        let there = self.nodes[provider].server.slots.contains_key(&subscriber);
        if provider == subscriber || !both || !there {
            return;
        }
        self.note(|| format!("{provider} loses the slot of {subscriber}; anew: {anew}"));
        self.count(if anew {
            "slots made anew"
        } else {
            "slots lost"
        });
        self.lost.insert((subscriber, provider), self.now);
        self.remove_slot(provider, subscriber);
        if anew {
            self.nodes[provider].server.create_slot(subscriber);
        }
    }

    /// Drops a subscription; pglogical drops its slot as well, if the provider answers.
    pub fn drop_subscription(&mut self, subscriber: usize, provider: usize) {
        self.hang_up(subscriber, provider);
        let server = &mut self.nodes[subscriber].server;
        if server.subscriptions.remove(&provider).is_some() && self.serves(subscriber, provider) {
            self.drop_slot(provider, subscriber);
        }
        self.edges_are_sound();
    }

    /// Makes a subscription, which starts where its slot does, or where it is told.
    pub fn subscribe(
        &mut self,
        (subscriber, provider): (usize, usize),
        forward: Forward,
    ) -> Result<(), String> {
        if !self.serves(subscriber, provider) {
            return Err(format!("{provider} does not answer"));
        }
        let server = &mut self.nodes[subscriber].server;
        if server.subscriptions.contains_key(&provider) {
            return Err("there is such a subscription already".to_owned());
        }
        let made = Subscription {
            enabled: false,
            forward,
            progress: 0,
            worker: Worker::Off,
            pending: false,
        };
        server.subscriptions.insert(provider, made);
        Ok(())
    }

    pub fn enable(&mut self, subscriber: usize, provider: usize, enabled: bool) {
        if let Some(subscription) = self.subscription(subscriber, provider) {
            let before = std::mem::replace(&mut subscription.enabled, enabled);
            match (before, enabled) {
                (false, true) => self.restart_worker(subscriber, provider, true),
                (true, false) => self.hang_up(subscriber, provider),
                (true, true) | (false, false) => {}
            }
        }
    }
}
