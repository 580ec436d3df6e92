//! What a member does for the joiner that holds its lease. Each step may come twice.

use super::super::node::Node;
use crate::postgres::Flush;
use pgaa_core::ids::{DataEpoch, NodeId, pglogical_node_name, subscription_name};
use pgaa_core::join::{Lease, Step, StepAnswer, relied_on};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::MutexGuard;

/// A node whose record says that it is a member asks as a joiner: a newer record is on its way.
#[derive(Debug, Error)]
#[error("{0} is known here as a ready member: its slots are in use")]
pub(super) struct InUse(String);

pub(super) async fn carry_out(
    node: &Arc<Node>,
    lease: &mut MutexGuard<'_, Lease>,
    joiner: NodeId,
    step: Step,
) -> anyhow::Result<StepAnswer> {
    let sql = &node.postgres;
    match step {
        Step::Facts => {
            let facts = super::super::join::facts(node, false).await?;
            Ok(StepAnswer::Facts(Box::new(facts)))
        }
        Step::CreateSlot { subscription } => {
            let slot = sql.slot_name(&own_name(node)?, &subscription).await?;
            sql.drop_slot(&slot, true).await?;
            Ok(StepAnswer::Position(sql.create_slot(&slot).await?.position))
        }
        Step::FindSlot { subscription } => {
            let slot = sql.slot_name(&own_name(node)?, &subscription).await?;
            let found = sql.find_slot(&slot).await?;
            Ok(found.map_or(StepAnswer::Absent, StepAnswer::Position))
        }
        Step::DropSlots => {
            drop_slots(node, joiner).await?;
            // Its slots are gone, so what follows them starts anew as well. Only the joiner itself
            // can ask for this: a record that says so may be old.
            drop_subscription(node, joiner).await?;
            let mut next = Lease::clone(lease);
            if next.committed.remove(&joiner) {
                node.leases.store(lease, next)?;
            }
            Ok(StepAnswer::Done)
        }
        Step::Beat => Ok(StepAnswer::Heartbeat(node.beat(Flush::Now).await?)),
        Step::Arrived => Ok(StepAnswer::Heartbeat(arrived(node, joiner).await?)),
        Step::InsertPosition => Ok(StepAnswer::Position(sql.insert_position().await?)),
        Step::OriginPositions { since, until } => Ok(StepAnswer::Origins(
            sql.origin_positions(since, until).await?,
        )),
        Step::Commit => {
            let mut next = Lease::clone(lease);
            if next.committed.insert(joiner) {
                node.leases.store(lease, next)?;
            }
            Ok(StepAnswer::Done)
        }
    }
}

/// The newest heartbeat of a joiner that has arrived here, of the contents that it has now.
async fn arrived(node: &Node, joiner: NodeId) -> anyhow::Result<u64> {
    let epoch = node.knowledge.with_roster(|roster| roster.epoch(joiner));
    let heartbeats = node.postgres.heartbeats().await?;
    let newest = heartbeats
        .get(&joiner)
        .filter(|(of, _)| epoch == Some(Some(*of)));
    Ok(newest.map_or(0, |(_, number)| *number))
}

fn own_name(node: &Node) -> anyhow::Result<String> {
    Ok(pglogical_node_name(node.id(), own_epoch(node)?))
}

fn own_epoch(node: &Node) -> anyhow::Result<DataEpoch> {
    let epoch = node.local.borrow().epoch;
    epoch.ok_or_else(|| anyhow::anyhow!("the database of this member is not prepared"))
}

async fn drop_subscription(node: &Arc<Node>, joiner: NodeId) -> anyhow::Result<()> {
    let record = node
        .knowledge
        .with_roster(|roster| roster.records.get(&joiner).cloned());
    if let Some(record) = record.flatten() {
        let me = (node.id(), own_epoch(node)?);
        let name = subscription_name(me, (joiner, record.epoch));
        node.postgres.drop_subscription(&name).await?;
    }
    Ok(())
}

/// Drops what was made here for a joiner. Safe until it is ready: it holds nothing yet that
/// anybody could miss.
pub(super) async fn drop_slots(node: &Arc<Node>, joiner: NodeId) -> anyhow::Result<()> {
    let record = node
        .knowledge
        .with_roster(|roster| roster.records.get(&joiner).cloned());
    let Some(record) = record.flatten() else {
        return Ok(());
    };
    if relied_on(&record) {
        return Err(InUse(record.name.to_string()).into());
    }
    let me = (node.id(), own_epoch(node)?);
    let subscription = subscription_name((joiner, record.epoch), me);
    let slot = node
        .postgres
        .slot_name(&own_name(node)?, &subscription)
        .await?;
    node.postgres.drop_slot(&slot, true).await?;
    Ok(())
}
