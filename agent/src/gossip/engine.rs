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
use foca::{AccumulatingRuntime, Codec, Foca, Header, PostcardCodec};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use thiserror::Error;

mod addresses;
mod news;
mod presence;
#[cfg(test)]
mod tests;

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
    looked: Mono,
    backlog: usize,
    haste_at: Option<Mono>,
    hasted: Mono,
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
            looked: now,
            backlog: 0,
            haste_at: None,
            hasted: now,
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
        if self.haste_at.is_some_and(|at| at <= now) {
            self.haste_at = None;
            self.hasted = now;
            let spread = self.foca.gossip(&mut self.runtime);
            result = result.and(spread.map_err(GossipError::from));
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
    pub fn hint(&mut self, now: Mono, version: u64) -> Result<(), GossipError> {
        let hint = Hint {
            node: self.me().node,
            version,
        };
        if self.foca.add_broadcast(&hint.encode()?)? {
            self.hasten(now);
        }
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

    /// When [`Engine::advance`] wants to be called next; `None` after leaving. A round of gossip
    /// without anything to say is no reason.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.left {
            return None;
        }
        let deadlines = [self.next_timer(), self.haste_at, Some(self.look_at)];
        deadlines.into_iter().flatten().min()
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

    /// When the next of foca's timers has to be fired.
    fn next_timer(&self) -> Option<Mono> {
        let silent = self.foca.updates_backlog() == 0 && self.foca.custom_broadcast_backlog() == 0;
        if silent {
            self.timers.next_deadline_but_gossip()
        } else {
            self.timers.next_deadline()
        }
    }

    /// Time in which this process did not run proves nothing about the others: without this, a
    /// suspicion raised before a pause would end in a Down before the refutation is read. A round
    /// of gossip may be late for another reason (see [`Engine::next_deadline`]).
    fn forgive_stall(&mut self, now: Mono) {
        let late = self
            .timers
            .next_deadline_but_gossip()
            .map_or(Duration::ZERO, |due| now.since(due));
        if late > STALL {
            self.timers.postpone(late);
        }
    }
}
