//! A joiner's lease on a member: one joiner at a time, with a fencing epoch, so that joins are
//! serialised and a joiner that was given up can't act any more.
//!
//! Pure: the member stores what [`Lease::after`] returns before it answers.

use super::host::{LeaseAsk, LeaseKind, LeaseVerdict, StepAsk};
use crate::ids::NodeId;
use crate::life::Stage;
use crate::record::JoinPhase;
use crate::roster::Roster;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// The longest lease that is given.
const TTL_MAX: Duration = Duration::from_secs(60);

/// The lease as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Lease {
    /// Grows with every joiner.
    pub epoch: u64,
    /// Who has it, or had it when it ran out.
    pub holder: Option<NodeId>,
    /// Until when, by this node's clock.
    pub expires: Wall,
    /// The joiners whose slots are kept as a member's, although they have not been seen ready.
    #[serde(default)]
    pub committed: BTreeSet<NodeId>,
    /// The number of the last step under this epoch. It needn't survive: nor do connections.
    #[serde(skip)]
    pub sequence: u64,
}

/// Why a step is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// The joiner no longer holds the lease.
    Lapsed,
    /// A newer step has overtaken this one.
    Late,
}

/// What the record of the node that asks says, if it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It has not.
    Nothing,
    /// How far its join has come; a member's says nothing of that.
    Phase(Option<JoinPhase>),
}

impl Heard {
    /// What a roster has of a node.
    #[must_use]
    pub fn of(node: NodeId, roster: &Roster) -> Heard {
        let record = roster.records.get(&node);
        record.map_or(Heard::Nothing, |record| Heard::Phase(record.phase))
    }
}

impl Lease {
    /// Who holds it now.
    #[must_use]
    pub fn in_force(&self, now: Wall) -> Option<NodeId> {
        self.holder.filter(|_| self.expires > now)
    }

    /// The joiner whose lease has run out and was not put away yet.
    #[must_use]
    pub fn expired(&self, now: Wall) -> Option<NodeId> {
        self.holder.filter(|_| self.expires <= now)
    }

    /// Answers a question of `from` on the member `me`. Without its record nobody here could tell
    /// which slots are its, and drop them when it is gone.
    #[must_use]
    pub fn judge(
        &self,
        me: (NodeId, Stage),
        (from, heard): (NodeId, Heard),
        ask: &LeaseAsk,
        now: Wall,
    ) -> LeaseVerdict {
        let denied = |holder, reason: &str| LeaseVerdict::Denied {
            holder,
            reason: reason.to_owned(),
        };
        let own = self.holder == Some(from);
        match ask.kind {
            LeaseKind::Release | LeaseKind::Renew if !own || ask.epoch != self.epoch => {
                denied(self.holder, "this lease is not in force any more")
            }
            LeaseKind::Release | LeaseKind::Renew => LeaseVerdict::Granted,
            LeaseKind::Acquire | LeaseKind::AcquireAnew => match me.1 {
                _ if heard == Heard::Nothing => denied(
                    None,
                    "the record of the joining node has not arrived there yet",
                ),
                Stage::Founding => denied(
                    None,
                    "this member is not ready yet: the founding comes first",
                ),
                Stage::Leaving => denied(None, "this member is leaving; wait until it has left"),
                Stage::Joining(phase) if joins_before((me.0, phase), (from, heard)) => {
                    denied(Some(me.0), "another node is joining right now")
                }
                Stage::Single
                | Stage::Joining(_)
                | Stage::Ready
                | Stage::Resyncing
                | Stage::Left => self.lend(from, now),
            },
        }
    }

    /// A lease that ran out is still its holder's until it was put away: whoever got it before
    /// would cover up that slots have to be dropped, and they would hold WAL back for ever.
    fn lend(&self, to: NodeId, now: Wall) -> LeaseVerdict {
        let reason = match self.holder {
            Some(holder) if holder == to => return LeaseVerdict::Granted,
            None => return LeaseVerdict::Granted,
            Some(_) if self.expires > now => "another node is joining right now",
            Some(_) => "what another node left when its join ended is being put away",
        };
        LeaseVerdict::Denied {
            holder: self.holder,
            reason: reason.to_owned(),
        }
    }

    /// The lease after a question of `from` was granted.
    #[must_use]
    pub fn after(&self, from: NodeId, ask: &LeaseAsk, now: Wall) -> Lease {
        let ttl_ms = i64::try_from(ask.ttl.min(TTL_MAX).as_millis()).unwrap_or(i64::MAX);
        let expires = Wall(now.0.saturating_add(ttl_ms));
        let mut committed = self.committed.clone();
        if ask.kind == LeaseKind::AcquireAnew {
            // Its record may say that it is booting when the lease runs out.
            committed.insert(from);
        }
        match ask.kind {
            LeaseKind::Acquire | LeaseKind::AcquireAnew => Lease {
                epoch: self.epoch.saturating_add(1),
                holder: Some(from),
                expires,
                committed,
                sequence: 0,
            },
            LeaseKind::Renew => Lease {
                expires,
                ..self.clone()
            },
            LeaseKind::Release => Lease {
                holder: None,
                ..self.clone()
            },
        }
    }

    /// May `from` have this step done? Notes its number.
    pub fn admit(&mut self, from: NodeId, ask: &StepAsk, now: Wall) -> Result<(), Fenced> {
        let holds = ask.joiner == from && self.in_force(now) == Some(from);
        if !holds || self.epoch != ask.epoch {
            return Err(Fenced::Lapsed);
        }
        if ask.sequence <= self.sequence {
            return Err(Fenced::Late);
        }
        self.sequence = ask.sequence;
        Ok(())
    }

    /// Are the slots of a joiner kept when its lease runs out? Those of one that is ready, or may
    /// be because every member has promised it.
    #[must_use]
    pub fn keeps(&self, joiner: NodeId, ready: bool) -> bool {
        ready || self.committed.contains(&joiner)
    }
}

/// Does a node that is joining itself go before another joiner? One that others subscribe to
/// already does; else the lower UUID.
fn joins_before(me: (NodeId, JoinPhase), other: (NodeId, Heard)) -> bool {
    let linked = |phase: JoinPhase| phase >= JoinPhase::Linking;
    let other_linked = matches!(other.1, Heard::Phase(Some(phase)) if linked(phase));
    match (linked(me.1), other_linked) {
        (true, false) => true,
        (false, true) => false,
        (true, true) | (false, false) => me.0 < other.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::Step;
    use uuid::Uuid;

    const NOW: Wall = Wall(1_000_000);

    fn id(number: u128) -> NodeId {
        NodeId(Uuid::from_u128(number))
    }

    fn ask(joiner: u128, kind: LeaseKind, epoch: u64) -> LeaseAsk {
        LeaseAsk {
            joiner: id(joiner),
            epoch,
            kind,
            ttl: Duration::from_secs(15),
        }
    }

    fn judge(lease: &Lease, stage: Stage, from: u128, ask: &LeaseAsk, now: Wall) -> bool {
        let heard = Heard::Phase(Some(JoinPhase::Leasing));
        lease.judge((id(5), stage), (id(from), heard), ask, now) == LeaseVerdict::Granted
    }

    #[test]
    fn who_is_not_known_gets_none() {
        let lease = Lease::default();
        let judge = |heard| {
            let acquire = ask(1, LeaseKind::Acquire, 0);
            lease.judge((id(5), Stage::Ready), (id(1), heard), &acquire, NOW)
        };
        assert_ne!(judge(Heard::Nothing), LeaseVerdict::Granted);
        assert_eq!(judge(Heard::Phase(None)), LeaseVerdict::Granted);
    }

    #[test]
    fn one_joiner_at_a_time_until_it_runs_out() {
        let acquire = |joiner| ask(joiner, LeaseKind::Acquire, 0);
        let free = Lease::default();
        assert!(judge(&free, Stage::Ready, 1, &acquire(1), NOW));
        let held = free.after(id(1), &acquire(1), NOW);
        assert!(!judge(&held, Stage::Ready, 2, &acquire(2), NOW));
        assert!(judge(&held, Stage::Ready, 1, &acquire(1), NOW));
        let later = Wall(NOW.0 + 15_000);
        assert_eq!(held.expired(later), Some(id(1)));
        // Not before what the first one made was dropped.
        assert!(!judge(&held, Stage::Ready, 2, &acquire(2), later));
        let put_away = Lease {
            holder: None,
            ..held
        };
        assert!(judge(&put_away, Stage::Ready, 2, &acquire(2), later));
        let taken = put_away.after(id(2), &acquire(2), later);
        assert_eq!(taken.epoch, 2);
        let renew = ask(1, LeaseKind::Renew, 1);
        assert!(!judge(&taken, Stage::Ready, 1, &renew, later));
    }

    #[test]
    fn the_slots_of_a_member_are_kept_when_its_lease_runs_out() {
        let joins = Lease::default().after(id(1), &ask(1, LeaseKind::Acquire, 0), NOW);
        assert!(!joins.keeps(id(1), false));
        let anew = Lease::default().after(id(1), &ask(1, LeaseKind::AcquireAnew, 0), NOW);
        assert!(anew.keeps(id(1), false) && anew.in_force(NOW) == Some(id(1)));
        assert!(!judge(
            &anew,
            Stage::Ready,
            2,
            &ask(2, LeaseKind::AcquireAnew, 0),
            NOW
        ));
    }

    #[test]
    fn of_two_joiners_one_goes_first() {
        let acquire = |joiner| ask(joiner, LeaseKind::Acquire, 0);
        let lease = Lease::default();
        let me = Stage::Joining(JoinPhase::Leasing);
        assert!(judge(&lease, me, 4, &acquire(4), NOW));
        assert!(!judge(&lease, me, 6, &acquire(6), NOW));
        // Whoever is subscribed to already goes first, whatever the UUIDs.
        let linked = (id(6), Heard::Phase(Some(JoinPhase::Linking)));
        let verdict = lease.judge((id(5), me), linked, &acquire(6), NOW);
        assert_eq!(verdict, LeaseVerdict::Granted);
        let far = Stage::Joining(JoinPhase::Checking);
        assert!(!judge(&lease, far, 4, &acquire(4), NOW));
    }

    #[test]
    fn late_and_foreign_steps_are_fenced() {
        let mut lease = Lease::default().after(id(1), &ask(1, LeaseKind::Acquire, 0), NOW);
        let step = |joiner: u128, epoch, sequence| StepAsk {
            joiner: id(joiner),
            epoch,
            sequence,
            step: Step::Beat,
        };
        assert_eq!(lease.admit(id(1), &step(1, 1, 2), NOW), Ok(()));
        assert_eq!(lease.admit(id(1), &step(1, 1, 2), NOW), Err(Fenced::Late));
        assert_eq!(lease.admit(id(1), &step(1, 1, 1), NOW), Err(Fenced::Late));
        assert_eq!(lease.admit(id(1), &step(1, 0, 3), NOW), Err(Fenced::Lapsed));
        assert_eq!(lease.admit(id(2), &step(2, 1, 3), NOW), Err(Fenced::Lapsed));
        assert_eq!(lease.admit(id(2), &step(1, 1, 3), NOW), Err(Fenced::Lapsed));
        let later = Wall(NOW.0 + 15_000);
        assert_eq!(
            lease.admit(id(1), &step(1, 1, 3), later),
            Err(Fenced::Lapsed)
        );
    }
}
