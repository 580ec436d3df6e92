//! Joining a mesh that serves writes, without losing any of them.
//!
//! The protocol is JOIN_PROTOCOL of ARCHITECTURE.md. This node acts on others only through their
//! agents, under a lease that every member has granted; until it is ready everything it made
//! elsewhere can be dropped again, so any failure before the hand-over simply starts over.

mod copy;
mod hand_over;
mod leases;

use super::node::Node;
use crate::events::Severity;
use anyhow::Context;
use leases::Held;
use log::{info, warn};
use pgaa_core::ids::{DataEpoch, NodeId};
use pgaa_core::life::Stage;
use pgaa_core::observed::Reach;
use pgaa_core::record::{JoinPhase, NodeRecord};
use pgaa_core::state::NodeState;
use pgaa_core::status::Progress;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Another member of the mesh, as the join sees it.
#[derive(Debug, Clone)]
struct Member {
    node: NodeId,
    epoch: DataEpoch,
    name: String,
    dsn: String,
}

/// Says that the plan wants this node to join.
pub fn start(node: &Node) {
    node.join_wanted.notify_one();
}

/// How far the join has come, while there is one.
#[must_use]
pub fn progress(node: &Node) -> Option<Progress> {
    node.join_progress.borrow().clone()
}

/// Joins whenever it is wanted. Runs until the task is dropped.
pub async fn run(node: Arc<Node>) {
    let mut last = String::new();
    loop {
        node.join_wanted.notified().await;
        let stage = node.knowledge.life().stage;
        let done = match stage {
            Stage::Founding | Stage::Joining(_) => attempt(&node, stage).await,
            Stage::Single | Stage::Ready | Stage::Leaving | Stage::Left => continue,
        };
        node.join_progress.send_replace(None);
        match done {
            Ok(()) => last.clear(),
            Err(error) => {
                let text = format!("joining starts over: {error:#}");
                if text != last {
                    node.event(Severity::Warning, "join_failed", text.clone());
                    last = text;
                }
                sleep(PAUSE).await;
            }
        }
    }
}

fn enter(node: &Node, phase: JoinPhase) -> anyhow::Result<()> {
    node.knowledge.enter(Stage::Joining(phase))?;
    info!("joining: {}", phase.word());
    Ok(())
}

/// One attempt, from wherever the last one ended.
async fn attempt(node: &Arc<Node>, stage: Stage) -> anyhow::Result<()> {
    let linked = matches!(
        stage,
        Stage::Joining(JoinPhase::Linking | JoinPhase::Checking)
    );
    if !linked {
        enter(node, JoinPhase::Leasing)?;
    }
    let held = Held::acquire(node).await?;
    let keep = held.keep(node);
    let work = async {
        if !linked {
            fill(node, &held).await?;
        }
        until_ready(node).await;
        anyhow::Ok(())
    };
    tokio::select! {
        result = work => result?,
        lost = keep => return Err(lost),
    }
    held.release(node).await;
    Ok(())
}

/// The edges are made by the plan, on every node; what is left is to wait.
async fn until_ready(node: &Node) {
    while node.knowledge.life().stage != Stage::Ready {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Brings every row here, up to a position on every member at which direct streams go on.
async fn fill(node: &Arc<Node>, held: &Held) -> anyhow::Result<()> {
    let members = members(node)?;
    let source = source(node, &members).context("no ready member answers to copy from")?;
    node.postgres.drop_all_edges().await?;
    for member in &members {
        held.drop_slots(node, member).await?;
    }
    enter(node, JoinPhase::Copying)?;
    let start = copy::copy(node, &source).await?;
    enter(node, JoinPhase::CatchingUp)?;
    hand_over::catch_up(node, held, &source, start).await?;
    hand_over::hand_over(node, held, &source, &members).await?;
    copy::adopt_tables(node, &source).await?;
    enter(node, JoinPhase::Linking)
}

/// Every other member that takes part in the mesh now.
fn members(node: &Node) -> anyhow::Result<Vec<Member>> {
    let roster = node
        .knowledge
        .roster()
        .context("this node is in no cluster")?;
    let others = roster
        .records
        .values()
        .filter(|record| record.node != node.id());
    let mut members = Vec::new();
    for record in others.filter(|record| record.state == NodeState::Ready) {
        members.push(member(node, record)?);
    }
    Ok(members)
}

fn member(node: &Node, record: &NodeRecord) -> anyhow::Result<Member> {
    let dsn = super::reconciler::dsn(node, record.node, record.endpoints.postgres)?;
    Ok(Member {
        node: record.node,
        epoch: record.epoch,
        name: record.name.to_string(),
        dsn,
    })
}

/// The member to copy from: the first that answers, by UUID.
fn source(node: &Node, members: &[Member]) -> Option<Member> {
    let reach = node.knowledge.reach(node.clocks.mono());
    let up = |member: &&Member| reach.get(&member.node) == Some(&Reach::Up);
    let chosen = members.iter().find(up).or_else(|| {
        warn!("no member is known to answer; trying the first");
        members.first()
    });
    chosen.cloned()
}
