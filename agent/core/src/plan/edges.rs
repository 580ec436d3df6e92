//! This node's own subscriptions: it alone creates, enables, kicks and drops them.

use super::history::distrusted;
use super::resync::{Loss, loss};
use super::{HEARTBEAT_FRESH, Inputs, Plan, View};
use crate::action::Action;
use crate::beats;
use crate::ids::{DataEpoch, Lsn, NodeId, pglogical_node_name, subscription_name};
use crate::life::Stage;
use crate::observed::{PostgresFacts, Reach, SubscriptionFacts};
use crate::record::{EdgeReport, EdgeState, JoinPhase, NodeRecord};
use crate::roster::{Roster, Tombstone};
use crate::state::NodeState;
use crate::status::{Finding, Health, WaitingOn};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an enabled subscription may be without a worker before it is kicked. Workers need a
/// moment to start, and a kick ends one that has just attached.
const DOWN_BEFORE_KICK: Duration = Duration::from_millis(800);

/// The pause between two kicks doubles from here to [`KICK_PAUSE_MAX`].
const KICK_PAUSE: Duration = Duration::from_secs(1);
const KICK_PAUSE_MAX: Duration = Duration::from_secs(30);

/// An absence shorter than this leaves TCP connections in working order.
const ABSENCE_NOTED: Duration = Duration::from_millis(1500);

/// How long after a peer's return its stream may be silent before it is reconnected.
const SILENCE_AFTER_RETURN: Duration = Duration::from_millis(300);

/// The providers this node should follow now. Members that are still joining are followed once
/// they hold a slot for us; founding members side by side.
#[must_use]
pub fn desired_providers(
    me: NodeId,
    stage: Stage,
    roster: &Roster,
) -> BTreeMap<NodeId, &NodeRecord> {
    let follows = |record: &NodeRecord| match (stage, record.state) {
        (_, NodeState::Left) => false,
        (Stage::Founding, _) => {
            record.phase == Some(JoinPhase::Founding)
                || (record.state == NodeState::Ready && record.slots_for.contains(&me))
        }
        (Stage::Ready, NodeState::Ready | NodeState::Resyncing | NodeState::Leaving) => true,
        (Stage::Ready, NodeState::Joining) => match record.phase {
            Some(JoinPhase::Founding) => true,
            Some(phase) => phase >= JoinPhase::Linking && record.slots_for.contains(&me),
            None => false,
        },
        (Stage::Joining(phase), _) => phase >= JoinPhase::Linking,
        // A founding member whose agent was restarted says `booting` and the like for a moment.
        (Stage::Ready, _) => record.slots_for.contains(&me),
        (Stage::Single | Stage::Resyncing | Stage::Leaving | Stage::Left, _) => false,
    };
    let others = roster.records.iter().filter(|(node, _)| **node != me);
    others
        .filter(|(_, record)| follows(record))
        .map(|(node, record)| (*node, record))
        .collect()
}

/// The subscription by which this node follows `provider`, if there is one.
fn subscription_to(
    postgres: &PostgresFacts,
    me: (NodeId, DataEpoch),
    provider: (NodeId, DataEpoch),
) -> Option<(&String, &SubscriptionFacts)> {
    let name = subscription_name(me, provider);
    postgres.subscriptions.get_key_value(&name)
}

/// Subscriptions to nodes that are buried. Their origins stay: their numbers would be reused.
pub(super) fn remove_buried(view: &View<'_>, plan: &mut Plan) {
    for (node, tombstone) in &view.roster.tombstones {
        for subscription in remnants(view.postgres, *node, tombstone) {
            let compare = match duty(view, *node, tombstone) {
                Duty::Nothing => None,
                Duty::Compare => Some(tombstone.name.to_string()),
                Duty::Await => continue,
            };
            plan.actions.push(Action::DropSubscription {
                subscription: subscription.clone(),
                compare,
            });
        }
    }
}

/// The subscriptions to a buried node that are still there.
fn remnants<'a>(
    postgres: &'a PostgresFacts,
    node: NodeId,
    tombstone: &Tombstone,
) -> impl Iterator<Item = &'a String> {
    let provider = pglogical_node_name(node, tombstone.epoch);
    let subscriptions = postgres.subscriptions.iter();
    subscriptions
        .filter(move |(_, subscription)| subscription.provider == provider)
        .map(|(name, _)| name)
}

/// What a node has to see to before it drops its subscription to one that is gone.
enum Duty {
    Nothing,
    /// Have all tables compared.
    Compare,
    /// Wait for others to drop theirs.
    Await,
}

/// What a forgotten node wrote last may have reached some members only, and may still be applied there, for as
/// long as they subscribe to it. So the last that does has all tables compared; that is the lowest of
/// them, for which it waits. So it is with one that left by force before the rows were compared that it
/// knew to be open, or while some lacked changes of it. One that has left otherwise was drained.
fn duty(view: &View<'_>, gone: NodeId, tombstone: &Tombstone) -> Duty {
    let me = view.inputs.me;
    if view.inputs.life.stage != Stage::Ready {
        return Duty::Nothing;
    }
    if tombstone.left && !tombstone.unsettled {
        return Duty::Nothing;
    }
    let records = view.roster.records.values();
    let others = records.filter(|record| record.node != me && follows(record, gone));
    let others: Vec<&NodeRecord> = others.collect();
    let is_theirs = |other: &&NodeRecord| other.node < me && other.state == NodeState::Ready;
    match (others.is_empty(), others.iter().any(is_theirs)) {
        (true, _) => Duty::Compare,
        (false, true) => Duty::Nothing,
        (false, false) => Duty::Await,
    }
}

/// May something of this node that is gone still be applied at the member of this record, which
/// has to be the same as the others?
fn follows(record: &NodeRecord, gone: NodeId) -> bool {
    // One that doesn't know yet that it is gone says so of an ordinary edge.
    let edge = record.edges.get(&gone);
    record.is_compared() && edge.is_some_and(|edge| edge.state != EdgeState::Missing)
}

/// A member that still subscribes to a node that is gone, and that node.
#[must_use]
pub fn follower_of_the_gone(roster: &Roster) -> Option<(NodeId, NodeId)> {
    let pairs = roster.tombstones.keys().flat_map(|gone| {
        let records = roster.records.values();
        records.map(move |record| (record, *gone))
    });
    let mut found = pairs.filter(|(record, gone)| follows(record, *gone));
    found.next().map(|(record, gone)| (record.node, gone))
}

/// Creates what is missing and keeps what is there alive.
pub(super) fn create_and_keep(view: &View<'_>, plan: &mut Plan) {
    let stage = view.inputs.life.stage;
    for (provider, record) in desired_providers(view.inputs.me, stage, view.roster) {
        let peer = (provider, record.epoch);
        match subscription_to(view.postgres, view.me(), peer) {
            None => create(view, plan, peer),
            Some((name, facts)) => keep(view, plan, record, (name, facts)),
        }
    }
}

fn create(view: &View<'_>, plan: &mut Plan, provider: (NodeId, DataEpoch)) {
    let stage = view.inputs.life.stage;
    let may_create = match stage {
        // The provider is empty, or holds a slot for us since before it took writes.
        Stage::Founding => true,
        // Only towards a node that joins us and has made our slot; two ready nodes without an
        // edge have a gap between them, which only a synchronisation can close.
        Stage::Ready => view
            .roster
            .records
            .get(&provider.0)
            .is_some_and(|r| r.state == NodeState::Joining),
        Stage::Single | Stage::Joining(_) | Stage::Resyncing | Stage::Leaving | Stage::Left => {
            false
        }
    };
    if !may_create {
        return;
    }
    if view.postgres.local_node.is_none() || !view.inputs.dsns.contains_key(&provider.0) {
        return;
    }
    let record = view.roster.records.get(&provider.0);
    if record.is_some_and(|record| distrusted(view.inputs, record).is_some()) {
        return;
    }
    if reach(view.inputs, provider.0) == Reach::Down {
        let text = format!("{} to answer", view.roster.name_of(provider.0));
        plan.waiting.push(WaitingOn::new("peer", text));
        return;
    }
    let subscription = subscription_name(view.me(), provider);
    plan.actions.push(Action::CreateSubscription {
        provider: provider.0,
        subscription,
    });
}

fn reach(inputs: &Inputs<'_>, node: NodeId) -> Reach {
    inputs
        .observed
        .peers
        .get(&node)
        .copied()
        .unwrap_or(Reach::Unknown)
}

fn keep(
    view: &View<'_>,
    plan: &mut Plan,
    record: &NodeRecord,
    (name, facts): (&String, &SubscriptionFacts),
) {
    let provider = record.node;
    if let Some(because) = distrusted(view.inputs, record) {
        if facts.enabled {
            let because = format!("{}: {because}", record.name);
            let subscription = name.clone();
            plan.actions.push(Action::DisableSubscription {
                subscription,
                because,
            });
        }
        return;
    }
    if let Some(dsn) = view.inputs.dsns.get(&provider)
        && *dsn != facts.dsn
    {
        let subscription = name.clone();
        plan.actions.push(Action::RedirectSubscription {
            provider,
            subscription,
        });
        return;
    }
    if !record.slots_for.contains(&view.inputs.me) {
        let text = format!("the slot for this node on {}", record.name);
        plan.waiting.push(WaitingOn::new("slot", text));
        return;
    }
    if !facts.enabled {
        let sound = facts.origin && facts.sync_status == Some('r') && facts.forwards_nothing;
        if sound && view.inputs.life.stage != Stage::Leaving {
            let subscription = name.clone();
            plan.actions.push(Action::EnableSubscription {
                provider,
                subscription,
            });
        }
        return;
    }
    if let Some(because) = kick_reason(view, provider, name, facts) {
        let subscription = name.clone();
        plan.actions.push(Action::KickSubscription {
            provider,
            subscription,
            because,
        });
    }
}

/// Why an enabled subscription should be reconnected now, if it should.
fn kick_reason(
    view: &View<'_>,
    provider: NodeId,
    name: &str,
    facts: &SubscriptionFacts,
) -> Option<&'static str> {
    let Inputs { now, memory, .. } = *view.inputs;
    if reach(view.inputs, provider) != Reach::Up {
        return None;
    }
    let returned = memory
        .returned
        .get(&provider)
        .filter(|(_, away)| *away >= ABSENCE_NOTED);
    let kicked = memory.kicked.get(name);
    if let Some((at, _)) = returned {
        let kicked_since = kicked.is_some_and(|(kick, _)| kick >= at);
        let heard_since = memory
            .heartbeats
            .get(&provider)
            .is_some_and(|(_, _, seen)| seen > at);
        if !kicked_since && !heard_since && now.since(*at) >= SILENCE_AFTER_RETURN {
            return Some("it was away, and its stream is silent");
        }
    }
    if facts.worker {
        return (kicked.is_none() && silent_since_start(view.inputs, provider, name))
            .then_some("nothing has come through it since the agent started");
    }
    let down_since = memory.down_since.get(name)?;
    if now.since(*down_since) < DOWN_BEFORE_KICK {
        return None;
    }
    let pause = kicked.map_or(Duration::ZERO, |(_, times)| {
        KICK_PAUSE
            .saturating_mul(1_u32 << (*times).min(5))
            .min(KICK_PAUSE_MAX)
    });
    let rested = kicked.is_none_or(|(at, _)| now.since(*at) >= pause);
    rested.then_some("it is down, and its provider answers")
}

/// Has nothing of a provider arrived since this agent started, through a connection that is older?
/// It may have been lost before, and an agent that was restarted has seen no absence. It is
/// reconnected once: a large transaction is silent as well, and must not start over again and
/// again. A connection that was made since is watched from its beginning.
fn silent_since_start(inputs: &Inputs<'_>, provider: NodeId, subscription: &str) -> bool {
    let Some((looked, inherited)) = &inputs.memory.inherited else {
        return false;
    };
    let heard = inputs.memory.heartbeats.get(&provider);
    let silent = heard.is_none_or(|(_, _, at)| at <= looked);
    silent && inherited.contains(subscription) && inputs.now.since(*looked) >= HEARTBEAT_FRESH
}

/// Does a node that makes its edges wait for this one to see its first heartbeat? It comes in no
/// message that wakes anybody, so that it has to be looked for.
#[must_use]
pub fn awaits_joiner(inputs: &Inputs<'_>) -> bool {
    let mut others = inputs
        .roster
        .iter()
        .flat_map(|roster| roster.records.values());
    others.any(|record| {
        record.node != inputs.me
            && record.state == NodeState::Joining
            && record.phase >= Some(JoinPhase::Linking)
            && reach(inputs, record.node) == Reach::Up
            && edge_report(inputs, record).state != EdgeState::Replicating
    })
}

/// What this node's record says of its inbound edges: also of those from nodes that are gone, until
/// they are dropped.
#[must_use]
pub fn recorded_edges(inputs: &Inputs<'_>) -> BTreeMap<NodeId, EdgeReport> {
    let mut edges = edge_reports(inputs);
    let buried = inputs.roster.iter().flat_map(|r| &r.tombstones);
    for (node, tombstone) in buried {
        let postgres = inputs.observed.postgres.known();
        // While the server can't be seen it may be there.
        let state = match postgres.map(|seen| remnants(seen, *node, tombstone).count()) {
            Some(0) => continue,
            Some(_) => EdgeState::Disabled,
            None => EdgeState::Unknown,
        };
        let report = EdgeReport {
            state,
            lag_ms: None,
            heartbeat: 0,
            detail: "it is gone".to_owned(),
            position: Lsn(0),
        };
        edges.insert(*node, report);
    }
    edges
}

/// How this node sees each of its inbound edges, for the report.
#[must_use]
pub fn edge_reports(inputs: &Inputs<'_>) -> BTreeMap<NodeId, EdgeReport> {
    let Some(roster) = inputs.roster else {
        return BTreeMap::new();
    };
    let others = roster
        .records
        .values()
        .filter(|record| record.node != inputs.me);
    others
        .map(|record| (record.node, edge_report(inputs, record)))
        .collect()
}

fn edge_report(inputs: &Inputs<'_>, record: &NodeRecord) -> EdgeReport {
    let unknown = |detail: &str| EdgeReport {
        state: EdgeState::Unknown,
        lag_ms: None,
        heartbeat: 0,
        detail: detail.to_owned(),
        position: Lsn(0),
    };
    let Some(postgres) = inputs.observed.postgres.known() else {
        return unknown("PostgreSQL does not answer");
    };
    let Some(epoch) = postgres.epoch else {
        return unknown("the database is being prepared");
    };
    let heartbeat = postgres
        .heartbeats
        .get(&record.node)
        .filter(|h| h.epoch == record.epoch);
    let fresh =
        inputs
            .memory
            .heartbeat_fresh(record.node, record.epoch, inputs.now, HEARTBEAT_FRESH);
    let provider = (record.node, record.epoch);
    let facts = subscription_to(postgres, (inputs.me, epoch), provider).map(|(_, facts)| facts);
    let slot_there = record.slots_for.contains(&inputs.me);
    // Else the provider's word of its slots is another by now.
    let vouched =
        heartbeat.is_none_or(|h| beats::series(h.number) <= beats::series(record.heartbeat));
    let beats = Beats { fresh, vouched };
    let (state, detail) = judge(facts, slot_there, record.state, beats);
    // Whatever arrives, and while it is still enabled: there is a gap behind it.
    let distrusted = distrusted(inputs, record).filter(|_| state != EdgeState::Missing);
    EdgeReport {
        state: distrusted.as_ref().map_or(state, |_| EdgeState::Disabled),
        lag_ms: heartbeat.map(|h| h.lag_ms),
        heartbeat: heartbeat.map_or(0, |h| h.number),
        detail: distrusted.unwrap_or_else(|| detail.to_owned()),
        position: facts.map_or(Lsn(0), |facts| facts.position),
    }
}

/// What is known of the heartbeats of a provider.
struct Beats {
    /// One has just arrived.
    fresh: bool,
    /// The record that is known tells of the series of the newest.
    vouched: bool,
}

/// The state of an edge from its subscription, the provider's slot, and the heartbeats.
fn judge(
    facts: Option<&SubscriptionFacts>,
    slot_there: bool,
    provider: NodeState,
    beats: Beats,
) -> (EdgeState, &'static str) {
    match facts {
        None => (EdgeState::Missing, ""),
        Some(_) if !slot_there && matches!(provider, NodeState::Ready | NodeState::Leaving) => (
            EdgeState::NeedsResync,
            "the provider's slot for this node is gone, or was made anew",
        ),
        Some(facts) if !facts.enabled => (EdgeState::Disabled, ""),
        Some(facts) if !facts.worker => (EdgeState::Down, "no apply worker runs"),
        // "A worker runs" is not enough: pglogical says "replicating" over gaps.
        Some(_) if !beats.fresh => (EdgeState::Connecting, "no fresh heartbeat has arrived"),
        Some(_) if !beats.vouched => (
            EdgeState::Connecting,
            "the provider's last word of its slots has not arrived yet",
        ),
        Some(_) => (EdgeState::Replicating, ""),
    }
}

/// Findings about this node's own edges.
pub(super) fn findings(view: &View<'_>, plan: &mut Plan) {
    if view.inputs.life.stage != Stage::Ready {
        return;
    }
    for (provider, report) in edge_reports(view.inputs) {
        let ready = view
            .roster
            .records
            .get(&provider)
            .is_some_and(|r| r.state == NodeState::Ready);
        let name = view.roster.name_of(provider);
        let record = view.roster.records.get(&provider);
        if let Some(because) = record.and_then(|record| distrusted(view.inputs, record)) {
            plan.findings.push(distrust(&name, &because));
            continue;
        }
        if report.state == EdgeState::NeedsResync {
            plan.findings.push(needs_resync(&name, &loss(view)));
            continue;
        }
        let down = reach(view.inputs, provider) == Reach::Down;
        if let Some(finding) = edge_finding(&name, report.state, ready, down) {
            plan.findings.push(finding);
        }
    }
}

fn distrust(name: &str, because: &str) -> Finding {
    Finding {
        severity: Health::Critical,
        code: "rolled_back".to_owned(),
        text: format!("nothing is taken from {name}: {because}"),
        command: format!(
            "pgaa-agent rejoin {name}, on {name}: it exports what it holds, and joins anew"
        ),
    }
}

/// What was lost, what this node does about it, and what it waits for.
fn needs_resync(name: &str, loss: &Loss) -> Finding {
    let (what, command) = match loss {
        Loss::Nothing | Loss::Curable => (
            "this node is synchronised anew by itself".to_owned(),
            "pgaa-agent events".to_owned(),
        ),
        Loss::Waits(what) => (
            format!("this node is synchronised anew by itself as soon as {what}"),
            "pgaa-agent topology".to_owned(),
        ),
        Loss::BothSides(other) => (
            format!(
                "{other} lacks changes of this node as well: each may hold rows that nobody else \
                 has, so neither is emptied. They have to be merged"
            ),
            format!(
                "save with pg_dump, of this node and of {other}, what only one of them has; then \
                 pgaa-agent leave --force on one: emptied, its machine joins anew"
            ),
        ),
    };
    Finding {
        severity: Health::Critical,
        code: "needs_resync".to_owned(),
        text: format!(
            "{name} no longer holds what this node needs next: changes are missing here; {what}"
        ),
        command,
    }
}

fn edge_finding(name: &str, state: EdgeState, ready: bool, down: bool) -> Option<Finding> {
    let (severity, code, text) = match state {
        EdgeState::Missing if ready => (
            Health::Critical,
            "edge_missing",
            format!("this node has no subscription to {name}"),
        ),
        EdgeState::Down | EdgeState::Disabled | EdgeState::Connecting if down => (
            Health::Degraded,
            "peer_unreachable",
            format!("{name} does not answer; it keeps what this node has not seen"),
        ),
        EdgeState::Down | EdgeState::Disabled | EdgeState::Connecting => (
            Health::Degraded,
            "edge_down",
            format!("changes from {name} do not arrive ({})", state.word()),
        ),
        EdgeState::Unknown
        | EdgeState::Missing
        | EdgeState::NeedsResync
        | EdgeState::Replicating => return None,
    };
    Some(Finding {
        severity,
        code: code.to_owned(),
        text,
        command: "pgaa-agent topology".to_owned(),
    })
}
