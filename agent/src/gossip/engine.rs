//! The gossip protocol without a clock, a socket, or chance of its own.
//!
//! Wraps foca and keeps its contract: every timer is given back in order, a join is repeated until
//! somebody answers, and members that should be there and are not are announced to, so that
//! partitions heal. Whoever drives it hands in the time and carries the datagrams.

use super::hints::{Hint, HintBook};
use super::member::{Liveness, Member, MemberView};
use super::timers::Timers;
use super::tuning;
use crate::config::NetworkProfile;
use foca::{AccumulatingRuntime, Codec, Foca, Header, Message, OwnedNotification, PostcardCodec};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use thiserror::Error;

/// How many members are announced to at one look. Enough for a heal in seconds, and no burst.
const ANNOUNCED_AT_ONCE_MAX: usize = 4;

/// How many addresses given by [`Engine::announce`] are kept for further attempts.
const SEEDS_MAX: usize = 64;

/// A timer that comes later than this means that this process was stopped, not its peers.
const STALL: Duration = Duration::from_millis(400);

/// What gossip could not do with what it was given. Nothing has changed by it.
#[derive(Debug, Error)]
pub enum GossipError {
    /// foca refused a datagram or a timer.
    #[error("the gossip protocol refused it")]
    Protocol(#[from] foca::Error),
    /// A datagram does not begin as one of foca's.
    #[error("not a gossip packet")]
    Header(#[from] postcard::Error),
    /// An own hint could not be written.
    #[error("the hint can't be written")]
    Hint(#[from] super::hints::BadHint),
}

/// What the driver has to do or to know.
#[derive(Debug)]
pub enum Output {
    /// A packet to be sealed and sent; it may get lost.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// A node is there now, or has another generation or address than before.
    Up {
        /// Its identity.
        member: Member,
    },
    /// A node does not answer any more: unreachable, which is not gone.
    Down {
        /// The identity it had.
        member: Member,
    },
    /// Somebody has a newer record than was heard of before.
    Hint(Hint),
    /// Nobody is there any more. The engine announces to all it knows; the driver may look for
    /// further addresses.
    Idle,
    /// The others held this node for down; it is back under a renewed identity.
    Rejoined,
    /// This node left, or cannot renew its identity.
    Defunct,
}

/// One node's part in the gossip.
pub struct Engine {
    foca: Foca<Member, PostcardCodec, SmallRng, HintBook>,
    network: NetworkProfile,
    rng: SmallRng,
    runtime: AccumulatingRuntime<Member>,
    timers: Timers,
    heard: Receiver<Hint>,
    outputs: VecDeque<Output>,
    up: BTreeMap<NodeId, Member>,
    seeds: VecDeque<SocketAddr>,
    roster: BTreeMap<NodeId, SocketAddr>,
    connected: bool,
    left: bool,
    look_at: Mono,
}

impl Engine {
    /// An engine that knows nobody. `rng` decides whom it talks to; it guards nothing.
    #[must_use]
    pub fn new(me: Member, network: NetworkProfile, mut rng: SmallRng, now: Mono) -> Engine {
        let (sender, heard) = channel();
        let foca = Foca::with_custom_broadcast(
            me,
            tuning::config(network, 1),
            rng.fork(),
            PostcardCodec,
            HintBook::new(sender),
        );
        Engine {
            foca,
            network,
            rng,
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            heard,
            outputs: VecDeque::new(),
            up: BTreeMap::new(),
            seeds: VecDeque::new(),
            roster: BTreeMap::new(),
            connected: false,
            left: false,
            look_at: now.plus(tuning::knock_period(network)),
        }
    }

    /// This node's identity; it changes when the node is falsely declared down.
    #[must_use]
    pub fn me(&self) -> Member {
        *self.foca.identity()
    }

    /// Takes in a packet from another member.
    pub fn datagram(&mut self, now: Mono, bytes: &[u8]) -> Result<(), GossipError> {
        if self.left {
            return Ok(());
        }
        let header: Header<Member> = PostcardCodec.decode_header(bytes)?;
        if header.src.addr != self.me().addr && !self.admit(now, &header.src)? {
            return Ok(());
        }
        let result = self.foca.handle_data(bytes, &mut self.runtime);
        self.settle(now);
        Ok(result?)
    }

    /// Fires every timer that is due by `now`. An error is foca's complaint about one of them;
    /// the others were fired nonetheless.
    pub fn advance(&mut self, now: Mono) -> Result<(), GossipError> {
        if self.left {
            return Ok(());
        }
        self.forgive_stall(now);
        let mut result = Ok(());
        while let Some(timer) = self.timers.pop_due(now) {
            if let Err(error) = self.foca.handle_timer(timer, &mut self.runtime) {
                result = Err(error.into());
            }
            self.settle(now);
        }
        if self.look_at <= now {
            result = result.and(self.look_around(now));
        }
        result
    }

    /// Joins by way of whoever is at `addr`, and keeps trying while nobody answers.
    pub fn announce(&mut self, now: Mono, addr: SocketAddr) -> Result<(), GossipError> {
        if self.left || addr == self.me().addr || !Member::at(addr).is_reachable() {
            return Ok(());
        }
        self.seeds.retain(|known| *known != addr);
        self.seeds.push_back(addr);
        if self.seeds.len() > SEEDS_MAX {
            self.seeds.pop_front();
        }
        let result = self.foca.announce(Member::at(addr), &mut self.runtime);
        self.settle(now);
        Ok(result?)
    }

    /// Replaces the list of members that should be there: from the roster, or saved before this
    /// agent started. Those that gossip does not know of count as alive until a probe fails.
    pub fn apply_known(
        &mut self,
        now: Mono,
        known: impl IntoIterator<Item = Member>,
    ) -> Result<(), GossipError> {
        if self.left {
            return Ok(());
        }
        let me = self.me();
        self.roster.clear();
        let mut fresh = Vec::new();
        for member in known {
            if member.node == me.node || !member.is_reachable() {
                continue;
            }
            self.roster.insert(member.node, member.addr);
            if member.addr == me.addr {
                self.outclaim(now, &member)?;
            } else if !self.is_stale(&member) && self.admit(now, &member)? {
                fresh.push(foca::Member::alive(member));
            }
        }
        let result = self
            .foca
            .apply_many(fresh.into_iter(), false, &mut self.runtime);
        self.resize();
        self.settle(now);
        Ok(result?)
    }

    /// Tells everybody that this node has written version `version` of its record.
    pub fn hint(&mut self, version: u64) -> Result<(), GossipError> {
        let hint = Hint {
            node: self.me().node,
            version,
        };
        self.foca.add_broadcast(&hint.encode()?)?;
        Ok(())
    }

    /// Says good-bye. From here on the engine is deaf: a datagram still on its way would otherwise
    /// make foca join again.
    pub fn leave(&mut self, now: Mono) -> Result<(), GossipError> {
        if self.left {
            return Ok(());
        }
        let result = self.foca.leave_cluster(&mut self.runtime);
        self.settle(now);
        self.left = true;
        Ok(result?)
    }

    /// When [`Engine::advance`] wants to be called next; `None` after leaving.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.left {
            return None;
        }
        Some(
            self.timers
                .next_deadline()
                .map_or(self.look_at, |at| at.min(self.look_at)),
        )
    }

    /// The next thing to do or to know, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Does at least one other member know this node?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Everybody else, one entry a node: the best that is known of it.
    #[must_use]
    pub fn members(&self) -> BTreeMap<NodeId, MemberView> {
        let me = self.me();
        let mut best: BTreeMap<NodeId, (bool, u64, MemberView)> = BTreeMap::new();
        for entry in self.foca.iter_membership_state() {
            let Member {
                addr,
                node,
                generation,
                claim,
            } = *entry.id();
            if node == me.node {
                continue;
            }
            let liveness = Liveness::from(entry.state());
            let view = MemberView {
                node,
                addr,
                generation,
                liveness,
            };
            let rank = (liveness.is_active(), claim);
            if best
                .get(&node)
                .is_none_or(|(active, claim, _)| (*active, *claim) < rank)
            {
                best.insert(node, (rank.0, rank.1, view));
            }
        }
        best.into_iter()
            .map(|(node, (_, _, view))| (node, view))
            .collect()
    }

    fn entry_at(&self, addr: SocketAddr) -> Option<&foca::Member<Member>> {
        self.foca
            .iter_membership_state()
            .find(|entry| entry.id().addr == addr)
    }

    /// Is the same identity, or a later one of the same node, known already?
    fn is_stale(&self, member: &Member) -> bool {
        self.entry_at(member.addr)
            .is_some_and(|entry| entry.id().node == member.node && !member.displaces(entry.id()))
    }

    /// Makes room for `newcomer` if its address belonged to somebody else, and says whether it
    /// may be heard. Generations of different nodes can't be compared, so the old holder of an
    /// address that changed hands must be known down first. [A machine made anew has the address
    /// of the one it replaces, and a lower generation: it would be refused for a day.]
    fn admit(&mut self, now: Mono, newcomer: &Member) -> Result<bool, GossipError> {
        let Some(entry) = self.entry_at(newcomer.addr) else {
            return Ok(true);
        };
        let (holder, active) = (*entry.id(), Liveness::from(entry.state()).is_active());
        if holder.node == newcomer.node && holder.generation >= newcomer.generation {
            return Ok(true);
        }
        if holder.node != newcomer.node && active {
            return Ok(false);
        }
        if !newcomer.displaces(&holder) {
            self.forget(now, holder)?;
        }
        Ok(true)
    }

    /// Takes an identity out of the list.
    fn forget(&mut self, now: Mono, holder: Member) -> Result<(), GossipError> {
        let down = std::iter::once(foca::Member::down(holder));
        let buried = self.foca.apply_many(down, false, &mut self.runtime);
        let removed = self
            .foca
            .handle_timer(foca::Timer::RemoveDown(holder), &mut self.runtime);
        self.settle(now);
        Ok(buried.and(removed)?)
    }

    /// Claims this node's address above `other`, of whom somebody still speaks.
    fn outclaim(&mut self, now: Mono, other: &Member) -> Result<(), GossipError> {
        let me = self.me();
        if me.displaces(other) {
            return Ok(());
        }
        let Some(claim) = other.claim.checked_add(1) else {
            return Ok(());
        };
        self.connected = false;
        let result = self
            .foca
            .change_identity(Member { claim, ..me }, &mut self.runtime);
        self.settle(now);
        Ok(result?)
    }

    /// Time in which this process did not run proves nothing about the others: without this, a
    /// suspicion raised before a pause would end in a Down before the refutation is read.
    fn forgive_stall(&mut self, now: Mono) {
        let late = self
            .timers
            .next_deadline()
            .map_or(Duration::ZERO, |due| now.since(due));
        if late > STALL {
            self.timers.postpone(late);
        }
    }

    /// Announces to members that should be there and are not. foca never repeats a join, and an
    /// isolated foca has no timers left.
    fn look_around(&mut self, now: Mono) -> Result<(), GossipError> {
        let mut result = Ok(());
        if let Some(rival) = self.entry_at(self.me().addr).map(|entry| *entry.id()) {
            result = result.and(self.outclaim(now, &rival));
            result = result.and(self.forget(now, rival));
        }
        for addr in self
            .missing()
            .into_iter()
            .sample(&mut self.rng, ANNOUNCED_AT_ONCE_MAX)
        {
            let announced = self.foca.announce(Member::at(addr), &mut self.runtime);
            result = result.and(announced.map_err(GossipError::from));
        }
        let period = if self.connected {
            tuning::look_period(self.network)
        } else {
            tuning::knock_period(self.network)
        };
        // Spread over half a period, so that nodes that were started or cut off together don't
        // all speak at once for ever.
        let spread_ms = self.rng.random_range(0..=period.as_millis() as u64 / 2);
        self.look_at = now.plus(period * 3 / 4 + Duration::from_millis(spread_ms));
        self.settle(now);
        result
    }

    /// Addresses at which somebody should answer and does not. A suspect is among them: its
    /// answer corrects an identity that is out of date here.
    fn missing(&self) -> BTreeSet<SocketAddr> {
        let alive: BTreeMap<NodeId, Liveness> = self
            .members()
            .into_values()
            .map(|view| (view.node, view.liveness))
            .collect();
        let is_alive = |node: &NodeId| alive.get(node) == Some(&Liveness::Alive);
        let mut missing: BTreeSet<SocketAddr> = self
            .roster
            .iter()
            .filter(|(node, _)| !is_alive(node))
            .map(|(_, addr)| *addr)
            .collect();
        if !self.connected {
            missing.extend(&self.seeds);
            missing.extend(self.roster.values());
            missing.extend(
                self.foca
                    .iter_membership_state()
                    .map(|entry| entry.id().addr),
            );
        }
        missing.remove(&self.me().addr);
        missing
    }

    /// Carries what foca wants done over to timers and outputs.
    fn settle(&mut self, now: Mono) {
        while let Some((to, bytes)) = self.runtime.to_send() {
            if !self.is_false_alarm(&to, &bytes) {
                self.outputs.push_back(Output::Send {
                    to: to.addr,
                    bytes: bytes.to_vec(),
                });
            }
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.push(now.plus(after), timer);
        }
        let mut changed = false;
        while let Some(notification) = self.runtime.to_notify() {
            changed |= self.note(now, notification);
        }
        self.outputs.extend(self.heard.try_iter().map(Output::Hint));
        if changed {
            self.report_changes();
            self.resize();
        }
    }

    /// Is this packet a `TurnUndead` to a member that is active as far as this node knows? foca
    /// sends one when a suspicion runs out, even if the suspect has refuted it, and the healthy
    /// node would renew its identity and be down for everybody until that got around.
    fn is_false_alarm(&self, to: &Member, bytes: &[u8]) -> bool {
        let header: Result<Header<Member>, _> = PostcardCodec.decode_header(bytes);
        header.is_ok_and(|header| header.message == Message::TurnUndead)
            && self.foca.iter_members().any(|entry| entry.id() == to)
    }

    /// Takes note of what foca says; true when the list of members may have changed.
    fn note(&mut self, now: Mono, notification: OwnedNotification<Member>) -> bool {
        match notification {
            OwnedNotification::MemberUp(_)
            | OwnedNotification::MemberDown(_)
            | OwnedNotification::Rename(..) => return true,
            OwnedNotification::Active => self.connected = true,
            OwnedNotification::Idle => self.disconnected(now, Output::Idle),
            OwnedNotification::Defunct => self.disconnected(now, Output::Defunct),
            OwnedNotification::Rejoin(_) => self.disconnected(now, Output::Rejoined),
        }
        false
    }

    fn disconnected(&mut self, now: Mono, why: Output) {
        self.connected = false;
        self.look_at = now;
        self.outputs.push_back(why);
    }

    /// Compares the active members with what was reported, so that several steps of foca within
    /// one input (down, renamed, up) are one change at most.
    fn report_changes(&mut self) {
        let me = self.me();
        let mut active: BTreeMap<NodeId, Member> = BTreeMap::new();
        for member in self.foca.iter_members().map(|entry| *entry.id()) {
            let best = active.entry(member.node).or_insert(member);
            if member.displaces(best) {
                *best = member;
            }
        }
        active.remove(&me.node);
        for (node, member) in &self.up {
            if !active.contains_key(node) {
                self.outputs.push_back(Output::Down { member: *member });
            }
        }
        for (node, member) in &active {
            let reported = self.up.get(node).map(|old| (old.addr, old.generation));
            if reported != Some((member.addr, member.generation)) {
                self.outputs.push_back(Output::Up { member: *member });
            }
        }
        self.up = active;
    }

    /// Adapts how often updates are repeated to the size of the cluster.
    fn resize(&mut self) {
        let members = self.up.len().max(self.roster.len()) + 1;
        // Neither periods nor switches differ, and only those can be refused.
        let _ = self.foca.set_config(tuning::config(self.network, members));
    }
}
