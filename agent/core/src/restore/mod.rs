//! Going back: which backup leads to a point in time, whether it fits on the disk, what was lost
//! since, and in which order tables are written.
//!
//! Must not know how a backup is read or a server started: `agent/src/restore/` does.

pub mod found;
pub mod lost;
pub mod order;
pub mod proof;

use crate::backup::Stanza;
use crate::backup::repository::{BackupSet, StanzaContents};
use crate::ids::Lsn;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Beside the database a restore needs room for the WAL that is replayed: a tenth of it, and at
/// least so much.
const WAL_ROOM_MIN_BYTES: u64 = 256 << 20;

/// To where a database is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// As far as the archive goes.
    Latest,
    /// To the last commit at or before this time, microseconds since 1970 UTC.
    Time(i64),
    /// To the last commit that ends at or before this position.
    Lsn(Lsn),
}

/// Nothing in the repository leads there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unreachable {
    /// There are no backups.
    #[error("the repository holds no backup; which node should take them: pgaa-agent status")]
    Empty,
    /// No such stanza.
    #[error("the repository has no stanza {wanted:?}; it has: {known}")]
    NoStanza {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// Every backup ended later.
    #[error("every backup ended after that time, and nothing before the end of one can be reached")]
    TooEarly {
        /// When the first one ended.
        first: Wall,
    },
}

/// The backup from which `target` is reached with the least replay: the last one that ended
/// before it, of all stanzas or of the one that is wanted. One with damaged pages is taken only
/// when there is no other. A position means something in the stanza it was read in alone.
pub fn choose<'a>(
    stanzas: &'a [StanzaContents],
    wanted: Option<&str>,
    target: Target,
) -> Result<(&'a Stanza, &'a BackupSet), Unreachable> {
    let meant =
        |contents: &&StanzaContents| wanted.is_none_or(|name| contents.stanza.as_str() == name);
    let among: Vec<&StanzaContents> = stanzas.iter().filter(meant).collect();
    if let (true, Some(wanted), false) = (among.is_empty(), wanted, stanzas.is_empty()) {
        let known: Vec<&str> = stanzas.iter().map(|of| of.stanza.as_str()).collect();
        return Err(Unreachable::NoStanza {
            wanted: wanted.to_owned(),
            known: known.join(", "),
        });
    }
    let all = || {
        let pairs = among
            .iter()
            .map(|of| of.backups.iter().map(|b| (&of.stanza, b)));
        pairs.flatten()
    };
    let fits = |(_, backup): &(&Stanza, &BackupSet)| match target {
        Target::Latest => true,
        Target::Time(us) => backup.stopped_at.0.saturating_mul(1_000) <= us,
        Target::Lsn(lsn) => backup.wal_stop <= lsn,
    };
    let rank = |(_, backup): &(&Stanza, &BackupSet)| (!backup.damaged_pages, backup.stopped_at);
    if let Some(found) = all().filter(fits).max_by_key(rank) {
        return Ok(found);
    }
    let first = all().map(|(_, backup)| backup.stopped_at).min();
    Err(first.map_or(Unreachable::Empty, |first| Unreachable::TooEarly { first }))
}

/// What a restore takes and what the disk has, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What the restored database takes.
    pub database_bytes: u64,
    /// What is free on the disk.
    pub free_bytes: u64,
    /// The disk's size.
    pub total_bytes: u64,
    /// What has to stay free when it is the disk of the live database as well, percent.
    pub reserve_percent: u8,
}

impl Room {
    /// How many bytes are missing; zero when it fits.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        let wal = (self.database_bytes / 10).max(WAL_ROOM_MIN_BYTES);
        let reserve = self.total_bytes / 100 * u64::from(self.reserve_percent.min(100));
        let needed = self
            .database_bytes
            .saturating_add(wal)
            .saturating_add(reserve);
        needed.saturating_sub(self.free_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::BackupKind;
    use crate::ids::NodeId;
    use uuid::Uuid;

    fn backup(label: &str, stop_s: i64, damaged_pages: bool) -> BackupSet {
        BackupSet {
            label: label.to_owned(),
            kind: BackupKind::Full,
            started_at: Wall(stop_s * 1_000 - 1),
            stopped_at: Wall(stop_s * 1_000),
            wal_start: Lsn(1),
            wal_stop: Lsn(stop_s.unsigned_abs() * 100),
            size_bytes: 1,
            stored_bytes: 1,
            damaged_pages,
            node_name: String::new(),
            gap_since: None,
        }
    }

    fn stanza(node: u128, backups: Vec<BackupSet>) -> StanzaContents {
        StanzaContents {
            stanza: Stanza::new(NodeId(Uuid::from_u128(node)), 1),
            backups,
            wal_last: None,
            archived_at: None,
            problem: None,
            running: false,
        }
    }

    fn stanzas() -> [StanzaContents; 2] {
        [
            stanza(1, vec![backup("a1", 10, false), backup("a2", 20, false)]),
            stanza(2, vec![backup("b1", 30, false), backup("b2", 40, true)]),
        ]
    }

    fn chosen(wanted: Option<&str>, target: Target) -> Result<String, Unreachable> {
        choose(&stanzas(), wanted, target).map(|(_, backup)| backup.label.clone())
    }

    #[test]
    fn the_last_backup_before_the_target_is_taken_whoever_made_it() {
        let at = |s: i64| Target::Time(s * 1_000_000);
        let [a, _] = stanzas();
        let a = Some(a.stanza.as_str());
        assert_eq!(chosen(None, at(20)).unwrap(), "a2");
        assert_eq!(chosen(None, Target::Time(19_999_999)).unwrap(), "a1");
        assert_eq!(chosen(None, at(35)).unwrap(), "b1");
        assert_eq!(chosen(a, at(35)).unwrap(), "a2");
        assert_eq!(chosen(a, Target::Lsn(Lsn(1_999))).unwrap(), "a1");
        assert_eq!(chosen(a, Target::Latest).unwrap(), "a2");
    }

    #[test]
    fn a_damaged_backup_is_the_last_resort() {
        assert_eq!(chosen(None, Target::Latest).unwrap(), "b1");
        let only = [stanza(1, vec![backup("x", 1, true)])];
        assert_eq!(choose(&only, None, Target::Latest).unwrap().1.label, "x");
    }

    #[test]
    fn what_cannot_be_reached_is_named() {
        let early = chosen(None, Target::Time(9_000_000)).unwrap_err();
        assert_eq!(
            early,
            Unreachable::TooEarly {
                first: Wall(10_000)
            }
        );
        let nowhere = chosen(Some("c"), Target::Latest).unwrap_err();
        assert!(nowhere.to_string().contains("it has: pgaa-"), "{nowhere}");
        assert_eq!(
            choose(&[], Some("c"), Target::Latest),
            Err(Unreachable::Empty)
        );
    }

    #[test]
    fn room_counts_the_wal_and_the_reserve_of_a_shared_disk() {
        let room = Room {
            database_bytes: 10 << 30,
            free_bytes: 12 << 30,
            total_bytes: 100 << 30,
            reserve_percent: 0,
        };
        assert_eq!(room.missing_bytes(), 0);
        let shared = Room {
            reserve_percent: 10,
            ..room
        };
        assert!(shared.missing_bytes() > 8 << 30);
        let huge = Room {
            database_bytes: u64::MAX,
            ..room
        };
        assert!(huge.missing_bytes() > 0);
    }
}
