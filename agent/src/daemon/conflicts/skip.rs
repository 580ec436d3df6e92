//! `skip-transaction`: past a transaction that can't be applied here, after it was exported.

use super::note_gap;
use crate::control::ActOutcome;
use crate::daemon::membership;
use crate::daemon::node::Node;
use crate::daemon::reconciler::dsn;
use crate::durable;
use crate::events::Severity;
use crate::postgres::{Passed, Source};
use anyhow::{Context, bail, ensure};
use pgaa_core::conflicts::Commit;
use pgaa_core::ids::{Lsn, NodeId, pglogical_node_name};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Skips the transaction of `provider` that `which` names by its commit's LSN or its number, if it
/// is the one that stops the apply worker here.
pub async fn skip(node: &Arc<Node>, provider: &str, which: &str) -> anyhow::Result<ActOutcome> {
    let roster = node.knowledge.roster();
    let roster = roster.context("this node is in no cluster: nothing is applied here")?;
    let target = membership::find(&roster, provider)?;
    let name = roster.name_of(target);
    let commit = stuck_at(node, target, &name, which)?;
    let edge = edge(node, target)?;
    let file = export_file(node, &name, commit)?;
    let end = edge
        .source
        .export_transaction(&edge.slot, (commit.lsn, commit.xid), &file)
        .await
        .with_context(|| {
            format!("{name} can't export it, so it is not skipped; is {name} reachable?")
        })?;
    std::fs::File::open(&file)
        .and_then(|whole| whole.sync_all())
        .with_context(|| format!("{} can't be written", file.display()))?;
    let passed = Passed {
        commit: commit.lsn,
        end,
        emptied: None,
    };
    node.postgres.pass(&edge.subscription, &passed).await?;
    let text = format!(
        "transaction {} of {name} (commit {}) was skipped here; what it would have done is in {}. \
         The other nodes have it: make the rows equal, then: pgaa-agent verify",
        commit.xid,
        commit.lsn,
        file.display()
    );
    node.event(Severity::Critical, "transaction_skipped", text.clone());
    note_gap(
        node,
        format!("transaction {} of {name} was skipped", commit.xid),
    )
    .await;
    let document = json!({
        "node": name, "xid": commit.xid, "commit_lsn": commit.lsn, "end_lsn": end,
        "export": file,
    });
    Ok(ActOutcome::done(text).with_json(document))
}

/// The transaction that stops the worker, if it is the one that was named: no other may be skipped.
fn stuck_at(node: &Node, target: NodeId, name: &str, which: &str) -> anyhow::Result<Commit> {
    let stuck = node.stuck.borrow();
    let commit = stuck.of(target).and_then(|stuck| stuck.failure.commit);
    let Some(commit) = commit else {
        bail!("no transaction of {name} is stuck here: pgaa-agent status");
    };
    let named = match which.parse::<Lsn>() {
        Ok(lsn) => lsn == commit.lsn,
        Err(_) => which.parse() == Ok(commit.xid),
    };
    ensure!(
        named,
        "the transaction of {name} that is stuck here is {} (commit {}), not {which}: pgaa-agent \
         skip-transaction {name} {}",
        commit.xid,
        commit.lsn,
        commit.lsn
    );
    Ok(commit)
}

/// An edge that ends here.
pub(super) struct Edge {
    /// The provider's name.
    pub(super) provider: String,
    /// The subscription, here.
    pub(super) subscription: String,
    /// The slot, there.
    pub(super) slot: String,
    /// The provider's server.
    pub(super) source: Source,
}

/// The edge from a node to this one.
pub(super) fn edge(node: &Node, target: NodeId) -> anyhow::Result<Edge> {
    let roster = node.knowledge.roster();
    let roster = roster.context("this node is in no cluster: nothing is applied here")?;
    let name = roster.name_of(target);
    let epoch = roster.epoch(target);
    let epoch = epoch.with_context(|| format!("{name} has no database yet"))?;
    let provider = pglogical_node_name(target, epoch);
    let record = roster.records.get(&target);
    let record = record.with_context(|| format!("nothing is known of {name} yet"))?;
    let conninfo = dsn(node, target, record.endpoints.postgres)?;
    let facts = node.last_facts();
    let facts = facts.context("PostgreSQL has not answered yet: pgaa-agent status")?;
    let found = facts
        .subscriptions
        .iter()
        .find(|(_, subscription)| subscription.provider == provider);
    let (subscription, found) =
        found.context("there is no subscription to that node here: pgaa-agent status")?;
    Ok(Edge {
        provider: name,
        subscription: subscription.clone(),
        slot: found.slot.clone(),
        source: Source::new(&node.settings, conninfo, node.postgres.local_conninfo()?),
    })
}

fn export_file(node: &Node, name: &str, commit: Commit) -> anyhow::Result<PathBuf> {
    let directory = node.settings.paths.state_dir.join("skipped");
    durable::make_directory(&directory, 0o700)?;
    let position = commit.lsn.to_string().replace('/', "-");
    Ok(directory.join(format!("{name}-{position}-{}.txt", commit.xid)))
}
