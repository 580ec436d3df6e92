//! Going back: which backup leads to a point in time, whether it fits on the disk, what was lost
//! since, and in which order tables are written.
//!
//! Must not know how a backup is read or a server started: `agent/src/restore/` does.

pub mod found;
pub mod lost;
pub mod order;
pub mod proof;

use crate::backup::Stanza;
use crate::backup::repository::{BackupSet, StanzaContents, reach_of};
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
    /// The WAL behind every backup ends before it.
    #[error("that time is in no window of what can be restored")]
    NotCovered {
        /// How far it reaches.
        until: Wall,
        /// When the next backup ended, where one did.
        again: Option<Wall>,
    },
    /// Every backup ended later.
    #[error("every backup ended after that time, and nothing before the end of one can be reached")]
    TooEarly {
        /// When the first one ended.
        first: Wall,
    },
}

/// pgBackRest and file systems count in whole seconds: what is behind one by less isn't beyond it.
const SECOND_US: i64 = 1_000_000;

/// The backup from which `target` is reached with the least replay: of those that ended before it and
/// whose WAL leads there, the last one, of all stanzas or of the one that is wanted. One with damaged
/// pages is taken only when there is no other. A position means something in the stanza it was read in
/// alone.
pub fn choose<'a>(
    stanzas: &'a [StanzaContents],
    wanted: Option<&str>,
    target: Target,
) -> Result<(&'a Stanza, &'a BackupSet), Unreachable> {
    let all = candidates(stanzas, wanted)?;
    let fits = |of: &&Candidate<'_>| match target {
        Target::Latest => true,
        Target::Time(us) => of.backup.stopped_at.0.saturating_mul(1_000) <= us,
        Target::Lsn(lsn) => of.backup.wal_stop <= lsn,
    };
    let leads = |of: &&Candidate<'_>| match (target, of.until) {
        (Target::Time(us), Some(until)) => {
            us < until.0.saturating_mul(1_000).saturating_add(SECOND_US)
        }
        (Target::Time(_), None) | (Target::Latest | Target::Lsn(_), _) => true,
    };
    let rank = |of: &&Candidate<'_>| {
        let furthest = (target == Target::Latest).then(|| of.until.max(Some(of.backup.stopped_at)));
        (!of.backup.damaged_pages, furthest, of.backup.stopped_at)
    };
    let found = all.iter().filter(fits).filter(leads).max_by_key(rank);
    if let Some(found) = found {
        return Ok((found.stanza, found.backup));
    }
    let first = all.iter().map(|of| of.backup.stopped_at).min();
    let until = all.iter().filter(fits).filter_map(|of| of.until).max();
    let again = all
        .iter()
        .filter(|of| !fits(of))
        .map(|of| of.backup.stopped_at)
        .min();
    Err(match (first, until) {
        (None, _) => Unreachable::Empty,
        (Some(_), Some(until)) => Unreachable::NotCovered { until, again },
        (Some(first), None) => Unreachable::TooEarly { first },
    })
}

/// A backup, and how far it leads.
struct Candidate<'a> {
    stanza: &'a Stanza,
    backup: &'a BackupSet,
    until: Option<Wall>,
}

fn candidates<'a>(
    stanzas: &'a [StanzaContents],
    wanted: Option<&str>,
) -> Result<Vec<Candidate<'a>>, Unreachable> {
    let meant = |of: &&StanzaContents| wanted.is_none_or(|name| of.stanza.as_str() == name);
    let among: Vec<&StanzaContents> = stanzas.iter().filter(meant).collect();
    if let (true, Some(wanted), false) = (among.is_empty(), wanted, stanzas.is_empty()) {
        let known: Vec<&str> = stanzas.iter().map(|of| of.stanza.as_str()).collect();
        return Err(Unreachable::NoStanza {
            wanted: wanted.to_owned(),
            known: known.join(", "),
        });
    }
    let all = among.into_iter().flat_map(|of| {
        let backups = of.backups.iter();
        backups.map(move |backup| Candidate {
            stanza: &of.stanza,
            backup,
            until: reach_of(of, backup),
        })
    });
    Ok(all.collect())
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
    fn of_two_owners_the_one_is_taken_whose_wal_leads_there() {
        // b owned them for a moment on its side of a partition.
        let [mut a, mut b] = stanzas();
        b.backups.truncate(1);
        (a.archived_at, b.archived_at) = (Some(Wall(90_000)), Some(Wall(33_000)));
        let both = [a, b];
        let chosen = |target| choose(&both, None, target).map(|(_, backup)| backup.label.as_str());
        let at = |s: i64| Target::Time(s * 1_000_000);
        assert_eq!(chosen(at(32)), Ok("b1"));
        assert_eq!(
            chosen(Target::Time(33_900_000)),
            Ok("b1"),
            "a part of a second"
        );
        assert_eq!(chosen(at(50)), Ok("a2"), "the WAL of b ends before");
        assert_eq!(chosen(Target::Latest), Ok("a2"));
        let until = Wall(90_000);
        assert_eq!(
            chosen(at(95)),
            Err(Unreachable::NotCovered { until, again: None })
        );
    }

    #[test]
    fn a_moment_in_a_gap_is_refused_before_anything_is_copied() {
        let [mut a, _] = stanzas();
        a.archived_at = Some(Wall(90_000));
        if let Some(second) = a.backups.last_mut() {
            second.gap_since = Some(Wall(12_000));
        }
        let stanzas = [a];
        let at = |s: i64| choose(&stanzas, None, Target::Time(s * 1_000_000));
        assert_eq!(at(12).unwrap().1.label, "a1");
        let gap = Unreachable::NotCovered {
            until: Wall(12_000),
            again: Some(Wall(20_000)),
        };
        assert_eq!(at(15).unwrap_err(), gap);
        assert_eq!(at(21).unwrap().1.label, "a2");
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
