//! Virtual time, a bad network, and machines that crash: the world in which programs are tried.
//!
//! Knows nothing of what the programs do. Everything that happens is a function of the seed:
//! events are taken in the order of (time, number), and every chance comes from one generator.
//!
//! What a program does in one turn is a list of effects in order, and a crash may fall between
//! any two of them: what was persisted before it stays, what was to be sent after it is lost.

use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;

/// What runs on a simulated machine.
pub trait Program: Sized {
    /// The program on a machine has stopped.
    fn stopped(_shared: &mut Self::Shared, _machine: usize) {}
    /// Says what is wrong after a turn; it ends the run.
    fn complaint(_shared: &mut Self::Shared) -> Option<String> {
        None
    }

    /// What it sends.
    type Message: Clone + Debug;
    /// What survives a crash. A change counts once it was persisted.
    type Disk: Clone;
    /// What lies outside all machines: an oracle, counters, a name service.
    type Shared;

    /// Starts, with what is on the disk.
    fn boot(turn: &mut Turn<'_, Self>) -> Self;
    /// A time that was asked for has come.
    fn wake(&mut self, turn: &mut Turn<'_, Self>);
    /// A message has come.
    fn receive(&mut self, turn: &mut Turn<'_, Self>, from: SocketAddr, message: Self::Message);
    /// Looks at what was just persisted; an error ends the run.
    fn persisted(
        shared: &mut Self::Shared,
        machine: usize,
        disk: &Self::Disk,
    ) -> Result<(), String>;
}

/// One turn of a program.
pub struct Turn<'a, P: Program> {
    /// Now.
    pub now: Mono,
    /// On which machine.
    pub machine: usize,
    /// Where it is reached now.
    pub address: SocketAddr,
    /// Who reaches whom.
    pub links: &'a Links,
    /// What is on the disk.
    pub disk: &'a P::Disk,
    /// What lies outside all machines.
    pub shared: &'a mut P::Shared,
    /// Chance.
    pub rng: &'a mut SmallRng,
    effects: Vec<Effect<P>>,
    traced: bool,
}

enum Effect<P: Program> {
    Persist(P::Disk),
    Send(SocketAddr, P::Message),
    Wake(Mono),
    Note(String),
}

impl<P: Program> Turn<'_, P> {
    /// Writes the disk; what is sent after this is sent only if it was written.
    pub fn persist(&mut self, disk: P::Disk) {
        self.effects.push(Effect::Persist(disk));
    }

    /// Sends a message.
    pub fn send(&mut self, to: SocketAddr, message: P::Message) {
        self.effects.push(Effect::Send(to, message));
    }

    /// Asks to be woken.
    pub fn wake_at(&mut self, at: Mono) {
        self.effects.push(Effect::Wake(at));
    }

    /// Writes a line of the trace, when there is one.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.traced {
            self.effects.push(Effect::Note(text()));
        }
    }
}

/// What happens to machines and to the network.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The machine starts, if it doesn't run.
    Start(usize),
    /// It stops between two turns, and starts again after so many milliseconds, or never.
    Crash(usize, Option<u64>),
    /// It stops between two effects: after so many that persist or send.
    CrashAfter(usize, u32, Option<u64>),
    /// Messages from the first no longer reach the second.
    Cut(usize, usize),
    /// Machines on different sides don't reach each other.
    Partition(Vec<bool>),
    /// It is gone for ever.
    Destroy(usize),
    /// It gets another address.
    Move(usize, SocketAddr),
    /// Exactly these pairs don't reach one another any more.
    Rewire(Vec<(usize, usize)>),
    /// All cuts and partitions end.
    Heal,
    /// The network gets better or worse.
    Weather(Weather),
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Share of messages lost.
    pub loss: f64,
    /// Share of messages that arrive twice.
    pub twice: f64,
    /// Shortest and longest delay, milliseconds. Messages overtake one another.
    pub delay_ms: (u64, u64),
}

enum Event<P: Program> {
    Deliver {
        from: SocketAddr,
        to: SocketAddr,
        message: P::Message,
    },
    Wake {
        machine: usize,
        life: u64,
    },
    Fault(Fault),
}

/// Who reaches whom.
#[derive(Debug, Clone, Default)]
pub struct Links {
    cuts: BTreeSet<(usize, usize)>,
    sides: Vec<bool>,
}

impl Links {
    /// Can a message from one machine reach another now?
    pub fn connected(&self, from: usize, to: usize) -> bool {
        let side = |machine: usize| self.sides.get(machine).copied().unwrap_or(false);
        from == to || (side(from) == side(to) && !self.cuts.contains(&(from, to)))
    }

    /// Can two machines hold a connection now?
    pub fn both_ways(&self, a: usize, b: usize) -> bool {
        self.connected(a, b) && self.connected(b, a)
    }
}

/// One machine.
pub struct Machine<P: Program> {
    /// Where it is reached.
    pub address: SocketAddr,
    /// What is on its disk.
    pub disk: P::Disk,
    /// The program, while it runs.
    pub running: Option<P>,
    life: u64,
    armed: Option<(u32, Option<u64>)>,
    destroyed: bool,
}

/// All of it.
pub struct World<P: Program> {
    /// Now.
    pub now: Mono,
    /// The machines.
    pub machines: Vec<Machine<P>>,
    /// What lies outside all machines.
    pub shared: P::Shared,
    /// What happened, when it is recorded.
    pub trace: Option<Vec<String>>,
    /// The first thing that was wrong.
    pub broken: Option<String>,
    rng: SmallRng,
    queue: BTreeMap<(Mono, u64), Event<P>>,
    number: u64,
    weather: Weather,
    /// Who reaches whom.
    pub links: Links,
}

impl<P: Program> World<P> {
    /// A world without machines.
    pub fn new(seed: u64, shared: P::Shared, weather: Weather, traced: bool) -> World<P> {
        World {
            now: Mono(0),
            machines: Vec::new(),
            shared,
            trace: traced.then(Vec::new),
            broken: None,
            rng: SmallRng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            number: 0,
            weather,
            links: Links::default(),
        }
    }

    /// Adds a machine that has not been started.
    pub fn add(&mut self, address: SocketAddr, disk: P::Disk) {
        self.machines.push(Machine {
            address,
            disk,
            running: None,
            life: 0,
            armed: None,
            destroyed: false,
        });
    }

    /// Something will happen.
    pub fn schedule(&mut self, at: Mono, fault: Fault) {
        self.push(at, Event::Fault(fault));
    }

    /// Lets time pass up to `until`, or until something is broken.
    pub fn run(&mut self, until: Mono) {
        while self.broken.is_none() {
            match self.queue.first_entry() {
                Some(entry) if entry.key().0 <= until => {
                    let ((at, _), event) = entry.remove_entry();
                    self.now = at;
                    self.happen(event);
                }
                Some(_) | None => break,
            }
        }
        self.now = self.now.max(until);
    }

    /// Lets one machine take a turn at once, from outside.
    pub fn visit(&mut self, machine: usize, turn: impl FnOnce(&mut P, &mut Turn<'_, P>)) {
        let Some(mut program) = self.machines[machine].running.take() else {
            return;
        };
        let ((), effects) = self.turn(machine, |t| turn(&mut program, t));
        self.machines[machine].running = Some(program);
        self.apply(machine, effects);
        if let Some(wrong) = P::complaint(&mut self.shared) {
            self.record(|| format!("! {wrong}"));
            self.broken.get_or_insert(wrong);
        }
    }

    fn push(&mut self, at: Mono, event: Event<P>) {
        self.number += 1;
        self.queue.insert((at, self.number), event);
    }

    fn happen(&mut self, event: Event<P>) {
        match event {
            Event::Wake { machine, life } => {
                if self.machines[machine].life == life {
                    self.visit(machine, P::wake);
                }
            }
            Event::Deliver { from, to, message } => {
                let Some(machine) = self.at(to) else { return };
                if self.machines[machine].running.is_some() {
                    self.record(|| format!("{machine} <- {from} {message:?}"));
                    self.visit(machine, |program, turn| {
                        program.receive(turn, from, message)
                    });
                }
            }
            Event::Fault(fault) => self.strike(fault),
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.record(|| format!("* {fault:?}"));
        match fault {
            Fault::Start(machine) => self.start(machine),
            Fault::Crash(machine, back) => self.crash(machine, back),
            Fault::CrashAfter(machine, effects, back) => {
                self.machines[machine].armed = Some((effects, back));
            }
            Fault::Cut(from, to) => {
                self.links.cuts.insert((from, to));
            }
            Fault::Partition(sides) => self.links.sides = sides,
            Fault::Move(machine, address) => self.machines[machine].address = address,
            Fault::Destroy(machine) => {
                self.crash(machine, None);
                self.machines[machine].destroyed = true;
            }
            Fault::Rewire(pairs) => self.links.cuts = pairs.into_iter().collect(),
            Fault::Heal => {
                self.links = Links::default();
                for machine in &mut self.machines {
                    machine.armed = None;
                }
            }
            Fault::Weather(weather) => self.weather = weather,
        }
    }

    fn start(&mut self, machine: usize) {
        if self.machines[machine].running.is_some() || self.machines[machine].destroyed {
            return;
        }
        let (program, effects) = self.turn(machine, P::boot);
        self.machines[machine].running = Some(program);
        self.apply(machine, effects);
    }

    fn crash(&mut self, machine: usize, back: Option<u64>) {
        self.record(|| format!("* {machine} is down"));
        P::stopped(&mut self.shared, machine);
        let it = &mut self.machines[machine];
        it.running = None;
        it.life += 1;
        it.armed = None;
        if let Some(after) = back {
            let at = Mono(self.now.0 + after);
            self.schedule(at, Fault::Start(machine));
        }
    }

    fn turn<T>(
        &mut self,
        machine: usize,
        act: impl FnOnce(&mut Turn<'_, P>) -> T,
    ) -> (T, Vec<Effect<P>>) {
        let mut turn = Turn {
            now: self.now,
            machine,
            address: self.machines[machine].address,
            links: &self.links,
            disk: &self.machines[machine].disk,
            shared: &mut self.shared,
            rng: &mut self.rng,
            effects: Vec::new(),
            traced: self.trace.is_some(),
        };
        let done = act(&mut turn);
        (done, turn.effects)
    }

    fn apply(&mut self, machine: usize, effects: Vec<Effect<P>>) {
        for effect in effects {
            if matches!(effect, Effect::Persist(_) | Effect::Send(..)) {
                match &mut self.machines[machine].armed {
                    Some((0, back)) => {
                        let back = *back;
                        return self.crash(machine, back);
                    }
                    Some((left, _)) => *left -= 1,
                    None => {}
                }
            }
            match effect {
                Effect::Persist(disk) => {
                    self.machines[machine].disk = disk;
                    let it = &self.machines[machine];
                    if let Err(wrong) = P::persisted(&mut self.shared, machine, &it.disk) {
                        self.record(|| format!("! {wrong}"));
                        self.broken.get_or_insert(wrong);
                    }
                }
                Effect::Send(to, message) => self.send(machine, to, message),
                Effect::Wake(at) => {
                    let life = self.machines[machine].life;
                    self.push(at, Event::Wake { machine, life });
                }
                Effect::Note(text) => self.record(|| format!("{machine} {text}")),
            }
        }
    }

    fn send(&mut self, machine: usize, to: SocketAddr, message: P::Message) {
        let from = self.machines[machine].address;
        let Some(target) = self.at(to) else { return };
        let Weather {
            loss,
            twice,
            delay_ms: (shortest, longest),
        } = self.weather;
        if !self.links.connected(machine, target) || self.rng.random_bool(loss) {
            return self.record(|| format!("{machine} -> {target} lost {message:?}"));
        }
        for _ in 0..1 + u32::from(self.rng.random_bool(twice)) {
            let at = Mono(self.now.0 + self.rng.random_range(shortest..=longest));
            self.push(
                at,
                Event::Deliver {
                    from,
                    to,
                    message: message.clone(),
                },
            );
        }
    }

    fn at(&self, address: SocketAddr) -> Option<usize> {
        self.machines
            .iter()
            .position(|machine| machine.address == address)
    }

    fn record(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} ms  {}", self.now.0, line()));
        }
    }
}
