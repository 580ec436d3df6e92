//! What the agents' actions do to the servers of the model.

use super::{BACK_OFF, Servers, Slot, Subscription, WORKER_START, Worker, slot_name};
use crate::world::Links;
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use std::collections::BTreeSet;

impl Servers {
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
        let slot = Slot::at(server.wal.len());
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

    pub fn disable(&mut self, machine: usize, name: &str, now: Mono, links: &Links) {
        self.restart_worker(machine, name, now, links);
        if let Some(subscription) = self.all[machine].subscriptions.get_mut(name) {
            subscription.enabled = false;
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
        if let (Worker::Running { dead_since, .. }, Some(slot)) = (before, slot) {
            slot.left(machine, told && dead_since.is_none(), now);
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
            self.all[*member]
                .slots
                .insert(slot.clone(), Slot::at(position));
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
}
