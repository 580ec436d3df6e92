//! Which settings the mesh needs on this server, and why.
//!
//! Pure: policy, the disk's size, what the server knows and what the operator's files say come
//! in, a list comes out. What an operator configured is merged with or left alone, never
//! replaced; the feature that would need it replaced is named instead.

use super::conf::Assigned;
use super::layout::Kind;
use crate::config::Settings;
use crate::trust::credentials::TlsFiles;
use pgaa_core::observed::DiskFacts;
use std::collections::BTreeMap;

mod list;
#[cfg(test)]
mod tests;

/// What holds for a setting to be right, in the words of `pg_settings.setting`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// One of these.
    OneOf(Vec<String>),
    /// This much or more, in the unit of `pg_settings`.
    AtLeast(i64),
    /// This much or more, or 0 for no limit.
    AtLeastOrZero(i64),
    /// A list with this element.
    Includes(String),
}

/// One setting that the mesh needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The setting.
    pub name: &'static str,
    /// What our file says; `None` where the operator's own value serves, or is not ours to change.
    pub value: Option<String>,
    /// What is right.
    pub rule: Rule,
    /// Does a change need a restart?
    pub needs_restart: bool,
    /// Why, for people.
    pub reason: String,
}

/// What is off because the operator configured something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What doesn't work: "backups", "certificates".
    pub feature: &'static str,
    /// Why, with the place.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// The whole list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// What is needed.
    pub items: Vec<Item>,
    /// What is off.
    pub notes: Vec<Note>,
}

impl Needed {
    /// The item for a setting.
    #[must_use]
    pub fn item(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.name == name)
    }
}

/// What the list depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// Where our certificate lies.
    pub tls: &'a TlsFiles,
    /// How the cluster is laid out.
    pub kind: &'a Kind,
    /// The disk that holds the WAL.
    pub disk: DiskFacts,
    /// The server's default of `output_plugin_libraries`; `None` where it doesn't know it: there
    /// the parameter would be fatal at start.
    pub output_plugins: Option<&'a str>,
    /// What archives the WAL, where this node owns the backups.
    pub archive: Option<&'a str>,
    /// What the operator's files say.
    pub foreign: &'a BTreeMap<String, Assigned>,
    /// The `max_slot_wal_keep_size` that was written before, bytes: it stays while it is near
    /// enough, for the free bytes of a disk differ at every look.
    pub backstop_bytes: Option<u64>,
}

/// Lists what is needed.
#[must_use]
pub fn needed(inputs: Inputs<'_>) -> Needed {
    list::List::new(inputs).complete()
}
