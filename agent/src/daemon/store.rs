//! What the agent must not forget: life, roster, founding, when clocks differed, who owns the backups. One JSON file
//! each in the state directory, written before anything rests on it.
//!
//! Must not decide anything; certificates and tokens are `trust`'s.

use super::backup::Held;
use super::kept::{Course, Wholes};
use crate::durable::{self, DurableError};
use pgaa_core::clock::distrust::Distrust;
use pgaa_core::founding::Durable;
use pgaa_core::life::Life;
use pgaa_core::roster::Roster;
use pgaa_core::time::Wall;
use std::path::{Path, PathBuf};

/// The durable files of the mesh.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The files in `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path) -> Store {
        Store {
            directory: state_dir.to_owned(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// This node's life; the default for a new node.
    pub fn life(&self) -> Result<Life, DurableError> {
        Ok(durable::read_json(&self.file("life.json"))?.unwrap_or_default())
    }

    /// Stores this node's life.
    pub fn set_life(&self, life: &Life) -> Result<(), DurableError> {
        durable::write_json(&self.file("life.json"), life)
    }

    /// The roster, once there is one.
    pub fn roster(&self) -> Result<Option<Roster>, DurableError> {
        durable::read_json(&self.file("roster.json"))
    }

    /// Stores the roster.
    pub fn set_roster(&self, roster: &Roster) -> Result<(), DurableError> {
        durable::write_json(&self.file("roster.json"), roster)
    }

    /// When clocks were too far apart; nothing for a new node.
    pub fn distrust(&self) -> Result<Distrust, DurableError> {
        Ok(durable::read_json(&self.file("clocks.json"))?.unwrap_or_default())
    }

    /// Stores when clocks were too far apart.
    pub fn set_distrust(&self, distrust: &Distrust) -> Result<(), DurableError> {
        durable::write_json(&self.file("clocks.json"), distrust)
    }

    /// When all tables were last compared as a whole by this node's order.
    pub fn compared(&self) -> Result<Option<Wall>, DurableError> {
        durable::read_json(&self.file("compared.json"))
    }

    /// Stores it.
    pub fn set_compared(&self, at: Wall) -> Result<(), DurableError> {
        durable::write_json(&self.file("compared.json"), &at)
    }

    /// The operator's comparison that has not ended.
    pub fn course(&self) -> Result<Option<Course>, DurableError> {
        durable::read_json(&self.file("verify.json"))
    }

    /// Stores it; it has ended where there is none.
    pub fn set_course(&self, course: Option<&Course>) -> Result<(), DurableError> {
        match course {
            Some(course) => durable::write_json(&self.file("verify.json"), course),
            None => durable::remove(&self.file("verify.json")),
        }
    }

    /// How far whole tables were compared of this node's own accord.
    pub fn wholes(&self) -> Result<Wholes, DurableError> {
        Ok(durable::read_json(&self.file("wholes.json"))?.unwrap_or_default())
    }

    /// Stores it.
    pub fn set_wholes(&self, wholes: &Wholes) -> Result<(), DurableError> {
        match wholes.is_empty() {
            false => durable::write_json(&self.file("wholes.json"), wholes),
            true => durable::remove(&self.file("wholes.json")),
        }
    }

    /// Who owned the backups; nothing for a new node.
    pub fn backup(&self) -> Result<Held, DurableError> {
        Ok(durable::read_json(&self.file("backup.json"))?.unwrap_or_default())
    }

    /// Stores who owns the backups.
    pub fn set_backup(&self, held: &Held) -> Result<(), DurableError> {
        durable::write_json(&self.file("backup.json"), held)
    }

    /// Promise, ballots and decree; the default for a new node.
    pub fn founding(&self) -> Result<Durable, DurableError> {
        Ok(durable::read_json(&self.file("founding.json"))?.unwrap_or_default())
    }

    /// Stores promise, ballots and decree.
    pub fn set_founding(&self, founding: &Durable) -> Result<(), DurableError> {
        durable::write_json(&self.file("founding.json"), founding)
    }
}
