//! Tells whether the slots of this server are the ones they were (see `pgaa_core::births`).
//!
//! Each slot has a directory of its own below `pg_replslot`, made with it and removed with it.

use super::Postgres;
use super::session::SqlError;
use crate::config::Settings;
use crate::durable;
use log::warn;
use pgaa_core::births::{Birth, Births};
use pgaa_core::observed::SlotFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What is known of the slots' births, and where it is kept.
pub(super) struct Cradle {
    data_dir: PathBuf,
    file: PathBuf,
    births: Births,
}

impl Cradle {
    pub(super) fn new(settings: &Settings) -> Cradle {
        let file = settings.paths.state_dir.join("slots.json");
        let births = durable::read_json(&file).unwrap_or_else(|error| {
            warn!("slots that were made anew meanwhile go unnoticed: {error}");
            None
        });
        Cradle {
            data_dir: settings.postgres.data_dir.clone(),
            file,
            births: births.unwrap_or_default(),
        }
    }

    /// Which of `slots` were made anew. What the file system can't tell is taken as it is.
    fn made_anew<'a>(&mut self, slots: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
        let Some(data) = birth(&self.data_dir.join("PG_VERSION")) else {
            return BTreeSet::new();
        };
        let directory = self.data_dir.join("pg_replslot");
        let seen: BTreeMap<String, Birth> = slots
            .filter_map(|slot| Some((slot.clone(), birth(&directory.join(slot))?)))
            .collect();
        let before = self.births.clone();
        let anew = self.births.compare(data, &seen);
        self.keep(&before);
        anew
    }

    fn forget(&mut self, slot: &str) {
        let before = self.births.clone();
        self.births.forget(slot);
        self.keep(&before);
    }

    fn keep(&self, before: &Births) {
        if *before != self.births
            && let Err(error) = durable::write_json(&self.file, &self.births)
        {
            warn!("which slots are the first of their name can't be stored: {error}");
        }
    }
}

fn birth(path: &Path) -> Option<Birth> {
    let found = std::fs::metadata(path).ok()?;
    let born = found.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Birth {
        born_ns: u64::try_from(born.as_nanos()).ok()?,
    })
}

impl Postgres {
    /// Marks the slots that were dropped and made anew by somebody else.
    pub(super) async fn mark_made_anew(&self, slots: &mut BTreeMap<String, SlotFacts>) {
        let anew = self.inner.cradle.lock().await.made_anew(slots.keys());
        for (name, slot) in slots {
            slot.made_anew = anew.contains(name);
        }
    }

    /// Was this slot dropped and made anew by somebody else?
    pub(super) async fn is_made_anew(&self, slot: &str) -> bool {
        let name = slot.to_owned();
        let mut cradle = self.inner.cradle.lock().await;
        !cradle.made_anew(std::iter::once(&name)).is_empty()
    }

    /// Drops a slot that nobody relies on; no error when there is none. A slot that is read is
    /// refused, unless `end_sender` says that its reader is to be ended first.
    pub async fn drop_slot(&self, name: &str, end_sender: bool) -> Result<(), SqlError> {
        // Held throughout: a look in between must not take the old one for the next.
        let mut cradle = self.inner.cradle.lock().await;
        self.remove_slot(name, end_sender).await?;
        cradle.forget(name);
        Ok(())
    }

    /// Drops a slot that its subscriber relied on: whoever makes it anew by hand is found out.
    pub async fn give_up_slot(&self, name: &str) -> Result<(), SqlError> {
        self.remove_slot(name, true).await
    }
}
