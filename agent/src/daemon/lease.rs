//! A joiner's lease on this member: one joiner at a time, durable, with a fencing epoch, so that
//! joins are serialised and a joiner that was given up can't act any more.

use super::node::Node;
use crate::durable;
use crate::events::Severity;
use crate::peer::{
    LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, Refusal, Step, StepAnswer, StepAsk,
};
use log::warn;
use pgaa_core::ids::{DataEpoch, NodeId, pglogical_node_name, subscription_name};
use pgaa_core::life::Stage;
use pgaa_core::state::NodeState;
use pgaa_core::time::Wall;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// The longest lease that is given.
const TTL_MAX: Duration = Duration::from_secs(60);

/// Between two looks for a lease that has run out.
const EXPIRY_PERIOD: Duration = Duration::from_secs(2);

/// The lease as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
struct Lease {
    /// Grows with every joiner.
    epoch: u64,
    /// Who has it.
    holder: Option<NodeId>,
    /// Until when, by this node's clock.
    expires: Wall,
}

/// This member's lease.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
    lease: Mutex<Lease>,
}

impl Leases {
    /// Reads the lease in `state_dir`.
    pub fn open(state_dir: &std::path::Path) -> Result<Leases, durable::DurableError> {
        let path = state_dir.join("lease.json");
        let lease = durable::read_json(&path)?.unwrap_or_default();
        Ok(Leases {
            path,
            lease: Mutex::new(lease),
        })
    }
}

fn internal(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new("failed", &error.to_string())
}

/// Answers a joiner that asks for the lease, renews it or gives it back.
pub async fn answer(node: &Arc<Node>, from: NodeId, ask: LeaseAsk) -> Result<LeaseAnswer, Refusal> {
    if ask.joiner != from {
        return Err(Refusal::new(
            "not_yours",
            "a lease is only given to the node that asks",
        ));
    }
    let roster = node
        .knowledge
        .roster()
        .ok_or_else(|| Refusal::new("not_a_member", "this node is in no cluster yet"))?;
    let mut lease = node.leases.lease.lock().await;
    let now = node.clocks.wall();
    let verdict = judge(node, &lease, from, &ask, now);
    if verdict == LeaseVerdict::Granted {
        let next = granted(&lease, from, &ask, now);
        durable::write_json(&node.leases.path, &next).map_err(|error| internal(&error))?;
        if next.holder != lease.holder {
            let text = match next.holder {
                Some(joiner) => format!("{} joins: no other node can meanwhile", joiner.short()),
                None => format!("the join of {} is over", from.short()),
            };
            node.event(Severity::Info, "lease", text);
        }
        *lease = next;
    }
    Ok(LeaseAnswer {
        verdict,
        epoch: lease.epoch,
        roster,
    })
}

fn judge(node: &Node, lease: &Lease, from: NodeId, ask: &LeaseAsk, now: Wall) -> LeaseVerdict {
    let denied = |holder, reason: &str| LeaseVerdict::Denied {
        holder,
        reason: reason.to_owned(),
    };
    let own = lease.holder == Some(from);
    match ask.kind {
        LeaseKind::Release | LeaseKind::Renew if !own || ask.epoch != lease.epoch => {
            denied(lease.holder, "this lease is not in force any more")
        }
        LeaseKind::Release | LeaseKind::Renew => LeaseVerdict::Granted,
        LeaseKind::Acquire => {
            let stage = node.knowledge.life().stage;
            if stage == Stage::Founding {
                return denied(
                    None,
                    "this member is not ready yet: the founding comes first",
                );
            }
            if stage == Stage::Leaving {
                return denied(None, "this member is leaving; wait until it has left");
            }
            if matches!(stage, Stage::Joining(_)) && node.id() < from {
                return denied(Some(node.id()), "another node is joining right now");
            }
            if !own && lease.holder.is_some() && lease.expires > now {
                return denied(lease.holder, "another node is joining right now");
            }
            LeaseVerdict::Granted
        }
    }
}

fn granted(lease: &Lease, from: NodeId, ask: &LeaseAsk, now: Wall) -> Lease {
    let ttl_ms = i64::try_from(ask.ttl.min(TTL_MAX).as_millis()).unwrap_or(i64::MAX);
    let expires = Wall(now.0.saturating_add(ttl_ms));
    match ask.kind {
        LeaseKind::Acquire => Lease {
            epoch: lease.epoch.saturating_add(1),
            holder: Some(from),
            expires,
        },
        LeaseKind::Renew => Lease {
            expires,
            ..lease.clone()
        },
        LeaseKind::Release => Lease {
            holder: None,
            ..lease.clone()
        },
    }
}

/// Does one step for the joiner that holds the lease.
pub async fn step(node: &Arc<Node>, from: NodeId, ask: StepAsk) -> Result<StepAnswer, Refusal> {
    // Held throughout: the lease can't change hands while a step runs.
    let lease = node.leases.lease.lock().await;
    let fenced = ask.joiner != from || lease.holder != Some(from) || lease.epoch != ask.epoch;
    if fenced || lease.expires <= node.clocks.wall() {
        return Err(Refusal::new(
            "fenced",
            "this lease is not in force any more; join anew",
        ));
    }
    let result = carry_out(node, from, ask.step).await;
    drop(lease);
    result.map_err(|error| Refusal::new("failed", &format!("{error:#}")))
}

async fn carry_out(node: &Arc<Node>, joiner: NodeId, step: Step) -> anyhow::Result<StepAnswer> {
    let sql = &node.postgres;
    match step {
        Step::CreateSlot { subscription } => {
            let provider = own_name(node)?;
            let slot = sql.slot_name(&provider, &subscription).await?;
            sql.drop_slot(&slot, true).await?;
            Ok(StepAnswer::Position(sql.create_slot(&slot).await?.position))
        }
        Step::DropSlots => {
            drop_slots(node, joiner).await?;
            Ok(StepAnswer::Done)
        }
        Step::Beat => Ok(StepAnswer::Heartbeat(node.beat().await?)),
        Step::InsertPosition => Ok(StepAnswer::Position(sql.insert_position().await?)),
        Step::OriginPositions { since, until } => Ok(StepAnswer::Origins(
            sql.origin_positions(since, until).await?,
        )),
        Step::Admit => Ok(StepAnswer::Done),
    }
}

fn own_name(node: &Node) -> anyhow::Result<String> {
    Ok(pglogical_node_name(node.id(), own_epoch(node)?))
}

fn own_epoch(node: &Node) -> anyhow::Result<DataEpoch> {
    let epoch = node.local.borrow().epoch;
    epoch.ok_or_else(|| anyhow::anyhow!("the database of this member is not prepared"))
}

/// Drops what was made here for a joiner. Safe until it is ready: it holds nothing yet that
/// anybody could miss.
async fn drop_slots(node: &Arc<Node>, joiner: NodeId) -> anyhow::Result<()> {
    let record = node
        .knowledge
        .with_roster(|roster| roster.records.get(&joiner).cloned());
    let Some(record) = record.flatten() else {
        return Ok(());
    };
    if record.state == NodeState::Ready {
        anyhow::bail!("{} is ready: its slots are in use", record.name);
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

/// Gives up joiners whose lease has run out.
pub async fn expire(node: Arc<Node>) {
    loop {
        node.clocks.pulse(EXPIRY_PERIOD).await;
        let mut lease = node.leases.lease.lock().await;
        let Some(joiner) = lease.holder.filter(|_| lease.expires <= node.clocks.wall()) else {
            continue;
        };
        let ready = node.knowledge.with_roster(|roster| {
            roster
                .records
                .get(&joiner)
                .is_some_and(|r| r.state == NodeState::Ready)
        });
        if ready != Some(true)
            && let Err(error) = drop_slots(&node, joiner).await
        {
            warn!("what was made for a joiner that is gone can't be dropped yet: {error:#}");
            continue;
        }
        let next = Lease {
            holder: None,
            ..lease.clone()
        };
        match durable::write_json(&node.leases.path, &next) {
            Ok(()) => {
                *lease = next;
                let text = format!("{} did not finish joining in time", joiner.short());
                node.event(Severity::Warning, "lease_expired", text);
            }
            Err(error) => warn!("a lease that ran out can't be stored: {error}"),
        }
    }
}
