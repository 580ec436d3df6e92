//! Whose an address is, when it changed hands.
//!
//! foca keeps one identity an address and orders identities by a rule that knows nothing of time;
//! a machine made anew has the address of the one it replaces and a lower generation.

use super::{Engine, GossipError};
use crate::gossip::member::{Liveness, Member};
use pgaa_core::time::Mono;
use std::net::SocketAddr;

impl Engine {
    pub(super) fn entry_at(&self, addr: SocketAddr) -> Option<&foca::Member<Member>> {
        self.foca
            .iter_membership_state()
            .find(|entry| entry.id().addr == addr)
    }

    /// Is the same identity, or a later one of the same node, known already?
    pub(super) fn is_stale(&self, member: &Member) -> bool {
        self.entry_at(member.addr)
            .is_some_and(|entry| entry.id().node == member.node && !member.displaces(entry.id()))
    }

    /// Makes room for `newcomer` if its address belonged to somebody else, and says whether it
    /// may be heard. Generations of different nodes can't be compared, so the old holder of an
    /// address that changed hands must be known down first. [A machine made anew has the address
    /// of the one it replaces, and a lower generation: it would be refused for a day.]
    pub(super) fn admit(&mut self, now: Mono, newcomer: &Member) -> Result<bool, GossipError> {
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
    pub(super) fn forget(&mut self, now: Mono, holder: Member) -> Result<(), GossipError> {
        let down = std::iter::once(foca::Member::down(holder));
        let buried = self.foca.apply_many(down, false, &mut self.runtime);
        let removed = self
            .foca
            .handle_timer(foca::Timer::RemoveDown(holder), &mut self.runtime);
        self.settle(now);
        Ok(buried.and(removed)?)
    }

    /// Claims this node's address above `other`, of whom somebody still speaks.
    pub(super) fn outclaim(&mut self, now: Mono, other: &Member) -> Result<(), GossipError> {
        let me = self.me();
        if me.displaces(other) {
            return Ok(());
        }
        let Some(claim) = other.claim.checked_add(1) else {
            return Ok(());
        };
        self.connected = false;
        self.look_soon(now);
        let result = self
            .foca
            .change_identity(Member { claim, ..me }, &mut self.runtime);
        self.settle(now);
        Ok(result?)
    }
}
