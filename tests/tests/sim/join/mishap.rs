//! Machines that come, break and are whole again.

use super::agent::{address, name};
use super::postgres::Worker;
use super::story::{Fault, When, Who};
use super::world::{Broken, Event, World};
use pgaa_core::ids::{ClusterId, LineageId, Ordinal};
use pgaa_core::life::Stage;
use pgaa_core::record::JoinPhase;
use pgaa_core::roster::{Decree, FoundingMember, Roster, Tombstone};
use rand::RngExt;
use uuid::Uuid;

/// How long after all is calm an operator forgets a destroyed node, ms: its leases have run out.
const FORGOTTEN_AFTER: u64 = 20_000;

impl World {
    /// The members as they stand, every edge made, every stream running.
    pub fn found(&mut self) {
        let members = self.story.members;
        let founding = |node: usize| FoundingMember {
            node: self.nodes[node].id,
            name: name(node),
            ordinal: Ordinal(u16::try_from(node + 1).unwrap_or(u16::MAX)),
            epoch: self.nodes[node].epoch,
        };
        let decree = Decree {
            cluster: ClusterId(Uuid::from_u128(1)),
            cluster_name: name(0),
            founder: self.nodes[0].id,
            founder_holds_data: false,
            members: (0..members).map(founding).collect(),
        };
        for node in 0..members {
            let made = &mut self.nodes[node];
            made.server.gate_open = true;
            made.agent.up = true;
            made.agent.generation = 1;
            made.agent.life.stage = Stage::Ready;
            made.agent.life.ordinal = decree.member(made.id).map(|member| member.ordinal);
            made.agent.roster = Some(Roster::founded(decree.clone()));
            for other in (0..members).filter(|other| *other != node) {
                self.nodes[node].server.create_slot(other);
            }
            self.tick_soon(node);
            self.within((0, 50), Event::Write { node });
        }
        for (subscriber, provider) in self.pairs() {
            let made = self.subscribe((subscriber, provider), pgaa_core::join::Forward::Nothing);
            if let Err(why) = made {
                self.accuse(why);
            }
            self.enable(subscriber, provider, true);
        }
        for (joiner, at) in self.story.joiners.clone().into_iter().enumerate() {
            let node = members + joiner;
            // Members know one another by then.
            self.at(1_500 + at, Event::Come { node });
        }
        for (fault, (when, _, _)) in self.story.faults.clone().into_iter().enumerate() {
            if let When::At(at) = when {
                self.at(at, Event::Break { fault });
            }
        }
    }

    /// A machine has enrolled with a member, whose roster it got.
    pub fn come(&mut self, node: usize) {
        let member = self.rng.random_range(0..self.story.members);
        let roster = self.nodes[member].agent.roster.clone();
        let known = roster.as_ref().map_or(0, |roster| roster.records.len());
        let there = &self.nodes[..self.story.members];
        let there = there.iter().filter(|member| !member.destroyed).count();
        if !self.answers(member, member) || known < there {
            self.at(self.now + 300, Event::Come { node });
            return;
        }
        let agent = &mut self.nodes[node].agent;
        agent.up = true;
        agent.generation = 1;
        agent.roster = roster;
        agent.life.stage = Stage::Joining(JoinPhase::Leasing);
        self.tick_soon(node);
        self.within((0, 50), Event::Write { node });
    }

    /// A joiner has come to a point of the protocol.
    pub fn came_to(&mut self, node: usize, point: &'static str) {
        self.note(|| format!("{node} has come to {point}"));
        if node != self.story.members && self.story.loser != Some(node) {
            return;
        }
        let times = self.reached.entry(point).or_default();
        *times += 1;
        let here = When::Reached(point, *times);
        for fault in 0..self.story.faults.len() {
            if self.story.faults[fault].0 == here {
                self.break_something(fault);
            }
        }
    }

    fn who(&self, who: Who) -> usize {
        match who {
            Who::Joiner if !self.story.joiners.is_empty() => self.story.members,
            Who::Joiner | Who::Loser => self.story.loser.unwrap_or_default(),
            Who::Source => (0..self.story.members)
                .min_by_key(|member| self.nodes[*member].id)
                .unwrap_or(0),
            Who::Member(number) => number % self.story.members,
        }
    }

    /// Something breaks, for a while.
    pub fn break_something(&mut self, fault: usize) {
        if !self.rough || !self.struck.insert(fault) {
            return;
        }
        let (_, what, lasts) = self.story.faults[fault];
        self.note(|| format!("{what:?} for {lasts} ms"));
        match what {
            Fault::Agent(who) => self.kill_agent(self.who(who), lasts),
            Fault::Postgres(who) => self.kill_postgres(self.who(who), lasts),
            Fault::Machine(who) => {
                self.kill_agent(self.who(who), lasts);
                self.kill_postgres(self.who(who), lasts);
            }
            Fault::Cut(a, b) => self.cut_link(self.who(a), self.who(b), lasts),
            Fault::Destroy if self.story.joiners.is_empty() => {}
            Fault::Destroy => self.destroy(self.story.members),
            Fault::Die(who, forgotten_after) => self.die(self.who(who), forgotten_after),
            Fault::Leave(who) => self.leave(self.who(who)),
            Fault::Lose { by, of, anew } => self.lose_slot(self.who(by), self.who(of), anew),
        }
    }

    fn kill_agent(&mut self, node: usize, lasts: u64) {
        let agent = &mut self.nodes[node].agent;
        if !agent.up {
            return;
        }
        self.count("agents killed");
        let agent = &mut self.nodes[node].agent;
        agent.up = false;
        agent.task = None;
        self.mend_after(lasts, Broken::Agent(node));
    }

    fn kill_postgres(&mut self, node: usize, lasts: u64) {
        if !self.nodes[node].server.up {
            return;
        }
        self.count("servers killed");
        for other in 0..self.nodes.len() {
            self.hang_up(node, other);
            self.cast_off(node, other);
        }
        let server = &mut self.nodes[node].server;
        server.up = false;
        if server.crash() > 0 {
            self.count("servers that lost what was not on disk");
        }
        self.mend_after(lasts, Broken::Postgres(node));
    }

    fn cut_link(&mut self, a: usize, b: usize, lasts: u64) {
        if a == b {
            return;
        }
        self.count("links cut");
        *self.cut.entry((a.min(b), a.max(b))).or_default() += 1;
        self.cut_streams(a, b);
        self.mend_after(lasts, Broken::Link(a, b));
    }

    fn mend_after(&mut self, lasts: u64, broken: Broken) {
        self.at(self.now + lasts, Event::Mend { broken });
    }

    pub fn mend(&mut self, broken: Broken) {
        match broken {
            Broken::Agent(node) | Broken::Postgres(node) if self.nodes[node].destroyed => {}
            Broken::Agent(node) => {
                self.note(|| format!("agent {node} starts again"));
                self.nodes[node].agent = self.nodes[node].agent.restarted(self.now);
                self.tick_soon(node);
            }
            Broken::Postgres(node) => {
                self.note(|| format!("server {node} starts again"));
                self.nodes[node].server.up = true;
                for provider in 0..self.nodes.len() {
                    self.restart_worker(node, provider, true);
                }
                self.tick_soon(node);
            }
            Broken::Link(a, b) => {
                self.note(|| format!("{a} and {b} are linked again"));
                let pair = (a.min(b), a.max(b));
                let left = self.cut.get(&pair).copied().unwrap_or(0);
                match left {
                    0 | 1 => self.cut.remove(&pair),
                    more => self.cut.insert(pair, more - 1),
                };
                // What is in the buffers of a connection that nobody gave up goes on.
                self.wake_readers(a);
                self.wake_readers(b);
            }
        }
    }

    /// A joiner is gone for ever, unless it was ready before.
    fn destroy(&mut self, node: usize) {
        let agent = &mut self.nodes[node].agent;
        if agent.life.stage == Stage::Ready || agent.roster.is_none() {
            return;
        }
        self.count("joiners destroyed");
        self.switch_off(node);
        self.forget(node, 0);
    }

    /// A machine is gone for ever.
    pub fn switch_off(&mut self, node: usize) {
        let agent = &mut self.nodes[node].agent;
        agent.up = false;
        agent.task = None;
        for other in 0..self.nodes.len() {
            self.cut_streams(node, other);
        }
        self.nodes[node].server.up = false;
        self.nodes[node].destroyed = true;
        let server = &mut self.nodes[node].server;
        for subscription in server.subscriptions.values_mut() {
            subscription.worker = Worker::Off;
        }
    }

    /// An operator forgets a destroyed node on a member that answers, once it has looked at what
    /// is left of it. Nothing is by then where it had no promise, unless a member was down itself
    /// until a moment ago: so there is a second look.
    pub fn forget(&mut self, node: usize, looks: u32) {
        let all: Vec<usize> = (0..self.story.members).collect();
        let left = all.iter().find_map(|member| {
            let what = self.left_of(node, *member)?;
            Some(format!("{what} of {node} is left on {member}"))
        });
        let (pause, looks) = match (looks, self.rough, left) {
            (0, true, _) => (1_000, 0),
            (0, false, _) => (FORGOTTEN_AFTER, 1),
            (1, _, Some(_)) => (FORGOTTEN_AFTER, 2),
            (_, _, Some(left)) => return self.accuse(left),
            (_, _, None) => return self.bury(node, all[0]),
        };
        self.at(self.now + pause, Event::Forget { node, looks });
    }

    /// A node gets its tombstone in the roster of a member.
    pub fn bury(&mut self, node: usize, operated: usize) {
        let id = self.nodes[node].id;
        let left = node == operated;
        let tombstone = Tombstone {
            name: name(node),
            epoch: self.nodes[node].epoch,
            ordinal: self.nodes[node].agent.life.ordinal,
            left,
            unsettled: false,
        };
        let lineage = LineageId(Uuid::from_u128(u128::from(self.next()) + 7));
        self.note(|| format!("{} ({node}) is buried; it has left: {left}", address(node)));
        if let Some(roster) = &mut self.nodes[operated].agent.roster {
            roster.bury(id, tombstone, lineage);
        }
        self.tick_soon(operated);
    }

    /// What a destroyed joiner has left on a member that made it no promise.
    fn left_of(&self, node: usize, member: usize) -> Option<&'static str> {
        let id = self.nodes[node].id;
        let lease = &self.nodes[member].agent.lease;
        if lease.holder == Some(id) {
            return Some("the lease");
        }
        // One that had all its edges may come again, and go on with its slots, without a lease.
        if self.nodes[node].agent.life.stage >= Stage::Joining(JoinPhase::Linking) {
            return None;
        }
        // One that was synchronised anew has made slots for all that were known by then.
        if self.story.loser == Some(member) {
            return None;
        }
        let slot = self.nodes[member].server.slots.contains_key(&node);
        (slot && !lease.committed.contains(&id)).then_some("the slot")
    }
}
