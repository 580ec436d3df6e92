//! Calls between agents: requests and answers on their way, which get lost, late, or come twice.

use super::world::{Event, World};
use pgaa_core::join::{CallError, LeaseAnswer, LeaseAsk, StepAnswer, StepAsk};
use std::collections::BTreeMap;

/// How long an answer is waited for, ms: a lease's, and a step's. A dead connection shows sooner.
const LEASE_PATIENCE: u64 = 5_000;
const STEP_PATIENCE: u64 = 30_000;
const KEPT_ALIVE: u64 = 8_000;
/// How long a message is on its way, ms; and one that is late.
const DELAY: (u64, u64) = (1, 12);
const LATE: (u64, u64) = (500, 20_000);

#[derive(Debug, Clone)]
pub enum Ask {
    Lease(LeaseAsk),
    Step(StepAsk),
}

#[derive(Debug, Clone)]
pub enum Said {
    Lease(Box<LeaseAnswer>),
    Step(StepAnswer),
}

#[derive(Debug, Clone)]
pub struct Call {
    pub from: usize,
    pub to: usize,
    pub ask: Ask,
    task: u64,
    answer: Option<Result<Said, CallError>>,
    result: Option<Result<Said, CallError>>,
    over: bool,
}

/// All calls.
#[derive(Debug, Default)]
pub struct Wires {
    calls: BTreeMap<u64, Call>,
}

impl World {
    /// A joiner's attempt asks a member. Returns the call's number.
    pub fn ask(&mut self, (from, task): (usize, u64), to: usize, ask: Ask) -> u64 {
        let number = self.next();
        let patience = match (&ask, self.linked(from, to)) {
            (Ask::Lease(_), _) => LEASE_PATIENCE,
            (Ask::Step(_), true) => STEP_PATIENCE,
            (Ask::Step(_), false) => KEPT_ALIVE,
        };
        let call = Call {
            from,
            to,
            ask,
            task,
            answer: None,
            result: None,
            over: false,
        };
        self.wires.calls.insert(number, call);
        self.at(self.now + patience, Event::GiveUp { call: number });
        let generation = self.nodes[to].agent.generation;
        let arrives = Event::Ask {
            call: number,
            generation,
        };
        let bad = self.story.bad_calls;
        if self.unlucky(bad) {
            self.count("calls late");
            self.within(LATE, arrives.clone());
        } else if self.linked(from, to) && !self.nodes[to].agent.up {
            // The connection is refused.
            self.within(DELAY, Event::GiveUp { call: number });
        } else {
            self.within(DELAY, arrives.clone());
        }
        if self.unlucky(bad) {
            self.count("calls twice");
            self.within(LATE, arrives);
        }
        number
    }

    /// The call, if it arrives: a connection doesn't outlive either end's process.
    pub fn arrived(&self, number: u64, generation: u64) -> Option<Call> {
        let call = self.wires.calls.get(&number)?;
        let member = &self.nodes[call.to].agent;
        let there = member.generation == generation && self.answers(call.from, call.to);
        there.then(|| call.clone())
    }

    /// A member answers; the answer may get lost.
    pub fn answer(&mut self, number: u64, answer: Result<Said, CallError>) {
        if self.unlucky(self.story.bad_calls) {
            self.count("answers lost");
            return;
        }
        if let Some(call) = self.wires.calls.get_mut(&number) {
            call.answer = Some(answer);
        }
        self.within(DELAY, Event::Answer { call: number });
    }

    pub fn answered(&mut self, number: u64) {
        let Some(call) = self.wires.calls.get(&number) else {
            return;
        };
        if !self.linked(call.from, call.to) {
            return;
        }
        if let Some(answer) = call.answer.clone() {
            self.end_call(number, answer);
        }
    }

    pub fn give_up(&mut self, number: u64) {
        let error = CallError::Unreachable("it does not answer".to_owned());
        self.end_call(number, Err(error));
    }

    fn end_call(&mut self, number: u64, result: Result<Said, CallError>) {
        let Some(call) = self.wires.calls.get_mut(&number) else {
            return;
        };
        if std::mem::replace(&mut call.over, true) {
            return;
        }
        call.result = Some(result);
        let poll = Event::Poll {
            node: call.from,
            task: call.task,
        };
        self.at(self.now, poll);
    }

    /// What came of a call, once something has.
    pub fn result(&mut self, number: u64) -> Option<Result<Said, CallError>> {
        self.wires.calls.get_mut(&number)?.result.take()
    }
}
