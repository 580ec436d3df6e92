//! A joiner's lease on this member: one joiner at a time, durable, with a fencing epoch, so that
//! joins are serialised and a joiner that was given up can't act any more. While it is in force
//! the schema can't change here, and no table enters the replication set.

mod steps;

use super::node::Node;
use crate::durable;
use crate::events::Severity;
use crate::peer::Refusal;
use anyhow::bail;
use log::warn;
use pgaa_core::ids::NodeId;
use pgaa_core::join::{LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, StepAnswer, StepAsk};
use pgaa_core::life::Stage;
use pgaa_core::record::JoinPhase;
use pgaa_core::state::NodeState;
use pgaa_core::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// The longest lease that is given.
const TTL_MAX: Duration = Duration::from_secs(60);

/// Between two looks for a lease that has run out.
const EXPIRY_PERIOD: Duration = Duration::from_secs(2);

/// The lease as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(super) struct Lease {
    /// Grows with every joiner.
    epoch: u64,
    /// Who has it.
    holder: Option<NodeId>,
    /// Until when, by this node's clock.
    expires: Wall,
    /// The joiners whose slots are kept as a member's, although they have not been seen ready.
    #[serde(default)]
    committed: BTreeSet<NodeId>,
    /// The number of the last step under this epoch. It needn't survive: nor do connections.
    #[serde(skip)]
    sequence: u64,
}

impl Lease {
    fn in_force(&self, now: Wall) -> Option<NodeId> {
        self.holder.filter(|_| self.expires > now)
    }
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

    /// Keeps joiners away for as long as the guard lives; fails while one has the lease.
    pub async fn free(&self) -> anyhow::Result<impl Drop + use<'_>> {
        let lease = self.lease.lock().await;
        if let Some(joiner) = lease.holder {
            bail!(
                "{} is joining, and no table enters the replication set meanwhile",
                joiner.short()
            );
        }
        Ok(lease)
    }

    fn store(&self, held: &mut MutexGuard<'_, Lease>, next: Lease) -> anyhow::Result<()> {
        durable::write_json(&self.path, &next)?;
        **held = next;
        Ok(())
    }
}

/// A failure as a refusal; "later" where asking again may help.
fn refusal(error: &anyhow::Error) -> Refusal {
    let sql = error.downcast_ref::<crate::postgres::SqlError>();
    let later = sql.is_some_and(crate::postgres::SqlError::retry);
    let code = if later { "later" } else { "failed" };
    Refusal::new(code, &format!("{error:#}"))
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
        let holders = (lease.holder, next.holder);
        // On disk before it is acted on, and the schema guarded before the joiner hears of it.
        node.leases
            .store(&mut lease, next)
            .map_err(|error| refusal(&error))?;
        guard(node, &lease).await.map_err(|error| refusal(&error))?;
        tell(node, from, holders);
    }
    Ok(LeaseAnswer {
        verdict,
        epoch: lease.epoch,
        roster,
    })
}

/// Refuses schema changes here for as long as the lease lasts, or no longer.
async fn guard(node: &Node, lease: &Lease) -> anyhow::Result<()> {
    match lease.holder {
        Some(joiner) => {
            let name = node.knowledge.with_roster(|roster| roster.name_of(joiner));
            let name = name.unwrap_or_else(|| joiner.short());
            node.postgres.guard_schema(&name, lease.expires).await?;
        }
        None => node.postgres.release_schema().await?,
    }
    Ok(())
}

fn tell(node: &Node, from: NodeId, (before, after): (Option<NodeId>, Option<NodeId>)) {
    if before == after {
        return;
    }
    let text = match after {
        Some(joiner) => format!("{} joins: no other node can meanwhile", joiner.short()),
        None => format!("the join of {} is over", from.short()),
    };
    node.event(Severity::Info, "lease", text);
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
        LeaseKind::Acquire => match node.knowledge.life().stage {
            Stage::Founding => denied(
                None,
                "this member is not ready yet: the founding comes first",
            ),
            Stage::Leaving => denied(None, "this member is leaving; wait until it has left"),
            Stage::Joining(phase) if joins_before(node, phase, from) => {
                denied(Some(node.id()), "another node is joining right now")
            }
            Stage::Single | Stage::Joining(_) | Stage::Ready | Stage::Left => {
                match lease.in_force(now) {
                    Some(holder) if holder != from => {
                        denied(Some(holder), "another node is joining right now")
                    }
                    Some(_) | None => LeaseVerdict::Granted,
                }
            }
        },
    }
}

/// Does this node, which is joining itself, go before another joiner? One that others subscribe to
/// already does; else the lower UUID.
fn joins_before(node: &Node, phase: JoinPhase, other: NodeId) -> bool {
    let theirs = node.knowledge.with_roster(|roster| {
        let record = roster.records.get(&other)?;
        record.phase
    });
    let linked = |phase: JoinPhase| phase >= JoinPhase::Linking;
    let theirs = theirs.flatten().is_some_and(linked);
    match (linked(phase), theirs) {
        (true, false) => true,
        (false, true) => false,
        (true, true) | (false, false) => node.id() < other,
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
            committed: lease.committed.clone(),
            sequence: 0,
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
    let mut lease = node.leases.lease.lock().await;
    let fenced = ask.joiner != from || lease.holder != Some(from) || lease.epoch != ask.epoch;
    if fenced || lease.expires <= node.clocks.wall() {
        return Err(Refusal::new(
            "fenced",
            "this lease is not in force any more; join anew",
        ));
    }
    if ask.sequence <= lease.sequence {
        return Err(Refusal::new("late", "a newer step has overtaken this one"));
    }
    lease.sequence = ask.sequence;
    let result = steps::carry_out(node, &mut lease, from, ask.step).await;
    drop(lease);
    result.map_err(|error| refusal(&error))
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
        let kept = ready == Some(true) || lease.committed.contains(&joiner);
        if !kept && let Err(error) = steps::drop_slots(&node, joiner).await {
            warn!("what was made for a joiner that is gone can't be dropped yet: {error:#}");
            continue;
        }
        let next = Lease {
            holder: None,
            ..lease.clone()
        };
        let stored = node.leases.store(&mut lease, next);
        let told = match stored {
            Ok(()) => guard(&node, &lease).await,
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => {
                let text = format!("{} did not finish joining in time", joiner.short());
                node.event(Severity::Warning, "lease_expired", text);
            }
            Err(error) => warn!("a lease that ran out can't be put away: {error:#}"),
        }
    }
}
