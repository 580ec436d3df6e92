//! Carries out plans. It makes no choices: each action is one call, and a failure is reported
//! and left to the next look.

use super::join;
use super::node::Node;
use crate::events::Severity;
use crate::postgres::{self, Gate};
use anyhow::Context;
use pgaa_core::action::Action;
use pgaa_core::ids::{NodeId, pglogical_node_name};
use pgaa_core::join::Forward;
use pgaa_core::life::Stage;
use pgaa_core::rows::NamedBy;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many actions were carried out.
    pub done: usize,
    /// Subscriptions that were enabled or kicked: their workers should start now.
    pub started: Vec<String>,
    /// The first failure, for people.
    pub failure: Option<String>,
    /// Was something kicked?
    pub kicked: Vec<String>,
    /// For which subscribers were stale senders ended?
    pub senders_ended: Vec<NodeId>,
    /// What was done for the slot guard.
    pub guarded: Vec<Action>,
}

/// The DSNs by which servers reach one another.
pub type Dsns = BTreeMap<NodeId, String>;

/// Carries out `actions` in order; neighbours of the same kind side by side. Stops at the first
/// failure: what comes later may rest on it.
pub async fn act(node: &Arc<Node>, actions: &[Action], dsns: &Dsns) -> Outcome {
    let mut outcome = Outcome::default();
    for group in actions.chunk_by(side_by_side) {
        let mut running = JoinSet::new();
        for action in group.iter().cloned() {
            let (node, dsns) = (Arc::clone(node), dsns.clone());
            running.spawn(async move {
                let result = one(&node, &action, &dsns).await;
                (action, result)
            });
        }
        while let Some(finished) = running.join_next().await {
            match finished {
                Ok((action, Ok(()))) => note(node, &action, &mut outcome),
                Ok((action, Err(error))) => {
                    outcome
                        .failure
                        .get_or_insert(format!("{action}: {error:#}"));
                }
                Err(error) => {
                    outcome
                        .failure
                        .get_or_insert(format!("a task ended early: {error}"));
                }
            }
        }
        if outcome.failure.is_some() {
            break;
        }
    }
    outcome
}

fn side_by_side(a: &Action, b: &Action) -> bool {
    matches!(
        (a, b),
        (Action::CreateSlot { .. }, Action::CreateSlot { .. })
            | (
                Action::CreateSubscription { .. },
                Action::CreateSubscription { .. }
            )
            | (
                Action::EnableSubscription { .. },
                Action::EnableSubscription { .. }
            )
            | (
                Action::KickSubscription { .. },
                Action::KickSubscription { .. }
            )
    )
}

fn note(node: &Node, action: &Action, outcome: &mut Outcome) {
    // It is wanted again at every look until the join is over, and tells its own story.
    if matches!(
        action,
        Action::StartJoin | Action::StartResync | Action::CommitJoin
    ) {
        return;
    }
    outcome.done += 1;
    if let Action::GiveUpSlot {
        subscriber,
        because,
        ..
    } = action
    {
        gave_up(node, *subscriber, because);
    }
    match action {
        Action::EnableSubscription { subscription, .. } => {
            outcome.started.push(subscription.clone());
        }
        Action::KickSubscription { subscription, .. } => {
            outcome.kicked.push(subscription.clone());
        }
        Action::EndStaleSender { subscriber, .. } => outcome.senders_ended.push(*subscriber),
        Action::GiveUpSlot { .. } | Action::Checkpoint | Action::WriteSettings => {
            outcome.guarded.push(action.clone());
        }
        Action::Prepare
        | Action::RestartPostgres { .. }
        | Action::AdmitMembers { .. }
        | Action::DropSubscription { .. }
        | Action::DropSlot { .. }
        | Action::EnsureLocalNode
        | Action::CreateSlot { .. }
        | Action::CreateSubscription { .. }
        | Action::RedirectSubscription { .. }
        | Action::DisableSubscription { .. }
        | Action::Quarantine { .. }
        | Action::AddTable { .. }
        | Action::DeclareReady
        | Action::OpenGate
        | Action::ShutGate
        | Action::StartJoin
        | Action::StartResync
        | Action::CommitJoin
        | Action::AnnounceLeaving { .. }
        | Action::FinishLeaving
        | Action::TakeOrdinal { .. } => {}
    }
    let severity = if action.destructive() {
        Severity::Warning
    } else {
        Severity::Info
    };
    node.event(severity, "acted", action.to_string());
}

/// The one act of this agent that costs somebody data they have to fetch again: it is told apart
/// from all others, and with what led to it.
fn gave_up(node: &Node, subscriber: NodeId, because: &str) {
    let name = node
        .knowledge
        .with_roster(|roster| roster.name_of(subscriber));
    let name = name.unwrap_or_else(|| subscriber.short());
    node.event(
        Severity::Critical,
        "slot_given_up",
        format!("the slot of {name} was given up, and {name} lacks changes from here: {because}"),
    );
}

async fn one(node: &Arc<Node>, action: &Action, dsns: &Dsns) -> anyhow::Result<()> {
    let sql = &node.postgres;
    match action {
        Action::Prepare => done(sql.prepare(node.id()).await),
        Action::WriteSettings => write_settings(node).await,
        Action::RestartPostgres { .. } => restart(node).await,
        Action::AdmitMembers { members } => {
            postgres::admit(&node.settings, members)?;
            done(sql.reload_conf().await)
        }
        Action::DropSubscription {
            subscription,
            compare,
        } => {
            // Its rows stay, and it is known whose they are by its subscription.
            super::origins::read(node).await?;
            // Before: what isn't dropped yet is found again after a crash.
            if let Some(gone) = compare {
                sql.disable(&[subscription.as_str()]).await?;
                super::rows::name_all(node, NamedBy::Verify).await?;
                let text = format!(
                    "{gone} is gone, and the last of what it wrote may have reached some members \
                     only: all tables are compared"
                );
                node.event(Severity::Info, "compared_without", text);
            }
            done(sql.drop_subscription(subscription).await)
        }
        Action::DropSlot { slot, .. } => done(sql.drop_slot(slot, true).await),
        Action::GiveUpSlot { slot, .. } => {
            sql.give_up_slot(slot).await?;
            // It lies a little behind, on a disk that is about to fill; it is made anew.
            done(sql.forget_deletes().await)
        }
        Action::Checkpoint => done(sql.checkpoint().await),
        Action::EnsureLocalNode => {
            let epoch = node
                .local
                .borrow()
                .epoch
                .context("the database has no epoch yet")?;
            let dsn = node.postgres.local_conninfo()?;
            let name = pglogical_node_name(node.id(), epoch);
            done(sql.ensure_local_node(&name, &dsn).await)
        }
        Action::CreateSlot { subscription, .. } => {
            let epoch = node
                .local
                .borrow()
                .epoch
                .context("the database has no epoch yet")?;
            let provider = pglogical_node_name(node.id(), epoch);
            let slot = sql.slot_name(&provider, subscription).await?;
            done(sql.create_slot(&slot).await)
        }
        Action::CreateSubscription {
            provider,
            subscription,
        } => {
            let dsn = dsns
                .get(provider)
                .context("the provider's address is not known")?;
            let forward = Forward::Nothing;
            done(
                sql.create_subscription_disabled(subscription, dsn, forward)
                    .await,
            )
        }
        Action::RedirectSubscription {
            provider,
            subscription,
        } => {
            let dsn = dsns
                .get(provider)
                .context("the provider's address is not known")?;
            done(sql.redirect_subscription(subscription, dsn).await)
        }
        Action::EnableSubscription { subscription, .. } => {
            done(sql.enable(&[subscription.as_str()]).await)
        }
        Action::DisableSubscription { subscription, .. } => {
            done(sql.disable(&[subscription.as_str()]).await)
        }
        Action::Quarantine { because } => quarantine(node, because),
        Action::KickSubscription { subscription, .. } => done(sql.kick(subscription).await),
        Action::EndStaleSender { slot, .. } => done(sql.end_sender(slot).await),
        Action::AddTable {
            table,
            send_existing,
        } => {
            // No table enters the set of one member while another copies from it.
            let _free = node.leases.free().await?;
            done(sql.add_table(table, *send_existing).await)
        }
        Action::DeclareReady => {
            node.knowledge.enter(Stage::Ready)?;
            node.event(
                Severity::Info,
                "ready",
                "this node is ready: it is in the mesh",
            );
            Ok(())
        }
        Action::OpenGate => set_gate(node, Gate::Open).await,
        Action::ShutGate => set_gate(node, Gate::Shut).await,
        Action::StartJoin => {
            join::start(node);
            Ok(())
        }
        Action::StartResync => {
            join::start_anew(node);
            Ok(())
        }
        Action::CommitJoin => {
            node.join_linked.notify_one();
            Ok(())
        }
        Action::AnnounceLeaving { unsettled } => {
            super::membership::announce_leaving(node, *unsettled).await
        }
        Action::FinishLeaving => leave(node).await,
        Action::TakeOrdinal { ordinal } => {
            node.knowledge.live(|life| life.ordinal = Some(*ordinal))?;
            Ok(())
        }
    }
}

fn done<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> anyhow::Result<()> {
    result.map(|_| ()).map_err(Into::into)
}

/// pg_ctl waits for the server; the loop must not.
async fn restart(node: &Arc<Node>) -> anyhow::Result<()> {
    let settings = node.settings.clone();
    let restarted = tokio::task::spawn_blocking(move || postgres::restart(&settings));
    done(restarted.await.context("the restart was interrupted")?)
}

fn quarantine(node: &Node, because: &str) -> anyhow::Result<()> {
    node.knowledge
        .live(|life| life.quarantined = Some(because.to_owned()))?;
    node.event(
        Severity::Critical,
        "quarantined",
        format!("this node is set apart until an operator decides: {because}"),
    );
    Ok(())
}

/// Writes our file anew, and has it read: what only a restart changes waits for one.
pub(super) async fn write_settings(node: &Arc<Node>) -> anyhow::Result<()> {
    let settings = node.settings.clone();
    let written = tokio::task::spawn_blocking(move || postgres::write_conf(&settings));
    let (needed, _) = written
        .await
        .context("writing the settings was interrupted")??;
    node.postgres.compare_settings_with(needed).await;
    done(node.postgres.reload_conf().await)
}

/// Writes the block, reloads, and, when it was shut, ends the sessions that came in before.
pub async fn set_gate(node: &Node, gate: Gate) -> anyhow::Result<()> {
    postgres::set_gate(&node.settings, gate)?;
    node.postgres.reload_conf().await?;
    if gate == Gate::Shut {
        node.postgres.end_application_sessions().await?;
    }
    Ok(())
}

/// Drops every edge of ours. Origins stay, so that their numbers are never given to another.
async fn leave(node: &Node) -> anyhow::Result<()> {
    node.postgres.drop_all_edges().await?;
    node.knowledge.enter(Stage::Left)?;
    let own_wish = node.knowledge.with_roster(|roster| {
        let tombstone = roster.tombstones.get(&node.id())?;
        Some(tombstone.left)
    });
    let text = match own_wish.flatten() {
        Some(false) => {
            "the mesh has forgotten this node; its database is kept. To take part again the machine \
             has to come back as a new node, with an empty data directory and state directory"
        }
        Some(true) | None => "this node has left the mesh; its database is kept",
    };
    node.event(Severity::Warning, "left", text);
    Ok(())
}
