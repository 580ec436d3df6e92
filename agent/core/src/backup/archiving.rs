//! What becomes of WAL that is complete: kept in the repository, or let go.
//!
//! The owner archives; the others let it go, as a server does that has nothing to archive with.
//! PostgreSQL keeps WAL for as long as archiving fails, until its disk is full. So there is a
//! bound: beyond it the WAL is let go, which makes a gap in what can be restored, and a full
//! backup closes it when the repository is back. The database never stops for its backups.

use super::BackupPolicy;
use crate::guard;
use crate::observed::DiskFacts;
use crate::policy::SlotPolicy;
use crate::time::Wall;
use serde::{Deserialize, Serialize};

/// What lets WAL go ('' would make it pile up).
pub const LETS_GO: &str = "/bin/true";

/// What the server says of archiving.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiverFacts {
    /// Is `archive_mode` on? It takes a restart.
    pub enabled: bool,
    /// `archive_command`
    pub command: String,
    /// `archive_library`, which counts in place of it.
    pub library: String,
    /// Where the one that counts was set, "file:line"; empty where no file sets it.
    pub place: String,
    /// How large a segment of the WAL is, bytes.
    pub segment_bytes: u64,
    /// How many complete ones wait.
    pub waiting: u64,
    /// Since when the one does that waits longest.
    pub waiting_since: Option<Wall>,
    /// When one was last archived, or let go.
    pub archived_at: Option<Wall>,
    /// Which one.
    pub archived: Option<String>,
    /// When archiving one failed last.
    pub failed_at: Option<Wall>,
    /// Which one.
    pub failed: Option<String>,
}

impl ArchiverFacts {
    /// How much WAL waits, bytes.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting.saturating_mul(self.segment_bytes)
    }

    /// Has the last attempt failed?
    #[must_use]
    pub fn failing(&self) -> bool {
        self.waiting > 0 && self.failed_at.is_some() && self.failed_at > self.archived_at
    }

    /// Does it hang? The server waits for its command, however long that takes, and calls nothing a
    /// failure before it has ended.
    #[must_use]
    pub fn hanging(&self, now: Wall) -> bool {
        let moved = self.waiting_since.max(self.archived_at).max(self.failed_at);
        let still_ms = moved.map_or(0, |moved| now.0.saturating_sub(moved.0));
        self.waiting > 0 && still_ms >= HANGING_MS
    }

    /// Does WAL wait, though it is let go? That takes no time, once the server does it.
    #[must_use]
    pub fn let_go_in_vain(&self) -> bool {
        self.waiting > 0 && self.library.is_empty() && self.command == LETS_GO
    }

    /// Why archiving isn't ours to switch; `ours` is what the agent would set.
    #[must_use]
    pub fn foreign(&self, ours: &str) -> Option<String> {
        if !self.enabled {
            return Some("archive_mode is off".to_owned());
        }
        let name = if self.library.is_empty() {
            let known = [LETS_GO, ours, ""];
            if known.contains(&self.command.trim()) {
                return None;
            }
            "archive_command"
        } else {
            "archive_library"
        };
        let place = match self.place.as_str() {
            "" => String::new(),
            place => format!(" at {place}"),
        };
        Some(format!("{name} is set{place}, and stays as it is"))
    }
}

/// What the agent must not forget about archiving.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archiving {
    /// Since when every segment is archived; `None` while they are let go.
    pub since: Option<Wall>,
    /// The end of what was archived before that, where something was: noted on the next full
    /// backup.
    pub gap_since: Option<Wall>,
    /// Was WAL let go because the repository took none?
    pub let_go: bool,
    /// Since when it is about to end: the segment that was written then is archived before it does.
    #[serde(default)]
    pub closing: Option<Wall>,
    /// The latest moment that the WAL archived since then leads to, as it was last written down.
    #[serde(default)]
    pub until: Option<Wall>,
}

/// What is to be done about archiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be.
    Stay,
    /// Archive from here on.
    Begin,
    /// Say once more what the server's command is.
    Repeat,
    /// Another node archives: complete the segment that is being written, to be the last.
    Close,
    /// Archive no more.
    End,
    /// Let go what waits, and what comes: it is more than may wait.
    LetGo {
        /// How much waits, bytes.
        waiting_bytes: u64,
        /// How much may, bytes.
        bytes_max: u64,
    },
    /// See whether the repository takes WAL again.
    Probe,
}

/// How long the last segment is waited for: what it holds may then be missing between two owners.
const CLOSING_MS_MAX: i64 = 120_000;

/// A segment is 16 MB, mostly: a line that takes longer for one can't follow any server.
const HANGING_MS: i64 = 60_000;

/// How much may wait for the repository, bytes. Half of what a slot might hold back, so that a
/// peer that is gone and a repository that is gone fit on one disk. `None` where neither the disk
/// nor the operator says: nothing is let go for what isn't known.
#[must_use]
pub fn waiting_max(
    policy: &BackupPolicy,
    slots: &SlotPolicy,
    disk: Option<&DiskFacts>,
    waiting_bytes: u64,
) -> Option<u64> {
    let of_disk = SlotPolicy {
        budget_bytes: None,
        ..*slots
    };
    let room = disk.map(|disk| guard::budget(&of_disk, disk, waiting_bytes));
    match (policy.waiting_bytes_max, room) {
        (Some(wanted), Some(room)) => Some(wanted.min(room)),
        (Some(wanted), None) => Some(wanted),
        (None, Some(room)) => Some(room / 2),
        (None, None) => None,
    }
}

/// Decides. `archives` is what the claim says; `ours` the command that archives.
#[must_use]
pub fn decide(
    now: Wall,
    archives: bool,
    state: &Archiving,
    facts: &ArchiverFacts,
    ours: &str,
    bytes_max: Option<u64>,
) -> Step {
    if facts.foreign(ours).is_some() {
        return Step::Stay;
    }
    let on = facts.command == ours;
    if !archives {
        return leave_off(now, state, facts, on);
    }
    if state.let_go {
        return Step::Probe;
    }
    if state.since.is_none() {
        return Step::Begin;
    }
    if !on {
        return Step::Repeat;
    }
    let waiting_bytes = facts.waiting_bytes();
    match bytes_max {
        Some(bytes_max) if waiting_bytes > bytes_max => Step::LetGo {
            waiting_bytes,
            bytes_max,
        },
        Some(_) | None => Step::Stay,
    }
}

/// What a node does that archives, and is not to any more.
fn leave_off(now: Wall, state: &Archiving, facts: &ArchiverFacts, on: bool) -> Step {
    if state.since.is_none() {
        let idle = !state.let_go && !on;
        return if idle { Step::Stay } else { Step::End };
    }
    let Some(closing) = state.closing.filter(|_| on) else {
        return if on { Step::Close } else { Step::End };
    };
    let archived = facts.waiting == 0 && facts.archived_at.is_some_and(|at| at >= closing);
    let waited_ms = now.0.saturating_sub(closing.0);
    match archived || !(0..CLOSING_MS_MAX).contains(&waited_ms) {
        true => Step::End,
        false => Step::Stay,
    }
}

impl Archiving {
    /// From now on all is archived. `before` is up to when this node's WAL is in the repository.
    #[must_use]
    pub fn begun(&self, now: Wall, before: Option<Wall>) -> Archiving {
        Archiving {
            since: Some(now),
            gap_since: self.gap_since.or(before),
            let_go: false,
            closing: None,
            until: None,
        }
    }

    /// What waits is let go. `until` is the latest moment that can be restored.
    #[must_use]
    pub fn given_up(&self, until: Option<Wall>) -> Archiving {
        Archiving {
            let_go: true,
            ..self.ended(until)
        }
    }

    /// Another node archives. `until` is the latest moment that can be restored.
    #[must_use]
    pub fn ended(&self, until: Option<Wall>) -> Archiving {
        // What was archived before it all began isn't in the repository.
        let until = until.filter(|until| self.since.is_some_and(|since| since <= *until));
        Archiving {
            since: None,
            gap_since: self.gap_since.or(until).or(self.since),
            let_go: false,
            closing: None,
            until: None,
        }
    }

    /// It is about to end, or, by `None`, goes on after all.
    #[must_use]
    pub fn closing(&self, since: Option<Wall>) -> Archiving {
        Archiving {
            closing: since,
            ..self.clone()
        }
    }

    /// What is archived leads to this moment.
    #[must_use]
    pub fn reached(&self, until: Option<Wall>) -> Archiving {
        Archiving {
            until: self.until.max(until),
            ..self.clone()
        }
    }

    /// The repository takes WAL again: archiving begins anew.
    #[must_use]
    pub fn back(&self) -> Archiving {
        Archiving {
            let_go: false,
            ..self.clone()
        }
    }

    /// A full backup was taken since it began.
    #[must_use]
    pub fn covered(&self) -> Archiving {
        Archiving {
            gap_since: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "pgbackrest archive-push %p";

    fn facts(command: &str, waiting: u64) -> ArchiverFacts {
        ArchiverFacts {
            enabled: true,
            command: command.to_owned(),
            segment_bytes: 16 << 20,
            waiting,
            ..ArchiverFacts::default()
        }
    }

    fn since(at: i64) -> Archiving {
        Archiving {
            since: Some(Wall(at)),
            ..Archiving::default()
        }
    }

    #[test]
    fn archiving_follows_the_claim() {
        let off = Archiving::default();
        let step = |archives, state: &Archiving, command| {
            decide(
                Wall(9),
                archives,
                state,
                &facts(command, 3),
                OURS,
                Some(1 << 30),
            )
        };
        assert_eq!(step(false, &off, LETS_GO), Step::Stay);
        assert_eq!(step(true, &off, LETS_GO), Step::Begin);
        assert_eq!(step(true, &since(5), OURS), Step::Stay);
        assert_eq!(step(true, &since(5), LETS_GO), Step::Repeat);
        assert_eq!(step(false, &since(5), OURS), Step::Close);
        assert_eq!(step(false, &off, OURS), Step::End);
    }

    #[test]
    fn the_last_segment_is_archived_before_it_ends() {
        let closing = since(5).closing(Some(Wall(50)));
        let step = |now, waiting, archived_at: i64| {
            let facts = ArchiverFacts {
                archived_at: Some(Wall(archived_at)),
                ..facts(OURS, waiting)
            };
            decide(Wall(now), false, &closing, &facts, OURS, None)
        };
        assert_eq!(step(60, 1, 40), Step::Stay);
        assert_eq!(step(60, 0, 40), Step::Stay);
        assert_eq!(step(60, 0, 55), Step::End);
        assert_eq!(step(50 + CLOSING_MS_MAX, 1, 40), Step::End);
        // A clock that was set back is no reason to wait for ever.
        assert_eq!(step(10, 1, 40), Step::End);
        let again = closing.closing(None);
        let facts = facts(OURS, 0);
        assert_eq!(
            decide(Wall(60), true, &again, &facts, OURS, None),
            Step::Stay
        );
    }

    #[test]
    fn what_may_wait_is_bounded_and_a_gap_is_remembered_until_a_full_backup() {
        let step = decide(
            Wall(9),
            true,
            &since(5),
            &facts(OURS, 65),
            OURS,
            Some(1 << 30),
        );
        let expected = Step::LetGo {
            waiting_bytes: 65 * (16 << 20),
            bytes_max: 1 << 30,
        };
        assert_eq!(step, expected);
        let unknown = decide(Wall(9), true, &since(5), &facts(OURS, 1 << 40), OURS, None);
        assert_eq!(
            unknown,
            Step::Stay,
            "something was let go for what isn't known"
        );
        let gone = since(5).given_up(Some(Wall(40)));
        assert_eq!(
            (gone.since, gone.gap_since, gone.let_go),
            (None, Some(Wall(40)), true)
        );
        let step =
            |state: &Archiving| decide(Wall(9), true, state, &facts(LETS_GO, 0), OURS, Some(1));
        assert_eq!(step(&gone), Step::Probe);
        assert_eq!(step(&gone.back()), Step::Begin);
        let again = gone.back().begun(Wall(90), Some(Wall(41)));
        assert_eq!(
            (again.since, again.gap_since),
            (Some(Wall(90)), Some(Wall(40)))
        );
        // It fails once more before the full backup: the gap began where it began.
        let twice = again.given_up(Some(Wall(95))).back().begun(Wall(120), None);
        assert_eq!(twice.gap_since, Some(Wall(40)));
        assert_eq!(twice.covered().gap_since, None);
    }

    #[test]
    fn what_the_server_archived_before_is_no_end_of_ours() {
        assert_eq!(since(50).ended(Some(Wall(40))).gap_since, Some(Wall(50)));
        assert_eq!(Archiving::default().ended(Some(Wall(40))).gap_since, None);
    }

    #[test]
    fn archiving_hangs_when_what_waits_does_not_move() {
        let hanging = |waiting, since: i64, archived: i64, failed: Option<i64>| {
            let facts = ArchiverFacts {
                waiting_since: Some(Wall(since)),
                archived_at: Some(Wall(archived)),
                failed_at: failed.map(Wall),
                ..facts(OURS, waiting)
            };
            facts.hanging(Wall(100_000))
        };
        assert!(hanging(1, 40_000, 39_000, None));
        assert!(!hanging(1, 40_001, 39_000, None), "it may be slow");
        assert!(!hanging(9, 1_000, 99_000, None), "much waits, and it moves");
        assert!(
            !hanging(1, 1_000, 900, Some(99_000)),
            "it fails, and was told"
        );
        assert!(!hanging(0, 1_000, 900, None));
    }

    #[test]
    fn a_command_of_somebody_elses_is_left_alone() {
        let mut theirs = facts("wal-g wal-push %p", 9);
        theirs.place = "/etc/x.conf:3".to_owned();
        let why = theirs.foreign(OURS);
        assert_eq!(
            why.as_deref(),
            Some("archive_command is set at /etc/x.conf:3, and stays as it is")
        );
        assert_eq!(
            decide(Wall(9), true, &since(5), &theirs, OURS, Some(0)),
            Step::Stay
        );
        let mut library = facts("", 0);
        library.library = "basic_archive".to_owned();
        assert!(library.foreign(OURS).is_some());
        let mut off = facts(LETS_GO, 0);
        off.enabled = false;
        assert_eq!(off.foreign(OURS).as_deref(), Some("archive_mode is off"));
        assert_eq!(facts("", 0).foreign(OURS), None);
    }

    #[test]
    fn the_bound_follows_the_disk_and_the_operator() {
        let gib = |count: u64| count << 30;
        let disk = DiskFacts {
            total_bytes: gib(100),
            free_bytes: gib(50),
            wal_bytes: gib(1),
        };
        let slots = SlotPolicy::default();
        let max = |wanted: Option<u64>, disk| {
            let policy = BackupPolicy {
                waiting_bytes_max: wanted,
                ..BackupPolicy::default()
            };
            waiting_max(&policy, &slots, disk, 0)
        };
        assert_eq!(max(None, Some(&disk)), Some(gib(20)));
        assert_eq!(max(Some(gib(5)), Some(&disk)), Some(gib(5)));
        assert_eq!(max(Some(gib(500)), Some(&disk)), Some(gib(40)));
        assert_eq!(max(None, None), None);
        assert_eq!(max(Some(gib(5)), None), Some(gib(5)));
    }
}
