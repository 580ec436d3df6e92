//! Which backup is due, by what the repository holds: nothing is counted here, so that downtime,
//! another owner and a repository that lost something all lead to what is missing.

use super::BackupKind;
use super::repository::BackupSet;
use crate::time::Wall;

/// Why a backup is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// None was taken since this node archives without a gap: there is nothing to restore by its
    /// WAL yet.
    NothingYet,
    /// The schedule wanted one at this time.
    Scheduled(Wall),
}

/// What is due now, if anything. `next` gives the first time after another that the schedule of a
/// kind names.
#[must_use]
pub fn due(
    now: Wall,
    archiving_since: Wall,
    backups: &[BackupSet],
    next: &dyn Fn(BackupKind, Wall) -> Option<Wall>,
) -> Option<(BackupKind, Because)> {
    if !covered(archiving_since, backups) {
        return Some((BackupKind::Full, Because::NothingYet));
    }
    // The one that covers most serves for all that are due.
    BackupKind::ALL.into_iter().find_map(|kind| {
        let serving = backups.iter().filter(|backup| backup.kind >= kind);
        let last = serving.map(|backup| backup.started_at).max()?;
        let at = next(kind, last).filter(|at| *at <= now)?;
        Some((kind, Because::Scheduled(at)))
    })
}

/// Was a full backup taken since archiving began?
#[must_use]
pub fn covered(archiving_since: Wall, backups: &[BackupSet]) -> bool {
    // pgBackRest counts in whole seconds.
    let since = archiving_since.0.saturating_sub(1_000);
    backups
        .iter()
        .any(|backup| backup.kind == BackupKind::Full && backup.started_at.0 > since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Lsn;

    const HOUR: i64 = 3_600_000;

    fn backup(kind: BackupKind, hour: i64) -> BackupSet {
        BackupSet {
            label: String::new(),
            kind,
            started_at: Wall(hour * HOUR),
            stopped_at: Wall(hour * HOUR + 60_000),
            wal_start: Lsn(0),
            wal_stop: Lsn(0),
            size_bytes: 0,
            stored_bytes: 0,
            damaged_pages: false,
            node_name: String::new(),
            gap_since: None,
        }
    }

    /// Full every 168 hours, differential every 24, incremental every 6.
    fn next(kind: BackupKind, after: Wall) -> Option<Wall> {
        let hours = match kind {
            BackupKind::Full => 168,
            BackupKind::Differential => 24,
            BackupKind::Incremental => 6,
        };
        Some(Wall((after.0 / (hours * HOUR) + 1) * hours * HOUR))
    }

    fn due_at(hour: i64, backups: &[BackupSet]) -> Option<(BackupKind, Because)> {
        due(Wall(hour * HOUR), Wall(HOUR), backups, &next)
    }

    #[test]
    fn the_first_is_full_and_at_once() {
        let nothing = Some((BackupKind::Full, Because::NothingYet));
        assert_eq!(due_at(2, &[]), nothing);
        // Those of before the gap don't count.
        assert_eq!(due_at(2, &[backup(BackupKind::Full, 0)]), nothing);
        assert_eq!(due_at(2, &[backup(BackupKind::Incremental, 2)]), nothing);
        assert_eq!(due_at(2, &[backup(BackupKind::Full, 1)]), None);
    }

    #[test]
    fn what_was_missed_is_made_up_for_once_by_what_covers_most() {
        let full = backup(BackupKind::Full, 1);
        let at = |hour| Because::Scheduled(Wall(hour * HOUR));
        let kind = |hour, more: &[BackupSet]| {
            let mut backups = vec![full.clone()];
            backups.extend_from_slice(more);
            due_at(hour, &backups)
        };
        assert_eq!(kind(5, &[]), None);
        assert_eq!(kind(6, &[]), Some((BackupKind::Incremental, at(6))));
        assert_eq!(kind(100, &[]), Some((BackupKind::Differential, at(24))));
        assert_eq!(kind(400, &[]), Some((BackupKind::Full, at(168))));
        assert_eq!(kind(101, &[backup(BackupKind::Differential, 100)]), None);
        assert_eq!(kind(401, &[backup(BackupKind::Full, 400)]), None);
    }

    #[test]
    fn without_a_schedule_nothing_more_is_due() {
        let never = |_: BackupKind, _: Wall| None;
        let full = [backup(BackupKind::Full, 1)];
        assert_eq!(due(Wall(i64::MAX), Wall(HOUR), &full, &never), None);
    }
}
