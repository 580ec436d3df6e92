//! What follows from a step of foca: packets to send, timers to keep, news to report and to pass on.

use super::{Engine, Output};
use crate::gossip::member::Member;
use crate::gossip::tuning;
use foca::{Codec, Header, Message, OwnedNotification, PostcardCodec};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use std::collections::BTreeMap;

impl Engine {
    /// Carries what foca wants done over to timers and outputs.
    pub(super) fn settle(&mut self, now: Mono) {
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
        let said = self.outputs.len();
        self.outputs.extend(self.heard.try_iter().map(Output::Hint));
        // Suspicions come without a notification, but not without an update to pass on.
        let backlog = self.foca.updates_backlog();
        let grown = backlog > std::mem::replace(&mut self.backlog, backlog);
        if changed || grown || self.outputs.len() > said {
            self.hasten(now);
        }
        if changed {
            self.report_changes();
            self.resize();
        }
    }

    /// Passes news on soon, instead of when the next round is due. Bounded, so that a hundred
    /// nodes that start together don't answer each datagram with three.
    pub(super) fn hasten(&mut self, now: Mono) {
        let earliest = self.hasted.plus(tuning::haste_period(self.network));
        self.haste_at.get_or_insert(earliest.max(now));
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
        self.look_soon(now);
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
    pub(super) fn resize(&mut self) {
        let members = self.up.len().max(self.roster.len()) + 1;
        // Neither periods nor switches differ, and only those can be refused.
        let _ = self.foca.set_config(tuning::config(self.network, members));
    }
}
