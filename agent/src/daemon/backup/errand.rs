//! What is asked of pgBackRest and the repository, one at a time, beside the loop.

use super::archive::of;
use super::{Held, Keeper};
use crate::backup::{BackupError, PgBackRest, Step as Copied, Version};
use crate::config::{Keep, Schedules};
use crate::events::Severity;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use log::{debug, info, warn};
use pgaa_core::backup::archiving::Step;
use pgaa_core::backup::due::{Because, covered, due};
use pgaa_core::backup::repository::{StanzaContents, windows};
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::time::{Mono, Now, Wall};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Between two attempts of something that failed; each failure doubles it, up to the second.
const AGAIN_MIN: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Between two questions whether the repository takes WAL again.
const PROBE: Duration = Duration::from_secs(20);

/// Between two looks at what the repository holds: the owner sees retention at work, the others
/// show what there is.
const LIST_OWNER: Duration = Duration::from_secs(600);
const LIST: Duration = Duration::from_secs(3_600);

/// Something that is asked of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    /// Which pgBackRest is this, and what does the repository hold?
    Meet,
    /// Make this node's stanza.
    Prepare(Stanza),
    /// Archive one segment by hand: does the repository take WAL, and what does it say if not?
    Push(Stanza, PathBuf),
    /// Take a backup.
    Backup(BackupKind),
    /// What does the repository hold?
    List,
}

/// How it came out.
pub(super) type Outcome = Result<Brought, String>;

/// What an errand has brought.
#[derive(Debug, Default)]
pub(super) struct Brought {
    version: Option<Version>,
    contents: Option<Vec<StanzaContents>>,
}

/// An errand under way. Dropping it ends it.
pub(super) struct Doing {
    pub errand: Errand,
    pub since: Now,
    /// Hundredths of a percent.
    pub done: Arc<AtomicU32>,
    pub work: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

/// When which errand may be tried next, and why the last one failed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Is the stanza there?
    pub prepared: bool,
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
    failures: u32,
    problem: Option<String>,
}

impl Attempt {
    fn may(&self, now: Mono) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    fn failed(&mut self, now: Mono, problem: String, pause_max: Duration) {
        let pause = AGAIN_MIN.saturating_mul(1 << self.failures.min(10));
        self.not_before = Some(now.plus(pause.min(pause_max)));
        self.failures += 1;
        self.problem = Some(problem);
    }

    fn succeeded(&mut self, now: Mono, pause: Duration) {
        *self = Attempt {
            not_before: Some(now.plus(pause)),
            ..Attempt::default()
        };
    }
}

impl Pace {
    /// Why archiving fails, as pgBackRest says it.
    pub fn archive_problem(&self) -> Option<&str> {
        let problems = [&self.push.problem, &self.prepare.problem];
        problems.into_iter().flatten().next().map(String::as_str)
    }

    /// Why the last backup failed.
    pub fn backup_problem(&self) -> Option<&str> {
        self.backup.problem.as_deref()
    }

    /// Why the repository can't be read.
    pub fn list_problem(&self) -> Option<&str> {
        self.list.problem.as_deref()
    }

    fn of(&mut self, errand: &Errand) -> &mut Attempt {
        match errand {
            Errand::Meet => &mut self.meet,
            Errand::Prepare(_) => &mut self.prepare,
            Errand::Push(..) => &mut self.push,
            Errand::Backup(_) => &mut self.backup,
            Errand::List => &mut self.list,
        }
    }
}

impl Keeper {
    /// Begins what is most urgent, when nothing is under way.
    pub(super) fn errands(&mut self, now: Now) {
        if self.doing.is_some() {
            return;
        }
        let Some(errand) = self.next(now) else {
            return;
        };
        let (config, tool) = (self.tool.write_config(self.own.as_ref()), self.tool.clone());
        if let Err(error) = config {
            let text = format!("{:#}", anyhow::Error::from(error));
            self.fitness = Some(Err(text.clone()));
            self.pace.meet.failed(now.mono, text, AGAIN_MAX);
            return;
        }
        debug!("backups: {errand:?}");
        let done = Arc::new(AtomicU32::new(0));
        let work: Pin<Box<dyn Future<Output = Outcome> + Send>> = match errand.clone() {
            Errand::Meet => Box::pin(meet(tool)),
            Errand::Prepare(own) => Box::pin(prepare(tool, own)),
            Errand::Push(own, segment) => Box::pin(push(tool, own, segment)),
            Errand::List => Box::pin(list(tool)),
            Errand::Backup(kind) => Box::pin(self.backup(tool, kind, Arc::clone(&done))),
        };
        self.doing = Some(Doing {
            errand,
            since: now,
            done,
            work,
        });
    }

    fn next(&mut self, now: Now) -> Option<Errand> {
        let own = self.own.clone()?;
        let met = matches!(self.fitness, Some(Ok(_)));
        if !met {
            return self.pace.meet.may(now.mono).then_some(Errand::Meet);
        }
        let step = self.step();
        if step == Step::Begin && !self.pace.prepared {
            return self
                .pace
                .prepare
                .may(now.mono)
                .then_some(Errand::Prepare(own));
        }
        let failing = self.facts().is_some_and(|facts| facts.failing());
        let archives = self.held.archiving.since.is_some();
        if (step == Step::Probe || (archives && failing)) && self.pace.push.may(now.mono) {
            match self.segment() {
                Some(segment) => return Some(Errand::Push(own, segment)),
                // There is nothing to try it with: archiving itself will tell.
                None if step == Step::Probe => self.repository_is_back(),
                None => {}
            }
        }
        if !failing {
            self.pace.push.problem = None;
        }
        if let Some(kind) = self.wanted(now) {
            return Some(Errand::Backup(kind));
        }
        let period = if self.held.standing.claim.is_some() {
            LIST_OWNER
        } else {
            LIST
        };
        let fresh = |at: Mono| now.mono.since(at) < period && self.listed_for == self.claims();
        let old = !self.contents_at.is_some_and(fresh);
        (old && self.pace.list.may(now.mono)).then_some(Errand::List)
    }

    fn claims(&self) -> Vec<(u64, bool)> {
        let claims = self.members.iter().filter_map(|m| m.claim);
        claims.map(|claim| (claim.epoch, claim.covered)).collect()
    }

    /// The backup that is to be taken now.
    fn wanted(&mut self, now: Now) -> Option<BackupKind> {
        self.held.standing.claim?;
        let since = self.held.archiving.since?;
        let asked = self.node.backups.asked().backup;
        if asked.is_none() && !self.pace.backup.may(now.mono) {
            return None;
        }
        let own = self.own.as_ref()?;
        // What the repository holds isn't known: a full backup might be there.
        self.contents_at?;
        let none = Vec::new();
        let backups = of(&self.contents, own).map_or(&none, |contents| &contents.backups);
        let schedules = &self.node.settings.backup.schedules;
        let due = due(now.wall, since, backups, &|kind, after| {
            next_of(schedules, kind, after)
        });
        match (due, asked) {
            (Some((kind, Because::NothingYet)), _) => Some(kind),
            (_, Some(asked)) => Some(asked),
            (Some((kind, Because::Scheduled(_))), None) => Some(kind),
            (None, None) => None,
        }
    }

    fn backup(
        &self,
        tool: PgBackRest,
        kind: BackupKind,
        done: Arc<AtomicU32>,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        let own = self.own.clone();
        let mut notes = vec![("node", self.node.settings.node.name.to_string())];
        let gap = self
            .held
            .archiving
            .gap_since
            .filter(|_| kind == BackupKind::Full);
        notes.extend(gap.map(|gap| ("gap-since-ms", gap.0.to_string())));
        let (keep, archiving) = (self.node.settings.backup.keep, self.archiving_nodes());
        let clocks = self.node.clocks;
        self.node.backups.asked().backup = None;
        async move {
            let own = own.ok_or("PostgreSQL has not answered yet")?;
            let mut progress = |step: Copied| done.store(step.done, Ordering::Relaxed);
            tool.backup(&own, kind, &notes, &mut progress)
                .await
                .map_err(words)?;
            let contents = tool.contents().await.map_err(words)?;
            let former = former(&contents, &own, &archiving);
            let from = kept_from(&contents, &own, keep, clocks.wall());
            expire(&tool, &contents, &former, from).await;
            Ok(Brought {
                contents: Some(tool.contents().await.map_err(words)?),
                ..Brought::default()
            })
        }
    }

    /// The stanzas of members that may be archiving.
    fn archiving_nodes(&self) -> Vec<pgaa_core::ids::NodeId> {
        let said = |roster: &pgaa_core::roster::Roster| {
            let records = roster.records.values();
            let archive =
                records.filter(|r| r.backup.claim.is_some() || r.backup.archived_until.is_some());
            archive.map(|record| record.node).collect()
        };
        self.node.knowledge.with_roster(said).unwrap_or_default()
    }

    /// Takes in how an errand came out.
    pub(super) fn came_back(&mut self, errand: Errand, outcome: Outcome) {
        let now = self.node.clocks.now();
        match outcome {
            Ok(brought) => self.succeeded(&errand, brought, now),
            Err(problem) => {
                if self.pace.of(&errand).problem.as_deref() != Some(problem.as_str()) {
                    warn!("backups: {problem}");
                    self.say_failed(&errand, &problem);
                }
                if errand == Errand::Meet {
                    self.fitness = Some(Err(problem.clone()));
                }
                let pause_max = match errand {
                    Errand::Push(..) => PROBE,
                    Errand::Meet | Errand::Prepare(_) | Errand::Backup(_) | Errand::List => {
                        AGAIN_MAX
                    }
                };
                self.pace.of(&errand).failed(now.mono, problem, pause_max);
            }
        }
    }

    fn say_failed(&self, errand: &Errand, problem: &str) {
        let (kind, text) = match errand {
            Errand::Backup(kind) => (
                "backup_failed",
                format!("a {} backup failed: {problem}", kind.word()),
            ),
            Errand::Push(..) | Errand::Prepare(_) => (
                "archive_failing",
                format!("the repository takes no WAL: {problem}"),
            ),
            Errand::Meet | Errand::List => return,
        };
        self.node.event(Severity::Warning, kind, text);
    }

    fn succeeded(&mut self, errand: &Errand, brought: Brought, now: Now) {
        let pause = match errand {
            Errand::Push(..) => PROBE,
            Errand::Meet | Errand::Prepare(_) | Errand::Backup(_) | Errand::List => Duration::ZERO,
        };
        self.pace.of(errand).succeeded(now.mono, pause);
        if let Some(version) = brought.version {
            self.fitness = Some(Ok(version));
        }
        if let Some(contents) = brought.contents {
            self.contents = contents;
            self.contents_at = Some(now.mono);
            self.listed_for = self.claims();
        }
        match errand {
            Errand::Prepare(_) => self.pace.prepared = true,
            Errand::Push(..) if self.held.archiving.let_go => self.repository_is_back(),
            Errand::Backup(kind) => {
                let text = format!("a {} backup was taken", kind.word());
                self.node.event(Severity::Info, "backup_taken", text);
            }
            Errand::Meet | Errand::Push(..) | Errand::List => {}
        }
    }

    /// The repository takes WAL again after some was let go.
    fn repository_is_back(&mut self) {
        let held = Held {
            archiving: self.held.archiving.back(),
            ..self.held.clone()
        };
        if self.hold(held) {
            let text = "the repository takes WAL again: archiving begins anew, with a full backup";
            self.node.event(Severity::Info, "repository_back", text);
        }
    }

    /// Once a full backup was taken since archiving began, the gap before it is noted on it, and
    /// whoever owned the backups before may stop to archive.
    pub(super) fn note_covered(&mut self) {
        let (Some(own), Some(since)) = (&self.own, self.held.archiving.since) else {
            return;
        };
        let backups = of(&self.contents, own).map(|contents| contents.backups.as_slice());
        if !covered(since, backups.unwrap_or_default()) {
            return;
        }
        let mut held = self.held.clone();
        held.archiving = held.archiving.covered();
        if let Some(claim) = &mut held.standing.claim {
            claim.covered = true;
        }
        self.hold(held);
    }

    /// When the next backup of any kind is due, for people.
    pub(super) fn next_scheduled(&self, now: Wall) -> Option<(BackupKind, Wall)> {
        let schedules = &self.node.settings.backup.schedules;
        let kinds = BackupKind::ALL.into_iter();
        let next = kinds.filter_map(|kind| Some((kind, next_of(schedules, kind, now)?)));
        next.min_by_key(|(_, at)| *at)
    }
}

/// The first time after `after` that the schedule of a kind names, by the machine's time zone.
fn next_of(schedules: &Schedules, kind: BackupKind, after: Wall) -> Option<Wall> {
    let schedule = schedules.of(kind)?;
    let after = Timestamp::from_millisecond(after.0).ok()?;
    let after = after.to_zoned(TimeZone::system());
    let next = schedule.find_next_occurrence(&after, false).ok()?;
    Some(Wall(next.timestamp().as_millisecond()))
}

fn words(error: BackupError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

async fn meet(tool: PgBackRest) -> Outcome {
    let version = tool.version().await.map_err(words)?;
    info!("pgBackRest {version}");
    Ok(Brought {
        version: Some(version),
        ..Brought::default()
    })
}

async fn prepare(tool: PgBackRest, own: Stanza) -> Outcome {
    tool.make_stanza(&own).await.map_err(words)?;
    list(tool).await
}

async fn push(tool: PgBackRest, own: Stanza, segment: PathBuf) -> Outcome {
    tool.push(&own, &segment).await.map_err(words)?;
    Ok(Brought::default())
}

async fn list(tool: PgBackRest) -> Outcome {
    Ok(Brought {
        contents: Some(tool.contents().await.map_err(words)?),
        ..Brought::default()
    })
}

/// Stanzas of nodes that have owned the backups and archive no more.
fn former(
    contents: &[StanzaContents],
    own: &Stanza,
    archiving: &[pgaa_core::ids::NodeId],
) -> Vec<Stanza> {
    let others = contents.iter().map(|contents| &contents.stanza);
    let idle = others.filter(|stanza| {
        let owner = stanza.parts().map(|(node, _)| node);
        *stanza != own && owner.is_some_and(|owner| !archiving.contains(&owner))
    });
    idle.cloned().collect()
}

/// The first moment that has to stay possible to restore, where what this node has alone reaches
/// back so far; `None` while what others have is still part of it.
fn kept_from(contents: &[StanzaContents], own: &Stanza, keep: Keep, now: Wall) -> Option<Wall> {
    const DAY_MS: i64 = 24 * 3_600 * 1_000;
    let own = of(contents, own)?;
    let full = own.backups.iter().filter(|b| b.kind == BackupKind::Full);
    let full: Vec<Wall> = full.map(|backup| backup.stopped_at).collect();
    let oldest = full.iter().min().copied()?;
    match keep.days {
        Some(days) => Some(Wall(now.0.saturating_sub(i64::from(days) * DAY_MS))),
        None => (full.len() >= usize::from(keep.full)).then_some(oldest),
    }
}

/// Former owners' stanzas go by the same retention. pgBackRest always keeps the last full backup
/// of a stanza: one that ends before all that the retention keeps is removed whole.
async fn expire(
    tool: &PgBackRest,
    contents: &[StanzaContents],
    former: &[Stanza],
    from: Option<Wall>,
) {
    for stanza in former {
        let all = windows(contents);
        let until = all
            .iter()
            .filter(|w| w.stanza == *stanza)
            .map(|w| w.until)
            .max();
        let outlived = from.is_some_and(|from| until.is_some_and(|until| until < from));
        let gone = match outlived {
            true => tool.remove_stanza(stanza).await,
            false => tool.expire(stanza).await,
        };
        match gone {
            Ok(()) if outlived => {
                info!("{stanza} was removed: all in it is older than what is kept")
            }
            Ok(()) => {}
            Err(error) => warn!("what is too old in {stanza} can't be removed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgaa_core::backup::repository::BackupSet;
    use pgaa_core::ids::{Lsn, NodeId};
    use uuid::Uuid;

    fn stanza(node: u128) -> Stanza {
        Stanza::new(NodeId(Uuid::from_u128(node)), 1)
    }

    fn contents(node: u128, days: &[i64]) -> StanzaContents {
        let at = |day: &i64| Wall(day * 24 * 3_600 * 1_000);
        let backups = days.iter().map(|day| BackupSet {
            label: String::new(),
            kind: BackupKind::Full,
            started_at: at(day),
            stopped_at: at(day),
            wal_start: Lsn(0),
            wal_stop: Lsn(0),
            size_bytes: 0,
            stored_bytes: 0,
            damaged_pages: false,
            node_name: String::new(),
            gap_since: None,
        });
        StanzaContents {
            stanza: stanza(node),
            backups: backups.collect(),
            wal_last: None,
            archived_at: None,
            problem: None,
            running: false,
        }
    }

    #[test]
    fn what_others_have_counts_until_the_owner_has_enough_itself() {
        let now = contents(1, &[30]).backups[0].stopped_at;
        let from = |days: &[i64], keep| {
            let from = kept_from(&[contents(1, days)], &stanza(1), keep, now);
            from.map(|from| from.0 / (24 * 3_600 * 1_000))
        };
        let by_count = Keep {
            full: 2,
            days: None,
            differential: None,
        };
        assert_eq!(from(&[20], by_count), None);
        assert_eq!(from(&[20, 27], by_count), Some(20));
        let by_days = Keep {
            days: Some(14),
            ..by_count
        };
        assert_eq!(from(&[20, 27], by_days), Some(16));
        assert_eq!(from(&[], by_days), None);
    }

    #[test]
    fn only_stanzas_of_others_that_archive_no_more_are_former_ones() {
        let all = [contents(1, &[1]), contents(2, &[1]), contents(3, &[1])];
        let archiving = [NodeId(Uuid::from_u128(2))];
        assert_eq!(former(&all, &stanza(1), &archiving), [stanza(3)]);
    }

    #[test]
    fn schedules_name_the_next_time() {
        let settings = crate::config::BackupSettings::default();
        let schedules = Schedules {
            full: "0 1 * * 0".parse().ok(),
            ..settings.schedules
        };
        // Whatever the zone: 2026-11-21 is a Saturday, and a week has one first hour of a Sunday.
        let after = Wall(1_795_221_489_000);
        let next = next_of(&schedules, BackupKind::Full, after).unwrap();
        assert!(
            next > after && next.0 - after.0 <= 8 * 24 * 3_600_000,
            "{next:?}"
        );
        let week = next_of(&schedules, BackupKind::Full, next).unwrap();
        assert!((week.0 - next.0 - 7 * 24 * 3_600_000).abs() <= 3_600_000);
        assert_eq!(next_of(&schedules, BackupKind::Incremental, after), None);
    }
}
