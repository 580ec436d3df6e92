//! The slots on this node, from which others read. A slot is only created while this node takes
//! no writes, and only dropped when its subscriber is gone for good.

use super::{Inputs, Plan, View};
use crate::action::Action;
use crate::ids::{DataEpoch, NodeId, pglogical_node_name, subscription_name};
use crate::life::Stage;
use crate::observed::{Reach, SlotFacts};
use crate::record::{EdgeState, JoinPhase, NodeRecord};
use crate::status::{Finding, Health};
use crate::time::Mono;
use std::time::Duration;

/// After an absence of this length the old connection may hang half-open for a minute.
const ABSENCE_NOTED: Duration = Duration::from_millis(1500);

/// How long a subscriber must have said that it has no worker, and one sender have served it,
/// before that sender counts as stale. A subscriber that connects says so within a second.
const UNREAD_BEFORE_END: Duration = Duration::from_secs(2);

/// The pause between two senders that are ended on a subscriber's word doubles up to the longest.
const END_PAUSE: Duration = Duration::from_secs(2);
const END_PAUSE_MAX: Duration = Duration::from_secs(60);

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
pub(super) fn slot_of<'a>(view: &View<'a>, subscriber: (NodeId, DataEpoch)) -> Option<&'a String> {
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
        Stage::Joining(phase) => phase >= JoinPhase::Linking,
        Stage::Single | Stage::Ready | Stage::Resyncing | Stage::Leaving | Stage::Left => false,
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
    let usable_slot = |slot: &SlotFacts| slot.wal_status != "lost" && !slot.made_anew;
    let usable = |subscriber: NodeId, epoch: DataEpoch| {
        let suffix = slot_suffix((subscriber, epoch), view_of.me);
        view_of
            .postgres
            .slots
            .iter()
            .any(|(name, slot)| name.ends_with(&suffix) && usable_slot(slot))
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

/// Slots that somebody has dropped and made anew: what was written in between never arrives.
pub(super) fn findings(view: &View<'_>, plan: &mut Plan) {
    for subscriber in view.roster.members() {
        let Some(epoch) = view.roster.epoch(subscriber) else {
            continue;
        };
        let slot = slot_of(view, (subscriber, epoch)).and_then(|s| view.postgres.slots.get(s));
        if slot.is_some_and(|slot| slot.made_anew) {
            let name = view.roster.name_of(subscriber);
            plan.findings.push(Finding {
                severity: Health::Critical,
                code: "slot_made_anew".to_owned(),
                text: format!(
                    "the slot of {name} was dropped and made anew by somebody: {name} lacks what \
                     was written in between"
                ),
                command: format!("pgaa-agent status, on {name}"),
            });
        }
    }
}

/// What [`holders`] looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotView<'a> {
    pub(crate) me: (NodeId, DataEpoch),
    pub(crate) roster: &'a crate::roster::Roster,
    pub(crate) postgres: &'a crate::observed::PostgresFacts,
}

/// A subscriber that lost its connection reconnects at once, and finds its slot held by the
/// sender of the lost one, for up to `wal_sender_timeout`. That sender is ended: once per return
/// that this node has seen, and whenever the subscriber itself says that it has no worker.
pub(super) fn end_stale_senders(view: &View<'_>, plan: &mut Plan) {
    for record in view.roster.records.values() {
        let subscriber = record.node;
        let Some(slot) = slot_of(view, (subscriber, record.epoch)) else {
            continue;
        };
        let active = view.postgres.slots.get(slot).is_some_and(|s| s.active);
        if active && (returned(view, subscriber) || unread(view, record, slot)) {
            let slot = slot.clone();
            plan.actions
                .push(Action::EndStaleSender { subscriber, slot });
        }
    }
}

/// Has the subscriber been away, and its sender not been ended since it came back?
fn returned(view: &View<'_>, subscriber: NodeId) -> bool {
    let memory = view.inputs.memory;
    let ended = |at: &Mono| {
        let ended = memory.senders_ended.get(&subscriber);
        ended.is_some_and(|ended| ended >= at)
    };
    memory
        .returned
        .get(&subscriber)
        .is_some_and(|(at, away)| *away >= ABSENCE_NOTED && !ended(at))
}

/// Does the subscriber say that it has no worker, although one sender has served it all the
/// while? An agent that was restarted has not seen the subscriber go, nor return.
///
/// The subscriber may have connected since it said so: then it says so soon, and within
/// [`UNREAD_BEFORE_END`]. When its word is late a sender that lives is ended, and the subscriber
/// connects again; so that this can't go on for ever, each version of its record ends one sender
/// at most, and the pause doubles.
fn unread(view: &View<'_>, record: &NodeRecord, slot: &str) -> bool {
    let Inputs { now, memory, .. } = *view.inputs;
    let says_so = record
        .edges
        .get(&view.inputs.me)
        .is_some_and(|edge| edge.state == EdgeState::Down);
    let answers = view.inputs.observed.peers.get(&record.node) == Some(&Reach::Up);
    let long = |since: Mono| now.since(since) >= UNREAD_BEFORE_END;
    let (Some(unread), Some((_, serves_since))) =
        (memory.unread.get(&record.node), memory.senders.get(slot))
    else {
        return false;
    };
    let rested = unread.ended.is_none_or(|(at, version, times)| {
        let pause = END_PAUSE.saturating_mul(1_u32 << times.min(5));
        record.version != version && now.since(at) >= pause.min(END_PAUSE_MAX)
    });
    says_so && answers && long(unread.since) && long(*serves_since) && rested
}
