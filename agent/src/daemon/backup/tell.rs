//! What is said of the backups: this node's word to the mesh, the report, the findings.

use super::Keeper;
use super::archive::of;
use super::errand::{Doing, Errand};
use crate::backup::Cause;
use pgaa_core::backup::archiving::ArchiverFacts;
use pgaa_core::backup::claim::{self, BackupWord, Member};
use pgaa_core::backup::repository::{StanzaContents, as_said, gaps, windows};
use pgaa_core::ids::NodeId;
use pgaa_core::roster::Roster;
use pgaa_core::status::{BackupOwner, BackupReport, Finding, Health, LastBackup, RunningBackup};
use pgaa_core::time::Now;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Nobody owning the backups for this long beyond the hand-over is worth a word; before it is the
/// usual way.
const VACANT_TOO_LONG: Duration = Duration::from_secs(120);

/// A repository that has not answered for so long is said not to; the question may go on for minutes.
const UNANSWERED_TOO_LONG: Duration = Duration::from_secs(10);

/// Failures of archiving that pass within this time are not worth a word.
const FAILING_TOO_LONG_MS: i64 = 15_000;

impl Keeper {
    pub(super) fn tell(&mut self, roster: Option<&Roster>, now: Now) {
        let problem = self.problem(now);
        let word = BackupWord {
            able: self.unable().is_none(),
            claim: self.held.standing.claim,
            wish: self.open_wish(),
            archived_until: self.archived_until(),
            gap_since: self.held.archiving.gap_since,
            problem: problem.as_ref().map(|p| p.text.clone()).unwrap_or_default(),
        };
        self.node.backups.word.send_if_modified(|said| {
            let changed = *said != word;
            said.clone_from(&word);
            changed
        });
        let report = self.report(roster, now);
        let findings = self.findings(roster, &report, problem, now);
        let mut shown = self.node.backups.shown();
        shown.report = Some(report);
        shown.findings = findings;
    }

    /// The operator's wish, until a claim has answered it.
    fn open_wish(&self) -> Option<claim::Wish> {
        let mut asked = self.node.backups.asked();
        let claims = self.members.iter().filter_map(|m| m.claim);
        let highest = claims.map(|claim| claim.epoch).max().unwrap_or(0);
        asked.wish = asked.wish.filter(|wish| wish.epoch > highest);
        asked.wish
    }

    /// What is wrong with archiving or backups here, the worst of it.
    fn problem(&self, now: Now) -> Option<Finding> {
        let archiving = &self.held.archiving;
        let critical = |code: &str, text: String| finding(Health::Critical, code, text, SHOW);
        let why = self.pace.archive_problem().map(str::to_owned);
        let why = why.or_else(|| self.unanswered(now));
        if archiving.let_go {
            let why = why.unwrap_or_else(|| "it is tried again by itself".to_owned());
            let text = format!(
                "the repository takes no WAL, and more waited for it than may: what was changed since can't \
                 be restored until it is back and a full backup is taken, by itself; {why}"
            );
            return Some(critical("wal_let_go", text));
        }
        if let Some(text) = self.failing(now) {
            return Some(finding(Health::Degraded, "archive_failing", text, SHOW));
        }
        if let (true, None, Some(why)) = (self.held.standing.archives(), archiving.since, why) {
            let text = format!("archiving can't begin: {why}");
            return Some(finding(Health::Degraded, "archive_failing", text, SHOW));
        }
        let failed = self.pace.backup_problem()?;
        let covered = self.held.standing.claim.is_some_and(|claim| claim.covered);
        let (severity, what) = match covered {
            true => (Health::Degraded, "the last backup failed"),
            false => (
                Health::Critical,
                "there is no backup of this node yet, and taking one failed",
            ),
        };
        Some(finding(
            severity,
            "backup_failed",
            format!("{what}: {failed}"),
            SHOW,
        ))
    }

    fn failing(&self, now: Now) -> Option<String> {
        let stuck = |facts: &&ArchiverFacts| facts.failing() || facts.hanging(now.wall);
        let facts = self.facts().filter(stuck)?;
        self.held.archiving.since?;
        let since = facts.waiting_since?;
        let age_ms = now.wall.0.saturating_sub(since.0);
        if age_ms < FAILING_TOO_LONG_MS {
            return None;
        }
        let otherwise = || match self.pace.takes_wal() {
            true => {
                "the repository takes WAL again, and the server tries within a minute".to_owned()
            }
            false => "see the server's log".to_owned(),
        };
        let why = self.pace.archive_problem().map(str::to_owned);
        let why = why
            .or_else(|| self.unanswered(now))
            .unwrap_or_else(otherwise);
        let may = self.looked.as_ref().and_then(|looked| looked.bytes_max);
        let may = may.map_or_else(String::new, |may| format!(", {} MB may", may >> 20));
        Some(format!(
            "archiving {} since {} s, {} MB of WAL wait{may}: {why}",
            if facts.failing() { "fails" } else { "hangs" },
            age_ms / 1000,
            facts.waiting_bytes() >> 20
        ))
    }

    /// What is asked of the repository hangs, and has not failed yet.
    fn unanswered(&self, now: Now) -> Option<String> {
        let doing = self.doing.as_ref()?;
        let asks = !matches!(doing.errand, Errand::Backup(_));
        let late = now.mono.since(doing.since.mono) > UNANSWERED_TOO_LONG;
        (asks && late).then(|| format!("it does not answer; {}", Cause::Unreachable.remedy()))
    }

    fn report(&self, roster: Option<&Roster>, now: Now) -> BackupReport {
        let settings = &self.node.settings.backup;
        let kind = settings.repository.as_ref();
        let repository = kind
            .map(|repository| format!("{}, {}", repository.describe(), settings.path.display()));
        let contents = as_said(self.contents.clone(), &|node| self.word_of(roster, node));
        let windows = windows(&contents);
        let mut owners = owners(&self.members);
        owners.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let named = |node: NodeId| roster.map_or_else(|| node.short(), |r| r.name_of(node));
        let owner = |member: &Member| {
            let claim = member.claim?;
            Some(BackupOwner {
                node: member.node,
                name: named(member.node),
                epoch: claim.epoch,
                since: claim.since,
                covered: claim.covered,
                reachable: member.reachable,
                archived_until: self
                    .word_of(roster, member.node)
                    .and_then(|w| w.archived_until),
                problem: self
                    .word_of(roster, member.node)
                    .map(|w| w.problem)
                    .unwrap_or_default(),
            })
        };
        let facts = self.facts().filter(|_| self.held.archiving.since.is_some());
        BackupReport {
            repository: repository.unwrap_or_default(),
            owners: owners
                .iter()
                .filter_map(|(_, member)| owner(member))
                .collect(),
            archiving: self.held.archiving.since,
            waiting_bytes: facts.map_or(0, |facts| facts.waiting_bytes()),
            waiting_since: facts.and_then(|facts| facts.waiting_since),
            waiting_bytes_max: self.looked.as_ref().and_then(|looked| looked.bytes_max),
            running: self.doing.as_ref().and_then(running),
            last: last(&contents),
            next: self.held.standing.claim.and(self.next_scheduled(now.wall)),
            gaps: gaps(&windows),
            windows,
            unable: self.unable(),
            unread: self.pace.list_problem().map(str::to_owned),
        }
    }

    fn word_of(&self, roster: Option<&Roster>, node: NodeId) -> Option<BackupWord> {
        if node == self.node.id() {
            return Some(self.node.backups.word.borrow().clone());
        }
        Some(roster?.records.get(&node)?.backup.clone())
    }

    fn findings(
        &self,
        roster: Option<&Roster>,
        report: &BackupReport,
        problem: Option<Finding>,
        now: Now,
    ) -> Vec<Finding> {
        let mut findings: Vec<Finding> = problem.into_iter().collect();
        for owner in report
            .owners
            .iter()
            .filter(|owner| owner.node != self.node.id())
        {
            if owner.reachable && !owner.problem.is_empty() {
                let text = format!(
                    "{}, which owns the backups, says: {}",
                    owner.name, owner.problem
                );
                findings.push(finding(Health::Degraded, "backup_problem", text, SHOW));
            }
        }
        findings.extend(self.vacant(roster, report, now));
        findings.extend(self.lost());
        // Before all was looked at, it isn't known yet.
        let looked = self.fitness.is_some() && self.looked.is_some() && roster.is_some();
        let unable = self.unable().filter(|_| looked);
        if let (Some(why), true) = (unable, self.ready()) {
            let text = format!("this node can't own the backups: {why}");
            let severity = match report.owners.is_empty() {
                true => Health::Degraded,
                false => Health::Ok,
            };
            findings.push(finding(severity, "backup_unable", text, CONFIGURATION));
        }
        findings
    }

    /// What this node had in the repository is there no more.
    fn lost(&self) -> Option<Finding> {
        self.held.standing.claim.filter(|claim| claim.covered)?;
        let (own, _) = (self.own.as_ref()?, self.contents_at?);
        if of(&self.contents, own).is_some_and(|contents| !contents.backups.is_empty()) {
            return None;
        }
        let text = "the repository holds none of the backups that were taken: see that backup.path is \
                    right and that the repository is there, as it was; if it is lost for good, the \
                    command makes a new one, from which what is changed from then on can be restored";
        Some(finding(
            Health::Critical,
            "backup_lost",
            text.to_owned(),
            ANEW,
        ))
    }

    fn ready(&self) -> bool {
        self.node.knowledge.life().stage == pgaa_core::life::Stage::Ready
    }

    fn vacant(&self, roster: Option<&Roster>, report: &BackupReport, now: Now) -> Option<Finding> {
        roster?;
        let since = self.vacancy.since()?;
        let hand_over = self.node.settings.policy.backup.hand_over;
        let age = now.mono.since(since);
        if let Some(owner) = report.owners.first() {
            let text = format!(
                "{}, which owns the backups, is gone for {} s; another node takes over after {} s",
                owner.name,
                age.as_secs(),
                hand_over.as_secs()
            );
            return Some(finding(Health::Degraded, "backup_owner_gone", text, MOVE));
        }
        let late = age > hand_over + VACANT_TOO_LONG;
        late.then(|| {
            let text =
                "no node owns the backups: none that is ready and not excluded can".to_owned();
            finding(Health::Critical, "backup_no_owner", text, CONFIGURATION)
        })
    }
}

const SHOW: &str = "pgaa-agent backup status";
const ANEW: &str = "pgaa-agent backup run full";
const MOVE: &str = "pgaa-agent backup owner --move-to NAME, to have it at once";
const CONFIGURATION: &str =
    "pgaa-agent backup status, and [backup] in pgaa-agent config show --origin";

fn finding(severity: Health, code: &str, text: String, command: &str) -> Finding {
    Finding {
        severity,
        code: code.to_owned(),
        text,
        command: command.to_owned(),
    }
}

/// Who claims to own the backups, with the rank of the claim.
fn owners(members: &[Member]) -> Vec<(u64, Member)> {
    let claimed = members.iter().filter_map(|m| Some((m.claim?.epoch, *m)));
    claimed.collect()
}

fn running(doing: &Doing) -> Option<RunningBackup> {
    let Errand::Backup(kind) = &doing.errand else {
        return None;
    };
    Some(RunningBackup {
        kind: *kind,
        since: doing.since.wall,
        percent: doing.done.load(Ordering::Relaxed) / 100,
    })
}

/// The newest backup of all.
fn last(contents: &[StanzaContents]) -> Option<LastBackup> {
    let all = contents.iter().flat_map(|contents| &contents.backups);
    all.max_by_key(|backup| backup.stopped_at)
        .map(|backup| LastBackup {
            label: backup.label.clone(),
            kind: backup.kind,
            node_name: backup.node_name.clone(),
            stopped_at: backup.stopped_at,
            stored_bytes: backup.stored_bytes,
        })
}
