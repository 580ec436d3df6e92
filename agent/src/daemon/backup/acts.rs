//! What operators ask for: who owns the backups, what there is, one now.

use super::super::membership;
use super::super::node::Node;
use crate::backup::PgBackRest;
use crate::control::ActOutcome;
use crate::events::Severity;
use anyhow::{Context, bail};
use pgaa_core::backup::BackupKind;
use pgaa_core::backup::claim::Wish;
use pgaa_core::backup::repository::{StanzaContents, as_said, gaps, windows};
use pgaa_core::ids::NodeId;
use pgaa_core::observed::Reach;
use pgaa_core::roster::Roster;
use pgaa_core::state::NodeState;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long a move is watched before the operator is told to look for it.
const MOVED_WITHIN: Duration = Duration::from_secs(8);

fn tool(node: &Node) -> anyhow::Result<&PgBackRest> {
    node.backups.tool.as_ref().context(
        "backups are off: set backup.repository (pgaa-agent config sample shows how), then: systemctl \
         restart pgaa-agent",
    )
}

fn roster(node: &Node) -> anyhow::Result<Roster> {
    node.knowledge
        .roster()
        .context("this node is in no cluster")
}

/// Who owns the backups, as this node knows it.
pub fn owner(node: &Node) -> anyhow::Result<ActOutcome> {
    tool(node)?;
    let report = node
        .backups
        .report()
        .context("it is not known yet; ask again")?;
    let document = serde_json::to_value(&report.owners)?;
    let lines = report.owners.iter().map(|owner| {
        let reach = if owner.reachable {
            ""
        } else {
            ", which does not answer"
        };
        let covered = match owner.covered {
            true => "",
            false => ", and has not taken a full backup yet",
        };
        format!(
            "{} owns the backups (epoch {}){reach}{covered}",
            owner.name, owner.epoch
        )
    });
    let text = match report.owners.is_empty() {
        true => "no node owns the backups yet: pgaa-agent backup status".to_owned(),
        false => lines.collect::<Vec<_>>().join("\n"),
    };
    Ok(ActOutcome::done(text).with_json(document))
}

/// Has another node own the backups. The wish is in this node's record; the one that is named
/// takes over when it reads it.
pub async fn move_to(node: &Arc<Node>, wanted: &str) -> anyhow::Result<ActOutcome> {
    tool(node)?;
    let roster = roster(node)?;
    let target = membership::find(&roster, wanted)?;
    let name = roster.name_of(target);
    fit(node, &roster, target)?;
    let report = node.backups.report().unwrap_or_default();
    if report
        .owners
        .first()
        .is_some_and(|owner| owner.node == target)
    {
        return Ok(ActOutcome::done(format!("{name} owns the backups already")));
    }
    let claims = roster
        .records
        .values()
        .filter_map(|record| record.backup.claim);
    let own = node.backups.word.borrow().claim;
    let wishes = roster
        .records
        .values()
        .filter_map(|record| record.backup.wish);
    let epochs = claims
        .chain(own)
        .map(|claim| claim.epoch)
        .chain(wishes.map(|wish| wish.epoch));
    let epoch = epochs.max().unwrap_or(0) + 1;
    node.backups.asked().wish = Some(Wish { target, epoch });
    node.backups.changed.notify_one();
    let text = format!("the backups were moved to {name} by command");
    node.event(Severity::Info, "backup_move", text);
    let moved = async {
        while !owns(node, target) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let text = match timeout(MOVED_WITHIN, moved).await {
        Ok(()) => format!(
            "{name} owns the backups now, and takes a full one; until it is complete the owner before it \
             archives as well: pgaa-agent backup status"
        ),
        Err(_) => format!("{name} was asked to own the backups: pgaa-agent backup owner"),
    };
    Ok(ActOutcome::done(text))
}

fn owns(node: &Node, target: NodeId) -> bool {
    let report = node.backups.report().unwrap_or_default();
    report
        .owners
        .first()
        .is_some_and(|owner| owner.node == target)
}

/// Can it own them?
fn fit(node: &Node, roster: &Roster, target: NodeId) -> anyhow::Result<()> {
    let name = roster.name_of(target);
    if target == node.id() {
        if let Some(why) = node.backups.report().and_then(|report| report.unable) {
            bail!("this node can't own the backups: {why}");
        }
        return Ok(());
    }
    let reach = node.knowledge.reach(node.clocks.mono());
    if reach.get(&target) != Some(&Reach::Up) {
        bail!("{name} does not answer: pgaa-agent nodes");
    }
    let record = roster.records.get(&target);
    let record =
        record.with_context(|| format!("{name} has said nothing yet: pgaa-agent nodes"))?;
    if record.state != NodeState::Ready {
        bail!("{name} is {}: wait until it is ready", record.state.word());
    }
    if !record.backup.able {
        bail!("{name} can't own the backups; there, pgaa-agent backup status says why");
    }
    Ok(())
}

/// What all nodes have in the repository, looked up now, and what they say of it.
pub async fn contents(node: &Node) -> anyhow::Result<Vec<StanzaContents>> {
    let contents = tool(node)?.contents().await?;
    let roster = node.knowledge.roster();
    let word_of = |of: NodeId| {
        if of == node.id() {
            return Some(node.backups.word.borrow().clone());
        }
        Some(roster.as_ref()?.records.get(&of)?.backup.clone())
    };
    Ok(as_said(contents, &word_of))
}

/// What the repository holds, looked up now.
pub async fn list(node: &Arc<Node>) -> anyhow::Result<ActOutcome> {
    let contents = contents(node).await?;
    let windows = windows(&contents);
    let text = match contents
        .iter()
        .map(|contents| contents.backups.len())
        .sum::<usize>()
    {
        0 => "there is no backup yet: pgaa-agent backup status".to_owned(),
        count => format!("{count} backups"),
    };
    let document = json!({ "stanzas": contents, "windows": windows, "gaps": gaps(&windows) });
    Ok(ActOutcome::done(text).with_json(document))
}

/// A backup outside the schedule.
pub fn run_now(node: &Arc<Node>, kind: BackupKind) -> anyhow::Result<ActOutcome> {
    tool(node)?;
    let report = node.backups.report().unwrap_or_default();
    let own = report.owners.first();
    if own.is_none_or(|owner| owner.node != node.id()) {
        let owner = own.map_or("another node", |owner| owner.name.as_str());
        bail!("{owner} owns the backups: ask there");
    }
    if let Some(running) = report.running {
        bail!(
            "a {} backup is running: pgaa-agent backup status",
            running.kind.word()
        );
    }
    node.backups.asked().backup = Some(kind);
    node.backups.changed.notify_one();
    Ok(ActOutcome::done(format!(
        "a {} backup begins: pgaa-agent backup status shows how it goes",
        kind.word()
    )))
}
