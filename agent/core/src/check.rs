//! A linter for plans, run before anything is done: a plan that breaks an invariant is a bug,
//! and is reported instead of carried out.

use crate::action::Action;
use crate::life::Stage;
use crate::observed::Fact;
use crate::plan::{Inputs, Plan, resync_wanted, rolled_back, to_give_up};
use thiserror::Error;

/// What is wrong with a plan.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Something destructive although PostgreSQL could not be seen.
    #[error("the plan wants to {0} although PostgreSQL could not be looked at")]
    DestructiveOnUnknown(String),
    /// A slot or subscription of a living member would be dropped.
    #[error("the plan wants to {0}, which belongs to a member that is not buried")]
    DropsLivingEdge(String),
    /// A slot would be given up although the guard has no evidence for it.
    #[error("the plan wants to {0}, and nothing shows that the disk is about to fill")]
    GivesUpUnproven(String),
    /// This node would be set apart for nothing.
    #[error("the plan wants to {0}, and nothing shows that it was rolled back")]
    QuarantinedUnproven(String),
    /// This node would be synchronised anew although it lacks nothing, or although others lack
    /// changes of it.
    #[error("the plan wants to empty this node, and nothing shows that it may be emptied")]
    ResyncUnproven,
    /// A restart after the node took writes.
    #[error("the plan wants to restart PostgreSQL although this node has taken writes")]
    RestartAfterWrites,
    /// A slot made while writes are taken.
    #[error("the plan wants to {0} while this node takes writes: what was written is missing")]
    SlotUnderWrites(String),
    /// The same step twice.
    #[error("the plan wants to {0} twice")]
    Twice(String),
}

/// Checks a plan against the invariants.
pub fn check(plan: &Plan, inputs: &Inputs<'_>) -> Result<(), Flaw> {
    for (index, action) in plan.actions.iter().enumerate() {
        if plan.actions[..index].contains(action) {
            return Err(Flaw::Twice(action.to_string()));
        }
        if action.destructive() && matches!(inputs.observed.postgres, Fact::Unknown(_)) {
            return Err(Flaw::DestructiveOnUnknown(action.to_string()));
        }
        check_one(action, inputs)?;
    }
    Ok(())
}

fn check_one(action: &Action, inputs: &Inputs<'_>) -> Result<(), Flaw> {
    let buried = |node| {
        inputs
            .roster
            .is_some_and(|r| r.tombstones.contains_key(node))
    };
    let silent = |node| inputs.roster.is_some_and(|r| !r.records.contains_key(node));
    let postgres = inputs.observed.postgres.known();
    match action {
        Action::DropSlot { subscriber, .. } => {
            // A founding member that never spoke has nothing a slot could hold.
            let founding = inputs.life.stage == Stage::Founding && silent(subscriber);
            if !buried(subscriber) && !founding {
                return Err(Flaw::DropsLivingEdge(action.to_string()));
            }
        }
        Action::GiveUpSlot { slot, .. } => {
            let proven = to_give_up(inputs).is_some_and(|(held, _)| held.slot == *slot);
            if !proven {
                return Err(Flaw::GivesUpUnproven(action.to_string()));
            }
        }
        Action::Quarantine { .. } => {
            if rolled_back(inputs).is_none() {
                return Err(Flaw::QuarantinedUnproven(action.to_string()));
            }
        }
        Action::StartResync => {
            if !resync_wanted(inputs) {
                return Err(Flaw::ResyncUnproven);
            }
        }
        Action::RestartPostgres { .. } => {
            if inputs.life.stage.took_writes() || postgres.is_some_and(|p| p.has_rows) {
                return Err(Flaw::RestartAfterWrites);
            }
        }
        Action::CreateSlot { .. } => {
            if inputs.life.stage.took_writes() || postgres.is_some_and(|p| p.gate_open) {
                return Err(Flaw::SlotUnderWrites(action.to_string()));
            }
        }
        Action::Prepare
        | Action::WriteSettings
        | Action::AdmitMembers { .. }
        | Action::DropSubscription { .. }
        | Action::Checkpoint
        | Action::EnsureLocalNode
        | Action::CreateSubscription { .. }
        | Action::RedirectSubscription { .. }
        | Action::EnableSubscription { .. }
        | Action::DisableSubscription { .. }
        | Action::KickSubscription { .. }
        | Action::EndStaleSender { .. }
        | Action::AddTable { .. }
        | Action::DeclareReady
        | Action::OpenGate
        | Action::ShutGate
        | Action::StartJoin
        | Action::CommitJoin
        | Action::AnnounceLeaving { .. }
        | Action::FinishLeaving
        | Action::TakeOrdinal { .. } => {}
    }
    Ok(())
}
