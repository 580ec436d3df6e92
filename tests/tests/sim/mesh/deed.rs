//! Carries out plans on the model of PostgreSQL, as the daemon does on the real one: in order,
//! stopping at the first failure, and sometimes in the middle for no reason at all.

use super::agent::Agent;
use crate::world::Turn;
use pgaa_core::action::Action;
use pgaa_core::ids::{NodeId, pglogical_node_name, subscription_name};
use pgaa_core::life::Stage;
use pgaa_core::record::JoinPhase;
use rand::RngExt;
use std::collections::BTreeMap;

/// How often a statement fails for a reason of its own: a lock, a time-out, a lost session.
const STATEMENT_FAILS: f64 = 0.03;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    pub done: usize,
    pub kicked: Vec<String>,
    pub senders_ended: Vec<NodeId>,
    pub guarded: Vec<Action>,
}

/// What one action did.
enum Deed {
    Done,
    /// The agent's own state changed: the rest waits for the next look.
    Changed,
    Failed,
}

/// Carries out the agent's plan.
pub fn act(
    agent: &mut Agent,
    turn: &mut Turn<'_, Agent>,
    dsns: &BTreeMap<NodeId, String>,
) -> Outcome {
    let mut outcome = Outcome::default();
    for action in agent.plan.actions.clone() {
        if turn.shared.rough && turn.rng.random_bool(STATEMENT_FAILS) {
            break;
        }
        turn.shared.acts += 1;
        match one(agent, turn, dsns, &action, &mut outcome) {
            Deed::Done => outcome.done += 1,
            Deed::Changed => {
                outcome.done += 1;
                break;
            }
            Deed::Failed => break,
        }
    }
    outcome
}

fn one(
    agent: &mut Agent,
    turn: &mut Turn<'_, Agent>,
    dsns: &BTreeMap<NodeId, String>,
    action: &Action,
    outcome: &mut Outcome,
) -> Deed {
    let (machine, now) = (turn.machine, turn.now);
    let me = agent.id();
    let servers = &mut turn.shared.servers;
    match action {
        Action::Prepare => servers.prepare(machine),
        Action::AdmitMembers { members } => servers.admit(machine, members.clone()),
        Action::DropSubscription { subscription, .. } => {
            turn.shared.drops += 1;
            servers.drop_subscription(machine, subscription);
        }
        Action::DropSlot { slot, .. } => {
            turn.shared.drops += 1;
            servers.drop_slot(machine, slot);
        }
        Action::GiveUpSlot {
            slot, subscriber, ..
        } => {
            servers.give_up(machine, slot, *subscriber);
            outcome.guarded.push(action.clone());
        }
        Action::Checkpoint => {
            servers.checkpoint(machine);
            outcome.guarded.push(action.clone());
        }
        Action::EnsureLocalNode => {
            let name = pglogical_node_name(me, agent.disk.setup.epoch);
            servers.ensure_local_node(machine, name, turn.address.to_string());
        }
        Action::CreateSlot { subscription, .. } => {
            return deed(servers.create_slot(machine, subscription));
        }
        Action::CreateSubscription {
            provider,
            subscription,
        } => {
            let Some(dsn) = dsns.get(provider) else {
                return Deed::Failed;
            };
            let made = servers.create_subscription(machine, subscription, dsn, turn.links);
            if let Err(why) = &made {
                turn.note(|| format!("can't subscribe: {why}"));
            }
            return deed(made);
        }
        Action::RedirectSubscription {
            provider,
            subscription,
        } => {
            let Some(dsn) = dsns.get(provider) else {
                return Deed::Failed;
            };
            servers.redirect(machine, subscription, dsn, now, turn.links);
        }
        Action::EnableSubscription { subscription, .. } => {
            servers.enable(machine, subscription, now, turn.links);
        }
        Action::DisableSubscription { subscription, .. } => {
            servers.disable(machine, subscription, now, turn.links);
        }
        Action::Quarantine { because } => {
            turn.note(|| action.to_string());
            agent.disk.life.quarantined = Some(because.clone());
            agent.persist(turn);
            return Deed::Changed;
        }
        Action::KickSubscription { subscription, .. } => {
            turn.shared.kicks += 1;
            servers.restart_worker(machine, subscription, now, turn.links);
            outcome.kicked.push(subscription.clone());
        }
        Action::EndStaleSender { subscriber, slot } => {
            turn.shared.stale_senders += 1;
            servers.end_sender(machine, slot);
            outcome.senders_ended.push(*subscriber);
        }
        Action::AddTable { .. } => servers.add_table(machine),
        Action::OpenGate => servers.all[machine].gate_open = true,
        Action::ShutGate => servers.all[machine].gate_open = false,
        Action::DeclareReady => {
            agent.disk.life.stage = Stage::Ready;
            if turn.shared.joining == Some(me) {
                turn.shared.joining = None;
            }
            agent.persist(turn);
            return Deed::Changed;
        }
        Action::TakeOrdinal { ordinal } => {
            agent.disk.life.ordinal = Some(*ordinal);
            agent.persist(turn);
            return Deed::Changed;
        }
        Action::StartJoin => return join(agent, turn),
        // It has tests of its own, and needs what a join needs.
        Action::StartResync => {}
        Action::CommitJoin => {
            agent.disk.life.stage = Stage::Joining(JoinPhase::Checking);
            agent.persist(turn);
            return Deed::Changed;
        }
        Action::WriteSettings
        | Action::RestartPostgres { .. }
        | Action::AnnounceLeaving { .. }
        | Action::FinishLeaving => {
            turn.shared
                .wrong
                .get_or_insert(format!("nobody asked to {action}"));
        }
    }
    Deed::Done
}

fn deed(result: Result<(), String>) -> Deed {
    match result {
        Ok(()) => Deed::Done,
        Err(_) => Deed::Failed,
    }
}

/// The join under load up to its hand-over, at once: it has tests of its own. It needs the lease
/// of every ready member, and no other node may join meanwhile.
fn join(agent: &mut Agent, turn: &mut Turn<'_, Agent>) -> Deed {
    let me = agent.id();
    let linked = Stage::Joining(JoinPhase::Linking) <= agent.disk.life.stage;
    if linked && matches!(agent.disk.life.stage, Stage::Joining(_)) {
        return Deed::Done;
    }
    if turn.shared.joining.is_some_and(|joiner| joiner != me) {
        return Deed::Failed;
    }
    let members = turn.shared.ready.clone();
    let there = |m: &usize| turn.shared.running.contains(m) && turn.shared.servers.is_whole(*m);
    let linked = |m: &usize| turn.links.both_ways(turn.machine, *m);
    let roster = agent.roster.as_ref();
    let known = |m: &usize| {
        roster.is_some_and(|roster| roster.records.contains_key(&turn.shared.nodes[*m].0))
    };
    let lent = members
        .iter()
        .all(|member| there(member) && linked(member) && known(member));
    let whole = turn.shared.servers.is_whole(turn.machine);
    let founded = turn
        .shared
        .founding
        .iter()
        .all(|machine| *machine == turn.machine);
    if members.is_empty() || !founded || !lent || !whole {
        return Deed::Failed;
    }
    turn.shared.joining = Some(me);
    turn.shared.joins += 1;
    let own = (me, agent.disk.setup.epoch);
    let named: Vec<(usize, String)> = members
        .iter()
        .map(|member| (*member, subscription_name(own, turn.shared.nodes[*member])))
        .collect();
    turn.shared.servers.join(turn.machine, &named);
    agent.disk.life.stage = Stage::Joining(JoinPhase::Linking);
    agent.persist(turn);
    Deed::Changed
}
