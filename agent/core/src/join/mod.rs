//! Joining a mesh that serves writes, without losing any of them.
//!
//! The protocol is JOIN_PROTOCOL of ARCHITECTURE.md. It is written once, against [`Host`]: the
//! agent plays it on real servers, the simulation in virtual time. This node acts on others only
//! through their agents, under a lease that every member has granted; until it has committed,
//! everything it made elsewhere can be dropped again, so any failure before that starts over.

mod hand_over;
mod host;
mod lease;
mod leases;
mod preflight;

pub use host::{
    CallError, Done, Forward, Host, LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, Member, POINTS,
    Step, StepAnswer, StepAsk,
};
pub use lease::{Fenced, Lease};
pub use preflight::{Problem, ServerFacts, judge};

use crate::ids::{NodeId, subscription_name};
use crate::life::Stage;
use crate::observed::Reach;
use crate::record::{JoinPhase, NodeRecord};
use crate::roster::Roster;
use crate::state::NodeState;
use futures_util::future::try_join_all;
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
/// ready: every edge is alive both ways, and every member has promised to keep its slot.
pub async fn attempt<H: Host>(host: &H) -> Result<(), Failure> {
    let linked = is_linked(host);
    if !linked {
        host.enter(JoinPhase::Leasing)?;
    }
    let mut held = Held::default();
    if let Err(failure) = held.acquire(host).await {
        end(host, held).await;
        return Err(failure);
    }
    host.reached("leased").await;
    let ended = {
        let work = pin!(work(host, &held, linked));
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

/// Does what was made on members so far count when the join goes on?
fn is_linked<H: Host>(host: &H) -> bool {
    matches!(
        host.stage(),
        Stage::Ready | Stage::Joining(JoinPhase::Linking | JoinPhase::Checking)
    )
}

async fn end<H: Host>(host: &H, held: Held) {
    if is_linked(host) {
        held.release(host).await;
    } else {
        held.give_up(host).await;
    }
}

async fn work<H: Host>(host: &H, held: &Held, linked: bool) -> Result<(), Failure> {
    let known = if linked {
        confirm(host, held).await?
    } else {
        fill(host, held).await?
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
    // First, so that what an earlier attempt has left does not count as taken.
    host.clear().await?;
    let dropped = members.iter().map(|m| held.step(host, m, Step::DropSlots));
    try_join_all(dropped).await?;
    preflight::pass(host, held, &source, &members).await?;
    host.enter(JoinPhase::Copying)?;
    host.reached("copying").await;
    let start = host.copy(&source).await?;
    host.enter(JoinPhase::CatchingUp)?;
    host.reached("copied").await;
    hand_over::catch_up(host, held, &source, start).await?;
    host.reached("caught_up").await;
    hand_over::hand_over(host, held, &source, &members).await?;
    host.reached("handed_over").await;
    host.adopt_tables(&source).await?;
    host.enter(JoinPhase::Linking)?;
    Ok(members)
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

/// The member to copy from: the first that answers, by UUID.
fn source<H: Host>(host: &H, members: &[Member]) -> Result<Member, Failure> {
    let reach = host.reach();
    let up = |member: &&Member| reach.get(&member.node) == Some(&Reach::Up);
    let chosen = members.iter().find(up).or_else(|| members.first());
    chosen
        .cloned()
        .ok_or_else(|| Failure::new("no ready member answers to copy from"))
}
