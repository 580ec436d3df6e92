//! Databases that were rolled back: nothing is taken from them, and this node, when it is one,
//! sets itself apart. What was seen of whom is in [`crate::history`].

use super::{Inputs, Plan, View, guard};
use crate::action::Action;
use crate::history::RolledBack;
use crate::ids::Lsn;
use crate::record::{EdgeState, NodeRecord};
use crate::state::NodeState;
use crate::status::WaitingOn;

/// Why this node must be set apart, if it must: its own earlier record, or others, have seen more
/// of its database than it shows.
#[must_use]
pub fn rolled_back(inputs: &Inputs<'_>) -> Option<String> {
    let view = View::of(inputs)?;
    let history = &view.roster.history;
    let record = view.roster.records.get(&inputs.me);
    let earlier = record.filter(|record| record.epoch == view.epoch);
    let noticed = earlier.and_then(|record| history.rolled_back(record).copied());
    // In recovery it isn't known yet where the WAL ends.
    let shows = view.postgres.wal != Lsn(0);
    let own = || history.own(inputs.me, view.epoch, view.postgres.wal);
    let seen = || own().or_else(|| applied(&view)).filter(|_| shows);
    let rolled_back = noticed.or_else(seen)?;
    Some(rolled_back.text())
}

/// Has a member applied more of this node's WAL than there is? What it has applied was flushed
/// here before, and it said so before this look. While this node isn't ready a member may still
/// speak of the contents it had before.
fn applied(view: &View<'_>) -> Option<RolledBack> {
    if !view.inputs.life.stage.took_writes() {
        return None;
    }
    let reports = view.roster.records.values();
    // An edge that is set aside may be one from contents that are gone.
    let follows = |state| {
        matches!(
            state,
            EdgeState::Replicating | EdgeState::Connecting | EdgeState::Down
        )
    };
    let edges = reports.filter_map(|record| record.edges.get(&view.inputs.me));
    let positions = edges.filter(|edge| follows(edge.state));
    let seen = positions.map(|edge| edge.position).max()?;
    (view.postgres.wal < seen).then_some(RolledBack {
        epoch: view.epoch,
        seen,
        shown: view.postgres.wal,
    })
}

/// Why nothing is taken from a member, if so.
pub(super) fn distrusted(inputs: &Inputs<'_>, record: &NodeRecord) -> Option<String> {
    let noticed = inputs.roster?.history.rolled_back(record);
    let quarantined =
        || (record.state == NodeState::Quarantined).then(|| "it is quarantined".to_owned());
    noticed
        .map(|rolled_back| rolled_back.text())
        .or_else(quarantined)
}

/// Sets this node apart when it was rolled back, and keeps it there. Returns whether it is.
pub(super) fn apart(view: &View<'_>, plan: &mut Plan) -> bool {
    let Some(because) = &view.inputs.life.quarantined else {
        let kept = !view.inputs.life.renew;
        if let Some(because) = rolled_back(view.inputs).filter(|_| kept) {
            plan.actions.push(Action::Quarantine { because });
            return true;
        }
        return false;
    };
    super::admit(view, plan);
    super::edges::remove_buried(view, plan);
    super::slots::remove_buried(view, plan);
    for (name, facts) in &view.postgres.subscriptions {
        if facts.enabled {
            plan.actions.push(Action::DisableSubscription {
                subscription: name.clone(),
                because: "this node is quarantined".to_owned(),
            });
        }
    }
    // Its slots hold back WAL as ever.
    guard::watch(view, plan);
    plan.waiting
        .push(WaitingOn::new("operator", because.clone()));
    true
}
