//! The leases of a joiner: one from every known member, in the order of their UUIDs, so that two
//! joiners meet at the first member and not crosswise.

use super::super::node::Node;
use super::Member;
use crate::peer::{LeaseAsk, LeaseKind, LeaseVerdict, Step, StepAnswer, StepAsk};
use anyhow::{Context, bail};
use log::{debug, info};
use pgaa_core::ids::{NodeId, Ordinal};
use pgaa_core::roster::Roster;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a lease lasts when it isn't renewed.
const TTL: Duration = Duration::from_secs(15);

/// Between two renewals.
const RENEWAL: Duration = Duration::from_secs(3);

/// How often a renewal may fail in a row. Beyond it the lease runs out.
const FAILURES_MAX: u32 = 3;

/// What a joiner holds: the fencing epoch on each member.
#[derive(Debug, Clone, Default)]
pub struct Held {
    epochs: BTreeMap<NodeId, (SocketAddr, u64)>,
}

impl Held {
    /// Acquires the lease of every member, until the rosters they return name nobody new. A
    /// member that can't be reached keeps the mesh from growing: its writes could not be placed.
    pub async fn acquire(node: &Arc<Node>) -> anyhow::Result<Held> {
        let mut held = Held::default();
        let result = held.acquire_all(node).await;
        if let Err(error) = result {
            held.release(node).await;
            return Err(error);
        }
        Ok(held)
    }

    async fn acquire_all(&mut self, node: &Arc<Node>) -> anyhow::Result<()> {
        let mut ordinals = Vec::new();
        loop {
            let roster = node
                .knowledge
                .roster()
                .context("this node is in no cluster")?;
            ordinals.push(roster.next_ordinal());
            let members = roster.members().into_iter();
            let next = members
                .filter(|member| *member != node.id() && !self.epochs.contains_key(member))
                .min();
            let Some(member) = next else { break };
            let theirs = self.acquire_one(node, &roster, member).await?;
            ordinals.push(theirs.next_ordinal());
            node.knowledge.merge(&theirs, node.clocks.now())?;
        }
        let highest = ordinals.into_iter().max().unwrap_or(Ordinal(1));
        node.knowledge.live(|life| {
            life.ordinal.get_or_insert(highest);
        })?;
        info!("every member has granted its lease");
        Ok(())
    }

    async fn acquire_one(
        &mut self,
        node: &Arc<Node>,
        roster: &Roster,
        member: NodeId,
    ) -> anyhow::Result<Roster> {
        let name = roster.name_of(member);
        let Some(record) = roster.records.get(&member) else {
            bail!("{name} has never been heard of; if it is lost: pgaa-agent forget {member}");
        };
        let ask = LeaseAsk {
            joiner: node.id(),
            epoch: 0,
            kind: LeaseKind::Acquire,
            ttl: TTL,
        };
        let address = record.endpoints.grpc;
        let answer = node
            .peers
            .lease(member, address, ask)
            .await
            .with_context(|| {
                format!(
                    "{name} does not answer, and every member must agree to a join; if it is lost \
                 for ever: pgaa-agent forget {name}, on any member"
                )
            })?;
        match answer.verdict {
            LeaseVerdict::Granted => {
                self.epochs.insert(member, (address, answer.epoch));
                Ok(answer.roster)
            }
            LeaseVerdict::Denied { reason, .. } => bail!("{name}: {reason}"),
        }
    }

    /// Renews for as long as it is polled; ends with the reason when a lease is lost.
    pub async fn keep(&self, node: &Arc<Node>) -> anyhow::Error {
        let mut failures: BTreeMap<NodeId, u32> = BTreeMap::new();
        loop {
            sleep(RENEWAL).await;
            for (member, (address, epoch)) in &self.epochs {
                let ask = LeaseAsk {
                    joiner: node.id(),
                    epoch: *epoch,
                    kind: LeaseKind::Renew,
                    ttl: TTL,
                };
                let failed = match node.peers.lease(*member, *address, ask).await {
                    Ok(answer) => match answer.verdict {
                        LeaseVerdict::Granted => None,
                        LeaseVerdict::Denied { reason, .. } => {
                            return anyhow::anyhow!(
                                "the lease of {} is lost: {reason}",
                                member.short()
                            );
                        }
                    },
                    Err(error) => Some(error),
                };
                let count = failures.entry(*member).or_default();
                *count = if failed.is_some() { *count + 1 } else { 0 };
                if let Some(error) = failed.filter(|_| *count >= FAILURES_MAX) {
                    return anyhow::anyhow!("the lease of {} is lost: {error}", member.short());
                }
            }
        }
    }

    /// Gives every lease back. One that can't be given back runs out.
    pub async fn release(&self, node: &Arc<Node>) {
        for (member, (address, epoch)) in &self.epochs {
            let ask = LeaseAsk {
                joiner: node.id(),
                epoch: *epoch,
                kind: LeaseKind::Release,
                ttl: TTL,
            };
            if let Err(error) = node.peers.lease(*member, *address, ask).await {
                debug!(
                    "the lease of {} runs out by itself: {error}",
                    member.short()
                );
            }
        }
    }

    /// Asks a member for one step.
    pub async fn step(
        &self,
        node: &Arc<Node>,
        member: &Member,
        step: Step,
    ) -> anyhow::Result<StepAnswer> {
        let (address, epoch) = self
            .epochs
            .get(&member.node)
            .with_context(|| format!("{} became ready during this join", member.name))?;
        let ask = StepAsk {
            joiner: node.id(),
            epoch: *epoch,
            step,
        };
        let answer = node.peers.join_step(member.node, *address, ask).await;
        answer.with_context(|| format!("{} could not do its part", member.name))
    }

    /// Drops what an earlier attempt has made on a member.
    pub async fn drop_slots(&self, node: &Arc<Node>, member: &Member) -> anyhow::Result<()> {
        self.step(node, member, Step::DropSlots).await.map(|_| ())
    }
}
