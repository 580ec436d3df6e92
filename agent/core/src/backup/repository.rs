//! What lies in the repository, and from when to when it can be restored.
//!
//! The repository describes itself: everything here is read from it, so that each node sees the
//! same, whoever owned the backups and whether it still lives.

use super::claim::BackupWord;
use super::{BackupKind, Stanza};
use crate::ids::{Lsn, NodeId};
use crate::time::Wall;
use serde::{Deserialize, Serialize};

/// What one node's cluster has in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StanzaContents {
    /// Its name.
    pub stanza: Stanza,
    /// Its backups, the oldest first.
    pub backups: Vec<BackupSet>,
    /// The newest segment of its WAL, where there is any.
    pub wal_last: Option<String>,
    /// Up to when it can be restored, as its node has said; else when the newest segment came there,
    /// beyond which nothing can. `None` where nobody has looked.
    pub archived_at: Option<Wall>,
    /// Why it can't be used, where it can't.
    pub problem: Option<String>,
    /// Does a backup of it run on the machine that was asked?
    pub running: bool,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSet {
    /// pgBackRest's name for it, "20260101-010000F".
    pub label: String,
    /// What it rests on.
    pub kind: BackupKind,
    /// When it began.
    pub started_at: Wall,
    /// When it was complete: from here on any moment can be restored.
    pub stopped_at: Wall,
    /// Where its WAL begins.
    pub wal_start: Lsn,
    /// Where its WAL ends.
    pub wal_stop: Lsn,
    /// The size of the database, bytes.
    pub size_bytes: u64,
    /// What it takes in the repository by itself, bytes.
    pub stored_bytes: u64,
    /// Were there pages with wrong checksums?
    pub damaged_pages: bool,
    /// The node's name when it was taken; empty where it isn't ours.
    pub node_name: String,
    /// The end of the WAL before it, where a gap lies between: WAL of later moments, and before
    /// this backup, is not in the repository.
    pub gap_since: Option<Wall>,
}

/// A span of time of which any moment can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From whose WAL.
    pub stanza: Stanza,
    /// The node's name when the first backup of it was taken.
    pub node_name: String,
    /// The first moment.
    pub from: Wall,
    /// The last moment.
    pub until: Wall,
}

/// A span of time of which nothing can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// After this moment.
    pub from: Wall,
    /// Before this one.
    pub until: Wall,
}

/// What the repository alone doesn't show: how far each node's WAL came since it was listed, and
/// where a gap is that no backup notes yet. `word_of` is what the node of a stanza last said.
#[must_use]
pub fn as_said(
    mut contents: Vec<StanzaContents>,
    word_of: &dyn Fn(NodeId) -> Option<BackupWord>,
) -> Vec<StanzaContents> {
    for contents in &mut contents {
        let word = contents.stanza.parts().and_then(|(node, _)| word_of(node));
        let Some(word) = word else {
            continue;
        };
        // When the last segment was archived is later than the last commit in it.
        let said = word.gap_since.or(word.archived_until);
        contents.archived_at = said.or(contents.archived_at);
    }
    contents
}

/// The windows of all stanzas, by their first moments. They may overlap.
#[must_use]
pub fn windows(stanzas: &[StanzaContents]) -> Vec<Window> {
    let mut all: Vec<Window> = stanzas.iter().flat_map(windows_of).collect();
    all.sort_by(|a, b| (a.from, a.until, &a.stanza).cmp(&(b.from, b.until, &b.stanza)));
    all
}

/// Each backup that follows a gap begins a new window, and the one before ends with the gap.
fn windows_of(contents: &StanzaContents) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for backup in &contents.backups {
        if let (Some(since), Some(before)) = (backup.gap_since, windows.last_mut()) {
            before.until = since.clamp(before.from, backup.started_at.max(before.from));
        }
        if windows.is_empty() || backup.gap_since.is_some() {
            windows.push(Window {
                stanza: contents.stanza.clone(),
                node_name: backup.node_name.clone(),
                from: backup.stopped_at,
                until: backup.stopped_at,
            });
        } else if let Some(window) = windows.last_mut() {
            window.until = window.until.max(backup.stopped_at);
        }
    }
    if let (Some(window), Some(archived)) = (windows.last_mut(), contents.archived_at) {
        window.until = window.until.max(archived);
    }
    windows
}

/// The last moment to which a backup leads; `None` where nobody has looked.
#[must_use]
pub fn reach_of(contents: &StanzaContents, backup: &BackupSet) -> Option<Wall> {
    let later = contents.backups.iter();
    let later = later.filter(|other| other.stopped_at > backup.stopped_at);
    let gap = later.filter_map(|other| other.gap_since).min();
    let until = gap.or(contents.archived_at)?;
    Some(until.max(backup.stopped_at))
}

/// What lies between the windows, whoever's they are.
#[must_use]
pub fn gaps(windows: &[Window]) -> Vec<Gap> {
    let mut spans: Vec<(Wall, Wall)> = windows.iter().map(|w| (w.from, w.until)).collect();
    spans.sort_unstable();
    let mut spans = spans.into_iter();
    let Some((_, mut end)) = spans.next() else {
        return Vec::new();
    };
    let mut gaps = Vec::new();
    for (from, until) in spans {
        if from > end {
            gaps.push(Gap {
                from: end,
                until: from,
            });
        }
        end = end.max(until);
    }
    gaps
}

/// The window that holds this moment, if any: the one that reaches furthest.
#[must_use]
pub fn window_at(windows: &[Window], at: Wall) -> Option<&Window> {
    windows
        .iter()
        .filter(|window| window.from <= at && at <= window.until)
        .max_by_key(|window| window.until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn backup(started: i64, stopped: i64, gap_since: Option<i64>) -> BackupSet {
        BackupSet {
            label: format!("{started}F"),
            kind: BackupKind::Full,
            started_at: Wall(started),
            stopped_at: Wall(stopped),
            wal_start: Lsn(1),
            wal_stop: Lsn(2),
            size_bytes: 1,
            stored_bytes: 1,
            damaged_pages: false,
            node_name: "a".to_owned(),
            gap_since: gap_since.map(Wall),
        }
    }

    fn stanza(node: u128, backups: Vec<BackupSet>, archived: Option<i64>) -> StanzaContents {
        StanzaContents {
            stanza: Stanza::new(NodeId(Uuid::from_u128(node)), 1),
            backups,
            wal_last: None,
            archived_at: archived.map(Wall),
            problem: None,
            running: false,
        }
    }

    fn spans(windows: &[Window]) -> Vec<(i64, i64)> {
        windows.iter().map(|w| (w.from.0, w.until.0)).collect()
    }

    #[test]
    fn the_window_is_the_union_over_owners_and_hand_overs_are_gaps() {
        let first = stanza(
            1,
            vec![backup(10, 20, None), backup(50, 60, None)],
            Some(100),
        );
        let second = stanza(2, vec![backup(130, 140, None)], Some(200));
        let found = windows(&[second, first]);
        assert_eq!(spans(&found), [(20, 100), (140, 200)]);
        let gap = Gap {
            from: Wall(100),
            until: Wall(140),
        };
        assert_eq!(gaps(&found), [gap]);
        assert!(window_at(&found, Wall(120)).is_none());
        assert_eq!(window_at(&found, Wall(20)), found.first());
    }

    #[test]
    fn wal_that_was_let_go_ends_a_window_before_the_next_backup() {
        let own = stanza(
            1,
            vec![
                backup(10, 20, None),
                backup(90, 95, Some(40)),
                backup(97, 99, None),
            ],
            Some(120),
        );
        assert_eq!(spans(&windows(&[own])), [(20, 40), (95, 120)]);
    }

    #[test]
    fn wal_behind_a_gap_that_no_backup_notes_yet_is_no_part_of_a_window() {
        let node = NodeId(Uuid::from_u128(1));
        let said = |gap_since: Option<i64>| {
            let own = stanza(1, vec![backup(10, 20, None)], Some(100));
            let word = BackupWord {
                archived_until: Some(Wall(90)),
                gap_since: gap_since.map(Wall),
                ..BackupWord::default()
            };
            let said = as_said(vec![own], &|of| (of == node).then(|| word.clone()));
            spans(&windows(&said))
        };
        assert_eq!(said(None), [(20, 90)], "it is promised by the file's time");
        assert_eq!(said(Some(40)), [(20, 40)]);
    }

    #[test]
    fn a_backup_leads_to_the_next_gap_or_as_far_as_its_wal() {
        let backups = vec![
            backup(10, 20, None),
            backup(90, 95, Some(40)),
            backup(97, 99, None),
        ];
        let reach = |archived| {
            let own = stanza(1, backups.clone(), archived);
            let reach = own.backups.iter().map(|of| reach_of(&own, of));
            reach.map(|at| at.map(|at| at.0)).collect::<Vec<_>>()
        };
        assert_eq!(reach(Some(120)), [Some(40), Some(120), Some(120)]);
        assert_eq!(reach(None), [Some(40), None, None]);
    }

    #[test]
    fn two_owners_at_a_time_leave_no_gap() {
        let first = stanza(1, vec![backup(10, 20, None)], Some(150));
        let second = stanza(2, vec![backup(100, 120, None)], Some(200));
        let found = windows(&[first, second]);
        assert_eq!(gaps(&found), []);
        let at = window_at(&found, Wall(130)).map(|window| window.until);
        assert_eq!(at, Some(Wall(200)));
    }

    #[test]
    fn nothing_is_promised_without_a_backup_or_beyond_what_is_known() {
        assert_eq!(windows(&[stanza(1, Vec::new(), Some(9))]), []);
        assert_eq!(gaps(&[]), []);
        // A clock that was set back makes no window that ends before it begins.
        let odd = stanza(
            1,
            vec![backup(50, 60, None), backup(40, 45, Some(10))],
            None,
        );
        for window in windows(&[odd]) {
            assert!(window.from <= window.until, "{window:?}");
        }
    }
}
