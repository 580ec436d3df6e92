//! How streams run between the servers of the model, and how they break.

use super::{
    BACK_OFF, Entry, HALF_OPEN_FOR, Sender, Servers, Slot, Subscription, WRITE_EVERY, Worker,
};
use crate::world::Links;
use pgaa_core::time::Mono;

impl Servers {
    /// Lets applications write and streams flow up to now.
    pub fn pump(&mut self, now: Mono, links: &Links) {
        for server in &mut self.all {
            for slot in server.slots.values_mut() {
                let gives_up = |s: &Sender| s.until.is_some_and(|until| until <= now);
                slot.sender = slot.sender.filter(|sender| !gives_up(sender));
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
        self.turn_disks(now);
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
            self.senders += 1;
            slot.sender = Some(Sender {
                pid: self.senders,
                by: machine,
                until: None,
            });
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
        let stuck = self.all[machine].stuck;
        let provider = &mut self.all[subscription.provider];
        if !linked {
            let since = dead_since.unwrap_or(now);
            if now.since(since) >= HALF_OPEN_FOR {
                // The sender has given up as well by then, or soon will.
                let slot = provider.slots.get_mut(&subscription.slot);
                let sender = slot.and_then(|slot| slot.sender.as_mut());
                if let Some(sender) = sender.filter(|sender| sender.by == machine) {
                    sender.until = Some(now.plus(BACK_OFF.0));
                }
                return failed;
            }
            return Worker::Running {
                dead_since: Some(since),
                silent_until,
            };
        }
        let mine = |slot: &&mut Slot| slot.read_by(machine);
        let slot = provider.slots.get_mut(&subscription.slot);
        let Some(slot) = slot.filter(mine).filter(|_| provider.up) else {
            return failed;
        };
        if let Some(since) = dead_since {
            // TCP has backed off as long as the wire was dead, and waits as long again.
            slot.sender.iter_mut().for_each(|s| s.until = None);
            let silent_until = now.plus(now.since(since));
            return Worker::Running {
                dead_since: None,
                silent_until,
            };
        }
        if silent_until <= now && !stuck {
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
        let forked_at = self.all[from.provider].forked_at;
        if forked_at.is_some_and(|fork| end > fork && !entries.is_empty()) {
            self.wrong.get_or_insert(format!(
                "{machine} takes what {} writes since it was rolled back",
                from.provider
            ));
        }
        let server = &mut self.all[machine];
        // One that was put back has a gap in what it takes as well; that it is set apart, and
        // soon, is what the test looks at.
        let forked = server.forked_at.is_some();
        for entry in entries {
            match *entry {
                Entry::Heartbeat(number) => {
                    server.heartbeats.insert(node, (epoch, number, now));
                }
                Entry::Row(number) => {
                    let arrived = server.arrived.entry(from.provider).or_default();
                    if number != *arrived + 1 && !forked {
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
}
