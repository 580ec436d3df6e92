//! Joining a mesh that serves writes, without losing any of them.
//!
//! The protocol is JOIN_PROTOCOL of ARCHITECTURE.md. It is written once, against [`Host`]: the
//! agent plays it on real servers, the simulation in virtual time. This node acts on others only
//! through their agents, under a lease that every member has granted; until it has committed,
//! everything it made elsewhere can be dropped again, so any failure before that starts over.
//! A member that has lost what it needs next goes the same way, after `resync`.

mod hand_over;
mod host;
mod lease;
mod leases;
mod preflight;
mod resync;

pub use host::{
    CallError, Done, Forward, Host, LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, Member, POINTS,
    POINTS_ANEW, Step, StepAnswer, StepAsk,
};
pub use lease::{Fenced, Heard, Lease};
pub use preflight::{Problem, ServerFacts, judge, remarks};

use crate::ids::{NodeId, subscription_name};
use crate::life::Stage;
use crate::observed::Reach;
use crate::record::{EdgeState, JoinPhase, NodeRecord};
use crate::roster::Roster;
use crate::state::NodeState;
use futures_util::future::{try_join, try_join_all};
use leases::Held;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

/// Between two looks at who takes part, while the edges are made.
const LOOK: Duration = Duration::from_secs(1);

/// Why an attempt to join ended without this node being ready, for people. The next one starts
/// over, or goes on where that is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    /// A failure with these words.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One attempt, from wherever the last one ended. Returns when this node may declare itself
/// ready: every edge is alive both ways, and every member has promised to keep its slot. A node whose
/// contents were given up only becomes another database by it, and the next attempt joins that.
pub async fn attempt<H: Host>(host: &H) -> Result<(), Failure> {
    let way = Way::of(host.stage());
    if way == Way::Fill {
        host.enter(JoinPhase::Leasing)?;
    }
    let mut held = Held::default();
    if let Err(failure) = held.acquire(host).await {
        end(host, held).await;
        return Err(failure);
    }
    host.reached("leased").await;
    let ended = {
        let work = pin!(work(host, &held, way));
        let keep = pin!(held.keep(host));
        match futures_util::future::select(work, keep).await {
            futures_util::future::Either::Left((done, _)) => done,
            futures_util::future::Either::Right((lost, _)) => Err(lost),
        }
    };
    // What failed for a reason that lasts must not keep others from joining meanwhile.
    end(host, held).await;
    ended
}

/// What has to be done before the edges are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Everything: nothing here is anybody's.
    Fill,
    /// Nothing, if what was made on members so far is still there.
    Confirm,
    /// This node is a member: it has to be proven first that it may be emptied.
    Anew,
}

impl Way {
    fn of(stage: Stage) -> Way {
        match stage {
            Stage::Joining(JoinPhase::Linking | JoinPhase::Checking) => Way::Confirm,
            Stage::Ready | Stage::Resyncing | Stage::Leaving | Stage::Left => Way::Anew,
            Stage::Single | Stage::Founding | Stage::Joining(_) => Way::Fill,
        }
    }
}

async fn end<H: Host>(host: &H, held: Held) {
    // It could not be emptied, so it serves on, with what it lacks. When this can't be stored the
    // next attempt finds it as it is.
    if host.stage() == Stage::Resyncing {
        let _ = host.reopen();
    }
    match Way::of(host.stage()) {
        Way::Fill => held.give_up(host).await,
        // What this node has on members is a member's, or counts when the join goes on.
        Way::Confirm | Way::Anew => held.release(host).await,
    }
}

async fn work<H: Host>(host: &H, held: &Held, way: Way) -> Result<(), Failure> {
    if host.given_up() {
        clear(host, held, &members(host)?).await?;
        return host.renew().await;
    }
    if way == Way::Anew {
        resync::prepare(host, held).await?;
    }
    let known = match way {
        Way::Confirm => confirm(host, held).await?,
        Way::Fill | Way::Anew => fill(host, held).await?,
    };
    host.reached("linking").await;
    {
        let edges = pin!(host.linked());
        let grown = pin!(grown(host, &known));
        if let futures_util::future::Either::Right((failure, _)) =
            futures_util::future::select(edges, grown).await
        {
            host.enter(JoinPhase::Leasing)?;
            return Err(failure);
        }
    }
    if host.stage() == Stage::Ready {
        return Ok(());
    }
    for member in members(host)? {
        held.step(host, &member, Step::Commit).await?;
        host.reached("committed").await;
    }
    host.enter(JoinPhase::Checking)?;
    host.ready().await;
    Ok(())
}

/// Ends when somebody takes part whom this join did not know as one that does: a member that had
/// become ready just before it gave its lease, and whose record came late. No edge with it was
/// made, and after [`JoinPhase::Linking`] none would ever be.
async fn grown<H: Host>(host: &H, known: &[Member]) -> Failure {
    loop {
        // One that is restarting is no reason to start over.
        for member in members(host).unwrap_or_default() {
            if !known.iter().any(|have| have.node == member.node) {
                let text = format!("{} became ready when this join began", member.name);
                return Failure(text);
            }
        }
        host.sleep(LOOK).await;
    }
}

/// Brings every row here, up to a position on every member at which direct streams go on.
async fn fill<H: Host>(host: &H, held: &Held) -> Result<Vec<Member>, Failure> {
    let members = members(host)?;
    let source = source(host, &members)?;
    {
        let bring = pin!(bring(host, held, &source, &members));
        let spoiled = pin!(spoiled(host, &source));
        match futures_util::future::select(bring, spoiled).await {
            futures_util::future::Either::Left((done, _)) => done?,
            futures_util::future::Either::Right((failure, _)) => return Err(failure),
        }
    }
    // Before this node takes a write.
    let of_source = preflight::facts_of(host, held, &source).await?.1;
    host.adopt_tables(of_source.replicated).await?;
    host.enter(JoinPhase::Linking)?;
    Ok(members)
}

/// Ends when the source says that it lacks changes of another: what it waits for comes no more.
async fn spoiled<H: Host>(host: &H, source: &Member) -> Failure {
    loop {
        let record = host
            .roster()
            .map(|roster| roster.records.get(&source.node).cloned());
        let lacks = |record: &NodeRecord| {
            let mut edges = record.edges.iter().filter(|(node, _)| **node != host.me());
            edges.any(|(_, edge)| edge.state == EdgeState::NeedsResync)
        };
        if record.is_ok_and(|record| record.as_ref().is_some_and(lacks)) {
            return Failure(format!("{} lacks changes itself", source.name));
        }
        host.sleep(LOOK).await;
    }
}

/// Drops everything that this node has here and on members.
async fn clear<H: Host>(host: &H, held: &Held, members: &[Member]) -> Result<(), Failure> {
    host.clear().await?;
    let dropped = members.iter().map(|m| held.step(host, m, Step::DropSlots));
    try_join_all(dropped).await?;
    Ok(())
}

/// Rows and streams, from the first slot to the hand-over.
async fn bring<H: Host>(
    host: &H,
    held: &Held,
    source: &Member,
    members: &[Member],
) -> Result<(), Failure> {
    // First, so that what an earlier attempt has left does not count as taken.
    clear(host, held, members).await?;
    preflight::pass(host, held, source, members).await?;
    host.enter(JoinPhase::Copying)?;
    host.reached("copying").await;
    let streams = hand_over::subscribe(host, source, members);
    let (start, ()) = try_join(host.copy(source), streams).await?;
    host.enter(JoinPhase::CatchingUp)?;
    host.reached("copied").await;
    hand_over::catch_up(host, held, source, start).await?;
    host.reached("caught_up").await;
    hand_over::hand_over(host, held, source, members).await?;
    host.reached("handed_over").await;
    Ok(())
}

/// After an interruption: is everything still there that the hand-over rests on? A member whose
/// lease ran out has dropped its slot, and one that became ready meanwhile never had one: then
/// the join starts over.
async fn confirm<H: Host>(host: &H, held: &Held) -> Result<Vec<Member>, Failure> {
    let me = (host.me(), host.epoch()?);
    let members = members(host)?;
    for member in &members {
        let subscription = subscription_name(me, (member.node, member.epoch));
        let answer = held
            .step(host, member, Step::FindSlot { subscription })
            .await?;
        if answer == StepAnswer::Absent {
            host.enter(JoinPhase::Leasing)?;
            let text = format!(
                "{} has dropped the slot of this node meanwhile",
                member.name
            );
            return Err(Failure(text));
        }
    }
    Ok(members)
}

/// Does this member take part in the mesh, so that a joiner needs an edge with it? Those that are
/// joining themselves come later, and will then find this node a member. `None` while it can't
/// be told.
#[must_use]
pub fn takes_part(record: &NodeRecord) -> Option<bool> {
    match (record.state, record.phase) {
        (NodeState::Left, _) => Some(false),
        (NodeState::Joining | NodeState::WaitingForClock, Some(JoinPhase::Founding)) => None,
        (NodeState::Enrolling | NodeState::WaitingForClock | NodeState::Joining, _) => Some(false),
        (NodeState::Ready, _) => Some(true),
        (
            NodeState::Booting
            | NodeState::Configuring
            | NodeState::Discovering
            | NodeState::Forming
            | NodeState::Resyncing
            | NodeState::Leaving
            | NodeState::Quarantined,
            _,
        ) => None,
    }
}

/// Every other member that takes part in the mesh now. All of them hold a lease for this node:
/// what their records say can't change to less.
fn members<H: Host>(host: &H) -> Result<Vec<Member>, Failure> {
    let roster = host.roster()?;
    let mut members = Vec::new();
    for record in others(&roster, host.me()) {
        match takes_part(record) {
            Some(true) => members.push(Member {
                node: record.node,
                epoch: record.epoch,
                name: record.name.to_string(),
                postgres: record.endpoints.postgres,
            }),
            Some(false) => {}
            None => {
                return Err(Failure(format!(
                    "{} is {}, and must be ready for a node to join",
                    record.name,
                    record.state.word()
                )));
            }
        }
    }
    if members.is_empty() {
        return Err(Failure::new("no ready member is known to copy from"));
    }
    Ok(members)
}

fn others(roster: &Roster, me: NodeId) -> impl Iterator<Item = &NodeRecord> {
    roster
        .records
        .values()
        .filter(move |record| record.node != me)
}

/// Has this member everything of every other but `but`? What it lacks a copy of it lacks for ever.
#[must_use]
pub fn sound(record: &NodeRecord, but: NodeId) -> bool {
    let mut edges = record.edges.iter().filter(|(node, _)| **node != but);
    takes_part(record) == Some(true) && edges.all(|(_, edge)| edge.state != EdgeState::NeedsResync)
}

/// Are the slots that others hold for the node of this record in use, so that nobody may drop
/// them for the sake of a join?
#[must_use]
pub fn relied_on(record: &NodeRecord) -> bool {
    matches!(record.state, NodeState::Ready | NodeState::Resyncing)
}

/// The member to copy from: the first that lacks nothing and answers, by UUID.
fn source<H: Host>(host: &H, members: &[Member]) -> Result<Member, Failure> {
    let (reach, roster) = (host.reach(), host.roster()?);
    let sound = |member: &&Member| {
        let record = roster.records.get(&member.node);
        record.is_some_and(|record| sound(record, host.me()))
    };
    let up = |member: &&Member| reach.get(&member.node) == Some(&Reach::Up);
    let mut candidates = members.iter().filter(sound);
    let chosen = candidates.clone().find(up).or_else(|| candidates.next());
    chosen.cloned().ok_or_else(|| {
        Failure::new("every member lacks changes of another, so there is none to copy from")
    })
}
