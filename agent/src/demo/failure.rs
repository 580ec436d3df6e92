//! Explains a demo that failed: which node, and what its logs say.
//!
//! Only reads.

use super::place::{NodePlace, Place};
use super::state::DemoState;
use super::watch::NodeFailed;
use crate::postgres::owner::Owner;
use anyhow::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// How much of each log is shown.
const LINES: usize = 20;
/// How much of a log is read, from its end.
const BYTES_MAX: usize = 64 * 1024;

/// The ends of the logs of the node that failed; of all, where it is nobody's in particular.
#[must_use]
pub fn logs(error: &Error, state: &DemoState, place: &Place, owner: &Owner) -> String {
    let culprit = error
        .downcast_ref::<NodeFailed>()
        .map(|failed| failed.node.as_str());
    let nodes = state
        .nodes
        .iter()
        .filter(|node| culprit.is_none_or(|name| name == node.name));
    let mut text = String::new();
    for node in nodes {
        let at = place.node(&node.name);
        text.push_str(&section(
            &format!("{}: agent", node.name),
            &at.agent_log,
            owner,
        ));
        for log in server_logs(&at, owner) {
            text.push_str(&section(&format!("{}: PostgreSQL", node.name), &log, owner));
        }
    }
    text
}

fn section(title: &str, path: &Path, owner: &Owner) -> String {
    // The agents' logs are ours, the servers' their user's.
    let own = fs::read(path).ok();
    let bytes = own
        .or_else(|| owner.act(|| fs::read(path).ok()).ok().flatten())
        .unwrap_or_default();
    let start = bytes.len().saturating_sub(BYTES_MAX);
    let text = String::from_utf8_lossy(&bytes[start..]);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!("---- {title} ({})\n{shown}\n", path.display())
}

/// What pg_ctl wrote, and the newest plain file of the logging collector.
fn server_logs(at: &NodePlace, owner: &Owner) -> Vec<PathBuf> {
    let data = at.data();
    let files = owner.act(|| {
        let entries = fs::read_dir(data.join("log"))
            .into_iter()
            .flatten()
            .flatten();
        let plain = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"));
        let start = Some(data.join("pgaa-start.log")).filter(|path| path.exists());
        start
            .into_iter()
            .chain(plain.max())
            .collect::<Vec<PathBuf>>()
    });
    files.unwrap_or_default()
}
