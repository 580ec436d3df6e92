//! What a member does for a joiner: the real lease, and each step on the model of its server, as
//! the daemon does it.

use super::postgres::Change;
use super::wire::{Ask, Call, Said};
use super::world::{Event, World};
use pgaa_core::beats;
use pgaa_core::ids::Lsn;
use pgaa_core::join::{
    CallError, Fenced, Heard, Lease, LeaseAnswer, LeaseAsk, LeaseVerdict, ServerFacts, Step,
    StepAnswer, StepAsk, relied_on,
};
use pgaa_core::time::Wall;
use rand::RngExt;

/// How long a step takes, ms; the lease can't change hands meanwhile.
const STEP: (u64, u64) = (1, 80);
const SLOW_STEP: (u64, u64) = (1_000, 12_000);

impl World {
    pub fn wall(&self) -> Wall {
        Wall(i64::try_from(self.now).unwrap_or(i64::MAX))
    }

    /// A call has come to a member.
    pub fn take_call(&mut self, number: u64, generation: u64) {
        let Some(call) = self.arrived(number, generation) else {
            return;
        };
        let busy_until = self.nodes[call.to].agent.busy_until;
        if busy_until > self.now {
            let call = number;
            self.at(busy_until, Event::Ask { call, generation });
            return;
        }
        match &call.ask {
            Ask::Lease(ask) => {
                let answer = self.lend(&call, ask);
                let said = answer.map(|answer| Said::Lease(Box::new(answer)));
                self.answer(number, said);
            }
            Ask::Step(ask) => self.begin_step(number, &call, ask),
        }
    }

    fn lend(&mut self, call: &Call, ask: &LeaseAsk) -> Result<LeaseAnswer, CallError> {
        let now = self.wall();
        let from = self.nodes[call.from].id;
        let Some(roster) = self.nodes[call.to].agent.roster.clone() else {
            let text = "this node is in no cluster yet".to_owned();
            return Err(CallError::Refused(text));
        };
        let heard = Heard::of(from, &roster);
        let me = (self.nodes[call.to].id, self.nodes[call.to].agent.life.stage);
        let lease = &mut self.nodes[call.to].agent.lease;
        let verdict = lease.judge(me, (from, heard), ask, now);
        let epoch = if verdict == LeaseVerdict::Granted {
            *lease = lease.after(from, ask, now);
            lease.epoch
        } else {
            lease.epoch
        };
        self.note(|| format!("{} to {}: {:?} {verdict:?}", call.to, call.from, ask.kind));
        // The schema is guarded before the joiner hears of it.
        if verdict == LeaseVerdict::Granted && !self.nodes[call.to].server.up {
            return Err(CallError::Unreachable("no connection".to_owned()));
        }
        Ok(LeaseAnswer {
            verdict,
            epoch,
            roster,
        })
    }

    fn begin_step(&mut self, number: u64, call: &Call, ask: &StepAsk) {
        let now = self.wall();
        let from = self.nodes[call.from].id;
        let agent = &mut self.nodes[call.to].agent;
        if let Err(why) = agent.lease.admit(from, ask, now) {
            match why {
                Fenced::Lapsed => self.count("steps fenced"),
                Fenced::Late => self.count("late steps fenced"),
            }
            self.note(|| {
                format!(
                    "{} refuses {:?} of {}: {why:?}",
                    call.to, ask.step, call.from
                )
            });
            self.answer(number, Err(CallError::Refused("fenced".to_owned())));
            return;
        }
        let slow = self.unlucky(80);
        let (least, most) = if slow { SLOW_STEP } else { STEP };
        let until = self.now + self.rng.random_range(least..=most);
        let agent = &mut self.nodes[call.to].agent;
        agent.busy_until = until;
        let generation = agent.generation;
        self.at(
            until,
            Event::Done {
                call: number,
                generation,
            },
        );
    }

    /// The step is carried out; if nobody is there to answer any more it may be all the same.
    pub fn end_step(&mut self, number: u64, generation: u64) {
        let Some(call) = self.arrived(number, generation) else {
            return;
        };
        let Ask::Step(ask) = &call.ask else {
            return;
        };
        let done = if self.nodes[call.to].server.up {
            self.carry_out((call.to, call.from), &ask.step)
        } else {
            Err(CallError::Unreachable("no connection".to_owned()))
        };
        self.note(|| format!("{} for {}: {:?}: {done:?}", call.to, call.from, ask.step));
        self.answer(number, done.map(Said::Step));
    }

    fn carry_out(
        &mut self,
        (me, joiner): (usize, usize),
        step: &Step,
    ) -> Result<StepAnswer, CallError> {
        match step {
            Step::Facts => Ok(StepAnswer::Facts(Box::new(server_facts()))),
            Step::CreateSlot { subscription } => {
                self.named((joiner, me), subscription);
                self.drop_slot(me, joiner);
                let position = self.nodes[me].server.create_slot(joiner);
                Ok(StepAnswer::Position(Lsn(position)))
            }
            Step::FindSlot { subscription } => {
                let mut readers =
                    (0..self.nodes.len()).filter(|reader| self.names[*reader][me] == *subscription);
                let Some(reader) = readers.next() else {
                    return Err(CallError::Refused(format!("nobody reads {subscription}")));
                };
                let anew = self.slots_made_anew(me);
                let slot = self.nodes[me].server.slots.get(&reader);
                let slot = slot.filter(|_| !anew.contains(&self.slots[reader][me]));
                Ok(slot.map_or(StepAnswer::Absent, |slot| {
                    StepAnswer::Position(Lsn(slot.confirmed))
                }))
            }
            Step::DropSlots => {
                self.drop_slots(me, joiner)?;
                self.drop_subscription(me, joiner);
                let id = self.nodes[joiner].id;
                self.nodes[me].agent.lease.committed.remove(&id);
                Ok(StepAnswer::Done)
            }
            Step::Beat => {
                let unlooked = || CallError::Unreachable("it has not looked yet".to_owned());
                let number = self.beat(me, true).ok_or_else(unlooked)?;
                Ok(StepAnswer::Heartbeat(number))
            }
            Step::Arrived => {
                let number = self.nodes[me].server.beats.get(&joiner).copied();
                Ok(StepAnswer::Heartbeat(number.unwrap_or(0)))
            }
            Step::InsertPosition => Ok(StepAnswer::Position(Lsn(self.nodes[me].server.end()))),
            Step::OriginPositions { since, until } => {
                let found = self.nodes[me].server.origin_positions(since.0, until.0);
                let named = found
                    .into_iter()
                    .map(|(provider, end)| (self.slots[me][provider].clone(), Lsn(end)));
                Ok(StepAnswer::Origins(named.collect()))
            }
            Step::Commit => {
                let id = self.nodes[joiner].id;
                self.nodes[me].agent.lease.committed.insert(id);
                Ok(StepAnswer::Done)
            }
        }
    }

    fn named(&mut self, (subscriber, provider): (usize, usize), name: &str) {
        if self.names[subscriber][provider] != name {
            self.accuse(format!("{name} does not read {provider} for {subscriber}"));
        }
    }

    /// Drops the slot of a joiner, which must not be ready.
    fn drop_slots(&mut self, me: usize, joiner: usize) -> Result<(), CallError> {
        let id = self.nodes[joiner].id;
        let roster = self.nodes[me].agent.roster.as_ref();
        let Some(record) = roster.and_then(|roster| roster.records.get(&id)) else {
            return Ok(());
        };
        if relied_on(record) {
            return Err(CallError::Unreachable("its slots are in use".to_owned()));
        }
        self.drop_slot(me, joiner);
        Ok(())
    }

    /// Writes a member's heartbeat, which is on disk at once, or soon. `None` before its agent has
    /// looked at its slots and said so.
    pub fn beat(&mut self, me: usize, flush: bool) -> Option<u64> {
        let now = self.now;
        let agent = &self.nodes[me].agent;
        let roster = agent.roster.as_ref();
        let own = roster.and_then(|roster| roster.records.get(&self.nodes[me].id));
        let series = agent.memory.series?;
        let floor = own.map_or(0, |r| r.heartbeat).max(beats::floor(series));
        let server = &mut self.nodes[me].server;
        let number = server.beats.get(&me).copied().unwrap_or(0).max(floor) + 1;
        server.write(me, Change::Beat(number), now, flush);
        match flush {
            true => self.wake_readers(me),
            false => self.flush_soon(me),
        }
        Some(number)
    }

    /// Gives up a joiner whose lease on this member has run out.
    pub fn expire(&mut self, me: usize) {
        if self.nodes[me].agent.busy_until > self.now {
            return;
        }
        let now = self.wall();
        let agent = &self.nodes[me].agent;
        let Some(id) = agent.lease.expired(now) else {
            return;
        };
        let roster = agent.roster.as_ref();
        let record = roster.and_then(|roster| roster.records.get(&id));
        let ready = record.is_some_and(relied_on);
        let kept = agent.lease.keeps(id, ready);
        let joiner = self.of(id).unwrap_or_default();
        if !self.nodes[me].server.up || (!kept && self.drop_slots(me, joiner).is_err()) {
            return;
        }
        self.note(|| format!("{me} gives up {joiner}, whose slot is kept: {kept}"));
        self.count("leases run out");
        let agent = &mut self.nodes[me].agent;
        agent.lease = Lease {
            holder: None,
            ..agent.lease.clone()
        };
    }
}

/// A server with which nothing is wrong.
pub fn server_facts() -> ServerFacts {
    ServerFacts {
        version_num: 150_020,
        slots_free: 100,
        senders_free: 100,
        workers_free: 100,
        wal_can_be_read: true,
        replicated: ["public.t".to_owned()].into(),
        ..ServerFacts::default()
    }
}
