//! What an agent says to others and makes of what they say: the founding, enrolment, gossip, and
//! the exchange of records, as the daemon does it.

use super::agent::{Agent, PATIENCE};
use super::message::{Body, Connection, Message};
use crate::world::Turn;
use pgaa_agent::config::NetworkProfile;
use pgaa_agent::gossip::engine::{Engine, Output};
use pgaa_agent::gossip::member::Member;
use pgaa_core::founding::{DataHeld, Standing};
use pgaa_core::ids::NodeId;
use pgaa_core::life::Stage;
use pgaa_core::observed::Reach;
use pgaa_core::record::NodeRecord;
use pgaa_core::roster::Roster;
use pgaa_core::state::NodeState;
use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use uuid::Uuid;

fn only(roster: &Roster, nodes: &BTreeSet<NodeId>) -> Rc<Roster> {
    let mut some = roster.clone();
    some.records.retain(|node, _| nodes.contains(node));
    Rc::new(some)
}

impl Agent {
    /// Where every other member is, as far as known.
    pub(super) fn addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        let roster = self.roster.iter();
        let members =
            roster.flat_map(|roster| roster.members().into_iter().map(move |m| (m, roster)));
        members
            .filter(|(member, _)| *member != self.id())
            .filter_map(|(member, roster)| {
                let record = roster
                    .records
                    .get(&member)
                    .map(|record| record.endpoints.grpc);
                Some((member, record.or_else(|| self.founding.address_of(member))?))
            })
            .collect()
    }

    /// Where the other members are that are up.
    fn answering(&self, now: Mono) -> BTreeSet<SocketAddr> {
        let mut reach = self.reach(now);
        reach.retain(|_, reach| *reach == Reach::Up);
        let addresses = self.addresses().into_iter();
        let up = addresses.filter(|(node, _)| reach.contains_key(node));
        up.map(|(_, at)| at).collect()
    }

    pub(super) fn found(&mut self, turn: &mut Turn<'_, Agent>) {
        for (ask, sent) in &mut self.asked {
            if sent.is_some_and(|sent| turn.now.since(sent) >= PATIENCE) {
                *sent = None;
                self.founding.unanswered(turn.now, ask, "no answer");
            }
        }
        // Until the database is prepared the agent has nothing to say of itself.
        if self.local == DataHeld::Unknown && self.roster.is_none() {
            return;
        }
        self.founding.set_me(self.hello());
        self.founding.set_resolved(self.disk.setup.seeds.clone());
        self.founding.set_answering(self.answering(turn.now));
        let rng = &mut *turn.rng;
        let step = self
            .founding
            .tick(turn.now, &mut || Uuid::from_u128(rng.random()));
        if step.persist {
            self.persist(turn);
        }
        for ask in step.asks {
            let number: Connection = (self.disk.generation, self.asked.len());
            let body = Body::Ask(number, ask.request.clone());
            self.send(turn, ask.to, body);
            self.asked.push((ask, Some(turn.now)));
        }
        if self.roster.is_none() {
            self.settle(turn);
        }
    }

    /// Turns a standing into membership.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_, Agent>) {
        let via = match self.founding.standing(turn.now) {
            Standing::Founder(decree) => {
                let stage = match decree.founder_holds_data {
                    true => Stage::Ready,
                    false => Stage::Founding,
                };
                self.disk.authority = true;
                return self.adopt(turn, Roster::founded(decree), stage);
            }
            Standing::Decreed(_) => self.founding.fellows(),
            Standing::ClusterFound { via, .. } => via,
            Standing::Discovering
            | Standing::Forming
            | Standing::Candidate { .. }
            | Standing::Promised { .. }
            | Standing::Member(_)
            | Standing::Quarantined { .. } => return,
        };
        let rested = self
            .enrolled_at
            .is_none_or(|at| turn.now.since(at) >= PATIENCE);
        if rested && !via.is_empty() {
            self.enrolled_at = Some(turn.now);
            for (_, at) in via {
                self.send(turn, at, Body::Enrol);
            }
        }
    }

    pub(super) fn adopt(&mut self, turn: &mut Turn<'_, Agent>, roster: Roster, stage: Stage) {
        turn.note(|| format!("is a member of {}, {stage:?}", roster.decree.cluster));
        self.disk.life.stage = stage;
        self.disk.roster = Some(Rc::new(roster.clone()));
        self.roster = Some(roster);
        self.persist(turn);
        self.begin_gossip(turn);
        self.due.reconcile = turn.now;
        self.due.exchange = turn.now;
    }

    pub(super) fn begin_gossip(&mut self, turn: &mut Turn<'_, Agent>) {
        let me = Member::new(turn.address, self.id(), self.disk.generation);
        let rng = SmallRng::seed_from_u64(turn.rng.random());
        self.engine = Some(Engine::new(me, NetworkProfile::Lan, rng, turn.now));
        self.due.known = turn.now;
    }

    pub(super) fn tell_gossip(&mut self, now: Mono) {
        let (Some(roster), Some(engine)) = (&self.roster, &mut self.engine) else {
            return;
        };
        let me = self.disk.setup.node;
        let others = roster.records.values().filter(|record| record.node != me);
        let known = others.map(|r| Member::new(r.endpoints.gossip, r.node, r.generation));
        let known: Vec<Member> = known.collect();
        let _ = engine.apply_known(now, known);
    }

    /// Takes what gossip has to say, and sends what it wants to send.
    pub(super) fn listen(&mut self, turn: &mut Turn<'_, Agent>) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let mut hinted = BTreeSet::new();
        let mut packets = Vec::new();
        let mut moved = false;
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Send { to, bytes } => packets.push((to, bytes)),
                Output::Hint(hint) => {
                    let known = self.roster.as_ref().and_then(|r| r.records.get(&hint.node));
                    if known.is_none_or(|record| record.version < hint.version) {
                        hinted.insert(hint.node);
                    }
                }
                Output::Up { .. } | Output::Down { .. } => moved = true,
                Output::Idle | Output::Rejoined | Output::Defunct => {}
            }
        }
        if moved {
            let views = engine.members().into_iter();
            let reach = views.map(|(node, view)| {
                (
                    node,
                    if view.liveness.is_active() {
                        Reach::Up
                    } else {
                        Reach::Down
                    },
                )
            });
            let reach: BTreeMap<NodeId, Reach> = reach.collect();
            let up = reach
                .iter()
                .filter(|(_, reach)| **reach == Reach::Up)
                .map(|(node, _)| *node);
            hinted.extend(up.filter(|n| self.gossip.get(n) != Some(&Reach::Up)));
            if reach != self.gossip {
                turn.note(|| format!("gossip {reach:?}"));
                self.gossip = reach;
                self.wake_loop(turn.now);
            }
        }
        for (to, bytes) in packets {
            self.send(turn, to, Body::Gossip(Rc::new(bytes)));
        }
        self.exchange_with(turn, &hinted);
    }

    pub(super) fn exchange_with(&mut self, turn: &mut Turn<'_, Agent>, nodes: &BTreeSet<NodeId>) {
        let Some(roster) = &self.roster else { return };
        let have = Rc::new(roster.versions());
        let offer = only(roster, &BTreeSet::from([self.id()]));
        for (_, at) in self
            .addresses()
            .iter()
            .filter(|(node, _)| nodes.contains(node))
        {
            self.send(
                turn,
                *at,
                Body::Exchange(Rc::clone(&have), Rc::clone(&offer)),
            );
        }
    }

    pub(super) fn exchange(&mut self, turn: &mut Turn<'_, Agent>) {
        let mut all: Vec<NodeId> = self.addresses().into_keys().collect();
        // The first time everybody is asked.
        if self.due.exchange > Mono(0) && !all.is_empty() && self.answered.len() >= all.len() {
            let chosen = turn.rng.random_range(0..all.len());
            all = vec![all[chosen]];
        }
        self.exchange_with(turn, &all.into_iter().collect());
    }

    /// Joins what another member knows into ours.
    pub(super) fn merge(&mut self, turn: &mut Turn<'_, Agent>, theirs: &Roster) -> bool {
        let Some(roster) = &mut self.roster else {
            return false;
        };
        let before = roster.members();
        let known: BTreeSet<NodeId> = roster.records.keys().copied().collect();
        let mut theirs = theirs.clone();
        let own = theirs.records.remove(&self.disk.setup.node);
        let vouched = own.is_some_and(|record| roster.history.vouch(&record));
        let rolled_back = roster.history.rolled_back.len();
        let Ok(merged) = roster.merge(&theirs) else {
            return false;
        };
        if merged.is_empty() && !vouched {
            return true;
        }
        let newcomers = merged.updated.iter().any(|node| !known.contains(node));
        let history = vouched || rolled_back != roster.history.rolled_back.len();
        if newcomers || history || before != roster.members() {
            self.disk.roster = Some(Rc::new(roster.clone()));
            self.persist(turn);
        }
        self.wake_loop(turn.now);
        true
    }

    /// A ready member fetches the CA's key, so that it can enrol others.
    pub(super) fn keep_trust(&mut self, turn: &mut Turn<'_, Agent>) {
        if self.disk.life.stage == Stage::Ready && !self.disk.authority {
            for at in self.addresses().into_values() {
                self.send(turn, at, Body::AskAuthority);
            }
        }
    }

    pub(super) fn take(&mut self, turn: &mut Turn<'_, Agent>, from: SocketAddr, message: Message) {
        let who = message.from;
        match message.body {
            Body::Ask(number, request) => {
                if self.local == DataHeld::Unknown && self.roster.is_none() {
                    return;
                }
                self.founding.set_me(self.hello());
                let (response, changed) = self.founding.request(turn.now, who, &request);
                if changed {
                    self.persist(turn);
                }
                self.send(turn, from, Body::Answer(number, response));
                self.due.founding = turn.now;
            }
            Body::Answer((life, number), response) => {
                let ours = life == self.disk.generation;
                if let Some((ask, sent)) = self.asked.get_mut(number).filter(|_| ours) {
                    *sent = None;
                    self.founding.answered(turn.now, ask, who, response);
                    self.due.founding = turn.now;
                }
            }
            Body::Enrol => {
                let buried = |r: &Roster| r.tombstones.contains_key(&who);
                let roster = self
                    .roster
                    .clone()
                    .filter(|r| self.disk.authority && !buried(r));
                if let Some(roster) = roster {
                    self.founding.settled(who);
                    self.send(turn, from, Body::Enrolled(Rc::new(roster)));
                }
            }
            Body::Enrolled(roster) => self.enrolled(turn, &roster),
            Body::Exchange(have, offer) => self.answer_exchange(turn, from, who, &have, &offer),
            Body::Exchanged(theirs, want) => {
                if self.merge(turn, &theirs) {
                    self.answered.insert(who, turn.now);
                    let wanted: BTreeSet<NodeId> = want.into_iter().collect();
                    if let Some(roster) = self.roster.as_ref().filter(|_| !wanted.is_empty()) {
                        let have = Rc::new(roster.versions());
                        let offer = only(roster, &wanted);
                        self.send(turn, from, Body::Exchange(have, offer));
                    }
                }
            }
            Body::AskAuthority => {
                let roster = self.roster.as_ref();
                let record = roster.and_then(|roster| roster.records.get(&who));
                if self.disk.authority && record.is_some_and(|r| r.state == NodeState::Ready) {
                    self.send(turn, from, Body::Authority);
                }
            }
            Body::Authority => {
                self.disk.authority = true;
                self.persist(turn);
            }
            Body::Gossip(bytes) => {
                if let Some(engine) = &mut self.engine {
                    let _ = engine.datagram(turn.now, &bytes);
                }
            }
        }
    }

    pub(super) fn enrolled(&mut self, turn: &mut Turn<'_, Agent>, roster: &Roster) {
        let wanted = match self.founding.standing(turn.now) {
            Standing::Decreed(decree) => decree.cluster == roster.decree.cluster,
            Standing::ClusterFound { cluster, .. } => cluster == roster.decree.cluster,
            Standing::Discovering
            | Standing::Forming
            | Standing::Candidate { .. }
            | Standing::Promised { .. }
            | Standing::Founder(_)
            | Standing::Member(_)
            | Standing::Quarantined { .. } => false,
        };
        if wanted && self.roster.is_none() {
            let stage = Stage::enrolled(&roster.decree, self.id());
            self.adopt(turn, roster.clone(), stage);
        }
    }

    pub(super) fn answer_exchange(
        &mut self,
        turn: &mut Turn<'_, Agent>,
        from: SocketAddr,
        who: NodeId,
        have: &BTreeMap<NodeId, u64>,
        offer: &Roster,
    ) {
        let known = self.roster.as_ref();
        if known.is_none_or(|roster| roster.tombstones.contains_key(&who)) {
            return;
        }
        if !self.merge(turn, offer) {
            return;
        }
        self.answered.insert(who, turn.now);
        let Some(roster) = &self.roster else { return };
        let older = |(node, version): &(&NodeId, &u64)| {
            roster
                .records
                .get(node)
                .is_none_or(|known| known.version < **version)
                && !roster.tombstones.contains_key(node)
                && **node != self.id()
        };
        let want = have.iter().filter(older).map(|(node, _)| *node).collect();
        let newer = |record: &&NodeRecord| {
            have.get(&record.node)
                .is_none_or(|version| *version < record.version)
        };
        let newer = roster
            .records
            .values()
            .filter(newer)
            .map(|r| r.node)
            .collect();
        let answer = Body::Exchanged(only(roster, &newer), want);
        self.send(turn, from, answer);
    }
}
