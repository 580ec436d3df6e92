//! A machine on which nothing runs but the founding protocol, and as much of enrolment as it
//! takes to become a member. It keeps the shell's side of the contract: persist, then send.

use crate::world::{Program, Turn};
use pgaa_core::founding::{
    Ask, Ballot, DataHeld, Durable, Founding, Hello, Released, Request, Response, Standing,
};
use pgaa_core::ids::{ClusterId, DataEpoch, Name, NodeId};
use pgaa_core::policy::{ConflictResolution, FoundingSet, Policy};
use pgaa_core::record::Endpoints;
use pgaa_core::time::Mono;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use uuid::Uuid;

/// How often the agent's loop runs when nothing happens.
const LOOP_EVERY_MS: u64 = 200;

/// How often a write fails while the disk is full now and then.
const DISK_FULL: f64 = 0.2;

/// What the configuration and the machine's history say.
#[derive(Debug, Clone)]
pub struct Setup {
    pub node: NodeId,
    pub name: String,
    pub address: SocketAddr,
    pub expect: u16,
    pub set: FoundingSet,
    pub seeds: Seeds,
    pub data: DataHeld,
    /// The cluster it belongs to since before the run.
    pub member: Option<ClusterId>,
    /// How long PostgreSQL takes to answer.
    pub postgres_ms: u64,
    /// How long an answer is waited for.
    pub patience_ms: u64,
    /// Until when its disk is full now and then.
    pub disk_full_until: Mono,
}

/// What the seeds resolve to.
#[derive(Debug, Clone)]
pub enum Seeds {
    /// Always the same addresses.
    Fixed(Vec<SocketAddr>),
    /// Those machines that have been started by then.
    Registered,
}

impl Seeds {
    /// Is this address one of a fixed list?
    pub fn names(&self, address: SocketAddr) -> bool {
        match self {
            Seeds::Fixed(addresses) => addresses.contains(&address),
            Seeds::Registered => false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Disk {
    pub setup: Setup,
    pub generation: u64,
    pub durable: Durable,
    pub member: Option<ClusterId>,
}

impl Disk {
    pub fn new(setup: Setup) -> Disk {
        let member = setup.member;
        Disk {
            setup,
            generation: 0,
            durable: Durable::default(),
            member,
        }
    }
}

/// What the whole world has seen.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Clusters that were minted, by whom.
    pub minted: Vec<(usize, ClusterId)>,
    /// Machines that are gone for ever: a cluster only they know of never was.
    pub destroyed: BTreeSet<usize>,
    /// Nodes that hold rows.
    pub with_rows: BTreeSet<NodeId>,
    /// Machines that have been started, for the name service.
    pub registered: Vec<SocketAddr>,
    /// Decrees by machine, to see that none is ever taken back.
    pub obeyed: BTreeMap<usize, ClusterId>,
    pub withdrawals: u64,
    pub releases: u64,
    pub refusals: u64,
    pub promises: u64,
    pub late_decrees: u64,
}

/// The life of the asking node and the number of its question: an answer finds its way back only
/// while the agent that asked still runs.
type Connection = (u64, usize);

#[derive(Debug, Clone)]
pub enum Body {
    Ask(Connection, Request),
    Answer(Connection, Response),
    Enrol,
    Enrolled(ClusterId),
}

/// A message, and who sent it, as the connection proves.
#[derive(Clone)]
pub struct Message {
    from: NodeId,
    body: Body,
}

impl Message {
    /// A question whose sender waits for no answer any more.
    pub fn late(from: NodeId, request: Request) -> Message {
        let body = Body::Ask((0, 0), request);
        Message { from, body }
    }
}

/// One line of the trace: what a reader needs, not all that was said.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hello = |h: &Hello| {
            let promised = h
                .promised
                .map(|(to, b)| format!("{} {}.{}", to.short(), b.generation, b.round));
            format!(
                "gen {} {:?} {:?} promised {promised:?}",
                h.generation, h.data, h.cluster
            )
        };
        let ballot = |b: &Ballot| format!("{}.{}", b.generation, b.round);
        write!(f, "{} ", self.from.short())?;
        match &self.body {
            Body::Ask(_, Request::Hello(h)) => write!(f, "hello? {}", hello(h)),
            Body::Ask(_, Request::AskPromise { ballot: b, .. }) => {
                write!(f, "promise? {}", ballot(b))
            }
            Body::Ask(_, Request::ReleasePromise { ballot: b, .. }) => {
                write!(f, "release! {}", ballot(b))
            }
            Body::Ask(_, Request::Decree(d)) => write!(f, "decree! {}", d.cluster),
            Body::Answer(_, Response::Hello(h)) => write!(f, "hello. {}", hello(h)),
            Body::Answer(_, Response::Promised { ballot: b }) => {
                write!(f, "promised. {}", ballot(b))
            }
            Body::Answer(_, other) => write!(f, "{other:?}"),
            Body::Enrol => write!(f, "enrol?"),
            Body::Enrolled(cluster) => write!(f, "enrolled. {cluster}"),
        }
    }
}

pub struct Node {
    pub founding: Founding,
    disk: Disk,
    booted: Mono,
    asked: Vec<(Ask, Option<Mono>)>,
    enrolled_at: Option<Mono>,
    was_candidate: bool,
}

fn policy(setup: &Setup) -> Policy {
    Policy {
        cluster_name: Name::new("shop").unwrap(),
        database: "shop".to_owned(),
        expect: setup.expect,
        max_nodes: 16,
        founding_set: setup.set.clone(),
        founding_wait: Duration::from_secs(60),
        conflict_resolution: ConflictResolution::LastUpdateWins,
        excluded_schemas: Vec::new(),
        slots: Default::default(),
        clock: Default::default(),
        backup: Default::default(),
    }
}

impl Node {
    fn hello(disk: &Disk, data: DataHeld) -> Hello {
        let Setup {
            node,
            name,
            address,
            expect,
            ..
        } = &disk.setup;
        Hello {
            node: *node,
            name: Name::new(name).unwrap(),
            cluster_name: Name::new("shop").unwrap(),
            endpoints: Endpoints {
                grpc: *address,
                gossip: *address,
                postgres: *address,
            },
            generation: disk.generation,
            epoch: DataEpoch(node.0),
            system_identifier: match data {
                DataHeld::Unknown => 0,
                DataHeld::Empty | DataHeld::Rows => node.0.as_u128() as u64 | 1,
            },
            expect: *expect,
            data,
            cluster: disk.member,
            enrols: disk.member.is_some(),
            known: Vec::new(),
            promised: None,
        }
    }

    fn data(&self, now: Mono) -> DataHeld {
        let looked = now.since(self.booted) >= Duration::from_millis(self.disk.setup.postgres_ms);
        if looked {
            self.disk.setup.data
        } else {
            DataHeld::Unknown
        }
    }

    /// The agent's loop: observe, tick, persist, send.
    fn step(&mut self, turn: &mut Turn<'_, Node>) {
        self.founding
            .set_me(Node::hello(&self.disk, self.data(turn.now)));
        self.founding.set_resolved(match &self.disk.setup.seeds {
            Seeds::Fixed(addresses) => addresses.clone(),
            Seeds::Registered => turn.shared.registered.clone(),
        });
        let rng = &mut *turn.rng;
        let step = self
            .founding
            .tick(turn.now, &mut || Uuid::from_u128(rng.random()));
        if step.persist && !self.persist(turn) {
            return;
        }
        for ask in step.asks {
            turn.shared.releases +=
                u64::from(matches!(ask.request, Request::ReleasePromise { .. }));
            let body = Body::Ask(
                (self.disk.generation, self.asked.len()),
                ask.request.clone(),
            );
            self.send(turn, ask.to, body);
            self.asked.push((ask, Some(turn.now)));
        }
        self.enrol(turn);
        self.note_standing(turn);
    }

    fn note_standing(&mut self, turn: &mut Turn<'_, Node>) {
        let standing = self.founding.standing(turn.now);
        let candidate = matches!(standing, Standing::Candidate { .. });
        let minted = matches!(standing, Standing::Founder(_));
        turn.shared.withdrawals += u64::from(self.was_candidate && !candidate && !minted);
        if self.was_candidate != candidate {
            turn.note(|| format!("{standing:?}"));
        }
        self.was_candidate = candidate;
    }

    /// Asks whoever can to take this node in, once a cluster is known.
    fn enrol(&mut self, turn: &mut Turn<'_, Node>) {
        let to = match self.founding.standing(turn.now) {
            Standing::ClusterFound { via, .. } => via.first().map(|(_, at)| *at),
            Standing::Decreed(_) => self.founding.fellows().first().map(|(_, at)| *at),
            Standing::Founder(decree) => {
                self.join(turn, decree.cluster);
                None
            }
            Standing::Discovering
            | Standing::Forming
            | Standing::Candidate { .. }
            | Standing::Promised { .. }
            | Standing::Member(_)
            | Standing::Quarantined { .. } => None,
        };
        let due = |last: Mono| turn.now.since(last) >= Duration::from_secs(1);
        if let Some(to) =
            to.filter(|_| self.disk.member.is_none() && self.enrolled_at.is_none_or(due))
        {
            self.enrolled_at = Some(turn.now);
            self.send(turn, to, Body::Enrol);
        }
    }

    fn join(&mut self, turn: &mut Turn<'_, Node>, cluster: ClusterId) {
        if self.disk.member.is_none() {
            turn.note(|| format!("is a member of {cluster}"));
            self.disk.member = Some(cluster);
            if !self.persist(turn) {
                self.disk.member = None;
            }
        }
    }

    /// Writes the disk, unless it is full. What was to follow is given up then.
    fn persist(&mut self, turn: &mut Turn<'_, Node>) -> bool {
        let full = turn.now < self.disk.setup.disk_full_until && turn.rng.random_bool(DISK_FULL);
        if full {
            turn.note(|| "can't write".to_owned());
            return false;
        }
        self.disk.durable = self.founding.durable().clone();
        self.founding.saved();
        turn.persist(self.disk.clone());
        true
    }

    fn send(&self, turn: &mut Turn<'_, Node>, to: SocketAddr, body: Body) {
        turn.send(
            to,
            Message {
                from: self.disk.setup.node,
                body,
            },
        );
    }

    /// What `pgaa-agent promise release` does, for whoever holds the promise or founded.
    pub fn release(&mut self, turn: &mut Turn<'_, Node>, machine: usize) {
        let durable = self.founding.durable();
        let promised = durable.promise.as_ref().map(|promise| promise.candidate);
        let decreed = durable.decree.as_ref().map(|decree| decree.founder);
        let Some(gone) = promised.or(decreed) else {
            return;
        };
        if let Ok(released) = self.founding.release_promise(turn.now, gone) {
            if released == Released::Decree {
                turn.shared.obeyed.remove(&machine);
            }
            assert!(
                self.persist(turn),
                "disks are in order when the operator comes"
            );
        }
    }

    fn give_up_waiting(&mut self, now: Mono) {
        let patience = Duration::from_millis(self.disk.setup.patience_ms);
        for (ask, sent) in &mut self.asked {
            if sent.is_some_and(|sent| now.since(sent) >= patience) {
                *sent = None;
                self.founding.unanswered(now, ask, "no answer");
            }
        }
    }
}

impl Program for Node {
    type Message = Message;
    type Disk = Disk;
    type Shared = Ledger;

    fn boot(turn: &mut Turn<'_, Node>) -> Node {
        let mut disk = turn.disk.clone();
        disk.generation += 1;
        turn.persist(disk.clone());
        let address = disk.setup.address;
        if !turn.shared.registered.contains(&address) {
            turn.shared.registered.push(address);
        }
        let hello = Node::hello(&disk, DataHeld::Unknown);
        let founding = Founding::restore(hello, &policy(&disk.setup), disk.durable.clone());
        let mut node = Node {
            founding,
            disk,
            booted: turn.now,
            asked: Vec::new(),
            enrolled_at: None,
            was_candidate: false,
        };
        node.wake(turn);
        node
    }

    fn wake(&mut self, turn: &mut Turn<'_, Node>) {
        self.give_up_waiting(turn.now);
        self.step(turn);
        turn.wake_at(Mono(turn.now.0 + LOOP_EVERY_MS));
    }

    fn receive(&mut self, turn: &mut Turn<'_, Node>, from: SocketAddr, message: Message) {
        match message.body {
            Body::Ask(number, request) => {
                let (response, changed) = self.founding.request(turn.now, message.from, &request);
                turn.shared.promises += u64::from(matches!(response, Response::Promised { .. }));
                turn.shared.refusals += u64::from(matches!(response, Response::PromiseHeld { .. }));
                if !changed || self.persist(turn) {
                    self.send(turn, from, Body::Answer(number, response));
                }
            }
            // Late answers and answers that come twice are let in: the founding must bear them.
            Body::Answer((life, number), response) => {
                let ours = life == self.disk.generation;
                if let Some((ask, sent)) = self.asked.get_mut(number).filter(|_| ours) {
                    *sent = None;
                    self.founding
                        .answered(turn.now, ask, message.from, response);
                }
            }
            Body::Enrol => {
                if let Some(cluster) = self.disk.member {
                    self.founding.settled(message.from);
                    self.send(turn, from, Body::Enrolled(cluster));
                }
            }
            Body::Enrolled(cluster) => {
                let still = match self.founding.standing(turn.now) {
                    Standing::ClusterFound { cluster: found, .. } => found == cluster,
                    Standing::Decreed(decree) => decree.cluster == cluster,
                    Standing::Discovering
                    | Standing::Forming
                    | Standing::Candidate { .. }
                    | Standing::Promised { .. }
                    | Standing::Founder(_)
                    | Standing::Member(_)
                    | Standing::Quarantined { .. } => false,
                };
                if still {
                    self.join(turn, cluster);
                }
            }
        }
        self.step(turn);
    }

    /// The invariants that hold at every moment.
    fn persisted(shared: &mut Ledger, machine: usize, disk: &Disk) -> Result<(), String> {
        let Some(decree) = &disk.durable.decree else {
            return match shared.obeyed.get(&machine) {
                Some(cluster) => Err(format!("{machine} has forgotten {cluster}")),
                None => Ok(()),
            };
        };
        let before = shared.obeyed.insert(machine, decree.cluster);
        if before.is_some_and(|before| before != decree.cluster) {
            return Err(format!(
                "{machine} obeys {} after {before:?}",
                decree.cluster
            ));
        }
        if disk.member.is_some_and(|member| member != decree.cluster) {
            return Err(format!(
                "{machine} is a member of {:?} and decreed another",
                disk.member
            ));
        }
        let stray = decree.members.iter().find(|member| {
            member.node != decree.founder && shared.with_rows.contains(&member.node)
        });
        if let Some(stray) = stray {
            return Err(format!(
                "{} holds rows and is decreed an empty member",
                stray.name
            ));
        }
        if decree.founder == disk.setup.node && before.is_none() {
            shared.minted.push((machine, decree.cluster));
        }
        let minted = shared
            .minted
            .iter()
            .filter(|(by, _)| !shared.destroyed.contains(by));
        let clusters: BTreeSet<ClusterId> = minted.map(|(_, cluster)| *cluster).collect();
        if clusters.len() > 1 {
            return Err(format!("two foundings: {:?}", shared.minted));
        }
        Ok(())
    }
}
