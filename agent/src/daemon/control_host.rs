//! Does what an operator asks for over the control socket.

use super::membership;
use super::node::Node;
use crate::control::{Act, ActOutcome, ControlHost};
use crate::events::{Events, Severity};
use crate::postgres::{self, Flush, Gate, Restart};
use crate::trust::TokenId;
use anyhow::{Context, bail};
use pgaa_core::conflicts::report::{Query, Report};
use pgaa_core::founding::Released;
use pgaa_core::ids::NodeId;
use pgaa_core::life::{Life, Stage};
use pgaa_core::record::{EdgeState, NodeRecord};
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;
use pgaa_core::verify::{News, Wish};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// How long a join token lives when the operator names no time: long enough to boot machines,
/// short enough not to matter when it leaks.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The acts of one agent.
pub struct Acts(pub Arc<Node>);

#[tonic::async_trait]
impl ControlHost for Acts {
    fn status(&self) -> watch::Receiver<Arc<StatusReport>> {
        self.0.status.subscribe()
    }

    fn events(&self) -> &Events {
        &self.0.events
    }

    async fn act(&self, act: Act) -> ActOutcome {
        match perform(&self.0, act).await {
            Ok(outcome) => outcome,
            Err(error) => ActOutcome::refused(format!("{error:#}")),
        }
    }

    fn verify(&self, wish: Wish) -> anyhow::Result<mpsc::Receiver<News>> {
        super::verify::start(&self.0, wish)
    }

    async fn conflicts(&self, query: Query) -> anyhow::Result<Report> {
        super::conflicts::tell(&self.0, query).await
    }
}

/// Would it be done in the name of the member whose copy this machine is?
fn speaks(act: &Act) -> bool {
    match act {
        Act::TokenCreate { .. }
        | Act::TokenRevoke { .. }
        | Act::Leave { .. }
        | Act::Forget { .. }
        | Act::FoundOnlyMe { .. }
        | Act::PromiseRelease { .. }
        | Act::SkipTransaction { .. }
        | Act::BackupRun { .. }
        | Act::Rejoin { .. } => true,
        Act::BackupOwner { move_to } => move_to.is_some(),
        Act::TokenList
        | Act::BackupList
        | Act::SequencesList
        | Act::SequencesFix { .. }
        | Act::RestartPostgres
        | Act::PromiseShow => false,
    }
}

async fn perform(node: &Arc<Node>, act: Act) -> anyhow::Result<ActOutcome> {
    if node.knowledge.life().copied && speaks(&act) {
        bail!("this machine is a copy of a member and can't speak for it: pgaa-agent status");
    }
    match act {
        Act::TokenCreate { ttl } => token_create(node, ttl.unwrap_or(TOKEN_TTL)),
        Act::TokenList => token_list(node),
        Act::TokenRevoke { id } => token_revoke(node, &id),
        Act::SequencesList => sequences(node, &[], true).await,
        Act::SequencesFix {
            sequences: names,
            dry_run,
        } => sequences(node, &names, dry_run).await,
        Act::Leave { force } => leave(node, force).await,
        Act::Forget {
            node: wanted,
            force,
        } => {
            let roster = node
                .knowledge
                .roster()
                .context("this node is in no cluster")?;
            let target = membership::find(&roster, &wanted)?;
            membership::forget(node, target, force)
                .await
                .map(ActOutcome::done)
        }
        Act::RestartPostgres => restart(node).await,
        Act::FoundOnlyMe { promise_holder } => found_only_me(node, promise_holder),
        Act::PromiseShow => promise_show(node),
        Act::SkipTransaction {
            node: provider,
            transaction,
        } => super::conflicts::skip(node, &provider, &transaction).await,
        Act::PromiseRelease { candidate } => promise_release(node, candidate),
        Act::BackupOwner { move_to: None } => super::backup::owner(node),
        Act::BackupOwner {
            move_to: Some(wanted),
        } => super::backup::move_to(node, &wanted).await,
        Act::BackupList => super::backup::list(node).await,
        Act::BackupRun { kind } => super::backup::run_now(node, kind),
        Act::Rejoin { node: named } => rejoin(node, &named),
    }
}

fn token_create(node: &Node, ttl: Duration) -> anyhow::Result<ActOutcome> {
    if node.knowledge.roster().is_none() {
        bail!("this node is in no cluster yet; its token is the one in its configuration");
    }
    let token = node.tokens.create(node.clocks.wall(), ttl)?;
    node.tokens_changed.notify_one();
    let text = token.reveal();
    node.event(Severity::Info, "token_created", "a join token was created");
    let document = json!({ "token": text.as_str(), "ttl_s": ttl.as_secs() });
    Ok(ActOutcome::done(text.as_str()).with_json(document))
}

fn token_list(node: &Node) -> anyhow::Result<ActOutcome> {
    let listing = node.tokens.list(node.clocks.wall());
    let document = serde_json::to_value(&listing)?;
    let text = match listing.len() {
        0 => "no join token is known here: pgaa-agent token create".to_owned(),
        count => format!("{count} join tokens"),
    };
    Ok(ActOutcome::done(text).with_json(document))
}

fn token_revoke(node: &Node, id: &str) -> anyhow::Result<ActOutcome> {
    let id = TokenId::new(id)?;
    node.tokens.revoke(&id)?;
    node.tokens_changed.notify_one();
    let text = format!(
        "join token {} is revoked; members enrolled with it stay",
        id.as_str()
    );
    node.event(Severity::Warning, "token_revoked", text.clone());
    Ok(ActOutcome::done(text))
}

async fn sequences(node: &Node, names: &[String], dry_run: bool) -> anyhow::Result<ActOutcome> {
    let ordinal = node.knowledge.life().ordinal;
    let ordinal = ordinal.context("this node has no ordinal yet: wait until it has joined")?;
    let fixes = node.postgres.fix_sequences(ordinal, names, dry_run).await?;
    let rows: Vec<Value> = fixes
        .iter()
        .map(|fix| {
            json!({
                "sequence": fix.sequence,
                "table": fix.table,
                "column": fix.column,
                "narrow": fix.narrow,
                "in_step": fix.sql.is_empty(),
                "sql": fix.sql,
            })
        })
        .collect();
    let changes = fixes.iter().filter(|fix| !fix.sql.is_empty()).count();
    let text = match (changes, dry_run) {
        (0, _) => "every sequence that feeds a key is in step".to_owned(),
        (count, true) => {
            let statements: Vec<&str> = fixes
                .iter()
                .map(|fix| fix.sql.as_str())
                .filter(|sql| !sql.is_empty())
                .collect();
            format!(
                "{count} sequences would be changed:\n{}",
                statements.join("\n")
            )
        }
        (count, false) => format!("{count} sequences were changed"),
    };
    if !dry_run && changes > 0 {
        node.event(Severity::Info, "sequences_fixed", text.clone());
    }
    Ok(ActOutcome::done(text).with_json(Value::Array(rows)))
}

/// Shuts the gate, notes the heartbeat that closes the stream, and lets the plan do the rest.
async fn leave(node: &Arc<Node>, force: bool) -> anyhow::Result<ActOutcome> {
    match node.knowledge.life().stage {
        Stage::Ready | Stage::Leaving => {}
        Stage::Left => return Ok(ActOutcome::done("this node has left already")),
        Stage::Single | Stage::Founding | Stage::Joining(_) => {
            bail!("this node is no member yet: stop its agent instead")
        }
        Stage::Resyncing => {
            bail!("this node is being synchronised anew: wait with pgaa-agent wait --for=ready")
        }
    }
    let lacking = lacking(node);
    if !force && !lacking.is_empty() {
        bail!(
            "{} changes of this node, and would lack them for good: see pgaa-agent status there. To \
             go all the same: pgaa-agent leave --force, and then, on another node, \
             pgaa-agent verify --repair",
            match lacking.as_slice() {
                [one] => format!("{one} lacks"),
                several => format!("{} lack", several.join(" and ")),
            }
        );
    }
    super::act::set_gate(node, Gate::Shut).await?;
    let last = node.beat(Flush::Now).await?;
    node.knowledge.live(|life| {
        life.stage = Stage::Leaving;
        life.leave_after.get_or_insert(last);
        life.leave_by_force |= force;
    })?;
    node.event(
        Severity::Warning,
        "leaving",
        "this node leaves the mesh: its gate is shut",
    );
    let text = "leaving: the gate is shut; pgaa-agent status shows what is still drained, \
                pgaa-agent wait --for=left returns when it is done";
    Ok(ActOutcome::done(text))
}

/// The ready members that have lost what they need next from this node.
fn lacking(node: &Node) -> Vec<String> {
    let me = node.id();
    let lacks = |record: &NodeRecord| {
        let edge = record.edges.get(&me);
        let lost = edge.is_some_and(|edge| edge.state == EdgeState::NeedsResync);
        record.state == NodeState::Ready && lost
    };
    let names = node.knowledge.with_roster(|roster| {
        let lacking = roster.records.values().filter(|record| lacks(record));
        lacking.map(|record| record.name.to_string()).collect()
    });
    names.unwrap_or_default()
}

async fn restart(node: &Node) -> anyhow::Result<ActOutcome> {
    let settings = node.settings.clone();
    let restarted = tokio::task::spawn_blocking(move || postgres::restart(&settings));
    let (event, text) = match restarted.await.context("the restart was interrupted")?? {
        Restart::Done => ("postgres_restarted", "PostgreSQL was restarted by command"),
        Restart::AskedFor => (
            "postgres_restart_asked",
            "systemd was asked to restart PostgreSQL: pgaa-agent status shows when it is back",
        ),
    };
    node.event(Severity::Warning, event, text);
    Ok(ActOutcome::done(text))
}

fn found_only_me(node: &Node, holder: Option<NodeId>) -> anyhow::Result<ActOutcome> {
    let now = node.clocks.mono();
    let mut machine = node.founding();
    let step = machine.found_only_me(now, holder, &mut Uuid::new_v4)?;
    if step.persist {
        node.store.set_founding(machine.durable())?;
        machine.saved();
    }
    drop(machine);
    node.founding_changed.notify_one();
    node.event(
        Severity::Warning,
        "found_only_me",
        "the operator lets this node found alone",
    );
    Ok(ActOutcome::done(
        "this node founds the cluster alone; others join it when they start",
    ))
}

fn promise_show(node: &Node) -> anyhow::Result<ActOutcome> {
    let promise = node.founding().durable().promise.clone();
    let text = promise.as_ref().map_or_else(
        || "this node is promised to nobody".to_owned(),
        |p| {
            format!(
                "this node is promised to {} ({}) at {}",
                p.name, p.candidate, p.at
            )
        },
    );
    Ok(ActOutcome::done(text).with_json(serde_json::to_value(&promise)?))
}

fn promise_release(node: &Node, candidate: NodeId) -> anyhow::Result<ActOutcome> {
    let now = node.clocks.mono();
    let mut machine = node.founding();
    let released = machine.release_promise(now, candidate)?;
    node.store.set_founding(machine.durable())?;
    machine.saved();
    drop(machine);
    node.founding_changed.notify_one();
    let text = match released {
        Released::Promise => format!("the promise to {candidate} is void"),
        Released::Decree => format!(
            "the founding by {candidate} is void here; repeat this on every founding member, \
             then: systemctl restart pgaa-agent"
        ),
    };
    node.event(Severity::Warning, "promise_released", text.clone());
    Ok(ActOutcome::done(text))
}

fn rejoin(node: &Node, named: &str) -> anyhow::Result<ActOutcome> {
    let name = node.settings.node.name.as_str();
    let in_cluster = node.knowledge.roster().is_some();
    if let Some(refusal) = keeps(&node.knowledge.life(), in_cluster, (name, named)) {
        bail!(refusal);
    }
    super::join::start_over(node);
    Ok(ActOutcome::done(format!(
        "what {name} holds is exported, then it is emptied and joins anew: pgaa-agent status says \
         how far it is, and names the file"
    )))
}

/// Why a node keeps what it holds: only one that is set apart gives it up, when it is named; any
/// other has a way that loses nothing.
fn keeps(life: &Life, in_cluster: bool, (name, named): (&str, &str)) -> Option<String> {
    if named != name {
        return Some(format!(
            "this node is {name}, not {named}; it gives up what it holds only when it is named: \
             pgaa-agent rejoin {name}"
        ));
    }
    if life.quarantined.is_none() {
        return Some(format!(
            "{name} is not set apart, and what it holds is the mesh's: pgaa-agent status"
        ));
    }
    (!in_cluster)
        .then(|| format!("{name} is in no cluster that it could join again: pgaa-agent status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_is_set_apart_and_named_gives_up_what_it_holds() {
        let apart = Life {
            quarantined: Some("it was rolled back".to_owned()),
            ..Life::default()
        };
        let refusal = |life: &Life, in_cluster, named| {
            keeps(life, in_cluster, ("c", named)).unwrap_or_default()
        };
        assert_eq!(refusal(&apart, true, "c"), "");
        let another = refusal(&apart, true, "a");
        assert!(another.contains("this node is c, not a"), "{another}");
        assert!(another.ends_with("pgaa-agent rejoin c"), "{another}");
        let member = refusal(&Life::default(), true, "c");
        assert!(member.starts_with("c is not set apart"), "{member}");
        let nobody = refusal(&apart, false, "c");
        assert!(nobody.starts_with("c is in no cluster"), "{nobody}");
    }

    #[test]
    fn a_clone_gives_up_nothing_in_the_name_of_its_original() {
        let node = "c".to_owned();
        assert!(speaks(&Act::Rejoin { node }));
        assert!(!speaks(&Act::TokenList));
    }
}
