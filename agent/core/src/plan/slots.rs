//! The slots on this node, from which others read. A slot is only created while this node takes
//! no writes, and only dropped when its subscriber is gone for good.

use super::{Plan, View};
use crate::action::Action;
use crate::ids::{DataEpoch, NodeId, pglogical_node_name, subscription_name};
use crate::life::Stage;
use crate::record::JoinPhase;
use std::time::Duration;

/// After an absence of this length the old connection may hang half-open for a minute.
const ABSENCE_NOTED: Duration = Duration::from_millis(1500);

/// The end of the name of the slot that `subscriber` reads on `provider`. pglogical builds the
/// name as `pgl_<database>_<provider>_<subscription>` (`gen_slot_name` in its source).
#[must_use]
pub(super) fn slot_suffix(
    subscriber: (NodeId, DataEpoch),
    provider: (NodeId, DataEpoch),
) -> String {
    let node = pglogical_node_name(provider.0, provider.1);
    format!("_{node}_{}", subscription_name(subscriber, provider))
}

/// The slot of one subscriber on this node, if there is one.
fn slot_of<'a>(view: &View<'a>, subscriber: (NodeId, DataEpoch)) -> Option<&'a String> {
    let suffix = slot_suffix(subscriber, view.me());
    view.postgres
        .slots
        .keys()
        .find(|name| name.ends_with(&suffix))
}

/// Slots whose subscriber is buried.
pub(super) fn remove_buried(view: &View<'_>, plan: &mut Plan) {
    for (node, tombstone) in &view.roster.tombstones {
        if let Some(slot) = slot_of(view, (*node, tombstone.epoch)) {
            plan.actions.push(Action::DropSlot {
                slot: slot.clone(),
                subscriber: *node,
            });
        }
    }
}

/// Slots for the members that will read from here, before this node takes its first write.
pub(super) fn create(view: &View<'_>, plan: &mut Plan) {
    let may_create = match view.inputs.life.stage {
        Stage::Founding => true,
        Stage::Joining(phase) => phase == JoinPhase::Linking,
        Stage::Single | Stage::Ready | Stage::Leaving | Stage::Left => false,
    };
    if !may_create || view.postgres.local_node.is_none() || view.postgres.gate_open {
        return;
    }
    for subscriber in view.roster.members() {
        let Some(epoch) = view.roster.epoch(subscriber) else {
            continue;
        };
        if subscriber == view.inputs.me || slot_of(view, (subscriber, epoch)).is_some() {
            continue;
        }
        let subscription = subscription_name((subscriber, epoch), view.me());
        plan.actions.push(Action::CreateSlot {
            subscriber,
            subscription,
        });
    }
}

/// The members for whom a slot exists here and still holds what they need.
pub(crate) fn holders(view_of: &SlotView<'_>) -> std::collections::BTreeSet<NodeId> {
    let usable = |subscriber: NodeId, epoch: DataEpoch| {
        let suffix = slot_suffix((subscriber, epoch), view_of.me);
        view_of
            .postgres
            .slots
            .iter()
            .any(|(name, slot)| name.ends_with(&suffix) && slot.wal_status != "lost")
    };
    let members = view_of.roster.members().into_iter();
    members
        .filter(|node| {
            view_of
                .roster
                .epoch(*node)
                .is_some_and(|epoch| usable(*node, epoch))
        })
        .collect()
}

/// What [`holders`] looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotView<'a> {
    pub(crate) me: (NodeId, DataEpoch),
    pub(crate) roster: &'a crate::roster::Roster,
    pub(crate) postgres: &'a crate::observed::PostgresFacts,
}

/// A subscriber that was away and came back reconnects at once, and finds its slot held by the
/// sender of the connection it lost, for up to `wal_sender_timeout`. That sender is ended, once
/// per return.
pub(super) fn end_stale_senders(view: &View<'_>, plan: &mut Plan) {
    let memory = view.inputs.memory;
    for (node, (at, away)) in &memory.returned {
        let ended = memory
            .senders_ended
            .get(node)
            .is_some_and(|ended| ended >= at);
        let Some(epoch) = view.roster.epoch(*node) else {
            continue;
        };
        if ended || *away < ABSENCE_NOTED {
            continue;
        }
        let Some(slot) = slot_of(view, (*node, epoch)) else {
            continue;
        };
        if view
            .postgres
            .slots
            .get(slot)
            .is_some_and(|facts| facts.active)
        {
            let slot = slot.clone();
            plan.actions.push(Action::EndStaleSender {
                subscriber: *node,
                slot,
            });
        }
    }
}
