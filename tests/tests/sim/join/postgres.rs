//! A model of one PostgreSQL server with pglogical, down to its WAL: as much as a join rests on,
//! with the flaws that were measured on the real thing.
//!
//! What is applied is checked against the truth at once: every change carries the number its
//! writer gave it, so a stream that skips one, or brings one twice, shows where it happens.

use pgaa_core::ids::NodeId;
use pgaa_core::join::Forward;
use std::collections::{BTreeMap, BTreeSet};

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Insert(u32, u64),
    Update(u32, u64),
    Delete(u32),
    /// The writer's heartbeat has this number.
    Beat(u64),
}

/// A commit in a server's WAL.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub begin: u64,
    pub end: u64,
    /// From which provider it was applied, and where it ends in that provider's WAL.
    pub origin: Option<(usize, u64)>,
    /// When it was first committed, by the clock of whoever did; replication keeps it.
    pub time: u64,
    pub change: Change,
    /// The truth, which no real server knows: who wrote it, and the number of that application's
    /// change, or of the last one before a heartbeat.
    pub writer: usize,
    pub number: u64,
}

/// By whom a row was written, as far as conflict resolution can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Local,
    Copy,
    Stream(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub value: u64,
    pub time: u64,
    pub via: Via,
}

/// A slot, from which one subscriber reads.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub confirmed: u64,
    /// The connection that has it. It may be dead without anybody having noticed.
    pub sender: Option<u64>,
    /// Tells it from others of the same name.
    pub born: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    Off,
    /// It connects at the time of an event that carries this number.
    Waiting(u64),
    /// How far it has read, and over which connection.
    Running {
        at: u64,
        connection: u64,
    },
}

/// A subscription; the provider's number is its key.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub enabled: bool,
    pub forward: Forward,
    /// The origin's progress in the provider's WAL; 0 when nothing was applied.
    pub progress: u64,
    pub worker: Worker,
    /// Is the event that carries changes over on its way?
    pub pending: bool,
}

/// What a commit that is not on disk yet has changed, to take it back in a crash.
#[derive(Debug, Clone, Copy)]
struct Undo {
    begin: u64,
    row: Option<(u32, Option<Row>)>,
    beat: Option<(usize, Option<u64>)>,
    arrived: (usize, Option<u64>),
    progress: Option<(usize, u64)>,
}

/// One server. What applications commit survives its crashes. What its workers apply, and its
/// agent's ordinary heartbeats, does when it was flushed: they commit without waiting for the disk.
#[derive(Debug, Clone)]
pub struct Server {
    pub up: bool,
    pub wal: Vec<Record>,
    pub rows: BTreeMap<u32, Row>,
    pub beats: BTreeMap<usize, u64>,
    pub slots: BTreeMap<usize, Slot>,
    pub subscriptions: BTreeMap<usize, Subscription>,
    pub gate_open: bool,
    pub replicates: bool,
    pub admitted: BTreeSet<NodeId>,
    /// The truth: the number of the last change of each writer that arrived here.
    pub arrived: BTreeMap<usize, u64>,
    end: u64,
    slots_made: u64,
    /// The last commits, which are not on disk yet.
    unflushed: Vec<Undo>,
    /// Is the WAL writer about to flush?
    pub flushes: bool,
}

/// A snapshot, as a slot exports it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub position: u64,
    pub rows: BTreeMap<u32, Row>,
    pub arrived: BTreeMap<usize, u64>,
}

impl Server {
    /// An empty server whose WAL begins somewhere: positions of two servers mean nothing to one
    /// another.
    pub fn new(begin: u64) -> Server {
        Server {
            up: true,
            wal: Vec::new(),
            rows: BTreeMap::new(),
            beats: BTreeMap::new(),
            slots: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            gate_open: false,
            replicates: true,
            admitted: BTreeSet::new(),
            arrived: BTreeMap::new(),
            end: begin,
            slots_made: 0,
            unflushed: Vec::new(),
            flushes: false,
        }
    }

    /// Puts everything on disk.
    pub fn flush(&mut self) {
        self.unflushed.clear();
    }

    /// Is anything not on disk yet?
    pub fn is_ahead_of_disk(&self) -> bool {
        !self.unflushed.is_empty()
    }

    /// What is on disk, and so may be sent.
    pub fn flushed(&self) -> &[Record] {
        &self.wal[..self.wal.len() - self.unflushed.len()]
    }

    /// The number of the last change of a writer that is on disk here.
    pub fn safe(&self, writer: usize) -> u64 {
        let mut undone = self.unflushed.iter();
        let first = undone.find(|undo| undo.arrived.0 == writer);
        let safe = first.map_or(self.arrived.get(&writer).copied(), |undo| undo.arrived.1);
        safe.unwrap_or(0)
    }

    /// The server is killed: what is not on disk is gone.
    pub fn crash(&mut self) -> usize {
        let undone = std::mem::take(&mut self.unflushed);
        self.wal.truncate(self.wal.len() - undone.len());
        for undo in undone.iter().rev() {
            self.end = undo.begin;
            if let Some((key, row)) = undo.row {
                restore(&mut self.rows, key, row);
            }
            if let Some((writer, number)) = undo.beat {
                restore(&mut self.beats, writer, number);
            }
            restore(&mut self.arrived, undo.arrived.0, undo.arrived.1);
            let progress = undo.progress;
            if let Some((provider, at)) = progress
                && let Some(subscription) = self.subscriptions.get_mut(&provider)
            {
                subscription.progress = at;
            }
        }
        undone.len()
    }

    /// What is to be taken back when a commit is lost.
    fn undo(&self, change: Change, writer: usize, provider: Option<usize>) -> Undo {
        let key = match change {
            Change::Insert(key, _) | Change::Update(key, _) | Change::Delete(key) => Some(key),
            Change::Beat(_) => None,
        };
        let beat = key.is_none();
        let progress = |of: usize| self.subscriptions.get(&of).map(|s| (of, s.progress));
        Undo {
            begin: self.end,
            row: key.map(|key| (key, self.rows.get(&key).copied())),
            beat: beat.then(|| (writer, self.beats.get(&writer).copied())),
            arrived: (writer, self.arrived.get(&writer).copied()),
            progress: provider.and_then(progress),
        }
    }

    /// Where the next record begins.
    pub fn end(&self) -> u64 {
        self.end
    }

    fn log(&mut self, mut record: Record) {
        record.begin = self.end;
        self.end += 8 + record.time % 41;
        record.end = self.end;
        self.wal.push(record);
    }

    /// A commit of an application, or of the agent, on this server. Only a heartbeat may be on disk
    /// later than that.
    pub fn write(&mut self, me: usize, change: Change, time: u64, flush: bool) {
        let undo = self.undo(change, me, None);
        self.unflushed.push(undo);
        let mut number = self.arrived.get(&me).copied().unwrap_or(0);
        if !matches!(change, Change::Beat(_)) {
            number += 1;
            self.arrived.insert(me, number);
        }
        let row = |value| Row {
            value,
            time,
            via: Via::Local,
        };
        match change {
            Change::Insert(key, value) | Change::Update(key, value) => {
                self.rows.insert(key, row(value));
            }
            Change::Delete(key) => {
                self.rows.remove(&key);
            }
            Change::Beat(beat) => {
                self.beats.insert(me, beat);
            }
        }
        self.log(Record {
            begin: 0,
            end: 0,
            origin: None,
            time,
            change,
            writer: me,
            number,
        });
        if flush {
            self.flush();
        }
    }

    /// Applies a provider's commit, with last_update_wins. Fails when the truth says that one
    /// was skipped, unless there is a gap before it, or comes again.
    pub fn apply(&mut self, provider: usize, record: &Record, gap: bool) -> Result<(), String> {
        let had = self.arrived.get(&record.writer).copied().unwrap_or(0);
        // Heartbeats are written before anybody reads here; they have no number of their own.
        let beat = matches!(record.change, Change::Beat(_));
        if !beat && record.number != had + 1 && !gap {
            return Err(format!(
                "the stream from {provider} brought change {} of {} after change {had}",
                record.number, record.writer
            ));
        }
        let undo = self.undo(record.change, record.writer, Some(provider));
        self.unflushed.push(undo);
        if !beat {
            self.arrived.insert(record.writer, record.number);
        }
        let via = Via::Stream(provider);
        let have = |rows: &BTreeMap<u32, Row>, key| rows.get(&key).copied();
        // Between equal origins pglogical resolves nothing; else the later one wins.
        let wins = |row: Row| row.via == via || record.time >= row.time;
        match record.change {
            Change::Insert(key, value) => {
                if have(&self.rows, key).is_none_or(wins) {
                    self.put(key, value, (record.time, via));
                }
            }
            Change::Update(key, value) => {
                if have(&self.rows, key).is_some_and(wins) {
                    self.put(key, value, (record.time, via));
                }
            }
            // Without a look at the time.
            Change::Delete(key) => {
                self.rows.remove(&key);
            }
            Change::Beat(number) => {
                self.beats.insert(record.writer, number);
            }
        }
        self.log(Record {
            origin: Some((provider, record.end)),
            ..*record
        });
        if let Some(subscription) = self.subscriptions.get_mut(&provider) {
            subscription.progress = record.end;
        }
        Ok(())
    }

    fn put(&mut self, key: u32, value: u64, (time, via): (u64, Via)) {
        self.rows.insert(key, Row { value, time, via });
    }

    /// A new slot starts here and now.
    pub fn create_slot(&mut self, subscriber: usize) -> u64 {
        // It waits for a record of its own to be read, and only what is on disk is.
        self.flush();
        self.slots_made += 1;
        let slot = Slot {
            confirmed: self.end,
            sender: None,
            born: self.slots_made,
        };
        self.slots.insert(subscriber, slot);
        self.end
    }

    pub fn snapshot(&self, position: u64) -> Snapshot {
        Snapshot {
            position,
            rows: self.rows.clone(),
            arrived: self.arrived.clone(),
        }
    }

    /// Rows come in by COPY, under a copy origin and with an old time.
    pub fn copy_in(&mut self, snapshot: &Snapshot) {
        self.flush();
        let old = |(key, row): (&u32, &Row)| {
            let copied = Row {
                value: row.value,
                time: 0,
                via: Via::Copy,
            };
            (*key, copied)
        };
        self.rows = snapshot.rows.iter().map(old).collect();
        self.arrived.clone_from(&snapshot.arrived);
    }

    /// For each origin the last commit in the WAL that begins at `since` and ends at `until`.
    pub fn origin_positions(&self, since: u64, until: u64) -> BTreeMap<usize, u64> {
        let records = self
            .flushed()
            .iter()
            .filter(|record| record.begin >= since && record.end <= until);
        records.filter_map(|record| record.origin).collect()
    }
}

fn restore<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
