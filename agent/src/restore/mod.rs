//! The way back: a backup restored into a directory of its own, recovered to a point in time and
//! started there beside the live server, and what was lost since, read and written back.
//!
//! Runs in the process of whoever asks, as the owner of PostgreSQL's files: a restore must be
//! possible when no agent runs. It reads the repository by `backup`, never writes to it, and never
//! removes a directory that it didn't make.

mod bring;
pub mod diff;
pub mod scratch;
mod side;

pub use bring::{Wish, bring};
pub use scratch::{Purpose, Scratch};
pub use side::Side;

use crate::config::Settings;
use std::path::Path;

/// Stops and removes what commands that were killed have left below `above`. What can't be removed
/// is tried again by the next one.
pub fn discard_left(settings: &Settings, above: &Path) {
    for scratch in Scratch::left_behind(above) {
        let directory = scratch.directory().display().to_string();
        match Side::new(scratch, settings).discard() {
            Ok(None) => {}
            Ok(Some(left)) => log::warn!("{left}"),
            Err(error) => log::warn!("{directory} can't be removed: {error:#}"),
        }
    }
}
