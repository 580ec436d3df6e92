//! The disk below a server of the model: WAL stays on it until a checkpoint finds that no slot
//! holds it back. PostgreSQL's own limit is left out: the guard has to do without it.

use super::{Servers, Slot};
use pgaa_core::ids::NodeId;
use pgaa_core::observed::{DiskFacts, Fact};
use pgaa_core::time::Mono;
use std::time::Duration;

/// What each entry of the WAL takes.
pub const ENTRY_BYTES: u64 = 1_000_000;

/// The server writes a checkpoint by itself this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// A disk.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    pub total_bytes: u64,
    /// What others have on it.
    pub other_bytes: u64,
    /// The oldest entry of the WAL that is still there.
    wal_from: usize,
    next_checkpoint: Mono,
}

impl Disk {
    pub fn of(total_bytes: u64) -> Disk {
        Disk {
            total_bytes,
            other_bytes: 0,
            wal_from: 0,
            next_checkpoint: Mono(0),
        }
    }
}

/// A slot that was given up, and how things stood.
#[derive(Debug, Clone, Copy)]
pub struct GivenUp {
    pub machine: usize,
    pub subscriber: NodeId,
    /// What it held back, and the most that any slot there did.
    pub held_bytes: u64,
    pub most_bytes: u64,
    pub disk: DiskFacts,
}

impl Servers {
    fn facts(&self, machine: usize) -> DiskFacts {
        let server = &self.all[machine];
        let disk = server.disk;
        let wal_bytes = (server.wal.len() - disk.wal_from) as u64 * ENTRY_BYTES;
        let used = disk.other_bytes + wal_bytes;
        DiskFacts {
            total_bytes: disk.total_bytes,
            free_bytes: disk.total_bytes.saturating_sub(used),
            wal_bytes,
        }
    }

    /// What one look at the disk finds.
    pub fn disk(&self, machine: usize) -> Fact<DiskFacts> {
        Fact::Known(self.facts(machine))
    }

    /// What a slot holds back.
    pub(super) fn held_bytes(&self, machine: usize, slot: &Slot) -> u64 {
        (self.all[machine].wal.len() - slot.confirmed) as u64 * ENTRY_BYTES
    }

    /// What the slot holds back that holds back most.
    pub fn most_held_bytes(&self, machine: usize) -> u64 {
        let slots = self.all[machine].slots.values();
        slots
            .map(|slot| self.held_bytes(machine, slot))
            .max()
            .unwrap_or(0)
    }

    /// Removes what no slot holds back.
    pub fn checkpoint(&mut self, machine: usize) {
        let server = &mut self.all[machine];
        let held = server.slots.values().map(|slot| slot.confirmed).min();
        server.disk.wal_from = held.unwrap_or(server.wal.len()).max(server.disk.wal_from);
    }

    pub(super) fn turn_disks(&mut self, now: Mono) {
        for machine in 0..self.all.len() {
            if self.all[machine].up && self.all[machine].disk.next_checkpoint <= now {
                self.checkpoint(machine);
                self.all[machine].disk.next_checkpoint = now.plus(CHECKPOINT_EVERY);
            }
            if self.facts(machine).free_bytes == 0 {
                self.wrong
                    .get_or_insert(format!("the disk of {machine} is full"));
            }
        }
    }

    /// Drops a slot because the disk is about to fill.
    pub fn give_up(&mut self, machine: usize, name: &str, subscriber: NodeId) {
        if let Some(slot) = self.all[machine].slots.get(name) {
            let given_up = GivenUp {
                machine,
                subscriber,
                held_bytes: self.held_bytes(machine, slot),
                most_bytes: self.most_held_bytes(machine),
                disk: self.facts(machine),
            };
            self.given_up.push(given_up);
        }
        self.drop_slot(machine, name);
    }
}
