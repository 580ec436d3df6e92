//! A member that has lost what it needs next becomes a joiner again: under the leases, with its
//! gate shut, and only after it is proven that every row of its own has arrived, for good, on every
//! other member. What it held is exported before. Until [`prepare`] ends nothing is given up, and
//! whatever fails puts the node back as it was.

use super::host::{Host, Member, Step, StepAnswer};
use super::leases::Held;
use super::{Failure, members, preflight, source};
use crate::ids::{Lsn, subscription_name};
use crate::record::JoinPhase;
use std::time::Duration;

/// How long changes of this node may take to arrive on a member. Applications can't write here
/// while the last ones do.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// From a ready node to one that has nothing to lose. Returns when it is a joiner.
pub(super) async fn prepare<H: Host>(host: &H, held: &Held) -> Result<(), Failure> {
    let members = members(host)?;
    confirm_loss(host, held, &members).await?;
    let source = source(host, &members)?;
    preflight::pass_anew(host, held, &source, &members).await?;
    // Applications still write: members that can't follow them show before the gate is shut for it.
    drain(host, held, &members).await?;
    host.resync()?;
    host.reached("resyncing").await;
    host.shut().await?;
    drain(host, held, &members).await?;
    host.reached("drained").await;
    host.export().await?;
    host.reached("exported").await;
    host.enter(JoinPhase::Leasing)
}

/// Members say themselves that the slot is gone: records may be late.
async fn confirm_loss<H: Host>(host: &H, held: &Held, members: &[Member]) -> Result<(), Failure> {
    let me = (host.me(), host.epoch()?);
    let mut lost = false;
    for member in members {
        let subscription = subscription_name(me, (member.node, member.epoch));
        let step = Step::FindSlot { subscription };
        lost |= held.step(host, member, step).await? == StepAnswer::Absent;
    }
    if lost {
        Ok(())
    } else {
        Err(Failure::new("every member holds what this node needs next"))
    }
}

/// Every member has applied everything that was ever written here so far, and has it on disk: a slot
/// moves only when its reader has flushed what it read.
async fn drain<H: Host>(host: &H, held: &Held, members: &[Member]) -> Result<(), Failure> {
    let (heartbeat, position) = host.fence().await?;
    let began = host.now();
    for member in members {
        while !arrived(host, held, member, (heartbeat, position)).await? {
            if host.now().since(began) > DRAIN_MAX {
                return Err(Failure(format!(
                    "the last changes of this node do not arrive on {}",
                    member.name
                )));
            }
            host.sleep(LOOK).await;
        }
    }
    Ok(())
}

async fn arrived<H: Host>(
    host: &H,
    held: &Held,
    member: &Member,
    (heartbeat, position): (u64, Lsn),
) -> Result<bool, Failure> {
    let Some(confirmed) = host.confirmed(member).await? else {
        return Err(Failure(format!(
            "this node's slot for {} is lost as well: what {} lacks is only here",
            member.name, member.name
        )));
    };
    if confirmed < position {
        return Ok(false);
    }
    match held.step(host, member, Step::Arrived).await? {
        StepAnswer::Heartbeat(number) => Ok(number >= heartbeat),
        StepAnswer::Done
        | StepAnswer::Absent
        | StepAnswer::Position(_)
        | StepAnswer::Origins(_)
        | StepAnswer::Facts(_) => Ok(false),
    }
}
