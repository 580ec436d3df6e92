//! From one stream through the source to direct streams from every member, at positions that are
//! exact. Steps 3 to 9 of the protocol.

use super::super::node::Node;
use super::Member;
use super::leases::Held;
use crate::peer::{Step, StepAnswer};
use crate::postgres::Forward;
use anyhow::{Context, bail};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId, pglogical_node_name, subscription_name};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long one wait of the hand-over may last before the join starts over.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long workers are given to start while pglogical's manager is woken.
const STARTED_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(20);

fn me(node: &Node) -> anyhow::Result<(NodeId, DataEpoch)> {
    let epoch = node
        .local
        .borrow()
        .epoch
        .context("the database is not prepared")?;
    Ok((node.id(), epoch))
}

/// Follows the source from where the copy was taken, with everything it forwards, until its
/// newest heartbeat has arrived.
pub async fn catch_up(
    node: &Arc<Node>,
    held: &Held,
    source: &Member,
    start: Lsn,
) -> anyhow::Result<()> {
    let name = subscription_name(me(node)?, (source.node, source.epoch));
    let sql = &node.postgres;
    sql.create_subscription_disabled(&name, &source.dsn, Forward::All, Some(start))
        .await?;
    sql.enable(&[name.as_str()]).await?;
    sql.start_workers(&[name.as_str()], STARTED_WITHIN).await?;
    let beat = heartbeat(held.step(node, source, Step::Beat).await?)?;
    arrival(node, source, beat).await
}

fn heartbeat(answer: StepAnswer) -> anyhow::Result<u64> {
    match answer {
        StepAnswer::Heartbeat(number) => Ok(number),
        StepAnswer::Done | StepAnswer::Position(_) | StepAnswer::Origins(_) => {
            bail!("a member answered something else than was asked")
        }
    }
}

fn position(answer: StepAnswer) -> anyhow::Result<Lsn> {
    match answer {
        StepAnswer::Position(position) => Ok(position),
        StepAnswer::Done | StepAnswer::Heartbeat(_) | StepAnswer::Origins(_) => {
            bail!("a member answered something else than was asked")
        }
    }
}

/// Waits until heartbeat `number` of a member has arrived here.
async fn arrival(node: &Arc<Node>, member: &Member, number: u64) -> anyhow::Result<()> {
    let arrived = async {
        loop {
            let heartbeats = node.postgres.heartbeats().await?;
            let newest = heartbeats.get(&member.node);
            if newest.is_some_and(|(epoch, have)| *epoch == member.epoch && *have >= number) {
                return anyhow::Ok(());
            }
            sleep(LOOK).await;
        }
    };
    let waited = timeout(PATIENCE, arrived).await;
    waited.with_context(|| format!("changes of {} do not arrive", member.name))?
}

/// The hand-over itself.
pub async fn hand_over(
    node: &Arc<Node>,
    held: &Held,
    source: &Member,
    members: &[Member],
) -> anyhow::Result<()> {
    let others: Vec<&Member> = members.iter().filter(|m| m.node != source.node).collect();
    for member in &others {
        prepare(node, held, member).await?;
    }
    // From here on the source's WAL tells how far it has applied each member.
    let since = position(held.step(node, source, Step::InsertPosition).await?)?;
    for member in &others {
        let beat = heartbeat(held.step(node, member, Step::Beat).await?)?;
        // Through the source: so it has passed the slot made above.
        arrival(node, member, beat).await?;
    }
    let through = subscription_name(me(node)?, (source.node, source.epoch));
    node.postgres.disable(&[through.as_str()]).await?;
    node.postgres.wait_until_stopped(&through).await?;
    let until = node.postgres.origin_progress(&through).await?;
    let positions = match others.is_empty() {
        true => BTreeMap::new(),
        false => match held
            .step(node, source, Step::OriginPositions { since, until })
            .await?
        {
            StepAnswer::Origins(origins) => origins,
            StepAnswer::Done | StepAnswer::Position(_) | StepAnswer::Heartbeat(_) => {
                bail!("the source answered something else than was asked")
            }
        },
    };
    let starts = starts(node, source, &others, &positions)?;
    node.postgres.hand_over(&through, &starts).await?;
    let streams: Vec<&str> = starts
        .keys()
        .map(String::as_str)
        .chain([through.as_str()])
        .collect();
    node.postgres
        .start_workers(&streams, STARTED_WITHIN)
        .await?;
    for member in members {
        let beat = heartbeat(held.step(node, member, Step::Beat).await?)?;
        arrival(node, member, beat).await?;
    }
    Ok(())
}

/// A slot on a member, and the subscription that will read it, disabled.
async fn prepare(node: &Arc<Node>, held: &Held, member: &Member) -> anyhow::Result<()> {
    let name = subscription_name(me(node)?, (member.node, member.epoch));
    held.step(
        node,
        member,
        Step::CreateSlot {
            subscription: name.clone(),
        },
    )
    .await?;
    let forward = Forward::Nothing;
    node.postgres
        .create_subscription_disabled(&name, &member.dsn, forward, None)
        .await?;
    Ok(())
}

/// Where each member's direct stream begins: after the last commit that the source had applied
/// when this node stopped to follow it.
fn starts(
    node: &Arc<Node>,
    source: &Member,
    others: &[&Member],
    positions: &BTreeMap<String, Lsn>,
) -> anyhow::Result<BTreeMap<String, Lsn>> {
    let me = me(node)?;
    let mut starts = BTreeMap::new();
    for member in others {
        let theirs = (member.node, member.epoch);
        let provider = pglogical_node_name(member.node, member.epoch);
        let subscription = subscription_name((source.node, source.epoch), theirs);
        let suffix = format!("_{provider}_{subscription}");
        let start = positions
            .iter()
            .find(|(origin, _)| origin.ends_with(&suffix))
            .map(|(_, position)| *position)
            .with_context(|| {
                format!(
                    "{} can't tell how far it had followed {}",
                    source.name, member.name
                )
            })?;
        starts.insert(subscription_name(me, theirs), start);
    }
    Ok(starts)
}
