//! The way back: a backup restored into a directory of its own, recovered to a point in time and
//! started there beside the live server, and what was lost since, read and written back.
//!
//! Runs in the process of whoever asks, as the owner of PostgreSQL's files: a restore must be
//! possible when no agent runs. It reads the repository by `backup`, never writes to it, and never
//! removes a directory that it didn't make.

mod bring;
pub mod diff;
pub mod found;
pub mod proof;
pub mod scratch;
mod side;

pub use bring::{Wish, bring};
pub use scratch::{Purpose, Scratch};
pub use side::Side;

use crate::config::Settings;
use std::path::{Path, PathBuf};

/// Where passing restores are made when nobody names a place.
#[must_use]
pub fn scratch_root(settings: &Settings) -> PathBuf {
    settings.paths.state_dir.join("restore")
}

/// Stops and removes what commands that were killed have left below `above`. What can't be removed
/// is tried again by the next one.
pub async fn discard_left(settings: &Settings, above: &Path) {
    let (settings, above) = (settings.clone(), above.to_owned());
    // Removing a large database takes its time; the agent's loop must not stand still for it.
    let work = move || {
        for scratch in Scratch::left_behind(&above) {
            let directory = scratch.directory().display().to_string();
            match Side::new(scratch, &settings).discard() {
                Ok(None) => {}
                Ok(Some(left)) => log::warn!("{left}"),
                Err(error) => log::warn!("{directory} can't be removed: {error:#}"),
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        log::warn!("what was left of restores could not be removed: {error}");
    }
}
