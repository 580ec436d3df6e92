//! A joiner's lease on this member (see `pgaa_core::join`), kept durably. While it is in force the
//! schema can't change here, and no table enters the replication set.

mod steps;

use super::node::Node;
use crate::durable;
use crate::events::Severity;
use crate::peer::Refusal;
use anyhow::bail;
use log::warn;
use pgaa_core::ids::NodeId;
use pgaa_core::join::{
    Fenced, Heard, Lease, LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, StepAnswer, StepAsk,
    relied_on,
};
use pgaa_core::roster::Roster;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

/// Between two looks for a lease that has run out.
const EXPIRY_PERIOD: Duration = Duration::from_secs(2);

/// How often a joiner's record is looked for while it asks for the lease, and the time between.
const HEARD_LOOKS: u32 = 50;
const HEARD_LOOK: Duration = Duration::from_millis(20);

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
    let later = sql.is_some_and(crate::postgres::SqlError::retry) || error.is::<steps::InUse>();
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
    if matches!(ask.kind, LeaseKind::Acquire | LeaseKind::AcquireAnew) {
        await_record(node, from).await;
    }
    let roster = node
        .knowledge
        .roster()
        .ok_or_else(|| Refusal::new("not_a_member", "this node is in no cluster yet"))?;
    let mut lease = node.leases.lease.lock().await;
    let now = node.clocks.wall();
    let me = (node.id(), node.knowledge.life().stage);
    let heard = Heard::of(from, &roster);
    let verdict = lease.judge(me, (from, heard), &ask, now);
    if verdict == LeaseVerdict::Granted {
        let next = lease.after(from, &ask, now);
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

/// Waits a moment for the record of the node that asks, which is on its way beside the question.
async fn await_record(node: &Node, from: NodeId) {
    let unheard = |roster: &Roster| Heard::of(from, roster) == Heard::Nothing;
    for _ in 0..HEARD_LOOKS {
        if node.knowledge.with_roster(unheard) != Some(true) {
            break;
        }
        sleep(HEARD_LOOK).await;
    }
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

/// Does one step for the joiner that holds the lease.
pub async fn step(node: &Arc<Node>, from: NodeId, ask: StepAsk) -> Result<StepAnswer, Refusal> {
    // Held throughout: the lease can't change hands while a step runs.
    let mut lease = node.leases.lease.lock().await;
    let fenced = lease.admit(from, &ask, node.clocks.wall());
    fenced.map_err(|why| match why {
        Fenced::Lapsed => Refusal::new("fenced", "this lease is not in force any more; join anew"),
        Fenced::Late => Refusal::new("late", "a newer step has overtaken this one"),
    })?;
    let result = steps::carry_out(node, &mut lease, from, ask.step).await;
    drop(lease);
    result.map_err(|error| refusal(&error))
}

/// Gives up joiners whose lease has run out.
pub async fn expire(node: Arc<Node>) {
    loop {
        node.clocks.pulse(EXPIRY_PERIOD).await;
        let mut lease = node.leases.lease.lock().await;
        let Some(joiner) = lease.expired(node.clocks.wall()) else {
            continue;
        };
        let ready = node
            .knowledge
            .with_roster(|roster| roster.records.get(&joiner).is_some_and(relied_on));
        let kept = lease.keeps(joiner, ready == Some(true));
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
