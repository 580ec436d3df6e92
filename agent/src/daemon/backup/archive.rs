//! What the server does with its WAL: archives it, lets it go, and what is said when it can't.

use super::super::act::write_settings;
use super::super::node::Node;
use super::{Held, Keeper};
use crate::backup::PgBackRest;
use crate::durable;
use crate::events::Severity;
use crate::postgres;
use log::{debug, warn};
use nix::sys::signal::Signal;
use pgaa_core::backup::Stanza;
use pgaa_core::backup::archiving::{ArchiverFacts, LETS_GO, Step, decide, waiting_max};
use pgaa_core::backup::repository::StanzaContents;
use pgaa_core::time::{Mono, Now, Wall};
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks at the archiver while this node archives: WAL fills a disk within minutes.
const LOOK_ARCHIVING: Duration = Duration::from_secs(2);

/// Between two looks otherwise.
const LOOK: Duration = Duration::from_secs(15);

/// Between two times that the server is told once more what its command is.
const REPEAT: Duration = Duration::from_secs(30);

/// By how much the moment up to which can be restored may be behind on disk, milliseconds.
const KEEP_UNTIL_MS: i64 = 10_000;

/// How long a command that hangs may take to end itself.
const TERM_MAX: Duration = Duration::from_secs(6);

/// One look at the archiver.
#[derive(Debug)]
pub(super) struct Looked {
    pub at: Mono,
    pub facts: Result<ArchiverFacts, String>,
    /// How much may wait, bytes, where that is known.
    pub bytes_max: Option<u64>,
}

impl Keeper {
    pub(super) async fn look(&mut self, now: Now) {
        let period = match self.held.archiving.since.is_some() || self.held.standing.archives() {
            true => LOOK_ARCHIVING,
            false => LOOK,
        };
        let fresh = |looked: &Looked| {
            let patience = if looked.facts.is_ok() {
                period
            } else {
                LOOK_ARCHIVING
            };
            now.mono.since(looked.at) < patience
        };
        // Before there is a database there is nobody to ask.
        if self.looked.as_ref().is_some_and(fresh) || self.own.is_none() {
            return;
        }
        let facts = self.node.postgres.archiver().await;
        let facts = facts.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
        if let Ok(facts) = &facts {
            self.reach(facts).await;
            self.end_what_hangs(facts, now).await;
        }
        let policy = &self.node.settings.policy;
        let disk = postgres::wal_disk(&self.node.settings.postgres.data_dir).ok();
        let waiting = facts.as_ref().map_or(0, ArchiverFacts::waiting_bytes);
        self.looked = Some(Looked {
            at: now.mono,
            facts,
            bytes_max: waiting_max(&policy.backup, &policy.slots, disk.as_ref(), waiting),
        });
    }

    /// Notes up to which moment the archived WAL leads, and a later one for when more is.
    async fn reach(&mut self, facts: &ArchiverFacts) {
        let own = self.own.as_ref().map(|own| self.tool.archive_command(own));
        if self.held.archiving.since.is_none() || own.as_deref() != Some(facts.command.as_str()) {
            return;
        }
        if let Some(archived) = &facts.archived {
            let reached = self.marks.reached(archived);
            self.until = self.until.max(reached);
        }
        match self.node.postgres.mark_segment().await {
            Ok((at, segment)) => self.marks.note(at, segment),
            Err(error) => debug!("how far the WAL leads can't be noted: {error}"),
        }
    }

    /// The server is told to let its WAL go, and waits for a command of before: one that hangs would
    /// have WAL pile up beyond what may wait.
    async fn end_what_hangs(&mut self, facts: &ArchiverFacts, now: Now) {
        let Some(own) = self.own.as_ref().filter(|_| facts.let_go_in_vain()) else {
            self.ending_since = None;
            return;
        };
        let since = *self.ending_since.get_or_insert(now.mono);
        let how = match now.mono.since(since) < TERM_MAX {
            true => Signal::SIGTERM,
            false => Signal::SIGKILL,
        };
        match self
            .node
            .postgres
            .end_archive_command(own.as_str(), how)
            .await
        {
            Ok(0) => {}
            Ok(_) => warn!("an archive command that hangs was ended: its WAL is let go"),
            Err(error) => warn!("an archive command that hangs can't be ended: {error}"),
        }
    }

    /// Up to when what was archived leads, while this node archives.
    pub(super) fn archived_until(&self) -> Option<Wall> {
        let since = self.held.archiving.since?;
        let until = self.until.max(self.held.archiving.until);
        until.filter(|until| *until >= since)
    }

    /// Writes that down now and then, for an agent that is started anew.
    fn keep_until(&mut self) {
        let (before, until) = (self.held.archiving.until, self.archived_until());
        let later =
            |until: Wall| before.is_none_or(|b| until.0.saturating_sub(b.0) >= KEEP_UNTIL_MS);
        if until.is_some_and(later) {
            let held = Held {
                archiving: self.held.archiving.reached(until),
                ..self.held.clone()
            };
            self.hold(held);
        }
    }

    /// What the last look has found, where it has found something.
    pub(super) fn facts(&self) -> Option<&ArchiverFacts> {
        self.looked.as_ref()?.facts.as_ref().ok()
    }

    pub(super) fn step(&self) -> Step {
        let (Some(own), Some(facts)) = (&self.own, self.facts()) else {
            return Step::Stay;
        };
        let bytes_max = self.looked.as_ref().and_then(|looked| looked.bytes_max);
        let now = self.node.clocks.wall();
        let archives = self.held.standing.archives();
        let command = self.tool.archive_command(own);
        decide(
            now,
            archives,
            &self.held.archiving,
            facts,
            &command,
            bytes_max,
        )
    }

    /// Does what needs only the server; the rest is an errand.
    pub(super) async fn archive(&mut self, now: Now) {
        self.keep_until();
        let (step, Some(own)) = (self.step(), self.own.clone()) else {
            return;
        };
        let until = self.archived_until();
        let archiving = &self.held.archiving;
        match step {
            Step::Stay | Step::Probe => return,
            Step::Close => return self.close(now).await,
            // The stanza has to be there first.
            Step::Begin if !self.pace.prepared => return,
            Step::Begin => {
                let next = archiving.begun(now.wall, self.archived_before(&own));
                self.switch(Some(&own), next).await;
            }
            // Somebody's own file may say otherwise, and say it again.
            Step::Repeat if self.repeated_lately(now) => return,
            Step::Repeat => {
                self.pace.repeated_at = Some(now.mono);
                let next = archiving.clone();
                self.switch(Some(&own), next).await;
            }
            Step::End => {
                let next = archiving.ended(until);
                self.switch(None, next).await;
            }
            Step::LetGo {
                waiting_bytes,
                bytes_max,
            } => {
                let next = archiving.given_up(until);
                if self.switch(None, next).await {
                    self.pace.prepared = false;
                    // At once: the next look may be the first after it.
                    if let Some(Ok(facts)) = self.looked.take().map(|looked| looked.facts) {
                        let facts = ArchiverFacts {
                            command: LETS_GO.to_owned(),
                            ..facts
                        };
                        self.end_what_hangs(&facts, now).await;
                    }
                    self.say_let_go(waiting_bytes, bytes_max);
                }
            }
        }
        // What the server does now has to be seen anew.
        self.looked = None;
    }

    /// Completes the segment that is being written, to be the last that is archived.
    async fn close(&mut self, now: Now) {
        match self.node.postgres.end_segment().await {
            Ok((at, segment)) => self.marks.note(at, segment),
            Err(error) => {
                warn!("the last segment can't be completed: {error}");
                return;
            }
        }
        let held = Held {
            archiving: self.held.archiving.closing(Some(now.wall)),
            ..self.held.clone()
        };
        self.hold(held);
    }

    fn repeated_lately(&self, now: Now) -> bool {
        let at = self.pace.repeated_at;
        at.is_some_and(|at| now.mono.since(at) < REPEAT)
    }

    /// Up to when this node's WAL is in the repository, where backups of it are, from an earlier
    /// time of owning them.
    fn archived_before(&self, own: &Stanza) -> Option<Wall> {
        let contents = self
            .contents
            .iter()
            .find(|contents| contents.stanza == *own)?;
        let newest = contents.backups.last()?;
        contents.archived_at.or(Some(newest.stopped_at))
    }

    fn say_let_go(&self, waiting_bytes: u64, bytes_max: u64) {
        let text = format!(
            "{} MB of WAL waited for the repository, and {} MB may: it was let go, so that the database \
             goes on. What is changed from here on can't be restored until the repository is back and a \
             full backup is taken, which happens by itself",
            waiting_bytes >> 20,
            bytes_max >> 20
        );
        self.node.event(Severity::Critical, "wal_let_go", text);
    }

    /// Has the server archive for this stanza, or let its WAL go.
    async fn switch(
        &mut self,
        stanza: Option<&Stanza>,
        archiving: pgaa_core::backup::archiving::Archiving,
    ) -> bool {
        if let Err(error) = set_command(&self.node, &self.tool, stanza).await {
            warn!("archiving can't be switched: {error:#}");
            return false;
        }
        if archiving.since != self.held.archiving.since {
            self.marks.clear();
            self.until = None;
        }
        let began = self.held.archiving.since.is_none() && archiving.since.is_some();
        let ended = self.held.archiving.since.is_some() && archiving.since.is_none();
        let held = Held {
            archiving,
            ..self.held.clone()
        };
        if began {
            let text = "every segment of the WAL is archived from here on";
            self.node.event(Severity::Info, "archiving", text);
        }
        if ended {
            let text = "the WAL of this node is not archived any more";
            self.node.event(Severity::Info, "archiving", text);
        }
        self.hold(held)
    }

    /// A segment that the server is done with, or that it fails with.
    pub(super) fn segment(&self) -> Option<PathBuf> {
        let facts = self.facts()?;
        let wal = self.node.settings.postgres.data_dir.join("pg_wal");
        let failed = facts.failed.iter().filter(|_| facts.failing());
        let named = failed.chain(&facts.archived).map(|name| wal.join(name));
        named
            .into_iter()
            .find(|path| path.exists())
            .or_else(|| newest_done(&wal))
    }
}

/// The newest segment of which the server says that it was archived, and that is still there.
fn newest_done(wal: &std::path::Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(wal.join("archive_status")).ok()?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let done = names.filter_map(|name| Some(name.strip_suffix(".done")?.to_owned()));
    let segments = done
        .filter(|name| name.len() == 24)
        .map(|name| wal.join(name));
    segments.filter(|path| path.exists()).max()
}

/// Writes down what archives, for the server's settings to be made from, and has them read.
async fn set_command(
    node: &std::sync::Arc<Node>,
    tool: &PgBackRest,
    stanza: Option<&Stanza>,
) -> anyhow::Result<()> {
    let file = postgres::archive_file(&node.settings);
    match stanza {
        Some(stanza) => durable::write(&file, tool.archive_command(stanza).as_bytes(), 0o600)?,
        None => durable::remove(&file)?,
    }
    write_settings(node).await
}

/// The contents of one stanza.
pub(super) fn of<'a>(all: &'a [StanzaContents], stanza: &Stanza) -> Option<&'a StanzaContents> {
    all.iter().find(|contents| contents.stanza == *stanza)
}
