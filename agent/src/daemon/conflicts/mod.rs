//! Reads conflicts from the server's log into the database, for as long as the agent runs.
//!
//! Each round reads a block of whole lines and stores what it found together with the position
//! behind it. Whatever fails, the next round begins with what the database says: so each line
//! counts once. At rest a round is two questions to the file system.

mod emptied;
mod lags;
mod rivals;
mod round;
mod rows;
mod settle;
mod skip;
mod tell;
mod transaction;

pub use settle::run as settle;
pub use skip::skip;
pub use tell::tell;

use super::node::Node;
use super::origins;
use crate::events::Severity;
use crate::postgres::conflicts::{LogBatch, LogPlace, LogState};
use crate::postgres::log_files::{self, Pulse, Room};
use anyhow::Context;
use log::{debug, info, warn};
use pgaa_core::clock::distrust::Pair;
use pgaa_core::conflicts::Failure;
use pgaa_core::conflicts::digest::{Digest, Known};
use pgaa_core::conflicts::judge::Lags;
use pgaa_core::ids::{Lsn, NodeId, pglogical_node_name};
use pgaa_core::observed::PostgresFacts;
use pgaa_core::roster::Roster;
use pgaa_core::time::{Mono, Wall};
use round::Round;
use rows::Shapes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two rounds when nothing is new.
const REST: Duration = Duration::from_secs(1);

/// Between two rounds while lines come in: fewer, larger transactions.
const BUSY: Duration = Duration::from_millis(200);

/// After something has failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// How long what was asked of the server counts: its settings, origins, columns of tables.
const FRESH: Duration = Duration::from_secs(60);

/// Between two looks at the counts, while they change.
const COUNT_PERIOD: Duration = Duration::from_secs(5);

/// Between two removals of what is old.
const PRUNE_PERIOD: Duration = Duration::from_secs(600);

/// What our own files of the log may take. Beyond the first number the oldest go that were read;
/// beyond the second all do, so that the disk never fills.
const ROOM: Room = Room {
    kept: 512 << 20,
    unread: 2 << 30,
};

/// How long conflicts are kept, and how many: about a kilobyte each.
const KEPT_DAYS: u32 = 30;
const KEPT_MAX: u64 = 200_000;

/// What ended earlier was marked while it lasted, by whichever run of the agent; milliseconds.
const MARK_MS: i64 = 3_600_000;

/// Reads until the task is dropped.
pub async fn run(node: Arc<Node>) {
    let mut reader = Reader::new(node);
    let mut told = String::new();
    loop {
        let pause = match reader.turn().await {
            Ok(pause) => {
                told.clear();
                pause
            }
            Err(error) => {
                // Whether the last transaction was done isn't known.
                reader.state = None;
                let text = format!("{error:#}");
                if text != told {
                    warn!("conflicts can't be read at the moment: {text}");
                    told = text;
                }
                AFTER_FAILURE
            }
        };
        if pause == REST {
            reader.node.clocks.pulse(REST).await;
        } else {
            sleep(pause).await;
        }
    }
}

/// How far the changes of a node were applied here.
pub fn applied(facts: &PostgresFacts, roster: &Roster, provider: NodeId) -> Option<Lsn> {
    let name = pglogical_node_name(provider, roster.epoch(provider)?);
    let mut subscriptions = facts.subscriptions.values();
    let found = subscriptions.find(|subscription| subscription.provider == name)?;
    Some(found.position)
}

/// Rows may differ that nobody has named: only a comparison of all tables finds them.
fn tell_gap(node: &Node, why: String) {
    let text = format!(
        "rows may differ unseen: {why}; a comparison of all tables finds them: pgaa-agent verify"
    );
    node.event(Severity::Warning, "conflict_log_gap", text);
    node.conflicts.send_modify(|report| {
        report.gap.get_or_insert(why);
    });
}

/// The same for something that was done, and isn't in the log.
async fn note_gap(node: &Node, why: String) {
    let batch = LogBatch {
        gap: Some(why.clone()),
        ..LogBatch::default()
    };
    match node.postgres.record_log(&batch).await {
        Ok(()) => node.rows_named.notify_one(),
        Err(error) => warn!("that rows may differ now is noted in memory only: {error}"),
    }
    tell_gap(node, why);
}

/// All tables were compared and found equal, which took so long; or, without that, all that were
/// named: what a gap in the log has left unnamed before doesn't matter any more.
pub async fn close_gap(node: &Node, took: Option<Duration>) -> anyhow::Result<()> {
    if node.postgres.close_log_gap(took).await? {
        node.conflicts.send_modify(|report| report.gap = None);
    }
    Ok(())
}

/// The reader and what it remembers.
struct Reader {
    node: Arc<Node>,
    place: Option<LogPlace>,
    state: Option<LogState>,
    known: Known,
    shapes: Shapes,
    asked: Option<Mono>,
    newest: Option<String>,
    pulse: Option<Pulse>,
    counted: Option<Mono>,
    pruned: Option<Mono>,
    /// Has anything been read since the counts were looked at?
    dirty: bool,
    /// Periods of distrust whose conflicts are marked.
    marked: BTreeSet<(Pair, Wall)>,
    /// The last transaction that each subscription failed at.
    failed: BTreeMap<u32, Option<u64>>,
}

impl Reader {
    fn new(node: Arc<Node>) -> Reader {
        let known = Known {
            database: 0,
            me: node.id(),
            origins: BTreeMap::new(),
            lags: Lags::default(),
            distrust: node.distrust.borrow().as_ref().clone(),
        };
        Reader {
            node,
            place: None,
            state: None,
            known,
            shapes: Shapes::new(),
            asked: None,
            newest: None,
            pulse: None,
            counted: None,
            pruned: None,
            dirty: true,
            marked: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// One round. Returns how long the next may wait.
    async fn turn(&mut self) -> anyhow::Result<Duration> {
        let now = self.node.clocks.now();
        lags::note(&self.node, &mut self.known.lags, now);
        if self.node.local.borrow().epoch.is_none() || !*self.node.migrated.borrow() {
            return Ok(REST);
        }
        self.ask(now.mono).await?;
        self.settle_failures();
        self.mark_distrusted().await?;
        self.keep_house(now.mono).await?;
        let Some(place) = self.place.clone().filter(|place| place.current.is_some()) else {
            return Ok(REST);
        };
        let pulse = log_files::pulse(&place.directory, self.newest.as_deref());
        if pulse.is_some() && pulse == self.pulse {
            return Ok(REST);
        }
        let round = self.read(&place).await?;
        let behind = round.behind;
        let something = !round.is_empty();
        self.newest.clone_from(&round.newest);
        if something {
            self.store(round).await?;
            self.dirty = true;
        }
        self.node
            .conflicts
            .send_modify(|report| report.behind_bytes = behind);
        if something && behind > 0 {
            return Ok(Duration::ZERO);
        }
        self.make_room(&place);
        // A file that was there at the look and grew since has another pulse now.
        self.pulse = pulse.filter(|_| !something);
        Ok(if something { BUSY } else { REST })
    }

    /// Asks the server what a round rests on.
    async fn ask(&mut self, now: Mono) -> anyhow::Result<()> {
        let fresh = |asked: Mono| now.since(asked) < FRESH;
        let logging = self.place.as_ref().is_some_and(|p| p.current.is_some());
        let soon = !logging && self.asked.is_none_or(|asked| now.since(asked) > REST * 5);
        if self.asked.is_some_and(fresh) && self.state.is_some() && !soon {
            return Ok(());
        }
        let postgres = &self.node.postgres;
        let place = postgres.log_place().await?;
        self.known.database = place.database;
        self.known.origins = origins::read(&self.node).await?;
        if self.state.is_none() {
            let state = postgres.log_state().await?;
            self.pulse = None;
            let gap = state.gap.clone();
            self.node.conflicts.send_modify(|report| report.gap = gap);
            self.state = Some(state);
        }
        self.shapes.clear();
        self.say_whether(&place);
        self.place = Some(place);
        self.asked = Some(now);
        Ok(())
    }

    /// Tells whether conflicts are read, and if not, why.
    fn say_whether(&self, place: &LogPlace) {
        let off = match (place.current.is_some(), place.whole) {
            (true, true) => None,
            (true, false) => Some(
                "the server's log leaves conflicts out, or their rows: set log_error_verbosity = \
                 default and log_min_messages = warning"
                    .to_owned(),
            ),
            (false, _) => Some(
                "the server writes no JSON log: a restart that is pending brings it (pgaa-agent \
                 restart), or logging was configured by hand: set logging_collector = on and add \
                 jsonlog to log_destination"
                    .to_owned(),
            ),
        };
        let before = self.node.conflicts.borrow().reading;
        if !before && off.is_none() {
            info!("conflicts are read from {}", place.directory.display());
        }
        self.node.conflicts.send_modify(|report| {
            report.reading = off.is_none();
            report.off = off;
        });
    }

    /// Reads a block.
    async fn read(&mut self, place: &LogPlace) -> anyhow::Result<Round> {
        let mut round = self.read_block(place).await?;
        if round.digest.has_strangers(&self.known) {
            // An edge that is new; nothing was stored yet, so it is read once more.
            let origins = origins::read(&self.node).await?;
            if origins != self.known.origins {
                self.known.origins = origins;
                round = self.read_block(place).await?;
            }
        }
        let state = self.state.as_ref();
        if state.is_some_and(|state| state.begun && state.positions.is_empty()) {
            let why = "how far the log was read is not known any more".to_owned();
            round.gap.get_or_insert(why);
        }
        if let Some(unreadable) = &round.digest.unreadable {
            let of = unreadable.relation.as_ref();
            let of = of.map_or(String::new(), |relation| format!(" in {}", relation.quoted));
            let why = format!(
                "a line about a conflict{of} can't be read: {}",
                unreadable.why
            );
            round.gap.get_or_insert(why);
        }
        Ok(round)
    }

    async fn read_block(&self, place: &LogPlace) -> anyhow::Result<Round> {
        let positions = self.state.as_ref().map(|state| state.positions.clone());
        let positions = positions.unwrap_or_default();
        let (directory, known) = (place.directory.clone(), self.known.clone());
        let work = move || round::read_on(&directory, &positions, &known);
        let read = tokio::task::spawn_blocking(work).await?;
        read.with_context(|| {
            format!(
                "the log in {} can't be read by this agent's account",
                place.directory.display()
            )
        })
    }

    /// Stores what a round has brought.
    async fn store(&mut self, round: Round) -> anyhow::Result<()> {
        self.learn_shapes(&round.digest).await?;
        let mut batch = self.batch(&round.digest);
        batch.moves = round.moves;
        batch.gone = round.gone;
        batch.gap = round.gap;
        self.node.postgres.record_log(&batch).await?;
        if !batch.suspects.is_empty() || batch.gap.is_some() {
            self.node.rows_named.notify_one();
        }
        let state = self.state.get_or_insert_default();
        state.begun = true;
        for step in &batch.moves {
            state.positions.insert(step.file.clone(), step.to);
        }
        for file in &batch.gone {
            state.positions.remove(file);
        }
        for failure in round.digest.failures {
            self.note_failure(failure);
        }
        if let Some(why) = batch.gap {
            tell_gap(&self.node, why);
        }
        Ok(())
    }

    /// An apply worker gave up, and will try again.
    fn note_failure(&self, failure: Failure) {
        let origin = failure.commit.map(|commit| commit.origin);
        let provider = origin.and_then(|origin| self.known.origins.get(&origin).copied());
        let now = self.node.clocks.mono();
        let text = format!(
            "changes of another node can't be applied: {}; where it stands still, and what helps: \
             pgaa-agent status",
            failure.message
        );
        let news = self.node.stuck.send_if_modified(|stuck| {
            // A connection that broke is no transaction that fails.
            failure.commit.is_some() && stuck.note(failure, provider, now)
        });
        if news {
            self.node.event(Severity::Critical, "apply_stuck", text);
        }
    }

    /// Forgets failures that are over.
    fn settle_failures(&self) {
        if self.node.stuck.borrow().is_empty() {
            return;
        }
        let (facts, roster) = (self.node.last_facts(), self.node.knowledge.roster());
        let applied = |other| applied(facts.as_deref()?, roster.as_ref()?, other);
        let now = self.node.clocks.mono();
        self.node
            .stuck
            .send_modify(|stuck| stuck.settle(now, applied));
    }

    /// Asks for the columns of tables that are new here.
    async fn learn_shapes(&mut self, digest: &Digest) -> anyhow::Result<()> {
        // A table may have got other columns since it was asked for.
        for kept in &digest.kept {
            if !rows::fits(&kept.conflict, &self.shapes) {
                self.shapes.remove(&rows::name(&kept.conflict.relation));
            }
        }
        let named = digest
            .kept
            .iter()
            .map(|kept| rows::name(&kept.conflict.relation));
        let missing: BTreeSet<_> = named
            .filter(|name| !self.shapes.contains_key(name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = missing.into_iter().collect();
        let found = self.node.postgres.shapes(&missing).await?;
        self.shapes.extend(found);
        Ok(())
    }

    fn batch(&mut self, digest: &Digest) -> LogBatch {
        let roster = self.node.knowledge.roster();
        let names = |node: NodeId| {
            roster
                .as_ref()
                .map_or_else(|| node.short(), |roster| roster.name_of(node))
        };
        let row = |kept| rows::row(kept, &self.shapes, &names);
        let mut rows: Vec<_> = digest.kept.iter().map(row).collect();
        for failure in &digest.failures {
            // It fails again and again at the same transaction.
            let at = failure.commit.map(|commit| commit.lsn.0);
            if self.failed.insert(failure.subscription, at) != Some(at) {
                let origin = failure.commit.map(|commit| commit.origin);
                let remote = origin.and_then(|origin| self.known.origins.get(&origin).copied());
                rows.push(rows::failure_row(failure, remote, &names));
            }
        }
        let named = digest.kept.iter();
        LogBatch {
            suspects: named
                .flat_map(|kept| rows::suspects(kept, &self.shapes))
                .collect(),
            rows,
            tallies: rows::tallies(digest),
            ..LogBatch::default()
        }
    }

    /// Removes old files, where they are ours.
    fn make_room(&mut self, place: &LogPlace) {
        let Some(state) = self.state.as_ref().filter(|_| place.ours) else {
            return;
        };
        let read = |file: &log_files::Found| {
            let position = state.positions.get(&file.id);
            position.is_some_and(|position| position.ended && position.read_to >= file.size)
        };
        match log_files::make_room(&place.directory, ROOM, read) {
            Ok(lost) => {
                // The next round finds them gone, and says so.
                for path in lost {
                    warn!("{} was removed unread, to spare the disk", path.display());
                }
            }
            Err(error) => warn!("old logs in {} stay: {error}", place.directory.display()),
        }
    }

    /// Looks at the counts when they may have changed, and removes what is old.
    async fn keep_house(&mut self, now: Mono) -> anyhow::Result<()> {
        let due = |last: Option<Mono>, period| last.is_none_or(|last| now.since(last) >= period);
        let postgres = &self.node.postgres;
        let some = self.node.conflicts.borrow().day.lines > 0;
        if (self.dirty && due(self.counted, COUNT_PERIOD)) || (some && due(self.counted, FRESH)) {
            let (hour, day) = postgres.conflict_counts().await?;
            self.node.conflicts.send_modify(|report| {
                report.hour = hour;
                report.day = day;
            });
            self.counted = Some(now);
            self.dirty = false;
        }
        if due(self.pruned, PRUNE_PERIOD) {
            let removed = postgres.prune_conflicts(KEPT_DAYS, KEPT_MAX).await?;
            debug!("{removed} old conflicts were removed");
            self.pruned = Some(now);
        }
        Ok(())
    }

    /// Marks conflicts that clocks decided which turned out to be too far apart. Those to come are
    /// marked as they are read.
    async fn mark_distrusted(&mut self) -> anyhow::Result<()> {
        let distrust = Arc::clone(&self.node.distrust.borrow());
        if *distrust == self.known.distrust && self.counted.is_some() {
            return Ok(());
        }
        let recent = self.node.clocks.wall().0.saturating_sub(MARK_MS);
        for period in &distrust.periods {
            let mark = (period.pair, period.from);
            let old = period.until.is_some_and(|until| until.0 < recent);
            if old || self.marked.contains(&mark) {
                continue;
            }
            let (pair, from) = mark;
            let postgres = &self.node.postgres;
            let marked = postgres
                .distrust_conflicts(pair, from, period.until)
                .await?;
            if marked > 0 {
                let text =
                    format!("{marked} conflicts were decided by clocks that can't be trusted");
                self.node
                    .event(Severity::Warning, "conflicts_distrusted", text);
                self.dirty = true;
            }
            self.marked.insert(mark);
        }
        self.known.distrust = distrust.as_ref().clone();
        Ok(())
    }
}
