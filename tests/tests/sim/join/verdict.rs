//! What must hold at any time, and what must hold in the end.

use super::postgres::{Change, Worker};
use super::world::{Event, World};
use pgaa_core::life::Stage;
use pgaa_core::record::{EdgeState, JoinPhase};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};

/// Each node has so many keys of its own.
const KEYS: u32 = 60;
/// The keys of a node begin with so many times its number.
const KEYS_OF_EACH: u32 = 1_000;

/// How long after a slot was lost, and its reader's agent was started, the edge may be called
/// replicating, ms: heartbeats that came before count for five seconds, and a round of the provider's
/// loop may take as long.
const KNOWN_WITHIN: u64 = 11_000;

impl World {
    /// An application writes on one node, a key of that node's, when it gets in.
    pub fn load(&mut self, node: usize) {
        if !self.writes || self.nodes[node].destroyed {
            return;
        }
        let pause = self.story.write_every;
        self.within((1, 2 * pause), Event::Write { node });
        if !self.nodes[node].server.up || !self.nodes[node].server.gate_open {
            return;
        }
        let key = u32::try_from(node).unwrap_or(0) * KEYS_OF_EACH + self.rng.random_range(0..KEYS);
        let value = self.next();
        let deletes = self.rng.random_bool(0.25);
        let row = self.nodes[node].server.rows.contains_key(&key);
        let change = match (row, deletes) {
            (false, _) => Change::Insert(key, value),
            (true, true) => Change::Delete(key),
            (true, false) => Change::Update(key, value),
        };
        let time = self.now;
        let written = &mut self.nodes[node];
        written.server.write(node, change, time, true);
        written.written = written.server.arrived[&node];
        match (row, deletes) {
            (true, true) => written.ledger.remove(&key),
            (_, _) => written.ledger.insert(key, value),
        };
        self.count("writes");
        self.wake_readers(node);
    }

    /// Every ordered pair of nodes that are ready, and not destroyed: subscriber and provider.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let ready: Vec<usize> = (0..self.nodes.len())
            .filter(|node| {
                let there = &self.nodes[*node];
                there.agent.life.stage == Stage::Ready && !there.destroyed
            })
            .collect();
        let others = |a: &usize| {
            let a = *a;
            ready.iter().filter(move |b| **b != a).map(move |b| (a, *b))
        };
        ready.iter().flat_map(others).collect()
    }

    /// Between two ready nodes there is at any time a slot, and a subscription that reads it.
    pub fn edges_are_sound(&mut self) {
        for (subscriber, provider) in self.pairs() {
            let slot = self.nodes[provider].server.slots.contains_key(&subscriber);
            let subscription = &self.nodes[subscriber].server.subscriptions;
            let reads = subscription.contains_key(&provider);
            let slot = slot || self.lost.contains_key(&(subscriber, provider));
            if !slot || !reads {
                self.accuse(format!(
                    "{subscriber} and {provider} are ready, and from {provider} there is: slot \
                     {slot}, subscription {reads}"
                ));
            }
        }
    }

    /// A node is about to lose its rows: what was written there must be everywhere by now, and
    /// what it lacks does not matter any more.
    pub fn emptied(&mut self, node: usize) {
        let written = self.nodes[node].written;
        for subscriber in 0..self.nodes.len() {
            let there = &self.nodes[subscriber];
            if there.agent.life.stage != Stage::Ready || there.destroyed {
                continue;
            }
            let safe = there.server.safe(node);
            if safe < written {
                self.accuse(format!(
                    "{node} is emptied, and {subscriber} has {safe} of its {written} changes on disk"
                ));
            }
        }
        self.lost.retain(|(subscriber, _), _| *subscriber != node);
        self.tainted.remove(&node);
        if written > 0 {
            self.count("emptied");
        }
    }

    /// Whoever lacks changes of another must not say that it has them. It learns of it by the
    /// other's record, or because nothing arrives any more.
    pub fn no_gap_is_called_replicating(&mut self, node: usize) {
        let there = &self.nodes[node];
        let own = there
            .agent
            .roster
            .as_ref()
            .and_then(|roster| roster.records.get(&there.id));
        let Some(own) = own.filter(|_| there.agent.life.stage == Stage::Ready) else {
            return;
        };
        let says = |provider: usize| {
            let edge = own.edges.get(&self.nodes[provider].id);
            edge.is_some_and(|edge| edge.state == EdgeState::Replicating)
        };
        let lost = self
            .lost
            .iter()
            .filter(|((subscriber, _), _)| *subscriber == node);
        let found = lost.filter(|((_, provider), _)| says(*provider));
        let started = there.agent.started;
        let oldest = found
            .map(|((_, provider), since)| (self.now - started.max(*since), *provider))
            .max();
        match oldest {
            Some((age, provider)) if age > KNOWN_WITHIN => self.accuse(format!(
                "{node} calls {provider} replicating, {age} ms after its slot was lost"
            )),
            Some(_) => self.count("gaps not known yet"),
            None => {}
        }
    }

    /// A node is in another stage of its life.
    pub fn enter(&mut self, node: usize, stage: Stage) {
        self.note(|| format!("{node} enters {stage:?}"));
        if stage == Stage::Joining(JoinPhase::Linking) && self.tainted.contains(&node) {
            self.accuse(format!("{node} goes on with what has a gap"));
        }
        self.nodes[node].agent.life.stage = stage;
        self.tick_soon(node);
    }

    /// What is still missing for the mesh to be whole, while applications write.
    pub fn unready(&self) -> Option<String> {
        if let Some(((subscriber, provider), _)) = self.lost.first_key_value() {
            return Some(format!("{subscriber} lacks changes of {provider}"));
        }
        for (node, there) in self.nodes.iter().enumerate() {
            let stage = there.agent.life.stage;
            if !there.destroyed && (stage != Stage::Ready || !there.server.gate_open) {
                return Some(format!("{node} is {stage:?}"));
            }
        }
        None
    }

    /// What is still missing when nobody writes any more.
    pub fn unsettled(&self) -> Option<String> {
        self.unready()
            .or_else(|| self.undrained())
            .or_else(|| self.leftover())
    }

    fn undrained(&self) -> Option<String> {
        for (subscriber, provider) in self.pairs() {
            let subscription = self.nodes[subscriber].server.subscriptions.get(&provider);
            let runs = subscription.is_some_and(|s| matches!(s.worker, Worker::Running { .. }));
            if !runs {
                return Some(format!("{subscriber} does not read {provider}"));
            }
            let arrived = &self.nodes[subscriber].server.arrived;
            if arrived.get(&provider).copied().unwrap_or(0) < self.nodes[provider].written {
                return Some(format!("{subscriber} has not all of {provider}"));
            }
        }
        None
    }

    fn leftover(&self) -> Option<String> {
        let living: BTreeSet<usize> = (0..self.nodes.len())
            .filter(|node| !self.nodes[*node].destroyed)
            .collect();
        for node in &living {
            let there = &self.nodes[*node];
            if there.agent.lease.holder.is_some() {
                return Some(format!("a lease is in force on {node}"));
            }
            let others: BTreeSet<usize> = living.iter().copied().filter(|o| o != node).collect();
            let slots: BTreeSet<usize> = there.server.slots.keys().copied().collect();
            let reads: BTreeSet<usize> = there.server.subscriptions.keys().copied().collect();
            if slots != others || reads != others {
                return Some(format!(
                    "{node} has slots for {slots:?} and reads {reads:?}"
                ));
            }
        }
        None
    }

    /// Compares every row on every node with what applications were told. What a machine had told
    /// nobody when it was destroyed is gone with it, and so nobody knows about its rows.
    pub fn compare(&self) -> Result<(), String> {
        let known = |key: u32| {
            let owner = usize::try_from(key / KEYS_OF_EACH).unwrap_or(0);
            !self.nodes[owner].destroyed || self.nodes[owner].left
        };
        let nodes = self
            .nodes
            .iter()
            .filter(|node| !node.destroyed || node.left);
        let truth: BTreeMap<u32, u64> = nodes
            .flat_map(|node| node.ledger.iter().map(|(key, value)| (*key, *value)))
            .collect();
        for (node, there) in self.nodes.iter().enumerate() {
            if there.destroyed {
                continue;
            }
            let rows = &there.server.rows;
            let lost = truth.keys().filter(|key| !rows.contains_key(key)).count();
            let extra = rows
                .keys()
                .filter(|key| known(**key) && !truth.contains_key(key))
                .count();
            let stale = rows
                .iter()
                .filter(|(key, row)| truth.get(key).is_some_and(|value| *value != row.value))
                .count();
            if (lost, extra, stale) != (0, 0, 0) {
                return Err(format!(
                    "on {node}: {lost} rows lost, {extra} extra, {stale} different"
                ));
            }
        }
        self.ordinals()
    }

    fn ordinals(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (node, there) in self.nodes.iter().enumerate() {
            let ordinal = there.agent.life.ordinal;
            if !there.destroyed && (ordinal.is_none() || !seen.insert(ordinal)) {
                return Err(format!("{node} has ordinal {ordinal:?}, as another has"));
            }
        }
        Ok(())
    }
}
