//! The leases of a joiner: one from every known member, in the order of their UUIDs, so that two
//! joiners meet at the first member and not crosswise.

use super::host::{CallError, Host, LeaseAsk, LeaseKind, LeaseVerdict, Member, Step, StepAnswer};
use super::{Failure, StepAsk, Way};
use crate::ids::{NodeId, Ordinal};
use crate::record::JoinPhase;
use crate::roster::Roster;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a lease lasts when it isn't renewed.
pub(super) const TTL: Duration = Duration::from_secs(15);

/// Between two renewals.
const RENEWAL: Duration = Duration::from_secs(3);

/// How often a renewal may fail in a row. Beyond it the lease runs out.
const FAILURES_MAX: u32 = 3;

/// How often a step is asked for again when the member does not answer: its agent may be
/// starting again, and the lease outlives that.
const STEP_TRIES: u32 = 12;

/// Between two such tries.
const STEP_PAUSE: Duration = Duration::from_millis(700);

/// What a joiner holds: the fencing epoch on each member.
#[derive(Debug, Default)]
pub(super) struct Held {
    epochs: BTreeMap<NodeId, (SocketAddr, u64)>,
    /// The number of the last step that was asked for, of anybody.
    sequence: AtomicU64,
}

/// Gives this node an ordinal of its own, now that every member has told whom it knows. One that it
/// took in an earlier attempt may have gone to another node, if no member had heard of it by then.
fn settle_ordinal<H: Host>(host: &H, free: Ordinal) -> Result<(), Failure> {
    let roster = host.roster()?;
    let lost = match host.ordinal() {
        Some(own) => roster.is_taken(own, host.me()),
        None => true,
    };
    match Way::of(host.stage()) {
        _ if !lost => Ok(()),
        Way::Fill => host.take_ordinal(free),
        // Its sequences are in step already, and rows may carry such keys.
        Way::Confirm => {
            host.enter(JoinPhase::Leasing)?;
            let text = "the ordinal of this node went to another one while it was away";
            Err(Failure::new(text))
        }
        // A member's ordinal is in every roster: whoever came later had to take another.
        Way::Anew => Ok(()),
    }
}

impl Held {
    /// Acquires the lease of every member, until the rosters they return name nobody new. A
    /// member that can't be reached keeps the mesh from growing: its writes could not be placed.
    pub(super) async fn acquire<H: Host>(&mut self, host: &H) -> Result<(), Failure> {
        let mut ordinals = Vec::new();
        loop {
            let roster = host.roster()?;
            ordinals.push(roster.next_ordinal());
            let members = roster.members().into_iter();
            let next = members
                .filter(|member| *member != host.me() && !self.epochs.contains_key(member))
                .min();
            let Some(member) = next else { break };
            if let Some(theirs) = self.acquire_one(host, &roster, member).await? {
                ordinals.push(theirs.next_ordinal());
                host.merge(&theirs)?;
            }
        }
        settle_ordinal(host, ordinals.into_iter().max().unwrap_or(Ordinal(1)))
    }

    /// Returns nothing when the member was buried, because this node takes its place.
    async fn acquire_one<H: Host>(
        &mut self,
        host: &H,
        roster: &Roster,
        member: NodeId,
    ) -> Result<Option<Roster>, Failure> {
        let name = roster.name_of(member);
        let Some(record) = roster.records.get(&member) else {
            return Err(Failure(format!(
                "{name} has never been heard of; if it is lost: pgaa-agent forget {member}"
            )));
        };
        let kind = match Way::of(host.stage()) {
            Way::Fill | Way::Confirm => LeaseKind::Acquire,
            Way::Anew => LeaseKind::AcquireAnew,
        };
        let ask = LeaseAsk {
            joiner: host.me(),
            epoch: 0,
            kind,
            ttl: TTL,
        };
        let address = record.endpoints.grpc;
        match host.lease((member, address), ask).await {
            Ok(answer) => match answer.verdict {
                LeaseVerdict::Granted => {
                    self.epochs.insert(member, (address, answer.epoch));
                    Ok(Some(answer.roster))
                }
                LeaseVerdict::Denied { reason, .. } => Err(Failure(format!("{name}: {reason}"))),
            },
            Err(CallError::Unreachable(_)) if host.replaces().as_deref() == Some(name.as_str()) => {
                host.forget(member).await?;
                Ok(None)
            }
            Err(error) => Err(Failure(format!(
                "{name} does not answer, and every member must agree to a join; if it is lost for \
                 ever: pgaa-agent forget {name}, on any member ({})",
                error.text()
            ))),
        }
    }

    /// Renews for as long as it is polled; ends with the reason when a lease is lost.
    pub(super) async fn keep<H: Host>(&self, host: &H) -> Failure {
        let mut failures: BTreeMap<NodeId, u32> = BTreeMap::new();
        loop {
            host.sleep(RENEWAL).await;
            for (member, (address, epoch)) in &self.epochs {
                let ask = LeaseAsk {
                    joiner: host.me(),
                    epoch: *epoch,
                    kind: LeaseKind::Renew,
                    ttl: TTL,
                };
                let lost =
                    |why: &str| Failure(format!("the lease of {} is lost: {why}", member.short()));
                let count = failures.entry(*member).or_default();
                match host.lease((*member, *address), ask).await {
                    Ok(answer) => match answer.verdict {
                        LeaseVerdict::Granted => *count = 0,
                        LeaseVerdict::Denied { reason, .. } => return lost(&reason),
                    },
                    Err(_) if *count + 1 < FAILURES_MAX => *count += 1,
                    Err(error) => return lost(error.text()),
                }
            }
        }
    }

    /// Gives every lease back. One that can't be given back runs out by itself.
    pub(super) async fn release<H: Host>(&self, host: &H) {
        for (member, (address, epoch)) in &self.epochs {
            let ask = LeaseAsk {
                joiner: host.me(),
                epoch: *epoch,
                kind: LeaseKind::Release,
                ttl: TTL,
            };
            let _ = host.lease((*member, *address), ask).await;
        }
    }

    /// Has what was made for this node dropped, and gives each lease back where that was done.
    /// Without a lease nobody would drop it when this node never comes again; where it isn't done
    /// the lease runs out, and then the member does it by itself.
    pub(super) async fn give_up<H: Host>(mut self, host: &H) {
        let mut kept = Vec::new();
        for (member, (address, epoch)) in &self.epochs {
            let ask = StepAsk {
                joiner: host.me(),
                epoch: *epoch,
                sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
                step: Step::DropSlots,
            };
            if host.step((*member, *address), ask).await.is_err() {
                kept.push(*member);
            }
        }
        self.epochs.retain(|member, _| !kept.contains(member));
        self.release(host).await;
    }

    /// Asks a member for one step. Each step may be done twice: when an answer is lost it is
    /// asked for again, under a new number.
    pub(super) async fn step<H: Host>(
        &self,
        host: &H,
        member: &Member,
        step: Step,
    ) -> Result<StepAnswer, Failure> {
        let Some((address, epoch)) = self.epochs.get(&member.node) else {
            let text = format!("{} became ready during this join", member.name);
            return Err(Failure(text));
        };
        let mut tries = 0;
        loop {
            let ask = StepAsk {
                joiner: host.me(),
                epoch: *epoch,
                sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
                step: step.clone(),
            };
            tries += 1;
            match host.step((member.node, *address), ask).await {
                Ok(answer) => return Ok(answer),
                Err(CallError::Unreachable(_)) if tries < STEP_TRIES => {
                    host.sleep(STEP_PAUSE).await;
                }
                Err(error) => {
                    return Err(Failure(format!(
                        "{} could not do its part: {}",
                        member.name,
                        error.text()
                    )));
                }
            }
        }
    }
}
