//! Where this node stands, and when it may go on.

use super::clock::{self, Gate};
use super::resync::{Loss, loss};
use super::slots::{SlotView, holders};
use super::{Inputs, Plan, View, edge_reports};
use crate::action::Action;
use crate::ids::NodeId;
use crate::life::Stage;
use crate::observed::{Fact, Reach};
use crate::record::{EdgeState, JoinPhase};
use crate::state::NodeState;
use crate::status::WaitingOn;
use std::collections::BTreeSet;

/// The state of this node, as its record and `status` show it, and why.
#[must_use]
pub fn state_of(inputs: &Inputs<'_>) -> (NodeState, Option<JoinPhase>, String) {
    let stage = inputs.life.stage;
    if stage == Stage::Left {
        return (NodeState::Left, None, "it has left the mesh".to_owned());
    }
    if let Some(because) = &inputs.life.quarantined {
        return (NodeState::Quarantined, None, because.clone());
    }
    let postgres = match &inputs.observed.postgres {
        Fact::Known(facts) => facts,
        Fact::Unknown(why) => {
            return (
                NodeState::Booting,
                None,
                format!("PostgreSQL does not answer: {why}"),
            );
        }
    };
    if postgres.pglogical.is_none() || postgres.epoch.is_none() {
        let why = "role, database and extension are being prepared";
        return (NodeState::Configuring, None, why.to_owned());
    }
    if let Some(Gate::Apart(why)) = clock::gate(inputs) {
        return (
            NodeState::WaitingForClock,
            stage.phase(),
            format!("waiting for {why}"),
        );
    }
    match stage {
        Stage::Single => (NodeState::Discovering, None, "looking for peers".to_owned()),
        Stage::Founding => {
            let why = "founding: edges are made side by side".to_owned();
            (NodeState::Joining, Some(JoinPhase::Founding), why)
        }
        Stage::Joining(phase) => (
            NodeState::Joining,
            Some(phase),
            format!("joining: {}", phase.word()),
        ),
        Stage::Ready => (
            NodeState::Ready,
            None,
            "in the mesh, taking writes".to_owned(),
        ),
        Stage::Resyncing => (
            NodeState::Resyncing,
            None,
            "its own changes go to the others before it is copied anew".to_owned(),
        ),
        Stage::Leaving => (
            NodeState::Leaving,
            None,
            "draining before it goes".to_owned(),
        ),
        Stage::Left => (NodeState::Left, None, "it has left the mesh".to_owned()),
    }
}

/// The step to the next stage, when all it needs is seen.
pub(super) fn advance(view: &View<'_>, plan: &mut Plan) {
    let gate = clock::gate(view.inputs);
    if let Some(gate) = &gate {
        plan.waiting.push(WaitingOn::new("clock", gate.text()));
    }
    match view.inputs.life.stage {
        Stage::Founding => founding(view, plan, gate.is_none()),
        Stage::Joining(JoinPhase::Leasing) => {
            if gate.is_none() {
                plan.actions.push(Action::StartJoin);
            }
        }
        Stage::Joining(JoinPhase::Linking) => {
            plan.actions.push(Action::StartJoin);
            linked(view, plan, &[Action::CommitJoin]);
        }
        Stage::Joining(JoinPhase::Checking) => {
            plan.actions.push(Action::StartJoin);
            linked(view, plan, &[Action::DeclareReady, Action::OpenGate]);
        }
        Stage::Joining(phase) => {
            let text = format!("the join ({})", phase.word());
            plan.waiting.push(WaitingOn::new("join", text));
            plan.actions.push(Action::StartJoin);
        }
        Stage::Ready => {
            if !view.postgres.gate_open {
                plan.actions.push(Action::OpenGate);
            }
            if loss(view) == Loss::Curable {
                plan.actions.push(Action::StartResync);
            }
        }
        Stage::Resyncing => {
            let text = "every member to receive the last of this node's writes";
            plan.waiting.push(WaitingOn::new("drain", text));
            plan.actions.push(Action::StartJoin);
        }
        Stage::Leaving => leaving(view, plan),
        Stage::Single | Stage::Left => {}
    }
    ordinal(view, plan);
}

fn ordinal(view: &View<'_>, plan: &mut Plan) {
    let decreed = view
        .roster
        .decree
        .member(view.inputs.me)
        .map(|member| member.ordinal);
    if let (None, Some(ordinal)) = (view.inputs.life.ordinal, decreed) {
        plan.actions.push(Action::TakeOrdinal { ordinal });
    }
}

/// A founding member becomes ready when every edge is seen alive both ways. Members that never
/// showed up are left behind after a bounded wait, by a majority of the decreed only, so that no
/// two groups can leave one another behind; they then join in the ordinary way. One whose clock
/// differs makes its edges like all others, and keeps its gate shut.
fn founding(view: &View<'_>, plan: &mut Plan, clocks_agree: bool) {
    let me = view.inputs.me;
    if left_behind(view) {
        plan.actions.push(Action::StartJoin);
        return;
    }
    // Nodes that came later wait for this one to be ready: it must not wait for them.
    let decreed: BTreeSet<NodeId> = view
        .roster
        .decree
        .members
        .iter()
        .map(|member| member.node)
        .filter(|node| *node != me && !view.roster.tombstones.contains_key(node))
        .collect();
    let silent: BTreeSet<NodeId> = decreed
        .iter()
        .copied()
        .filter(|n| !view.roster.records.contains_key(n))
        .collect();
    let present: BTreeSet<NodeId> = decreed.difference(&silent).copied().collect();
    let unlinked = unlinked(view, &present);
    for node in &unlinked {
        let text = format!(
            "the edges between this node and {}",
            view.roster.name_of(*node)
        );
        plan.waiting.push(WaitingOn::new("edge", text));
    }
    for node in &silent {
        let text = format!(
            "{} of the founding; if it is lost for ever: pgaa-agent forget {node}",
            view.roster.name_of(*node)
        );
        plan.waiting.push(WaitingOn::new("peer", text));
    }
    let majority = 2 * (present.len() + 1) > decreed.len() + 1;
    let waited = view
        .inputs
        .memory
        .stage_since
        .is_some_and(|since| view.inputs.now.since(since) >= view.inputs.policy.founding_wait);
    if clocks_agree && unlinked.is_empty() && (silent.is_empty() || (majority && waited)) {
        plan.actions.extend(drop_slots_of(view, &silent));
        plan.actions.push(Action::DeclareReady);
        plan.actions.push(Action::OpenGate);
    }
}

/// Is a member ready that holds no slot for this founding node? Then it has opened without us.
fn left_behind(view: &View<'_>) -> bool {
    let me = view.inputs.me;
    let others = view
        .roster
        .records
        .values()
        .filter(|record| record.node != me);
    others
        .into_iter()
        .any(|record| record.state == NodeState::Ready && !record.slots_for.contains(&me))
}

fn drop_slots_of(view: &View<'_>, silent: &BTreeSet<NodeId>) -> Vec<Action> {
    let mut drops = Vec::new();
    for node in silent {
        let Some(epoch) = view.roster.epoch(*node) else {
            continue;
        };
        let suffix = super::slots::slot_suffix((*node, epoch), view.me());
        let slots = view
            .postgres
            .slots
            .keys()
            .filter(|name| name.ends_with(&suffix));
        drops.extend(slots.map(|s| Action::DropSlot {
            slot: s.clone(),
            subscriber: *node,
        }));
    }
    drops
}

/// Of `nodes`, those with which the edges aren't alive both ways yet.
fn unlinked(view: &View<'_>, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let me = view.inputs.me;
    let inbound = edge_reports(view.inputs);
    let slots = holders(&SlotView {
        me: view.me(),
        roster: view.roster,
        postgres: view.postgres,
    });
    let linked = |node: &NodeId| {
        let arrives = inbound
            .get(node)
            .is_some_and(|e| e.state == EdgeState::Replicating);
        let record = view.roster.records.get(node);
        let leaves = record
            .and_then(|r| r.edges.get(&me))
            .is_some_and(|edge| edge.state == EdgeState::Replicating);
        arrives && leaves && slots.contains(node)
    };
    nodes.iter().copied().filter(|node| !linked(node)).collect()
}

/// A joiner whose edges are all made goes on, by `next`, when they are seen alive both ways: with
/// every member but those that have yet to join themselves. A member that is restarting, and says
/// so, is one that must still subscribe to this node: between two ready nodes nobody makes an
/// edge. Before it is ready the members have promised to keep its slots, whatever becomes of its
/// lease.
fn linked(view: &View<'_>, plan: &mut Plan, next: &[Action]) {
    let me = view.inputs.me;
    let takes_part = |node: &NodeId| {
        let record = view.roster.records.get(node);
        record.is_none_or(|record| match record.phase {
            Some(JoinPhase::Leasing | JoinPhase::Copying | JoinPhase::CatchingUp) => false,
            Some(JoinPhase::Founding | JoinPhase::Linking | JoinPhase::Checking) | None => {
                !matches!(record.state, NodeState::Left | NodeState::Quarantined)
            }
        })
    };
    let members: BTreeSet<NodeId> = view
        .roster
        .members()
        .into_iter()
        .filter(|n| *n != me && takes_part(n))
        .collect();
    let unlinked = unlinked(view, &members);
    for node in &unlinked {
        let text = format!(
            "the edges between this node and {}",
            view.roster.name_of(*node)
        );
        plan.waiting.push(WaitingOn::new("edge", text));
    }
    if unlinked.is_empty() {
        plan.actions.extend_from_slice(next);
    }
}

/// A leaving node goes when every member has seen the last of its writes.
fn leaving(view: &View<'_>, plan: &mut Plan) {
    let me = view.inputs.me;
    if view.postgres.gate_open {
        return;
    }
    let Some(fence) = view.inputs.life.leave_after else {
        return;
    };
    let readers = slots_for(view.inputs).unwrap_or_default();
    let (mut drained, mut left_behind) = (true, false);
    for record in view
        .roster
        .records
        .values()
        .filter(|record| record.node != me)
    {
        let edge = record.edges.get(&me);
        let seen = edge.map_or(0, |edge| edge.heartbeat);
        // It never will: what it needs next is gone.
        let lacks = edge.is_some_and(|edge| edge.state == EdgeState::NeedsResync);
        let reach = view.inputs.observed.peers.get(&record.node);
        let excused = view.inputs.life.leave_by_force && (lacks || reach != Some(&Reach::Up));
        // One that joins follows this node once it has a slot here. Before that it would copy from
        // others, who have everything by then, and it gets no lease from a node that leaves.
        let follows = record.state == NodeState::Ready || readers.contains(&record.node);
        let apart = record.state == NodeState::Quarantined;
        if (seen >= fence && !lacks) || !follows || apart {
            continue;
        }
        if excused {
            left_behind = true;
            continue;
        }
        drained = false;
        let name = &record.name;
        let text = match lacks {
            false => format!(
                "{name} to receive the last of this node's writes; without waiting for members \
                 that can't be reached: pgaa-agent leave --force"
            ),
            true => format!(
                "{name}, which lacks changes of this node that it can't get here any more; to go \
                 all the same: pgaa-agent leave --force, and then, on another node, \
                 pgaa-agent verify --repair"
            ),
        };
        plan.waiting.push(WaitingOn::new("drain", text));
    }
    let Inputs {
        life,
        memory,
        observed,
        ..
    } = view.inputs;
    // What it has deleted nobody else can tell later.
    let settled = memory
        .stage_since
        .is_some_and(|since| observed.settled >= Some(since));
    if !settled && !life.leave_by_force {
        let text = "rows that may differ to be compared: what this node knows of them goes with it;                     without that: pgaa-agent leave --force, and all tables are compared";
        plan.waiting.push(WaitingOn::new("rows", text.to_owned()));
        drained = false;
    }
    if drained {
        plan.actions.push(Action::AnnounceLeaving {
            unsettled: !settled || left_behind,
        });
    }
}

/// The members for whom this node holds a usable slot, for its record.
#[must_use]
pub fn slots_for(inputs: &Inputs<'_>) -> Option<BTreeSet<NodeId>> {
    let postgres = inputs.observed.postgres.known()?;
    let me = (inputs.me, postgres.epoch?);
    Some(holders(&SlotView {
        me,
        roster: inputs.roster?,
        postgres,
    }))
}
