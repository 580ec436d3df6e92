//! What only a member needs that is synchronised anew: to stop its applications, to know that
//! others have its changes, and to keep what it held.

use super::super::act::set_gate;
use super::super::node::Node;
use crate::events::Severity;
use crate::postgres::{Gate, Source};
use anyhow::{Context, bail};
use pgaa_core::ids::{DataEpoch, Lsn, NodeId, pglogical_node_name, subscription_name};
use pgaa_core::life::Stage;
use pgaa_core::record::JoinPhase;
use pgaa_core::roster::Roster;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Where exports lie, in the state directory.
const EXPORTS: &str = "exports";

/// Sessions that are ended take a moment to go; a commit may still come of one.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// The next look shows what was changed; a server that hangs must not hold everybody's lease.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Shuts the gate, and returns when no session of an application is left.
pub(super) async fn shut(node: &Arc<Node>) -> anyhow::Result<()> {
    set_gate(node, Gate::Shut).await?;
    let began = node.clocks.mono();
    while node.postgres.end_application_sessions().await? > 0 {
        if node.clocks.mono().since(began) > GONE_WITHIN {
            bail!("sessions of applications do not end; see pg_stat_activity");
        }
        sleep(LOOK).await;
    }
    let prepared = node.postgres.join_facts(true).await?.prepared;
    if let Some(prepared) = prepared.first() {
        bail!("a prepared transaction is on no other member yet: {prepared}");
    }
    Ok(())
}

/// Makes a node that is set apart a joiner, by its operator's wish: its contents don't go to the
/// others any more, so they are exported, and it joins as another database.
pub(super) async fn give_up(node: &Arc<Node>) -> anyhow::Result<()> {
    if node.knowledge.life().quarantined.is_none() {
        return Ok(());
    }
    shut(node).await?;
    export(node).await?;
    // Its state was put back as well, and others take no frame of a generation that they know.
    let seen = |roster: &Roster| roster.history.generation;
    let seen = node.knowledge.with_roster(seen).unwrap_or_default();
    node.identity.raise_generation(seen)?;
    node.knowledge.live(|life| {
        life.quarantined = None;
        life.renew = true;
        life.stage = Stage::Joining(JoinPhase::Leasing);
    })?;
    let text = "what this node held is given up by its operator: it joins anew";
    node.event(Severity::Warning, "rejoining", text);
    Ok(())
}

/// Makes this database another one, of which nobody has seen anything. Returns when this node
/// speaks of it as that.
pub(super) async fn renew(node: &Node) -> anyhow::Result<()> {
    let epoch = node.postgres.renew_epoch().await?;
    let mut local = node.local.subscribe();
    let known = local.wait_for(|known| known.epoch == Some(epoch));
    let known = tokio::time::timeout(KNOWN_WITHIN, known).await;
    known
        .context("the database's new epoch is not seen")?
        .context("the agent ends")?;
    node.knowledge.live(|life| life.renew = false)?;
    Ok(())
}

/// Up to where a member has this node's WAL on disk, if its slot here is still whole.
pub(super) async fn confirmed(
    node: &Node,
    member: (NodeId, DataEpoch),
) -> anyhow::Result<Option<Lsn>> {
    let epoch = node.local.borrow().epoch;
    let me = (node.id(), epoch.context("the database is not prepared")?);
    let subscription = subscription_name(member, me);
    let provider = pglogical_node_name(me.0, me.1);
    let slot = node.postgres.slot_name(&provider, &subscription).await?;
    Ok(node.postgres.find_slot(&slot).await?)
}

/// The exports that nobody has removed yet.
#[must_use]
pub fn exports(node: &Node) -> Vec<String> {
    let directory = node.settings.paths.state_dir.join(EXPORTS);
    // There is none on a node that was never emptied.
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let files = entries.flatten().map(|entry| entry.path());
    let whole = files.filter(|file| {
        file.extension()
            .is_some_and(|extension| extension == "dump")
    });
    let mut names: Vec<String> = whole.map(|file| file.display().to_string()).collect();
    names.sort();
    names
}

/// Writes everything this database holds to a file that stays until somebody removes it.
pub(super) async fn export(node: &Arc<Node>) -> anyhow::Result<()> {
    let directory = node.settings.paths.state_dir.join(EXPORTS);
    let file = directory.join(format!("{}.dump", node.clocks.wall().0));
    let needed = node.postgres.join_facts(true).await?.database_bytes;
    let make = std::fs::DirBuilder::new()
        .recursive(true)
        .create(&directory);
    make.with_context(|| format!("{} can't be made", directory.display()))?;
    let disk = nix::sys::statvfs::statvfs(&directory).context("the disk can't be looked at")?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < needed {
        bail!(
            "the export of this database to {} may take {needed} bytes, and {free} are free: \
             nothing is emptied before it fits",
            directory.display()
        );
    }
    let local = node.postgres.local_conninfo()?;
    let here = Source::new(&node.settings, local.clone(), local);
    // Half an export helps nobody: it gets its name when it is whole, and on disk.
    let part = directory.join("unfinished");
    here.dump_everything(&part).await?;
    std::fs::File::open(&part)
        .and_then(|whole| whole.sync_all())
        .and_then(|()| std::fs::rename(&part, &file))
        .and_then(|()| std::fs::File::open(&directory)?.sync_all())
        .with_context(|| format!("{} can't be written", file.display()))?;
    let text = format!(
        "this node is emptied and synchronised anew; what it held is in {} (pg_restore)",
        file.display()
    );
    node.event(Severity::Warning, "exported", text);
    Ok(())
}
