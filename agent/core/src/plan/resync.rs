//! A node that has lost what it needs next from a member is synchronised anew, by itself, when
//! its own changes still go to every member: then nothing is lost by emptying it. Whether, and what
//! is in the way. How it goes is in [`crate::join`], which proves all of it again.

use super::slots::{SlotView, holders};
use super::{Inputs, Plan, View, edge_reports};
use crate::ids::NodeId;
use crate::join::{sound, takes_part};
use crate::life::Stage;
use crate::observed::Reach;
use crate::record::{EdgeState, NodeRecord};
use crate::status::{Finding, Health};
use std::collections::BTreeSet;

/// What the edges of this node have lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing.
    Nothing,
    /// This node can be synchronised anew.
    Curable,
    /// It can when this is no more so.
    Waits(String),
    /// A member lacks changes of this node, and this node changes of that member: whoever is
    /// emptied takes rows with it that nobody else may have.
    BothSides(String),
}

/// Is this node to be synchronised anew?
#[must_use]
pub fn resync_wanted(inputs: &Inputs<'_>) -> bool {
    View::of(inputs).is_some_and(|view| loss(&view) == Loss::Curable)
}

pub(super) fn loss(view: &View<'_>) -> Loss {
    let life = view.inputs.life;
    if life.stage != Stage::Ready || life.quarantined.is_some() {
        return Loss::Nothing;
    }
    let inbound = edge_reports(view.inputs);
    let lost = |node: &NodeId| {
        let report = inbound.get(node);
        report.is_some_and(|report| report.state == EdgeState::NeedsResync)
    };
    if !inbound.keys().any(lost) {
        return Loss::Nothing;
    }
    let kept = holders(&SlotView {
        me: view.me(),
        roster: view.roster,
        postgres: view.postgres,
    });
    let others = || {
        let records = view.roster.records.values();
        records.filter(|record| record.node != view.inputs.me)
    };
    let both = others().find(|record| lost(&record.node) && lacks(view, record, &kept));
    if let Some(record) = both {
        return Loss::BothSides(record.name.to_string());
    }
    let silent = view.roster.members().into_iter();
    let mut silent = silent.filter(|node| !view.roster.records.contains_key(node));
    if let Some(node) = silent.next() {
        return Loss::Waits(format!("{} is heard of", view.roster.name_of(node)));
    }
    if let Some(what) = others().find_map(|record| in_the_way(view, record, &kept)) {
        return Loss::Waits(what);
    }
    if !others().any(|record| sound(record, view.inputs.me)) {
        return Loss::Waits("a member has all changes of the others".to_owned());
    }
    Loss::Curable
}

/// What this node held before it was emptied, as long as it is kept.
pub(super) fn findings(view: &View<'_>, plan: &mut Plan) {
    for file in &view.inputs.observed.exports {
        plan.findings.push(Finding {
            severity: Health::Ok,
            code: "exported".to_owned(),
            text: format!("what this node held before it was synchronised anew is kept in {file}"),
            command: format!("rm {file}, when nobody misses anything"),
        });
    }
}

/// Does a member lack changes of this node, for ever?
fn lacks(view: &View<'_>, record: &NodeRecord, kept: &BTreeSet<NodeId>) -> bool {
    let edge = record.edges.get(&view.inputs.me);
    let says_so = edge.is_some_and(|edge| edge.state == EdgeState::NeedsResync);
    says_so || !kept.contains(&record.node)
}

/// What has to become so with one member before this node may be emptied.
fn in_the_way(view: &View<'_>, record: &NodeRecord, kept: &BTreeSet<NodeId>) -> Option<String> {
    let name = &record.name;
    match takes_part(record) {
        Some(false) => return None,
        Some(true) => {}
        None => return Some(format!("{name} is ready: it is {}", record.state.word())),
    }
    if view.inputs.observed.peers.get(&record.node) != Some(&Reach::Up) {
        return Some(format!("{name} answers"));
    }
    if lacks(view, record, kept) {
        let text = format!("{name}, which lacks changes of this node, was synchronised anew");
        return Some(text);
    }
    let edge = record.edges.get(&view.inputs.me);
    let arrives = edge.is_some_and(|edge| edge.state == EdgeState::Replicating);
    (!arrives).then(|| format!("changes of this node arrive on {name}"))
}
