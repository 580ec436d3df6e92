//! foca's timers, all of them, in the order foca wants them back.
//!
//! Must not drop any: a lost timer silently ends a probe cycle. (Datagrams may be dropped.)

use super::member::Member;
use foca::Timer;
use pgaa_core::time::Mono;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// The pending timers, ordered by (deadline, timer, age).
#[derive(Debug, Default)]
pub struct Timers {
    due: BinaryHeap<Reverse<Due>>,
    submitted: u64,
}

#[derive(Debug)]
struct Due {
    at: Mono,
    timer: Timer<Member>,
    /// Keeps equal timers in the order they were submitted in, so that a run can be repeated.
    order: u64,
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        let by_time = self.at.cmp(&other.at);
        by_time
            .then_with(|| self.timer.cmp(&other.timer))
            .then(self.order.cmp(&other.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl Timers {
    /// Takes a timer to be fired at `at`.
    pub fn push(&mut self, at: Mono, timer: Timer<Member>) {
        self.submitted += 1;
        self.due.push(Reverse(Due {
            at,
            timer,
            order: self.submitted,
        }));
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.due.peek().map(|Reverse(due)| due.at)
    }

    /// The earliest deadline, while there is nothing to gossip about: foca then does nothing in
    /// a round of gossip but to ask for the next, which can wait until another timer is due.
    #[must_use]
    pub fn next_deadline_but_gossip(&self) -> Option<Mono> {
        let others = self.due.iter().filter(|Reverse(due)| match due.timer {
            Timer::PeriodicGossip(_) => false,
            Timer::ProbeRandomMember(_)
            | Timer::SendIndirectProbe { .. }
            | Timer::ChangeSuspectToDown { .. }
            | Timer::RemoveDown(_)
            | Timer::PeriodicAnnounce(_)
            | Timer::PeriodicAnnounceDown(_) => true,
        });
        others.map(|Reverse(due)| due.at).min()
    }

    /// Takes out the next timer that is due by `now`.
    pub fn pop_due(&mut self, now: Mono) -> Option<Timer<Member>> {
        if self.next_deadline()? > now {
            return None;
        }
        self.due.pop().map(|Reverse(due)| due.timer)
    }

    /// Moves every deadline back by `by`; the order stays.
    pub fn postpone(&mut self, by: Duration) {
        let postponed = self.due.drain().map(|Reverse(due)| {
            let at = due.at.plus(by);
            Reverse(Due { at, ..due })
        });
        self.due = postponed.collect::<Vec<_>>().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indirect() -> Timer<Member> {
        let probed_id = Member::at("10.0.0.1:7432".parse().unwrap());
        Timer::SendIndirectProbe {
            probed_id,
            token: 0,
        }
    }

    #[test]
    fn timers_of_one_deadline_come_in_the_order_of_their_kind() {
        let mut timers = Timers::default();
        timers.push(Mono(20), Timer::PeriodicGossip(0));
        timers.push(Mono(10), Timer::ProbeRandomMember(0));
        timers.push(Mono(10), indirect());
        assert_eq!(timers.next_deadline(), Some(Mono(10)));
        assert_eq!(timers.pop_due(Mono(9)), None);
        assert_eq!(timers.pop_due(Mono(20)), Some(indirect()));
        assert_eq!(timers.pop_due(Mono(20)), Some(Timer::ProbeRandomMember(0)));
        timers.postpone(Duration::from_millis(5));
        assert_eq!(timers.pop_due(Mono(24)), None);
        assert_eq!(timers.pop_due(Mono(25)), Some(Timer::PeriodicGossip(0)));
        assert_eq!(timers.next_deadline(), None);
    }
}
