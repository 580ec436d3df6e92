//! How far comparisons have come, kept on disk, so that one that was broken off goes on where it
//! was: an operator's (`verify.json`), and those of this node's own accord (`wholes.json`).
//!
//! Must not compare anything. What can't be kept is compared again, and that is all.

use super::circle::Circle;
use super::node::Node;
use crate::durable::DurableError;
use anyhow::Context;
use log::warn;
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use pgaa_core::verify::{Progress, TableReport, Wish};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often it is written at most.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// How far the comparison of one table has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Who is compared.
    pub nodes: Vec<NodeId>,
    /// What stands for its columns and key: with others its keys mean nothing.
    pub shape: i64,
    /// Which naming of the table this is for; 0 for an operator's comparison.
    pub naming: i64,
    /// How far.
    pub done: Progress,
}

/// Tables that this node compares of its own accord.
pub type Wholes = BTreeMap<String, Part>;

/// An operator's comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// What was wished.
    pub wish: Wish,
    /// Who is compared, in the order of the reports' letters.
    pub nodes: Vec<NodeId>,
    /// Tables that were compared.
    pub finished: Vec<TableReport>,
    /// Tables that were begun.
    pub begun: BTreeMap<String, Part>,
    /// How long it took until now, milliseconds.
    pub took_ms: u64,
}

/// An operator's comparison that is running.
pub struct Kept<'a> {
    node: &'a Arc<Node>,
    /// Its number in this run of the agent: only the newest one is kept.
    number: u64,
    began: Mono,
    inner: Mutex<Inner>,
}

struct Inner {
    course: Course,
    /// What it took before.
    before_ms: u64,
    written: Option<Mono>,
    /// Has a table failed?
    open: bool,
}

/// The comparison that was broken off here last.
pub fn broken_off(node: &Node) -> anyhow::Result<Course> {
    let course = node.store.course().map_err(|error| {
        let text = format!("{}; to begin anew: pgaa-agent verify", unreadable(&error));
        anyhow::Error::msg(text)
    })?;
    course.context("no comparison was broken off on this node; to begin one: pgaa-agent verify")
}

/// Nothing is lost with these files but time: nobody has to bring them back.
fn unreadable(error: &DurableError) -> String {
    match error {
        DurableError::Damaged { path, source } => {
            format!("{} is damaged ({source})", path.display())
        }
        DurableError::Io { source, .. } => format!("{error}: {source}"),
    }
}

impl<'a> Kept<'a> {
    /// A comparison that begins, in the place of any before.
    pub fn begin(node: &'a Arc<Node>, wish: Wish, nodes: Vec<NodeId>) -> Kept<'a> {
        let course = Course {
            wish,
            nodes,
            finished: Vec::new(),
            begun: BTreeMap::new(),
            took_ms: 0,
        };
        Kept::go_on(node, course)
    }

    /// One that goes on.
    pub fn go_on(node: &'a Arc<Node>, course: Course) -> Kept<'a> {
        let number = node.comparisons.fetch_add(1, Ordering::Relaxed) + 1;
        let kept = Kept {
            node,
            number,
            began: node.clocks.mono(),
            inner: Mutex::new(Inner {
                before_ms: course.took_ms,
                course,
                written: None,
                open: false,
            }),
        };
        kept.write(&mut kept.lock());
        kept
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, inner: &mut Inner) {
        if self.node.comparisons.load(Ordering::Relaxed) != self.number {
            return;
        }
        inner.course.took_ms = inner.before_ms + self.ran_ms();
        if let Err(error) = self.node.store.set_course(Some(&inner.course)) {
            let why = unreadable(&error);
            warn!("how far a comparison has come is not kept: {why}");
        }
    }

    fn ran_ms(&self) -> u64 {
        let ran = self.node.clocks.mono().since(self.began).as_millis();
        u64::try_from(ran).unwrap_or(u64::MAX)
    }

    fn write_at_times(&self, inner: &mut Inner) {
        let now = self.node.clocks.mono();
        if inner
            .written
            .is_none_or(|last| now.since(last) >= WRITE_EVERY)
        {
            inner.written = Some(now);
            self.write(inner);
        }
    }

    /// How long it took until now, milliseconds.
    pub fn took_ms(&self) -> u64 {
        self.lock().before_ms + self.ran_ms()
    }

    /// The report of a table that was compared before it was broken off.
    pub fn finished(&self, table: &str) -> Option<TableReport> {
        let inner = self.lock();
        let mut finished = inner.course.finished.iter();
        finished.find(|report| report.table == table).cloned()
    }

    /// Why it can't go on among those who are there now, if it can't.
    pub fn parted(&self, circle: &Circle<'_>) -> Option<String> {
        let inner = self.lock();
        let (then, now) = (&inner.course.nodes, circle.nodes());
        let missing: Vec<String> = then
            .iter()
            .filter(|node| !now.contains(node))
            .map(|node| {
                let known = self
                    .node
                    .knowledge
                    .with_roster(|r| r.name_of(*node).to_string());
                known.unwrap_or_else(|| node.short())
            })
            .collect();
        match (missing.is_empty(), *then == now) {
            (_, true) => None,
            (false, false) => Some(format!(
                "this comparison is one with {}, who can't be compared now; go on when it can, or \
                 begin one without: pgaa-agent verify",
                missing.join(", ")
            )),
            (true, false) => Some(
                "there are other nodes now than when this comparison began; begin one with them: \
                 pgaa-agent verify"
                    .to_owned(),
            ),
        }
    }

    /// Where the comparison of a table goes on.
    pub async fn part(&self, table: &str) -> Progress {
        let part = self.lock().course.begun.get(table).cloned();
        match part {
            Some(part) if same_shape(self.node, table, part.shape).await => part.done,
            Some(_) | None => Progress::default(),
        }
    }

    /// The comparison of a table has come so far.
    pub fn note(&self, table: &str, shape: i64, done: &Progress) {
        let mut inner = self.lock();
        let part = Part {
            nodes: inner.course.nodes.clone(),
            shape,
            naming: 0,
            done: done.clone(),
        };
        inner.course.begun.insert(table.to_owned(), part);
        self.write_at_times(&mut inner);
    }

    /// A table was compared, or failed.
    pub fn finish(&self, report: &TableReport) {
        let mut inner = self.lock();
        if report.problem.is_some() {
            inner.open = true;
            return;
        }
        inner.course.begun.remove(&report.table);
        inner.course.finished.push(report.clone());
        self.write_at_times(&mut inner);
    }

    /// It has ended. Returns whether something is left to go on with.
    pub fn close(&self) -> bool {
        let mut inner = self.lock();
        if inner.open {
            self.write(&mut inner);
        } else if self.node.comparisons.load(Ordering::Relaxed) == self.number
            && let Err(error) = self.node.store.set_course(None)
        {
            let why = unreadable(&error);
            warn!("a comparison that has ended is still kept: {why}");
        }
        inner.open
    }
}

async fn same_shape(node: &Node, table: &str, shape: i64) -> bool {
    let now = node.postgres.shape(table).await;
    now.is_ok_and(|now| now == shape)
}

/// The comparison of a whole table of this node's own accord.
pub struct OnItsOwn<'a> {
    node: &'a Arc<Node>,
    table: &'a str,
    naming: i64,
    nodes: Vec<NodeId>,
    /// What was written last, and when.
    kept: Mutex<(Wholes, Option<Mono>)>,
}

impl<'a> OnItsOwn<'a> {
    /// Of this table, for this naming of it.
    pub fn new(circle: &Circle<'a>, table: &'a str, naming: i64) -> OnItsOwn<'a> {
        let node = circle.node();
        let wholes = node.store.wholes().unwrap_or_else(|error| {
            let why = unreadable(&error);
            warn!("whole tables are compared from their beginning: {why}");
            Wholes::new()
        });
        OnItsOwn {
            node,
            table,
            naming,
            nodes: circle.nodes(),
            kept: Mutex::new((wholes, None)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Wholes, Option<Mono>)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it goes on.
    pub async fn part(&self) -> Progress {
        let part = self.lock().0.get(self.table).cloned();
        let fits = |part: &Part| part.nodes == self.nodes && part.naming == self.naming;
        match part.filter(fits) {
            Some(part) if same_shape(self.node, self.table, part.shape).await => part.done,
            Some(_) | None => Progress::default(),
        }
    }

    /// It has come so far; `now`: it goes no further for the moment.
    pub fn note(&self, shape: i64, done: &Progress, now: bool) {
        let part = Part {
            nodes: self.nodes.clone(),
            shape,
            naming: self.naming,
            done: done.clone(),
        };
        let mut kept = self.lock();
        kept.0.insert(self.table.to_owned(), part);
        let clock = self.node.clocks.mono();
        if now || kept.1.is_none_or(|last| clock.since(last) >= WRITE_EVERY) {
            kept.1 = Some(clock);
            self.write(&kept.0);
        }
    }

    /// It has ended.
    pub fn close(&self) {
        let mut kept = self.lock();
        if kept.0.remove(self.table).is_some() {
            self.write(&kept.0);
        }
    }

    fn write(&self, wholes: &Wholes) {
        if let Err(error) = self.node.store.set_wholes(wholes) {
            let why = unreadable(&error);
            warn!("how far whole tables were compared is not kept: {why}");
        }
    }
}
