//! What is asked of pgBackRest and the repository, one at a time, beside the loop.

use super::archive::of;
use super::pace::AGAIN_MAX;
use super::retention::{expire, former, kept_from};
use super::{Held, Keeper};
use crate::backup::{BackupError, PgBackRest, Step as Copied, Version};
use crate::config::Schedules;
use crate::daemon::node::Node;
use crate::events::Severity;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use log::{debug, info, warn};
use pgaa_core::backup::archiving::{ArchiverFacts, Step};
use pgaa_core::backup::due::{covered, due};
use pgaa_core::backup::repository::StanzaContents;
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::ids::NodeId;
use pgaa_core::roster::Roster;
use pgaa_core::time::{Mono, Now, Wall};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
            self.pace
                .of(&Errand::Meet)
                .failed(now.mono, text, AGAIN_MAX);
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
        if !matches!(self.fitness, Some(Ok(_))) {
            return self.may(Errand::Meet, now);
        }
        self.take_wish();
        let step = self.step();
        let stuck = |facts: &ArchiverFacts| facts.failing() || facts.hanging(now.wall);
        let fails = self.held.archiving.since.is_some() && self.facts().is_some_and(stuck);
        let trouble = fails || step == Step::Probe;
        if !self.pace.prepared && (step == Step::Begin || (trouble && self.pace.asked.is_some())) {
            let errand = self.may(Errand::Prepare(own.clone()), now);
            if errand.is_some() || step == Step::Begin {
                return errand;
            }
        }
        if trouble {
            // A backup would fail as well: it has to wait.
            return self.try_a_segment(own, step, now).or(self.look_up(now));
        }
        if self.pace.archives_again() {
            self.repository_answers();
        }
        let backup = self.wanted(now).map(Errand::Backup);
        backup.or_else(|| self.look_up(now))
    }

    fn may(&mut self, errand: Errand, now: Now) -> Option<Errand> {
        self.pace.of(&errand).may(now.mono).then_some(errand)
    }

    /// What an operator has asked for is done by whoever owns the backups.
    fn take_wish(&mut self) {
        if let Some(kind) = self.node.backups.asked().backup.take() {
            self.pace.ask(kind);
        }
        if self.held.standing.claim.is_none() {
            self.pace.asked = None;
        }
    }

    fn try_a_segment(&mut self, own: Stanza, step: Step, now: Now) -> Option<Errand> {
        let segment = self.segment();
        if segment.is_none() && step == Step::Probe {
            // There is nothing to try it with: archiving itself will tell.
            self.repository_is_back();
        }
        self.may(Errand::Push(own, segment?), now)
    }

    fn look_up(&mut self, now: Now) -> Option<Errand> {
        let period = if self.held.standing.claim.is_some() {
            LIST_OWNER
        } else {
            LIST
        };
        let fresh = |at: Mono| now.mono.since(at) < period && self.listed_for == self.claims();
        let old = !self.contents_at.is_some_and(fresh);
        old.then(|| self.may(Errand::List, now)).flatten()
    }

    fn claims(&self) -> Vec<(u64, bool)> {
        let claims = self.members.iter().filter_map(|m| m.claim);
        claims.map(|claim| (claim.epoch, claim.covered)).collect()
    }

    /// The backup that is to be taken now.
    fn wanted(&mut self, now: Now) -> Option<BackupKind> {
        self.held.standing.claim?;
        let since = self.held.archiving.since?;
        self.may(Errand::Backup(BackupKind::Full), now)?;
        let own = self.own.as_ref()?;
        // What the repository holds isn't known: a full backup might be there.
        self.contents_at?;
        let none = Vec::new();
        let backups = of(&self.contents, own).map_or(&none, |contents| &contents.backups);
        let schedules = &self.node.settings.backup.schedules;
        let due = due(now.wall, since, backups, &|kind, after| {
            next_of(schedules, kind, after)
        });
        // The larger of the two serves for both.
        due.map(|(kind, _)| kind).max(self.pace.asked)
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
        let node = Arc::clone(&self.node);
        async move {
            let own = own.ok_or("PostgreSQL has not answered yet")?;
            let mut progress = |step: Copied| done.store(step.done, Ordering::Relaxed);
            tool.backup(&own, kind, &notes, &mut progress)
                .await
                .map_err(words)?;
            let contents = tool.contents().await.map_err(words)?;
            let former = former(&contents, &own, &archiving_nodes(&node));
            let keep = node.settings.backup.keep;
            let from = kept_from(&contents, &own, keep, node.clocks.wall());
            expire(&tool, &contents, &former, from).await;
            Ok(Brought {
                contents: Some(tool.contents().await.map_err(words)?),
                ..Brought::default()
            })
        }
    }

    /// Takes in how an errand came out.
    pub(super) fn came_back(&mut self, errand: Errand, outcome: Outcome) {
        let now = self.node.clocks.now();
        match outcome {
            Ok(brought) => self.succeeded(&errand, brought, now),
            Err(_) if gone(&errand) => self.pace.of(&errand).postpone(now.mono),
            Err(problem) => {
                if self.pace.of(&errand).problem() != Some(problem.as_str()) {
                    warn!("backups: {problem}");
                    self.say_failed(&errand, &problem);
                    if matches!(errand, Errand::Push(..)) {
                        // What it holds may not be there any more.
                        self.contents_at = None;
                    }
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
        let failed = self.pace.of(errand).succeeded(now.mono, pause);
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
            Errand::Push(..) => {
                if self.held.archiving.let_go {
                    self.repository_is_back();
                }
                if failed {
                    self.repository_answers();
                }
            }
            Errand::Backup(kind) => {
                self.pace.asked = self.pace.asked.filter(|asked| asked > kind);
                let text = format!("a {} backup was taken", kind.word());
                self.node.event(Severity::Info, "backup_taken", text);
            }
            Errand::Meet | Errand::List => {}
        }
    }

    /// What has failed meanwhile is tried at once, and what is there looked up.
    fn repository_answers(&mut self) {
        self.pace.hurry();
        self.contents_at = None;
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

/// Was it about a segment that the server has removed meanwhile, as it does with WAL that is let go? Then
/// its failure says nothing of the repository.
fn gone(errand: &Errand) -> bool {
    match errand {
        Errand::Push(_, segment) => !segment.exists(),
        Errand::Meet | Errand::Prepare(_) | Errand::Backup(_) | Errand::List => false,
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

/// Members that may be archiving.
fn archiving_nodes(node: &Node) -> Vec<NodeId> {
    let said = |roster: &Roster| {
        let records = roster.records.values();
        let archive =
            records.filter(|r| r.backup.claim.is_some() || r.backup.archived_until.is_some());
        archive.map(|record| record.node).collect()
    };
    node.knowledge.with_roster(said).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
