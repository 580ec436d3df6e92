//! When which errand may be tried next, and why the last one failed. It must not know what an errand
//! does.

use super::errand::Errand;
use pgaa_core::backup::BackupKind;
use pgaa_core::time::Mono;
use std::time::Duration;

/// Between two attempts of something that failed; each failure doubles it, up to the second.
const AGAIN_MIN: Duration = Duration::from_secs(10);
pub(super) const AGAIN_MAX: Duration = Duration::from_secs(600);

/// What is known of all kinds of errands.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Is the stanza there?
    pub prepared: bool,
    /// The backup that an operator has asked for, until it was taken.
    pub asked: Option<BackupKind>,
    /// When the server was told once more what its command is.
    pub repeated_at: Option<Mono>,
    meet: Attempt,
    prepare: Attempt,
    push: Attempt,
    backup: Attempt,
    list: Attempt,
}

/// One kind of errand.
#[derive(Debug, Default, Clone)]
pub(super) struct Attempt {
    not_before: Option<Mono>,
    succeeded: bool,
    failures: u32,
    problem: Option<String>,
}

impl Attempt {
    pub fn may(&self, now: Mono) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    /// Why the last one failed.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub fn failed(&mut self, now: Mono, problem: String, pause_max: Duration) {
        let pause = AGAIN_MIN.saturating_mul(1 << self.failures.min(10));
        self.not_before = Some(now.plus(pause.min(pause_max)));
        self.failures += 1;
        self.succeeded = false;
        self.problem = Some(problem);
    }

    /// It came to nothing, which says nothing: what was known of it stays.
    pub fn postpone(&mut self, now: Mono) {
        self.not_before = Some(now.plus(AGAIN_MIN));
    }

    /// Says whether one had failed before.
    pub fn succeeded(&mut self, now: Mono, pause: Duration) -> bool {
        let failed = self.problem.is_some();
        *self = Attempt {
            not_before: Some(now.plus(pause)),
            succeeded: true,
            ..Attempt::default()
        };
        failed
    }

    /// It may be tried at once, and at short pauses again. What was wrong is known until it succeeds.
    fn hurry(&mut self) {
        self.not_before = None;
        self.failures = 0;
    }
}

impl Pace {
    /// Why archiving fails, as pgBackRest says it.
    pub fn archive_problem(&self) -> Option<&str> {
        self.push.problem().or(self.prepare.problem())
    }

    /// Why the last backup failed.
    pub fn backup_problem(&self) -> Option<&str> {
        self.backup.problem()
    }

    /// Why the repository can't be read.
    pub fn list_problem(&self) -> Option<&str> {
        self.list.problem()
    }

    /// Has the repository just taken WAL by hand?
    pub fn takes_wal(&self) -> bool {
        self.push.succeeded && self.push.problem.is_none()
    }

    /// An operator wants a backup. It may be that the stanza is gone: then it is made anew.
    pub fn ask(&mut self, kind: BackupKind) {
        self.asked = self.asked.max(Some(kind));
        self.prepared = false;
        self.prepare.hurry();
        self.backup.hurry();
    }

    /// The server archives by itself: says whether it was known not to.
    pub fn archives_again(&mut self) -> bool {
        self.push.problem.take().is_some()
    }

    /// The repository is back: what has failed meanwhile is tried at once.
    pub fn hurry(&mut self) {
        for attempt in [&mut self.prepare, &mut self.backup, &mut self.list] {
            attempt.hurry();
        }
    }

    pub fn of(&mut self, errand: &Errand) -> &mut Attempt {
        match errand {
            Errand::Meet => &mut self.meet,
            Errand::Prepare(_) => &mut self.prepare,
            Errand::Push(..) => &mut self.push,
            Errand::Backup(_) => &mut self.backup,
            Errand::List => &mut self.list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono::default().plus(Duration::from_secs(s))
    }

    #[test]
    fn pauses_grow_and_end_when_the_repository_is_back() {
        let mut pace = Pace::default();
        let backup = Errand::Backup(BackupKind::Full);
        for _ in 0..20 {
            pace.of(&backup)
                .failed(at(100), "full".to_owned(), AGAIN_MAX);
        }
        assert!(!pace.of(&backup).may(at(699)) && pace.of(&backup).may(at(700)));
        pace.hurry();
        assert!(pace.of(&backup).may(at(100)));
        // It is wrong until it has succeeded.
        assert_eq!(pace.backup_problem(), Some("full"));
        pace.of(&backup)
            .failed(at(100), "full".to_owned(), AGAIN_MAX);
        assert!(pace.of(&backup).may(at(110)));
        pace.of(&backup).postpone(at(110));
        assert!(!pace.of(&backup).may(at(119)) && pace.of(&backup).may(at(120)));
        assert_eq!(pace.backup_problem(), Some("full"));
        assert!(pace.of(&backup).succeeded(at(111), Duration::ZERO));
        assert_eq!(pace.backup_problem(), None);
    }

    #[test]
    fn the_larger_of_two_wishes_stays_until_it_is_met() {
        let mut pace = Pace {
            prepared: true,
            ..Pace::default()
        };
        pace.ask(BackupKind::Full);
        pace.ask(BackupKind::Incremental);
        assert_eq!(pace.asked, Some(BackupKind::Full));
        assert!(
            !pace.prepared,
            "a stanza that is gone would never be made anew"
        );
    }
}
