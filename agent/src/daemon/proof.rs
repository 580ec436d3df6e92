//! Proves the backups by schedule, where this node's WAL is archived, and keeps what is known of
//! proofs for the report: one that was made by hand is in the same file.
//!
//! What a proof is, and where it is made, is `restore`'s business.

use super::node::Node;
use crate::durable;
use crate::events::Severity;
use crate::restore::{proof, scratch_root};
use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use log::{info, warn};
use pgaa_core::restore::proof::Proofs;
use pgaa_core::time::{Mono, Wall};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often is looked whether one is due, or was made by somebody else.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// After so long one is made again at the earliest, whatever the schedule says, or how it went.
const PROVE_AGAIN: Duration = Duration::from_secs(600);

/// After so long a repository is asked again that had nothing to prove, or didn't answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Keeps at it for as long as the task lives.
pub async fn run(node: Arc<Node>) {
    let schedules = &node.settings.backup.schedules;
    let enabled = node.settings.backup.repository.is_some();
    let file = proof::file(&node.settings);
    let since = node.clocks.wall();
    let (mut seen, mut ask) = (None, Mono(0));
    loop {
        seen = look(&node, &file, seen);
        let last = node.proofs.borrow().as_ref().and_then(Proofs::last);
        let due = schedules.prove.as_ref().is_some_and(|schedule| {
            next(schedule, last.unwrap_or(since)).is_some_and(|at| at <= node.clocks.wall())
        });
        let now = node.clocks.mono();
        if enabled && due && now >= ask && node.postgres.archives().await.unwrap_or(false) {
            let provable = proof::provable(&node.settings).await;
            if provable {
                prove(&node).await;
            }
            ask = now.plus(if provable { PROVE_AGAIN } else { ASK_AGAIN });
        }
        node.clocks.pulse(LOOK_EVERY).await;
    }
}

/// Reads the file when it isn't the one that was seen.
fn look(node: &Node, file: &Path, seen: Option<SystemTime>) -> Option<SystemTime> {
    let changed = std::fs::metadata(file)
        .and_then(|found| found.modified())
        .ok();
    if changed != seen {
        match durable::read_json(file) {
            Ok(proofs) => drop(node.proofs.send_replace(proofs)),
            Err(error) => warn!("what is known of proofs can't be read: {error}"),
        }
    }
    changed
}

/// The first time after `after` that the schedule names, by the machine's time zone.
fn next(schedule: &Cron, after: Wall) -> Option<Wall> {
    let after = Timestamp::from_millisecond(after.0).ok()?;
    let after = after.to_zoned(TimeZone::system());
    let next = schedule.find_next_occurrence(&after, false).ok()?;
    Some(Wall(next.timestamp().as_millisecond()))
}

async fn prove(node: &Arc<Node>) {
    let above = scratch_root(&node.settings);
    let mut told = |text: &str| info!("proving the backups: {text}");
    match proof::prove(&node.settings, &above, &mut told).await {
        Ok(proof) => match proof.flaw() {
            None => {
                let text = format!(
                    "backup {} was restored, and all of its {} rows are right",
                    proof.backup,
                    proof.rows()
                );
                node.event(Severity::Info, "backup_proven", text);
            }
            Some(flaw) => failed(node, &flaw),
        },
        Err(error) if error.is::<proof::NothingLeft>() => info!("proving the backups: {error}"),
        Err(error) => failed(node, &format!("{error:#}")),
    }
}

fn failed(node: &Node, why: &str) {
    let text =
        format!("the backups could not be proven: {why}; pgaa-agent backup verify --restore");
    node.event(Severity::Critical, "backup_unproven", text);
}
