//! Looks for members that should be there and are not.
//!
//! foca never repeats a join, and an isolated foca has no timers left: without this, a lost
//! datagram would keep a node out, and a partition would never heal.

use super::{Engine, GossipError};
use crate::gossip::member::{Liveness, Member};
use crate::gossip::tuning;
use pgaa_core::time::Mono;
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// How many members are announced to at one look. Enough for a heal in seconds, and no burst.
const ANNOUNCED_AT_ONCE_MAX: usize = 4;

impl Engine {
    /// Looks for others soon. Not at once each time: two that refuse one another would turn that
    /// into a storm.
    pub(super) fn look_soon(&mut self, now: Mono) {
        let earliest = self.looked.plus(tuning::knock_period(self.network));
        self.look_at = self.look_at.min(earliest.max(now));
    }

    /// Announces to members that should be there and are not. foca never repeats a join, and an
    /// isolated foca has no timers left.
    pub(super) fn look_around(&mut self, now: Mono) -> Result<(), GossipError> {
        self.looked = now;
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
        let mut missing: BTreeSet<SocketAddr> = self.roster.values().copied().collect();
        if self.connected {
            // By address as well as by node: a node that moved is not missing at its old address,
            // and a dead member's address may have a new holder.
            for view in self
                .members()
                .values()
                .filter(|view| view.liveness == Liveness::Alive)
            {
                missing.remove(&view.addr);
                if let Some(old) = self.roster.get(&view.node) {
                    missing.remove(old);
                }
            }
        } else {
            let heard_of = self
                .foca
                .iter_membership_state()
                .map(|entry| entry.id().addr);
            missing.extend(heard_of.chain(self.seeds.iter().copied()));
        }
        missing.remove(&self.me().addr);
        missing
    }
}
